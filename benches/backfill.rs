//! What is in a table already, into an empty output: `trucker run --once` beside a binary COPY from table to table, beside a
//! COPY of the same query where there is one, and for a plain copy beside pgcopydb where that is installed.

use std::process::{Command, Stdio};
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
const PGCOPYDB: &str = "pgcopydb";
const COLUMNS: &str = "o.id, o.customer, o.status, o.cents, o.note, o.placed, o.is_paid";

/// One backfill.
struct Scenario<'a> {
    name: &'a str,
    tables: &'a str,
    files: &'a [(&'a str, &'a str)],
    /// What there is to be read, by hand.
    query: &'a str,
    rows: u64,
}

/// A plain copy.
pub fn play(servers: &Servers, effort: Effort, report: &mut Report) {
    let query = format!("SELECT {COLUMNS} FROM orders o");
    let rows = effort.of(1_000_000);
    let plain = Scenario { name: "backfill", tables: ORDERS, files: &[], query: &query, rows };
    plain.measure(servers, effort, report);
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
    let (files, rows) = ([("transform.sql", sql)], effort.of(1_000_000));
    let joined = Scenario { name: "backfill_joined", tables: &tables, files: &files, query: &query, rows };
    joined.measure(servers, effort, report);
}

/// A large table, with SQL that costs the source more than writing costs the output: sums over another table, row by row.
pub fn play_parallel(servers: &Servers, effort: Effort, report: &mut Report) {
    let rows = effort.of(250_000);
    let tables = format!(
        "{ORDERS}; ALTER TABLE orders SET (fillfactor = 10); ALTER TABLE orders ADD items bigint, ADD most bigint; \
         CREATE TABLE items (order_id bigint, cents bigint)"
    );
    let sums = "count(*) AS items, max(i.cents) AS most FROM items i WHERE i.order_id =";
    let sql = format!(
        "SELECT row.id, row.customer, row.status, row.cents, row.note, row.placed, row.is_paid, s.items, s.most \
         FROM (SELECT {sums} row.id) AS s"
    );
    let query = format!(
        "SELECT {COLUMNS}, s.items, s.most FROM orders o CROSS JOIN LATERAL (SELECT {sums} o.id) AS s"
    );
    let files = [("transform.sql", sql.as_str())];
    let parallel =
        Scenario { name: "backfill_parallel", tables: &tables, files: &files, query: &query, rows };
    parallel.measure(servers, effort, report);
}

impl Scenario<'_> {
    fn measure(&self, servers: &Servers, effort: Effort, report: &mut Report) {
        let rows = self.rows;
        report.scenario(self.name, rows as f64, "rows", &[(PIPED, 1.0 / 1.15)]);
        let mut who = vec!["trucker", PIPED];
        if self.files.is_empty() && Command::new(PGCOPYDB).arg("--version").output().is_ok() {
            who.push(PGCOPYDB);
        }
        for repetition in 0..effort.repetitions {
            let world = World::new(servers, self.tables);
            world.pipeline("orders", &[], self.files);
            self.fill(&world);
            for turn in 0..who.len() {
                let who = who[(repetition + turn) % who.len()];
                let seconds = |seconds| Cost { seconds, ..Cost::default() };
                if who != "trucker" {
                    world.native_output.execute("TRUNCATE orders");
                }
                let cost = match who {
                    PIPED => seconds(piped(&world, self.query)),
                    PGCOPYDB => seconds(pgcopydb(&world)),
                    _ => with_trucker(&world),
                };
                report.add(who, cost);
            }
            let counted = |database: &Database| database.number("SELECT count(*) FROM orders") as u64;
            assert_eq!((counted(&world.trucker_output), counted(&world.native_output)), (rows, rows));
        }
    }

    fn fill(&self, world: &World) {
        world.source.execute(&format!(
            "INSERT INTO orders SELECT i, i % 1000, 'placed', i * 7 % 100000, 'note of order ' || i, now(), i % 3 = 0 \
             FROM generate_series(1, {}) i",
            self.rows
        ));
        if self.tables.contains("TABLE items") {
            world.source.execute(
                "INSERT INTO items SELECT id, cents + i FROM orders, generate_series(1, 8) i; \
                 CREATE INDEX ON items (order_id)",
            );
        }
        world.source.execute("VACUUM ANALYZE");
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

/// By one job, into the table that is there.
fn pgcopydb(world: &World) -> f64 {
    let uri = |database: &Database| {
        format!("postgresql://{}@127.0.0.1:{}/{}", PostgresServer::SUPERUSER, database.port, database.name)
    };
    let started = Instant::now();
    let status = Command::new(PGCOPYDB)
        .args(["copy", "table-data", "--source", &uri(&world.source), "--target", &uri(&world.native_output)])
        .args(["--table-jobs", "1", "--not-consistent", "--restart", "--dir"])
        .arg(world.logs().join("pgcopydb"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(status.as_ref().is_ok_and(|status| status.success()), "pgcopydb: {status:?}");
    started.elapsed().as_secs_f64()
}

async fn connect(database: &Database) -> Client {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(database.port).user(PostgresServer::SUPERUSER).dbname(&database.name);
    let (client, connection) = config.connect(NoTls).await.expect("the server takes connections");
    tokio::spawn(connection);
    client
}
