//! Finds the servers for a pipeline's preview. The output is asked for its table's columns only, and may be missing.

use super::error::EngineError;
use super::findings::Findings;
use super::prepare::postgres;
use crate::change::Operation;
use crate::codes::Code;
use crate::config::{Connection, Pipeline, Project};
use crate::pipeline::preview::{self, TablePreview};
use crate::postgres::catalog::{Table, fetch_table};
use crate::postgres::{Purpose, connect, error};
use crate::transform::sample::Sample;

/// What the SQL of the pipeline of that name makes of some rows; beside it, what is to be said about the output.
///
/// # Errors
/// No pipeline of that name; its source can't be reached; its SQL doesn't work.
pub async fn preview(
    project: &Project,
    name: &str,
    operation: Operation,
    sample: &Sample,
) -> Result<(Vec<TablePreview>, Option<String>), EngineError> {
    let pipeline = project.pipeline(name).map_err(|problem| EngineError::from(*problem))?;
    let Some(connection) = postgres(project, &pipeline.input.connection) else {
        let message = format!("connection {} is no Postgres source", pipeline.input.connection);
        return Err(EngineError::server(Code::Adapter, message));
    };
    let source = connect(connection.queried(), Purpose::Source).await?;
    let (target, note) = match target(project, pipeline).await {
        Ok(target) => (target, None),
        Err(why) => (None, Some(format!("{why}: columns are shown as the SQL returns them"))),
    };
    match preview::preview(pipeline, &source, target.as_ref(), operation, sample).await {
        Ok(previews) => Ok((previews, note)),
        Err(error) => {
            let mut findings = Findings::default();
            findings.pipeline(name, error);
            findings.verdict().map(|()| (Vec::new(), note))
        }
    }
}

/// The output table, or why it isn't known; neither where the output isn't asked.
async fn target(project: &Project, pipeline: &Pipeline) -> Result<Option<Table>, String> {
    let (Some(name), Some(Connection::Postgres(connection))) =
        (&pipeline.output.table, project.connection(&pipeline.output.connection))
    else {
        return Ok(None);
    };
    if pipeline.sql.load.is_some() {
        return Ok(None);
    }
    let session = connect(connection, Purpose::Control).await.map_err(|error| error.to_string())?;
    let table = fetch_table(&session.client, &name.schema, &name.table).await;
    let table = table.map_err(|e| format!("connection {}: {}", connection.name, error::describe(&e)))?;
    let missing = || format!("connection {}: there is no table {name} yet", connection.name);
    table.map(Some).ok_or_else(missing)
}
