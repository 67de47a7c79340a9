//! A server's bytes on a replication connection, from the socket to changes: cut into messages, frames, transactions.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use tokio::io::{AsyncRead, ReadBuf};
use trucker::postgres::MessageReader;
use trucker::source::assemble::{Assembler, Step};
use trucker::source::stream::Frame;

/// However the network cuts the bytes, the same messages come out, each byte is in one of them, and what they add up
/// to are transactions whose rows fit their tables.
pub fn check(data: &[u8]) {
    let Some((&cut, bytes)) = data.split_first() else { return };
    let whole = messages(bytes, usize::MAX);
    let pieces = messages(bytes, usize::from(cut) + 1);
    assert_eq!(whole, pieces);
    let taken: usize = whole.iter().map(|(_, body)| 5 + body.len()).sum();
    assert!(taken <= bytes.len());
    let rebuilt = whole.iter().flat_map(|(tag, body)| {
        let length = u32::try_from(body.len() + 4).expect("came with 32 bits");
        [&[*tag], &length.to_be_bytes()[..], body].concat()
    });
    assert!(rebuilt.eq(bytes[..taken].iter().copied()));
    assemble(whole);
}

fn messages(bytes: &[u8], cut: usize) -> Vec<(u8, Vec<u8>)> {
    let mut from = Cut { bytes, cut };
    let mut reader = MessageReader::default();
    let mut messages = Vec::new();
    while let Some(Ok(message)) = reader.next(&mut from).now_or_never() {
        messages.push((message.tag, message.body.to_vec()));
    }
    messages
}

fn assemble(messages: Vec<(u8, Vec<u8>)>) {
    let mut assembler = Assembler::default();
    let mut is_open = false;
    for (tag, body) in messages {
        let message = trucker::postgres::BackendMessage { tag, body: body.into() };
        let Ok(frame) = Frame::decode(message) else { return };
        let Some(Frame::Data { payload, .. }) = frame else { continue };
        match assembler.push(&payload) {
            Err(_) => return,
            Ok(Step::Begin { .. }) => assert!(!std::mem::replace(&mut is_open, true)),
            Ok(Step::Commit { .. }) => assert!(std::mem::replace(&mut is_open, false)),
            Ok(Step::Change(change)) => {
                assert!(is_open);
                for tuple in change.old.iter().chain(&change.new) {
                    assert_eq!(tuple.len(), change.relation.columns.len());
                    assert_eq!(tuple.cells().count(), tuple.len());
                }
            }
            Ok(Step::Truncate(_)) => assert!(is_open),
            Ok(Step::Nothing) => {}
        }
        assert_eq!(assembler.is_open(), is_open);
    }
}

/// A network that hands over so many bytes at a time.
struct Cut<'a> {
    bytes: &'a [u8],
    cut: usize,
}

impl AsyncRead for Cut<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let length = self.cut.min(buffer.remaining()).min(self.bytes.len());
        let (now, later) = self.bytes.split_at(length);
        buffer.put_slice(now);
        self.bytes = later;
        Poll::Ready(Ok(()))
    }
}
