//! A whole project at work: the only place where sources, pipelines and outputs meet.
//!
//! [`prepare`] reaches the servers and checks everything; [`continuity`] sees that stored progress fits them;
//! [`create`] makes what is missing; then every source and every pipeline is a task of its own, and [`run`] watches
//! over them until they end. What they show of themselves ([`health`] is a source's) [`watch`] puts up. [`requests`] tells
//! pipelines what somebody asks of them, [`budget`] watches over the WAL that they keep. [`status`], [`teardown`], [`orphans`],
//! [`refill`] and [`ask`] are other processes' business; what they find on the servers they have from [`inspect`]. [`plan`] says what
//! a run would do, [`compile`] which SQL it would run, [`preview`] what comes of that, [`verify`] whether an output
//! has it.

mod aside;
pub mod ask;
mod begin;
pub mod budget;
pub mod check;
pub mod compile;
pub mod continuity;
pub mod create;
pub mod error;
pub mod findings;
pub mod guard;
pub mod health;
pub mod inspect;
pub mod orphans;
pub mod plan;
pub mod prepare;
pub mod preview;
pub mod pulse;
pub mod refill;
pub mod replica;
pub mod requests;
mod requirements;
pub mod rights;
pub mod route;
pub mod source;
pub mod status;
pub mod teardown;
pub mod verify;
pub mod watch;
mod wiring;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch::Receiver, watch::Sender, watch::channel};
use tokio::task::JoinSet;

use crate::change::Lsn;
use crate::checkpoint::Progress;
use crate::codes::Code;
use crate::config::Project;
use crate::observe::board::Board;
use crate::observe::snapshot::{RunState, Snapshot};
use crate::pipeline::error::Stopped;
use crate::pipeline::state::{Phase, State};
use crate::pipeline::task::{Attach, LostTables, Task};
use crate::postgres::catalog::fetch_durable_lsn;

use crate::pipeline::queue::Room;
use aside::Aside;
use budget::Budget;
use error::EngineError;
use guard::Guard;
use health::SourceHealth;
use prepare::{Creation, PreparedProject, PreparedSource};
use pulse::Pulses;
use requests::Member;
use route::{Reader, Router};
use source::{SourceError, SourceTask};
use watch::{WatchedPipeline, WatchedSource, look};

/// How long pipelines may take to finish their batch when the process is to end.
const GRACE: Duration = Duration::from_secs(20);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
const SHOW_INTERVAL: Duration = Duration::from_secs(1);
/// Before another try to begin anew.
const RENEWAL_PAUSE: Duration = Duration::from_secs(5);

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// As it was told to.
    Well,
    /// With failed pipelines; what went wrong was logged where it happened.
    WithFailures,
    /// Another process took over.
    Fenced,
}

/// Whether to stop once caught up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Run on.
    Shutdown,
    /// Backfill, load what was committed at the source before the start, stop.
    CaughtUp,
}

enum Event {
    Pipeline(Result<(), Stopped>),
    Source(usize, Result<(), SourceError>),
    Guard(usize, EngineError),
}

/// How to run a project.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Whether to stop once caught up.
    pub until: Until,
    /// How long a statement of the user's may take before it is told of.
    pub slow_query: Duration,
    /// Whether to create what is missing.
    pub creation: Creation,
}

struct Running<'b> {
    options: Options,
    board: &'b Board,
    aside: Vec<Aside>,
    pipelines: Vec<WatchedPipeline>,
    sources: Vec<WatchedSource>,
    targets: Vec<Option<Lsn>>,
    tasks: JoinSet<Event>,
    pulses: Pulses,
    guards: JoinSet<Event>,
    /// Ends with this.
    requests: JoinSet<()>,
    stop_pipelines: Sender<bool>,
    stop_sources: Vec<Sender<bool>>,
    pipelines_left: usize,
    failures: usize,
    is_fenced: bool,
}

/// Runs a project until `shutdown` turns true, or as `options` say. How it stands is put on the board.
pub async fn run(
    project: &Project,
    options: Options,
    mut shutdown: Receiver<bool>,
    board: &Board,
) -> Result<Ended, EngineError> {
    let (mut project, mut renewals) = (project.clone(), None);
    loop {
        let (prepared, guards) = match begin::begin(&project, options, &mut shutdown, board).await {
            Ok(Some(begun)) => begun,
            Ok(None) => return Ok(Ended::Well),
            Err(error) if renewals.is_some() && error.is_of_connections() => {
                tracing::warn!(event = "not_renewed", "{error}; trying again");
                tokio::select! {
                    () = tokio::time::sleep(RENEWAL_PAUSE) => continue,
                    _ = shutdown.wait_for(|end| *end) => return Ok(Ended::Well),
                }
            }
            Err(error) => return Err(error),
        };
        let mut running = start(prepared, guards, options, board).await?;
        if options.until == Until::Shutdown {
            running.watch_requests(&project);
        }
        let aside = running.aside.clone();
        let times = renewals.filter(|_| !aside.is_empty()).map_or(0, |times: u32| times.saturating_add(1));
        let fits = aside::until_one_fits(&project, &aside, options.creation, aside::rest(times));
        if !running.supervise(shutdown.clone(), fits).await {
            return Ok(running.end(RunState::Stopping).await);
        }
        tracing::info!(
            event = "renewing",
            "a pipeline that couldn't start can now: all begin anew where they are"
        );
        running.keep_latest(&mut project);
        if running.end(RunState::Starting).await == Ended::Fenced {
            return Ok(Ended::Fenced);
        }
        if let Some(renewed) = aside::read_anew(&project, &aside).await {
            project = renewed;
        }
        renewals = Some(times);
    }
}

async fn start(
    prepared: PreparedProject,
    guards: Vec<Guard>,
    options: Options,
    board: &Board,
) -> Result<Running<'_>, EngineError> {
    let (stop_pipelines, stopping) = channel(false);
    let aside = prepared.aside;
    let count = prepared.sources.iter().map(|source| source.pipelines.len()).sum::<usize>();
    let mut running = Running {
        options,
        board,
        aside: aside.clone(),
        pipelines: Vec::new(),
        sources: Vec::new(),
        targets: Vec::new(),
        tasks: JoinSet::new(),
        pulses: Pulses::default(),
        guards: JoinSet::new(),
        requests: JoinSet::new(),
        stop_pipelines,
        stop_sources: Vec::new(),
        pipelines_left: count,
        failures: 0,
        is_fenced: false,
    };
    let room = Room::among(count);
    for (place, (source, guard)) in prepared.sources.into_iter().zip(guards).enumerate() {
        let health = Arc::new(SourceHealth::default());
        let (connection, slot) = (source.connection.clone(), source.slot_name.clone());
        let (name, watched_slot) = (connection.name.clone(), slot.clone());
        running.sources.push(WatchedSource { name, slot: watched_slot, health: health.clone() });
        let of_source = aside.iter().filter(|aside| aside.holds && aside.source == connection.name);
        let holding = of_source.map(|aside| aside.pipeline.clone()).collect();
        let ((lose, lost), renew) = (channel(LostTables::new()), Arc::<Notify>::default());
        running.start_source(source, &room, lost, renew.clone(), stopping.clone()).await?;
        let of_source = running.pipelines.iter().filter(|pipeline| pipeline.source == place);
        let members = of_source.map(|pipeline| pipeline.member.clone()).collect();
        let budget = Budget::new(connection.name, slot, connection.wal_budget, members, holding);
        let watching = async move { Event::Guard(place, guard.watch(&health, budget, lose, &renew).await) };
        running.guards.spawn(running.pulses.beating(watching));
    }
    Ok(running)
}

impl Running<'_> {
    async fn start_source(
        &mut self,
        source: PreparedSource,
        room: &Room,
        lost: Receiver<LostTables>,
        renew: Arc<Notify>,
        stopping: Receiver<bool>,
    ) -> Result<(), EngineError> {
        let source_place = self.stop_sources.len();
        let (stop, source_stopping) = channel(false);
        self.stop_sources.push(stop);
        let target = match self.options.until {
            Until::Shutdown => None,
            Until::CaughtUp => Some(
                fetch_durable_lsn(&source.control.client)
                    .await
                    .map_err(EngineError::at(&source.connection.name, "asking for the WAL position"))?,
            ),
        };
        self.targets.push(target);
        let (attach, attaching) = mpsc::channel(64);
        let (mut progress, mut readers) = (self.held_aside(&source), Vec::new());
        for pipeline in &source.pipelines {
            let definition = pipeline.definition.clone();
            let checkpoint = pipeline.place();
            let loaded = checkpoint.and_then(|checkpoint| checkpoint.loaded_lsn);
            // Not where its checkpoint is: that may be of a commit that isn't durable yet.
            let floor = progress.add(source.slot_lsn());
            let place = self.pipelines.len();
            let tables = definition.tables.iter().map(|t| (t.oid, t.schema.clone(), t.table.clone()));
            readers.push(Reader { place, floor: floor.clone(), tables: tables.collect() });
            let state = Arc::new(State::default());
            state.begin_at(loaded.unwrap_or_else(|| source.slot_lsn()));
            let age = checkpoint.filter(|_| loaded.is_some()).map(|c| c.age);
            let (member, ordered) = Member::new(definition.clone(), floor.clone(), state.clone());
            self.pipelines.push(WatchedPipeline {
                member,
                source: source_place,
                current_at: age.and_then(|age| Instant::now().checked_sub(age)).unwrap_or_else(Instant::now),
            });
            let task = Task {
                definition,
                place,
                origin: source.origin(),
                published: source.marks(&pipeline.definition),
                floor,
                beat: self.pulses.beat(),
                attach: attach.clone(),
                room: room.clone(),
                state,
                slow_query: self.options.slow_query,
                is_once: self.options.until == Until::CaughtUp,
                lost: lost.clone(),
                shutdown: stopping.clone(),
            };
            let running = async move { Event::Pipeline(task.run(ordered).await) };
            self.tasks.spawn(self.pulses.beating(running));
        }
        self.spawn_source(
            &source,
            source_place,
            Router::new(readers),
            progress,
            attaching,
            target,
            renew,
            source_stopping,
        );
        Ok(())
    }

    /// Floors that nobody moves: of pipelines that come in later.
    fn held_aside(&self, source: &PreparedSource) -> Progress {
        let mut progress = Progress::default();
        for _ in self.aside.iter().filter(|aside| aside.holds && aside.source == source.connection.name) {
            progress.add(source.slot_lsn());
        }
        progress
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one task, each used once")]
    fn spawn_source(
        &mut self,
        source: &PreparedSource,
        place: usize,
        router: Router,
        progress: Progress,
        attach: mpsc::Receiver<Attach>,
        target: Option<Lsn>,
        renew: Arc<Notify>,
        shutdown: Receiver<bool>,
    ) {
        let (connection, slot) = (source.streamed().0.clone(), source.slot_name.clone());
        let (identity, is_standby) = (source.identity.clone(), source.streams_from_standby());
        let task = SourceTask {
            connection,
            slot,
            identity,
            is_standby,
            router,
            progress,
            attach,
            target,
            health: self.sources[place].health.clone(),
            renew,
            shutdown,
            vouched: None,
        };
        self.tasks.spawn(self.pulses.beating(async move { Event::Source(place, task.run().await) }));
    }

    /// Has every output looked at for what somebody asks of its pipelines.
    fn watch_requests(&mut self, project: &Project) {
        let project = Arc::new(project.clone());
        for connection in &project.connections {
            let members = self.pipelines.iter().map(|pipeline| &pipeline.member);
            let into = members.filter(|member| member.definition.output == *connection);
            let members: Vec<Member> = into.cloned().collect();
            if !members.is_empty() {
                self.requests.spawn(requests::watch(project.clone(), connection.clone(), members));
            }
        }
    }

    /// What was read anew while it ran, on somebody's request, it goes on with.
    fn keep_latest(&self, project: &mut Project) {
        for member in self.pipelines.iter().map(|pipeline| &pipeline.member) {
            let latest = member.latest();
            if let Some(pipeline) = project.pipelines.iter_mut().find(|p| p.name == latest.name) {
                *pipeline = (*latest).clone();
            }
        }
    }

    /// Waits until it is time to end; true, if that is to begin anew, since one that was aside `fits`. It isn't time for that
    /// while a pipeline is filled, which would begin from nothing; nor while one stands still whose place was given up, which
    /// would be filled without being asked.
    async fn supervise(&mut self, mut shutdown: Receiver<bool>, fits: impl Future<Output = ()>) -> bool {
        let (mut fits, mut renews) = (std::pin::pin!(fits), false);
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        let is_once = self.targets.iter().any(Option::is_some);
        tracing::info!(event = "running", pipelines = self.pipelines.len(), "running");
        let mut show = tokio::time::interval(SHOW_INTERVAL);
        while self.pipelines_left > 0 && !self.is_fenced {
            tokio::select! {
                _ = shutdown.wait_for(|end| *end) => return false,
                () = &mut fits, if !renews => renews = true,
                Some(event) = self.tasks.join_next() => self.note(event),
                Some(event) = self.guards.join_next() => self.note(event),
                _ = look.tick(), if is_once => if self.has_caught_up() { return false },
                _ = show.tick() => self.show(RunState::Running),
            }
            let waits = |pipeline: &WatchedPipeline| {
                let member = &pipeline.member;
                member.state.phase() == Phase::Backfill || member.floor.is_given_up()
            };
            if renews && !self.pipelines.iter().any(waits) {
                return true;
            }
        }
        false
    }

    fn show(&mut self, state: RunState) {
        let turns = self.pulses.all_turn();
        let mut snapshot = look(state, &mut self.pipelines, &self.sources);
        snapshot.pipelines.extend(self.aside.iter().map(Aside::snapshot));
        self.board.put(Snapshot { turns, ..snapshot });
    }

    fn has_caught_up(&self) -> bool {
        self.pipelines.iter().all(|pipeline| {
            let (target, state) = (self.targets[pipeline.source], &pipeline.member.state);
            let is_there = target.is_some_and(|target| pipeline.member.floor.lsn() >= target);
            let phase = state.phase();
            phase == Phase::Failed || is_there && phase == Phase::Follow
        })
    }

    fn note(&mut self, event: Result<Event, tokio::task::JoinError>) {
        match event {
            Ok(Event::Pipeline(outcome)) => {
                self.pipelines_left = self.pipelines_left.saturating_sub(1);
                let Err(stopped) = outcome else { return };
                self.failures += 1;
                self.is_fenced |= stopped.error.is_fenced();
            }
            Ok(Event::Source(place, Err(error))) => self.lose_source(place, error.code(), &error.to_string()),
            Ok(Event::Source(_, Ok(()))) => {}
            Ok(Event::Guard(place, error)) => {
                let code = error.codes().first().copied().unwrap_or(Code::SourceReplaced);
                self.lose_source(place, code, &error.to_string());
            }
            // A task that panicked took only itself along; what it was doing is undone by the servers.
            Err(error) if error.is_panic() => {
                self.failures += 1;
                self.pipelines_left = 0;
                tracing::error!(event = "bug", code = %Code::Bug, "a task ended by a bug of trucker's; stopping");
            }
            Err(_) => {}
        }
    }

    /// A source that can't go on takes its pipelines along.
    fn lose_source(&mut self, place: usize, code: Code, error: &str) {
        tracing::error!(event = "source_failed", code = %code, "{error}");
        self.sources[place].health.fail(code, error.to_owned());
        self.failures += 1;
        // Its pipelines end by themselves: nobody takes them into a stream any more.
        self.stop_sources[place].send_replace(true);
    }

    /// Lets pipelines finish what they are at, then sources confirm it.
    async fn end(mut self, state: RunState) -> Ended {
        self.show(state);
        self.stop_pipelines.send_replace(true);
        let finished = tokio::time::timeout(GRACE, async {
            while self.pipelines_left > 0 {
                let Some(event) = self.tasks.join_next().await else { break };
                self.note(event);
            }
        });
        if finished.await.is_err() {
            tracing::warn!(
                event = "not_finished",
                "an output doesn't answer: ending in the middle of a batch, which is undone"
            );
        }
        for stop in &self.stop_sources {
            stop.send_replace(true);
        }
        tokio::time::timeout(Duration::from_secs(5), async {
            while self.tasks.join_next().await.is_some() {}
        })
        .await
        .ok();
        match (self.is_fenced, self.failures) {
            (true, _) => Ended::Fenced,
            (false, 0) => Ended::Well,
            (false, _) => Ended::WithFailures,
        }
    }
}
