//! The SQL of a pipeline, compiled for one version of one input table: made when the stream first describes the
//! table, and again when it describes it differently.

use std::sync::Arc;

use tokio_postgres::Client;

use crate::change::{Operation, Relation};
use crate::codes::Code;
use crate::config::{Action, Connection, SqlFile, TableName};
use crate::postgres::catalog::{Table, fetch_name, fetch_table};
use crate::postgres::ident::quote_idents;
use crate::sink::clickhouse::Wording;
use crate::sink::postgres::load_columns;
use crate::sink::{Layout, Load, Target};
use crate::transform::SqlProblem;
use crate::transform::compile::{Compiler, Rows, Transform};
use crate::transform::query::{CopyQuery, Types};
use crate::transform::render::{RenderedFile, Scene, render_file};

use super::definition::{Checked, Definition, config_problem};
use super::encoding::{self, SourceTypes};
use super::error::{PipelineError, name_back, renamed};

/// What answers for the changes of one input table.
#[derive(Debug)]
pub struct Compiled {
    /// The table as the stream describes it.
    pub relation: Arc<Relation>,
    /// The SQL.
    pub transform: Transform,
    /// Where the rows of each operation go, by `Operation as usize`.
    pub layouts: [Option<Arc<Layout>>; 3],
    /// load.sql for each operation, likewise.
    pub loads: [Option<Load>; 3],
    /// Where each of them comes from.
    pub load_files: [Option<Arc<RenderedFile>>; 3],
    /// How the keys of what goes are written, where the output is ClickHouse.
    pub wording: Option<Arc<Wording>>,
    /// truncate.sql.
    pub truncate: Option<Arc<RenderedFile>>,
}

impl Compiled {
    /// Compiles for that relation. Refuses a table that isn't the one it was, or isn't called as it was.
    pub async fn new(
        definition: &Definition,
        client: &Client,
        types: &Types,
        relation: &Arc<Relation>,
    ) -> Checked<Self> {
        let table = current_table(definition, client, relation).await?;
        let compiler = compiler(definition, client, types, &table, relation);
        let transform = compiler.compile().await?;
        check_rows(definition, &table, &transform)?;
        let layout = |operation| layout(definition, transform.rows(operation));
        let mut layouts = Operation::ALL.map(layout);
        let mut wording = None;
        let into_clickhouse = matches!(definition.output, Connection::ClickHouse(_));
        let source_types =
            if into_clickhouse { Some(SourceTypes::fetch(client, &table).await?) } else { None };
        if let (Some(types), Some(Target::ClickHouse(target))) = (&source_types, &definition.target) {
            for operation in Operation::ALL {
                let Some(layout) = &mut layouts[operation as usize] else { continue };
                let columns = types.of_rows(transform.rows(operation));
                let encodings = encoding::encodings(definition, target, &columns)?;
                *layout = Arc::new(Layout { encodings, ..(**layout).clone() });
            }
            wording = Some(encoding::wording(definition, target, types, &transform)?);
        }
        let (mut loads, mut load_files) = ([None, None, None], [None, None, None]);
        for operation in Operation::ALL {
            let rows = transform.rows(operation);
            let loading = load(definition, &table, rows, operation, source_types.as_ref())?;
            (loads[operation as usize], load_files[operation as usize]) = loading.unzip();
        }
        let truncate = match &definition.pipeline.sql.truncate {
            Some(file) => Some(on_output(definition, &table, file, Operation::Delete, None)?),
            None => None,
        };
        Ok(Compiled { relation: relation.clone(), transform, layouts, loads, load_files, wording, truncate })
    }

    /// The backfill's statement for one input table; and load.sql for its rows, where there is one.
    pub async fn copy(
        definition: &Definition,
        client: &Client,
        types: &Types,
        table: &Table,
    ) -> Checked<(CopyQuery, Option<Load>)> {
        let relation = table.relation();
        let copy = compiler(definition, client, types, table, &relation).compile_copy().await?;
        let load = match &definition.pipeline.sql.load {
            Some(file) => {
                let columns = match &definition.server {
                    Some(server) => encoding::load_columns(&encoding::of_columns(&copy.columns), server),
                    None => load_columns(copy.columns.iter().map(|c| (c.name.clone(), c.type_sql.clone()))),
                };
                let relation = relation_name(Operation::Insert);
                let file = on_output(definition, table, file, Operation::Insert, Some(&relation))?;
                Some(Load { relation, columns, sql: file.text().into() })
            }
            None => None,
        };
        Ok((copy, load))
    }
}

fn compiler<'a>(
    definition: &'a Definition,
    client: &'a Client,
    types: &Types,
    source: &'a Table,
    relation: &'a Relation,
) -> Compiler<'a> {
    let replace = definition.replace();
    Compiler { client, pipeline: &definition.pipeline, source, relation, types: types.clone(), replace }
}

/// The input table as the catalog has it now, whatever it was called when the change was made. Refuses one that isn't the
/// one it was, or isn't called as it was.
pub async fn current_table(definition: &Definition, client: &Client, relation: &Relation) -> Checked<Table> {
    let pipeline = &definition.pipeline.name;
    let Some(known) = definition.tables.iter().find(|t| t.oid == relation.oid) else {
        return Err(PipelineError::Input(format!(
            "{} is another table than the one that pipeline {pipeline} was filled from: it was dropped and made anew. Fill \
             the pipeline again: trucker backfill {pipeline}",
            relation.display_name()
        )));
    };
    let failed = || PipelineError::source("reading the catalog");
    let table = fetch_table(client, &known.schema, &known.table).await.map_err(failed())?;
    if let Some(table) = table.filter(|table| table.oid == relation.oid) {
        return Ok(table);
    }
    let now = fetch_name(client, relation.oid).await.map_err(failed())?;
    Err(PipelineError::Input(match now {
        Some(now) => format!("{}. {}", renamed(&known.sql(), &now), name_back(pipeline)),
        None => format!(
            "{} was dropped. If it was made anew, fill the pipeline again: trucker backfill {pipeline}",
            known.sql()
        ),
    }))
}

fn layout(definition: &Definition, rows: &Rows) -> Option<Arc<Layout>> {
    let columns: Vec<(String, usize)> = match rows {
        Rows::Ignored => return None,
        Rows::Direct(direct) => direct.columns.iter().cloned().zip(direct.cells.iter().copied()).collect(),
        Rows::Query(query) => query.columns.iter().enumerate().map(|(at, c)| (c.name.clone(), at)).collect(),
    };
    let (key, replace) = match &definition.target {
        Some(target) => (target.key(), target.replace()),
        None => (&[][..], &[][..]),
    };
    Some(Arc::new(Layout::new(columns, key, replace)))
}

/// What rows must have so that they can be written, and found again.
fn check_rows(definition: &Definition, table: &Table, transform: &Transform) -> Checked<()> {
    let Some(target) = &definition.target else { return Ok(()) };
    let on = definition.pipeline.output.on;
    let mut problems = Vec::new();
    if let Target::ClickHouse(target) = target {
        problems = encoding::check_rows(definition, target, table, transform);
    }
    for (operation, action) in
        [(Operation::Insert, on.insert), (Operation::Update, on.update), (Operation::Delete, on.delete)]
    {
        let Some(columns) = transform.rows(operation).columns() else { continue };
        let lacks = |names: &[String]| -> Vec<String> {
            names.iter().filter(|name| !columns.contains(name)).cloned().collect()
        };
        let mut missing = if action == Action::Insert { Vec::new() } else { lacks(target.key()) };
        if action == Action::Upsert && operation != Operation::Delete {
            missing.extend(lacks(target.replace()).into_iter().filter(|c| !target.key().contains(c)));
        }
        if !missing.is_empty() {
            problems.push(lacking(Code::KeyNotReturned, definition, operation, "identifies rows", &missing));
        }
        if matches!(action, Action::Insert | Action::Upsert) {
            let missing: Vec<String> =
                lacks(&target.required()).into_iter().filter(|c| !missing.contains(c)).collect();
            if !missing.is_empty() {
                problems.push(lacking(
                    Code::RequiredNotReturned,
                    definition,
                    operation,
                    "is NOT NULL without a default",
                    &missing,
                ));
            }
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(PipelineError::Problems(problems)) }
}

fn lacking(
    code: Code,
    definition: &Definition,
    operation: Operation,
    why: &str,
    missing: &[String],
) -> SqlProblem {
    let sql = &definition.pipeline.sql;
    let own = match operation {
        Operation::Insert => &sql.insert,
        Operation::Update => &sql.update,
        Operation::Delete => &sql.delete,
    };
    let columns = quote_idents(missing.iter().map(String::as_str));
    let table = definition.output_name().unwrap_or_default();
    match own.as_ref().or(sql.transform.as_ref()) {
        Some(file) => SqlProblem {
            code,
            path: file.path.clone(),
            place: None,
            message: format!("on {operation} the SQL doesn't return {columns}, which {why} in {table}"),
            help: Some(format!("add {columns} to the SELECT")),
            is_refusal: false,
        },
        None => {
            let message = format!("the input has no column {columns}, which {why} in {table}");
            let help = "add a transform.sql that returns it".to_owned();
            config_problem(code, &definition.pipeline, "output", message, help)
        }
    }
}

fn relation_name(operation: Operation) -> String {
    format!("trucker_rows_{operation}")
}

fn load(
    definition: &Definition,
    table: &Table,
    rows: &Rows,
    operation: Operation,
    types: Option<&SourceTypes>,
) -> Checked<Option<(Load, Arc<RenderedFile>)>> {
    let Some(file) = &definition.pipeline.sql.load else { return Ok(None) };
    let columns = match (rows, types.zip(definition.server.as_ref())) {
        (Rows::Ignored, _) => return Ok(None),
        (rows, Some((types, server))) => encoding::load_columns(&types.of_rows(rows), server),
        (Rows::Query(query), None) => {
            load_columns(query.columns.iter().map(|c| (c.name.clone(), c.type_sql.clone())))
        }
        (Rows::Direct(direct), None) => load_columns(direct.columns.iter().map(|name| {
            let type_sql = table.column(name).map_or_else(String::new, |c| c.type_name.sql.clone());
            (name.clone(), type_sql)
        })),
    };
    let relation = relation_name(operation);
    let file = on_output(definition, table, file, operation, Some(&relation))?;
    Ok(Some((Load { relation, columns, sql: file.text().into() }, file)))
}

/// Renders a file that runs on the output.
fn on_output(
    definition: &Definition,
    table: &Table,
    file: &SqlFile,
    operation: Operation,
    rows: Option<&str>,
) -> Checked<Arc<RenderedFile>> {
    let name = TableName { schema: table.schema.clone(), table: table.table.clone() };
    let scene = Scene {
        pipeline: &definition.pipeline.name,
        operation,
        table: &name,
        table_sql: table.sql(),
        new: Vec::new(),
        old: Vec::new(),
        rows_sql: rows.map(|rows| match definition.output {
            Connection::Postgres(_) => format!("pg_temp.{rows}"),
            Connection::ClickHouse(_) => rows.to_owned(),
        }),
    };
    let rendered = render_file(file, &scene).map_err(|problem| PipelineError::Problems(vec![problem]))?;
    Ok(Arc::new(rendered))
}
