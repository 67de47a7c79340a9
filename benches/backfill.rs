//! What is in a table already, into an empty output: `trucker run --once` beside a binary COPY from table to table, and beside a
//! COPY of the same query where there is one.

use std::time::Instant;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio_postgres::{Client, NoTls};
use trucker::sandbox::PostgresServer;

use crate::Effort;
use crate::catch_up::ORDERS;
use crate::consumer::{Cost, cpu_seconds, start_trucker};
use crate::harness::Database;
use crate::report::Report;
use crate::world::{Servers, World};

const PIPED: &str = "COPY | COPY";
const COLUMNS: &str = "o.id, o.customer, o.status, o.cents, o.note, o.placed, o.is_paid";

/// A plain copy.
pub fn play(servers: &Servers, effort: Effort, report: &mut Report) {
    measure(servers, effort, report, "backfill", ORDERS, &[], &format!("SELECT {COLUMNS} FROM orders o"));
}

/// With one table joined.
pub fn play_joined(servers: &Servers, effort: Effort, report: &mut Report) {
    let tables = format!(
        "{ORDERS}; ALTER TABLE orders ADD country text; CREATE TABLE customers (id int PRIMARY KEY, country text NOT NULL); \
         INSERT INTO customers SELECT i, 'country ' || i % 50 FROM generate_series(0, 999) i"
    );
    let sql = "SELECT row.id, row.customer, row.status, row.cents, row.note, row.placed, row.is_paid, c.country \
               FROM customers c WHERE c.id = row.customer";
    let query = format!("SELECT {COLUMNS}, c.country FROM orders o JOIN customers c ON c.id = o.customer");
    measure(servers, effort, report, "backfill_joined", &tables, &[("transform.sql", sql)], &query);
}

fn measure(
    servers: &Servers,
    effort: Effort,
    report: &mut Report,
    name: &str,
    tables: &str,
    files: &[(&str, &str)],
    query: &str,
) {
    let rows = effort.of(1_000_000);
    report.scenario(name, rows as f64, "rows", &[(PIPED, 1.0 / 1.15)]);
    for repetition in 0..effort.repetitions {
        let world = World::new(servers, tables);
        world.pipeline("orders", &[], files);
        world.source.execute(&format!(
            "INSERT INTO orders SELECT i, i % 1000, 'placed', i * 7 % 100000, 'note of order ' || i, now(), i % 3 = 0 \
             FROM generate_series(1, {rows}) i"
        ));
        world.source.execute("VACUUM ANALYZE orders");
        for turn in 0..2 {
            if (repetition + turn) % 2 == 0 {
                report.add("trucker", with_trucker(&world));
            } else {
                let seconds = piped(&world, query);
                report.add(PIPED, Cost { seconds, ..Cost::default() });
            }
        }
        let counted = |database: &Database| database.number("SELECT count(*) FROM orders") as u64;
        assert_eq!((counted(&world.trucker_output), counted(&world.native_output)), (rows, rows));
    }
}

/// From the start of the process until its end; what it used is looked at shortly before that.
pub fn with_trucker(world: &World) -> Cost {
    let started = Instant::now();
    let mut trucker = start_trucker(world, &["--once"]);
    let mut cost = Cost::default();
    while trucker.is_running() {
        if let Some(peak) = trucker.peak_memory_if_running() {
            cost.peak_mib = Some(peak as f64 / 1024.0);
            cost.cpu_seconds = Some(cpu_seconds(trucker.pid()));
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    cost.seconds = started.elapsed().as_secs_f64();
    let finished = trucker.wait();
    assert_eq!(finished.code, Some(0), "{}", finished.text());
    cost
}

/// The same rows by hand: one connection to another.
fn piped(world: &World, query: &str) -> f64 {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    runtime.block_on(async {
        let started = Instant::now();
        let (source, output) = (connect(&world.source).await, connect(&world.native_output).await);
        let out = source
            .copy_out(&format!("COPY ({query}) TO STDOUT (FORMAT binary)"))
            .await
            .expect("it can be read");
        let into = output
            .copy_in::<_, Bytes>("COPY orders FROM STDIN (FORMAT binary)")
            .await
            .expect("it can be written");
        let (mut out, mut into) = (Box::pin(out), Box::pin(into));
        while let Some(bytes) = out.next().await {
            into.feed(bytes.expect("it goes on")).await.expect("it goes on");
        }
        into.as_mut().finish().await.expect("it ends");
        started.elapsed().as_secs_f64()
    })
}

async fn connect(database: &Database) -> Client {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(database.port).user(PostgresServer::SUPERUSER).dbname(&database.name);
    let (client, connection) = config.connect(NoTls).await.expect("the server takes connections");
    tokio::spawn(connection);
    client
}
