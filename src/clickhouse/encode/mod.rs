//! Postgres's values, in text form as `postgres::settings` pins it, as RowBinary. Every value is exact or an error: what
//! a type doesn't hold, the server would take in silence and show as something else. Pure; no input makes it panic.

mod nested;
mod number;
mod time;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(super) use number::Number;
pub(super) use time::Span;

/// How values of one Postgres type go into one ClickHouse type. Made by `mapping::accepts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoding(pub(super) Form);

/// The forms of values, by what is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Form {
    /// As it is, with its length before it.
    Text,
    /// bytea's hex, as bytes.
    Bytes,
    /// So many bytes: of a text, or of a bytea.
    Fixed {
        len: usize,
        is_bytea: bool,
    },
    /// In so many bytes.
    Bool {
        bytes: usize,
    },
    Number(Number),
    Float32,
    Float64,
    /// A real, which isn't the double that has the same digits.
    Float32As64,
    Uuid,
    /// Days in 2 or 4 bytes.
    Date {
        bytes: usize,
        span: Span,
    },
    /// Ticks of 10^-scale seconds in 4 or 8 bytes.
    Timestamp {
        bytes: usize,
        scale: u8,
        span: Span,
    },
    /// Ticks within the day, the same.
    Time {
        bytes: usize,
        scale: u8,
    },
    Enum {
        bytes: usize,
        labels: BTreeMap<String, i16>,
    },
    Ipv4,
    Ipv6,
    Json,
    Nullable(Box<Form>),
    Array(Box<Form>),
    /// pgvector's.
    Vector(Box<Form>),
    Hstore(Box<Form>),
    Point,
}

/// Why a value can't be written. Says nothing of the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// NULL where there can be none.
    #[error(
        "a NULL, which the column can't hold: make it Nullable, or give another value in the SQL (coalesce)"
    )]
    Null,
    /// Beyond the type's bounds.
    #[error("a value beyond what the column's type holds")]
    OutOfRange,
    /// Digits after the point that would be lost.
    #[error("a value with more digits after the point than the column's type holds")]
    TooPrecise,
    /// A number that is none.
    #[error("NaN or Infinity, which the column's type can't hold: give another value in the SQL")]
    NotFinite,
    /// A time that is none.
    #[error("infinity, which the column's type can't hold: give another value in the SQL")]
    Infinity,
    /// A label that an Enum lacks.
    #[error("a label that the column's Enum lacks: add it, or make the column LowCardinality(String)")]
    UnknownLabel,
    /// Shorter or longer than a FixedString.
    #[error("a value that isn't exactly as long as the column's FixedString")]
    WrongLength,
    /// Another depth of arrays.
    #[error("an array with more or fewer dimensions than the column has")]
    Dimensions,
    /// An array that doesn't count from 1.
    #[error("an array with bounds of its own, which ClickHouse's arrays can't have")]
    LowerBound,
    /// JSON that isn't an object.
    #[error("JSON that is no object, which a JSON column can't hold: make the column a String")]
    NotAnObject,
    /// A network.
    #[error("a network or an address of another family than the column's: make the column a String")]
    NotAnAddress,
    /// Not in the form that the session settings ask for.
    #[error("a value that isn't written as expected")]
    Unreadable,
}

impl Encoding {
    /// Appends the value; None is NULL. After an error `out` is as it was.
    pub fn encode(&self, value: Option<&[u8]>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        let result = self.0.encode(value, out);
        if result.is_err() {
            out.truncate(start);
        }
        result
    }
}

impl Form {
    fn encode(&self, value: Option<&[u8]>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match (self, value) {
            (Form::Nullable(_), None) => {
                out.push(1);
                Ok(())
            }
            (Form::Nullable(inner), Some(_)) => {
                out.push(0);
                inner.encode(value, out)
            }
            (_, None) => Err(EncodeError::Null),
            (form, Some(value)) => form.encode_present(value, out),
        }
    }

    fn encode_present(&self, value: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self {
            Form::Text => put_text(value, out),
            Form::Bytes => {
                let digits = hex_digits(value)?;
                put_len(digits.len() / 2, out);
                put_hex(digits, out)?;
            }
            Form::Fixed { len, is_bytea: true } => {
                let digits = hex_digits(value)?;
                is_or(digits.len() == len.saturating_mul(2), EncodeError::WrongLength)?;
                put_hex(digits, out)?;
            }
            Form::Fixed { len, is_bytea: false } => {
                is_or(value.len() == *len, EncodeError::WrongLength)?;
                out.extend_from_slice(value);
            }
            Form::Bool { bytes } => put_bytes(i64::from(decode_bool(value)?), *bytes, out),
            Form::Number(number) => number.encode(value, out)?,
            Form::Float32 => out.extend_from_slice(&decode_float::<f32>(value)?.to_le_bytes()),
            Form::Float64 => out.extend_from_slice(&decode_float::<f64>(value)?.to_le_bytes()),
            Form::Float32As64 => {
                out.extend_from_slice(&f64::from(decode_float::<f32>(value)?).to_le_bytes());
            }
            Form::Uuid => put_uuid(value, out)?,
            Form::Date { bytes, span } => put_bytes(time::decode_date(value, *span)?, *bytes, out),
            Form::Timestamp { bytes, scale, span } => {
                put_bytes(time::decode_timestamp(value, *scale, *span)?, *bytes, out);
            }
            Form::Time { bytes, scale } => put_bytes(time::decode_time(value, *scale)?, *bytes, out),
            Form::Enum { bytes, labels } => {
                let label = text(value)?;
                put_bytes((*labels.get(label).ok_or(EncodeError::UnknownLabel)?).into(), *bytes, out);
            }
            Form::Ipv4 => match decode_address(value)? {
                IpAddr::V4(address) => out.extend_from_slice(&u32::from(address).to_le_bytes()),
                IpAddr::V6(_) => return Err(EncodeError::NotAnAddress),
            },
            Form::Ipv6 => match decode_address(value)? {
                IpAddr::V6(address) if address.to_ipv4_mapped().is_none() => out.extend(address.octets()),
                _ => return Err(EncodeError::NotAnAddress),
            },
            Form::Json => {
                is_or(value.trim_ascii_start().starts_with(b"{"), EncodeError::NotAnObject)?;
                put_text(value, out);
            }
            // ClickHouse has none within another.
            Form::Nullable(inner) => inner.encode(Some(value), out)?,
            Form::Array(element) => nested::encode_array(value, element, out)?,
            Form::Vector(element) => nested::encode_vector(value, element, out)?,
            Form::Hstore(element) => nested::encode_hstore(value, element, out)?,
            Form::Point => nested::encode_point(value, out)?,
        }
        Ok(())
    }
}

/// What an assertion is for a value from outside.
fn is_or(holds: bool, error: EncodeError) -> Result<(), EncodeError> {
    if holds { Ok(()) } else { Err(error) }
}

fn text(value: &[u8]) -> Result<&str, EncodeError> {
    std::str::from_utf8(value).map_err(|_| EncodeError::Unreadable)
}

/// A length, seven bits to a byte, the lowest first.
fn put_len(len: usize, out: &mut Vec<u8>) {
    let mut left = len;
    while left >= 0x80 {
        out.push((left & 0x7f) as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

/// A `String`: its length, then its bytes. For whoever writes names and types before the rows.
pub fn put_text(text: &[u8], out: &mut Vec<u8>) {
    put_len(text.len(), out);
    out.extend_from_slice(text);
}

/// The number's lowest bytes, the lowest first.
fn put_bytes(number: i64, bytes: usize, out: &mut Vec<u8>) {
    let all = number.to_le_bytes();
    out.extend_from_slice(&all[..bytes.min(8)]);
    let sign = if number < 0 { 0xff } else { 0 };
    out.resize(out.len() + bytes.saturating_sub(8), sign);
}

/// What follows `\x`.
fn hex_digits(value: &[u8]) -> Result<&[u8], EncodeError> {
    let digits = value.strip_prefix(b"\\x").ok_or(EncodeError::Unreadable)?;
    is_or(digits.len().is_multiple_of(2), EncodeError::Unreadable)?;
    Ok(digits)
}

fn put_hex(digits: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    for pair in digits.chunks_exact(2) {
        out.push(hex_digit(pair[0])? << 4 | hex_digit(pair[1])?);
    }
    Ok(())
}

fn hex_digit(digit: u8) -> Result<u8, EncodeError> {
    let number = char::from(digit).to_digit(16).ok_or(EncodeError::Unreadable)?;
    Ok(number as u8)
}

fn decode_bool(value: &[u8]) -> Result<bool, EncodeError> {
    match value {
        b"t" | b"true" => Ok(true),
        b"f" | b"false" => Ok(false),
        _ => Err(EncodeError::Unreadable),
    }
}

/// Postgres's shortest digits give back the very number.
fn decode_float<T: std::str::FromStr>(value: &[u8]) -> Result<T, EncodeError> {
    text(value)?.parse().map_err(|_| EncodeError::Unreadable)
}

/// Two halves, the higher one first, each with its lowest byte first.
fn put_uuid(value: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let mut number: u128 = 0;
    let mut digits = 0;
    for &byte in value.iter().filter(|&&byte| byte != b'-') {
        is_or(digits < 32, EncodeError::Unreadable)?;
        number = number << 4 | u128::from(hex_digit(byte)?);
        digits += 1;
    }
    is_or(digits == 32, EncodeError::Unreadable)?;
    out.extend_from_slice(&((number >> 64) as u64).to_le_bytes());
    out.extend_from_slice(&(number as u64).to_le_bytes());
    Ok(())
}

/// An address without a mask.
fn decode_address(value: &[u8]) -> Result<IpAddr, EncodeError> {
    let text = text(value)?;
    let v4 = text.parse::<Ipv4Addr>().map(IpAddr::V4);
    v4.or_else(|_| text.parse::<Ipv6Addr>().map(IpAddr::V6)).map_err(|_| EncodeError::NotAnAddress)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
