//! A few rows of an input table as they are now, as the changes that would bring, alter or remove them: what a person who
//! writes SQL tries it on. Only reads.

use std::sync::Arc;

use tokio_postgres::Client;

use super::SqlProblem;
use super::chain::InputTable;
use super::query::CompileError;
use super::resolve::text_sql;
use crate::change::{Cell, Change, Operation, Relation, Tuple};
use crate::postgres::ident::{quote_ident, quote_idents};
use crate::postgres::text_rows::text_tuple;
use crate::postgres::{error, sqlstate};

/// Which rows.
#[derive(Debug, Clone)]
pub struct Sample {
    /// A condition over the table's columns, which may also be called `new.…`.
    pub condition: Option<String>,
    /// How many at most.
    pub limit: u32,
}

/// These rows, by their primary key where the table has one, as changes of that operation: an update leaves the row as it is, a
/// delete has of it what the table's replica identity sends.
pub async fn fetch_changes(
    client: &Client,
    input: &InputTable,
    relation: &Arc<Relation>,
    types_with_text_cast: &[u32],
    operation: Operation,
    sample: &Sample,
) -> Result<Vec<Change>, CompileError> {
    let columns = relation.columns.iter();
    let values = columns.map(|column| {
        text_sql(&format!("new.{}", quote_ident(&column.name)), column.type_oid, types_with_text_cast)
    });
    let mut sql = format!("SELECT {} FROM {} AS new", values.collect::<Vec<_>>().join(", "), input.from_sql);
    if let Some(condition) = &sample.condition {
        // The newline ends a comment that the condition may end in.
        sql += &format!(" WHERE ({condition}\n)");
    }
    if !input.primary_key.is_empty() {
        sql += &format!(" ORDER BY {}", quote_idents(input.primary_key.iter().map(String::as_str)));
    }
    sql += &format!(" LIMIT {}", sample.limit);
    let rows = client.query(&sql, &[]).await.map_err(|failure| of_condition(failure, sample))?;
    let change = |row| Ok(change(relation, operation, text_tuple(row, 0)?));
    rows.iter().map(change).collect()
}

/// What the server says of the condition.
fn of_condition(failure: tokio_postgres::Error, sample: &Sample) -> CompileError {
    if sample.condition.is_none() || failure.as_db_error().is_none() || error::is_transient(&failure) {
        return CompileError::Postgres(failure);
    }
    let help = "the condition is over the input table's columns, say: id = 5".to_owned();
    let message = error::describe(&failure);
    let code = sqlstate::code_of_preparing(failure.code().map_or("", |state| state.code()));
    SqlProblem { code, path: "--where".into(), place: None, message, help: Some(help), is_refusal: false }
        .into()
}

fn change(relation: &Arc<Relation>, operation: Operation, row: Tuple) -> Change {
    let sent = || -> Tuple {
        let cells = row.cells().enumerate();
        cells.map(|(at, cell)| if relation.is_sent_in_old(at) { cell } else { Cell::Null }).collect()
    };
    let old = (operation != Operation::Insert).then(sent);
    let new = (operation != Operation::Delete).then_some(row);
    Change { relation: relation.clone(), operation, old, new }
}
