//! Runs a prepared query over changes and hands back its rows, each with the change that it belongs to.

use std::pin::Pin;

use futures_util::StreamExt;
use tokio_postgres::{Client, RowStream};

use super::query::Query;
use crate::change::{Change, Tuple};
use crate::postgres::array::Array;
use crate::postgres::binary::Element;
use crate::postgres::text_rows::text_tuple;

/// The rows of one run, in the order of its changes.
pub struct ResultRows {
    rows: Pin<Box<RowStream>>,
}

/// Starts the query over these changes, all of the operation that it was made for, with every value that it needs
/// resolved (see [`super::resolve`]).
pub async fn run<'a>(
    client: &Client,
    query: &Query,
    changes: impl Iterator<Item = &'a Change> + Clone,
) -> Result<ResultRows, tokio_postgres::Error> {
    let arrays = query.params.iter().zip(query.statement.params()).map(|(param, declared)| {
        Array::new(Element::of_param(declared), changes.clone().map(|change| param.cell(change).text()))
    });
    let arrays: Vec<Array> = arrays.collect();
    let rows = client.query_raw(&query.statement, arrays).await?;
    Ok(ResultRows { rows: Box::pin(rows) })
}

impl ResultRows {
    /// The next row: the place of its change among those given, and its values. None at the end.
    pub async fn next(&mut self) -> Result<Option<(usize, Tuple)>, tokio_postgres::Error> {
        let Some(row) = self.rows.next().await.transpose()? else { return Ok(None) };
        let n: i64 = row.try_get(0)?;
        Ok(Some((usize::try_from(n.saturating_sub(1)).unwrap_or_default(), text_tuple(&row, 1)?)))
    }
}
