//! Runs a prepared query over changes and hands back its rows, each with the change that it belongs to.

use std::pin::Pin;

use futures_util::StreamExt;
use tokio_postgres::types::{FromSql, Type};
use tokio_postgres::{Client, RowStream};

use super::query::Query;
use crate::change::{Cell, Change, Tuple, TupleBuilder};
use crate::postgres::array::ArrayText;

/// The rows of one run, in the order of its changes.
pub struct ResultRows {
    rows: Pin<Box<RowStream>>,
}

/// Starts the query over these changes, all of the operation that it was made for, with every value that it needs
/// resolved (see [`super::resolve`]).
pub async fn run<'a>(
    client: &Client,
    query: &Query,
    changes: impl Iterator<Item = &'a Change>,
) -> Result<ResultRows, tokio_postgres::Error> {
    let mut arrays = vec![ArrayText::default(); query.params.len()];
    for change in changes {
        for (param, array) in query.params.iter().zip(&mut arrays) {
            array.push(param.cell(change).text());
        }
    }
    let rows = client.query_raw(&query.statement, arrays).await?;
    Ok(ResultRows { rows: Box::pin(rows) })
}

impl ResultRows {
    /// The next row: the place of its change among those given, and its values. None at the end.
    pub async fn next(&mut self) -> Result<Option<(usize, Tuple)>, tokio_postgres::Error> {
        let Some(row) = self.rows.next().await.transpose()? else { return Ok(None) };
        let n: i64 = row.try_get(0)?;
        let mut tuple = TupleBuilder::new(row.len().saturating_sub(1));
        for column in 1..row.len() {
            let value: Option<Raw<'_>> = row.try_get(column)?;
            tuple.push(value.map_or(Cell::Null, |raw| Cell::Text(raw.0)));
        }
        Ok(Some((usize::try_from(n.saturating_sub(1)).unwrap_or_default(), tuple.build())))
    }
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
