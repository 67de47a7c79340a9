//! Values in binary form, made of what their output functions wrote: a server takes them in quicker than text, which it looks at
//! byte by byte. Reads one spelling of each type only, the one that a server writes under our settings; whatever differs is
//! left to the server, as text. Pure.
//!
//! The forms are those of the types' receive functions (`*recv` in the server's `utils/adt`).

use tokio_postgres::types::{Kind, Type};

use super::catalog::{TEXT_OID, TypeName};

/// A type whose binary form is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    /// One byte, 0 or 1.
    Bool,
    /// Two bytes, the highest first.
    Int2,
    /// Four bytes.
    Int4,
    /// Eight bytes.
    Int8,
    /// IEEE 754, four bytes.
    Float4,
    /// IEEE 754, eight bytes.
    Float8,
    /// The text itself: strings, JSON, the labels of an enum.
    Text,
    /// A version, then JSON's text.
    Jsonb,
    /// Its sixteen bytes.
    Uuid,
    /// The bytes themselves.
    Bytea,
    /// Days since 2000-01-01, four bytes.
    Date,
    /// Microseconds since midnight, eight bytes.
    Time,
    /// Microseconds since 2000-01-01, eight bytes.
    Timestamp,
    /// The same, in UTC.
    Timestamptz,
    /// Digits of base 10,000 behind what places them.
    Numeric,
}

/// The type of an array's elements, where their binary form is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Element {
    /// Their form.
    pub form: Binary,
    /// `pg_type.oid`.
    pub oid: u32,
}

impl Element {
    /// Of a parameter that takes a column's values; what has no array of its own goes as texts.
    pub fn of(type_name: &TypeName) -> Option<Element> {
        match type_name.array_sql {
            Some(_) => Some(Element { form: Binary::of(type_name)?, oid: type_name.base_oid }),
            None => Some(Element { form: Binary::Text, oid: TEXT_OID }),
        }
    }

    /// Of a statement's parameter.
    pub fn of_param(array: &Type) -> Option<Element> {
        let Kind::Array(element) = array.kind() else { return None };
        let form = Binary::of_oid(element.oid(), matches!(element.kind(), Kind::Enum(_)))?;
        Some(Element { form, oid: element.oid() })
    }
}

/// From 1970-01-01 to 2000-01-01, where the server's time begins.
const EPOCH_DAYS: i64 = 10_957;
const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;

impl Binary {
    /// The form of a column's type, or of the type beneath a domain.
    pub fn of(type_name: &TypeName) -> Option<Binary> {
        Binary::of_oid(type_name.base_oid, type_name.is_enum)
    }

    fn of_oid(oid: u32, is_enum: bool) -> Option<Binary> {
        Some(match oid {
            16 => Binary::Bool,
            21 => Binary::Int2,
            23 => Binary::Int4,
            20 => Binary::Int8,
            700 => Binary::Float4,
            701 => Binary::Float8,
            // text, varchar, char(n), json
            25 | 1043 | 1042 | 114 => Binary::Text,
            3802 => Binary::Jsonb,
            2950 => Binary::Uuid,
            17 => Binary::Bytea,
            1082 => Binary::Date,
            1083 => Binary::Time,
            1114 => Binary::Timestamp,
            1184 => Binary::Timestamptz,
            1700 => Binary::Numeric,
            _ if is_enum => Binary::Text,
            _ => return None,
        })
    }

    /// Appends a value as arrays and COPY hold it: its length, -1 for NULL, and its binary form. None as with [`encode`](Self::encode).
    pub fn push(self, value: Option<&[u8]>, out: &mut Vec<u8>) -> Option<()> {
        let place = out.len();
        out.extend_from_slice(&(-1_i32).to_be_bytes());
        if let Some(text) = value {
            self.encode(text, out)?;
            let length = i32::try_from(out.len() - place - 4).ok()?;
            out[place..place + 4].copy_from_slice(&length.to_be_bytes());
        }
        Some(())
    }

    /// Appends the binary form of a value. None, and `out` may hold a part of it, where the text isn't one that is known to mean
    /// the same.
    pub fn encode(self, text: &[u8], out: &mut Vec<u8>) -> Option<()> {
        match self {
            Binary::Bool => out.push(match text {
                b"t" => 1,
                b"f" => 0,
                _ => return None,
            }),
            Binary::Int2 => out.extend_from_slice(&parse::<i16>(text)?.to_be_bytes()),
            Binary::Int4 => out.extend_from_slice(&parse::<i32>(text)?.to_be_bytes()),
            Binary::Int8 => out.extend_from_slice(&parse::<i64>(text)?.to_be_bytes()),
            Binary::Float4 => {
                let value = parse::<f32>(text)?;
                is_plain_float(text, value.is_finite(), value == 0.0)?;
                out.extend_from_slice(&value.to_be_bytes());
            }
            Binary::Float8 => {
                let value = parse::<f64>(text)?;
                is_plain_float(text, value.is_finite(), value == 0.0)?;
                out.extend_from_slice(&value.to_be_bytes());
            }
            Binary::Text => out.extend_from_slice(text),
            Binary::Jsonb => {
                // The version of the form.
                out.push(1);
                out.extend_from_slice(text);
            }
            Binary::Uuid => encode_uuid(text, out)?,
            Binary::Bytea => encode_hex(text.strip_prefix(b"\\x")?, out)?,
            Binary::Date => out.extend_from_slice(&i32::try_from(date(text)?).ok()?.to_be_bytes()),
            Binary::Time => match clock(text)? {
                (micros, b"") => out.extend_from_slice(&micros.to_be_bytes()),
                _ => return None,
            },
            Binary::Timestamp => match timestamp(text)? {
                (micros, b"") => out.extend_from_slice(&micros.to_be_bytes()),
                _ => return None,
            },
            Binary::Timestamptz => {
                let (micros, zone) = timestamp(text)?;
                out.extend_from_slice(&(micros - offset(zone)?).to_be_bytes());
            }
            Binary::Numeric => encode_numeric(text, out)?,
        }
        Some(())
    }
}

fn parse<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    // Rust takes a `+`, and the words of a float; both only where the server takes them, but none that the server writes.
    let is_number = text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'-' | b'.' | b'e' | b'+'));
    if !is_number || text.first() == Some(&b'+') {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A server refuses what is too large or too small for the type, where Rust rounds.
fn is_plain_float(text: &[u8], is_finite: bool, is_zero: bool) -> Option<()> {
    let mantissa = text.split(|&byte| byte == b'e').next()?;
    let has_digits = mantissa.iter().any(|byte| matches!(byte, b'1'..=b'9'));
    (is_finite && is_zero != has_digits).then_some(())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

fn encode_hex(digits: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    for [high, low] in pairs {
        out.push(hex(*high)? << 4 | hex(*low)?);
    }
    Some(())
}

/// `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`
fn encode_uuid(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut parts = text.split(|&byte| byte == b'-');
    for length in [8, 4, 4, 4, 12] {
        encode_hex(parts.next().filter(|part| part.len() == length)?, out)?;
    }
    parts.next().is_none().then_some(())
}

/// A number of exactly so many digits.
fn digits(text: &[u8]) -> Option<i64> {
    text.iter().try_fold(0, |value, byte| byte.is_ascii_digit().then(|| value * 10 + i64::from(byte - b'0')))
}

/// `YYYY-MM-DD` of the years 1 to 9999, as days since 2000-01-01.
fn date(text: &[u8]) -> Option<i64> {
    let &[y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = text else { return None };
    let (year, month, day) = (digits(&[y1, y2, y3, y4])?, digits(&[m1, m2])?, digits(&[d1, d2])?);
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if year == 0 || !(1..=days).contains(&day) {
        return None;
    }
    // Years that begin in March, so that the leap day is the last of one; 400 of them have 146,097 days.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (year / 400, year % 400);
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year;
    Some(days - 719_468 - EPOCH_DAYS)
}

/// `HH:MM:SS`, maybe with a fraction, as microseconds; and what follows.
fn clock(text: &[u8]) -> Option<(i64, &[u8])> {
    let (&[h1, h2, b':', m1, m2, b':', s1, s2], mut rest) = text.split_first_chunk()? else { return None };
    let (hour, minute, second) = (digits(&[h1, h2])?, digits(&[m1, m2])?, digits(&[s1, s2])?);
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut micros = ((hour * 60 + minute) * 60 + second) * SECOND;
    if let Some(fraction) = rest.strip_prefix(b".") {
        let length = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if !(1..=6).contains(&length) {
            return None;
        }
        micros += digits(&fraction[..length])? * 10_i64.pow(6 - u32::try_from(length).ok()?);
        rest = &fraction[length..];
    }
    Some((micros, rest))
}

/// `YYYY-MM-DD HH:MM:SS…` as microseconds since 2000-01-01; and what follows.
fn timestamp(text: &[u8]) -> Option<(i64, &[u8])> {
    let (day, rest) = text.split_at_checked(10)?;
    let (micros, rest) = clock(rest.strip_prefix(b" ")?)?;
    Some((date(day)? * DAY + micros, rest))
}

/// `+HH`, `+HH:MM` or `+HH:MM:SS` as microseconds.
fn offset(text: &[u8]) -> Option<i64> {
    let (sign, time) = match text.split_first()? {
        (b'+', time) => (1, time),
        (b'-', time) => (-1, time),
        _ => return None,
    };
    let mut seconds = 0;
    let mut parts = time.split(|&byte| byte == b':');
    for (unit, most) in [(3600, 15), (60, 59), (1, 59)] {
        match parts.next() {
            Some(part) if part.len() == 2 => {
                seconds += digits(part).filter(|&value| value <= most)? * unit;
            }
            None if unit != 3600 => {}
            _ => return None,
        }
    }
    parts.next().is_none().then_some(sign * seconds * SECOND)
}

/// Digits of base 10,000, with the place of the first, the sign, and how many decimal digits follow the point.
fn encode_numeric(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (sign, text): (u16, _) = match text.strip_prefix(b"-") {
        Some(text) => (0x4000, text),
        None => (0, text),
    };
    let point = text.iter().position(|&byte| byte == b'.').unwrap_or(text.len());
    let (whole, fraction) = (&text[..point], text.get(point + 1..).unwrap_or_default());
    if whole.is_empty() || (point < text.len() && fraction.is_empty()) || text.len() > 10_000 {
        return None;
    }
    let start = out.len();
    out.extend_from_slice(&[0; 8]);
    let first = whole.len() % 4;
    let mut places = whole.len() / 4;
    if first > 0 {
        out.extend_from_slice(&u16::try_from(digits(&whole[..first])?).ok()?.to_be_bytes());
        places += 1;
    }
    for four in whole[first..].chunks(4) {
        out.extend_from_slice(&u16::try_from(digits(four)?).ok()?.to_be_bytes());
    }
    for four in fraction.chunks(4) {
        let scale = 10_i64.pow(4 - u32::try_from(four.len()).ok()?);
        out.extend_from_slice(&u16::try_from(digits(four)? * scale).ok()?.to_be_bytes());
    }
    let count = u16::try_from((out.len() - start - 8) / 2).ok()?;
    // Zeros at either end and a minus before nothing are the server's to take off.
    let weight = i16::try_from(places).ok()? - 1;
    let scale = u16::try_from(fraction.len()).ok()?;
    let head = [count.to_be_bytes(), weight.to_be_bytes(), sign.to_be_bytes(), scale.to_be_bytes()];
    out[start..start + 8].copy_from_slice(head.as_flattened());
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(form: Binary, text: &str) -> Option<String> {
        let mut out = Vec::new();
        form.encode(text.as_bytes(), &mut out)?;
        Some(out.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    #[test]
    fn what_a_server_writes_has_its_binary_form() {
        let long = |value: i64| format!("{value:016x}");
        for (form, text, expected) in [
            (Binary::Bool, "t", "01".into()),
            (Binary::Bool, "f", "00".into()),
            (Binary::Int2, "-32768", "8000".into()),
            (Binary::Int4, "2147483647", "7fffffff".into()),
            (Binary::Int8, "-1", "ffffffffffffffff".into()),
            (Binary::Float4, "1.5", "3fc00000".into()),
            (Binary::Float8, "-0", "8000000000000000".into()),
            (Binary::Float8, "5e-324", "0000000000000001".into()),
            (Binary::Text, "é", "c3a9".into()),
            (Binary::Text, "", "".into()),
            (Binary::Jsonb, "{}", "017b7d".into()),
            (Binary::Uuid, "00112233-4455-6677-8899-aabbccddeeff", "00112233445566778899aabbccddeeff".into()),
            (Binary::Bytea, "\\x00fF", "00ff".into()),
            (Binary::Bytea, "\\x", "".into()),
            (Binary::Date, "2000-01-01", "00000000".into()),
            (Binary::Date, "1999-12-31", "ffffffff".into()),
            (Binary::Date, "2000-02-29", "0000003b".into()),
            (Binary::Date, "2000-03-01", "0000003c".into()),
            (Binary::Date, "1970-01-01", format!("{:08x}", -10_957_i32)),
            (Binary::Date, "0001-01-01", format!("{:08x}", -730_119_i32)),
            (Binary::Date, "9999-12-31", format!("{:08x}", 2_921_939_i32)),
            (Binary::Time, "23:59:59.999999", long(86_399_999_999)),
            (Binary::Timestamp, "2000-01-01 00:00:01.5", long(1_500_000)),
            (Binary::Timestamp, "1999-12-31 23:59:59", long(-1_000_000)),
            (Binary::Timestamptz, "2000-01-01 00:00:00+00", long(0)),
            (Binary::Timestamptz, "2000-01-01 00:00:00+05:30", long(-19_800_000_000)),
            (Binary::Timestamptz, "2000-01-01 00:00:00-00:00:07", long(7_000_000)),
            // digits, weight, sign, scale; then the digits
            (Binary::Numeric, "0", "00010000000000000000".into()),
            (Binary::Numeric, "-12345.678", "0003000140000003000109291a7c".into()),
            (Binary::Numeric, "0.0001", "00020000000000040000".to_owned() + "0001"),
            (Binary::Numeric, "10000", "000200010000000000010000".into()),
        ] {
            assert_eq!(encoded(form, text), Some(expected), "{form:?} {text}");
        }
    }

    #[test]
    fn every_other_spelling_is_left_to_the_server() {
        for (form, texts) in [
            (Binary::Bool, &["", "true", "T", "1"][..]),
            (Binary::Int2, &["", "32768", " 1", "1 ", "+1", "1.0", "0x1", "1_0", "٣"]),
            (Binary::Int8, &["9223372036854775808", "--1", "-"]),
            (Binary::Float4, &["NaN", "Infinity", "1e39", "1e-60", "1f", "nan", "inf", ""]),
            (Binary::Float8, &["-Infinity", "1e400", "1e-400", "e5", "."]),
            (
                Binary::Uuid,
                &["", "00112233445566778899aabbccddeeff", "{00112233-4455-6677-8899-aabbccddeeff}"],
            ),
            (Binary::Uuid, &["00112233-4455-6677-8899-aabbccddeef", "0011223g-4455-6677-8899-aabbccddeeff"]),
            (Binary::Bytea, &["", "x00", "\\x0", "\\x 00", "\\000"]),
            (
                Binary::Date,
                &["0000-01-01", "2001-02-29", "1900-02-29", "2000-13-01", "2000-00-01", "2000-04-31"],
            ),
            (
                Binary::Date,
                &["infinity", "10000-01-01", "0044-03-15 BC", "2000-01-00", "2000/01/01", "01-01-2000"],
            ),
            (
                Binary::Time,
                &[
                    "24:00:00",
                    "23:60:00",
                    "23:59:60",
                    "1:00:00",
                    "00:00:00+00",
                    "00:00:00.",
                    "00:00:00.0000000",
                ],
            ),
            (
                Binary::Timestamp,
                &["2000-01-01 00:00:00+00", "2000-01-01T00:00:00", "2000-01-01", "-infinity"],
            ),
            (Binary::Timestamp, &["0044-03-15 00:00:00 BC", "2000-01-01 00:00", "2000-01-01 00:00:00 PM"]),
            (Binary::Timestamptz, &["2000-01-01 00:00:00", "2000-01-01 00:00:00+", "2000-01-01 00:00:00+0"]),
            (
                Binary::Timestamptz,
                &["2000-01-01 00:00:00+16", "2000-01-01 00:00:00+00:60", "2000-01-01 00:00:00+00:00:00:00"],
            ),
            (
                Binary::Timestamptz,
                &["2000-01-01 00:00:00Z", "2000-01-01 00:00:00 UTC", "2000-01-01 00:00:00+00 BC"],
            ),
            (
                Binary::Numeric,
                &["", "-", ".5", "5.", "1e5", "NaN", "Infinity", "+1", " 1", "1,5", "1.2.3", "--1"],
            ),
        ] {
            texts.iter().for_each(|text| assert_eq!(encoded(form, text), None, "{form:?} {text}"));
        }
    }
}
