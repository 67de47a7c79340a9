//! The rows that the output should have: the backfill's SQL, with every value in the output's text form, in the order of the
//! keys or for some keys only. Builds text, asks no server.

use std::collections::BTreeMap;

use super::query::CopyQuery;
use crate::postgres::ident::quote_ident;
use crate::postgres::text_rows::{in_order, join_keys, output_text};

/// Name of the last column.
const VERSION: &str = "trucker_version";
const UNION: &str = "\nUNION ALL\n";

/// What a statement over these rows is made of. Its columns are the key's, in the key's order, then all others, then which
/// version of the input row it is made of.
#[derive(Debug, Clone)]
pub struct Expected {
    /// One per input table.
    selects: Vec<String>,
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
        let values = columns.iter().enumerate().map(|(at, name)| {
            let value = format!("trucker_all.{}", quote_ident(name));
            let value = match casts.get(name) {
                Some(cast) => format!("{value}::{cast}"),
                None => value,
            };
            format!("{} AS c{at}", output_text(&value))
        });
        let values = values.collect::<Vec<_>>().join(", ");
        // As texts before they are put together: of two types Postgres would make one, and change values by it.
        let selects = copies.iter().map(|copy| {
            let sql = copy.with_version(VERSION);
            format!("SELECT {values}, trucker_all.{VERSION} FROM ({sql}\n) AS trucker_all")
        });
        let selects = selects.collect();
        Some(Expected { selects, key: key.to_vec(), columns, key_array })
    }

    /// All rows, in the order of their keys' bytes. One without a key is never written.
    pub fn all(&self) -> String {
        in_order(&self.selects.join(UNION), self.key.len())
    }

    /// Those of some keys: a parameter for each column of the key.
    pub fn of_keys(&self) -> String {
        match (&self.key_array, self.key.as_slice()) {
            (Some(array), [column]) => {
                let wanted = format!(" WHERE trucker_all.{} = ANY ($1::{array})", quote_ident(column));
                let selects: Vec<String> =
                    self.selects.iter().map(|select| format!("{select}{wanted}")).collect();
                selects.join(UNION)
            }
            _ => join_keys(&self.selects.join(UNION), self.key.len()),
        }
    }
}
