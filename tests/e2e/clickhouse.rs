//! ClickHouse as an output: whenever a pipeline has caught up, `SELECT … FINAL` is what its SQL returns over the input now,
//! whatever died on the way.

use super::harness::{ClickHouseDatabase, Random, Row, Scenario, Trucker, clickhouse_server, config};

/// `trucker run --once` that comes to a place where it dies; whether it did.
fn dies_at(s: &Scenario, failpoint: &str) -> bool {
    let dir = s.dir();
    let variables = [("TRUCKER_FAILPOINT".to_owned(), failpoint.to_owned())];
    let args = ["run", dir.to_str().unwrap(), "--once", "--http", "off"];
    Trucker::start(&s.logs(), &args, &variables).wait().code.is_none()
}

const VERSIONED: &str =
    "_version UInt128, _is_deleted UInt8) ENGINE = ReplacingMergeTree(_version, _is_deleted)";

/// Table t on both sides, and a copy of it.
fn copy() -> (Scenario, ClickHouseDatabase) {
    let out = clickhouse_server().database();
    out.execute(&format!("CREATE TABLE t (id Int32, v Nullable(String), n Int64, {VERSIONED} ORDER BY id"));
    let s = Scenario::new()
        .on_source("CREATE TABLE t (id int PRIMARY KEY, v text, n bigint NOT NULL)")
        .to_clickhouse(&out)
        .pipeline("t", &config("t", &format!("{}.t", out.name), &[]), &[]);
    (s, out)
}

fn sorted(mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort();
    rows
}

#[track_caller]
fn assert_same(s: &Scenario, out: &ClickHouseDatabase, on_source: &str, on_output: &str) {
    assert_eq!(sorted(out.rows(on_output)), sorted(s.source.rows(on_source)), "{on_output}");
}

#[track_caller]
fn until_same(s: &Scenario, out: &ClickHouseDatabase, trucker: &mut Trucker, source: &str, output: &str) {
    let is_same = || out.try_rows(output).is_ok_and(|rows| sorted(rows) == sorted(s.source.rows(source)));
    trucker.until(output, is_same);
}

const SOURCE_T: &str = "SELECT id::text, v, n::text FROM t";
const OUTPUT_T: &str = "SELECT toString(id), v, toString(n) FROM t FINAL";

#[test]
fn a_copy_follows_inserts_updates_deletes_key_changes_and_truncate() {
    let (s, out) = copy();
    s.source.execute("INSERT INTO t SELECT g, CASE WHEN g % 7 > 0 THEN E'v\\t\\n\\\\' || g END, g FROM generate_series(1, 500) g");
    let mut trucker = s.run();
    until_same(&s, &out, &mut trucker, SOURCE_T, OUTPUT_T);
    s.source.execute("UPDATE t SET v = v || '!', n = -n WHERE id % 3 = 0; DELETE FROM t WHERE id % 5 = 0");
    until_same(&s, &out, &mut trucker, SOURCE_T, OUTPUT_T);
    s.source.execute("UPDATE t SET id = id + 1000 WHERE id % 2 = 0; DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (1, 'again', 0)");
    until_same(&s, &out, &mut trucker, SOURCE_T, OUTPUT_T);
    s.source.execute(
        "BEGIN; INSERT INTO t VALUES (7001, 'x', 1); TRUNCATE t; INSERT INTO t VALUES (7002, 'y', 2); COMMIT",
    );
    until_same(&s, &out, &mut trucker, SOURCE_T, OUTPUT_T);
    let finished = trucker.terminate();
    assert_eq!(finished.code, Some(0), "{}", finished.text());
}

#[test]
fn a_row_that_the_sql_returns_no_more_goes_and_so_do_lines_of_an_input_row() {
    let out = clickhouse_server().database();
    out.execute(&format!("CREATE TABLE paid (id Int32, cents Int64, {VERSIONED} ORDER BY id"));
    out.execute(&format!(
        "CREATE TABLE lines (order_id Int32, line Int32, what String, {VERSIONED} ORDER BY (order_id, line)"
    ));
    let lines = "SELECT {{ row.id }} AS order_id, l.ordinality::int AS line, l.what AS what \
                 FROM unnest({{ row.lines }}) WITH ORDINALITY AS l(what)";
    let s = Scenario::new()
        .on_source(
            "CREATE TABLE orders (id int PRIMARY KEY, is_paid bool, total numeric(10,2), lines text[]);
             INSERT INTO orders VALUES (1, true, 1.5, '{a,b,c}'), (2, false, 2, '{d}'), (3, true, 3, '{}')",
        )
        .to_clickhouse(&out)
        .pipeline(
            "paid",
            &config("orders", &format!("{}.paid", out.name), &[]),
            &[("transform.sql", "SELECT {{ row.id }} AS id, ({{ row.total }} * 100)::bigint AS cents WHERE {{ row.is_paid }}"),
              ("delete.sql", "SELECT {{ old.id }} AS id")],
        )
        .pipeline(
            "lines",
            &config("orders", &format!("{}.lines", out.name), &["replace: [order_id]"]),
            &[("transform.sql", lines), ("delete.sql", "SELECT {{ old.id }} AS order_id")],
        );
    let paid = (
        "SELECT id::text, (total * 100)::bigint::text FROM orders WHERE is_paid",
        "SELECT toString(id), toString(cents) FROM paid FINAL",
    );
    let all = (
        "SELECT id::text, l.ordinality::text, l.what FROM orders, unnest(lines) WITH ORDINALITY AS l(what)",
        "SELECT toString(order_id), toString(line), what FROM lines FINAL",
    );
    let mut trucker = s.run();
    let same = |trucker: &mut Trucker| {
        until_same(&s, &out, trucker, paid.0, paid.1);
        until_same(&s, &out, trucker, all.0, all.1);
    };
    same(&mut trucker);
    s.source.execute("UPDATE orders SET is_paid = NOT is_paid, lines = lines[2:] || ARRAY['new']");
    same(&mut trucker);
    s.source.execute(
        "BEGIN; UPDATE orders SET lines = '{x,y,z,w}' WHERE id = 1; UPDATE orders SET lines = '{x}' WHERE id = 1; \
         UPDATE orders SET id = 10 WHERE id = 2; DELETE FROM orders WHERE id = 3; COMMIT",
    );
    same(&mut trucker);
    s.source.execute("TRUNCATE orders");
    same(&mut trucker);
}

#[test]
fn a_value_that_an_update_left_out_is_read_from_the_source() {
    let (s, out) = copy();
    s.source.execute("ALTER TABLE t ALTER COLUMN v SET STORAGE EXTERNAL; INSERT INTO t VALUES (1, repeat('toast', 2000), 1), (2, repeat('x', 9000), 2)");
    let mut trucker = s.run();
    until_same(&s, &out, &mut trucker, SOURCE_T, OUTPUT_T);
    s.source.execute("UPDATE t SET n = n + 1; UPDATE t SET id = 3 WHERE id = 2; BEGIN; UPDATE t SET n = 7 WHERE id = 1; DELETE FROM t WHERE id = 1; COMMIT");
    until_same(&s, &out, &mut trucker, SOURCE_T, OUTPUT_T);
}

#[test]
fn columns_that_come_and_go_meanwhile_do_not_stop_it() {
    let (s, out) = copy();
    let mut trucker = s.run();
    for round in 0..150 {
        s.source.execute("ALTER TABLE t ADD COLUMN extra int");
        s.source.execute(&format!("INSERT INTO t (id, n) VALUES ({round}, 1)"));
        s.source.execute("ALTER TABLE t DROP COLUMN extra");
        s.source.execute(&format!("UPDATE t SET n = 2 WHERE id = {round}"));
    }
    until_same(&s, &out, &mut trucker, SOURCE_T, OUTPUT_T);
    let finished = trucker.terminate();
    assert!(!finished.stderr.contains("pipeline_failed"), "{}", finished.stderr);
}

#[test]
fn load_sql_aggregates_into_states() {
    let out = clickhouse_server().database();
    out.execute(
        "CREATE TABLE latest (id Int32, name AggregateFunction(argMax, String, DateTime64(3))) ENGINE = AggregatingMergeTree ORDER BY id;\n\
         CREATE TABLE seen (operation String) ENGINE = MergeTree ORDER BY tuple()",
    );
    let output = "input:\n  connection: source\n  table: people\noutput:\n  connection: output\n  on: {delete: ignore, truncate: ignore}\n";
    let s = Scenario::new()
        .on_source("CREATE TABLE people (id int PRIMARY KEY, name text NOT NULL); INSERT INTO people SELECT g, 'p' || g FROM generate_series(1, 2500) g")
        .to_clickhouse(&out)
        .pipeline("latest", output, &[
            ("transform.sql", "SELECT {{ row.id }} AS id, {{ row.name }} AS name"),
            ("load.sql", "INSERT INTO latest SELECT id, argMaxState(name, now64(3)) FROM {{ rows }} GROUP BY id"),
        ]);
    let mut trucker = s.run();
    let (source, output) = (
        "SELECT id::text, name FROM people",
        "SELECT toString(id), argMaxMerge(name) FROM latest GROUP BY id",
    );
    until_same(&s, &out, &mut trucker, source, output);
    s.source.execute("UPDATE people SET name = name || '''s' WHERE id % 2 = 0");
    until_same(&s, &out, &mut trucker, source, output);
    s.source.execute("INSERT INTO people VALUES (9001, 'late')");
    until_same(&s, &out, &mut trucker, source, output);
}

/// Table t, and load.sql over it, which may or may not take NULLs.
fn loads(out: &ClickHouseDatabase, load: &str) -> Scenario {
    let yml = "input: {connection: source, table: t}\noutput: {connection: output, on: {delete: ignore, truncate: ignore}}\n";
    Scenario::new()
        .on_source("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (2, 'b')")
        .to_clickhouse(out)
        .pipeline("seen", yml, &[("load.sql", load)])
}

#[test]
fn a_column_of_load_sql_has_one_type_whether_a_batch_holds_a_null_or_not() {
    let out = clickhouse_server().database();
    out.execute(
        "CREATE TABLE seen (id Int32, v Nullable(String), type String) ENGINE = MergeTree ORDER BY id",
    );
    let s = loads(&out, "INSERT INTO seen SELECT id, v, toTypeName(v) FROM {{ rows }}");
    s.once();
    s.source.execute("INSERT INTO t VALUES (3, NULL)");
    s.once();
    assert_eq!(
        out.value("SELECT (groupUniqArray(type), count(), countIf(v IS NULL)) FROM seen"),
        "(['Nullable(String)'],3,1)"
    );
}

#[test]
fn a_null_where_load_sql_takes_none_stops_the_pipeline_and_becomes_no_default() {
    for (table, load) in [
        (
            "(id Int32, v AggregateFunction(argMax, String, Int32)) ENGINE = AggregatingMergeTree ORDER BY id",
            "INSERT INTO seen SELECT id, argMaxState(v, id) FROM {{ rows }} GROUP BY id",
        ),
        (
            "(id Int32, v String) ENGINE = MergeTree ORDER BY id",
            "INSERT INTO seen SELECT id, v FROM {{ rows }}",
        ),
    ] {
        let out = clickhouse_server().database();
        out.execute(&format!("CREATE TABLE seen {table}"));
        let s = loads(&out, load);
        s.once();
        s.source.execute("INSERT INTO t VALUES (3, NULL)");
        let said = s.once_fails(1);
        assert!(said.contains("NULL") && said.contains("change 1 of the transaction"), "{said}");
        assert_eq!(out.value("SELECT groupArray(id) FROM (SELECT id FROM seen ORDER BY id)"), "[1,2]");
        s.file("seen/transform.sql", "SELECT row.id, coalesce(row.v, '-') AS v");
        s.once();
        assert_eq!(out.value("SELECT groupArray(id) FROM (SELECT id FROM seen ORDER BY id)"), "[1,2,3]");
    }
}

#[test]
fn rows_are_appended_to_a_merge_tree_and_a_replay_within_its_window_adds_none() {
    let out = clickhouse_server().database();
    out.execute("CREATE TABLE log (id Int32, n Int64) ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 1000");
    let s = Scenario::new()
        .on_source("CREATE TABLE t (id int PRIMARY KEY, n bigint NOT NULL)")
        .to_clickhouse(&out)
        .pipeline(
            "log",
            &config(
                "t",
                &format!("{}.log", out.name),
                &["on: {insert: insert, update: insert, delete: ignore, truncate: ignore}"],
            ),
            &[],
        );
    s.once();
    s.source.execute("INSERT INTO t SELECT g, g FROM generate_series(1, 100) g");
    s.source.execute("UPDATE t SET n = -n; INSERT INTO t VALUES (1000, 0)");
    assert!(dies_at(&s, "rows_sent:1"));
    assert_eq!(out.value("SELECT count() > 0 FROM log"), "1");
    s.once();
    assert_eq!(out.value("SELECT (count(), sum(n)) FROM log"), "(201,0)");
}

#[test]
fn a_process_that_dies_anywhere_leaves_nothing_that_the_next_does_not_mend() {
    let (s, out) = copy();
    s.source.execute("INSERT INTO t SELECT g, 'old', g FROM generate_series(1, 300) g");
    let mut random = Random::seeded(1);
    for (round, failpoint) in [
        "backfill_copied:1",
        "backfill_committed:1",
        "sql_run:1",
        "rows_written:1",
        "rows_sent:1",
        "commit_answered:1",
        "floor_raised:1",
    ]
    .iter()
    .enumerate()
    {
        assert!(dies_at(&s, failpoint), "it never came to {failpoint}");
        for _ in 0..20 {
            let (a, b) = (random.within(0..320), random.within(0..320));
            s.source.execute(&format!(
                "BEGIN; DELETE FROM t WHERE id = {b} AND {a} <> {b}; UPDATE t SET id = {b}, v = v || 'k' WHERE id = {a}; \
                 INSERT INTO t VALUES ({a}, 'new', {b}) ON CONFLICT (id) DO UPDATE SET v = 'again', n = {round}; COMMIT"
            ));
        }
    }
    s.once();
    assert_same(&s, &out, SOURCE_T, OUTPUT_T);
}

#[test]
fn a_backfill_over_what_is_there_wins_and_takes_away_what_is_not() {
    let (s, out) = copy();
    s.source.execute("INSERT INTO t SELECT g, 'first', g FROM generate_series(1, 50) g");
    s.once();
    s.source.execute("UPDATE t SET v = 'second'");
    s.once();
    // Behind our back: versions below any that comes.
    out.execute("INSERT INTO t SELECT 900 + number, 'stray', 0, 1, 0 FROM numbers(5)");
    s.source.execute("DELETE FROM t WHERE id > 40; UPDATE t SET v = 'third' WHERE id < 5");
    let dir = s.dir();
    let asked = s.start(&["backfill", "t", "--dir", dir.to_str().unwrap()]).wait();
    assert_eq!(asked.code, Some(0), "{}", asked.text());
    s.once();
    assert_same(&s, &out, SOURCE_T, OUTPUT_T);
    s.source.execute("UPDATE t SET v = 'fourth' WHERE id = 1");
    s.once();
    assert_same(&s, &out, SOURCE_T, OUTPUT_T);
}

#[test]
fn rows_of_another_history_are_refused_with_what_to_do() {
    let (s, out) = copy();
    out.execute("INSERT INTO t SELECT 1, 'from elsewhere', 0, toUInt128('340282366920938463463374607431768211455'), 0");
    let said = s.once_fails(1);
    assert!(said.contains("TRUNCATE TABLE"), "{said}");
    out.execute("TRUNCATE TABLE t");
    s.source.execute("INSERT INTO t VALUES (1, 'ours', 1)");
    s.once();
    assert_same(&s, &out, SOURCE_T, OUTPUT_T);
}

#[test]
fn everything_that_a_table_lacks_is_said_before_anything_is_created() {
    let out = clickhouse_server().database();
    let name = &out.name;
    out.execute(&format!(
        "CREATE TABLE plain (id Int32, v String, n Int64) ENGINE = MergeTree ORDER BY id;\n\
         CREATE TABLE unversioned (id Int32, v Nullable(String), n Int64) ENGINE = ReplacingMergeTree ORDER BY id;\n\
         CREATE TABLE narrow (id Int32, v String, n Int16, {VERSIONED} ORDER BY (id, n);\n\
         CREATE TABLE small (id Int32, v Nullable(String), n Int64, ver UInt64) ENGINE = ReplacingMergeTree(ver) ORDER BY id"
    ));
    let s = Scenario::new()
        .on_source("CREATE TABLE t (id int PRIMARY KEY, v text, n bigint NOT NULL)")
        .to_clickhouse(&out)
        .pipeline("missing", &config("t", &format!("{name}.missing"), &[]), &[])
        .pipeline("plain", &config("t", &format!("{name}.plain"), &[]), &[])
        .pipeline("unversioned", &config("t", &format!("{name}.unversioned"), &[]), &[])
        .pipeline("narrow", &config("t", &format!("{name}.narrow"), &["key: [id]"]), &[])
        .pipeline("small", &config("t", &format!("{name}.small"), &[]), &[]);
    let dir = s.dir();
    let checked = s.start(&["check", dir.to_str().unwrap()]).wait();
    assert_eq!(checked.code, Some(3), "{}", checked.text());
    let said = checked.text();
    for expected in [
        "CREATE TABLE",
        "`id` Int32, `v` Nullable(String), `n` Int64, `_version` UInt128, `_is_deleted` UInt8",
        "never replaced or removed",
        "no version column",
        "that isn't the key (id)",
        "as UInt128",
        "has no column that says that a row is deleted",
    ] {
        assert!(said.contains(expected), "{expected} is not in: {said}");
    }
    assert_eq!(
        out.value(&format!(
            "SELECT count() FROM system.tables WHERE database = '{name}' AND name LIKE 'trucker%'"
        )),
        "0"
    );
}

#[test]
fn a_null_that_the_sql_may_take_into_a_column_that_holds_none_is_warned_of() {
    let out = clickhouse_server().database();
    out.execute(&format!("CREATE TABLE t (id Int32, v String, w String, {VERSIONED} ORDER BY id"));
    let s = Scenario::new()
        .on_source("CREATE TABLE t (id int PRIMARY KEY, v text, w text)")
        .to_clickhouse(&out)
        .pipeline(
            "t",
            &config("t", &format!("{}.t", out.name), &[]),
            &[("transform.sql", "SELECT row.id, o.v, coalesce(o.w, '') AS w FROM t o WHERE o.id = row.id")],
        );
    let dir = s.dir();
    let check = || s.start(&["check", dir.to_str().unwrap()]).wait();
    let said = check();
    assert_eq!(said.code, Some(0), "{}", said.text());
    for expected in [
        "warning[TRK0616]",
        "t.v may be NULL",
        "is String",
        "MODIFY COLUMN `v` Nullable(String)",
        "1 warning",
    ] {
        assert!(said.text().contains(expected), "{expected} is not in: {}", said.text());
    }
    out.execute("ALTER TABLE t MODIFY COLUMN v Nullable(String)");
    assert!(!check().text().contains("TRK0616"));
}

#[test]
fn what_would_not_fit_is_refused_by_check_and_what_does_not_stops_at_its_change() {
    let out = clickhouse_server().database();
    out.execute(&format!("CREATE TABLE t (id Int32, v String, n Int8, {VERSIONED} ORDER BY id"));
    let s = Scenario::new()
        .on_source("CREATE TABLE t (id int PRIMARY KEY, v text, n bigint NOT NULL)")
        .to_clickhouse(&out)
        .pipeline("t", &config("t", &format!("{}.t", out.name), &[]), &[]);
    let said = s.once_fails(3);
    assert!(said.contains("may be NULL") && said.contains("Nullable(String)"), "{said}");
    out.execute("ALTER TABLE t MODIFY COLUMN v Nullable(String)");
    s.once();
    s.source.execute("INSERT INTO t VALUES (1, NULL, 127)");
    s.source.execute("BEGIN; INSERT INTO t VALUES (2, 'a', 1); INSERT INTO t VALUES (3, 'b', 128); COMMIT");
    let said = s.once_fails(1);
    assert!(
        said.contains("beyond what the column's type holds") && said.contains("change 2 of the transaction"),
        "{said}"
    );
    let dir = s.dir();
    let skipped = s.start(&["skip", "t", dir.to_str().unwrap(), "--yes"]).wait();
    assert_eq!(skipped.code, Some(0), "{}", skipped.text());
    s.once();
    assert_eq!(out.value("SELECT groupArray(id) FROM (SELECT id FROM t FINAL ORDER BY id)"), "[1,2]");
    assert_eq!(
        out.value("SELECT (count(), any(operation), any(is_skipped)) FROM trucker_dead_letters FINAL"),
        "(1,'insert',true)"
    );
}

#[test]
fn changes_that_do_not_fit_become_dead_letters_once() {
    let out = clickhouse_server().database();
    out.execute(&format!("CREATE TABLE t (id Int32, v Nullable(String), n Int8, {VERSIONED} ORDER BY id"));
    let on_error = config("t", &format!("{}.t", out.name), &[]) + "on_error: dead_letter\n";
    let s = Scenario::new()
        .on_source("CREATE TABLE t (id int PRIMARY KEY, v text, n bigint NOT NULL)")
        .to_clickhouse(&out)
        .pipeline("t", &on_error, &[]);
    s.once();
    s.source.execute("INSERT INTO t SELECT g, 'v', CASE WHEN g % 50 = 0 THEN 1000 ELSE 1 END FROM generate_series(1, 200) g");
    assert!(dies_at(&s, "rows_sent:1"));
    s.once();
    assert_eq!(out.value("SELECT count() FROM t FINAL"), "196");
    assert_eq!(out.value("SELECT count() FROM trucker_dead_letters FINAL"), "4");
}

#[test]
fn a_second_process_takes_over_and_the_first_ends() {
    let (s, out) = copy();
    let mut first = s.run();
    s.source.execute("INSERT INTO t VALUES (1, 'a', 1)");
    until_same(&s, &out, &mut first, SOURCE_T, OUTPUT_T);
    let mut second = s.run();
    second.until_said("another");
    first.kill9();
    s.source.execute("INSERT INTO t VALUES (2, 'b', 2)");
    until_same(&s, &out, &mut second, SOURCE_T, OUTPUT_T);
    let epoch =
        "SELECT JSONExtractInt(value, 'epoch') >= 2 FROM trucker_checkpoint FINAL WHERE part = 'state'";
    assert_eq!(out.value(epoch), "1");
}

#[test]
fn teardown_removes_what_was_created_and_status_tells_of_it() {
    let (s, out) = copy();
    s.source.execute("INSERT INTO t VALUES (1, 'a', 1)");
    s.once();
    let dir = s.dir();
    let status = s.start(&["status", dir.to_str().unwrap(), "--json"]).wait();
    let json: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
    assert_eq!(json["pipelines"][0]["state"], "following", "{json}");
    let torn = s.start(&["teardown", dir.to_str().unwrap(), "--yes"]).wait();
    assert_eq!(torn.code, Some(0), "{}", torn.text());
    let left =
        format!("SELECT count() FROM system.tables WHERE database = '{}' AND name LIKE 'trucker%'", out.name);
    assert_eq!(out.value(&left), "0");
    assert_same(&s, &out, SOURCE_T, OUTPUT_T);
}

#[test]
fn one_input_fills_postgres_and_clickhouse_side_by_side() {
    let (s, out) = copy();
    let second = s.output.session();
    second.execute("CREATE TABLE t (id int PRIMARY KEY, v text, n bigint NOT NULL)");
    let yml = s.project_file();
    let postgres = format!(
        "  - name: warehouse\n    adapter: postgres\n    host: 127.0.0.1\n    port: {}\n    database: {}\n    user: postgres\n",
        s.output.port, s.output.name
    );
    s.file("trucker.yml", &format!("{yml}{postgres}"));
    s.write_pipeline(
        "copy",
        "input:\n  connection: source\n  table: t\noutput:\n  connection: warehouse\n  table: t\n",
        &[],
    );
    s.source.execute("INSERT INTO t SELECT g, 'v', g FROM generate_series(1, 100) g");
    s.once();
    s.source.execute("UPDATE t SET id = id + 500 WHERE id % 2 = 0");
    s.once();
    assert_same(&s, &out, SOURCE_T, OUTPUT_T);
    s.assert_table_same("t");
}
