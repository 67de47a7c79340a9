//! Exactly once, in commit order, whole transactions, whatever is killed and when.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use trucker::sandbox::{ServerOptions, StopMode};

use super::harness::{
    Database, Random, Scenario, Session, Trucker, config, is_soak, private_output, private_server,
};

/// Each change of `t` is a line of `log`; `t` is copied too; `nr` of the source says in which order rows
/// were written by one session.
pub fn copy_and_log(s: Scenario) -> Scenario {
    let append = "on: {insert: insert, update: insert, delete: insert, truncate: ignore}";
    s.on_source(
        "CREATE TABLE t (id int PRIMARY KEY, worker int, n int); ALTER TABLE t REPLICA IDENTITY FULL;
         CREATE TABLE audit (nr bigserial, what text, id int, worker int, n int);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
           IF TG_OP = 'DELETE' THEN INSERT INTO audit (what, id, worker, n) VALUES ('delete', OLD.id, OLD.worker, OLD.n);
           ELSE INSERT INTO audit (what, id, worker, n) VALUES (lower(TG_OP), NEW.id, NEW.worker, NEW.n); END IF;
           RETURN NULL;
         END $$;
         CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION note()",
    )
    .on_output(
        "CREATE TABLE t (id int PRIMARY KEY, worker int, n int);
         CREATE TABLE log (nr bigserial, what text, id int, worker int, n int)",
    )
    .pipeline("t", &config("t", "t", &[]), &[])
    .pipeline(
        "log",
        &(config("t", "log", &[append]) + "backfill: false\n"),
        &[("transform.sql", "SELECT {{ operation }} AS what, row.id, row.worker, row.n")],
    )
}

/// Writes until told to stop; transactions that a dying server takes back are tried no further.
fn work(database: &Database, worker: u64, mut random: Random, stop: &AtomicBool) {
    let connect = || Session::try_connect(database.port, &database.name);
    let mut session = connect();
    while !stop.load(Ordering::Relaxed) {
        let Ok(open) = &session else {
            session = connect();
            continue;
        };
        let sql = transaction(worker, &mut random);
        if open.try_execute(&sql).is_err_and(|error| error.as_db_error().is_none()) {
            session = connect();
        }
    }
}

fn transaction(worker: u64, random: &mut Random) -> String {
    let mut sql = "BEGIN".to_owned();
    for _ in 0..random.within(1..6) {
        // Workers keep to their own keys, so that they never deadlock and hardly wait.
        let id = worker * 1000 + random.within(0..200);
        let other = worker * 1000 + random.within(0..200);
        sql += &match random.within(0..9) {
            0..4 => format!(
                "; INSERT INTO t VALUES ({id}, {worker}, 1) ON CONFLICT (id) DO UPDATE SET n = t.n + 1"
            ),
            4..6 => format!("; UPDATE t SET n = n + 1 WHERE id BETWEEN {id} AND {}", id + 5),
            6 => format!("; DELETE FROM t WHERE id = {id}"),
            7 => format!(
                "; UPDATE t SET id = {other}, n = n + 1 WHERE id = {id} AND NOT EXISTS (SELECT FROM t WHERE id = {other})"
            ),
            _ => format!(
                "; SAVEPOINT s; DELETE FROM t WHERE worker = {worker}; ROLLBACK TO s; UPDATE t SET n = n WHERE id = {id}"
            ),
        };
    }
    sql + if random.within(0..6) == 0 { "; ROLLBACK" } else { "; COMMIT" }
}

/// Runs `disturb` while three workers write; then everything has to be there, once and in order.
pub fn check_under_load(s: &Scenario, random: &mut Random, disturb: impl FnOnce(&mut Random)) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for worker in 1..=3 {
            let (random, stop) = (random.fork(), &stop);
            scope.spawn(move || work(&s.source, worker, random, stop));
        }
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| disturb(random)));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
    s.once();
    s.assert_table_same("t");
    let per_worker = |table: &str| {
        format!(
            "SELECT worker, row_number() OVER (PARTITION BY worker ORDER BY nr), what, id, n FROM {table}"
        )
    };
    s.assert_same(&per_worker("audit"), &per_worker("log"));
}

/// Starts the log's pipeline before the first change, so that the audit and the log begin alike.
pub fn begin(s: &Scenario) {
    s.once();
}

pub fn kills() -> u64 {
    if is_soak() { 300 } else { 10 }
}

/// Lets the program get somewhere: until it has loaded `count` further lines of the log.
pub fn let_work(s: &Scenario, trucker: &mut Trucker, count: u64) {
    let lines = || s.output.try_rows("SELECT count(*) FROM log").map_or(0, |rows| number(&rows[0][0]));
    let before = lines();
    trucker.until("loading", || lines() >= before + count);
}

fn number(cell: &Option<String>) -> u64 {
    cell.as_deref().unwrap_or("0").parse().unwrap()
}

#[test]
fn kill_9_of_trucker_at_any_moment_neither_loses_nor_repeats_a_change() {
    let s = copy_and_log(Scenario::new());
    let mut random = Random::seeded(3);
    begin(&s);
    check_under_load(&s, &mut random, |random| {
        for _ in 0..kills() {
            let mut trucker = s.run();
            let_work(&s, &mut trucker, random.within(0..200));
            trucker.kill9();
        }
    });
}

#[test]
fn kill_9_right_after_the_start_neither_loses_nor_repeats_a_change() {
    let s = copy_and_log(Scenario::new());
    let mut random = Random::seeded(4);
    begin(&s);
    check_under_load(&s, &mut random, |random| {
        for _ in 0..kills() {
            let started = std::time::Instant::now();
            let mut trucker = s.run();
            let life = std::time::Duration::from_millis(random.within(0..400));
            trucker.until("a short life", || started.elapsed() >= life);
            trucker.kill9();
        }
    });
}

#[test]
fn stops_by_signal_neither_lose_nor_repeat_a_change() {
    let s = copy_and_log(Scenario::new());
    let mut random = Random::seeded(5);
    begin(&s);
    check_under_load(&s, &mut random, |random| {
        for _ in 0..kills() / 2 {
            let mut trucker = s.run();
            let_work(&s, &mut trucker, random.within(1..100));
            trucker.terminate();
        }
    });
}

#[test]
fn a_crash_of_the_output_server_neither_loses_nor_repeats_a_change() {
    let mut output = private_output(ServerOptions::default());
    let s = copy_and_log(Scenario::between(super::harness::source_server().port(), output.port()));
    let mut random = Random::seeded(6);
    begin(&s);
    check_under_load(&s, &mut random, |random| {
        let mut trucker = s.run();
        for _ in 0..kills() / 3 {
            let_work(&s, &mut trucker, random.within(1..200));
            match random.within(0..2) {
                0 => output.stop(StopMode::Immediate).unwrap(),
                _ => output.kill9(),
            }
            output.start_again().unwrap();
        }
        let_work(&s, &mut trucker, 10);
    });
}

#[test]
fn a_crash_of_the_source_server_neither_loses_nor_repeats_a_change() {
    let mut source = private_server(ServerOptions::default());
    let s = copy_and_log(Scenario::between(source.port(), super::harness::output_server().port()));
    let mut random = Random::seeded(8);
    begin(&s);
    check_under_load(&s, &mut random, |random| {
        let mut trucker = s.run();
        for _ in 0..kills() / 3 {
            let_work(&s, &mut trucker, random.within(1..200));
            match random.within(0..3) {
                0 => source.stop(StopMode::Fast).unwrap(),
                1 => source.stop(StopMode::Immediate).unwrap(),
                _ => source.kill9(),
            }
            source.start_again().unwrap();
        }
        let_work(&s, &mut trucker, 10);
    });
}

#[test]
fn terminated_sessions_on_either_server_are_made_again() {
    let s = copy_and_log(Scenario::new());
    let mut random = Random::seeded(9);
    begin(&s);
    check_under_load(&s, &mut random, |random| {
        let mut trucker = s.run();
        for _ in 0..kills() / 2 {
            let_work(&s, &mut trucker, random.within(1..100));
            let database = if random.within(0..2) == 0 { &s.source } else { &s.output };
            database.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name <> 'test'",
            );
        }
        let_work(&s, &mut trucker, 10);
    });
}

#[test]
fn a_source_transaction_is_never_seen_half() {
    let s = Scenario::new().tables("CREATE TABLE bank (id int PRIMARY KEY, cents bigint)").copies("bank");
    s.source.execute("INSERT INTO bank SELECT i, 1000 FROM generate_series(1, 20) i");
    let mut trucker = s.run();
    s.until_table_same(&mut trucker, "bank");
    let mut random = Random::seeded(10);
    let reader = s.output.session();
    for _ in 0..200 {
        let (a, b) = (random.within(1..21), random.within(1..21));
        s.source.execute(&format!(
            "BEGIN; UPDATE bank SET cents = cents - 7 WHERE id = {a}; UPDATE bank SET cents = cents + 7 WHERE id = {b}; COMMIT"
        ));
        let sum = reader.try_rows("SELECT sum(cents), count(*) FROM bank").unwrap();
        assert_eq!(sum, [[Some("20000".to_owned()), Some("20".to_owned())]]);
    }
    s.until_table_same(&mut trucker, "bank");
}
