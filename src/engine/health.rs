//! What others may see of a source while it runs: its stream, what came over it, its slot. Written by the source's
//! task and its guard, read by whoever tells of it; decides nothing.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::change::Lsn;
use crate::codes::Code;
use crate::pipeline::state::Trouble;
use crate::source::slot::Retention;
use crate::source::stream::Frame;

/// Seconds from 1970 to 2000, where Postgres begins to count.
const EPOCH_2000: Duration = Duration::from_secs(946_684_800);
/// A server that says nothing for so long, though it was asked every 10 s, isn't known to have sent everything.
const SILENCE_MAX: Duration = Duration::from_secs(25);
/// So long after the WAL ended somewhere, the server has to have told us that it read to there.
const ANSWER_MAX: Duration = Duration::from_secs(12);
/// Earlier ends of the WAL that are kept: with one every 10 s, one of them is as old as that.
const LOOKS: usize = 4;

/// What a source's stream is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamState {
    /// It is being opened.
    Connecting,
    /// It is open.
    Streaming,
    /// No pipeline wants changes.
    Waiting,
    /// It broke, and is opened anew.
    Retrying,
    /// Only a person can help.
    Failed,
}

/// See the module.
#[derive(Debug)]
pub struct SourceHealth {
    began: Instant,
    stream: Mutex<Stream>,
    reconnects: AtomicU64,
    received_bytes: AtomicU64,
    /// Milliseconds from `began` to the last frame, plus one; 0 before the first.
    heard: AtomicU64,
    /// Microseconds that the server's clock is ahead of ours: the most that a frame of this stream showed, since a frame
    /// that was long on its way shows less. `i64::MIN` before the first.
    clock_ahead: AtomicI64,
    /// Everything that commits before this has been routed.
    boundary: AtomicU64,
    slot: Mutex<SlotLooks>,
}

#[derive(Debug, Clone)]
struct Stream {
    state: StreamState,
    since: SystemTime,
    trouble: Option<Trouble>,
}

#[derive(Debug, Default)]
struct SlotLooks {
    /// When, and where the WAL ended.
    ends: VecDeque<(Instant, Lsn)>,
    /// None if there is no slot.
    last: Option<Retention>,
}

/// A source at one time.
#[derive(Debug, Clone)]
pub struct Seen {
    /// What its stream is at.
    pub state: StreamState,
    /// Since when.
    pub since: SystemTime,
    /// The last trouble, also when it has passed.
    pub trouble: Option<Trouble>,
    /// Times that the stream was opened anew after an error.
    pub reconnects: u64,
    /// Bytes of the stream's messages.
    pub received_bytes: u64,
    /// Since the server last said anything.
    pub silence: Option<Duration>,
    /// Where its WAL ended, as far as is known.
    pub wal_lsn: Lsn,
    /// When the slot was looked at, and what was found; the inner None if there is no slot.
    pub slot: Option<(Duration, Option<Retention>)>,
    /// Everything that was committed until shortly before has been routed.
    pub is_current: bool,
}

impl Default for SourceHealth {
    fn default() -> Self {
        let stream = Stream { state: StreamState::Connecting, since: SystemTime::now(), trouble: None };
        SourceHealth {
            began: Instant::now(),
            stream: Mutex::new(stream),
            reconnects: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            clock_ahead: AtomicI64::new(i64::MIN),
            boundary: AtomicU64::new(0),
            slot: Mutex::default(),
        }
    }
}

impl SourceHealth {
    fn stream(&self) -> MutexGuard<'_, Stream> {
        // What a panic left behind is only shown.
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self) -> MutexGuard<'_, SlotLooks> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its stream is at something else. One that is opened anew after an error is `Retrying` until it is open; one that
    /// failed stays so.
    pub fn enter(&self, state: StreamState) {
        let mut stream = self.stream();
        let is_retry = stream.state == StreamState::Retrying && state == StreamState::Connecting;
        let has_failed = stream.state == StreamState::Failed;
        if state == StreamState::Streaming {
            self.clock_ahead.store(i64::MIN, Ordering::Relaxed);
        }
        if stream.state != state && !is_retry && !has_failed {
            (stream.state, stream.since) = (state, SystemTime::now());
        }
    }

    /// Its stream broke.
    pub fn retry(&self, code: Code, message: String) {
        self.reconnects.fetch_add(1, Ordering::Relaxed);
        self.enter(StreamState::Retrying);
        self.stream().trouble = Some(Trouble { at: SystemTime::now(), code, message, fix: None });
    }

    /// It can't go on.
    pub fn fail(&self, code: Code, message: String) {
        self.enter(StreamState::Failed);
        self.stream().trouble = Some(Trouble { at: SystemTime::now(), code, message, fix: None });
    }

    /// The first of the frames that were read together came: what was waited for, and so what tells the time.
    pub fn hear(&self, frame: &Frame) {
        self.heard.store(self.began.elapsed().as_millis() as u64 + 1, Ordering::Relaxed);
        if let Frame::Data { sent_at, .. } | Frame::Keepalive { sent_at, .. } = frame {
            self.clock_ahead.fetch_max(sent_at.saturating_sub(now_since_2000()), Ordering::Relaxed);
        }
    }

    /// A frame came.
    pub fn count(&self, frame: &Frame) {
        if let Frame::Data { payload, .. } = frame {
            self.received_bytes.fetch_add(payload.len() as u64, Ordering::Relaxed);
        }
    }

    /// Everything that commits before this has been routed.
    pub fn route(&self, boundary: Lsn) {
        self.boundary.store(boundary.0, Ordering::Relaxed);
    }

    /// The slot was looked at when the WAL ended there.
    pub fn look(&self, wal_lsn: Lsn, retention: Option<Retention>) {
        let mut slot = self.slot();
        slot.last = retention;
        slot.ends.push_back((Instant::now(), wal_lsn));
        if slot.ends.len() > LOOKS {
            slot.ends.pop_front();
        }
    }

    /// How old a commit of that time is, by the server's own clock; never negative.
    pub fn age(&self, commit_time: i64) -> Duration {
        let ahead = Some(self.clock_ahead.load(Ordering::Relaxed)).filter(|ahead| *ahead != i64::MIN);
        let server_now = now_since_2000().saturating_add(ahead.unwrap_or(0));
        Duration::from_micros(server_now.saturating_sub(commit_time).max(0) as u64)
    }

    /// How it stands.
    pub fn see(&self) -> Seen {
        let Stream { state, since, trouble } = self.stream().clone();
        let slot = self.slot();
        let heard = self.heard.load(Ordering::Relaxed).checked_sub(1).map(Duration::from_millis);
        let silence = heard.map(|heard| self.began.elapsed().saturating_sub(heard));
        let boundary = Lsn(self.boundary.load(Ordering::Relaxed));
        let is_open = state == StreamState::Streaming && silence.is_some_and(|s| s < SILENCE_MAX);
        let mut settled = slot.ends.iter().rev();
        let settled = settled.find(|(at, _)| at.elapsed() >= ANSWER_MAX).or(slot.ends.front());
        Seen {
            state,
            since,
            trouble,
            reconnects: self.reconnects.load(Ordering::Relaxed),
            received_bytes: self.received_bytes.load(Ordering::Relaxed),
            silence,
            wal_lsn: slot.ends.back().map_or(boundary, |(_, lsn)| boundary.max(*lsn)),
            slot: slot.ends.back().map(|(at, _)| (at.elapsed(), slot.last.clone())),
            is_current: is_open && settled.is_some_and(|(_, lsn)| boundary >= *lsn),
        }
    }
}

fn now_since_2000() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since_1970.as_micros() as i64 - EPOCH_2000.as_micros() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keepalive(sent_at: i64) -> Frame {
        Frame::Keepalive { wal_end: Lsn(1), sent_at, reply_requested: false }
    }

    #[test]
    fn a_source_is_current_once_it_was_read_to_where_its_wal_ended() {
        let health = SourceHealth::default();
        health.enter(StreamState::Streaming);
        assert!(!health.see().is_current, "nothing is known yet");
        health.hear(&keepalive(now_since_2000()));
        health.look(Lsn(100), None);
        assert!(!health.see().is_current);
        health.route(Lsn(100));
        assert!(health.see().is_current);
        health.look(Lsn(200), None);
        assert!(health.see().is_current, "what was written a moment ago may be on its way");
        health.retry(Code::StreamBroke, "broke".to_owned());
        assert!(!health.see().is_current);
        health.enter(StreamState::Connecting);
        assert_eq!(health.see().state, StreamState::Retrying);
        assert_eq!(health.see().wal_lsn, Lsn(200));
    }

    #[test]
    fn commits_age_by_the_servers_clock_and_are_never_of_the_future() {
        let health = SourceHealth::default();
        let hour = 3_600_000_000;
        health.hear(&keepalive(now_since_2000() + hour));
        let age = health.age(now_since_2000() + hour - 5_000_000).as_secs_f64();
        assert!((4.9..6.0).contains(&age), "{age}");
        assert_eq!(health.age(now_since_2000() + 2 * hour), Duration::ZERO);
    }
}
