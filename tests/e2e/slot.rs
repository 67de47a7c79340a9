//! The slot: told only what is durable, never left behind by a quiet table, and never followed where it is
//! not the one that the checkpoints belong to.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use trucker::sandbox::{ServerOptions, StopMode};

use super::harness::{Database, Scenario, config, output_server, private_output, private_server};

fn copy_of_t(s: Scenario) -> Scenario {
    s.tables("CREATE TABLE t (id int PRIMARY KEY, v text)").copies("t")
}

fn confirmed(s: &Scenario) -> String {
    format!("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{}'", s.slot())
}

#[test]
fn the_slot_advances_while_only_other_databases_and_tables_are_written() {
    let s = copy_of_t(Scenario::new()).on_source("CREATE TABLE unrelated (v text)");
    s.source.execute("INSERT INTO t VALUES (1, 'a')");
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    let other = Database::create(s.source.port, &format!("{}_other", s.source.name));
    other.execute(
        "CREATE TABLE busy (v text); INSERT INTO busy SELECT repeat('x', 1000) FROM generate_series(1, 5000)",
    );
    s.source.execute("INSERT INTO unrelated SELECT repeat('x', 1000) FROM generate_series(1, 5000)");
    let lsn = s.source.value("SELECT pg_current_wal_lsn()");
    let passed = format!("SELECT ({}) >= '{lsn}'", confirmed(&s));
    trucker.until("the slot passing what the others wrote", || s.source.is(&passed));
    trucker.terminate();
    s.once();
    s.assert_table_same("t");
    other.drop_quietly();
}

#[test]
fn the_slot_is_never_ahead_of_the_checkpoint() {
    let s = copy_of_t(Scenario::new());
    let stop = AtomicBool::new(false);
    let (mut trucker, checks) = (s.run(), std::cell::Cell::new(0));
    s.until_following(&mut trucker, 1);
    thread::scope(|scope| {
        let (session, stop) = (s.source.session(), &stop);
        scope.spawn(move || {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                session.execute(&format!(
                    "INSERT INTO t VALUES ({n}, 'x') ON CONFLICT (id) DO UPDATE SET v = 'y'"
                ));
            }
        });
        let started = std::time::Instant::now();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            trucker.until("many looks", || {
                // In this order: the checkpoint only grows between the two looks.
                let slot = s.source.value(&confirmed(&s));
                let ahead = format!("SELECT bool_or(loaded_lsn < '{slot}') FROM trucker.checkpoint");
                assert!(!s.output.is(&ahead), "the slot was told {slot}, which is not loaded");
                checks.set(checks.get() + 1);
                started.elapsed().as_secs() >= 4
            });
        }));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
    assert!(checks.get() > 20);
}

#[test]
fn the_slot_waits_while_the_output_is_down_and_nothing_is_lost() {
    let mut output = private_output(ServerOptions::default());
    let s = copy_of_t(Scenario::between(super::harness::source_server().port(), output.port()));
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    s.source.execute("INSERT INTO t VALUES (1, 'a')");
    s.until_table_same(&mut trucker, "t");
    output.stop(StopMode::Immediate).unwrap();
    s.source.execute("INSERT INTO t VALUES (2, 'b')");
    let lsn = s.source.value("SELECT pg_current_wal_lsn()");
    s.source.execute("CREATE TABLE unrelated AS SELECT generate_series(1, 1000)");
    let passed = format!("SELECT ({}) >= '{lsn}'", confirmed(&s));
    let held = super::harness::holds_for(std::time::Duration::from_secs(3), || !s.source.is(&passed));
    assert!(held, "the slot was told what is not loaded");
    assert!(trucker.is_running(), "an output that is down is waited for");
    output.start_again().unwrap();
    s.until_table_same(&mut trucker, "t");
    trucker.until("the slot moving on", || s.source.is(&passed));
}

/// Brings the pipeline up, breaks something, and expects a refusal that names `words` and writes nothing.
fn refused(s: &Scenario, hurt: impl FnOnce(), words: &[&str]) {
    s.source.execute("INSERT INTO t VALUES (1, 'a'), (2, 'b')");
    s.once();
    hurt();
    s.source.execute("UPDATE t SET v = 'changed'; INSERT INTO t VALUES (3, 'c')");
    let finished = s.run_once();
    let text = finished.text();
    assert!(!matches!(finished.code, Some(0) | None), "went on silently: {text}");
    for word in words {
        assert!(text.contains(word), "no word on {word}: {text}");
    }
    assert_eq!(s.output.value("SELECT string_agg(id || v, ' ' ORDER BY id) FROM t"), "1a 2b", "{text}");
}

#[test]
fn a_dropped_slot_is_refused_not_made_again() {
    let s = copy_of_t(Scenario::new());
    let slot = s.slot();
    refused(&s, || s.source.execute(&format!("SELECT pg_drop_replication_slot('{slot}')")), &[&slot]);
    let slots = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{slot}'");
    assert_eq!(s.source.number(&slots), 0, "a new slot hides the gap");
}

#[test]
fn a_slot_dropped_and_made_again_is_refused() {
    let s = copy_of_t(Scenario::new());
    let slot = s.slot();
    refused(
        &s,
        || {
            s.source.execute(&format!("SELECT pg_drop_replication_slot('{slot}')"));
            s.source.execute("INSERT INTO t VALUES (50, 'missed'); DELETE FROM t WHERE id = 50");
            s.source.execute(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"));
        },
        &[&slot],
    );
}

#[test]
fn a_dropped_publication_is_refused() {
    let s = copy_of_t(Scenario::new());
    let slot = s.slot();
    refused(&s, || s.source.execute(&format!("DROP PUBLICATION {slot}")), &[&slot]);
}

#[test]
fn a_table_taken_out_of_the_publication_is_refused() {
    let s = copy_of_t(Scenario::new()).on_source("CREATE TABLE other (id int PRIMARY KEY)");
    let slot = s.slot();
    refused(
        &s,
        || s.source.execute(&format!("ALTER PUBLICATION {slot} SET TABLE other")),
        &["t", "publication"],
    );
}

#[test]
fn another_cluster_with_the_same_tables_is_refused() {
    let s = copy_of_t(Scenario::new());
    s.source.execute("INSERT INTO t VALUES (1, 'a'), (2, 'b')");
    s.once();
    let other = private_server(ServerOptions { is_distinct: true, ..ServerOptions::default() });
    let twin = Database::create(other.port(), &s.source.name);
    twin.execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'other')");
    let yml = std::fs::read_to_string(s.dir().join("trucker.yml")).unwrap();
    s.file("trucker.yml", &yml.replacen(&s.source.port.to_string(), &other.port().to_string(), 1));
    let finished = s.run_once();
    assert_eq!(finished.code, Some(4), "went on silently: {}", finished.text());
    assert!(finished.text().contains("this is not the database that pipeline t was filled from"));
    assert_eq!(s.output.value("SELECT string_agg(id || v, ' ' ORDER BY id) FROM t"), "1a 2b");
    assert_eq!(twin.number("SELECT count(*) FROM pg_replication_slots"), 0);
}

#[test]
fn a_table_dropped_and_made_again_is_not_followed_silently() {
    let s = copy_of_t(Scenario::new());
    s.source.execute("INSERT INTO t VALUES (1, 'a')");
    s.once();
    s.source.execute(
        "DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (7, 'new')",
    );
    let finished = s.run_once();
    assert!(!matches!(finished.code, Some(0) | None), "went on silently: {}", finished.text());
    assert!(finished.text().contains("public.t"), "{}", finished.text());
}

#[test]
fn a_slot_of_another_kind_under_the_name_is_refused_and_left_alone() {
    for (create, code, words) in [
        ("SELECT pg_create_logical_replication_slot('{}', 'test_decoding')", 4, "plugin test_decoding"),
        ("SELECT pg_create_physical_replication_slot('{}')", 4, "physical slot"),
        // Always in use by the session that made it.
        ("SELECT pg_create_logical_replication_slot('{}', 'pgoutput', true)", 5, "held by process"),
        ("SELECT pg_create_logical_replication_slot('{}', 'pgoutput', false, true)", 4, "two-phase"),
    ] {
        let s = copy_of_t(Scenario::new());
        let holder = s.source.session();
        holder.execute(&create.replace("{}", &s.slot()));
        let said = s.once_fails(code);
        assert!(said.contains(&s.slot()) && said.contains(words), "{words}: {said}");
        let left = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{}'", s.slot());
        assert_eq!(s.source.number(&left), 1, "{words}");
        assert_eq!(s.source.number("SELECT count(*) FROM pg_publication"), 0, "{words}");
        let _ = holder.try_execute(&format!("SELECT pg_drop_replication_slot('{}')", s.slot()));
    }
}

#[test]
fn a_slot_that_was_advanced_by_hand_is_refused() {
    let s = copy_of_t(Scenario::new());
    let slot = s.slot();
    refused(
        &s,
        || {
            s.source.execute("INSERT INTO t VALUES (50, 'missed'); DELETE FROM t WHERE id = 50");
            s.source.execute(&format!("SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn())"));
        },
        &[&slot, "trucker backfill t"],
    );
}

#[test]
fn a_restarted_source_is_followed_further() {
    let mut source = private_server(ServerOptions::default());
    let s = copy_of_t(Scenario::between(source.port(), output_server().port()));
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    for (n, mode) in [(1, StopMode::Fast), (2, StopMode::Immediate), (3, StopMode::Fast)] {
        s.source.execute(&format!("INSERT INTO t VALUES ({n}, 'x')"));
        source.restart(mode).unwrap();
        s.until_table_same(&mut trucker, "t");
    }
}

#[test]
fn a_running_trucker_does_not_hold_up_the_stop_of_the_source() {
    let mut source = private_server(ServerOptions::default());
    let s = copy_of_t(Scenario::between(source.port(), output_server().port()));
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    s.source.execute("INSERT INTO t VALUES (1, 'x')");
    let started = std::time::Instant::now();
    source.stop(StopMode::Fast).unwrap();
    assert!(started.elapsed().as_secs() < 20, "took {:?}", started.elapsed());
    source.start_again().unwrap();
    s.until_table_same(&mut trucker, "t");
}

#[test]
fn a_second_pipeline_never_moves_the_slot_past_the_slowest() {
    let s = Scenario::new()
        .on_source("CREATE TABLE t (id int PRIMARY KEY, v text)")
        .on_output("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY, v text)")
        .copies("t")
        .pipeline("u", &config("t", "u", &[]), &[]);
    let mut trucker = s.run();
    s.until_following(&mut trucker, 2);
    let blocker = s.output.session();
    blocker.execute("BEGIN; LOCK TABLE u IN ACCESS EXCLUSIVE MODE");
    s.source.execute("INSERT INTO t VALUES (1, 'x')");
    let lsn = s.source.value("SELECT pg_current_wal_lsn()");
    s.until_table_same(&mut trucker, "t");
    let passed = format!("SELECT ({}) >= '{lsn}'", confirmed(&s));
    assert!(super::harness::holds_for(std::time::Duration::from_secs(2), || !s.source.is(&passed)));
    blocker.execute("ROLLBACK");
    trucker.until("the slot moving on", || s.source.is(&passed));
}

#[test]
fn a_source_can_stop_while_an_output_is_stuck_and_nothing_is_lost() {
    let mut source = private_server(ServerOptions::default());
    let s = copy_of_t(Scenario::between(source.port(), output_server().port()));
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    let blocker = s.output.session();
    blocker.execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE");
    s.source.execute("INSERT INTO t VALUES (1, 'x')");
    let started = std::time::Instant::now();
    source.stop(StopMode::Fast).unwrap();
    assert!(started.elapsed().as_secs() < 20, "took {:?}", started.elapsed());
    source.start_again().unwrap();
    blocker.execute("COMMIT");
    s.until_table_same(&mut trucker, "t");
}

#[test]
fn a_publication_that_was_narrowed_is_refused() {
    let mut cases = vec![
        ("ALTER PUBLICATION p SET (publish = 'insert, update')", "doesn't publish all"),
        ("ALTER PUBLICATION p SET (publish_via_partition_root = false)", "publish_via_partition_root"),
    ];
    if super::harness::source_server().binaries().major() >= 15 {
        cases.push(("ALTER PUBLICATION p SET TABLE t (id)", "row filter or column list"));
        cases.push(("ALTER PUBLICATION p SET TABLE t WHERE (id > 1)", "row filter or column list"));
    }
    for (sql, words) in cases {
        let s = copy_of_t(Scenario::new());
        let slot = s.slot();
        refused(&s, || s.source.execute(&sql.replace(" p ", &format!(" {slot} "))), &[&slot, words]);
    }
}

#[test]
fn a_publication_that_is_narrowed_is_noticed_while_it_runs() {
    let mut cases = vec![("ALTER PUBLICATION p SET (publish = 'insert')", "was altered or made anew")];
    if super::harness::source_server().binaries().major() >= 15 {
        cases.push(("ALTER PUBLICATION p SET TABLE t WHERE (id > 1)", "row filter or column list"));
    }
    for (sql, words) in cases {
        let s = copy_of_t(Scenario::new());
        let mut trucker = s.run();
        s.until_following(&mut trucker, 1);
        s.source.execute(&sql.replace(" p ", &format!(" {} ", s.slot())));
        let ended = trucker.end_failed();
        assert_eq!(ended.code, Some(1), "{sql}: {}", ended.stderr);
        assert!(ended.stderr.contains(words), "{sql}: {}", ended.stderr);
    }
}
