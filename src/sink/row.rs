//! Rows on their way to the output, and the keys that identify them.

use std::sync::Arc;

use crate::change::{Cell, Tuple};
use crate::clickhouse::Encoding;

/// Which columns of the output a tuple's cells are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Output columns, unquoted, each with the cell that holds its value.
    pub columns: Vec<(String, usize)>,
    /// Cells of the key's columns, in the key's order; None if the rows don't have all of them.
    pub key: Option<Vec<usize>>,
    /// The same of the columns that identify all rows of one input row.
    pub replace: Option<Vec<usize>>,
    /// How the values are written, column by column, where the output takes them in binary form (ClickHouse).
    pub encodings: Vec<Encoding>,
}

impl Layout {
    /// A layout over these columns; `key` and `replace` are names.
    pub fn new(columns: Vec<(String, usize)>, key: &[String], replace: &[String]) -> Self {
        let cells = |names: &[String]| {
            let cell = |name: &String| columns.iter().find(|(n, _)| n == name).map(|(_, cell)| *cell);
            names.iter().map(cell).collect::<Option<Vec<_>>>().filter(|cells| !cells.is_empty())
        };
        Layout { key: cells(key), replace: cells(replace), columns, encodings: Vec::new() }
    }
}

/// One row for the output.
#[derive(Debug, Clone)]
pub struct Row {
    /// Where its cells go.
    pub layout: Arc<Layout>,
    /// The values; [`Cell::Unchanged`] for one that is to be left alone.
    pub tuple: Tuple,
}

impl Row {
    /// Its key; None if it has none or a part of it is NULL.
    pub fn key(&self) -> Option<Key> {
        Key::of(&self.tuple, self.layout.key.as_deref()?)
    }

    /// What identifies its input row's rows; None likewise.
    pub fn replace(&self) -> Option<Key> {
        Key::of(&self.tuple, self.layout.replace.as_deref()?)
    }

    /// Whether it is one of the rows that this identifies.
    pub fn is_under(&self, replace: &Key) -> bool {
        let cells = self.layout.replace.as_deref().unwrap_or_default();
        cells.iter().map(|&cell| self.tuple.cell(cell).text()).eq(replace.values().map(Some))
    }

    /// Which of the layout's columns are to be left alone; empty if none is.
    pub fn omitted(&self) -> Vec<usize> {
        if !self.tuple.has_unchanged() {
            return Vec::new();
        }
        let columns = self.layout.columns.iter().enumerate();
        columns.filter(|(_, (_, cell))| self.tuple.cell(*cell) == Cell::Unchanged).map(|(at, _)| at).collect()
    }
}

/// The values of a key's columns, none of them NULL: each with its length before it, so that no two keys look alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Box<[u8]>);

impl Key {
    /// The key in these cells; None if one of them is NULL or was left out.
    pub fn of(tuple: &Tuple, cells: &[usize]) -> Option<Self> {
        let values = cells.iter().map(|&cell| tuple.cell(cell).text());
        let size = values.clone().flatten().map(|value| 4 + value.len()).sum();
        Self::with_room(size, values)
    }

    /// The key of these values; None if one of them is.
    pub fn from_values<'a>(values: impl Iterator<Item = Option<&'a [u8]>>) -> Option<Self> {
        Self::with_room(0, values)
    }

    fn with_room<'a>(size: usize, values: impl Iterator<Item = Option<&'a [u8]>>) -> Option<Self> {
        let mut bytes = Vec::with_capacity(size);
        for value in values {
            let value = value?;
            bytes.extend_from_slice(&(value.len() as u32).to_be_bytes());
            bytes.extend_from_slice(value);
        }
        Some(Key(bytes.into()))
    }

    /// The values, in the key's order.
    pub fn values(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || {
            let (length, after) = rest.split_first_chunk::<4>()?;
            let (value, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
            rest = after;
            Some(value)
        })
    }

    /// Bytes in memory.
    pub fn size(&self) -> usize {
        self.0.len() + size_of::<Key>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_when_their_values_do() {
        let key = |values: &[&str]| Key::from_values(values.iter().map(|v| Some(v.as_bytes()))).unwrap();
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_eq!(key(&["ab", ""]).values().collect::<Vec<_>>(), [b"ab".as_slice(), b""]);
        assert_eq!(Key::from_values([Some(b"a".as_slice()), None].into_iter()), None);
    }
}
