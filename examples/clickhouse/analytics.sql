-- Where the rows go. Read the first two with FINAL.
CREATE TABLE orders
(
    id UInt64,
    country LowCardinality(String),
    total Decimal(12, 2),
    placed_at DateTime64(6, 'UTC'),
    _version UInt128,
    _is_deleted UInt8
)
ENGINE = ReplacingMergeTree(_version, _is_deleted)
ORDER BY id;

CREATE TABLE order_lines
(
    order_id UInt64,
    line_no UInt16,
    sku LowCardinality(String),
    pieces UInt32,
    _version UInt128,
    _is_deleted UInt8
)
ENGINE = ReplacingMergeTree(_version, _is_deleted)
ORDER BY (order_id, line_no);

-- Read it with argMaxMerge(name) and GROUP BY id.
CREATE TABLE customers
(
    id UInt32,
    name AggregateFunction(argMax, String, DateTime64(6, 'UTC'))
)
ENGINE = AggregatingMergeTree
ORDER BY id;
