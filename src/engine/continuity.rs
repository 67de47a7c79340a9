//! Whether stored progress and the slot still belong together. A checkpoint means something only on the server, slot
//! and history that it was made on; anything else is refused, with what to do, and never continued with a gap.

use super::error::EngineError;
use super::prepare::{PreparedSource, fetch_switch_point};
use crate::change::Lsn;
use crate::pipeline::definition::Definition;
use crate::sink::postgres::checkpoint::Checkpoint;
use crate::source::slot::Slot;

/// Refuses what can't go on exactly where it stopped.
pub async fn check(source: &PreparedSource) -> Result<(), EngineError> {
    let mut messages = Vec::new();
    messages.extend(source.slot.as_ref().and_then(|slot| unusable(source, slot)));
    if messages.is_empty() {
        messages.extend(publication(source));
        for pipeline in &source.pipelines {
            if let Some(checkpoint) = &pipeline.checkpoint {
                messages.extend(redirected(&pipeline.definition, checkpoint));
                messages.extend(continues(source, checkpoint).await?);
            }
        }
    }
    if messages.is_empty() { Ok(()) } else { Err(EngineError::Servers(messages)) }
}

pub(super) const START_OVER: &str =
    "To start over, trucker teardown, then trucker run: every pipeline is filled anew";

fn unusable(source: &PreparedSource, slot: &Slot) -> Option<String> {
    let (connection, name) = (&source.streamed().0.name, &source.slot_name);
    let what = match slot.plugin.as_deref() {
        None => "is a physical slot".to_owned(),
        Some(plugin) if plugin != "pgoutput" => format!("is one of the plugin {plugin}"),
        _ if slot.is_temporary => "is another session's temporary slot".to_owned(),
        _ if slot.database.as_deref() != Some(&source.connection.database) => {
            format!("is one of database {}", slot.database.as_deref().unwrap_or_default())
        }
        _ if slot.is_two_phase => "was made for two-phase commit".to_owned(),
        _ => return slot.lost.as_deref().map(|reason| lost(connection, name, reason)),
    };
    Some(format!(
        "connection {connection}: replication slot {name} {what}, not trucker's. Give the project another `name` in trucker.yml"
    ))
}

/// What is to be said of a slot that the server has invalidated.
pub(super) fn lost(connection: &str, slot: &str, reason: &str) -> String {
    let (why, then) = match reason {
        "wal_removed" => (
            "the server has removed WAL that wasn't read yet",
            "Then have it keep more (max_slot_wal_keep_size), or keep trucker running",
        ),
        "idle_timeout" => (
            "nobody read from it for longer than idle_replication_slot_timeout",
            "Then raise that setting, or keep trucker running",
        ),
        _ => ("the server can't decode from it any more", "The server's log says more"),
    };
    format!(
        "connection {connection}: replication slot {slot} is lost ({reason}): {why}, so changes are missing. {START_OVER}. {then}"
    )
}

fn publication(source: &PreparedSource) -> Vec<String> {
    let (connection, name) = (&source.connection.name, &source.slot_name);
    let Some(publication) = &source.publication else {
        let is_used = source.slot.is_some();
        let message = format!(
            "connection {connection}: publication {name} is gone, but its slot is there: changes made since can't be decoded. {}",
            START_OVER
        );
        return is_used.then_some(message).into_iter().collect();
    };
    let mut messages = Vec::new();
    if let Some(alteration) = &publication.alteration {
        messages.push(format!(
            "connection {connection}: publication {name} was altered: {alteration}, so changes may be missing. {}",
            START_OVER
        ));
    }
    for table in publication.tables.iter().filter(|t| t.is_narrowed) {
        messages.push(format!(
            "connection {connection}: publication {name} has a row filter or column list on {}.{}, so changes are missing. {}",
            table.schema,
            table.table,
            START_OVER
        ));
    }
    for pipeline in &source.pipelines {
        let Some(checkpoint) = &pipeline.checkpoint else { continue };
        let marks = source.marks(&pipeline.definition);
        let is_whole = pipeline.definition.tables.iter().all(|t| publication.table(t.oid).is_some());
        if is_whole && checkpoint.published.is_some() && checkpoint.published != marks {
            messages.push(format!(
                "connection {connection}: publication {name} was made anew, or tables of pipeline {} were taken out of it \
                 and put back, so changes may be missing. Fill the pipeline anew: {}",
                pipeline.definition.pipeline.name,
                refill(&pipeline.definition.pipeline.name)
            ));
        }
        let pipeline_name = &pipeline.definition.pipeline.name;
        for table in pipeline.definition.tables.iter().filter(|t| publication.table(t.oid).is_none()) {
            messages.push(format!(
                "connection {connection}: {} was taken out of publication {name}, or is another table than it was, so \
                 changes are missing. Fill the pipeline anew: {}",
                table.sql(),
                refill(pipeline_name)
            ));
        }
    }
    messages
}

fn refill(pipeline: &str) -> String {
    format!("trucker backfill {pipeline}, then trucker run")
}

/// A pipeline whose tables are others than those that it was filled from and into.
fn redirected(definition: &Definition, checkpoint: &Checkpoint) -> Option<String> {
    let (pipeline, now) = (&checkpoint.pipeline, (definition.output_name(), Some(definition.input_names())));
    let before = (checkpoint.output_table.clone(), checkpoint.input_tables.clone());
    let said = |(output, input): &(Option<String>, Option<String>)| {
        let text = |name: &Option<String>| name.clone().unwrap_or_else(|| "load.sql".to_owned());
        format!("from {} into {}", text(input), text(output))
    };
    (now != before).then(|| {
        format!(
            "pipeline {pipeline} goes {} now, but it was filled {}: what is there already would be missing. Fill it anew: {}",
            said(&now),
            said(&before),
            refill(pipeline)
        )
    })
}

async fn continues(source: &PreparedSource, checkpoint: &Checkpoint) -> Result<Option<String>, EngineError> {
    let (connection, name, identity) = (&source.connection.name, &source.slot_name, &source.identity);
    let (pipeline, origin) = (&checkpoint.pipeline, &checkpoint.origin);
    let loaded = checkpoint.loaded_lsn.unwrap_or_default();
    if origin.system_identifier != identity.system_identifier || origin.database != source.connection.database
    {
        return Ok(Some(format!(
            "connection {connection}: this is not the database that pipeline {pipeline} was filled from (system identifier {}, \
             database {}; it was {}, {}). Restore the connection, or fill it from here: {}",
            identity.system_identifier,
            source.connection.database,
            origin.system_identifier,
            origin.database,
            refill(pipeline)
        )));
    }
    if origin.timeline != identity.timeline {
        let switched = fetch_switch_point(source.streamed().0, origin.timeline, identity.timeline).await?;
        if switched.is_none_or(|lsn| loaded > lsn) {
            return Ok(Some(format!(
                "connection {connection}: the server is on timeline {} now, and pipeline {pipeline} has loaded up to {loaded} \
                 on timeline {}: the output may hold transactions that the server never had. Fill it anew: {}",
                identity.timeline,
                origin.timeline,
                refill(pipeline)
            )));
        }
    }
    let Some(slot) = source.slot.as_ref() else {
        return Ok(Some(format!(
            "connection {connection}: replication slot {name} is gone, and with it the changes since {loaded}, where pipeline \
             {pipeline} stands. {}",
            START_OVER
        )));
    };
    let confirmed = slot.confirmed_flush_lsn.unwrap_or(Lsn::ZERO);
    if confirmed > loaded {
        return Ok(Some(format!(
            "connection {connection}: replication slot {name} starts at {confirmed}, but pipeline {pipeline} has loaded only up \
             to {loaded}: what lies between is lost (the slot was made anew or advanced, or the output was restored from a \
             backup). Fill the pipeline anew: {}",
            refill(pipeline)
        )));
    }
    if loaded > identity.flush_lsn {
        return Ok(Some(format!(
            "connection {connection}: pipeline {pipeline} has loaded up to {loaded}, but the server's WAL ends at {}: it was \
             restored from a backup, or is another one. Fill the pipeline anew: {}",
            identity.flush_lsn,
            refill(pipeline)
        )));
    }
    Ok(None)
}
