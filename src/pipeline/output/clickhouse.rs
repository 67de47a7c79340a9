//! What a ClickHouse table has to be like so that rows can be found, replaced and removed there. Reads it, and creates
//! nothing.

use std::sync::Arc;

use tokio_postgres::Client as Source;

use crate::clickhouse::catalog::{self, Column, Server, Table};
use crate::clickhouse::rights::{fetch_missing, fetch_names};
use crate::clickhouse::{self, Client, PostgresType, Proposal, Type, quote_ident, quote_table};
use crate::codes::Code;
use crate::config::{Action, Pipeline, TableName, TruncateAction};
use crate::pipeline::definition::{Checked, output_problem};
use crate::postgres::catalog::Table as InputTable;
use crate::sink::SinkError;
use crate::sink::clickhouse::{Keeping, Target};
use crate::transform::SqlProblem;
use crate::transform::compile::Compiler;
use crate::transform::query::{Types, nearest};

/// Reads and checks the table; `inputs` are for the proposal of one that is missing.
pub async fn fetch_target(
    pipeline: &Pipeline,
    name: &TableName,
    client: &Client,
    inputs: Option<(&Source, &[Arc<InputTable>])>,
    problems: &mut Vec<SqlProblem>,
) -> Checked<Option<Target>> {
    let reading = || SinkError::clickhouse("reading the output's catalog");
    let table = catalog::fetch_table(client, &name.schema, &name.table).await.map_err(reading())?;
    let lacking = lacking_right(pipeline, name, client, table.as_ref()).await.map_err(reading())?;
    let Some(table) = table else {
        // A table that the user has no right on isn't shown to it.
        if let Some(problem) = lacking {
            problems.push(problem);
            return Ok(None);
        }
        let server = catalog::fetch_server(client).await.map_err(reading())?;
        let proposal = proposal(pipeline, name, inputs, &server).await;
        let message =
            format!("output table {name} doesn't exist on connection {}", pipeline.output.connection);
        problems.push(output_problem(Code::TableMissing, pipeline, &name.table, message, proposal));
        return Ok(None);
    };
    if let Some(problem) = lacking {
        problems.push(problem);
        // Columns may be hidden, and what was read wrong.
        return Ok(None);
    }
    let mut judge = Judge { pipeline, table: &table, found: Vec::new() };
    let keeping = judge.keeping();
    let target = keeping.map(|keeping| {
        let (key, replace) = judge.keys(&keeping);
        (keeping, key, replace)
    });
    problems.append(&mut judge.found);
    let target =
        target.map(|(keeping, key, replace)| Target { table: Arc::new(table), key, replace, keeping });
    Ok(target)
}

/// What the user may not do that the pipeline does, with the statement that lets it.
async fn lacking_right(
    pipeline: &Pipeline,
    name: &TableName,
    client: &Client,
    table: Option<&Table>,
) -> Result<Option<SqlProblem>, clickhouse::Error> {
    let sql = quote_table(&name.schema, &name.table);
    // Where there are versions, tombstones do it.
    let truncates = matches!(pipeline.output.on.truncate, None | Some(TruncateAction::Truncate))
        && table.is_some_and(|table| table.version_column.is_none());
    let wanted = if truncates { &["SELECT", "INSERT", "TRUNCATE"][..] } else { &["SELECT", "INSERT"] };
    let missing = fetch_missing(client, wanted, &sql).await?.join(", ");
    if missing.is_empty() {
        return Ok(None);
    }
    let [user, _] = fetch_names(client).await?;
    let message = format!("{user} lacks {missing} on {sql}");
    let help = format!("GRANT {missing} ON {sql} TO {user}");
    let problem = output_problem(Code::TableRight, pipeline, &name.table, message, help);
    Ok(Some(SqlProblem { is_refusal: true, ..problem }))
}

struct Judge<'a> {
    pipeline: &'a Pipeline,
    table: &'a Table,
    found: Vec<SqlProblem>,
}

impl Judge<'_> {
    fn problem(&mut self, code: Code, word: &str, message: String, help: impl Into<Option<String>>) {
        self.found.push(output_problem(code, self.pipeline, word, message, help));
    }

    fn sql(&self) -> String {
        quote_table(&self.table.database, &self.table.name)
    }

    fn actions(&self) -> [(&'static str, Action); 3] {
        let on = self.pipeline.output.on;
        [("insert", on.insert), ("update", on.update), ("delete", on.delete)]
    }

    /// How the table keeps rows, if that goes with what the pipeline does.
    fn keeping(&mut self) -> Option<Keeping> {
        let (sql, engine) = (self.sql(), self.table.engine.clone());
        let appends = self.actions().iter().all(|(_, a)| matches!(a, Action::Insert | Action::Ignore));
        match self.table.engine_family() {
            "ReplacingMergeTree" => self.versioned(),
            family if family.ends_with("MergeTree") || family == "Null" => {
                if !appends {
                    let message = format!("rows of {sql} are never replaced or removed: it is a {engine}");
                    let help = "make it a ReplacingMergeTree(_version, _is_deleted) ORDER BY the key, with columns \
                                `_version UInt128, _is_deleted UInt8`; or only append to it: on: {insert: insert, update: ignore, \
                                delete: ignore}";
                    self.problem(Code::TableEngine, "output", message, help.to_owned());
                }
                Some(Keeping::Appended)
            }
            _ => {
                let message = format!("{sql} is a {engine}, which isn't known to keep what is written to it");
                self.problem(
                    Code::TableEngine,
                    "table",
                    message,
                    "name a table of the MergeTree family".to_owned(),
                );
                None
            }
        }
    }

    fn versioned(&mut self) -> Option<Keeping> {
        let sql = self.sql();
        let cure = "recreate it as ENGINE = ReplacingMergeTree(_version, _is_deleted), with columns `_version UInt128, \
                    _is_deleted UInt8`";
        let Some(version) = self.table.version_column.clone() else {
            let message =
                format!("{sql} has no version column, so which row of a key counts would be up to chance");
            self.problem(Code::TableEngine, "table", message, cure.to_owned());
            return None;
        };
        let type_of = |name: &str| self.table.column(name).map(|column| column.data_type.clone());
        if type_of(&version) != Some(Type::UInt { bits: 128 }) {
            let message = format!(
                "version column {} of {sql} can't hold a change's place in the stream, which takes a commit's LSN and a number \
                 within",
                quote_ident(&version)
            );
            self.problem(
                Code::TableEngine,
                "table",
                message,
                "recreate the table with it as UInt128".to_owned(),
            );
        }
        for (operation, action) in self.actions() {
            if matches!(action, Action::Insert | Action::Update) {
                let message = format!(
                    "`{operation}: {}` can't be done in {sql}: a row there replaces the one of its key, whether there is one or not",
                    if action == Action::Insert { "insert" } else { "update" }
                );
                self.problem(Code::TableEngine, operation, message, format!("say `{operation}: upsert`"));
            }
        }
        if self.actions()[0].1 == Action::Delete {
            let message = format!("`insert: delete` can't be done in {sql}");
            self.problem(
                Code::TableEngine,
                "insert",
                message,
                "say `insert: upsert` or `insert: ignore`".to_owned(),
            );
        }
        let is_deleted = self.table.is_deleted_column.clone();
        let truncates =
            !matches!(self.pipeline.output.on.truncate, Some(TruncateAction::Ignore | TruncateAction::Error));
        let removes = truncates || self.actions().iter().any(|(_, action)| *action == Action::Delete);
        if is_deleted.is_none() && removes {
            let message =
                format!("{sql} has no column that says that a row is deleted, so none can be removed");
            let help = format!("{cure}; or keep them: on: {{delete: ignore, truncate: ignore}}");
            self.problem(Code::TableEngine, "table", message, help);
        }
        Some(Keeping::Versioned { version, is_deleted })
    }

    /// The key, which is what rows are replaced by, and the columns that identify an input row.
    fn keys(&mut self, keeping: &Keeping) -> (Vec<String>, Vec<String>) {
        let (sql, output) = (self.sql(), &self.pipeline.output);
        if *keeping == Keeping::Appended {
            return (Vec::new(), Vec::new());
        }
        let sorting = self.table.sorting_key.clone();
        let key = output.key.clone().unwrap_or_else(|| sorting.clone());
        let replace = output.replace.clone().unwrap_or_else(|| key.clone());
        let is_same = key.len() == sorting.len() && key.iter().all(|column| sorting.contains(column));
        for column in key.iter().chain(output.replace.iter().flatten()) {
            if self.table.column(column).is_none() {
                let near = nearest(column, self.table.columns.iter().map(|c| c.name.as_str()));
                let help = near.map(|near| format!("did you mean {near}?"));
                self.problem(
                    Code::ColumnMissing,
                    column,
                    format!("the output table {sql} has no column {}", quote_ident(column)),
                    help,
                );
            }
        }
        if !is_same || key.is_empty() {
            let list = |names: &[String]| names.join(", ");
            let message = format!(
                "rows of {sql} are replaced by what they are sorted by ({}), and that isn't the key ({})",
                list(&sorting),
                list(&key)
            );
            let help = format!(
                "recreate the table with ORDER BY ({0}), or say `key: [{1}]`",
                list(&key),
                list(&sorting)
            );
            self.problem(Code::SortingKey, "key", message, help);
        }
        // The same columns in another order are the same key.
        let is_key = replace.len() == key.len() && replace.iter().all(|column| key.contains(column));
        let replace = if is_key { key.clone() } else { replace };
        (key, replace)
    }
}

/// A table that would hold what the pipeline's SQL returns.
async fn proposal(
    pipeline: &Pipeline,
    name: &TableName,
    inputs: Option<(&Source, &[Arc<InputTable>])>,
    server: &Server,
) -> Option<String> {
    let (client, tables) = inputs?;
    let source = tables.first()?;
    let relation = source.relation();
    let types = Types { with_text_cast: Arc::new([]), target: None };
    let compiler = Compiler { client, pipeline, source, relation: &relation, types, replace: Vec::new() };
    let copy = compiler.compile_copy().await.ok()?;
    let primary = || source.primary_key().map(<[String]>::to_vec).unwrap_or_default();
    let key = pipeline.output.key.clone().unwrap_or_else(primary);
    let sql = "SELECT attnum FROM pg_catalog.pg_attribute WHERE attrelid = $1 AND attnotnull";
    let not_null = client.query(sql, &[&source.oid]).await.ok()?;
    let not_null: Vec<i16> = not_null.iter().filter_map(|row| row.try_get(0).ok()).collect();
    let is_inner = !may_join_outer(pipeline);
    let is_not_null = |column: &Option<(u32, i16)>| {
        is_inner && column.is_some_and(|(oid, number)| oid == source.oid && not_null.contains(&number))
    };
    let columns = copy.columns.iter().zip(&copy.taken_from).map(|(column, from)| {
        let pg = PostgresType::new(&column.pg_type.0, column.pg_type.1);
        (column.name.as_str(), pg, is_not_null(from))
    });
    let columns: Vec<_> = columns.collect();
    Some(Proposal::new(quote_table(&name.schema, &name.table), &columns, &key, server).line())
}

/// Whether a column that is never NULL may be in what the SQL returns. Words tell enough for a proposal.
fn may_join_outer(pipeline: &Pipeline) -> bool {
    let files = [&pipeline.sql.transform, &pipeline.sql.insert];
    let words = ["left", "right", "full", "sets", "rollup", "cube"];
    files.into_iter().flatten().any(|file| {
        let text = file.text.to_lowercase();
        text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| words.contains(&word))
    })
}

/// Why rows can't be written whole: an operation that returns fewer columns than another would take values away.
pub fn partial(columns: &[String], others: &[String], target: &Target) -> Vec<String> {
    let is_there = |name: &&String| target.table.column(name).is_some_and(|_: &Column| true);
    others.iter().filter(|name| !columns.contains(name)).filter(is_there).cloned().collect()
}
