//! The model of what a source sends: positions, relations, tuples, changes. Pure: no IO, no clock,
//! and nothing here knows where a change came from or where it goes.

mod lsn;
mod relation;
mod tuple;

use std::fmt;
use std::sync::Arc;

pub use lsn::{Lsn, ParseLsnError};
pub use relation::{Column, Relation, ReplicaIdentity};
pub use tuple::{Cell, Cells, Tuple};

/// What happened to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// A row came to be.
    Insert,
    /// A row changed.
    Update,
    /// A row went away.
    Delete,
}

impl Operation {
    /// All of them, in the order used everywhere.
    pub const ALL: [Operation; 3] = [Operation::Insert, Operation::Update, Operation::Delete];

    /// The name users know: `insert`, `update`, `delete`.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Insert => "insert",
            Operation::Update => "update",
            Operation::Delete => "delete",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One row's change. `old` holds the columns that the replica identity sends (see
/// [`Relation::is_sent_in_old`]); the other cells of it are [`Cell::Null`] and mean nothing.
#[derive(Debug, Clone)]
pub struct Change {
    /// The table as it was described when the change was sent.
    pub relation: Arc<Relation>,
    /// What happened.
    pub operation: Operation,
    /// The row before an update or a delete.
    pub old: Option<Tuple>,
    /// The row after an insert or an update.
    pub new: Option<Tuple>,
}

impl Change {
    /// Bytes that this change keeps in memory, for the bounds of queues and batches.
    pub fn size(&self) -> usize {
        let tuple = |t: &Option<Tuple>| t.as_ref().map_or(0, Tuple::size);
        size_of::<Change>() + tuple(&self.old) + tuple(&self.new)
    }
}
