//! Rows as they travel: RowBinaryWithNamesAndTypes, with the names and types that the catalog had. A table that has become
//! another since is refused by the server, and never filled with shifted bytes.

use std::sync::Arc;

use bytes::Bytes;

use super::target::{Keeping, Target};
use super::version::Version;
use crate::change::Cell;
use crate::clickhouse::encode::put_text;
use crate::clickhouse::{EncodeError, Encoding, quote_ident};
use crate::sink::{Key, Layout, Row, SinkError};

/// How a pipeline's keys are written, as its SQL returns them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wording {
    /// The key's columns.
    pub key: Vec<Encoding>,
    /// The columns that identify all rows of one input row.
    pub replace: Vec<Encoding>,
}

/// Rows with the same columns.
#[derive(Debug)]
pub struct Block {
    /// The statement that they are the data of.
    pub insert: String,
    /// What they were laid out by; None for tombstones.
    layout: Option<Arc<Layout>>,
    bytes: Vec<u8>,
}

impl Block {
    /// The one for rows of this layout.
    pub fn of_rows<'b>(
        blocks: &'b mut Vec<Block>,
        target: &Target,
        layout: &Arc<Layout>,
    ) -> Result<&'b mut Block, SinkError> {
        let fits = |block: &Block| {
            block.layout.as_ref().is_some_and(|known| Arc::ptr_eq(known, layout) || known == layout)
        };
        if let Some(at) = blocks.iter().position(fits) {
            return Ok(&mut blocks[at]);
        }
        let mut columns: Vec<&str> = layout.columns.iter().map(|(name, _)| name.as_str()).collect();
        if let Keeping::Versioned { version, is_deleted } = &target.keeping {
            columns.push(version);
            columns.extend(is_deleted.as_deref());
        }
        // Before tombstones, of which there is one block at most.
        blocks.insert(0, Block::new(target, &columns, Some(layout.clone()))?);
        Ok(&mut blocks[0])
    }

    /// The one for tombstones.
    pub fn of_tombstones<'b>(
        blocks: &'b mut Vec<Block>,
        target: &Target,
    ) -> Result<&'b mut Block, SinkError> {
        if blocks.last().is_none_or(|block| block.layout.is_some()) {
            let columns = target.tombstone().unwrap_or_default();
            blocks.push(Block::new(target, &columns, None)?);
        }
        let last = blocks.len() - 1;
        Ok(&mut blocks[last])
    }

    fn new(target: &Target, columns: &[&str], layout: Option<Arc<Layout>>) -> Result<Self, SinkError> {
        let mut bytes = vec![columns.len() as u8];
        if columns.len() > 0x7f {
            bytes = vec![(columns.len() & 0x7f) as u8 | 0x80, (columns.len() >> 7) as u8];
        }
        columns.iter().for_each(|name| put_text(name.as_bytes(), &mut bytes));
        for name in columns {
            let column =
                target.table.column(name).ok_or_else(|| misfit(target, name, EncodeError::Unreadable))?;
            put_text(column.type_text.as_bytes(), &mut bytes);
        }
        Ok(Block { insert: target.insert(columns), layout, bytes })
    }

    /// Bytes gathered.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The data.
    pub fn take(&mut self) -> Bytes {
        Bytes::from(std::mem::take(&mut self.bytes))
    }

    /// Adds a row; where a value doesn't fit, nothing of it.
    pub fn push_row(&mut self, target: &Target, row: &Row, version: Version) -> Result<(), SinkError> {
        let start = self.bytes.len();
        for ((name, cell), encoding) in row.layout.columns.iter().zip(&row.layout.encodings) {
            let value = match row.tuple.cell(*cell) {
                Cell::Unchanged => Err(EncodeError::Unreadable),
                value => encoding.encode(value.text(), &mut self.bytes),
            };
            if let Err(error) = value {
                self.bytes.truncate(start);
                return Err(misfit(target, name, error));
            }
        }
        if let Keeping::Versioned { is_deleted, .. } = &target.keeping {
            self.bytes.extend_from_slice(&version.0.to_le_bytes());
            self.bytes.extend(is_deleted.iter().map(|_| 0));
        }
        Ok(())
    }

    /// Adds a row that says that there is none of this key.
    pub fn push_tombstone(
        &mut self,
        target: &Target,
        wording: &Wording,
        key: &Key,
        version: Version,
    ) -> Result<(), SinkError> {
        let start = self.bytes.len();
        if let Err(error) = put_key(target, &target.key, &wording.key, key, &mut self.bytes) {
            self.bytes.truncate(start);
            return Err(error);
        }
        self.bytes.extend_from_slice(&version.0.to_le_bytes());
        self.bytes.push(1);
        Ok(())
    }
}

fn put_key(
    target: &Target,
    columns: &[String],
    encodings: &[Encoding],
    key: &Key,
    out: &mut Vec<u8>,
) -> Result<(), SinkError> {
    for ((value, encoding), name) in key.values().zip(encodings).zip(columns) {
        encoding.encode(Some(value), out).map_err(|error| misfit(target, name, error))?;
    }
    Ok(())
}

fn misfit(target: &Target, column: &str, error: EncodeError) -> SinkError {
    SinkError::Value { what: format!("column {} of {}", quote_ident(column), target.sql()), error }
}

/// Input rows whose output rows go, where these are found by other columns than the key's.
#[derive(Debug, Default)]
pub struct Removals {
    rows: Vec<u8>,
}

impl Removals {
    /// Adds one.
    pub fn add(
        &mut self,
        target: &Target,
        wording: &Wording,
        key: &Key,
        version: Version,
    ) -> Result<(), SinkError> {
        put_key(target, &target.replace, &wording.replace, key, &mut self.rows)?;
        self.rows.extend_from_slice(&version.0.to_le_bytes());
        Ok(())
    }

    /// Bytes gathered.
    pub fn size(&self) -> usize {
        self.rows.len()
    }

    /// The relation's structure, and its rows.
    pub fn take(&mut self, target: &Target) -> (String, Bytes) {
        let type_of = |name: &String| target.table.column(name).map_or("String", |c| c.type_text.as_str());
        let columns = target.replace.iter().enumerate();
        let columns = columns.map(|(at, name)| format!("k{at} {}, ", type_of(name))).collect::<String>();
        (format!("{columns}v UInt128"), Bytes::from(std::mem::take(&mut self.rows)))
    }
}
