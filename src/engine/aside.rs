//! Pipelines that can't start while others of the project can: each is set aside with its reason, its place is kept, and
//! it is looked at again until it fits. Changes nothing on any server. A project that never ran starts whole or not at all.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::continuity;
use super::error::EngineError;
use super::findings::{Findings, Subject};
use super::prepare::{Creation, PreparedProject, survey};
use crate::config::{self, Diagnostic, Pipeline, Project};
use crate::observe::snapshot::{PipelineSnapshot, PipelineState, Time, TroubleSnapshot};

const PAUSE_MAX: Duration = Duration::from_secs(30);
/// The first pause before looking again; each is twice the last one.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The first pause after all began anew and one is aside again: each costs the others what they are at.
const REST_MIN: Duration = Duration::from_secs(60);
const REST_MAX: Duration = Duration::from_secs(3600);

/// A pipeline that can't start now.
#[derive(Debug, Clone)]
pub struct Aside {
    /// Its name.
    pub pipeline: String,
    /// The connection that it reads from.
    pub source: String,
    /// Whether the slot has to keep what it may need.
    pub holds: bool,
    output: String,
    problem: Diagnostic,
    since: SystemTime,
}

impl Aside {
    fn new(pipeline: &Pipeline, problem: &Diagnostic, holds: bool) -> Self {
        tracing::error!(event = "set_aside", code = %problem.code, pipeline = %pipeline.name,
            "pipeline {} can't start: {}. The others go on, its place is kept, and it is looked at again by itself",
            pipeline.name, problem.one_line());
        Aside {
            pipeline: pipeline.name.clone(),
            source: pipeline.input.connection.clone(),
            holds,
            output: pipeline.output.connection.clone(),
            problem: problem.clone(),
            since: SystemTime::now(),
        }
    }

    /// What others may see of it.
    pub fn snapshot(&self) -> PipelineSnapshot {
        let is_away = self.problem.code.is_of_connection();
        let state = if is_away { PipelineState::Retrying } else { PipelineState::Failed };
        let again = "It is looked at again by itself".to_owned();
        let fix = self.problem.help.iter().cloned().chain([again]).collect::<Vec<_>>().join(". ");
        let (at, message) = (Time(self.since), self.problem.one_line());
        let trouble = TroubleSnapshot { at, code: self.problem.code, message, fix: Some(fix) };
        let idle =
            PipelineSnapshot::idle(&self.pipeline, (&self.source, &self.output), state, at, Some(trouble));
        // Since it was last seen to have everything, which this process never has.
        PipelineSnapshot { lag_seconds: at.before(Time(SystemTime::now())).as_secs_f64().round(), ..idle }
    }
}

/// What is wrong with whom, as far as it is pipelines' own trouble or their output's; None where it is the whole project's or
/// a source's.
fn wrong<'p, 'f>(
    project: &'p Project,
    findings: &'f Findings,
) -> Option<BTreeMap<&'p str, (&'p Pipeline, &'f Diagnostic)>> {
    let is_source = |name: &str| project.pipelines.iter().any(|p| p.input.connection == name);
    let is_shared = |subject: &Subject| match subject {
        Subject::Project => true,
        Subject::Connection(name) => is_source(name),
        Subject::Pipeline(_) => false,
    };
    if findings.errors().any(|(subject, _)| is_shared(subject)) {
        return None;
    }
    let of = |pipeline: &Pipeline| {
        findings.errors().find_map(|(subject, problem)| {
            let is_about = match subject {
                Subject::Project => true,
                Subject::Pipeline(name) => *name == pipeline.name,
                Subject::Connection(name) => *name == pipeline.output.connection,
            };
            is_about.then_some(problem)
        })
    };
    let pipelines = project.pipelines.iter();
    Some(pipelines.filter_map(|p| Some((p.name.as_str(), (p, of(p)?)))).collect())
}

/// Sets those aside that something is wrong with. Every source stays, with its lock, its slot and its publication.
///
/// # Errors
/// All that is wrong, where nobody would be left, or a source has never been read: then nothing is to be created.
pub async fn divide(
    project: &Project,
    findings: &Findings,
    prepared: &mut PreparedProject,
) -> Result<(), EngineError> {
    let Err(verdict) = findings.verdict() else { return Ok(()) };
    let Some(wrong) = wrong(project, findings) else { return Err(verdict) };
    let is_known = |name: &str| prepared.aside.iter().any(|aside| aside.pipeline == name);
    let is_ready = |name: &str| {
        let mut ready = prepared.sources.iter().flat_map(|source| &source.pipelines);
        ready.any(|ready| ready.definition.pipeline.name == name)
    };
    let is_accounted_for =
        |p: &Pipeline| wrong.contains_key(p.name.as_str()) || is_known(&p.name) || is_ready(&p.name);
    let have_run = prepared.sources.iter().all(|s| s.slot.is_some() && s.publication.is_some());
    if !have_run || !project.pipelines.iter().all(is_accounted_for) {
        return Err(verdict);
    }
    for source in &mut prepared.sources {
        source.pipelines.retain(|p| !wrong.contains_key(p.definition.pipeline.name.as_str()));
    }
    let mut left = prepared.sources.iter().flat_map(|source| &source.pipelines).peekable();
    if left.peek().is_none() || are_entangled(prepared).await? {
        return Err(verdict);
    }
    for (pipeline, problem) in wrong.into_values() {
        let holds = may_have_a_place(project, prepared, pipeline).await;
        prepared.aside.push(Aside::new(pipeline, problem, holds));
    }
    let written = |name: &str| {
        let mut ready = prepared.sources.iter().flat_map(|s| &s.pipelines);
        ready.any(|p| p.definition.output.name() == name)
    };
    let unused: Vec<String> = prepared.outputs.keys().filter(|name| !written(name)).cloned().collect();
    unused.iter().for_each(|name| drop(prepared.outputs.remove(name)));
    Ok(())
}

/// Whether a table that comes into a publication is a partition of one that stays there for a pipeline aside, or the other way
/// round: the changes of one of them would be sent as the other's.
async fn are_entangled(prepared: &PreparedProject) -> Result<bool, EngineError> {
    const SQL: &str = "SELECT EXISTS (SELECT FROM unnest($1::oid[]) AS new, unnest($2::oid[]) AS old WHERE new <> old \
                       AND (old IN (SELECT relid::oid FROM pg_catalog.pg_partition_ancestors(new::regclass)) \
                       OR new IN (SELECT relid::oid FROM pg_catalog.pg_partition_ancestors(old::regclass))))";
    for source in &prepared.sources {
        let published: Vec<u32> =
            source.publication.iter().flat_map(|publication| &publication.tables).map(|t| t.oid).collect();
        let tables = source.pipelines.iter().flat_map(|p| &p.definition.tables).map(|table| table.oid);
        let new: Vec<u32> = tables.filter(|oid| !published.contains(oid)).collect();
        let found = source.control.client.query_one(SQL, &[&new, &published]).await;
        let found = found.and_then(|row| row.try_get(0));
        if found.map_err(EngineError::at(&source.connection.name, "looking for partitions"))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The pause before the first look after so many times that all began anew in vain.
pub fn rest(times: u32) -> Duration {
    match times {
        0 => PAUSE_MIN,
        times => REST_MIN.saturating_mul(1 << (times - 1).min(6)).min(REST_MAX),
    }
}

/// Only an output that answers can say that the pipeline was never filled.
async fn may_have_a_place(project: &Project, prepared: &PreparedProject, pipeline: &Pipeline) -> bool {
    let Some(output) = prepared.outputs.get(&pipeline.output.connection) else { return true };
    match output.ledger().fetch_all(project.checkpoint_name()).await {
        Ok(all) => all.iter().any(|c| c.pipeline == pipeline.name && c.loaded_lsn.is_some()),
        Err(_) => true,
    }
}

/// Looks again until one of them fits; for ever, where nobody is aside.
pub async fn until_one_fits(project: &Project, aside: &[Aside], creation: Creation, mut pause: Duration) {
    while !aside.is_empty() {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX.max(pause));
        let Some(renewed) = read_anew(project, aside).await else { continue };
        let mut findings = Findings::default();
        let prepared = survey(&renewed, creation, &mut findings).await;
        for source in &prepared.sources {
            continuity::look(source, &mut findings).await;
        }
        let fits = |wrong: BTreeMap<&str, _>| aside.iter().any(|a| !wrong.contains_key(a.pipeline.as_str()));
        if wrong(&renewed, &findings).is_some_and(fits) {
            return;
        }
    }
    std::future::pending().await
}

/// The project as it runs, but for the files of those aside, which may be mended by now; None while the files as a whole
/// can't be read.
pub async fn read_anew(project: &Project, aside: &[Aside]) -> Option<Project> {
    let dir = project.dir.clone();
    let now = tokio::task::spawn_blocking(move || config::load(&dir)).await.ok()?.ok()?.project;
    let mut renewed = project.clone();
    for pipeline in &mut renewed.pipelines {
        let found = now.pipelines.iter().find(|found| found.name == pipeline.name);
        if let Some(found) = found.filter(|_| aside.iter().any(|aside| aside.pipeline == pipeline.name)) {
            let is_known = |name: &str| project.connection(name) == now.connection(name);
            // Another place to read from or write to takes a restart, as it does for those at work.
            if is_known(&found.input.connection) && is_known(&found.output.connection) {
                *pipeline = found.clone();
            }
        }
    }
    Some(renewed)
}
