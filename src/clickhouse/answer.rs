//! What a SELECT answers, out of TabSeparated: texts as the server prints them.

/// Rows of a small result.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// Each with one value per column; None is NULL.
    pub rows: Vec<Vec<Option<String>>>,
}

impl Answer {
    /// The value in the first row's first column.
    pub fn first(&self) -> Option<&str> {
        self.rows.first()?.first()?.as_deref()
    }

    /// Reads TabSeparated. Bytes that are no UTF-8 are replaced.
    pub(super) fn decode(text: &[u8]) -> Self {
        let lines = text.strip_suffix(b"\n").unwrap_or(text);
        if text.is_empty() {
            return Answer::default();
        }
        let rows = lines.split(|&byte| byte == b'\n');
        Answer {
            rows: rows.map(|row| row.split(|&byte| byte == b'\t').map(decode_value).collect()).collect(),
        }
    }
}

/// A line of TabSeparated, without its end.
pub(super) fn decode_row(line: &[u8]) -> Vec<Option<Vec<u8>>> {
    line.split(|&byte| byte == b'\t').map(decode_bytes).collect()
}

fn decode_value(value: &[u8]) -> Option<String> {
    let plain = decode_bytes(value)?;
    Some(
        String::from_utf8(plain)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
    )
}

fn decode_bytes(value: &[u8]) -> Option<Vec<u8>> {
    if value == b"\\N" {
        return None;
    }
    let mut plain = Vec::with_capacity(value.len());
    let mut rest = value.iter();
    while let Some(&byte) = rest.next() {
        plain.push(match byte {
            b'\\' => match rest.next() {
                Some(b'n') => b'\n',
                Some(b't') => b'\t',
                Some(b'r') => b'\r',
                Some(b'b') => 8,
                Some(b'f') => 12,
                Some(b'0') => 0,
                Some(&other) => other,
                None => b'\\',
            },
            byte => byte,
        });
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_out_as_they_went_in() {
        let row = |values: &[Option<&str>]| values.iter().map(|v| v.map(str::to_owned)).collect::<Vec<_>>();
        for (text, rows) in [
            (&b""[..], vec![]),
            (b"\n", vec![row(&[Some("")])]),
            (b"1\t\\N\t\n", vec![row(&[Some("1"), None, Some("")])]),
            (b"a\\tb\\\\\\n\\'\n\\N\n", vec![row(&[Some("a\tb\\\n'")]), row(&[None])]),
            (b"\xff\\\n", vec![row(&[Some("\u{fffd}\\")])]),
        ] {
            assert_eq!(Answer::decode(text).rows, rows, "{text:?}");
        }
    }
}
