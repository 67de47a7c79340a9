//! Dates and times, from ISO texts in UTC.

use super::EncodeError;

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;

/// The days that a type holds, the last one included, counted from 1970-01-01.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::clickhouse) struct Span {
    first: i64,
    last: i64,
}

impl Span {
    /// `Date`: 16 bits.
    pub(in crate::clickhouse) const DATE: Span = Span { first: 0, last: u16::MAX as i64 };
    /// `DateTime`: 32 bits of seconds.
    pub(in crate::clickhouse) const DATE_TIME: Span = Span { first: 0, last: u32::MAX as i64 / 86_400 };
    /// Years 0001 to 9999.
    pub(in crate::clickhouse) const WIDE: Span = Span { first: -719_162, last: 2_932_896 };
    /// Years 1900 to 2299, which is all that older servers know.
    pub(in crate::clickhouse) const NARROW: Span = Span { first: -25_567, last: 120_529 };

    fn verify(self, day: i64) -> Result<i64, EncodeError> {
        if (self.first..=self.last).contains(&day) { Ok(day) } else { Err(EncodeError::OutOfRange) }
    }
}

/// `2024-02-29`, as days since 1970-01-01.
pub(super) fn decode_date(value: &[u8], span: Span) -> Result<i64, EncodeError> {
    verify_finite(value)?;
    span.verify(day(value)?)
}

/// `2024-02-29 12:00:00.5+00`, as ticks since 1970-01-01.
pub(super) fn decode_timestamp(value: &[u8], scale: u8, span: Span) -> Result<i64, EncodeError> {
    verify_finite(value)?;
    let value = value.strip_suffix(b"+00").unwrap_or(value);
    let space = value.iter().position(|&byte| byte == b' ').ok_or(EncodeError::Unreadable)?;
    let (date, time) = (&value[..space], &value[space + 1..]);
    let day = span.verify(day(date)?)?;
    // Both parts are small by what was verified.
    let ticks = ticks(i128::from(day) * i128::from(MICROS_PER_DAY) + i128::from(micros(time)?), scale)?;
    let is_beyond = span == Span::DATE_TIME && ticks > i64::from(u32::MAX);
    if is_beyond { Err(EncodeError::OutOfRange) } else { Ok(ticks) }
}

/// `12:00:00.5`, as ticks since midnight. A day may end with 24:00:00.
pub(super) fn decode_time(value: &[u8], scale: u8) -> Result<i64, EncodeError> {
    ticks(micros(value)?.into(), scale)
}

fn verify_finite(value: &[u8]) -> Result<(), EncodeError> {
    match value {
        b"infinity" | b"-infinity" => Err(EncodeError::Infinity),
        value if value.ends_with(b" BC") => Err(EncodeError::OutOfRange),
        _ => Ok(()),
    }
}

fn ticks(micros: i128, scale: u8) -> Result<i64, EncodeError> {
    let ticks = match scale {
        0..6 => {
            let unit = 10_i128.pow(6 - u32::from(scale));
            if micros % unit != 0 {
                return Err(EncodeError::TooPrecise);
            }
            micros / unit
        }
        6..=9 => micros * 10_i128.pow(u32::from(scale) - 6),
        _ => return Err(EncodeError::OutOfRange),
    };
    i64::try_from(ticks).map_err(|_| EncodeError::OutOfRange)
}

/// `2024-02-29`; years may have more digits than four.
fn day(date: &[u8]) -> Result<i64, EncodeError> {
    let mut parts = date.splitn(3, |&byte| byte == b'-');
    let mut next = || parts.next().ok_or(EncodeError::Unreadable);
    let (year, month, day) = (number(next()?)?, two_digits(next()?)?, two_digits(next()?)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return Err(EncodeError::Unreadable);
    }
    // Years that begin with March, so that the day that some lack comes last.
    let year = if month > 2 { year } else { year - 1 };
    let (era, month) = (year.div_euclid(400), (month + 9) % 12);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Ok(era * 146_097 + day_of_era - 719_468)
}

/// `12:00:00.5`
fn micros(time: &[u8]) -> Result<i64, EncodeError> {
    let mut parts = time.splitn(3, |&byte| byte == b':');
    let mut next = || parts.next().ok_or(EncodeError::Unreadable);
    let (hours, minutes, seconds) = (two_digits(next()?)?, two_digits(next()?)?, next()?);
    let (seconds, fraction) = match seconds.iter().position(|&byte| byte == b'.') {
        Some(point) => (&seconds[..point], &seconds[point + 1..]),
        None => (seconds, &b""[..]),
    };
    let seconds = two_digits(seconds)?;
    if hours > 24 || minutes > 59 || seconds > 59 || fraction.len() > 6 {
        return Err(EncodeError::Unreadable);
    }
    let mut micros = if fraction.is_empty() { 0 } else { number(fraction)? };
    for _ in fraction.len()..6 {
        micros *= 10;
    }
    Ok(((hours * 60 + minutes) * 60 + seconds) * MICROS_PER_SECOND + micros)
}

/// Postgres writes no fewer: with one, the value was cut on its way.
fn two_digits(digits: &[u8]) -> Result<i64, EncodeError> {
    if digits.len() == 2 { number(digits) } else { Err(EncodeError::Unreadable) }
}

/// A few digits.
fn number(digits: &[u8]) -> Result<i64, EncodeError> {
    if digits.is_empty() || digits.len() > 9 {
        return Err(EncodeError::Unreadable);
    }
    digits.iter().try_fold(0, |number, byte| match byte {
        b'0'..=b'9' => Ok(number * 10 + i64::from(byte - b'0')),
        _ => Err(EncodeError::Unreadable),
    })
}
