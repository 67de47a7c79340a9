//! Rows whose columns are all texts, as tuples, one by one as the server sends them: memory is bounded by the longest row.

use std::pin::Pin;

use futures_util::StreamExt;
use tokio_postgres::types::{FromSql, Type};
use tokio_postgres::{Client, Row, RowStream};

use super::array::ArrayText;
use crate::change::{Cell, Tuple, TupleBuilder};

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
    let mut tuple = TupleBuilder::new(row.len().saturating_sub(from));
    for column in from..row.len() {
        let value: Option<Raw<'_>> = row.try_get(column)?;
        tuple.push(value.map_or(Cell::Null, |raw| Cell::Text(raw.0)));
    }
    Ok(tuple.build())
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
