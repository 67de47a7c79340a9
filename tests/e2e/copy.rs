//! A pipeline without any SQL copies columns of the same name.

use super::harness::{Scenario, config};

const ORDERS: &str =
    "CREATE TABLE orders (id bigint PRIMARY KEY, customer text, total numeric(10,2), paid boolean)";

#[test]
fn rows_that_are_there_and_rows_that_change_arrive() {
    let s = Scenario::new().tables(ORDERS).copies("orders");
    s.source
        .execute("INSERT INTO orders SELECT i, 'c' || i, i * 1.5, i % 2 = 0 FROM generate_series(1, 1000) i");
    let mut trucker = s.run();
    s.until_table_same(&mut trucker, "orders");
    s.source.execute("INSERT INTO orders VALUES (1001, NULL, NULL, NULL), (1002, '', 0, true)");
    s.source.execute("UPDATE orders SET total = total + 1, customer = NULL WHERE id <= 10");
    s.source.execute("DELETE FROM orders WHERE id BETWEEN 20 AND 30");
    s.until_table_same(&mut trucker, "orders");
    trucker.terminate();
    s.assert_table_same("orders");
}

#[test]
fn truncate_empties_the_output_and_later_rows_arrive() {
    let s = Scenario::new().tables(ORDERS).copies("orders");
    s.source.execute("INSERT INTO orders SELECT i FROM generate_series(1, 100) i");
    let mut trucker = s.run();
    s.until_table_same(&mut trucker, "orders");
    s.source.execute(
        "BEGIN; INSERT INTO orders VALUES (500); TRUNCATE orders; INSERT INTO orders VALUES (7); COMMIT",
    );
    s.until_table_same(&mut trucker, "orders");
    assert_eq!(s.output.value("SELECT string_agg(id::text, ',') FROM orders"), "7");
}

#[test]
fn truncate_of_several_tables_empties_each_output() {
    let s = Scenario::new()
        .tables("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)")
        .copies("a")
        .copies("b");
    s.source.execute("INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)");
    let mut trucker = s.run();
    s.until_table_same(&mut trucker, "a");
    s.until_table_same(&mut trucker, "b");
    s.source.execute("BEGIN; INSERT INTO b VALUES (2); TRUNCATE a, b RESTART IDENTITY CASCADE; INSERT INTO a VALUES (3); COMMIT");
    s.until_table_same(&mut trucker, "a");
    s.until_table_same(&mut trucker, "b");
}

#[test]
fn truncate_told_to_be_ignored_leaves_the_output_alone() {
    let s = Scenario::new().tables(ORDERS).pipeline(
        "orders",
        &config("orders", "orders", &["on: {truncate: ignore}"]),
        &[],
    );
    s.source.execute("INSERT INTO orders VALUES (1), (2)");
    s.once();
    s.source.execute("TRUNCATE orders; INSERT INTO orders VALUES (3)");
    s.once();
    assert_eq!(s.output.value("SELECT string_agg(id::text, ',' ORDER BY id) FROM orders"), "1,2,3");
}

#[test]
fn output_columns_that_are_not_in_the_input_keep_their_default_and_then_their_value() {
    let s = Scenario::new()
        .on_source("CREATE TABLE t (id int PRIMARY KEY, name text)")
        .on_output("CREATE TABLE t (note text DEFAULT 'fresh', name text, id int PRIMARY KEY, made serial)")
        .copies("t");
    s.source.execute("INSERT INTO t VALUES (1, 'a')");
    s.once();
    s.output.execute("UPDATE t SET note = 'kept'");
    s.source.execute("UPDATE t SET name = 'b'; INSERT INTO t VALUES (2, 'c')");
    s.once();
    assert_eq!(
        s.output.value("SELECT string_agg(id || name || note, ' ' ORDER BY id) FROM t"),
        "1bkept 2cfresh"
    );
}

#[test]
fn without_backfill_only_changes_arrive() {
    let s = Scenario::new().tables(ORDERS);
    let text = config("orders", "orders", &[]) + "backfill: false\n";
    let s = s.pipeline("orders", &text, &[]);
    s.source.execute("INSERT INTO orders VALUES (1)");
    s.once();
    s.source.execute("INSERT INTO orders VALUES (2)");
    s.once();
    assert_eq!(s.output.value("SELECT string_agg(id::text, ',') FROM orders"), "2");
}

#[test]
fn several_input_tables_flow_into_one_output() {
    let s = Scenario::new()
        .on_source("CREATE TABLE orders (id int PRIMARY KEY, v text); CREATE TABLE old_orders (id int PRIMARY KEY, v text)")
        .on_output("CREATE TABLE orders (id int PRIMARY KEY, v text)");
    let text = config("x", "orders", &["on: {truncate: ignore}"])
        .replace("table: x", "tables: [public.orders, public.old_orders]");
    let s = s.pipeline("all_orders", &text, &[]);
    s.source.execute("INSERT INTO orders VALUES (1, 'a'); INSERT INTO old_orders VALUES (2, 'b')");
    s.once();
    s.source
        .execute("UPDATE orders SET v = 'c'; DELETE FROM old_orders; INSERT INTO old_orders VALUES (3, 'd')");
    s.once();
    s.assert_same("SELECT * FROM orders UNION ALL SELECT * FROM old_orders", "SELECT * FROM orders");
}

#[test]
fn actions_append_update_only_and_ignore_do_as_they_are_called() {
    let s = Scenario::new()
        .on_source("CREATE TABLE t (id int PRIMARY KEY, v int)")
        .on_output("CREATE TABLE log (id int, v int); CREATE TABLE known (id int PRIMARY KEY, v int)")
        .pipeline(
            "log",
            &config("t", "log", &["on: {insert: insert, update: insert, delete: ignore, truncate: ignore}"]),
            &[],
        )
        .pipeline(
            "known",
            &config("t", "known", &["on: {insert: update, update: update, delete: ignore}"]),
            &[],
        );
    s.output.execute("INSERT INTO known VALUES (1, 0)");
    s.source.execute("INSERT INTO t VALUES (1, 1), (2, 1)");
    s.once();
    s.source.execute("UPDATE t SET v = 2");
    s.source.execute("UPDATE t SET v = 2");
    s.source.execute("DELETE FROM t");
    s.once();
    let list = |table| {
        s.output.value(&format!("SELECT string_agg(id || ':' || v, ' ' ORDER BY id, v) FROM {table}"))
    };
    assert_eq!(list("log"), "1:1 1:2 1:2 2:1 2:2 2:2");
    assert_eq!(list("known"), "1:2");
}

#[test]
fn a_stop_by_signal_finishes_and_exits_with_zero() {
    for signal in ["INT", "TERM"] {
        let s = Scenario::new().tables(ORDERS).copies("orders");
        let mut trucker = s.run();
        s.until_following(&mut trucker, 1);
        s.source.execute("INSERT INTO orders VALUES (1)");
        trucker.signal(signal);
        assert_eq!(trucker.wait().code, Some(0), "SIG{signal}");
        s.once();
        s.assert_table_same("orders");
    }
}
