//! A pipeline's life: connect, take the checkpoint, fill the output if it never was, join the stream, follow it. When
//! it stumbles it leaves the stream, waits a little, and comes back by the same way at its checkpoint; so there is one
//! road to every state, and the outcome of a lost COMMIT is read, never guessed. What no retry can mend stops it, and
//! it alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use crate::change::Lsn;
use crate::checkpoint::{Floor, Seam, is_loaded};
use crate::postgres::{Purpose, Session, connect};
use crate::sink::postgres::checkpoint::{self, Checkpoint, Origin};
use crate::sink::postgres::request::{self, Asked, Request};
use crate::sink::postgres::{SinkError, Writer};

use super::backfill;
use super::definition::{Checked, Definition};
use super::error::{PipelineError, Place, Stopped};
use super::isolation::{Isolation, Skip};
use super::letters::Letters;
use super::queue::{End, Piece, QueueReceiver, QueueSender, queue};
use super::stage::{Part, Stage, Verdict, Work};
use super::standstill::Order;
use super::state::{Phase, State};

/// First and longest pause before another try.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How often the output hears from a transaction that waits for the source's SQL.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// For how long after a dead letter the next is expected, and every batch on trial.
const TRIAL: Duration = Duration::from_secs(60);
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
    /// Nobody will mend anything while it runs: a failure ends it.
    pub is_once: bool,
    /// Turns true when it is to end.
    pub shutdown: watch::Receiver<bool>,
}

/// What a pipeline keeps from one try to the next.
#[derive(Default)]
struct Memory {
    /// The epoch that this process has claimed.
    epoch: Option<i64>,
    /// Transactions that commit up to here are loaded one by one and on trial, to find the change that fails.
    careful_through: Lsn,
    pause: Duration,
}

impl Task {
    /// Runs until it is told to end. Where only a person can help, it stands still and keeps its place.
    pub async fn run(mut self, mut orders: mpsc::Receiver<Order>) -> Result<(), Stopped> {
        let mut memory = Memory::default();
        loop {
            let (mut shutdown, state) = (self.shutdown.clone(), self.state.clone());
            let outcome = tokio::select! {
                outcome = self.live(&mut memory) => Ok(outcome),
                () = ended_elsewhere(&mut shutdown, &state) => return Ok(()),
                definition = restart(&mut orders) => Err(definition),
            };
            let error = match outcome {
                Err(definition) => {
                    self.definition = definition;
                    continue;
                }
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => error,
            };
            if !error.is_transient() && !self.looks_closer(&mut memory, &error) {
                self.stand_still(self.placed(error), memory.epoch, &mut orders).await?;
                memory.pause = Duration::ZERO;
                continue;
            }
            self.pause(&mut memory, &error, &mut orders).await;
            if *shutdown.borrow() {
                return Ok(());
            }
        }
    }

    /// Waits before another try; not for long, if it is only to look closer.
    async fn pause(
        &mut self,
        memory: &mut Memory,
        error: &PipelineError,
        orders: &mut mpsc::Receiver<Order>,
    ) {
        memory.pause = (memory.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        if error.is_transient() {
            self.state.retry(&error.to_string());
            tracing::warn!(event = "retrying", pipeline = %self.definition.pipeline.name, at = %self.floor.lsn(),
                pause_ms = memory.pause.as_millis() as u64, "{error}; trying again");
        }
        tokio::select! {
            () = tokio::time::sleep(memory.pause) => {}
            () = ended(&mut self.shutdown) => {}
            definition = restart(orders) => self.definition = definition,
        }
    }

    /// A batch failed: do its transactions one by one, and on trial, so that all before the one change that fails are
    /// loaded.
    fn looks_closer(&self, memory: &mut Memory, error: &PipelineError) -> bool {
        let through = self.state.batch_through();
        if !error.is_about_changes() || through <= memory.careful_through || !self.state.is_following() {
            return false;
        }
        memory.careful_through = through;
        memory.pause = Duration::ZERO;
        true
    }

    /// What no change could be found to blame for is about the transaction as a whole: its COMMIT failed.
    fn placed(&self, error: PipelineError) -> PipelineError {
        if !error.is_about_changes() || error.place().is_some() || !self.state.is_following() {
            return error;
        }
        let (commit_lsn, xid) = (self.state.batch_through(), self.state.batch_xid());
        // A mere position is no transaction.
        if xid == 0 {
            return error;
        }
        error.at(Place { commit_lsn, xid, change: None })
    }

    async fn live(&self, memory: &mut Memory) -> Checked<()> {
        self.state.enter(Phase::Connecting);
        let definition = self.definition.clone();
        let source = connect(&definition.source, Purpose::Source).await?;
        let output = connect(&definition.output, Purpose::Output).await?;
        let mut claimed = self.claim(&output, memory).await?;
        let skip = self.see_to_request(&output, &mut claimed).await?;
        if let Some((_, skip)) = &skip {
            memory.careful_through = memory.careful_through.max(skip.commit_lsn);
        }
        let mut writer = Writer::new(output, definition.target.clone(), definition.key.clone(), claimed);
        if writer.loaded_lsn().is_none() {
            self.state.enter(Phase::Backfill);
            self.floor.hold();
            let control = connect(&definition.source, Purpose::Control).await?;
            backfill::run(&definition, &source, &control, &mut writer).await?;
        }
        let loaded = writer.loaded_lsn().unwrap_or_default();
        let told = self.floor.lsn();
        if loaded < told {
            // The slot may have been told so already: the server has nothing from before it any more.
            return Err(PipelineError::Rewound { pipeline: definition.pipeline.name.clone(), loaded, told });
        }
        self.floor.raise(loaded);
        let (sender, receiver) = queue(self.queue_bytes);
        let attach = Attach { pipeline: self.place, from: loaded, queue: sender };
        if self.attach.send(attach).await.is_err() {
            return Ok(());
        }
        self.follow(source, writer, receiver, skip, memory).await
    }

    /// Does what somebody asks for beside the checkpoint; what is to be skipped is left to the stream.
    async fn see_to_request(
        &self,
        output: &Session,
        claimed: &mut Checkpoint,
    ) -> Checked<Option<(Request, Skip)>> {
        let Some(request) = claimed.request.take() else { return Ok(None) };
        let (client, key, loaded) = (&output.client, &self.definition.key, claimed.loaded_lsn);
        match &request.asked {
            Asked::Backfill => {
                if request::refill(client, key, claimed.epoch, &request).await? {
                    (claimed.loaded_lsn, claimed.seam) = (None, None);
                }
                return Ok(None);
            }
            Asked::Skip { is_whole, failures } => {
                let skip = Skip::new(*is_whole, failures);
                if let Some(skip) = skip.filter(|skip| loaded.is_some_and(|l| !is_loaded(skip.commit_lsn, l)))
                {
                    return Ok(Some((request, skip)));
                }
            }
            Asked::Resume => {}
        }
        request::clear(client, key, &request).await?;
        Ok(None)
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
        &self,
        source: Session,
        mut writer: Writer,
        receiver: QueueReceiver,
        skip: Option<(Request, Skip)>,
        memory: &mut Memory,
    ) -> Checked<()> {
        let (sender, work) = mpsc::channel(WORK_MAX);
        let stage = Stage::new(self.definition.clone(), source, sender).await?;
        self.state.reading(Lsn::ZERO, 0);
        self.state.enter(Phase::Follow);
        let from = Position { loaded: writer.loaded_lsn().unwrap_or_default(), seam: writer.seam().cloned() };
        let (on_error, careful_through) = (self.definition.pipeline.on_error, memory.careful_through);
        let care = Care {
            through: careful_through,
            isolation: Isolation { on_error, skip: skip.as_ref().map(|(_, skip)| skip.clone()) },
            batch_bytes: (self.queue_bytes / 4).max(64 * 1024),
        };
        let reading = read(stage, receiver, from, care, &self.state, self.shutdown.clone());
        let writing = self.write(&mut writer, work, skip.as_ref(), &mut memory.pause);
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
        mut work: mpsc::Receiver<Work>,
        skip: Option<&(Request, Skip)>,
        pause: &mut Duration,
    ) -> Checked<()> {
        let name = &self.definition.pipeline.name;
        let (mut letters, mut trial) = (Letters::default(), None);
        loop {
            let work = tokio::select! {
                work = work.recv() => work,
                () = tokio::time::sleep(KEEP_ALIVE), if writer.is_open() => {
                    writer.keep_alive().await?;
                    continue;
                }
            };
            let Some(work) = work else { return Ok(()) };
            match work {
                Work::Complete(end) => {
                    let seam = writer.seam().filter(|seam| end.end_lsn < seam.bound).cloned();
                    let done = skip.filter(|(_, skip)| is_loaded(skip.commit_lsn, end.end_lsn));
                    writer.commit(end.end_lsn, seam, done.map(|(request, _)| request)).await?;
                    self.floor.raise(end.end_lsn);
                    letters.committed(name, &self.state);
                    *pause = Duration::ZERO;
                    tracing::debug!(event = "loaded", pipeline = %name, loaded_lsn = %end.end_lsn, "loaded");
                }
                Work::DeadLetter(letter) => {
                    writer.record(&letter).await?;
                    letters.add(&letter);
                }
                Work::Sync(done) => {
                    done.send(()).ok();
                }
                work => self.carry_out(writer, work, &mut trial).await?,
            }
        }
    }

    /// Does what may be on trial. What fails on trial is undone at once, and what follows of the trial left out.
    async fn carry_out(
        &self,
        writer: &mut Writer,
        work: Work,
        trial: &mut Option<Verdict>,
    ) -> Result<(), SinkError> {
        let done = match work {
            Work::Mark => {
                *trial = Some(Ok(()));
                return writer.mark().await;
            }
            Work::Settle { is_wanted, verdict } => {
                let outcome = trial.take().unwrap_or(Ok(()));
                match (&outcome, is_wanted) {
                    (Err(_), _) => {}
                    (Ok(()), false) => writer.undo().await?,
                    (Ok(()), true) => writer.keep().await?,
                }
                // Who asked is gone only where the whole pipeline is on its way back.
                verdict.send(outcome).ok();
                return Ok(());
            }
            _ if matches!(trial, Some(Err(_))) => return Ok(()),
            Work::Writes(writes) => writer.write(&writes).await,
            Work::LoadRows(load, rows) => writer.load_rows(&load.relation, &load.columns, &rows).await,
            Work::LoadRun(load) => {
                writer.load_run(&load.relation, &load.sql, &backfill::load_path(&self.definition)).await
            }
            Work::Truncate(sql) => writer.run_file(&sql, "truncate.sql").await,
            Work::Complete(_) | Work::DeadLetter(_) | Work::Sync(_) => Ok(()),
        };
        match done {
            Err(error) if trial.is_some() && !error.is_transient() => {
                writer.undo().await?;
                *trial = Some(Err(error));
                Ok(())
            }
            done => done,
        }
    }
}

/// Takes orders until one says to begin anew.
async fn restart(orders: &mut mpsc::Receiver<Order>) -> Arc<Definition> {
    loop {
        match orders.recv().await {
            Some(Order::Restart(definition)) => return definition,
            // Meant for a pipeline that stood still, which this one doesn't any more.
            Some(Order::GiveUp(_)) => {}
            None => std::future::pending().await,
        }
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

/// How batches are taken and put through.
struct Care {
    /// Transactions that commit up to here come one by one, and on trial.
    through: Lsn,
    isolation: Isolation,
    batch_bytes: usize,
}

/// Takes batches from the queue as they gather, and puts them through the SQL, until told to end.
async fn read(
    mut stage: Stage,
    mut receiver: QueueReceiver,
    mut position: Position,
    care: Care,
    state: &State,
    mut shutdown: watch::Receiver<bool>,
) -> Checked<()> {
    let (mut ordinal, mut last_letter) = (0, None::<Instant>);
    loop {
        let is_careful = position.loaded <= care.through;
        let batch = tokio::select! {
            biased;
            () = ended(&mut shutdown) => return Ok(()),
            batch = receiver.next_batch(care.batch_bytes, is_careful) => batch,
        };
        let Some(mut batch) = batch else { return Err(PipelineError::StreamBroke) };
        if let Some(piece) = batch.last() {
            state.reading(piece.commit_lsn, piece.xid);
        }
        let is_on_trial = is_careful || last_letter.is_some_and(|at| at.elapsed() < TRIAL);
        let whole = batch.iter().rposition(|piece| piece.end.is_some()).map_or(0, |last| last + 1);
        let mut rest = batch.split_off(whole);
        for pieces in [&mut batch, &mut rest] {
            let parts = parts(pieces, &position, &mut ordinal);
            if is_on_trial && !parts.is_empty() {
                let letters = care.isolation.load(&mut stage, parts).await?;
                last_letter = if letters > 0 { Some(Instant::now()) } else { last_letter };
            } else {
                stage.process(parts).await?;
            }
            if let Some(end) = pieces.last().and_then(|piece| piece.end) {
                complete(&mut stage, &mut position, end).await?;
            }
            if is_careful {
                // What fails at COMMIT must be known to be this transaction.
                stage.settle().await?;
            }
        }
    }
}

/// What of these pieces isn't in the output yet. `ordinal` counts within the transaction, from piece to piece.
fn parts(pieces: &mut [Piece], position: &Position, ordinal: &mut u64) -> Vec<Part> {
    let mut parts = Vec::new();
    for piece in pieces {
        let is_loaded = position.has(piece);
        let Piece { xid, commit_lsn, .. } = *piece;
        for entry in std::mem::take(&mut piece.entries) {
            *ordinal += 1;
            if !is_loaded {
                parts.push(Part { xid, commit_lsn, ordinal: *ordinal, entry });
            }
        }
        if piece.end.is_some() {
            *ordinal = 0;
        }
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
