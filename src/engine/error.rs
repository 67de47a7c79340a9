//! Why a project doesn't start, or stops: sorted by what a person has to do, which is what exit codes say.

use crate::config::{Diagnostic, Diagnostics};
use crate::pipeline::error::PipelineError;
use crate::postgres::{ConnectError, error};
use crate::transform::SqlProblem;

/// Why a project doesn't run.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Its files don't fit together, or not the databases. Nothing was created.
    #[error("{0}")]
    Files(Diagnostics),
    /// Servers can't be reached, or refuse, or aren't what they were.
    #[error("{}", .0.join("\n"))]
    Servers(Vec<String>),
    /// Another process runs this project.
    #[error("{0}")]
    Held(String),
}

impl EngineError {
    /// The process's exit code (contract, section 10).
    pub fn exit_code(&self) -> u8 {
        match self {
            EngineError::Files(_) => 3,
            EngineError::Servers(_) => 4,
            EngineError::Held(_) => 5,
        }
    }

    /// One server's refusal.
    pub fn server(message: impl Into<String>) -> Self {
        EngineError::Servers(vec![message.into()])
    }

    /// What a server said to something that was done for a connection.
    pub fn at<'a>(
        connection: &'a str,
        what: &'a str,
    ) -> impl FnOnce(tokio_postgres::Error) -> EngineError + 'a {
        move |e| EngineError::server(format!("connection {connection}: {what}: {}", error::describe(&e)))
    }
}

impl From<ConnectError> for EngineError {
    fn from(error: ConnectError) -> Self {
        EngineError::server(error.to_string())
    }
}

/// Everything that is wrong, gathered before anything is created.
#[derive(Debug, Default)]
pub struct Findings {
    files: Vec<Diagnostic>,
    servers: Vec<String>,
}

impl Findings {
    /// Adds what a server refused.
    pub fn server(&mut self, message: impl Into<String>) {
        let message = message.into();
        if !self.servers.contains(&message) {
            self.servers.push(message);
        }
    }

    /// Adds what is wrong with a pipeline.
    pub fn pipeline(&mut self, name: &str, error: PipelineError) {
        match error {
            PipelineError::Problems(problems) => {
                let (refusals, problems): (Vec<_>, Vec<_>) = problems.into_iter().partition(|p| p.is_refusal);
                self.files.extend(problems.into_iter().map(diagnostic));
                refusals.into_iter().for_each(|refusal| {
                    let help = refusal.help.unwrap_or_default();
                    let of_file = refusal.path.extension().is_some_and(|extension| extension == "sql");
                    let file = refusal.path.display();
                    let at = if of_file { format!("{file}: ") } else { String::new() };
                    self.server(format!("pipeline {name}: {at}{}. {help}", refusal.message));
                });
            }
            PipelineError::Sql { problem, is_transient: false, .. } => self.files.push(diagnostic(*problem)),
            error @ PipelineError::Connect(_) => self.server(error.to_string()),
            error => self.server(format!("pipeline {name}: {error}")),
        }
    }

    /// Ok if nothing is wrong. Problems with files come first: they are the user's own to mend.
    pub fn verdict(self) -> Result<(), EngineError> {
        if !self.files.is_empty() {
            let mut files: Vec<Diagnostic> = self.files;
            let mut seen = Vec::new();
            files.retain(|diagnostic| {
                let is_new = !seen.contains(&diagnostic.to_string());
                seen.push(diagnostic.to_string());
                is_new
            });
            files.extend(self.servers.into_iter().map(|message| Diagnostic::error("servers", message)));
            return Err(EngineError::Files(files.into_iter().collect()));
        }
        if self.servers.is_empty() { Ok(()) } else { Err(EngineError::Servers(self.servers)) }
    }
}

/// A SQL problem as a diagnostic, with the line that it is about.
fn diagnostic(problem: SqlProblem) -> Diagnostic {
    let mut diagnostic = Diagnostic::error(problem.path.clone(), problem.message);
    if let Some(help) = problem.help {
        diagnostic = diagnostic.help(help);
    }
    match (problem.place, std::fs::read_to_string(&problem.path)) {
        (Some(place), Ok(text)) => diagnostic.within(&text, place),
        _ => diagnostic,
    }
}
