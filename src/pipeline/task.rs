//! A pipeline's life: connect, take the checkpoint, fill the output if it never was, join the stream, follow it. When
//! it stumbles it leaves the stream, waits a little, and comes back by the same way at its checkpoint; so there is one
//! road to every state, and the outcome of a lost COMMIT is read, never guessed. What no retry can mend stops it, and
//! it alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tracing::Span;

use crate::change::Lsn;
use crate::checkpoint::{Floor, Seam, is_loaded};
use crate::failpoint;
use crate::postgres::{Purpose, Session, connect};
use crate::sink::postgres::checkpoint::{self, Checkpoint, Origin};
use crate::sink::postgres::{SinkError, Writer};

use super::backfill;
use super::definition::{Checked, Definition};
use super::error::{PipelineError, Stopped};
use super::queue::{End, Piece, QueueReceiver, QueueSender, queue};
use super::stage::slow::tell_if_slow;
use super::stage::{Part, Stage, Work};
use super::state::{Phase, State};
use super::trace;

/// First and longest pause before another try.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How often the output hears from a transaction that waits for the source's SQL.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Writes that may wait for the output.
const WORK_MAX: usize = 1;

/// A request to be sent everything from an LSN on.
#[derive(Debug)]
pub struct Attach {
    /// Which pipeline, by its place in the engine's list.
    pub pipeline: usize,
    /// The first LSN that isn't loaded.
    pub from: Lsn,
    /// Where to put it.
    pub queue: QueueSender,
}

/// Everything that a pipeline runs with.
pub struct Task {
    /// What it is.
    pub definition: Arc<Definition>,
    /// Its place in the engine's list.
    pub place: usize,
    /// Where its changes come from.
    pub origin: Origin,
    /// Its word on what the slot has to keep.
    pub floor: Floor,
    /// How to join the stream.
    pub attach: mpsc::Sender<Attach>,
    /// Bytes that may wait for it, and that it takes at once.
    pub queue_bytes: usize,
    /// What others may see.
    pub state: Arc<State>,
    /// How long a statement of the user's may take before it is told of.
    pub slow_query: Duration,
    /// Turns true when it is to end.
    pub shutdown: watch::Receiver<bool>,
}

/// What a pipeline keeps from one try to the next.
#[derive(Default)]
struct Memory {
    /// The epoch that this process has claimed.
    epoch: Option<i64>,
    /// Up to here transactions are loaded one by one, to find the one that fails.
    careful_until: Lsn,
    pause: Duration,
}

impl Task {
    /// Runs until it is told to end, or until only a person can help. Then its place is kept.
    pub async fn run(mut self) -> Result<(), Stopped> {
        let mut memory = Memory::default();
        loop {
            let (mut shutdown, state) = (self.shutdown.clone(), self.state.clone());
            let outcome = tokio::select! {
                outcome = self.live(&mut memory) => outcome,
                () = ended_elsewhere(&mut shutdown, &state) => return Ok(()),
            };
            let Err(error) = outcome else { return Ok(()) };
            let first = self.floor.lsn();
            if !error.is_transient() && !self.looks_closer(&mut memory, &error) {
                self.state.fail(&error);
                return Err(Stopped { error, first });
            }
            memory.pause = (memory.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
            if error.is_transient() {
                self.state.retry(&error);
                tracing::warn!(event = "retrying", pipeline = %self.definition.pipeline.name, at = %first,
                    pause_ms = memory.pause.as_millis() as u64, "{error}; trying again");
            }
            tokio::select! {
                () = tokio::time::sleep(memory.pause) => {}
                () = ended(&mut shutdown) => return Ok(()),
            }
        }
    }

    /// A batch of several transactions failed: do them one by one, so that all before the one that fails are loaded.
    fn looks_closer(&self, memory: &mut Memory, error: &PipelineError) -> bool {
        let batch_end = self.state.batch_end();
        let is_about_changes = matches!(
            error,
            PipelineError::Sql { .. }
                | PipelineError::Sink(SinkError::Postgres { .. } | SinkError::NullKey(..))
                | PipelineError::Truncated { .. }
                | PipelineError::ValueGone { .. }
                | PipelineError::Problems(_)
                | PipelineError::Input(_)
        );
        if !is_about_changes || batch_end <= memory.careful_until || !self.state.is_following() {
            return false;
        }
        memory.careful_until = batch_end;
        memory.pause = Duration::ZERO;
        true
    }

    async fn live(&mut self, memory: &mut Memory) -> Checked<()> {
        self.state.enter(Phase::Connecting);
        let definition = self.definition.clone();
        let source = connect(&definition.source, Purpose::Source).await?;
        let output = connect(&definition.output, Purpose::Output).await?;
        let claimed = self.claim(&output, memory).await?;
        let mut writer = Writer::new(output, definition.target.clone(), definition.key.clone(), claimed);
        if writer.loaded_lsn().is_none() {
            self.state.enter(Phase::Backfill);
            let control = connect(&definition.source, Purpose::Control).await?;
            let span = trace::backfill(&definition);
            let filling = backfill::run(&definition, &source, &control, &mut writer, &self.state.counts);
            trace::observed(span, filling).await?;
        }
        let loaded = writer.loaded_lsn().unwrap_or_default();
        let told = self.floor.lsn();
        if loaded < told {
            // The slot may have been told so already: the server has nothing from before it any more.
            return Err(PipelineError::Rewound { pipeline: definition.pipeline.name.clone(), loaded, told });
        }
        self.floor.raise(loaded);
        self.state.pending.loaded(loaded);
        let (sender, receiver) = queue(self.queue_bytes);
        let attach = Attach { pipeline: self.place, from: loaded, queue: sender };
        if self.attach.send(attach).await.is_err() {
            return Ok(());
        }
        self.follow(source, writer, receiver, memory).await
    }

    /// The first time this process takes the pipeline from whoever had it; after that it only looks whether it still
    /// has it.
    async fn claim(&self, output: &Session, memory: &mut Memory) -> Checked<Checkpoint> {
        let key = &self.definition.key;
        let Some(epoch) = memory.epoch else {
            let table = self.definition.output_name();
            let claimed = checkpoint::claim(
                &output.client,
                key,
                &self.origin,
                table.as_deref(),
                &self.definition.input_names(),
            )
            .await?;
            memory.epoch = Some(claimed.epoch);
            return Ok(claimed);
        };
        let found = checkpoint::fetch_settled(&output.client, key).await?;
        let fenced = || SinkError::Fenced { pipeline: key.pipeline.clone(), expected: self.floor.lsn() };
        Ok(found.filter(|checkpoint| checkpoint.epoch == epoch).ok_or_else(fenced)?)
    }

    async fn follow(
        &mut self,
        source: Session,
        mut writer: Writer,
        receiver: QueueReceiver,
        memory: &mut Memory,
    ) -> Checked<()> {
        let (sender, work) = mpsc::channel(WORK_MAX);
        let stage = Stage::new(self.definition.clone(), source, self.slow_query, sender).await?;
        self.state.enter(Phase::Follow);
        let from = Position { loaded: writer.loaded_lsn().unwrap_or_default(), seam: writer.seam().cloned() };
        let careful_until = memory.careful_until;
        let batch_bytes = (self.queue_bytes / 4).max(64 * 1024);
        let reading =
            read(stage, receiver, from, careful_until, batch_bytes, &self.state, self.shutdown.clone());
        let writing = self.write(&mut writer, work, &mut memory.pause);
        // If both fail, the writer's failure is the cause: the reader's is that nobody takes its work.
        tokio::pin!(reading, writing);
        tokio::select! {
            done = &mut writing => done,
            done = &mut reading => match done {
                Ok(()) => writing.await,
                Err(PipelineError::StreamBroke) => writing.await.and(Err(PipelineError::StreamBroke)),
                Err(error) => Err(error),
            },
        }
    }

    async fn write(
        &self,
        writer: &mut Writer,
        mut work: mpsc::Receiver<(Work, Span)>,
        pause: &mut Duration,
    ) -> Checked<()> {
        let mut writing = Duration::ZERO;
        loop {
            let work = tokio::select! {
                work = work.recv() => work,
                () = tokio::time::sleep(KEEP_ALIVE), if writer.is_open() => {
                    writer.keep_alive().await?;
                    continue;
                }
            };
            let Some((work, batch)) = work else { return Ok(()) };
            let span = trace::work(&batch, &self.definition, &work);
            let done = trace::observed(span, self.do_work(writer, work, &mut writing)).await;
            if done.inspect_err(|error| trace::fail(&batch, error))? {
                *pause = Duration::ZERO;
            }
        }
    }

    /// Answers whether it was a commit. `writing` gathers the time that rows take until then.
    async fn do_work(&self, writer: &mut Writer, work: Work, writing: &mut Duration) -> Checked<bool> {
        let name = &self.definition.pipeline.name;
        let begun = Instant::now();
        match work {
            Work::Writes(writes) => {
                writer.write(&writes).await?;
                failpoint::reach("rows_written");
            }
            Work::LoadRows(load, rows) => writer.load_rows(&load.relation, &load.columns, &rows).await?,
            Work::LoadRun(load) => {
                let path = backfill::load_path(&self.definition);
                writer.load_run(&load.relation, &load.sql, &path).await?;
                failpoint::reach("rows_written");
                let output = &self.definition.output.name;
                tell_if_slow(self.slow_query, begun, name, &path, output, None);
            }
            Work::Truncate(sql) => writer.run_file(&sql, "truncate.sql").await?,
            Work::Complete(end, tally) => {
                let seam = writer.seam().filter(|seam| end.end_lsn < seam.bound).cloned();
                writer.commit(end.end_lsn, seam).await?;
                failpoint::reach("commit_answered");
                self.floor.raise(end.end_lsn);
                failpoint::reach("floor_raised");
                self.state.loaded(end.end_lsn);
                self.state.counts.loaded(&tally, std::mem::take(writing), begun.elapsed());
                tracing::debug!(event = "loaded", pipeline = %name, loaded_lsn = %end.end_lsn, "loaded");
                return Ok(true);
            }
        }
        *writing += begun.elapsed();
        Ok(false)
    }
}

struct Position {
    loaded: Lsn,
    seam: Option<Seam>,
}

impl Position {
    fn has(&self, piece: &Piece) -> bool {
        is_loaded(piece.commit_lsn, self.loaded)
            || self.seam.as_ref().is_some_and(|seam| seam.covers(piece.commit_lsn, piece.xid))
    }
}

/// Takes batches from the queue as they gather, and puts them through the SQL, until told to end.
async fn read(
    mut stage: Stage,
    mut receiver: QueueReceiver,
    mut position: Position,
    careful_until: Lsn,
    batch_bytes: usize,
    state: &State,
    mut shutdown: watch::Receiver<bool>,
) -> Checked<()> {
    loop {
        let is_careful = position.loaded < careful_until;
        let batch = tokio::select! {
            biased;
            () = ended(&mut shutdown) => return Ok(()),
            batch = receiver.next_batch(batch_bytes, is_careful) => batch,
        };
        let Some(batch) = batch else { return Err(PipelineError::StreamBroke) };
        // A part of a transaction that goes on is not told from its end by position alone.
        state.reading(
            batch.last().map_or(Lsn::ZERO, |piece| piece.end.map_or(piece.commit_lsn, |e| e.end_lsn)),
        );
        let span = trace::batch(stage.definition(), &batch, |piece| !position.has(piece));
        trace::observed(span, take(&mut stage, batch, &mut position, state)).await?;
    }
}

/// Puts a batch through the SQL.
async fn take(
    stage: &mut Stage,
    mut batch: Vec<Piece>,
    position: &mut Position,
    state: &State,
) -> Checked<()> {
    let whole = batch.iter().rposition(|piece| piece.end.is_some()).map_or(0, |last| last + 1);
    let mut rest = batch.split_off(whole);
    for part in [&batch, &rest] {
        let first = part.iter().find(|piece| !position.has(piece));
        if let Some((commit_lsn, time)) = first.and_then(|piece| Some((piece.commit_lsn, piece.commit_time?)))
        {
            state.pending.take(commit_lsn, time);
        }
    }
    stage.process(parts(&mut batch, position)).await?;
    if let Some(end) = batch.last().and_then(|piece| piece.end) {
        complete(stage, position, end).await?;
    }
    stage.process(parts(&mut rest, position)).await
}

/// What of these pieces isn't in the output yet.
fn parts(pieces: &mut [Piece], position: &Position) -> Vec<Part> {
    let mut parts = Vec::new();
    for piece in pieces.iter_mut().filter(|piece| !position.has(piece)) {
        let xid = piece.xid;
        parts.extend(std::mem::take(&mut piece.entries).into_iter().map(|entry| Part { xid, entry }));
    }
    parts
}

async fn complete(stage: &mut Stage, position: &mut Position, end: End) -> Checked<()> {
    if end.end_lsn > position.loaded {
        position.loaded = end.end_lsn;
        stage.complete(end).await?;
    }
    Ok(())
}

/// Returns once the process is to end; never, if whoever would say so is gone.
pub async fn ended(shutdown: &mut watch::Receiver<bool>) {
    if shutdown.wait_for(|end| *end).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The same, but only where the pipeline doesn't see to it by itself: following, it first finishes its batch.
async fn ended_elsewhere(shutdown: &mut watch::Receiver<bool>, state: &State) {
    ended(shutdown).await;
    if state.is_following() {
        std::future::pending::<()>().await;
    }
}
