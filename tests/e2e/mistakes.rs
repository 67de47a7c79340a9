//! What people get wrong: each answered with the exit code of its kind, the place and the cure, before
//! anything is created on either server.

use trucker::sandbox::{PostgresServer, ServerOptions};

use super::harness::{Database, Scenario, config, output_server, private_server};

const ORDERS: &str = "CREATE TABLE orders (id int PRIMARY KEY, total int, note text)";
const FLAT: &str = "CREATE TABLE flat (order_id int PRIMARY KEY, total int)";

fn world() -> Scenario {
    Scenario::new().tables(ORDERS).tables(FLAT)
}

#[track_caller]
fn refused(s: &Scenario, codes: &[i32], words: &[&str]) {
    for command in ["check", "run"] {
        let dir = s.dir();
        let dir = dir.to_str().unwrap();
        let args: &[&str] = if command == "run" { &["run", dir, "--once"] } else { &["check", dir] };
        let finished = s.start(args).wait();
        let text = finished.text();
        let code = finished.code.unwrap_or(-1);
        assert!(codes.contains(&code), "{command} ended with {code}, not {codes:?}: {text}");
        for word in words {
            assert!(text.contains(word), "{command}: no word on {word:?}: {text}");
        }
        assert!(!text.contains("panicked"), "{text}");
        s.assert_nothing_created();
    }
}

/// A pipeline that is wrong in one way.
#[track_caller]
fn pipeline_refused(config: &str, files: &[(&str, &str)], words: &[&str]) {
    let s = world().pipeline("flat", config, files);
    refused(&s, &[1, 3], words);
}

#[test]
fn a_missing_input_table_is_named_with_the_nearest() {
    pipeline_refused(&config("public.ordres", "flat", &[]), &[], &["public.ordres", "orders"]);
}

#[test]
fn a_missing_output_table_is_named() {
    pipeline_refused(&config("orders", "public.flatt", &[]), &[], &["public.flatt"]);
}

#[test]
fn a_view_is_no_input() {
    let s = world().on_source("CREATE VIEW seen AS SELECT * FROM orders").pipeline(
        "v",
        &config("seen", "orders", &[]),
        &[],
    );
    refused(&s, &[1, 3], &["seen", "view"]);
}

#[test]
fn whatever_has_no_changes_to_stream_is_no_input() {
    let s = world();
    s.source.execute(
        "CREATE UNLOGGED TABLE fast (id int PRIMARY KEY); CREATE MATERIALIZED VIEW kept AS SELECT 1 AS id;
         CREATE SEQUENCE numbers; CREATE FOREIGN DATA WRAPPER fdw; CREATE SERVER far FOREIGN DATA WRAPPER fdw;
         CREATE FOREIGN TABLE away (id int) SERVER far",
    );
    for (table, why) in [
        ("fast", "unlogged"),
        ("kept", "is a view"),
        ("numbers", "is no table"),
        ("away", "is a foreign table"),
    ] {
        s.write_pipeline("t", &config(table, "t", &[]), &[]);
        refused(&s, &[3], &[table, why]);
    }
}

#[test]
fn an_unknown_column_in_sql_is_named_with_file_line_and_the_nearest() {
    let sql = "SELECT {{ row.id }} AS order_id,\n       {{ row.totl }} AS total";
    pipeline_refused(
        &config("orders", "flat", &[]),
        &[("transform.sql", sql)],
        &["transform.sql:2", "totl", "total"],
    );
}

#[test]
fn an_unknown_plain_column_in_sql_is_told_in_the_servers_words() {
    let sql = "SELECT row.id AS order_id,\n       row.totl AS total";
    pipeline_refused(&config("orders", "flat", &[]), &[("transform.sql", sql)], &["transform.sql", "totl"]);
}

#[test]
fn a_missing_table_in_sql_is_told_with_file_and_line() {
    let sql = "SELECT row.id AS order_id\nFROM nowhere";
    pipeline_refused(
        &config("orders", "flat", &[]),
        &[("transform.sql", sql)],
        &["transform.sql:2", "nowhere"],
    );
}

#[test]
fn a_syntax_error_in_sql_is_told_with_file_and_line() {
    let sql = "SELECT row.id AS order_id,\n  FROM orders";
    pipeline_refused(
        &config("orders", "flat", &[]),
        &[("transform.sql", sql)],
        &["transform.sql:2", "syntax error"],
    );
}

#[test]
fn a_template_that_is_not_closed_is_told_with_file_and_line() {
    let sql = "SELECT 1 AS order_id,\n {{ row.id AS total";
    pipeline_refused(&config("orders", "flat", &[]), &[("transform.sql", sql)], &["transform.sql:2"]);
}

#[test]
fn a_file_of_two_statements_is_refused() {
    let sql = "SELECT row.id AS order_id; DELETE FROM orders";
    pipeline_refused(&config("orders", "flat", &[]), &[("transform.sql", sql)], &["transform.sql"]);
}

#[test]
fn a_file_that_tries_to_leave_its_place_is_refused() {
    let sql = "SELECT row.id AS order_id) x; DROP TABLE orders; --";
    let s = world().pipeline("flat", &config("orders", "flat", &[]), &[("transform.sql", sql)]);
    refused(&s, &[1, 3], &["transform.sql"]);
    assert_eq!(s.source.number("SELECT count(*) FROM orders"), 0);
}

#[test]
fn an_empty_sql_file_is_refused() {
    pipeline_refused(
        &config("orders", "flat", &[]),
        &[("transform.sql", "-- nothing yet\n")],
        &["transform.sql"],
    );
}

#[test]
fn a_result_column_that_the_output_lacks_is_named() {
    let sql = "SELECT row.id AS order_id, row.total AS totals";
    pipeline_refused(&config("orders", "flat", &[]), &[("transform.sql", sql)], &["totals", "flat"]);
}

#[test]
fn a_result_without_the_key_is_refused() {
    pipeline_refused(&config("orders", "flat", &[]), &[("transform.sql", "SELECT row.total")], &["order_id"]);
}

#[test]
fn an_output_without_a_primary_key_needs_a_key() {
    let s = world().on_output("CREATE TABLE heap (id int, total int)").pipeline(
        "heap",
        &config("orders", "heap", &[]),
        &[],
    );
    refused(&s, &[1, 3], &["heap", "key"]);
}

#[test]
fn a_key_without_a_unique_index_is_refused_with_the_index_to_create() {
    let s = world().on_output("CREATE TABLE heap (id int, total int, note text)").pipeline(
        "heap",
        &config("orders", "heap", &["key: [id]"]),
        &[],
    );
    refused(&s, &[1, 3], &["heap", "CREATE UNIQUE INDEX"]);
}

#[test]
fn a_key_column_that_the_output_lacks_is_named() {
    pipeline_refused(&config("orders", "flat", &["key: [order_idd]"]), &[], &["order_idd", "order_id"]);
}

#[test]
fn a_column_of_old_that_is_not_sent_is_refused_with_the_cure() {
    let sql = "SELECT {{ row.id }} AS order_id, {{ new.total }} - {{ old.total }} AS total";
    pipeline_refused(
        &config("orders", "flat", &[]),
        &[("transform.sql", sql)],
        &["total", "ALTER TABLE", "REPLICA IDENTITY FULL"],
    );
}

#[test]
fn a_delete_that_cannot_be_found_is_refused_with_the_cure() {
    // The output's key comes from a column that a delete does not carry.
    let s = world().on_output("CREATE TABLE notes (note text PRIMARY KEY, total int)").pipeline(
        "notes",
        &config("orders", "notes", &[]),
        &[("transform.sql", "SELECT row.note, row.total")],
    );
    refused(&s, &[1, 3], &["delete.sql", "REPLICA IDENTITY FULL"]);
}

#[test]
fn two_pipelines_into_one_table_have_to_say_what_truncate_does() {
    let s = world()
        .on_source("CREATE TABLE more (id int PRIMARY KEY, total int, note text)")
        .pipeline("one", &config("orders", "orders", &[]), &[])
        .pipeline("two", &config("more", "orders", &[]), &[]);
    refused(&s, &[1, 3], &["truncate", "one", "two"]);
}

#[test]
fn unknown_keys_are_named_with_file_line_and_the_nearest() {
    let text = config("orders", "orders", &["kye: [id]"]);
    let s = world().pipeline("orders", &text, &[]);
    refused(&s, &[3], &["config.yml:7", "kye", "key"]);
}

#[test]
fn a_connection_that_does_not_exist_is_named_with_the_nearest() {
    let text = config("orders", "orders", &[]).replace("connection: source", "connection: sorce");
    let s = world().pipeline("orders", &text, &[]);
    refused(&s, &[3], &["sorce", "source"]);
}

#[test]
fn all_mistakes_of_the_files_are_shown_at_once() {
    let s = world().pipeline("one", &config("orders", "orders", &["kye: [id]"]), &[]).pipeline(
        "two",
        &config("orders", "orders", &["replaec: [id]"]),
        &[],
    );
    refused(&s, &[3], &["kye", "replaec"]);
}

#[test]
fn a_variable_that_is_not_set_is_named() {
    let text = config(r#"{{ env("TRUCKER_TEST_NO_SUCH_VARIABLE") }}"#, "orders", &[]);
    let s = world().pipeline("orders", &text, &[]);
    refused(&s, &[3], &["TRUCKER_TEST_NO_SUCH_VARIABLE", "config.yml:3"]);
}

#[test]
fn a_project_without_trucker_yml_is_told_so() {
    let s = world();
    std::fs::remove_file(s.dir().join("trucker.yml")).unwrap();
    refused(&s, &[3], &["trucker.yml"]);
}

#[test]
fn a_project_without_a_pipeline_is_told_so() {
    refused(&world(), &[3], &["pipeline"]);
}

#[test]
fn an_unknown_option_is_a_usage_error() {
    let s = world().copies("orders");
    let dir = s.dir();
    let finished = s.start(&["run", dir.to_str().unwrap(), "--onec"]).wait();
    assert_eq!(finished.code, Some(2), "{}", finished.text());
    assert!(finished.text().contains("--once"), "{}", finished.text());
}

fn with_connection(change: impl Fn(String) -> String) -> Scenario {
    let s = world().copies("orders");
    let path = s.dir().join("trucker.yml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(path, change(text)).unwrap();
    s
}

#[test]
fn a_server_that_is_not_there_is_named_with_host_and_port() {
    let s = with_connection(|text| {
        text.replacen("host: 127.0.0.1\n    port: ", "host: 127.0.0.1\n    port: 1 # ", 1)
    });
    refused(&s, &[4], &["source", "127.0.0.1", "1"]);
}

#[test]
fn a_host_that_does_not_exist_is_named() {
    let s = with_connection(|text| text.replacen("host: 127.0.0.1", "host: no-such-host.invalid", 1));
    refused(&s, &[4], &["source", "no-such-host.invalid"]);
}

#[test]
fn a_database_that_does_not_exist_is_named() {
    let s = with_connection(|text| text.replacen("_out\n", "_nowhere\n", 1));
    refused(&s, &[4], &["output", "_nowhere", "3D000"]);
}

fn server_with_password() -> PostgresServer {
    private_server(ServerOptions {
        password: Some("right".to_owned()),
        hba: vec![
            "host all postgres 127.0.0.1/32 trust".to_owned(),
            "host all all 127.0.0.1/32 scram-sha-256".to_owned(),
        ],
        ..ServerOptions::default()
    })
}

#[test]
fn a_wrong_password_and_a_missing_one_are_told_apart_and_not_shown() {
    let server = server_with_password();
    let s = Scenario::between(server.port(), output_server().port()).tables(ORDERS).copies("orders");
    s.source.execute("CREATE ROLE reader LOGIN REPLICATION SUPERUSER PASSWORD 'right'");
    let path = s.dir().join("trucker.yml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("user: postgres", "user: reader\n    pass: wr0ng-s3cret", 1))
        .unwrap();
    refused(&s, &[4], &["source", "reader", "28P01"]);
    assert!(!s.run_once().text().contains("wr0ng-s3cret"));
    std::fs::write(&path, text.replacen("user: postgres", "user: reader", 1)).unwrap();
    refused(&s, &[4], &["source", "pass"]);
    std::fs::write(&path, text.replacen("user: postgres", "user: reader\n    pass: right", 1)).unwrap();
    s.once();
    s.assert_table_same("orders");
}

#[test]
fn a_wal_level_below_logical_is_told_with_the_setting() {
    let server = private_server(ServerOptions::default().set("wal_level", "replica"));
    let s = Scenario::between(server.port(), output_server().port()).tables(ORDERS).copies("orders");
    refused(&s, &[1, 4], &["wal_level", "logical"]);
}

#[test]
fn a_server_without_a_free_slot_is_told_with_the_setting() {
    let server = private_server(ServerOptions::default().set("max_replication_slots", "1"));
    let s = Scenario::between(server.port(), output_server().port()).tables(ORDERS).copies("orders");
    s.source.execute("SELECT pg_create_physical_replication_slot('taken')");
    let finished = s.run_once();
    assert!(matches!(finished.code, Some(1 | 4)), "{finished:?}");
    assert!(finished.text().contains("max_replication_slots"), "{}", finished.text());
}

#[test]
fn a_server_without_a_free_walsender_is_told_with_the_setting_and_keeps_no_slot() {
    let server = private_server(ServerOptions::default().set("max_wal_senders", "0"));
    let s = Scenario::between(server.port(), output_server().port()).tables(ORDERS).copies("orders");
    refused(&s, &[4], &["max_wal_senders"]);
}

/// Roles belong to a whole server: named after the test's database.
fn with_role(s: &Scenario, database: &Database, rights: &str) {
    let role = format!("{}_role", s.name);
    database.execute(&format!("CREATE ROLE {role} LOGIN {rights}; GRANT USAGE ON SCHEMA public TO {role}"));
    let path = s.dir().join("trucker.yml");
    let text = std::fs::read_to_string(&path).unwrap();
    let place = text.find(&format!("database: {}", database.name)).unwrap();
    let (head, rest) = text.split_at(place);
    std::fs::write(path, format!("{head}{}", rest.replacen("user: postgres", &format!("user: {role}"), 1)))
        .unwrap();
}

fn drop_role(s: &Scenario, database: &Database) {
    database.execute(&format!("DROP OWNED BY {0}_role; DROP ROLE {0}_role", s.name));
}

#[test]
fn a_role_without_replication_is_told_so() {
    let s = world().copies("orders");
    with_role(&s, &s.source, "");
    s.source.execute(&format!(
        "GRANT ALL ON orders TO {0}_role; GRANT CREATE ON DATABASE \"{1}\" TO {0}_role",
        s.name, s.source.name
    ));
    refused(&s, &[1, 4], &["REPLICATION"]);
    drop_role(&s, &s.source);
}

#[test]
fn a_role_that_may_not_read_the_table_is_told_the_grant() {
    let s = world().copies("orders");
    with_role(&s, &s.source, "REPLICATION");
    refused(&s, &[1, 4], &["orders", "GRANT"]);
    drop_role(&s, &s.source);
}

#[test]
fn a_role_that_may_not_write_the_output_is_told_the_grant() {
    let s = world().copies("orders");
    with_role(&s, &s.output, "");
    refused(&s, &[1, 4], &["GRANT"]);
    drop_role(&s, &s.output);
}
