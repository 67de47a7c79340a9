//! A TOASTed value that an update left out is never NULL.

use super::harness::{Scenario, config};

const WIDE: &str =
    "CREATE TABLE t (id int, code int NOT NULL, n int, body text, doc jsonb, raw bytea, tags text[],
    PRIMARY KEY (id));
    CREATE UNIQUE INDEX t_code ON t (code);
    ALTER TABLE t ALTER body SET STORAGE EXTERNAL, ALTER doc SET STORAGE EXTERNAL,
        ALTER raw SET STORAGE EXTERNAL, ALTER tags SET STORAGE EXTERNAL";

const FILL: &str = "INSERT INTO t SELECT i, i, 0, repeat(chr(64 + i), 100000), jsonb_build_object('k', repeat('j', 50000 + i)),
    decode(repeat('00ff', 40000 + i), 'hex'), ARRAY[repeat('t', 30000), NULL, 'x'] FROM generate_series(1, 6) i";

const UPDATES: [&str; 6] = [
    "UPDATE t SET n = n + 1 WHERE id = 1",
    "UPDATE t SET n = n + 1, body = 'short' WHERE id = 2",
    "UPDATE t SET doc = '{}', raw = NULL WHERE id = 3",
    "UPDATE t SET id = id + 100, code = code + 100 WHERE id = 4",
    "BEGIN; UPDATE t SET body = repeat('new', 50000) WHERE id = 5; UPDATE t SET n = 9 WHERE id = 5; COMMIT",
    "BEGIN; UPDATE t SET n = 1 WHERE id = 6; UPDATE t SET id = 600 WHERE id = 6; UPDATE t SET n = 2, code = -6 WHERE id = 600; COMMIT",
];

fn check(identity: &str, files: &[(&str, &str)], on_source: &str) {
    let s = Scenario::new()
        .tables(WIDE)
        .on_source(&format!("ALTER TABLE t REPLICA IDENTITY {identity}"))
        .pipeline("t", &config("t", "t", &[]), files);
    s.source.execute(FILL);
    s.once();
    s.assert_same(on_source, "SELECT * FROM t");
    for update in UPDATES {
        s.source.execute(update);
        s.once();
        s.assert_same(on_source, "SELECT * FROM t");
    }
}

#[test]
fn unchanged_values_survive_updates_and_key_changes_under_default() {
    check("DEFAULT", &[], "SELECT * FROM t");
}

#[test]
fn unchanged_values_survive_updates_and_key_changes_under_full() {
    check("FULL", &[], "SELECT * FROM t");
}

#[test]
fn unchanged_values_survive_updates_under_an_index() {
    // The output's key is not the identity's: where to find the old row is said by delete.sql.
    let s = Scenario::new()
        .tables(WIDE)
        .on_source("ALTER TABLE t REPLICA IDENTITY USING INDEX t_code")
        .pipeline("t", &config("t", "t", &["key: [code]"]), &[]);
    s.source.execute(FILL);
    s.once();
    for update in UPDATES {
        s.source.execute(update);
        s.once();
        s.assert_table_same("t");
    }
}

#[test]
fn sql_that_needs_an_unchanged_value_gets_it() {
    let sql = "SELECT row.id, row.code, row.n, left({{ row.body }}, 10) || length({{ row.body }}) AS body, \
               {{ row.doc }} AS doc, row.raw, row.tags";
    let delete = ("delete.sql", "SELECT {{ old.id }} AS id");
    let expected = "SELECT id, code, n, left(body, 10) || length(body), doc, raw, tags FROM t";
    check("DEFAULT", &[("transform.sql", sql), delete], expected);
    check("FULL", &[("transform.sql", sql)], expected);
}

#[test]
fn a_filter_on_an_unchanged_value_decides_by_the_value() {
    let s = Scenario::new().tables(WIDE).pipeline(
        "t",
        &config("t", "t", &[]),
        &[
            ("transform.sql", "SELECT row.id, row.code, row.n, row.body WHERE {{ row.body }} LIKE 'A%'"),
            ("delete.sql", "SELECT {{ old.id }} AS id"),
        ],
    );
    let expected = "SELECT id, code, n, body FROM t WHERE body LIKE 'A%'";
    s.source.execute(FILL);
    s.once();
    s.source.execute("UPDATE t SET n = 5");
    s.once();
    s.assert_same(expected, "SELECT id, code, n, body FROM t");
    s.source.execute("UPDATE t SET body = repeat('A', 70000) WHERE id = 2; UPDATE t SET n = 6");
    s.once();
    s.assert_same(expected, "SELECT id, code, n, body FROM t");
}

#[test]
fn rows_changed_again_or_deleted_before_they_are_read_still_converge() {
    let s = Scenario::new().tables(WIDE).copies("t");
    s.source.execute(FILL);
    s.once();
    // The values left out can no longer be read from the source by the time trucker looks.
    s.source.execute(
        "UPDATE t SET n = 1; UPDATE t SET id = id + 50; UPDATE t SET n = 2; DELETE FROM t WHERE id = 51",
    );
    s.source.execute("UPDATE t SET body = 'gone' WHERE id = 52; UPDATE t SET id = 1 WHERE id = 53");
    s.once();
    s.assert_table_same("t");
}

#[test]
fn values_that_came_earlier_in_the_batch_survive_the_changes_after_them() {
    // Each of these is one batch: the value comes once, and what follows leaves it out.
    let sql = "SELECT row.id, row.code, row.n, row.body, row.doc, row.raw, row.tags";
    let delete = ("delete.sql", "SELECT {{ old.id }} AS id");
    for files in [&[][..], &[("transform.sql", sql), delete]] {
        let s = Scenario::new().tables(WIDE).pipeline("t", &config("t", "t", &[]), files);
        s.once();
        let big = "repeat('b', 90000), jsonb_build_object('k', repeat('d', 90000)), decode(repeat('0a', 60000), 'hex'), ARRAY[repeat('t', 30000)]";
        for script in [
            format!("INSERT INTO t VALUES (1, 1, 0, {big}); UPDATE t SET n = 1; UPDATE t SET n = 2"),
            format!("BEGIN; INSERT INTO t VALUES (2, 2, 0, {big}); UPDATE t SET n = 1 WHERE id = 2; UPDATE t SET id = 3 WHERE id = 2; COMMIT"),
            format!("INSERT INTO t VALUES (4, 4, 0, {big}); UPDATE t SET id = 5 WHERE id = 4; UPDATE t SET n = 7 WHERE id = 5"),
            format!("DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (1, 1, 0, {big}); UPDATE t SET code = -1 WHERE id = 1"),
            "UPDATE t SET id = id + 50; UPDATE t SET n = n + 1; UPDATE t SET id = id - 50; UPDATE t SET body = NULL WHERE id = 3; UPDATE t SET n = 0".to_owned(),
        ] {
            s.source.execute(&script);
            s.once();
            s.assert_table_same("t");
        }
    }
}

#[test]
fn a_value_that_is_gone_stops_a_pipeline_whose_rows_no_later_change_would_mend() {
    let s =
        Scenario::new().on_source(WIDE).on_output("CREATE TABLE log (id int, n int, body text)").pipeline(
            "log",
            &config("t", "log", &["on: {insert: insert, update: insert, delete: ignore, truncate: ignore}"]),
            &[],
        );
    s.once();
    s.source.execute("INSERT INTO t (id, code, n, body) VALUES (1, 1, 0, repeat('b', 90000))");
    s.source.execute("UPDATE t SET n = 1");
    s.source.execute("UPDATE t SET n = 2");
    s.source.execute("DELETE FROM t");
    let said = s.once_fails(1);
    assert!(said.contains("ALTER TABLE public.t REPLICA IDENTITY FULL"), "{said}");
    // What came before it is there, and nothing was appended with a hole in it.
    assert_eq!(
        s.output.value("SELECT string_agg(n || ':' || length(body), ' ' ORDER BY n) FROM log"),
        "0:90000"
    );
}

#[test]
fn columns_that_came_later_are_read_for_rows_without_a_key_too() {
    for key in ["", ", PRIMARY KEY (id)"] {
        let s = Scenario::new()
            .on_source(&format!(
                "CREATE TABLE t (id int, v text, j json{key}); ALTER TABLE t REPLICA IDENTITY FULL"
            ))
            .on_output("CREATE TABLE t (id int PRIMARY KEY, v text, j text, extra text)")
            .pipeline("t", &config("t", "t", &[]), &[("transform.sql", "SELECT row.id, row.v, row.j")]);
        s.once();
        s.source.execute("INSERT INTO t VALUES (1, NULL, '{}'), (2, 'b', NULL), (3, 'gone', '[]')");
        s.source.execute("UPDATE t SET v = 'c' WHERE id = 2; DELETE FROM t WHERE id = 3");
        s.source.execute("ALTER TABLE t ADD COLUMN extra text DEFAULT 'later'");
        s.file("t/transform.sql", "SELECT row.id, row.v, row.j, {{ new.extra }} AS extra");
        s.file("t/delete.sql", "SELECT old.id");
        s.once();
        s.assert_same("SELECT id, v, j::text, extra FROM t", "SELECT * FROM t");
    }
}
