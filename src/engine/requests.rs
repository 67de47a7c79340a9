//! Looks, beside the checkpoints of a running project, for what somebody asks of its pipelines, and tells them. What is
//! asked for stands in the output, so this is only to wake them up: each finds it where it finds its place, and one
//! that starts finds it as well. Before that, the pipeline's files are read anew, since they may hold what was mended.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use super::error::EngineError;
use super::findings::Findings;
use super::prepare::{define, postgres};
use super::refill::has_no_backfill;
use crate::checkpoint::Floor;
use crate::config::{self, Connection, Pipeline, Project};
use crate::pipeline::definition::Definition;
use crate::pipeline::standstill::Order;
use crate::pipeline::state::State;
use crate::postgres::{Purpose, connect};
use crate::sink::{Asked, Output, Request};

const LOOK_INTERVAL: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_secs(5);

/// A pipeline at work, as others of the engine's see it.
#[derive(Debug, Clone)]
pub struct Member {
    /// What it is, or was when it started.
    pub definition: Arc<Definition>,
    /// Its word on what the slot has to keep.
    pub floor: Floor,
    /// How it is.
    pub state: Arc<State>,
    /// How to tell it something.
    pub orders: mpsc::Sender<Order>,
    latest: Arc<Mutex<Arc<Pipeline>>>,
}

impl Member {
    /// One that begins as this, and where it takes orders.
    pub fn new(
        definition: Arc<Definition>,
        floor: Floor,
        state: Arc<State>,
    ) -> (Self, mpsc::Receiver<Order>) {
        let (orders, ordered) = mpsc::channel(4);
        let latest = Arc::new(Mutex::new(definition.pipeline.clone()));
        (Member { definition, floor, state, orders, latest }, ordered)
    }

    /// Its files as it runs with them by now.
    pub fn latest(&self) -> Arc<Pipeline> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.definition.pipeline.name
    }
}

/// Looks for ever, on one output, for what is asked of these pipelines.
pub async fn watch(project: Arc<Project>, to: Connection, members: Vec<Member>) {
    let mut seen: Vec<Option<String>> = vec![None; members.len()];
    let mut output = None;
    loop {
        if let Err(error) = look(&project, &to, &members, &mut output, &mut seen).await {
            tracing::debug!(event = "not_looked_for_requests", connection = %to.name(), "{error}");
            output = None;
            tokio::time::sleep(PAUSE).await;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

async fn look(
    project: &Project,
    to: &Connection,
    members: &[Member],
    output: &mut Option<Output>,
    seen: &mut [Option<String>],
) -> Result<(), EngineError> {
    let failed = EngineError::sink(to.name());
    let output = match output {
        Some(output) => output,
        None => output.insert(Output::connect(to, Purpose::Control).await.map_err(failed)?),
    };
    let requests = output.ledger().fetch_requests(project.checkpoint_name()).await.map_err(failed)?;
    for (member, seen) in members.iter().zip(seen) {
        let found = requests.iter().find(|(pipeline, _)| pipeline == member.name());
        let Some((name, request)) = found else {
            *seen = None;
            continue;
        };
        if seen.as_ref() == Some(&request.text) {
            continue;
        }
        match redefine(project, member, output, request).await? {
            Ok(definition) => {
                *member.latest.lock().unwrap_or_else(PoisonError::into_inner) = definition.pipeline.clone();
                // Gone only at the very end, when the next start sees to it.
                member.orders.send(Order::Restart(Arc::new(definition))).await.ok();
                *seen = Some(request.text.clone());
            }
            Err(reason) => {
                tracing::error!(event = "request_refused", pipeline = %name,
                    "pipeline {name} can't do what it was asked for: {reason}");
                let refused = output.ledger().refuse(&member.definition.key, request, &reason);
                refused.await.map_err(failed)?;
            }
        }
    }
    Ok(())
}

/// The pipeline as its files have it now, or why it can't be that.
async fn redefine(
    project: &Project,
    member: &Member,
    output: &Output,
    request: &Request,
) -> Result<Result<Definition, String>, EngineError> {
    let dir = project.dir.clone();
    let Ok(loaded) = tokio::task::spawn_blocking(move || config::load(&dir)).await else {
        return Ok(Err("its files can't be read".to_owned()));
    };
    let now = match loaded {
        Ok(loaded) => loaded.project,
        Err(diagnostics) => return Ok(Err(diagnostics.to_string())),
    };
    let (before, name) = (&*member.definition, member.name());
    let pipeline = match now.pipeline(name) {
        Ok(pipeline) => pipeline,
        Err(problem) => return Ok(Err(problem.to_string())),
    };
    let is_same = now.checkpoint_name() == project.checkpoint_name()
        && postgres(&now, &pipeline.input.connection) == Some(&before.source)
        && now.connection(&pipeline.output.connection) == Some(&before.output)
        && pipeline.input.tables == before.pipeline.input.tables
        && pipeline.output.table == before.pipeline.output.table;
    let restart = |what: &str| {
        Ok(Err(format!(
            "{what} since `trucker run` started: that takes a restart of it, not only of the pipeline"
        )))
    };
    if !is_same {
        return restart(
            "the project's name, or the pipeline's connections or tables, have changed in its files",
        );
    }
    if let (Asked::Backfill, Some(problem)) = (&request.asked, has_no_backfill(pipeline)) {
        return Ok(Err(problem.to_string()));
    }
    let queried = before.source.replica.as_deref().unwrap_or(&before.source);
    let source = connect(queried, Purpose::Control).await?;
    match define(&now, (&before.source, &source), (&before.output, output), pipeline).await {
        Ok(definition) => {
            let oids = |definition: &Definition| definition.tables.iter().map(|t| t.oid).collect::<Vec<_>>();
            if oids(&definition) == oids(before) {
                Ok(Ok(definition))
            } else {
                restart("its input table was made anew")
            }
        }
        Err(error) if error.is_transient() => Err(EngineError::server(error.code(), error.to_string())),
        Err(error) => {
            let mut findings = Findings::default();
            findings.pipeline(name, error);
            Ok(Err(findings.verdict().err().map(|error| error.to_string()).unwrap_or_default()))
        }
    }
}
