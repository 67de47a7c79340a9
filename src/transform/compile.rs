//! Decides, for one input table of one pipeline, which SQL answers for which operation, and how the rows that a
//! change leaves behind are found; then has it all prepared. After this, nothing about the SQL is open.

use std::sync::Arc;

use tokio_postgres::Client;

use super::SqlProblem;
use super::chain::{InputTable, Side, over_changes, over_partial_rows, over_table};
use super::query::{
    CompileError, CopyQuery, OutputColumn, Query, Types, prepare, prepare_copy, prepare_some,
};
use super::render::{RenderedFile, Scene, render_file};
use super::scan::Scope;
use crate::change::{Operation, Relation};
use crate::codes::Code;
use crate::config::{Action, Pipeline, SqlFile, TableName};
use crate::postgres::catalog::{TEXT_OID, Table};
use crate::postgres::ident::{quote_ident, quote_idents};

/// Where an operation's rows come from.
#[derive(Debug, Clone)]
pub enum Rows {
    /// The operation is ignored.
    Ignored,
    /// The change's own columns, as they came.
    Direct(Direct),
    /// SQL on the source.
    Query(Box<Query>),
}

/// Columns of the change that are columns of the output, name and type alike.
#[derive(Debug, Clone)]
pub struct Direct {
    /// Output columns.
    pub columns: Vec<String>,
    /// Cells that they are taken from.
    pub cells: Vec<usize>,
    /// Which row.
    pub side: Side,
}

/// How to find what a change leaves behind: the output rows of the row before.
#[derive(Debug, Clone)]
pub enum Removal {
    /// Nothing is ever removed.
    None,
    /// The old row's own columns tell.
    ByName(Direct),
    /// SQL over the old row tells; where it returns nothing or NULL, the old row's columns of the same name do.
    Query {
        /// The delete chain.
        query: Box<Query>,
        /// For each column that identifies the rows: where `query` returns it, and where the old row has it.
        columns: Vec<(Option<usize>, Option<usize>)>,
    },
    /// What deletes leave is written, not removed (`on: {delete: upsert}`): the rows of the delete chain.
    Rows,
}

/// Everything that the SQL of a pipeline makes of one input table's changes.
#[derive(Debug, Clone)]
pub struct Transform {
    /// For inserts.
    pub insert: Rows,
    /// For updates: rows after.
    pub update: Rows,
    /// For deletes, where these write rows.
    pub delete: Rows,
    /// For updates and deletes: rows that go.
    pub removal: Removal,
    /// The input, for values that an update left out.
    pub input: InputTable,
}

/// What is compiled, and against what.
#[derive(Debug)]
pub struct Compiler<'a> {
    /// Source connection. Prepared statements belong to it.
    pub client: &'a Client,
    /// The pipeline.
    pub pipeline: &'a Pipeline,
    /// The input table's catalog entry.
    pub source: &'a Table,
    /// The input table as the stream describes it.
    pub relation: &'a Relation,
    /// Types on both ends.
    pub types: Types,
    /// Output columns that identify all rows of one input row; empty with load.sql.
    pub replace: Vec<String>,
}

enum Files {
    /// These, in a chain.
    Chain(Vec<RenderedFile>),
    /// None: copy what has the same name.
    Plain,
}

impl Compiler<'_> {
    /// Compiles all operations.
    pub async fn compile(&self) -> Result<Transform, CompileError> {
        let input = InputTable::new(self.source, self.relation);
        let on = self.pipeline.output.on;
        let insert = self.rows(&input, Operation::Insert, on.insert).await;
        let update = self.rows(&input, Operation::Update, on.update).await;
        let delete = self.delete(&input).await;
        let mut problems: Vec<SqlProblem> = Vec::new();
        let (insert, update, delete) =
            (told(insert, &mut problems)?, told(update, &mut problems)?, told(delete, &mut problems)?);
        match (insert, update, delete) {
            (Some(insert), Some(update), Some((delete, removal))) => {
                Ok(Transform { insert, update, delete, removal, input })
            }
            (Some(Rows::Query(insert)), ..) => Err(self.without_key(&insert, problems).into()),
            _ => Err(CompileError::Problems(problems)),
        }
    }

    /// What comes of one operation alone, whatever is wrong with the others; with the removal for deletes only.
    pub async fn compile_operation(&self, operation: Operation) -> Result<(Rows, Removal), CompileError> {
        let input = InputTable::new(self.source, self.relation);
        let on = self.pipeline.output.on;
        match operation {
            Operation::Insert => Ok((self.rows(&input, operation, on.insert).await?, Removal::None)),
            Operation::Update => Ok((self.rows(&input, operation, on.update).await?, Removal::None)),
            Operation::Delete => self.delete(&input).await,
        }
    }

    async fn delete(&self, input: &InputTable) -> Result<(Rows, Removal), CompileError> {
        Ok(match self.pipeline.output.on.delete {
            Action::Ignore => (Rows::Ignored, Removal::None),
            action if self.pipeline.sql.load.is_some() => {
                (self.rows(input, Operation::Delete, action).await?, Removal::None)
            }
            // Nobody has said what identifies rows: an output that isn't known.
            Action::Delete if self.replace.is_empty() => {
                (self.rows(input, Operation::Delete, Action::Delete).await?, Removal::None)
            }
            Action::Delete => (Rows::Ignored, self.removal(input).await?),
            action => (self.rows(input, Operation::Delete, action).await?, Removal::Rows),
        })
    }

    /// The backfill's statement: what inserts are made of, over the table itself.
    pub async fn compile_copy(&self) -> Result<CopyQuery, CompileError> {
        let input = InputTable::new(self.source, self.relation);
        let files = match self.files(&input, Operation::Insert)? {
            Files::Chain(files) => files,
            Files::Plain => vec![self.same_names(&input, Operation::Insert)?],
        };
        prepare_copy(self.client, over_table(&input, &files), &self.types).await
    }

    async fn rows(
        &self,
        input: &InputTable,
        operation: Operation,
        action: Action,
    ) -> Result<Rows, CompileError> {
        if action == Action::Ignore {
            return Ok(Rows::Ignored);
        }
        let files = match self.files(input, operation)? {
            Files::Chain(files) => files,
            Files::Plain => match self.direct(operation) {
                Some(direct) => return Ok(Rows::Direct(direct)),
                None => vec![self.same_names(input, operation)?],
            },
        };
        let query = prepare(self.client, over_changes(input, operation, &files), &self.types).await?;
        Ok(Rows::Query(Box::new(query)))
    }

    /// Renders what runs for an operation, and checks that the columns it uses are there.
    fn files(&self, input: &InputTable, operation: Operation) -> Result<Files, CompileError> {
        let sql = &self.pipeline.sql;
        let own = match operation {
            Operation::Insert => &sql.insert,
            Operation::Update => &sql.update,
            Operation::Delete => &sql.delete,
        };
        let transform = sql.transform.as_ref();
        let Some(own) = own else {
            let Some(transform) = transform else { return Ok(Files::Plain) };
            return Ok(Files::Chain(vec![self.checked(input, operation, transform, true)?]));
        };
        let own = self.checked(input, operation, own, false)?;
        match (own.references.iter().find(|r| r.scope == Scope::Transformed), transform) {
            (None, _) => Ok(Files::Chain(vec![own])),
            (Some(_), Some(transform)) => {
                Ok(Files::Chain(vec![self.checked(input, operation, transform, true)?, own]))
            }
            (Some(reference), None) => Err(own
                .problem(
                    Code::SqlTransformed,
                    Some(reference.offset),
                    "transformed is what transform.sql returns, and there is no transform.sql",
                    Some("use new, old or row; or add a transform.sql".to_owned()),
                )
                .into()),
        }
    }

    fn render(
        &self,
        input: &InputTable,
        operation: Operation,
        file: &SqlFile,
    ) -> Result<RenderedFile, CompileError> {
        let table = TableName { schema: self.source.schema.clone(), table: self.source.table.clone() };
        let scene = Scene {
            pipeline: &self.pipeline.name,
            operation,
            table: &table,
            table_sql: self.source.sql(),
            new: input.new_columns(),
            old: input.old_columns(),
            rows_sql: None,
        };
        let rendered = render_file(file, &scene)?;
        rendered.expect_one_statement()?;
        Ok(rendered)
    }

    fn checked(
        &self,
        input: &InputTable,
        operation: Operation,
        file: &SqlFile,
        is_transform: bool,
    ) -> Result<RenderedFile, CompileError> {
        let rendered = self.render(input, operation, file)?;
        let mut problems = Vec::new();
        for reference in &rendered.references {
            let Some(name) = reference.column.as_deref() else { continue };
            if reference.scope == Scope::Transformed && is_transform {
                let message = "transformed is what transform.sql returns: only insert.sql, update.sql and delete.sql have it";
                problems.push(rendered.problem(Code::SqlTransformed, Some(reference.offset), message, None));
            } else if reference.scope != Scope::Transformed && !input.has(reference.scope, operation, name) {
                let (code, message, help) = self.missing(input, reference.scope, operation, name);
                problems.push(rendered.problem(code, Some(reference.offset), message, Some(help)));
            }
        }
        if problems.is_empty() { Ok(rendered) } else { Err(CompileError::Problems(problems)) }
    }

    /// The plain copy without any SQL, where every value can go as it came.
    fn direct(&self, operation: Operation) -> Option<Direct> {
        let side = if operation == Operation::Delete { Side::Old } else { Side::New };
        let mut direct = Direct { columns: Vec::new(), cells: Vec::new(), side };
        for (name, cell) in self.shared_columns(operation) {
            if !self.is_same_type(&name) {
                return None;
            }
            direct.columns.push(name);
            direct.cells.push(cell?);
        }
        (!direct.columns.is_empty()).then_some(direct)
    }

    /// Columns of the input that the output has too, and their cells; None for generated ones.
    fn shared_columns(&self, operation: Operation) -> Vec<(String, Option<usize>)> {
        let target = self.types.target.as_deref();
        let columns = self.source.columns.iter().filter(|c| {
            target.is_none_or(|t| t.column(&c.name).is_some_and(|column| column.refusal.is_none()))
        });
        columns
            .map(|c| (c.name.clone(), self.relation.column_index(&c.name)))
            .filter(|(_, cell)| {
                operation != Operation::Delete || cell.is_some_and(|cell| self.relation.is_sent_in_old(cell))
            })
            .collect()
    }

    /// Whether a value of that column goes into the output's column of the same name as it is: same type, or a
    /// type of the user's, which is the output's own business to read, or into a text.
    fn is_same_type(&self, name: &str) -> bool {
        let Some(target) = self.types.target.as_deref() else { return true };
        match (self.source.column(name), target.column(name)) {
            (Some(_), Some(OutputColumn { type_name: None, .. })) => true,
            (Some(from), Some(OutputColumn { type_name: Some(to), .. })) => {
                // An enum's label, say, in a text: it may be called otherwise by now.
                let is_its_text = to.base_oid == TEXT_OID
                    && !from.type_name.is_builtin()
                    && !self.types.with_text_cast.contains(&from.type_name.base_oid);
                !to.is_builtin() || from.type_name.base_oid == to.base_oid || is_its_text
            }
            _ => false,
        }
    }

    /// The plain copy as SQL, for casts and for generated columns.
    fn same_names(&self, input: &InputTable, operation: Operation) -> Result<RenderedFile, CompileError> {
        let shared = self.shared_columns(operation);
        let names: Vec<&str> = shared.iter().map(|(name, _)| name.as_str()).collect();
        if names.is_empty() {
            let output = self.types.target.as_deref().map_or_else(String::new, |table| table.sql.clone());
            let theirs = input.new_columns();
            let message = format!(
                "no SQL file, so columns of the same name are copied, but {} and {output} have none in common",
                self.source.sql()
            );
            let help = format!(
                "add a transform.sql; the input's columns: {}",
                quote_idents(theirs.iter().map(String::as_str))
            );
            return Err(self.config_problem(Code::NothingShared, message, Some(help)).into());
        }
        Ok(self.select_row(if operation == Operation::Delete { "old" } else { "new" }, &names))
    }

    fn select_row(&self, row: &str, names: &[&str]) -> RenderedFile {
        let columns = names.iter().map(|name| format!("{row}.{0} AS {0}", quote_ident(name)));
        let text = format!("SELECT {}", columns.collect::<Vec<_>>().join(", "));
        RenderedFile::synthesized(self.config_path(), text)
    }

    /// How the rows of an old row are found (contract, section 4): delete.sql, else transform.sql as far as the
    /// columns it uses are sent, else the old row's columns of the same name.
    async fn removal(&self, input: &InputTable) -> Result<Removal, CompileError> {
        let has_own = self.pipeline.sql.delete.is_some();
        let files = match self.files(input, Operation::Delete) {
            Ok(Files::Chain(files)) => files,
            Ok(Files::Plain) => return self.removal_by_name(input).await,
            // A transform that can't be run over an old row is no mistake, unless it says `old` itself.
            Err(CompileError::Problems(_)) if !has_own && !self.transform_names_old(input)? => {
                return self.removal_by_partial_row(input).await;
            }
            Err(error) => return Err(error),
        };
        let chain = over_changes(input, Operation::Delete, &files);
        let query = prepare_some(self.client, chain, &self.types, |name| self.identifies(name)).await?;
        self.removal_by_query(input, query)
    }

    fn identifies(&self, column: &str) -> bool {
        self.replace.iter().any(|name| name == column)
    }

    fn removal_by_query(&self, input: &InputTable, query: Query) -> Result<Removal, CompileError> {
        let place = |name: &String| {
            let returned = query.columns.iter().position(|c| c.name == *name);
            (returned, self.old_cell(name).filter(|_| self.is_same_type(name)))
        };
        let columns: Vec<_> = self.replace.iter().map(place).collect();
        if columns.contains(&(None, None)) {
            return Err(self.untraceable(input).into());
        }
        Ok(Removal::Query { query: Box::new(query), columns })
    }

    /// transform.sql names columns of the old row that aren't sent. That does no harm where what identifies the rows
    /// doesn't depend on them: neither by value nor by which rows there are.
    async fn removal_by_partial_row(&self, input: &InputTable) -> Result<Removal, CompileError> {
        let Some(transform) = &self.pipeline.sql.transform else { return self.removal_by_name(input).await };
        let file = self.render(input, Operation::Delete, transform)?;
        let chain = over_partial_rows(input, &[file]);
        let query = prepare_some(self.client, chain, &self.types, |name| self.identifies(name)).await?;
        let tells_all = query.columns.len() == self.replace.len();
        if !tells_all || query.needs_unsent {
            return self.removal_by_name(input).await;
        }
        self.removal_by_query(input, query)
    }

    fn transform_names_old(&self, input: &InputTable) -> Result<bool, CompileError> {
        let Some(transform) = &self.pipeline.sql.transform else { return Ok(false) };
        match self.checked(input, Operation::Update, transform, true) {
            Ok(rendered) => Ok(rendered.references.iter().any(|r| {
                r.scope == Scope::Old
                    && r.column.as_deref().is_some_and(|name| !input.has(Scope::Old, Operation::Update, name))
            })),
            Err(error) => Err(error),
        }
    }

    async fn removal_by_name(&self, input: &InputTable) -> Result<Removal, CompileError> {
        let cells: Option<Vec<usize>> = self.replace.iter().map(|name| self.old_cell(name)).collect();
        let Some(cells) = cells else { return Err(self.untraceable(input).into()) };
        if self.replace.iter().all(|name| self.is_same_type(name)) {
            return Ok(Removal::ByName(Direct { columns: self.replace.clone(), cells, side: Side::Old }));
        }
        let names: Vec<&str> = self.replace.iter().map(String::as_str).collect();
        let file = self.select_row("old", &names);
        let query =
            prepare(self.client, over_changes(input, Operation::Delete, &[file]), &self.types).await?;
        let columns = (0..names.len()).map(|at| (Some(at), None)).collect();
        Ok(Removal::Query { query: Box::new(query), columns })
    }

    fn old_cell(&self, name: &str) -> Option<usize> {
        self.relation.column_index(name).filter(|&cell| self.relation.is_sent_in_old(cell))
    }
}

/// What came of one operation; its problems wait for those of the others, and each is told once.
fn told<T>(
    outcome: Result<T, CompileError>,
    problems: &mut Vec<SqlProblem>,
) -> Result<Option<T>, CompileError> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(CompileError::Problems(found)) => {
            let is_new = |p: &SqlProblem| !problems.iter().any(|known| known.is_same_mistake(p));
            let new: Vec<SqlProblem> = found.into_iter().filter(is_new).collect();
            problems.extend(new);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

impl Transform {
    /// Rows of an operation.
    pub fn rows(&self, operation: Operation) -> &Rows {
        match operation {
            Operation::Insert => &self.insert,
            Operation::Update => &self.update,
            Operation::Delete => &self.delete,
        }
    }
}

impl Rows {
    /// Names of the columns that rows have; None where there are no rows.
    pub fn columns(&self) -> Option<Arc<[String]>> {
        match self {
            Rows::Ignored => None,
            Rows::Direct(direct) => Some(direct.columns.as_slice().into()),
            Rows::Query(query) => Some(query.columns.iter().map(|c| c.name.clone()).collect()),
        }
    }
}
