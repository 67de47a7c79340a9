//! load.sql on ClickHouse: what the server makes of it before any row comes, and which columns of its relation are Nullable.
//!
//! Functions can make a difference of that (the state of `argMax` over a Nullable is another type), so it must not be up
//! to whether a batch happens to hold a NULL. Postgres doesn't say of a result whether it may be NULL. So load.sql itself
//! decides: a column is Nullable if ClickHouse takes the statement with it so. Where it doesn't, a NULL stops the pipeline.

use std::sync::Arc;

use bytes::Bytes;

use crate::change::Tuple;
use crate::clickhouse::{Client, Error, quote_ident};
use crate::sink::{Load, LoadColumn, SinkError};

/// A NULL is never turned into a default.
pub(super) const LOAD: &[(&str, &str)] =
    &[("async_insert", "0"), ("select_sequential_consistency", "1"), ("insert_null_as_default", "0")];

/// Asks which columns of the relation are Nullable; an error that isn't transient is what is wrong with the statement. Runs
/// nothing of it.
pub async fn decide(client: &Client, load: &Load) -> Result<Arc<[bool]>, Error> {
    let mut nullable = vec![true; load.columns.len()];
    if !can_explain(&load.sql) || explain(client, load, &nullable).await.is_ok() {
        return Ok(nullable.into());
    }
    nullable.fill(false);
    explain(client, load, &nullable).await?;
    for at in 0..nullable.len() {
        nullable[at] = true;
        match explain(client, load, &nullable).await {
            Ok(()) => {}
            Err(error) if error.is_transient() => return Err(error),
            Err(_) => nullable[at] = false,
        }
    }
    Ok(nullable.into())
}

async fn explain(client: &Client, load: &Load, nullable: &[bool]) -> Result<(), Error> {
    let (structure, sql) = (structure(&load.columns, nullable), format!("EXPLAIN PIPELINE {}", load.sql));
    client.execute_with_rows(&sql, LOAD, &load.relation, &structure, Bytes::new()).await
}

/// Other statements than these can't be looked at without running them.
fn can_explain(sql: &str) -> bool {
    let mut rest = sql.trim_start();
    loop {
        let comment = [("--", "\n"), ("/*", "*/")].into_iter().find(|(start, _)| rest.starts_with(start));
        let Some((_, end)) = comment else { break };
        rest = rest.split_once(end).map_or("", |(_, after)| after).trim_start();
    }
    let word: String = rest.chars().take_while(char::is_ascii_alphabetic).collect();
    ["insert", "select", "with"].contains(&word.to_lowercase().as_str())
}

fn structure(columns: &[LoadColumn], nullable: &[bool]) -> String {
    let chosen = columns.iter().zip(nullable).filter_map(|(column, is_nullable)| {
        let words = column.words.as_ref()?;
        let (type_sql, _) = if *is_nullable { &words.nullable } else { &words.plain };
        Some(format!("{} {type_sql}", quote_ident(&column.name)))
    });
    chosen.collect::<Vec<_>>().join(", ")
}

/// Rows for load.sql: the relation's structure, and its data.
pub(super) fn encode_tuples(
    columns: &[LoadColumn],
    nullable: &[bool],
    rows: &[Tuple],
) -> Result<(String, Bytes), SinkError> {
    let mut bytes = Vec::new();
    for row in rows {
        for (at, (column, is_nullable)) in columns.iter().zip(nullable).enumerate() {
            let Some(words) = &column.words else { continue };
            let (_, encoding) = if *is_nullable { &words.nullable } else { &words.plain };
            let encoded = encoding.encode(row.cell(at).text(), &mut bytes);
            let what = || format!("result column {} for load.sql", quote_ident(&column.name));
            encoded.map_err(|error| SinkError::Value { what: what(), error })?;
        }
    }
    Ok((structure(columns, nullable), Bytes::from(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_that_read_and_insert_can_be_explained() {
        for (sql, can) in [
            ("INSERT INTO t SELECT 1", true),
            (" -- why\n/* and\n how */ insert into t select 1", true),
            ("WITH a AS (SELECT 1) SELECT * FROM a", true),
            ("ALTER TABLE t DELETE WHERE 1", false),
            ("-- nothing", false),
            ("", false),
        ] {
            assert_eq!(can_explain(sql), can, "{sql}");
        }
    }
}
