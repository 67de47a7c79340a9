//! A pipeline that was checked against both databases: tables, keys, how changes become writes. Creates nothing.

use std::sync::Arc;

use tokio_postgres::Client;

use crate::change::ReplicaIdentity;
use crate::clickhouse::catalog::{self, Server};
use crate::codes::Code;
use crate::config::template::Place;
use crate::config::{Connection, Pipeline, PostgresConnection, TableName};
use crate::postgres::catalog::{Table, fetch_table, fetch_types_with_text_cast};
use crate::sink::fold::Rules;
use crate::sink::{CheckpointKey, Output, SinkError, Target};
use crate::transform::SqlProblem;
use crate::transform::fingerprint::fingerprint;
use crate::transform::query::{OutputColumn, OutputTable, Types, nearest};

use super::error::PipelineError;
use super::{output, rights};

/// What a pipeline is, once it is known to fit.
#[derive(Debug, Clone)]
pub struct Definition {
    /// What the user wrote.
    pub pipeline: Arc<Pipeline>,
    /// Where changes come from.
    pub source: PostgresConnection,
    /// Where rows go.
    pub output: Connection,
    /// The input tables, as they were at the start.
    pub tables: Vec<Arc<Table>>,
    /// The output table; None where load.sql does without.
    pub target: Option<Target>,
    /// The output's server, where that is ClickHouse.
    pub server: Option<Server>,
    /// How changes may be put together.
    pub rules: Rules,
    /// The checkpoint's row.
    pub key: CheckpointKey,
    /// What its SQL is known by (see [`fingerprint`]).
    pub sql_hash: String,
    /// No other pipeline writes the output table, so rows that its SQL doesn't return can go.
    pub is_only_writer: bool,
}

/// Everything that is wrong with a pipeline, or the reason that this couldn't be found out.
pub type Checked<T> = Result<T, PipelineError>;

impl Definition {
    /// Reads and checks both ends of a pipeline.
    pub async fn check(
        pipeline: Arc<Pipeline>,
        source: (&PostgresConnection, &Client),
        output: (&Connection, &Output),
        key: CheckpointKey,
        is_only_writer: bool,
    ) -> Checked<Definition> {
        let mut problems = Vec::new();
        let mut tables = Vec::new();
        for name in &pipeline.input.tables {
            tables.extend(input_table(&pipeline, name, source.1, &mut problems).await?.map(Arc::new));
        }
        let target = match &pipeline.output.table {
            Some(name) if pipeline.sql.load.is_none() => {
                output::fetch_target(&pipeline, name, output.1, Some((source.1, &tables)), &mut problems)
                    .await?
            }
            _ => None,
        };
        if !problems.is_empty() {
            return Err(PipelineError::Problems(problems));
        }
        let server = match output.1 {
            Output::Postgres(_) => None,
            Output::ClickHouse(client) => {
                let asked = catalog::fetch_server(client).await;
                Some(asked.map_err(SinkError::clickhouse("asking which server it is"))?)
            }
        };
        let rules = output::rules(&pipeline, target.as_ref());
        let sql_hash = fingerprint(&pipeline, &tables);
        let (source, output) = (source.0.clone(), output.0.clone());
        Ok(Definition {
            pipeline,
            source,
            output,
            tables,
            target,
            server,
            rules,
            key,
            sql_hash,
            is_only_writer,
        })
    }

    /// The same, with the output table as it is now: whoever connects anew sees the DDL there. A table that doesn't do any
    /// more, or lacks a column that it had, is left as it was known, and the write to it will say what is wrong, in the
    /// server's words: a copy that went on without the column would lose its values.
    pub async fn with_current_output(&self, output: &Output) -> Checked<Definition> {
        let mut problems = Vec::new();
        let target = match &self.pipeline.output.table {
            Some(name) if self.target.is_some() => {
                output::fetch_target(&self.pipeline, name, output, None, &mut problems).await?
            }
            _ => None,
        };
        let has_all = |now: &Target| {
            let (before, now) = (self.target.iter().flat_map(Target::columns), now.columns());
            before.into_iter().all(|column| now.contains(&column))
        };
        if !problems.is_empty() || !target.as_ref().is_some_and(has_all) {
            return Ok(self.clone());
        }
        let rules = output::rules(&self.pipeline, target.as_ref());
        Ok(Definition { target, rules, ..self.clone() })
    }

    /// What casts and texts depend on. `client` is on the source.
    pub async fn types(&self, client: &Client) -> Checked<Types> {
        let with_text_cast = fetch_types_with_text_cast(client).await;
        let with_text_cast = with_text_cast.map_err(PipelineError::source("reading pg_cast"))?.into();
        Ok(Types {
            with_text_cast,
            target: self.target.as_ref().map(|target| Arc::new(output_types(target))),
        })
    }

    /// The columns that identify all rows of one input row.
    pub fn replace(&self) -> Vec<String> {
        self.target.as_ref().map(|target| target.replace().to_vec()).unwrap_or_default()
    }

    /// Whether output rows can be told by a key.
    pub fn rules_have_key(&self) -> bool {
        self.target.as_ref().is_some_and(|target| !target.key().is_empty())
    }

    /// The input tables' names, as the checkpoint keeps them.
    pub fn input_names(&self) -> String {
        let mut names: Vec<String> = self.pipeline.input.tables.iter().map(TableName::to_string).collect();
        names.sort();
        names.join(", ")
    }

    /// The output table's name, as the checkpoint keeps it.
    pub fn output_name(&self) -> Option<String> {
        self.pipeline.output.table.as_ref().map(TableName::to_string)
    }
}

/// What rows for the output table have to be like.
fn output_types(target: &Target) -> OutputTable {
    match target {
        Target::Postgres(target) => (&*target.table).into(),
        // Values go as the source writes them.
        Target::ClickHouse(target) => OutputTable {
            sql: target.sql(),
            columns: target
                .table
                .columns
                .iter()
                .map(|column| OutputColumn {
                    name: column.name.clone(),
                    refusal: target.refusal(&column.name),
                    type_name: None,
                })
                .collect(),
        },
    }
}

/// A problem with what the config file says; `word` is looked for to find the line.
pub fn config_problem(
    code: Code,
    pipeline: &Pipeline,
    word: &str,
    message: impl Into<String>,
    help: impl Into<Option<String>>,
) -> SqlProblem {
    SqlProblem {
        code,
        path: pipeline.config_path.clone(),
        place: place_of(pipeline, &[word]),
        message: message.into(),
        help: help.into(),
        is_refusal: false,
    }
}

/// The same about the output: the word counts where it stands behind `output`, since the input may have the same.
pub fn output_problem(
    code: Code,
    pipeline: &Pipeline,
    word: &str,
    message: impl Into<String>,
    help: impl Into<Option<String>>,
) -> SqlProblem {
    let place = place_of(pipeline, &["output:", word]).or_else(|| place_of(pipeline, &["\"output\"", word]));
    let problem = config_problem(code, pipeline, word, message, help);
    SqlProblem { place: place.or(problem.place), ..problem }
}

/// Where the last of these words stands in the config file, each looked for behind the one before it.
fn place_of(pipeline: &Pipeline, words: &[&str]) -> Option<Place> {
    let text = std::fs::read_to_string(&pipeline.config_path).ok()?;
    let mut at = 0;
    for (number, word) in words.iter().enumerate() {
        let behind = if number == 0 { 0 } else { at + words[number - 1].len() };
        at = behind + text[behind..].find(word)?;
    }
    let start = text[..at].rfind('\n').map_or(0, |end| end + 1);
    Some(Place { line: text[..at].matches('\n').count() + 1, column: at - start + 1 })
}

/// An input table, if it can be one; else the problems say why not.
pub(super) async fn input_table(
    pipeline: &Pipeline,
    name: &TableName,
    client: &Client,
    problems: &mut Vec<SqlProblem>,
) -> Checked<Option<Table>> {
    let failed = || PipelineError::source("reading the catalog");
    let table = fetch_table(client, &name.schema, &name.table).await.map_err(failed())?;
    let Some(table) = table else {
        problems.push(missing_table(pipeline, name, &pipeline.input.connection, "input", client).await?);
        return Ok(None);
    };
    let sql = table.sql();
    let refusal = match (table.kind, table.persistence) {
        ('r' | 'p', 'p') => None,
        ('r' | 'p', _) => Some((
            "is unlogged or temporary: its changes aren't in the WAL",
            format!("ALTER TABLE {sql} SET LOGGED"),
        )),
        ('v' | 'm', _) => Some((
            "is a view: only tables have changes to stream",
            "name the tables beneath it, and join them in transform.sql".to_owned(),
        )),
        ('f', _) => Some((
            "is a foreign table: its changes are another server's",
            "read it from that server, by a connection of its own".to_owned(),
        )),
        _ => Some(("is no table", "name a table".to_owned())),
    };
    if let Some((refusal, help)) = refusal {
        problems.push(config_problem(
            Code::NoChanges,
            pipeline,
            &name.table,
            format!("{sql} {refusal}"),
            help,
        ));
        return Ok(None);
    }
    problems.extend(rights::of_input(pipeline, name, &table, client).await?);
    problems.extend(without_identity(pipeline, &table));
    problems.extend(partitions_without_identity(pipeline, &table, client).await?);
    Ok(Some(table))
}

/// Why publishing the table would make the application's own UPDATEs and DELETEs fail.
fn without_identity(pipeline: &Pipeline, table: &Table) -> Option<SqlProblem> {
    let sql = table.sql();
    let full = format!("ALTER TABLE {sql} REPLICA IDENTITY FULL");
    let identity: Vec<_> = table.columns.iter().filter(|c| c.is_identity).collect();
    let (why, help) = match table.identity {
        ReplicaIdentity::Full => return None,
        _ if identity.iter().any(|c| c.is_generated()) => {
            ("its replica identity has a generated column, which isn't sent", full)
        }
        _ if !identity.is_empty() => return None,
        ReplicaIdentity::Nothing => (
            "its replica identity is NOTHING",
            format!("ALTER TABLE {sql} REPLICA IDENTITY DEFAULT (with a primary key), or: {full}"),
        ),
        ReplicaIdentity::Default => (
            "it has no primary key (or a deferrable one) to be its replica identity",
            format!("ALTER TABLE {sql} ADD PRIMARY KEY (…), or: {full}"),
        ),
        ReplicaIdentity::Index => ("the index of its replica identity is gone", full),
    };
    let message = format!(
        "{sql} can't be published: {why}, so Postgres would refuse every UPDATE and DELETE of it from then on"
    );
    Some(config_problem(Code::ReplicaIdentity, pipeline, &table.table, message, help))
}

/// The partitions of a table whose changes come without what the table's replica identity promises: what is in the WAL
/// is up to each partition, and `ALTER TABLE … REPLICA IDENTITY` doesn't reach them.
async fn partitions_without_identity(
    pipeline: &Pipeline,
    table: &Table,
    client: &Client,
) -> Checked<Vec<SqlProblem>> {
    if table.kind != 'p' {
        return Ok(Vec::new());
    }
    let sql = "SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) \
               FROM pg_catalog.pg_partition_tree($1::oid::regclass) t \
               JOIN pg_catalog.pg_class c ON c.oid = t.relid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
               WHERE t.isleaf AND c.relkind = 'r' AND c.relreplident <> 'f' AND (c.relreplident::text <> $2 \
                 OR c.relreplident = 'd' AND NOT EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid \
                    AND i.indisprimary AND i.indimmediate)) ORDER BY 1";
    let letter = match table.identity {
        ReplicaIdentity::Default => "d",
        ReplicaIdentity::Nothing => "n",
        ReplicaIdentity::Full => "f",
        ReplicaIdentity::Index => "i",
    };
    let rows = client.query(sql, &[&table.oid, &letter]).await;
    let partitions =
        rows.and_then(|rows| rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<_>, _>>());
    let partitions = partitions.map_err(PipelineError::source("reading partitions"))?;
    let problem = |partition: String| {
        let message =
            format!("partition {partition} of {} has another replica identity than the table", table.sql());
        let help = format!(
            "ALTER TABLE {partition} REPLICA IDENTITY FULL (or as the table's; each partition has its own)"
        );
        config_problem(Code::PartitionIdentity, pipeline, &table.table, message, help)
    };
    Ok(partitions.into_iter().map(problem).collect())
}

pub(super) async fn missing_table(
    pipeline: &Pipeline,
    name: &TableName,
    connection: &str,
    end: &str,
    client: &Client,
) -> Checked<SqlProblem> {
    let sql = "SELECT n.nspname || '.' || c.relname FROM pg_catalog.pg_class c \
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
               WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema')";
    let rows = client.query(sql, &[]).await;
    let names =
        rows.and_then(|rows| rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>());
    let names = names.map_err(PipelineError::source("reading the catalog"))?;
    let wanted = name.to_string();
    // Without the schemas: what two names share there makes them no nearer.
    let tables = || names.iter().filter_map(|full| full.split_once('.'));
    let near = nearest(&name.table, tables().map(|(_, table)| table));
    let help = match near.and_then(|near| tables().find(|(_, table)| *table == near)) {
        Some((schema, table)) => format!("did you mean {schema}.{table}?"),
        None if end == "output" => format!(
            "create it first; where `trucker init` wrote the project, schema/{connection}.sql proposes it"
        ),
        None => "is it the right database, and the right schema?".to_owned(),
    };
    let message = format!("{end} table {wanted} doesn't exist on connection {connection}");
    Ok(match end {
        "output" => output_problem(Code::TableMissing, pipeline, &name.table, message, help),
        _ => config_problem(Code::TableMissing, pipeline, &name.table, message, help),
    })
}
