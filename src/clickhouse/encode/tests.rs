//! Values of each form and the bytes that stand for them, at the bounds of each type.

use proptest::prelude::*;
use tokio_postgres::types::Type as PgType;

use super::{EncodeError, Encoding};
use crate::clickhouse::catalog::Server;
use crate::clickhouse::mapping::{PostgresType, accepts};
use crate::clickhouse::types::Type;

fn encoding(from: &PostgresType, to: &str) -> Encoding {
    let server = Server { version: (26, 9), timezone: "UTC".to_owned() };
    accepts(from, &Type::parse(to), to, &server).unwrap_or_else(|refusal| panic!("{refusal}"))
}

fn encode(from: &PostgresType, to: &str, value: Option<&str>) -> Result<Vec<u8>, EncodeError> {
    let mut out = vec![7];
    let result = encoding(from, to).encode(value.map(str::as_bytes), &mut out);
    assert!(result.is_ok() || out == [7], "{value:?}: bytes are left after an error");
    result.map(|()| out.split_off(1))
}

#[track_caller]
fn check(pg: &PgType, to: &str, cases: &[(&str, Result<&[u8], EncodeError>)]) {
    let from = PostgresType::new(pg, -1);
    for (value, expected) in cases {
        let found = encode(&from, to, Some(value));
        assert_eq!(found.as_deref().map_err(|error| *error), *expected, "{value} into {to}");
    }
}

#[test]
fn whole_numbers_are_exact_or_refused() {
    use EncodeError::{OutOfRange, Unreadable};
    check(
        &PgType::INT8,
        "Int8",
        &[("127", Ok(&[127])), ("-128", Ok(&[128])), ("128", Err(OutOfRange)), ("-129", Err(OutOfRange))],
    );
    check(
        &PgType::INT8,
        "Int64",
        &[
            ("9223372036854775807", Ok(&i64::MAX.to_le_bytes())),
            ("-9223372036854775808", Ok(&i64::MIN.to_le_bytes())),
            ("0", Ok(&[0; 8])),
            ("", Err(Unreadable)),
            ("-", Err(Unreadable)),
            ("1x", Err(Unreadable)),
        ],
    );
    check(&PgType::INT8, "UInt64", &[("5", Ok(&5u64.to_le_bytes())), ("-1", Err(OutOfRange))]);
    let (largest, smallest) = ([&[0xff; 31][..], &[0x7f]].concat(), [&[0; 31][..], &[0x80]].concat());
    let power = "57896044618658097711785492504343953926634992332820282019728792003956564819968";
    check(
        &PgType::NUMERIC,
        "Int256",
        &[
            ("57896044618658097711785492504343953926634992332820282019728792003956564819967", Ok(&largest)),
            (&format!("-{power}"), Ok(&smallest)),
            (power, Err(OutOfRange)),
        ],
    );
    let beyond = "115792089237316195423570985008687907853269984665640564039457584007913129639936";
    check(&PgType::NUMERIC, "UInt256", &[(beyond, Err(OutOfRange)), ("-0", Ok(&[0; 32]))]);
}

#[test]
fn decimals_keep_every_digit_or_are_refused() {
    use EncodeError::{NotFinite, OutOfRange, TooPrecise, Unreadable};
    let number = |number: i64| number.to_le_bytes();
    check(
        &PgType::NUMERIC,
        "Decimal(18, 2)",
        &[
            ("1.5", Ok(&number(150))),
            ("-0.01", Ok(&number(-1))),
            ("1.500", Ok(&number(150))),
            ("9999999999999999.99", Ok(&number(999_999_999_999_999_999))),
            ("10000000000000000", Err(OutOfRange)),
            ("0.001", Err(TooPrecise)),
            ("NaN", Err(NotFinite)),
            ("-Infinity", Err(NotFinite)),
            ("1.2.3", Err(Unreadable)),
            ("1e3", Err(Unreadable)),
        ],
    );
    let nines = format!("{}.{}", "9".repeat(38), "9".repeat(38));
    let all = encode(&PostgresType::Numeric(None), "Decimal(76, 38)", Some(&nines)).unwrap();
    assert_eq!((all.len(), all[31]), (32, 0x16));
    check(&PgType::NUMERIC, "Decimal(76, 38)", &[(&"9".repeat(39), Err(OutOfRange))]);
    check(&PgType::NUMERIC, "Decimal(76, 38)", &[(&"9".repeat(400), Err(OutOfRange))]);
}

#[test]
fn floats_stay_the_very_number() {
    check(&PgType::FLOAT4, "Float32", &[("0.1", Ok(&0.1f32.to_le_bytes()))]);
    check(&PgType::FLOAT4, "Float64", &[("0.1", Ok(&f64::from(0.1f32).to_le_bytes()))]);
    check(
        &PgType::FLOAT8,
        "Float64",
        &[
            ("5e-324", Ok(&5e-324f64.to_le_bytes())),
            ("-Infinity", Ok(&f64::NEG_INFINITY.to_le_bytes())),
            ("NaN", Ok(&f64::NAN.to_le_bytes())),
            ("-0", Ok(&(-0f64).to_le_bytes())),
        ],
    );
}

#[test]
fn times_are_exact_and_within_what_the_type_shows() {
    use EncodeError::{Infinity, OutOfRange, TooPrecise, Unreadable};
    let days = |days: i32| days.to_le_bytes();
    check(
        &PgType::DATE,
        "Date32",
        &[
            ("1970-01-01", Ok(&days(0))),
            ("2000-02-29", Ok(&days(11_016))),
            ("0001-01-01", Ok(&days(-719_162))),
            ("9999-12-31", Ok(&days(2_932_896))),
            ("10000-01-01", Err(OutOfRange)),
            ("0001-12-31 BC", Err(OutOfRange)),
            ("infinity", Err(Infinity)),
            ("2024-1-01", Err(Unreadable)),
            ("2024-01-1", Err(Unreadable)),
            ("x", Err(Unreadable)),
        ],
    );
    let date = |days: u16| days.to_le_bytes();
    check(
        &PgType::DATE,
        "Date",
        &[
            ("2149-06-06", Ok(&date(65_535))),
            ("2149-06-07", Err(OutOfRange)),
            ("1969-12-31", Err(OutOfRange)),
        ],
    );
    let micros = |micros: i64| micros.to_le_bytes();
    check(
        &PgType::TIMESTAMPTZ,
        "DateTime64(6)",
        &[
            ("1970-01-01 00:00:00.000001+00", Ok(&micros(1))),
            ("1969-12-31 23:59:59.5+00", Ok(&micros(-500_000))),
            ("9999-12-31 23:59:59.999999+00", Ok(&micros(253_402_300_799_999_999))),
            ("-infinity", Err(Infinity)),
            ("2024-01-01 00:00:00+01", Err(Unreadable)),
        ],
    );
    check(
        &PgType::TIMESTAMP,
        "DateTime64(9, 'UTC')",
        &[
            ("2262-04-11 23:47:16.854775", Ok(&micros(9_223_372_036_854_775_000))),
            ("2262-04-11 23:47:16.854776", Err(OutOfRange)),
        ],
    );
    let second = PostgresType::Timestamptz(0);
    for (value, expected) in [
        ("2106-02-07 06:28:15+00", Ok(u32::MAX.to_le_bytes().to_vec())),
        ("2106-02-07 06:28:16+00", Err(OutOfRange)),
        ("2024-01-01 00:00:00.5+00", Err(TooPrecise)),
    ] {
        assert_eq!(encode(&second, "DateTime", Some(value)), expected, "{value}");
    }
    check(
        &PgType::TIME,
        "Time64(6)",
        &[
            ("24:00:00", Ok(&micros(86_400_000_000))),
            ("23:59:59.999999", Ok(&micros(86_399_999_999))),
            ("25:00:00", Err(Unreadable)),
            ("1:00:00", Err(Unreadable)),
            ("01:0:00", Err(Unreadable)),
            ("01:00:0", Err(Unreadable)),
        ],
    );
}

#[test]
fn texts_and_bytes_keep_their_length() {
    use EncodeError::{NotAnObject, UnknownLabel, Unreadable, WrongLength};
    let long = "x".repeat(300);
    let written = [&[0xac, 0x02], long.as_bytes()].concat();
    check(&PgType::TEXT, "String", &[("", Ok(&[0])), ("ü", Ok(&[2, 0xc3, 0xbc])), (&long, Ok(&written))]);
    check(
        &PgType::BYTEA,
        "String",
        &[("\\x00fF", Ok(&[2, 0, 255])), ("\\x0", Err(Unreadable)), ("a", Err(Unreadable))],
    );
    check(&PgType::TEXT, "FixedString(2)", &[("DE", Ok(b"DE")), ("D", Err(WrongLength))]);
    check(&PgType::BYTEA, "FixedString(1)", &[("\\x07", Ok(&[7])), ("\\x", Err(WrongLength))]);
    check(&PgType::TEXT, "Enum8('a' = -1)", &[("a", Ok(&[255])), ("b", Err(UnknownLabel))]);
    check(&PgType::TEXT, "Enum16('a' = 300)", &[("a", Ok(&[44, 1]))]);
    check(&PgType::BOOL, "Bool", &[("t", Ok(&[1])), ("f", Ok(&[0])), ("x", Err(Unreadable))]);
    check(&PgType::BOOL, "UInt16", &[("t", Ok(&[1, 0]))]);
    check(
        &PgType::JSONB,
        "JSON",
        &[("{}", Ok(b"\x02{}")), ("null", Err(NotAnObject)), ("[1]", Err(NotAnObject))],
    );
    let uuid = "00112233-4455-6677-8899-aabbccddeeff";
    let bytes = [0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0, 0xff, 0xee, 0xdd, 0xcc, 0xbb, 0xaa, 0x99, 0x88];
    check(&PgType::UUID, "UUID", &[(uuid, Ok(&bytes)), ("0011", Err(Unreadable))]);
}

#[test]
fn addresses_keep_their_family_and_have_no_mask() {
    use EncodeError::NotAnAddress;
    check(
        &PgType::INET,
        "IPv4",
        &[("1.2.3.4", Ok(&[4, 3, 2, 1])), ("1.2.3.4/24", Err(NotAnAddress)), ("::1", Err(NotAnAddress))],
    );
    let one = [&[0; 15][..], &[1]].concat();
    check(
        &PgType::INET,
        "IPv6",
        &[
            ("::1", Ok(&one)),
            ("1.2.3.4", Err(NotAnAddress)),
            // Read back, it would be the same as an IPv4 address that was mapped.
            ("::ffff:1.2.3.4", Err(NotAnAddress)),
        ],
    );
}

#[test]
fn arrays_are_as_deep_as_their_column() {
    use EncodeError::{Dimensions, LowerBound, Null, Unreadable};
    let (plain, nullable) = ("Array(UInt8)", "Array(Nullable(UInt8))");
    check(
        &PgType::INT4_ARRAY,
        plain,
        &[
            ("{}", Ok(&[0])),
            ("{1,2}", Ok(&[2, 1, 2])),
            ("{1,NULL}", Err(Null)),
            ("{{1}}", Err(Dimensions)),
            ("[0:0]={1}", Err(LowerBound)),
            ("{1", Err(Unreadable)),
            ("{1}x", Err(Unreadable)),
            ("{1,}", Err(Unreadable)),
        ],
    );
    check(&PgType::INT4_ARRAY, nullable, &[("{1,NULL}", Ok(&[2, 0, 1, 1]))]);
    check(
        &PgType::INT4_ARRAY,
        "Array(Array(UInt8))",
        &[("{{1,2},{3,4}}", Ok(&[2, 2, 1, 2, 2, 3, 4])), ("{}", Ok(&[0])), ("{1}", Err(Dimensions))],
    );
    check(
        &PgType::TEXT_ARRAY,
        "Array(Nullable(String))",
        &[(r#"{a,"NULL",NULL,"x\"\\ ,}",""}"#, Ok(b"\x05\0\x01a\0\x04NULL\x01\0\x06x\"\\ ,}\0\0"))],
    );
}

#[test]
fn what_extensions_have_goes_into_arrays_and_maps() {
    let cases = [
        (PostgresType::Hstore, "Map(String, Nullable(String))", "", Ok(vec![0])),
        (
            PostgresType::Hstore,
            "Map(String, Nullable(String))",
            r#""a"=>"1", "b\""=>NULL"#,
            Ok(b"\x02\x01a\0\x011\x02b\"\x01".to_vec()),
        ),
        (PostgresType::Hstore, "Map(String, String)", r#""a"=>NULL"#, Err(EncodeError::Null)),
        (PostgresType::Hstore, "Map(String, String)", r#""a""#, Err(EncodeError::Unreadable)),
        (
            PostgresType::Vector,
            "Array(Float32)",
            "[1,0.5]",
            Ok([&[2][..], &1f32.to_le_bytes(), &0.5f32.to_le_bytes()].concat()),
        ),
        (PostgresType::Point, "Point", "(1,-2)", Ok([1f64.to_le_bytes(), (-2f64).to_le_bytes()].concat())),
        (PostgresType::Point, "Point", "(1)", Err(EncodeError::Unreadable)),
    ];
    for (from, to, value, expected) in cases {
        assert_eq!(encode(&from, to, Some(value)), expected, "{value} into {to}");
    }
}

#[test]
fn a_null_needs_a_nullable_column() {
    let text = PostgresType::new(&PgType::TEXT, -1);
    assert_eq!(encode(&text, "String", None), Err(EncodeError::Null));
    assert_eq!(encode(&text, "LowCardinality(Nullable(String))", None), Ok(vec![1]));
    assert_eq!(encode(&text, "Nullable(String)", Some("")), Ok(vec![0, 0]));
}

#[test]
fn no_error_shows_a_value() {
    let error = encode(&PostgresType::Int8, "Int8", Some("4711")).unwrap_err().to_string();
    assert!(!error.contains("4711"), "{error}");
}

const TYPES: [&str; 12] = [
    "Int32",
    "Decimal(20, 3)",
    "Nullable(Float64)",
    "DateTime64(6, 'UTC')",
    "Date32",
    "Time64(6)",
    "UUID",
    "IPv6",
    "JSON",
    "Array(Array(Nullable(Int32)))",
    "Map(String, Nullable(String))",
    "Point",
];

proptest! {
    #[test]
    fn any_bytes_are_a_value_or_an_error(value in proptest::collection::vec(any::<u8>(), 0..40)) {
        let froms = [
            PostgresType::Int4, PostgresType::Numeric(None), PostgresType::Float8, PostgresType::Timestamp(6),
            PostgresType::Date, PostgresType::Time(6), PostgresType::Uuid, PostgresType::Inet, PostgresType::Json,
            PostgresType::Array(Box::new(PostgresType::Int4)), PostgresType::Hstore, PostgresType::Point,
        ];
        for (from, to) in froms.iter().zip(TYPES) {
            let _ = encoding(from, to).encode(Some(&value), &mut Vec::new());
        }
    }

    #[test]
    fn any_whole_number_is_its_bytes(number in any::<i128>()) {
        let written = encode(&PostgresType::Numeric(None), "Int128", Some(&number.to_string()));
        prop_assert_eq!(written, Ok(number.to_le_bytes().to_vec()));
    }

    #[test]
    fn days_go_on_by_one(day in -719_162_i64..2_932_896) {
        let (next, date) = (day + 1, |day: i64| {
            let (era, of_era) = ((day + 719_468).div_euclid(146_097), (day + 719_468).rem_euclid(146_097));
            let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
            let of_year = of_era - (365 * year + year / 4 - year / 100);
            let month = (5 * of_year + 2) / 153;
            let (day, month) = (of_year - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
            format!("{:04}-{month:02}-{day:02}", year + era * 400 + i64::from(month <= 2))
        });
        let write = |day| encode(&PostgresType::Date, "Date32", Some(&date(day))).unwrap();
        prop_assert_eq!(write(day), (day as i32).to_le_bytes());
        prop_assert_eq!(write(next), (next as i32).to_le_bytes());
    }
}
