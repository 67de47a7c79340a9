//! Rows whose columns are all texts, as tuples, one by one as the server sends them: memory is bounded by the longest row.

use std::pin::Pin;

use futures_util::StreamExt;
use tokio_postgres::types::{FromSql, Type};
use tokio_postgres::{Client, Row, RowStream};

use super::array::ArrayText;
use crate::change::{Cell, Cells, Tuple};

/// An answer that is being read.
pub struct TextRows {
    rows: Pin<Box<RowStream>>,
}

impl TextRows {
    /// Asks.
    pub async fn query(
        client: &Client,
        sql: &str,
        arrays: Vec<ArrayText>,
    ) -> Result<Self, tokio_postgres::Error> {
        Ok(TextRows { rows: Box::pin(client.query_raw(sql, arrays).await?) })
    }

    /// The next row; None at the end.
    pub async fn next(&mut self) -> Result<Option<Tuple>, tokio_postgres::Error> {
        self.rows.next().await.transpose()?.map(|row| text_tuple(&row, 0)).transpose()
    }
}

/// The columns of a row from that one on, all of them texts.
pub fn text_tuple(row: &Row, from: usize) -> Result<Tuple, tokio_postgres::Error> {
    let cells = (from..row.len()).map(|column| {
        let value: Option<Raw<'_>> = row.try_get(column)?;
        Ok(value.map_or(Cell::Null, |raw| Cell::Text(raw.0)))
    });
    Ok(Tuple::new(&cells.collect::<Result<Cells<'_>, _>>()?))
}

/// A value as its type's output function writes it.
pub fn output_text(value: &str) -> String {
    format!("CASE WHEN {value} IS NOT NULL THEN pg_catalog.concat({value}) END")
}

/// The rows of a query whose columns `c0`, `c1` … are a key, in an order that is the same on every server, whatever its
/// collations and encoding. Without those that lack a part of the key.
pub fn in_order(sql: &str, key_columns: usize) -> String {
    let present: Vec<String> = (0..key_columns).map(|at| format!("k.c{at} IS NOT NULL")).collect();
    let order: Vec<String> =
        (0..key_columns).map(|at| format!("pg_catalog.convert_to(k.c{at}, 'UTF8')")).collect();
    format!("SELECT k.* FROM ({sql}) AS k WHERE {} ORDER BY {}", present.join(" AND "), order.join(", "))
}

/// Those of its rows that have one of some keys: a parameter for each column of the key.
pub fn join_keys(sql: &str, key_columns: usize) -> String {
    let arrays: Vec<String> = (1..=key_columns).map(|at| format!("${at}::pg_catalog._text")).collect();
    let names: Vec<String> = (0..key_columns).map(|at| format!("w{at}")).collect();
    let equal: Vec<String> = (0..key_columns).map(|at| format!("k.c{at} = w.w{at}")).collect();
    format!(
        "SELECT k.* FROM ({sql}) AS k JOIN unnest({}) AS w({}) ON {}",
        arrays.join(", "),
        names.join(", "),
        equal.join(" AND ")
    )
}

/// The bytes of a text, as they came: nothing here depends on their being UTF-8.
struct Raw<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Raw(raw))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TEXT
    }
}
