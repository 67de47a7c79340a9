//! Projects that load, and what they become.

use proptest::prelude::*;

use super::broken_projects::write_files;
use super::schema_tests::verdicts;
use super::{
    Action, Connection, Loaded, OnError, OnWalBudget, PostgresConnection, RootCertificates, SslMode,
    TruncateAction, Variables, WalBudget, load_with,
};

const PIPELINE: &str = "input: {connection: db, table: Orders}\noutput: {connection: db, table: flat}\n";

fn load_files(files: &[(&str, &str)], env: &[(&str, &str)]) -> Loaded {
    let files: Vec<_> = files.iter().map(|&(path, text)| (path.to_owned(), text.to_owned())).collect();
    let dir = write_files(&files);
    let variables = Variables::new(env.iter().copied());
    match load_with(dir.path(), &variables) {
        Ok(loaded) => {
            for (path, is_accepted) in verdicts(dir.path(), &variables) {
                assert!(is_accepted, "the schema refuses {}", path.display());
            }
            loaded
        }
        Err(diagnostics) => panic!("{diagnostics}"),
    }
}

fn load_connection(text: &str, files: &[(&str, &str)], env: &[(&str, &str)]) -> PostgresConnection {
    let mut all = vec![("trucker.yml", text), ("orders/config.yml", PIPELINE)];
    all.extend(files);
    match load_files(&all, env).project.connections.swap_remove(0) {
        Connection::Postgres(connection) => connection,
        Connection::ClickHouse(_) => panic!("a Postgres connection was written"),
    }
}

#[test]
fn defaults_are_filled_in() {
    let text = "connections:\n- {name: db, adapter: postgres, host: h, database: d, user: 0123}\n";
    let loaded = load_files(&[("trucker.yml", text), ("orders/config.yml", PIPELINE)], &[]);
    let project = &loaded.project;
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    assert_eq!(project.slot_name(), "trucker");
    let Some(Connection::Postgres(db)) = project.connection("db") else { panic!("it is a Postgres") };
    assert_eq!((db.port, db.user.as_str(), db.sslmode), (5432, "0123", SslMode::Prefer));
    assert_eq!(db.wal_budget, WalBudget { bytes: 10 << 30, on_excess: OnWalBudget::Warn });
    assert!(db.pass.is_none() && db.replica.is_none() && db.ssl_root_cert.is_none());
    let [pipeline] = project.pipelines.as_slice() else { panic!("one pipeline") };
    assert_eq!(pipeline.name, "orders");
    assert_eq!(pipeline.input.tables[0].to_string(), "public.orders");
    let on = pipeline.output.on;
    assert_eq!((on.insert, on.update, on.delete), (Action::Upsert, Action::Upsert, Action::Delete));
    assert_eq!((on.truncate, pipeline.backfill, pipeline.on_error), (None, true, OnError::Stop));
    assert!(pipeline.output.key.is_none() && pipeline.sql.transform.is_none());
}

#[test]
fn everything_that_can_be_said_is_read() {
    let project = "name: shop
connections:
{% for i in [1, 2] %}
  - name: db{{ i }}
    adapter: postgres
    host: \"{{ env('H') }}.internal\"
    port: {{ env(\"PORT\") }}
    database: d
    user: u
    pass_path: secrets/pass
    sslmode: verify-ca
    ssl_root_cert: |
      -----BEGIN CERTIFICATE-----
      -----END CERTIFICATE-----
    ssl_cert: secrets/client.pem
    ssl_key_path: secrets/client.key
    wal_budget: 1.5 GB
    on_wal_budget: give_up
    failover: {{ env(\"BACKFILL\") }}
    replica_host: r{{ i }}
    replica_db: rd
{% endfor %}
  - name: ch
    adapter: clickhouse
    host: {{ env(\"CLICKHOUSE_HOST\", \"localhost\") }}
";
    let pipeline = "{
\t\"input\": {\"connection\": \"db1\", \"tables\": [\"a\", \"\\\"B\\\".c\"]},
\t\"output\": {\"connection\": \"ch\", \"table\": \"Flat\", \"key\": \"id\", \"replace\": [\"id\"],
\t\t\"on\": {\"insert\": \"insert\", \"delete\": \"ignore\", \"truncate\": \"error\"}},
\t\"backfill\": {{ env(\"BACKFILL\") }}, \"on_error\": \"dead_letter\"
}";
    let files = [
        ("trucker.yaml", project),
        ("secrets/pass", "hunter2\r\n"),
        ("secrets/client.pem", "-----BEGIN CERTIFICATE-----\n"),
        ("secrets/client.key", "-----BEGIN PRIVATE KEY-----\n"),
        ("flat/config.json", pipeline),
        ("flat/transform.sql", "\u{FEFF}SELECT 1"),
        ("flat/tests/other.sql", ""),
        (".hidden/config.yml", "nonsense"),
    ];
    let env = [("H", "a"), ("PORT", "6000"), ("BACKFILL", "false")];
    let Loaded { project, secrets, warnings } = load_files(&files, &env);
    assert!(warnings.is_empty(), "{warnings}");
    assert_eq!(project.slot_name(), "trucker_shop");
    let Connection::Postgres(db) = &project.connections[1] else { panic!("it is a Postgres") };
    assert_eq!((db.name.as_str(), db.host.as_str(), db.port), ("db2", "a.internal", 6000));
    assert_eq!(db.pass.as_ref().unwrap().expose(), b"hunter2");
    assert_eq!(db.wal_budget, WalBudget { bytes: 3 << 29, on_excess: OnWalBudget::GiveUp });
    assert_eq!(secrets.mask("it is hunter2"), "it is ***");
    assert!(matches!(&db.ssl_root_cert, Some(RootCertificates::Pem(_))) && db.ssl_key.is_some());
    let replica = db.replica.as_ref().unwrap();
    assert_eq!((replica.host.as_str(), replica.port, replica.database.as_str()), ("r2", 6000, "rd"));
    assert_eq!((replica.name.as_str(), db.failover), ("db2's replica", false));
    assert_eq!((replica.user.as_str(), replica.pass.as_ref()), ("u", db.pass.as_ref()));
    let Connection::ClickHouse(ch) = &project.connections[2] else { panic!("it is a ClickHouse") };
    assert_eq!((ch.host.as_str(), ch.port, ch.database.as_str()), ("localhost", 8123, "default"));
    let flat = &project.pipelines[0];
    assert_eq!(flat.input.tables[1].to_string(), "B.c");
    assert_eq!(flat.output.table.as_ref().unwrap().to_string(), "default.Flat");
    assert_eq!(flat.output.key.as_deref(), Some(["id".to_owned()].as_slice()));
    assert_eq!((flat.output.on.insert, flat.output.on.update), (Action::Insert, Action::Upsert));
    assert_eq!(flat.output.on.truncate, Some(TruncateAction::Error));
    assert_eq!((flat.backfill, flat.on_error), (false, OnError::DeadLetter));
    assert_eq!(&*flat.sql.transform.as_ref().unwrap().text, "SELECT 1");
}

#[test]
fn the_systems_store_implies_that_the_host_is_checked() {
    let text =
        "connections:\n- {name: db, adapter: postgres, host: h, database: d, user: u, ssl_root_cert: system}";
    let db = load_connection(text, &[], &[]);
    assert_eq!((db.sslmode, db.ssl_root_cert), (SslMode::VerifyFull, Some(RootCertificates::System)));
}

#[test]
fn clickhouse_speaks_http_until_something_says_tls() {
    let load = |keys: &str| {
        let text = format!("connections:\n- {{name: ch, adapter: clickhouse, host: h{keys}}}");
        let Loaded { project, .. } =
            load_files(&[("trucker.yml", &text), ("root", "-----BEGIN CERTIFICATE-----\n")], &[]);
        let Connection::ClickHouse(ch) = &project.connections[0] else { panic!("it is a ClickHouse") };
        (ch.sslmode, ch.port)
    };
    for (keys, expected) in [
        ("", (SslMode::Disable, 8123)),
        (", sslmode: require", (SslMode::Require, 8443)),
        (", sslmode: verify-ca, port: 9443", (SslMode::VerifyCa, 9443)),
        (", ssl_root_cert: root", (SslMode::VerifyFull, 8443)),
        (", ssl_root_cert: system", (SslMode::VerifyFull, 8443)),
        (", ssl_root_cert_path: root, sslmode: verify-ca", (SslMode::VerifyCa, 8443)),
    ] {
        assert_eq!(load(keys), expected, "{keys}");
    }
}

#[test]
fn a_file_of_a_secret_loses_one_line_end() {
    let text = "connections:\n- {name: db, adapter: postgres, host: h, database: d, user: u, pass_path: p}";
    for (file, pass) in [("a", "a"), ("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), (" a ", " a "), ("", "")]
    {
        let db = load_connection(text, &[("p", file)], &[]);
        assert_eq!(db.pass.unwrap().expose(), pass.as_bytes(), "{file:?}");
    }
}

#[test]
fn a_variable_in_a_comment_need_not_be_set() {
    let text = "connections:\n- name: db\n  adapter: postgres\n  host: h\n  database: d\n  user: u\n  \
                # pass: {{ env('UNSET') }}\n";
    assert!(load_connection(text, &[], &[]).pass.is_none());
}

#[test]
fn a_captured_value_is_put_in_too() {
    let text = "{% set host %}{{ env('H') }}.example{% endset %}{% macro m() %}{{ env('P') }}{% endmacro %}\
                connections:\n- {name: db, adapter: postgres, host: {{ host }}, database: d, user: u, \
                pass: {{ m() }}}\n";
    let db = load_connection(text, &[], &[("H", "a"), ("P", "x: #")]);
    assert_eq!((db.host.as_str(), db.pass.unwrap().expose()), ("a.example", b"x: #".as_slice()));
}

#[test]
fn a_file_from_windows_is_read() {
    let text = "\u{FEFF}connections:\r\n- name: db\r\n  adapter: postgres\r\n  host: h\r\n  database: d\r\n  \
                user: {{ env('U') }}\r\n";
    assert_eq!(load_connection(text, &[], &[("U", "u")]).user, "u");
}

#[test]
fn escapes_in_json_are_read() {
    let text = r#"{"connections": [{"name": "db", "adapter": "postgres", "host": "h", "database": "d",
        "user": "u", "pass": "\/\"\\\u00e9\n😀"}]}"#;
    assert_eq!(load_connection(text, &[], &[]).pass.unwrap().expose(), "/\"\\é\n😀".as_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_value_comes_out_as_it_went_in_and_changes_nothing_else(value in hostile(), other in hostile()) {
        // A variable and Postgres's protocol end at a zero byte.
        let (value, other) = (value.replace('\0', ""), other.replace('\0', ""));
        let env = [("P", value.as_str()), ("O", other.as_str())];
        let block = "name: db\n  adapter: postgres\n  host: h\n  database: d";
        let cases = [
            (format!("- {block}\n  pass: {{{{ env('P') }}}}\n  user: a{{{{ env('O') }}}}b\n"), value.clone()),
            (format!("- {block}\n  pass: \"{{{{ env('P') }}}}\"\n  user: 'a{{{{ env(\"O\") }}}}b'\n"), value.clone()),
            (format!("- {block}\n  pass: x {{{{ env('P') }}}}{{{{ env('P') }}}}y\n  user: a{{{{ env('O') }}}}b\n"),
                format!("x {value}{value}y")),
            (format!("- {block}\n  pass: |\n    x{{{{ env('P') }}}}\n  user: a{{{{ env('O') }}}}b\n"), format!("x{value}\n")),
            ("- {name: db, adapter: postgres, host: h, database: d, pass: {{ env('P') }}, user: a{{ env('O') }}b}".to_owned(),
                value.clone()),
            ("- {\"name\":\"db\",\"adapter\":\"postgres\",\"host\":\"h\",\"database\":\"d\",\"pass\":\"{{ env('P') }}\",\
               \"user\":\"a{{ env('O') }}b\"}".to_owned(), value.clone()),
        ];
        for (text, pass) in cases {
            let db = load_connection(&format!("connections:\n{text}"), &[], &env);
            let given = db.pass.unwrap();
            prop_assert_eq!(given.expose(), pass.as_bytes(), "{}", text);
            prop_assert_eq!(db.user, format!("a{other}b"), "{}", text);
            prop_assert_eq!((db.name.as_str(), db.host.as_str(), db.database.as_str()), ("db", "h", "d"));
        }
    }

    #[test]
    fn no_file_makes_the_loader_panic_or_show_a_secret(text in "([-a:?&*!|>'\"%@`{}\\[\\],# \t\n]|pass: hunter2|env\\(|\\{\\{|\\}\\}|é|---){0,30}") {
        let dir = write_files(&[("trucker.yml".to_owned(), text.clone()), ("p/config.yml".to_owned(), text)]);
        if let Err(diagnostics) = load_with(dir.path(), &Variables::default()) {
            let shown = diagnostics.to_string();
            prop_assert!(!shown.contains("hunter2"), "{}", shown);
        }
    }
}

/// Any text, and what YAML and Jinja could trip over.
fn hostile() -> impl Strategy<Value = String> {
    let odd = "([#:'\"\\\\{}\\[\\]%&*!|>@`,?~ \t\n\r-]|true|null|123|\\{\\{|%\\}|é|\u{2028}|\u{85}|\u{F0000}|\u{100000}){0,12}";
    prop_oneof![any::<String>(), odd.prop_map(String::from)]
}
