//! The seam between a backfill and the stream.
//!
//! A backfill reads one snapshot, and the stream that follows starts somewhere before it. A transaction must be
//! taken from exactly one of the two. LSNs can't tell which: commit records are written before their transactions
//! become visible, so no position separates the visible from the rest. The snapshot itself can: a transaction is
//! in the backfill iff its xid is visible in the snapshot. 32-bit xids come round again, so the filter holds only
//! up to a bound: an LSN read after the snapshot was taken; whatever commits at or beyond it is not in it.
//! (Proven exact against Postgres 15–18 under load, across 2^32 too; the alternatives by LSN lose or repeat rows.)

use std::fmt;
use std::str::FromStr;

use crate::change::Lsn;

/// `pg_current_snapshot()`, taken on a primary. On a standby its list of running transactions is empty and
/// proves nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Every transaction before it has ended.
    pub xmin: u64,
    /// No transaction from here on is visible.
    pub xmax: u64,
    /// Those between that were running, ascending.
    running: Vec<u64>,
}

impl Snapshot {
    /// Whether the transaction with this top-level xid, as the stream's Begin carries it (32 bits), is visible.
    /// Right for transactions within 2^31 of the snapshot.
    pub fn is_visible(&self, xid: u32) -> bool {
        let after = |bound: u64| xid.wrapping_sub(bound as u32) as i32 >= 0;
        if !after(self.xmin) {
            return true;
        }
        !after(self.xmax) && !self.running.iter().any(|&running| running as u32 == xid)
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (place, xid) in self.running.iter().enumerate() {
            write!(f, "{}{xid}", if place == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// The text was not a `pg_snapshot`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a snapshot: expected xmin:xmax:xid,xid,…")]
pub struct ParseSnapshotError;

impl FromStr for Snapshot {
    type Err = ParseSnapshotError;

    fn from_str(text: &str) -> Result<Self, ParseSnapshotError> {
        let number = |s: &str| s.parse::<u64>().map_err(|_| ParseSnapshotError);
        let mut parts = text.splitn(3, ':');
        let mut part = || parts.next().ok_or(ParseSnapshotError);
        let (xmin, xmax, list) = (number(part()?)?, number(part()?)?, part()?);
        let running = list.split(',').filter(|s| !s.is_empty()).map(number).collect::<Result<_, _>>()?;
        Ok(Snapshot { xmin, xmax, running })
    }
}

/// What a pipeline keeps beside its checkpoint until the stream has passed the bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seam {
    /// What the backfill has read.
    pub snapshot: Snapshot,
    /// WAL insert position read after the snapshot was taken.
    pub bound: Lsn,
}

impl Seam {
    /// Whether the backfill has read this transaction.
    pub fn covers(&self, commit_lsn: Lsn, xid: u32) -> bool {
        commit_lsn < self.bound && self.snapshot.is_visible(xid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        for text in ["10:20:10,15", "3:3:", "4294967300:4294967400:4294967301"] {
            assert_eq!(text.parse::<Snapshot>().unwrap().to_string(), text);
        }
        for text in ["", "1", "1:2", "a:b:", "1:2:x", "-1:2:"] {
            assert_eq!(text.parse::<Snapshot>(), Err(ParseSnapshotError), "{text:?}");
        }
    }

    #[test]
    fn a_transaction_is_visible_iff_it_had_ended() {
        let near_wrap = (1u64 << 32) - 5;
        let rows: [(&str, u32, bool); 9] = [
            ("10:20:10,15", 9, true),
            ("10:20:10,15", 10, false),
            ("10:20:10,15", 14, true),
            ("10:20:10,15", 15, false),
            ("10:20:10,15", 20, false),
            ("10:20:10,15", 21, false),
            (&format!("{near_wrap}:{}:", near_wrap + 10), u32::MAX - 10, true),
            (&format!("{near_wrap}:{}:", near_wrap + 10), 3, true),
            (&format!("{near_wrap}:{}:", near_wrap + 10), 5, false),
        ];
        for (snapshot, xid, visible) in rows {
            assert_eq!(snapshot.parse::<Snapshot>().unwrap().is_visible(xid), visible, "{snapshot} {xid}");
        }
    }

    #[test]
    fn nothing_from_the_bound_on_is_covered() {
        let seam = Seam { snapshot: "10:20:".parse().unwrap(), bound: Lsn(100) };
        assert!(seam.covers(Lsn(99), 12));
        assert!(!seam.covers(Lsn(100), 12));
        assert!(!seam.covers(Lsn(99), 20));
    }
}
