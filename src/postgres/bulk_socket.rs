//! A TCP socket that takes what comes in quick succession many messages at a time, and what comes alone at once. Never reads what
//! nobody asked for.
//!
//! A WAL sender sends every message by itself, and each time it wakes whoever waits for one, which takes both of them longer than
//! decoding it. Who looks again a little later gets many at once: of the same WAL 100,000 transactions of one row came in 0.5 s to
//! 0.6 s instead of 1.2 s to 1.4 s, half a million rows of one in 1.2 s instead of 1.9 s (Postgres 15, on one machine of two cores).
//!
//! It isn't enough not to read: a socket that is registered with the system's poller wakes that one's thread with each message. So
//! it is registered only while the stream is quiet.

use std::io::{self, Read, Write};
use std::net::{self, Shutdown};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::coop;
use tokio::time::{Instant, Sleep, sleep};

/// How long nobody looks; the timer makes it up to twice that.
const PAUSE: Duration = Duration::from_millis(1);
/// What one read counts for at most: being woken is what costs, not a large value that comes alone.
const READ_BYTES_MAX: usize = 8 * 1024;
/// Bytes a second that are no reason to pause: some 16,000 transactions of one small row.
const QUIET_RATE: f64 = 4e6;
/// So many bytes beyond them, and the stream is busy.
const BUSY: f64 = 32_768.0;
/// More isn't remembered.
const LEVEL_MAX: f64 = 1.5 * BUSY;

/// See the module.
#[derive(Debug)]
pub struct BulkSocket {
    socket: net::TcpStream,
    /// While the poller tells when there is something to read.
    waiting: Option<TcpStream>,
    /// While nobody looks.
    pause: Option<Pin<Box<Sleep>>>,
    flow: Flow,
    /// While the poller tells when something can be written.
    blocked: Option<TcpStream>,
}

impl BulkSocket {
    /// Takes over from that stream, which must be dropped then.
    pub(super) fn new(stream: &TcpStream) -> io::Result<Self> {
        let socket = SockRef::from(stream).try_clone()?.into();
        Ok(BulkSocket { socket, waiting: None, pause: None, flow: Flow::new(Instant::now()), blocked: None })
    }

    /// Another descriptor of the same socket, registered with the poller.
    fn registered(&self) -> io::Result<TcpStream> {
        TcpStream::from_std(self.socket.try_clone()?)
    }

    /// None if there is nothing.
    fn read_now(&mut self, into: &mut ReadBuf<'_>) -> Option<io::Result<()>> {
        loop {
            return match self.socket.read(into.initialize_unfilled()) {
                Ok(bytes) => {
                    into.advance(bytes);
                    Some(Ok(()))
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
                Err(error) => Some(Err(error)),
            };
        }
    }
}

impl AsyncRead for BulkSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (this, had) = (self.get_mut(), into.filled().len());
        loop {
            if let Some(pause) = &mut this.pause {
                ready!(pause.as_mut().poll(context));
            }
            let read = if let Some(waiting) = &mut this.waiting {
                match Pin::new(waiting).poll_read(context, into) {
                    Poll::Ready(read) => Some(read),
                    Poll::Pending => None,
                }
            } else {
                let coop = ready!(coop::poll_proceed(context));
                this.read_now(into).inspect(|_| coop.made_progress())
            };
            let has_paused = this.pause.take().is_some();
            if let Some(read) = read {
                this.flow.add(into.filled().len() - had, Instant::now());
                return Poll::Ready(read);
            }
            if has_paused {
                // Nothing in a whole pause.
                this.flow = Flow::new(Instant::now());
            }
            if this.flow.is_busy(Instant::now()) {
                this.waiting = None;
                this.pause = Some(Box::pin(sleep(PAUSE)));
            } else if this.waiting.is_none() {
                this.waiting = Some(this.registered()?);
            } else {
                return Poll::Pending;
            }
        }
    }
}

impl AsyncWrite for BulkSocket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        while this.blocked.is_none() {
            match this.socket.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    this.blocked = Some(this.registered()?);
                }
                written => return Poll::Ready(written),
            }
        }
        let Some(blocked) = &mut this.blocked else { return Poll::Pending };
        let written = ready!(Pin::new(blocked).poll_write(context, bytes));
        this.blocked = None;
        Poll::Ready(written)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.socket.shutdown(Shutdown::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            done => Poll::Ready(done),
        }
    }
}

/// How much has been coming lately.
#[derive(Debug)]
struct Flow {
    /// Bytes beyond the quiet rate.
    level: f64,
    last: Instant,
}

impl Flow {
    fn new(now: Instant) -> Self {
        Flow { level: 0.0, last: now }
    }

    fn level(&self, now: Instant) -> f64 {
        let quiet = now.duration_since(self.last).as_secs_f64() * QUIET_RATE;
        (self.level - quiet).max(0.0)
    }

    fn add(&mut self, bytes: usize, now: Instant) {
        self.level = (self.level(now) + bytes.min(READ_BYTES_MAX) as f64).min(LEVEL_MAX);
        self.last = now;
    }

    fn is_busy(&self, now: Instant) -> bool {
        self.level(now) >= BUSY
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn only_quick_succession_is_busy() {
        for (what, bytes, micros, expected) in [
            ("1,000 single commits a second, three messages each", 80, 333, 0),
            ("10,000 a second", 80, 33, 0),
            ("a value of 200 kB every 10 ms", 200_000, 10_000, 0),
            ("100,000 a second", 250, 10, 1000 - 155),
            ("a large transaction", 4096, 40, 1000 - 8),
            ("the same, already read once in a pause", 50_000, 1_500, 1000 - 12),
        ] {
            let begun = Instant::now();
            let at = |read: u64| begun + Duration::from_micros(read * micros);
            let mut flow = Flow::new(at(0));
            let busy = (1..=1000).filter(|read| {
                flow.add(bytes, at(*read));
                flow.is_busy(at(*read))
            });
            assert_eq!(busy.count(), expected, "{what}");
            assert!(!flow.is_busy(at(1000) + Duration::from_millis(5)), "{what}, and then silence");
        }
    }

    async fn pair() -> (BulkSocket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (theirs, _) = listener.accept().await.unwrap();
        theirs.set_nodelay(true).unwrap();
        (BulkSocket::new(&ours).unwrap(), theirs)
    }

    #[tokio::test]
    async fn everything_arrives_in_order_and_then_the_end() {
        let (mut socket, mut theirs) = pair().await;
        let writer = tokio::spawn(async move {
            for number in 0..20_000_u32 {
                theirs.write_all(&number.to_be_bytes().repeat(20)).await.unwrap();
                // One burst, then single ones.
                if number > 19_900 {
                    tokio::task::yield_now().await;
                }
            }
            let mut answer = [0; 5];
            theirs.read_exact(&mut answer).await.unwrap();
            answer
        });
        let mut piece = [0; 80];
        for number in 0..20_000_u32 {
            socket.read_exact(&mut piece).await.unwrap();
            assert_eq!(piece[..], number.to_be_bytes().repeat(20));
        }
        socket.write_all(b"there").await.unwrap();
        assert_eq!(&writer.await.unwrap(), b"there");
        assert_eq!(socket.read(&mut piece).await.unwrap(), 0);
    }

    /// Whether the poller is to wake the reader of a socket that has nothing to read.
    async fn is_watched(socket: &mut BulkSocket) -> bool {
        let mut piece = [0; 80];
        tokio::select! {
            biased;
            _ = socket.read(&mut piece) => panic!("nothing has been written"),
            () = std::future::ready(()) => socket.pause.is_none() && socket.waiting.is_some(),
        }
    }

    #[tokio::test]
    async fn what_comes_alone_is_read_when_it_comes_after_a_flow_too() {
        let (mut socket, mut theirs) = pair().await;
        for _ in 0..3 {
            assert!(is_watched(&mut socket).await);
            theirs.write_all(b"one").await.unwrap();
            assert_eq!(socket.read(&mut [0; 80]).await.unwrap(), 3);
            let flow = vec![0; 200_000];
            let (written, read) = tokio::join!(theirs.write_all(&flow), async {
                socket.read_exact(&mut vec![0; 200_000]).await
            });
            written.and(read.map(drop)).unwrap();
            // However often it is asked in between.
            let deadline = Instant::now() + Duration::from_secs(5);
            while !is_watched(&mut socket).await {
                assert!(Instant::now() < deadline, "it goes on looking by itself");
                tokio::task::yield_now().await;
            }
            assert!(is_watched(&mut socket).await && is_watched(&mut socket).await);
        }
    }
}
