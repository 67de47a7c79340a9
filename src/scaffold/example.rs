//! A project to begin with where there is no server yet: one pipeline whose test passes.

use super::File;

const PROJECT: &str = r#"# The databases. Change these to yours; docs/configuration.md has every key.
name: NAME
connections:
  - name: webapp # pipelines read from here
    adapter: postgres
    host: localhost
    database: webapp
    user: trucker
    pass: '{{ env("WEBAPP_PASSWORD") }}'
    # sslmode: verify-full # over a network
  - name: warehouse # and write here
    adapter: postgres
    host: localhost
    database: warehouse
    user: trucker
    pass: '{{ env("WAREHOUSE_PASSWORD") }}'
"#;

const CONFIG: &str = "\
# From where to where. The folder's name is the pipeline's.
input:
  connection: webapp
  table: public.orders
output:
  connection: warehouse
  table: public.orders_flat
  key: [order_id] # what tells rows of the output apart
";

const TRANSFORM: &str = "\
-- Written as if for one row of orders; trucker runs it over all that change, on the source.
SELECT {{ row.id }}            AS order_id,
       {{ row.cents }} / 100.0 AS total,
       customers.name          AS customer
FROM customers
WHERE customers.id = {{ row.customer_id }}
";

const DELETE: &str = "\
-- Of a deleted row Postgres sends the key alone: enough to say which row of the output goes.
SELECT {{ old.id }} AS order_id
";

const TEST: &str = "\
# An order is placed, changed and cancelled. `trucker test` plays this on a throwaway server: docs/testing.md
given:
  customers:
    - {id: 7, name: Ada}
  orders:
    - {id: 1, customer_id: 7, cents: 250}
expect: # after the backfill
  - {order_id: 1, total: 2.50, customer: Ada}
steps:
  - changes: # these come by the stream
      - insert:
          orders:
            - {id: 2, customer_id: 7, cents: 100}
      - UPDATE orders SET cents = 300 WHERE id = 1
    expect:
      - {order_id: 1, total: 3, customer: Ada}
      - {order_id: 2, total: 1, customer: Ada}
  - changes:
      - DELETE FROM orders WHERE id = 1
    expect:
      - {order_id: 2, total: 1, customer: Ada}
";

const WEBAPP: &str = "\
-- The tables of connection webapp, for `trucker test`. From a live database `trucker test --write-schema` writes them.
CREATE TABLE customers (id integer PRIMARY KEY, name text NOT NULL);
CREATE TABLE orders (
    id          bigint PRIMARY KEY,
    customer_id integer NOT NULL REFERENCES customers,
    cents       bigint NOT NULL
);
";

const WAREHOUSE: &str = "\
-- The tables of connection warehouse, for `trucker test`, and to be run on the output once.
CREATE TABLE orders_flat (
    order_id bigint PRIMARY KEY,
    total    numeric(12,2),
    customer text
);
";

/// All files, in the order in which they are best read.
pub fn files(name: &str) -> Vec<File> {
    [
        ("trucker.yml", PROJECT),
        ("orders_flat/config.yml", CONFIG),
        ("orders_flat/transform.sql", TRANSFORM),
        ("orders_flat/delete.sql", DELETE),
        ("orders_flat/tests/lifecycle.yml", TEST),
        ("schema/webapp.sql", WEBAPP),
        ("schema/warehouse.sql", WAREHOUSE),
    ]
    .map(|(path, text)| (path.to_owned(), text.replace("NAME\n", &format!("{name}\n"))))
    .to_vec()
}
