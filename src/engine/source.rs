//! One source at work: holds the slot's stream, routes its changes, tells the slot what is durable everywhere.
//!
//! Pipelines come and go while the stream runs: one joins after its backfill, one leaves when it stumbles and comes
//! back at its checkpoint. Who comes back further behind than the stream is makes it start again from there, between
//! two transactions; the others skip what they have. So there is one slot and one stream, and no pipeline waits for
//! another that is in trouble.
//!
//! A stream from a standby goes on through a promotion without a word. So there, nothing is handed on as committed before
//! the standby has said that it is still one, on the timeline that it was on, and has replayed that far (`vouch`).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::continuity::{START_OVER, lost};
use super::health::{SourceHealth, StreamState};
use super::route::Router;
use crate::change::Lsn;
use crate::checkpoint::Progress;
use crate::codes::Code;
use crate::config::PostgresConnection;
use crate::failpoint;
use crate::pipeline::task::{Attach, ended};
use crate::postgres::catalog::{ServerIdentity, fetch_server_identity};
use crate::postgres::{Purpose, Session, connect, error};
use crate::source::assemble::{AssembleError, Assembler, Step};
use crate::source::slot;
use crate::source::standby::{Standby, Standing};
use crate::source::stream::{Frame, ReplicationStream, StreamError};

const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long after one pipeline has joined a stream waits for the next, and how long in all: each that joins later, and is further
/// behind, makes the server decode everything again.
const GATHER_PAUSE: Duration = Duration::from_millis(100);
const GATHER_MAX: Duration = Duration::from_secs(2);
/// Frames that have come already and are taken without a look at anything else.
const FRAMES_AT_ONCE: usize = 256;
/// How long, and how often asked, before a server that shuts down is let go. In ordinary times it asks once in half of
/// wal_sender_timeout.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
const SHUTDOWN_QUESTIONS: u32 = 50;

/// Why a source can't go on.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The stream.
    #[error("{0}")]
    Stream(#[from] StreamError),
    /// What it says.
    #[error("{0}")]
    Assemble(#[from] AssembleError),
    /// The publication is gone, and with it every change since.
    #[error(
        "publication {0} doesn't exist, or didn't when changes were made that come next: they aren't in the stream. {start_over}",
        start_over = START_OVER
    )]
    NoPublication(String),
    /// The standby that is streamed from takes writes of its own.
    #[error(
        "connection {0}: it was promoted: what is written there from now on may not be what the main server has. If it has \
         become the main server, name it as `host` and take `replica_host` away: trucker then goes on exactly where it is. Else \
         name another standby"
    )]
    Promoted(String),
    /// The server is not the one that it was.
    #[error("the source is not what it was: {0}. Start trucker again to see whether its pipelines can go on")]
    Replaced(String),
    /// A standby has started again, and hasn't come as far as it was.
    #[error("the standby has replayed up to {0} so far, and changes from {1} on are needed")]
    Behind(Lsn, Lsn),
    /// The server has invalidated the slot.
    #[error("{0}")]
    Lost(String),
    /// It could not be asked who it is.
    #[error("asking the source who it is: {}", error::describe(.0))]
    Asking(#[source] tokio_postgres::Error),
    /// The server waits for us with its shutdown, and we for an output.
    #[error("the source is shutting down, and not everything can be loaded before that: letting it go")]
    ShuttingDown,
}

impl SourceError {
    /// Which kind of problem it is.
    pub fn code(&self) -> Code {
        match self {
            SourceError::Stream(error) => error.code(),
            SourceError::Assemble(_) => Code::StreamUnreadable,
            SourceError::NoPublication(_) => Code::PublicationGone,
            SourceError::Promoted(_) => Code::ReplicaNoStandby,
            SourceError::Replaced(_) => Code::SourceReplaced,
            SourceError::Behind(..) => Code::ReplicaBehind,
            SourceError::Lost(_) => Code::SlotLost,
            SourceError::Asking(_) => Code::ServerAnswer,
            SourceError::ShuttingDown => Code::StreamBroke,
        }
    }

    fn is_transient(&self) -> bool {
        match self {
            SourceError::Stream(error) => error.is_transient(),
            SourceError::ShuttingDown | SourceError::Behind(..) => true,
            SourceError::Asking(error) => error::is_transient(error),
            SourceError::Assemble(_)
            | SourceError::NoPublication(_)
            | SourceError::Promoted(_)
            | SourceError::Lost(_)
            | SourceError::Replaced(_) => false,
        }
    }
}

/// Everything that a source runs with.
pub struct SourceTask {
    /// Where.
    pub connection: PostgresConnection,
    /// The slot, which the publication shares its name with.
    pub slot: String,
    /// The server as it was at the start.
    pub identity: ServerIdentity,
    /// Whether it is a standby.
    pub is_standby: bool,
    /// Who reads what.
    pub router: Router,
    /// What is durable of what its pipelines have loaded.
    pub progress: Progress,
    /// Pipelines that want to be sent changes.
    pub attach: mpsc::Receiver<Attach>,
    /// Where the stream is wanted to get soon (`--once`).
    pub target: Option<Lsn>,
    /// What others may see.
    pub health: Arc<SourceHealth>,
    /// Asks for a new stream: what the server remembers of this one's tables is out of date.
    pub renew: Arc<Notify>,
    /// Turns true when the pipelines have ended.
    pub shutdown: watch::Receiver<bool>,
    /// Whom to ask about a standby, and up to where it was seen to be one. None on a main server.
    pub vouched: Option<(Standby, Lsn)>,
}

enum Next {
    End,
    Restart,
}

impl SourceTask {
    /// Runs until told to end, or until only a person can help.
    pub async fn run(mut self) -> Result<(), SourceError> {
        let (mut pause, mut gone_from) = (PAUSE_MIN, None);
        loop {
            let Some(from) = self.start().await else { return Ok(()) };
            self.health.enter(StreamState::Connecting);
            let mut read_from = None;
            let started = match self.verify(from, gone_from.take()).await {
                Ok((control, restart_lsn)) => {
                    read_from = restart_lsn;
                    self.open(&control, from).await
                }
                Err(error) => Err(error),
            };
            let outcome = match started {
                Ok(stream) => {
                    tracing::debug!(event = "streaming", connection = %self.connection.name, from = %from, "streaming");
                    self.health.enter(StreamState::Streaming);
                    self.stream(stream, &mut pause).await
                }
                Err(error) => Err(error),
            };
            match outcome {
                Ok(Next::End) => return Ok(()),
                Ok(Next::Restart) => continue,
                Err(error) if !error.is_transient() => return Err(error),
                Err(error) => {
                    gone_from = read_from
                        .filter(|_| matches!(error, SourceError::Stream(StreamError::WalRemoved(_))));
                    self.health.retry(error.code(), error.to_string());
                    tracing::warn!(event = "reconnecting", code = %error.code(), connection = %self.connection.name,
                        pause_ms = pause.as_millis() as u64, "{error}; connecting again");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
                () = ended(&mut self.shutdown) => return Ok(()),
            }
        }
    }

    /// Sees that the server is still the one that the pipelines' positions are of: before every stream, since what is
    /// behind an address may have been replaced while we were away. The server itself starts wherever it is told to. Answers
    /// where it will begin to read WAL. `gone_from` is where it began when it missed some, if it just did: it keeps what the
    /// slot needs now, and reads from where the slot stood when the stream began. So a slot that has gone on since is a good one.
    async fn verify(
        &mut self,
        from: Lsn,
        gone_from: Option<Lsn>,
    ) -> Result<(Session, Option<Lsn>), SourceError> {
        let session = connect(&self.connection, Purpose::Control).await.map_err(StreamError::from)?;
        let now = if self.is_standby {
            let mut standby = Standby::connect(&self.connection).await.map_err(StreamError::from)?;
            let standing = standby.look().await?;
            self.see_standby(&standing)?;
            self.vouched = Some((standby, Lsn::ZERO));
            standing.identity
        } else {
            fetch_server_identity(&session.client).await.map_err(SourceError::Asking)?
        };
        let slot = slot::fetch(&session.client, session.server_version, &self.slot)
            .await
            .map_err(SourceError::Asking)?;
        let Some(slot) = slot else { return Err(self.slot_is_gone()) };
        let is_gone = (gone_from.is_some() && gone_from == slot.restart_lsn).then_some("wal_removed");
        if let Some(reason) = slot.lost.as_deref().or(is_gone) {
            return Err(SourceError::Lost(lost(&self.connection.name, &self.slot, reason).one_line()));
        }
        let confirmed = slot.confirmed_flush_lsn.unwrap_or_default();
        let wrong = if now.system_identifier != self.identity.system_identifier {
            "it is another database cluster".to_owned()
        } else if now.timeline != self.identity.timeline {
            format!(
                "it is on timeline {} now, after {}: a standby was promoted, or a backup restored",
                now.timeline, self.identity.timeline
            )
        } else if confirmed > from {
            ahead(confirmed, from)
        } else if from > now.flush_lsn && self.is_standby {
            return Err(SourceError::Behind(now.flush_lsn, from));
        } else if from > now.flush_lsn {
            format!(
                "its WAL ends at {}, and {from} was loaded from it: it was restored from a backup",
                now.flush_lsn
            )
        } else {
            return Ok((session, slot.restart_lsn));
        };
        Err(SourceError::Replaced(wrong))
    }

    /// Starts the stream, then looks at its slot once more: now that it is held, nobody can make it anew any more, as somebody
    /// may have done since the first look. The server would begin where that slot does, and say nothing.
    async fn open(&self, control: &Session, from: Lsn) -> Result<ReplicationStream, SourceError> {
        let stream = ReplicationStream::start(&self.connection, &self.slot, &self.slot, from).await;
        let stream = stream.map_err(|error| self.failed(error))?;
        let slot = slot::fetch(&control.client, control.server_version, &self.slot).await;
        let confirmed = slot.map_err(SourceError::Asking)?.and_then(|slot| slot.confirmed_flush_lsn);
        match confirmed.filter(|confirmed| *confirmed > from) {
            Some(confirmed) => Err(SourceError::Replaced(ahead(confirmed, from))),
            None => Ok(stream),
        }
    }

    fn slot_is_gone(&self) -> SourceError {
        SourceError::Replaced(format!("replication slot {} is gone", self.slot))
    }

    /// Refuses a standby that isn't one any more, or follows another timeline by now.
    fn see_standby(&self, standing: &Standing) -> Result<(), SourceError> {
        if !standing.is_standby {
            return Err(SourceError::Promoted(self.connection.name.clone()));
        }
        let (now, before) = (standing.identity.timeline, self.identity.timeline);
        if now == before {
            return Ok(());
        }
        Err(SourceError::Replaced(format!(
            "its standby follows timeline {now} now, after {before}: the main server failed over"
        )))
    }

    /// On a standby: sees that everything before `lsn` was replayed there while it was a standby on the timeline that is
    /// known. One answer covers all that had been replayed by then, so a busy stream asks rarely.
    async fn vouch(&mut self, lsn: Lsn) -> Result<(), SourceError> {
        let Some((mut standby, vouched)) = self.vouched.take() else { return Ok(()) };
        if lsn <= vouched {
            self.vouched = Some((standby, vouched));
            return Ok(());
        }
        let standing = standby.look().await?;
        self.see_standby(&standing)?;
        let replayed = standing.identity.flush_lsn;
        if replayed < lsn {
            return Err(SourceError::Behind(replayed, lsn));
        }
        self.vouched = Some((standby, replayed));
        Ok(())
    }

    /// Waits until somebody wants changes, and a little for the others; answers from where. None when it is to end.
    async fn start(&mut self) -> Option<Lsn> {
        let mut gathering = (!self.router.is_idle()).then(Gathering::begin);
        loop {
            if self.router.is_complete() || gathering.as_ref().is_some_and(Gathering::is_over) {
                if let Some(from) = self.router.restart() {
                    return Some(from);
                }
                gathering = None;
            }
            if gathering.is_none() {
                self.health.enter(StreamState::Waiting);
            }
            let until = gathering.as_ref().map(|gathering| gathering.until);
            tokio::select! {
                () = ended(&mut self.shutdown) => return None,
                attach = self.attach.recv() => {
                    self.router.attach(attach?);
                    gathering.get_or_insert_with(Gathering::begin).go_on();
                }
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
            }
        }
    }

    async fn stream(
        &mut self,
        mut stream: ReplicationStream,
        pause: &mut Duration,
    ) -> Result<Next, SourceError> {
        let next = self.follow(&mut stream, pause).await;
        if let Ok(next) = &next {
            self.confirm(&stream);
            let closed = stream.close().await;
            if let (Next::End, Err(error)) = (next, closed) {
                tracing::debug!(event = "stream_not_closed", "{error}");
            }
        }
        next
    }

    async fn follow(
        &mut self,
        stream: &mut ReplicationStream,
        pause: &mut Duration,
    ) -> Result<Next, SourceError> {
        let mut assembler = Assembler::default();
        let mut tick = interval(Duration::from_millis(if self.target.is_some() { 50 } else { 1000 }));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut ticks, mut asked) = (0u32, Asked::default());
        loop {
            let is_between = !assembler.is_open();
            if self.router.is_idle() && is_between {
                // With nobody to read for, a stream would only keep the server from shutting down.
                return Ok(Next::Restart);
            }
            tokio::select! {
                biased;
                () = ended(&mut self.shutdown) => return Ok(Next::End),
                attach = self.attach.recv(), if is_between && !self.router.is_going_back() => match attach {
                    None => return Ok(Next::End),
                    Some(attach) => if self.router.attach(attach) {
                        return Ok(Next::Restart);
                    }
                },
                () = self.renew.notified(), if is_between && !self.router.is_going_back() => {
                    return Ok(Next::Restart);
                }
                () = self.progress.moved() => self.confirm(stream),
                _ = tick.tick() => {
                    ticks = ticks.wrapping_add(1);
                    self.tick(stream, ticks).await;
                }
                frame = stream.next() => {
                    *pause = PAUSE_MIN;
                    let frame = frame.map_err(|error| self.failed(error))?;
                    self.health.hear(&frame);
                    let mut next = Some(frame);
                    for left in (0..FRAMES_AT_ONCE).rev() {
                        let Some(frame) = next else { break };
                        if asked.is_shutdown(&frame) {
                            *pause = PAUSE_MAX / 6;
                            return Err(SourceError::ShuttingDown);
                        }
                        self.health.count(&frame);
                        self.frame(&mut assembler, frame).await?;
                        next = if left == 0 { None } else { stream.ready().map_err(|error| self.failed(error))? };
                    }
                    self.health.route(self.router.boundary());
                }
            }
        }
    }

    /// Versions before 18 end the stream at the first change that a missing publication might be about.
    fn failed(&self, error: StreamError) -> SourceError {
        match error {
            StreamError::SlotMissing(_) => self.slot_is_gone(),
            StreamError::Server(said) if said.routine == "get_publication_oid" => {
                SourceError::NoPublication(self.slot.clone())
            }
            error => error.into(),
        }
    }

    async fn frame(&mut self, assembler: &mut Assembler, frame: Frame) -> Result<(), SourceError> {
        match frame {
            Frame::Data { payload, .. } => {
                failpoint::reach("frame_read");
                let step = assembler.push(&payload)?;
                if let Step::Commit { end_lsn, .. } = step {
                    self.vouch(end_lsn).await?;
                }
                self.router.route(step).await;
            }
            Frame::Keepalive { wal_end, reply_requested, .. } => {
                self.vouch(wal_end).await?;
                self.router.reached(wal_end);
                // A server that shuts down asks again and again until all that it sent is confirmed.
                self.router.advance(reply_requested || self.is_behind_target()).await;
            }
            Frame::Notice { severity, message, routine, .. } if routine == "LoadPublications" => {
                tracing::error!(event = "publication_missing", code = %Code::PublicationGone, "{severity}: {message}");
                return Err(SourceError::NoPublication(self.slot.clone()));
            }
            Frame::Notice { severity, code, message, .. } => {
                tracing::warn!(event = "server_notice", connection = %self.connection.name, severity, code,
                    "the source says: {message}");
            }
        }
        Ok(())
    }

    fn is_behind_target(&self) -> bool {
        let confirmable = self.progress.confirmable();
        self.target.is_some_and(|target| confirmable.is_some_and(|lsn| lsn < target))
    }

    async fn tick(&mut self, stream: &ReplicationStream, ticks: u32) {
        let is_hurried = self.is_behind_target();
        // An idle server says nothing unless it is asked.
        if is_hurried || self.router.is_going_back() || ticks.is_multiple_of(10) {
            stream.feedback().request_reply();
        }
        self.router.advance(is_hurried).await;
        self.confirm(stream);
    }

    fn confirm(&self, stream: &ReplicationStream) {
        let feedback = stream.feedback();
        if let Some(lsn) = self.progress.confirmable() {
            let lsn = lsn.min(feedback.received());
            if lsn > feedback.confirmed() {
                feedback.confirm(lsn);
            }
        }
    }
}

/// How long pipelines are waited for that want to join a stream.
struct Gathering {
    until: Instant,
    end: Instant,
}

impl Gathering {
    fn begin() -> Self {
        let now = Instant::now();
        Gathering { until: now + GATHER_PAUSE, end: now + GATHER_MAX }
    }

    fn go_on(&mut self) {
        self.until = (Instant::now() + GATHER_PAUSE).min(self.end);
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }
}

/// Counts how often the server has asked for an answer since it last sent data. One that shuts down asks again and
/// again, for ever, until everything that it sent is confirmed: what an output that is down doesn't allow.
#[derive(Default)]
struct Asked {
    since: Option<Instant>,
    times: u32,
}

impl Asked {
    fn is_shutdown(&mut self, frame: &Frame) -> bool {
        match frame {
            Frame::Keepalive { reply_requested: true, .. } => {
                self.times += 1;
                let since = *self.since.get_or_insert_with(Instant::now);
                since.elapsed() >= SHUTDOWN_GRACE && self.times >= SHUTDOWN_QUESTIONS
            }
            Frame::Keepalive { .. } | Frame::Notice { .. } => false,
            Frame::Data { .. } => {
                *self = Asked::default();
                false
            }
        }
    }
}

fn ahead(confirmed: Lsn, from: Lsn) -> String {
    format!(
        "its slot starts at {confirmed}, and changes from {from} on are needed: it was made anew or advanced"
    )
}
