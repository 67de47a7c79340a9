//! `trucker demo` runs the example project and ends well.

use super::harness::Scenario;

#[test]
fn the_demo_ends_with_every_output_equal_to_its_sql() {
    let s = Scenario::new().variable("DEMO_SECONDS", "3");
    let finished = s.start(&["demo"]).wait();
    assert_eq!(finished.code, Some(0), "{}", finished.text());
    assert_eq!(finished.stdout.matches(", equal to its SQL").count(), 3, "{}", finished.text());
}

#[test]
fn the_demo_ends_well_at_ctrl_c() {
    let s = Scenario::new();
    let mut demo = s.start(&["demo"]);
    demo.until_printed("orders_flat");
    demo.signal("INT");
    let finished = demo.wait();
    assert_eq!(finished.code, Some(0), "{}", finished.text());
}
