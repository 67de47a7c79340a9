//! ClickHouse as an output, and a process that stops, dies again and again, or sleeps while another takes its place: what is
//! read with FINAL is what the source holds, and nothing is done twice where that is promised.

use std::time::Duration;

use super::harness::{ClickHouseDatabase, Row, Scenario, Session, clickhouse_server, config, holds_for};

const PEOPLE: [&str; 2] = [
    "SELECT id::text, name, turn::text FROM people",
    "SELECT toString(id), name, toString(turn) FROM people FINAL",
];
/// The last turn in which there was somebody under that number.
const LATEST: [&str; 2] = [
    "SELECT DISTINCT ON (id) id::text, name FROM history ORDER BY id, turn DESC",
    "SELECT toString(id), argMaxMerge(name) FROM latest GROUP BY id ORDER BY id",
];
const LOG: [&str; 2] =
    ["SELECT id::text, turn::text FROM history", "SELECT toString(id), toString(turn) FROM log"];

/// People whose numbers change; a copy of them, the latest name under each number as a state, and a log of all.
fn people() -> (Scenario, ClickHouseDatabase) {
    let out = clickhouse_server().database();
    out.execute(
        "CREATE TABLE people (id Int32, name String, turn Int64, _version UInt128, _is_deleted UInt8)
         ENGINE = ReplacingMergeTree(_version, _is_deleted) ORDER BY (id);\n\
         CREATE TABLE latest (id Int32, name AggregateFunction(argMax, String, Int64)) ENGINE = AggregatingMergeTree ORDER BY id;\n\
         CREATE TABLE log (id Int32, turn Int64) ENGINE = MergeTree ORDER BY tuple() SETTINGS non_replicated_deduplication_window = 10000",
    );
    let input = "input: {connection: source, table: people}\noutput: {connection: output, on: {delete: ignore, truncate: ignore}}\n";
    let append = "on: {insert: insert, update: insert, delete: ignore, truncate: ignore}";
    let s = Scenario::new()
        .on_source(
            "CREATE TABLE people (id int PRIMARY KEY, name text NOT NULL, turn bigint NOT NULL);
             CREATE TABLE history (id int, name text, turn bigint);
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO history VALUES (NEW.id, NEW.name, NEW.turn); RETURN NULL; END $$;
             CREATE TRIGGER note AFTER INSERT OR UPDATE ON people FOR EACH ROW EXECUTE FUNCTION note();
             CREATE SEQUENCE turns",
        )
        .to_clickhouse(&out)
        .pipeline("people", &config("people", &format!("{}.people", out.name), &[]), &[])
        .pipeline("log", &config("people", &format!("{}.log", out.name), &[append]), &[])
        .pipeline(
            "latest",
            input,
            &[
                ("transform.sql", "SELECT row.id, row.name, row.turn"),
                (
                    "load.sql",
                    "INSERT INTO latest SELECT id, argMaxState(name, turn) FROM {{ rows }} GROUP BY id",
                ),
            ],
        );
    s.once();
    (s, out)
}

/// People come, go, and swap their numbers.
fn change(s: &Scenario, round: usize) {
    let first = round * 40;
    s.source.execute(&format!(
        "INSERT INTO people SELECT g, 'p' || g, nextval('turns') FROM generate_series({first}, {first} + 60) g
         ON CONFLICT (id) DO UPDATE SET name = people.name || '!', turn = nextval('turns');
         BEGIN; UPDATE people SET id = -nextval('turns'), turn = nextval('turns') WHERE id % 5 = {round} % 5;
         DELETE FROM people WHERE id % 7 = {round} % 7; COMMIT;
         UPDATE people SET id = 100000 + nextval('turns'), name = 'moved', turn = nextval('turns') WHERE id BETWEEN {first} AND {first} + 9"
    ));
}

fn sorted(mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort();
    rows
}

fn is_same(s: &Scenario, out: &ClickHouseDatabase) -> bool {
    [PEOPLE, LATEST, LOG].iter().all(|[source, output]| {
        out.try_rows(output).is_ok_and(|rows| sorted(rows) == sorted(s.source.rows(source)))
    })
}

#[track_caller]
fn assert_same(s: &Scenario, out: &ClickHouseDatabase) {
    for [source, output] in [PEOPLE, LATEST, LOG] {
        assert_eq!(sorted(out.rows(output)), sorted(s.source.rows(source)), "{output}");
    }
}

#[test]
fn a_process_that_was_stopped_goes_on_where_it_was_and_sends_nothing_again() {
    let (s, out) = people();
    let mut trucker = s.run();
    change(&s, 0);
    trucker.until("catching up", || is_same(&s, &out));
    trucker.terminate();
    out.execute("SYSTEM STOP MERGES people");
    let sent = out.value("SELECT count() FROM people");
    let mut trucker = s.run();
    s.source.execute("INSERT INTO people VALUES (-1, 'after', nextval('turns'))");
    trucker.until("catching up again", || is_same(&s, &out));
    let finished = trucker.terminate();
    assert!(!finished.stderr.contains("\"backfilled\""), "{}", finished.stderr);
    let more = out.value("SELECT count() FROM people").parse::<u64>().unwrap() - sent.parse::<u64>().unwrap();
    assert_eq!(more, 1, "rows that it had sent already");
}

#[test]
fn a_process_that_dies_every_few_hundred_milliseconds_leaves_what_the_source_holds() {
    let (s, out) = people();
    for round in 0..12 {
        let trucker = s.run();
        change(&s, round);
        holds_for(Duration::from_millis(150 + 97 * (round as u64 % 7)), || true);
        trucker.kill9();
    }
    s.once();
    assert_same(&s, &out);
}

/// Ends its sessions on the source, so that nothing keeps another from taking its place.
fn lose(s: &Scenario) {
    let admin = Session::try_connect(s.source.port, "postgres").unwrap();
    admin.execute(&format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'trucker' AND datname = '{}'",
        s.source.name
    ));
}

#[test]
fn a_process_that_sleeps_while_another_takes_over_changes_nothing_when_it_wakes_up() {
    let (s, out) = people();
    let mut sleeper = s.run();
    change(&s, 0);
    sleeper.until("catching up", || is_same(&s, &out));
    change(&s, 1);
    sleeper.signal("STOP");
    lose(&s);
    let mut heir = s.run();
    change(&s, 2);
    heir.until("catching up in its place", || is_same(&s, &out));
    sleeper.signal("CONT");
    let finished = sleeper.wait();
    assert_eq!(finished.code, Some(5), "{}", finished.stderr);
    change(&s, 3);
    heir.until("going on", || is_same(&s, &out));
    heir.terminate();
    assert_same(&s, &out);
}

#[test]
fn a_process_that_sleeps_in_its_backfill_brings_back_no_row_that_was_deleted_meanwhile() {
    let out = clickhouse_server().database();
    out.execute(
        "CREATE TABLE t (id Int32, v String, _version UInt128, _is_deleted UInt8)
         ENGINE = ReplacingMergeTree(_version, _is_deleted) ORDER BY id",
    );
    let s = Scenario::new()
        .on_source(
            "CREATE TABLE t (id int PRIMARY KEY, v text NOT NULL);
             INSERT INTO t SELECT g, repeat(md5(g::text), 100) FROM generate_series(1, 40000) g",
        )
        .to_clickhouse(&out)
        .pipeline("t", &config("t", &format!("{}.t", out.name), &[]), &[]);
    let mut sleeper = s.run();
    sleeper.until("a part of the backfill", || out.value("SELECT count() FROM t") != "0");
    sleeper.signal("STOP");
    assert_ne!(out.value("SELECT count() FROM t"), "40000", "it was too fast");
    // All but the COPY goes on being another's.
    let admin = Session::try_connect(s.source.port, "postgres").unwrap();
    admin.execute(&format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'trucker' AND datname = '{}'
         AND query !~ 'COPY'",
        s.source.name
    ));
    s.source.execute("DELETE FROM t WHERE id > 10");
    s.once();
    assert_eq!(out.value("SELECT count() FROM t FINAL"), "10");
    sleeper.signal("CONT");
    sleeper.wait();
    assert_eq!(out.value("SELECT count() FROM t FINAL"), "10");
}
