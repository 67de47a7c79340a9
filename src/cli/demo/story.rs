//! The stories that the demo can tell: an example project as it lies in the repository, and what happens in its shop.

/// A project, and what happens in it.
pub struct Story {
    /// Where it lies in the repository.
    pub folder: &'static str,
    /// Its files.
    pub project: &'static [(&'static str, &'static str)],
    /// Makes the source's tables.
    pub source_sql: &'static str,
    /// Makes the output's.
    pub output_sql: &'static str,
    /// What tells the project the output's port.
    pub port_variable: &'static str,
    /// For each output table: what it holds, and what it should hold.
    pub outputs: [(&'static str, &'static str, &'static str); 3],
    /// A number for each to look at.
    pub numbers: [&'static str; 3],
    /// One moment in the shop: new orders, changed ones (their key too), cancelled ones.
    pub shopping: &'static [&'static str],
}

/// How many orders the shop has.
pub const ORDERS: &str = "SELECT count(*) FROM orders";

/// Postgres to Postgres.
pub const SHOP: Story = Story {
    folder: "examples/shop",
    project: &[
        ("trucker.yml", include_str!("../../../examples/shop/trucker.yml")),
        ("orders_flat/config.yml", include_str!("../../../examples/shop/orders_flat/config.yml")),
        ("orders_flat/transform.sql", include_str!("../../../examples/shop/orders_flat/transform.sql")),
        ("orders_flat/delete.sql", include_str!("../../../examples/shop/orders_flat/delete.sql")),
        ("order_lines/config.yml", include_str!("../../../examples/shop/order_lines/config.yml")),
        ("order_lines/transform.sql", include_str!("../../../examples/shop/order_lines/transform.sql")),
        ("order_lines/delete.sql", include_str!("../../../examples/shop/order_lines/delete.sql")),
        ("revenue/config.yml", include_str!("../../../examples/shop/revenue/config.yml")),
        ("revenue/transform.sql", include_str!("../../../examples/shop/revenue/transform.sql")),
        ("revenue/load.sql", include_str!("../../../examples/shop/revenue/load.sql")),
        ("revenue/truncate.sql", include_str!("../../../examples/shop/revenue/truncate.sql")),
    ],
    source_sql: include_str!("../../../examples/shop/source.sql"),
    output_sql: include_str!("../../../examples/shop/warehouse.sql"),
    port_variable: "SHOP_WAREHOUSE_PORT",
    outputs: [
        (
            "orders_flat",
            "SELECT order_id, customer, country, total FROM orders_flat ORDER BY 1",
            "SELECT o.id, cu.name, co.name, (o.cents / 100.0)::numeric(12,2) FROM orders o
         JOIN customers cu ON cu.id = o.customer_id JOIN countries co ON co.code = o.country ORDER BY 1",
        ),
        (
            "order_lines",
            "SELECT order_id, line_no, sku, pieces FROM order_lines ORDER BY 1, 2",
            "SELECT o.id, l.number, l.item ->> 'sku', l.item ->> 'pieces'
         FROM orders o, jsonb_array_elements(o.lines) WITH ORDINALITY l(item, number) ORDER BY 1, 2",
        ),
        (
            "revenue",
            "SELECT country, orders, cents FROM revenue WHERE orders <> 0 ORDER BY 1",
            "SELECT country, count(*), sum(cents) FROM orders GROUP BY 1 ORDER BY 1",
        ),
    ],
    numbers: [
        "SELECT count(*) FROM orders_flat",
        "SELECT count(*) FROM order_lines",
        "SELECT (coalesce(sum(cents), 0) / 100)::bigint FROM revenue",
    ],
    shopping: &[
        "INSERT INTO orders (customer_id, country, cents, lines)
     SELECT 1 + n % 50, (ARRAY['no', 'cl', 'ke', 'np'])[1 + n % 4], n,
            (SELECT jsonb_agg(jsonb_build_object('sku', 'B' || i, 'pieces', i)) FROM generate_series(1, 1 + n % 4) i)
     FROM (SELECT (random() * 10000)::int AS n FROM generate_series(1, 20)) many",
        "UPDATE orders SET cents = cents + 250, lines = lines || '{\"sku\": \"C1\", \"pieces\": 2}'
     WHERE id IN (SELECT id FROM orders ORDER BY random() LIMIT 8)",
        "UPDATE orders SET country = 'ke', lines = lines - 0, id = -id
     WHERE id = (SELECT id FROM orders WHERE id > 0 AND jsonb_array_length(lines) > 1 ORDER BY random() LIMIT 1)",
        "DELETE FROM orders WHERE id IN (SELECT id FROM orders ORDER BY random() LIMIT 5)",
    ],
};

/// Postgres to ClickHouse.
pub const ANALYTICS: Story = Story {
    folder: "examples/clickhouse",
    project: &[
        ("trucker.yml", include_str!("../../../examples/clickhouse/trucker.yml")),
        ("orders/config.yml", include_str!("../../../examples/clickhouse/orders/config.yml")),
        ("orders/transform.sql", include_str!("../../../examples/clickhouse/orders/transform.sql")),
        ("orders/delete.sql", include_str!("../../../examples/clickhouse/orders/delete.sql")),
        ("order_lines/config.yml", include_str!("../../../examples/clickhouse/order_lines/config.yml")),
        ("order_lines/transform.sql", include_str!("../../../examples/clickhouse/order_lines/transform.sql")),
        ("order_lines/delete.sql", include_str!("../../../examples/clickhouse/order_lines/delete.sql")),
        ("customers/config.yml", include_str!("../../../examples/clickhouse/customers/config.yml")),
        ("customers/transform.sql", include_str!("../../../examples/clickhouse/customers/transform.sql")),
        ("customers/load.sql", include_str!("../../../examples/clickhouse/customers/load.sql")),
    ],
    source_sql: include_str!("../../../examples/clickhouse/source.sql"),
    output_sql: include_str!("../../../examples/clickhouse/analytics.sql"),
    port_variable: "SHOP_CLICKHOUSE_PORT",
    outputs: [
        (
            "orders",
            "SELECT id, country, toDecimalString(total, 2), placed_at FROM orders FINAL ORDER BY id",
            "SELECT o.id, c.country, o.total, to_char(placed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')
             FROM orders o JOIN customers c ON c.id = customer_id ORDER BY o.id",
        ),
        (
            "order_lines",
            "SELECT order_id, line_no, sku, pieces FROM order_lines FINAL ORDER BY 1, 2",
            "SELECT o.id, l.number, l.item ->> 'sku', l.item ->> 'pieces'
             FROM orders o, jsonb_array_elements(o.lines) WITH ORDINALITY l(item, number) ORDER BY 1, 2",
        ),
        (
            "customers",
            "SELECT id, argMaxMerge(name) FROM customers GROUP BY id ORDER BY id",
            "SELECT id, name FROM customers ORDER BY id",
        ),
    ],
    numbers: [
        "SELECT count() FROM orders FINAL",
        "SELECT count() FROM order_lines FINAL",
        "SELECT uniqExact(id) FROM customers",
    ],
    shopping: &[
        "INSERT INTO orders (customer_id, total, lines)
         SELECT 1 + n % 50, n / 4.0,
                (SELECT jsonb_agg(jsonb_build_object('sku', 'B' || i, 'pieces', i)) FROM generate_series(1, 1 + n % 4) i)
         FROM (SELECT (random() * 10000)::int AS n FROM generate_series(1, 20)) many",
        "UPDATE orders SET total = total + 2.5, lines = lines || '{\"sku\": \"C1\", \"pieces\": 2}'
         WHERE id IN (SELECT id FROM orders ORDER BY random() LIMIT 8)",
        "UPDATE orders SET lines = lines - 0, id = id + 1000000
         WHERE id = (SELECT id FROM orders WHERE id < 1000000 AND jsonb_array_length(lines) > 1 ORDER BY random() LIMIT 1)",
        "DELETE FROM orders WHERE id IN (SELECT id FROM orders ORDER BY random() LIMIT 5)",
        "UPDATE customers SET name = 'Customer ' || id || ' & ' || (random() * 100)::int, changed_at = clock_timestamp()
         WHERE id = 1 + (random() * 49)::int",
    ],
};
