//! The output table, what identifies its rows, and the statements about it. Pure text.

use std::sync::Arc;

use super::version::Version;
use crate::clickhouse::catalog::{DefaultKind, Table};
use crate::clickhouse::{quote_ident, quote_table};

/// How a table keeps rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keeping {
    /// Of the rows of one key the one with the highest version counts (`ReplacingMergeTree`).
    Versioned {
        /// The column of versions.
        version: String,
        /// The column that says of a row that there is none; without it, rows can't be removed.
        is_deleted: Option<String>,
    },
    /// Every row that it was ever given.
    Appended,
}

/// The output table, and what identifies its rows.
#[derive(Debug, Clone)]
pub struct Target {
    /// The catalog's entry.
    pub table: Arc<Table>,
    /// The key's columns.
    pub key: Vec<String>,
    /// The columns that identify all rows of one input row.
    pub replace: Vec<String>,
    /// How it keeps rows.
    pub keeping: Keeping,
}

/// Name of the relation of what is to be removed.
pub const REMOVED: &str = "trucker_removed";

impl Target {
    /// The table as statements name it.
    pub fn sql(&self) -> String {
        quote_table(&self.table.database, &self.table.name)
    }

    /// Whether rows may be given a value for that column.
    pub fn takes(&self, column: &str) -> bool {
        self.refusal(column).is_none() && self.table.column(column).is_some()
    }

    /// Why rows may not be given a value for that column, if so.
    pub fn refusal(&self, column: &str) -> Option<&'static str> {
        if let Keeping::Versioned { version, is_deleted } = &self.keeping
            && (column == version || is_deleted.as_deref() == Some(column))
        {
            return Some("says which of the rows of a key counts, which is trucker's to say");
        }
        let column = self.table.column(column)?;
        (column.default_kind == DefaultKind::Computed).then_some("is computed by the server")
    }

    /// `INSERT INTO …` for rows in binary form.
    pub fn insert(&self, columns: &[&str]) -> String {
        format!("INSERT INTO {} ({}) FORMAT RowBinaryWithNamesAndTypes", self.sql(), names(columns))
    }

    /// The columns of a row that says of its key that there is none: the key's, version, and the mark.
    pub fn tombstone(&self) -> Option<Vec<&str>> {
        let Keeping::Versioned { version, is_deleted: Some(is_deleted) } = &self.keeping else { return None };
        let key = self.key.iter().map(String::as_str);
        Some(key.chain([version.as_str(), is_deleted]).collect())
    }

    /// Removes all rows with a version below `before`, by tombstones of version `with`.
    pub fn remove_older(&self, before: Version, with: Version) -> Option<String> {
        let columns = self.tombstone()?;
        let (table, version) = (self.sql(), quote_ident(columns[self.key.len()]));
        let key: Vec<&str> = self.key.iter().map(String::as_str).collect();
        Some(format!(
            "INSERT INTO {table} ({}) SELECT {}, toUInt128('{}'), 1 FROM {table} FINAL WHERE {version} < toUInt128('{}')",
            names(&columns),
            names(&key),
            with.0,
            before.0
        ))
    }

    /// Removes the rows under the `replace` values in relation [`REMOVED`] (columns k0, k1, …, v) that are older than v.
    pub fn remove_replaced(&self) -> Option<String> {
        let columns = self.tombstone()?;
        let (table, version) = (self.sql(), quote_ident(columns[self.key.len()]));
        let count = self.replace.len();
        let list = |part: &dyn Fn(usize) -> String, len: usize| -> String {
            (0..len).map(part).collect::<Vec<_>>().join(", ")
        };
        let removed = list(&|at| format!("k{at}"), count);
        let replace: Vec<&str> = self.replace.iter().map(String::as_str).collect();
        let matches: Vec<String> = (0..count).map(|at| format!("o.r{at} = k.k{at}")).collect();
        Some(format!(
            "INSERT INTO {table} ({}) SELECT {}, k.v, 1 FROM (SELECT {}, {}, {version} AS v FROM {table} FINAL \
             WHERE ({}) IN (SELECT {removed} FROM {REMOVED})) AS o \
             INNER JOIN (SELECT {removed}, max(v) AS v FROM {REMOVED} GROUP BY {removed}) AS k ON {} WHERE o.v < k.v",
            names(&columns),
            list(&|at| format!("o.c{at}"), self.key.len()),
            list(&|at| format!("{} AS c{at}", quote_ident(&self.key[at])), self.key.len()),
            list(&|at| format!("{} AS r{at}", quote_ident(&self.replace[at])), count),
            names(&replace),
            matches.join(" AND ")
        ))
    }

    /// The highest version below `before`, and the highest of all.
    pub fn versions(&self, before: Version) -> Option<String> {
        let Keeping::Versioned { version, .. } = &self.keeping else { return None };
        let version = quote_ident(version);
        Some(format!(
            "SELECT toString(maxIf({version}, {version} < toUInt128('{}'))), toString(max({version})) FROM {}",
            before.0,
            self.sql()
        ))
    }
}

fn names(columns: &[&str]) -> String {
    columns.iter().map(|name| quote_ident(name)).collect::<Vec<_>>().join(", ")
}
