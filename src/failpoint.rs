//! Places where a test can have this process die, so that each row of the table in ARCHITECTURE.md ("If the process dies
//! …") is a test of its own. `TRUCKER_FAILPOINT=name:count` kills it, as SIGABRT does, when it comes to that place for
//! the count-th time. Nothing of this is in a release build. (Our own, since all that the crates for this do besides is
//! more than is wanted: a death is the only thing that can't be had from outside.)

/// Dies here if the environment says so.
#[cfg(debug_assertions)]
pub fn reach(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static WANTED: OnceLock<Option<(String, AtomicU64)>> = OnceLock::new();
    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var("TRUCKER_FAILPOINT").ok()?;
        let (name, count) = text.split_once(':')?;
        Some((name.to_owned(), AtomicU64::new(count.parse().ok()?)))
    });
    if let Some((wanted, left)) = wanted
        && wanted == name
        && left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        std::process::abort();
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub fn reach(_name: &str) {}
