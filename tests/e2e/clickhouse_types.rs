//! Values of every type on their way from Postgres into ClickHouse, through backfill and stream: exact, or refused in so
//! many words.

use super::harness::{Scenario, clickhouse_server, config};

/// A type in Postgres, its column's in ClickHouse, and values: what goes in, what ClickHouse then shows.
pub type Case = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

pub const CASES: &[Case] = &[
    ("boolean", "Bool", &[("t", "true"), ("f", "false")]),
    ("boolean", "UInt8", &[("t", "1"), ("f", "0")]),
    ("smallint", "Int16", &[("-32768", "-32768"), ("32767", "32767")]),
    ("integer", "Int32", &[("-2147483648", "-2147483648"), ("2147483647", "2147483647")]),
    (
        "bigint",
        "Int64",
        &[("-9223372036854775808", "-9223372036854775808"), ("9223372036854775807", "9223372036854775807")],
    ),
    ("bigint", "UInt64", &[("0", "0"), ("9223372036854775807", "9223372036854775807")]),
    ("bigint", "Int256", &[("-1", "-1")]),
    ("oid", "UInt32", &[("4294967295", "4294967295")]),
    (
        "real",
        "Float32",
        &[("0.1", "0.1"), ("1e-45", "1e-45"), ("-3.4028235e+38", "-3.4028235e38"), ("NaN", "nan")],
    ),
    ("real", "Float64", &[("0.1", "0.10000000149011612")]),
    (
        "double precision",
        "Float64",
        &[("5e-324", "5e-324"), ("1.7976931348623157e+308", "1.7976931348623157e308"), ("-Infinity", "-inf")],
    ),
    ("numeric(9,2)", "Decimal(9, 2)", &[("-9999999.99", "-9999999.99"), ("0.01", "0.01")]),
    ("numeric(18,4)", "Decimal(38, 10)", &[("12345678901234.5678", "12345678901234.5678")]),
    (
        "numeric",
        "Decimal(76, 38)",
        &[
            (
                "-99999999999999999999999999999999999999.99999999999999999999999999999999999999",
                "-99999999999999999999999999999999999999.99999999999999999999999999999999999999",
            ),
            ("0", "0"),
        ],
    ),
    (
        "numeric",
        "UInt256",
        &[(
            "115792089237316195423570985008687907853269984665640564039457584007913129639935",
            "115792089237316195423570985008687907853269984665640564039457584007913129639935",
        )],
    ),
    ("numeric", "String", &[("NaN", "NaN"), ("1.50", "1.50"), ("1e-30", "0.000000000000000000000000000001")]),
    ("money", "String", &[("-12.34", "-$12.34")]),
    ("text", "String", &[("", ""), ("ü\t\\N'\"\n", "ü\t\\N'\"\n")]),
    ("varchar(5)", "LowCardinality(String)", &[("abc", "abc")]),
    ("char(3)", "FixedString(3)", &[("ab ", "ab ")]),
    ("bytea", "String", &[("\\x", ""), ("\\x6100ff", "6100FF")]),
    ("uuid", "UUID", &[("00112233-4455-6677-8899-aabbccddeeff", "00112233-4455-6677-8899-aabbccddeeff")]),
    (
        "date",
        "Date32",
        &[("0001-01-01", "0001-01-01"), ("9999-12-31", "9999-12-31"), ("2000-02-29", "2000-02-29")],
    ),
    ("date", "Date", &[("1970-01-01", "1970-01-01"), ("2149-06-06", "2149-06-06")]),
    ("time", "Time64(6)", &[("00:00:00.000001", "00:00:00.000001"), ("24:00:00", "24:00:00.000000")]),
    ("timetz", "String", &[("12:00:00+02", "12:00:00+02")]),
    (
        "timestamp",
        "DateTime64(6, 'UTC')",
        &[
            ("0001-01-01 00:00:00", "0001-01-01 00:00:00.000000"),
            ("9999-12-31 23:59:59.999999", "9999-12-31 23:59:59.999999"),
        ],
    ),
    (
        "timestamptz",
        "DateTime64(6, 'UTC')",
        &[
            ("1969-12-31 23:59:59.999999+00", "1969-12-31 23:59:59.999999"),
            ("2024-06-01 12:00:00+02", "2024-06-01 10:00:00.000000"),
        ],
    ),
    (
        "timestamptz(3)",
        "DateTime64(3, 'Europe/Berlin')",
        &[("2024-06-01 10:00:00.123+00", "2024-06-01 12:00:00.123")],
    ),
    ("timestamptz(0)", "DateTime('UTC')", &[("2106-02-07 06:28:15+00", "2106-02-07 06:28:15")]),
    ("timestamptz", "String", &[("infinity", "infinity")]),
    ("interval", "String", &[("1 year 2 days 03:04:05.6", "1 year 2 days 03:04:05.6")]),
    ("jsonb", "String", &[("[1, null]", "[1, null]")]),
    ("json", "String", &[("{\"a\":  1}", "{\"a\":  1}")]),
    ("jsonb", "JSON", &[("{\"a\": {\"b\": [1, 2]}}", "{\"a\":{\"b\":[1,2]}}")]),
    ("hstore", "Map(String, Nullable(String))", &[("a=>1, \"b \"=>NULL", "{'a':'1','b ':NULL}")]),
    ("inet", "IPv4", &[("1.2.3.4", "1.2.3.4")]),
    ("inet", "IPv6", &[("2001:db8::1", "2001:db8::1")]),
    ("inet", "String", &[("10.0.0.0/8", "10.0.0.0/8")]),
    ("cidr", "String", &[("10.0.0.0/8", "10.0.0.0/8")]),
    ("macaddr", "String", &[("08:00:2b:01:02:03", "08:00:2b:01:02:03")]),
    ("bit(4)", "String", &[("1010", "1010")]),
    ("xml", "String", &[("<a/>", "<a/>")]),
    ("tsvector", "String", &[("a b", "'a' 'b'")]),
    ("pg_lsn", "String", &[("16/B374D848", "16/B374D848")]),
    ("int4range", "String", &[("[1,5)", "[1,5)")]),
    ("point", "Point", &[("(1.5,-2)", "(1.5,-2)")]),
    ("mood", "LowCardinality(String)", &[("sad", "sad")]),
    ("mood", "Enum8('sad' = 1, 'glad' = -5)", &[("sad", "sad"), ("glad", "glad")]),
    ("cents", "Decimal(10, 2)", &[("1.25", "1.25")]),
    ("integer[]", "Array(Nullable(Int32))", &[("{}", "[]"), ("{1,NULL}", "[1,NULL]")]),
    ("integer[]", "Array(Array(Int32))", &[("{{1,2},{3,4}}", "[[1,2],[3,4]]")]),
    ("text[]", "Array(String)", &[("{\"a b\",\"NULL\",\"\\\"\"}", "['a b','NULL','\"']")]),
    ("numeric(6,2)[]", "Array(Nullable(Decimal(6, 2)))", &[("{1.5,NULL}", "[1.5,NULL]")]),
    (
        "timestamptz[]",
        "Array(DateTime64(6, 'UTC'))",
        &[("{\"2024-01-01 00:00:00+00\"}", "['2024-01-01 00:00:00.000000']")],
    ),
    ("mood[]", "Array(LowCardinality(String))", &[("{sad,glad}", "['sad','glad']")]),
    (
        "uuid[]",
        "String",
        &[("{00112233-4455-6677-8899-aabbccddeeff}", "{00112233-4455-6677-8899-aabbccddeeff}")],
    ),
    ("composite", "String", &[("(1,a)", "(1,a)")]),
];

/// What the types need.
pub const SOURCE_TYPES: &str = "CREATE EXTENSION hstore; CREATE TYPE mood AS ENUM ('sad', 'glad');
    CREATE DOMAIN cents AS numeric(10,2); CREATE TYPE composite AS (a int, b text)";

#[test]
fn every_value_arrives_as_it_is_by_backfill_and_by_stream() {
    let out = clickhouse_server().database();
    let columns = |types: &dyn Fn(&Case) -> String| -> String {
        CASES.iter().enumerate().map(|(at, case)| format!(", c{at} {}", types(case))).collect()
    };
    out.execute(&format!(
        "CREATE TABLE t (id Int32{}, _version UInt128, _is_deleted UInt8) \
         ENGINE = ReplacingMergeTree(_version, _is_deleted) ORDER BY id",
        columns(&|case| nullable(case.1))
    ));
    let s = Scenario::new()
        .on_source(SOURCE_TYPES)
        .on_source(&format!(
            "CREATE TABLE t (id int PRIMARY KEY{})",
            // Arrays, maps, points and JSON have no NULL in ClickHouse.
            columns(&|case| case.0.to_owned() + if nullable(case.1) == case.1 { " NOT NULL" } else { "" })
        ))
        .to_clickhouse(&out)
        .pipeline("t", &config("t", &format!("{}.t", out.name), &[]), &[]);
    let rows = CASES.iter().map(|case| case.2.len()).max().unwrap();
    let insert = |first: usize| {
        for row in 0..rows {
            let values: String =
                CASES.iter().map(|case| format!(", {}", literal(case.2[row % case.2.len()].0))).collect();
            s.source.execute(&format!("INSERT INTO t VALUES ({}{values})", first + row));
        }
        let nulls: String = CASES
            .iter()
            .map(|case| {
                if nullable(case.1) == case.1 {
                    format!(", {}", literal(case.2[0].0))
                } else {
                    ", NULL".to_owned()
                }
            })
            .collect();
        s.source.execute(&format!("INSERT INTO t VALUES ({}{nulls})", first + rows));
    };
    insert(0);
    s.once();
    insert(100);
    s.once();
    // JSON has no bytes.
    let bytes = CASES.iter().position(|case| case.0 == "bytea").unwrap();
    for first in [0, 100] {
        for row in 0..=rows {
            let found = out
                .rows(&format!(
                    "SELECT * EXCEPT (_version, _is_deleted) REPLACE (hex(c{bytes}) AS c{bytes}) FROM t FINAL WHERE id = {}",
                    first + row
                ))
                .remove(0);
            for (case, value) in CASES.iter().zip(found.into_iter().skip(1)) {
                let is_null = row == rows && nullable(case.1) != case.1;
                let shown = if row == rows { case.2[0].1 } else { case.2[row % case.2.len()].1 };
                assert_eq!(
                    value.as_deref(),
                    (!is_null).then_some(shown),
                    "{} in {}, row {}",
                    case.0,
                    case.1,
                    first + row
                );
            }
        }
    }
}

fn nullable(to: &str) -> String {
    let inner = to.strip_prefix("LowCardinality(").and_then(|rest| rest.strip_suffix(')'));
    match inner {
        Some(inner) => format!("LowCardinality(Nullable({inner}))"),
        None if ["Array", "Map", "JSON", "Point"].iter().any(|start| to.starts_with(start)) => to.to_owned(),
        None => format!("Nullable({to})"),
    }
}

/// A value as SQL.
pub fn literal(value: &str) -> String {
    format!("E'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

#[test]
fn pairs_that_would_lose_something_are_refused_before_anything_is_created() {
    let out = clickhouse_server().database();
    let cases = [
        ["a", "double precision", "Float32", "::real"],
        ["b", "numeric(20,5)", "Decimal(10, 2)", "make the column Decimal(20, 5)"],
        ["c", "timestamptz", "DateTime", "::timestamptz(0)"],
        ["d", "timestamp", "DateTime64(6, 'Europe/Berlin')", "AT TIME ZONE 'UTC'"],
        ["e", "text", "UUID", "::uuid"],
        ["f", "bigint", "AggregateFunction(sum, Int64)", "make the column Int64"],
    ];
    let list = |of: &dyn Fn(&[&str; 4]) -> String| -> String { cases.iter().map(of).collect() };
    out.execute(&format!(
        "CREATE TABLE t (id Int32{}, _version UInt128, _is_deleted UInt8) \
         ENGINE = ReplacingMergeTree(_version, _is_deleted) ORDER BY id",
        list(&|case| format!(", {} {}", case[0], case[2]))
    ));
    let s = Scenario::new()
        .on_source(&format!(
            "CREATE TABLE t (id int PRIMARY KEY{})",
            list(&|case| format!(", {} {} NOT NULL", case[0], case[1]))
        ))
        .to_clickhouse(&out)
        .pipeline("t", &config("t", &format!("{}.t", out.name), &[]), &[]);
    let said = s.once_fails(3);
    for [_, from, to, cure] in cases {
        assert!(said.contains(to) && said.contains(cure), "{from} in {to}: {cure}\n{said}");
    }
    assert_eq!(s.source.number("SELECT count(*) FROM pg_publication"), 0);
}

#[test]
fn the_cure_that_is_named_for_nulls_works() {
    let out = clickhouse_server().database();
    out.execute(
        "CREATE TABLE t (id Int32, a LowCardinality(String), b Decimal(9, 2), c Array(Int32), _version UInt128, \
         _is_deleted UInt8) ENGINE = ReplacingMergeTree(_version, _is_deleted) ORDER BY id",
    );
    let s = Scenario::new()
        .on_source("CREATE TABLE t (id int PRIMARY KEY, a text, b numeric(9,2), c int[])")
        .to_clickhouse(&out)
        .pipeline("t", &config("t", &format!("{}.t", out.name), &[]), &[]);
    let said = s.once_fails(3);
    let cures: Vec<&str> = said
        .lines()
        .filter_map(|line| Some(&line[line.find("ALTER TABLE")?..]))
        .filter_map(|cure| cure.split_once("; or").map(|(statement, _)| statement))
        .collect();
    assert_eq!(cures.len(), 2, "{said}");
    cures.iter().for_each(|statement| out.execute(statement));
    let said = s.once_fails(3);
    assert!(!said.contains("ALTER TABLE") && said.contains("make the column a Nullable(String)"), "{said}");
    out.execute("ALTER TABLE t MODIFY COLUMN c Nullable(String)");
    s.source.execute("INSERT INTO t VALUES (1, NULL, NULL, NULL), (2, 'a', 1.5, '{1}')");
    s.once();
    let rows = out.rows("SELECT a, toString(b), c FROM t FINAL ORDER BY id");
    let texts = |row: [&str; 3]| row.map(|text| Some(text.to_owned())).to_vec();
    assert_eq!(rows, [vec![None; 3], texts(["a", "1.5", "{1}"])]);
}

#[test]
fn values_that_a_column_does_not_hold_stop_the_pipeline_without_being_shown() {
    for (from, to, value, words) in [
        ("numeric", "Decimal(10, 2)", "'NaN'", "NaN or Infinity"),
        ("numeric", "Decimal(10, 2)", "0.4711", "more digits after the point"),
        ("bigint", "UInt32", "-4711", "beyond what the column's type holds"),
        ("timestamptz", "DateTime64(6)", "'infinity'", "infinity"),
        ("date", "Date32", "'4711-01-01 BC'", "beyond what the column's type holds"),
        ("text", "Enum8('a' = 1)", "'4711'", "a label that the column's Enum lacks"),
        ("jsonb", "JSON", "'[4711]'", "JSON that is no object"),
        ("int[]", "Array(Int32)", "'[0:0]={4711}'", "bounds of its own"),
    ] {
        let out = clickhouse_server().database();
        out.execute(&format!(
            "CREATE TABLE t (id Int32, v {to}, _version UInt128, _is_deleted UInt8) \
             ENGINE = ReplacingMergeTree(_version, _is_deleted) ORDER BY id"
        ));
        let s = Scenario::new()
            .on_source(&format!("CREATE TABLE t (id int PRIMARY KEY, v {from} NOT NULL)"))
            .on_source(&format!("INSERT INTO t VALUES (1, {value})"))
            .to_clickhouse(&out)
            .pipeline("t", &config("t", &format!("{}.t", out.name), &[]), &[]);
        let said = s.once_fails(1);
        // A time of day may have these digits, too.
        let untimed = said.lines().map(|line| line.split_once(r#""level""#).map_or(line, |(_, rest)| rest));
        let is_shown = untimed.into_iter().any(|line| line.contains("4711"));
        assert!(said.contains(words) && !is_shown, "{from} in {to}: {said}");
        assert_eq!(out.value("SELECT count() FROM t"), "0");
    }
}
