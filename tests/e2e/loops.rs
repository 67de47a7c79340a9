//! Copies that meet their own output again.

use super::harness::{Scenario, config, eventually, holds_for};

/// Another project's pipeline, or this one's, from the output back to the source.
fn back(table: &str, more: &[&str]) -> String {
    config(table, table, more)
        .replace("connection: source", "connection: there")
        .replace("connection: output", "connection: source")
        .replace("connection: there", "connection: output")
}

#[test]
fn plain_copies_in_a_circle_are_refused() {
    let s = Scenario::new()
        .tables("CREATE TABLE t (id int PRIMARY KEY, v text)")
        .pipeline("there", &config("t", "t", &[]), &[])
        .pipeline("back", &back("t", &[]), &[]);
    let said = s.once_fails(3);
    for word in ["round for ever", "there/config.yml", "back/config.yml"] {
        assert!(said.contains(word), "no word on {word}: {said}");
    }
    s.assert_nothing_created();
}

/// Each side has rows of its own, which a backfill must not take for left over.
const KEEP: &str = "on: {delete: ignore, truncate: ignore}";

#[test]
fn sql_may_break_a_circle() {
    let filter =
        "SELECT {{ row.id }} AS id, {{ row.home }} AS home, {{ row.v }} AS v WHERE {{ row.home }} = ";
    let file = |home: &str| format!("{filter}'{home}'");
    let s = Scenario::new()
        .tables("CREATE TABLE t (id int, home text, v text, PRIMARY KEY (id, home))")
        .pipeline("there", &config("t", "t", &[KEEP]), &[("transform.sql", file("source").as_str())])
        .pipeline("back", &back("t", &[KEEP]), &[("transform.sql", file("output").as_str())]);
    s.source.execute("INSERT INTO t VALUES (1, 'source', 'a')");
    s.output.execute("INSERT INTO t VALUES (1, 'output', 'b')");
    let mut trucker = s.run();
    s.until_table_same(&mut trucker, "t");
    s.source.execute("UPDATE t SET v = 'c' WHERE home = 'source'");
    s.output.execute("UPDATE t SET v = 'd' WHERE home = 'output'");
    let is_there = |database: &super::harness::Database| {
        database.value("SELECT string_agg(home || v, ' ' ORDER BY home) FROM t") == "outputd sourcec"
    };
    assert!(
        eventually(super::harness::PATIENCE, || is_there(&s.source) && is_there(&s.output)),
        "{}",
        trucker.stderr()
    );
    // Each write makes another version of a row.
    let versions = "SELECT string_agg(ctid || ' ' || xmin, ', ' ORDER BY home) FROM t";
    let settled = s.source.value(versions);
    assert!(
        holds_for(std::time::Duration::from_secs(2), || s.source.value(versions) == settled),
        "it goes round"
    );
    trucker.terminate();
    s.output.execute(&format!(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name ~ '^{}'",
        s.slot()
    ));
}
