//! The rows that an output table has, as texts, to be compared: in the order of the keys, or of some keys only. Only reads.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use super::statement::Target;
use crate::postgres::ident::quote_ident;
use crate::postgres::text_rows::{in_order, join_keys, output_text};
use crate::sink::SinkError;

/// What a statement over these rows is made of.
#[derive(Debug, Clone)]
pub struct Actual {
    sql: String,
    key_columns: usize,
    key_filter: Option<String>,
}

impl Actual {
    /// These columns of the table, the key's first; then which version of the row it is, which changes whenever it is written.
    pub fn new(target: &Target, columns: &[String]) -> Self {
        let values = columns
            .iter()
            .enumerate()
            .map(|(at, name)| format!("{} AS c{at}", output_text(&format!("o.{}", quote_ident(name)))));
        let values = values.collect::<Vec<_>>().join(", ");
        let key_filter = match target.key.as_slice() {
            [column] => target
                .table
                .column(column)
                .and_then(|c| c.type_name.array_sql.as_ref())
                .map(|array| format!("o.{} = ANY ($1::{array})", quote_ident(column))),
            _ => None,
        };
        let version = "pg_catalog.concat_ws(' ', o.tableoid, o.ctid, o.xmin) AS trucker_version";
        let sql = format!("SELECT {values}, {version} FROM {} AS o", target.table.from_sql());
        Actual { sql, key_columns: target.key.len(), key_filter }
    }

    /// All rows that have a key, in the order of the keys' bytes.
    pub fn all(&self) -> String {
        in_order(&self.sql, self.key_columns)
    }

    /// Those of some keys: a parameter for each column of the key.
    pub fn of_keys(&self) -> String {
        match &self.key_filter {
            Some(filter) => format!("{} WHERE {filter}", self.sql),
            None => join_keys(&self.sql, self.key_columns),
        }
    }
}

/// The types of the columns with their modifiers, of those whose type every server knows: what a value becomes when it is
/// written.
pub async fn fetch_casts(client: &Client, target: &Target) -> Result<BTreeMap<String, String>, SinkError> {
    // A domain's modifier is its own; types from 16384 on are a database's.
    let sql = "SELECT a.attname::text, CASE WHEN t.typtype = 'd' THEN pg_catalog.format_type(t.typbasetype, t.typtypmod) \
                 ELSE pg_catalog.format_type(a.atttypid, a.atttypmod) END \
               FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
               WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped \
               AND CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE a.atttypid END < 16384";
    let rows = client.query(sql, &[&target.table.oid]).await;
    let casts = rows.and_then(|rows| rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect());
    casts.map_err(SinkError::at("reading the output's catalog"))
}
