//! The SQL runs only where the transaction that triggered it is visible. With synchronous replication a
//! change reaches the stream before anybody else can see it.

use std::time::Duration;

use trucker::sandbox::ServerOptions;

use super::harness::{PATIENCE, Scenario, config, eventually, holds_for, output_server, private_server};

#[test]
fn nothing_is_written_before_the_transaction_is_visible_and_then_once() {
    // Only the commit under test waits for a standby: nobody else asks for one.
    let source = private_server(
        ServerOptions::default().set("synchronous_standby_names", "ghost").set("synchronous_commit", "local"),
    );
    let s = Scenario::between(source.port(), output_server().port())
        .on_source(
            "CREATE TABLE orders (id int PRIMARY KEY);
             CREATE TABLE lines (order_id int, sku text)",
        )
        .on_output("CREATE TABLE log (id int, skus text)")
        .pipeline(
            "log",
            &config("orders", "log", &["on: {insert: insert, update: insert, delete: ignore, truncate: ignore}"]),
            &[(
                "transform.sql",
                "SELECT {{ row.id }} AS id, (SELECT string_agg(sku, ',' ORDER BY sku) FROM lines WHERE order_id = {{ row.id }}) AS skus",
            )],
        );
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    let watch = s.source.session();
    let commit = s
        .source
        .session()
        .send("SET synchronous_commit = on; BEGIN; INSERT INTO orders VALUES (1); INSERT INTO lines VALUES (1, 'a'), (1, 'b'); COMMIT");
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    assert!(eventually(PATIENCE, || watch.try_rows(waiting).unwrap()[0][0].as_deref() == Some("1")));
    let nothing = || s.output.number("SELECT count(*) FROM log") == 0;
    assert!(holds_for(Duration::from_secs(3), nothing), "written before it was visible");
    source.set("synchronous_standby_names", "").unwrap();
    source.reload().unwrap();
    commit.join().unwrap().unwrap();
    trucker.until("the row", || !nothing());
    trucker.terminate();
    s.once();
    assert_eq!(s.output.rows("SELECT * FROM log"), [[Some("1".to_owned()), Some("a,b".to_owned())]]);
}

#[test]
fn rows_that_one_transaction_wrote_together_are_joined_together() {
    let s = Scenario::new()
        .on_source("CREATE TABLE orders (id int PRIMARY KEY); CREATE TABLE lines (order_id int, n int)")
        .on_output("CREATE TABLE o (id int PRIMARY KEY, lines bigint)")
        .pipeline(
            "o",
            &config("orders", "o", &[]),
            &[
                (
                    "transform.sql",
                    "SELECT {{ row.id }} AS id, count(*) AS lines FROM lines WHERE order_id = {{ row.id }}",
                ),
                ("delete.sql", "SELECT {{ old.id }} AS id"),
            ],
        );
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    for id in 1..=300 {
        s.source.execute(&format!(
            "BEGIN; INSERT INTO orders VALUES ({id}); INSERT INTO lines SELECT {id}, generate_series(1, 3); COMMIT"
        ));
    }
    s.until_same(&mut trucker, "SELECT id, 3 FROM orders", "SELECT * FROM o");
}
