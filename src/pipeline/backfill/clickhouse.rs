//! The way of a backfill's rows into ClickHouse: out of the source's COPY, row by row, in pieces into the output. Memory holds
//! one piece; what was sent when it breaks off does no harm, and is sent again.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::readers::{Piece, Readers};
use super::{begin, copy_span, load_path};
use crate::change::{Cell, Tuple};
use crate::config::Action;
use crate::pipeline::counts::Counts;
use crate::pipeline::definition::{Checked, Definition};
use crate::pipeline::encoding;
use crate::pipeline::reading::Reading;
use crate::pipeline::trace;
use crate::postgres::Session;
use crate::sink::clickhouse::{Fill, Writer};
use crate::sink::{Layout, Load};
use crate::transform::query::CopyQuery;

/// Rows that load.sql is handed at once.
const LOAD_ROWS: usize = 1000;

/// Fills the output from the snapshot that is open on `source`.
pub async fn fill(
    definition: &Definition,
    reading: &Reading,
    source: &Session,
    writer: &mut Writer,
    counts: &Counts,
) -> Checked<()> {
    let copies = begin(definition, source, counts).await?;
    let readers = Readers::gather(definition, reading, source, &copies).await?;
    let mut fill = writer.begin_fill(reading.snapshot.start_lsn, definition.is_only_writer).await?;
    let mut rows = 0;
    for (number, (copy, load)) in copies.iter().enumerate() {
        let (sender, pieces) = mpsc::channel(1);
        let write = async {
            match load {
                Some(load) => pipe_to_load(definition, pieces, load, writer).await,
                None => pipe(definition, pieces, copy, writer, &mut fill).await,
            }
        };
        let piping = async { tokio::try_join!(readers.read(number, copy, false, sender, counts), write) };
        rows += trace::observed(copy_span(definition, number), piping).await?.1;
    }
    let on = definition.pipeline.output.on;
    let removes_others = definition.is_only_writer
        && on.delete == Action::Delete
        && on.insert == Action::Upsert
        && definition.rules_have_key();
    writer.end_fill(fill, removes_others).await?;
    tracing::info!(event = "backfilled", pipeline = %definition.pipeline.name, rows, "backfill done");
    Ok(())
}

async fn pipe(
    definition: &Definition,
    mut pieces: mpsc::Receiver<Piece>,
    copy: &CopyQuery,
    writer: &mut Writer,
    fill: &mut Fill,
) -> Checked<u64> {
    let Some(target) = writer.target() else { return Ok(0) };
    let columns = encoding::of_columns(&copy.columns);
    let encodings = encoding::encodings(definition, target, &columns)?;
    let cells = columns.into_iter().enumerate().map(|(at, (name, _))| (name, at)).collect();
    let layout = Arc::new(Layout { encodings, ..Layout::new(cells, &target.key, &target.replace) });
    let mut rows = 0;
    while let Some(piece) = pieces.recv().await {
        for line in lines(&piece) {
            writer.fill(fill, &layout, decode_copy_line(line)).await?;
        }
        rows += piece.rows;
    }
    Ok(rows)
}

async fn pipe_to_load(
    definition: &Definition,
    mut pieces: mpsc::Receiver<Piece>,
    load: &Load,
    writer: &mut Writer,
) -> Checked<u64> {
    let (mut rows, mut some) = (0, Vec::new());
    while let Some(piece) = pieces.recv().await {
        for line in lines(&piece) {
            some.push(decode_copy_line(line));
            if some.len() == LOAD_ROWS {
                writer.load_rows(load, &std::mem::take(&mut some)).await?;
            }
        }
        rows += piece.rows;
    }
    writer.load_rows(load, &some).await?;
    writer.load_run(load, &load_path(definition)).await?;
    Ok(rows)
}

/// COPY's text form has a line for each row: a value's own line ends are escaped.
fn lines(piece: &Piece) -> impl Iterator<Item = &[u8]> {
    piece.bytes.split_inclusive(|&byte| byte == b'\n')
}

/// A row of COPY's text form.
fn decode_copy_line(line: &[u8]) -> Tuple {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut plain = Vec::new();
    let cells = line.split(|&byte| byte == b'\t').map(|value| match value {
        b"\\N" => None,
        value => {
            let start = plain.len();
            unescape(value, &mut plain);
            Some(start..plain.len())
        }
    });
    let cells: Vec<_> = cells.collect();
    cells.into_iter().map(|cell| cell.map_or(Cell::Null, |range| Cell::Text(&plain[range]))).collect()
}

fn unescape(value: &[u8], plain: &mut Vec<u8>) {
    let mut bytes = value.iter();
    while let Some(&byte) = bytes.next() {
        plain.push(match byte {
            b'\\' => match bytes.next() {
                Some(b'b') => 8,
                Some(b'f') => 12,
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b't') => b'\t',
                Some(b'v') => 11,
                Some(&other) => other,
                None => b'\\',
            },
            byte => byte,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Line<'a> = (&'a [u8], &'a [Option<&'a [u8]>]);

    #[test]
    fn a_line_of_copy_is_the_values_that_went_in() {
        let rows: [Line; 4] = [
            (b"1\ta\n", &[Some(b"1"), Some(b"a")]),
            (b"\\N\t\t\\\\N\n", &[None, Some(b""), Some(b"\\N")]),
            (b"a\\tb\\nc\\rd\\\\e\\b\\f\\v\n", &[Some(b"a\tb\nc\rd\\e\x08\x0c\x0b")]),
            (b"\\\\x00\n", &[Some(b"\\x00")]),
        ];
        for (line, expected) in rows {
            let tuple = decode_copy_line(line);
            assert_eq!(tuple.cells().map(Cell::text).collect::<Vec<_>>(), expected);
        }
    }
}
