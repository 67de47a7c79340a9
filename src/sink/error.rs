//! What goes wrong in an output, and whether trying again may help.

use crate::change::Lsn;
use crate::clickhouse::{self, EncodeError};
use crate::codes::Code;
use crate::postgres::{ConnectError, error, sqlstate};

/// An output's failure.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The server can't be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The server refused a statement, or could not be reached.
    #[error("{what}: {}", error::describe(.source))]
    Postgres {
        /// What was being done, in the user's words.
        what: String,
        /// The server's words.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The same of ClickHouse's.
    #[error("{what}: {source}")]
    ClickHouse {
        /// What was being done, in the user's words.
        what: String,
        /// The server's words.
        #[source]
        source: clickhouse::Error,
    },
    /// A value can't be written as it is.
    #[error("{what} can't take {error}")]
    Value {
        /// Where it should have gone.
        what: String,
        /// Why.
        #[source]
        error: EncodeError,
    },
    /// The output table holds rows of another history.
    #[error(
        "rows in {table} have versions beyond {start_lsn}, where the source's WAL ends: they came from another server, or from \
         before this one was restored, and would win over whatever is written now. Empty it: TRUNCATE TABLE {table}"
    )]
    Ahead {
        /// The table.
        table: String,
        /// Where the backfill's stream would begin.
        start_lsn: Lsn,
    },
    /// Rows of a trial that failed have been sent.
    #[error("a change became more rows than can be held back, and failed when some were written already")]
    NotUndone,
    /// What is kept of a pipeline can't be read.
    #[error("trucker_checkpoint holds something that this version can't read, of pipeline {0}")]
    Ledger(String),
    /// A row that the key has to find has none.
    #[error("{0}; the output's rows are told by ({1})")]
    NullKey(super::fold::NullKey, String),
    /// The checkpoint isn't where this process left it. Either another has it now, or a statement of a connection that broke was
    /// carried out after all; who reads the checkpoint again knows.
    #[error("the checkpoint of pipeline {pipeline} is not at {expected} any more")]
    Unmoved {
        /// Which pipeline.
        pipeline: String,
        /// Where this process had left the checkpoint.
        expected: Lsn,
    },
    /// The output table isn't what it was when it was looked at, so rows in binary form may have been taken for others: they are
    /// undone. By statements, which name their types, they aren't.
    #[error("{table} has been altered since it was looked at: column {column}")]
    Altered {
        /// The table.
        table: String,
        /// Which column has another type, or none.
        column: String,
    },
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

    /// Wraps an error of ClickHouse's.
    pub fn clickhouse(what: impl Into<String>) -> impl FnOnce(clickhouse::Error) -> SinkError {
        let what = what.into();
        move |source| SinkError::ClickHouse { what, source }
    }

    /// Which kind of problem it is.
    pub fn code(&self) -> Code {
        match self {
            SinkError::Connect(error) => error.code(),
            SinkError::Postgres { what, source } => {
                let state = source.code().map_or("", |state| state.code());
                let is_about_sql = what.ends_with(".sql") && state.starts_with("42") && state != "42501";
                match source.as_db_error() {
                    None => Code::TryAgain,
                    Some(_) if is_about_sql => Code::LoadRefused,
                    Some(_) => sqlstate::code_of_writing(state),
                }
            }
            SinkError::ClickHouse { source, .. } if source.is_transient() => Code::TryAgain,
            SinkError::ClickHouse { source, .. } if source.is_about_values() => Code::ValueUnfit,
            SinkError::ClickHouse { what, .. } if what.ends_with(".sql") => Code::LoadRefused,
            SinkError::ClickHouse { .. }
            | SinkError::NotUndone
            | SinkError::Altered { .. }
            | SinkError::Ledger(_) => Code::OutputRefused,
            SinkError::Value { .. } => Code::ValueUnfit,
            SinkError::Ahead { .. } => Code::RowsAhead,
            SinkError::NullKey(..) => Code::NullKey,
            SinkError::Unmoved { .. } => Code::TryAgain,
            SinkError::Fenced { .. } => Code::Fenced,
        }
    }

    /// Whether trying again may help.
    pub fn is_transient(&self) -> bool {
        match self {
            SinkError::Connect(error) => error.is_transient(),
            SinkError::Unmoved { .. } => true,
            SinkError::Postgres { source, .. } => error::is_transient(source),
            SinkError::ClickHouse { source, .. } => source.is_transient(),
            SinkError::Value { .. }
            | SinkError::Ahead { .. }
            | SinkError::Altered { .. }
            | SinkError::NotUndone
            | SinkError::Ledger(_)
            | SinkError::NullKey(..)
            | SinkError::Fenced { .. } => false,
        }
    }
}
