//! What trucker creates on servers: its own tables on outputs, then a publication, then a slot, in this order. (A slot
//! made before its publication can't decode what lies between the two.) Later starts bring the publication up to date.

use tokio::sync::watch;

use super::error::EngineError;
use super::plan;
use super::prepare::{Creation, PreparedProject, PreparedSource};
use super::replica;
use crate::change::Lsn;
use crate::codes::Code;
use crate::failpoint;
use crate::pipeline::task::ended;
use crate::postgres::catalog::Table;
use crate::postgres::{Purpose, connect};
use crate::sink::CheckpointKey;
use crate::source::{publication, slot, standby};

/// Creates what is missing, but for slots; or, where it may not, refuses to go on without, slots included.
pub async fn create(project: &mut PreparedProject, creation: Creation) -> Result<(), EngineError> {
    if creation == Creation::Forbidden {
        plan::refuse_missing(project).await?;
    }
    for (name, output) in &project.outputs {
        let made = output.ledger().ensure_tables().await;
        made.map_err(EngineError::sink(name))?;
    }
    retire_orphans(project).await?;
    for source in &mut project.sources {
        if creation == Creation::Allowed {
            let is_whole = project.aside.iter().all(|aside| aside.source != source.connection.name);
            ensure_publication(source, is_whole).await?;
        }
        replica::wait_for_publication(source).await?;
    }
    Ok(())
}

/// Creates the slots that are missing. Answers whether they are there now: not, if it was to stop first.
pub async fn create_slots(
    project: &mut PreparedProject,
    shutdown: &mut watch::Receiver<bool>,
) -> Result<bool, EngineError> {
    for source in &mut project.sources {
        if !ensure_slot(source, shutdown).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A pipeline whose folder is gone no longer holds the slot back, so its place is worth nothing: should the folder
/// come back, it is filled anew.
async fn retire_orphans(project: &PreparedProject) -> Result<(), EngineError> {
    for (connection, pipeline) in orphans(project).await? {
        let Some(output) = project.outputs.get(&connection) else { continue };
        tracing::warn!(event = "pipeline_gone", code = %Code::PipelineGone, pipeline = %pipeline,
            "the pipeline's folder is gone: its place is given up; bringing it back means a new backfill");
        let key = CheckpointKey { project: project.name.clone(), pipeline };
        let done = output.ledger().reset(&key).await;
        done.map_err(EngineError::sink(&connection))?;
    }
    Ok(())
}

/// Pipelines that have a place in the stream and no folder any more, with the connections that have their checkpoints.
pub(super) async fn orphans(project: &PreparedProject) -> Result<Vec<(String, String)>, EngineError> {
    let mut orphans = Vec::new();
    for (name, output) in &project.outputs {
        let failed = EngineError::sink(name);
        for found in output.ledger().fetch_all(&project.name).await.map_err(failed)? {
            let is_ours = project.sources.iter().any(|source| {
                let mut origin = source.origin();
                origin.timeline = found.origin.timeline;
                origin == found.origin
            });
            // By name alone: another connection of the project may lead to the same database.
            let mut pipelines = project.sources.iter().flat_map(|s| &s.pipelines);
            let is_known = pipelines.any(|p| p.definition.key.pipeline == found.pipeline)
                || project.aside.iter().any(|aside| aside.pipeline == found.pipeline);
            if is_ours && !is_known && found.loaded_lsn.is_some() {
                orphans.push((name.clone(), found.pipeline));
            }
        }
    }
    Ok(orphans)
}

/// What has to be done to the publication so that it has the tables of the pipelines, and no others.
pub(super) struct PublicationSteps {
    /// Makes it, or adds tables to it: these.
    pub adding: Option<(String, Vec<String>)>,
    /// Takes out of it what no pipeline reads: these tables.
    pub dropping: Option<(String, Vec<String>)>,
}

pub(super) fn publication_steps(source: &PreparedSource) -> PublicationSteps {
    let mut wanted: Vec<&Table> = Vec::new();
    for table in source.pipelines.iter().flat_map(|p| &p.definition.tables) {
        if !wanted.iter().any(|t| t.oid == table.oid) {
            wanted.push(table);
        }
    }
    let name = source.slot_name.as_str();
    let names = |tables: &[&Table]| -> Vec<String> {
        tables.iter().map(|t| publication::relation_sql(&t.schema, &t.table)).collect()
    };
    let some = |sql: String, tables: Vec<String>| (!tables.is_empty()).then_some((sql, tables));
    let Some(existing) = &source.publication else {
        let tables = names(&wanted);
        return PublicationSteps {
            adding: some(publication::create_sql(name, &tables), tables),
            dropping: None,
        };
    };
    let added: Vec<&Table> = wanted.iter().copied().filter(|t| existing.table(t.oid).is_none()).collect();
    let added = names(&added);
    let left = existing.tables.iter().filter(|t| !wanted.iter().any(|w| w.oid == t.oid));
    let left: Vec<String> = left.map(|t| publication::relation_sql(&t.schema, &t.table)).collect();
    PublicationSteps {
        adding: some(publication::add_sql(source.control.server_version, name, &added), added),
        dropping: some(publication::drop_sql(name, &left), left),
    }
}

/// What no pipeline reads is taken out of it only where all of them are here.
async fn ensure_publication(source: &mut PreparedSource, is_whole: bool) -> Result<(), EngineError> {
    let mut steps = publication_steps(source);
    steps.dropping.take_if(|_| !is_whole);
    let statements: Vec<String> =
        [steps.adding, steps.dropping].into_iter().flatten().map(|(sql, _)| sql).collect();
    if statements.is_empty() {
        return Ok(());
    }
    let name = source.slot_name.as_str();
    for sql in statements {
        tracing::info!(event = "publication", connection = %source.connection.name, "{sql}");
        let done = source.control.client.batch_execute(&sql).await;
        done.map_err(EngineError::at(&source.connection.name, "bringing the publication up to date"))?;
        failpoint::reach("publication_made");
    }
    let found = publication::fetch(&source.control.client, source.control.server_version, name).await;
    source.publication = found.map_err(EngineError::at(&source.connection.name, "reading publications"))?;
    Ok(())
}

async fn ensure_slot(
    source: &mut PreparedSource,
    shutdown: &mut watch::Receiver<bool>,
) -> Result<bool, EngineError> {
    let ((connection, session), name) = (source.streamed(), source.slot_name.as_str());
    let (client, observer) = (&session.client, &source.observer.client);
    let wants_failover = source.connection.failover;
    match &source.slot {
        None => {
            let stop = ended(shutdown);
            let created = if source.streams_from_standby() {
                let other = connect(connection, Purpose::Control).await?;
                standby::create_slot(client, &other.client, &source.connection, observer, name, stop).await
            } else {
                slot::create(client, observer, observer, name, wants_failover, stop).await
            };
            let created = created.map_err(EngineError::at(&connection.name, "creating the replication slot"));
            let Some(lsn) = created? else { return Ok(false) };
            failpoint::reach("slot_made");
            tracing::info!(event = "slot_created", connection = %connection.name, slot = name, at = %lsn,
                "created replication slot {name}");
        }
        Some(slot) if wants_failover && !slot.is_failover => {
            let altered = slot::make_failover(connection, name).await;
            let failed =
                |e| EngineError::server(Code::ServerAnswer, format!("connection {}: {e}", connection.name));
            altered.map_err(failed)?;
        }
        Some(_) => {}
    }
    let found = slot::fetch(client, session.server_version, name).await;
    let found = found.map_err(EngineError::at(&connection.name, "reading slots"))?;
    source.slot = found;
    Ok(true)
}

impl PreparedSource {
    /// Where the slot stands: nothing before it can be read any more.
    pub fn slot_lsn(&self) -> Lsn {
        self.slot.as_ref().and_then(|slot| slot.confirmed_flush_lsn).unwrap_or_default()
    }
}
