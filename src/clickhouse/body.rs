//! Request bodies: a piece at a time, compressed on the way where the server undoes that, with a clock that tells how long the
//! server has been taking nothing. Sends nothing itself.

use std::io::{self, Write};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use std::vec;

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame};
use lz4_flex::frame::FrameEncoder;

/// As much as is compressed at once.
const PIECE_BYTES_MAX: usize = 256 << 10;

/// Since when the other side has been expected to do something: to take the next piece, or to answer.
#[derive(Debug, Clone)]
pub(super) struct Progress(Arc<Mutex<Instant>>);

impl Progress {
    pub(super) fn new() -> Self {
        Progress(Arc::new(Mutex::new(Instant::now())))
    }

    fn made(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Returns once the other side has been silent for so long.
    pub(super) async fn stalled(&self, limit: Duration) {
        loop {
            let since = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let left = limit.saturating_sub(since.elapsed());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }
}

enum Encoding {
    Plain,
    Lz4(Box<FrameEncoder<Vec<u8>>>),
    /// The frame has ended.
    Ended,
}

/// A body, as it is or in HTTP's `Content-Encoding: lz4`.
pub(super) struct Outgoing {
    parts: vec::IntoIter<Bytes>,
    /// What of a part isn't compressed yet.
    pending: Bytes,
    encoding: Encoding,
    progress: Progress,
}

impl Outgoing {
    /// These parts, one after another.
    pub(super) fn new(parts: Vec<Bytes>, is_compressed: bool, progress: Progress) -> Self {
        let encoding = match is_compressed {
            true => Encoding::Lz4(Box::new(FrameEncoder::new(Vec::new()))),
            false => Encoding::Plain,
        };
        Outgoing { parts: parts.into_iter(), pending: Bytes::new(), encoding, progress }
    }

    fn next_piece(&mut self) -> io::Result<Option<Bytes>> {
        while let Encoding::Lz4(encoder) = &mut self.encoding {
            if self.pending.is_empty() {
                let Some(part) = self.parts.next() else { break };
                self.pending = part;
            }
            let piece = self.pending.split_to(self.pending.len().min(PIECE_BYTES_MAX));
            encoder.write_all(&piece)?;
            let compressed = std::mem::take(encoder.get_mut());
            if !compressed.is_empty() {
                return Ok(Some(compressed.into()));
            }
        }
        match std::mem::replace(&mut self.encoding, Encoding::Ended) {
            Encoding::Lz4(encoder) => {
                encoder.finish().map(|rest| Some(rest.into())).map_err(io::Error::other)
            }
            Encoding::Ended => Ok(None),
            Encoding::Plain => {
                self.encoding = Encoding::Plain;
                Ok(self.parts.next())
            }
        }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.progress.made();
        Poll::Ready(self.next_piece().transpose().map(|piece| piece.map(Frame::data)))
    }
}

/// Parts of a form: fields, then one file, each in the way that browsers send them.
pub(super) struct Form {
    boundary: String,
    head: BytesMut,
}

impl Form {
    /// The boundary must occur in no part: a random one doesn't.
    pub(super) fn new(boundary: String) -> Self {
        Form { boundary, head: BytesMut::new() }
    }

    /// The request's `Content-Type`.
    pub(super) fn content_type(&self) -> String {
        format!("multipart/form-data; boundary={}", self.boundary)
    }

    /// Adds a field. Its name is ours.
    pub(super) fn field(&mut self, name: &str, value: &str) {
        self.part(&format!("name=\"{name}\""));
        self.head.extend_from_slice(value.as_bytes());
        self.head.extend_from_slice(b"\r\n");
    }

    /// All of it, with the file last.
    pub(super) fn with_file(mut self, name: &str, content: Bytes) -> Vec<Bytes> {
        self.part(&format!("name=\"{name}\"; filename=\"{name}\""));
        let end = format!("\r\n--{}--\r\n", self.boundary);
        vec![self.head.freeze(), content, end.into()]
    }

    fn part(&mut self, disposition: &str) {
        let head = format!("--{}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n", self.boundary);
        self.head.extend_from_slice(head.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn what_goes_in_pieces_is_one_text_compressed_or_not() {
        let (empty, large) = (Bytes::new(), Bytes::from(vec![7; 3 * PIECE_BYTES_MAX + 5]));
        for parts in [vec![], vec![empty.clone()], vec![Bytes::from("a"), empty, Bytes::from("b"), large]] {
            let body =
                Outgoing::new(parts.clone(), true, Progress::new()).collect().await.unwrap().to_bytes();
            let mut plain = Vec::new();
            lz4_flex::frame::FrameDecoder::new(body.as_ref()).read_to_end(&mut plain).unwrap();
            assert_eq!(plain, parts.concat());
            let body =
                Outgoing::new(parts.clone(), false, Progress::new()).collect().await.unwrap().to_bytes();
            assert_eq!(body, parts.concat());
        }
    }

    #[tokio::test]
    async fn a_side_that_makes_progress_is_not_silent() {
        let progress = Progress::new();
        progress.stalled(Duration::from_millis(1)).await;
        progress.made();
        let waited =
            tokio::time::timeout(Duration::from_millis(30), progress.stalled(Duration::from_secs(60)));
        assert!(waited.await.is_err());
    }
}
