//! How a project stands, from what its servers know: works whether or not a process runs it. Only reads.

use std::time::Duration;

use serde::Serialize;

use super::inspect::{Found, FoundOutput, FoundSource, Inspected, Kept, inspect};
use crate::change::Lsn;
use crate::config::{Diagnostic, Pipeline, Project};
use crate::sink::{Checkpoint, Failure};

/// A project, as it stands.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Its name in checkpoints.
    pub project: String,
    /// Those with a folder by name, then those whose folder is gone.
    pub pipelines: Vec<PipelineStatus>,
    /// Databases that are read from, or still have a slot or publication.
    pub sources: Vec<SourceStatus>,
    /// Why servers couldn't be asked.
    pub errors: Vec<Diagnostic>,
}

/// What a pipeline is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PipelineState {
    /// It has no checkpoint: the next run fills it.
    NeverFilled,
    /// Its checkpoint wants a backfill, and nobody is at it.
    ToFill,
    /// Its backfill is under way.
    Filling,
    /// Its backfill is done; it is as far as its `loaded_lsn`.
    Following,
    /// It stands still: its `failure` says why.
    Failed,
    /// It has a checkpoint and no folder.
    Gone,
    /// Its output couldn't be asked.
    Unknown,
}

/// A pipeline.
#[derive(Debug, Serialize)]
pub struct PipelineStatus {
    /// Its name.
    pub name: String,
    /// What it is at.
    pub state: PipelineState,
    /// The connection that it reads from; None where its folder is gone.
    pub source: Option<String>,
    /// The connection that has its checkpoint.
    pub output: String,
    /// Up to where its rows are loaded.
    pub loaded_lsn: Option<String>,
    /// How far that is behind the end of the source's WAL.
    pub lag_bytes: Option<u64>,
    /// How late its output is, in seconds; None where it isn't filled. Between two moves of the checkpoint it counts from the
    /// last, once one is overdue.
    pub lag_seconds: Option<u64>,
    /// Seconds since its checkpoint was written.
    pub updated_seconds_ago: Option<u64>,
    /// Why it stands still, or why its place was given up.
    pub failure: Option<Failure>,
    /// Its SQL, as a process had it last, isn't what it was backfilled by.
    pub is_sql_changed: bool,
    /// Changes of it that are in `trucker.dead_letters`.
    pub dead_letters: i64,
}

/// What a slot is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotState {
    /// There is none.
    Missing,
    /// The server has given it up: changes are missing.
    Lost,
    /// Somebody streams from it.
    Active,
    /// Nobody does.
    Idle,
}

/// A source.
#[derive(Debug, Serialize)]
pub struct SourceStatus {
    /// Its connection.
    pub name: String,
    /// The connection that has the slot: its replica's, where changes are streamed from there.
    pub slot_on: String,
    /// Whether a process runs the project there.
    pub is_running: bool,
    /// Name of slot and publication.
    pub slot: String,
    /// What the slot is good for.
    pub slot_state: SlotState,
    /// Why it is lost, in the server's word.
    pub lost_reason: Option<String>,
    /// The server's process that streams from it.
    pub active_pid: Option<i32>,
    /// What it was told.
    pub confirmed_lsn: Option<String>,
    /// WAL that it keeps.
    pub held_bytes: Option<i64>,
    /// WAL that may still be written before it is in danger; None without a limit.
    pub safe_bytes: Option<i64>,
    /// Whether the publication is there.
    pub has_publication: bool,
}

impl Status {
    /// Whether a pipeline has failed, has lost its place, or can't go on.
    pub fn is_bad(&self) -> bool {
        self.is_broken() || self.pipelines.iter().any(|pipeline| pipeline.failure.is_some())
    }

    /// The pipelines that are later than that, or not filled at all.
    pub fn late(&self, max_lag: Duration) -> impl Iterator<Item = &PipelineStatus> {
        let is_late = move |pipeline: &&PipelineStatus| {
            pipeline.lag_seconds.is_none_or(|seconds| Duration::from_secs(seconds) > max_lag)
        };
        self.pipelines.iter().filter(|pipeline| pipeline.state != PipelineState::Gone).filter(is_late)
    }

    /// Whether pipelines follow a source whose slot or publication is missing or lost: they can't go on.
    fn is_broken(&self) -> bool {
        self.pipelines.iter().filter(|p| p.state == PipelineState::Following).any(|pipeline| {
            let source = self.sources.iter().find(|source| Some(&source.name) == pipeline.source.as_ref());
            source.is_some_and(|source| {
                !source.has_publication || matches!(source.slot_state, SlotState::Missing | SlotState::Lost)
            })
        })
    }
}

/// While the source writes, the checkpoint moves at least every ten seconds.
const OVERDUE: Duration = Duration::from_secs(15);

/// How late an output is: as late as the last transaction was when it was loaded, and whatever has passed since, once the
/// checkpoint should have moved. Nothing where all of the source's WAL is loaded.
fn lag(checkpoint: &Checkpoint, wal_lsn: Option<Lsn>) -> Option<Duration> {
    let loaded = checkpoint.loaded_lsn?;
    if wal_lsn.is_some_and(|end| loaded >= end) {
        return Some(Duration::ZERO);
    }
    let since = if checkpoint.age > OVERDUE { checkpoint.age } else { Duration::ZERO };
    Some(checkpoint.delay.unwrap_or_default() + since)
}

/// Asks all servers of the project.
pub async fn fetch(project: &Project) -> Status {
    let (found, errors) = inspect(project, |_| true).await;
    let mut pipelines: Vec<PipelineStatus> =
        project.pipelines.iter().map(|pipeline| pipeline_status(project, pipeline, &found)).collect();
    for output in found.outputs() {
        let stored = output.found.checkpoints.iter();
        let gone = stored.filter(|checkpoint| !has_folder(project, &found, output, checkpoint));
        pipelines.extend(gone.map(|checkpoint| gone_status(checkpoint, output)));
    }
    let sources = found.databases.iter().filter_map(|database| Some((database, database.source.as_ref()?)));
    let sources =
        sources.filter(|(database, s)| database.is_read || s.slot.is_some() || s.publication.is_some());
    let sources = sources.map(|(database, source)| source_status(database, source)).collect();
    Status { project: project.checkpoint_name().to_owned(), pipelines, sources, errors }
}

/// The connection of that name, or the one that stands for its database.
fn standing_for<'f>(found: &'f Inspected, name: &str) -> impl Iterator<Item = &'f Found> {
    let named = found.databases.iter().find(|database| database.connection.name == name);
    found.databases.iter().filter(move |database| named.is_some_and(|named| named.is_same_database(database)))
}

pub(super) fn has_folder(
    project: &Project,
    found: &Inspected,
    output: Kept<'_>,
    checkpoint: &Checkpoint,
) -> bool {
    project.pipelines.iter().any(|pipeline| {
        let written = found.output(project, &pipeline.output.connection);
        pipeline.name == checkpoint.pipeline
            && written.is_some_and(|written| written.connection == output.connection)
    })
}

fn pipeline_status(project: &Project, pipeline: &Pipeline, found: &Inspected) -> PipelineStatus {
    let output = found.output(project, &pipeline.output.connection).map(|output| output.found);
    let checkpoint = output.and_then(|o| o.checkpoints.iter().find(|c| c.pipeline == pipeline.name));
    let source = standing_for(found, &pipeline.input.connection).find(|f| f.source.is_some());
    let is_running = source.and_then(|f| f.source.as_ref()).is_some_and(|source| source.is_running);
    let state = match (output, checkpoint) {
        (None, _) => PipelineState::Unknown,
        (_, None) => PipelineState::NeverFilled,
        (_, Some(checkpoint)) if checkpoint.failure.as_ref().is_some_and(|f| !f.is_given_up) => {
            PipelineState::Failed
        }
        (_, Some(checkpoint)) if checkpoint.loaded_lsn.is_some() => PipelineState::Following,
        (_, Some(checkpoint)) if is_running && checkpoint.failure.is_none() => PipelineState::Filling,
        _ => PipelineState::ToFill,
    };
    let loaded = checkpoint.and_then(|c| c.loaded_lsn);
    // A checkpoint of another server's says nothing about this one's WAL.
    let source = source.filter(|source| checkpoint.is_some_and(|c| source.is_origin_of(c)));
    let wal_lsn = source.and_then(|f| f.source.as_ref()).map(|source| source.wal_lsn);
    PipelineStatus {
        name: pipeline.name.clone(),
        state,
        // Named as the list of sources has it.
        source: standing_for(found, &pipeline.input.connection)
            .find(|f| f.source.is_some())
            .map(|f| f.connection.name.clone())
            .or_else(|| Some(pipeline.input.connection.clone())),
        output: pipeline.output.connection.clone(),
        loaded_lsn: loaded.map(|lsn| lsn.to_string()),
        lag_bytes: wal_lsn.zip(loaded).map(|(end, loaded)| end.bytes_since(loaded)),
        lag_seconds: checkpoint.and_then(|c| lag(c, wal_lsn)).map(|lag| lag.as_secs()),
        updated_seconds_ago: checkpoint.map(|c| c.age.as_secs()),
        failure: checkpoint.and_then(|c| c.failure.clone()),
        is_sql_changed: checkpoint
            .is_some_and(|c| c.sql_hash.as_ref().is_some_and(|sql| c.was_backfilled_by_other_sql(sql))),
        dead_letters: output.map_or(0, |output| dead_letters(output, &pipeline.name)),
    }
}

fn dead_letters(output: &FoundOutput, pipeline: &str) -> i64 {
    output.dead_letters.iter().find(|(name, _)| name == pipeline).map_or(0, |(_, count)| *count)
}

fn gone_status(checkpoint: &Checkpoint, output: Kept<'_>) -> PipelineStatus {
    PipelineStatus {
        name: checkpoint.pipeline.clone(),
        state: PipelineState::Gone,
        source: None,
        output: output.connection.to_owned(),
        loaded_lsn: checkpoint.loaded_lsn.map(|lsn| lsn.to_string()),
        lag_bytes: None,
        lag_seconds: None,
        updated_seconds_ago: Some(checkpoint.age.as_secs()),
        failure: None,
        is_sql_changed: false,
        dead_letters: dead_letters(output.found, &checkpoint.pipeline),
    }
}

fn source_status(database: &Found, source: &FoundSource) -> SourceStatus {
    let slot = source.slot.as_ref();
    SourceStatus {
        name: database.connection.name.clone(),
        slot_on: database.streamed().0.name.clone(),
        is_running: source.is_running,
        slot: source.slot_name.clone(),
        slot_state: match slot {
            None => SlotState::Missing,
            Some(slot) if slot.lost.is_some() => SlotState::Lost,
            Some(slot) if slot.active_pid.is_some() => SlotState::Active,
            Some(_) => SlotState::Idle,
        },
        lost_reason: slot.and_then(|slot| slot.lost.clone()),
        active_pid: slot.and_then(|slot| slot.active_pid),
        confirmed_lsn: slot.and_then(|slot| slot.confirmed_flush_lsn).map(|lsn| lsn.to_string()),
        held_bytes: source.retention.as_ref().and_then(|retention| retention.held_bytes),
        safe_bytes: source.retention.as_ref().and_then(|retention| retention.safe_bytes),
        has_publication: source.publication.is_some(),
    }
}
