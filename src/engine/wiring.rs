//! What pipelines of one project do to each other through the tables that they share: a foreign key between two outputs,
//! copies that go round in a circle. Looks at servers and changes nothing.

use std::collections::BTreeMap;

use super::error::EngineError;
use super::findings::Findings;
use super::prepare::PreparedSource;
use crate::codes::Code;
use crate::config::{Connection, TableName};
use crate::pipeline::definition::{Definition, config_problem};
use crate::pipeline::error::PipelineError;
use crate::postgres::Session;
use crate::postgres::catalog::fetch_running_server;
use crate::postgres::ident::quote_ident;
use crate::sink::{Output, Target};

/// Looks for both.
pub async fn check(
    sources: &[PreparedSource],
    outputs: &BTreeMap<String, Output>,
    findings: &mut Findings,
) -> Result<(), EngineError> {
    let definitions: Vec<&Definition> = definitions(sources).map(|(_, definition)| definition).collect();
    for definition in &definitions {
        if let Some(session) = outputs.get(definition.output.name()).and_then(Output::postgres) {
            foreign_keys(definition, &definitions, session, findings).await?;
        }
    }
    circles(sources, outputs, findings).await
}

fn definitions(sources: &[PreparedSource]) -> impl Iterator<Item = (&PreparedSource, &Definition)> {
    sources.iter().flat_map(|source| source.pipelines.iter().map(move |p| (source, p.definition.as_ref())))
}

/// Pipelines don't wait for each other, so a row may come before the one that it refers to.
async fn foreign_keys(
    definition: &Definition,
    all: &[&Definition],
    session: &Session,
    findings: &mut Findings,
) -> Result<(), EngineError> {
    let Some(target) = definition.target.as_ref().and_then(Target::postgres) else { return Ok(()) };
    let sql = "SELECT conname::text, confrelid FROM pg_catalog.pg_constraint \
               WHERE conrelid = $1 AND contype = 'f' AND confrelid <> conrelid AND conparentid = 0 \
               AND pg_catalog.current_setting('session_replication_role') <> 'replica'";
    let keys = session.client.query(sql, &[&target.table.oid]).await;
    let keys = keys.map_err(EngineError::at(definition.output.name(), "looking for foreign keys"))?;
    for key in keys {
        let (name, referred): (String, u32) = (key.get(0), key.get(1));
        let other = all.iter().find_map(|other| {
            let table = &other.target.as_ref()?.postgres()?.table;
            (other.output.name() == definition.output.name() && table.oid == referred)
                .then_some((other, table))
        });
        let Some((other, table)) = other else { continue };
        let (pipeline, child) = (&definition.pipeline, target.table.sql());
        let message = format!(
            "foreign key {name} of {child} refers to {}, which pipeline {} fills: pipelines don't wait for each other, so a row \
             may come before the one that it refers to, and be refused",
            table.sql(),
            other.pipeline.name
        );
        let help = format!(
            "ALTER TABLE {child} DROP CONSTRAINT {}; or have trucker's role write past foreign keys and triggers: \
             ALTER ROLE … SET session_replication_role = replica",
            quote_ident(&name)
        );
        let problem = config_problem(Code::ForeignKey, pipeline, &target.table.table, message, help);
        findings.pipeline(&pipeline.name, PipelineError::Problems(vec![problem]));
    }
    Ok(())
}

/// A table, wherever it is: server, database, schema, name.
type Place = (String, String, String, String);

/// One pipeline, as far as circles go.
struct Edge<'a> {
    definition: &'a Definition,
    from: Vec<Place>,
    to: Place,
}

/// Copies that end where they began: each change would go round for ever. SQL may break a circle, so pipelines that
/// have any are their author's business.
async fn circles(
    sources: &[PreparedSource],
    outputs: &BTreeMap<String, Output>,
    findings: &mut Findings,
) -> Result<(), EngineError> {
    let mut servers = BTreeMap::new();
    for (name, output) in outputs {
        let Some(session) = output.postgres() else { continue };
        let server = fetch_running_server(&session.client).await;
        let server = server.map_err(EngineError::at(name, "asking which server it is"))?;
        servers.insert(name.as_str(), server);
    }
    let edges = definitions(sources).filter_map(|(source, definition)| edge(source, definition, &servers));
    let edges: Vec<Edge> = edges.collect();
    for edge in &edges {
        let mut reached = vec![&edge.to];
        while let Some(next) = edges
            .iter()
            .find(|e| !reached.contains(&&e.to) && e.from.iter().any(|from| reached.contains(&from)))
        {
            reached.push(&next.to);
        }
        if let Some((_, _, schema, table)) = edge.from.iter().find(|from| reached.contains(from)) {
            let pipeline = &edge.definition.pipeline;
            let input = TableName { schema: schema.clone(), table: table.clone() };
            let message = format!(
                "what the pipeline writes comes back to its input {input} by way of other pipelines: each change would go \
                 round for ever"
            );
            let help =
                "leave one direction out, or filter in a transform.sql what has come from the other side";
            let problem = config_problem(Code::Circle, pipeline, table, message, help.to_owned());
            findings.pipeline(&pipeline.name, PipelineError::Problems(vec![problem]));
        }
    }
    Ok(())
}

fn edge<'a>(
    source: &PreparedSource,
    definition: &'a Definition,
    servers: &BTreeMap<&str, String>,
) -> Option<Edge<'a>> {
    let sql = &definition.pipeline.sql;
    let files = [&sql.transform, &sql.insert, &sql.update, &sql.delete, &sql.load];
    if files.iter().any(|file| file.is_some()) {
        return None;
    }
    let place = |server: &str, database: &str, schema: &str, table: &str| -> Place {
        (server.to_owned(), database.to_owned(), schema.to_owned(), table.to_owned())
    };
    let target = &definition.target.as_ref()?.postgres()?.table;
    let Connection::Postgres(output) = &definition.output else { return None };
    let server = servers.get(output.name.as_str())?;
    let input = |table: &std::sync::Arc<crate::postgres::catalog::Table>| {
        place(&source.server, &source.connection.database, &table.schema, &table.table)
    };
    Some(Edge {
        definition,
        from: definition.tables.iter().map(input).collect(),
        to: place(server, &output.database, &target.schema, &target.table),
    })
}
