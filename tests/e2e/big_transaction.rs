//! Memory stays bounded whatever the size of a transaction, a row set or a backlog.

use super::harness::{Scenario, config};

const LIMIT_KIB: u64 = 128 * 1024;

fn rows() -> u64 {
    if std::env::var_os("TRUCKER_BIG").is_some() { 5_000_000 } else { 300_000 }
}

fn copy() -> Scenario {
    Scenario::new().tables("CREATE TABLE t (id bigint PRIMARY KEY, a int, body text)").copies("t")
}

const SUM: &str = "SELECT count(*), sum(id), sum(a), sum(hashtextextended(body, 0)::numeric) FROM t";

#[test]
fn one_huge_transaction_fits_in_little_memory() {
    let s = copy();
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    s.source.execute(&format!(
        "INSERT INTO t SELECT i, i % 7, repeat(md5(i::text), 5) FROM generate_series(1, {}) i",
        rows()
    ));
    let mut trucker = finish(&s, trucker);
    s.source.execute("BEGIN; UPDATE t SET a = a + 1; DELETE FROM t WHERE id % 3 = 0; COMMIT");
    trucker = finish(&s, trucker);
    let peak = trucker.peak_memory_kib();
    assert!(peak < LIMIT_KIB, "took {peak} KiB");
}

#[test]
fn a_backfill_fits_in_little_memory() {
    let s = copy();
    s.source.execute(&format!(
        "INSERT INTO t SELECT i, i % 7, repeat(md5(i::text), 5) FROM generate_series(1, {}) i",
        rows()
    ));
    let trucker = finish(&s, s.run());
    let peak = trucker.peak_memory_kib();
    assert!(peak < LIMIT_KIB, "took {peak} KiB");
}

#[test]
fn a_backlog_of_wide_rows_fits_in_little_memory() {
    let s = copy();
    s.once();
    for i in 0..60 {
        s.source.execute(&format!(
            "INSERT INTO t SELECT i, 0, repeat('x', 1000000) FROM generate_series({0}, {0} + 3) i",
            i * 4
        ));
    }
    let trucker = finish(&s, s.run());
    let peak = trucker.peak_memory_kib();
    assert!(peak < LIMIT_KIB, "took {peak} KiB");
}

#[test]
fn a_change_that_becomes_very_many_rows_fits_in_little_memory() {
    let s = Scenario::new()
        .on_source("CREATE TABLE t (id int PRIMARY KEY, n int)")
        .on_output("CREATE TABLE fan (t_id int, nr int, body text, PRIMARY KEY (t_id, nr))")
        .pipeline(
            "fan",
            &config("t", "fan", &["replace: [t_id]"]),
            &[
                ("transform.sql", "SELECT {{ row.id }} AS t_id, nr, repeat(md5(nr::text), 10) AS body FROM generate_series(1, {{ row.n }}) nr"),
                ("delete.sql", "SELECT {{ old.id }} AS t_id"),
            ],
        );
    s.once();
    s.source.execute("INSERT INTO t SELECT i, 1000 FROM generate_series(1, 300) i");
    let mut trucker = s.run();
    s.until_same(
        &mut trucker,
        "SELECT count(*), sum(nr) FROM t, generate_series(1, n) nr",
        "SELECT count(*), sum(nr) FROM fan",
    );
    let peak = trucker.peak_memory_kib();
    assert!(peak < LIMIT_KIB, "took {peak} KiB");
}

/// Waits until both sides agree; longer than the usual patience where five million rows were asked for.
fn finish(s: &Scenario, mut trucker: super::harness::Trucker) -> super::harness::Trucker {
    let wanted = s.source.rows(SUM);
    let time = super::harness::PATIENCE * if rows() > 1_000_000 { 10 } else { 3 };
    let count = s.source.number("SELECT count(*) FROM t");
    // The sum is dear: only where it can be the same.
    let is_there = || s.output.number("SELECT count(*) FROM t") == count && s.output.rows(SUM) == wanted;
    let done = super::harness::eventually(time, || is_there() || !trucker.is_running());
    assert!(done && s.output.rows(SUM) == wanted, "not loaded: {}", trucker.stderr());
    trucker
}
