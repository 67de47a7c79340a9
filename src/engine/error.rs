//! Why a project doesn't start, or stops: sorted by what a person has to do, which is what exit codes say.

use crate::codes::Code;
use crate::config::{Diagnostic, Diagnostics};
use crate::postgres::{ConnectError, error};
use crate::sink::SinkError;

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

    /// Whether servers only couldn't be reached, which may pass.
    pub fn is_of_connections(&self) -> bool {
        self.codes().into_iter().all(Code::is_of_connection)
    }

    /// The problems one by one.
    pub fn into_diagnostics(self) -> Diagnostics {
        match self {
            EngineError::Files(diagnostics) | EngineError::Servers(diagnostics) => diagnostics,
            EngineError::Held(message) => {
                let help =
                    "one process runs a project at a time; `trucker run` without --once waits for its turn";
                [Diagnostic::of_server(Code::Held, message).help(help)].into_iter().collect()
            }
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

/// Why there is no connection, as a problem.
pub(super) fn refusal(error: &ConnectError) -> Diagnostic {
    let diagnostic = Diagnostic::of_server(error.code(), error.what());
    match error.cure() {
        Some(cure) => diagnostic.help(cure),
        None => diagnostic,
    }
}
