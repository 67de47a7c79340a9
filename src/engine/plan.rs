//! What a run would create, and what it would fill, said before it does. Looks at servers and changes nothing.

use std::collections::BTreeSet;

use serde::Serialize;

use super::continuity;
use super::create::{orphans, publication_steps};
use super::error::EngineError;
use super::prepare::{self, Creation, Prepared, PreparedProject, PreparedSource};
use crate::clickhouse;
use crate::codes::Code;
use crate::config::{Action, ClickHouseConnection, Connection, Diagnostic, PostgresConnection, Project};
use crate::pipeline::backfill;
use crate::postgres::ident::{quote_ident, quote_idents};
use crate::sink::clickhouse::ledger::{TABLE_RIGHTS, TABLES};
use crate::sink::{Ledger, Target};
use crate::source::slot;

/// What a run would do first.
#[derive(Debug, Serialize)]
pub struct Plan {
    /// Sources first, then outputs; what is on a standby stands by itself.
    pub servers: Vec<ServerPlan>,
    /// How each pipeline would start.
    pub pipelines: Vec<PipelinePlan>,
    /// Pipelines whose folder is gone: their place would be given up.
    pub gone: Vec<String>,
}

/// One connection's server.
#[derive(Debug, Serialize)]
pub struct ServerPlan {
    /// The connection.
    pub connection: String,
    /// Host and port.
    pub address: String,
    /// The database.
    pub database: String,
    /// In the order in which it has to be done.
    pub steps: Vec<Step>,
    /// What the connection's role needs there, whether it has it or not.
    pub grants: Vec<String>,
}

/// One thing to do.
#[derive(Debug, Serialize)]
pub struct Step {
    /// In words.
    pub what: String,
    /// As statements, without a semicolon at the end.
    pub sql: String,
    /// Whether a run can't do without.
    pub is_needed: bool,
}

/// A pipeline.
#[derive(Debug, Serialize)]
pub struct PipelinePlan {
    /// Its name.
    pub name: String,
    /// Its output table, or `load.sql`.
    pub output: String,
    /// How it would start.
    pub start: Start,
    /// Its SQL isn't what it was backfilled by.
    pub is_sql_changed: bool,
}

/// How a pipeline starts.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "how")]
pub enum Start {
    /// It is filled with what is in these tables.
    Backfill {
        /// The tables.
        tables: Vec<TableSize>,
    },
    /// It has no backfill, and takes what changes from then on.
    Follow,
    /// It goes on where it is.
    Continue {
        /// Where that is.
        loaded_lsn: String,
    },
}

/// An input table of a backfill.
#[derive(Debug, Serialize)]
pub struct TableSize {
    /// The table.
    pub table: String,
    /// Rows, as the planner estimates them.
    pub rows: u64,
    /// Bytes on disk, without indexes.
    pub bytes: i64,
}

/// Says what a run would do.
///
/// # Errors
/// Those of the run.
pub async fn plan(project: &Project, creation: Creation) -> Result<Plan, EngineError> {
    let prepared = prepare::prepare(project, creation).await?;
    for source in &prepared.sources {
        continuity::check(source).await?;
    }
    let mut pipelines = Vec::new();
    for source in &prepared.sources {
        for pipeline in &source.pipelines {
            pipelines.push(of_pipeline(source, pipeline).await?);
        }
    }
    pipelines.sort_by(|a, b| a.name.cmp(&b.name));
    let gone = orphans(&prepared).await?.into_iter().map(|(_, pipeline)| pipeline).collect();
    Ok(Plan { servers: servers(&prepared).await?, pipelines, gone })
}

/// Refuses a project of which something is missing on a server.
pub(super) async fn refuse_missing(project: &PreparedProject) -> Result<(), EngineError> {
    let mut missing: Vec<Diagnostic> = Vec::new();
    for server in servers(project).await? {
        let steps = server.steps.iter().filter(|step| step.is_needed);
        missing.extend(steps.map(|step| {
            let message = format!(
                "connection {}: missing, and --no-create forbids to create it: {}",
                server.connection, step.what
            );
            let help = "`trucker plan --sql` has the statements";
            Diagnostic::of_server(Code::NotCreated, message).help(help)
        }));
    }
    if missing.is_empty() { Ok(()) } else { Err(EngineError::Servers(missing.into_iter().collect())) }
}

async fn servers(project: &PreparedProject) -> Result<Vec<ServerPlan>, EngineError> {
    let mut servers = Vec::new();
    for source in &project.sources {
        servers.extend(of_source(source));
    }
    for (name, output) in &project.outputs {
        let complete = output.ledger().is_complete().await;
        let complete = complete.map_err(EngineError::sink(name))?;
        let pipelines: Vec<&Prepared> = project.sources.iter().flat_map(|s| &s.pipelines).collect();
        let into: Vec<&Prepared> =
            pipelines.into_iter().filter(|p| p.definition.output.name() == name).collect();
        servers.extend(of_output(&into, output.ledger(), complete));
    }
    Ok(servers)
}

fn server(connection: &PostgresConnection, steps: Vec<Step>, grants: Vec<String>) -> ServerPlan {
    ServerPlan {
        connection: connection.name.clone(),
        address: format!("{}:{}", connection.host, connection.port),
        database: connection.database.clone(),
        steps,
        grants,
    }
}

fn of_source(source: &PreparedSource) -> Vec<ServerPlan> {
    let name = source.slot_name.as_str();
    let tables = |tables: &[String]| tables.join(", ").replace("ONLY ", "");
    let steps = publication_steps(source);
    let adding = steps.adding.map(|(sql, added)| {
        let verb = if source.publication.is_none() { "publication" } else { "more tables in publication" };
        Step { what: format!("{verb} {name}: {}", tables(&added)), sql, is_needed: true }
    });
    let dropping = steps.dropping.map(|(sql, left)| {
        let what =
            format!("tables to leave publication {name}, since no pipeline reads them: {}", tables(&left));
        Step { what, sql, is_needed: false }
    });
    let failover = source.connection.failover;
    let slot = source.slot.is_none().then(|| Step {
        what: format!("replication slot {name}"),
        sql: slot::create_sql(name, failover),
        is_needed: true,
    });
    let role = quote_ident(&source.connection.user);
    let inputs: BTreeSet<(&str, String)> = source
        .pipelines
        .iter()
        .flat_map(|p| &p.definition.tables)
        .map(|t| (t.schema.as_str(), t.sql()))
        .collect();
    let mut grants = usages(inputs.iter().map(|(schema, _)| *schema), &role);
    let inputs: Vec<&str> = inputs.iter().map(|(_, table)| table.as_str()).collect();
    grants.push(format!("GRANT SELECT ON {} TO {role}", inputs.join(", ")));
    let steps: Vec<Step> = adding.into_iter().chain(dropping).collect();
    match source.streams_from_standby() {
        false => vec![server(&source.connection, steps.into_iter().chain(slot).collect(), grants)],
        true => vec![
            server(&source.connection, steps, grants),
            server(source.streamed().0, slot.into_iter().collect(), Vec::new()),
        ],
    }
}

fn usages<'a>(schemas: impl Iterator<Item = &'a str>, role: &str) -> Vec<String> {
    let schemas: BTreeSet<&str> = schemas.collect();
    match schemas.is_empty() {
        true => Vec::new(),
        false => vec![format!("GRANT USAGE ON SCHEMA {} TO {role}", quote_idents(schemas.into_iter()))],
    }
}

fn of_output(pipelines: &[&Prepared], ledger: Ledger<'_>, is_complete: bool) -> Option<ServerPlan> {
    let output = &pipelines.first()?.definition.output;
    let steps = (!is_complete).then(|| Step {
        what: format!("{} as this version wants them", ledger.what()),
        sql: ledger.tables_sql(),
        is_needed: true,
    });
    let connection = match output {
        Connection::Postgres(connection) => connection,
        Connection::ClickHouse(to) => {
            return Some(ServerPlan {
                connection: to.name.clone(),
                address: format!("{}:{}", to.host, to.port),
                database: to.database.clone(),
                steps: steps.into_iter().collect(),
                grants: clickhouse_grants(pipelines, to),
            });
        }
    };
    let (role, database) = (quote_ident(&connection.user), quote_ident(&connection.database));
    let targets = pipelines.iter().filter_map(|p| p.definition.target.as_ref()).filter_map(Target::postgres);
    let tables: BTreeSet<(&str, String)> =
        targets.map(|target| (target.table.schema.as_str(), target.table.sql())).collect();
    let mut grants = vec![format!("GRANT TEMPORARY ON DATABASE {database} TO {role}")];
    grants.extend(usages(tables.iter().map(|(schema, _)| *schema), &role));
    for (_, table) in &tables {
        grants.push(format!("GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON {table} TO {role}"));
    }
    grants.push(format!("GRANT USAGE ON SCHEMA trucker TO {role}"));
    grants.push(format!("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA trucker TO {role}"));
    Some(server(connection, steps.into_iter().collect(), grants))
}

fn clickhouse_grants(pipelines: &[&Prepared], to: &ClickHouseConnection) -> Vec<String> {
    let (role, database) = (clickhouse::quote_ident(&to.user), clickhouse::quote_ident(&to.database));
    let targets = pipelines.iter().filter_map(|p| p.definition.target.as_ref()).map(Target::sql);
    let targets: BTreeSet<String> = targets.collect();
    let tables = TABLES.map(|table| format!("{database}.{table}"));
    let on = |right: &str, table: &String| format!("GRANT {right} ON {table} TO {role}");
    let own = tables.iter().map(|table| on(&TABLE_RIGHTS.join(", "), table));
    own.chain(targets.iter().map(|table| on("SELECT, INSERT", table))).collect()
}

async fn of_pipeline(source: &PreparedSource, prepared: &Prepared) -> Result<PipelinePlan, EngineError> {
    let definition = &prepared.definition;
    let pipeline = &definition.pipeline;
    let stored = prepared.checkpoint.as_ref();
    let start = match stored.and_then(|checkpoint| checkpoint.loaded_lsn) {
        Some(lsn) => Start::Continue { loaded_lsn: lsn.to_string() },
        None if !pipeline.backfill || pipeline.output.on.insert == Action::Ignore => Start::Follow,
        None => {
            let mut tables = Vec::new();
            for table in &definition.tables {
                let size = backfill::size(&source.queried().client, table).await;
                let (rows, bytes) =
                    size.map_err(EngineError::at(&source.connection.name, "asking for a table's size"))?;
                tables.push(TableSize { table: table.sql(), rows, bytes });
            }
            Start::Backfill { tables }
        }
    };
    Ok(PipelinePlan {
        name: pipeline.name.clone(),
        output: definition.output_name().unwrap_or_else(|| "load.sql".to_owned()),
        start,
        is_sql_changed: stored.is_some_and(|c| c.was_backfilled_by_other_sql(&definition.sql_hash)),
    })
}
