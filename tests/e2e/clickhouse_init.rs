//! `trucker init` with a ClickHouse as the output: the table that it proposes is the one that check proposes, and takes every value.

use std::fs;
use std::path::PathBuf;

use super::clickhouse_types::{CASES, SOURCE_TYPES, literal};
use super::harness::{ClickHouseDatabase, Database, Row, Scenario, clickhouse_server};

fn command(s: &Scenario, args: &[&str]) -> (Option<i32>, String) {
    let finished = s.start(args).wait();
    (finished.code, format!("{}{}", finished.stdout, finished.stderr))
}

#[track_caller]
fn succeed(s: &Scenario, args: &[&str]) -> String {
    let (code, text) = command(s, args);
    assert_eq!(code, Some(0), "{args:?}: {text}");
    text
}

fn source_url(database: &Database) -> String {
    format!("postgres://postgres@127.0.0.1:{}/{}?sslmode=disable", database.port, database.name)
}

fn output_url(database: &ClickHouseDatabase) -> String {
    let to = database.driver();
    let pass = to.pass.as_ref().map_or(&[][..], |pass| pass.expose());
    let pass: String = pass.iter().map(|byte| format!("%{byte:02X}")).collect();
    format!("clickhouse://{}:{pass}@{}:{}/{}", to.user, to.host, to.port, to.database)
}

/// The statements that are proposed for an output, in one line each.
fn proposed(dir: &std::path::Path, output: &str) -> (String, Vec<String>) {
    let text = fs::read_to_string(dir.join(format!("schema/{output}.sql"))).unwrap();
    let one_line = |statement: &str| {
        let lines = statement.lines().filter(|line| !line.starts_with("--"));
        lines
            .flat_map(str::split_whitespace)
            .collect::<Vec<_>>()
            .join(" ")
            .replace("( ", "(")
            .replace(" )", ")")
    };
    let statements = text.split(";\n").map(one_line).filter(|statement| !statement.is_empty());
    (text.clone(), statements.collect())
}

/// One column per type of Postgres's, as the list of cases shows its first values.
fn kinds() -> Vec<(&'static str, Vec<(&'static str, &'static str)>)> {
    let mut kinds: Vec<(&str, Vec<(&str, &str)>)> = Vec::new();
    for (from, _, values) in CASES {
        if !from.starts_with("timestamptz(") && kinds.iter().all(|(known, _)| known != from) {
            kinds.push((from, values.to_vec()));
        }
    }
    kinds
}

/// The same value, as ClickHouse shows it in the column that is proposed.
fn shown(kind: &str, column: &str, as_text: &str, shown: &str) -> String {
    let inner = column.trim_start_matches("LowCardinality(").trim_start_matches("Nullable(");
    match kind {
        "uuid[]" if column.starts_with("Array") => format!("['{}']", as_text.trim_matches(['{', '}'])),
        // A cast to text writes these otherwise than they are sent.
        "bytea" | "char(3)" | "inet" => shown.to_owned(),
        _ if inner.starts_with("String") => as_text.to_owned(),
        _ => shown.to_owned(),
    }
}

#[track_caller]
fn assert_kinds(s: &Scenario, out: &ClickHouseDatabase) {
    let types = out
        .rows("SELECT name, type FROM system.columns WHERE database = currentDatabase() AND table = 'kinds'");
    let type_of = |name: &str| {
        let row = types.iter().find(|row| row[0].as_deref() == Some(name));
        row.unwrap_or_else(|| panic!("no column {name}"))[1].clone().unwrap()
    };
    let kinds = kinds();
    // A row has the values of its number, and ids move on by twelve.
    let rows = s.source.rows("SELECT (id % 12)::text FROM kinds ORDER BY id");
    assert_eq!(out.rows("SELECT toString(id % 12) FROM kinds FINAL ORDER BY id"), rows);
    for (at, (kind, values)) in kinds.iter().enumerate() {
        for name in [format!("c{at}"), format!("n{at}")] {
            let column = type_of(&name);
            let value = if *kind == "bytea" { format!("hex({name})") } else { name.clone() };
            let found = out.rows(&format!("SELECT {value} FROM kinds FINAL ORDER BY id"));
            let texts = s.source.rows(&format!("SELECT {name}::text FROM kinds ORDER BY id"));
            for ((found, text), row) in found.iter().zip(&texts).zip(&rows) {
                let row: usize = row[0].as_ref().unwrap().parse().unwrap();
                let (_, after) = values[row % values.len()];
                let expected = text[0].as_ref().map(|text| shown(kind, &column, text, after));
                assert_eq!(found[0], expected, "{kind} in {column}, row {row}");
            }
        }
    }
}

fn insert(s: &Scenario, id: usize, row: usize, is_null: bool) {
    let values: String = kinds()
        .iter()
        .map(|(_, values)| {
            let value = literal(values[row % values.len()].0);
            let other = if is_null { "NULL".to_owned() } else { value.clone() };
            format!(", {value}, {other}")
        })
        .collect();
    s.source.execute(&format!("INSERT INTO kinds VALUES ({id}, '2024-02-29'{values})"));
}

#[test]
fn a_project_for_clickhouse_proposes_the_tables_that_check_does_and_fills_them() {
    let out = clickhouse_server().database();
    let columns: String = kinds()
        .iter()
        .enumerate()
        .map(|(at, (kind, _))| format!(", c{at} {kind} NOT NULL, n{at} {kind}"))
        .collect();
    let s = Scenario::new().on_source(SOURCE_TYPES).on_source(&format!(
        "CREATE TABLE kinds (id int, day date{columns}, PRIMARY KEY (id, day));
         CREATE SCHEMA sales; CREATE TABLE sales.\"Odd Table\" (tags text[], \"Odd.Name\" uuid, extra hstore,
             _version int NOT NULL, double int GENERATED ALWAYS AS (_version * 2) STORED, PRIMARY KEY (tags, \"Odd.Name\", extra));"
    ));
    let pass = out.driver().pass.map(|pass| String::from_utf8_lossy(pass.expose()).into_owned());
    let secret = pass.unwrap_or_default();
    let s = s.variable(&format!("{}_PASSWORD", out.name.to_uppercase()), &secret);
    let dir = s.logs().join("../made");
    let made = dir.to_str().unwrap().to_owned();
    let (from, to) = (source_url(&s.source), output_url(&out));
    let tables = ["--table", "kinds", "--table", "sales.\"Odd Table\""];
    let text = succeed(
        &s,
        &[&["init", &made, "--name", &s.name, "--from", &from, "--to", &to][..], &tables].concat(),
    );
    assert!(text.contains("clickhouse-client") && (secret.is_empty() || !text.contains(&secret)), "{text}");
    let (file, statements) = proposed(&dir, &out.name);
    assert_eq!(statements.len(), 2, "{file}");
    for args in [["check", &made], ["plan", &made]] {
        let (code, text) = command(&s, &args);
        assert_eq!(code, Some(3), "{text}");
        let text = text.replace(&format!("`{}`.", out.name), "");
        statements.iter().for_each(|statement| assert!(text.contains(statement), "{statement}\n{text}"));
    }
    let server = source_url(&s.source);
    let text = succeed(&s, &["test", &made, "--postgres", &server, "--clickhouse", &to]);
    assert!(text.contains("2 passed"), "{text}");
    out.execute(&file);
    succeed(&s, &["check", &made]);
    for row in 0..4 {
        insert(&s, row, row, row % 2 == 1);
    }
    s.source.execute(
        "INSERT INTO sales.\"Odd Table\" VALUES ('{a,NULL}', '00112233-4455-6677-8899-aabbccddeeff', 'a=>NULL', 7)",
    );
    let run = ["run", &made, "--once", "--http", "off"];
    succeed(&s, &run);
    assert_kinds(&s, &out);
    let text = succeed(&s, &["verify", "--dir", &made]);
    assert!(text.contains("kinds: 4 keys, all alike") && text.contains("1 keys, all alike"), "{text}");
    for row in 4..8 {
        insert(&s, row, row, row % 2 == 0);
    }
    s.source.execute("UPDATE kinds SET id = id + 12 WHERE id % 4 = 0; DELETE FROM kinds WHERE id = 1; UPDATE kinds SET day = '2025-01-01' WHERE id = 2");
    s.source.execute("UPDATE sales.\"Odd Table\" SET tags = '{b}', _version = 8");
    succeed(&s, &run);
    s.source.execute("DELETE FROM kinds WHERE id NOT IN (12, 16)");
    succeed(&s, &run);
    assert_kinds(&s, &out);
    let odd: Vec<Row> = out.rows("SELECT tags, `Odd.Name`, extra, _version, double FROM `Odd Table` FINAL");
    let expected = ["{b}", "00112233-4455-6677-8899-aabbccddeeff", "\"a\"=>NULL", "8", "16"];
    assert_eq!(odd, [expected.map(|text| Some(text.to_owned())).to_vec()]);
}

#[test]
fn a_pipeline_into_clickhouse_is_added_by_the_connections_name_or_its_url() {
    let out = clickhouse_server().database();
    let s = Scenario::new()
        .on_source(
            "CREATE TABLE first (id int PRIMARY KEY, v text); INSERT INTO first VALUES (1, 'a');
             CREATE TABLE second (a int, b text, n numeric(10,2) NOT NULL, PRIMARY KEY (a, b)); INSERT INTO second VALUES (1, 'b', 2.5)",
        )
        .to_clickhouse(&out);
    let dir = s.dir();
    let made = dir.to_str().unwrap().to_owned();
    succeed(&s, &["init", &made, "--from", "source", "--to", "output", "--table", "first"]);
    // Where the other pipelines write.
    succeed(&s, &["init", &made, "--from", "source", "--table", "second"]);
    let (file, _) = proposed(&dir, "output");
    out.execute(&file);
    succeed(&s, &["check", &made]);
    s.once();
    s.source.execute("UPDATE second SET a = 2, n = -1; INSERT INTO first VALUES (2, NULL)");
    s.once();
    let row = |values: &[&str]| values.iter().map(|v| Some((*v).to_owned())).collect::<Row>();
    assert_eq!(out.rows("SELECT toString(a), b, toString(n) FROM second FINAL"), [row(&["2", "b", "-1"])]);
    assert_eq!(
        out.rows("SELECT toString(id), ifNull(v, '-') FROM first FINAL ORDER BY id"),
        [row(&["1", "a"]), row(&["2", "-"])]
    );
    // Its URL is known as well, and another one is told as an entry to add.
    let (code, text) =
        command(&s, &["init", &made, "--from", "source", "--to", &output_url(&out), "--table", "first"]);
    assert!(code == Some(3) && text.contains("exist already"), "{text}");
    let elsewhere = "clickhouse://somebody:hunter2@other/d";
    let (code, text) =
        command(&s, &["init", &made, "--from", "source", "--to", elsewhere, "--table", "first"]);
    assert!(
        code == Some(3) && text.contains("adapter: clickhouse") && text.contains("user: somebody"),
        "{text}"
    );
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn what_cannot_become_a_pipeline_into_clickhouse_is_told_and_nothing_is_written() {
    let out = clickhouse_server().database();
    let s = Scenario::new().on_source("CREATE TABLE keyless (id int); CREATE TABLE t (id int PRIMARY KEY)");
    let made: PathBuf = s.logs().join("../made");
    let (from, to) = (source_url(&s.source), output_url(&out));
    let nowhere = "clickhouse://u:hunter2@127.0.0.1:1/d".to_owned();
    let missing = format!("{to}_missing");
    for (from, table, to, code, said) in [
        (&from, "keyless", &to, 3, "ADD PRIMARY KEY"),
        (&to, "t", &to, 2, "expected postgres://"),
        (&from, "t", &nowhere, 4, "nothing answers"),
        (&from, "t", &missing, 4, "_missing"),
    ] {
        let args = ["init", made.to_str().unwrap(), "--from", from, "--to", to, "--table", table];
        let (found, text) = command(&s, &args);
        assert!(found == Some(code) && text.contains(said), "{said}: {found:?} {text}");
        assert!(!made.exists() && !text.contains("hunter2"), "{text}");
    }
}
