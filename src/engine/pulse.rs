//! Whether every task of a run still turns. Each beats once a second, on the task itself: one that waits for a server,
//! however long, beats on; one that spins or blocks its thread does not. Says nothing of whether there is progress: that
//! is what lag is for.

use std::time::{Duration, Instant};

use crate::pipeline::beat::Beat;

/// Longer than any honest task keeps its thread.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// The beats of all tasks.
#[derive(Debug)]
pub struct Pulses {
    begun: Instant,
    beats: Vec<Beat>,
}

impl Default for Pulses {
    /// Of no task yet.
    fn default() -> Self {
        Pulses { begun: Instant::now(), beats: Vec::new() }
    }
}

impl Pulses {
    /// For a task that hasn't begun yet, and may never.
    pub fn beat(&mut self) -> Beat {
        let beat = Beat::at_rest(self.begun);
        self.beats.push(beat.clone());
        beat
    }

    /// The task, beating; it is missed from now on.
    pub fn beating<F: Future>(&mut self, task: F) -> impl Future<Output = F::Output> + use<F> {
        let beat = self.beat();
        beat.beat();
        beat.during(task)
    }

    /// Whether none of them has been silent for too long.
    pub fn all_turn(&self) -> bool {
        let now = self.begun.elapsed();
        self.beats.iter().filter_map(Beat::last).all(|last| now.saturating_sub(last) < SILENCE_MAX)
    }
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
        let _ = pulses.beat();
        later(&mut pulses, 2 * SILENCE_MAX);
        assert!(pulses.all_turn(), "one has ended, the other hasn't begun");
        let waiting = pulses.beating(std::future::pending::<()>());
        assert!(pulses.all_turn(), "it has only begun");
        later(&mut pulses, 2 * SILENCE_MAX);
        assert!(!pulses.all_turn(), "nobody has polled it for a minute");
        drop(waiting);
    }
}
