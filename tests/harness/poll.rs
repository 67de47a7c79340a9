//! The only place where tests wait: for a condition, with a deadline.

use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(40);

const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// Whether the condition comes true before the deadline. Asked less often the longer that takes: asking takes time from those who
/// are waited for, and other tests.
pub fn eventually(deadline: Duration, condition: impl FnMut() -> bool) -> bool {
    poll(deadline, condition, |waited| (waited / 10).clamp(PAUSE, PAUSE_MAX))
}

/// Whether the condition is true throughout the time: for things that must not happen.
pub fn holds_for(time: Duration, mut condition: impl FnMut() -> bool) -> bool {
    !poll(time, || !condition(), |_| PAUSE)
}

fn poll(
    deadline: Duration,
    mut condition: impl FnMut() -> bool,
    pause: impl Fn(Duration) -> Duration,
) -> bool {
    let started = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if started.elapsed() > deadline {
            return false;
        }
        thread::sleep(pause(started.elapsed()));
    }
}
