//! The WAL that a stopped pipeline makes the source keep: said loudly beyond the budget, and only where the
//! configuration says so, its place is given up.

use super::harness::{Scenario, Trucker, config, holds_for, private_server};
use trucker::sandbox::{PostgresServer, ServerOptions};

/// A source of its own (its WAL is), with a budget of 1 MB.
fn world(on_wal_budget: &str, pipelines: &[&str]) -> (PostgresServer, Scenario) {
    let server = private_server(ServerOptions::default());
    let s = Scenario::between(server.port(), super::harness::output_server().port());
    let yml = std::fs::read_to_string(s.dir().join("trucker.yml")).unwrap();
    let budget = format!("  - name: source\n    wal_budget: 1MB\n    on_wal_budget: {on_wal_budget}\n");
    s.file("trucker.yml", &yml.replacen("  - name: source\n", &budget, 1));
    s.source.execute("CREATE TABLE t (id int PRIMARY KEY, v int)");
    for name in pipelines {
        s.output.execute(&format!("CREATE TABLE {name} (id int PRIMARY KEY, v int)"));
        s.write_pipeline(name, &config("t", name, &[]), &[]);
    }
    (server, s)
}

/// `bad` fails, then the source writes much more than the budget.
fn fail_and_write(s: &Scenario, trucker: &mut Trucker, pipelines: i64) {
    s.until_following(trucker, pipelines);
    s.output.execute("ALTER TABLE bad ADD CONSTRAINT small CHECK (v < 100)");
    s.source.execute("INSERT INTO t VALUES (1, 1000)");
    trucker.until_said("23514");
    s.source.execute("CREATE TABLE filler (x text)");
    for _ in 0..5 {
        s.source.execute("INSERT INTO filler SELECT repeat('x', 1000) FROM generate_series(1, 5000)");
        s.source.execute("SELECT pg_switch_wal(); CHECKPOINT");
    }
}

fn is_held(s: &Scenario) -> bool {
    let slot = s.slot();
    s.source.is(&format!(
        "SELECT pg_current_wal_lsn() - confirmed_flush_lsn > 1000000 FROM pg_replication_slots WHERE slot_name = '{slot}'"
    ))
}

#[test]
fn beyond_the_budget_the_pipeline_that_holds_the_wal_is_named_and_keeps_its_place() {
    let (_server, s) = world("warn", &["good", "bad"]);
    let mut trucker = s.run();
    fail_and_write(&s, &mut trucker, 2);
    trucker.until_said("more than wal_budget 1 MB");
    let text = trucker.stderr();
    assert!(text.contains("pipeline bad, which has failed") && text.contains("trucker resume bad"), "{text}");
    assert!(is_held(&s), "its place was given up");
    s.output.execute("ALTER TABLE bad DROP CONSTRAINT small");
    let dir = s.dir();
    assert_eq!(s.start(&["resume", "bad", dir.to_str().unwrap()]).wait().code, Some(0));
    s.until_same(&mut trucker, "SELECT * FROM t", "SELECT * FROM bad");
    trucker.terminate();
}

#[test]
fn a_failed_pipelines_place_is_given_up_where_the_configuration_says_so_and_a_backfill_brings_it_back() {
    let (_server, s) = world("give_up", &["good", "bad"]);
    let mut trucker = s.run();
    fail_and_write(&s, &mut trucker, 2);
    trucker.until_said("place_given_up");
    trucker.until("the slot goes on", || {
        s.source.execute("INSERT INTO t SELECT max(id) + 1, 1 FROM t");
        !is_held(&s)
    });
    s.until_same(&mut trucker, "SELECT * FROM t", "SELECT * FROM good");
    let dir = s.dir();
    let text = s.start(&["status", dir.to_str().unwrap()]).wait().text();
    assert!(text.contains("to be filled") && text.contains("wal_budget 1 MB"), "{text}");
    assert!(text.contains("trucker backfill bad"), "{text}");
    s.output.execute("ALTER TABLE bad DROP CONSTRAINT small");
    let asked = s.start(&["backfill", "bad", "--dir", dir.to_str().unwrap()]).wait();
    assert_eq!(asked.code, Some(0), "{}", asked.text());
    s.source.execute("UPDATE t SET v = v + 1");
    s.until_same(&mut trucker, "SELECT * FROM t", "SELECT * FROM bad");
    s.source.execute("INSERT INTO t VALUES (1000000, 1)");
    s.until_same(&mut trucker, "SELECT * FROM t", "SELECT * FROM bad");
    trucker.terminate();
    s.once();
    s.assert_same("SELECT * FROM t", "SELECT * FROM bad");
}

#[test]
fn where_the_only_pipeline_gives_up_its_place_the_slot_goes_on_all_the_same() {
    let (_server, s) = world("give_up", &["bad"]);
    let mut trucker = s.run();
    fail_and_write(&s, &mut trucker, 1);
    trucker.until("the slot goes on", || !is_held(&s));
    s.output.execute("ALTER TABLE bad DROP CONSTRAINT small");
    trucker.kill9();
    // The next start fills it anew by itself.
    s.once();
    s.assert_same("SELECT * FROM t", "SELECT * FROM bad");
}

#[test]
fn a_pipeline_that_only_lags_never_loses_its_place() {
    let (_server, s) = world("give_up", &["good", "bad"]);
    let mut trucker = s.run();
    s.until_following(&mut trucker, 2);
    let blocker = s.output.session();
    blocker.execute("BEGIN; LOCK TABLE bad IN ACCESS EXCLUSIVE MODE");
    s.source.execute("INSERT INTO t VALUES (1, 1); CREATE TABLE filler (x text)");
    s.source.execute("INSERT INTO filler SELECT repeat('x', 1000) FROM generate_series(1, 20000)");
    s.source.execute("SELECT pg_switch_wal(); INSERT INTO t VALUES (2, 2)");
    trucker.until_said("pipeline bad, which stands at");
    assert!(holds_for(std::time::Duration::from_secs(12), || !trucker.stderr().contains("place_given_up")));
    blocker.execute("COMMIT");
    s.until_same(&mut trucker, "SELECT * FROM t", "SELECT * FROM bad");
    trucker.terminate();
}
