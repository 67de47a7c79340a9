//! Source and output may be one database.

use super::harness::{Scenario, config, source_server};

fn inside(config: &str, files: &[(&str, &str)]) -> Scenario {
    let port = source_server().port();
    Scenario::between(port, port)
        .on_source(
            "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE flat (id int PRIMARY KEY, v int)",
        )
        .pipeline("flat", &config.replace("connection: output", "connection: source"), files)
}

#[test]
fn a_pipeline_within_one_database_converges_and_does_not_feed_itself() {
    let s = inside(&config("t", "flat", &[]), &[]);
    s.source.execute("INSERT INTO t SELECT i, i FROM generate_series(1, 1000) i");
    let check = |s: &Scenario| {
        let rows = |table: &str| s.source.rows(&format!("SELECT * FROM {table} ORDER BY id"));
        assert_eq!(rows("t"), rows("flat"));
    };
    s.once();
    check(&s);
    s.source.execute("UPDATE t SET v = v + 1; DELETE FROM t WHERE id < 100; INSERT INTO t VALUES (5000, 1)");
    s.once();
    check(&s);
    s.source.execute("TRUNCATE t");
    s.once();
    check(&s);
}

#[test]
fn writing_into_the_table_it_reads_is_refused() {
    let s = inside(&config("t", "t", &[]), &[]);
    let finished = s.run_once();
    assert!(matches!(finished.code, Some(1 | 3)), "{}", finished.text());
    s.assert_nothing_created();
}

#[test]
fn two_databases_of_one_server_converge() {
    let port = source_server().port();
    let s = Scenario::between(port, port).tables("CREATE TABLE t (id int PRIMARY KEY, v int)").copies("t");
    s.source.execute("INSERT INTO t SELECT i, i FROM generate_series(1, 1000) i");
    s.once();
    s.source.execute("UPDATE t SET v = v + 1 WHERE id % 2 = 0; DELETE FROM t WHERE id < 10");
    s.once();
    s.assert_table_same("t");
}
