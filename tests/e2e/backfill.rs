//! What happens to tables while a backfill reads them, and to the other pipelines meanwhile.

use super::harness::{Scenario, Trucker};

/// A pipeline whose backfill has its snapshot, and can't write yet; and the session that holds it back.
fn held() -> (Scenario, super::harness::Session, Trucker) {
    let s = Scenario::new().tables("CREATE TABLE t (id int PRIMARY KEY, v text)").copies("t");
    s.source.execute("INSERT INTO t SELECT i, 'old' FROM generate_series(1, 1000) i");
    let blocker = s.output.session();
    blocker.execute("BEGIN; LOCK TABLE t IN SHARE MODE");
    let mut trucker = s.run();
    let reads = "SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                 WHERE a.datname = current_database() AND a.application_name = 'trucker'
                 AND l.relation = 't'::regclass AND l.granted AND a.backend_xmin IS NOT NULL)";
    // Its statements are planned before: only one that waits in the output has its snapshot for sure.
    let waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 't'::regclass AND NOT granted)";
    trucker.until("the backfill's snapshot", || s.output.is(waits) && s.source.is(reads));
    (s, blocker, trucker)
}

#[test]
fn ddl_and_truncate_wait_for_a_backfill_so_that_it_never_reads_an_empty_table() {
    for (ddl, more) in [
        ("TRUNCATE t", "INSERT INTO t VALUES (1, 'new')"),
        ("ALTER TABLE t ALTER COLUMN v TYPE varchar(20)", "UPDATE t SET v = 'new' WHERE id = 1"),
        (
            "ALTER TABLE t ADD COLUMN extra int DEFAULT (random() * 10)::int",
            "INSERT INTO t VALUES (2000, 'new', 1)",
        ),
        ("VACUUM FULL t", "DELETE FROM t WHERE id = 1"),
        ("CLUSTER t USING t_pkey", "DELETE FROM t WHERE id = 1"),
    ] {
        let (s, blocker, mut trucker) = held();
        let changing = s.source.session().send(ddl);
        let waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 't'::regclass AND NOT granted)";
        trucker.until("the DDL waiting", || s.source.is(waits));
        blocker.execute("COMMIT");
        changing.join().unwrap().unwrap();
        s.source.execute(more);
        s.until_same(&mut trucker, "SELECT id, v FROM t", "SELECT id, v FROM t");
    }
}

#[test]
fn rows_changed_moved_and_deleted_during_a_backfill_arrive_as_they_are_in_the_end() {
    let (s, blocker, mut trucker) = held();
    s.source.execute("UPDATE t SET v = 'new' WHERE id % 7 = 0; DELETE FROM t WHERE id % 5 = 0");
    s.source
        .execute("UPDATE t SET id = -id WHERE id % 3 = 0; INSERT INTO t VALUES (5, 'back'), (2000, 'more')");
    blocker.execute("COMMIT");
    s.until_table_same(&mut trucker, "t");
}

#[test]
fn a_source_that_restarts_during_a_backfill_has_it_start_again() {
    let (s, blocker, mut trucker) = held();
    s.source.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND application_name = 'trucker'",
    );
    s.source.execute("DELETE FROM t WHERE id <= 10");
    blocker.execute("COMMIT");
    s.until_table_same(&mut trucker, "t");
}

#[test]
fn a_finished_backfill_is_never_repeated() {
    let s = Scenario::new().tables("CREATE TABLE t (id int PRIMARY KEY, v text)").copies("t");
    s.source.execute("INSERT INTO t VALUES (1, 'a')");
    s.once();
    // Rows that are removed behind trucker's back would come back with a second backfill.
    s.output.execute("DELETE FROM t");
    for n in 2..5 {
        s.source.execute(&format!("INSERT INTO t VALUES ({n}, 'b')"));
        let mut trucker = s.run();
        s.until_same(&mut trucker, "SELECT * FROM t WHERE id > 1", "SELECT * FROM t");
        trucker.kill9();
    }
}
