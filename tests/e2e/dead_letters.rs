//! `on_error: dead_letter`: a change that can't be loaded is recorded, exactly once, and everything else is loaded as
//! ever. What is about the set-up stops the pipeline all the same.

use super::harness::{Random, Scenario, config, is_soak};

const DIVIDES: [(&str, &str); 2] = [
    ("transform.sql", "SELECT {{ row.id }} AS id, 100 / {{ row.v }} AS v"),
    ("delete.sql", "SELECT {{ old.id }} AS id"),
];

/// `p` copies t by way of the files; what fails is recorded.
fn buries(files: &[(&str, &str)]) -> Scenario {
    Scenario::new().tables("CREATE TABLE t (id int PRIMARY KEY, v int)").pipeline(
        "p",
        &(config("t", "t", &[]) + "on_error: dead_letter\n"),
        files,
    )
}

fn letters(s: &Scenario, columns: &str) -> String {
    s.output.value(&format!(
        "SELECT string_agg(concat_ws(' ', {columns}), ', ' ORDER BY id) FROM trucker.dead_letters"
    ))
}

#[test]
fn a_change_whose_sql_fails_is_recorded_and_the_rest_of_its_transaction_is_loaded() {
    let s = buries(&DIVIDES);
    s.once();
    s.source.execute("INSERT INTO t SELECT i, 5 FROM generate_series(1, 50) i");
    s.source.execute(
        "BEGIN; INSERT INTO t VALUES (60, 4); UPDATE t SET v = 0 WHERE id = 7; INSERT INTO t VALUES (61, 0);
         DELETE FROM t WHERE id = 8; UPDATE t SET v = 10 WHERE id = 9; COMMIT",
    );
    s.source.execute("INSERT INTO t VALUES (70, 50)");
    let finished = s.once();
    assert!(finished.stderr.contains("dead_letter"), "{}", finished.stderr);
    s.assert_same(
        "SELECT id, CASE WHEN id = 7 THEN 20 ELSE 100 / v END FROM t WHERE id <> 61",
        "SELECT * FROM t",
    );
    assert_eq!(
        letters(&s, "ordinal, operation, \"table\", sqlstate, file ~ 'transform.sql$', is_skipped"),
        "2 update public.t 22012 t f, 3 insert public.t 22012 t f"
    );
    assert_eq!(letters(&s, "new ->> 'id', new ->> 'v', old IS NULL"), "7 0 t, 61 0 t");
    let positions = "SELECT count(DISTINCT (commit_lsn, xid)) FROM trucker.dead_letters";
    assert_eq!(s.output.number(positions), 1);
    // A later change of the same row heals it.
    s.source.execute("UPDATE t SET v = 25 WHERE id IN (7, 61)");
    s.once();
    s.assert_same("SELECT id, 100 / v FROM t", "SELECT * FROM t");
    assert_eq!(s.output.number("SELECT count(*) FROM trucker.dead_letters"), 2);
}

#[test]
fn a_change_that_the_output_refuses_leaves_nothing_of_itself_behind() {
    let s = Scenario::new()
        .on_source("CREATE TABLE orders (id int PRIMARY KEY, lines int[])")
        .on_output("CREATE TABLE lines (order_id int, n int, v int CHECK (v < 100), PRIMARY KEY (order_id, n))")
        .pipeline(
            "p",
            &(config("orders", "lines", &["key: [order_id, n]", "replace: [order_id]"]) + "on_error: dead_letter\n"),
            &[
                ("transform.sql", "SELECT {{ row.id }} AS order_id, l.n, l.v FROM unnest({{ row.lines }}) WITH ORDINALITY AS l(v, n)"),
                ("delete.sql", "SELECT {{ old.id }} AS order_id"),
            ],
        );
    s.once();
    s.source.execute("INSERT INTO orders VALUES (1, '{1,2,3}'), (2, '{4,5}'), (3, '{6}')");
    // The second row of the first is refused, after the removal of its others; a key change of the second likewise.
    s.source.execute(
        "BEGIN; UPDATE orders SET lines = '{7,777}' WHERE id = 1; UPDATE orders SET id = 20, lines = '{999}' WHERE id = 2;
         UPDATE orders SET lines = '{8,9}' WHERE id = 3; COMMIT",
    );
    s.once();
    let rows = "SELECT string_agg(order_id || ':' || v, ' ' ORDER BY order_id, n) FROM lines";
    assert_eq!(s.output.value(rows), "1:1 1:2 1:3 2:4 2:5 3:8 3:9");
    assert_eq!(
        letters(&s, "ordinal, sqlstate, old ->> 'id', new ->> 'lines'"),
        "1 23514 {7,777}, 2 23514 2 {999}"
    );
    // Where the row has its old key still, nobody will ever remove it but a backfill.
    let dir = s.dir();
    let asked = s.start(&["backfill", "p", "--dir", dir.to_str().unwrap()]).wait();
    assert_eq!(asked.code, Some(0), "{}", asked.text());
    s.output.execute("ALTER TABLE lines DROP CONSTRAINT lines_v_check");
    s.once();
    s.assert_same(
        "SELECT id, n, v FROM orders, unnest(lines) WITH ORDINALITY AS l(v, n)",
        "SELECT * FROM lines",
    );
}

#[test]
fn what_the_set_up_lacks_stops_the_pipeline_all_the_same() {
    let s = buries(&[]);
    s.once();
    s.source.execute("INSERT INTO t VALUES (1, 1)");
    for (break_it, mend_it, sqlstate) in [
        ("ALTER TABLE t RENAME TO elsewhere", "ALTER TABLE elsewhere RENAME TO t", "42P01"),
        ("ALTER TABLE t RENAME v TO w", "ALTER TABLE t RENAME w TO v", "42703"),
    ] {
        let mut trucker = s.run();
        // By then it has looked at the tables.
        trucker.until_said("\"running\"");
        s.output.execute(break_it);
        s.source.execute("UPDATE t SET v = v + 1");
        trucker.until_said(sqlstate);
        trucker.until("its failure is noted", || {
            s.output.is("SELECT failure IS NOT NULL FROM trucker.checkpoint")
        });
        trucker.kill9();
        s.output.execute(mend_it);
        s.once();
        s.assert_table_same("t");
    }
    assert_eq!(s.output.number("SELECT count(*) FROM trucker.dead_letters"), 0);
}

#[test]
fn a_truncate_that_is_an_error_is_no_dead_letter_and_a_backfill_that_fails_neither() {
    let s = Scenario::new().tables("CREATE TABLE t (id int PRIMARY KEY, v int)").pipeline(
        "p",
        &(config("t", "t", &["on: {truncate: error}"]) + "on_error: dead_letter\n"),
        &DIVIDES,
    );
    s.source.execute("INSERT INTO t VALUES (1, 0)");
    let text = s.once_fails(1);
    assert!(text.contains("division by zero"), "{text}");
    s.source.execute("UPDATE t SET v = 1");
    s.once();
    s.source.execute("BEGIN; INSERT INTO t VALUES (2, 0); TRUNCATE t; COMMIT; INSERT INTO t VALUES (3, 4)");
    let text = s.once_fails(1);
    assert!(text.contains("truncate of public.t, change 2 of"), "{text}");
    assert_eq!(s.output.value("SELECT string_agg(id::text, ' ') FROM t"), "1");
    assert_eq!(
        s.output.number("SELECT count(*) FROM trucker.dead_letters"),
        0,
        "its transaction isn't committed"
    );
    let dir = s.dir();
    let skipped = s.start(&["skip", "p", dir.to_str().unwrap(), "--yes"]).wait();
    assert_eq!(skipped.code, Some(0), "{}", skipped.text());
    s.once();
    assert_eq!(s.output.value("SELECT string_agg(id || ':' || v, ' ' ORDER BY id) FROM t"), "1:100 3:25");
    assert_eq!(letters(&s, "ordinal, operation, is_skipped"), "1 insert f, 2 truncate t");
}

#[test]
fn a_value_that_was_not_sent_is_marked_as_such() {
    let s = Scenario::new()
        .on_source("CREATE TABLE t (id int PRIMARY KEY, v int, big text, note text); ALTER TABLE t ALTER big SET STORAGE EXTERNAL")
        .on_output("CREATE TABLE t (id int PRIMARY KEY, v int CHECK (v < 100), big text, note text)")
        .pipeline("t", &(config("t", "t", &[]) + "on_error: dead_letter\n"), &[]);
    s.source.execute("INSERT INTO t VALUES (1, 1, repeat('x', 10000))");
    s.once();
    s.source.execute("UPDATE t SET v = 1000");
    s.once();
    assert_eq!(
        s.output.value("SELECT new::text FROM trucker.dead_letters"),
        r#"{"v": "1000", "id": "1", "big": {"unchanged": true}, "note": null}"#
    );
}

#[test]
fn a_few_bad_rows_in_a_very_large_transaction_are_found() {
    let s = buries(&DIVIDES);
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    s.source.execute(
        "INSERT INTO t SELECT i, CASE WHEN i IN (1, 7777, 7778, 50000, 100000) THEN 0 ELSE 1 + i % 9 END
         FROM generate_series(1, 100000) i",
    );
    s.until_same(&mut trucker, "SELECT id, 100 / v FROM t WHERE v <> 0", "SELECT * FROM t");
    assert_eq!(letters(&s, "ordinal, new ->> 'id'"), "1 1, 7777 7777, 7778 7778, 50000 50000, 100000 100000");
    assert!(trucker.peak_memory_kib() < 128 * 1024, "{} KiB", trucker.peak_memory_kib());
    trucker.terminate();
}

#[test]
fn counters_and_dead_letters_come_to_all_changes_through_kills() {
    let s = Scenario::new()
        .on_source("CREATE TABLE t (id int PRIMARY KEY, v int)")
        .on_output("CREATE TABLE total (one int PRIMARY KEY, n bigint); INSERT INTO total VALUES (1, 0)")
        .pipeline(
            "p",
            "input: {connection: source, table: t}\non_error: dead_letter\n\
             output: {connection: output, on: {update: ignore, delete: ignore, truncate: ignore}}\n",
            &[
                ("transform.sql", "SELECT 1 / {{ row.v }} AS one, {{ row.id }} AS id"),
                ("load.sql", "UPDATE total SET n = n + (SELECT count(*) FROM {{ rows }})"),
            ],
        );
    s.once();
    let mut random = Random::seeded(23);
    let (mut changes, mut bad, mut id) = (0u64, 0i64, 0u64);
    for _ in 0..if is_soak() { 60 } else { 6 } {
        let mut trucker = s.run();
        let before = changes;
        let enough = random.within(40..200);
        trucker.until("some work", || {
            let rows = random.within(1..30);
            let failing = random.within(0..rows + 1);
            s.source.execute(&format!(
                "INSERT INTO t SELECT {id} + i, CASE WHEN i = {failing} THEN 0 ELSE 1 END FROM generate_series(1, {rows}) i"
            ));
            changes += rows;
            id += rows;
            bad += i64::from(failing > 0);
            changes - before > enough
        });
        trucker.kill9();
    }
    s.once();
    assert_eq!(s.output.number("SELECT n FROM total"), changes as i64 - bad, "of {changes}");
    assert_eq!(s.output.number("SELECT count(*) FROM trucker.dead_letters"), bad);
    assert_eq!(s.output.number("SELECT count(DISTINCT new ->> 'id') FROM trucker.dead_letters"), bad);
    assert_eq!(s.output.number("SELECT count(*) FROM trucker.dead_letters WHERE new ->> 'v' <> '0'"), 0);
}

#[test]
fn a_row_that_the_outputs_encoding_lacks_is_recorded_in_ascii() {
    let s = Scenario::new().on_source("CREATE TABLE t (id int PRIMARY KEY, v text)");
    let latin = format!("{}_latin", s.output.name);
    s.output.execute(&format!("CREATE DATABASE \"{latin}\" ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"));
    let yml = std::fs::read_to_string(s.dir().join("trucker.yml")).unwrap();
    s.file(
        "trucker.yml",
        &yml.replace(&format!("database: {}", s.output.name), &format!("database: {latin}")),
    );
    let output = super::harness::Session::try_connect(s.output.port, &latin).unwrap();
    output.execute("SET client_encoding = 'UTF8'; CREATE TABLE t (id int PRIMARY KEY, v text)");
    s.write_pipeline("t", &(config("t", "t", &[]) + "on_error: dead_letter\n"), &[]);
    s.once();
    s.source.execute("INSERT INTO t VALUES (1, 'é'), (2, 'a → b'), (3, 'c')");
    s.once();
    let rows = |sql: &str| output.try_rows(sql).unwrap()[0][0].clone().unwrap_or_default();
    assert_eq!(rows("SELECT string_agg(id || v, ' ' ORDER BY id) FROM t"), "1é 3c");
    assert_eq!(rows("SELECT string_agg(new ->> 'v', ' ') FROM trucker.dead_letters"), r"a \u{2192} b");
    drop(output);
    s.output.execute(&format!("DROP DATABASE \"{latin}\" WITH (FORCE)"));
}
