//! Reading one message's bytes front to back. Every length is checked against what is left before it is
//! believed: nothing here can panic, and nothing is allocated.

use super::DecodeError;
use crate::change::Lsn;

/// What is left of a message. Each method takes the field's name, for the error.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn new(payload: &'a [u8]) -> Self {
        Cursor { rest: payload }
    }

    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn bytes(&mut self, length: usize, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(DecodeError::Truncated { field })?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Truncated { field })?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.array(field).map(u32::from_be_bytes)
    }

    pub(super) fn i32(&mut self, field: &'static str) -> Result<i32, DecodeError> {
        self.array(field).map(i32::from_be_bytes)
    }

    pub(super) fn i64(&mut self, field: &'static str) -> Result<i64, DecodeError> {
        self.array(field).map(i64::from_be_bytes)
    }

    pub(super) fn lsn(&mut self, field: &'static str) -> Result<Lsn, DecodeError> {
        self.array(field).map(|bytes| Lsn(u64::from_be_bytes(bytes)))
    }

    /// A 32-bit length or count that the server writes as signed.
    pub(super) fn length(&mut self, field: &'static str) -> Result<usize, DecodeError> {
        let value = self.i32(field)?;
        usize::try_from(value).map_err(|_| DecodeError::Invalid { field, value: i64::from(value) })
    }

    /// A 16-bit number of things of which each takes at least one byte more.
    pub(super) fn count(&mut self, field: &'static str) -> Result<usize, DecodeError> {
        let value = self.array(field).map(i16::from_be_bytes)?;
        let count =
            usize::try_from(value).map_err(|_| DecodeError::Invalid { field, value: i64::from(value) })?;
        if count > self.remaining() {
            return Err(DecodeError::Truncated { field });
        }
        Ok(count)
    }

    /// A text that ends with a zero byte, without that byte.
    pub(super) fn string(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        let end = self.rest.iter().position(|&b| b == 0).ok_or(DecodeError::Truncated { field })?;
        let text = std::str::from_utf8(&self.rest[..end]).map_err(|_| DecodeError::NotUtf8 { field })?;
        self.rest = &self.rest[end + 1..];
        Ok(text)
    }

    /// The message must be over.
    pub(super) fn finish(self, tag: u8) -> Result<(), DecodeError> {
        match self.remaining() {
            0 => Ok(()),
            count => Err(DecodeError::TrailingBytes { tag: char::from(tag), count }),
        }
    }
}
