//! What the table that a pipeline writes has to be like, and what may be relied on then. Reads it, and creates nothing.

pub mod clickhouse;

use std::sync::Arc;

use tokio_postgres::Client;

use super::definition::{Checked, config_problem, missing_table, output_problem};
use super::error::PipelineError;
use super::rights;
use crate::codes::Code;
use crate::config::{Action, Pipeline, TableName};
use crate::postgres::catalog::{Table, fetch_table};
use crate::postgres::ident::{quote_ident, quote_idents};
use crate::sink::fold::Rules;
use crate::sink::{Output, Target, postgres};
use crate::transform::SqlProblem;
use crate::transform::query::nearest;

/// Reads and checks the table that a pipeline writes. `inputs` are for the proposal of one that is missing: where they
/// are, and a session there.
pub async fn fetch_target(
    pipeline: &Pipeline,
    name: &TableName,
    output: &Output,
    inputs: Option<(&Client, &[Arc<Table>])>,
    problems: &mut Vec<SqlProblem>,
) -> Checked<Option<Target>> {
    match output {
        Output::Postgres(session) => postgres_table(pipeline, name, &session.client, problems).await,
        Output::ClickHouse(client) => {
            let target = clickhouse::fetch_target(pipeline, name, client, inputs, problems).await?;
            Ok(target.map(Target::ClickHouse))
        }
    }
}

async fn postgres_table(
    pipeline: &Pipeline,
    name: &TableName,
    client: &Client,
    problems: &mut Vec<SqlProblem>,
) -> Checked<Option<Target>> {
    let failed = || PipelineError::source("reading the output's catalog");
    let table = fetch_table(client, &name.schema, &name.table).await.map_err(failed())?;
    let Some(table) = table else {
        problems.push(missing_table(pipeline, name, &pipeline.output.connection, "output", client).await?);
        return Ok(None);
    };
    if !matches!(table.kind, 'r' | 'p') {
        let message = format!("{} is no table: rows can't be written to it", table.sql());
        let help = "name the table beneath it; or write it by a load.sql of your own".to_owned();
        problems.push(output_problem(Code::NoTable, pipeline, &name.table, message, Some(help)));
        return Ok(None);
    }
    let output = &pipeline.output;
    let key = output.key.clone().or_else(|| table.primary_key().map(<[String]>::to_vec)).unwrap_or_default();
    let replace = output.replace.clone().unwrap_or_else(|| key.clone());
    for column in key.iter().chain(output.replace.iter().flatten()) {
        if table.column(column).is_none() {
            let near = nearest(column, table.columns.iter().map(|c| c.name.as_str()));
            let help = near.map(|near| format!("did you mean {near}?"));
            let message = format!("the output table {} has no column {}", table.sql(), quote_ident(column));
            problems.push(output_problem(Code::ColumnMissing, pipeline, column, message, help));
        }
    }
    problems.extend(key_problem(pipeline, &table, &key));
    problems.extend(rights::of_output(pipeline, name, &table, client).await?);
    // The same columns in another order are the same key; one order for both keeps comparisons simple.
    let is_key = replace.len() == key.len() && replace.iter().all(|column| key.contains(column));
    let replace = if is_key { key.clone() } else { replace };
    Ok(Some(Target::Postgres(postgres::Target { table: Arc::new(table), key, replace })))
}

fn actions(pipeline: &Pipeline) -> [Action; 3] {
    let on = pipeline.output.on;
    [on.insert, on.update, on.delete]
}

fn key_problem(pipeline: &Pipeline, table: &Table, key: &[String]) -> Option<SqlProblem> {
    if actions(pipeline).iter().all(|action| matches!(action, Action::Insert | Action::Ignore)) {
        return None;
    }
    let sql = table.sql();
    if key.is_empty() {
        let message = format!(
            "nothing says what identifies a row of {sql}: it has no primary key, and there is no `key`"
        );
        let help = format!(
            "ALTER TABLE {sql} ADD PRIMARY KEY (…), or `key: […]` with a unique index on these columns"
        );
        return Some(config_problem(Code::NoKey, pipeline, "output", message, help));
    }
    if key.iter().any(|column| table.column(column).is_none()) {
        return None;
    }
    let covers = |columns: &[String]| columns.len() == key.len() && key.iter().all(|k| columns.contains(k));
    let upserts = actions(pipeline).contains(&Action::Upsert);
    if !upserts || table.unique.iter().any(|index| index.is_arbiter && covers(&index.columns)) {
        return None;
    }
    let columns = quote_idents(key.iter().map(String::as_str));
    let message = format!(
        "{sql} has no unique index on ({columns}), the key, so rows can't be upserted \
         (a partial or deferrable one doesn't do)"
    );
    let help = format!("CREATE UNIQUE INDEX ON {sql} ({columns})");
    Some(config_problem(Code::KeyNotUnique, pipeline, "key", message, help))
}

/// How changes may be put together.
pub fn rules(pipeline: &Pipeline, target: Option<&Target>) -> Rules {
    let target = match target {
        Some(Target::Postgres(target)) => target,
        Some(Target::ClickHouse(target)) => {
            // Rows bring their order along, so nothing is put together.
            let replace_is_key = target.replace == target.key;
            return Rules { replace_is_key, merges: false, is_ordered: true };
        }
        None => return Rules { replace_is_key: true, merges: false, is_ordered: true },
    };
    let on = pipeline.output.on;
    let replace_is_key = target.replace == target.key;
    let other_unique = target.table.unique.iter().any(|index| {
        index.columns.len() != target.key.len() || !target.key.iter().all(|key| index.columns.contains(key))
    });
    let matters = other_unique || target.table.is_order_sensitive;
    let is_state = matches!(on.insert, Action::Upsert | Action::Ignore)
        && matches!(on.update, Action::Upsert | Action::Ignore)
        && matches!(on.delete, Action::Delete | Action::Ignore);
    let merges = replace_is_key && is_state && !matters;
    Rules {
        replace_is_key,
        merges,
        is_ordered: !merges && (matters || actions(pipeline).contains(&Action::Insert)),
    }
}
