//! One pipeline's hand in an output database: a transaction at a time, rows and then the checkpoint.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};

use super::checkpoint::Step;
use super::statement::{Shape, Target};
use super::{checkpoint, dead_letter, lines};
use crate::change::{Lsn, Tuple};
use crate::checkpoint::Seam;
use crate::failpoint;
use crate::postgres::Session;
use crate::postgres::array::ArrayText;
use crate::postgres::ident::{quote_ident, quote_idents};
use crate::sink::{
    By, Checkpoint, CheckpointKey, DeadLetter, Key, Layout, LoadColumn, Put, Request, Row, SinkError, Write,
};

/// From so many rows on, COPY is worth its second round trip.
const COPY_ROWS_MIN: usize = 50;

/// Writes rows and moves the checkpoint.
pub struct Writer {
    session: Session,
    target: Option<Target>,
    key: CheckpointKey,
    epoch: i64,
    loaded_lsn: Option<Lsn>,
    seam: Option<Seam>,
    is_open: bool,
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
            self.client().batch_execute("BEGIN").await.map_err(SinkError::at("opening a transaction"))?;
            self.is_open = true;
        }
        Ok(())
    }

    /// Moves the checkpoint and commits. Where the answer to COMMIT is lost, nobody knows whether it was done: the
    /// error is transient, and who goes on reads the checkpoint first. `done` is the request that this fulfils.
    /// `commit_time` is that of the last transaction, in microseconds since 2000-01-01.
    pub async fn commit(
        &mut self,
        loaded_lsn: Lsn,
        commit_time: Option<i64>,
        seam: Option<Seam>,
        done: Option<&Request>,
    ) -> Result<(), SinkError> {
        self.begin().await?;
        let (from, epoch) = (self.loaded_lsn, self.epoch);
        let step = Step { epoch, from, to: loaded_lsn, commit_time, seam: seam.as_ref(), done };
        let statement = match &self.advance {
            Some(statement) => statement.clone(),
            None => self.advance.insert(checkpoint::prepare_advance(self.client()).await?).clone(),
        };
        // COMMIT isn't sent along with it: what is under way of a broken connection must hold the checkpoint's lock, so that whoever
        // goes on waits for it (`fetch_settled`).
        checkpoint::advance(self.client(), &statement, &self.key, &step).await?;
        failpoint::reach("checkpoint_moved");
        self.client().batch_execute("COMMIT").await.map_err(SinkError::at("committing"))?;
        self.is_open = false;
        self.loaded_lsn = Some(loaded_lsn);
        self.seam = seam;
        Ok(())
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

    /// Does these, in order, in the open transaction.
    pub async fn write(&mut self, writes: &[Write]) -> Result<(), SinkError> {
        self.begin().await?;
        for write in writes {
            match write {
                Write::Truncate => self.truncate().await?,
                Write::Delete { by, keys } => self.delete(*by, keys).await?,
                Write::Put { put, layout, omitted, rows } => self.put(*put, layout, omitted, rows).await?,
                Write::Rekey { old, row } => self.rekey(old, row).await?,
            }
        }
        Ok(())
    }

    fn table(&self) -> &Target {
        self.target
            .as_ref()
            .expect("a pipeline without an output table has load.sql, and that no writes of ours")
    }

    fn what(&self, doing: &str) -> String {
        let target = self.table();
        format!("{doing} {}.{}", target.table.schema, target.table.table)
    }

    async fn truncate(&mut self) -> Result<(), SinkError> {
        let sql = format!("TRUNCATE {}", self.table().table.sql());
        self.client().batch_execute(&sql).await.map_err(SinkError::at(self.what("truncating")))
    }

    async fn delete(&mut self, by: By, keys: &[(Key, Vec<Key>)]) -> Result<(), SinkError> {
        let keeps = keys.iter().any(|(_, keep)| !keep.is_empty());
        let target = self.table();
        let mut arrays = vec![ArrayText::default(); target.columns_of(by).len()];
        let mut places = ArrayText::default();
        let mut kept = vec![ArrayText::default(); if keeps { target.key.len() } else { 0 }];
        for (place, (key, keep)) in keys.iter().enumerate() {
            key.values().zip(&mut arrays).for_each(|(value, array)| array.push(Some(value)));
            for key in keep.iter().filter(|_| keeps) {
                places.push(Some((place + 1).to_string().as_bytes()));
                key.values().zip(&mut kept).for_each(|(value, array)| array.push(Some(value)));
            }
        }
        if keeps {
            arrays.push(places);
            arrays.append(&mut kept);
        }
        let what = self.what("deleting from");
        self.execute(Shape::Delete { by, keeps }, &arrays, what).await.map(drop)
    }

    async fn put(
        &mut self,
        put: Put,
        layout: &Layout,
        omitted: &[usize],
        rows: &[Tuple],
    ) -> Result<(), SinkError> {
        let put = if omitted.is_empty() { put } else { Put::Update };
        let (columns, cells) = given(layout, omitted);
        let is_new = matches!(put, Put::UpsertNew | Put::Insert);
        if self.may_copy && is_new && rows.len() >= COPY_ROWS_MIN {
            return self.copy_rows(columns, &cells, rows).await;
        }
        let put = if put == Put::UpsertNew { Put::Upsert } else { put };
        let mut arrays = vec![ArrayText::default(); columns.len()];
        for tuple in rows {
            cells.iter().zip(&mut arrays).for_each(|(&cell, array)| array.push(tuple.cell(cell).text()));
        }
        let what = self.what("writing to");
        self.execute(Shape::Put { put, columns }, &arrays, what).await.map(drop)
    }

    async fn copy_rows(
        &mut self,
        columns: Vec<String>,
        cells: &[usize],
        rows: &[Tuple],
    ) -> Result<(), SinkError> {
        let what = self.what("copying into");
        let Some(statement) = self.prepare(Shape::Copy { columns }, &what).await? else { return Ok(()) };
        let copy = self.client().copy_in(&statement).await.map_err(SinkError::at(what.clone()))?;
        lines::send(Box::pin(copy), rows, cells).await.map_err(SinkError::at(what))
    }

    async fn rekey(&mut self, old: &Key, row: &Row) -> Result<(), SinkError> {
        let single = |values: &mut dyn Iterator<Item = Option<&[u8]>>| -> Vec<ArrayText> {
            let array = |value| {
                let mut array = ArrayText::default();
                array.push(value);
                array
            };
            values.map(array).collect()
        };
        if let Some(new) = row.key() {
            let keys = single(&mut new.values().chain(old.values()).map(Some));
            self.execute(Shape::MakeRoom, &keys, self.what("moving a row's key in")).await?;
        }
        let (columns, cells) = given(&row.layout, &row.omitted());
        let values = cells.iter().map(|&cell| row.tuple.cell(cell).text());
        let arrays = single(&mut values.chain(old.values().map(Some)));
        let what = self.what("moving a row's key in");
        self.execute(Shape::Rekey { columns }, &arrays, what).await.map(drop)
    }

    /// The statement of a shape; None if there is nothing to do.
    async fn prepare(&mut self, shape: Shape, what: &str) -> Result<Option<Statement>, SinkError> {
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

    async fn execute(&mut self, shape: Shape, arrays: &[ArrayText], what: String) -> Result<u64, SinkError> {
        let Some(statement) = self.prepare(shape, &what).await? else { return Ok(0) };
        let params: Vec<&(dyn ToSql + Sync)> = arrays.iter().map(|a| a as &(dyn ToSql + Sync)).collect();
        self.client().execute(&statement, &params).await.map_err(SinkError::at(what))
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
        let names = quote_idents(columns.iter().map(|c| c.name.as_str()));
        let sql = format!("COPY pg_temp.{relation} ({names}) FROM STDIN");
        let copy = self.client().copy_in(&sql).await.map_err(SinkError::at("handing rows to load.sql"))?;
        Ok(Box::pin(copy))
    }

    /// Runs a file of the user's on the output, in the open transaction.
    pub async fn run_file(&mut self, sql: &str, what: &str) -> Result<(), SinkError> {
        self.begin().await?;
        self.client().batch_execute(sql).await.map_err(SinkError::at(what))
    }
}

/// Columns that a row gives, and their cells.
fn given(layout: &Layout, omitted: &[usize]) -> (Vec<String>, Vec<usize>) {
    let columns = layout.columns.iter().enumerate().filter(|(at, _)| !omitted.contains(at));
    columns.map(|(_, (name, cell))| (name.clone(), *cell)).unzip()
}

/// The rows' types as the output can name them; a type that only the source has travels as text.
pub fn load_columns(columns: impl Iterator<Item = (String, String)>) -> Arc<[LoadColumn]> {
    let known = |type_sql: String| {
        if type_sql.starts_with("pg_catalog.") { type_sql } else { "pg_catalog.text".to_owned() }
    };
    columns.map(|(name, type_sql)| LoadColumn { name, type_sql: known(type_sql), words: None }).collect()
}
