//! DDL on input tables, while changes flow and while they wait. Postgres sends none of it: a table is described anew
//! before its next change, and by then the catalog may be further still.

use super::harness::{Scenario, config};

const T: &str = "CREATE TABLE t (id int PRIMARY KEY, v text)";

fn copy_of_t() -> Scenario {
    Scenario::new().tables(T).copies("t")
}

/// A copy of `t` through SQL that names `v`.
fn sql_over_t() -> Scenario {
    Scenario::new().tables(T).pipeline(
        "t",
        &config("t", "t", &[]),
        &[
            ("transform.sql", "SELECT {{ row.id }} AS id,\n       {{ row.v }} AS v"),
            ("delete.sql", "SELECT {{ old.id }} AS id"),
        ],
    )
}

/// Empties the checkpoint of `t`, and fills it anew.
fn fill_anew(s: &Scenario) {
    let dir = s.dir();
    let args = ["backfill", "--dir", dir.to_str().unwrap(), "t"];
    let finished = s.start(&args).wait();
    assert_eq!(finished.code, Some(0), "{}", finished.text());
    s.once();
}

fn list(s: &Scenario) -> String {
    s.output.value("SELECT string_agg(id || ':' || coalesce(v::text, '-'), ' ' ORDER BY id) FROM t")
}

#[test]
fn values_that_add_column_gives_to_old_rows_are_not_sent_and_a_backfill_brings_them() {
    let s = copy_of_t();
    s.source.execute("INSERT INTO t VALUES (1, 'a'), (2, 'b')");
    s.once();
    let columns =
        "ALTER TABLE t ADD COLUMN same int NOT NULL DEFAULT 7, ADD COLUMN own uuid DEFAULT gen_random_uuid(),
                   ADD COLUMN number serial, ADD COLUMN none text";
    s.output.execute(columns);
    s.source.execute(columns);
    s.source.execute("INSERT INTO t VALUES (3, 'c'); UPDATE t SET v = 'd' WHERE id = 2");
    s.once();
    // Whatever was written since is right; of the rest, what both servers would compute alike.
    let of = |id: &str| format!("SELECT * FROM t WHERE id IN ({id})");
    s.assert_same(&of("2, 3"), &of("2, 3"));
    s.assert_same("SELECT id, v, same FROM t", "SELECT id, v, same FROM t");
    fill_anew(&s);
    s.assert_table_same("t");
}

#[test]
fn columns_added_in_one_transaction_with_rows_before_and_after_arrive() {
    for s in [copy_of_t(), sql_over_t()] {
        let mut trucker = s.run();
        s.until_following(&mut trucker, 1);
        s.source.execute(
            "BEGIN; INSERT INTO t VALUES (1, 'a'); ALTER TABLE t ADD COLUMN x int DEFAULT 7; INSERT INTO t VALUES (2, 'b', 8);
             UPDATE t SET v = 'c'; ALTER TABLE t DROP COLUMN x; INSERT INTO t VALUES (3, 'd'); COMMIT",
        );
        s.until_table_same(&mut trucker, "t");
    }
}

#[test]
fn a_column_dropped_and_added_with_another_type_in_one_transaction_converges() {
    for s in [copy_of_t(), sql_over_t()] {
        s.source.execute("INSERT INTO t VALUES (9, 'gone')");
        s.once();
        s.source.execute("DELETE FROM t");
        s.output.execute("ALTER TABLE t DROP COLUMN v, ADD COLUMN v int");
        s.source.execute(
            "BEGIN; INSERT INTO t VALUES (1, 'a'); UPDATE t SET v = 'aa'; ALTER TABLE t DROP COLUMN v; INSERT INTO t VALUES (2);
             ALTER TABLE t ADD COLUMN v int; INSERT INTO t VALUES (3, 3); COMMIT",
        );
        s.once();
        s.assert_table_same("t");
    }
}

#[test]
fn a_dropped_column_is_copied_no_longer_and_said_so() {
    let s = copy_of_t();
    s.source.execute("INSERT INTO t VALUES (1, 'a')");
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    s.source.execute("ALTER TABLE t DROP COLUMN v");
    s.source.execute("INSERT INTO t VALUES (2), (4); UPDATE t SET id = 3 WHERE id = 4");
    s.until_same(&mut trucker, "SELECT id FROM t", "SELECT id FROM t");
    trucker.until_said("public.t has no column v any more");
    assert_eq!(list(&s), "1:a 2:- 3:-");
}

#[test]
fn a_renamed_column_stops_a_copy_before_the_first_row_without_it() {
    let s = copy_of_t();
    s.source.execute("INSERT INTO t VALUES (1, 'a')");
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    s.source.execute("ALTER TABLE t RENAME v TO w");
    s.source.execute("INSERT INTO t VALUES (2, 'b')");
    let ended = trucker.end_failed();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("ALTER TABLE public.t RENAME COLUMN v TO w"), "{}", ended.stderr);
    assert_eq!(list(&s), "1:a");
    s.output.execute("ALTER TABLE t RENAME v TO w");
    s.once();
    s.assert_table_same("t");
}

#[test]
fn changes_that_waited_while_a_column_was_renamed_arrive_under_its_new_name() {
    let s = copy_of_t();
    s.source.execute("INSERT INTO t VALUES (1, 'a'), (2, 'b')");
    s.once();
    s.source.execute("UPDATE t SET v = 'changed' WHERE id = 1; INSERT INTO t VALUES (3, 'c')");
    for database in [&s.source, &s.output] {
        database.execute("ALTER TABLE t RENAME v TO w");
    }
    s.source.execute("INSERT INTO t VALUES (4, 'd')");
    s.once();
    s.assert_table_same("t");
}

#[test]
fn sql_that_names_a_column_that_is_gone_stops_with_file_and_line_and_goes_on_when_mended() {
    for (ddl, mended) in [
        ("ALTER TABLE t DROP COLUMN v", "SELECT {{ row.id }} AS id, NULL AS v"),
        ("ALTER TABLE t RENAME v TO vv", "SELECT {{ row.id }} AS id, {{ row.vv }} AS v"),
    ] {
        let s = sql_over_t();
        let mut trucker = s.run();
        s.until_following(&mut trucker, 1);
        s.source.execute("INSERT INTO t VALUES (1, 'a')");
        s.until_table_same(&mut trucker, "t");
        s.source.execute(ddl);
        s.source.execute(
            "INSERT INTO t VALUES (2, 'b')"
                .replace(", 'b'", if ddl.contains("DROP") { "" } else { ", 'b'" })
                .as_str(),
        );
        let ended = trucker.end_failed();
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        for words in ["t/transform.sql:2:", "row.v: table public.t has no column v"] {
            assert!(ended.stderr.contains(words), "no word on {words}: {}", ended.stderr);
        }
        assert_eq!(list(&s), "1:a");
        s.file("t/transform.sql", mended);
        s.once();
        let new = if ddl.contains("DROP") { "-" } else { "b" };
        assert_eq!(list(&s), format!("1:a 2:{new}"));
    }
}

#[test]
fn a_column_that_gets_a_wider_type_flows_on() {
    let tables = "CREATE TABLE t (id int PRIMARY KEY, v varchar(3), n int, m numeric(6, 2))";
    for files in [&[][..], &[("transform.sql", "SELECT row.id, row.v, row.n, row.m")]] {
        let s = Scenario::new().tables(tables).pipeline("t", &config("t", "t", &[]), files);
        let mut trucker = s.run();
        s.until_following(&mut trucker, 1);
        s.source.execute("INSERT INTO t VALUES (1, 'abc', 1, 1.25)");
        s.until_table_same(&mut trucker, "t");
        for database in [&s.output, &s.source] {
            database.execute(
                "ALTER TABLE t ALTER v TYPE varchar(9), ALTER n TYPE bigint, ALTER m TYPE numeric, ALTER id TYPE bigint",
            );
        }
        s.source.execute(
            "INSERT INTO t VALUES (10000000000, 'abcdefgh', 10000000000, 1.23456); UPDATE t SET v = 'abcdef' WHERE id = 1",
        );
        s.until_table_same(&mut trucker, "t");
        s.source.execute("DELETE FROM t WHERE id = 1; UPDATE t SET id = 20000000000");
        s.until_table_same(&mut trucker, "t");
    }
}

#[test]
fn changes_that_waited_while_a_column_changed_its_type_take_the_value_of_now() {
    for s in [copy_of_t(), sql_over_t()] {
        s.source.execute("INSERT INTO t VALUES (1, 'a'), (2, 'bb')");
        s.once();
        s.source.execute("INSERT INTO t VALUES (3, 'three'); UPDATE t SET v = 'changed' WHERE id = 1");
        s.source.execute("INSERT INTO t VALUES (4, 'gone'); DELETE FROM t WHERE id = 4");
        for database in [&s.source, &s.output] {
            database.execute("ALTER TABLE t ALTER v TYPE int USING length(v)");
        }
        s.source.execute("INSERT INTO t VALUES (5, 5)");
        s.once();
        s.assert_table_same("t");
    }
}

#[test]
fn rows_that_a_change_of_type_rewrites_are_not_sent_which_is_said() {
    let s = copy_of_t();
    s.source.execute("INSERT INTO t VALUES (1, 'a'), (2, 'b')");
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    s.source.execute("ALTER TABLE t ALTER v TYPE varchar USING upper(v)");
    s.source.execute("INSERT INTO t VALUES (3, 'c')");
    s.until_same(&mut trucker, "SELECT id FROM t", "SELECT id FROM t");
    trucker.until_said("trucker backfill t");
    trucker.terminate();
    assert_eq!(list(&s), "1:a 2:b 3:c");
    fill_anew(&s);
    s.assert_table_same("t");
}

#[test]
fn tables_rewritten_without_a_change_are_left_alone() {
    let s = copy_of_t();
    s.source.execute("INSERT INTO t VALUES (1, 'a'), (2, 'b')");
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    s.source.execute("VACUUM FULL t");
    s.source.execute("CLUSTER t USING t_pkey");
    s.source.execute("REINDEX TABLE t; ALTER TABLE t SET (fillfactor = 50)");
    s.source.execute("UPDATE t SET v = 'c' WHERE id = 2");
    s.until_table_same(&mut trucker, "t");
}

#[test]
fn a_table_that_is_called_otherwise_stops_the_pipeline_until_it_has_its_name_back() {
    for (there, back, name) in [
        ("ALTER TABLE t RENAME TO u", "ALTER TABLE u RENAME TO t", "public.u"),
        ("CREATE SCHEMA far; ALTER TABLE t SET SCHEMA far", "ALTER TABLE far.t SET SCHEMA public", "far.t"),
    ] {
        let s = copy_of_t();
        s.source.execute("INSERT INTO t VALUES (1, 'a')");
        let mut trucker = s.run();
        s.until_following(&mut trucker, 1);
        s.source.execute(there);
        s.source.execute(&format!("INSERT INTO {name} VALUES (2, 'b')"));
        let ended = trucker.end_failed();
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        assert!(ended.stderr.contains(name), "{}", ended.stderr);
        assert_eq!(list(&s), "1:a");
        s.source.execute(back);
        s.once();
        s.assert_table_same("t");
    }
}

#[test]
fn a_table_swapped_for_another_by_renaming_is_noticed_though_no_change_comes() {
    let s = copy_of_t();
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    watched(&s, &mut trucker);
    s.source.execute(
        "BEGIN; CREATE TABLE t_new (id int PRIMARY KEY, v text); ALTER TABLE t RENAME TO t_old;
         ALTER TABLE t_new RENAME TO t; COMMIT; INSERT INTO t VALUES (1, 'unseen')",
    );
    let ended = trucker.end_failed();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("public.t is called public.t_old now"), "{}", ended.stderr);
    let said = s.once_fails(4);
    assert!(said.contains("trucker backfill t"), "{said}");
    fill_anew(&s);
    s.assert_table_same("t");
}

#[test]
fn a_table_made_anew_under_a_running_process_is_noticed_though_no_change_comes() {
    let s = copy_of_t();
    s.source.execute("INSERT INTO t VALUES (1, 'a')");
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    watched(&s, &mut trucker);
    s.source.execute(&format!("DROP TABLE t; {T}; INSERT INTO t VALUES (2, 'unseen')"));
    let ended = trucker.end_failed();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("public.t"), "{}", ended.stderr);
    let said = s.once_fails(4);
    assert!(said.contains("trucker backfill t"), "{said}");
    fill_anew(&s);
    s.assert_table_same("t");
}

/// Waits until the process has looked at the publication once, which it compares with later.
fn watched(s: &Scenario, trucker: &mut super::harness::Trucker) {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%pg_publication_rel%'
               AND application_name = 'trucker' AND state = 'idle'";
    trucker.until("a look at the publication", || s.source.number(sql) > 0);
}

const PARTITIONED: &str = "CREATE TABLE t (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
     CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (100);
     CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (100) TO (200);
     CREATE TABLE t3 (v text, id int PRIMARY KEY); INSERT INTO t3 VALUES ('attached', 250);
     INSERT INTO t VALUES (1, 'a'), (101, 'b')";

#[test]
fn partitions_that_come_and_go_send_nothing_and_a_backfill_mends_it() {
    for (ddl, left) in [
        ("TRUNCATE t1", "1:a 101:b 102:new"),
        (
            "ALTER TABLE t DETACH PARTITION t1; INSERT INTO t1 VALUES (2, 'no longer ours')",
            "1:a 101:b 102:new",
        ),
        ("DROP TABLE t1", "1:a 101:b 102:new"),
        ("ALTER TABLE t ATTACH PARTITION t3 FOR VALUES FROM (200) TO (300)", "1:a 101:b 102:new"),
    ] {
        let s = Scenario::new().on_source(PARTITIONED).on_output(T).copies("t");
        s.once();
        s.source.execute(ddl);
        s.source.execute("INSERT INTO t VALUES (102, 'new')");
        s.once();
        assert_eq!(list(&s), left, "{ddl}");
        fill_anew(&s);
        s.assert_table_same("t");
    }
}

#[test]
fn rows_of_partitions_made_or_attached_later_flow_as_the_tables() {
    let s = Scenario::new().on_source(PARTITIONED).on_source("DELETE FROM t3").on_output(T).copies("t");
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    s.source.execute(
        "CREATE TABLE t4 PARTITION OF t FOR VALUES FROM (300) TO (400); INSERT INTO t VALUES (301, 'c');
         ALTER TABLE t ATTACH PARTITION t3 FOR VALUES FROM (200) TO (300);
         INSERT INTO t3 VALUES ('through the leaf', 201); UPDATE t SET id = 302 WHERE id = 1",
    );
    s.until_table_same(&mut trucker, "t");
    s.source.execute("TRUNCATE t; INSERT INTO t VALUES (5, 'after')");
    s.until_table_same(&mut trucker, "t");
}

#[test]
fn a_table_that_was_written_to_before_it_became_a_partition_flows_from_then_on() {
    let s = Scenario::new().on_source(PARTITIONED).on_output(T).copies("t");
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    watched(&s, &mut trucker);
    // The stream meets the table while it is none of the publication's.
    s.source.execute("INSERT INTO t3 VALUES ('by itself', 201)");
    s.source.execute("INSERT INTO t VALUES (2, 'met')");
    s.until_same(&mut trucker, "SELECT * FROM t", "SELECT * FROM t");
    s.source.execute("ALTER TABLE t ATTACH PARTITION t3 FOR VALUES FROM (200) TO (300)");
    trucker.until_said("partition public.t3 has joined public.t");
    // Version 14 needs a new stream for it, and what comes before that isn't sent: it was told.
    let arrives = || {
        s.source.execute("INSERT INTO t3 SELECT 'through the leaf', max(id) + 1 FROM t3");
        s.output.is("SELECT exists(SELECT FROM t WHERE id > 201)")
    };
    trucker.until("rows of the new partition", arrives);
    s.source.execute("UPDATE t SET v = 'changed'");
    s.until_same(
        &mut trucker,
        "SELECT count(*) FROM t WHERE id NOT BETWEEN 200 AND 300",
        "SELECT count(*) FROM t WHERE v = 'changed' AND id NOT BETWEEN 200 AND 300",
    );
    trucker.terminate();
    fill_anew(&s);
    s.assert_table_same("t");
}

#[test]
fn a_partition_that_comes_with_rows_or_goes_is_told() {
    let s = Scenario::new().on_source(PARTITIONED).on_output(T).copies("t");
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    watched(&s, &mut trucker);
    s.source.execute(
        "ALTER TABLE t DETACH PARTITION t1; ALTER TABLE t ATTACH PARTITION t3 FOR VALUES FROM (200) TO (300);
         CREATE TABLE t4 PARTITION OF t FOR VALUES FROM (300) TO (400)",
    );
    trucker.until_said("partition public.t1 has left public.t");
    trucker.until_said("partition public.t3 has joined public.t");
    assert!(!trucker.stderr().contains("public.t4"), "{}", trucker.stderr());
    assert!(trucker.is_running());
}

#[test]
fn labels_of_an_enum_added_and_renamed_arrive_as_text_as_they_were_written() {
    let s = Scenario::new()
        .on_source("CREATE TYPE mood AS ENUM ('a'); CREATE TABLE t (id int PRIMARY KEY, v mood)")
        .on_output(T)
        .copies("t");
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    s.source.execute("INSERT INTO t VALUES (1, 'a')");
    s.source.execute("ALTER TYPE mood ADD VALUE 'b'");
    s.source.execute("INSERT INTO t VALUES (2, 'b')");
    s.source.execute("BEGIN; INSERT INTO t VALUES (3, 'a'); ALTER TYPE mood RENAME VALUE 'a' TO 'aa'; INSERT INTO t VALUES (4, 'aa'); COMMIT");
    s.until_same(&mut trucker, "SELECT id FROM t", "SELECT id FROM t");
    // A label is sent as it was called then; rows that are renamed by renaming it aren't sent.
    assert_eq!(list(&s), "1:a 2:b 3:a 4:aa");
}

#[test]
fn a_label_that_the_outputs_enum_lacks_stops_the_pipeline_until_it_is_added() {
    let s = Scenario::new()
        .tables("CREATE TYPE mood AS ENUM ('a'); CREATE TABLE t (id int PRIMARY KEY, v mood)")
        .copies("t");
    s.source.execute("INSERT INTO t VALUES (1, 'a')");
    s.once();
    s.source.execute("ALTER TYPE mood ADD VALUE 'b'");
    s.source.execute("INSERT INTO t VALUES (2, 'a'); INSERT INTO t VALUES (3, 'b')");
    let said = s.once_fails(1);
    assert!(said.contains("22P02") && said.contains("enum mood"), "{said}");
    s.output.execute("ALTER TYPE mood ADD VALUE 'b'");
    s.once();
    s.assert_table_same("t");
}

#[test]
fn a_replica_identity_that_changes_between_updates_changes_nothing() {
    let s = Scenario::new()
        .tables("CREATE TABLE t (id int PRIMARY KEY, code int NOT NULL UNIQUE, v text)")
        .on_source("ALTER TABLE t ALTER v SET STORAGE EXTERNAL")
        .copies("t");
    s.source.execute("INSERT INTO t SELECT i, i, repeat('x', 20000) FROM generate_series(1, 20) i");
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    for round in 0..12 {
        let identity = ["FULL", "DEFAULT"][round % 2];
        s.source.execute(&format!(
            "BEGIN; UPDATE t SET code = -code WHERE id = {round}; ALTER TABLE t REPLICA IDENTITY {identity};
             UPDATE t SET code = code + 1000, v = CASE WHEN id % 2 = 0 THEN 'short' ELSE v END WHERE id IN ({round}, {round} + 5);
             UPDATE t SET id = id + 100 WHERE id = {round} + 3; DELETE FROM t WHERE id = {round} + 100; COMMIT"
        ));
    }
    s.until_table_same(&mut trucker, "t");
}

#[test]
fn sql_over_old_columns_stops_where_they_are_no_longer_sent() {
    let s = Scenario::new()
        .tables(T)
        .on_source("ALTER TABLE t REPLICA IDENTITY FULL")
        .on_output("CREATE TABLE log (id int, v text, before text)")
        .pipeline(
            "log",
            &config("t", "log", &["on: {insert: insert, update: insert, delete: ignore, truncate: ignore}"]),
            &[("transform.sql", "SELECT {{ new.id }} AS id, {{ new.v }} AS v, {{ old.v }} AS before")],
        );
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    s.source.execute("INSERT INTO t VALUES (1, 'a'); UPDATE t SET v = 'b'");
    s.source.execute("ALTER TABLE t REPLICA IDENTITY DEFAULT");
    s.source.execute("UPDATE t SET v = 'c'");
    let ended = trucker.end_failed();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    for words in ["old.v", "ALTER TABLE public.t REPLICA IDENTITY FULL"] {
        assert!(ended.stderr.contains(words), "no word on {words}: {}", ended.stderr);
    }
    assert_eq!(
        s.output.value("SELECT string_agg(v || coalesce(before, '-'), ' ' ORDER BY v) FROM log"),
        "a- ba"
    );
}
