//! Which pairs of types go together, what is said of the others, and that every proposal is accepted.

use tokio_postgres::types::Type as PgType;

use super::*;

fn server(version: (u32, u32), timezone: &str) -> Server {
    Server { version, timezone: timezone.to_owned() }
}

fn refusal(from: &PostgresType, to: &str, server: &Server) -> Option<String> {
    accepts(from, &Type::parse(to), to, server).err().map(|refusal| refusal.to_string())
}

#[test]
fn modifiers_are_read_as_postgres_packs_them() {
    let numeric = |p: i32, s: i32| PostgresType::new(&PgType::NUMERIC, (p << 16 | s & 0x7ff) + 4);
    for (found, expected) in [
        (numeric(10, 2), PostgresType::Numeric(Some((10, 2)))),
        (numeric(5, -3), PostgresType::Numeric(Some((5, -3)))),
        (PostgresType::new(&PgType::NUMERIC, -1), PostgresType::Numeric(None)),
        (PostgresType::new(&PgType::TIMESTAMP, 3), PostgresType::Timestamp(3)),
        (PostgresType::new(&PgType::TIME, -1), PostgresType::Time(6)),
        (PostgresType::new(&PgType::INT2_VECTOR, -1), PostgresType::Text("int2vector".to_owned())),
        (PostgresType::new(&PgType::INT8_ARRAY, -1), PostgresType::Array(Box::new(PostgresType::Int8))),
    ] {
        assert_eq!(found, expected);
    }
}

#[test]
fn a_pair_that_would_lose_something_is_refused_with_its_cure() {
    let utc = server((26, 9), "UTC");
    for (from, to, cure) in [
        (PostgresType::Numeric(Some((20, 5))), "Decimal(10, 2)", "make the column Decimal(20, 5)"),
        (PostgresType::Float8, "Float32", "::real"),
        (PostgresType::Float8, "Decimal(10, 2)", "::numeric(10,2)"),
        (PostgresType::Int8, "Float64", "::double precision"),
        (PostgresType::Timestamptz(6), "DateTime", "::timestamptz(0)"),
        (PostgresType::Timestamp(6), "DateTime64(6, 'Europe/Berlin')", "AT TIME ZONE 'UTC'"),
        (PostgresType::Timestamptz(6), "DateTime64(3)", "::timestamptz(3)"),
        (PostgresType::Timestamptz(6), "Date", "::date"),
        (PostgresType::Text("text".to_owned()), "Int32", "::bigint"),
        (PostgresType::Text("text".to_owned()), "UUID", "::uuid"),
        (PostgresType::Uuid, "Variant(String, UInt8)", "make the column UUID"),
        (PostgresType::Text("cidr".to_owned()), "IPv4", "::inet"),
    ] {
        let said = refusal(&from, to, &utc).unwrap_or_else(|| panic!("{from} goes into {to}"));
        assert!(said.contains(cure), "{said}");
    }
    let berlin = server((26, 9), "Europe/Berlin");
    assert!(refusal(&PostgresType::Timestamp(6), "DateTime64(6)", &berlin).is_some());
    assert_eq!(refusal(&PostgresType::Timestamp(6), "DateTime64(6)", &utc), None);
    assert_eq!(refusal(&PostgresType::Timestamptz(6), "DateTime64(6)", &berlin), None);
}

#[test]
fn what_holds_every_value_is_accepted() {
    let utc = server((26, 9), "UTC");
    for (from, to) in [
        (PostgresType::Int8, "UInt32"),
        (PostgresType::Numeric(Some((10, 2))), "Decimal(38, 10)"),
        (PostgresType::Numeric(None), "Decimal(76, 38)"),
        (PostgresType::Timestamptz(3), "Nullable(DateTime64(3, 'Asia/Tokyo'))"),
        (PostgresType::Timestamp(0), "DateTime('UTC')"),
        (PostgresType::Enum, "Enum8('a' = 1)"),
        (PostgresType::Uuid, "LowCardinality(Nullable(String))"),
        (PostgresType::Array(Box::new(PostgresType::Uuid)), "String"),
        (PostgresType::Int8, "SimpleAggregateFunction(sum, Int64)"),
        (PostgresType::Point, "Tuple(x Float64, y Float64)"),
    ] {
        assert_eq!(refusal(&from, to, &utc), None);
    }
}

#[test]
fn every_proposal_is_accepted() {
    let all = [
        PostgresType::Bool,
        PostgresType::Int2,
        PostgresType::Int4,
        PostgresType::Int8,
        PostgresType::Unsigned,
        PostgresType::Float4,
        PostgresType::Float8,
        PostgresType::Numeric(None),
        PostgresType::Numeric(Some((76, 38))),
        PostgresType::Numeric(Some((5, -3))),
        PostgresType::Numeric(Some((3, 5))),
        PostgresType::Numeric(Some((200, 2))),
        PostgresType::Bytea,
        PostgresType::Uuid,
        PostgresType::Date,
        PostgresType::Time(6),
        PostgresType::Timestamp(6),
        PostgresType::Timestamptz(6),
        PostgresType::Json,
        PostgresType::Hstore,
        PostgresType::Inet,
        PostgresType::Point,
        PostgresType::Vector,
        PostgresType::Enum,
        PostgresType::Text("interval".to_owned()),
    ];
    let arrays = all.clone().map(|element| PostgresType::Array(Box::new(element)));
    for server in [server((26, 9), "UTC"), server((24, 8), "Europe/Berlin")] {
        for from in all.iter().chain(&arrays) {
            for (is_not_null, is_key) in [(true, false), (false, false), (false, true)] {
                let to = propose(from, is_not_null, is_key, &server);
                assert_eq!(refusal(from, &to, &server), None, "{from}");
                let is_nullable = !is_not_null && !is_key;
                assert_eq!(Type::parse(&to).is_nullable(), is_nullable, "{from}: {to}");
            }
        }
    }
}

#[test]
fn the_best_types_are_these() {
    let utc = server((26, 9), "UTC");
    let array = |element| PostgresType::Array(Box::new(element));
    for (from, to) in [
        (PostgresType::Numeric(Some((10, 2))), "Decimal(10, 2)"),
        (PostgresType::Numeric(Some((5, -3))), "Decimal(8, 0)"),
        (PostgresType::Numeric(Some((3, 5))), "Decimal(5, 5)"),
        (PostgresType::Numeric(None), "String"),
        (PostgresType::Timestamptz(6), "DateTime64(6, 'UTC')"),
        (PostgresType::Enum, "LowCardinality(String)"),
        (PostgresType::Hstore, "Map(String, Nullable(String))"),
        (array(PostgresType::Int4), "Array(Nullable(Int32))"),
    ] {
        assert_eq!(propose(&from, true, false, &utc), to);
    }
    assert_eq!(propose(&PostgresType::Enum, false, false, &utc), "LowCardinality(Nullable(String))");
    assert_eq!(propose(&array(PostgresType::Int4), false, false, &utc), "Nullable(String)");
    assert_eq!(propose(&PostgresType::Time(6), true, false, &server((25, 8), "UTC")), "String");
}

#[test]
fn what_can_be_null_says_so_within_its_low_cardinality() {
    for (plain, with_null) in [
        ("String", Some("Nullable(String)")),
        ("LowCardinality(String)", Some("LowCardinality(Nullable(String))")),
        ("Nullable(UInt8)", Some("Nullable(UInt8)")),
        ("Array(UInt8)", None),
        ("Map(String, String)", None),
        ("Point", None),
    ] {
        assert_eq!(nullable(plain).as_deref(), with_null);
    }
}
