//! What another process asks of a pipeline that has failed, or is to be filled anew: leaves the request where the process
//! that runs the project finds it, and waits a moment for what becomes of it. Nobody need be running: then it is the
//! next start that finds it.

use std::time::{Duration, Instant};

use super::error::EngineError;
use super::findings::Findings;
use super::inspect::{Inspected, inspect};
use super::prepare::define;
use crate::change::Lsn;
use crate::config::{Pipeline, Project};
use crate::postgres::Purpose;
use crate::sink::{Asked, Checkpoint, CheckpointKey, Failure, Output, Request, SinkError};

const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// A pipeline, as its servers know it.
pub struct Standing {
    project: Project,
    pipeline: Pipeline,
    found: Inspected,
    checkpoint: Option<Checkpoint>,
    /// Whether a process runs the project.
    pub is_running: bool,
}

/// What became of a request.
#[derive(Debug)]
pub enum Answer {
    /// It was done.
    Done,
    /// It was done, and the pipeline has failed again.
    FailedAgain(Box<Failure>),
    /// Nobody runs the project: the next start will do it.
    Left,
    /// The process that runs the project hasn't done it yet.
    Pending,
    /// The process that runs the project can't do it, for this reason.
    Refused(String),
    /// The pipeline isn't where it was any more; nothing was asked.
    Moved,
}

/// Looks at one pipeline.
///
/// # Errors
/// If no pipeline has that name, or one of its servers can't be looked at.
pub async fn look(project: &Project, name: &str) -> Result<Standing, EngineError> {
    let pipeline = project.pipeline(name).map_err(|problem| EngineError::from(*problem))?;
    let is_wanted = |name: &str| pipeline.input.connection == name || pipeline.output.connection == name;
    let (found, errors) = inspect(project, is_wanted).await;
    if !errors.is_empty() {
        return Err(EngineError::Servers(errors.into_iter().collect()));
    }
    let is_running = found.is_running();
    let stored = found.outputs().find_map(|o| o.found.checkpoints.iter().find(|c| c.pipeline == name));
    let checkpoint = stored.cloned();
    Ok(Standing { project: project.clone(), pipeline: pipeline.clone(), found, checkpoint, is_running })
}

impl Standing {
    /// Why it stands still.
    pub fn failure(&self) -> Option<&Failure> {
        self.checkpoint.as_ref().and_then(|checkpoint| checkpoint.failure.as_ref())
    }

    /// Up to where it is loaded.
    pub fn loaded_lsn(&self) -> Option<Lsn> {
        self.checkpoint.as_ref().and_then(|checkpoint| checkpoint.loaded_lsn)
    }

    /// Checks the pipeline's files against its databases, as they are here and now.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub async fn check_files(&self) -> Result<(), EngineError> {
        let mut databases = self.found.databases.iter();
        let source = databases.find(|found| found.connection.name == self.pipeline.input.connection);
        let Some((source, to)) = source.zip(self.project.connection(&self.pipeline.output.connection)) else {
            return Ok(());
        };
        let output = Output::connect(to, Purpose::Control).await;
        let output = output.map_err(EngineError::sink(to.name()))?;
        let source = (&source.connection, &source.session);
        let defined = define(&self.project, source, (to, &output), &self.pipeline).await;
        let Err(error) = defined else { return Ok(()) };
        let mut findings = Findings::default();
        findings.pipeline(&self.pipeline.name, error);
        findings.verdict()
    }

    /// Asks. What is about a failure is asked for only as long as that is the one.
    ///
    /// # Errors
    /// What the output says to it.
    pub async fn ask(&self, asked: &Asked) -> Result<Answer, EngineError> {
        let name = &self.pipeline.output.connection;
        let asking = self.leave(asked).await;
        asking.map_err(EngineError::sink(name))
    }

    async fn leave(&self, asked: &Asked) -> Result<Answer, SinkError> {
        let Some(ledger) = self.found.ledger(&self.project, &self.pipeline.output.connection) else {
            return Ok(Answer::Moved);
        };
        let key = CheckpointKey {
            project: self.project.checkpoint_name().to_owned(),
            pipeline: self.pipeline.name.clone(),
        };
        let about = self.failure().filter(|_| !matches!(asked, Asked::Backfill | Asked::Repair { .. }));
        let pending = self.checkpoint.as_ref().and_then(|checkpoint| checkpoint.request.as_ref());
        let Some(asked) = with_pending(asked, pending) else { return Ok(Answer::Moved) };
        if !ledger.leave(&key, &asked, pending, about).await? {
            return Ok(Answer::Moved);
        }
        if !self.is_running {
            return Ok(Answer::Left);
        }
        // Where the transaction that failed is loaded, or left out.
        let past = about.and_then(|failure| failure.commit_lsn.as_ref()?.parse::<Lsn>().ok());
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let Some(now) = ledger.fetch_one(&key).await? else { continue };
            if let Some(reason) = now.refused {
                return Ok(Answer::Refused(reason));
            }
            match (now.request, now.failure) {
                (_, Some(failure)) if self.failure().is_none_or(|before| before.since != failure.since) => {
                    return Ok(Answer::FailedAgain(Box::new(failure)));
                }
                (Some(_), _) | (None, Some(_)) => {}
                (None, None) if past.is_none_or(|lsn| now.loaded_lsn.is_some_and(|loaded| loaded > lsn)) => {
                    return Ok(Answer::Done);
                }
                (None, None) => {}
            }
        }
        Ok(Answer::Pending)
    }
}

/// What to leave where a request waits already: changes of one transaction are skipped together, since it is loaded as a
/// whole; trying again doesn't undo that. None where a backfill makes everything else needless.
fn with_pending(asked: &Asked, pending: Option<&Request>) -> Option<Asked> {
    match (asked, pending.map(|request| &request.asked)) {
        (Asked::Backfill, _) | (_, None | Some(Asked::Resume)) => Some(asked.clone()),
        (_, Some(Asked::Backfill)) => None,
        // What was found since then says more.
        (Asked::Repair { .. }, Some(Asked::Repair { .. })) => Some(asked.clone()),
        // Whoever asked for the other waits for it.
        (Asked::Repair { .. }, Some(Asked::Skip { .. })) => None,
        (Asked::Resume | Asked::Skip { .. }, Some(Asked::Repair { .. })) => Some(asked.clone()),
        (Asked::Resume, Some(skip)) => Some(skip.clone()),
        (Asked::Skip { is_whole, failures }, Some(Asked::Skip { failures: before, .. })) => {
            let commit_lsn = |failures: &[Failure]| failures.first().and_then(|f| f.commit_lsn.clone());
            let before = if commit_lsn(before) == commit_lsn(failures) { before.as_slice() } else { &[] };
            let failures = before.iter().chain(failures).cloned().collect();
            Some(Asked::Skip { is_whole: *is_whole, failures })
        }
    }
}
