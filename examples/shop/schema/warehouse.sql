-- Where the rows go.
CREATE TABLE orders_flat (order_id bigint PRIMARY KEY, customer text, country text, total numeric(12,2));
CREATE TABLE order_lines (order_id bigint, line_no int, sku text, pieces int, PRIMARY KEY (order_id, line_no));
CREATE TABLE revenue (country text PRIMARY KEY, orders bigint NOT NULL, cents numeric NOT NULL);
