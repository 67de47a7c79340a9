//! What a pipeline's SQL makes of a few rows of its input right now: the stream's own statements, over changes that are made
//! up from these rows. Reads the source in one snapshot, writes nothing, and needs nothing that a run creates.

use std::sync::Arc;

use serde::Serialize;

use super::definition::{Checked, input_table};
use super::effect::{direct_key, removal_key};
use super::error::PipelineError;
use crate::change::{Change, Operation, Relation, Tuple};
use crate::config::{Action, Pipeline};
use crate::postgres::Session;
use crate::postgres::catalog::{Table, fetch_types_with_text_cast};
use crate::sink::Key;
use crate::transform::chain::{InputTable, Side};
use crate::transform::compile::{Compiler, Direct, Removal, Rows};
use crate::transform::query::{CompileError, Query, Types};
use crate::transform::run;
use crate::transform::sample::{self, Sample};

/// How many rows of an answer are shown.
const ROWS_MAX: usize = 1_000;

/// A row's values as text; None is NULL.
pub type Values = Vec<Option<String>>;

/// What comes of some rows of one input table.
#[derive(Debug, Serialize)]
pub struct TablePreview {
    /// The input table.
    pub table: String,
    /// What is done with the rows: `output.on` for this operation.
    pub action: &'static str,
    /// What names the input rows: the columns of their primary key.
    pub input_columns: Vec<String>,
    /// Columns of the rows that come of them; of those that are removed, what identifies them.
    pub columns: Vec<String>,
    /// The input rows.
    pub rows: Vec<PreviewRow>,
    /// There were more rows than are shown.
    pub is_cut: bool,
}

/// One input row.
#[derive(Debug, Serialize)]
pub struct PreviewRow {
    /// Its values in `input_columns`.
    pub input: Values,
    /// What comes of it: none, one or many rows.
    pub output: Vec<Values>,
}

/// Shows what comes of an operation on some rows of each of the input tables. Where the output table isn't known, columns have
/// the types that the SQL gives them.
pub async fn preview(
    pipeline: &Pipeline,
    source: &Session,
    target: Option<&Table>,
    operation: Operation,
    sample: &Sample,
) -> Checked<Vec<TablePreview>> {
    let client = &source.client;
    let begun = client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await;
    begun.map_err(PipelineError::source("opening a snapshot"))?;
    let with_text_cast = fetch_types_with_text_cast(client).await;
    let with_text_cast = with_text_cast.map_err(PipelineError::source("reading pg_cast"))?.into();
    let types = Types { with_text_cast, target: target.map(|target| Arc::new(target.into())) };
    let (mut problems, mut tables) = (Vec::new(), Vec::new());
    for name in &pipeline.input.tables {
        tables.extend(input_table(pipeline, name, client, &mut problems).await?);
    }
    if !problems.is_empty() {
        return Err(PipelineError::Problems(problems));
    }
    let (mut previews, replace) = (Vec::new(), identifying(pipeline, target));
    for table in &tables {
        previews.push(of_table(pipeline, source, table, &types, replace.clone(), (operation, sample)).await?);
    }
    Ok(previews)
}

async fn of_table(
    pipeline: &Pipeline,
    source: &Session,
    table: &Table,
    types: &Types,
    replace: Vec<String>,
    (operation, sample): (Operation, &Sample),
) -> Checked<TablePreview> {
    let client = &source.client;
    let relation = Arc::new(table.relation());
    let compiler =
        Compiler { client, pipeline, source: table, relation: &relation, types: types.clone(), replace };
    let (rows, removal) = compiler.compile_operation(operation).await.map_err(failed)?;
    let input = InputTable::new(table, &relation);
    let changes = sample::fetch_changes(client, &input, &relation, &types.with_text_cast, operation, sample);
    let changes = changes.await.map_err(failed)?;
    let naming = naming_cells(table, &relation);
    let of_input = |change: &Change| PreviewRow {
        input: change.new.as_ref().or(change.old.as_ref()).map_or_else(Vec::new, |row| texts(row, &naming)),
        output: Vec::new(),
    };
    let mut preview = TablePreview {
        table: table.sql(),
        action: action(pipeline, operation),
        input_columns: naming.iter().map(|&cell| relation.columns[cell].name.clone()).collect(),
        columns: Vec::new(),
        rows: changes.iter().map(of_input).collect(),
        is_cut: false,
    };
    match (&rows, &removal) {
        (_, Removal::ByName(_) | Removal::Query { .. }) => {
            preview.columns = compiler.replace.clone();
            removals(source, &removal, &changes, &mut preview).await?;
        }
        (Rows::Ignored, _) => {}
        (Rows::Direct(direct), _) => {
            preview.columns = direct.columns.clone();
            for (change, row) in changes.iter().zip(&mut preview.rows) {
                row.output.extend(own_values(direct, change));
            }
        }
        (Rows::Query(query), _) => {
            preview.columns = query.columns.iter().map(|column| column.name.clone()).collect();
            let all: Vec<usize> = (0..query.columns.len()).collect();
            preview.is_cut = answers(source, query, &changes, |at, tuple| {
                preview.rows[at].output.push(texts(tuple, &all));
            })
            .await?;
        }
    }
    Ok(preview)
}

/// What deletes of these rows remove.
async fn removals(
    source: &Session,
    removal: &Removal,
    changes: &[Change],
    preview: &mut TablePreview,
) -> Checked<()> {
    let mut keys: Vec<Vec<Key>> = vec![Vec::new(); changes.len()];
    match removal {
        Removal::ByName(direct) => {
            for (change, keys) in changes.iter().zip(&mut keys) {
                keys.extend(direct_key(direct, change));
            }
        }
        Removal::Query { query, columns } => {
            let mut is_answered = vec![false; changes.len()];
            preview.is_cut = answers(source, query, changes, |at, tuple| {
                is_answered[at] = true;
                keys[at].extend(removal_key(columns, &changes[at], Some(tuple)));
            })
            .await?;
            for at in (0..changes.len()).filter(|&at| !is_answered[at]) {
                keys[at].extend(removal_key(columns, &changes[at], None));
            }
        }
        Removal::None | Removal::Rows => {}
    }
    for (row, mut keys) in preview.rows.iter_mut().zip(keys) {
        keys.dedup();
        let values = |key: &Key| key.values().map(|value| Some(text(value))).collect();
        row.output = keys.iter().map(values).collect();
    }
    Ok(())
}

/// Runs a statement over the changes; whether its answer was too long to be shown to the end.
async fn answers(
    source: &Session,
    query: &Query,
    changes: &[Change],
    mut take: impl FnMut(usize, &Tuple),
) -> Checked<bool> {
    let failed = |error: tokio_postgres::Error| PipelineError::sql(query.problem(&error), &error);
    let mut rows = run::run(&source.client, query, changes.iter()).await.map_err(failed)?;
    let mut count = 0;
    while let Some((at, tuple)) = rows.next().await.map_err(failed)? {
        if count == ROWS_MAX {
            return Ok(true);
        }
        count += 1;
        if at < changes.len() {
            take(at, &tuple);
        }
    }
    Ok(false)
}

fn failed(error: CompileError) -> PipelineError {
    match error {
        CompileError::Problems(problems) => PipelineError::Problems(problems),
        CompileError::Postgres(source) => PipelineError::source("compiling the SQL")(source),
    }
}

/// The output's columns that identify all rows of one input row, as far as they are known.
fn identifying(pipeline: &Pipeline, target: Option<&Table>) -> Vec<String> {
    let output = &pipeline.output;
    match target {
        _ if pipeline.sql.load.is_some() => Vec::new(),
        None => output.replace.clone().or_else(|| output.key.clone()).unwrap_or_default(),
        Some(target) => {
            let key = || target.primary_key().map(<[String]>::to_vec);
            output.replace.clone().or_else(|| output.key.clone()).or_else(key).unwrap_or_default()
        }
    }
}

/// The cells that tell input rows apart: those of the primary key, or of the replica identity.
fn naming_cells(table: &Table, relation: &Relation) -> Vec<usize> {
    let primary = table.primary_key().unwrap_or_default().iter();
    let primary: Vec<usize> = primary.filter_map(|name| relation.column_index(name)).collect();
    if primary.is_empty() {
        return (0..relation.columns.len()).filter(|&cell| relation.is_sent_in_old(cell)).take(4).collect();
    }
    primary
}

fn action(pipeline: &Pipeline, operation: Operation) -> &'static str {
    let on = pipeline.output.on;
    let action = match operation {
        Operation::Insert => on.insert,
        Operation::Update => on.update,
        Operation::Delete => on.delete,
    };
    match action {
        Action::Ignore => "ignore",
        _ if pipeline.sql.load.is_some() => "load.sql",
        Action::Insert => "insert",
        Action::Upsert => "upsert",
        Action::Update => "update",
        Action::Delete => "delete",
    }
}

fn own_values(direct: &Direct, change: &Change) -> Option<Values> {
    let row = match direct.side {
        Side::New => change.new.as_ref(),
        Side::Old => change.old.as_ref(),
    };
    row.map(|row| texts(row, &direct.cells))
}

fn texts(row: &Tuple, cells: &[usize]) -> Values {
    cells.iter().map(|&cell| row.cell(cell).text().map(text)).collect()
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}
