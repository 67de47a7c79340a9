//! Transactions of every shape: how they begin and end, what they are made of, and what else is in the stream.

use trucker::sandbox::{PostgresServer, ServerOptions, StopMode};

use super::harness::{Scenario, Trucker, config, output_server, private_server};

const APPEND: &str = "on: {insert: insert, update: insert, delete: ignore, truncate: ignore}";

/// A copy of `t`, a log of its changes, and a join over it.
fn world(s: Scenario) -> Scenario {
    s.on_source("CREATE TABLE t (id bigint PRIMARY KEY, v int)")
        .on_output(
            "CREATE TABLE t (id bigint PRIMARY KEY, v int); CREATE TABLE log (id bigint, total bigint)",
        )
        .copies("t")
        .pipeline(
            "log",
            &config("t", "log", &[APPEND]),
            &[("transform.sql", "SELECT row.id, (SELECT count(*) FROM t WHERE t.id = row.id) AS total")],
        )
}

fn check(s: &Scenario, trucker: &mut Trucker) {
    s.until_table_same(trucker, "t");
    s.until_same(trucker, "SELECT id, 1 FROM t", "SELECT id, total FROM log");
}

fn private(options: ServerOptions) -> (PostgresServer, Scenario) {
    let source = private_server(options);
    let s = world(Scenario::between(source.port(), output_server().port()));
    (source, s)
}

#[test]
fn savepoints_and_exceptions_leave_what_they_kept_and_nothing_else() {
    let s = world(Scenario::new());
    let mut trucker = s.run();
    s.until_following(&mut trucker, 2);
    // One subtransaction for each row, more than a snapshot lists.
    let block = |first: i64, end: &str| {
        format!(
            "BEGIN; DO $$ BEGIN FOR i IN {first} .. {first} + 2999 LOOP
               BEGIN INSERT INTO t VALUES (i, 1); IF i % 3 = 0 THEN RAISE 'no'; END IF; EXCEPTION WHEN OTHERS THEN NULL; END;
             END LOOP; END $$; {end}"
        )
    };
    s.source.execute(&block(0, "COMMIT"));
    s.source.execute(&block(10_000, "ROLLBACK"));
    s.source.execute(
        "BEGIN; INSERT INTO t VALUES (-1); SAVEPOINT a; INSERT INTO t VALUES (-2); SAVEPOINT b; TRUNCATE t; ROLLBACK TO b;
         DELETE FROM t; ROLLBACK TO a; INSERT INTO t VALUES (-3); RELEASE a; COMMIT",
    );
    assert_eq!(s.source.number("SELECT count(*) FROM t"), 2002);
    check(&s, &mut trucker);
}

#[test]
fn a_prepared_transaction_arrives_when_it_is_committed_and_never_when_rolled_back() {
    let (mut source, s) = private(ServerOptions::default().set("max_prepared_transactions", "10"));
    let mut trucker = s.run();
    s.until_following(&mut trucker, 2);
    s.source.execute("BEGIN; INSERT INTO t VALUES (1, 1); PREPARE TRANSACTION 'a,b ''c'''");
    s.source.execute("BEGIN; INSERT INTO t VALUES (2, 1); PREPARE TRANSACTION 'undone'");
    s.source.execute("INSERT INTO t VALUES (3, 1)");
    check(&s, &mut trucker);
    trucker.kill9();
    source.restart(StopMode::Immediate).unwrap();
    let mut trucker = s.run();
    s.source.execute("INSERT INTO t VALUES (4, 1)");
    check(&s, &mut trucker);
    s.source.execute("COMMIT PREPARED 'a,b ''c'''");
    s.source.execute("ROLLBACK PREPARED 'undone'");
    s.source.execute("INSERT INTO t VALUES (5, 1)");
    check(&s, &mut trucker);
    assert_eq!(s.source.number("SELECT count(*) FROM t"), 4);
}

#[test]
fn messages_origins_and_types_in_the_stream_are_no_rows() {
    let s = Scenario::new()
        .on_source(
            "CREATE TYPE mood AS ENUM ('fine'); CREATE DOMAIN cents AS bigint CHECK (value >= 0);
             CREATE TYPE pair AS (a int, b text); CREATE TABLE t (id int PRIMARY KEY, m mood, c cents, p pair, ps pair[])",
        )
        .on_output("CREATE TABLE t (id int PRIMARY KEY, m text, c text, p text, ps text)")
        .copies("t");
    let origin = s.name.clone();
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    s.source.execute(&format!("SELECT pg_replication_origin_create('{origin}')"));
    s.source.execute(&format!(
        "BEGIN; SELECT pg_replication_origin_session_setup('{origin}');
         INSERT INTO t VALUES (1, 'fine', 5, (1, 'x,\"y'), ARRAY[(1, 'z')::pair]); SELECT pg_logical_emit_message(true, 'p', 'in it');
         SELECT pg_logical_emit_message(false, 'p', 'beside it'); UPDATE t SET c = 6; COMMIT;
         SELECT pg_replication_origin_session_reset()"
    ));
    s.source.execute(
        "BEGIN; INSERT INTO t VALUES (2); SELECT pg_logical_emit_message(false, 'p', 'stays'); ROLLBACK",
    );
    s.source.execute("INSERT INTO t VALUES (3, NULL, 0)");
    s.until_same(&mut trucker, "SELECT id, m::text, c::text, p::text, ps::text FROM t", "SELECT * FROM t");
    s.source.execute(&format!("SELECT pg_replication_origin_drop('{origin}')"));
}

#[test]
fn a_transaction_that_commits_where_the_last_one_ended_is_not_taken_for_loaded() {
    // Nobody else writes there, so that one commit record follows the other at once.
    let source = private_server(ServerOptions::default());
    let s = Scenario::between(source.port(), output_server().port())
        .on_source("CREATE TABLE t (id int PRIMARY KEY, v int)")
        .on_output("CREATE TABLE log (id int, v int)")
        .pipeline(
            "log",
            &config("t", "log", &[APPEND]),
            &[("transform.sql", "SELECT row.id, 1 / {{ row.v }} AS v")],
        );
    s.once();
    let (first, second) = (s.source.session(), s.source.session());
    first.execute("BEGIN; INSERT INTO t VALUES (1, 1)");
    second.execute("BEGIN; INSERT INTO t VALUES (2, 0)");
    first.execute("COMMIT");
    let end = first.try_rows("SELECT pg_current_wal_insert_lsn()").unwrap()[0][0].clone().unwrap();
    second.execute("COMMIT");
    let said = s.once_fails(1);
    assert!(said.contains("division by zero"), "{said}");
    assert_eq!(
        s.output.value("SELECT loaded_lsn FROM trucker.checkpoint"),
        end,
        "the first is loaded, and no more"
    );
    assert_eq!(s.output.value("SELECT string_agg(id::text, ' ') FROM log"), "1");
    s.file("log/transform.sql", "SELECT row.id, {{ row.v }} AS v");
    s.once();
    assert_eq!(s.output.value("SELECT string_agg(id::text, ' ' ORDER BY id) FROM log"), "1 2");
}

#[test]
fn rows_of_one_copy_arrive_each() {
    // They all have one LSN.
    let s = world(Scenario::new());
    s.once();
    s.source.execute("INSERT INTO t SELECT i, 1 FROM generate_series(1, 3) i");
    s.source.execute("COPY t (id) FROM PROGRAM 'seq 11 500'");
    let mut trucker = s.run();
    check(&s, &mut trucker);
}

#[test]
fn many_small_transactions_share_transactions_of_the_output() {
    let s = world(Scenario::new()).on_source("CREATE TABLE other (id int)");
    s.once();
    s.source.execute(
        "DO $$ BEGIN FOR i IN 1 .. 4000 LOOP
           IF i % 2 = 0 THEN INSERT INTO t VALUES (i, 1); ELSE INSERT INTO other VALUES (i); END IF; COMMIT;
         END LOOP; END $$",
    );
    s.once();
    s.assert_table_same("t");
    s.assert_same("SELECT id FROM t", "SELECT id FROM log");
    let commits = s.output.number("SELECT count(DISTINCT xmin::text) FROM t");
    assert!(commits < 200, "{commits} transactions for 2000");
}

#[test]
fn a_huge_transaction_that_is_killed_half_way_is_there_whole_or_not_at_all() {
    let s = world(Scenario::new());
    s.once();
    s.source.execute("INSERT INTO t SELECT i, 1 FROM generate_series(1, 150000) i");
    let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'trucker'
                AND backend_xid IS NOT NULL";
    for _ in 0..3 {
        let mut trucker = s.run();
        trucker.until("rows on their way", || s.output.number(open) > 0);
        trucker.kill9();
        let count = s.output.number("SELECT count(*) FROM t");
        assert!([0, 150_000].contains(&count), "{count} rows of one transaction");
    }
    s.once();
    s.assert_table_same("t");
    s.assert_same("SELECT id FROM t", "SELECT id FROM log");
}

#[test]
fn a_transaction_whose_stream_breaks_off_half_way_comes_once() {
    let s = world(Scenario::new()).on_source("ALTER TABLE t ADD body text");
    let mut trucker = s.run();
    s.until_following(&mut trucker, 2);
    let blocker = s.output.session();
    blocker.execute("BEGIN; LOCK TABLE log IN ACCESS EXCLUSIVE MODE");
    // More than all queues hold: its first pieces wait for the lock, its last ones are still at the source.
    s.source.execute("INSERT INTO t SELECT i, 1, repeat('x', 2000) FROM generate_series(1, 12000) i");
    let waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'log'::regclass AND NOT granted)";
    trucker.until("rows that wait", || s.output.is(waits));
    let slot = s.slot();
    s.source.execute(&format!(
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{slot}'"
    ));
    // Who waits for the lock reads no further, and doesn't see it.
    blocker.execute("COMMIT");
    trucker.until_said("connecting again");
    for table in ["log", "t"] {
        let each = "SELECT count(*), count(DISTINCT id), sum(id) FROM";
        s.until_same(&mut trucker, &format!("{each} t"), &format!("{each} {table}"));
    }
}

#[test]
fn a_start_that_waits_for_open_transactions_says_for_whom_and_leaves_no_slot_when_it_is_stopped() {
    let (_source, s) = private(ServerOptions::default().set("max_prepared_transactions", "5"));
    let writer = s.source.session();
    writer.execute("BEGIN; INSERT INTO t VALUES (1, 1)");
    let pid = writer.try_rows("SELECT pg_backend_pid()").unwrap()[0][0].clone().unwrap();
    s.source.execute("BEGIN; INSERT INTO t VALUES (2, 1); PREPARE TRANSACTION 'left behind'");
    let mut trucker = s.run();
    trucker.until_said("waits for open transactions to end");
    let said = trucker.stderr();
    assert!(
        said.contains(&format!("pid {pid}")) && said.contains("prepared transaction 'left behind'"),
        "{said}"
    );
    trucker.terminate();
    writer.execute("COMMIT");
    s.source.execute("COMMIT PREPARED 'left behind'");
    let slots = "SELECT count(*) FROM pg_replication_slots";
    assert!(
        super::harness::eventually(super::harness::PATIENCE, || s.source.number(slots) == 0),
        "a slot stays"
    );
    s.once();
    s.assert_table_same("t");
}

#[test]
fn a_backfill_that_waits_for_open_transactions_says_for_whom() {
    let (_source, s) = private(ServerOptions::default());
    s.once();
    s.source.execute("CREATE TABLE more (id int PRIMARY KEY)");
    s.output.execute("CREATE TABLE more (id int PRIMARY KEY)");
    s.write_pipeline("more", &config("more", "more", &[]), &[]);
    let writer = s.source.session();
    writer.execute("BEGIN; INSERT INTO more VALUES (1)");
    let pid = writer.try_rows("SELECT pg_backend_pid()").unwrap()[0][0].clone().unwrap();
    let mut trucker = s.run();
    trucker.until_said("a backfill's snapshot waits for open transactions");
    assert!(trucker.stderr().contains(&format!("pid {pid}")), "{}", trucker.stderr());
    // The others go on meanwhile.
    s.source.execute("INSERT INTO t VALUES (7, 1)");
    s.until_table_same(&mut trucker, "t");
    writer.execute("COMMIT");
    s.until_table_same(&mut trucker, "more");
}

#[test]
fn rows_that_the_slot_was_told_of_survive_a_crash_of_an_output_that_commits_asynchronously() {
    let mut output = private_server(
        ServerOptions::default().set("synchronous_commit", "off").set("wal_writer_delay", "10s"),
    );
    let s = world(Scenario::between(super::harness::source_server().port(), output.port()));
    let mut trucker = s.run();
    s.until_following(&mut trucker, 2);
    for round in 0..3 {
        s.source.execute(&format!("INSERT INTO t SELECT i, 1 FROM generate_series({round}1, {round}9) i"));
        let lsn = s.source.value("SELECT pg_current_wal_lsn()");
        let slot = s.slot();
        trucker.until("the slot being told", || {
            s.source.is(&format!(
                "SELECT confirmed_flush_lsn >= '{lsn}' FROM pg_replication_slots WHERE slot_name = '{slot}'"
            ))
        });
        output.kill9();
        output.start_again().unwrap();
        check(&s, &mut trucker);
    }
}

#[test]
fn a_slot_that_went_back_in_a_crash_of_the_source_repeats_nothing() {
    let (mut source, s) = private(ServerOptions::default());
    let mut trucker = s.run();
    s.until_following(&mut trucker, 2);
    s.source.execute("CHECKPOINT");
    let confirmed = "SELECT confirmed_flush_lsn FROM pg_replication_slots";
    let mut went_back = 0;
    for round in 0..5 {
        s.source.execute(&format!("INSERT INTO t VALUES ({round}, 1)"));
        check(&s, &mut trucker);
        let lsn = s.source.value("SELECT pg_current_wal_lsn()");
        trucker.until("the slot being told", || s.source.is(&format!("SELECT ({confirmed}) >= '{lsn}'")));
        trucker.kill9();
        source.kill9();
        source.start_again().unwrap();
        went_back += u32::from(s.source.is(&format!("SELECT ({confirmed}) < '{lsn}'")));
        trucker = s.run();
        s.source.execute(&format!("INSERT INTO t VALUES (100 + {round}, 1)"));
        check(&s, &mut trucker);
    }
    assert!(went_back > 0, "the slot never went back, so nothing was proved");
}
