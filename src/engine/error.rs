//! Why a project doesn't start, or stops: sorted by what a person has to do, which is what exit codes say.

use crate::codes::Code;
use crate::config::{Diagnostic, Diagnostics};
use crate::pipeline::error::PipelineError;
use crate::postgres::{ConnectError, error};
use crate::sink::SinkError;
use crate::transform::SqlProblem;

/// Why a project doesn't run.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Its files don't fit together, or not the databases. Nothing was created.
    #[error("{0}")]
    Files(Diagnostics),
    /// Servers can't be reached, or refuse, or aren't what they were.
    #[error("{}", .0.iter().map(Diagnostic::one_line).collect::<Vec<_>>().join("\n"))]
    Servers(Diagnostics),
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
    pub fn server(code: Code, message: impl Into<String>) -> Self {
        EngineError::from(Diagnostic::of_server(code, message))
    }

    /// What kinds of problems it is about.
    pub fn codes(&self) -> Vec<Code> {
        match self {
            EngineError::Files(diagnostics) | EngineError::Servers(diagnostics) => {
                diagnostics.iter().map(|diagnostic| diagnostic.code).collect()
            }
            EngineError::Held(_) => vec![Code::Held],
        }
    }

    /// The problems one by one.
    pub fn into_diagnostics(self) -> Diagnostics {
        match self {
            EngineError::Files(diagnostics) | EngineError::Servers(diagnostics) => diagnostics,
            EngineError::Held(message) => [Diagnostic::of_server(Code::Held, message)].into_iter().collect(),
        }
    }

    /// What an output said.
    pub fn sink(connection: &str) -> impl Fn(SinkError) -> EngineError + Copy + '_ {
        move |error| match error {
            SinkError::Connect(error) => error.into(),
            // It names the connection itself.
            SinkError::ClickHouse { .. } => EngineError::server(error.code(), error.to_string()),
            error => EngineError::server(error.code(), format!("connection {connection}: {error}")),
        }
    }

    /// What a server said to something that was done for a connection.
    pub fn at<'a>(
        connection: &'a str,
        what: &'a str,
    ) -> impl FnOnce(tokio_postgres::Error) -> EngineError + 'a {
        move |e| {
            let message = format!("connection {connection}: {what}: {}", error::describe(&e));
            EngineError::server(Code::ServerAnswer, message)
        }
    }
}

impl From<ConnectError> for EngineError {
    fn from(error: ConnectError) -> Self {
        refusal(&error).into()
    }
}

impl From<Diagnostic> for EngineError {
    /// A server's refusal, or a file's problem.
    fn from(diagnostic: Diagnostic) -> Self {
        let is_of_file = diagnostic.file.is_some();
        let one = [diagnostic].into_iter().collect();
        if is_of_file { EngineError::Files(one) } else { EngineError::Servers(one) }
    }
}

fn refusal(error: &ConnectError) -> Diagnostic {
    let diagnostic = Diagnostic::of_server(error.code(), error.what());
    match error.cure() {
        Some(cure) => diagnostic.help(cure),
        None => diagnostic,
    }
}

/// Everything that is wrong, gathered before anything is created.
#[derive(Debug, Default)]
pub struct Findings {
    problems: Vec<Diagnostic>,
}

impl Findings {
    /// Adds what is wrong with a server or a file, once.
    pub fn add(&mut self, problem: Diagnostic) {
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// Adds why something couldn't be looked at.
    pub fn error(&mut self, error: EngineError) {
        error.into_diagnostics().into_iter().for_each(|problem| self.add(problem));
    }

    /// Adds what a server refused, with what to do about it.
    pub fn server(&mut self, code: Code, message: impl Into<String>, help: impl Into<String>) {
        self.add(Diagnostic::of_server(code, message).help(help));
    }

    /// Adds what is wrong with a pipeline.
    pub fn pipeline(&mut self, name: &str, error: PipelineError) {
        match error {
            PipelineError::Problems(problems) => {
                problems.into_iter().for_each(|problem| self.add(diagnostic(name, problem)));
            }
            PipelineError::Sql { problem, is_transient: false, .. } => self.add(diagnostic(name, *problem)),
            PipelineError::Connect(error) => self.add(refusal(&error)),
            error => self.add(Diagnostic::of_server(error.code(), format!("pipeline {name}: {error}"))),
        }
    }

    /// Ok if nothing is wrong. Problems with files come first: they are the user's own to mend.
    pub fn verdict(mut self) -> Result<(), EngineError> {
        if self.problems.is_empty() {
            return Ok(());
        }
        self.problems.sort_by_key(|problem| problem.file.is_none());
        let is_about_files = self.problems.iter().any(|problem| problem.file.is_some());
        let problems = self.problems.into_iter().collect();
        Err(if is_about_files { EngineError::Files(problems) } else { EngineError::Servers(problems) })
    }
}

/// A SQL problem of a pipeline as a diagnostic, with the line that it is about. One whose cure is on a server is about a
/// file only in passing.
fn diagnostic(pipeline: &str, problem: SqlProblem) -> Diagnostic {
    let SqlProblem { code, path, place, message, help, is_refusal } = problem;
    let found = if is_refusal {
        let of_file = path.extension().is_some_and(|extension| extension == "sql");
        let at = if of_file { format!("{}: ", path.display()) } else { String::new() };
        Diagnostic::of_server(code, format!("pipeline {pipeline}: {at}{message}"))
    } else {
        let found = Diagnostic::error(code, path.clone(), message);
        match (place, std::fs::read_to_string(&path)) {
            (Some(place), Ok(text)) => found.within(&text, place),
            _ => found,
        }
    };
    match help {
        Some(help) => found.help(help),
        None => found,
    }
}
