//! Values that hold others: arrays, vectors, hstore, points.

use std::borrow::Cow;

use super::{EncodeError, Form, decode_float, is_or, put_len};

/// `{1,NULL,"a b"}`, or arrays within it where the elements are arrays.
pub(super) fn encode_array(value: &[u8], element: &Form, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    is_or(!value.starts_with(b"["), EncodeError::LowerBound)?;
    let mut text = Text(value);
    array(&mut text, element, out)?;
    is_or(text.0.is_empty(), EncodeError::Unreadable)
}

fn array(text: &mut Text<'_>, element: &Form, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    text.expect(b"{")?;
    let mut elements = Vec::new();
    let mut count = 0;
    while !text.take(b"}") {
        if count > 0 {
            text.expect(b",")?;
        }
        count += 1;
        match element {
            Form::Array(inner) if text.0.starts_with(b"{") => array(text, inner, &mut elements)?,
            Form::Array(_) => return Err(EncodeError::Dimensions),
            _ if text.0.starts_with(b"{") => return Err(EncodeError::Dimensions),
            form if text.0.starts_with(b"\"") => form.encode(Some(&text.quoted()?), &mut elements)?,
            form => {
                let value = text.until(b",}")?;
                let value = (!value.eq_ignore_ascii_case(b"NULL")).then_some(value);
                form.encode(value, &mut elements)?;
            }
        }
    }
    put_len(count, out);
    out.append(&mut elements);
    Ok(())
}

/// `[1,2.5]`
pub(super) fn encode_vector(value: &[u8], element: &Form, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let inner = value.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]"));
    let inner = inner.ok_or(EncodeError::Unreadable)?;
    let parts: Vec<&[u8]> = inner.split(|&byte| byte == b',').collect();
    put_len(parts.len(), out);
    parts.into_iter().try_for_each(|part| element.encode(Some(part), out))
}

/// `"a"=>"1", "b"=>NULL`
pub(super) fn encode_hstore(value: &[u8], element: &Form, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let mut text = Text(value);
    let mut pairs = Vec::new();
    let mut count = 0;
    while !text.0.is_empty() {
        if count > 0 {
            text.expect(b", ")?;
        }
        count += 1;
        Form::Text.encode(Some(&text.quoted()?), &mut pairs)?;
        text.expect(b"=>")?;
        let value = if text.take(b"NULL") { None } else { Some(text.quoted()?) };
        element.encode(value.as_deref(), &mut pairs)?;
    }
    put_len(count, out);
    out.append(&mut pairs);
    Ok(())
}

/// `(1,2)`
pub(super) fn encode_point(value: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let mut text = Text(value);
    text.expect(b"(")?;
    for end in [b',', b')'] {
        let number = decode_float::<f64>(text.until(&[end])?)?;
        text.expect(&[end])?;
        out.extend_from_slice(&number.to_le_bytes());
    }
    is_or(text.0.is_empty(), EncodeError::Unreadable)
}

/// What is left to be read.
struct Text<'a>(&'a [u8]);

impl<'a> Text<'a> {
    fn take(&mut self, word: &[u8]) -> bool {
        let rest = self.0.strip_prefix(word);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn expect(&mut self, word: &[u8]) -> Result<(), EncodeError> {
        is_or(self.take(word), EncodeError::Unreadable)
    }

    /// All before one of these bytes, which has to come.
    fn until(&mut self, ends: &[u8]) -> Result<&'a [u8], EncodeError> {
        let at = self.0.iter().position(|byte| ends.contains(byte)).ok_or(EncodeError::Unreadable)?;
        let (before, rest) = self.0.split_at(at);
        self.0 = rest;
        is_or(!before.is_empty(), EncodeError::Unreadable)?;
        Ok(before)
    }

    /// What stands between double quotes; a backslash there makes the next byte stand for itself.
    fn quoted(&mut self) -> Result<Cow<'a, [u8]>, EncodeError> {
        self.expect(b"\"")?;
        let at =
            self.0.iter().position(|byte| matches!(byte, b'"' | b'\\')).ok_or(EncodeError::Unreadable)?;
        let (before, rest) = self.0.split_at(at);
        self.0 = rest;
        if self.take(b"\"") {
            return Ok(before.into());
        }
        let mut plain = before.to_vec();
        loop {
            match self.0 {
                [b'"', rest @ ..] => {
                    self.0 = rest;
                    return Ok(plain.into());
                }
                [b'\\', byte, rest @ ..] | [byte, rest @ ..] => {
                    plain.push(*byte);
                    self.0 = rest;
                }
                [] => return Err(EncodeError::Unreadable),
            }
        }
    }
}
