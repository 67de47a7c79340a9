//! Whether stored progress and the slot still belong together. A checkpoint means something only on the server, slot
//! and history that it was made on; anything else is refused, with what to do, and never continued with a gap.

use super::error::EngineError;
use super::findings::Findings;
use super::prepare::{Prepared, PreparedSource};
use crate::change::Lsn;
use crate::codes::Code;
use crate::config::{Diagnostic, PostgresConnection};
use crate::pipeline::definition::Definition;
use crate::postgres::{RawConnection, RawError};
use crate::sink::Checkpoint;
use crate::source::publication::Publication;
use crate::source::slot::Slot;

/// Refuses what can't go on exactly where it stopped.
pub async fn check(source: &PreparedSource) -> Result<(), EngineError> {
    let mut findings = Findings::default();
    look(source, &mut findings).await;
    findings.verdict()
}

/// Finds what can't go on exactly where it stopped: the source's whole stream, or single pipelines.
pub async fn look(source: &PreparedSource, findings: &mut Findings) {
    findings.of_connection(&source.connection.name);
    if let Some(problem) = source.slot.as_ref().and_then(|slot| unusable(source, slot)) {
        return findings.add(problem);
    }
    publication(source).into_iter().for_each(|problem| findings.add(problem));
    for pipeline in &source.pipelines {
        let Some(checkpoint) = pipeline.place() else { continue };
        findings.of_pipeline(&checkpoint.pipeline);
        let published = source.publication.iter();
        let lost = published.flat_map(|publication| unpublished(source, publication, pipeline));
        lost.for_each(|problem| findings.add(problem));
        redirected(&pipeline.definition, checkpoint).into_iter().for_each(|problem| findings.add(problem));
        match continues(source, checkpoint).await {
            Ok(problem) => problem.into_iter().for_each(|problem| findings.add(problem)),
            Err(error) => findings.error(error),
        }
    }
}

pub(super) const START_OVER: &str =
    "To start over, trucker teardown, then trucker run: every pipeline is filled anew";

/// A problem that only filling everything anew mends.
fn start_over(code: Code, message: String) -> Diagnostic {
    Diagnostic::of_server(code, message).help(START_OVER)
}

/// A problem that filling one pipeline anew mends.
fn refill(code: Code, message: String, pipeline: &str) -> Diagnostic {
    let help = format!("Fill the pipeline anew: trucker backfill {pipeline}, then trucker run");
    Diagnostic::of_server(code, message).help(help)
}

fn unusable(source: &PreparedSource, slot: &Slot) -> Option<Diagnostic> {
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
    let message = format!("connection {connection}: replication slot {name} {what}, not trucker's");
    let help = "Give the project another `name` in trucker.yml";
    Some(Diagnostic::of_server(Code::ForeignSlot, message).help(help))
}

/// What is to be said of a slot that the server has invalidated.
pub(super) fn lost(connection: &str, slot: &str, reason: &str) -> Diagnostic {
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
    let message = format!(
        "connection {connection}: replication slot {slot} is lost ({reason}): {why}, so changes are missing"
    );
    Diagnostic::of_server(Code::SlotLost, message).help(format!("{START_OVER}. {then}"))
}

fn publication(source: &PreparedSource) -> Vec<Diagnostic> {
    let (connection, name) = (&source.connection.name, &source.slot_name);
    let Some(publication) = &source.publication else {
        let is_used = source.slot.is_some();
        let message = format!(
            "connection {connection}: publication {name} is gone, but its slot is there: changes made since can't be decoded"
        );
        return is_used.then(|| start_over(Code::PublicationGone, message)).into_iter().collect();
    };
    let mut problems = Vec::new();
    if let Some(alteration) = &publication.alteration {
        let message = format!(
            "connection {connection}: publication {name} was altered: {alteration}, so changes may be missing"
        );
        problems.push(start_over(Code::PublicationAltered, message));
    }
    for table in publication.tables.iter().filter(|t| t.is_narrowed) {
        let message = format!(
            "connection {connection}: publication {name} has a row filter or column list on {}.{}, so changes are missing",
            table.schema, table.table,
        );
        problems.push(start_over(Code::PublicationAltered, message));
    }
    problems
}

/// What has befallen a pipeline's tables in the publication.
fn unpublished(source: &PreparedSource, publication: &Publication, pipeline: &Prepared) -> Vec<Diagnostic> {
    let Some(checkpoint) = pipeline.place() else { return Vec::new() };
    let (connection, name) = (&source.connection.name, &source.slot_name);
    let tables = &pipeline.definition.tables;
    let pipeline_name = &pipeline.definition.pipeline.name;
    let missing = tables.iter().filter(|t| publication.table(t.oid).is_none());
    let mut problems: Vec<Diagnostic> = missing
        .map(|table| {
            let message = format!(
                "connection {connection}: {} was taken out of publication {name}, or is another table than it was, so \
                 changes are missing",
                table.sql()
            );
            refill(Code::TableUnpublished, message, pipeline_name)
        })
        .collect();
    let marks = source.marks(&pipeline.definition);
    if problems.is_empty() && checkpoint.published.is_some() && checkpoint.published != marks {
        let message = format!(
            "connection {connection}: publication {name} was made anew, or tables of pipeline {pipeline_name} were taken out \
             of it and put back, so changes may be missing"
        );
        problems.push(refill(Code::PublicationAltered, message, pipeline_name));
    }
    problems
}

/// A pipeline whose tables are others than those that it was filled from and into.
fn redirected(definition: &Definition, checkpoint: &Checkpoint) -> Option<Diagnostic> {
    let (pipeline, now) = (&checkpoint.pipeline, (definition.output_name(), Some(definition.input_names())));
    let before = (checkpoint.output_table.clone(), checkpoint.input_tables.clone());
    let said = |(output, input): &(Option<String>, Option<String>)| {
        let text = |name: &Option<String>| name.clone().unwrap_or_else(|| "load.sql".to_owned());
        format!("from {} into {}", text(input), text(output))
    };
    (now != before).then(|| {
        let message = format!(
            "pipeline {pipeline} goes {} now, but it was filled {}: what is there already would be missing",
            said(&now),
            said(&before)
        );
        refill(Code::Redirected, message, pipeline)
    })
}

async fn continues(
    source: &PreparedSource,
    checkpoint: &Checkpoint,
) -> Result<Option<Diagnostic>, EngineError> {
    let (connection, name, identity) = (&source.connection.name, &source.slot_name, &source.identity);
    let (pipeline, origin) = (&checkpoint.pipeline, &checkpoint.origin);
    let loaded = checkpoint.loaded_lsn.unwrap_or_default();
    if origin.system_identifier != identity.system_identifier || origin.database != source.connection.database
    {
        let message = format!(
            "connection {connection}: this is not the database that pipeline {pipeline} was filled from (system identifier {}, \
             database {}; it was {}, {})",
            identity.system_identifier, source.connection.database, origin.system_identifier, origin.database,
        );
        let help = format!(
            "Restore the connection, or fill the pipeline from here: trucker backfill {pipeline}, then trucker run"
        );
        return Ok(Some(Diagnostic::of_server(Code::OtherDatabase, message).help(help)));
    }
    if origin.timeline != identity.timeline {
        let switched = fetch_switch_point(source.streamed().0, origin.timeline, identity.timeline).await?;
        if switched.is_none_or(|lsn| loaded > lsn) {
            let message = format!(
                "connection {connection}: the server is on timeline {} now, and pipeline {pipeline} has loaded up to {loaded} \
                 on timeline {}: the output may hold transactions that the server never had",
                identity.timeline, origin.timeline
            );
            return Ok(Some(refill(Code::Timeline, message, pipeline)));
        }
    }
    let Some(slot) = source.slot.as_ref() else {
        let message = format!(
            "connection {connection}: replication slot {name} is gone, and with it the changes since {loaded}, where pipeline \
             {pipeline} stands"
        );
        return Ok(Some(start_over(Code::SlotGone, message)));
    };
    let confirmed = slot.confirmed_flush_lsn.unwrap_or(Lsn::ZERO);
    if confirmed > loaded {
        let message = format!(
            "connection {connection}: replication slot {name} starts at {confirmed}, but pipeline {pipeline} has loaded only up \
             to {loaded}: what lies between is lost (the slot was made anew or advanced, or the output was restored from a \
             backup)"
        );
        return Ok(Some(refill(Code::SlotAhead, message, pipeline)));
    }
    if loaded > identity.flush_lsn {
        let message = format!(
            "connection {connection}: pipeline {pipeline} has loaded up to {loaded}, but the server's WAL ends at {}: it was \
             restored from a backup, or is another one",
            identity.flush_lsn
        );
        return Ok(Some(refill(Code::WalBehind, message, pipeline)));
    }
    Ok(None)
}

/// Where the server's history left a timeline, asked of the server itself.
async fn fetch_switch_point(
    connection: &PostgresConnection,
    left: u32,
    current: u32,
) -> Result<Option<Lsn>, EngineError> {
    let failed = |e: String| {
        let message = format!("connection {}: reading the timeline's history: {e}", connection.name);
        EngineError::server(Code::ServerAnswer, message)
    };
    let mut raw = RawConnection::connect(connection).await?;
    let rows = raw.query(&format!("TIMELINE_HISTORY {current}")).await.map_err(|e| match e {
        RawError::Server(error) => failed(error.to_string()),
        error => failed(format!("{error:?}")),
    })?;
    let text = rows.into_iter().flatten().flatten().next_back().unwrap_or_default();
    // Lines of: timeline, switch point, reason.
    let line = text.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        (fields.next()?.parse() == Ok(left)).then(|| fields.next()?.parse().ok())?
    });
    Ok(line)
}
