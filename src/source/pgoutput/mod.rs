//! The `pgoutput` plugin's messages (PostgreSQL documentation, "Logical Replication Message Formats"),
//! protocol versions 1 to 4, from bytes to values.
//!
//! Pure, and without memory of earlier messages: that a row belongs to a relation described before, or
//! that a commit follows its begin, is checked where transactions are assembled. Input is not trusted:
//! nothing here can panic, or allocate more than in proportion to the message.

mod cursor;
mod message;
#[cfg(test)]
mod tests;

pub use message::{Message, OldTuple, ServerTime, TwoPhase};

use cursor::Cursor;

/// What has to be known to read a message, since the message itself doesn't say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// `proto_version` as asked for in START_REPLICATION, 1 to 4.
    pub protocol: u32,
    /// Whether the message stands between a Stream Start and its Stream Stop: then most carry an xid.
    pub in_stream: bool,
    /// Whether `streaming 'parallel'` was asked for: then a Stream Abort carries where and when.
    pub parallel: bool,
}

impl Context {
    /// For protocol version 1, in which there are no streamed blocks.
    pub const V1: Context = Context { protocol: 1, in_stream: false, parallel: false };
}

/// The bytes are no message of the protocol version asked for. Shows no part of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message ended before or inside this field, or the field announces more than there is.
    #[error("pgoutput message ends too early, at: {field}")]
    Truncated {
        /// The field, in words.
        field: &'static str,
    },
    /// Bytes are left after the message's last field.
    #[error("pgoutput message '{tag}' has {count} bytes too many")]
    TrailingBytes {
        /// First byte of the message.
        tag: char,
        /// How many are left.
        count: usize,
    },
    /// There is no such message in this protocol version.
    #[error("no pgoutput message of protocol version {protocol} begins with byte {tag:#04x} ({:?})", char::from(*.tag))]
    UnknownTag {
        /// First byte of the message.
        tag: u8,
        /// The version that was asked for.
        protocol: u32,
    },
    /// A name was not UTF-8, although the connection's client_encoding is.
    #[error("pgoutput sent a {field} that isn't UTF-8")]
    NotUtf8 {
        /// The field, in words.
        field: &'static str,
    },
    /// The field can't have this value.
    #[error("pgoutput sent {value} as {field}")]
    Invalid {
        /// The field, in words.
        field: &'static str,
        /// The number as sent; letters by their code.
        value: i64,
    },
    /// A value came in binary form, which START_REPLICATION didn't ask for.
    #[error("pgoutput sent a binary value, which wasn't asked for")]
    BinaryCell,
}

/// Reads one message: the payload of one XLogData frame.
pub fn decode(payload: &[u8], context: &Context) -> Result<Message, DecodeError> {
    let mut cursor = Cursor::new(payload);
    let tag = cursor.u8("message type")?;
    let message = message::decode_body(tag, &mut cursor, context)?;
    cursor.finish(tag)?;
    Ok(message)
}
