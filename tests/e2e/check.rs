//! `trucker check`: it goes on after what it finds first, says what it couldn't look at, and changes nothing.

use serde_json::Value;

use super::harness::{Scenario, clickhouse_server, config};

const T: &str = "CREATE TABLE t (id int PRIMARY KEY, note text)";

fn check(s: &Scenario, more: &[&str]) -> (i32, String) {
    let dir = s.dir();
    let mut args = vec!["check", dir.to_str().unwrap()];
    args.extend(more);
    let finished = s.start(&args).wait();
    (finished.code.unwrap_or(-1), finished.text())
}

#[track_caller]
fn assert_words(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "no word on {word:?}: {text}");
    }
}

#[test]
fn a_project_that_fits_is_listed_and_nothing_is_created() {
    let s = Scenario::new().tables(T).copies("t");
    let (code, text) = check(&s, &["--deny-warnings"]);
    assert_eq!(code, 0, "{text}");
    let expected = [
        "connection source\n",
        "connection output\n",
        "ok       wal_level: logical",
        "replication slots: ",
        "walsenders: ",
        "WAL kept for slots: ",
        "pipeline t\n",
        "ok       input: public.t: of old rows (id) are sent",
        "ok       output: public.t: key (id)",
        "0 errors, 0 warnings",
    ];
    assert_words(&text, &expected);
    s.assert_nothing_created();
}

#[test]
fn it_goes_on_after_what_it_finds_first() {
    let s = Scenario::new()
        .tables(T)
        .pipeline("one", &config("t", "missing", &[]), &[])
        .pipeline(
            "three",
            &config("t", "t", &["on: {truncate: ignore}"]),
            &[("insert.sql", "SELEC 1"), ("update.sql", "SELECT row.x")],
        )
        .pipeline("two", &config("nowhere", "t", &["on: {truncate: ignore}"]), &[]);
    let (code, text) = check(&s, &[]);
    assert_eq!(code, 3, "{text}");
    assert_words(&text, &["missing", "nowhere", "insert.sql:1:1", "update.sql:1:8", "pipeline three"]);
}

#[test]
fn where_a_server_cannot_be_reached_the_templates_are_looked_at_all_the_same() {
    let s = Scenario::new().tables(T).pipeline(
        "t",
        &config("t", "t", &[]),
        &[("delete.sql", "SELECT {{ old.id")],
    );
    s.file("trucker.yml", &s.project_file().replacen("host: 127.0.0.1", "host: no-such-host.invalid", 1));
    let (code, text) = check(&s, &[]);
    assert_eq!(code, 3, "{text}");
    assert_words(
        &text,
        &["TRK0302", "TRK0201", "delete.sql:1:8", "skipped  tables and SQL: connection source"],
    );
}

#[test]
fn offline_asks_no_server() {
    let s = Scenario::new().pipeline(
        "t",
        &config("t", "t", &[]),
        &[("transform.sql", "SELECT {{ row.id }} AS id")],
    );
    s.file("trucker.yml", &s.project_file().replace("host: 127.0.0.1", "host: no-such-host.invalid"));
    let (code, text) = check(&s, &["--offline"]);
    assert_eq!(code, 0, "{text}");
    assert_words(
        &text,
        &["ok       templates: transform.sql", "skipped  tables and SQL: --offline asks no server"],
    );
    s.write_pipeline("t", &config("t", "t", &[]), &[("transform.sql", "SELECT 1 AS id;\nSELECT 2")]);
    let (code, text) = check(&s, &["--offline"]);
    assert_eq!(code, 3, "{text}");
    assert_words(&text, &["TRK0706", "transform.sql:2:1"]);
}

#[test]
fn a_warning_fails_only_where_it_is_asked_to() {
    let s = Scenario::new()
        .on_source(T)
        .on_output("CREATE TABLE t (id int PRIMARY KEY, note text NOT NULL)")
        .copies("t");
    let (code, text) = check(&s, &[]);
    assert_eq!(code, 0, "{text}");
    assert_words(&text, &["warning[TRK0616]", "t.note may be NULL", "0 errors, 1 warning"]);
    assert_eq!(check(&s, &["--deny-warnings"]).0, 1);
}

#[test]
fn json_has_each_check_with_its_outcome() {
    let s = Scenario::new().tables(T).copies("t").pipeline(
        "u",
        &config("t", "t", &["on: {truncate: ignore}"]),
        &[("transform.sql", "SELECT\n  row.idd AS id")],
    );
    s.write_pipeline("t", &config("t", "t", &["on: {truncate: ignore}"]), &[]);
    let dir = s.dir();
    let finished = s.start(&["check", dir.to_str().unwrap(), "--json"]).wait();
    assert_eq!(finished.code, Some(3), "{}", finished.text());
    let json: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!((json["errors"].as_u64(), json["warnings"].as_u64()), (Some(1), Some(0)), "{json:#}");
    let checks = json["checks"].as_array().unwrap();
    let find = |key: &str, name: &str, what: &str| {
        checks.iter().find(|c| c[key] == name && c["check"] == what).unwrap_or_else(|| panic!("{json:#}"))
    };
    assert_eq!(find("connection", "source", "wal_level")["detail"], "logical");
    assert_eq!(find("pipeline", "t", "input")["outcome"], "ok");
    let problem = checks.iter().find(|c| c["outcome"] == "error").unwrap();
    assert_eq!((&problem["pipeline"], &problem["code"]), (&"u".into(), &"TRK0703".into()), "{problem}");
    assert_eq!((problem["line"].as_u64(), problem["column"].as_u64()), (Some(2), Some(3)), "{problem}");
    assert!(problem["help"].as_str().is_some_and(|help| help.contains("row.id")), "{problem}");
}

#[test]
fn explain_says_what_a_code_means_and_lists_all() {
    let s = Scenario::new();
    let one = s.start(&["explain", "trk0401"]).wait();
    assert_eq!(one.code, Some(0), "{}", one.text());
    assert_words(
        &one.stdout,
        &["TRK0401: wal_level isn't logical", "**Mend it:**", "ALTER SYSTEM SET wal_level"],
    );
    let all = s.start(&["explain"]).wait();
    assert_words(&all.stdout, &["TRK0101  ", "TRK0902  another process has taken over"]);
    let none = s.start(&["explain", "TRK9999"]).wait();
    assert_eq!(none.code, Some(2), "{}", none.text());
}

#[test]
fn a_pipeline_that_fails_has_its_code_in_the_log_and_in_status() {
    let s = Scenario::new()
        .on_source("CREATE TABLE t (id int PRIMARY KEY, note text); INSERT INTO t VALUES (1, 'secret')")
        .on_output("CREATE TABLE t (id int PRIMARY KEY, note varchar(3))")
        .copies("t");
    let finished = s.run_once();
    assert_eq!(finished.code, Some(1), "{}", finished.text());
    let line = finished.stderr.lines().find(|line| line.contains("\"pipeline_failed\"")).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["code"], "TRK0802", "{line}");
    let dir = s.dir();
    let status = s.start(&["status", dir.to_str().unwrap(), "--json"]).wait();
    let status: Value = serde_json::from_str(&status.stdout).unwrap();
    assert_eq!(status["pipelines"][0]["failure"]["code"], "TRK0802", "{status:#}");
}

#[test]
fn a_load_sql_that_clickhouse_refuses_is_told_and_what_it_cannot_look_at_is_skipped() {
    let out = clickhouse_server().database();
    out.execute("CREATE TABLE seen (id Int32) ENGINE = MergeTree ORDER BY id");
    let more = ["on: {delete: ignore, truncate: ignore}"];
    let load =
        [("load.sql", "INSERT INTO seen SELECT id FROM {{ rows }}"), ("truncate.sql", "TRUNCATE TABLE seen")];
    let s = Scenario::new().on_source(T).to_clickhouse(&out);
    let s = s.pipeline("seen", &config("t", &format!("{}.seen", out.name), &more), &load);
    let (code, text) = check(&s, &[]);
    assert_eq!(code, 0, "{text}");
    let reason =
        "skipped  truncate.sql on the output: ClickHouse prepares no such statement without running it";
    assert_words(
        &text,
        &["connection output\n  ok       output: 127.0.0.1:", ", ClickHouse\n", reason, "1 skipped"],
    );
    s.file("seen/load.sql", "INSERT INTO seen SELECT idd FROM {{ rows }}");
    let (code, text) = check(&s, &[]);
    assert_eq!(code, 3, "{text}");
    assert_words(&text, &["seen/load.sql", "`idd`", "UNKNOWN_IDENTIFIER"]);
}
