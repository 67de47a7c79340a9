//! What the server is told while it streams: how far we have read, how far the outputs are, and that we are
//! there. A task of its own with the write half, so that no slow consumer makes the server think us dead
//! (`wal_sender_timeout`).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::change::Lsn;
use crate::failpoint;

/// How often the server hears from us at least.
const INTERVAL_MAX: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Shared {
    received: AtomicU64,
    confirmed: AtomicU64,
    asks_for_reply: AtomicBool,
    is_closing: AtomicBool,
    wake: Notify,
}

/// Tells the slot what it may forget. Cheap to clone; outlives the stream without harm.
#[derive(Debug, Clone)]
pub struct Feedback {
    shared: Arc<Shared>,
}

impl Feedback {
    /// Nothing is confirmed yet; `start` counts as received.
    pub(super) fn new(start: Lsn) -> Self {
        let shared = Shared {
            received: AtomicU64::new(start.0),
            confirmed: AtomicU64::new(0),
            asks_for_reply: AtomicBool::new(false),
            is_closing: AtomicBool::new(false),
            wake: Notify::new(),
        };
        Feedback { shared: Arc::new(shared) }
    }

    /// Everything before `lsn` is durable in every output: the slot may forget it. Never goes back, and never
    /// beyond what was received, since the server would believe even that.
    pub fn confirm(&self, lsn: Lsn) {
        let received = self.received();
        debug_assert!(lsn <= received, "{lsn} can't be durable when only {received} was received");
        let lsn = lsn.min(received);
        if self.shared.confirmed.fetch_max(lsn.0, Ordering::AcqRel) < lsn.0 {
            self.shared.wake.notify_one();
        }
    }

    /// Asks the server for a sign of life, which `next` takes in.
    pub fn request_reply(&self) {
        self.shared.asks_for_reply.store(true, Ordering::Release);
        self.shared.wake.notify_one();
    }

    /// Furthest position read.
    pub fn received(&self) -> Lsn {
        Lsn(self.shared.received.load(Ordering::Acquire))
    }

    /// Furthest position confirmed; [`Lsn::ZERO`] before the first.
    pub fn confirmed(&self) -> Lsn {
        Lsn(self.shared.confirmed.load(Ordering::Acquire))
    }

    pub(super) fn set_received(&self, lsn: Lsn) {
        self.shared.received.fetch_max(lsn.0, Ordering::AcqRel);
    }

    /// Sends a status at once.
    pub(super) fn reply(&self) {
        self.shared.wake.notify_one();
    }

    /// Sends a last status and ends the stream.
    pub(super) fn close(&self) {
        self.shared.is_closing.store(true, Ordering::Release);
        self.shared.wake.notify_one();
    }

    /// Writes until closed, or until the connection breaks: the read half then finds that out as well.
    pub(super) async fn run<W: AsyncWrite + Unpin>(self, mut to: W, interval: Duration) -> io::Result<()> {
        loop {
            let is_closing = self.shared.is_closing.load(Ordering::Acquire);
            to.write_all(&self.status()).await?;
            if is_closing {
                // CopyDone, Terminate.
                to.write_all(b"c\0\0\0\x04X\0\0\0\x04").await?;
                return to.flush().await;
            }
            to.flush().await?;
            failpoint::reach("feedback_sent");
            tokio::select! {
                () = self.shared.wake.notified() => {}
                () = sleep_until(Instant::now() + interval) => {}
            }
        }
    }

    fn status(&self) -> Vec<u8> {
        // Confirmed first: read the other way round, a `received` from before could be behind it.
        let confirmed = self.confirmed();
        let asks_for_reply = self.shared.asks_for_reply.swap(false, Ordering::AcqRel);
        encode_status(self.received(), confirmed, SystemTime::now(), asks_for_reply)
    }
}

/// A third of the server's patience, so that one late status does no harm.
pub(super) fn interval(wal_sender_timeout: Duration) -> Duration {
    if wal_sender_timeout.is_zero() { INTERVAL_MAX } else { INTERVAL_MAX.min(wal_sender_timeout / 3) }
}

/// A standby status update, as a CopyData message.
fn encode_status(received: Lsn, confirmed: Lsn, now: SystemTime, asks_for_reply: bool) -> Vec<u8> {
    const UNIX_TO_POSTGRES: Duration = Duration::from_secs(946_684_800);
    let since = now.duration_since(SystemTime::UNIX_EPOCH + UNIX_TO_POSTGRES).unwrap_or_default();
    let micros = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
    let mut message = Vec::with_capacity(39);
    message.extend_from_slice(b"d\0\0\0\x26r");
    // Written, flushed, applied.
    for lsn in [received, confirmed, confirmed] {
        message.extend_from_slice(&lsn.0.to_be_bytes());
    }
    message.extend_from_slice(&micros.to_be_bytes());
    message.push(u8::from(asks_for_reply));
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_written_as_the_protocol_has_it() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(946_684_801);
        let bytes = encode_status(Lsn(0x102), Lsn(0x101), now, true);
        assert_eq!(
            bytes,
            b"d\0\0\0\x26r\0\0\0\0\0\0\x01\x02\0\0\0\0\0\0\x01\x01\0\0\0\0\0\0\x01\x01\0\0\0\0\0\x0F\x42\x40\x01"
        );
    }

    #[test]
    fn the_server_hears_from_us_three_times_within_its_patience() {
        for (timeout, expected) in [(0, 10_000), (2_000, 666), (30_000, 10_000), (60_000, 10_000)] {
            let interval = interval(Duration::from_millis(timeout));
            assert_eq!(interval.as_millis(), expected, "{timeout} ms");
        }
    }

    #[test]
    fn what_is_confirmed_never_goes_back() {
        let feedback = Feedback::new(Lsn(10));
        feedback.confirm(Lsn(8));
        feedback.confirm(Lsn(5));
        assert_eq!(feedback.confirmed(), Lsn(8));
    }

    #[test]
    #[cfg(not(debug_assertions))]
    fn what_is_confirmed_never_passes_what_was_received() {
        let feedback = Feedback::new(Lsn(10));
        feedback.confirm(Lsn(20));
        assert_eq!(feedback.confirmed(), Lsn(10));
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "0/14 can't be durable when only 0/A was received")]
    fn confirming_what_was_not_received_is_a_bug() {
        Feedback::new(Lsn(10)).confirm(Lsn(20));
    }

    #[tokio::test]
    async fn a_confirmation_is_sent_at_once_and_closing_says_goodbye() {
        use tokio::io::AsyncReadExt;
        let (client, mut server) = tokio::io::duplex(1024);
        let feedback = Feedback::new(Lsn(10));
        let task = tokio::spawn(feedback.clone().run(client, Duration::from_secs(3600)));
        let mut status = [0; 39];
        server.read_exact(&mut status).await.unwrap();
        assert_eq!((status[21], status[38]), (0, 0));
        feedback.confirm(Lsn(7));
        server.read_exact(&mut status).await.unwrap();
        assert_eq!((status[13], status[21], status[29]), (10, 7, 7));
        feedback.close();
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest[39..], *b"c\0\0\0\x04X\0\0\0\x04");
        task.await.unwrap().unwrap();
    }
}
