//! Into ClickHouse: catching up with one transaction of inserts, and a backfill, each beside one bare HTTP insert of the same rows in
//! the same form, which is what ClickHouse itself takes for them. Left out, with a word, where no ClickHouse is installed.

use std::time::{Duration, Instant};

use crate::Effort;
use crate::backfill::with_trucker;
use crate::catch_up::{ORDERS, orders};
use crate::consumer::{Cost, cost, start_trucker};
use crate::harness::{ClickHouseDatabase, ClickHouseServer};
use crate::report::Report;
use crate::world::{Servers, World};

const BARE: &str = "bare HTTP insert";
const PATIENCE: Duration = Duration::from_secs(600);

fn table(name: &str) -> String {
    format!(
        "CREATE TABLE {name} (id Int64, customer Int32, status String, cents Int64, note Nullable(String), \
         placed DateTime64(6, 'UTC'), is_paid Bool, _version UInt128, _is_deleted UInt8) \
         ENGINE = ReplacingMergeTree(_version, _is_deleted) ORDER BY id"
    )
}

/// A source with orders, and a pipeline of them into ClickHouse.
fn into_clickhouse(servers: &Servers, server: &ClickHouseServer) -> (World, ClickHouseDatabase) {
    let (world, database) = (World::new(servers, ORDERS), server.database());
    for name in ["orders", "bare"] {
        database.execute(&table(name));
    }
    world.lead_output_into(&database);
    world.pipeline("orders", &[], &[]);
    (world, database)
}

/// Both scenarios.
pub fn play(servers: &Servers, effort: Effort, report: &mut Report) {
    if !ClickHouseServer::is_installed() {
        eprintln!("== clickhouse: left out, since none is installed: run scripts/ensure-clickhouse");
        return;
    }
    let server = ClickHouseServer::start(&[]);
    catch_up(servers, &server, effort, report);
    backfill(servers, &server, effort, report);
}

fn catch_up(servers: &Servers, server: &ClickHouseServer, effort: Effort, report: &mut Report) {
    let (world, database) = into_clickhouse(servers, server);
    let finished = start_trucker(&world, &["--once"]).wait_for(PATIENCE);
    assert_eq!(finished.code, Some(0), "{}", finished.text());
    let inserts = effort.of(500_000);
    report.scenario("clickhouse inserts", inserts as f64, "changes", &[]);
    for repetition in 1..=effort.repetitions as u64 {
        let from = repetition * 10_000_000;
        world.source.execute(&orders(from, inserts));
        world.source.execute(&orders(from + inserts, 1));
        let started = Instant::now();
        let trucker = start_trucker(&world, &[]);
        let last = format!("SELECT count() FROM orders WHERE id = {}", from + inserts);
        while database.value(&last) != "1" {
            assert!(started.elapsed() < PATIENCE, "the last row never comes: {}", trucker.stderr());
            std::thread::sleep(Duration::from_millis(5));
        }
        report.add("trucker", cost(trucker, started.elapsed().as_secs_f64()));
        report.add(BARE, bare(&database, &format!("id >= {from}")));
    }
}

fn backfill(servers: &Servers, server: &ClickHouseServer, effort: Effort, report: &mut Report) {
    let rows = effort.of(1_000_000);
    report.scenario("clickhouse backfill", rows as f64, "rows", &[]);
    for _ in 0..effort.repetitions {
        let (world, database) = into_clickhouse(servers, server);
        world.source.execute(&orders(1, rows));
        world.source.execute("VACUUM ANALYZE orders");
        report.add("trucker", with_trucker(&world));
        report.add(BARE, bare(&database, "true"));
        assert_eq!(database.value("SELECT count() FROM orders FINAL"), rows.to_string());
    }
}

/// The same rows once more, in one request.
fn bare(database: &ClickHouseDatabase, filter: &str) -> Cost {
    let select = format!("SELECT * FROM orders WHERE {filter} FORMAT RowBinary");
    let rows = database.send(&select, Vec::new()).expect("the rows are there");
    let started = Instant::now();
    database.send("INSERT INTO bare FORMAT RowBinary", rows).expect("they can be written");
    Cost { seconds: started.elapsed().as_secs_f64(), ..Cost::default() }
}
