//! The rows that an output table has, to be compared: keys as texts, as Postgres writes them, in the order of their bytes; all
//! else as the bytes that were sent; then the version. Pure text.

use super::target::{Keeping, Target};
use crate::clickhouse::{PostgresType, Type, quote_ident};

/// The relation of the keys that are looked for.
pub const WANTED: &str = "trucker_wanted";

/// What a statement over these rows is made of.
#[derive(Debug, Clone)]
pub struct Actual {
    sql: String,
    /// The key's columns as texts.
    texts: Vec<String>,
    /// Those as they are, and the texts' types, where a key is found by its text's value.
    values: Option<(Vec<String>, Vec<String>)>,
}

impl Actual {
    /// For a table in which of each key one row counts. `key` are the types of the source's values; `others` the columns
    /// beside the key that are compared. The error says which column of a key can't be.
    pub fn new(target: &Target, key: &[PostgresType], others: &[&str]) -> Result<Self, String> {
        let Keeping::Versioned { version, .. } = &target.keeping else {
            return Err("of its rows, none replaces another".to_owned());
        };
        let (mut texts, mut types, mut are_found) = (Vec::new(), Vec::new(), true);
        for (name, from) in target.key.iter().zip(key) {
            let column = target.table.column(name);
            let to = column.map_or(&Type::String, |column| &column.data_type);
            let text = key_text(&quote_ident(name), from, to);
            texts.push(text.ok_or_else(|| {
                let type_text = column.map_or("", |column| column.type_text.as_str());
                format!("key column {name}, {from} in {type_text}, isn't written alike on both sides")
            })?);
            types.push(column.map_or_else(String::new, |column| column.type_text.clone()));
            are_found &=
                matches!(to, Type::Int { .. } | Type::UInt { .. } | Type::Uuid | Type::Date | Type::Date32)
                    || matches!((to, from), (Type::String, from) if *from != PostgresType::Bytea);
        }
        let columns: Vec<String> = others.iter().map(|name| quote_ident(name)).collect();
        let bytes = match columns.as_slice() {
            [] => "''".to_owned(),
            columns => format!("hex(formatRow('RowBinary', {}))", columns.join(", ")),
        };
        let keys = texts.iter().enumerate().map(|(at, text)| format!("{text} AS trucker_k{at}"));
        let keys = keys.collect::<Vec<_>>().join(", ");
        let sql =
            format!("SELECT {keys}, {bytes}, toString({}) FROM {} FINAL", quote_ident(version), target.sql());
        let names = target.key.iter().map(|name| quote_ident(name)).collect();
        Ok(Actual { sql, texts, values: are_found.then_some((names, types)) })
    }

    /// How many columns there are.
    pub fn columns(&self) -> usize {
        self.texts.len() + 2
    }

    /// All rows, in the order of the keys' bytes.
    pub fn all(&self) -> String {
        let order: Vec<String> = (0..self.texts.len()).map(|at| format!("trucker_k{at}")).collect();
        format!("{} ORDER BY {}", self.sql, order.join(", "))
    }

    /// Those of the keys in [`WANTED`], whose columns are k0, k1 … of type String.
    pub fn of_keys(&self) -> String {
        let wanted =
            |part: &dyn Fn(usize) -> String| (0..self.texts.len()).map(part).collect::<Vec<_>>().join(", ");
        let (columns, wanted) = match &self.values {
            Some((names, types)) => {
                (names, wanted(&|at| format!("CAST(k{at}, '{}')", types[at].replace('\'', "\\'"))))
            }
            None => (&self.texts, wanted(&|at| format!("k{at}"))),
        };
        format!("{} WHERE ({}) IN (SELECT {wanted} FROM {WANTED})", self.sql, columns.join(", "))
    }
}

/// A key's column, written as the source writes it.
fn key_text(name: &str, from: &PostgresType, to: &Type) -> Option<String> {
    Some(match (from, to) {
        (PostgresType::Bytea, Type::String | Type::FixedString(_)) => {
            format!("concat('\\\\x', lower(hex({name})))")
        }
        (PostgresType::Bool, Type::Bool) => format!("if({name}, 't', 'f')"),
        (PostgresType::Bool, _) => return None,
        (_, Type::Decimal { scale, .. }) => format!("toDecimalString({name}, {scale})"),
        (PostgresType::Timestamp(_), Type::DateTime64 { scale, .. }) => moment_text(name, *scale),
        (PostgresType::Timestamptz(_), Type::DateTime64 { scale, .. }) => {
            format!("concat({}, '+00')", moment_text(name, *scale))
        }
        (_, Type::Int { .. } | Type::UInt { .. } | Type::Uuid | Type::Date | Type::Date32 | Type::String)
        | (_, Type::FixedString(_) | Type::Enum { .. }) => format!("toString({name})"),
        _ => return None,
    })
}

/// As Postgres: a fraction without zeros at its end. Without a fraction, those are the seconds'.
fn moment_text(name: &str, scale: u8) -> String {
    let text = format!("toString({name}, 'UTC')");
    if scale == 0 { text } else { format!("replaceRegexpOne({text}, '\\\\.?0+$', '')") }
}

/// What the source's value of a key is cast to, so that it is written as the column's is.
pub fn key_cast(from: &PostgresType, to: &Type) -> Option<String> {
    match (from, to) {
        (PostgresType::Numeric(_), Type::Int { .. } | Type::UInt { .. }) => {
            Some("numeric(1000,0)".to_owned())
        }
        (_, Type::Decimal { precision, scale }) => Some(format!("numeric({precision},{scale})")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_taken_from_a_fraction_alone() {
        for (scale, timestamp) in [
            (0, "toString(at, 'UTC')"),
            (3, r"replaceRegexpOne(toString(at, 'UTC'), '\\.?0+$', '')"),
            (6, r"replaceRegexpOne(toString(at, 'UTC'), '\\.?0+$', '')"),
        ] {
            let to = Type::DateTime64 { scale, zone: None };
            let text = |from| key_text("at", &from, &to).unwrap();
            assert_eq!(text(PostgresType::Timestamp(scale)), timestamp, "{scale}");
            assert_eq!(
                text(PostgresType::Timestamptz(scale)),
                format!("concat({timestamp}, '+00')"),
                "{scale}"
            );
        }
    }
}
