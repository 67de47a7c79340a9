//! Versions: what decides between rows of one key. Where there are no transactions, no compare-and-set and no order but the
//! one that rows bring along, this is what makes a replay, a retry, a restart or a second process harmless: whoever writes
//! a row, whenever and however often, the one of the later change counts. Pure.
//!
//! A version is a commit's LSN and a number within: `lsn << 64 | number`. Two numbers belong to each change of the
//! transaction, in its order: 2n is what it removes, 2n+1 what it puts, so that what it puts counts. A backfill's rows stand
//! before all changes that are streamed after it (these commit at `start_lsn` or later), and behind all that were
//! loaded before (their commit records start, and end, before it): at `start_lsn - 1`.

use std::sync::Arc;

use super::block::Wording;
use crate::change::Lsn;
use crate::sink::fold::Effect;

/// A row's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u128);

impl Version {
    /// What the n-th change of the pipeline's in a transaction removes.
    pub fn of_change(commit_lsn: Lsn, ordinal: u64) -> Self {
        Version::new(commit_lsn, ordinal << 1)
    }

    /// Start of the commit record.
    pub fn lsn(self) -> Lsn {
        Lsn((self.0 >> 64) as u64)
    }

    /// Which change of the transaction.
    pub fn ordinal(self) -> u64 {
        self.0 as u64 >> 1
    }

    /// What the same change puts.
    pub fn of_rows(self) -> Self {
        Version(self.0 | 1)
    }

    /// The n-th row of a backfill whose stream starts there.
    pub fn of_backfill(start_lsn: Lsn, number: u64) -> Self {
        Version::new(Lsn(start_lsn.0.saturating_sub(1)), number)
    }

    /// The number that follows all of a backfill's at `start_lsn` up to this version; None if this one is behind it.
    pub fn next_in_backfill(self, start_lsn: Lsn) -> Option<u64> {
        match (self.0 >> 64).cmp(&u128::from(start_lsn.0.saturating_sub(1))) {
            std::cmp::Ordering::Less => Some(0),
            std::cmp::Ordering::Equal => (self.0 as u64).checked_add(1),
            std::cmp::Ordering::Greater => None,
        }
    }

    fn new(lsn: Lsn, number: u64) -> Self {
        Version(u128::from(lsn.0) << 64 | u128::from(number))
    }
}

/// What a change does, with the version that it has.
#[derive(Debug, Clone)]
pub enum Versioned {
    /// Rows go and come.
    Effect {
        /// Its version.
        version: Version,
        /// What it does.
        effect: Effect,
        /// How the keys of what goes are written.
        wording: Arc<Wording>,
    },
    /// All rows go.
    Truncate(Version),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_stand_in_the_order_of_what_they_are_of() {
        let before = Version::of_change(Lsn(0x90), 7).of_rows();
        let backfill = [0, 1, u64::MAX].map(|number| Version::of_backfill(Lsn(0x100), number));
        let first = Version::of_change(Lsn(0x100), 1);
        let second = Version::of_change(Lsn(0x100), 2);
        let order = [before, backfill[0], backfill[1], backfill[2], first, first.of_rows(), second];
        assert!(order.is_sorted_by(|a, b| a < b), "{order:x?}");
    }

    #[test]
    fn a_backfill_that_starts_again_at_the_same_place_goes_on_counting() {
        for (seen, next) in [
            (Version::of_change(Lsn(0x90), 7), Some(0)),
            (Version(0), Some(0)),
            (Version::of_backfill(Lsn(0x100), 41), Some(42)),
            (Version::of_change(Lsn(0x100), 1), None),
            (Version::of_change(Lsn(0x200), 1), None),
        ] {
            assert_eq!(seen.next_in_backfill(Lsn(0x100)), next, "{seen:x?}");
        }
    }
}
