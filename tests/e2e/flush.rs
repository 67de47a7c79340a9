//! Commits that the output shows and that aren't durable yet: the slot isn't told of them, and a crash that takes them back loses
//! nothing.

use trucker::sandbox::{PostgresServer, ServerOptions};

use super::harness::{Scenario, Trucker, config, private_output, source_server};

const APPEND: &str = "on: {insert: insert, update: insert, delete: ignore, truncate: ignore}";

/// A log, whose rows would come twice if they came again, on a server whose WAL writer leaves flushing to others.
fn world() -> (PostgresServer, Scenario, Trucker) {
    let output = private_output(ServerOptions::default().set("wal_writer_delay", "10s").set("fsync", "on"));
    let s = Scenario::between(source_server().port(), output.port())
        .on_source("CREATE TABLE t (id bigint PRIMARY KEY)")
        .on_output("CREATE TABLE log (id bigint)")
        .pipeline("log", &config("t", "log", &[APPEND]), &[]);
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    s.source.execute("INSERT INTO t VALUES (0)");
    until_told(&s, &mut trucker);
    (output, s, trucker)
}

fn is_told(s: &Scenario, lsn: &str) -> bool {
    let slot = s.slot();
    s.source.is(&format!(
        "SELECT confirmed_flush_lsn >= '{lsn}' FROM pg_replication_slots WHERE slot_name = '{slot}'"
    ))
}

fn until_told(s: &Scenario, trucker: &mut Trucker) {
    let lsn = s.source.value("SELECT pg_current_wal_lsn()");
    trucker.until("the slot being told", || is_told(s, &lsn));
}

fn until_logged(s: &Scenario, trucker: &mut Trucker) {
    s.until_same(trucker, "SELECT id FROM t", "SELECT id FROM log");
}

/// Somebody waits for `event` in the output.
fn until_waiting(s: &Scenario, trucker: &mut Trucker, event: &str) {
    let waiting = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%FOR UPDATE%' AND wait_event_type = '{event}' \
         AND pid <> pg_backend_pid()"
    );
    trucker.until(&format!("a flush that waits ({event})"), || s.output.number(&waiting) > 0);
}

#[test]
fn commits_that_a_crash_of_the_output_takes_back_come_again() {
    let (mut output, s, mut trucker) = world();
    for id in 1..=3 {
        // Moving the checkpoint goes past this lock, flushing it doesn't.
        let holder = s.output.session();
        holder.execute("BEGIN; SELECT FROM trucker.checkpoint FOR KEY SHARE");
        s.source.execute(&format!("INSERT INTO t VALUES ({id})"));
        let lsn = s.source.value("SELECT pg_current_wal_lsn()");
        until_logged(&s, &mut trucker);
        until_waiting(&s, &mut trucker, "Lock");
        assert!(!is_told(&s, &lsn), "the slot was told of what isn't durable");
        trucker.signal("STOP");
        output.kill9();
        output.start_again().unwrap();
        let lost = format!("SELECT count(*) FROM log WHERE id = {id}");
        assert_eq!(s.output.number(&lost), 0, "nothing was taken back, so nothing is proved");
        trucker.signal("CONT");
        until_logged(&s, &mut trucker);
        until_told(&s, &mut trucker);
    }
    until_logged(&s, &mut trucker);
}

#[test]
fn rows_are_seen_before_the_outputs_synchronous_standby_has_them_and_the_slot_waits_for_it() {
    let (_output, s, mut trucker) = world();
    s.output.execute("ALTER SYSTEM SET synchronous_standby_names = 'ghost'");
    s.output.execute("SELECT pg_reload_conf()");
    s.source.execute("INSERT INTO t VALUES (1)");
    let lsn = s.source.value("SELECT pg_current_wal_lsn()");
    until_logged(&s, &mut trucker);
    until_waiting(&s, &mut trucker, "IPC");
    assert!(!is_told(&s, &lsn), "the slot was told of what no standby has");
    s.output.execute("ALTER SYSTEM RESET synchronous_standby_names");
    s.output.execute("SELECT pg_reload_conf()");
    until_told(&s, &mut trucker);
    until_logged(&s, &mut trucker);
}
