//! From backfill to stream without a gap and without a repeat, while the source is written to.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use trucker::sandbox::ServerOptions;

use super::harness::{Random, Scenario, config, is_soak, output_server, private_server};

/// An append-only output shows every gap and every repeat: a row comes by backfill or by stream, never by
/// both and never by neither.
fn append() -> &'static str {
    "on: {insert: insert, update: ignore, delete: ignore, truncate: ignore}"
}

pub fn copy_and_append(s: Scenario) -> Scenario {
    s.on_source("CREATE TABLE t (id bigserial PRIMARY KEY, v int)")
        .on_output("CREATE TABLE t (id bigint PRIMARY KEY, v int); CREATE TABLE log (id bigint)")
        .pipeline("t", &config("t", "t", &[]), &[])
        .pipeline("log", &config("t", "log", &[append()]), &[("transform.sql", "SELECT row.id")])
}

pub fn with_writers(s: &Scenario, seed: u64, act: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    let mut random = Random::seeded(seed);
    thread::scope(|scope| {
        for _ in 0..3 {
            let (mut random, stop, session) = (random.fork(), &stop, s.source.session());
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let end = if random.within(0..5) == 0 { "ROLLBACK" } else { "COMMIT" };
                    let count = random.within(1..5);
                    session.execute(&format!(
                        "BEGIN; INSERT INTO t (v) SELECT 0 FROM generate_series(1, {count}); SAVEPOINT a;
                         INSERT INTO t (v) VALUES (1); ROLLBACK TO a; INSERT INTO t (v) VALUES (2); {end}"
                    ));
                }
            });
        }
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

pub fn assert_handed_over(s: &Scenario) {
    s.assert_table_same("t");
    s.assert_same("SELECT id FROM t", "SELECT id FROM log");
}

#[test]
fn rows_written_during_the_start_come_exactly_once() {
    for round in 0..if is_soak() { 40 } else { 3 } {
        let s = copy_and_append(Scenario::new());
        s.source.execute("INSERT INTO t (v) SELECT i FROM generate_series(1, 20000) i");
        with_writers(&s, 20 + round, || {
            let mut trucker = s.run();
            s.until_following(&mut trucker, 2);
            trucker.terminate();
        });
        s.once();
        assert_handed_over(&s);
    }
}

#[test]
fn an_interrupted_backfill_starts_again_without_rows_that_went_away_meanwhile() {
    let s = copy_and_append(Scenario::new());
    s.source.execute("INSERT INTO t (v) SELECT i FROM generate_series(1, 200000) i");
    let mut random = Random::seeded(30);
    with_writers(&s, 31, || {
        for round in 0..if is_soak() { 60 } else { 8 } {
            let started = std::time::Instant::now();
            let life = std::time::Duration::from_millis(100 + random.within(0..500));
            let mut trucker = s.run();
            trucker.until("a short life", || started.elapsed() >= life);
            trucker.kill9();
            s.source.execute(&format!("DELETE FROM t WHERE id % 50 = {round}"));
        }
    });
    s.once();
    s.assert_table_same("t");
    // Rows deleted after their backfill stay in a log; nothing is there twice, and nothing is missing.
    assert_eq!(s.output.number("SELECT count(*) - count(DISTINCT id) FROM log"), 0);
    s.assert_same("SELECT id FROM t", "SELECT id FROM log l WHERE EXISTS (SELECT FROM t WHERE t.id = l.id)");
}

#[test]
fn no_temporary_slot_and_no_second_slot_stays() {
    let s = copy_and_append(Scenario::new());
    s.source.execute("INSERT INTO t (v) SELECT i FROM generate_series(1, 1000) i");
    s.once();
    let slots = "SELECT string_agg(slot_name || temporary, ' ') FROM pg_replication_slots WHERE database = current_database()";
    assert_eq!(s.source.value(slots), format!("{}false", s.slot()));
    let publications = "SELECT string_agg(pubname, ' ') FROM pg_publication";
    assert_eq!(s.source.value(publications), s.slot());
}

#[test]
fn transactions_open_across_the_start_come_exactly_once() {
    // They make every new slot of the server wait, so the server is not shared.
    let source = private_server(ServerOptions::default());
    let s = copy_and_append(Scenario::between(source.port(), output_server().port()));
    s.source.execute("INSERT INTO t (v) SELECT i FROM generate_series(1, 100) i");
    let early = s.source.session();
    early.execute("BEGIN; INSERT INTO t (v) VALUES (-1); SAVEPOINT a; INSERT INTO t (v) VALUES (-2)");
    let idle = s.source.session();
    idle.execute("BEGIN; SELECT txid_current()");
    let mut trucker = s.run();
    trucker.until("a slot being made", || s.source.number("SELECT count(*) FROM pg_replication_slots") > 0);
    s.source.execute("INSERT INTO t (v) VALUES (-3)");
    let later = s.source.session();
    later.execute("BEGIN; INSERT INTO t (v) VALUES (-4)");
    early.execute("COMMIT");
    idle.execute("INSERT INTO t (v) VALUES (-5); COMMIT");
    later.execute("INSERT INTO t (v) VALUES (-6); COMMIT");
    s.until_following(&mut trucker, 2);
    s.source.execute("INSERT INTO t (v) VALUES (-7)");
    s.until_table_same(&mut trucker, "t");
    s.until_same(&mut trucker, "SELECT id FROM t", "SELECT id FROM log");
}

#[test]
fn a_pipeline_added_later_is_backfilled_alone_while_the_first_goes_on() {
    let s = Scenario::new()
        .tables("CREATE TABLE a (id bigint PRIMARY KEY); CREATE TABLE b (id bigint PRIMARY KEY)")
        .on_output("CREATE TABLE log_a (id bigint); CREATE TABLE log_b (id bigint)")
        .pipeline("a", &config("a", "log_a", &[append()]), &[]);
    s.source.execute(
        "INSERT INTO a SELECT generate_series(1, 1000); INSERT INTO b SELECT generate_series(1, 1000)",
    );
    s.once();
    s.source.execute("INSERT INTO a VALUES (2000); INSERT INTO b VALUES (2000)");
    // A truncated output shows whether rows are brought again.
    s.output.execute("TRUNCATE log_a");
    s.write_pipeline("b", &config("b", "log_b", &[append()]), &[]);
    let mut trucker = s.run();
    s.until_following(&mut trucker, 2);
    s.source.execute("INSERT INTO a VALUES (2001); INSERT INTO b VALUES (2001)");
    s.until_same(&mut trucker, "SELECT id FROM b", "SELECT id FROM log_b");
    s.until_same(&mut trucker, "SELECT id FROM a WHERE id >= 2000", "SELECT id FROM log_a");
}

#[test]
fn a_second_pipeline_on_a_table_that_flows_already_is_handed_over_exactly() {
    let s = Scenario::new()
        .on_source("CREATE TABLE t (id bigserial PRIMARY KEY, v int)")
        .on_output("CREATE TABLE t (id bigint PRIMARY KEY, v int); CREATE TABLE log (id bigint)")
        .copies("t");
    s.source.execute("INSERT INTO t (v) SELECT i FROM generate_series(1, 5000) i");
    s.once();
    with_writers(&s, 40, || {
        s.write_pipeline("log", &config("t", "log", &[append()]), &[("transform.sql", "SELECT row.id")]);
        let mut trucker = s.run();
        s.until_following(&mut trucker, 2);
        trucker.terminate();
    });
    s.once();
    assert_handed_over(&s);
}

#[test]
fn a_pipeline_whose_folder_is_gone_leaves_the_publication_and_holds_nothing_back() {
    let s = Scenario::new()
        .tables("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)")
        .copies("a")
        .copies("b");
    s.once();
    std::fs::remove_dir_all(s.dir().join("b")).unwrap();
    s.source.execute("INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)");
    let mut trucker = s.run();
    s.until_table_same(&mut trucker, "a");
    assert_eq!(s.source.value("SELECT string_agg(tablename, ',') FROM pg_publication_tables"), "a");
    let lsn = s.source.value("SELECT pg_current_wal_lsn()");
    let slot = s.slot();
    trucker.until("the slot moving on", || {
        s.source.is(&format!(
            "SELECT confirmed_flush_lsn >= '{lsn}' FROM pg_replication_slots WHERE slot_name = '{slot}'"
        ))
    });
    trucker.terminate();
    // Brought back, it is filled anew, with what was missed meanwhile.
    s.write_pipeline("b", &config("b", "b", &[]), &[]);
    s.source.execute("INSERT INTO b VALUES (2)");
    s.once();
    s.assert_table_same("b");
}

#[test]
fn commits_that_linger_for_a_standby_come_exactly_once() {
    // Committed in the WAL and not visible yet: a snapshot taken just after the slot would miss them.
    // Nobody but the commit under test asks for a standby.
    let source = private_server(
        ServerOptions::default().set("synchronous_standby_names", "ghost").set("synchronous_commit", "local"),
    );
    let s = copy_and_append(Scenario::between(source.port(), output_server().port()));
    s.source.execute("INSERT INTO t (v) SELECT i FROM generate_series(1, 100) i");
    let lingering = s.source.session().send("SET synchronous_commit = on; INSERT INTO t (v) VALUES (-1)");
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%-1%'";
    let watch = s.source.session();
    assert!(super::harness::eventually(super::harness::PATIENCE, || {
        watch.try_rows(waiting).unwrap()[0][0].as_deref() == Some("1")
    }));
    let mut trucker = s.run();
    trucker.until("trucker at work on the source", || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name <> 'test' AND datname = current_database()";
        watch.try_rows(sql).unwrap()[0][0].as_deref() != Some("0")
    });
    assert!(super::harness::holds_for(std::time::Duration::from_secs(2), || trucker.is_running()));
    source.set("synchronous_standby_names", "").unwrap();
    source.reload().unwrap();
    lingering.join().unwrap().unwrap();
    s.until_following(&mut trucker, 2);
    s.source.execute("INSERT INTO t (v) VALUES (-2)");
    s.until_table_same(&mut trucker, "t");
    s.until_same(&mut trucker, "SELECT id FROM t", "SELECT id FROM log");
}
