//! From a connection of trucker.yml to a session in which values mean what they should: sslmode's order of
//! attempts, startup, settings verified. Retries nothing: that is the caller's business.

use std::future::{Future, poll_fn};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::{AsyncMessage, CancelToken, Client, Connection, NoTls, SimpleQueryMessage};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::connect_error::ConnectError;
use super::error::{self, ServerError};
use super::liveness::{self, Seen, Watched};
use super::settings::{self, Backend, Purpose};
use super::socket::{self, PlainSocket, Wire};
use super::tls;
use crate::config::{PostgresConnection, SslMode};

/// From the first byte until the session is ready.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a session that is no longer wanted may take to say goodbye before its query is canceled.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// An open session. Dropping it ends the connection, and cancels a query that still runs.
#[derive(Debug)]
pub struct Session {
    /// To send statements with.
    pub client: Client,
    /// As `server_version_num`: 150018 is 15.18.
    pub server_version: u32,
    pub(super) backend: Backend,
    _connection: DropGuard,
}

/// Connects and verifies the session's settings.
pub async fn connect(to: &PostgresConnection, purpose: Purpose) -> Result<Session, ConnectError> {
    let mut config = tokio_postgres::Config::new();
    config
        .user(&to.user)
        .dbname(&to.database)
        // An empty one where there is none: the server then says itself that it wants one.
        .password(to.pass.as_ref().map_or(&b""[..], |pass| pass.expose()))
        .application_name("trucker")
        .options(settings::options(purpose))
        // TLS is done before the driver gets the stream, so that replication connections share it.
        .ssl_mode(tokio_postgres::config::SslMode::Disable);
    let (client, connection, seen) = establish(to, |wire| {
        let (config, seen) = (config.clone(), Arc::<Seen>::default());
        async move {
            let started = config.connect_raw(Watched::new(wire, seen.clone()), NoTls).await;
            let (client, connection) = started.map_err(|error| startup_error(to, &error))?;
            Ok((client, connection, seen))
        }
    })
    .await?;
    let wanted = CancellationToken::new();
    tokio::spawn(drive(connection, wanted.clone(), client.cancel_token(), to.clone(), seen.clone()));
    let mut session =
        Session { client, server_version: 0, backend: Backend::default(), _connection: wanted.drop_guard() };
    let prepared = timeout(STARTUP_TIMEOUT, prepare(&mut session, to, purpose)).await;
    prepared.unwrap_or_else(|_| Err(silent(to)))?;
    seen.set_backend(&session.backend);
    Ok(session)
}

/// Checks that the settings asked for are in force, and makes those that depend on what it found.
async fn prepare(
    session: &mut Session,
    to: &PostgresConnection,
    purpose: Purpose,
) -> Result<(), ConnectError> {
    let failed = |error: tokio_postgres::Error| startup_error(to, &error);
    let messages = session.client.simple_query(&settings::verification_query()).await.map_err(failed)?;
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|column| row.try_get(column).ok().flatten()).collect::<Vec<_>>())
        }
        _ => None,
    });
    let found = settings::verify(&to.name, &row.unwrap_or_default())?;
    session.server_version = found.server_version;
    session.backend = found.backend;
    let mut more = Vec::new();
    if found.server_version >= 170_000 {
        // Older servers would refuse the whole connection for a setting they don't know.
        more.push("SET transaction_timeout = 0");
    }
    if purpose == Purpose::Output && found.commits_asynchronously {
        // A commit that a crash can undo must not release the source's WAL.
        more.push("SET synchronous_commit = on");
    }
    if !more.is_empty() {
        session.client.batch_execute(&more.join("; ")).await.map_err(failed)?;
    }
    Ok(())
}

/// Opens a stream and hands it to `startup`, with TLS or without, in the order that libpq has for each
/// sslmode.
pub(super) async fn establish<T, F>(
    to: &PostgresConnection,
    startup: impl Fn(Wire) -> F,
) -> Result<T, ConnectError>
where
    F: Future<Output = Result<T, ConnectError>>,
{
    let start = async |wire: Wire| {
        let started = timeout(STARTUP_TIMEOUT, startup(wire)).await;
        started.unwrap_or_else(|_| Err(silent(to)))
    };
    if to.host.starts_with('/') {
        return start(open_plain(to).await?).await;
    }
    match to.sslmode {
        SslMode::Disable => start(open_plain(to).await?).await,
        SslMode::Allow => match start(open_plain(to).await?).await {
            Err(refused @ ConnectError::NotAllowed { .. }) => match open_secure(to).await? {
                wire @ Wire::Tls(_) => start(wire).await,
                _ => Err(refused),
            },
            other => other,
        },
        SslMode::Prefer => match open_secure(to).await {
            Ok(wire @ Wire::Tls(_)) => match start(wire).await {
                Err(ConnectError::NotAllowed { .. }) => start(open_plain(to).await?).await,
                other => other,
            },
            Ok(plain) => start(plain).await,
            Err(
                ConnectError::Untrusted { .. }
                | ConnectError::WrongName { .. }
                | ConnectError::Handshake { .. },
            ) => start(open_plain(to).await?).await,
            Err(error) => Err(error),
        },
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => match open_secure(to).await? {
            wire @ Wire::Tls(_) => start(wire).await,
            _ => Err(ConnectError::NoTls {
                connection: to.name.clone(),
                address: address(to),
                mode: mode_name(to.sslmode),
            }),
        },
    }
}

fn mode_name(mode: SslMode) -> &'static str {
    SslMode::NAMES.into_iter().find(|name| SslMode::from_name(name) == Some(mode)).unwrap_or("?")
}

async fn open_plain(to: &PostgresConnection) -> Result<Wire, ConnectError> {
    let opened = if to.host.starts_with('/') {
        socket::open_unix(&to.host, to.port).await.map(PlainSocket::Unix)
    } else {
        socket::open_tcp(&to.host, to.port).await.map(PlainSocket::Tcp)
    };
    opened.map(Wire::Plain).map_err(|source| unreachable(to, source))
}

async fn open_secure(to: &PostgresConnection) -> Result<Wire, ConnectError> {
    let stream = socket::open_tcp(&to.host, to.port).await.map_err(|source| unreachable(to, source))?;
    let negotiated = timeout(STARTUP_TIMEOUT, tls::negotiate(stream, to)).await;
    negotiated.unwrap_or_else(|_| Err(silent(to)))
}

/// Where the server is, for messages.
pub(super) fn address(to: &PostgresConnection) -> String {
    if to.host.starts_with('/') {
        socket::unix_path(&to.host, to.port)
    } else if to.host.contains(':') {
        format!("[{}]:{}", to.host, to.port)
    } else {
        format!("{}:{}", to.host, to.port)
    }
}

/// What broke a connection while it was being made. What the other side of TLS says comes as an input error,
/// with TLS 1.3 as late as in place of the answer to the startup packet.
pub(super) fn io_error(to: &PostgresConnection, error: &io::Error) -> ConnectError {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(tls) => tls::error(to, tls),
        // What the driver can't read.
        None if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput) => {
            let (connection, address) = (to.name.clone(), address(to));
            ConnectError::Protocol { connection, address, reason: error.to_string() }
        }
        None => unreachable(to, io::Error::new(error.kind(), error.to_string())),
    }
}

fn unreachable(to: &PostgresConnection, source: io::Error) -> ConnectError {
    let (connection, address) = (to.name.clone(), address(to));
    match source.kind() {
        io::ErrorKind::NotFound if !to.host.starts_with('/') => {
            ConnectError::HostUnknown { connection, address, source }
        }
        _ => ConnectError::Unreachable { connection, address, source },
    }
}

fn silent(to: &PostgresConnection) -> ConnectError {
    unreachable(
        to,
        io::Error::new(io::ErrorKind::TimedOut, "the server took the connection, then said nothing"),
    )
}

fn startup_error(to: &PostgresConnection, error: &tokio_postgres::Error) -> ConnectError {
    if let Some(db) = error.as_db_error() {
        return ConnectError::from_server(&to.name, to.pass.is_some(), ServerError::from_db_error(db));
    }
    match error::io_cause(error) {
        Some(cause) => io_error(to, cause),
        None if error.is_closed() => {
            unreachable(to, io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"))
        }
        None => ConnectError::Protocol {
            connection: to.name.clone(),
            address: address(to),
            reason: error::describe(error),
        },
    }
}

type RawConnection = Connection<Watched, tokio_postgres::tls::NoTlsStream>;

/// Moves the session's bytes until either side ends it.
async fn drive(
    mut connection: RawConnection,
    unwanted: CancellationToken,
    cancel: CancelToken,
    to: PostgresConnection,
    seen: Arc<Seen>,
) {
    tokio::select! {
        () = exchange(&mut connection, &to.name) => return,
        () = liveness::lost(&to, &seen) => {
            tracing::warn!(event = "connection_lost", connection = to.name,
                "the server knows nothing of what a connection to it waits for: ending that connection");
            return;
        }
        () = unwanted.cancelled() => {}
    }
    // The client is gone: the driver says goodbye as soon as the last statement is done.
    if timeout(GOODBYE_TIMEOUT, exchange(&mut connection, &to.name)).await.is_ok() {
        return;
    }
    let canceled = establish(&to, |wire| async {
        cancel.cancel_query_raw(wire, NoTls).await.map_err(|error| startup_error(&to, &error))
    });
    if let Err(error) = canceled.await {
        tracing::debug!(connection = to.name, %error, "query of an abandoned session goes on");
    }
    let _ = timeout(GOODBYE_TIMEOUT, exchange(&mut connection, &to.name)).await;
}

async fn exchange(connection: &mut RawConnection, name: &str) {
    loop {
        match poll_fn(|context| connection.poll_message(context)).await {
            Some(Ok(AsyncMessage::Notice(notice))) => {
                let notice = ServerError::from_db_error(&notice);
                tracing::debug!(connection = name, severity = notice.severity, %notice, "notice of the server");
            }
            Some(Ok(_)) => {}
            // The statement that was under way reports it.
            Some(Err(error)) => {
                return tracing::debug!(
                    connection = name,
                    error = error::describe(&error),
                    "connection ended"
                );
            }
            None => return,
        }
    }
}
