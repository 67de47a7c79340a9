//! One pipeline's hand in an output database: a transaction at a time, rows and then the checkpoint.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio_postgres::{Client, Statement};

use super::statement::{Shape, Target, copy_sql};
use super::{checkpoint, dead_letter, lines};
use crate::change::{Lsn, Tuple};
use crate::checkpoint::Seam;
use crate::failpoint;
use crate::postgres::Session;
use crate::postgres::ident::quote_ident;
use crate::sink::{Checkpoint, CheckpointKey, DeadLetter, Goal, LoadColumn, SinkError, Write};

/// A transaction whose COMMIT doesn't wait for the disk, nor for standbys. Rows and checkpoint are in it, so a crash of the output
/// takes back both or none; [`Writer::flush`] waits, before anybody is told.
/// What is asked about the table sees what was committed before its lock was granted.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit = off";

/// Writes rows and moves the checkpoint.
pub struct Writer {
    session: Session,
    target: Option<Target>,
    key: CheckpointKey,
    epoch: i64,
    loaded_lsn: Option<Lsn>,
    seam: Option<Seam>,
    is_open: bool,
    /// Where the open transaction, or a statement that was one, has moved the checkpoint to.
    moved_to: Option<Lsn>,
    /// The temporary table that load.sql's rows are gathering in.
    loading: Option<String>,
    may_copy: bool,
    advance: Option<Statement>,
    statements: HashMap<Shape, Option<Statement>>,
}

impl Writer {
    /// A writer for a pipeline whose checkpoint was claimed with that epoch. `target` is None with load.sql.
    pub fn new(session: Session, target: Option<Target>, key: CheckpointKey, claimed: Checkpoint) -> Self {
        Writer {
            session,
            target,
            key,
            epoch: claimed.epoch,
            loaded_lsn: claimed.loaded_lsn,
            seam: claimed.seam,
            is_open: false,
            moved_to: None,
            loading: None,
            may_copy: false,
            advance: None,
            statements: HashMap::new(),
        }
    }

    /// Lets many new rows go in by COPY, which costs the server a third of an upsert and fails where a key exists. Not for who
    /// has to know which row it was that failed.
    pub fn allow_copy(&mut self) {
        self.may_copy = self.target.as_ref().is_some_and(|target| target.table.takes_copy);
    }

    /// The connection, for what isn't about rows.
    pub fn client(&self) -> &Client {
        &self.session.client
    }

    /// The output table.
    pub fn target(&self) -> Option<&Target> {
        self.target.as_ref()
    }

    /// Up to where rows are loaded.
    pub fn loaded_lsn(&self) -> Option<Lsn> {
        self.loaded_lsn
    }

    /// What the backfill has read, if the stream hasn't passed it yet.
    pub fn seam(&self) -> Option<&Seam> {
        self.seam.as_ref()
    }

    /// Opens a transaction, unless one is open.
    pub async fn begin(&mut self) -> Result<(), SinkError> {
        if !self.is_open {
            self.client().batch_execute(BEGIN).await.map_err(SinkError::at("opening a transaction"))?;
            (self.is_open, self.moved_to) = (true, None);
        }
        Ok(())
    }

    /// Moves the checkpoint, unless the last rows did, and commits, unless these were their own transaction; how durable that is,
    /// [`flush`](Self::flush) says. Where the answer to COMMIT is lost, nobody knows whether it was done: the error is transient, and
    /// who goes on reads the checkpoint first.
    pub async fn commit(&mut self, goal: Goal<'_>) -> Result<(), SinkError> {
        let is_moved = self.moved_to.take() == Some(goal.loaded_lsn);
        if is_moved && !self.is_open {
            return Ok(());
        }
        if !is_moved {
            self.begin().await?;
            let statement = self.prepared_advance().await?;
            let step = goal.step(self.epoch, self.loaded_lsn);
            checkpoint::advance(self.client(), &statement, &self.key, &step).await?;
        }
        failpoint::reach("checkpoint_moved");
        // COMMIT isn't sent along with it: what is under way of a broken connection must hold the checkpoint's lock, so that whoever
        // goes on waits for it (`fetch_settled`).
        self.client().batch_execute("COMMIT").await.map_err(SinkError::at("committing"))?;
        self.committed(&goal);
        Ok(())
    }

    fn committed(&mut self, goal: &Goal<'_>) {
        self.is_open = false;
        self.loaded_lsn = Some(goal.loaded_lsn);
        self.seam.clone_from(&goal.seam);
    }

    /// Makes all that was committed so far as durable as the session's own `synchronous_commit` says. Not within a transaction.
    pub async fn flush(&self) -> Result<(), SinkError> {
        checkpoint::flush(self.client(), &self.key, self.epoch, self.loaded_lsn).await
    }

    /// Whether a transaction is open.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Shows the server that a transaction that waits for more rows is not a stopped process's: such a one it ends
    /// after `idle_in_transaction_session_timeout`, so that another process can take over.
    pub async fn keep_alive(&self) -> Result<(), SinkError> {
        self.client().batch_execute("SELECT").await.map_err(SinkError::at("keeping a transaction open"))
    }

    /// Undoes the open transaction, if there is one.
    pub async fn roll_back(&mut self) -> Result<(), SinkError> {
        self.moved_to = None;
        if std::mem::take(&mut self.is_open) {
            self.client().batch_execute("ROLLBACK").await.map_err(SinkError::at("rolling back"))?;
        }
        Ok(())
    }

    /// Marks the place in the transaction that [`undo`](Self::undo) goes back to.
    pub async fn mark(&mut self) -> Result<(), SinkError> {
        self.begin().await?;
        self.client()
            .batch_execute("SAVEPOINT trucker_trial")
            .await
            .map_err(SinkError::at("setting a savepoint"))
    }

    /// Undoes what was done since the mark.
    pub async fn undo(&mut self) -> Result<(), SinkError> {
        // A temporary table that was made since then goes with it.
        self.loading = None;
        let sql = "ROLLBACK TO SAVEPOINT trucker_trial";
        self.client().batch_execute(sql).await.map_err(SinkError::at("going back to a savepoint"))
    }

    /// Forgets the mark; what was done since then stays done.
    pub async fn keep(&mut self) -> Result<(), SinkError> {
        let sql = "RELEASE SAVEPOINT trucker_trial";
        self.client().batch_execute(sql).await.map_err(SinkError::at("releasing a savepoint"))
    }

    /// Records a change that isn't loaded, in the open transaction.
    pub async fn record(&mut self, letter: &DeadLetter) -> Result<(), SinkError> {
        self.begin().await?;
        dead_letter::record(self.client(), &self.key, letter).await
    }

    /// Does these, in order, in the open transaction. With `end`, nothing follows in it but the commit, and the checkpoint is moved as
    /// well: nobody waits for it twice. What one statement can do, with none open, is committed with it.
    pub async fn write(&mut self, writes: &[Write], end: Option<&Goal<'_>>) -> Result<(), SinkError> {
        let (from, epoch) = (self.loaded_lsn, self.epoch);
        let step = |goal| Goal::step(goal, epoch, from);
        if let (false, [write], Some(goal)) = (self.is_open, writes, end)
            && self.fly_whole(write, &step(goal)).await?
        {
            self.committed(goal);
        } else {
            self.begin().await?;
            self.fly(writes, end.map(step).as_ref()).await?;
            failpoint::reach("rows_written");
        }
        self.moved_to = end.map(|goal| goal.loaded_lsn);
        Ok(())
    }

    pub(super) fn table(&self) -> &Target {
        self.target
            .as_ref()
            .expect("a pipeline without an output table has load.sql, and that no writes of ours")
    }

    pub(super) fn what(&self, doing: &str) -> String {
        let target = self.table();
        format!("{doing} {}.{}", target.table.schema, target.table.table)
    }

    pub(super) fn key(&self) -> &CheckpointKey {
        &self.key
    }

    pub(super) fn may_copy(&self) -> bool {
        self.may_copy
    }

    pub(super) async fn prepared_advance(&mut self) -> Result<Statement, SinkError> {
        if let Some(statement) = &self.advance {
            return Ok(statement.clone());
        }
        Ok(self.advance.insert(checkpoint::prepare_advance(self.client()).await?).clone())
    }

    /// The statement of a shape; None if there is nothing to do.
    pub(super) async fn prepare(&mut self, shape: Shape, what: &str) -> Result<Option<Statement>, SinkError> {
        if let Some(known) = self.statements.get(&shape) {
            return Ok(known.clone());
        }
        let prepared = match self.table().sql(&shape) {
            Some(sql) => Some(self.client().prepare(&sql).await.map_err(SinkError::at(what))?),
            None => None,
        };
        self.statements.insert(shape, prepared.clone());
        Ok(prepared)
    }

    /// Adds rows to the temporary table of that name, which load.sql reads; makes it first where it isn't there.
    pub async fn load_rows(
        &mut self,
        relation: &str,
        columns: &[LoadColumn],
        rows: &[Tuple],
    ) -> Result<(), SinkError> {
        if self.loading.as_deref() != Some(relation) {
            self.create_relation(relation, columns).await?;
            self.loading = Some(relation.to_owned());
        }
        let copy = self.copy_into(relation, columns).await?;
        let cells: Vec<usize> = (0..columns.len()).collect();
        lines::send(copy, rows, &cells).await.map_err(SinkError::at("handing rows to load.sql"))
    }

    /// Runs load.sql over the rows of a run, and drops their table.
    pub async fn load_run(&mut self, relation: &str, sql: &str, what: &str) -> Result<(), SinkError> {
        self.run_file(sql, what).await?;
        self.loading = None;
        let drop = format!("DROP TABLE pg_temp.{relation}");
        self.client()
            .batch_execute(&drop)
            .await
            .map_err(SinkError::at("dropping the temporary table of load.sql"))
    }

    /// Makes the relation that load.sql reads, empty.
    pub async fn create_relation(&mut self, relation: &str, columns: &[LoadColumn]) -> Result<(), SinkError> {
        self.begin().await?;
        let columns: Vec<String> =
            columns.iter().map(|c| format!("{} {}", quote_ident(&c.name), c.type_sql)).collect();
        let sql = format!("CREATE TEMPORARY TABLE {relation} ({}) ON COMMIT DROP", columns.join(", "));
        let what = "making the temporary table for load.sql (needs TEMPORARY on the output database)";
        self.client().batch_execute(&sql).await.map_err(SinkError::at(what))
    }

    /// Starts a COPY in text form into that relation.
    pub async fn copy_into(
        &self,
        relation: &str,
        columns: &[LoadColumn],
    ) -> Result<std::pin::Pin<Box<tokio_postgres::CopyInSink<Bytes>>>, SinkError> {
        let columns = columns.iter().map(|c| c.name.as_str());
        let sql = copy_sql(&format!("pg_temp.{relation}"), columns, false);
        let copy = self.client().copy_in(&sql).await.map_err(SinkError::at("handing rows to load.sql"))?;
        Ok(Box::pin(copy))
    }

    /// Runs a file of the user's on the output, in the open transaction.
    pub async fn run_file(&mut self, sql: &str, what: &str) -> Result<(), SinkError> {
        self.begin().await?;
        self.client().batch_execute(sql).await.map_err(SinkError::at(what))
    }
}

/// The rows' types as the output can name them; a type that only the source has travels as text.
pub fn load_columns(columns: impl Iterator<Item = (String, String)>) -> Arc<[LoadColumn]> {
    let known = |type_sql: String| {
        if type_sql.starts_with("pg_catalog.") { type_sql } else { "pg_catalog.text".to_owned() }
    };
    columns.map(|(name, type_sql)| LoadColumn { name, type_sql: known(type_sql), words: None }).collect()
}
