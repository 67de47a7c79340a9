//! Request bodies: compressed on the way, a piece at a time, with a clock that tells how long the server has been taking
//! nothing. Sends nothing itself.

use std::io::{self, Write};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use hyper::body::{Body, Frame};
use lz4_flex::frame::FrameEncoder;

/// As much as is compressed at once.
const PIECE_BYTES_MAX: usize = 256 << 10;

/// Since when the other side has been expected to do something: to take the next piece, or to answer.
#[derive(Debug, Clone)]
pub(super) struct Progress(Arc<Mutex<Option<Instant>>>);

impl Progress {
    pub(super) fn new() -> Self {
        Progress(Arc::new(Mutex::new(Some(Instant::now()))))
    }

    fn set(&self, since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// Returns once the other side has been silent for so long. The time that our own source takes doesn't count.
    pub(super) async fn stalled(&self, limit: Duration) {
        loop {
            let since = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let left = since.map_or(limit, |since| limit.saturating_sub(since.elapsed()));
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }
}

/// A body as LZ4 frames of HTTP's `Content-Encoding: lz4`.
pub(super) struct Compressed<S> {
    source: S,
    /// What the source gave last and isn't compressed yet.
    pending: Bytes,
    /// None once the frame has ended.
    encoder: Option<FrameEncoder<Vec<u8>>>,
    progress: Progress,
}

impl<S> Compressed<S> {
    pub(super) fn new(source: S, progress: Progress) -> Self {
        let encoder = Some(FrameEncoder::new(Vec::new()));
        Compressed { source, pending: Bytes::new(), encoder, progress }
    }
}

impl<S: Stream<Item = io::Result<Bytes>> + Unpin> Body for Compressed<S> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        loop {
            let Some(mut encoder) = self.encoder.take() else { return Poll::Ready(None) };
            if self.pending.is_empty() {
                match Pin::new(&mut self.source).poll_next(context) {
                    Poll::Pending => {
                        self.progress.set(None);
                        self.encoder = Some(encoder);
                        return Poll::Pending;
                    }
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                    Poll::Ready(Some(Ok(bytes))) => self.pending = bytes,
                    Poll::Ready(None) => {
                        self.progress.set(Some(Instant::now()));
                        let rest = encoder.finish().map_err(io::Error::other)?;
                        return Poll::Ready(Some(Ok(Frame::data(rest.into()))));
                    }
                }
            }
            let len = self.pending.len().min(PIECE_BYTES_MAX);
            let piece = self.pending.split_to(len);
            encoder.write_all(&piece)?;
            let compressed = std::mem::take(encoder.get_mut());
            self.encoder = Some(encoder);
            if !compressed.is_empty() {
                self.progress.set(Some(Instant::now()));
                return Poll::Ready(Some(Ok(Frame::data(compressed.into()))));
            }
        }
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
    pub(super) fn with_file(mut self, name: &str, content: Bytes) -> [Bytes; 3] {
        self.part(&format!("name=\"{name}\"; filename=\"{name}\""));
        let end = format!("\r\n--{}--\r\n", self.boundary);
        [self.head.freeze(), content, end.into()]
    }

    fn part(&mut self, disposition: &str) {
        let head = format!("--{}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n", self.boundary);
        self.head.extend_from_slice(head.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use futures_util::stream;
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn what_is_compressed_in_pieces_is_one_text() {
        let (empty, large) = (Bytes::new(), Bytes::from(vec![7; 3 * PIECE_BYTES_MAX + 5]));
        for chunks in [vec![], vec![empty.clone()], vec![Bytes::from("a"), empty, Bytes::from("b"), large]] {
            let source = stream::iter(chunks.clone().into_iter().map(Ok));
            let body = Compressed::new(source, Progress::new()).collect().await.unwrap().to_bytes();
            let mut plain = Vec::new();
            lz4_flex::frame::FrameDecoder::new(body.as_ref()).read_to_end(&mut plain).unwrap();
            assert_eq!(plain, chunks.concat());
        }
    }

    #[tokio::test]
    async fn a_source_that_fails_ends_the_body_with_its_error() {
        let source = stream::iter([Ok(Bytes::from("a")), Err(io::Error::other("gone"))]);
        let error = Compressed::new(source, Progress::new()).collect().await.unwrap_err();
        assert_eq!(error.to_string(), "gone");
    }

    #[tokio::test]
    async fn only_the_other_sides_silence_counts() {
        let progress = Progress::new();
        let limit = Duration::from_millis(1);
        progress.stalled(limit).await;
        progress.set(None);
        let waited = tokio::time::timeout(30 * limit, progress.stalled(limit));
        assert!(waited.await.is_err());
    }
}
