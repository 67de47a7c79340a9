//! `trucker verify` of outputs in ClickHouse: it names exactly the keys whose rows differ from what the SQL makes of the input, as
//! FINAL shows them, and has them made anew.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::json;

use super::harness::{ClickHouseDatabase, Scenario, clickhouse_server, config};
use super::verify::{found, verify};

const VERSIONED: &str =
    "_version UInt128, _is_deleted UInt8) ENGINE = ReplacingMergeTree(_version, _is_deleted)";

fn world() -> (Scenario, ClickHouseDatabase) {
    let out = clickhouse_server().database();
    out.execute(&format!(
        "CREATE TABLE flat (order_id Int64, country Nullable(String), total Decimal(12, 3), tags Array(String), {VERSIONED} ORDER BY order_id"
    ));
    let transform = "SELECT row.id AS order_id, row.country, row.total::numeric(12,3) AS total, row.tags WHERE row.country <> 'x'";
    let s = Scenario::new()
        .on_source(
            "CREATE TABLE orders (id int PRIMARY KEY, country text, total numeric, tags text[] NOT NULL DEFAULT '{a,ü}');
             INSERT INTO orders SELECT n, CASE WHEN n % 3 = 0 THEN 'x' ELSE 'Chile' END, n * 1.5 FROM generate_series(1, 400) n",
        )
        .to_clickhouse(&out)
        .pipeline(
            "flat",
            &config("orders", &format!("{}.flat", out.name), &[]),
            &[("transform.sql", transform), ("delete.sql", "SELECT old.id AS order_id")],
        );
    (s, out)
}

fn damage(out: &ClickHouseDatabase) {
    out.execute(
        "DELETE FROM flat WHERE order_id = 10;\n\
         ALTER TABLE flat UPDATE tags = ['wrong'] WHERE order_id = 20 SETTINGS mutations_sync = 2;\n\
         INSERT INTO flat (order_id, country) VALUES (3, 'stray'), (100000, 'stray')",
    );
}

const SOURCE: &str = "SELECT id::text, country, trim_scale(total)::text FROM orders WHERE country <> 'x'";
const OUTPUT: &str = "SELECT toString(order_id), country, toString(total) FROM flat FINAL";

fn is_same(s: &Scenario, out: &ClickHouseDatabase) -> bool {
    let (mut wanted, mut found) = (s.source.rows(SOURCE), out.rows(OUTPUT));
    wanted.sort();
    found.sort();
    wanted == found
}

#[test]
fn under_load_verify_of_clickhouse_finds_the_damage_alone_and_repairs_it() {
    let (s, out) = world();
    let mut trucker = s.run();
    trucker.until("the backfill", || is_same(&s, &out));
    let session = s.source.session();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 1000;
            while !is_over.load(Ordering::Relaxed) {
                // Rows that change all the time, come and go; none of those that are damaged.
                session.execute(&format!(
                    "UPDATE orders SET total = total + 1 WHERE id BETWEEN 200 AND 220;
                     INSERT INTO orders VALUES ({n}, 'Peru', 1);
                     UPDATE orders SET country = CASE country WHEN 'x' THEN 'Peru' ELSE 'x' END WHERE id BETWEEN 261 AND 290;
                     DELETE FROM orders WHERE id = {n} - 20;
                     UPDATE orders SET id = id + 500000 WHERE id = {n} - 10"
                ));
                n += 1;
            }
        });
        let (code, sound) = found(&s, &[]);
        damage(&out);
        let (damaged, differences) = found(&s, &["--chunk", "1000"]);
        let repaired = verify(&s, &["--repair"]);
        let (after, left) = found(&s, &[]);
        is_over.store(true, Ordering::Relaxed);
        assert_eq!((code, &sound["differences"]), (Some(0), &json!(0)), "{sound}");
        assert_eq!(damaged, Some(1));
        assert_eq!(
            (&differences["missing"], &differences["different"], &differences["extra"]),
            (&json!([["10"]]), &json!([["20"]]), &json!([["3"], ["100000"]])),
            "{differences}"
        );
        assert_eq!(repaired.0, Some(0), "{repaired:?}");
        assert!(repaired.2.contains("made anew"), "{repaired:?}");
        assert_eq!((after, &left["differences"]), (Some(0), &json!(0)), "{left}");
    });
    trucker.until("equal rows", || is_same(&s, &out));
}

#[test]
fn a_repair_in_clickhouse_counts_less_than_what_is_streamed_after_it() {
    let (s, out) = world();
    s.once();
    damage(&out);
    let (code, found_first) = found(&s, &["--repair"]);
    assert_eq!(code, Some(0), "{found_first}");
    // Before the run that repairs, damaged rows change.
    s.source.execute(
        "UPDATE orders SET total = 7 WHERE id = 20; DELETE FROM orders WHERE id = 10; UPDATE orders SET country = 'Peru' WHERE id = 3",
    );
    s.once();
    assert!(is_same(&s, &out));
    let (code, stdout, _) = verify(&s, &[]);
    assert_eq!((code, stdout.as_str()), (Some(0), "flat: 267 keys, all alike\n"));
    // And once more, at the same place in the stream.
    for _ in 0..2 {
        damage(&out);
        assert_eq!(verify(&s, &["--repair"]).0, Some(0));
        s.once();
        assert_eq!(verify(&s, &[]).0, Some(0), "{:?}", verify(&s, &[]));
    }
}

#[test]
fn keys_of_every_kind_are_compared_or_it_is_said_which_are_not() {
    let out = clickhouse_server().database();
    out.execute(&format!(
        "CREATE TABLE k (b Bool, n Decimal(10, 2), t String, at DateTime64(6, 'UTC'), s DateTime64(0, 'UTC'), d Date32, u UUID, m LowCardinality(String), x String, v Int32, {VERSIONED} \
         ORDER BY (b, n, t, at, s, d, u, m, x);\n\
         CREATE TABLE f (k Float64, {VERSIONED} ORDER BY k;\n\
         CREATE TABLE j (k Int32, doc JSON, {VERSIONED} ORDER BY k"
    ));
    let s = Scenario::new()
        .on_source(
            "CREATE TABLE k (b bool, n numeric(9,1), t text, at timestamptz, s timestamp(0), d date, u uuid, m char(3), x bytea, v int NOT NULL, PRIMARY KEY (b, n, t, at, s, d, u, m, x));
             INSERT INTO k SELECT n % 2 = 0, n / 2.0, E'a\\t\\n\\\\''' || n, '2024-01-01 00:00:00+00'::timestamptz + n * interval '0.5 s', '2024-01-01 12:30:30'::timestamp + n * interval '10 s', '2024-01-01'::date + n,
                 gen_random_uuid(), 'a', '\\x0aff', n FROM generate_series(-20, 20) n;
             CREATE TABLE f (k float8 PRIMARY KEY); CREATE TABLE j (k int PRIMARY KEY, doc jsonb NOT NULL)",
        )
        .to_clickhouse(&out);
    let s = ["k", "f", "j"]
        .into_iter()
        .fold(s, |s, t| s.pipeline(t, &config(t, &format!("{}.{t}", out.name), &[]), &[]));
    s.once();
    let (code, stdout, stderr) = verify(&s, &["k", "j"]);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert!(
        stdout.contains("k: 41 keys, all alike") && stdout.contains("j: not compared: column doc"),
        "{stdout}"
    );
    let (code, stdout, stderr) = verify(&s, &["f"]);
    assert!(
        format!("{stdout}{stderr}").contains("key column k, double precision in Float64"),
        "{code:?} {stdout}{stderr}"
    );
    out.execute("ALTER TABLE k UPDATE v = 100 WHERE v % 3 = 0 SETTINGS mutations_sync = 2;\nDELETE FROM k WHERE v = 1");
    let (code, found) = found(&s, &["k", "--chunk", "4", "--repair"]);
    assert_eq!((code, &found["differences"]), (Some(0), &json!(14)), "{found}");
    s.once();
    let (code, stdout, _) = verify(&s, &["k"]);
    assert_eq!((code, stdout.as_str()), (Some(0), "k: 41 keys, all alike\n"));
}

#[test]
fn a_repair_in_clickhouse_that_cannot_be_done_is_refused_and_removes_nothing() {
    let out = clickhouse_server().database();
    out.execute(&format!(
        "CREATE TABLE big (id Int32, pad String, label Enum8('a' = 1), {VERSIONED} ORDER BY id"
    ));
    let s = Scenario::new()
        .on_source(
            "CREATE TABLE big (id int PRIMARY KEY, pad text NOT NULL, label text NOT NULL);
             INSERT INTO big SELECT n, repeat('x', 1000000), 'a' FROM generate_series(1, 20) n",
        )
        .to_clickhouse(&out)
        .pipeline(
            "big",
            &(config("big", &format!("{}.big", out.name), &[]) + "on_error: dead_letter\n"),
            &[],
        );
    let mut trucker = s.run();
    let count = |of: &str| out.value(&format!("SELECT count() FROM {of}"));
    let loaded = "20";
    trucker.until("the backfill", || count("big FINAL") == loaded);
    s.source.execute("INSERT INTO big VALUES (100, '', 'b')");
    trucker.until("the row that doesn't fit", || count("trucker_dead_letters FINAL") == "1");
    out.execute("ALTER TABLE big UPDATE pad = 'wrong' WHERE 1 SETTINGS mutations_sync = 2");
    let (code, stdout, stderr) = verify(&s, &["--repair"]);
    assert_eq!(code, Some(1), "{stdout}{stderr}");
    assert!(stderr.contains("big: the running process refuses: "), "{stderr}");
    assert_eq!(count("big FINAL"), loaded);
    // And another may be asked for.
    s.source.execute("DELETE FROM big WHERE id = 100");
    let (code, stdout, stderr) = verify(&s, &["--repair"]);
    assert!(code == Some(0) && !stderr.contains("refuses"), "{stdout}{stderr}");
    trucker.until("right rows", || count("big FINAL WHERE length(pad) = 1000000") == loaded);
}
