//! Whole and decimal numbers of up to 256 bits, from digits.

use super::EncodeError;

/// The lowest 64 bits first.
type Magnitude = [u64; 4];

/// Numbers of a fixed width: what is written is the value times 10^scale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::clickhouse) struct Number {
    bytes: usize,
    scale: usize,
    /// The largest, and how far the smallest lies below zero.
    bounds: [Magnitude; 2],
}

impl Number {
    /// `Int8` to `Int256`.
    pub(in crate::clickhouse) fn int(bits: u16) -> Self {
        let half = ones(bits.saturating_sub(1));
        Number { bytes: usize::from(bits / 8), scale: 0, bounds: [half, plus_one(half)] }
    }

    /// `UInt8` to `UInt256`.
    pub(in crate::clickhouse) fn uint(bits: u16) -> Self {
        Number { bytes: usize::from(bits / 8), scale: 0, bounds: [ones(bits), [0; 4]] }
    }

    /// `Decimal(precision, scale)`; None where there is no such type.
    pub(in crate::clickhouse) fn decimal(precision: u8, scale: u8) -> Option<Self> {
        let bytes = match precision {
            1..=9 => 4,
            10..=18 => 8,
            19..=38 => 16,
            39..=76 => 32,
            _ => return None,
        };
        let nines = (0..precision).try_fold([0; 4], |number, _| push_digit(number, 9))?;
        Some(Number { bytes, scale: scale.into(), bounds: [nines, nines] })
    }

    /// Writes digits with or without a sign and a point.
    pub(super) fn encode(&self, value: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let (is_negative, digits) = match value {
            [b'-', rest @ ..] => (true, rest),
            rest => (false, rest),
        };
        if matches!(digits, b"NaN" | b"Infinity") {
            return Err(EncodeError::NotFinite);
        }
        let magnitude = self.magnitude(digits)?;
        if is_less(self.bounds[usize::from(is_negative)], magnitude) {
            return Err(EncodeError::OutOfRange);
        }
        let number = if is_negative { negative(magnitude) } else { magnitude };
        let bytes = number.iter().flat_map(|part| part.to_le_bytes());
        out.extend(bytes.take(self.bytes));
        Ok(())
    }

    fn magnitude(&self, digits: &[u8]) -> Result<Magnitude, EncodeError> {
        let mut magnitude = [0; 4];
        let mut places = None;
        let mut has_digits = false;
        for &byte in digits {
            match (byte, places) {
                (b'.', None) => places = Some(0),
                (b'0'..=b'9', _) => {
                    has_digits = true;
                    match &mut places {
                        Some(places) if *places == self.scale => {
                            // Zeros beyond the scale are no loss.
                            if byte != b'0' {
                                return Err(EncodeError::TooPrecise);
                            }
                            continue;
                        }
                        Some(places) => *places += 1,
                        None => {}
                    }
                    magnitude = push_digit(magnitude, byte - b'0').ok_or(EncodeError::OutOfRange)?;
                }
                _ => return Err(EncodeError::Unreadable),
            }
        }
        if !has_digits {
            return Err(EncodeError::Unreadable);
        }
        for _ in places.unwrap_or_default()..self.scale {
            magnitude = push_digit(magnitude, 0).ok_or(EncodeError::OutOfRange)?;
        }
        Ok(magnitude)
    }
}

/// Ten times the number and a digit; None beyond 256 bits.
fn push_digit(number: Magnitude, digit: u8) -> Option<Magnitude> {
    let mut carry = u128::from(digit);
    let next = number.map(|part| {
        let sum = u128::from(part) * 10 + carry;
        carry = sum >> 64;
        sum as u64
    });
    (carry == 0).then_some(next)
}

/// The number of so many ones in binary.
fn ones(bits: u16) -> Magnitude {
    let part = |index: u16| match bits.saturating_sub(64 * index) {
        0 => 0,
        left @ 1..64 => (1 << left) - 1,
        _ => u64::MAX,
    };
    [0, 1, 2, 3].map(part)
}

fn plus_one(number: Magnitude) -> Magnitude {
    let mut is_carried = true;
    number.map(|part| {
        let (sum, overflows) = part.overflowing_add(is_carried.into());
        is_carried = overflows;
        sum
    })
}

/// Two's complement.
fn negative(number: Magnitude) -> Magnitude {
    plus_one(number.map(|part| !part))
}

fn is_less(a: Magnitude, b: Magnitude) -> bool {
    a.iter().rev().lt(b.iter().rev())
}
