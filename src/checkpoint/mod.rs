//! What has been loaded and what may be forgotten: pure arithmetic over LSNs, no IO.
//!
//! Three positions per pipeline, always `received ≥ loaded ≥ confirmed`:
//!
//! * `received_lsn`: read from the stream.
//! * `loaded_lsn`: committed in the output, together with the checkpoint row that says so. It is the `end_lsn` of
//!   a commit (first byte after its record), or a position that the server reached with nothing for us before it.
//! * `confirmed_lsn`: told to the slot. One slot serves many pipelines, so it is the least of their floors: of what
//!   was flushed there.
//!
//! Two commits in a row share a boundary: the second's `commit_lsn` equals the first's `end_lsn`. Hence the one
//! strict comparison in [`is_loaded`]; with `<=` the second transaction would be lost.

mod progress;
mod seam;

pub use progress::{Floor, Progress};
pub use seam::{ParseSnapshotError, Seam, Snapshot};

use crate::change::Lsn;

/// Whether a transaction whose commit record starts at `commit_lsn` is already in an output that has loaded up
/// to `loaded_lsn`.
pub fn is_loaded(commit_lsn: Lsn, loaded_lsn: Lsn) -> bool {
    commit_lsn < loaded_lsn
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_that_starts_where_the_last_one_ended_is_not_loaded() {
        let end_of_first = Lsn(0x1558978);
        assert!(is_loaded(Lsn(0x1558900), end_of_first));
        assert!(!is_loaded(end_of_first, end_of_first));
        assert!(!is_loaded(Lsn(0x1558979), end_of_first));
    }
}
