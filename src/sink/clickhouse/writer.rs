//! One pipeline's hand in a ClickHouse database: rows are gathered, sent, and only then the checkpoint moves. A process that
//! dies in between sends the same rows again, with the same versions.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::block::{Block, Removals, Wording};
use super::dead_letter;
use super::ledger::{self, Held, SETTINGS};
use super::load::{LOAD, decide, encode_tuples};
use super::target::{Keeping, REMOVED, Target};
use super::version::{Version, Versioned};
use crate::change::{Lsn, Tuple};
use crate::checkpoint::Seam;
use crate::clickhouse::Client;
use crate::failpoint;
use crate::sink::fold::Effect;
use crate::sink::{By, Checkpoint, CheckpointKey, DeadLetter, Goal, Key, Load, Row, SinkError};

/// Rows that are sent at once.
pub(super) const SEND_BYTES: usize = 8 << 20;
/// Rows of a trial are held back until it is known that they are wanted; more than this can't be.
const TRIAL_BYTES_MAX: usize = 48 << 20;
/// Each insert makes a part, which the server has to merge: small ones don't follow each other faster than this.
const PACE: Duration = Duration::from_millis(100);
const SMALL_BYTES: usize = 1 << 20;
/// Changes of a transaction whose rows share a deduplication token.
const CHUNK_CHANGES: u64 = 10_000;

/// Writes rows and moves the checkpoint.
pub struct Writer {
    client: Client,
    target: Option<Target>,
    key: CheckpointKey,
    epoch: i64,
    loaded_lsn: Option<Lsn>,
    seam: Option<Seam>,
    blocks: Vec<Block>,
    removals: Removals,
    /// Rows that load.sql reads next.
    loading: Vec<Tuple>,
    loading_bytes: usize,
    /// For each load.sql that has run, which columns of its relation are Nullable.
    decided: Vec<(Load, Arc<[bool]>)>,
    /// A trial is under way, and rows of it have been sent already, or not.
    trial: Option<bool>,
    /// The transaction, and part of it, that rows with a token of their own are of.
    chunk: Option<(Lsn, u64)>,
    /// That the pipeline was ours, looked up when the first rows since the last checkpoint were sent.
    held: Option<Held>,
    committed_at: Instant,
    /// Since then.
    sent_bytes: usize,
    /// Of the source, in tokens that a replay has to meet.
    origin: String,
    /// Of tokens that nothing may meet.
    nonce: u64,
    serial: u64,
}

impl Writer {
    /// A writer for a pipeline whose checkpoint was claimed with that epoch. `target` is None with load.sql.
    pub fn new(client: Client, target: Option<Target>, key: CheckpointKey, claimed: Checkpoint) -> Self {
        Writer {
            client,
            target,
            key,
            epoch: claimed.epoch,
            loaded_lsn: claimed.loaded_lsn,
            seam: claimed.seam,
            origin: format!("{}:{}", claimed.origin.system_identifier, claimed.origin.timeline),
            nonce: RandomState::new().build_hasher().finish(),
            blocks: Vec::new(),
            removals: Removals::default(),
            loading: Vec::new(),
            loading_bytes: 0,
            decided: Vec::new(),
            trial: None,
            chunk: None,
            held: None,
            committed_at: Instant::now() - PACE,
            sent_bytes: 0,
            serial: 0,
        }
    }

    /// Up to where rows are loaded.
    pub fn loaded_lsn(&self) -> Option<Lsn> {
        self.loaded_lsn
    }

    /// What the backfill has read, if the stream hasn't passed it yet.
    pub fn seam(&self) -> Option<&Seam> {
        self.seam.as_ref()
    }

    /// The connection, for what isn't about rows.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The output table.
    pub fn target(&self) -> Option<&Target> {
        self.target.as_ref()
    }

    /// Sends what is left, then moves the checkpoint.
    pub async fn commit(&mut self, goal: Goal<'_>) -> Result<(), SinkError> {
        if self.is_small() {
            tokio::time::sleep_until(self.committed_at + PACE).await;
        }
        self.send().await?;
        self.hold().await?;
        if self.sent_bytes > 0 {
            failpoint::reach("rows_sent");
        }
        let held = self.held.take().expect("it was looked up a line before");
        ledger::advance(&self.client, &self.key, held, &goal).await?;
        (self.loaded_lsn, self.seam, self.chunk) = (Some(goal.loaded_lsn), goal.seam, None);
        (self.committed_at, self.sent_bytes) = (Instant::now(), 0);
        Ok(())
    }

    pub(super) fn gathered(&self) -> usize {
        self.blocks.iter().map(Block::size).sum::<usize>() + self.removals.size()
    }

    fn is_small(&self) -> bool {
        self.sent_bytes + self.gathered() < SMALL_BYTES
    }

    /// Everything since the mark is held back until it is known to be wanted.
    pub async fn mark(&mut self) -> Result<(), SinkError> {
        self.send().await?;
        (self.trial, self.chunk) = (Some(false), None);
        Ok(())
    }

    /// Forgets what was gathered since the mark.
    pub fn undo(&mut self) -> Result<(), SinkError> {
        self.forget();
        match self.trial.take() {
            Some(true) => Err(SinkError::NotUndone),
            _ => Ok(()),
        }
    }

    /// Forgets what was gathered and isn't sent.
    pub fn forget(&mut self) {
        self.blocks.clear();
        self.removals = Removals::default();
        (self.loading, self.loading_bytes) = (Vec::new(), 0);
    }

    /// Sends what was gathered since the mark.
    pub async fn keep(&mut self) -> Result<(), SinkError> {
        self.send().await?;
        self.trial = None;
        Ok(())
    }

    /// Records a change that isn't loaded.
    pub async fn record(&mut self, letter: &DeadLetter) -> Result<(), SinkError> {
        self.hold().await?;
        dead_letter::record(&self.client, &self.key, letter).await
    }

    /// Takes these, in order.
    pub async fn write(&mut self, versions: &[Versioned]) -> Result<(), SinkError> {
        for versioned in versions {
            match versioned {
                Versioned::Effect { version, effect, wording } => {
                    self.begin_chunk(*version).await?;
                    self.gather(*version, effect, wording)?;
                }
                Versioned::Truncate(version) => self.truncate(*version).await?,
            }
            let bound = if self.trial.is_some() { TRIAL_BYTES_MAX } else { SEND_BYTES };
            if self.gathered() > bound && self.chunk.is_none() {
                self.send().await?;
            }
        }
        failpoint::reach("rows_written");
        Ok(())
    }

    fn table(&self) -> &Target {
        self.target
            .as_ref()
            .expect("a pipeline without an output table has load.sql, and that no writes of ours")
    }

    /// Where the table remembers tokens, rows go in chunks that a replay makes again, however it batches.
    async fn begin_chunk(&mut self, version: Version) -> Result<(), SinkError> {
        let target = self.table();
        if target.keeping != Keeping::Appended
            || target.table.deduplication_window == 0
            || self.trial.is_some()
        {
            return Ok(());
        }
        let chunk = Some((version.lsn(), version.ordinal() / CHUNK_CHANGES));
        if self.chunk != chunk {
            self.send().await?;
            self.chunk = chunk;
        }
        Ok(())
    }

    fn gather(&mut self, version: Version, effect: &Effect, wording: &Wording) -> Result<(), SinkError> {
        for (by, key, _) in &effect.removals {
            let target = self.target.as_ref().expect("writes of ours are for an output table");
            // Rows that the change puts are of a later version, so those that stay needn't be told.
            match by {
                By::Replace if target.replace != target.key => {
                    self.removals.add(target, wording, key, version)?
                }
                By::Key | By::Replace => self.tombstone(version, wording, key)?,
            }
        }
        for (_, row) in &effect.puts {
            self.put(version.of_rows(), row)?;
        }
        Ok(())
    }

    pub(super) fn tombstone(
        &mut self,
        version: Version,
        wording: &Wording,
        key: &Key,
    ) -> Result<(), SinkError> {
        let target = self.target.as_ref().expect("writes of ours are for an output table");
        Block::of_tombstones(&mut self.blocks, target)?.push_tombstone(target, wording, key, version)
    }

    pub(super) fn put(&mut self, version: Version, row: &Row) -> Result<(), SinkError> {
        let target = self.target.as_ref().expect("writes of ours are for an output table");
        Block::of_rows(&mut self.blocks, target, &row.layout)?.push_row(target, row, version)
    }

    async fn truncate(&mut self, version: Version) -> Result<(), SinkError> {
        self.send().await?;
        self.hold().await?;
        let target = self.table();
        // By versions it is harmless however late it comes; only what has none has to be emptied indeed.
        let sql = match (&target.keeping, target.remove_older(version, version)) {
            (_, Some(sql)) => sql,
            (Keeping::Appended, None) => format!("TRUNCATE TABLE {}", target.sql()),
            (Keeping::Versioned { .. }, None) => return Ok(()),
        };
        self.run(&sql, "truncating").await?;
        self.has_sent();
        Ok(())
    }

    /// What is on trial can't be undone any more.
    fn has_sent(&mut self) {
        if let Some(has_sent) = &mut self.trial {
            *has_sent = true;
        }
    }

    pub(super) async fn run(&self, sql: &str, doing: &str) -> Result<(), SinkError> {
        let what = format!("{doing} {}", self.table().sql());
        self.client.execute(sql, INSERT).await.map_err(SinkError::clickhouse(what))
    }

    /// A backfill takes its time: it looks before each send whether the pipeline is still ours. Rows that another's backfill
    /// didn't find any more would stay.
    pub(super) fn look_again(&mut self) {
        self.held = None;
    }

    /// Sees that the pipeline is still ours, once before rows go.
    pub(super) async fn hold(&mut self) -> Result<(), SinkError> {
        if self.held.is_none() {
            self.held = Some(ledger::hold(&self.client, &self.key, self.epoch, self.loaded_lsn).await?);
        }
        Ok(())
    }

    /// Sends what was gathered. What replaces other rows goes before what removes these, so that nobody sees neither.
    pub(super) async fn send(&mut self) -> Result<(), SinkError> {
        let bytes = self.gathered();
        if bytes == 0 {
            return Ok(());
        }
        self.hold().await?;
        for (number, mut block) in std::mem::take(&mut self.blocks).into_iter().enumerate() {
            let token = self.token(number);
            let settings = [INSERT, &[("insert_deduplication_token", token.as_str())]].concat();
            let what = format!("writing to {}", self.table().sql());
            let rows = block.take();
            let sent = self.client.insert(&block.insert, &settings, rows).await;
            sent.map_err(SinkError::clickhouse(what))?;
            self.has_sent();
        }
        let mut removals = std::mem::take(&mut self.removals);
        if let Some(sql) = self.table().remove_replaced().filter(|_| removals.size() > 0) {
            let (structure, rows) = removals.take(self.table());
            let what = format!("removing rows of {}", self.table().sql());
            let done = self.client.execute_with_rows(&sql, INSERT, REMOVED, &structure, rows);
            done.await.map_err(SinkError::clickhouse(what))?;
            self.has_sent();
        }
        self.sent_bytes += bytes;
        Ok(())
    }

    /// A replay's chunk has the same; nothing else has.
    fn token(&mut self, number: usize) -> String {
        let CheckpointKey { project, pipeline } = &self.key;
        match self.chunk {
            Some((lsn, chunk)) => {
                format!("trucker:{project}:{pipeline}:{}:{lsn}:{chunk}:{number}", self.origin)
            }
            None => self.unique_token(),
        }
    }

    fn unique_token(&mut self) -> String {
        self.serial += 1;
        let CheckpointKey { project, pipeline } = &self.key;
        format!("trucker:{project}:{pipeline}:{:x}:{}", self.nonce, self.serial)
    }

    /// Adds rows to those that load.sql reads next.
    pub async fn load_rows(&mut self, load: &Load, rows: &[Tuple]) -> Result<(), SinkError> {
        self.loading.extend_from_slice(rows);
        self.loading_bytes += rows.iter().map(Tuple::size).sum::<usize>();
        // Held in memory on both sides.
        if self.loading_bytes > SEND_BYTES { self.load_run(load, "load.sql").await } else { Ok(()) }
    }

    /// Runs load.sql over these rows.
    pub async fn load_run(&mut self, load: &Load, what: &str) -> Result<(), SinkError> {
        let rows = std::mem::take(&mut self.loading);
        self.loading_bytes = 0;
        if rows.is_empty() {
            return Ok(());
        }
        self.hold().await?;
        let nullable = self.nullable(load, what).await?;
        let (structure, bytes) = encode_tuples(&load.columns, &nullable, &rows)?;
        self.sent_bytes += bytes.len();
        let token = self.unique_token();
        let settings = [LOAD, &[("insert_deduplication_token", token.as_str())]].concat();
        let done = self.client.execute_with_rows(&load.sql, &settings, &load.relation, &structure, bytes);
        done.await.map_err(SinkError::clickhouse(what))?;
        self.has_sent();
        Ok(())
    }

    async fn nullable(&mut self, load: &Load, what: &str) -> Result<Arc<[bool]>, SinkError> {
        if let Some((_, nullable)) = self.decided.iter().find(|(known, _)| known == load) {
            return Ok(nullable.clone());
        }
        let nullable = decide(&self.client, load).await.map_err(SinkError::clickhouse(what))?;
        self.decided.push((load.clone(), nullable.clone()));
        Ok(nullable)
    }

    /// Runs a file of the user's on the output.
    pub async fn run_file(&mut self, sql: &str, what: &str) -> Result<(), SinkError> {
        self.send().await?;
        self.hold().await?;
        self.client.execute(sql, SETTINGS).await.map_err(SinkError::clickhouse(what))
    }
}

/// An insert says no sooner that it is done than it is, and refuses what it would have to change.
pub(super) const INSERT: &[(&str, &str)] = &[
    ("async_insert", "0"),
    ("input_format_skip_unknown_fields", "0"),
    ("input_format_null_as_default", "0"),
    ("throw_on_max_partitions_per_insert_block", "0"),
    ("select_sequential_consistency", "1"),
    ("final", "0"),
];
