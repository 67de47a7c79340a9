//! A pipeline's checkpoint, as any output keeps it.

use std::time::Duration;

use super::failure::Failure;
use super::request::{Asked, Request};
use crate::change::Lsn;
use crate::checkpoint::Seam;

/// Where a pipeline's changes come from; a checkpoint means nothing to any other source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The cluster.
    pub system_identifier: String,
    /// Its timeline.
    pub timeline: u32,
    /// The slot.
    pub slot: String,
    /// The database.
    pub database: String,
}

/// A checkpoint row.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// Which pipeline.
    pub pipeline: String,
    /// Raised whenever a process takes the pipeline.
    pub epoch: i64,
    /// Up to where rows are loaded; None while the first backfill isn't done.
    pub loaded_lsn: Option<Lsn>,
    /// Where from.
    pub origin: Origin,
    /// The output table as the pipeline had it.
    pub output_table: Option<String>,
    /// Its input tables, likewise.
    pub input_tables: Option<String>,
    /// What the publication's entries of these were known by, if that was known.
    pub published: Option<String>,
    /// How far it was behind the source when it was written last, if a transaction was loaded then.
    pub delay: Option<Duration>,
    /// What its SQL was known by when a process took it last; None from an earlier version.
    pub sql_hash: Option<String>,
    /// The same when it was backfilled.
    pub backfilled_sql_hash: Option<String>,
    /// What the backfill has read, until the stream has passed its bound.
    pub seam: Option<Seam>,
    /// Time since it was written last, by the output's clock.
    pub age: Duration,
    /// Why it stands still.
    pub failure: Option<Failure>,
    /// What somebody asks of it.
    pub request: Option<Request>,
    /// Why it didn't do what it was last asked for.
    pub refused: Option<String>,
}

impl Checkpoint {
    /// Whether somebody asks for it to be filled anew, wherever it stands.
    pub fn is_to_be_filled(&self) -> bool {
        self.request.as_ref().is_some_and(|request| request.asked == Asked::Backfill)
    }

    /// Whether rows that the backfill made are from other SQL than that of this hash.
    pub fn was_backfilled_by_other_sql(&self, sql_hash: &str) -> bool {
        self.loaded_lsn.is_some()
            && self.backfilled_sql_hash.as_deref().is_some_and(|filled| filled != sql_hash)
    }
}

/// What a commit makes of a checkpoint.
#[derive(Debug, Clone)]
pub struct Goal<'a> {
    /// Up to where rows are loaded then.
    pub loaded_lsn: Lsn,
    /// When the last transaction was committed at the source, in microseconds since 2000-01-01; None for a mere position.
    pub commit_time: Option<i64>,
    /// What the backfill has read, as long as that matters.
    pub seam: Option<Seam>,
    /// The request that this fulfils.
    pub done: Option<&'a Request>,
}

/// Names the row of one pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointKey {
    /// The project's name; `trucker` where it has none.
    pub project: String,
    /// The pipeline's.
    pub pipeline: String,
}
