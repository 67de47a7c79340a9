//! How a pipeline's values are written to ClickHouse: for each column that its SQL returns, whether the table's can hold it
//! as it is. Asks the source for types; reads no row.

use std::sync::Arc;

use tokio_postgres::Client;

use super::definition::{Checked, Definition, config_problem};
use super::error::PipelineError;
use super::output::clickhouse::partial;
use crate::change::Operation;
use crate::clickhouse::catalog::{Column, Server};
use crate::clickhouse::mapping::{accepts, nullable, propose};
use crate::clickhouse::{Encoding, PostgresType, Type, quote_ident};
use crate::codes::Code;
use crate::config::Action;
use crate::postgres::catalog::Table;
use crate::sink::clickhouse::{Keeping, Target, Wording};
use crate::sink::{LoadColumn, Words};
use crate::transform::SqlProblem;
use crate::transform::compile::{Direct, Removal, Rows, Transform};
use crate::transform::query::ResultColumn;

/// Names and types of the columns of one table of the source, as a statement has them.
pub struct SourceTypes(Vec<(String, PostgresType)>);

impl SourceTypes {
    /// Asks for them.
    pub async fn fetch(client: &Client, table: &Table) -> Checked<Self> {
        // By no name: since the catalog was read, a column may have gone.
        let sql = format!("SELECT * FROM {}", table.from_sql());
        let prepared = client.prepare(&sql).await.map_err(PipelineError::source("asking for types"))?;
        let column = |c: &tokio_postgres::Column| {
            (c.name().to_owned(), PostgresType::new(c.type_(), c.type_modifier()))
        };
        Ok(SourceTypes(prepared.columns().iter().map(column).collect()))
    }

    fn of(&self, name: &str) -> PostgresType {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map_or_else(|| PostgresType::Text("text".to_owned()), |(_, pg)| pg.clone())
    }

    fn of_direct(&self, direct: &Direct) -> Vec<(String, PostgresType)> {
        direct.columns.iter().map(|name| (name.clone(), self.of(name))).collect()
    }

    /// What the rows of an operation have.
    pub fn of_rows(&self, rows: &Rows) -> Vec<(String, PostgresType)> {
        match rows {
            Rows::Ignored => Vec::new(),
            Rows::Direct(direct) => self.of_direct(direct),
            Rows::Query(query) => of_columns(&query.columns),
        }
    }
}

/// What these result columns are.
pub fn of_columns(columns: &[ResultColumn]) -> Vec<(String, PostgresType)> {
    let pg = |column: &ResultColumn| PostgresType::new(&column.pg_type.0, column.pg_type.1);
    columns.iter().map(|column| (column.name.clone(), pg(column))).collect()
}

/// How values of these columns go into the table; where one doesn't, why.
pub fn encodings(
    definition: &Definition,
    target: &Target,
    columns: &[(String, PostgresType)],
) -> Checked<Vec<Encoding>> {
    let (mut encodings, mut problems) = (Vec::new(), Vec::new());
    for (name, pg) in columns {
        let Some(column) = target.table.column(name) else { continue };
        match accepts(pg, &column.data_type, &column.type_text, &target.table.server) {
            Ok(encoding) => encodings.push(encoding),
            Err(refusal) => {
                let message = format!("column {} of {}: {refusal}", quote_ident(name), target.sql());
                problems.push(config_problem(Code::SqlType, &definition.pipeline, name, message, None));
            }
        }
    }
    if problems.is_empty() { Ok(encodings) } else { Err(PipelineError::Problems(problems)) }
}

/// How the keys of what goes are written: as the delete chain returns them, or as the old row has them.
pub fn wording(
    definition: &Definition,
    target: &Target,
    types: &SourceTypes,
    transform: &Transform,
) -> Checked<Arc<Wording>> {
    let removed: Vec<(String, PostgresType)> = match &transform.removal {
        Removal::ByName(direct) => types.of_direct(direct),
        Removal::Query { query, .. } => of_columns(&query.columns),
        Removal::None | Removal::Rows => Vec::new(),
    };
    let rows = [&transform.delete, &transform.update, &transform.insert].map(|rows| types.of_rows(rows));
    let pg = |name: &String| {
        let named = removed.iter().chain(rows.iter().flatten()).find(|(known, _)| known == name);
        (name.clone(), named.map_or_else(|| types.of(name), |(_, pg)| pg.clone()))
    };
    let columns = |names: &[String]| encodings(definition, target, &names.iter().map(pg).collect::<Vec<_>>());
    Ok(Arc::new(Wording { key: columns(&target.key)?, replace: columns(&target.replace)? }))
}

/// What would be lost: NULLs of a plain copy, and columns that one operation returns and another doesn't.
pub fn check_rows(
    definition: &Definition,
    target: &Target,
    source: &Table,
    transform: &Transform,
) -> Vec<SqlProblem> {
    let (mut problems, sql) = (Vec::new(), target.sql());
    let on = definition.pipeline.output.on;
    let writing =
        [(Operation::Insert, on.insert), (Operation::Update, on.update), (Operation::Delete, on.delete)];
    let writing = writing.into_iter().filter(|(_, action)| matches!(action, Action::Upsert | Action::Insert));
    let rows: Vec<_> = writing.map(|(operation, _)| (operation, transform.rows(operation))).collect();
    if let Some(Rows::Direct(direct)) = rows.first().map(|(_, rows)| rows) {
        for name in &direct.columns {
            let may_be_null = source.column(name).is_some_and(|column| !column.is_not_null);
            let Some(column) = target.table.column(name).filter(|_| may_be_null) else { continue };
            if !column.data_type.is_nullable() {
                let shown = quote_ident(name);
                let message = format!(
                    "column {shown} of {} may be NULL, and that of {sql} can't: it is {}",
                    source.sql(),
                    column.type_text
                );
                let help = null_cure(target, column);
                problems.push(config_problem(Code::MayBeNull, &definition.pipeline, "output", message, help));
            }
        }
    }
    if target.keeping == Keeping::Appended {
        return problems;
    }
    for (operation, own) in &rows {
        for (other, others) in &rows {
            let (Some(own), Some(others)) = (own.columns(), others.columns()) else { continue };
            let missing = partial(&own, &others, target);
            if !missing.is_empty() {
                let message = format!(
                    "on {operation} the SQL doesn't return {}, which it does on {other}: a row of {sql} is written as a whole, so \
                     the value would be lost",
                    missing.join(", ")
                );
                problems.push(config_problem(
                    Code::RequiredNotReturned,
                    &definition.pipeline,
                    "output",
                    message,
                    "return it in both".to_owned(),
                ));
            }
        }
    }
    problems
}

/// What would do where NULLs may come and the column holds none.
fn null_cure(target: &Target, column: &Column) -> String {
    let others = "have the source say NOT NULL; or give another value in a transform.sql (coalesce)";
    if target.key.contains(&column.name) {
        return others.to_owned();
    }
    format!("{}; or {others}", allow_null(target, column))
}

/// What would have the column hold NULLs.
pub fn allow_null(target: &Target, column: &Column) -> String {
    match nullable(&column.type_text) {
        Some(type_text) => {
            format!("ALTER TABLE {} MODIFY COLUMN {} {type_text}", target.sql(), quote_ident(&column.name))
        }
        None => "make the column a Nullable(String)".to_owned(),
    }
}

/// The columns of the relation that load.sql reads.
pub fn load_columns(columns: &[(String, PostgresType)], server: &Server) -> Arc<[LoadColumn]> {
    let words = |pg: &PostgresType| {
        let word = |is_not_null: bool| {
            let text = propose(pg, is_not_null, false, server);
            let encoding = accepts(pg, &Type::parse(&text), &text, server).ok()?;
            Some((text, encoding))
        };
        Some(Words { plain: word(true)?, nullable: word(false)? })
    };
    let column = |(name, pg): &(String, PostgresType)| {
        let words = words(pg);
        let type_sql = words.as_ref().map_or_else(String::new, |words| words.plain.0.clone());
        LoadColumn { name: name.clone(), type_sql, words }
    };
    columns.iter().map(column).collect()
}
