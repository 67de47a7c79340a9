//! Connections as trucker.yml describes them, against real servers: libpq's sslmodes, ways of authentication,
//! and settings that no role or database can take away. For queries and for replication alike.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::time::{Duration, Instant};

use postgres_protocol::password;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::sync::OnceCell;
use trucker::config::{PostgresConnection, RootCertificates, Secret, SslMode};
use trucker::postgres::{ConnectError, Purpose, RawConnection, connect};
use trucker::sandbox::{PostgresServer, ServerOptions, StopMode};

use super::harness::private_server;

const HOSTILE: &[u8] = b"\xff\xfe '\"\\ \n\t#:{{ $1 }}%00@/?=\x01\x7f";

fn to(server: &PostgresServer, user: &str) -> PostgresConnection {
    PostgresConnection {
        name: "db".to_owned(),
        host: "127.0.0.1".to_owned(),
        port: server.port(),
        database: "postgres".to_owned(),
        user: user.to_owned(),
        pass: None,
        sslmode: SslMode::Prefer,
        ssl_root_cert: None,
        ssl_cert: None,
        ssl_key: None,
        wal_budget: Default::default(),
        replica: None,
        failover: false,
    }
}

fn options(hba: &[&str]) -> ServerOptions {
    ServerOptions { hba: hba.iter().map(|line| (*line).to_owned()).collect(), ..ServerOptions::default() }
}

async fn execute(server: &PostgresServer, sql: &str) {
    let mut superuser = to(server, PostgresServer::SUPERUSER);
    superuser.host = server.socket_dir().to_str().unwrap().to_owned();
    connect(&superuser, Purpose::Control).await.unwrap().client.batch_execute(sql).await.unwrap();
}

/// A server without TLS, and a role for each way of authentication.
async fn plain_server() -> &'static PostgresServer {
    static SERVER: OnceCell<PostgresServer> = OnceCell::const_new();
    SERVER.get_or_init(start_plain_server).await
}

async fn start_plain_server() -> PostgresServer {
    let hba = [
        "local all all trust",
        "host all by_scram 127.0.0.1/32 scram-sha-256",
        "host all by_md5 127.0.0.1/32 md5",
        "host all by_password 127.0.0.1/32 password",
        "host all trusted,hostile 127.0.0.1/32 trust",
    ];
    let server = private_server(options(&hba));
    let sql = format!(
        r#"
        CREATE ROLE by_scram LOGIN REPLICATION PASSWORD '{scram}';
        CREATE ROLE by_md5 LOGIN REPLICATION PASSWORD '{md5}';
        CREATE ROLE by_password LOGIN REPLICATION PASSWORD '{scram}';
        CREATE ROLE trusted LOGIN REPLICATION;
        CREATE ROLE stranger LOGIN;
        CREATE ROLE hostile LOGIN REPLICATION;
        ALTER ROLE hostile SET DateStyle = 'SQL, DMY';
        ALTER ROLE hostile SET IntervalStyle = 'sql_standard';
        ALTER ROLE hostile SET TimeZone = 'America/New_York';
        ALTER ROLE hostile SET bytea_output = 'escape';
        ALTER ROLE hostile SET extra_float_digits = -10;
        ALTER ROLE hostile SET client_encoding = 'LATIN1';
        ALTER ROLE hostile SET statement_timeout = '1ms';
        ALTER ROLE hostile SET standard_conforming_strings = off;
        ALTER ROLE hostile SET xmlbinary = 'hex';
        ALTER ROLE hostile SET search_path = 'elsewhere';
        ALTER ROLE hostile SET idle_in_transaction_session_timeout = '1ms';
        ALTER ROLE hostile SET synchronous_commit = off;
        "#,
        scram = password::scram_sha_256(HOSTILE),
        md5 = password::md5(HOSTILE, "by_md5"),
    );
    execute(&server, &sql).await;
    server
}

struct Authority {
    pem: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem().into_bytes();
        Authority { pem, issuer: Issuer::new(params, key) }
    }

    /// Certificate and key in PEM.
    fn certify(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

struct TlsServer {
    server: PostgresServer,
    authority: Authority,
}

/// A server with a certificate for `localhost`, and a role for each rule about encryption.
async fn tls_server() -> &'static TlsServer {
    static SERVER: OnceCell<TlsServer> = OnceCell::const_new();
    SERVER.get_or_init(start_tls_server).await
}

async fn start_tls_server() -> TlsServer {
    let hba = [
        "local all all trust",
        "hostnossl all plain_only 127.0.0.1/32 trust",
        "hostssl all tls_only 127.0.0.1/32 trust",
        "hostssl all with_certificate 127.0.0.1/32 trust clientcert=verify-ca",
        "host all anyone 127.0.0.1/32 trust",
    ];
    let mut server = private_server(options(&hba));
    let authority = Authority::new();
    let (certificate, key) = authority.certify("localhost");
    let owner = fs::metadata(server.data_dir()).unwrap();
    let authority_pem = String::from_utf8(authority.pem.clone()).unwrap();
    for (name, text) in [("server.crt", certificate), ("server.key", key), ("ca.crt", authority_pem)] {
        let path = server.data_dir().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    server.set("ssl", "on").unwrap();
    server.set("ssl_ca_file", "ca.crt").unwrap();
    server.restart(StopMode::Fast).unwrap();
    for role in ["plain_only", "tls_only", "with_certificate", "anyone"] {
        execute(&server, &format!("CREATE ROLE {role} LOGIN REPLICATION")).await;
    }
    TlsServer { server, authority }
}

/// `tls` or `plain`, or the error's first words after the connection's name.
async fn outcome(to: &PostgresConnection) -> String {
    let sql = "SELECT ssl::text FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let queried = match connect(to, Purpose::Source).await {
        Ok(session) => Ok(session.client.query_one(sql, &[]).await.unwrap().get::<_, String>(0)),
        Err(error) => Err(error),
    };
    let replicated = match RawConnection::connect(to).await {
        Ok(mut connection) => Ok(connection.query(sql).await.unwrap()[0][0].clone().unwrap()),
        Err(error) => Err(error),
    };
    let name = |result: Result<String, ConnectError>| match result {
        Ok(ssl) => if ssl == "true" { "tls" } else { "plain" }.to_owned(),
        Err(ConnectError::NoTls { .. }) => "no TLS".to_owned(),
        Err(ConnectError::Untrusted { .. }) => "untrusted".to_owned(),
        Err(ConnectError::WrongName { .. }) => "wrong name".to_owned(),
        Err(ConnectError::Handshake { .. }) => "handshake".to_owned(),
        Err(ConnectError::NotAllowed { .. }) => "not allowed".to_owned(),
        Err(error) => error.to_string(),
    };
    let (queried, replicated) = (name(queried), name(replicated));
    assert_eq!(queried, replicated, "queries and replication connect alike");
    queried
}

const MODES: [SslMode; 6] = [
    SslMode::Disable,
    SslMode::Allow,
    SslMode::Prefer,
    SslMode::Require,
    SslMode::VerifyCa,
    SslMode::VerifyFull,
];

async fn assert_outcomes(what: &str, to: PostgresConnection, expected: [&str; 6]) {
    for (sslmode, expected) in MODES.into_iter().zip(expected) {
        let to = PostgresConnection { sslmode, ..to.clone() };
        assert_eq!(outcome(&to).await, expected, "{what}, {sslmode:?}");
    }
}

#[tokio::test]
async fn a_server_without_tls_is_taken_as_each_sslmode_says() {
    let to = to(plain_server().await, "trusted");
    let authority = Authority::new();
    let to = PostgresConnection { ssl_root_cert: Some(RootCertificates::Pem(authority.pem)), ..to };
    assert_outcomes("no TLS", to, ["plain", "plain", "plain", "no TLS", "no TLS", "no TLS"]).await;
}

#[tokio::test]
async fn each_sslmode_checks_of_the_certificate_what_libpq_checks() {
    let TlsServer { server, authority } = tls_server().await;
    let root = |pem: &[u8]| Some(RootCertificates::Pem(pem.to_vec()));
    let anyone = PostgresConnection { host: "localhost".to_owned(), ..to(server, "anyone") };
    let good = PostgresConnection { ssl_root_cert: root(&authority.pem), ..anyone.clone() };
    assert_outcomes("right authority", good.clone(), ["plain", "plain", "tls", "tls", "tls", "tls"]).await;
    let by_address = PostgresConnection { host: "127.0.0.1".to_owned(), ..good };
    assert_outcomes("another name", by_address, ["plain", "plain", "tls", "tls", "tls", "wrong name"]).await;
    let system = PostgresConnection { ssl_root_cert: None, ..anyone.clone() };
    for sslmode in [SslMode::Prefer, SslMode::Require] {
        assert_eq!(outcome(&PostgresConnection { sslmode, ..system.clone() }).await, "tls");
    }
    let wrong = PostgresConnection { ssl_root_cert: root(&Authority::new().pem), ..anyone };
    let expected = ["plain", "plain", "plain", "untrusted", "untrusted", "untrusted"];
    assert_outcomes("another authority", wrong, expected).await;
}

#[tokio::test]
async fn allow_and_prefer_try_the_other_way_where_the_server_refuses_one() {
    let TlsServer { server, authority } = tls_server().await;
    let to = |user| PostgresConnection {
        host: "localhost".to_owned(),
        ssl_root_cert: Some(RootCertificates::Pem(authority.pem.clone())),
        ..to(server, user)
    };
    let expected = ["not allowed", "tls", "tls", "tls", "tls", "tls"];
    assert_outcomes("TLS only", to("tls_only"), expected).await;
    let expected = ["plain", "plain", "plain", "not allowed", "not allowed", "not allowed"];
    assert_outcomes("plain only", to("plain_only"), expected).await;
    assert_outcomes("certificate wanted, none given", to("with_certificate"), ["not allowed"; 6]).await;
    let with_certificate = |authority: &Authority| {
        let (certificate, key) = authority.certify("client");
        PostgresConnection {
            ssl_cert: Some(certificate.into_bytes()),
            ssl_key: Some(Secret::new(key)),
            ..to("with_certificate")
        }
    };
    let expected = ["not allowed", "tls", "tls", "tls", "tls", "tls"];
    assert_outcomes("certificate given", with_certificate(authority), expected).await;
    let expected = ["not allowed", "handshake", "handshake", "handshake", "handshake", "handshake"];
    assert_outcomes("certificate of another authority", with_certificate(&Authority::new()), expected).await;
}

#[tokio::test]
async fn a_password_may_hold_any_bytes() {
    let server = plain_server().await;
    for user in ["by_scram", "by_md5", "by_password"] {
        let right = PostgresConnection { pass: Some(Secret::new(HOSTILE)), ..to(server, user) };
        assert_eq!(outcome(&right).await, "plain", "{user}");
        let wrong = PostgresConnection { pass: Some(Secret::new("wrong")), ..to(server, user) };
        let text = outcome(&wrong).await;
        assert!(text.ends_with("(SQLSTATE 28P01). Is `user` right, and `pass`?"), "{user}: {text}");
        let text = outcome(&to(server, user)).await;
        assert!(text.ends_with("(SQLSTATE 28P01). Set `pass`"), "{user}: {text}");
    }
}

#[tokio::test]
async fn a_host_that_is_a_folder_is_a_unix_socket_and_needs_no_tls() {
    let server = plain_server().await;
    let host = server.socket_dir().to_str().unwrap().to_owned();
    assert_outcomes("socket", PostgresConnection { host, ..to(server, "trusted") }, ["plain"; 6]).await;
    let to = PostgresConnection { host: "/nowhere".to_owned(), ..to(server, "trusted") };
    let error = connect(&to, Purpose::Source).await.unwrap_err();
    assert!(error.to_string().contains("/nowhere/.s.PGSQL."), "{error}");
}

#[tokio::test]
async fn what_a_role_sets_changes_neither_values_nor_timeouts() {
    let server = plain_server().await;
    let sql = r"SELECT '2024-02-01 13:00 EST'::timestamptz::text, '1 mon -3 days 4:05:06'::interval::text,
        '\x00ff'::bytea::text, (0.1::float8 + 0.2::float8)::text, current_setting('client_encoding'),
        current_setting('statement_timeout'), current_setting('xmlbinary'), 'Ω' || pg_sleep(0.01)::text";
    let expected = [
        "2024-02-01 18:00:00+00",
        "1 mon -3 days +04:05:06",
        r"\x00ff",
        "0.30000000000000004",
        "UTF8",
        "0",
        "base64",
        "Ω",
    ];
    let to = to(server, "hostile");
    for purpose in [Purpose::Source, Purpose::Output, Purpose::Control] {
        let session = connect(&to, purpose).await.unwrap();
        let row = session.client.query_one(sql, &[]).await.unwrap();
        assert_eq!((0..8).map(|column| row.get::<_, String>(column)).collect::<Vec<_>>(), expected);
        let sql = "SELECT current_setting('synchronous_commit'), current_setting('search_path'),
            current_setting('idle_in_transaction_session_timeout')";
        let row = session.client.query_one(sql, &[]).await.unwrap();
        let is_output = purpose == Purpose::Output;
        assert_eq!(row.get::<_, String>(0), if is_output { "on" } else { "off" });
        assert_eq!(row.get::<_, String>(1), "elsewhere", "SQL of users relies on it");
        assert_eq!(row.get::<_, String>(2), if is_output { "1min" } else { "0" });
        assert!(session.server_version >= 140_000);
    }
    let mut replication = RawConnection::connect(&to).await.unwrap();
    let row = replication.query(sql).await.unwrap().remove(0);
    assert_eq!(row.iter().flatten().collect::<Vec<_>>(), expected);
    let path = replication.query("SHOW search_path").await.unwrap();
    assert_eq!(path, [[Some("pg_catalog".to_owned())]]);
}

#[tokio::test]
async fn a_refusal_names_the_connection_the_cause_and_the_cure() {
    let server = plain_server().await;
    let port = server.port();
    let trusted = to(server, "trusted");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for (to, is_transient, words) in [
        (
            PostgresConnection { database: "nowhere".to_owned(), ..trusted.clone() },
            false,
            "database \"nowhere\" does not exist (SQLSTATE 3D000). Is `database` right?".to_owned(),
        ),
        (to(server, "stranger"), false, "Add a line to the server's pg_hba.conf".to_owned()),
        (
            PostgresConnection { port: closed, ..trusted.clone() },
            true,
            format!("nothing answers at 127.0.0.1:{closed}: Connection refused"),
        ),
        (
            PostgresConnection { host: "no.such.host.invalid".to_owned(), ..trusted.clone() },
            true,
            format!("the host of no.such.host.invalid:{port} has no address: "),
        ),
        (
            PostgresConnection { sslmode: SslMode::Require, ..trusted },
            false,
            format!("the server at 127.0.0.1:{port} offers no TLS, but sslmode is require. Turn on `ssl`"),
        ),
    ] {
        let error = connect(&to, Purpose::Control).await.unwrap_err();
        assert_eq!(error.is_transient(), is_transient, "{error}");
        let text = error.to_string();
        assert!(text.starts_with("connection db: ") && text.contains(&words), "{text}");
    }
}

#[tokio::test]
async fn a_dropped_session_leaves_no_query_running() {
    let server = plain_server().await;
    let session = connect(&to(server, "trusted"), Purpose::Source).await.unwrap();
    {
        let sleep = session.client.batch_execute("SELECT pg_sleep(1000)");
        let running = tokio::time::timeout(Duration::from_millis(100), sleep).await;
        assert!(running.is_err());
    }
    let watcher = connect(&to(server, "trusted"), Purpose::Control).await.unwrap();
    let sql =
        "SELECT count(*) FROM pg_stat_activity WHERE usename = 'trusted' AND query LIKE 'SELECT pg_sleep(%'";
    let count = async || watcher.client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0);
    assert_eq!(count().await, 1);
    drop(session);
    let deadline = Instant::now() + Duration::from_secs(10);
    while count().await > 0 {
        assert!(Instant::now() < deadline, "the query goes on");
    }
}
