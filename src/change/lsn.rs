//! Log sequence numbers: a byte position in a server's WAL, written `16/B374D848`.

use std::fmt;
use std::str::FromStr;

/// A position in the WAL. Which position (start of a commit record, first byte after it, end of what
/// was received) is said by the name of the field that holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Before everything; Postgres calls it invalid.
    pub const ZERO: Lsn = Lsn(0);

    /// Bytes from `earlier` to here; 0 if `earlier` is later.
    pub fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 as u32)
    }
}

/// The text was not of the form `X/X` with two 32-bit hexadecimal numbers.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not an LSN: expected two hexadecimal numbers with a slash between them")]
pub struct ParseLsnError;

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, ParseLsnError> {
        let (high, low) = text.split_once('/').ok_or(ParseLsnError)?;
        let part = |s: &str| match s.len() {
            1..=8 if s.bytes().all(|b| b.is_ascii_hexdigit()) => {
                u32::from_str_radix(s, 16).map_err(|_| ParseLsnError)
            }
            _ => Err(ParseLsnError),
        };
        Ok(Lsn(u64::from(part(high)?) << 32 | u64::from(part(low)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_number_agree() {
        for (text, number) in [
            ("0/0", 0),
            ("0/1", 1),
            ("1/0", 1 << 32),
            ("16/B374D848", 0x16_B374_D848),
            ("FFFFFFFF/FFFFFFFF", u64::MAX),
        ] {
            assert_eq!(text.parse(), Ok(Lsn(number)));
            assert_eq!(Lsn(number).to_string(), text);
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "/", "0", "0/", "/0", "0/G", "123456789/0", "+1/0", "0/0/0", " 0/0"] {
            assert_eq!(text.parse::<Lsn>(), Err(ParseLsnError), "{text:?}");
        }
    }
}
