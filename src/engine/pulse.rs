//! Whether every task of a run still turns. Each beats once a second, on the task itself: one that waits for a server,
//! however long, beats on; one that spins or blocks its thread does not. Says nothing of whether there is progress: that
//! is what lag is for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(1);
/// Longer than any honest task keeps its thread.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// In place of a time: the task has ended, and owes no more beats.
const ENDED: u64 = u64::MAX;

/// The beats of all tasks, in milliseconds since `begun`.
#[derive(Debug)]
pub struct Pulses {
    begun: Instant,
    beats: Vec<Arc<AtomicU64>>,
}

impl Default for Pulses {
    /// Of no task yet.
    fn default() -> Self {
        Pulses { begun: Instant::now(), beats: Vec::new() }
    }
}

impl Pulses {
    /// The task, beating.
    pub fn beating<F: Future>(&mut self, task: F) -> impl Future<Output = F::Output> + use<F> {
        let begun = self.begun;
        let beat = Arc::new(AtomicU64::new(milliseconds(begun)));
        self.beats.push(beat.clone());
        async move {
            let mut task = std::pin::pin!(task);
            let mut tick = tokio::time::interval(INTERVAL);
            loop {
                tokio::select! {
                    outcome = &mut task => {
                        beat.store(ENDED, Ordering::Relaxed);
                        return outcome;
                    }
                    _ = tick.tick() => beat.store(milliseconds(begun), Ordering::Relaxed),
                }
            }
        }
    }

    /// Whether none of them has been silent for too long.
    pub fn all_turn(&self) -> bool {
        let now = milliseconds(self.begun);
        let silence_max = SILENCE_MAX.as_millis() as u64;
        self.beats.iter().all(|beat| now.saturating_sub(beat.load(Ordering::Relaxed)) < silence_max)
    }
}

fn milliseconds(since: Instant) -> u64 {
    since.elapsed().as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As if so much time had passed.
    fn later(pulses: &mut Pulses, time: Duration) {
        pulses.begun = pulses.begun.checked_sub(time).unwrap();
    }

    #[tokio::test]
    async fn a_task_turns_while_it_is_polled_and_is_not_missed_once_it_has_ended() {
        let mut pulses = Pulses::default();
        pulses.beating(async {}).await;
        later(&mut pulses, 2 * SILENCE_MAX);
        assert!(pulses.all_turn(), "it has ended");
        let waiting = pulses.beating(std::future::pending::<()>());
        assert!(pulses.all_turn(), "it has only begun");
        later(&mut pulses, 2 * SILENCE_MAX);
        assert!(!pulses.all_turn(), "nobody has polled it for a minute");
        drop(waiting);
    }

    #[tokio::test]
    async fn a_task_that_waits_beats() {
        let mut pulses = Pulses::default();
        let waiting = tokio::spawn(pulses.beating(std::future::pending::<()>()));
        pulses.beats[0].store(0, Ordering::Relaxed);
        let deadline = Instant::now() + 10 * INTERVAL;
        while pulses.beats[0].load(Ordering::Relaxed) == 0 && Instant::now() < deadline {
            tokio::task::yield_now().await;
        }
        assert!(pulses.beats[0].load(Ordering::Relaxed) > 0);
        waiting.abort();
    }
}
