//! `trucker demo` runs the example project and ends well.

use super::harness::{ClickHouseServer, Scenario, source_server};

/// The demo runs servers of its own, of the source's version.
fn scenario() -> Scenario {
    let folder = source_server().binaries().folder();
    Scenario::new().variable("TRUCKER_PG_BIN", folder.to_str().unwrap())
}

#[test]
fn the_demo_ends_with_every_output_equal_to_its_sql() {
    let s = scenario().variable("DEMO_SECONDS", "3");
    let finished = s.start(&["demo"]).wait();
    assert_eq!(finished.code, Some(0), "{}", finished.text());
    assert_eq!(finished.stdout.matches(", equal to its SQL").count(), 3, "{}", finished.text());
}

#[test]
fn the_demo_ends_well_at_ctrl_c() {
    let s = scenario();
    let mut demo = s.start(&["demo"]);
    demo.until_printed("orders_flat");
    demo.signal("INT");
    let finished = demo.wait();
    assert_eq!(finished.code, Some(0), "{}", finished.text());
}

#[test]
fn the_demo_into_clickhouse_ends_with_every_output_equal_to_its_sql() {
    let server = ClickHouseServer::start(&[]);
    let s =
        scenario().variable("DEMO_SECONDS", "3").variable("DEMO_CLICKHOUSE_PORT", &server.port().to_string());
    let finished = s.start(&["demo"]).wait();
    assert_eq!(finished.code, Some(0), "{}", finished.text());
    assert_eq!(finished.stdout.matches(", equal to its SQL").count(), 3, "{}", finished.text());
    assert_eq!(server.database().value("SELECT count() FROM system.databases WHERE name = 'analytics'"), "0");
}
