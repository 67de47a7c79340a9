//! Replica identity: every kind that suffices works, and a table whose identity does not suffice is refused
//! before anything is created, since publishing it would make the user's own UPDATEs fail.

use super::harness::{Scenario, config};

const SCRIPT: [&str; 4] = [
    "UPDATE t SET v = 'x' WHERE id = 1",
    "UPDATE t SET id = id + 100, code = code + 100 WHERE id = 2",
    "DELETE FROM t WHERE id = 3",
    "INSERT INTO t VALUES (4, 4, NULL); UPDATE t SET v = NULL WHERE id = 1",
];

fn converges(identity: &str, key: &str) {
    let s = Scenario::new()
        .tables("CREATE TABLE t (id int PRIMARY KEY, code int NOT NULL UNIQUE, v text)")
        .on_source(identity)
        .pipeline("t", &config("t", "t", &[key]), &[]);
    s.source.execute("INSERT INTO t SELECT i, i, 'v' FROM generate_series(1, 3) i");
    s.once();
    for statement in SCRIPT {
        s.source.execute(statement);
    }
    s.once();
    s.assert_table_same("t");
}

#[test]
fn default_full_and_index_converge() {
    converges("ALTER TABLE t REPLICA IDENTITY DEFAULT", "key: [id]");
    converges("ALTER TABLE t REPLICA IDENTITY FULL", "key: [id]");
    converges("ALTER TABLE t REPLICA IDENTITY FULL", "key: [code]");
    converges("ALTER TABLE t REPLICA IDENTITY USING INDEX t_code_key", "key: [code]");
}

#[test]
fn full_without_a_primary_key_converges() {
    let s = Scenario::new()
        .on_source("CREATE TABLE t (id int, v text); ALTER TABLE t REPLICA IDENTITY FULL")
        .on_output("CREATE TABLE t (id int PRIMARY KEY, v text)")
        .copies("t");
    s.source.execute("INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, NULL)");
    s.once();
    s.source.execute(
        "UPDATE t SET v = 'c' WHERE id = 3; DELETE FROM t WHERE id = 1; UPDATE t SET id = 9 WHERE id = 2",
    );
    s.once();
    s.assert_table_same("t");
}

#[test]
fn a_composite_key_in_another_order_converges() {
    let s = Scenario::new()
        .on_source("CREATE TABLE t (a int, v text, b int, PRIMARY KEY (b, a))")
        .on_output("CREATE TABLE t (b int, a int, v text, PRIMARY KEY (a, b))")
        .copies("t");
    s.source.execute("INSERT INTO t SELECT i, 'v', j FROM generate_series(1, 4) i, generate_series(1, 4) j");
    s.once();
    s.source.execute(
        "UPDATE t SET a = a + 10 WHERE b = 2; DELETE FROM t WHERE a = 3; UPDATE t SET v = 'w' WHERE b = 1",
    );
    s.once();
    s.assert_same("SELECT a, b, v FROM t", "SELECT a, b, v FROM t");
}

#[test]
fn tables_whose_updates_would_fail_are_refused_with_the_cure_and_stay_unpublished() {
    for (table, cure) in [
        ("CREATE TABLE t (id int, v int)", "REPLICA IDENTITY FULL"),
        (
            "CREATE TABLE t (id int PRIMARY KEY, v int); ALTER TABLE t REPLICA IDENTITY NOTHING",
            "REPLICA IDENTITY",
        ),
        (
            "CREATE TABLE t (id int NOT NULL, v int); CREATE UNIQUE INDEX i ON t (id);
             ALTER TABLE t REPLICA IDENTITY USING INDEX i; DROP INDEX i",
            "REPLICA IDENTITY",
        ),
        ("CREATE TABLE t (id int PRIMARY KEY DEFERRABLE, v int)", "REPLICA IDENTITY FULL"),
        (
            "CREATE TABLE t (id int GENERATED ALWAYS AS (v + 0) STORED PRIMARY KEY, v int)",
            "REPLICA IDENTITY FULL",
        ),
    ] {
        let s = Scenario::new()
            .on_source(table)
            .on_output("CREATE TABLE t (id int PRIMARY KEY, v int)")
            .copies("t");
        s.source.execute(
            "INSERT INTO t (v) VALUES (1)"
                .replace("(v)", if table.contains("GENERATED") { "(v)" } else { "(id)" })
                .as_str(),
        );
        let finished = s.run_once();
        assert!(matches!(finished.code, Some(1 | 3)), "{table}: {finished:?}");
        let text = finished.text();
        assert!(text.contains("ALTER TABLE") && text.contains(cure), "{table}: {text}");
        s.assert_nothing_created();
        s.source.execute("UPDATE t SET v = 2; DELETE FROM t");
    }
}

#[test]
fn a_table_refused_later_leaves_the_publication_as_it_was() {
    let s = Scenario::new().tables("CREATE TABLE good (id int PRIMARY KEY, v int)").copies("good");
    s.once();
    s.source.execute("CREATE TABLE bad (id int, v int); INSERT INTO bad VALUES (1, 1)");
    s.output.execute("CREATE TABLE bad (id int PRIMARY KEY, v int)");
    s.write_pipeline("bad", &config("bad", "bad", &[]), &[]);
    assert_ne!(s.run_once().code, Some(0));
    assert_eq!(s.source.value("SELECT string_agg(tablename, ',') FROM pg_publication_tables"), "good");
    s.source.execute("UPDATE bad SET v = 2");
}

#[test]
fn a_pipeline_of_inserts_alone_may_read_a_table_under_full_without_key() {
    let s = Scenario::new()
        .on_source("CREATE TABLE log (line text); ALTER TABLE log REPLICA IDENTITY FULL")
        .on_output("CREATE TABLE log (line text)")
        .pipeline(
            "log",
            &config(
                "log",
                "log",
                &["on: {insert: insert, update: ignore, delete: ignore, truncate: ignore}"],
            ),
            &[],
        );
    s.source.execute("INSERT INTO log VALUES ('a'), ('a'), (NULL)");
    s.once();
    s.source.execute("INSERT INTO log VALUES ('b'), ('b'); DELETE FROM log WHERE line = 'a'");
    s.once();
    s.assert_same("VALUES ('a'), ('a'), (NULL), ('b'), ('b')", "SELECT * FROM log");
}
