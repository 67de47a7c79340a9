//! `trucker init`: what it writes is right at once: its tests pass, check finds nothing, a run fills the output.

use std::fs;
use std::path::Path;

use super::harness::{Database, Scenario, source_server};

const TABLES: &str = r#"
CREATE TYPE mood AS ENUM ('well', 'ill');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE SCHEMA sales;
CREATE TABLE customers (id serial PRIMARY KEY, name varchar(20) NOT NULL);
CREATE FUNCTION next_number() RETURNS int LANGUAGE sql AS 'SELECT count(*)::int FROM customers';
CREATE TABLE sales.orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer_id int NOT NULL REFERENCES customers ON DELETE CASCADE,
    mood mood NOT NULL DEFAULT 'well', pieces positive NOT NULL, tags text[], "Odd Name" uuid NOT NULL, note jsonb,
    at timestamptz DEFAULT now(), number int DEFAULT next_number(), double int GENERATED ALWAYS AS (customer_id * 2) STORED,
    code char(3));
CREATE UNIQUE INDEX ON sales.orders (pieces) WHERE pieces > 5;
CREATE TABLE parts (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE parts_2024 PARTITION OF parts FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE keyless (id int);
INSERT INTO customers (name) VALUES ('Ada'), ('Bob');
INSERT INTO sales.orders (customer_id, pieces, "Odd Name") SELECT 1, n, gen_random_uuid() FROM generate_series(1, 9) n;
"#;

fn world() -> Scenario {
    let folder = source_server().binaries().folder();
    Scenario::new().variable("TRUCKER_PG_BIN", folder.to_str().unwrap()).on_source(TABLES)
}

fn url(database: &Database) -> String {
    format!("postgres://postgres:hunter2-{}@127.0.0.1:{}/{0}?sslmode=disable", database.name, database.port)
}

fn command(s: &Scenario, args: &[&str]) -> (Option<i32>, String) {
    let finished = s.start(args).wait();
    (finished.code, format!("{}{}", finished.stdout, finished.stderr))
}

fn play(s: &Scenario, dir: &str) -> (Option<i32>, String) {
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres?sslmode=disable", source_server().port());
    command(s, &["test", dir, "--postgres", &url])
}

fn all_files(dir: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        text += &if path.is_dir() { all_files(&path) } else { fs::read_to_string(&path).unwrap() };
    }
    text
}

#[test]
fn a_project_from_live_tables_passes_its_tests_and_fills_the_output() {
    let s = world();
    let variable =
        |name: &str| format!("{}_PASSWORD", name.chars().take(40).collect::<String>().to_uppercase());
    let (source, output) = (variable(&s.source.name), variable(&s.output.name));
    let s = s.variable(&source, "any").variable(&output, "any");
    let dir = s.logs().join("../made");
    let made = dir.to_str().unwrap().to_owned();
    let (from, to) = (url(&s.source), url(&s.output));
    let tables = ["--table", "sales.orders", "--table", "customers", "--table", "parts"];
    let args = [&["init", &made, "--name", &s.name, "--from", &from, "--to", &to][..], &tables].concat();
    let (code, text) = command(&s, &args);
    assert_eq!(code, Some(0), "{text}");
    assert!(!all_files(&dir).contains("hunter2") && !text.contains("hunter2"), "{text}");
    let (code, text) = play(&s, &made);
    assert_eq!(code, Some(0), "{text}");
    let proposed = fs::read_dir(dir.join("schema")).unwrap().map(|entry| entry.unwrap().path());
    let proposed =
        proposed.map(|path| fs::read_to_string(path).unwrap()).find(|text| text.contains("Proposed"));
    s.output.execute(&proposed.unwrap());
    let (code, text) = command(&s, &["check", &made]);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = command(&s, &["run", &made, "--once", "--http", "off"]);
    assert_eq!(code, Some(0), "{text}");
    s.assert_same(
        r#"SELECT id, mood::text, pieces, "Odd Name", double FROM sales.orders"#,
        r#"SELECT id, mood, pieces, "Odd Name", double FROM sales.orders"#,
    );
    s.assert_table_same("customers");
    for (file, schema) in [
        ("trucker.yml", ".trucker/trucker.json"),
        ("parts/config.yml", "../.trucker/pipeline.json"),
        ("orders/tests/first.yml", "../../.trucker/test.json"),
    ] {
        let file = dir.join(file);
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(text.lines().next(), Some(&*format!("# yaml-language-server: $schema={schema}")));
        assert!(file.parent().unwrap().join(schema).is_file(), "{schema}");
    }
    another_table_is_added(&s, &dir, &from, &to);
    // Nothing is written over, and nothing is written beside it.
    let before = all_files(&dir);
    fs::remove_file(dir.join("trucker.yml")).unwrap();
    let (code, text) = command(&s, &args);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("customers/config.yml") && !dir.join("trucker.yml").exists(), "{text}");
    assert!(before.contains(&all_files(&dir)[..100]));
}

/// In the project that is there: its files stay as they are, but for definitions at the ends of those of tests.
fn another_table_is_added(s: &Scenario, dir: &Path, from: &str, to: &str) {
    let made = dir.to_str().unwrap();
    s.source.execute("CREATE TABLE more (id int PRIMARY KEY, mood mood NOT NULL, note text); INSERT INTO more VALUES (1, 'ill', 'a')");
    let before = fs::read_to_string(dir.join("trucker.yml")).unwrap();
    let elsewhere = from.replace("postgres://postgres:", "postgres://somebody:");
    let (code, text) = command(s, &["init", made, "--from", &elsewhere, "--table", "more"]);
    assert_eq!(code, Some(3), "{text}");
    assert!(
        text.contains("no connection to that database as that user") && text.contains("user: somebody"),
        "{text}"
    );
    assert!(!text.contains("hunter2") && !dir.join("more").exists(), "{text}");
    let name = s.source.name.chars().take(40).collect::<String>();
    let (code, text) = command(s, &["init", made, "--from", &format!("{name}x"), "--table", "more"]);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains(&format!("did you mean `{name}`?")), "{text}");
    // By the connection's name, or by its URL; to where the other pipelines write.
    let (code, text) = command(s, &["init", made, "--from", &name, "--table", "more"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("more/config.yml") && text.contains("added to"), "{text}");
    let (code, text) = command(s, &["init", made, "--from", from, "--to", to, "--table", "more"]);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("exist already") && text.contains("more/transform.sql"), "{text}");
    assert_eq!(fs::read_to_string(dir.join("trucker.yml")).unwrap(), before);
    let (code, text) = play(s, made);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("4 passed"), "{text}");
    s.output.execute("CREATE TABLE more (id int PRIMARY KEY, mood text, note text)");
    let (code, text) = command(s, &["run", made, "--once", "--http", "off"]);
    assert_eq!(code, Some(0), "{text}");
    s.assert_same("SELECT id, mood::text, note FROM more", "SELECT id, mood, note FROM more");
}

#[test]
fn the_tables_of_tests_are_written_from_the_live_databases() {
    let s = world().on_output("CREATE TABLE flat (id int PRIMARY KEY, name text)").on_source(
        "CREATE VIEW named AS SELECT id, upper(name) AS name FROM customers; CREATE TABLE other (id int)",
    );
    let config =
        "input: {connection: source, table: sales.orders}\noutput: {connection: output, table: flat}\n";
    let transform = "SELECT {{ row.id }} AS id, named.name FROM named WHERE named.id = {{ row.customer_id }}";
    let test = "given:\n  customers: [{id: 1, name: ada}]\n  sales.orders: [{id: 1, customer_id: 1, pieces: 1, Odd Name: \
                00000000-0000-0000-0000-000000000001}]\nexpect: [{id: 1, name: ADA}]\n";
    let files =
        [("transform.sql", transform), ("delete.sql", "SELECT {{ old.id }} AS id"), ("tests/a.yml", test)];
    s.write_pipeline("flat", config, &files);
    let dir = s.dir();
    let (code, text) = command(&s, &["test", dir.to_str().unwrap(), "--write-schema"]);
    assert_eq!(code, Some(0), "{text}");
    let source = fs::read_to_string(dir.join("schema/source.sql")).unwrap();
    for part in
        ["CREATE VIEW public.named", "ON DELETE CASCADE", "TYPE public.mood", "DOMAIN public.positive"]
    {
        assert!(source.contains(part), "{part}: {source}");
    }
    assert!(!source.contains("public.other"), "{source}");
    let (code, text) = play(&s, dir.to_str().unwrap());
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn a_table_that_cannot_be_read_is_told_before_anything_is_written() {
    let s = world().on_source("CREATE VIEW seen AS SELECT 1 AS id");
    let from = url(&s.source);
    let made = s.logs().join("../made");
    for (table, said) in [
        ("custommers", "did you mean `public.customers`?"),
        ("keyless", "no primary key"),
        ("seen", "is no table"),
    ] {
        let (code, text) = command(&s, &["init", made.to_str().unwrap(), "--from", &from, "--table", table]);
        assert_eq!(code, Some(3), "{text}");
        assert!(text.contains(said), "{text}");
        assert!(!made.exists());
    }
    let nowhere = "postgres://u:hunter2@127.0.0.1:1/d";
    let (code, text) = command(&s, &["init", made.to_str().unwrap(), "--from", nowhere, "--table", "t"]);
    assert_eq!(code, Some(4), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn the_example_passes_its_test() {
    let s = world();
    let made = s.logs().join("../made");
    let (code, text) = command(&s, &["init", made.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = play(&s, made.to_str().unwrap());
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("1 passed"), "{text}");
}
