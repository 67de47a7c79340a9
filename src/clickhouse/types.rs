//! ClickHouse's types, read from the text that its catalog has for them. Which Postgres values go into which is decided in
//! `mapping`.

use super::ident::unquoted;

/// A column's type, as far as values are written to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    /// `Bool`
    Bool,
    /// `Int8` to `Int256`
    Int {
        /// 8 to 256.
        bits: u16,
    },
    /// `UInt8` to `UInt256`
    UInt {
        /// 8 to 256.
        bits: u16,
    },
    /// `Float32`
    Float32,
    /// `Float64`
    Float64,
    /// `Decimal(precision, scale)`
    Decimal {
        /// Digits altogether, 1 to 76.
        precision: u8,
        /// Digits after the point.
        scale: u8,
    },
    /// `String`
    String,
    /// `FixedString(bytes)`
    FixedString(usize),
    /// `UUID`
    Uuid,
    /// `Date`: days from 1970 to 2149.
    Date,
    /// `Date32`
    Date32,
    /// `DateTime`: seconds from 1970 to 2106.
    DateTime {
        /// The time zone in which it is shown; None is the server's.
        zone: Option<String>,
    },
    /// `DateTime64(scale)`
    DateTime64 {
        /// Digits of fractions of seconds.
        scale: u8,
        /// As for `DateTime`.
        zone: Option<String>,
    },
    /// `Time`: whole seconds.
    Time,
    /// `Time64(scale)`
    Time64 {
        /// Digits of fractions of seconds.
        scale: u8,
    },
    /// `Enum8`, `Enum16`
    Enum {
        /// 8 or 16.
        bits: u16,
        /// What it knows.
        labels: Vec<(String, i16)>,
    },
    /// `IPv4`
    Ipv4,
    /// `IPv6`
    Ipv6,
    /// `JSON`, with or without parameters.
    Json,
    /// `Nullable(…)`
    Nullable(Box<Type>),
    /// `Array(…)`
    Array(Box<Type>),
    /// `Map(key, value)`
    Map(Box<Type>, Box<Type>),
    /// `Tuple(…)`, and `Point`, which is one of two numbers.
    Tuple(Vec<Type>),
    /// One that isn't written to, as the server writes it.
    Other(String),
}

/// Types within types are few; text that isn't a server's may hold any number.
const DEPTH_MAX: usize = 32;

impl Type {
    /// Reads a type as `system.columns.type` has it. `LowCardinality` and `SimpleAggregateFunction` are what they hold:
    /// their values are written as those.
    pub fn parse(text: &str) -> Type {
        parse(text.trim(), 0).unwrap_or_else(|| Type::Other(text.to_owned()))
    }

    /// Whether it can hold NULL.
    pub fn is_nullable(&self) -> bool {
        matches!(self, Type::Nullable(_))
    }

    /// The type itself, without `Nullable` around it.
    pub fn without_nullable(&self) -> &Type {
        if let Type::Nullable(inner) = self { inner } else { self }
    }
}

fn parse(text: &str, depth: usize) -> Option<Type> {
    if depth > DEPTH_MAX {
        return None;
    }
    let (name, arguments) = match text.find('(') {
        Some(open) => (&text[..open], split_arguments(text[open + 1..].strip_suffix(')')?)?),
        None => (text, Vec::new()),
    };
    let inner = |at: usize| arguments.get(at).and_then(|text| parse(text, depth + 1));
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse::<u8>().ok());
    let zone = |at: usize| arguments.get(at).map_or(Some(None), |text| unquoted(text).map(Some));
    Some(match name {
        "Bool" => Type::Bool,
        "Float32" => Type::Float32,
        "Float64" => Type::Float64,
        "Decimal" => Type::Decimal { precision: number(0)?, scale: number(1)? },
        "String" => Type::String,
        "FixedString" => Type::FixedString(arguments.first()?.parse().ok()?),
        "UUID" => Type::Uuid,
        "Date" => Type::Date,
        "Date32" => Type::Date32,
        "DateTime" => Type::DateTime { zone: zone(0)? },
        "DateTime64" => Type::DateTime64 { scale: number(0)?, zone: zone(1)? },
        "Time" => Type::Time,
        "Time64" => Type::Time64 { scale: number(0)? },
        "Enum8" => Type::Enum { bits: 8, labels: labels(&arguments)? },
        "Enum16" => Type::Enum { bits: 16, labels: labels(&arguments)? },
        "IPv4" => Type::Ipv4,
        "IPv6" => Type::Ipv6,
        "JSON" => Type::Json,
        "Nullable" => Type::Nullable(Box::new(inner(0)?)),
        "LowCardinality" => inner(0)?,
        "SimpleAggregateFunction" => inner(1)?,
        "Array" => Type::Array(Box::new(inner(0)?)),
        "Map" => Type::Map(Box::new(inner(0)?), Box::new(inner(1)?)),
        "Point" => Type::Tuple(vec![Type::Float64, Type::Float64]),
        "Tuple" => Type::Tuple(arguments.iter().map(|text| element(text, depth + 1)).collect::<Option<_>>()?),
        _ => {
            let bits = |start: &str| name.strip_prefix(start).and_then(|bits| bits.parse::<u16>().ok());
            let is_width = |bits: &u16| matches!(bits, 8 | 16 | 32 | 64 | 128 | 256);
            match (bits("Int").filter(is_width), bits("UInt").filter(is_width)) {
                (Some(bits), _) => Type::Int { bits },
                (_, Some(bits)) => Type::UInt { bits },
                _ => return None,
            }
        }
    })
}

/// An element of a tuple, which may have a name before its type.
fn element(text: &str, depth: usize) -> Option<Type> {
    parse(text, depth).or_else(|| {
        let type_start = match text.strip_prefix('`') {
            Some(rest) => rest.find("` ").map(|at| at + 3),
            None => text.find(' ').map(|at| at + 1),
        };
        parse(text.get(type_start?..)?, depth)
    })
}

/// `'a' = 1`
fn labels(arguments: &[&str]) -> Option<Vec<(String, i16)>> {
    let label = |text: &&str| {
        let (name, number) = text.rsplit_once(" = ")?;
        Some((unquoted(name.trim())?, number.trim().parse().ok()?))
    };
    arguments.iter().map(label).collect()
}

/// Parts between commas that are in neither quotes nor parentheses; None where those don't close.
pub(super) fn split_arguments(text: &str) -> Option<Vec<&str>> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0usize);
    let mut quote = None;
    let mut letters = text.char_indices();
    while let Some((at, c)) = letters.next() {
        match (quote, c) {
            (Some(_), '\\') => _ = letters.next(),
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '`' | '"') => quote = Some(c),
            (None, '(' | '[') => depth += 1,
            (None, ')' | ']') => depth = depth.checked_sub(1)?,
            (None, ',') if depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    let is_closed = quote.is_none() && depth == 0;
    is_closed.then_some(parts).map(|parts| if parts == [""] { Vec::new() } else { parts })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn types_are_read_as_the_catalog_writes_them() {
        let nullable = |inner| Type::Nullable(Box::new(inner));
        let array = |inner| Type::Array(Box::new(inner));
        let utc = || Some("UTC".to_owned());
        for (text, expected) in [
            ("Bool", Type::Bool),
            ("Int8", Type::Int { bits: 8 }),
            ("UInt256", Type::UInt { bits: 256 }),
            ("Decimal(18, 2)", Type::Decimal { precision: 18, scale: 2 }),
            ("FixedString(16)", Type::FixedString(16)),
            ("DateTime", Type::DateTime { zone: None }),
            ("DateTime('UTC')", Type::DateTime { zone: utc() }),
            ("DateTime64(6)", Type::DateTime64 { scale: 6, zone: None }),
            ("Nullable(DateTime64(6, 'UTC'))", nullable(Type::DateTime64 { scale: 6, zone: utc() })),
            ("Time64(6)", Type::Time64 { scale: 6 }),
            ("LowCardinality(Nullable(String))", nullable(Type::String)),
            ("SimpleAggregateFunction(sum, UInt64)", Type::UInt { bits: 64 }),
            ("Array(Array(Nullable(Int32)))", array(array(nullable(Type::Int { bits: 32 })))),
            ("Map(String, Nullable(String))", Type::Map(Type::String.into(), nullable(Type::String).into())),
            ("JSON(max_dynamic_paths=8)", Type::Json),
            ("Point", Type::Tuple(vec![Type::Float64, Type::Float64])),
            ("Tuple(x UInt8, `a b` String)", Type::Tuple(vec![Type::UInt { bits: 8 }, Type::String])),
            (
                "Enum8('a' = 1, 'b, \\'c\\' = (' = -2)",
                Type::Enum { bits: 8, labels: vec![("a".to_owned(), 1), ("b, 'c' = (".to_owned(), -2)] },
            ),
            ("Variant(String, UInt8)", Type::Other("Variant(String, UInt8)".to_owned())),
            ("AggregateFunction(sum, UInt8)", Type::Other("AggregateFunction(sum, UInt8)".to_owned())),
            ("Int24", Type::Other("Int24".to_owned())),
            ("Nullable(", Type::Other("Nullable(".to_owned())),
        ] {
            assert_eq!(Type::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let deep = format!("{}Int8{}", "Array(".repeat(100_000), ")".repeat(100_000));
        assert!(matches!(Type::parse(&deep), Type::Other(_)));
    }

    proptest! {
        #[test]
        fn any_text_is_some_type(text in "[A-Za-z0-9(),'` \\\\=ü]{0,40}") {
            Type::parse(&text);
        }
    }
}
