//! The source's main server fails over to a standby: trucker goes on exactly where that can be, and refuses, naming what to
//! do, where it can't.

use trucker::sandbox::{PostgresServer, ServerOptions, StopMode};

use super::exactly_once::{begin, check_under_load, copy_and_log, let_work};
use super::harness::{
    Database, PATIENCE, Random, Scenario, Session, config, eventually, holds_for, output_server,
    private_server, source_server,
};

const T: &str = "CREATE TABLE t (id int PRIMARY KEY)";

/// Whether the source's version has slots that survive a failover.
fn has_failover_slots() -> bool {
    source_server().binaries().major() >= 17
}

/// A primary, and a standby that takes failover slots over where its version can.
struct Pair {
    s: Scenario,
    standby: PostgresServer,
    primary: PostgresServer,
}

impl Pair {
    fn new(settings: ServerOptions) -> Self {
        let mut primary = private_server(settings.set("wal_sender_timeout", "5s"));
        let session = Session::try_connect(primary.port(), "postgres").unwrap();
        session.execute("SELECT pg_create_physical_replication_slot('standby', true)");
        let mut options = ServerOptions::default().set("primary_slot_name", "standby");
        if primary.binaries().major() >= 17 {
            options = options.set("sync_replication_slots", "on");
        }
        let standby = primary.start_standby(&options).unwrap();
        let s = Scenario::between(primary.port(), output_server().port());
        Pair { s, standby, primary }
    }

    /// With `failover: true`; None where the version doesn't have that.
    fn with_failover_slot(settings: ServerOptions) -> Option<Self> {
        if !has_failover_slots() {
            return None;
        }
        let pair = Pair::new(settings);
        let s = pair.s.source_key("failover: true");
        Some(Pair { s, ..pair })
    }

    /// Waits until the standby has the slot in a state that survives promotion, which takes somebody who reads it.
    fn until_slot_is_ready(&self) {
        let trucker = self.s.run();
        let session = Session::try_connect(self.standby.port(), "postgres").unwrap();
        let sql = "SELECT count(*) FROM pg_replication_slots WHERE synced AND NOT temporary AND invalidation_reason IS NULL";
        let is_ready = || {
            // A slot becomes ready with WAL to go by.
            self.s.source.execute("SELECT pg_log_standby_snapshot()");
            session.try_rows(sql).unwrap()[0][0].as_deref() == Some("1")
        };
        assert!(eventually(3 * PATIENCE, is_ready), "the slot never came to the standby");
        trucker.terminate();
    }
}

#[test]
fn without_a_failover_slot_a_promoted_standby_is_refused() {
    let Pair { s, standby, mut primary } = Pair::new(ServerOptions::default());
    let mut s = s.tables(T).copies("t");
    s.source.execute("INSERT INTO t VALUES (1)");
    s.once();
    primary.stop(StopMode::Fast).unwrap();
    standby.promote().unwrap();
    s.source_moves_to(standby.port());
    s.source.execute("INSERT INTO t VALUES (2)");
    let said = s.once_fails(4);
    assert!(said.contains("is gone") && said.contains("trucker teardown"), "{said}");
    assert_eq!(s.output.value("SELECT string_agg(id::text, ',') FROM t"), "1");
    let dir = s.dir();
    assert_eq!(s.start(&["teardown", "--yes", dir.to_str().unwrap()]).wait().code, Some(0));
    s.once();
    s.assert_table_same("t");
    drop((s, standby));
}

#[test]
fn failover_is_refused_where_postgres_has_no_such_slots() {
    let s = Scenario::new().tables(T).copies("t").source_key("failover: true");
    if !has_failover_slots() {
        let said = s.once_fails(4);
        assert!(said.contains("Postgres 17") && said.contains("failover"), "{said}");
        s.assert_nothing_created();
    } else {
        let said = s.once().stderr;
        assert!(said.contains("synchronized_standby_slots"), "{said}");
        assert!(
            s.source
                .is(&format!("SELECT failover FROM pg_replication_slots WHERE slot_name = '{}'", s.slot()))
        );
    }
}

#[test]
fn a_slot_made_before_failover_was_asked_for_is_altered() {
    if !has_failover_slots() {
        return;
    }
    let s = Scenario::new().tables(T).copies("t");
    s.once();
    let failover = format!("SELECT failover FROM pg_replication_slots WHERE slot_name = '{}'", s.slot());
    assert!(!s.source.is(&failover));
    let s = s.source_key("failover: true");
    s.source.execute("INSERT INTO t VALUES (1)");
    s.once();
    assert!(s.source.is(&failover));
    s.assert_table_same("t");
}

#[test]
fn after_a_failover_that_lost_nothing_it_goes_on_exactly() {
    let settings = ServerOptions::default().set("synchronized_standby_slots", "standby");
    let Some(pair) = Pair::with_failover_slot(settings) else { return };
    let pair = Pair { s: copy_and_log(pair.s), ..pair };
    begin(&pair.s);
    pair.until_slot_is_ready();
    let Pair { mut s, standby, mut primary } = pair;
    check_under_load(&s, &mut Random::seeded(90), |_| {
        let mut trucker = s.run();
        let_work(&s, &mut trucker, 200);
        trucker.terminate();
    });
    primary.kill9();
    standby.promote().unwrap();
    s.source_moves_to(standby.port());
    check_under_load(&s, &mut Random::seeded(91), |_| {
        let mut trucker = s.run();
        let_work(&s, &mut trucker, 200);
        trucker.terminate();
    });
    drop((s, standby));
}

#[test]
fn what_no_standby_has_is_not_loaded_where_the_server_is_told_to_wait() {
    let settings = ServerOptions::default().set("synchronized_standby_slots", "standby");
    let Some(pair) = Pair::with_failover_slot(settings) else { return };
    let pair = Pair { s: pair.s.tables(T).copies("t"), ..pair };
    pair.until_slot_is_ready();
    let mut trucker = pair.s.run();
    trucker.until_said("\"running\"");
    let Pair { mut s, mut standby, mut primary } = pair;
    standby.stop(StopMode::Fast).unwrap();
    s.source.execute("INSERT INTO t SELECT generate_series(1, 200)");
    let nothing = || s.output.number("SELECT count(*) FROM t") == 0;
    assert!(holds_for(std::time::Duration::from_secs(3), nothing), "loaded ahead of the standby");
    trucker.kill9();
    primary.kill9();
    promote_stopped(&mut standby);
    s.source_moves_to(standby.port());
    s.source.execute("INSERT INTO t SELECT generate_series(1001, 1010)");
    s.once();
    s.assert_table_same("t");
    drop((s, standby));
}

/// Starts a standby away from its primary, and promotes it.
fn promote_stopped(standby: &mut PostgresServer) {
    standby.set("primary_conninfo", "").unwrap();
    standby.start_again().unwrap();
    standby.promote().unwrap();
}

#[test]
fn after_a_failover_that_lost_loaded_transactions_it_is_refused_however_much_was_written_since() {
    let Some(pair) = Pair::with_failover_slot(ServerOptions::default()) else { return };
    let pair = Pair { s: pair.s.tables(T).copies("t"), ..pair };
    pair.s.once();
    pair.until_slot_is_ready();
    let Pair { mut s, mut standby, mut primary } = pair;
    standby.stop(StopMode::Fast).unwrap();
    s.source.execute("INSERT INTO t SELECT generate_series(1, 200)");
    s.once();
    primary.kill9();
    promote_stopped(&mut standby);
    s.source_moves_to(standby.port());
    for _ in 0..2 {
        let said = s.once_fails(4);
        assert!(said.contains("timeline") && said.contains("trucker backfill t"), "{said}");
        assert_eq!(s.output.number("SELECT count(*) FROM t"), 200);
        // The next time its WAL has gone further than what was loaded.
        s.source.execute("CREATE TABLE IF NOT EXISTS u (v text); INSERT INTO u SELECT repeat('x', 1000) FROM generate_series(1, 5000)");
    }
    let dir = s.dir();
    assert_eq!(s.start(&["backfill", "--dir", dir.to_str().unwrap(), "t"]).wait().code, Some(0));
    s.once();
    s.assert_table_same("t");
    drop((s, standby));
}

#[test]
fn a_source_restored_from_an_older_copy_is_refused_however_much_was_written_since() {
    // Recovered from a backup to an earlier point: the same cluster on another timeline.
    let Pair { s, mut standby, primary } = Pair::new(ServerOptions::default());
    let mut s = s.tables(T).copies("t");
    s.source.execute("INSERT INTO t VALUES (1)");
    s.once();
    let lsn = s.source.value("SELECT pg_current_wal_flush_lsn()");
    let replays = Session::try_connect(standby.port(), "postgres").unwrap();
    let reached = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'");
    assert!(eventually(PATIENCE, || replays.try_rows(&reached).unwrap()[0][0].as_deref() == Some("t")));
    standby.stop(StopMode::Fast).unwrap();
    s.source.execute("INSERT INTO t VALUES (2)");
    s.once();
    promote_stopped(&mut standby);
    s.source_moves_to(standby.port());
    // With a slot of the right name, by somebody's hand.
    s.source.execute(&format!("SELECT pg_create_logical_replication_slot('{}', 'pgoutput')", s.slot()));
    s.source.execute("INSERT INTO t VALUES (3)");
    let said = s.once_fails(4);
    assert!(said.contains("timeline"), "{said}");
    assert_eq!(s.output.value("SELECT string_agg(id::text, ',' ORDER BY id) FROM t"), "1,2");
    drop((s, standby, primary));
}

#[test]
fn a_replica_that_follows_a_new_main_server_goes_on_exactly() {
    // The main server fails over; another standby, which is streamed from, follows the promoted one.
    let mut primary = private_server(ServerOptions::default());
    let major = primary.binaries().major();
    if major < 16 {
        return;
    }
    let session = Session::try_connect(primary.port(), "postgres").unwrap();
    session.execute("SELECT pg_create_physical_replication_slot('a', true), pg_create_physical_replication_slot('b', true)");
    let next = primary.start_standby(&ServerOptions::default().set("primary_slot_name", "a")).unwrap();
    let replica = primary.start_standby(&ServerOptions::default().set("primary_slot_name", "b")).unwrap();
    let mut s = Scenario::between(primary.port(), output_server().port())
        .tables(T)
        .pipeline("t", &config("t", "t", &[]), &[("transform.sql", "SELECT row.id")])
        .replica(replica.port());
    s.source.execute("INSERT INTO t VALUES (1)");
    let mut trucker = s.run();
    s.until_table_same(&mut trucker, "t");
    primary.stop(StopMode::Fast).unwrap();
    next.promote().unwrap();
    replica.set("primary_slot_name", "").unwrap();
    replica
        .set(
            "primary_conninfo",
            &format!("host=127.0.0.1 port={} user=postgres dbname=postgres", next.port()),
        )
        .unwrap();
    replica.reload().unwrap();
    Database::at(next.port(), &s.source.name).execute("INSERT INTO t VALUES (2)");
    // It leaves the stream before anything of the new timeline, and goes on there at the next start.
    let ended = trucker.wait();
    assert!(ended.stderr.contains("timeline"), "{}", ended.stderr);
    assert_eq!(s.output.value("SELECT string_agg(id::text, ',') FROM t"), "1");
    let yml = s.project_file();
    s.source_moves_to(next.port());
    s.file(
        "trucker.yml",
        &yml.replacen(&format!("port: {}", primary.port()), &format!("port: {}", next.port()), 1),
    );
    s.once();
    s.assert_table_same("t");
    drop((s, replica, next));
}
