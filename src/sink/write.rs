//! What is to be done to an output table, in an order that matters: one entry is one statement.

use std::sync::Arc;

use super::clickhouse::Versioned;
use super::row::{Key, Layout, Row};
use crate::change::Tuple;

/// How rows are put.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Put {
    /// Append.
    Insert,
    /// Insert, or update where the key exists.
    Upsert,
    /// The same, of rows that the source has just made: hardly ever does their key exist.
    UpsertNew,
    /// Update where the key exists.
    Update,
}

/// Which columns tell the rows of a delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum By {
    /// The key.
    Key,
    /// The columns that identify all rows of one input row.
    Replace,
}

/// What is to be done at once.
#[derive(Debug, Clone)]
pub enum Writes {
    /// Statements, in this order.
    Statements(Vec<Write>),
    /// Rows that bring their order along.
    Versions(Vec<Versioned>),
}

/// A key whose rows go, and the keys of those that stay.
pub type Removal = (Key, Vec<Key>);

/// One statement's worth.
#[derive(Debug, Clone)]
pub enum Write {
    /// Empty the table.
    Truncate,
    /// Delete the rows under each of these, but for those whose keys stand beside it or beside an earlier one.
    Delete {
        /// What the keys are of.
        by: By,
        /// No key twice.
        keys: Vec<Removal>,
    },
    /// Put rows. But for `Insert`, no key comes twice.
    Put {
        /// How.
        put: Put,
        /// Where the cells go.
        layout: Arc<Layout>,
        /// Columns of the layout to leave alone, by place; with any, rows that aren't there stay away.
        omitted: Vec<usize>,
        /// The rows.
        rows: Vec<Tuple>,
    },
    /// Move the row under `old` to the new row's key, and keep the values that weren't sent.
    Rekey {
        /// Key of the row as it is.
        old: Key,
        /// The row to be.
        row: Row,
    },
}
