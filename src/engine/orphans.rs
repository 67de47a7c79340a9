//! What is left of pipelines whose folder is gone: checkpoints and dead letters. Removes these and nothing else, and names other
//! projects that have something on the same servers, since nobody can know whether their folders are gone.

use tokio_postgres::Client;

use super::error::EngineError;
use super::inspect::{Inspected, Kept, inspect};
use super::status::has_folder;
use super::teardown::{Plan, lock};
use crate::config::Project;
use crate::sink::CheckpointKey;

/// Says what [`remove`] would do. Changes nothing.
///
/// # Errors
/// If one of the project's servers can't be looked at.
pub async fn plan(project: &Project) -> Result<Plan, EngineError> {
    plan_for(project, &look(project).await?).await
}

/// Removes it, and says what it did.
///
/// # Errors
/// If one of the servers can't be looked at, or a process runs the project, which may still have such a pipeline.
pub async fn remove(project: &Project) -> Result<Plan, EngineError> {
    let found = look(project).await?;
    let _guards = lock(&found).await?;
    let plan = plan_for(project, &found).await?;
    for (output, pipeline) in gone(project, &found) {
        let key = CheckpointKey { project: project.checkpoint_name().to_owned(), pipeline };
        let done = output.ledger.delete(&key).await;
        done.map_err(EngineError::sink(output.connection))?;
    }
    Ok(plan)
}

async fn look(project: &Project) -> Result<Inspected, EngineError> {
    let (found, errors) = inspect(project, |_| true).await;
    if errors.is_empty() { Ok(found) } else { Err(EngineError::Servers(errors.into_iter().collect())) }
}

/// With the outputs that have their checkpoints.
fn gone<'f>(project: &Project, found: &'f Inspected) -> Vec<(Kept<'f>, String)> {
    let mut gone = Vec::new();
    for output in found.outputs() {
        let stored = output.found.checkpoints.iter();
        let without = stored.filter(|checkpoint| !has_folder(project, found, output, checkpoint));
        gone.extend(without.map(|checkpoint| (output, checkpoint.pipeline.clone())));
    }
    gone
}

async fn plan_for(project: &Project, found: &Inspected) -> Result<Plan, EngineError> {
    let mut plan = Plan::default();
    for (output, pipeline) in gone(project, found) {
        let letters = output.found.dead_letters.iter();
        let letters: i64 = letters.filter(|(name, _)| *name == pipeline).map(|(_, count)| count).sum();
        let more = if letters > 0 { format!(", with {letters} dead letters") } else { String::new() };
        plan.removed.push(format!("connection {}: checkpoint of {pipeline}{more}", output.connection));
    }
    for output in found.outputs() {
        let (name, project) = (output.connection, project.checkpoint_name());
        let others = output.ledger.other_projects(project).await.map_err(EngineError::sink(name))?;
        plan.left.extend(others.into_iter().map(|other| {
            format!("connection {name}: checkpoints of project {other}; if that is gone: trucker teardown --project {other}")
        }));
    }
    for database in &found.databases {
        let name = &database.connection.name;
        let failed = || EngineError::at(name, "looking for other projects");
        let Some(source) = &database.source else { continue };
        let slots = other_slots(&database.session.client, &source.slot_name).await.map_err(failed())?;
        for (slot, is_active) in slots {
            let state = if is_active { "in use" } else { "nobody reads from it" };
            plan.left
                .push(format!("connection {name}: replication slot {slot} of another project ({state})"));
        }
    }
    Ok(plan)
}

async fn other_slots(client: &Client, own: &str) -> Result<Vec<(String, bool)>, tokio_postgres::Error> {
    let sql = "SELECT slot_name::text, active FROM pg_catalog.pg_replication_slots \
               WHERE database = pg_catalog.current_database() AND plugin = 'pgoutput' AND NOT temporary \
               AND slot_name <> $1 AND (slot_name = 'trucker' OR slot_name LIKE 'trucker\\_%') ORDER BY 1";
    let rows = client.query(sql, &[&own]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}
