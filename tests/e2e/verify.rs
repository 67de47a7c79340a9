//! `trucker verify` names exactly the keys whose rows differ, says nothing of rows that are only late, and `--repair` makes the
//! named ones anew while the stream runs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};

use super::harness::{Scenario, config};

fn world() -> Scenario {
    Scenario::new()
        .on_source(
            "CREATE TABLE orders (id int PRIMARY KEY, country text, total numeric, note text);
             INSERT INTO orders SELECT n, CASE WHEN n % 3 = 0 THEN 'x' ELSE 'Chile' END, n * 1.5, 'ä' || n
             FROM generate_series(1, 400) n",
        )
        // Values change their form on the way: a modifier, a padded text, a domain.
        .on_output(
            "CREATE DOMAIN price AS numeric(12, 3);
             CREATE TABLE flat (order_id bigint PRIMARY KEY, country char(8), total price, cents numeric(12, 1), note varchar(20))",
        )
        .pipeline(
            "flat",
            &config("orders", "flat", &[]),
            &[
                (
                    "transform.sql",
                    "SELECT row.id AS order_id, row.country, row.total, row.total * 100 AS cents, row.note WHERE row.country <> 'x'",
                ),
                ("delete.sql", "SELECT old.id AS order_id"),
            ],
        )
}

pub fn verify(s: &Scenario, args: &[&str]) -> (Option<i32>, String, String) {
    let dir = s.dir();
    let finished = s.start(&[&["verify", "--dir", dir.to_str().unwrap()], args].concat()).wait();
    (finished.code, finished.stdout, finished.stderr)
}

#[track_caller]
pub fn found(s: &Scenario, args: &[&str]) -> (Option<i32>, Value) {
    let (code, stdout, stderr) = verify(s, &[args, &["--json"]].concat());
    let json: Value = serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{e}: {stdout}{stderr}"));
    (code, json[0].clone())
}

const DAMAGE: &str = "DELETE FROM flat WHERE order_id = 10; UPDATE flat SET note = 'wrong' WHERE order_id = 20; \
                      INSERT INTO flat VALUES (3, 'Peru', 1, 1, 'stray'), (100000, 'Peru', 1, 1, 'stray')";

#[test]
fn verify_names_missing_different_and_extra_keys_and_no_values() {
    let s = world();
    s.once();
    let (code, stdout, stderr) = verify(&s, &[]);
    assert_eq!((code, stdout.as_str()), (Some(0), "flat: 267 keys, all alike\n"), "{stderr}");
    s.output.execute(DAMAGE);
    let (code, found) = found(&s, &["--chunk", "1"]);
    assert_eq!(code, Some(1));
    assert_eq!(
        (&found["missing"], &found["different"], &found["extra"]),
        (&json!([["10"]]), &json!([["20"]]), &json!([["100000"], ["3"]])),
        "{found}"
    );
    let (_, stdout, stderr) = verify(&s, &["flat"]);
    assert!(
        stdout.contains("missing    order_id=10") && stdout.contains("nobody runs the project"),
        "{stdout}"
    );
    assert!(!stdout.contains("wrong") && !stderr.contains("wrong"), "values stay where they are");
}

#[test]
fn under_load_verify_finds_the_damage_alone_and_repairs_it() {
    let s = world();
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    let session = s.source.session();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 1000;
            while !is_over.load(Ordering::Relaxed) {
                // Rows that change all the time, come and go; none of those that are damaged.
                session.execute(&format!(
                    "UPDATE orders SET total = total + 1, note = '{n}' WHERE id BETWEEN 200 AND 220;
                     INSERT INTO orders VALUES ({n}, 'Peru', 1, 'new');
                     UPDATE orders SET country = CASE country WHEN 'x' THEN 'Peru' ELSE 'x' END WHERE id BETWEEN 261 AND 290;
                     DELETE FROM orders WHERE id = {n} - 20;
                     UPDATE orders SET id = id + 500000 WHERE id = {n} - 10"
                ));
                n += 1;
            }
        });
        let (code, sound) = found(&s, &[]);
        s.output.execute(DAMAGE);
        let (damaged, differences) = found(&s, &["--chunk", "7"]);
        let repaired = verify(&s, &["--repair"]);
        let (after, left) = found(&s, &[]);
        is_over.store(true, Ordering::Relaxed);
        assert_eq!((code, &sound["differences"]), (Some(0), &json!(0)), "{sound}");
        assert_eq!(damaged, Some(1));
        // In no order: what changes meanwhile is looked at again, after the rest.
        let mut extra: Vec<String> =
            differences["extra"].as_array().unwrap().iter().map(ToString::to_string).collect();
        extra.sort();
        assert_eq!(
            (&differences["missing"], &differences["different"], extra.join(" ").as_str()),
            (&json!([["10"]]), &json!([["20"]]), r#"["100000"] ["3"]"#),
            "{differences}"
        );
        assert_eq!(repaired.0, Some(0), "{repaired:?}");
        assert!(repaired.2.contains("made anew"), "{repaired:?}");
        assert_eq!((after, &left["differences"]), (Some(0), &json!(0)), "{left}");
    });
    s.until_same(
        &mut trucker,
        "SELECT id, country, total::numeric(12, 3), note FROM orders WHERE country <> 'x'",
        "SELECT order_id, rtrim(country), total, note FROM flat",
    );
}

#[test]
fn a_repair_that_nobody_is_there_for_is_done_by_the_next_run() {
    let s = world()
        .tables("CREATE TABLE pairs (a int, \"B\" text, v text, PRIMARY KEY (a, \"B\"))")
        .copies("pairs");
    s.source.execute("INSERT INTO pairs VALUES (1, 'é', 'v'), (1, 'z', 'v'), (2, 'a', NULL)");
    s.once();
    s.output.execute("DELETE FROM pairs WHERE \"B\" = 'é'; UPDATE pairs SET v = 'x' WHERE a = 2");
    let (code, found) = found(&s, &["pairs", "--repair"]);
    assert_eq!(code, Some(0), "{found}");
    assert_eq!((&found["missing"], &found["different"]), (&json!([["1", "é"]]), &json!([["2", "a"]])));
    // What changes before that run is loaded after the repair.
    s.source.execute("UPDATE pairs SET v = 'later' WHERE a = 2; DELETE FROM pairs WHERE \"B\" = 'é'");
    s.once();
    s.assert_table_same("pairs");
    assert_eq!(s.output.number("SELECT count(*) FROM trucker.checkpoint WHERE request IS NOT NULL"), 0);
}

#[test]
fn what_cannot_be_compared_is_said_with_the_reason() {
    let s = Scenario::new()
        .tables("CREATE TABLE t (id int PRIMARY KEY)")
        .on_output("CREATE TABLE log (id int)")
        .copies("t")
        .pipeline(
            "log",
            &config("t", "log", &["on: {insert: insert, update: insert, delete: ignore, truncate: ignore}"]),
            &[],
        )
        .pipeline(
            "sums",
            "input: {connection: source, table: t}\noutput: {connection: output, on: {truncate: ignore}}\n",
            &[("load.sql", "SELECT count(*) FROM {{ rows }}")],
        );
    let (code, stdout, stderr) = verify(&s, &[]);
    assert_eq!(code, Some(0), "{stderr}");
    for expected in [
        "log: not compared: with these actions",
        "sums: not compared: what load.sql",
        "t: not compared: it has failed, or isn't filled",
    ] {
        assert!(stdout.contains(expected), "{expected}: {stdout}");
    }
    s.assert_nothing_created();
}

#[test]
fn a_repair_that_cannot_be_done_is_refused_with_its_reason() {
    let s = Scenario::new()
        .on_source("CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t SELECT g, g FROM generate_series(1, 9) g")
        .on_output("CREATE TABLE t (id int PRIMARY KEY, n int CONSTRAINT small CHECK (n < 100))")
        .pipeline("t", &(config("t", "t", &[]) + "on_error: dead_letter\n"), &[]);
    let mut trucker = s.run();
    trucker.until("the backfill", || s.output.number("SELECT count(*) FROM t") == 9);
    s.source.execute("INSERT INTO t VALUES (10, 100)");
    trucker.until("the row that doesn't fit", || {
        s.output.number("SELECT count(*) FROM trucker.dead_letters") == 1
    });
    s.output.execute("UPDATE t SET n = 0 WHERE id = 1");
    let (code, stdout, stderr) = verify(&s, &["--repair"]);
    assert_eq!(code, Some(1), "{stdout}{stderr}");
    assert!(stderr.contains("t: the running process refuses: ") && stderr.contains("small"), "{stderr}");
    assert_eq!(s.output.number("SELECT count(*) FROM t"), 9);
    // And another may be asked for.
    s.source.execute("DELETE FROM t WHERE id = 10");
    let (code, stdout, stderr) = verify(&s, &["--repair"]);
    assert!(code == Some(0) && stderr.contains("made anew"), "{stdout}{stderr}");
    assert_eq!(s.output.number("SELECT n FROM t WHERE id = 1"), 1);
}

#[test]
fn rows_of_several_tables_are_compared_as_each_table_has_them() {
    let s = Scenario::new()
        .on_source(
            "CREATE TABLE a (id int PRIMARY KEY, n numeric); INSERT INTO a VALUES (1, 1.12345678901234567890);
             CREATE TABLE b (id bigint PRIMARY KEY, n float8); INSERT INTO b VALUES (2, 2.5)",
        )
        .on_output("CREATE TABLE ab (id bigint PRIMARY KEY, n numeric)")
        .pipeline(
            "ab",
            "input: {connection: source, tables: [a, b]}\noutput: {connection: output, table: ab, on: {truncate: ignore}}\n",
            &[("transform.sql", "SELECT row.id, row.n"), ("delete.sql", "SELECT old.id")],
        );
    s.once();
    let (code, stdout, stderr) = verify(&s, &[]);
    assert_eq!((code, stdout.as_str()), (Some(0), "ab: 2 keys, all alike\n"), "{stderr}");
}
