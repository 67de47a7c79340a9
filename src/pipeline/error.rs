//! What goes wrong in a pipeline, sorted by what it means: try again, leave it to somebody else, or tell a person.

use std::fmt;

use tokio_postgres::error::SqlState;

use crate::change::Lsn;
use crate::codes::Code;
use crate::postgres::{ConnectError, error, sqlstate};
use crate::sink::{Failure, SinkError};
use crate::source::stream::StreamError;
use crate::transform::SqlProblem;
use crate::transform::query::CompileError;

/// A pipeline's failure.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// A database can't be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The source refused something that isn't the user's SQL.
    #[error("{what} on the source: {}", error::describe(.source))]
    Source {
        /// What was being done.
        what: &'static str,
        /// The server's words.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The user's SQL failed on the source.
    #[error("{problem}")]
    Sql {
        /// Where and how.
        problem: Box<SqlProblem>,
        /// Whether trying again may help.
        is_transient: bool,
        /// The server's code.
        sqlstate: Option<String>,
    },
    /// The SQL files don't fit the tables as they are now.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Problems(Vec<SqlProblem>),
    /// The output refused something.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// An input table was truncated, and the pipeline is not to follow.
    #[error("{table} was truncated at the source, and the pipeline stops there{reason}. {cure}")]
    Truncated {
        /// The input table.
        table: String,
        /// Why it stops.
        reason: &'static str,
        /// What to do.
        cure: String,
    },
    /// A value that the SQL needs wasn't sent and can't be read any more.
    #[error(
        "an update of {table} left out a large value that its rows need, and the row has gone since. Have whole rows \
         sent: ALTER TABLE {table} REPLICA IDENTITY FULL"
    )]
    ValueGone {
        /// The input table.
        table: String,
    },
    /// The input table isn't there, or isn't the one that the pipeline was following.
    #[error("{0}")]
    Input(String),
    /// A partition came in the middle of a backfill.
    #[error(
        "a partition with rows was attached to {table} while a backfill read it: the backfill starts over"
    )]
    Attached {
        /// The input table.
        table: String,
    },
    /// The output has lost rows that the slot was told are loaded.
    #[error(
        "the output stands at {loaded}, but it had loaded up to {told}, and the source may have removed what lies between: \
         the output was restored from a backup, or failed over to a server that lacked the last transactions. Fill the \
         pipeline anew: trucker backfill {pipeline}"
    )]
    Rewound {
        /// Which pipeline.
        pipeline: String,
        /// What the output says.
        loaded: Lsn,
        /// What it said before.
        told: Lsn,
    },
    /// The standby that the SQL runs on isn't what it was, or not where it has to be.
    #[error("{0}")]
    Replica(String),
    /// It couldn't be asked.
    #[error("asking the replica who it is: {0}")]
    Standby(#[source] StreamError),
    /// Something that is known to be about one change, or one transaction as a whole.
    #[error("{error}, at {place}")]
    At {
        /// Which.
        place: Box<Place>,
        /// What went wrong.
        error: Box<PipelineError>,
    },
    /// The stream broke in the middle of a transaction.
    #[error("the stream from the source broke off inside a transaction")]
    StreamBroke,
}

impl PipelineError {
    /// Wraps an error of the source's.
    pub fn source(what: &'static str) -> impl FnOnce(tokio_postgres::Error) -> PipelineError {
        move |source| PipelineError::Source { what, source }
    }

    /// A failure of the user's SQL on the source. Its transactions are read-only by our own wish, so a write in it is a
    /// mistake there, not a server on its way to be promoted.
    pub fn sql(problem: SqlProblem, source: &tokio_postgres::Error) -> PipelineError {
        let writes = source.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION);
        PipelineError::Sql {
            problem: Box::new(problem),
            is_transient: error::is_transient(source) && !writes,
            sqlstate: source.code().map(|code| code.code().to_owned()),
        }
    }

    /// Whether trying again may help.
    pub fn is_transient(&self) -> bool {
        match self {
            PipelineError::Connect(error) => error.is_transient(),
            PipelineError::Source { source, .. } => error::is_transient(source),
            PipelineError::Sql { is_transient, .. } => *is_transient,
            PipelineError::Sink(error) => error.is_transient(),
            PipelineError::StreamBroke | PipelineError::Attached { .. } => true,
            PipelineError::Standby(error) => error.is_transient(),
            PipelineError::Problems(_)
            | PipelineError::Replica(_)
            | PipelineError::Rewound { .. }
            | PipelineError::Truncated { .. }
            | PipelineError::ValueGone { .. }
            | PipelineError::At { .. }
            | PipelineError::Input(_) => false,
        }
    }

    /// Which kind of problem it is.
    pub fn code(&self) -> Code {
        match self {
            PipelineError::Connect(error) => error.code(),
            PipelineError::Source { source, .. } if error::is_transient(source) => Code::TryAgain,
            PipelineError::Attached { .. } => Code::TryAgain,
            PipelineError::Source { .. } => Code::ServerAnswer,
            PipelineError::Sql { problem, .. } => problem.code,
            PipelineError::Problems(problems) => problems.first().map_or(Code::SqlRefused, |p| p.code),
            PipelineError::Sink(error) => error.code(),
            PipelineError::Truncated { .. } => Code::Truncated,
            PipelineError::ValueGone { .. } => Code::ValueGone,
            PipelineError::Input(_) => Code::InputReplaced,
            PipelineError::Rewound { .. } => Code::OutputRewound,
            PipelineError::Replica(_) | PipelineError::Standby(_) => Code::ReplicaLost,
            PipelineError::StreamBroke => Code::StreamBroke,
            PipelineError::At { error, .. } => error.code(),
        }
    }

    /// One word for what it is, where no server gave it a code.
    pub fn kind(&self) -> &'static str {
        match self {
            PipelineError::Connect(_) => "connect",
            PipelineError::Source { .. } => "source",
            PipelineError::Sql { .. } => "sql",
            PipelineError::Problems(_) => "problems",
            PipelineError::Sink(SinkError::Fenced { .. }) => "fenced",
            PipelineError::Sink(SinkError::NullKey(..)) => "null_key",
            PipelineError::Sink(SinkError::Connect(_)) => "connect",
            PipelineError::Sink(SinkError::Value { .. }) => "value",
            PipelineError::Sink(
                SinkError::Postgres { .. }
                | SinkError::ClickHouse { .. }
                | SinkError::Ahead { .. }
                | SinkError::NotUndone
                | SinkError::Unmoved { .. }
                | SinkError::Altered { .. }
                | SinkError::Ledger(_),
            ) => "output",
            PipelineError::Truncated { .. } => "truncated",
            PipelineError::ValueGone { .. } => "value_gone",
            PipelineError::Input(_) => "input",
            PipelineError::Attached { .. } => "attached",
            PipelineError::Rewound { .. } => "rewound",
            PipelineError::Replica(_) | PipelineError::Standby(_) => "replica",
            PipelineError::StreamBroke => "stream_broke",
            PipelineError::At { error, .. } => error.kind(),
        }
    }

    /// What to do about it, as far as the error itself knows.
    pub fn fix(&self) -> Option<String> {
        match self {
            PipelineError::Sql { problem, .. } => problem.help.clone(),
            PipelineError::Problems(problems) => problems.iter().find_map(|problem| problem.help.clone()),
            PipelineError::Truncated { cure, .. } => Some(cure.clone()),
            PipelineError::ValueGone { table } => Some(format!("ALTER TABLE {table} REPLICA IDENTITY FULL")),
            PipelineError::At { error, .. } => error.fix(),
            PipelineError::Rewound { pipeline, .. } => Some(format!("trucker backfill {pipeline}")),
            PipelineError::Connect(_)
            | PipelineError::Source { .. }
            | PipelineError::Sink(_)
            | PipelineError::Input(_)
            | PipelineError::Attached { .. }
            | PipelineError::Replica(_)
            | PipelineError::Standby(_)
            | PipelineError::StreamBroke => None,
        }
    }

    /// Whether a change may be the cause, so that changes before it can still be loaded.
    pub fn is_about_changes(&self) -> bool {
        match self {
            PipelineError::Sql { is_transient, .. } => !is_transient,
            PipelineError::Sink(
                error @ (SinkError::Postgres { .. }
                | SinkError::ClickHouse { .. }
                | SinkError::Value { .. }
                | SinkError::Altered { .. }
                | SinkError::NullKey(..)),
            ) => !error.is_transient(),
            PipelineError::Truncated { .. }
            | PipelineError::ValueGone { .. }
            | PipelineError::At { .. }
            | PipelineError::Problems(_)
            | PipelineError::Input(_) => true,
            PipelineError::Connect(_)
            | PipelineError::Source { .. }
            | PipelineError::Sink(
                SinkError::Connect(_)
                | SinkError::Ahead { .. }
                | SinkError::NotUndone
                | SinkError::Ledger(_)
                | SinkError::Unmoved { .. }
                | SinkError::Fenced { .. },
            )
            | PipelineError::Attached { .. }
            | PipelineError::Rewound { .. }
            | PipelineError::Replica(_)
            | PipelineError::Standby(_)
            | PipelineError::StreamBroke => false,
        }
    }

    /// Whether the values of one change are the cause, and nothing that the next change would meet as well. What the
    /// set-up lacks (a table, a column, a right) is not.
    pub fn is_about_values(&self) -> bool {
        match self {
            PipelineError::Sink(SinkError::NullKey(..) | SinkError::Value { .. })
            | PipelineError::ValueGone { .. } => true,
            PipelineError::Sink(SinkError::ClickHouse { source, .. }) => source.is_about_values(),
            PipelineError::Sql { .. } | PipelineError::Sink(SinkError::Postgres { .. }) => {
                !self.is_transient() && self.sqlstate().is_some_and(sqlstate::is_about_values)
            }
            _ => false,
        }
    }

    /// The server's code.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            PipelineError::Sql { sqlstate, .. } => sqlstate.as_deref(),
            PipelineError::Source { source, .. }
            | PipelineError::Sink(SinkError::Postgres { source, .. }) => {
                source.code().map(|code| code.code())
            }
            PipelineError::Sink(SinkError::ClickHouse { source, .. }) => {
                Some(source.name.as_str()).filter(|name| !name.is_empty())
            }
            PipelineError::At { error, .. } => error.sqlstate(),
            _ => None,
        }
    }

    /// The user's file that it happened in.
    pub fn file(&self) -> Option<String> {
        match self {
            PipelineError::Sql { problem, .. } => Some(problem.path.display().to_string()),
            PipelineError::Problems(problems) => problems.first().map(|p| p.path.display().to_string()),
            PipelineError::Sink(SinkError::Postgres { what, .. } | SinkError::ClickHouse { what, .. })
                if what.ends_with(".sql") =>
            {
                Some(what.clone())
            }
            PipelineError::At { error, .. } => error.file(),
            _ => None,
        }
    }

    /// The change or transaction that it is about, where that is known.
    pub fn place(&self) -> Option<&Place> {
        match self {
            PipelineError::At { place, .. } => Some(place),
            _ => None,
        }
    }

    /// As the output keeps it.
    pub fn failure(&self) -> Failure {
        let failure = Failure {
            error: self.to_string(),
            code: Some(self.code().to_string()),
            sqlstate: self.sqlstate().map(str::to_owned),
            file: self.file(),
            ..Failure::default()
        };
        let Some(place) = self.place() else { return failure };
        let failure =
            Failure { commit_lsn: Some(place.commit_lsn.to_string()), xid: Some(place.xid), ..failure };
        let Some(change) = &place.change else { return failure };
        Failure {
            ordinal: Some(change.ordinal),
            table: Some(change.table.clone()),
            operation: Some(change.operation.to_owned()),
            key: change.key.clone(),
            ..failure
        }
    }

    /// Whether another process has the pipeline now.
    pub fn is_fenced(&self) -> bool {
        matches!(self, PipelineError::Sink(SinkError::Fenced { .. }))
    }

    /// The same, with the place that it is about.
    pub fn at(self, place: Place) -> Self {
        PipelineError::At { place: Box::new(place), error: Box::new(self) }
    }
}

impl From<CompileError> for PipelineError {
    fn from(error: CompileError) -> Self {
        match error {
            CompileError::Problems(problems) => PipelineError::Problems(problems),
            CompileError::Postgres(source) => PipelineError::Source { what: "preparing the SQL", source },
        }
    }
}

/// Which transaction, and which of its changes.
#[derive(Debug, Clone)]
pub struct Place {
    /// Start of the commit record.
    pub commit_lsn: Lsn,
    /// Top-level transaction id.
    pub xid: u32,
    /// None for the transaction as a whole.
    pub change: Option<PlaceOfChange>,
}

/// Which change of a transaction.
#[derive(Debug, Clone)]
pub struct PlaceOfChange {
    /// Among the pipeline's changes of the transaction, from 1.
    pub ordinal: u64,
    /// The input table.
    pub table: String,
    /// `insert`, `update`, `delete` or `truncate`.
    pub operation: &'static str,
    /// Names of the columns that tell its rows.
    pub key: Vec<String>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(change) = &self.change {
            write!(f, "{} of {}, change {} of ", change.operation, change.table, change.ordinal)?;
        }
        write!(f, "the transaction that commits at {}", self.commit_lsn)
    }
}

/// Says that an input table is called otherwise.
pub fn renamed(before: &str, now: &str) -> String {
    format!("{before} is called {now} now")
}

/// What to do about it.
pub fn name_back(pipeline: &str) -> String {
    format!(
        "Give it its name back and start again; or change config.yml and fill the pipeline anew: trucker backfill {pipeline}"
    )
}

/// A failure, and the changes that it stands at.
#[derive(Debug, thiserror::Error)]
#[error("{error} (transactions committed from {first} on)")]
pub struct Stopped {
    /// What went wrong.
    pub error: PipelineError,
    /// Commit LSN of the first transaction that isn't loaded.
    pub first: Lsn,
}
