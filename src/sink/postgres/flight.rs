//! What a batch writes, sent without waiting in between: first every statement is prepared, then all of them go out in one flight,
//! the checkpoint's move last where the batch ends with them. Each answer is looked at in turn, so what failed first is what is
//! told; what comes after it in the transaction fails for that alone. Never opens a transaction, nor commits one that is open.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::future::{BoxFuture, MaybeDone, maybe_done};
use futures_util::poll;
use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;

use super::checkpoint::{Step, StepValues, expect_own};
use super::statement::Shape;
use super::writer::Writer;
use super::{checkpoint, lines, rows};
use crate::change::Tuple;
use crate::postgres::array::Array;
use crate::postgres::binary::{Binary, Element};
use crate::sink::{By, Key, Layout, Put, Removal, Row, SinkError, Write};

/// From so many rows on, COPY is worth its second round trip.
const COPY_ROWS_MIN: usize = 50;
/// What one statement is given at most, in rows and in bytes as a tuple counts them: a server keeps it, and sorts it, within
/// `work_mem` (4 MB), or goes by way of its disk.
const STATEMENT_ROWS_MAX: usize = 10_000;
const STATEMENT_BYTES_MAX: usize = 1 << 20;

/// A statement with all that it needs.
struct Ready<'a> {
    what: String,
    send: Send<'a>,
}

enum Send<'a> {
    Text(String),
    Execute(Statement, Vec<Array>),
    Copy(Statement, Copied<'a>),
    Compare(Statement, Vec<String>),
}

/// A write as a statement and its values, before it is prepared.
enum Draft<'a> {
    Text(String, &'static str),
    Execute(Shape, Vec<Array>, &'static str),
    Copy(Shape, Copied<'a>),
    /// Sees that these columns have the types still that the rows before were encoded for.
    Compare(Vec<String>),
}

/// Rows for a COPY.
enum Copied<'a> {
    /// Whole, in binary form.
    Binary(Vec<Bytes>),
    /// These cells, as lines of text.
    Lines(&'a [Tuple], Vec<usize>),
}

impl Writer {
    /// Does these in the open transaction, in order, and then the step, if there is one.
    pub(super) async fn fly(&mut self, writes: &[Write], step: Option<&Step<'_>>) -> Result<(), SinkError> {
        let mut ready = Vec::new();
        for write in writes {
            for draft in self.drafts(write) {
                ready.extend(self.ready(draft).await?);
            }
        }
        let advance = match step {
            Some(step) => Some((self.prepared_advance().await?, step)),
            None => None,
        };
        let this = &*self;
        let mut flight: Vec<MaybeDone<BoxFuture<'_, Result<(), SinkError>>>> = Vec::new();
        for statement in &ready {
            flight.push(maybe_done(Box::pin(this.send(statement))));
        }
        if let Some((statement, step)) = &advance {
            flight.push(maybe_done(Box::pin(checkpoint::advance(
                this.client(),
                statement,
                this.key(),
                step,
            ))));
        }
        // The order in which they are first polled is the one in which they are sent.
        for sent in &mut flight {
            let _ = poll!(sent);
        }
        for mut sent in flight {
            (&mut sent).await;
            Pin::new(&mut sent).take_output().unwrap_or(Ok(()))?;
        }
        Ok(())
    }

    /// Does all that there is to do, the step included, by one statement that is its own transaction. False, and nothing is done, where
    /// it can't be one statement.
    ///
    /// It may be carried out after its connection has broken, even after the checkpoint was read again. That does no harm: it
    /// holds rows and checkpoint, and moves that from one position only, so of it and whatever comes instead one is in vain. (But for a
    /// repair, which leaves the checkpoint where it is: what comes after that is the batch that would have come next.)
    pub(super) async fn fly_whole(&mut self, write: &Write, step: &Step<'_>) -> Result<bool, SinkError> {
        // As with COPY: where there are rules, this can't be said at all.
        if !self.table().table.takes_copy || self.is_copied(write) || !self.fits_one_statement(write) {
            return Ok(false);
        }
        let mut drafts = self.drafts(write);
        let (Some(Draft::Execute(shape @ (Shape::Delete { .. } | Shape::Put { .. }), arrays, doing)), true) =
            (drafts.pop(), drafts.is_empty())
        else {
            return Ok(false);
        };
        let what = self.what(doing);
        let Some(statement) = self.prepare(Shape::Whole(Box::new(shape)), &what).await? else {
            return Ok(false);
        };
        let values = StepValues::new(self.key(), step);
        let arrays = arrays.iter().map(|array| array as &(dyn ToSql + Sync));
        let params: Vec<_> = arrays.chain(values.params()).collect();
        let moved = self.client().execute(&statement, &params).await.map_err(SinkError::at(what))?;
        expect_own(moved, self.key(), step.from)?;
        Ok(true)
    }

    async fn send(&self, ready: &Ready<'_>) -> Result<(), SinkError> {
        let client = self.client();
        let done = match &ready.send {
            Send::Text(sql) => client.batch_execute(sql).await,
            Send::Execute(statement, arrays) => {
                let params: Vec<&(dyn ToSql + Sync)> =
                    arrays.iter().map(|a| a as &(dyn ToSql + Sync)).collect();
                client.execute(statement, &params).await.map(drop)
            }
            Send::Copy(statement, rows) => match (client.copy_in(statement).await, rows) {
                (Ok(copy), Copied::Binary(parts)) => rows::send(Box::pin(copy), parts).await,
                (Ok(copy), Copied::Lines(rows, cells)) => lines::send(Box::pin(copy), rows, cells).await,
                (Err(error), _) => Err(error),
            },
            Send::Compare(statement, columns) => {
                let target = self.table();
                let failed = SinkError::at(ready.what.as_str());
                let now = client.query(statement, &[&target.table.sql()]).await.map_err(failed)?;
                let now = now.iter().filter_map(|row| Some((row.try_get(0).ok()?, row.try_get(1).ok()?)));
                return match target.altered(columns, &now.collect()) {
                    Some(column) => {
                        Err(SinkError::Altered { table: target.table.sql(), column: column.clone() })
                    }
                    None => Ok(()),
                };
            }
        };
        done.map_err(SinkError::at(ready.what.as_str()))
    }

    /// None if there is nothing to do.
    async fn ready<'a>(&mut self, draft: Draft<'a>) -> Result<Option<Ready<'a>>, SinkError> {
        Ok(match draft {
            Draft::Text(sql, doing) => Some(Ready { what: self.what(doing), send: Send::Text(sql) }),
            Draft::Execute(shape, arrays, doing) => {
                let what = self.what(doing);
                let statement = self.prepare(shape, &what).await?;
                statement.map(|statement| Ready { what, send: Send::Execute(statement, arrays) })
            }
            Draft::Copy(shape, rows) => {
                let what = self.what("copying into");
                let statement = self.prepare(shape, &what).await?;
                statement.map(|statement| Ready { what, send: Send::Copy(statement, rows) })
            }
            Draft::Compare(columns) => {
                let what = self.what("looking at the columns of");
                let statement = self.prepare(Shape::Types, &what).await?;
                statement.map(|statement| Ready { what, send: Send::Compare(statement, columns) })
            }
        })
    }

    fn drafts<'a>(&self, write: &'a Write) -> Vec<Draft<'a>> {
        match write {
            Write::Truncate => {
                vec![Draft::Text(format!("TRUNCATE {}", self.table().table.sql()), "truncating")]
            }
            Write::Delete { by, keys } => {
                self.removals(keys).into_iter().map(|keys| self.delete(*by, keys)).collect()
            }
            Write::Put { put, layout, omitted, rows } => self.put(*put, layout, omitted, rows),
            Write::Rekey { old, row } => rekey(old, row),
        }
    }

    fn delete<'a>(&self, by: By, keys: &[Removal]) -> Draft<'a> {
        let target = self.table();
        let mut arrays = columns_of(keys.iter().map(|(key, _)| key), &target.elements(target.columns_of(by)));
        let keeps = keys.iter().any(|(_, keep)| !keep.is_empty());
        if keeps {
            let kept = || {
                keys.iter().enumerate().flat_map(|(at, (_, keep))| keep.iter().map(move |key| (at + 1, key)))
            };
            let places: Vec<String> = kept().map(|(place, _)| place.to_string()).collect();
            let element = Element { form: Binary::Int8, oid: 20 };
            arrays.push(Array::new(Some(element), places.iter().map(|place| Some(place.as_bytes()))));
            arrays.extend(columns_of(kept().map(|(_, key)| key), &target.elements(&target.key)));
        }
        Draft::Execute(Shape::Delete { by, keeps }, arrays, "deleting from")
    }

    fn put<'a>(&self, put: Put, layout: &Layout, omitted: &[usize], rows: &'a [Tuple]) -> Vec<Draft<'a>> {
        let put = if omitted.is_empty() { put } else { Put::Update };
        let (columns, cells) = given(layout, omitted);
        if self.takes_copy(put, rows) {
            let encoded = rows::encode(rows, &cells, &self.table().binary(&columns));
            let shape = Shape::Copy { columns: columns.clone(), is_binary: encoded.is_some() };
            return match encoded {
                Some(parts) => vec![Draft::Copy(shape, Copied::Binary(parts)), Draft::Compare(columns)],
                None => vec![Draft::Copy(shape, Copied::Lines(rows, cells))],
            };
        }
        let put = if put == Put::UpsertNew { Put::Upsert } else { put };
        let elements = self.table().elements(&columns);
        let statement = |rows: &[Tuple]| {
            let cells = cells.iter().zip(&elements);
            let column = |(&cell, element): (&usize, &Option<Element>)| {
                Array::new(*element, rows.iter().map(|tuple| tuple.cell(cell).text()))
            };
            let arrays = cells.map(column).collect();
            Draft::Execute(Shape::Put { put, columns: columns.clone() }, arrays, "writing to")
        };
        self.parts(rows).into_iter().map(statement).collect()
    }

    fn takes_copy(&self, put: Put, rows: &[Tuple]) -> bool {
        self.may_copy() && matches!(put, Put::UpsertNew | Put::Insert) && rows.len() >= COPY_ROWS_MIN
    }

    fn is_copied(&self, write: &Write) -> bool {
        matches!(write, Write::Put { put, omitted, rows, .. } if omitted.is_empty() && self.takes_copy(*put, rows))
    }

    /// Rows for a statement each.
    fn parts<'a>(&self, rows: &'a [Tuple]) -> Vec<&'a [Tuple]> {
        if self.table().may_split() { split(rows, Tuple::size) } else { vec![rows] }
    }

    /// Removals for a statement each. One that keeps rows keeps them from those after it as well, so these stay together.
    fn removals<'a>(&self, keys: &'a [Removal]) -> Vec<&'a [Removal]> {
        let keeps = keys.iter().any(|(_, keep)| !keep.is_empty());
        if self.table().may_split() && !keeps { split(keys, |(key, _)| key.size()) } else { vec![keys] }
    }

    fn fits_one_statement(&self, write: &Write) -> bool {
        match write {
            Write::Delete { keys, .. } => self.removals(keys).len() == 1,
            Write::Put { rows, .. } => self.parts(rows).len() == 1,
            Write::Truncate | Write::Rekey { .. } => false,
        }
    }
}

/// Rows in parts that a statement may be given, in order.
fn split<T>(mut rows: &[T], size: impl Fn(&T) -> usize) -> Vec<&[T]> {
    let mut parts = Vec::new();
    while !rows.is_empty() {
        let mut bytes = 0;
        let fits = rows.iter().take(STATEMENT_ROWS_MAX).take_while(|row| {
            bytes += size(row);
            bytes <= STATEMENT_BYTES_MAX
        });
        let (part, rest) = rows.split_at(fits.count().max(1));
        parts.push(part);
        rows = rest;
    }
    parts
}

fn rekey<'a>(old: &Key, row: &Row) -> Vec<Draft<'a>> {
    fn single(value: Option<&[u8]>) -> Array {
        Array::new(None, std::iter::once(value))
    }
    let what = "moving a row's key in";
    let mut drafts = Vec::new();
    if let Some(new) = row.key() {
        let keys = new.values().chain(old.values()).map(|value| single(Some(value))).collect();
        drafts.push(Draft::Execute(Shape::MakeRoom, keys, what));
    }
    let (columns, cells) = given(&row.layout, &row.omitted());
    let values = cells.iter().map(|&cell| row.tuple.cell(cell).text());
    let arrays = values.chain(old.values().map(Some)).map(single).collect();
    drafts.push(Draft::Execute(Shape::Rekey { columns }, arrays, what));
    drafts
}

/// Keys as an array for each of their columns.
fn columns_of<'a>(keys: impl Iterator<Item = &'a Key> + Clone, elements: &[Option<Element>]) -> Vec<Array> {
    let columns = elements.iter().enumerate();
    columns.map(|(at, element)| Array::new(*element, keys.clone().map(|key| key.values().nth(at)))).collect()
}

/// Columns that a row gives, and their cells.
fn given(layout: &Layout, omitted: &[usize]) -> (Vec<String>, Vec<usize>) {
    let columns = layout.columns.iter().enumerate().filter(|(at, _)| !omitted.contains(at));
    columns.map(|(_, (name, cell))| (name.clone(), *cell)).unzip()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_given_some_rows_and_bytes_and_one_at_least() {
        let half = STATEMENT_BYTES_MAX / 2;
        for (sizes, expected) in [
            (vec![], vec![]),
            (vec![1], vec![1]),
            (vec![0; 25_000], vec![10_000, 10_000, 5_000]),
            (vec![half, half, 1], vec![2, 1]),
            (vec![half + 1, half, half, 5 * half, 1, 2], vec![1, 2, 1, 2]),
        ] {
            let parts = split(&sizes, |&size| size);
            assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), expected);
            assert_eq!(parts.concat(), sizes);
        }
    }
}
