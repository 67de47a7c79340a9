//! A backfill that several sessions read, each a range of pages after the other: as exact as one that a single session reads. Here a
//! page is as much as one reader is enough for.

use super::harness::{Scenario, Session, Trucker, clickhouse_server, config};

const TRANSFORM: &str = "SELECT row.id, row.v, row.id % 10 AS last";
const IN: &str = "SELECT id, v, id % 10 FROM t";
const OUT: &str = "SELECT id, v, last FROM t";

fn ranges() -> Scenario {
    Scenario::new().variable("TRUCKER_BACKFILL_BYTES_EACH", "8192")
}

/// A table of some twenty pages, and SQL over it.
fn world() -> Scenario {
    ranges()
        .on_source(
            "CREATE TABLE t (id int PRIMARY KEY, v text) WITH (fillfactor = 20);
             INSERT INTO t SELECT i, 'old ' || i FROM generate_series(1, 1000) i",
        )
        .on_output("CREATE TABLE t (id int PRIMARY KEY, v text, last int)")
        .pipeline("t", &config("t", "t", &[]), &[("transform.sql", TRANSFORM)])
}

/// How many sessions have a snapshot and the input table.
const READERS: &str = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
     WHERE a.datname = current_database() AND a.application_name = 'trucker'
     AND l.relation = 't'::regclass AND l.granted AND a.backend_xmin IS NOT NULL";

/// Its backfill: read by four sessions, and it can't write yet; and the session that holds it back.
fn held(s: &Scenario) -> (Session, Trucker) {
    let blocker = s.output.session();
    blocker.execute("BEGIN; LOCK TABLE t IN SHARE MODE");
    let mut trucker = s.run();
    trucker.until("four readers", || s.source.number(READERS) == 4);
    let waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 't'::regclass AND NOT granted)";
    trucker.until("the writer", || s.output.is(waits));
    (blocker, trucker)
}

/// Moves rows to other pages and to other keys, frees space, and fills it again.
fn disturb(s: &Scenario) {
    s.source.execute("UPDATE t SET v = repeat('new', 500) WHERE id % 7 = 0; DELETE FROM t WHERE id % 5 = 0");
    s.source.execute("VACUUM t");
    s.source.execute(
        "UPDATE t SET id = -id WHERE id % 3 = 0; INSERT INTO t SELECT i, 'more' FROM generate_series(5, 3000, 5) i",
    );
    s.source.execute("VACUUM t");
}

#[test]
fn rows_that_move_while_ranges_are_read_arrive_once_and_as_they_are_in_the_end() {
    let s = world()
        .on_source(
            "CREATE TABLE seen (n int); ALTER TABLE seen REPLICA IDENTITY FULL;
             INSERT INTO seen SELECT generate_series(1, 5000)",
        )
        .on_output("CREATE TABLE seen (n int)")
        .pipeline(
            "seen",
            &config(
                "seen",
                "seen",
                &["on: {insert: insert, update: ignore, delete: ignore, truncate: ignore}"],
            ),
            &[("insert.sql", "SELECT new.n")],
        );
    let (blocker, mut trucker) = held(&s);
    disturb(&s);
    s.source.execute("UPDATE seen SET n = n; INSERT INTO seen VALUES (5001)");
    blocker.execute("COMMIT");
    s.until_same(&mut trucker, IN, OUT);
    // Rows that nothing tells apart are appended: one that came twice would be there twice.
    s.until_same(&mut trucker, "SELECT generate_series(1, 5001)", "SELECT n FROM seen");
}

#[test]
fn backfills_that_run_together_take_a_few_sessions_of_the_source_in_all() {
    let mut s = ranges();
    let names = ["a", "b", "c", "d"];
    for name in names {
        s = s.tables(&format!("CREATE TABLE {name} (id int PRIMARY KEY, v text)")).pipeline(
            name,
            &config(name, name, &[]),
            &[("transform.sql", "SELECT row.id, row.v")],
        );
        s.source.execute(&format!(
            "INSERT INTO {name} SELECT i, repeat('v', 50) FROM generate_series(1, 2000) i"
        ));
    }
    let blocker = s.output.session();
    blocker.execute("BEGIN; LOCK TABLE a, b, c, d IN SHARE MODE");
    let mut trucker = s.run();
    let waiting = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
         WHERE d.datname = current_database() AND NOT granted AND relation IS NOT NULL";
    trucker.until("all writers", || s.output.number(waiting) == 4);
    let readers =
        READERS.replace("= 't'::regclass", "IN ('a'::regclass, 'b'::regclass, 'c'::regclass, 'd'::regclass)");
    assert_eq!(s.source.number(&readers), 4 + 8);
    blocker.execute("COMMIT");
    names.iter().for_each(|name| s.until_table_same(&mut trucker, name));
}

#[test]
fn every_row_comes_once_whatever_the_pages_hold() {
    for (table, fill) in [
        ("CREATE TABLE t (id int PRIMARY KEY, v text)", ""),
        ("CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t VALUES (1, 'one')"),
        // Nothing but dead rows, then dead rows before, between and behind others.
        (
            "CREATE TABLE t (id int PRIMARY KEY, v text)",
            "INSERT INTO t SELECT i, 'v' FROM generate_series(1, 3000) i; DELETE FROM t",
        ),
        (
            "CREATE TABLE t (id int PRIMARY KEY, v text)",
            "INSERT INTO t SELECT i, repeat('v', i % 3000) FROM generate_series(1, 3000) i;
             DELETE FROM t WHERE id < 700 OR id BETWEEN 1500 AND 1900 OR id > 2500",
        ),
        // Partitions of very different sizes, one of them partitioned itself, one empty.
        (
            "CREATE TABLE t (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
             CREATE TABLE t_small PARTITION OF t FOR VALUES FROM (0) TO (10);
             CREATE TABLE t_large PARTITION OF t FOR VALUES FROM (10) TO (5000) PARTITION BY LIST (id);
             CREATE TABLE t_one PARTITION OF t_large FOR VALUES IN (4000);
             CREATE TABLE t_rest PARTITION OF t_large DEFAULT;
             CREATE TABLE t_none PARTITION OF t FOR VALUES FROM (5000) TO (6000)",
            "INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 4500) i",
        ),
    ] {
        let s = ranges()
            .on_source(table)
            .on_source(fill)
            .on_output("CREATE TABLE t (id int, v text, last int, copy int, PRIMARY KEY (id, copy))")
            .pipeline(
                "t",
                &config("t", "t", &["replace: [id]"]),
                // Two rows of each, in two forms: the second time the output isn't empty.
                &[("transform.sql", &format!("{TRANSFORM}, copy FROM generate_series(1, 2) AS copy"))],
            );
        let expected = "SELECT id, v, id % 10, copy FROM t, generate_series(1, 2) AS copy";
        s.once();
        s.assert_same(expected, "SELECT id, v, last, copy FROM t");
        s.source.execute("DELETE FROM t WHERE id % 4 = 0");
        let dir = s.dir();
        let asked = s.start(&["backfill", "--dir", dir.to_str().unwrap(), "t"]).wait();
        assert_eq!(asked.code, Some(0), "{}", asked.text());
        s.once();
        s.assert_same(expected, "SELECT id, v, last, copy FROM t");
    }
}

#[test]
fn ranges_reach_clickhouse_and_load_sql_whole() {
    let out = clickhouse_server().database();
    let s = world().on_output("CREATE TABLE total (n bigint, sum bigint)").pipeline(
        "total",
        "input: {connection: source, table: t}
output: {connection: output, on: {update: ignore, delete: ignore, truncate: ignore}}\n",
        &[
            ("insert.sql", "SELECT new.id"),
            ("load.sql", "INSERT INTO total SELECT count(*), sum(id) FROM {{ rows }}"),
        ],
    );
    s.once();
    s.assert_same("SELECT count(*), sum(id) FROM t", "SELECT n, sum FROM total");

    out.execute(
        "CREATE TABLE t (id Int32, v Nullable(String), last Int32, _version UInt128, _is_deleted UInt8)
         ENGINE = ReplacingMergeTree(_version, _is_deleted) ORDER BY id",
    );
    let s = world().to_clickhouse(&out).pipeline(
        "t",
        &config("t", &format!("{}.t", out.name), &[]),
        &[("transform.sql", TRANSFORM)],
    );
    s.source.execute("UPDATE t SET v = E'a\\nb\\tc\\\\' WHERE id % 2 = 0");
    s.once();
    let (mut there, mut expected) = (
        out.rows("SELECT toString(id), v, toString(last) FROM t FINAL"),
        s.source.rows("SELECT id::text, v, (id % 10)::text FROM t"),
    );
    there.sort();
    expected.sort();
    assert_eq!(there, expected);
}

#[test]
fn a_backfill_of_ranges_that_is_killed_leaves_nothing_and_starts_again() {
    let s = world();
    let (blocker, trucker) = held(&s);
    trucker.kill9();
    blocker.execute("COMMIT");
    disturb(&s);
    let dir = s.dir();
    let variables = [("TRUCKER_FAILPOINT", "backfill_copied:1"), ("TRUCKER_BACKFILL_BYTES_EACH", "8192")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let arguments = ["run", dir.to_str().unwrap(), "--once", "--http", "off"];
    assert_eq!(Trucker::start(&s.logs(), &arguments, &variables).wait().code, None);
    assert_eq!(s.output.number("SELECT count(*) FROM t"), 0);
    s.source.execute("DELETE FROM t WHERE id % 11 = 0");
    s.once();
    s.assert_same(IN, OUT);
}

#[test]
fn a_reader_that_fails_fails_its_backfill_which_starts_again() {
    let s = world();
    let (blocker, mut trucker) = held(&s);
    let last = READERS.replace("count(*)", "pg_terminate_backend(max(pid))");
    s.source.execute(&last);
    s.source.execute("DELETE FROM t WHERE id <= 10");
    blocker.execute("COMMIT");
    trucker.until_said("retrying");
    s.until_same(&mut trucker, IN, OUT);
}

#[test]
fn a_partition_that_comes_with_rows_while_ranges_are_read_has_all_of_them_read_again() {
    let s = ranges()
        .on_source(
            "CREATE TABLE t (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
             CREATE TABLE t_first PARTITION OF t FOR VALUES FROM (0) TO (2000) WITH (fillfactor = 20);
             INSERT INTO t SELECT i, 'old ' || i FROM generate_series(1, 1000) i;
             CREATE TABLE t_later (LIKE t INCLUDING ALL); CREATE TABLE t_empty (LIKE t INCLUDING ALL);
             INSERT INTO t_later SELECT i, 'later' FROM generate_series(2000, 2999) i",
        )
        .on_output("CREATE TABLE t (id int PRIMARY KEY, v text, last int)")
        .pipeline("t", &config("t", "t", &[]), &[("transform.sql", TRANSFORM)]);
    let again = "a partition with rows was attached to";
    let (blocker, mut trucker) = held(&s);
    s.source.execute("ALTER TABLE t ATTACH PARTITION t_empty FOR VALUES FROM (3000) TO (4000)");
    s.source.execute("ALTER TABLE t ATTACH PARTITION t_later FOR VALUES FROM (2000) TO (3000)");
    blocker.execute("COMMIT");
    trucker.until_said(again);
    s.until_same(&mut trucker, IN, OUT);
    // The one that is empty is no reason.
    s.source.execute("CREATE TABLE t_none (LIKE t INCLUDING ALL)");
    s.output.execute("TRUNCATE t");
    let (before, blocker) = (trucker.stderr().matches(again).count(), s.output.session());
    blocker.execute("BEGIN; LOCK TABLE t IN SHARE MODE");
    let dir = s.dir();
    let asked = s.start(&["backfill", "--dir", dir.to_str().unwrap(), "t"]).wait();
    assert_eq!(asked.code, Some(0), "{}", asked.text());
    trucker.until("four readers", || s.source.number(READERS) == 4);
    s.source.execute("ALTER TABLE t ATTACH PARTITION t_none FOR VALUES FROM (4000) TO (5000)");
    blocker.execute("COMMIT");
    s.until_same(&mut trucker, IN, OUT);
    assert_eq!(trucker.stderr().matches(again).count(), before, "{}", trucker.stderr());
}

#[test]
fn rows_larger_than_a_piece_arrive_among_small_ones_in_both_forms_of_copy() {
    let s = ranges()
        .on_source(
            "CREATE TABLE t (id int PRIMARY KEY, v text);
             INSERT INTO t SELECT i, repeat(md5(i::text), CASE i % 7 WHEN 1 THEN 10000 WHEN 2 THEN 5000 ELSE i END)
               FROM generate_series(1, 200) i",
        )
        .on_output("CREATE TABLE t (id int PRIMARY KEY, v text, last int)")
        .pipeline("t", &config("t", "t", &[]), &[("transform.sql", TRANSFORM)])
        .on_output("CREATE TABLE loaded (id int, v text)")
        .pipeline(
            "loaded",
            "input: {connection: source, table: t}
output: {connection: output, on: {update: ignore, delete: ignore, truncate: ignore}}\n",
            &[
                ("insert.sql", "SELECT new.id, new.v"),
                ("load.sql", "INSERT INTO loaded SELECT id, v FROM {{ rows }}"),
            ],
        );
    s.once();
    s.assert_same(IN, OUT);
    s.assert_same("SELECT id, v FROM t", "SELECT id, v FROM loaded");
}

#[test]
fn sql_that_fails_in_one_range_is_told_with_its_file() {
    let s = world();
    s.file("t/transform.sql", "SELECT row.id, row.v, 1 / (row.id - 990) AS last");
    let said = s.once_fails(1);
    assert!(said.contains("division by zero") && said.contains("transform.sql"), "{said}");
    assert_eq!(s.output.number("SELECT count(*) FROM t"), 0);
}

#[test]
fn where_the_snapshot_cannot_be_shared_one_session_reads_it_all() {
    let s = world();
    let role = format!("{}_role", s.name);
    s.source.execute(&format!(
        "CREATE ROLE {role} LOGIN REPLICATION; GRANT SELECT ON t TO {role};
         REVOKE EXECUTE ON FUNCTION pg_export_snapshot() FROM PUBLIC;
         CREATE PUBLICATION {} FOR TABLE ONLY t WITH (publish_via_partition_root = true)",
        s.slot()
    ));
    s.file("trucker.yml", &s.project_file().replacen("user: postgres", &format!("user: {role}"), 1));
    let said = s.once();
    assert!(said.text().contains("pg_export_snapshot"), "{}", said.text());
    s.assert_same(IN, OUT);
    s.source.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[test]
fn readers_do_not_wait_for_an_alter_table_that_waits_for_the_first_of_them() {
    let s = world();
    let mut trucker = s.run();
    s.until_same(&mut trucker, IN, OUT);
    // A writer that is open keeps the backfill from having a snapshot: it tries again and again.
    let writer = s.source.session();
    writer.execute("CREATE TABLE elsewhere (n int); BEGIN; INSERT INTO elsewhere VALUES (1)");
    let dir = s.dir();
    let asked = s.start(&["backfill", "--dir", dir.to_str().unwrap(), "t"]).wait();
    assert_eq!(asked.code, Some(0), "{}", asked.text());
    let tries = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
         AND query ~ 'READ ONLY; LOCK TABLE' OR query ~ 'pg_current_snapshot' AND pid <> pg_backend_pid())";
    trucker.until("a try at a snapshot", || s.source.is(tries));
    // The next try waits for this lock, and an ALTER behind it, before any other reader asks for one.
    let holder = s.source.session();
    holder.execute("BEGIN; LOCK TABLE t");
    let waiting = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
         WHERE relation = 't'::regclass AND NOT granted AND query ~";
    trucker.until("the first reader", || s.source.number(&format!("{waiting} 'READ ONLY; LOCK TABLE'")) == 1);
    let altering = s.source.session().send("ALTER TABLE t ADD COLUMN further int");
    trucker.until("the ALTER behind it", || s.source.number(&format!("{waiting} '^ALTER'")) == 1);
    writer.execute("COMMIT");
    holder.execute("COMMIT");
    altering.join().unwrap().unwrap();
    s.source.execute("UPDATE t SET v = 'altered' WHERE id % 2 = 0");
    // Whether it had to go without the others depends on whose turn it was; that it ends doesn't.
    s.until_same(&mut trucker, IN, OUT);
}
