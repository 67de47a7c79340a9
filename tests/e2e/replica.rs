//! With `replica_host` the standby does the work: queries on all versions, decoding too from 16 on. Exactly once all the same,
//! however far it is behind, and whatever becomes of it. Each test takes the road of the server's version.

use std::time::Duration;

use trucker::sandbox::{PostgresServer, ServerOptions, StopMode};

use super::exactly_once::{begin, check_under_load, copy_and_log, kills, let_work};
use super::handover::{assert_handed_over, copy_and_append, with_writers};
use super::harness::{
    Database, PATIENCE, Random, Scenario, Session, config, eventually, holds_for, is_soak, output_server,
    private_server,
};

/// A project that reads from a standby. The servers go last.
struct World {
    s: Scenario,
    standby: PostgresServer,
    primary: PostgresServer,
}

impl World {
    fn new() -> Self {
        World::with(ServerOptions::default())
    }

    /// `options` are the standby's.
    fn with(options: ServerOptions) -> Self {
        let mut primary = private_server(ServerOptions::default());
        let session = Session::try_connect(primary.port(), "postgres").unwrap();
        session.execute("SELECT pg_create_physical_replication_slot('standby', true)");
        let standby = primary.start_standby(&options.set("primary_slot_name", "standby")).unwrap();
        let s = Scenario::between(primary.port(), output_server().port()).replica(standby.port());
        let has_database = || Session::try_connect(standby.port(), &s.source.name).is_ok();
        assert!(eventually(PATIENCE, has_database), "the standby doesn't follow");
        World { s, standby, primary }
    }

    fn map(self, change: impl FnOnce(Scenario) -> Scenario) -> Self {
        World { s: change(self.s), ..self }
    }

    /// From 16 on changes are decoded on the standby.
    fn streams_from_standby(&self) -> bool {
        self.primary.binaries().major() >= 16
    }

    /// SQL on the standby, in the source database or beside it.
    fn on_standby(&self, sql: &str) -> String {
        let session = Session::try_connect(self.standby.port(), "postgres").unwrap();
        let rows = session.try_rows(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        rows[0][0].clone().unwrap_or_default()
    }

    fn replay_is_paused(&self, is_paused: bool) {
        let call = if is_paused { "pause" } else { "resume" };
        self.on_standby(&format!("SELECT pg_wal_replay_{call}()::text"));
        let state = if is_paused { "paused" } else { "not paused" };
        assert!(eventually(PATIENCE, || self.on_standby("SELECT pg_get_wal_replay_pause_state()") == state));
    }
}

/// An orders table, and a pipeline that says on which server it was asked.
fn orders(s: Scenario) -> Scenario {
    s.on_source("CREATE TABLE orders (id int PRIMARY KEY, country int); CREATE TABLE countries (id int, name text)")
        .on_output("CREATE TABLE orders (id int PRIMARY KEY, country text, port int)")
        .pipeline(
            "orders",
            &config("orders", "orders", &[]),
            &[
                (
                    "transform.sql",
                    "SELECT row.id, (SELECT name FROM countries c WHERE c.id = row.country) AS country, inet_server_port() AS port",
                ),
                ("delete.sql", "SELECT old.id"),
            ],
        )
}

const ORDERS: &str = "SELECT o.id, (SELECT name FROM countries c WHERE c.id = o.country) FROM orders o";

#[test]
fn queries_run_on_the_replica_and_so_does_decoding_where_it_can() {
    let w = World::new().map(orders);
    let (s, port) = (&w.s, w.standby.port());
    s.source.execute("INSERT INTO countries VALUES (1, 'Chile'); INSERT INTO orders SELECT i, 1 FROM generate_series(1, 100) i");
    s.once();
    s.source.execute("INSERT INTO orders VALUES (101, 1); UPDATE orders SET country = 2 WHERE id = 5; DELETE FROM orders WHERE id = 6");
    s.once();
    s.assert_same(ORDERS, "SELECT id, country FROM orders");
    assert_eq!(s.output.value("SELECT string_agg(DISTINCT port::text, ',') FROM orders"), port.to_string());
    let slots = |port: u16| {
        let server = Session::try_connect(port, "postgres").unwrap();
        let rows = server
            .try_rows("SELECT slot_name FROM pg_replication_slots WHERE slot_type = 'logical'")
            .unwrap();
        rows.into_iter().flatten().flatten().collect::<Vec<_>>()
    };
    let (with, without) =
        if w.streams_from_standby() { (port, w.primary.port()) } else { (w.primary.port(), port) };
    assert_eq!(slots(with), [s.slot()]);
    assert!(slots(without).is_empty());
    let dir = s.dir();
    let status = s.start(&["status", dir.to_str().unwrap(), "--json"]).wait();
    assert!(status.code == Some(0) && status.stdout.contains("following"), "{}", status.text());
    let teardown = s.start(&["teardown", "--yes", dir.to_str().unwrap()]).wait();
    assert_eq!(teardown.code, Some(0), "{}", teardown.text());
    assert!(slots(with).is_empty());
    s.assert_nothing_created();
}

#[test]
fn a_slot_on_the_replica_of_an_idle_server_is_made_at_once_and_without_special_rights() {
    let w = World::new();
    let (s, name) = (&w.s, w.s.source.name.clone());
    s.source.execute(&format!(
        "CREATE ROLE worker LOGIN REPLICATION; GRANT CREATE ON DATABASE \"{name}\" TO worker;
         CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t OWNER TO worker; INSERT INTO t VALUES (1); CHECKPOINT"
    ));
    s.output.execute("CREATE TABLE t (id int PRIMARY KEY)");
    s.file("trucker.yml", &s.project_file().replacen("user: postgres", "user: worker", 1));
    s.write_pipeline("t", &config("t", "t", &[]), &[]);
    let started = std::time::Instant::now();
    s.once();
    assert!(started.elapsed() < Duration::from_secs(12), "it took {:?}", started.elapsed());
    s.assert_table_same("t");
    // A writer that is open makes it wait, for as long as it takes and no longer.
    let dir = s.dir();
    s.start(&["teardown", "--yes", dir.to_str().unwrap()]).wait();
    let open = s.source.session();
    open.execute("BEGIN; INSERT INTO t VALUES (2)");
    let mut trucker = s.run();
    trucker.until_said("waiting_for_transactions");
    open.execute("COMMIT");
    s.until_table_same(&mut trucker, "t");
}

#[test]
fn nothing_is_written_before_the_replica_shows_it_and_then_once() {
    let w = World::new().map(orders);
    let s = &w.s;
    s.source.execute("INSERT INTO countries VALUES (1, 'Chile')");
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    w.replay_is_paused(true);
    s.source.execute("INSERT INTO countries VALUES (2, 'Peru'); INSERT INTO orders VALUES (1, 1), (2, 2)");
    assert!(holds_for(Duration::from_secs(3), || s.output.number("SELECT count(*) FROM orders") == 0));
    w.replay_is_paused(false);
    s.until_same(&mut trucker, ORDERS, "SELECT id, country FROM orders");
}

#[test]
fn columns_added_while_the_replica_is_behind_are_there_when_their_values_come() {
    let w = World::new().map(|s| s.tables("CREATE TABLE t (id int PRIMARY KEY)").copies("t"));
    let s = &w.s;
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    s.output.execute("ALTER TABLE t ADD COLUMN v text");
    trucker.terminate();
    let mut trucker = s.run();
    trucker.until_said("\"running\"");
    w.replay_is_paused(true);
    s.source
        .execute("INSERT INTO t VALUES (1); ALTER TABLE t ADD COLUMN v text; INSERT INTO t VALUES (2, 'b')");
    assert!(holds_for(Duration::from_secs(1), || trucker.is_running()));
    w.replay_is_paused(false);
    s.until_table_same(&mut trucker, "t");
}

#[test]
fn rows_written_during_the_start_come_exactly_once_from_the_replica() {
    for (round, delay) in ["0", "150ms", "0"].into_iter().enumerate() {
        let w =
            World::with(ServerOptions::default().set("recovery_min_apply_delay", delay)).map(copy_and_append);
        w.s.source.execute("INSERT INTO t (v) SELECT i FROM generate_series(1, 20000) i");
        with_writers(&w.s, 70 + round as u64, || {
            let mut trucker = w.s.run();
            w.s.until_following(&mut trucker, 2);
            trucker.terminate();
            // Read where it was meant to be read.
            let stderr = w.s.run_once().stderr;
            assert!(!stderr.contains("backfill_from_main"), "{stderr}");
        });
        w.s.once();
        assert_handed_over(&w.s);
    }
}

#[test]
fn a_pipeline_filled_again_and_again_under_load_has_every_row_once() {
    let w = World::new().map(copy_and_append);
    let s = &w.s;
    s.source.execute("INSERT INTO t (v) SELECT i FROM generate_series(1, 500) i");
    s.once();
    let dir = s.dir();
    for round in 0..if is_soak() { 150 } else { 5 } {
        s.output.execute("TRUNCATE log");
        let refill = s.start(&["backfill", "--dir", dir.to_str().unwrap(), "log"]).wait();
        assert_eq!(refill.code, Some(0), "{}", refill.text());
        with_writers(s, 100 + round, || {
            let mut trucker = s.run();
            s.until_following(&mut trucker, 2);
            trucker.terminate();
        });
        s.once();
        assert_handed_over(s);
        s.source.execute("DELETE FROM t WHERE id % 4 <> 0; INSERT INTO t (v) VALUES (0)");
        s.once();
    }
}

#[test]
fn a_pipeline_added_later_is_filled_from_the_replica_while_the_first_goes_on() {
    let w = World::new().map(|s| {
        s.on_source("CREATE TABLE t (id bigserial PRIMARY KEY, v int); CREATE TABLE u (id int PRIMARY KEY)")
            .on_output("CREATE TABLE t (id bigint PRIMARY KEY, v int); CREATE TABLE log (id bigint); CREATE TABLE u (id int PRIMARY KEY)")
            .copies("t")
    });
    let s = &w.s;
    s.source.execute("INSERT INTO t (v) SELECT i FROM generate_series(1, 5000) i; INSERT INTO u VALUES (1)");
    s.once();
    let append = "on: {insert: insert, update: ignore, delete: ignore, truncate: ignore}";
    with_writers(s, 80, || {
        s.write_pipeline("log", &config("t", "log", &[append]), &[("transform.sql", "SELECT row.id")]);
        s.write_pipeline("u", &config("u", "u", &[]), &[]);
        let mut trucker = s.run();
        s.until_following(&mut trucker, 3);
        trucker.terminate();
    });
    s.once();
    assert_handed_over(s);
    s.assert_table_same("u");
    // And one that goes, whose table leaves the publication.
    std::fs::remove_dir_all(s.dir().join("u")).unwrap();
    let mut trucker = s.run();
    trucker.until_said("\"running\"");
    assert!(holds_for(Duration::from_secs(1), || trucker.is_running()));
    s.source.execute("INSERT INTO t (v) VALUES (-9)");
    s.until_table_same(&mut trucker, "t");
}

#[test]
fn kill_9_of_trucker_neither_loses_nor_repeats_a_change_of_a_lagging_replica() {
    let w = World::with(ServerOptions::default().set("recovery_min_apply_delay", "40ms")).map(copy_and_log);
    begin(&w.s);
    check_under_load(&w.s, &mut Random::seeded(71), |random| {
        for _ in 0..kills() {
            let mut trucker = w.s.run();
            let_work(&w.s, &mut trucker, random.within(0..200));
            trucker.kill9();
        }
    });
}

#[test]
fn restarts_of_the_replica_neither_lose_nor_repeat_a_change() {
    let w = World::new().map(copy_and_log);
    begin(&w.s);
    let World { s, mut standby, primary } = w;
    check_under_load(&s, &mut Random::seeded(72), |random| {
        let mut trucker = s.run();
        for _ in 0..kills() / 2 {
            let_work(&s, &mut trucker, random.within(1..200));
            match random.within(0..3) {
                0 => standby.stop(StopMode::Fast).unwrap(),
                1 => standby.stop(StopMode::Immediate).unwrap(),
                _ => standby.kill9(),
            }
            standby.start_again().unwrap();
        }
        let_work(&s, &mut trucker, 10);
    });
    drop((s, standby, primary));
}

#[test]
fn restarts_of_the_main_server_neither_lose_nor_repeat_a_change_of_its_replica() {
    let w = World::new().map(copy_and_log);
    begin(&w.s);
    let World { s, standby, mut primary } = w;
    check_under_load(&s, &mut Random::seeded(73), |random| {
        let mut trucker = s.run();
        for _ in 0..kills() / 3 {
            let_work(&s, &mut trucker, random.within(1..200));
            let mode = if random.within(0..2) == 0 { StopMode::Fast } else { StopMode::Immediate };
            primary.restart(mode).unwrap();
        }
        let_work(&s, &mut trucker, 10);
    });
    drop((s, standby, primary));
}

#[test]
fn a_conflict_of_the_replicas_recovery_is_tried_again() {
    let options = ServerOptions::default()
        .set("hot_standby_feedback", "off")
        .set("max_standby_streaming_delay", "100ms");
    let w = World::with(options);
    let s = w
        .s
        .tables("CREATE TABLE t (id int PRIMARY KEY, v text)")
        .on_source("CREATE TABLE gone (id int)")
        .pipeline(
            "t",
            &config("t", "t", &[]),
            &[
                ("transform.sql", "SELECT row.id, row.v || (SELECT count(*) FROM pg_sleep(1.5)) - 1 AS v"),
                ("delete.sql", "SELECT old.id"),
            ],
        );
    let sql = "SELECT id, v || '0' FROM t";
    s.source.execute("INSERT INTO t VALUES (1, 'a'); INSERT INTO gone SELECT generate_series(1, 1000)");
    let mut trucker = s.run();
    assert!(trucker.stderr().is_empty() || !trucker.stderr().contains("failed"));
    s.until_same(&mut trucker, sql, "SELECT * FROM t");
    // The batch's snapshot holds rows that a vacuum removes.
    s.source.execute("INSERT INTO t VALUES (2, 'b')");
    let standby = Session::try_connect(w.standby.port(), &s.source.name).unwrap();
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    trucker.until("the SQL at work", || standby.try_rows(sleeping).unwrap()[0][0].as_deref() != Some("0"));
    s.source.execute("DELETE FROM gone");
    s.source.execute("VACUUM gone");
    trucker.until_said("retrying");
    s.until_same(&mut trucker, sql, "SELECT * FROM t");
    drop((trucker, s));
}

#[test]
fn a_replica_of_another_server_or_none_at_all_is_refused() {
    let mut other = private_server(ServerOptions::default());
    let primary = private_server(ServerOptions::default());
    let s = Scenario::between(primary.port(), output_server().port());
    let s = s.tables("CREATE TABLE t (id int PRIMARY KEY)").copies("t");
    let yml = s.project_file();
    let refused = |port: u16, said: &str| {
        let keys = format!("replica_host: 127.0.0.1\n    replica_port: {port}\n    sslmode");
        s.file("trucker.yml", &yml.replacen("sslmode", &keys, 1));
        let text = s.once_fails(4);
        assert!(text.contains(said), "{text}");
        s.assert_nothing_created();
    };
    refused(1, "source's replica");
    refused(primary.port(), "is no standby");
    // Servers of these tests share their system identifier, as copies do.
    let copy = Database::create(other.port(), &s.source.name);
    for _ in 0..5 {
        copy.execute("SELECT pg_switch_wal(); CREATE TABLE filler (); DROP TABLE filler");
    }
    let its_standby = other.start_standby(&ServerOptions::default()).unwrap();
    refused(its_standby.port(), "another server's standby");
}

#[test]
fn a_replica_that_is_promoted_is_left_at_once_and_goes_on_exactly_as_the_main_server() {
    let w = World::new().map(copy_and_log);
    begin(&w.s);
    let World { mut s, standby, mut primary } = w;
    let streams_from_standby = primary.binaries().major() >= 16;
    let mut trucker = s.run();
    s.until_following(&mut trucker, 2);
    s.source.execute("INSERT INTO t SELECT i, 0, i FROM generate_series(1, 100) i");
    s.until_same(&mut trucker, "SELECT id FROM t", "SELECT id FROM t");
    // Everything there is has arrived on the standby, then the main server goes.
    primary.stop(StopMode::Fast).unwrap();
    standby.promote().unwrap();
    let promoted = Database::at(standby.port(), &s.source.name);
    promoted.execute("INSERT INTO t VALUES (1000, 0, 0); UPDATE t SET n = n + 1 WHERE id = 5");
    let ended = if streams_from_standby {
        trucker.wait()
    } else {
        trucker.until_said("replica");
        assert!(holds_for(Duration::from_secs(2), || s
            .output
            .number("SELECT count(*) FROM t WHERE id = 1000")
            == 0));
        trucker.kill9()
    };
    let said = ended.stderr;
    assert_eq!(s.output.number("SELECT count(*) FROM t WHERE id = 1000"), 0, "{said}");
    if streams_from_standby {
        assert!(said.contains("it was promoted") || said.contains("no standby any more"), "{said}");
    }
    s.source_moves_to(standby.port());
    if streams_from_standby {
        s.once();
        s.assert_table_same("t");
        s.assert_same("SELECT what, id, n FROM audit", "SELECT what, id, n FROM log");
    } else {
        let said = s.once_fails(4);
        assert!(said.contains("replication slot") && said.contains("is gone"), "{said}");
    }
    drop((promoted, s, standby, primary));
}

#[test]
fn a_replica_promoted_beside_its_main_server_is_refused_and_adds_nothing() {
    let w = World::new().map(|s| s.tables("CREATE TABLE t (id int PRIMARY KEY)").copies("t"));
    w.s.source.execute("INSERT INTO t VALUES (1)");
    w.s.once();
    w.standby.promote().unwrap();
    Database::at(w.standby.port(), &w.s.source.name).execute("INSERT INTO t VALUES (666)");
    let said = w.s.once_fails(4);
    assert!(said.contains("is no standby") && said.contains("replica_host"), "{said}");
    assert_eq!(w.s.output.value("SELECT string_agg(id::text, ',') FROM t"), "1");
}

#[test]
fn a_slot_that_the_replica_lost_is_refused_with_what_to_do() {
    let w = World::with(ServerOptions::default().set("hot_standby_feedback", "off"));
    if !w.streams_from_standby() {
        return;
    }
    let s = w.s.tables("CREATE TABLE t (id int PRIMARY KEY)").copies("t");
    let said = s.once().stderr;
    assert!(said.contains("hot_standby_feedback is off"), "{said}");
    // Rows of the catalog that the slot still needs are removed.
    let lost = || {
        s.source.execute("CREATE TABLE tmp (id int)");
        s.source.execute("DROP TABLE tmp");
        s.source.execute("VACUUM pg_catalog.pg_class");
        let session = Session::try_connect(w.standby.port(), "postgres").unwrap();
        session.try_rows("SELECT wal_status FROM pg_replication_slots").unwrap()[0][0].as_deref()
            == Some("lost")
    };
    assert!(eventually(PATIENCE, lost), "the slot survives");
    s.source.execute("INSERT INTO t VALUES (1)");
    let said = s.once_fails(4);
    assert!(said.contains("is lost") && said.contains("trucker teardown"), "{said}");
    let dir = s.dir();
    assert_eq!(s.start(&["teardown", "--yes", dir.to_str().unwrap()]).wait().code, Some(0));
    s.once();
    s.assert_table_same("t");
    drop(s);
}
