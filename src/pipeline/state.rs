//! What others may see of a pipeline while it runs: its phase and its last trouble. How far it is, its floor
//! says.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

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
    batch_end: AtomicU64,
}

impl Default for State {
    fn default() -> Self {
        State { phase: Mutex::new((Phase::Connecting, None)), batch_end: AtomicU64::new(0) }
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

    pub(super) fn reading(&self, batch_end: Lsn) {
        self.batch_end.store(batch_end.0, Ordering::Relaxed);
    }

    pub(super) fn batch_end(&self) -> Lsn {
        Lsn(self.batch_end.load(Ordering::Relaxed))
    }
}
