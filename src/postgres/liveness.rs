//! Notices sessions that carry nothing any more although nobody has closed them: something in between may go on
//! acknowledging what it doesn't pass on. Whoever has waited long for the server's next byte asks, over a connection of its
//! own, what the server is doing. If it waits for us in turn, or knows no such session, bytes were lost. If it can't be
//! asked, or is at work, nothing is concluded: statements may take as long as they like.
//!
//! For ordinary sessions only: a replication stream asks for signs of life in its own protocol.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep, timeout};

use super::connect::{Session, connect};
use super::connect_error::ConnectError;
use super::settings::{Backend, Purpose};
use super::socket::Wire;
use crate::config::PostgresConnection;

/// How long an answer may take before the server is asked for the first time; then twice as long each time.
const QUIET: Duration = Duration::from_secs(10);
/// Between the two looks that have to agree: an answer may be under way.
const AGAIN: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_secs(1);
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);

/// A stream to a server whose bytes are watched.
#[derive(Debug)]
pub(super) struct Watched {
    wire: Wire,
    seen: Arc<Seen>,
}

/// What the bytes that have passed tell of a session.
#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Who is to answer; unknown until the session is ready.
    backend: Option<Backend>,
    /// Kind and length of the server's message under way, as far as they have come.
    header: Vec<u8>,
    /// Bytes of its body that haven't.
    left: usize,
    /// Kind of the server's last message.
    kind: u8,
    /// Something was sent since the server was last ready for it.
    is_busy: bool,
    /// Since when nothing has passed, and we want to read.
    quiet_since: Option<Instant>,
}

impl Watched {
    pub(super) fn new(wire: Wire, seen: Arc<Seen>) -> Self {
        Watched { wire, seen }
    }
}

impl Seen {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn set_backend(&self, backend: &Backend) {
        let known = Some(backend.clone()).filter(|backend| backend.pid != 0);
        self.change(|state| state.backend = known);
    }

    /// Whose answer is waited for, and since when.
    fn waiting(&self) -> Option<(Backend, Instant)> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // After CopyInResponse it is the server who waits.
        let is_ours = !state.is_busy || state.kind == b'G';
        let since = state.quiet_since.filter(|_| !is_ours)?;
        Some((state.backend.clone()?, since))
    }
}

impl State {
    fn received(&mut self, mut bytes: &[u8]) {
        self.quiet_since = None;
        while !bytes.is_empty() {
            if self.left > 0 {
                let count = self.left.min(bytes.len());
                (self.left, bytes) = (self.left - count, &bytes[count..]);
                continue;
            }
            let count = (5 - self.header.len()).min(bytes.len());
            self.header.extend_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            if let Some((&kind, length)) = self.header.split_first()
                && let Ok(length) = <[u8; 4]>::try_from(length)
            {
                // Notices, settings and notifications may come at any time.
                if !matches!(kind, b'N' | b'S' | b'A') {
                    self.kind = kind;
                }
                self.is_busy &= kind != b'Z';
                self.left = (u32::from_be_bytes(length) as usize).saturating_sub(4);
                self.header.clear();
            }
        }
    }

    fn wants(&mut self) {
        self.quiet_since.get_or_insert_with(Instant::now);
    }

    fn sent(&mut self) {
        self.is_busy = true;
        self.quiet_since = self.quiet_since.map(|_| Instant::now());
    }
}

/// Returns when the session is dead, and nobody has said so.
pub(super) async fn lost(to: &PostgresConnection, seen: &Seen) {
    let (mut last, mut patience) = (None, QUIET);
    loop {
        sleep(TICK).await;
        let Some((backend, since)) = seen.waiting() else { continue };
        if last != Some(since) {
            (last, patience) = (Some(since), QUIET);
        }
        if since.elapsed() < patience {
            continue;
        }
        patience *= 2;
        if waits_for_us(to, &backend).await {
            sleep(AGAIN).await;
            let is_unchanged = seen.waiting().is_some_and(|(_, again)| again == since);
            if is_unchanged && waits_for_us(to, &backend).await {
                return;
            }
        }
    }
}

/// Whether the server's process is gone, or waits for us. No, where that can't be found out.
async fn waits_for_us(to: &PostgresConnection, backend: &Backend) -> bool {
    let asking = async {
        let session = probe(to).await.ok()?;
        let asked = &session.backend;
        if asked.server_start != backend.server_start {
            // Started anew, which ended the process; or another server behind the same name, which can't know.
            return Some(asked.server_address == backend.server_address);
        }
        let sql = "SELECT coalesce(wait_event IN ('ClientRead', 'ClientWrite'), false) \
                   FROM pg_catalog.pg_stat_activity WHERE pid = $1";
        let row = session.client.query_opt(sql, &[&backend.pid]).await.ok()?;
        Some(row.is_none_or(|row| row.try_get(0).unwrap_or(false)))
    };
    timeout(PROBE_TIMEOUT, asking).await.ok().flatten().unwrap_or(false)
}

/// Boxed, since each session has a probe in it.
fn probe(
    to: &PostgresConnection,
) -> Pin<Box<dyn Future<Output = Result<Session, ConnectError>> + Send + '_>> {
    Box::pin(connect(to, Purpose::Control))
}

impl AsyncRead for Watched {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.wire).poll_read(context, buffer);
        match &polled {
            Poll::Pending => this.seen.change(State::wants),
            Poll::Ready(_) => this.seen.change(|state| state.received(&buffer.filled()[before..])),
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.wire).poll_write(context, bytes);
        if polled.is_ready() {
            this.seen.change(State::sent);
        }
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().wire).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().wire).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_waited_for(seen: &Seen) -> bool {
        seen.change(State::wants);
        seen.waiting().is_some()
    }

    #[test]
    fn an_answer_is_waited_for_from_the_question_until_the_server_is_ready() {
        let seen = Seen::default();
        assert!(!is_waited_for(&seen));
        seen.set_backend(&Backend { pid: 7, ..Backend::default() });
        seen.change(State::sent);
        assert!(is_waited_for(&seen));
        // In any pieces; a Z within a body is none.
        for piece in [&b"D\0\0"[..], b"\0\x06ZZ", b"C\0\0\0\x05Z", b"Z\0\0"] {
            seen.change(|state| state.received(piece));
            assert!(is_waited_for(&seen), "{piece:?}");
        }
        seen.change(|state| state.received(b"\0\x05I"));
        assert!(!is_waited_for(&seen));
        seen.change(State::sent);
        seen.change(|state| state.received(b"G\0\0\0\x04"));
        assert!(!is_waited_for(&seen), "the server waits for rows");
        seen.change(|state| state.received(b"N\0\0\0\x04"));
        assert!(!is_waited_for(&seen), "it still does");
        seen.change(|state| state.received(b"C\0\0\0\x04"));
        assert!(is_waited_for(&seen));
    }
}
