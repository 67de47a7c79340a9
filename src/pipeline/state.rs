//! What others may see of a pipeline while it runs: its phase, its last trouble, its numbers, how far it is. What of that is
//! durable, its floor says.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::counts::Counts;
use super::error::PipelineError;
use super::pending::Pending;
use crate::change::Lsn;
use crate::codes::Code;

/// Where a pipeline is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It is reaching for its databases.
    Connecting,
    /// It copies what is there.
    Backfill,
    /// It follows the stream.
    Follow,
    /// Something failed that may pass.
    Retrying,
    /// Something failed that a person must mend.
    Failed,
}

/// What went wrong last.
#[derive(Debug, Clone)]
pub struct Trouble {
    /// When.
    pub at: SystemTime,
    /// Which kind of problem.
    pub code: Code,
    /// What, where, and the server's words.
    pub message: String,
    /// What to do about it, where that is known.
    pub fix: Option<String>,
}

/// The pipeline writes, anybody reads.
#[derive(Debug)]
pub struct State {
    life: Mutex<Life>,
    loaded: AtomicU64,
    batch_through: AtomicU64,
    batch_xid: AtomicU32,
    /// What it has done.
    pub counts: Counts,
    /// What it has taken and not done.
    pub pending: Pending,
}

#[derive(Debug)]
struct Life {
    phase: Phase,
    since: SystemTime,
    trouble: Option<Trouble>,
    /// Since when it has been trying in vain: nothing was loaded since.
    stumbling_since: Option<SystemTime>,
    backfill: Option<(SystemTime, Option<SystemTime>)>,
}

/// A pipeline's life as it is to be shown.
#[derive(Debug, Clone)]
pub struct Shown {
    /// `Retrying` until something got through, however often it connects meanwhile.
    pub phase: Phase,
    /// Since when.
    pub since: SystemTime,
    /// The last trouble, also when it has passed.
    pub trouble: Option<Trouble>,
    /// When this process began a backfill, and when that ended.
    pub backfill: Option<(SystemTime, Option<SystemTime>)>,
}

impl Default for State {
    fn default() -> Self {
        let life = Life {
            phase: Phase::Connecting,
            since: SystemTime::now(),
            trouble: None,
            stumbling_since: None,
            backfill: None,
        };
        State {
            life: Mutex::new(life),
            loaded: AtomicU64::new(0),
            batch_through: AtomicU64::new(0),
            batch_xid: AtomicU32::new(0),
            counts: Counts::default(),
            pending: Pending::default(),
        }
    }
}

impl State {
    fn life(&self) -> MutexGuard<'_, Life> {
        // A lock that a panic left behind holds a value that is as good as any.
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The phase.
    pub fn phase(&self) -> Phase {
        self.life().phase
    }

    /// Whether it follows the stream.
    pub fn is_following(&self) -> bool {
        self.phase() == Phase::Follow
    }

    /// Its life, for eyes.
    pub fn shown(&self) -> Shown {
        let life = self.life();
        let is_waiting = self.pending.oldest().is_some();
        let (phase, since) = match (life.phase, life.stumbling_since) {
            (Phase::Connecting | Phase::Retrying, Some(since)) => (Phase::Retrying, since),
            (Phase::Follow, Some(since)) if is_waiting => (Phase::Retrying, since),
            (phase, _) => (phase, life.since),
        };
        Shown { phase, since, trouble: life.trouble.clone(), backfill: life.backfill }
    }

    pub(super) fn enter(&self, phase: Phase) {
        let mut life = self.life();
        let now = SystemTime::now();
        match (phase, life.backfill) {
            (Phase::Backfill, _) => life.backfill = Some((now, None)),
            (Phase::Follow, Some((began, None))) => life.backfill = Some((began, Some(now))),
            _ => {}
        }
        (life.phase, life.since) = (phase, now);
    }

    pub(super) fn retry(&self, error: &PipelineError) {
        self.counts.retried();
        let now = self.trouble(Phase::Retrying, error);
        self.life().stumbling_since.get_or_insert(now);
    }

    pub(super) fn fail(&self, error: &PipelineError) {
        self.counts.failed();
        self.trouble(Phase::Failed, error);
    }

    fn trouble(&self, phase: Phase, error: &PipelineError) -> SystemTime {
        let now = SystemTime::now();
        let trouble = Trouble { at: now, code: error.code(), message: error.to_string(), fix: error.fix() };
        let mut life = self.life();
        (life.phase, life.since, life.trouble) = (phase, now, Some(trouble));
        now
    }

    /// Everything that commits before this is in the output, as its checkpoint says; a crash of the output can set it back.
    pub fn begin_at(&self, loaded_lsn: Lsn) {
        self.loaded.store(loaded_lsn.0, Ordering::Relaxed);
        self.pending.loaded(loaded_lsn);
    }

    /// Likewise, and something got through.
    pub(super) fn loaded(&self, loaded_lsn: Lsn) {
        self.begin_at(loaded_lsn);
        self.life().stumbling_since = None;
    }

    /// Up to where it is loaded.
    pub fn loaded_lsn(&self) -> Lsn {
        Lsn(self.loaded.load(Ordering::Relaxed))
    }

    /// The last transaction of the batch that is under way, by its commit LSN and id.
    pub(super) fn reading(&self, batch_through: Lsn, xid: u32) {
        self.batch_through.store(batch_through.0, Ordering::Relaxed);
        self.batch_xid.store(xid, Ordering::Relaxed);
    }

    pub(super) fn batch_xid(&self) -> u32 {
        self.batch_xid.load(Ordering::Relaxed)
    }

    pub(super) fn batch_through(&self) -> Lsn {
        Lsn(self.batch_through.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipeline_that_tries_in_vain_is_retrying_until_something_got_through() {
        let state = State::default();
        state.enter(Phase::Follow);
        assert_eq!(state.shown().phase, Phase::Follow);
        state.pending.take(Lsn(10), 0);
        state.retry(&PipelineError::StreamBroke);
        let since = state.shown().since;
        for phase in [Phase::Connecting, Phase::Follow] {
            state.enter(phase);
            assert_eq!((state.shown().phase, state.shown().since), (Phase::Retrying, since));
        }
        state.loaded(Lsn(20));
        assert_eq!(state.shown().phase, Phase::Follow);
        assert!(state.shown().trouble.is_some(), "what it was can still be seen");
        assert_eq!(state.counts.read().retries, 1);
    }
}
