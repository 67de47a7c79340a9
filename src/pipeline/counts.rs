//! What a pipeline has done since the process began, in numbers that anybody may read while it goes on. Written with
//! atomics from the data path and never read there: nothing depends on them. What they are called outside is
//! decided above.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::queue::Entry;
use crate::change::Operation;

/// Upper bounds of the buckets that durations are sorted into; one more bucket has no bound.
pub const DURATION_BOUNDS: [Duration; 8] = [
    Duration::from_millis(5),
    Duration::from_millis(25),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_millis(2500),
    Duration::from_secs(10),
    Duration::from_secs(60),
    Duration::from_secs(300),
];

/// What a batch came to, gathered on its way through the pipeline and counted once it is committed.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    /// Changes: inserts, updates, deletes, truncates.
    pub changes: [u64; 4],
    /// Rows that the SQL returned.
    pub rows: u64,
    /// Time in the SQL on the source.
    pub sql: Duration,
}

impl Tally {
    /// Counts what came in.
    pub fn add(&mut self, entry: &Entry) {
        let kind = match entry {
            Entry::Change(change) => match change.operation {
                Operation::Insert => 0,
                Operation::Update => 1,
                Operation::Delete => 2,
            },
            Entry::Truncate(_) => 3,
        };
        self.changes[kind] += 1;
    }

    fn is_empty(&self) -> bool {
        self.changes == [0; 4]
    }
}

/// A pipeline's numbers.
#[derive(Debug, Default)]
pub struct Counts {
    changes: [AtomicU64; 4],
    rows: AtomicU64,
    batches: AtomicU64,
    retries: AtomicU64,
    failures: AtomicU64,
    skipped: AtomicU64,
    dead_letters: AtomicU64,
    sql: Durations,
    write: Durations,
    commit: Durations,
    backfill_rows: AtomicU64,
    backfill_estimate: AtomicU64,
}

impl Counts {
    /// A batch is committed. A mere position, without changes, is none.
    pub fn loaded(&self, tally: &Tally, write: Duration, commit: Duration) {
        if tally.is_empty() {
            return;
        }
        for (total, count) in self.changes.iter().zip(tally.changes) {
            total.fetch_add(count, Ordering::Relaxed);
        }
        self.rows.fetch_add(tally.rows, Ordering::Relaxed);
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.sql.add(tally.sql);
        self.write.add(write);
        self.commit.add(commit);
    }

    /// It starts anew after an error that may pass.
    pub fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// It stopped for good.
    pub fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Changes were passed over because somebody said so.
    pub fn skipped(&self, changes: u64) {
        self.skipped.fetch_add(changes, Ordering::Relaxed);
    }

    /// Changes were put aside where they can be looked at.
    pub fn put_aside(&self, changes: u64) {
        self.dead_letters.fetch_add(changes, Ordering::Relaxed);
    }

    /// A backfill begins, and the source expects that many rows.
    pub fn begin_backfill(&self, estimate: u64) {
        self.backfill_rows.store(0, Ordering::Relaxed);
        self.backfill_estimate.store(estimate, Ordering::Relaxed);
    }

    /// Its next row was copied.
    pub fn backfilled(&self) {
        self.backfill_rows.fetch_add(1, Ordering::Relaxed);
    }

    /// All of them now. Each number is right; together they may be of different instants.
    pub fn read(&self) -> Counted {
        let get = |number: &AtomicU64| number.load(Ordering::Relaxed);
        Counted {
            changes: self.changes.each_ref().map(get),
            rows: get(&self.rows),
            batches: get(&self.batches),
            retries: get(&self.retries),
            failures: get(&self.failures),
            skipped: get(&self.skipped),
            dead_letters: get(&self.dead_letters),
            stages: [&self.sql, &self.write, &self.commit].map(Durations::read),
            backfill_rows: get(&self.backfill_rows),
            backfill_estimate: get(&self.backfill_estimate),
        }
    }
}

/// A pipeline's numbers at one time.
#[derive(Debug, Clone, Default)]
pub struct Counted {
    /// Changes loaded: inserts, updates, deletes, truncates.
    pub changes: [u64; 4],
    /// Rows that the SQL returned for them.
    pub rows: u64,
    /// Commits in the output that had changes.
    pub batches: u64,
    /// New starts after errors that may pass.
    pub retries: u64,
    /// Stops that need a person.
    pub failures: u64,
    /// Changes passed over.
    pub skipped: u64,
    /// Changes put aside.
    pub dead_letters: u64,
    /// How long batches took: SQL on the source, writes, commit.
    pub stages: [Timings; 3],
    /// Rows that the backfill has copied.
    pub backfill_rows: u64,
    /// Rows that the source's planner expects of it; 0 if it said nothing.
    pub backfill_estimate: u64,
}

/// Durations, sorted into buckets.
#[derive(Debug, Default)]
struct Durations {
    buckets: [AtomicU64; DURATION_BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

impl Durations {
    fn add(&self, duration: Duration) {
        let bucket = DURATION_BOUNDS.iter().position(|bound| duration <= *bound);
        self.buckets[bucket.unwrap_or(DURATION_BOUNDS.len())].fetch_add(1, Ordering::Relaxed);
        self.nanoseconds.fetch_add(duration.as_nanos() as u64, Ordering::Relaxed);
    }

    fn read(&self) -> Timings {
        Timings {
            buckets: self.buckets.each_ref().map(|bucket| bucket.load(Ordering::Relaxed)),
            sum: Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed)),
        }
    }
}

/// How many durations fell into each bucket (not cumulative), and their sum.
#[derive(Debug, Clone, Default)]
pub struct Timings {
    /// By [`DURATION_BOUNDS`], and the rest.
    pub buckets: [u64; DURATION_BOUNDS.len() + 1],
    /// All together.
    pub sum: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_counts_once_it_is_committed_and_a_mere_position_never() {
        let counts = Counts::default();
        counts.loaded(&Tally::default(), Duration::ZERO, Duration::ZERO);
        assert_eq!(counts.read().batches, 0);
        let tally = Tally { changes: [3, 2, 1, 0], rows: 7, sql: Duration::from_millis(30) };
        counts.loaded(&tally, Duration::from_millis(5), Duration::from_secs(301));
        let counted = counts.read();
        assert_eq!((counted.changes, counted.rows, counted.batches), ([3, 2, 1, 0], 7, 1));
        let buckets = |stage: usize| counted.stages[stage].buckets.iter().position(|count| *count == 1);
        assert_eq!([buckets(0), buckets(1), buckets(2)], [Some(2), Some(0), Some(8)]);
        assert_eq!(counted.stages[2].sum, Duration::from_secs(301));
    }
}
