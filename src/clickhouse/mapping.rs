//! Which Postgres types go into which ClickHouse types, how, and which type is best. A pair is accepted where a value can
//! arrive as it is: then each is exact or an error (`encode`). Where loss would be the rule, the pair is refused.

use std::fmt;

use tokio_postgres::types::{Kind, Type as PgType};

use super::catalog::Server;
use super::encode::{Encoding, Form, Number, Span};
use super::types::Type;

/// A type of Postgres, as far as ClickHouse has a counterpart.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are Postgres's")]
pub enum PostgresType {
    Bool,
    Int2,
    Int4,
    Int8,
    /// oid, xid, xid8
    Unsigned,
    Float4,
    Float8,
    /// With precision and scale, if it has them. A scale may be negative, or larger than the precision.
    Numeric(Option<(i32, i32)>),
    Bytea,
    Uuid,
    Date,
    /// With digits of fractions of seconds.
    Time(u8),
    Timestamp(u8),
    Timestamptz(u8),
    Json,
    Hstore,
    Inet,
    Point,
    /// pgvector's vector and halfvec
    Vector,
    Enum,
    Array(Box<PostgresType>),
    /// All others, as texts.
    Text(String),
}

impl PostgresType {
    /// From what a prepared statement says of a result column. `modifier` is its `atttypmod`.
    pub fn new(pg: &PgType, modifier: i32) -> Self {
        let precision = u8::try_from(modifier).ok().filter(|p| *p <= 6).unwrap_or(6);
        match (pg.kind(), pg.name()) {
            (Kind::Domain(base), _) => PostgresType::new(base, -1),
            (Kind::Enum(_), _) => PostgresType::Enum,
            // Written in a way of their own.
            (_, name @ ("int2vector" | "oidvector" | "_box")) => PostgresType::Text(name.to_owned()),
            (Kind::Array(element), _) => PostgresType::Array(Box::new(PostgresType::new(element, modifier))),
            (_, "bool") => PostgresType::Bool,
            (_, "int2") => PostgresType::Int2,
            (_, "int4") => PostgresType::Int4,
            (_, "int8") => PostgresType::Int8,
            (_, "oid" | "xid" | "cid" | "xid8") => PostgresType::Unsigned,
            (_, "float4") => PostgresType::Float4,
            (_, "float8") => PostgresType::Float8,
            (_, "numeric") => PostgresType::Numeric(numeric_modifier(modifier)),
            (_, "bytea") => PostgresType::Bytea,
            (_, "uuid") => PostgresType::Uuid,
            (_, "date") => PostgresType::Date,
            (_, "time") => PostgresType::Time(precision),
            (_, "timestamp") => PostgresType::Timestamp(precision),
            (_, "timestamptz") => PostgresType::Timestamptz(precision),
            (_, "json" | "jsonb") => PostgresType::Json,
            (_, "hstore") => PostgresType::Hstore,
            (_, "inet") => PostgresType::Inet,
            (_, "point") => PostgresType::Point,
            (_, "vector" | "halfvec") => PostgresType::Vector,
            (_, name) => PostgresType::Text(name.to_owned()),
        }
    }
}

/// `numeric(p, s)`: p in the upper half, s in eleven bits with a sign, 4 added to all.
fn numeric_modifier(modifier: i32) -> Option<(i32, i32)> {
    let packed = modifier.checked_sub(4).filter(|packed| *packed >= 0)?;
    Some((packed >> 16, ((packed & 0x7ff) ^ 1024) - 1024))
}

impl fmt::Display for PostgresType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            PostgresType::Bool => "boolean",
            PostgresType::Int2 => "smallint",
            PostgresType::Int4 => "integer",
            PostgresType::Int8 => "bigint",
            PostgresType::Unsigned => "oid",
            PostgresType::Float4 => "real",
            PostgresType::Float8 => "double precision",
            PostgresType::Numeric(None) => "numeric",
            PostgresType::Numeric(Some((p, s))) => return write!(f, "numeric({p},{s})"),
            PostgresType::Bytea => "bytea",
            PostgresType::Uuid => "uuid",
            PostgresType::Date => "date",
            PostgresType::Time(_) => "time",
            PostgresType::Timestamp(p) => return write!(f, "timestamp({p})"),
            PostgresType::Timestamptz(p) => return write!(f, "timestamptz({p})"),
            PostgresType::Json => "json",
            PostgresType::Hstore => "hstore",
            PostgresType::Inet => "inet",
            PostgresType::Point => "point",
            PostgresType::Vector => "vector",
            PostgresType::Enum => "an enum",
            PostgresType::Array(element) => return write!(f, "{element}[]"),
            PostgresType::Text(name) => name,
        };
        f.write_str(name)
    }
}

/// Why a column can't take a type, and what would do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{from} doesn't go into {into} as it is: {cure}")]
pub struct Refusal {
    from: String,
    into: String,
    cure: String,
}

/// How values of a Postgres type go into a column of type `to`, whose text is `type_text`.
pub fn accepts(
    from: &PostgresType,
    to: &Type,
    type_text: &str,
    server: &Server,
) -> Result<Encoding, Refusal> {
    form(from, to, server).map(Encoding).ok_or_else(|| Refusal {
        from: from.to_string(),
        into: type_text.to_owned(),
        cure: cure(from, to, server),
    })
}

fn form(from: &PostgresType, to: &Type, server: &Server) -> Option<Form> {
    Some(match (from, to) {
        (_, Type::Nullable(inner)) => Form::Nullable(Box::new(form(from, inner, server)?)),
        (PostgresType::Bytea, Type::String) => Form::Bytes,
        (PostgresType::Bytea, Type::FixedString(len)) => Form::Fixed { len: *len, is_bytea: true },
        (_, Type::String) => Form::Text,
        (PostgresType::Text(_) | PostgresType::Enum, Type::FixedString(len)) => {
            Form::Fixed { len: *len, is_bytea: false }
        }
        (PostgresType::Bool, Type::Bool) => Form::Bool { bytes: 1 },
        (PostgresType::Bool, Type::Int { bits } | Type::UInt { bits }) => {
            Form::Bool { bytes: usize::from(bits / 8) }
        }
        (PostgresType::Uuid, Type::Uuid) => Form::Uuid,
        (PostgresType::Enum | PostgresType::Text(_), Type::Enum { bits, labels }) => {
            Form::Enum { bytes: usize::from(bits / 8), labels: labels.iter().cloned().collect() }
        }
        (PostgresType::Inet, Type::Ipv4) => Form::Ipv4,
        (PostgresType::Inet, Type::Ipv6) => Form::Ipv6,
        (PostgresType::Json, Type::Json) => Form::Json,
        (PostgresType::Hstore, Type::Map(key, value)) if **key == Type::String => {
            let value_form = form(&PostgresType::Text("text".to_owned()), value, server)?;
            Form::Hstore(Box::new(value_form))
        }
        (PostgresType::Point, Type::Tuple(parts)) if *parts == [Type::Float64, Type::Float64] => Form::Point,
        (PostgresType::Vector, Type::Array(element)) => {
            Form::Vector(Box::new(form(&PostgresType::Float4, element, server)?))
        }
        // How many dimensions an array has, its type doesn't say.
        (PostgresType::Array(_), Type::Array(inner)) if matches!(**inner, Type::Array(_)) => {
            Form::Array(Box::new(form(from, inner, server)?))
        }
        (PostgresType::Array(element), Type::Array(inner)) => {
            Form::Array(Box::new(form(element, inner, server)?))
        }
        _ => return number_form(from, to).or_else(|| time_form(from, to, server)),
    })
}

fn number_form(from: &PostgresType, to: &Type) -> Option<Form> {
    let is_exact = matches!(
        from,
        PostgresType::Int2
            | PostgresType::Int4
            | PostgresType::Int8
            | PostgresType::Unsigned
            | PostgresType::Numeric(_)
    );
    Some(match (from, to) {
        (_, Type::Int { bits }) if is_exact => Form::Number(Number::int(*bits)),
        (_, Type::UInt { bits }) if is_exact => Form::Number(Number::uint(*bits)),
        (PostgresType::Numeric(Some((p, s))), Type::Decimal { precision, scale })
            if !holds_all(*p, *s, *precision, *scale) =>
        {
            return None;
        }
        (_, Type::Decimal { precision, scale }) if is_exact => {
            Form::Number(Number::decimal(*precision, *scale)?)
        }
        (PostgresType::Int2 | PostgresType::Float4, Type::Float32) => Form::Float32,
        (PostgresType::Int2 | PostgresType::Int4 | PostgresType::Float8, Type::Float64) => Form::Float64,
        (PostgresType::Float4, Type::Float64) => Form::Float32As64,
        _ => return None,
    })
}

fn time_form(from: &PostgresType, to: &Type, server: &Server) -> Option<Form> {
    let day_span = if has_wide_dates(server) { Span::WIDE } else { Span::NARROW };
    Some(match (from, to) {
        (PostgresType::Date, Type::Date) => Form::Date { bytes: 2, span: Span::DATE },
        (PostgresType::Date, Type::Date32) => Form::Date { bytes: 4, span: day_span },
        (PostgresType::Timestamp(p) | PostgresType::Timestamptz(p), Type::DateTime { zone }) => {
            is_same_time(from, zone.as_deref(), server, *p == 0)?;
            Form::Timestamp { bytes: 4, scale: 0, span: Span::DATE_TIME }
        }
        (PostgresType::Timestamp(p) | PostgresType::Timestamptz(p), Type::DateTime64 { scale, zone }) => {
            is_same_time(from, zone.as_deref(), server, p <= scale)?;
            Form::Timestamp { bytes: 8, scale: *scale, span: day_span }
        }
        (PostgresType::Time(0), Type::Time) => Form::Time { bytes: 4, scale: 0 },
        (PostgresType::Time(p), Type::Time64 { scale }) if p <= scale => {
            Form::Time { bytes: 8, scale: *scale }
        }
        _ => return None,
    })
}

/// Older servers show days beyond 1900 to 2299 as others.
fn has_wide_dates(server: &Server) -> bool {
    server.version >= (26, 7)
}

/// Whether all digits of a `numeric(p, s)` have a place.
fn holds_all(p: i32, s: i32, precision: u8, scale: u8) -> bool {
    let (precision, scale) = (i32::from(precision), i32::from(scale));
    s <= scale && p - s <= precision - scale
}

/// A point in time is the same in every zone. A timestamp has none, so it has to be shown as it was in Postgres, which is in UTC.
fn is_same_time(from: &PostgresType, zone: Option<&str>, server: &Server, is_precise: bool) -> Option<()> {
    let is_utc = is_utc(zone.unwrap_or(&server.timezone));
    (is_precise && (is_utc || matches!(from, PostgresType::Timestamptz(_)))).then_some(())
}

fn is_utc(zone: &str) -> bool {
    matches!(
        zone,
        "UTC" | "Etc/UTC" | "Etc/UCT" | "UCT" | "Zulu" | "Etc/Zulu" | "Universal" | "Etc/Universal"
    )
}

/// The column to have, and the cast that would do with the one that is there.
fn cure(from: &PostgresType, to: &Type, server: &Server) -> String {
    let better = format!("make the column {}", propose(from, true, false, server));
    match cast(from, to) {
        Some(cast) => format!("{better}, or cast in the SQL: {cast}"),
        None => better,
    }
}

/// What the SQL could say so that the value goes in.
fn cast(from: &PostgresType, to: &Type) -> Option<String> {
    Some(match (from, to.without_nullable()) {
        (_, Type::Bool) => "::boolean".to_owned(),
        (_, Type::Int { .. } | Type::UInt { .. }) => "::bigint".to_owned(),
        (_, Type::Float32) => "::real".to_owned(),
        (_, Type::Float64) => "::double precision".to_owned(),
        (_, Type::Decimal { precision, scale }) => format!("::numeric({precision},{scale})"),
        (_, Type::Uuid) => "::uuid".to_owned(),
        (_, Type::Date | Type::Date32) => "::date".to_owned(),
        (PostgresType::Timestamp(_), Type::DateTime64 { scale: 6.., .. }) => "AT TIME ZONE 'UTC'".to_owned(),
        (_, Type::DateTime { .. }) => "::timestamptz(0)".to_owned(),
        (_, Type::DateTime64 { scale, .. }) => format!("::timestamptz({})", (*scale).min(6)),
        (_, Type::Time) => "::time(0)".to_owned(),
        (_, Type::Time64 { scale }) => format!("::time({})", (*scale).min(6)),
        (_, Type::Enum { .. } | Type::FixedString(_)) => "::text".to_owned(),
        (_, Type::Ipv4 | Type::Ipv6) => "::inet".to_owned(),
        (_, Type::Json) => "::jsonb".to_owned(),
        _ => return None,
    })
}

/// The type of a column that holds every value of a Postgres type, as far as there is one. Key columns are never Nullable.
pub fn propose(from: &PostgresType, is_not_null: bool, is_key: bool, server: &Server) -> String {
    let is_nullable = !is_not_null && !is_key;
    let plain = match from {
        PostgresType::Enum if is_nullable => return "LowCardinality(Nullable(String))".to_owned(),
        // These can't be Nullable; as texts they can.
        PostgresType::Hstore | PostgresType::Array(_) | PostgresType::Vector if is_nullable => {
            "String".to_owned()
        }
        // Nor may anything in a key be, and their parts are.
        PostgresType::Hstore | PostgresType::Array(_) if is_key => "String".to_owned(),
        PostgresType::Hstore => return "Map(String, Nullable(String))".to_owned(),
        PostgresType::Vector => return "Array(Float32)".to_owned(),
        PostgresType::Array(element) => return format!("Array({})", propose(element, false, false, server)),
        PostgresType::Bool => "Bool".to_owned(),
        PostgresType::Int2 => "Int16".to_owned(),
        PostgresType::Int4 => "Int32".to_owned(),
        PostgresType::Int8 => "Int64".to_owned(),
        PostgresType::Unsigned => "UInt64".to_owned(),
        PostgresType::Float4 => "Float32".to_owned(),
        PostgresType::Float8 => "Float64".to_owned(),
        PostgresType::Numeric(Some((p, s))) => decimal(*p, *s).unwrap_or_else(|| "String".to_owned()),
        PostgresType::Uuid => "UUID".to_owned(),
        PostgresType::Date => "Date32".to_owned(),
        PostgresType::Time(_) if server.version >= (25, 12) => "Time64(6)".to_owned(),
        PostgresType::Timestamp(_) | PostgresType::Timestamptz(_) => "DateTime64(6, 'UTC')".to_owned(),
        PostgresType::Enum => "LowCardinality(String)".to_owned(),
        PostgresType::Numeric(None)
        | PostgresType::Bytea
        | PostgresType::Time(_)
        | PostgresType::Json
        | PostgresType::Inet
        | PostgresType::Point
        | PostgresType::Text(_) => "String".to_owned(),
    };
    if is_nullable { format!("Nullable({plain})") } else { plain }
}

/// The type with room for NULL; None where ClickHouse has no such type.
pub fn nullable(type_text: &str) -> Option<String> {
    if let Some(inner) = type_text.strip_prefix("LowCardinality(").and_then(|rest| rest.strip_suffix(')')) {
        return nullable(inner).map(|inner| format!("LowCardinality({inner})"));
    }
    match Type::parse(type_text) {
        Type::Array(_) | Type::Map(..) | Type::Tuple(_) | Type::Other(_) => None,
        Type::Nullable(_) => Some(type_text.to_owned()),
        _ => Some(format!("Nullable({type_text})")),
    }
}

/// Room for all digits of a `numeric(p, s)`.
fn decimal(p: i32, s: i32) -> Option<String> {
    let scale = s.max(0);
    let precision = (p - s).max(0) + scale;
    (1..=76).contains(&precision).then(|| format!("Decimal({precision}, {scale})"))
}

#[cfg(test)]
#[path = "mapping_tests.rs"]
mod tests;
