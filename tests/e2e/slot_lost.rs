//! WAL that the source removed before it was read: said at once, with the cure, and never gone on without.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use trucker::sandbox::{PostgresServer, ServerOptions};

use super::harness::{PATIENCE, Scenario, Trucker, eventually, holds_for, output_server, private_server};

fn world(options: ServerOptions) -> (PostgresServer, Scenario) {
    let options = options.set("min_wal_size", "32MB");
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
    ServerOptions::default().set("max_wal_size", "64MB").set("max_slot_wal_keep_size", "1MB")
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

/// Writes WAL and a row after it, and has trucker die between loading that row and telling the slot. So the next walsender
/// reads all of the WAL again, and the first word that it hears lets the server remove it.
fn die_with_wal_to_read_again(s: &Scenario, row: i32) {
    let filler = "CREATE TABLE filler AS SELECT repeat(md5(i::text), 30) FROM generate_series(1, 16000) i; DROP TABLE filler";
    (0..8).for_each(|_| s.source.execute(filler));
    // With a checkpoint goes what a slot begins to read at.
    s.source.execute("CHECKPOINT");
    s.source.execute(&format!("INSERT INTO t VALUES ({row}, 'c')"));
    let is_loaded = eventually(PATIENCE, || {
        let dies = ("TRUCKER_FAILPOINT".to_owned(), "floor_raised:1".to_owned());
        let trucker = Trucker::start(&s.logs(), &["run", s.dir().to_str().unwrap()], &[dies]);
        assert_eq!(trucker.wait().code, None);
        s.output.is(&format!("SELECT EXISTS (SELECT FROM t WHERE id = {row})"))
    });
    assert!(is_loaded);
}

#[test]
fn wal_that_is_removed_while_it_is_read_though_the_slot_has_gone_on_is_no_reason_to_stop() {
    let (_source, s) = world(ServerOptions::default());
    s.once();
    let mut row = 2;
    let was_removed = eventually(PATIENCE, || {
        row += 1;
        die_with_wal_to_read_again(&s, row);
        let is_over = AtomicBool::new(false);
        let stderr = thread::scope(|scope| {
            let session = s.source.session();
            let is_over = &is_over;
            scope.spawn(move || {
                eventually(PATIENCE, || {
                    session.execute("CHECKPOINT");
                    is_over.load(Ordering::Relaxed)
                })
            });
            let mut trucker = s.run();
            s.until_following(&mut trucker, 1);
            s.source.execute(&format!("UPDATE t SET v = 'd' WHERE id = {row}"));
            s.until_table_same(&mut trucker, "t");
            is_over.store(true, Ordering::Relaxed);
            trucker.terminate().stderr
        });
        stderr.contains("has already been removed")
    });
    assert!(was_removed, "the server never removed what it was reading");
}

#[test]
fn wal_that_is_gone_though_the_slot_needs_it_is_said_to_be_lost_and_not_asked_for_again_and_again() {
    let (_source, s) = world(ServerOptions::default());
    s.once();
    s.source.execute("INSERT INTO t VALUES (3, 'c'); SELECT pg_switch_wal(); INSERT INTO t VALUES (4, 'd')");
    let folder = s.source.value("SHOW data_directory") + "/pg_wal";
    let current = s.source.value("SELECT pg_walfile_name(pg_current_wal_lsn())");
    // What the server doesn't know: it still calls the slot a good one.
    for file in fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()) {
        let is_segment = file.file_name().unwrap().len() == current.len();
        if is_segment && file.file_name().unwrap().to_str().unwrap() < current.as_str() {
            fs::remove_file(file).unwrap();
        }
    }
    let said = s.run().end_failed().stderr;
    assert!(said.contains("has already been removed (SQLSTATE 58P01); connecting again"), "{said}");
    assert!(said.contains("is lost (wal_removed)") && said.contains("trucker teardown"), "{said}");
    assert_eq!(s.output.value("SELECT string_agg(id || v, ' ' ORDER BY id) FROM t"), "1a 2b");
}
