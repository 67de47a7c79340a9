//! `trucker compile` writes the SQL that a run would run: it works in psql as it stands, says where its lines come from, and is
//! the same every time.

use std::collections::BTreeMap;
use std::fs;

use super::harness::{Scenario, config};

const TRANSFORM: &str = "SELECT {{ row.id }} AS order_id,\n{% if operation == \"insert\" %}\n\n{% endif %}\
                         \x20      {{ row.total }} * 100 AS cents\nFROM (SELECT) AS one";

fn world() -> Scenario {
    let s = Scenario::new()
        .on_source(
            "CREATE TABLE orders (id int PRIMARY KEY, total numeric); INSERT INTO orders VALUES (1, 2.5)",
        )
        .on_output(
            "CREATE TABLE flat (order_id bigint PRIMARY KEY, cents bigint); CREATE TABLE sums (cents bigint)",
        )
        .pipeline(
            "flat",
            &config("orders", "flat", &[]),
            &[("transform.sql", TRANSFORM), ("delete.sql", "SELECT {{ old.id }} AS order_id")],
        );
    s.write_pipeline(
        "sums",
        "input: {connection: source, table: orders}\noutput: {connection: output, on: {truncate: ignore}}\n",
        &[
            ("transform.sql", "SELECT {{ row.id }} AS cents"),
            ("load.sql", "INSERT INTO sums SELECT sum(cents) FROM {{ rows }}"),
        ],
    );
    s
}

fn compiled(s: &Scenario) -> BTreeMap<String, String> {
    let (dir, out) = (s.dir(), s.logs().join("sql"));
    let finished =
        s.start(&["compile", "--dir", dir.to_str().unwrap(), "--out", out.to_str().unwrap()]).wait();
    assert_eq!(finished.code, Some(0), "{}", finished.text());
    let mut files = BTreeMap::new();
    for folder in fs::read_dir(out).unwrap() {
        for file in fs::read_dir(folder.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let folder = path.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
            let name = format!("{folder}/{}", path.file_name().unwrap().to_str().unwrap());
            files.insert(name, fs::read_to_string(path).unwrap());
        }
    }
    files
}

#[test]
fn compiled_sql_runs_as_it_stands() {
    let s = world();
    let files = compiled(&s);
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "flat/public.orders.backfill.sql",
            "flat/public.orders.insert.sql",
            "flat/public.orders.removal.sql",
            "flat/public.orders.update.sql",
            "sums/public.orders.backfill.sql",
            "sums/public.orders.delete.sql",
            "sums/public.orders.insert.sql",
            "sums/public.orders.load.delete.sql",
            "sums/public.orders.load.insert.sql",
            "sums/public.orders.load.update.sql",
            "sums/public.orders.update.sql",
        ]
    );
    let on_source = |sql: &str| {
        let rows = s.source.rows(sql);
        rows.iter().map(|row| row.iter().flatten().cloned().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
    };
    assert_eq!(on_source(&files["flat/public.orders.backfill.sql"]), ["1 250"]);
    let run = |file: &str, execute: &str| on_source(&format!("DEALLOCATE ALL; {}; {execute}", files[file]));
    assert_eq!(
        run("flat/public.orders.insert.sql", "EXECUTE flat_insert('{7,8}', '{1,2}')"),
        ["1 7 100", "2 8 200"]
    );
    assert_eq!(run("flat/public.orders.removal.sql", "EXECUTE flat_removal('{7}')"), ["1 7"]);
    s.output.execute(&files["sums/public.orders.load.insert.sql"]);
    assert_eq!(s.output.number("SELECT count(*) FROM sums"), 1);
    s.assert_nothing_created();
}

#[test]
fn compiled_sql_is_the_same_every_time_and_says_where_its_lines_come_from() {
    let s = world();
    let files = compiled(&s);
    assert_eq!(files, compiled(&s));
    let insert = &files["flat/public.orders.insert.sql"];
    let lines: Vec<&str> = insert.lines().collect();
    let mut origins = 0;
    for line in &lines {
        let Some((of, from)) = line.strip_prefix("-- line").and_then(|rest| rest.split_once(": ")) else {
            continue;
        };
        let number = |text: &str| -> usize {
            let text = text.trim_start_matches('s').trim();
            text.split('-').next().unwrap().parse().unwrap()
        };
        let (path, template) = from.rsplit_once(" line").unwrap();
        assert!(path.ends_with("flat/transform.sql"), "{line}");
        let template_line = TRANSFORM.lines().nth(number(template) - 1).unwrap();
        let words = template_line.split("}}").last().unwrap().trim();
        assert!(lines[number(of) - 1].contains(words), "{line}\n{insert}");
        origins += 1;
    }
    assert!(origins >= 1, "{insert}");
    assert!(insert.contains("$1: an array of new.id, a change each"), "{insert}");
}

#[test]
fn compile_prints_only_what_was_asked_for_and_offers_the_nearest_name() {
    let s = world();
    let dir = s.dir();
    let run = |name: &str| s.start(&["compile", name, "--dir", dir.to_str().unwrap()]).wait();
    let printed = run("flat");
    assert_eq!(printed.code, Some(0), "{}", printed.text());
    assert!(printed.stdout.contains("-- flat/public.orders.insert.sql") && !printed.stdout.contains("sums"));
    let unknown = run("flut");
    assert_eq!(unknown.code, Some(3));
    assert!(unknown.stderr.contains("did you mean `flat`?"), "{}", unknown.stderr);
}
