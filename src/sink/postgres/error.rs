//! What goes wrong in an output, and whether trying again may help.

use crate::change::Lsn;
use crate::codes::Code;
use crate::postgres::{error, sqlstate};

/// An output's failure.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The server refused a statement, or could not be reached.
    #[error("{what}: {}", error::describe(.source))]
    Postgres {
        /// What was being done, in the user's words.
        what: String,
        /// The server's words.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A row that the key has to find has none.
    #[error("{0}; the output's rows are told by ({1})")]
    NullKey(super::super::fold::NullKey, String),
    /// Another process has taken the pipeline over.
    #[error(
        "another trucker has taken pipeline {pipeline} over (its checkpoint is not the one at {expected} any more)"
    )]
    Fenced {
        /// Which pipeline.
        pipeline: String,
        /// Where this process had left the checkpoint.
        expected: Lsn,
    },
}

impl SinkError {
    /// Wraps a server's error.
    pub fn at(what: impl Into<String>) -> impl FnOnce(tokio_postgres::Error) -> SinkError {
        let what = what.into();
        move |source| SinkError::Postgres { what, source }
    }

    /// Which kind of problem it is.
    pub fn code(&self) -> Code {
        match self {
            SinkError::Postgres { what, source } => {
                let state = source.code().map_or("", |state| state.code());
                let is_about_sql = what.ends_with(".sql") && state.starts_with("42") && state != "42501";
                match source.as_db_error() {
                    None => Code::TryAgain,
                    Some(_) if is_about_sql => Code::LoadRefused,
                    Some(_) => sqlstate::code_of_writing(state),
                }
            }
            SinkError::NullKey(..) => Code::NullKey,
            SinkError::Fenced { .. } => Code::Fenced,
        }
    }

    /// Whether trying again may help.
    pub fn is_transient(&self) -> bool {
        matches!(self, SinkError::Postgres { source, .. } if error::is_transient(source))
    }
}
