//! One writer: of two processes on one project at most one makes progress, and one that was away while
//! another took over writes nothing more.

use trucker::change::Lsn;
use trucker::config::{PostgresConnection, SslMode};
use trucker::sandbox::{PostgresServer, ServerOptions};
use trucker::source::stream::ReplicationStream;

use super::harness::{
    PATIENCE, Scenario, Session, Trucker, config, eventually, output_server, private_server, source_server,
};

fn world() -> Scenario {
    world_between(source_server().port(), output_server().port())
}

fn world_between(source: u16, output: u16) -> Scenario {
    Scenario::between(source, output)
        .on_source("CREATE TABLE t (id int PRIMARY KEY)")
        .on_output("CREATE TABLE log (id int)")
        .pipeline(
            "log",
            &config("t", "log", &["on: {insert: insert, update: insert, delete: ignore, truncate: ignore}"]),
            &[],
        )
}

#[test]
fn a_second_process_does_not_disturb_the_first() {
    let s = world();
    let mut first = s.run();
    s.until_following(&mut first, 1);
    s.source.execute("INSERT INTO t VALUES (1)");
    let mut second = s.run();
    s.source.execute("INSERT INTO t VALUES (2)");
    s.until_same(&mut first, "SELECT id FROM t", "SELECT id FROM log");
    let waited = std::time::Instant::now();
    // It may wait for the slot, or give up with the code for that.
    let ended = eventually(std::time::Duration::from_secs(5), || !second.is_running());
    assert!(waited.elapsed().as_secs() < 10);
    if ended {
        let finished = second.wait();
        assert_eq!(finished.code, Some(5), "{}", finished.text());
        assert!(finished.text().contains(&s.slot()), "{}", finished.text());
    }
    s.source.execute("INSERT INTO t VALUES (3)");
    s.until_same(&mut first, "SELECT id FROM t", "SELECT id FROM log");
}

#[test]
fn two_processes_that_start_together_fill_the_output_once() {
    let s = world();
    s.source.execute("INSERT INTO t SELECT generate_series(1, 50000)");
    let processes = [s.run(), s.run()];
    let full = "SELECT count(*) >= 50000 FROM log";
    let is_full = || s.output.try_rows(full).is_ok_and(|rows| rows[0][0].as_deref() == Some("t"));
    assert!(eventually(PATIENCE, is_full), "{}{}", processes[0].stderr(), processes[1].stderr());
    drop(processes);
    s.source.execute("INSERT INTO t VALUES (60000)");
    s.once();
    s.assert_same("SELECT id FROM t", "SELECT id FROM log");
}

#[test]
fn a_process_that_was_stopped_while_another_took_over_writes_nothing() {
    let s = world();
    let mut zombie = s.run();
    s.until_following(&mut zombie, 1);
    for round in 0..20 {
        s.source.execute(&format!(
            "INSERT INTO t SELECT generate_series({}, {})",
            round * 100,
            round * 100 + 99
        ));
    }
    zombie.signal("STOP");
    // What the stopped one holds on the servers goes away, as it would after a timeout.
    for database in [&s.source, &s.output] {
        database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name <> 'test'",
        );
    }
    s.once();
    s.source.execute("INSERT INTO t VALUES (100000)");
    s.once();
    s.assert_same("SELECT id FROM t", "SELECT id FROM log");
    let mut heir = s.run();
    s.until_following(&mut heir, 1);
    zombie.signal("CONT");
    s.source.execute("INSERT INTO t VALUES (100001)");
    s.until_same(&mut heir, "SELECT id FROM t", "SELECT id FROM log");
    let steady = super::harness::holds_for(std::time::Duration::from_secs(3), || {
        s.output.number("SELECT count(*) - count(DISTINCT id) FROM log") == 0
    });
    assert!(steady, "the stopped process wrote again");
    drop(zombie);
    drop(heir);
    s.once();
    s.assert_same("SELECT id FROM t", "SELECT id FROM log");
}

#[test]
fn a_slot_that_something_else_reads_is_waited_for_and_its_holder_named() {
    let s = world();
    s.once();
    let to = PostgresConnection {
        name: "source".to_owned(),
        host: "127.0.0.1".to_owned(),
        port: s.source.port,
        database: s.source.name.clone(),
        user: PostgresServer::SUPERUSER.to_owned(),
        pass: None,
        sslmode: SslMode::Disable,
        ssl_root_cert: None,
        ssl_cert: None,
        ssl_key: None,
        wal_budget: Default::default(),
        failover: false,
        replica: None,
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stream = runtime.block_on(ReplicationStream::start(&to, &s.slot(), &s.slot(), Lsn::ZERO)).unwrap();
    let pid = s
        .source
        .value(&format!("SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{}'", s.slot()));
    s.source.execute("INSERT INTO t VALUES (1)");
    let said = s.once_fails(5);
    assert!(said.contains(&format!("held by process {pid} of the server's")), "{said}");
    let mut trucker = s.run();
    trucker.until_said("standing_by");
    drop(stream);
    drop(runtime);
    s.until_same(&mut trucker, "SELECT id FROM t", "SELECT id FROM log");
}

#[test]
fn the_process_that_waits_takes_over_within_seconds_of_the_others_death() {
    let s = world();
    let mut first = s.run();
    s.until_following(&mut first, 1);
    let mut second = s.run();
    second.until_said("waiting for it to end");
    s.source.execute("INSERT INTO t VALUES (1)");
    s.until_same(&mut first, "SELECT id FROM t", "SELECT id FROM log");
    first.kill9();
    let died = std::time::Instant::now();
    s.source.execute("INSERT INTO t VALUES (2)");
    s.until_same(&mut second, "SELECT id FROM t", "SELECT id FROM log");
    assert!(died.elapsed().as_secs() < 10, "took {:?}", died.elapsed());
}

/// Ends what a stopped process has on the source, as timeouts would.
fn end_on_source(s: &Scenario) {
    s.source.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND application_name <> 'test'",
    );
}

/// Lets the process get as far as its first row, keeps it there while it is stopped, and lets another take over.
fn stopped_at_its_first_row(s: &Scenario, mut zombie: Trucker, blocker: &Session) {
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    zombie.until("a row on its way", || s.output.number(waiting) > 0);
    zombie.signal("STOP");
    blocker.execute("ROLLBACK");
    assert!(eventually(PATIENCE, || s.output.number(waiting) == 0));
    end_on_source(s);
    s.once();
    s.source.execute("INSERT INTO t VALUES (100000)");
    s.once();
    s.assert_same("SELECT id FROM t", "SELECT id FROM log");
    zombie.signal("CONT");
    let ended = zombie.wait();
    assert_eq!(ended.code, Some(5), "{}", ended.stderr);
    assert!(ended.stderr.contains("another trucker has taken pipeline log over"), "{}", ended.stderr);
    s.source.execute("INSERT INTO t VALUES (100001)");
    s.once();
    s.assert_same("SELECT id FROM t", "SELECT id FROM log");
}

#[test]
fn a_process_stopped_inside_its_transaction_finds_it_undone_and_ends() {
    let s = world();
    let mut zombie = s.run();
    s.until_following(&mut zombie, 1);
    let blocker = s.output.session();
    blocker.execute("BEGIN; LOCK TABLE log IN SHARE MODE");
    s.source.execute("INSERT INTO t SELECT generate_series(1, 100)");
    stopped_at_its_first_row(&s, zombie, &blocker);
}

#[test]
fn a_process_stopped_inside_its_backfill_finds_it_undone_and_ends() {
    let s = world();
    s.source.execute("INSERT INTO t SELECT generate_series(1, 100)");
    let blocker = s.output.session();
    blocker.execute("BEGIN; LOCK TABLE log IN SHARE MODE");
    stopped_at_its_first_row(&s, s.run(), &blocker);
}

#[test]
fn a_process_that_stays_stopped_is_taken_over_from() {
    // Its connections live on: the servers end them, the walsender's and the lock's.
    let source = private_server(ServerOptions::default().set("wal_sender_timeout", "5s"));
    let s = world_between(source.port(), output_server().port());
    let mut first = s.run();
    s.until_following(&mut first, 1);
    let looked = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'trucker' AND query LIKE '%pg_publication_rel%'";
    first.until("a look at the publication", || s.source.number(looked) > 0);
    let mut second = s.run();
    second.until_said("waiting for it to end");
    first.signal("STOP");
    s.source.execute("INSERT INTO t VALUES (1)");
    let took_over = || s.output.number("SELECT count(*) FROM log") == 1;
    assert!(eventually(3 * PATIENCE, took_over), "{}", second.stderr());
    first.signal("CONT");
    s.source.execute("INSERT INTO t VALUES (2)");
    s.until_same(&mut second, "SELECT id FROM t", "SELECT id FROM log");
    // Should the heir end in turn, the one that was stopped finds out, at the latest with its next batch.
    second.kill9();
    s.source.execute("INSERT INTO t VALUES (3)");
    assert_eq!(first.wait().code, Some(5));
    s.once();
    s.assert_same("SELECT id FROM t", "SELECT id FROM log");
}
