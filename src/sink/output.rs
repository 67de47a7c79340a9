//! An output, whatever kind of server it is: an open connection, the table that a pipeline writes, and the pipeline's hand
//! there. Each is an enum of the kinds; what a kind does is in its own module.

use crate::change::{Lsn, Tuple};
use crate::checkpoint::Seam;
use crate::clickhouse;
use crate::config::Connection;
use crate::postgres::{Purpose, Session, connect};

use super::checkpoint::{Checkpoint, CheckpointKey, Goal};
use super::clickhouse as into_clickhouse;
use super::dead_letter::DeadLetter;
use super::error::SinkError;
use super::ledger::Ledger;
use super::load::Load;
use super::postgres;
use super::write::Writes;

/// A connection to an output.
pub enum Output {
    /// A session.
    Postgres(Box<Session>),
    /// A client, whose requests each stand alone.
    ClickHouse(clickhouse::Client),
}

impl Output {
    /// Reaches it.
    pub async fn connect(to: &Connection, purpose: Purpose) -> Result<Output, SinkError> {
        match to {
            Connection::Postgres(to) => Ok(Output::Postgres(Box::new(connect(to, purpose).await?))),
            Connection::ClickHouse(to) => {
                let connecting = || SinkError::clickhouse("connecting");
                let client = clickhouse::Client::new(to).map_err(connecting())?;
                client.select("SELECT 1", &[]).await.map_err(connecting())?;
                Ok(Output::ClickHouse(client))
            }
        }
    }

    /// What trucker keeps there.
    pub fn ledger(&self) -> Ledger<'_> {
        match self {
            Output::Postgres(session) => Ledger::Postgres(&session.client),
            Output::ClickHouse(client) => Ledger::ClickHouse(client),
        }
    }

    /// The session, where it is Postgres.
    pub fn postgres(&self) -> Option<&Session> {
        match self {
            Output::Postgres(session) => Some(session),
            Output::ClickHouse(_) => None,
        }
    }
}

/// The table that a pipeline writes, and what identifies its rows.
#[derive(Debug, Clone)]
pub enum Target {
    /// A table of Postgres's.
    Postgres(postgres::Target),
    /// One of ClickHouse's.
    ClickHouse(into_clickhouse::Target),
}

impl Target {
    /// The columns that identify a row.
    pub fn key(&self) -> &[String] {
        match self {
            Target::Postgres(target) => &target.key,
            Target::ClickHouse(target) => &target.key,
        }
    }

    /// The columns that identify all rows of one input row.
    pub fn replace(&self) -> &[String] {
        match self {
            Target::Postgres(target) => &target.replace,
            Target::ClickHouse(target) => &target.replace,
        }
    }

    /// The table as statements name it.
    pub fn sql(&self) -> String {
        match self {
            Target::Postgres(target) => target.table.sql(),
            Target::ClickHouse(target) => target.sql(),
        }
    }

    /// All of its columns.
    pub fn columns(&self) -> Vec<&str> {
        match self {
            Target::Postgres(target) => target.table.columns.iter().map(|c| c.name.as_str()).collect(),
            Target::ClickHouse(target) => target.table.columns.iter().map(|c| c.name.as_str()).collect(),
        }
    }

    /// Whether rows may be given a value for that column.
    pub fn takes(&self, column: &str) -> bool {
        match self {
            Target::Postgres(target) => target.table.column(column).is_some_and(|c| !c.is_generated()),
            Target::ClickHouse(target) => target.takes(column),
        }
    }

    /// Columns that a new row must have a value for.
    pub fn required(&self) -> Vec<String> {
        match self {
            Target::Postgres(target) => {
                let required = target.table.columns.iter().filter(|c| c.is_not_null && !c.has_default);
                required.map(|c| c.name.clone()).collect()
            }
            // Every type of ClickHouse's has a value for rows that give none.
            Target::ClickHouse(_) => Vec::new(),
        }
    }

    /// It, where it is ClickHouse's.
    pub fn clickhouse(&self) -> Option<&into_clickhouse::Target> {
        match self {
            Target::Postgres(_) => None,
            Target::ClickHouse(target) => Some(target),
        }
    }

    /// It, where it is Postgres's.
    pub fn postgres(&self) -> Option<&postgres::Target> {
        match self {
            Target::Postgres(target) => Some(target),
            Target::ClickHouse(_) => None,
        }
    }
}

/// One pipeline's hand in an output: rows, then the checkpoint.
pub enum Writer {
    /// In one transaction.
    Postgres(Box<postgres::Writer>),
    /// One after the other, so that doing it again changes nothing.
    ClickHouse(Box<into_clickhouse::Writer>),
}

impl Writer {
    /// A writer for a pipeline whose checkpoint was claimed. `target` is None with load.sql.
    pub fn new(output: Output, target: Option<&Target>, key: CheckpointKey, claimed: Checkpoint) -> Self {
        match output {
            Output::Postgres(session) => {
                let target = target.and_then(Target::postgres).cloned();
                Writer::Postgres(Box::new(postgres::Writer::new(*session, target, key, claimed)))
            }
            Output::ClickHouse(client) => {
                let target = target.and_then(Target::clickhouse).cloned();
                Writer::ClickHouse(Box::new(into_clickhouse::Writer::new(client, target, key, claimed)))
            }
        }
    }

    /// What trucker keeps there.
    pub fn ledger(&self) -> Ledger<'_> {
        match self {
            Writer::Postgres(writer) => Ledger::Postgres(writer.client()),
            Writer::ClickHouse(writer) => Ledger::ClickHouse(writer.client()),
        }
    }

    /// Up to where rows are loaded.
    pub fn loaded_lsn(&self) -> Option<Lsn> {
        match self {
            Writer::Postgres(writer) => writer.loaded_lsn(),
            Writer::ClickHouse(writer) => writer.loaded_lsn(),
        }
    }

    /// What the backfill has read, if the stream hasn't passed it yet.
    pub fn seam(&self) -> Option<&Seam> {
        match self {
            Writer::Postgres(writer) => writer.seam(),
            Writer::ClickHouse(writer) => writer.seam(),
        }
    }

    /// Moves the checkpoint, and makes all that was written visible with it. A crash of the output may take back both, until they
    /// are [flushed](Self::flush).
    pub async fn commit(&mut self, goal: Goal<'_>) -> Result<(), SinkError> {
        match self {
            Writer::Postgres(writer) => writer.commit(goal).await,
            Writer::ClickHouse(writer) => writer.commit(goal).await,
        }
    }

    /// Makes durable what was committed. ClickHouse's word for an insert is all there is.
    pub async fn flush(&self) -> Result<(), SinkError> {
        match self {
            Writer::Postgres(writer) => writer.flush().await,
            Writer::ClickHouse(_) => Ok(()),
        }
    }

    /// Gives up what isn't committed.
    pub async fn roll_back(&mut self) -> Result<(), SinkError> {
        match self {
            Writer::Postgres(writer) => writer.roll_back().await,
            Writer::ClickHouse(writer) => {
                writer.forget();
                Ok(())
            }
        }
    }

    /// Whether the server waits for more.
    pub fn is_open(&self) -> bool {
        match self {
            Writer::Postgres(writer) => writer.is_open(),
            Writer::ClickHouse(_) => false,
        }
    }

    /// Shows the server that one that it waits for is still there.
    pub async fn keep_alive(&self) -> Result<(), SinkError> {
        match self {
            Writer::Postgres(writer) => writer.keep_alive().await,
            Writer::ClickHouse(_) => Ok(()),
        }
    }

    /// Marks the place that [`undo`](Self::undo) goes back to.
    pub async fn mark(&mut self) -> Result<(), SinkError> {
        match self {
            Writer::Postgres(writer) => writer.mark().await,
            Writer::ClickHouse(writer) => writer.mark().await,
        }
    }

    /// Undoes what was done since the mark.
    pub async fn undo(&mut self) -> Result<(), SinkError> {
        match self {
            Writer::Postgres(writer) => writer.undo().await,
            Writer::ClickHouse(writer) => writer.undo(),
        }
    }

    /// Forgets the mark; what was done since then stays done.
    pub async fn keep(&mut self) -> Result<(), SinkError> {
        match self {
            Writer::Postgres(writer) => writer.keep().await,
            Writer::ClickHouse(writer) => writer.keep().await,
        }
    }

    /// Records a change that isn't loaded.
    pub async fn record(&mut self, letter: &DeadLetter) -> Result<(), SinkError> {
        match self {
            Writer::Postgres(writer) => writer.record(letter).await,
            Writer::ClickHouse(writer) => writer.record(letter).await,
        }
    }

    /// Lets many new rows go in by whatever is quickest while all goes well.
    pub fn allow_copy(&mut self) {
        if let Writer::Postgres(writer) = self {
            writer.allow_copy();
        }
    }

    /// Does these, in order. With `end`, the next is to [`commit`](Self::commit) that.
    pub async fn write(&mut self, writes: &Writes, end: Option<&Goal<'_>>) -> Result<(), SinkError> {
        match (self, writes) {
            (Writer::Postgres(writer), Writes::Statements(writes)) => writer.write(writes, end).await,
            (Writer::ClickHouse(writer), Writes::Versions(versions)) => writer.write(versions).await,
            _ => unreachable!("a pipeline gathers what its own output takes"),
        }
    }

    /// Adds rows to those that load.sql reads next.
    pub async fn load_rows(&mut self, load: &Load, rows: &[Tuple]) -> Result<(), SinkError> {
        match self {
            Writer::Postgres(writer) => writer.load_rows(&load.relation, &load.columns, rows).await,
            Writer::ClickHouse(writer) => writer.load_rows(load, rows).await,
        }
    }

    /// Runs load.sql over these; messages call it `what`.
    pub async fn load_run(&mut self, load: &Load, what: &str) -> Result<(), SinkError> {
        match self {
            Writer::Postgres(writer) => writer.load_run(&load.relation, &load.sql, what).await,
            Writer::ClickHouse(writer) => writer.load_run(load, what).await,
        }
    }

    /// Runs a file of the user's on the output.
    pub async fn run_file(&mut self, sql: &str, what: &str) -> Result<(), SinkError> {
        match self {
            Writer::Postgres(writer) => writer.run_file(sql, what).await,
            Writer::ClickHouse(writer) => writer.run_file(sql, what).await,
        }
    }
}
