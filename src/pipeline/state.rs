//! What others may see of a pipeline while it runs: its phase and its last trouble. How far it is, its floor
//! says.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::change::Lsn;

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

/// The pipeline writes, anybody reads.
#[derive(Debug)]
pub struct State {
    phase: Mutex<(Phase, Option<String>)>,
    batch_through: AtomicU64,
    batch_xid: AtomicU32,
    dead_letters: AtomicU64,
}

impl Default for State {
    fn default() -> Self {
        State {
            phase: Mutex::new((Phase::Connecting, None)),
            batch_through: AtomicU64::new(0),
            batch_xid: AtomicU32::new(0),
            dead_letters: AtomicU64::new(0),
        }
    }
}

impl State {
    fn set(&self, phase: Phase, trouble: Option<String>) {
        // A lock that a panic left behind holds a value that is as good as any.
        *self.phase.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = (phase, trouble);
    }

    /// The phase, and the last trouble.
    pub fn phase(&self) -> (Phase, Option<String>) {
        self.phase.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Whether it follows the stream.
    pub fn is_following(&self) -> bool {
        self.phase().0 == Phase::Follow
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.set(phase, None);
    }

    pub(super) fn retry(&self, trouble: &str) {
        self.set(Phase::Retrying, Some(trouble.to_owned()));
    }

    pub(super) fn fail(&self, trouble: &str) {
        self.set(Phase::Failed, Some(trouble.to_owned()));
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

    pub(super) fn count_dead_letters(&self, count: u64) {
        self.dead_letters.fetch_add(count, Ordering::Relaxed);
    }

    /// Changes that this process has recorded in `trucker.dead_letters`.
    pub fn dead_letters(&self) -> u64 {
        self.dead_letters.load(Ordering::Relaxed)
    }
}
