//! Postgres's values as ClickHouse's bytes, and ClickHouse's types. A first byte of `=`: the rest is a type's text. Else it
//! chooses a pair of types, and the rest is a value.

use trucker::clickhouse::catalog::Server;
use trucker::clickhouse::mapping::accepts;
use trucker::clickhouse::{PostgresType, Type};

/// A value is bytes of which there are not many more than it has itself, or an error that leaves nothing.
pub fn check(data: &[u8]) {
    let Some((choice, value)) = data.split_first() else { return };
    if *choice == b'=' {
        if let Ok(text) = std::str::from_utf8(value) {
            let _ = format!("{:?}", Type::parse(text));
        }
        return;
    }
    let pairs = pairs();
    let (from, to) = &pairs[usize::from(*choice) % pairs.len()];
    let server = Server { version: (26, 9), timezone: "UTC".to_owned() };
    let encoding = accepts(from, &Type::parse(to), to, &server).expect("these pairs go together");
    let mut out = b"before".to_vec();
    match encoding.encode(Some(value), &mut out) {
        Ok(()) => assert!(out.starts_with(b"before") && out.len() <= 64 + 33 * value.len(), "{}", out.len()),
        Err(error) => {
            assert_eq!(out, b"before");
            assert!(!error.to_string().is_empty());
        }
    }
    let is_text = matches!(from, PostgresType::Text(_));
    assert!(!is_text || out[6..].ends_with(value), "a text isn't what it was");
}

fn pairs() -> [(PostgresType, &'static str); 16] {
    let array = |element| PostgresType::Array(Box::new(element));
    [
        (PostgresType::Text("text".to_owned()), "String"),
        (PostgresType::Int8, "Int16"),
        (PostgresType::Numeric(None), "Decimal(76, 38)"),
        (PostgresType::Numeric(None), "UInt256"),
        (PostgresType::Float8, "Float64"),
        (PostgresType::Bytea, "String"),
        (PostgresType::Uuid, "UUID"),
        (PostgresType::Date, "Date32"),
        (PostgresType::Timestamptz(6), "DateTime64(9)"),
        (PostgresType::Time(6), "Time64(6)"),
        (PostgresType::Inet, "IPv6"),
        (PostgresType::Point, "Point"),
        (PostgresType::Hstore, "Map(String, Nullable(String))"),
        (PostgresType::Vector, "Array(Float32)"),
        (array(PostgresType::Int4), "Array(Array(Nullable(Int32)))"),
        (array(PostgresType::Numeric(None)), "Array(Nullable(Decimal(18, 4)))"),
    ]
}
