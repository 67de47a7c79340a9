//! WAL that the source removed before it was read: said at once, with the cure, and never gone on without.

use std::time::Duration;

use trucker::sandbox::{PostgresServer, ServerOptions};

use super::harness::{PATIENCE, Scenario, eventually, holds_for, output_server, private_server};

fn world(options: ServerOptions) -> (PostgresServer, Scenario) {
    let options = options.set("max_wal_size", "64MB").set("min_wal_size", "32MB");
    let source = private_server(options);
    let s = Scenario::between(source.port(), output_server().port())
        .tables("CREATE TABLE t (id int PRIMARY KEY, v text)")
        .copies("t");
    s.source.execute("INSERT INTO t VALUES (1, 'a'), (2, 'b')");
    (source, s)
}

/// Writes WAL that nobody reads until the server has had enough of keeping it.
fn lose_slot(s: &Scenario) {
    let lost =
        format!("SELECT wal_status = 'lost' FROM pg_replication_slots WHERE slot_name = '{}'", s.slot());
    let is_lost = eventually(PATIENCE, || {
        s.source.execute("CREATE TABLE filler AS SELECT repeat('x', 1000) FROM generate_series(1, 2000); DROP TABLE filler");
        s.source.execute("SELECT pg_switch_wal()");
        s.source.execute("CHECKPOINT");
        s.source.is(&lost)
    });
    assert!(is_lost, "the slot can't be lost");
}

fn small() -> ServerOptions {
    ServerOptions::default().set("max_slot_wal_keep_size", "1MB")
}

#[test]
fn a_lost_slot_is_refused_with_the_cure_and_starting_over_leaves_no_row_of_the_gap() {
    let (_source, s) = world(small());
    s.once();
    lose_slot(&s);
    s.source.execute("DELETE FROM t WHERE id = 1; UPDATE t SET v = 'c'; INSERT INTO t VALUES (3, 'd')");
    let said = s.once_fails(4);
    for word in ["is lost", "max_slot_wal_keep_size", "trucker teardown"] {
        assert!(said.contains(word), "no word on {word}: {said}");
    }
    assert_eq!(s.output.value("SELECT string_agg(id || v, ' ' ORDER BY id) FROM t"), "1a 2b");
    let dir = s.dir();
    let torn = s.start(&["teardown", dir.to_str().unwrap(), "--yes"]).wait();
    assert_eq!(torn.code, Some(0), "{}", torn.text());
    s.once();
    s.assert_table_same("t");
}

#[test]
fn a_slot_that_is_lost_while_trucker_runs_ends_it_with_the_cure() {
    let (_source, s) = world(small());
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    let blocker = s.output.session();
    blocker.execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE");
    s.source.execute("INSERT INTO t VALUES (3, 'c')");
    lose_slot(&s);
    trucker.until_said("is lost");
    blocker.execute("COMMIT");
    let ended = trucker.end_failed();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("max_slot_wal_keep_size"), "{}", ended.stderr);
    assert!(ended.stderr.matches("connecting again").count() <= 3, "{}", ended.stderr);
}

#[test]
fn a_slot_that_idles_too_long_is_kept_by_a_waiting_process_and_refused_after_it() {
    let (source, s) = world(ServerOptions::default());
    if s.source.number("SELECT current_setting('server_version_num')::int") < 180_000 {
        // Slots of older servers idle as long as they like.
        return;
    }
    source.set("idle_replication_slot_timeout", "1s").unwrap();
    source.reload().unwrap();
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    let blocker = s.output.session();
    blocker.execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE");
    s.source.execute("INSERT INTO t VALUES (3, 'c')");
    let reason = format!(
        "SELECT coalesce(invalidation_reason, '') FROM pg_replication_slots WHERE slot_name = '{}'",
        s.slot()
    );
    assert!(holds_for(Duration::from_secs(4), || {
        s.source.execute("CHECKPOINT");
        s.source.value(&reason).is_empty()
    }));
    blocker.execute("COMMIT");
    s.until_table_same(&mut trucker, "t");
    trucker.terminate();
    let is_lost = eventually(PATIENCE, || {
        s.source.execute("CHECKPOINT");
        s.source.value(&reason) == "idle_timeout"
    });
    assert!(is_lost);
    let said = s.once_fails(4);
    assert!(said.contains("idle_timeout") && said.contains("idle_replication_slot_timeout"), "{said}");
}
