//! Rows as lines of COPY's text form, on their way into a COPY. Every value is the text that its output function wrote, so it is
//! read by the input function of the column that it goes to. Never chooses tables or columns.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::SinkExt;
use tokio_postgres::CopyInSink;

use crate::change::{Cell, Tuple};

/// What is sent at a time.
pub(super) const PART_BYTES: usize = 64 * 1024;

/// Sends these cells of the rows, and waits until the server has taken them all.
pub async fn send(
    mut copy: Pin<Box<CopyInSink<Bytes>>>,
    rows: &[Tuple],
    cells: &[usize],
) -> Result<(), tokio_postgres::Error> {
    let mut part = Vec::with_capacity(PART_BYTES);
    for tuple in rows {
        push_line(&mut part, tuple, cells);
        if let Some(full) = take_full(&mut part) {
            copy.send(full).await?;
        }
    }
    copy.send(Bytes::from(part)).await?;
    copy.as_mut().finish().await.map(drop)
}

/// The part, once it is about full; another is begun then.
pub(super) fn take_full(part: &mut Vec<u8>) -> Option<Bytes> {
    let is_full = part.len() > PART_BYTES * 9 / 10;
    is_full.then(|| Bytes::from(std::mem::replace(part, Vec::with_capacity(PART_BYTES))))
}

fn push_line(out: &mut Vec<u8>, tuple: &Tuple, cells: &[usize]) {
    for (at, &cell) in cells.iter().enumerate() {
        if at > 0 {
            out.push(b'\t');
        }
        match tuple.cell(cell) {
            Cell::Null | Cell::Unchanged => out.extend_from_slice(b"\\N"),
            Cell::Text(text) => push_value(out, text),
        }
    }
    out.push(b'\n');
}

fn push_value(out: &mut Vec<u8>, text: &[u8]) {
    // Without a way out of the loop, the compiler looks at many bytes at once; most values have nothing to mask.
    let has_special = text.iter().fold(false, |found, byte| found | is_special(*byte));
    if has_special { push_masked(out, text) } else { out.extend_from_slice(text) }
}

fn is_special(byte: u8) -> bool {
    matches!(byte, b'\\' | b'\n' | b'\r' | b'\t')
}

fn push_masked(out: &mut Vec<u8>, mut text: &[u8]) {
    while let Some(place) = text.iter().position(|byte| is_special(*byte)) {
        let letter = match text[place] {
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            other => other,
        };
        out.extend_from_slice(&text[..place]);
        out.extend_from_slice(&[b'\\', letter]);
        text = &text[place + 1..];
    }
    out.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_holds_any_value() {
        let values: [(Cell<'_>, &str); 7] = [
            (Cell::Text(b"a\tb\\N\nc\r"), "a\\tb\\\\N\\nc\\r"),
            (Cell::Null, "\\N"),
            (Cell::Text(b""), ""),
            (Cell::Text(b"\\."), "\\\\."),
            (Cell::Text(b"\n\n"), "\\n\\n"),
            (Cell::Text("é".as_bytes()), "é"),
            (Cell::Text(b"\\N"), "\\\\N"),
        ];
        let tuple: Tuple = values.iter().map(|(cell, _)| *cell).collect();
        for (at, (cell, expected)) in values.iter().enumerate() {
            let mut line = Vec::new();
            push_line(&mut line, &tuple, &[at]);
            assert_eq!(String::from_utf8(line).unwrap(), format!("{expected}\n"), "{cell:?}");
        }
        let mut line = Vec::new();
        push_line(&mut line, &tuple, &[5, 1, 2]);
        assert_eq!(String::from_utf8(line).unwrap(), "é\t\\N\t\n");
    }
}
