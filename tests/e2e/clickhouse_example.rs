//! The project in examples/clickhouse does what it says.

use std::fs;
use std::path::{Path, PathBuf};

use super::harness::{Scenario, clickhouse_server};

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/clickhouse")
}

#[test]
fn the_example_for_clickhouse_follows_its_source() {
    let text = |name: &str| fs::read_to_string(example().join(name)).unwrap();
    let out = clickhouse_server().database();
    let plain =
        text("analytics.sql").lines().filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join("\n");
    out.execute(&plain);
    let s = Scenario::new().on_source(&text("source.sql")).to_clickhouse(&out);
    let yml =
        s.project_file().replace("name: source", "name: webapp").replace("name: output", "name: analytics");
    s.file("trucker.yml", &yml);
    for pipeline in ["orders", "order_lines", "customers"] {
        for file in fs::read_dir(example().join(pipeline)).unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap();
            s.file(&format!("{pipeline}/{name}"), &text(&format!("{pipeline}/{name}")));
        }
    }
    let check = || {
        for (source, output) in [
            (
                "SELECT o.id, c.country, o.total, extract(epoch FROM placed_at)::bigint FROM orders o
                 JOIN customers c ON c.id = customer_id ORDER BY o.id",
                "SELECT id, country, toDecimalString(total, 2), toUnixTimestamp(toDateTime(placed_at)) FROM orders FINAL ORDER BY id",
            ),
            (
                "SELECT o.id, l.number, l.item ->> 'sku', l.item ->> 'pieces'
                 FROM orders o, jsonb_array_elements(o.lines) WITH ORDINALITY l(item, number) ORDER BY 1, 2",
                "SELECT order_id, line_no, sku, pieces FROM order_lines FINAL ORDER BY 1, 2",
            ),
            (
                "SELECT id, name FROM customers ORDER BY id",
                "SELECT id, argMaxMerge(name) FROM customers GROUP BY id ORDER BY id",
            ),
        ] {
            assert_eq!(out.rows(output), s.source.rows(source));
        }
    };
    s.source.execute("UPDATE orders SET placed_at = date_trunc('second', placed_at)");
    s.once();
    check();
    s.source.execute(
        "UPDATE orders SET total = total + 1, lines = lines || '{\"sku\": \"B1\", \"pieces\": 2}' WHERE id % 3 = 0;
         UPDATE orders SET lines = lines - 0 WHERE id % 5 = 0; DELETE FROM orders WHERE id % 7 = 0;
         UPDATE orders SET id = id + 5000 WHERE id % 11 = 0; \
         UPDATE customers SET name = name || ' & Co', changed_at = clock_timestamp() WHERE id < 9;
         UPDATE customers SET name = 'The ' || name, changed_at = clock_timestamp() WHERE id < 5",
    );
    s.once();
    check();
}
