//! A pipeline's life: connect, take the checkpoint, fill the output if it never was, join the stream, follow it. When
//! it stumbles it leaves the stream, waits a little, and comes back by the same way at its checkpoint; so there is one
//! road to every state, and the outcome of a lost COMMIT is read, never guessed. What no retry can mend stops it, and
//! it alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use crate::change::Lsn;
use crate::checkpoint::{Floor, is_loaded};
use crate::codes::Code;
use crate::postgres::{Purpose, Session, connect};
use crate::sink::{Asked, Checkpoint, Claim, Ledger, Origin, Output, Request, SinkError, Writer};

use super::backfill;
use super::beat::Beat;
use super::definition::{Checked, Definition};
use super::delivery::{Delivery, FLUSH_INTERVAL};
use super::error::{PipelineError, Place, Stopped, name_back};
use super::intake::{Care, Intake, Position};
use super::isolation::{Isolation, Skip};
use super::queue::{QueueReceiver, QueueSender, Room};
use super::reading::connect_source;
use super::repair;
use super::stage::Stage;
use super::standstill::Order;
use super::state::{Phase, State};
use super::trace;

/// First and longest pause before another try.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(30);
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

/// By OID, what befell tables of the publication.
pub type LostTables = BTreeMap<u32, Loss>;

/// Why a table's changes don't come any more, or not all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// It is called otherwise, and with it what its changes would be taken for.
    Renamed(String),
    /// It was dropped, taken out of the publication, or is published in part only.
    Gap(String),
}

/// Everything that a pipeline runs with.
pub struct Task {
    /// What it is.
    pub definition: Arc<Definition>,
    /// Its place in the engine's list.
    pub place: usize,
    /// Where its changes come from.
    pub origin: Origin,
    /// What the publication's entries of its tables are known by.
    pub published: Option<String>,
    /// Its word on what the slot has to keep.
    pub floor: Floor,
    /// That its first half turns.
    pub beat: Beat,
    /// How to join the stream.
    pub attach: mpsc::Sender<Attach>,
    /// What may wait for it, and how much it takes at once.
    pub room: Room,
    /// What others may see.
    pub state: Arc<State>,
    /// How long a statement of the user's may take before it is told of.
    pub slow_query: Duration,
    /// Nobody will mend anything while it runs: a failure ends it.
    pub is_once: bool,
    /// Input tables whose changes don't come any more.
    pub lost: watch::Receiver<LostTables>,
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
            let (mut lost, definition) = (self.lost.clone(), self.definition.clone());
            let outcome = tokio::select! {
                outcome = self.live(&mut memory) => Ok(outcome),
                error = input_lost(&mut lost, &definition) => Ok(Err(error)),
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
            self.state.retry(error);
            tracing::warn!(event = "retrying", code = %error.code(), pipeline = %self.definition.pipeline.name, at = %self.state.loaded_lsn(),
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

    async fn live(&mut self, memory: &mut Memory) -> Checked<()> {
        self.state.enter(Phase::Connecting);
        let definition = self.definition.clone();
        let source = connect_source(&definition, &self.origin).await?;
        let output = Output::connect(&definition.output, Purpose::Output).await?;
        let definition = Arc::new(definition.with_current_output(&output).await?);
        self.definition = definition.clone();
        let mut claimed = self.claim(output.ledger(), memory).await?;
        if let Some(loaded) = claimed.loaded_lsn {
            // Whoever reads the checkpoint to go on from it commits synchronously, so it is durable by now.
            self.floor.raise(loaded);
        }
        let repair = claimed.request.take_if(|request| matches!(request.asked, Asked::Repair { .. }));
        let skip = self.see_to_request(output.ledger(), &mut claimed).await?;
        if let Some((_, skip)) = &skip {
            memory.careful_through = memory.careful_through.max(skip.commit_lsn);
        }
        let mut writer = Writer::new(output, definition.target.as_ref(), definition.key.clone(), claimed);
        if writer.loaded_lsn().is_none() {
            self.state.enter(Phase::Backfill);
            self.floor.hold();
            let control = connect(&definition.source, Purpose::Control).await?;
            let span = trace::backfill(&definition);
            let (slot, counts) = (&self.origin.slot, &self.state.counts);
            let filling = backfill::run(&definition, &source, &control, slot, &mut writer, counts);
            trace::observed(span, filling).await?;
            writer.flush().await?;
        }
        self.repair(&source, &mut writer, repair).await?;
        if memory.careful_through == Lsn::ZERO {
            // A key that exists makes COPY fail: the batch then comes again, as statements that it can't make fail.
            writer.allow_copy();
        }
        let loaded = writer.loaded_lsn().unwrap_or_default();
        let told = self.floor.lsn();
        if loaded < told {
            // The slot may have been told so already: the server has nothing from before it any more.
            return Err(PipelineError::Rewound { pipeline: definition.pipeline.name.clone(), loaded, told });
        }
        self.floor.raise(loaded);
        self.state.begin_at(loaded);
        let (sender, receiver) = self.room.queue();
        let attach = Attach { pipeline: self.place, from: loaded, queue: sender };
        if self.attach.send(attach).await.is_err() {
            return Ok(());
        }
        self.follow(source, writer, receiver, skip, memory).await
    }

    /// Does what somebody asks for beside the checkpoint; what is to be skipped is left to the stream.
    async fn see_to_request(
        &self,
        output: Ledger<'_>,
        claimed: &mut Checkpoint,
    ) -> Checked<Option<(Request, Skip)>> {
        let Some(request) = claimed.request.take() else { return Ok(None) };
        let (key, loaded) = (&self.definition.key, claimed.loaded_lsn);
        match &request.asked {
            Asked::Backfill => {
                if output.refill(key, claimed.epoch, &request).await? {
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
            // The latter is done elsewhere.
            Asked::Resume | Asked::Repair { .. } => {}
        }
        output.clear(key, &request).await?;
        Ok(None)
    }

    /// Makes rows anew that were found to be wrong. What can't be done is given up, and the pipeline goes on.
    async fn repair(&self, source: &Session, writer: &mut Writer, request: Option<Request>) -> Checked<()> {
        let Some(request) = request else { return Ok(()) };
        let (definition, name) = (&self.definition, &self.definition.pipeline.name);
        let Asked::Repair { keys } = &request.asked else { return Ok(()) };
        let repaired = match writer {
            Writer::Postgres(writer) => {
                repair::run(definition, source, &self.origin.slot, writer, keys, &request).await
            }
            Writer::ClickHouse(writer) => {
                repair::clickhouse::run(definition, source, &self.origin.slot, writer, keys, &request).await
            }
        };
        match repaired {
            Ok(rows) => {
                tracing::info!(event = "repaired", pipeline = %name, keys = keys.len(), rows, "rows made anew");
                Ok(())
            }
            Err(error) if error.is_transient() || error.is_fenced() => Err(error),
            Err(error) => {
                tracing::error!(event = "not_repaired", pipeline = %name, "the repair of pipeline {name} is given up: {error}");
                writer.roll_back().await?;
                source.client.batch_execute("ROLLBACK").await.ok();
                Ok(writer.ledger().refuse(&definition.key, &request, &error.to_string()).await?)
            }
        }
    }

    /// The first time this process takes the pipeline from whoever had it; after that it only looks whether it still
    /// has it.
    async fn claim(&self, output: Ledger<'_>, memory: &mut Memory) -> Checked<Checkpoint> {
        let key = &self.definition.key;
        let Some(epoch) = memory.epoch else {
            let table = self.definition.output_name();
            let claim = Claim {
                origin: &self.origin,
                output_table: table.as_deref(),
                input_tables: &self.definition.input_names(),
                published: self.published.as_deref(),
                sql_hash: &self.definition.sql_hash,
            };
            let claimed = output.claim(key, claim).await?;
            memory.epoch = Some(claimed.epoch);
            self.tell_of_other_sql(&claimed);
            return Ok(claimed);
        };
        let found = output.fetch_settled(key, epoch).await?;
        let fenced =
            || SinkError::Fenced { pipeline: key.pipeline.clone(), expected: self.state.loaded_lsn() };
        let mut found = found.filter(|checkpoint| checkpoint.epoch == epoch).ok_or_else(fenced)?;
        let sql_hash = &self.definition.sql_hash;
        if found.sql_hash.as_ref() != Some(sql_hash) {
            // Its files were read anew.
            output.note_sql(key, epoch, sql_hash).await?;
            self.tell_of_other_sql(&found);
            found.sql_hash = Some(sql_hash.clone());
        }
        Ok(found)
    }

    fn tell_of_other_sql(&self, found: &Checkpoint) {
        let name = &self.definition.pipeline.name;
        if found.was_backfilled_by_other_sql(&self.definition.sql_hash) && found.request.is_none() {
            tracing::warn!(event = "sql_changed", code = %Code::SqlChanged, pipeline = %name,
                "the SQL of pipeline {name} has changed since it was backfilled: rows from before stay as they are until their \
                 input changes. To make all of them anew: trucker backfill {name}");
        }
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
        let stage = Stage::new(self.definition.clone(), source, self.slow_query, sender).await?;
        self.state.reading(Lsn::ZERO, 0);
        self.state.enter(Phase::Follow);
        let position =
            Position { loaded: writer.loaded_lsn().unwrap_or_default(), seam: writer.seam().cloned() };
        let on_error = self.definition.pipeline.on_error;
        let care = Care {
            through: memory.careful_through,
            isolation: Isolation { on_error, skip: skip.as_ref().map(|(_, skip)| skip.clone()) },
            batch_bytes: self.room.batch_bytes,
        };
        let (definition, floor, state) = (&*self.definition, &self.floor, &*self.state);
        let intake = Intake::new(stage, position, care, self.state.clone());
        let reading = self.beat.clone().during(intake.run(receiver, self.shutdown.clone()));
        // On a thread of its own where there is one: an output that waits for a batch's SQL, or for one to be put together, idles.
        let mut reading = AbortOnDropHandle::new(tokio::spawn(reading.in_current_span()));
        // Who waits for the end wants the slot told.
        let flush_interval = if self.is_once { Duration::ZERO } else { FLUSH_INTERVAL };
        let delivery =
            Delivery { definition, floor, state, flush_interval, slow_query: self.slow_query, skip };
        let writing = delivery.run(&mut writer, work, &mut memory.pause);
        // If both fail, the writer's failure is the cause: the reader's is that nobody takes its work.
        tokio::pin!(writing);
        tokio::select! {
            done = &mut writing => match done {
                // There is no more to write because the other half has ended, which may be for an error.
                Ok(()) => reading.await.unwrap_or_else(ended_badly),
                Err(error) => Err(error),
            },
            done = &mut reading => match done.unwrap_or_else(ended_badly) {
                Ok(()) => writing.await,
                Err(PipelineError::StreamBroke) => writing.await.and(Err(PipelineError::StreamBroke)),
                Err(error) => Err(error),
            },
        }
    }
}

/// What the first half's task panicked with goes on here; it is canceled only where all ends.
fn ended_badly(error: JoinError) -> Checked<()> {
    match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => Err(PipelineError::StreamBroke),
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

/// Returns when an input table is lost; never, if whoever would say so is gone.
async fn input_lost(lost: &mut watch::Receiver<LostTables>, definition: &Definition) -> PipelineError {
    let pipeline = &definition.pipeline.name;
    loop {
        let found = {
            let lost = lost.borrow_and_update();
            definition.tables.iter().find_map(|table| lost.get(&table.oid).cloned())
        };
        match found {
            Some(Loss::Renamed(why)) => {
                return PipelineError::Input(format!("{why}. {}", name_back(pipeline)));
            }
            Some(Loss::Gap(why)) => {
                let cure = format!("Fill the pipeline anew: trucker backfill {pipeline}");
                return PipelineError::Input(format!("{why}. {cure}"));
            }
            None if lost.changed().await.is_err() => std::future::pending::<()>().await,
            None => {}
        }
    }
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
