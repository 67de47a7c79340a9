//! How far each pipeline of one source is, and what its slot may therefore be told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;

use crate::change::Lsn;

/// One pipeline's word on what it may still need: nothing before this LSN. Only the pipeline moves it, and only
/// forward, and only to what is durable in its output; unless it needs nothing any more but a backfill.
#[derive(Debug, Clone)]
pub struct Floor {
    lsn: Arc<AtomicU64>,
    is_given_up: Arc<AtomicBool>,
    moved: Arc<Notify>,
}

impl Floor {
    /// Moves the floor forward; a lower LSN changes nothing.
    pub fn raise(&self, lsn: Lsn) {
        if self.lsn.fetch_max(lsn.0, Ordering::AcqRel) < lsn.0 {
            self.moved.notify_one();
        }
    }

    /// The pipeline's place is given up: the slot needn't wait for it.
    pub fn give_up(&self) {
        self.is_given_up.store(true, Ordering::Release);
        self.moved.notify_one();
    }

    /// The slot waits for it again. Before a backfill's position is read: whatever the slot was told by then is not
    /// beyond that.
    pub fn hold(&self) {
        self.is_given_up.store(false, Ordering::Release);
    }

    /// Whether its place is given up.
    pub fn is_given_up(&self) -> bool {
        self.is_given_up.load(Ordering::Acquire)
    }

    /// Where it is.
    pub fn lsn(&self) -> Lsn {
        Lsn(self.lsn.load(Ordering::Acquire))
    }
}

/// The floors of all pipelines that read from one slot.
#[derive(Debug, Default)]
pub struct Progress {
    floors: Vec<Floor>,
    moved: Arc<Notify>,
}

impl Progress {
    /// Adds a pipeline that needs everything from `lsn` on.
    pub fn add(&mut self, lsn: Lsn) -> Floor {
        let (lsn, is_given_up) = (Arc::new(AtomicU64::new(lsn.0)), Arc::default());
        let floor = Floor { lsn, is_given_up, moved: self.moved.clone() };
        self.floors.push(floor.clone());
        floor
    }

    /// What the slot may be told: the least floor, failed and waiting pipelines included. None if no pipeline has a
    /// place in the stream.
    pub fn confirmable(&self) -> Option<Lsn> {
        self.floors.iter().filter(|floor| !floor.is_given_up()).map(Floor::lsn).min()
    }

    /// Returns once some floor has moved since the last call.
    pub async fn moved(&self) {
        self.moved.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slot_is_told_only_what_is_durable_of_every_pipeline() {
        let mut progress = Progress::default();
        assert_eq!(progress.confirmable(), None);
        let (a, b) = (progress.add(Lsn(10)), progress.add(Lsn(20)));
        assert_eq!(progress.confirmable(), Some(Lsn(10)));
        a.raise(Lsn(30));
        assert_eq!(progress.confirmable(), Some(Lsn(20)));
        b.raise(Lsn(25));
        assert_eq!(progress.confirmable(), Some(Lsn(25)));
        b.give_up();
        assert_eq!(progress.confirmable(), Some(Lsn(30)), "nobody waits for one whose place is given up");
        b.hold();
        assert_eq!(progress.confirmable(), Some(Lsn(25)));
    }

    #[test]
    fn a_floor_never_goes_back() {
        let floor = Progress::default().add(Lsn(10));
        floor.raise(Lsn(5));
        assert_eq!(floor.lsn(), Lsn(10));
    }
}
