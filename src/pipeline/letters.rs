//! Tells of dead letters once they are committed: each by a warning, but not more of them than a person would read.

use std::time::{Duration, Instant};

use crate::change::Lsn;
use crate::codes::Code;
use crate::sink::DeadLetter;

use super::counts::Counts;

const TOLD_MAX: u64 = 10;
const PERIOD: Duration = Duration::from_secs(60);

/// Of the open transaction, and of the minute.
#[derive(Debug, Default)]
pub struct Letters {
    /// What the first of them are; all are counted.
    texts: Vec<(Lsn, String)>,
    pending: u64,
    skipped: u64,
    period: Option<Instant>,
    told: u64,
    untold: u64,
}

impl Letters {
    /// One more in the open transaction.
    pub fn add(&mut self, letter: &DeadLetter) {
        self.pending += 1;
        self.skipped += u64::from(letter.is_skipped);
        if (self.texts.len() as u64) < TOLD_MAX {
            let DeadLetter { ordinal, commit_lsn, table, operation, error, .. } = letter;
            let why = if letter.is_skipped { "skipped, as asked for; it had failed" } else { "not loaded" };
            let text = format!(
                "{operation} of {table}, change {ordinal} of the transaction that commits at {commit_lsn}, is in \
                 trucker.dead_letters: {why}: {error}"
            );
            self.texts.push((*commit_lsn, text));
        }
    }

    /// The transaction has been committed.
    pub fn committed(&mut self, pipeline: &str, counts: &Counts) {
        let begun = *self.period.get_or_insert_with(Instant::now);
        if begun.elapsed() >= PERIOD {
            if self.untold > 0 {
                tracing::warn!(
                    event = "dead_letters",
                    code = %Code::PutAside,
                    pipeline,
                    count = self.untold,
                    "{} more changes of pipeline {pipeline} are in trucker.dead_letters",
                    self.untold
                );
            }
            (self.period, self.told, self.untold) = (Some(Instant::now()), 0, 0);
        }
        let pending = std::mem::take(&mut self.pending);
        counts.put_aside(pending);
        counts.skipped(std::mem::take(&mut self.skipped));
        let mut told = 0;
        for (commit_lsn, text) in self.texts.drain(..) {
            if self.told < TOLD_MAX {
                (self.told, told) = (self.told + 1, told + 1);
                tracing::warn!(event = "dead_letter", code = %Code::PutAside, pipeline, at = %commit_lsn, "pipeline {pipeline}: {text}");
            }
        }
        self.untold += pending - told;
    }
}
