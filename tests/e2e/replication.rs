//! The replication stream against a real server: frames, confirmation, keepalives, and what a slot refuses.

use std::time::{Duration, Instant};

use tokio::sync::OnceCell;
use trucker::change::Lsn;
use trucker::config::{PostgresConnection, SslMode};
use trucker::postgres::{Purpose, Session, connect};
use trucker::sandbox::{PostgresServer, ServerOptions};
use trucker::source::pgoutput::{Context, Message, decode};
use trucker::source::stream::{Frame, ReplicationStream, StreamError};

use super::harness::private_server;

const PATIENCE: Duration = Duration::from_secs(10);

async fn server() -> &'static PostgresServer {
    static SERVER: OnceCell<PostgresServer> = OnceCell::const_new();
    SERVER.get_or_init(async || private_server(ServerOptions::default())).await
}

/// A database of its own, with a table `t`, and a publication and a slot that are both called as the database.
struct Source {
    name: &'static str,
    to: PostgresConnection,
    session: Session,
}

impl Source {
    async fn new(name: &'static str) -> Self {
        let server = server().await;
        let mut to = PostgresConnection {
            name: "source".to_owned(),
            host: "127.0.0.1".to_owned(),
            port: server.port(),
            database: "postgres".to_owned(),
            user: PostgresServer::SUPERUSER.to_owned(),
            pass: None,
            sslmode: SslMode::Disable,
            ssl_root_cert: None,
            ssl_cert: None,
            ssl_key: None,
            wal_budget: Default::default(),
            replica: None,
            failover: false,
        };
        let control = connect(&to, Purpose::Control).await.unwrap();
        control.client.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        name.clone_into(&mut to.database);
        let session = connect(&to, Purpose::Control).await.unwrap();
        let source = Source { name, to, session };
        source
            .execute(&format!(
                "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE PUBLICATION {name} FOR TABLE t"
            ))
            .await;
        source.execute(&format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')")).await;
        source
    }

    async fn execute(&self, sql: &str) {
        self.session.client.batch_execute(sql).await.unwrap();
    }

    async fn value(&self, sql: &str) -> String {
        self.session.client.query_one(sql, &[]).await.unwrap().get(0)
    }

    async fn confirmed_flush_lsn(&self) -> Lsn {
        let name = self.name;
        let sql =
            format!("SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{name}'");
        self.value(&sql).await.parse().unwrap()
    }

    async fn stream(&self) -> Result<ReplicationStream, StreamError> {
        ReplicationStream::start(&self.to, self.name, self.name, Lsn::ZERO).await
    }
}

/// Messages up to the next commit, and its end LSN.
async fn next_transaction(stream: &mut ReplicationStream) -> (Vec<Message>, Lsn) {
    let mut messages = Vec::new();
    loop {
        let frame = tokio::time::timeout(PATIENCE, stream.next()).await.expect("a frame in time").unwrap();
        let Frame::Data { payload, .. } = frame else { continue };
        let message = decode(&payload, &Context::V1).unwrap();
        if let Message::Commit { end_lsn, .. } = message {
            assert!(stream.feedback().received() >= end_lsn);
            return (messages, end_lsn);
        }
        messages.push(message);
    }
}

#[tokio::test]
async fn rows_arrive_and_what_is_confirmed_the_slot_forgets() {
    let source = Source::new("rows").await;
    let mut stream = source.stream().await.unwrap();
    source.execute("INSERT INTO t VALUES (1, 'Ω'), (2, NULL)").await;
    let (messages, end_lsn) = next_transaction(&mut stream).await;
    let [
        Message::Begin { .. },
        Message::Relation { relation, .. },
        Message::Insert { new, .. },
        Message::Insert { .. },
    ] = &messages[..]
    else {
        panic!("{messages:?}")
    };
    assert_eq!(relation.display_name(), "public.t");
    assert_eq!(new.cell(1).text(), Some("Ω".as_bytes()));
    assert!(source.confirmed_flush_lsn().await < end_lsn, "nothing is confirmed that wasn't asked for");
    stream.feedback().confirm(end_lsn);
    let deadline = Instant::now() + PATIENCE;
    while source.confirmed_flush_lsn().await != end_lsn {
        assert!(Instant::now() < deadline, "the confirmation didn't arrive");
    }
}

#[tokio::test]
async fn closing_says_what_is_confirmed_and_frees_the_slot() {
    let source = Source::new("closing").await;
    let mut stream = source.stream().await.unwrap();
    source.execute("INSERT INTO t VALUES (1, 'a')").await;
    let (_, end_lsn) = next_transaction(&mut stream).await;
    source.execute("INSERT INTO t VALUES (2, 'b')").await;
    stream.feedback().confirm(end_lsn);
    stream.close().await.unwrap();
    assert_eq!(source.confirmed_flush_lsn().await, end_lsn);
    let deadline = Instant::now() + PATIENCE;
    let mut again = loop {
        match source.stream().await {
            Err(StreamError::SlotActive(_)) if Instant::now() < deadline => {}
            other => break other.unwrap(),
        }
    };
    let (messages, _) = next_transaction(&mut again).await;
    assert!(matches!(&messages[2], Message::Insert { new, .. } if new.cell(1).text() == Some(b"b")));
}

#[tokio::test]
async fn a_slot_that_cannot_be_read_says_why() {
    let source = Source::new("refusals").await;
    let _stream = source.stream().await.unwrap();
    let error = source.stream().await.unwrap_err();
    assert!(
        matches!(&error, StreamError::SlotActive(server) if server.message.contains("is active for PID")),
        "{error}"
    );
    let error = ReplicationStream::start(&source.to, "nobody", "p", Lsn::ZERO).await.unwrap_err();
    assert!(matches!(error, StreamError::SlotMissing(_)), "{error}");
    let elsewhere = PostgresConnection { database: "postgres".to_owned(), ..source.to.clone() };
    source.execute("SELECT pg_create_logical_replication_slot('refusals2', 'pgoutput')").await;
    let error = ReplicationStream::start(&elsewhere, "refusals2", "p", Lsn::ZERO).await.unwrap_err();
    assert!(matches!(error, StreamError::SlotUnusable(_)), "{error}");
}

#[tokio::test]
async fn a_busy_consumer_does_not_look_dead_to_the_server() {
    let source = Source::new("busy").await;
    source
        .execute("CREATE ROLE hasty LOGIN REPLICATION; ALTER ROLE hasty SET wal_sender_timeout = '2s'")
        .await;
    let hasty = PostgresConnection { user: "hasty".to_owned(), ..source.to.clone() };
    let mut stream = ReplicationStream::start(&hasty, "busy", "busy", Lsn::ZERO).await.unwrap();
    let sql = "SELECT active::text FROM pg_replication_slots WHERE slot_name = 'busy'";
    let mut moments = tokio::time::interval(Duration::from_millis(100));
    for _ in 0..60 {
        moments.tick().await;
        assert_eq!(source.value(sql).await, "true", "the server gave us up");
    }
    source.execute("INSERT INTO t VALUES (1, 'still there')").await;
    next_transaction(&mut stream).await;
}

#[tokio::test]
async fn a_value_larger_than_any_buffer_arrives_whole() {
    let source = Source::new("large").await;
    let mut stream = source.stream().await.unwrap();
    source
        .execute("INSERT INTO t SELECT 1, string_agg(md5(i::text), '') FROM generate_series(1, 600000) i")
        .await;
    let (messages, _) = next_transaction(&mut stream).await;
    let Message::Insert { new, .. } = &messages[2] else { panic!("an insert") };
    let text = new.cell(1).text().unwrap();
    assert_eq!(text.len(), 600_000 * 32);
    assert!(text.starts_with(b"c4ca4238a0b923820dcc509a6f75849b"));
}

#[tokio::test]
async fn the_end_of_a_walsender_is_a_transient_error() {
    let source = Source::new("ended").await;
    let mut stream = source.stream().await.unwrap();
    source
        .execute(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'ended'",
        )
        .await;
    let error = loop {
        if let Err(error) = tokio::time::timeout(PATIENCE, stream.next()).await.expect("an end in time") {
            break error;
        }
    };
    assert!(error.is_transient(), "{error}");
}

#[tokio::test]
async fn a_missing_publication_is_never_silent() {
    let source = Source::new("unpublished").await;
    source.execute("DROP PUBLICATION unpublished").await;
    let mut stream = source.stream().await.unwrap();
    source.execute("INSERT INTO t VALUES (1, 'lost')").await;
    let told = loop {
        match tokio::time::timeout(PATIENCE, stream.next()).await.expect("a word in time") {
            Ok(Frame::Notice { message, .. }) => break message,
            Ok(_) => {}
            Err(error) => break error.to_string(),
        }
    };
    // An error up to version 17, a warning aside from 18 on.
    let expected = if source.session.server_version < 180_000 {
        "publication \"unpublished\" does not exist (SQLSTATE 42704)"
    } else {
        "skipped loading publication \"unpublished\""
    };
    assert_eq!(told, expected);
}
