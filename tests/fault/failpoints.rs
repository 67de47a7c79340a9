//! A death at each place of the table "If the process dies …" in ARCHITECTURE.md, at the first time it is reached and at a
//! later one; and a COMMIT whose answer is lost. After each the next start makes good what there is to make good.

use std::fs;
use std::path::Path;

use super::harness::{PATIENCE, Scenario, Trucker, config, eventually};
use super::proxy::Proxy;

/// With the hits at which to die. There is one publication and one slot; there are three pipelines to backfill.
const FAILPOINTS: [(&str, &[u64]); 12] = [
    ("publication_made", &[1]),
    ("slot_made", &[1]),
    ("backfill_copied", &[1, 3]),
    ("backfill_committed", &[1, 2]),
    ("frame_read", &[1, 30]),
    ("sql_run", &[1, 4]),
    ("rows_written", &[1, 5]),
    ("checkpoint_moved", &[1, 7]),
    ("commit_answered", &[1, 6]),
    ("flushed", &[1, 6]),
    ("floor_raised", &[1, 6]),
    ("feedback_sent", &[1, 4]),
];

const TRANSFORM: &str = "SELECT 1 AS id, new.n AS n, 1 AS ones WHERE {{ operation }} <> 'delete'
                         UNION ALL SELECT 1, -old.n, -1 WHERE {{ operation }} <> 'insert'";
const LOAD: &str = "INSERT INTO counter AS c SELECT id, sum(n), sum(ones) FROM {{ rows }} GROUP BY id
                    ON CONFLICT (id) DO UPDATE SET n = c.n + excluded.n, ones = c.ones + excluded.ones";

/// A copy, a log of what came, and a counter, over tables with rows in them.
fn world() -> Scenario {
    let counter = "input: {connection: source, table: t}\noutput: {connection: output}\n";
    let append = "on: {insert: insert, update: ignore, delete: ignore, truncate: ignore}";
    Scenario::new()
        .on_source(
            "CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL); ALTER TABLE t REPLICA IDENTITY FULL;
             CREATE TABLE l (id bigserial PRIMARY KEY)",
        )
        .on_output(
            "CREATE TABLE t (id int PRIMARY KEY, n int); CREATE TABLE log (id bigint);
             CREATE TABLE counter (id int PRIMARY KEY, n bigint, ones bigint)",
        )
        .pipeline("t", &config("t", "t", &[]), &[])
        .pipeline("log", &config("l", "log", &[append]), &[])
        .pipeline("counter", counter, &[("transform.sql", TRANSFORM), ("load.sql", LOAD)])
}

/// A few transactions of every kind.
fn change(s: &Scenario, round: usize) {
    s.source.execute(&format!(
        "BEGIN; INSERT INTO t SELECT i, i FROM generate_series({round}, {round} + 20) i ON CONFLICT (id) DO UPDATE SET n = t.n + 1;
         INSERT INTO l DEFAULT VALUES; COMMIT;
         BEGIN; DELETE FROM t WHERE id % 7 = {round} % 7; INSERT INTO l DEFAULT VALUES; INSERT INTO l DEFAULT VALUES; COMMIT;
         UPDATE t SET n = n + 3 WHERE id % 3 = 0"
    ));
}

fn check(s: &Scenario) {
    s.once();
    s.assert_table_same("t");
    s.assert_same("SELECT id FROM l", "SELECT id FROM log");
    s.assert_same("SELECT sum(n), count(*) FROM t", "SELECT n, ones FROM counter");
}

fn start(s: &Scenario, variables: &[(String, String)]) -> Trucker {
    Trucker::start(&s.logs(), &["run", s.dir().to_str().unwrap(), "--http", "127.0.0.1:0"], variables)
}

fn dies_at(failpoint: &str, count: u64) {
    let s = world();
    (0..3).for_each(|round| change(&s, round));
    let mut trucker = start(&s, &[("TRUCKER_FAILPOINT".to_owned(), format!("{failpoint}:{count}"))]);
    let mut round = 3;
    let has_died = eventually(PATIENCE, || {
        change(&s, round);
        round += 1;
        !trucker.is_running()
    });
    assert!(has_died, "{failpoint}: never reached {count} times\n{}", trucker.stderr());
    assert_eq!(trucker.wait().code, None, "{failpoint}: it ended otherwise");
    change(&s, round);
    check(&s);
}

fn die(of: usize, shares: usize) {
    for (failpoint, counts) in FAILPOINTS.iter().skip(of).step_by(shares) {
        counts.iter().for_each(|count| dies_at(failpoint, *count));
    }
}

#[test]
fn a_death_at_any_named_place_loses_nothing_and_repeats_nothing() {
    die(0, 2);
}

#[test]
fn a_death_at_any_other_named_place_loses_nothing_and_repeats_nothing() {
    die(1, 2);
}

/// The answer to a COMMIT of the output is lost; then the process dies, or only its connection.
fn loses_an_answer(dies: bool) {
    let s = world();
    let proxy = Proxy::start(s.output.port);
    let yml = fs::read_to_string(s.dir().join("trucker.yml")).unwrap();
    let port = |port: u16| format!("port: {port}\n    database: {}", s.output.name);
    s.file("trucker.yml", &yml.replace(&port(s.output.port), &port(proxy.port)));
    change(&s, 0);
    let mut trucker = s.run();
    // The first ones are the backfills'.
    for round in 1..9 {
        proxy.set_trap();
        trucker.until("a COMMIT on its way", || {
            change(&s, round);
            proxy.has_caught()
        });
        if dies {
            trucker.kill9();
            trucker = s.run();
        }
        proxy.heal();
    }
    change(&s, 9);
    s.until_same(&mut trucker, "SELECT id FROM l", "SELECT id FROM log");
    trucker.terminate();
    check(&s);
}

#[test]
fn a_commit_whose_answer_is_lost_is_neither_lost_nor_repeated() {
    loses_an_answer(false);
}

#[test]
fn a_death_between_commit_and_its_answer_loses_nothing_and_repeats_nothing() {
    loses_an_answer(true);
}

#[test]
fn every_failpoint_of_the_program_is_died_at_and_described() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join("src")];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let calls = text.split("failpoint::reach(\"").skip(1);
            found.extend(calls.map(|rest| rest.split('"').next().unwrap().to_owned()));
        }
    }
    found.sort();
    found.dedup();
    let mut known: Vec<&str> = FAILPOINTS.iter().map(|(name, _)| *name).collect();
    // With an output of ClickHouse's: tests/e2e/clickhouse.rs, tests/fault/clickhouse/faults.rs.
    known.push("rows_sent");
    known.sort_unstable();
    assert_eq!(found, known);
    let architecture = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    for name in known {
        assert!(architecture.contains(&format!("`{name}`")), "ARCHITECTURE.md doesn't name {name}");
    }
}
