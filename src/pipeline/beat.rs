//! A sign that a task still turns, whatever it waits for: it beats once a second, on the task itself. Judges nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(1);
/// In place of a time: nothing turns, and no beats are owed.
const AT_REST: u64 = u64::MAX;

/// The last beat of a task, for whoever watches it.
#[derive(Debug, Clone)]
pub struct Beat {
    begun: Instant,
    /// In milliseconds since `begun`.
    at: Arc<AtomicU64>,
}

impl Beat {
    /// Of a task that hasn't begun; told in time since `begun`.
    pub fn at_rest(begun: Instant) -> Self {
        Beat { begun, at: Arc::new(AtomicU64::new(AT_REST)) }
    }

    /// Beats now.
    pub fn beat(&self) {
        self.at.store(self.begun.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// When it last beat, since `begun`; None for one at rest.
    pub fn last(&self) -> Option<Duration> {
        Some(self.at.load(Ordering::Relaxed)).filter(|at| *at != AT_REST).map(Duration::from_millis)
    }

    /// The task, beating until it has ended or is dropped.
    pub async fn during<F: Future>(self, task: F) -> F::Output {
        let rests = Rests(&self);
        let mut task = std::pin::pin!(task);
        let mut tick = tokio::time::interval(INTERVAL);
        loop {
            tokio::select! {
                outcome = &mut task => return outcome,
                _ = tick.tick() => rests.0.beat(),
            }
        }
    }
}

/// Has the beat rest when it is dropped.
struct Rests<'a>(&'a Beat);

impl Drop for Rests<'_> {
    fn drop(&mut self) {
        self.0.at.store(AT_REST, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_waits_beats_until_it_is_dropped() {
        let beat = Beat::at_rest(Instant::now());
        assert_eq!(beat.last(), None);
        let waiting = tokio::spawn(beat.clone().during(std::future::pending::<()>()));
        let deadline = Instant::now() + 10 * INTERVAL;
        // The first beat comes at once: only one that is neither that nor none is another.
        while beat.last().is_none_or(|last| last < INTERVAL / 2) && Instant::now() < deadline {
            tokio::task::yield_now().await;
        }
        assert!(beat.last().is_some_and(|last| last >= INTERVAL / 2));
        waiting.abort();
        assert!(waiting.await.is_err());
        assert_eq!(beat.last(), None);
    }
}
