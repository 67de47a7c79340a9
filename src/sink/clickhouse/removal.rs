//! What of a ledger goes: a pipeline's or a project's entries, and the tables where nothing is left in them.

use super::dead_letter;
use super::ledger::{SETTINGS, TABLE, exists, fetch};
use crate::clickhouse::{Client, quote_text};
use crate::sink::{CheckpointKey, SinkError};

/// Forgets all pipelines of a project.
pub async fn delete_all(client: &Client, project: &str) -> Result<(), SinkError> {
    for table in [dead_letter::TABLE, TABLE] {
        if exists(client, table).await? {
            let sql = format!("DELETE FROM {table} WHERE project = {}", quote_text(project));
            let what = "deleting the project's checkpoints";
            client.execute(&sql, SETTINGS).await.map_err(SinkError::clickhouse(what))?;
        }
    }
    Ok(())
}

/// Forgets one pipeline, with its dead letters.
pub async fn delete(client: &Client, key: &CheckpointKey) -> Result<(), SinkError> {
    let (project, pipeline) = (quote_text(&key.project), quote_text(&key.pipeline));
    for table in [dead_letter::TABLE, TABLE] {
        let sql = format!("DELETE FROM {table} WHERE project = {project} AND pipeline = {pipeline}");
        let what = "deleting the pipeline's checkpoint";
        client.execute(&sql, SETTINGS).await.map_err(SinkError::clickhouse(what))?;
    }
    Ok(())
}

/// Other projects that have something there.
pub async fn other_projects(client: &Client, project: &str) -> Result<Vec<String>, SinkError> {
    let mut projects: Vec<String> =
        fetch(client, "part = 'state'").await?.into_iter().map(|e| e.project).collect();
    projects.dedup();
    projects.retain(|other| other != project);
    Ok(projects)
}

/// Whether the tables are there, and hold nothing of other projects.
pub async fn is_spare(client: &Client, project: &str) -> Result<bool, SinkError> {
    if !exists(client, TABLE).await? {
        return Ok(false);
    }
    for table in [dead_letter::TABLE, TABLE] {
        if exists(client, table).await? {
            let sql = format!("SELECT count() FROM {table} WHERE project != {}", quote_text(project));
            let reading = SinkError::clickhouse("looking into trucker's tables");
            if client.select(&sql, SETTINGS).await.map_err(reading)?.first() != Some("0") {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Drops the tables, if nothing is in them.
pub async fn drop(client: &Client) -> Result<bool, SinkError> {
    if !is_spare(client, "").await? {
        return Ok(false);
    }
    for table in [dead_letter::TABLE, TABLE] {
        let sql = format!("DROP TABLE IF EXISTS {table} SYNC");
        client.execute(&sql, SETTINGS).await.map_err(SinkError::clickhouse("dropping trucker's tables"))?;
    }
    Ok(true)
}
