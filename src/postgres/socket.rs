//! The byte stream under a Postgres connection: TCP, a Unix socket, or TLS over TCP. Opening the first two
//! is here, and how soon a dead peer is noticed; TLS is in `tls`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

use super::bulk_socket::BulkSocket;

/// For each address of a host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long sent bytes may stay unacknowledged before the connection counts as dead.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// An open stream to a server.
#[derive(Debug)]
pub enum Wire {
    /// Bytes as they are.
    Plain(PlainSocket),
    /// TLS over TCP.
    Tls(Box<TlsStream<PlainSocket>>),
}

/// What carries the bytes.
#[derive(Debug)]
pub enum PlainSocket {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
    /// TCP over which many messages come in quick succession.
    Bulk(BulkSocket),
}

/// What either of them forwards to.
trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

impl PlainSocket {
    fn stream(&mut self) -> Pin<&mut dyn Stream> {
        match self {
            PlainSocket::Tcp(stream) => Pin::new(stream),
            PlainSocket::Unix(stream) => Pin::new(stream),
            PlainSocket::Bulk(stream) => Pin::new(stream),
        }
    }
}

impl Wire {
    fn stream(&mut self) -> Pin<&mut dyn Stream> {
        match self {
            Wire::Plain(stream) => Pin::new(stream),
            Wire::Tls(stream) => Pin::new(stream),
        }
    }

    /// From now on, what comes in quick succession over TCP is read many messages at a time. Not over a Unix socket: its buffer holds few
    /// messages, however short, so the server would wait for us instead.
    pub fn read_in_bulk(&mut self) -> io::Result<()> {
        let socket = match self {
            Wire::Plain(socket) => socket,
            Wire::Tls(stream) => stream.get_mut().0,
        };
        if let PlainSocket::Tcp(stream) = socket {
            *socket = PlainSocket::Bulk(BulkSocket::new(stream)?);
        }
        Ok(())
    }
}

/// Connects to the first address of the host that answers; the error is the last one's. `NotFound`: the host has none.
pub(super) async fn open_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let unknown = |why: String| io::Error::new(io::ErrorKind::NotFound, why);
    let mut last = unknown("the name server knows none".to_owned());
    let addresses = tokio::net::lookup_host((host, port)).await.map_err(|e| unknown(e.to_string()))?;
    for address in addresses {
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                notice_dead_peers(&stream)?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, "no answer within 10 s"),
        }
    }
    Err(last)
}

fn notice_dead_peers(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(10))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    // Keepalive probes rest while data is in flight: this covers the peer that vanishes just then.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(())
}

/// The path of a server's socket in that directory.
pub(super) fn unix_path(directory: &str, port: u16) -> String {
    format!("{}/.s.PGSQL.{port}", directory.trim_end_matches('/'))
}

/// Connects to a Unix socket.
pub(super) async fn open_unix(directory: &str, port: u16) -> io::Result<UnixStream> {
    UnixStream::connect(unix_path(directory, port)).await
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.get_mut().stream().poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().stream().poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream().poll_shutdown(context)
    }
}

impl AsyncRead for PlainSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.get_mut().stream().poll_read(context, buffer)
    }
}

impl AsyncWrite for PlainSocket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().stream().poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream().poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().stream().poll_write_vectored(context, bytes)
    }

    // TLS has many records to write at once.
    fn is_write_vectored(&self) -> bool {
        !matches!(self, PlainSocket::Bulk(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_named_as_the_server_names_it() {
        for directory in ["/run/postgresql", "/run/postgresql/"] {
            assert_eq!(unix_path(directory, 5433), "/run/postgresql/.s.PGSQL.5433");
        }
        assert_eq!(unix_path("/", 5432), "/.s.PGSQL.5432");
    }
}
