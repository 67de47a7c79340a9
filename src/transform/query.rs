//! One chain, prepared on the source: its result columns, with the types that the output wants, as text that the
//! output's input functions read.

use std::sync::Arc;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::SqlProblem;
use super::chain::{Chain, Param, UNSENT};
use super::refused::{locate, position, prepare_located, problem_at};
use super::render::RenderedFile;
use crate::codes::Code;
use crate::postgres::catalog::{Table, TableColumn, TypeName};
use crate::postgres::ident::quote_ident;
use crate::postgres::{error, sqlstate};

/// Why a statement could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The user's files don't fit each other or the databases.
    #[error("{}", .0.iter().map(|p| p.message.as_str()).collect::<Vec<_>>().join("; "))]
    Problems(Vec<SqlProblem>),
    /// The source could not be asked.
    #[error("{}", error::describe(.0))]
    Postgres(#[from] tokio_postgres::Error),
}

impl From<Vec<SqlProblem>> for CompileError {
    fn from(problems: Vec<SqlProblem>) -> Self {
        CompileError::Problems(problems)
    }
}

impl From<SqlProblem> for CompileError {
    fn from(problem: SqlProblem) -> Self {
        CompileError::Problems(vec![problem])
    }
}

/// What the source and the output are, as far as types go.
#[derive(Debug, Clone)]
pub struct Types {
    /// Types of the source whose cast to text isn't their output function (`fetch_types_with_text_cast`).
    pub with_text_cast: Arc<[u32]>,
    /// The output table; None where result columns are free (load.sql).
    pub target: Option<Arc<OutputTable>>,
}

/// An output table, as far as rows for it go.
#[derive(Debug, Clone)]
pub struct OutputTable {
    /// As statements name it.
    pub sql: String,
    /// Its columns.
    pub columns: Vec<OutputColumn>,
}

impl From<&Table> for OutputTable {
    fn from(table: &Table) -> Self {
        let column = |column: &TableColumn| OutputColumn {
            name: column.name.clone(),
            refusal: column.is_generated().then_some("is generated"),
            type_name: Some(column.type_name.clone()),
        };
        OutputTable { sql: table.sql(), columns: table.columns.iter().map(column).collect() }
    }
}

impl OutputTable {
    /// The column of that name.
    pub fn column(&self, name: &str) -> Option<&OutputColumn> {
        self.columns.iter().find(|column| column.name == name)
    }
}

/// One of its columns.
#[derive(Debug, Clone)]
pub struct OutputColumn {
    /// Name.
    pub name: String,
    /// Why rows may not be given a value for it, if so.
    pub refusal: Option<&'static str>,
    /// The type that values are cast to on their way; None where they go as they are.
    pub type_name: Option<TypeName>,
}

/// A statement over a batch of changes. Its rows are `(n, values…)`: n counts the batch's changes from 1, and rows
/// come in its order.
#[derive(Debug, Clone)]
pub struct Query {
    /// Its text.
    pub sql: String,
    /// The prepared statement.
    pub statement: tokio_postgres::Statement,
    /// Its parameters.
    pub params: Vec<Param>,
    /// Result columns, without n.
    pub columns: Vec<ResultColumn>,
    /// Whether the result depends on values that aren't sent (see [`super::chain::UNSENT`]): asked of the planner, which
    /// keeps of a query only what its result needs.
    pub needs_unsent: bool,
    chain: Chain,
    /// Where the chain starts in the statement.
    chain_start: usize,
}

/// One column of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultColumn {
    /// Name.
    pub name: String,
    /// Type after the cast to what the output wants, as SQL names it.
    pub type_sql: String,
    /// Whether its binary form means the same to every server.
    pub is_portable: bool,
    /// The source's type of the value as it is sent, and the modifier.
    pub pg_type: (tokio_postgres::types::Type, i32),
}

/// The statement that a backfill copies from.
#[derive(Debug, Clone)]
pub struct CopyQuery {
    /// `SELECT …`, to be put into `COPY (…) TO STDOUT`.
    pub sql: String,
    /// Result columns.
    pub columns: Vec<ResultColumn>,
    /// For each of them, the table's column that it is taken from as it is: the table's OID and the column's number.
    pub taken_from: Vec<Option<(u32, i16)>>,
    chain: Chain,
    chain_start: usize,
}

/// Lines of a statement that come from lines of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineOrigin {
    /// Of the statement, counted from 0, both ends included.
    pub lines: (usize, usize),
    /// The file.
    pub path: std::path::PathBuf,
    /// Of the template, counted from 1, both ends included.
    pub template_lines: (usize, usize),
}

impl CopyQuery {
    /// Where the lines of the statement come from.
    pub fn origins(&self) -> Vec<LineOrigin> {
        origins(&self.sql, self.chain_start, &self.chain)
    }

    /// A run-time error in the words of a problem.
    pub fn problem(&self, failure: &tokio_postgres::Error) -> SqlProblem {
        problem_at(sqlstate::code_of_running, failure, None, &self.chain.files)
    }

    /// The same statement with a further column: which version of the input row a row is made of. It changes whenever the row
    /// is written.
    pub fn with_version(&self, name: &str) -> String {
        let (select, from) = self.sql.split_at(self.chain_start);
        let version =
            "pg_catalog.concat_ws(' ', trucker_change.tableoid, trucker_change.ctid, trucker_change.xmin)";
        format!("{}, {version} AS {name}\n{from}", select.trim_end())
    }

    /// The same over some pages of the input table alone, of each partition's where it has any: from that one on, and up to
    /// another.
    pub fn of_pages(&self, from: u64, to: Option<u64>) -> String {
        let page = |sign, page| format!("trucker_change.ctid {sign} '({page},0)'::pg_catalog.tid");
        let end = to.map(|to| format!(" AND {}", page("<", to))).unwrap_or_default();
        format!("{}\nWHERE {}{end}", self.sql, page(">=", from))
    }

    /// Whether the rows can travel in binary form.
    pub fn is_binary(&self) -> bool {
        self.columns.iter().all(|c| c.is_portable)
    }
}

/// Prepares a chain over changes.
pub async fn prepare(client: &Client, chain: Chain, types: &Types) -> Result<Query, CompileError> {
    prepare_some(client, chain, types, |_| true).await
}

/// The same, with those of its result columns only that are `wanted`: what the others alone need, the planner leaves
/// out.
pub async fn prepare_some(
    client: &Client,
    chain: Chain,
    types: &Types,
    wanted: impl Fn(&str) -> bool,
) -> Result<Query, CompileError> {
    let mut columns = result_columns(client, &chain, types).await?;
    columns.retain(|c| wanted(&c.column.name));
    let values = columns.iter().map(|c| format!(", {}", c.text_sql)).collect::<String>();
    let select = format!("SELECT trucker_change.n{values}\n");
    let sql = format!("{select}{}\nORDER BY trucker_change.n", chain.from);
    let statement = match client.prepare(&sql).await {
        Ok(statement) => statement,
        Err(failure) => match uncastable(&failure, &columns, &chain.files) {
            Some(problem) => return Err(problem.into()),
            None => return Err(locate(client, failure, &sql, select.len(), &chain.files).await),
        },
    };
    let columns: Vec<ResultColumn> = columns.into_iter().map(|c| c.column).collect();
    let needs_unsent = plan(client, &chain, &columns).await?.iter().any(|line| line.contains(UNSENT));
    let params = chain.params.clone();
    Ok(Query { sql, statement, params, columns, needs_unsent, chain, chain_start: select.len() })
}

/// Makes a backfill's statement, and has the source check it.
pub async fn prepare_copy(client: &Client, chain: Chain, types: &Types) -> Result<CopyQuery, CompileError> {
    let columns = result_columns(client, &chain, types).await?;
    let values: Vec<String> =
        columns.iter().map(|c| format!("{} AS {}", c.cast_sql, quote_ident(&c.column.name))).collect();
    let select = format!("SELECT {}\n", values.join(", "));
    let sql = format!("{select}{}", chain.from);
    prepare_located(client, &sql, select.len(), &chain.files).await?;
    explain(client, &sql, &chain.files).await?;
    let taken_from = columns.iter().map(|c| c.taken_from).collect();
    let columns = columns.into_iter().map(|c| c.column).collect();
    Ok(CopyQuery { sql, columns, taken_from, chain, chain_start: select.len() })
}

impl Query {
    /// Where the lines of the statement come from.
    pub fn origins(&self) -> Vec<LineOrigin> {
        origins(&self.sql, self.chain_start, &self.chain)
    }

    /// The files that it was made of.
    pub fn files(&self) -> impl Iterator<Item = &std::path::Path> {
        self.chain.files.iter().map(|(_, file)| file.path())
    }

    /// A run-time error in the words of a problem: which file, and where if the server says so.
    pub fn problem(&self, failure: &tokio_postgres::Error) -> SqlProblem {
        let at = position(failure, None).and_then(|at| at.checked_sub(self.chain_start));
        problem_at(sqlstate::code_of_running, failure, at, &self.chain.files)
    }
}

/// Runs of lines that follow each other in the statement and in the template alike.
fn origins(sql: &str, chain_start: usize, chain: &Chain) -> Vec<LineOrigin> {
    let mut origins: Vec<LineOrigin> = Vec::new();
    for (start, file) in &chain.files {
        let first = sql[..chain_start + start].matches('\n').count();
        let lines = file.statement().split('\n').count();
        for line in 0..lines {
            let from = file.template_line(line + 1);
            let at = first + line;
            match origins.last_mut() {
                Some(last)
                    if last.path == file.path()
                        && last.lines.1 + 1 == at
                        && (last.template_lines.1 == from || last.template_lines.1 + 1 == from) =>
                {
                    (last.lines.1, last.template_lines.1) = (at, from);
                }
                _ => origins.push(LineOrigin {
                    lines: (at, at),
                    path: file.path().to_owned(),
                    template_lines: (from, from),
                }),
            }
        }
    }
    origins
}

/// The plan of a chain for these of its values, over no changes at all.
async fn plan(client: &Client, chain: &Chain, columns: &[ResultColumn]) -> Result<Vec<String>, CompileError> {
    let values: Vec<String> =
        columns.iter().map(|c| format!("trucker_result.{}", quote_ident(&c.name))).collect();
    let mut from = chain.from.clone();
    for place in (1..=chain.params.len()).rev() {
        from = from.replace(&format!("${place}::"), "'{}'::");
    }
    explain(client, &format!("SELECT {}\n{from}", values.join(", ")), &chain.files).await
}

/// A statement's plan. Unlike preparing it, this asks for the rights that running it takes.
async fn explain(
    client: &Client,
    sql: &str,
    files: &[(usize, RenderedFile)],
) -> Result<Vec<String>, CompileError> {
    let plan = client.query(&format!("EXPLAIN (VERBOSE, COSTS OFF) {sql}"), &[]).await;
    let lines = plan.and_then(|lines| lines.iter().map(|line| line.try_get(0)).collect());
    let failure = match lines {
        Ok(lines) => return Ok(lines),
        Err(failure) => failure,
    };
    match failure.as_db_error() {
        Some(refusal) if *refusal.code() == SqlState::INSUFFICIENT_PRIVILEGE => {
            let row = client.query_one("SELECT pg_catalog.quote_ident(current_user)", &[]).await?;
            let help = missing_grant(refusal.message(), row.try_get(0)?);
            let problem = problem_at(sqlstate::code_of_preparing, &failure, None, files);
            Err(SqlProblem { help, is_refusal: true, ..problem }.into())
        }
        _ => Err(CompileError::Postgres(failure)),
    }
}

/// The statement that lets a role do what it was refused with these words.
fn missing_grant(refusal: &str, role: &str) -> Option<String> {
    let mut words = refusal.strip_prefix("permission denied for ")?.splitn(2, ' ');
    let (kind, name) = (words.next()?, quote_ident(words.next()?));
    Some(match kind {
        "table" | "view" | "relation" => format!("GRANT SELECT ON {name} TO {role}"),
        "function" => format!("GRANT EXECUTE ON FUNCTION {name} TO {role}"),
        "schema" => format!("GRANT USAGE ON SCHEMA {name} TO {role}"),
        _ => return None,
    })
}

struct Selected {
    column: ResultColumn,
    taken_from: Option<(u32, i16)>,
    /// Its type on the source, before the cast.
    source_sql: String,
    /// The value, cast to the output's type.
    cast_sql: String,
    /// That as text.
    text_sql: String,
}

async fn result_columns(
    client: &Client,
    chain: &Chain,
    types: &Types,
) -> Result<Vec<Selected>, CompileError> {
    let select = "SELECT trucker_result.*\n";
    let sql = format!("{select}{}", chain.from);
    let probe = prepare_located(client, &sql, select.len(), &chain.files).await?;
    let file = chain.files.last().map(|(_, file)| file);
    let mut problems = Vec::new();
    let mut columns: Vec<Selected> = Vec::new();
    for column in probe.columns() {
        let name = column.name();
        let about = match types.target.as_deref() {
            _ if name == "?column?" => Some((
                Code::SqlResultName,
                "a result column has no name".to_owned(),
                Some("give it one: … AS name".to_owned()),
            )),
            _ if columns.iter().any(|c| c.column.name == name) => Some((
                Code::SqlResultName,
                format!("two result columns are called {}", quote_ident(name)),
                None,
            )),
            Some(target) => refused_by(target, name),
            None => None,
        };
        if let (Some((code, message, help)), Some(file)) = (about, file) {
            let offset = file.statement().rfind(name).filter(|_| code != Code::SqlResultName);
            problems.push(file.problem(code, offset, message, help));
            continue;
        }
        let taken_from = column.table_oid().zip(column.column_id());
        let pg_type = (column.type_().clone(), column.type_modifier());
        columns.push(Selected { taken_from, ..select_column(name, pg_type, types) });
    }
    if columns.is_empty() && problems.is_empty() {
        problems.extend(
            file.map(|f| f.problem(Code::SqlResultName, None, "the statement returns no columns", None)),
        );
    }
    if problems.is_empty() { Ok(columns) } else { Err(CompileError::Problems(problems)) }
}

/// Why the output has no place for a column of that name.
fn refused_by(target: &OutputTable, name: &str) -> Option<(Code, String, Option<String>)> {
    let output = &target.sql;
    match target.column(name) {
        None => {
            let near = nearest(name, target.columns.iter().map(|c| c.name.as_str()));
            let help = near.map(|near| format!("did you mean {}?", quote_ident(near)));
            let add = format!(
                "name one of its columns, or ALTER TABLE {} ADD COLUMN {} …",
                target.sql,
                quote_ident(name)
            );
            Some((
                Code::SqlResultUnknown,
                format!("the output table {output} has no column {}", quote_ident(name)),
                help.or(Some(add)),
            ))
        }
        Some(column) => {
            let refusal = column.refusal?;
            Some((
                Code::SqlResultGenerated,
                format!(
                    "column {} of the output table {output} {refusal}: it can't be written",
                    quote_ident(name)
                ),
                Some("leave it out of the SELECT".to_owned()),
            ))
        }
    }
}

fn select_column(name: &str, pg_type: (tokio_postgres::types::Type, i32), types: &Types) -> Selected {
    let source_type = &pg_type.0;
    let value = format!("trucker_result.{}", quote_ident(name));
    let source_sql = format!("{}.{}", quote_ident(source_type.schema()), quote_ident(source_type.name()));
    let source_type_sql = source_sql.clone();
    let target = types.target.as_deref().and_then(|t| t.column(name)).and_then(|c| c.type_name.as_ref());
    let (oid, type_sql, cast_sql) = match target {
        Some(t) if t.is_builtin() && t.base_oid != source_type.oid() => {
            (t.base_oid, t.sql.clone(), format!("{value}::{}", t.sql))
        }
        Some(t) => (source_type.oid(), t.sql.clone(), value),
        None => (source_type.oid(), source_sql, value),
    };
    let text_sql = if types.with_text_cast.contains(&oid) {
        format!("CASE WHEN {cast_sql} IS NOT NULL THEN pg_catalog.concat({cast_sql}) END")
    } else {
        format!("({cast_sql})::pg_catalog.text")
    };
    let is_portable = PORTABLE.contains(&oid) && target.is_none_or(|t| t.base_oid == oid);
    let column = ResultColumn { name: name.to_owned(), type_sql, is_portable, pg_type };
    Selected { column, taken_from: None, source_sql: source_type_sql, cast_sql, text_sql }
}

/// Types whose binary form holds no OIDs and reads the same in every major version: booleans, numbers, text,
/// json, times, network addresses, bits, uuid, and arrays of the usual ones.
const PORTABLE: &[u32] = &[
    16, 17, 18, 19, 20, 21, 23, 25, 114, 700, 701, 829, 774, 869, 650, 1042, 1043, 1082, 1083, 1114, 1184,
    1186, 1266, 1560, 1562, 1700, 2950, 3802, 1000, 1005, 1007, 1016, 1009, 1015, 1021, 1022, 1231, 1115,
    1185, 1182, 2951,
];

/// Names the result column whose type can't be cast to that of the output's.
fn uncastable(
    failure: &tokio_postgres::Error,
    columns: &[Selected],
    files: &[(usize, RenderedFile)],
) -> Option<SqlProblem> {
    let at = position(failure, None).filter(|_| failure.code() == Some(&SqlState::CANNOT_COERCE))?;
    let mut end = "SELECT trucker_change.n".len();
    let Selected { column, source_sql, .. } = columns.iter().find(|c| {
        end += ", ".len() + c.text_sql.chars().count();
        at < end
    })?;
    let name = quote_ident(&column.name);
    let [from, to] = [source_sql, &column.type_sql].map(|sql| sql.trim_start_matches("pg_catalog."));
    let message = format!(
        "result column {name} is {from}, but the output's column {name} is {to}, and there is no cast"
    );
    let help = format!("return {to} as {name}, by an expression of your own; or change the output's column");
    let file = &files.last()?.1;
    Some(file.problem(Code::SqlType, file.statement().rfind(&column.name), message, Some(help)))
}

/// The name that was probably meant.
pub fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + name.len().max(candidate.len()) / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
