//! The rows that the output should have: the backfill's SQL, with every value in the output's text form, in the order of the
//! keys or for some keys only. Builds text, asks no server.

use std::collections::BTreeMap;

use super::query::CopyQuery;
use crate::postgres::ident::quote_ident;

/// Name of the last column.
const VERSION: &str = "trucker_version";

/// What a statement over these rows is made of. Its columns are the key's, in the key's order, then all others, then which
/// version of the input row it is made of.
#[derive(Debug, Clone)]
pub struct Expected {
    sql: String,
    key: Vec<String>,
    /// Output columns, in the order of the statement's.
    pub columns: Vec<String>,
    /// The array type of a key that is one column of a built-in type: then the planner may find its rows by an index.
    key_array: Option<String>,
}

impl Expected {
    /// Over the backfills of all input tables; `casts` are the types of the output's columns, as SQL names them with their
    /// modifiers, where the source knows them too.
    pub fn new(
        copies: &[CopyQuery],
        key: &[String],
        casts: &BTreeMap<String, String>,
        key_array: Option<String>,
    ) -> Option<Self> {
        let first = copies.first()?;
        let others = first.columns.iter().map(|column| &column.name).filter(|name| !key.contains(name));
        let columns: Vec<String> = key.iter().chain(others).cloned().collect();
        let names: Vec<String> = columns.iter().map(|name| quote_ident(name)).collect();
        let selects: Vec<String> = copies
            .iter()
            .map(|copy| {
                let sql = copy.with_version(VERSION);
                format!("SELECT {}, {VERSION} FROM ({sql}\n) AS trucker_row", names.join(", "))
            })
            .collect();
        let values = columns.iter().enumerate().map(|(at, name)| {
            let value = format!("trucker_all.{}", quote_ident(name));
            let value = match casts.get(name) {
                Some(cast) => format!("{value}::{cast}"),
                None => value,
            };
            format!("{} AS c{at}", output_text(&value))
        });
        let values = values.collect::<Vec<_>>().join(", ");
        let sql = format!(
            "SELECT {values}, trucker_all.{VERSION} FROM ({}) AS trucker_all",
            selects.join("\nUNION ALL\n")
        );
        Some(Expected { sql, key: key.to_vec(), columns, key_array })
    }

    /// All rows, in the order of their keys' bytes. One without a key is never written.
    pub fn all(&self) -> String {
        let present: Vec<String> = (0..self.key.len()).map(|at| format!("e.c{at} IS NOT NULL")).collect();
        format!(
            "SELECT * FROM ({}) AS e WHERE {} ORDER BY {}",
            self.sql,
            present.join(" AND "),
            by_key(self.key.len())
        )
    }

    /// Those of some keys: a parameter for each column of the key.
    pub fn of_keys(&self) -> String {
        match (&self.key_array, self.key.as_slice()) {
            (Some(array), [column]) => {
                format!("{} WHERE trucker_all.{} = ANY ($1::{array})", self.sql, quote_ident(column))
            }
            _ => format!("SELECT e.* FROM ({}) AS e {}", self.sql, join_keys("e", self.key.len())),
        }
    }
}

/// A value as its type's output function writes it.
pub fn output_text(value: &str) -> String {
    format!("CASE WHEN {value} IS NOT NULL THEN pg_catalog.concat({value}) END")
}

/// An order that is the same on every server, whatever its collations and encoding.
pub fn by_key(columns: usize) -> String {
    let columns = (0..columns).map(|at| format!("pg_catalog.convert_to(c{at}, 'UTF8')"));
    columns.collect::<Vec<_>>().join(", ")
}

/// Joins keys, given as texts.
pub fn join_keys(relation: &str, columns: usize) -> String {
    let arrays: Vec<String> = (1..=columns).map(|at| format!("${at}::pg_catalog._text")).collect();
    let names: Vec<String> = (0..columns).map(|at| format!("k{at}")).collect();
    let equal: Vec<String> = (0..columns).map(|at| format!("{relation}.c{at} = w.k{at}")).collect();
    format!("JOIN unnest({}) AS w({}) ON {}", arrays.join(", "), names.join(", "), equal.join(" AND "))
}
