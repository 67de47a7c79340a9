//! The only place where tests wait: for a condition, with a deadline.

use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(40);

const PAUSE: Duration = Duration::from_millis(20);

/// Whether the condition comes true before the deadline.
pub fn eventually(deadline: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + deadline;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        thread::sleep(PAUSE);
    }
}

/// Whether the condition is true throughout the time: for things that must not happen.
pub fn holds_for(time: Duration, mut condition: impl FnMut() -> bool) -> bool {
    !eventually(time, || !condition())
}
