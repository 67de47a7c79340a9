//! Which commits of the source a pipeline has taken and not loaded: what its lag in seconds is measured by. Touched
//! once per batch; decides nothing.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::change::Lsn;
use crate::checkpoint::is_loaded;

/// The first transaction of each batch that is under way, in the order of commits.
#[derive(Debug, Default)]
pub struct Pending {
    /// Start of the commit record, and the commit's time in microseconds since 2000-01-01 by the source's clock.
    batches: Mutex<VecDeque<(Lsn, i64)>>,
}

impl Pending {
    fn batches(&self) -> MutexGuard<'_, VecDeque<(Lsn, i64)>> {
        // What a panic left behind is only shown.
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A batch begins with the transaction that committed there and then. One that is known, as it is when a stream
    /// starts again, stays as it is.
    pub fn take(&self, commit_lsn: Lsn, commit_time: i64) {
        let mut batches = self.batches();
        if batches.back().is_none_or(|(last, _)| *last < commit_lsn) {
            batches.push_back((commit_lsn, commit_time));
        }
    }

    /// Everything that commits before this is loaded.
    pub fn loaded(&self, loaded_lsn: Lsn) {
        let mut batches = self.batches();
        while batches.front().is_some_and(|(commit_lsn, _)| is_loaded(*commit_lsn, loaded_lsn)) {
            batches.pop_front();
        }
    }

    /// When the oldest commit that is taken and not loaded happened; None if all are.
    pub fn oldest(&self) -> Option<i64> {
        self.batches().front().map(|(_, commit_time)| *commit_time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_commit_stays_until_it_is_loaded_even_if_it_comes_again() {
        let pending = Pending::default();
        assert_eq!(pending.oldest(), None);
        pending.take(Lsn(10), 100);
        pending.take(Lsn(30), 300);
        pending.loaded(Lsn(10));
        assert_eq!(pending.oldest(), Some(100), "what commits at the loaded LSN is not loaded");
        pending.take(Lsn(10), 100);
        pending.loaded(Lsn(20));
        assert_eq!(pending.oldest(), Some(300));
        pending.loaded(Lsn(40));
        assert_eq!(pending.oldest(), None);
    }
}
