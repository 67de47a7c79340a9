//! What the driver for ClickHouse does with a real server: every kind of statement, logins, TLS, broken connections, errors
//! in words that may be shown, and values of all types.

use std::io;
use std::net::TcpListener;

use tokio::runtime::{Builder, Runtime};
use trucker::clickhouse::catalog::{DefaultKind, fetch_server, fetch_table};
use trucker::clickhouse::encode::put_text;
use trucker::clickhouse::mapping::accepts;
use trucker::clickhouse::{Client, Error, PostgresType, Type};
use trucker::config::{ClickHouseConnection, RootCertificates, Secret, SslMode};

use super::harness::{ClickHouseDatabase, ClickHouseServer, TlsFront, clickhouse_server};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn client(db: &ClickHouseDatabase) -> Client {
    Client::new(&db.driver()).unwrap()
}

/// The error of a statement over such a connection.
fn failure(to: &ClickHouseConnection, sql: &str) -> Error {
    runtime().block_on(async { Client::new(to).unwrap().execute(sql, &[]).await }).unwrap_err()
}

#[test]
fn statements_carry_rows_both_ways() {
    let db = clickhouse_server().database();
    db.execute("CREATE TABLE t (id UInt32, v String) ENGINE = MergeTree ORDER BY id");
    let client = client(&db);
    runtime().block_on(async {
        let rows = |from: u8| (from..from + 3).flat_map(|id| [id, 0, 0, 0, 1, b'a' + id]).collect::<Vec<u8>>();
        let sql = "INSERT INTO t FORMAT RowBinary";
        client.insert(sql, &[("async_insert", "0")], rows(0).into()).await.unwrap();
        client.insert(sql, &[], rows(3).into()).await.unwrap();
        let sql = "INSERT INTO t SELECT r.id + 10, concat(r.v, t.v) FROM r JOIN t USING (id) WHERE id IN (SELECT id FROM r)";
        client.execute_with_rows(sql, &[], "r", "id UInt32, v String", rows(4).into()).await.unwrap();
        let answer = client.select("SELECT id, nullIf(v, 'a') FROM t ORDER BY id", &[]).await.unwrap();
        let shown: Vec<String> = answer
            .rows
            .iter()
            .map(|row| row.iter().map(|v| v.as_deref().unwrap_or("NULL")).collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(shown, ["0 NULL", "1 b", "2 c", "3 d", "4 e", "5 f", "14 ee", "15 ff"]);
        let large = client.select("SELECT count(), max(number) FROM numbers(1000)", &[("max_threads", "1")]).await;
        assert_eq!(large.unwrap().first(), Some("1000"));
    });
}

#[test]
fn a_wrong_password_is_told_and_not_shown() {
    let db = clickhouse_server().database();
    let wrong = ClickHouseConnection { pass: Some(Secret::new(*b"hunter2\r\nX: y")), ..db.driver() };
    let error = failure(&wrong, "SELECT 1");
    assert_eq!((error.code, error.is_transient()), (Some(516), false));
    let text = error.to_string();
    assert!(text.contains("connection output: ") && text.contains("Are `user` and `pass` right?"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
    let nowhere = ClickHouseConnection { database: "nowhere".to_owned(), ..db.driver() };
    let error = failure(&nowhere, "SELECT 1");
    assert!(error.code == Some(81) && error.to_string().contains("Is `database` right?"), "{error}");
}

#[test]
fn certificates_are_checked_as_far_as_sslmode_says() {
    let server = ClickHouseServer::start(&[]);
    let db = server.database();
    let (own, other) =
        (TlsFront::before(server.port(), &["localhost"]), TlsFront::before(server.port(), &["x"]));
    let plain = ClickHouseConnection { host: "localhost".to_owned(), ..db.driver() };
    let pem = |front: &TlsFront| Some(RootCertificates::Pem(front.root.clone().into_bytes()));
    for (mode, port, root, expected) in [
        (SslMode::VerifyFull, own.port, pem(&own), None),
        (SslMode::Require, own.port, None, None),
        (SslMode::VerifyCa, other.port, pem(&other), None),
        (SslMode::VerifyFull, other.port, pem(&other), Some("sslmode: verify-ca")),
        (SslMode::VerifyFull, own.port, pem(&other), Some("ssl_root_cert")),
        (SslMode::Require, own.port, pem(&other), Some("ssl_root_cert")),
        (SslMode::Require, server.port(), None, Some("Is it a port for HTTPS?")),
    ] {
        let to = ClickHouseConnection { sslmode: mode, port, ssl_root_cert: root, ..plain.clone() };
        let result = runtime().block_on(async { Client::new(&to).unwrap().select("SELECT 1", &[]).await });
        match (result, expected) {
            (Ok(answer), None) => assert_eq!(answer.first(), Some("1")),
            (Err(error), Some(words)) => {
                assert!(!error.is_transient() && error.to_string().contains(words), "{error}");
            }
            (result, _) => panic!("{mode:?} {expected:?}: {result:?}"),
        }
    }
}

#[test]
fn a_server_that_is_gone_may_come_back() {
    let mut server = ClickHouseServer::start(&[]);
    let db = server.database();
    let client = client(&db);
    let runtime = runtime();
    let ask = || runtime.block_on(client.select("SELECT 1", &[]));
    assert!(ask().is_ok());
    server.kill9();
    let error = ask().unwrap_err();
    assert!(error.is_transient() && error.code.is_none(), "{error}");
    let error = ask().unwrap_err().to_string();
    assert!(error.contains("nothing answers at http://127.0.0.1:"), "{error}");
    server.start_again();
    assert!(ask().is_ok());
}

#[test]
fn what_is_no_clickhouse_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // An answer before the question would be none.
            let _ = io::Read::read(&mut stream, &mut [0; 4096]).unwrap();
            io::Write::write_all(&mut stream, b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy").unwrap();
        }
    });
    let to = ClickHouseConnection { port, ..clickhouse_server().database().driver() };
    let error = failure(&to, "SELECT 1");
    assert!(error.is_transient() && error.to_string().contains("HTTP status 503: busy"), "{error}");
}

#[test]
fn errors_say_whether_a_retry_may_help_and_hold_no_value() {
    let db = clickhouse_server().database();
    db.execute(
        "CREATE TABLE t (id Int32, s String, CONSTRAINT positive CHECK id > 0) ENGINE = MergeTree ORDER BY id;\n\
         CREATE TABLE parts (id Int32) ENGINE = MergeTree ORDER BY id SETTINGS parts_to_throw_insert = 1;\n\
         SYSTEM STOP MERGES parts;\n\
         INSERT INTO parts SETTINGS async_insert = 0 SELECT 1",
    );
    type Statement = (&'static str, &'static [(&'static str, &'static str)], i32, bool);
    let statements: [Statement; 8] = [
        ("SELECT groupArray(number) FROM numbers(100000000)", &[("max_memory_usage", "1000000")], 241, true),
        ("SELECT sum(number) FROM system.numbers", &[("max_execution_time", "1")], 159, true),
        ("INSERT INTO parts SELECT 3", &[("async_insert", "0")], 252, true),
        ("INSERT INTO t SELECT 1, ''", &[("readonly", "1")], 164, false),
        ("INSERT INTO t SELECT -47114711, '47114711'", &[], 469, false),
        ("SELECT throwIf(1, '47114711')", &[], 395, false),
        ("INSERT INTO t SELECT toInt32('x47114711'), ''", &[], 6, false),
        ("INSERT INTO nowhere SELECT 1", &[], 60, false),
    ];
    let client = client(&db);
    runtime().block_on(async {
        for (sql, settings, code, is_transient) in statements {
            let error = client.execute(sql, settings).await.unwrap_err();
            assert_eq!((error.code, error.is_transient()), (Some(code), is_transient), "{error}");
            assert!(!error.to_string().contains("47114711") && !error.name.is_empty(), "{error}");
        }
    });
}

#[test]
fn a_table_is_what_its_definition_says() {
    let db = clickhouse_server().database();
    db.execute(
        "CREATE TABLE `a'b` (id UInt64, `k 2` LowCardinality(String), v Nullable(Decimal(18,2)) DEFAULT 1, \
         m String MATERIALIZED `k 2`, version UInt128, gone UInt8) \
         ENGINE = ReplacingMergeTree(version, gone) PARTITION BY id % 8 ORDER BY (id, `k 2`) \
         SETTINGS non_replicated_deduplication_window = 100",
    );
    let client = client(&db);
    runtime().block_on(async {
        let table = fetch_table(&client, &db.name, "a'b").await.unwrap().expect("it is there");
        assert_eq!((table.engine.as_str(), table.deduplication_window), ("ReplacingMergeTree", 100));
        assert_eq!(table.version_column.as_deref(), Some("version"));
        assert_eq!(table.is_deleted_column.as_deref(), Some("gone"));
        assert_eq!(
            (table.sorting_key.as_slice(), table.partition_key.as_str()),
            (&["id".to_owned(), "k 2".to_owned()][..], "id % 8")
        );
        let columns: Vec<_> = table.columns.iter().map(|c| (c.type_text.as_str(), c.default_kind)).collect();
        let expected = [
            ("UInt64", DefaultKind::None),
            ("LowCardinality(String)", DefaultKind::None),
            ("Nullable(Decimal(18, 2))", DefaultKind::Default),
            ("String", DefaultKind::Computed),
            ("UInt128", DefaultKind::None),
            ("UInt8", DefaultKind::None),
        ];
        assert_eq!(columns, expected);
        assert_eq!(fetch_table(&client, &db.name, "nowhere").await.unwrap(), None);
    });
}

/// Every kind of value: its types, as Postgres writes it, and as ClickHouse then shows it.
fn values() -> Vec<(PostgresType, &'static str, &'static str, &'static str)> {
    let text = || PostgresType::Text("text".to_owned());
    let array = |element| PostgresType::Array(Box::new(element));
    vec![
        (PostgresType::Bool, "Bool", "t", "true"),
        (PostgresType::Int8, "Int8", "-128", "-128"),
        (PostgresType::Int8, "UInt64", "9223372036854775807", "9223372036854775807"),
        (PostgresType::Numeric(None), "Int256", "-1", "-1"),
        (
            PostgresType::Numeric(None),
            "Decimal(76, 38)",
            "-0.00000000000000000000000000000000000001",
            "-0.00000000000000000000000000000000000001",
        ),
        (PostgresType::Numeric(None), "Nullable(Decimal(9, 2))", "9999999.99", "9999999.99"),
        (PostgresType::Float4, "Float32", "1e-45", "1e-45"),
        (PostgresType::Float8, "Float64", "-Infinity", "-inf"),
        (
            PostgresType::Uuid,
            "UUID",
            "00112233-4455-6677-8899-aabbccddeeff",
            "00112233-4455-6677-8899-aabbccddeeff",
        ),
        (PostgresType::Date, "Date", "2149-06-06", "2149-06-06"),
        (PostgresType::Date, "Date32", "0001-01-01", "0001-01-01"),
        (
            PostgresType::Timestamp(6),
            "DateTime64(6, 'UTC')",
            "9999-12-31 23:59:59.999999",
            "9999-12-31 23:59:59.999999",
        ),
        (
            PostgresType::Timestamptz(6),
            "DateTime64(6, 'UTC')",
            "0001-01-01 00:00:00+00",
            "0001-01-01 00:00:00.000000",
        ),
        (PostgresType::Timestamptz(0), "DateTime('UTC')", "2106-02-07 06:28:15+00", "2106-02-07 06:28:15"),
        (PostgresType::Time(6), "Time64(6)", "24:00:00", "24:00:00.000000"),
        (PostgresType::Time(0), "Time", "23:59:59", "23:59:59"),
        (PostgresType::Enum, "Enum16('a' = -300)", "a", "a"),
        (text(), "LowCardinality(Nullable(String))", "ü\t'\\", "ü\t'\\"),
        (text(), "FixedString(2)", "DE", "DE"),
        (PostgresType::Bytea, "String", "\\x6162", "ab"),
        (PostgresType::Inet, "IPv4", "1.2.3.4", "1.2.3.4"),
        (PostgresType::Inet, "IPv6", "2001:db8::1", "2001:db8::1"),
        (PostgresType::Json, "JSON", r#"{"a": {"b": 1}}"#, r#"{"a":{"b":1}}"#),
        (
            PostgresType::Hstore,
            "Map(String, Nullable(String))",
            r#""a"=>"1", "b"=>NULL"#,
            "{'a':'1','b':NULL}",
        ),
        (PostgresType::Point, "Point", "(1.5,-2)", "(1.5,-2)"),
        (PostgresType::Vector, "Array(Float32)", "[1,0.5]", "[1,0.5]"),
        (array(PostgresType::Int4), "Array(Array(Nullable(Int32)))", "{{1,NULL},{3,4}}", "[[1,NULL],[3,4]]"),
        (array(text()), "Array(LowCardinality(Nullable(String)))", r#"{"a b",NULL}"#, "['a b',NULL]"),
    ]
}

#[test]
fn the_server_reads_what_the_encoder_writes() {
    let cases = values();
    let db = clickhouse_server().database();
    let columns: Vec<String> =
        cases.iter().enumerate().map(|(at, case)| format!("c{at} {}", case.1)).collect();
    db.execute(&format!("CREATE TABLE t ({}) ENGINE = MergeTree ORDER BY tuple()", columns.join(", ")));
    let client = client(&db);
    runtime().block_on(async {
        let table = fetch_table(&client, &db.name, "t").await.unwrap().expect("it is there");
        let server = fetch_server(&client).await.unwrap();
        let mut body = vec![u8::try_from(cases.len()).unwrap()];
        table.columns.iter().for_each(|column| put_text(column.name.as_bytes(), &mut body));
        table.columns.iter().for_each(|column| put_text(column.type_text.as_bytes(), &mut body));
        for ((from, _, value, _), column) in cases.iter().zip(&table.columns) {
            assert!(!matches!(column.data_type, Type::Other(_)), "{}", column.type_text);
            let encoding = accepts(from, &column.data_type, &column.type_text, &server).unwrap();
            encoding.encode(Some(value.as_bytes()), &mut body).unwrap();
        }
        let settings = [("input_format_skip_unknown_fields", "0")];
        client
            .insert("INSERT INTO t FORMAT RowBinaryWithNamesAndTypes", &settings, body.into())
            .await
            .unwrap();
    });
    let row = db.rows("SELECT * FROM t").remove(0);
    for ((from, to, _, shown), value) in cases.iter().zip(row) {
        assert_eq!(value.as_deref(), Some(*shown), "{from} in {to}");
    }
}
