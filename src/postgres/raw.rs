//! A connection in the replication protocol, which tokio-postgres does not open: startup packet,
//! authentication, simple queries, and then whatever the owner reads and writes. The same sockets, TLS and
//! settings as every other connection.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{self, ChannelBinding, ScramSha256};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use super::connect::{address, establish, io_error};
use super::connect_error::ConnectError;
use super::error::ServerError;
use super::settings;
use super::socket::Wire;
use crate::config::PostgresConnection;

/// Postgres can't make a longer message: a value is at most 1 GB.
const LENGTH_MAX: usize = 1 << 30;
/// Until the server has proved who it is; what it says before that is short.
const STARTUP_LENGTH_MAX: usize = 64 * 1024;
/// No query here has more rows than these.
const ROWS_MAX: usize = 100;
/// What is read at a time.
const READ_SIZE: usize = 64 * 1024;
/// A longer message gets memory of its own, which goes when the message goes.
const SHARED_MAX: usize = 1 << 20;

/// One message of a server: what kind, and its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendMessage {
    /// The kind.
    pub tag: u8,
    /// What follows the length.
    pub body: Bytes,
}

/// Cuts a server's bytes into messages. Holds what was read and not yet taken, so that reading can be given up
/// and taken up again at any time. Memory grows with what came, not with what was announced.
#[derive(Debug)]
pub struct MessageReader {
    buffer: BytesMut,
    length_max: usize,
}

impl Default for MessageReader {
    fn default() -> Self {
        MessageReader { buffer: BytesMut::new(), length_max: LENGTH_MAX }
    }
}

impl MessageReader {
    /// The next message. End of input and malformed lengths are errors. Cancel-safe.
    pub async fn next<R: AsyncRead + Unpin>(&mut self, from: &mut R) -> Result<BackendMessage, RawError> {
        loop {
            let missing = match self.take()? {
                Ok(message) => return Ok(message),
                Err(missing) => missing,
            };
            let room = missing.clamp(READ_SIZE, self.buffer.len().max(READ_SIZE));
            if self.buffer.capacity() - self.buffer.len() < room.min(missing.max(READ_SIZE / 16)) {
                self.buffer.reserve(room);
            }
            if from.read_buf(&mut self.buffer).await? == 0 {
                let reason = "the server closed the connection";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason).into());
            }
        }
    }

    /// The next message, if it has come already.
    pub fn ready(&mut self) -> Result<Option<BackendMessage>, RawError> {
        Ok(self.take()?.ok())
    }

    /// The next message if it is there, or how many bytes are missing at least.
    fn take(&mut self) -> Result<Result<BackendMessage, usize>, RawError> {
        let Some((&[tag, length @ ..], _)) = self.buffer.split_first_chunk::<5>() else {
            return Ok(Err(5 - self.buffer.len()));
        };
        let length = u32::from_be_bytes(length) as usize;
        if !(4..=self.length_max).contains(&length) {
            return Err(RawError::Malformed(format!("a message that would be {length} bytes long")));
        }
        let total = length + 1;
        if self.buffer.len() < total {
            return Ok(Err(total - self.buffer.len()));
        }
        let mut message = self.buffer.split_to(total);
        message.advance(5);
        if total > SHARED_MAX {
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
        Ok(Ok(BackendMessage { tag, body: message.freeze() }))
    }
}

/// A connection after authentication, before or between commands.
#[derive(Debug)]
pub struct RawConnection {
    wire: Wire,
    reader: MessageReader,
}

/// Why there was no answer.
#[derive(Debug)]
pub enum RawError {
    /// The connection broke.
    Io(io::Error),
    /// What came is not the protocol; in words.
    Malformed(String),
    /// The server said no.
    Server(Box<ServerError>),
}

impl From<io::Error> for RawError {
    fn from(error: io::Error) -> Self {
        RawError::Io(error)
    }
}

/// A row as text.
pub type RawRow = Vec<Option<String>>;

impl RawConnection {
    /// Connects as a walsender of that database (`replication=database`), and verifies the settings.
    pub async fn connect(to: &PostgresConnection) -> Result<Self, ConnectError> {
        establish(to, |wire| async move {
            let reader = MessageReader { length_max: STARTUP_LENGTH_MAX, ..MessageReader::default() };
            let mut connection = RawConnection { wire, reader };
            connection.start(to).await.map_err(|error| failed(to, error))?;
            let rows = connection.query(&settings::verification_query()).await;
            let rows = rows.map_err(|error| failed(to, error))?;
            let row: Vec<_> = rows.iter().flatten().map(Option::as_deref).collect();
            settings::verify(&to.name, &row)?;
            Ok(connection)
        })
        .await
    }

    async fn start(&mut self, to: &PostgresConnection) -> Result<(), RawError> {
        let options = settings::replication_options();
        let parameters = [
            ("client_encoding", "UTF8"),
            ("user", &*to.user),
            ("database", &*to.database),
            ("replication", "database"),
            ("application_name", "trucker"),
            ("options", &*options),
        ];
        self.send(|buffer| frontend::startup_message(parameters, buffer)).await?;
        self.authenticate(to).await?;
        self.reader.length_max = LENGTH_MAX;
        self.until_ready().await.map(drop)
    }

    async fn authenticate(&mut self, to: &PostgresConnection) -> Result<(), RawError> {
        let pass = to.pass.as_ref().map_or(&b""[..], |pass| pass.expose());
        loop {
            let mut body = self.expect(b'R').await?;
            let method = body.try_get_i32().map_err(|_| malformed("authentication request"))?;
            match method {
                0 => return Ok(()),
                3 => self.send(|buffer| frontend::password_message(pass, buffer)).await?,
                5 => {
                    let salt = <[u8; 4]>::try_from(&body[..]).map_err(|_| malformed("md5 salt"))?;
                    let hash = md5_hash(to.user.as_bytes(), pass, salt);
                    self.send(|buffer| frontend::password_message(hash.as_bytes(), buffer)).await?;
                }
                10 => self.authenticate_scram(&body, pass).await?,
                _ => {
                    return Err(RawError::Malformed(
                        "it wants another authentication than a password".to_owned(),
                    ));
                }
            }
        }
    }

    async fn authenticate_scram(&mut self, mechanisms: &[u8], pass: &[u8]) -> Result<(), RawError> {
        if !mechanisms.split(|&byte| byte == 0).any(|name| name == sasl::SCRAM_SHA_256.as_bytes()) {
            return Err(malformed("list of SASL mechanisms: no SCRAM-SHA-256 among them"));
        }
        let mut scram = ScramSha256::new(pass, ChannelBinding::unsupported());
        self.send(|buffer| frontend::sasl_initial_response(sasl::SCRAM_SHA_256, scram.message(), buffer))
            .await?;
        let challenge = self.expect_sasl(11).await?;
        scram.update(&challenge).map_err(|error| RawError::Malformed(error.to_string()))?;
        self.send(|buffer| frontend::sasl_response(scram.message(), buffer)).await?;
        let last = self.expect_sasl(12).await?;
        scram.finish(&last).map_err(|error| RawError::Malformed(error.to_string()))
    }

    async fn expect_sasl(&mut self, method: i32) -> Result<Bytes, RawError> {
        let mut body = self.expect(b'R').await?;
        match body.try_get_i32() {
            Ok(found) if found == method => Ok(body),
            _ => Err(malformed("SASL message")),
        }
    }

    /// Runs one command and gives its rows.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<RawRow>, RawError> {
        self.send(|buffer| frontend::query(sql, buffer)).await?;
        self.until_ready().await
    }

    async fn until_ready(&mut self) -> Result<Vec<RawRow>, RawError> {
        let mut rows = Vec::new();
        let mut error = None;
        loop {
            let message = self.next().await?;
            match message.tag {
                b'D' if rows.len() == ROWS_MAX => return Err(malformed("answer: it doesn't end")),
                b'D' => rows.push(decode_row(message.body).ok_or_else(|| malformed("row"))?),
                b'E' => {
                    let server = Box::new(ServerError::decode(&message.body));
                    // After these the server hangs up instead of being ready again.
                    if matches!(server.severity.as_str(), "FATAL" | "PANIC") {
                        return Err(RawError::Server(server));
                    }
                    error = Some(server);
                }
                b'Z' => return error.map_or(Ok(rows), |error| Err(RawError::Server(error))),
                _ => {}
            }
        }
    }

    /// The body of a message that must be of this kind; parameters and notices in between are skipped.
    pub async fn expect(&mut self, tag: u8) -> Result<Bytes, RawError> {
        loop {
            let message = self.next().await?;
            match message.tag {
                found if found == tag => return Ok(message.body),
                b'E' => return Err(RawError::Server(Box::new(ServerError::decode(&message.body)))),
                b'S' | b'N' => {}
                found => {
                    let found = char::from(found);
                    return Err(RawError::Malformed(format!("a message of type {found:?} came unexpected")));
                }
            }
        }
    }

    /// The next message, whatever it is.
    async fn next(&mut self) -> Result<BackendMessage, RawError> {
        self.reader.next(&mut self.wire).await
    }

    /// Sends what `write` puts into the buffer.
    pub async fn send(
        &mut self,
        write: impl FnOnce(&mut BytesMut) -> io::Result<()>,
    ) -> Result<(), RawError> {
        let mut buffer = BytesMut::new();
        write(&mut buffer).map_err(|error| RawError::Malformed(error.to_string()))?;
        self.wire.write_all(&buffer).await?;
        Ok(self.wire.flush().await?)
    }

    /// The stream, from which many messages are to come in quick succession, and the reader with what was read ahead.
    pub fn into_stream(mut self) -> Result<(Wire, MessageReader), RawError> {
        self.wire.read_in_bulk()?;
        Ok((self.wire, self.reader))
    }
}

fn malformed(what: &str) -> RawError {
    RawError::Malformed(format!("malformed {what}"))
}

fn decode_row(mut body: Bytes) -> Option<RawRow> {
    let count = usize::from(body.try_get_u16().ok()?);
    let mut row = Vec::new();
    for _ in 0..count {
        row.push(match body.try_get_i32().ok()? {
            -1 => None,
            length => {
                let length = usize::try_from(length).ok().filter(|&length| length <= body.len())?;
                Some(String::from_utf8(body.split_to(length).to_vec()).ok()?)
            }
        });
    }
    body.is_empty().then_some(row)
}

fn failed(to: &PostgresConnection, error: RawError) -> ConnectError {
    match error {
        RawError::Server(error) => ConnectError::from_server(&to.name, to.pass.is_some(), *error),
        RawError::Io(error) => io_error(to, &error),
        RawError::Malformed(reason) => {
            ConnectError::Protocol { connection: to.name.clone(), address: address(to), reason }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_all(mut bytes: &[u8]) -> (Vec<BackendMessage>, String) {
        let mut reader = MessageReader::default();
        let mut messages = Vec::new();
        loop {
            match reader.next(&mut bytes).await {
                Ok(message) => messages.push(message),
                Err(RawError::Io(error)) => return (messages, error.to_string()),
                Err(error) => return (messages, format!("{error:?}")),
            }
        }
    }

    #[tokio::test]
    async fn messages_come_out_as_they_were_put_in() {
        let large = vec![7u8; SHARED_MAX + 1];
        let length = u32::try_from(large.len() + 4).unwrap().to_be_bytes();
        let stream = [&b"Z\0\0\0\x05I"[..], b"d", &length, &large, b"c\0\0\0\x04"].concat();
        let (messages, end) = read_all(&stream).await;
        let expected = [(b'Z', b"I".to_vec()), (b'd', large), (b'c', vec![])];
        let expected = expected.map(|(tag, body)| BackendMessage { tag, body: body.into() });
        assert_eq!(messages, expected);
        assert_eq!(end, "the server closed the connection");
    }

    #[tokio::test]
    async fn a_length_that_no_server_sends_is_an_error_at_once() {
        for (bytes, length) in
            [(b"d\0\0\0\x03", "3"), (b"d\x40\0\0\x01", "1073741825"), (b"d\xFF\xFF\xFF\xFF", "4294967295")]
        {
            let (messages, error) = read_all(bytes).await;
            assert!(messages.is_empty());
            assert_eq!(error, format!(r#"Malformed("a message that would be {length} bytes long")"#));
        }
    }

    #[tokio::test]
    async fn memory_grows_with_what_came_not_with_what_was_announced() {
        let stream = [&b"d\x3F\xFF\xFF\xFF"[..], &vec![0; 300_000]].concat();
        let mut reader = MessageReader::default();
        assert!(reader.next(&mut &stream[..]).await.is_err());
        assert!(reader.buffer.capacity() < 4 * stream.len(), "{} bytes", reader.buffer.capacity());
    }

    #[tokio::test]
    async fn reading_goes_on_where_it_was_given_up() {
        let (mut server, mut client) = tokio::io::duplex(64);
        let mut reader = MessageReader::default();
        for byte in b"d\0\0\0\x06a" {
            server.write_all(&[*byte]).await.unwrap();
            let given_up = futures_util::FutureExt::now_or_never(reader.next(&mut client));
            assert!(given_up.is_none());
        }
        server.write_all(b"b").await.unwrap();
        assert_eq!(reader.next(&mut client).await.unwrap().body, &b"ab"[..]);
    }

    #[test]
    fn rows_are_read_and_malformed_ones_refused() {
        let row = |bytes: &'static [u8]| decode_row(Bytes::from_static(bytes));
        assert_eq!(row(b"\0\x02\0\0\0\x01a\xFF\xFF\xFF\xFF"), Some(vec![Some("a".to_owned()), None]));
        for bad in [&b"\0"[..], b"\0\x01", b"\0\x01\0\0\0\x02a", b"\0\x01\xFF\xFF\xFF\xFE", b"\0\0a"] {
            assert_eq!(row(bad), None, "{bad:?}");
        }
    }
}
