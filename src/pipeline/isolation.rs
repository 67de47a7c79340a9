//! Finds the one change that can't be loaded among many that can: tries all of them, then halves, until it is alone.
//! Then either the pipeline stops at it, or it is recorded as a dead letter and the others go on; what was on trial and
//! failed has left no trace. Only where something has failed, or a change is to be skipped, is it needed.
//!
//! What is tried is always some of the changes in their order, so memory is bounded as ever, and all changes before
//! the one that fails are done by then.

use crate::change::Lsn;
use crate::config::OnError;
use crate::sink::Failure;
use crate::sink::dead_letter::{DeadLetter, row_json};

use super::definition::Checked;
use super::error::{PipelineError, Place, PlaceOfChange};
use super::queue::Entry;
use super::stage::{Part, Stage};

/// What somebody wants left out.
#[derive(Debug, Clone)]
pub struct Skip {
    /// Its transaction's.
    pub commit_lsn: Lsn,
    is_whole: bool,
    failures: Vec<Failure>,
}

impl Skip {
    /// From what was asked for; None if that names no change.
    pub fn new(is_whole: bool, failures: &[Failure]) -> Option<Self> {
        let commit_lsn = failures.first()?.commit_lsn.as_ref()?.parse().ok()?;
        Some(Skip { commit_lsn, is_whole, failures: failures.to_vec() })
    }

    fn is_of(&self, part: &Part) -> bool {
        let is_named = || self.failures.iter().any(|failure| failure.ordinal == Some(part.ordinal));
        part.commit_lsn == self.commit_lsn && (self.is_whole || is_named())
    }

    /// Why that one is left out.
    fn failure(&self, part: &Part) -> Option<&Failure> {
        let of_part = self.failures.iter().find(|failure| failure.ordinal == Some(part.ordinal));
        of_part.or(self.failures.last())
    }
}

/// What to do about changes that fail.
#[derive(Debug)]
pub struct Isolation {
    /// As config.yml says.
    pub on_error: OnError,
    /// What to leave out.
    pub skip: Option<Skip>,
}

impl Isolation {
    /// Does these changes but for those that are to be left out. How many dead letters there were.
    pub async fn load(&self, stage: &mut Stage, parts: Vec<Part>) -> Checked<u64> {
        let (mut todo, mut letters) = (vec![parts], 0);
        while let Some(mut parts) = todo.pop() {
            let is_skipped = |part: &Part| self.skip.as_ref().is_some_and(|skip| skip.is_of(part));
            let Some(first) = parts.first() else { continue };
            let alike = is_skipped(first);
            let rest = parts.iter().position(|part| is_skipped(part) != alike).map(|at| parts.split_off(at));
            todo.extend(rest);
            if alike {
                for part in &parts {
                    letters += 1;
                    stage.record(self.skipped(part)).await?;
                }
                continue;
            }
            match stage.attempt(&parts).await? {
                Ok(()) => {}
                Err(error) if parts.len() == 1 => {
                    letters += 1;
                    stage.record(self.buried(&parts[0], error)?).await?;
                }
                Err(_) => {
                    let second = parts.split_off(parts.len() / 2);
                    todo.push(second);
                    todo.push(parts);
                }
            }
        }
        Ok(letters)
    }

    /// A change that failed, as a dead letter; or the reason to stop at it.
    fn buried(&self, part: &Part, error: PipelineError) -> Checked<DeadLetter> {
        // Without a TRUNCATE, rows would stay that nothing accounts for.
        let is_row = matches!(part.entry, Entry::Change(_));
        if self.on_error == OnError::Stop || !is_row || !error.is_about_values() {
            return Err(error.at(place(part)));
        }
        let (sqlstate, file) = (error.sqlstate().map(str::to_owned), error.file());
        Ok(letter(part, error.to_string(), sqlstate, file, false))
    }

    fn skipped(&self, part: &Part) -> DeadLetter {
        let failure = self.skip.as_ref().and_then(|skip| skip.failure(part)).cloned().unwrap_or_default();
        letter(part, failure.error, failure.sqlstate, failure.file, true)
    }
}

fn letter(
    part: &Part,
    error: String,
    sqlstate: Option<String>,
    file: Option<String>,
    is_skipped: bool,
) -> DeadLetter {
    let (mut old, mut new) = (None, None);
    if let Entry::Change(change) = &part.entry {
        old = change.old.as_ref().map(|tuple| row_json(&change.relation, tuple, true));
        new = change.new.as_ref().map(|tuple| row_json(&change.relation, tuple, false));
    }
    let (table, operation) = what(&part.entry);
    let Part { xid, commit_lsn, ordinal, .. } = *part;
    DeadLetter { commit_lsn, ordinal, xid, table, operation, old, new, error, sqlstate, file, is_skipped }
}

fn what(entry: &Entry) -> (String, &'static str) {
    match entry {
        Entry::Change(change) => (change.relation.display_name(), change.operation.as_str()),
        Entry::Truncate(relation) => (relation.display_name(), "truncate"),
    }
}

fn place(part: &Part) -> Place {
    let (table, operation) = what(&part.entry);
    let key = match &part.entry {
        Entry::Change(change) => {
            let columns = change.relation.columns.iter().filter(|column| column.is_identity);
            columns.map(|column| column.name.clone()).collect()
        }
        Entry::Truncate(_) => Vec::new(),
    };
    let change = PlaceOfChange { ordinal: part.ordinal, table, operation, key };
    Place { commit_lsn: part.commit_lsn, xid: part.xid, change: Some(change) }
}
