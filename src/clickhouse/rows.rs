//! The rows of an answer of any size, one by one as they come: memory is bounded by the longest row. Sends nothing.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::answer::decode_row;
use super::error::Error;

/// An answer in TabSeparated that is being read.
pub struct Rows {
    pub(super) connection: String,
    pub(super) incoming: Incoming,
    pub(super) read: BytesMut,
    /// Of `read`, where no line ends.
    pub(super) searched: usize,
    /// How long the server may say nothing.
    pub(super) silence_max: Duration,
}

impl Rows {
    /// The next row, which has so many columns; None at the end.
    pub async fn next(&mut self, columns: usize) -> Result<Option<Vec<Option<Vec<u8>>>>, Error> {
        loop {
            if let Some(end) = self.read[self.searched..].iter().position(|&byte| byte == b'\n') {
                let line = self.read.split_to(self.searched + end);
                self.read.advance(1);
                self.searched = 0;
                let row = decode_row(&line);
                // What goes wrong on the way is told within the answer, which is cut off then.
                return if row.len() == columns { Ok(Some(row)) } else { Err(self.broken("it isn't a row")) };
            }
            self.searched = self.read.len();
            let frame = tokio::time::timeout(self.silence_max, self.incoming.frame()).await;
            match frame.map_err(|_| self.broken("nothing has come for minutes"))? {
                Some(Ok(frame)) => {
                    frame.data_ref().into_iter().for_each(|data| self.read.extend_from_slice(data))
                }
                Some(Err(error)) => return Err(self.broken(&error.to_string())),
                None if self.read.is_empty() => return Ok(None),
                None => return Err(self.broken("it ends within a row")),
            }
        }
    }

    fn broken(&self, why: &str) -> Error {
        Error::network(&self.connection, format!("an answer broke off: {why}"))
    }
}
