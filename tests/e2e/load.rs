//! load.sql replaces the default write; since every change is applied once, what it counts is exact.

use super::harness::{Random, Scenario, is_soak};

const TRANSFORM: &str = "SELECT {{ new.country }} AS country, {{ new.cents }} AS cents WHERE {{ operation }} <> 'delete'\n\
                         UNION ALL\nSELECT {{ old.country }}, -{{ old.cents }} WHERE {{ operation }} <> 'insert'";

const LOAD: &str = "INSERT INTO revenue AS r (country, cents)\nSELECT country, sum(cents) FROM {{ rows }} GROUP BY country\n\
                    ON CONFLICT (country) DO UPDATE SET cents = r.cents + excluded.cents";

const EXPECTED: &str = "SELECT country, sum(cents) FROM orders GROUP BY country";
const FOUND: &str = "SELECT country, cents FROM revenue WHERE cents <> 0";

fn revenue(on: &str, more: &[(&str, &str)]) -> Scenario {
    let config = format!("input: {{connection: source, table: orders}}\noutput:\n  connection: output\n{on}");
    let files = [&[("transform.sql", TRANSFORM), ("load.sql", LOAD)], more].concat();
    Scenario::new()
        .on_source(
            "CREATE TABLE orders (id int PRIMARY KEY, country text NOT NULL, cents bigint NOT NULL);
             ALTER TABLE orders REPLICA IDENTITY FULL",
        )
        .on_output("CREATE TABLE revenue (country text PRIMARY KEY, cents numeric NOT NULL)")
        .pipeline("revenue", &config, &files)
}

#[test]
fn a_counter_follows_inserts_updates_and_deletes() {
    let s = revenue("  on: {truncate: ignore}\n", &[]);
    s.source.execute("INSERT INTO orders SELECT i, 'c' || i % 4, i FROM generate_series(1, 1000) i");
    let mut trucker = s.run();
    s.until_same(&mut trucker, EXPECTED, FOUND);
    s.source.execute("UPDATE orders SET cents = cents * 2, country = 'c1' WHERE id % 3 = 0");
    s.source.execute(
        "BEGIN; DELETE FROM orders WHERE id % 5 = 0; INSERT INTO orders VALUES (5, 'new', 7); COMMIT",
    );
    s.until_same(&mut trucker, EXPECTED, FOUND);
}

#[test]
fn a_counter_stays_exact_through_kills() {
    let s = revenue("", &[]);
    let mut random = Random::seeded(11);
    s.source.execute("INSERT INTO orders SELECT i, 'c' || i % 4, i FROM generate_series(1, 20000) i");
    let changes = |random: &mut Random| {
        for _ in 0..15 {
            let id = random.within(1..20_000);
            s.source.execute(&format!(
                "BEGIN; UPDATE orders SET cents = cents + {id}, country = 'c' || {id} % 5 WHERE id BETWEEN {id} AND {};
                 DELETE FROM orders WHERE id = {id}; INSERT INTO orders VALUES ({id}, 'x', 1); COMMIT",
                id + random.within(0..200)
            ));
        }
    };
    for _ in 0..if is_soak() { 100 } else { 10 } {
        let mut trucker = s.run();
        let enough = random.within(0..15);
        let mut steps = 0;
        trucker.until("some work", || {
            changes(&mut random);
            steps += 1;
            steps * 5 > enough
        });
        trucker.kill9();
    }
    s.once();
    s.assert_same(EXPECTED, FOUND);
}

#[test]
fn truncate_stops_a_pipeline_with_load_sql_that_has_no_word_on_it() {
    let s = revenue("", &[]);
    s.source.execute("INSERT INTO orders VALUES (1, 'a', 5)");
    s.once();
    s.source.execute("TRUNCATE orders");
    s.source.execute("INSERT INTO orders VALUES (2, 'b', 6)");
    let text = s.once_fails(1);
    assert!(text.contains("revenue") && text.to_lowercase().contains("truncate"), "{text}");
    assert_eq!(s.output.value("SELECT string_agg(country || cents, ' ') FROM revenue"), "a5");
}

#[test]
fn truncate_sql_says_what_truncate_does() {
    let s = revenue("", &[("truncate.sql", "TRUNCATE revenue")]);
    s.source.execute("INSERT INTO orders VALUES (1, 'a', 5)");
    s.once();
    s.source.execute("BEGIN; INSERT INTO orders VALUES (3, 'a', 1); TRUNCATE orders; INSERT INTO orders VALUES (2, 'b', 6); COMMIT");
    s.once();
    s.assert_same(EXPECTED, FOUND);
}

#[test]
fn truncate_told_to_be_ignored_leaves_the_counter() {
    let s = revenue("  on: {truncate: ignore}\n", &[]);
    s.source.execute("INSERT INTO orders VALUES (1, 'a', 5)");
    s.once();
    s.source.execute("TRUNCATE orders; INSERT INTO orders VALUES (2, 'b', 6)");
    s.once();
    assert_eq!(
        s.output.value("SELECT string_agg(country || cents, ' ' ORDER BY country) FROM revenue"),
        "a5 b6"
    );
}

#[test]
fn load_sql_sees_runs_of_one_operation_in_commit_order() {
    let config =
        "input: {connection: source, table: t}\noutput:\n  connection: output\n  on: {truncate: ignore}\n";
    let s = Scenario::new()
        .on_source("CREATE TABLE t (id int PRIMARY KEY, v int)")
        .on_output("CREATE TABLE runs (nr serial, what text, ids text)")
        .pipeline(
            "runs",
            config,
            &[
                ("transform.sql", "SELECT {{ operation }} AS what, {{ row.id }} AS id"),
                ("load.sql", "INSERT INTO runs (what, ids) SELECT min(what), string_agg(id::text, ',' ORDER BY id) FROM {{ rows }};"),
            ],
        );
    s.once();
    s.source.execute("BEGIN; INSERT INTO t VALUES (1, 0), (2, 0); UPDATE t SET v = 1; DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (3, 0); COMMIT");
    s.once();
    assert_eq!(
        s.output.value("SELECT string_agg(what || ':' || ids, ' ' ORDER BY nr) FROM runs"),
        "insert:1,2 update:1,2 delete:1 insert:3"
    );
}
