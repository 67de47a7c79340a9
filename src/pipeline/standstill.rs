//! A pipeline that failed: says so, notes it in its output, and waits until somebody has mended the cause. Its place is
//! kept, unless it is told to give it up.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::postgres::Purpose;
use crate::sink::{Failure, Output, SinkError};

use super::definition::{Checked, Definition};
use super::error::{PipelineError, Stopped};
use super::task::{Task, ended};

/// How long noting a failure may take, and how long before it is tried again.
const NOTE_PATIENCE: Duration = Duration::from_secs(10);

/// What the engine tells a pipeline.
#[derive(Debug)]
pub enum Order {
    /// Begin anew, as this: somebody asks for something, which stands beside the checkpoint.
    Restart(Arc<Definition>),
    /// If it stands still, it needs a backfill from now on, for this reason; the slot needn't wait for it.
    GiveUp(String),
}

impl Task {
    /// Notes the failure and stands still: until told to begin anew (then Ok), or to end.
    pub(super) async fn stand_still(
        &mut self,
        error: PipelineError,
        epoch: Option<i64>,
        orders: &mut mpsc::Receiver<Order>,
    ) -> Result<(), Stopped> {
        let first = self.state.loaded_lsn();
        let name = self.definition.pipeline.name.clone();
        self.state.fail(&error);
        tracing::error!(event = "pipeline_failed", code = %error.code(), pipeline = %name, at = %first,
            "pipeline {name} failed: {error}. Its place is kept at {first}; mend the cause, then trucker resume {name}");
        if error.is_fenced() {
            return Err(Stopped { error, first });
        }
        let mut failure = error.failure();
        let mut is_noted = self.note(&failure, epoch).await;
        let (mut shutdown, attach) = (self.shutdown.clone(), self.attach.clone());
        while !self.is_once {
            tokio::select! {
                () = ended(&mut shutdown) => break,
                // Without its source there is nothing to go on with.
                () = attach.closed() => break,
                () = tokio::time::sleep(NOTE_PATIENCE), if !is_noted => {
                    is_noted = self.note(&failure, epoch).await;
                }
                order = orders.recv() => match order {
                    None => break,
                    Some(Order::Restart(definition)) => {
                        tracing::info!(event = "resuming", pipeline = %name, at = %first, "pipeline {name} goes on");
                        self.definition = definition;
                        return Ok(());
                    }
                    Some(Order::GiveUp(reason)) if !self.floor.is_given_up() => {
                        failure.error = format!("{reason}. It had failed: {}", failure.error);
                        failure.is_given_up = true;
                        self.give_up(&failure, epoch).await.unwrap_or_else(|error| {
                            tracing::warn!(event = "not_given_up", pipeline = %name, "{error}");
                        });
                    }
                    Some(Order::GiveUp(_)) => {}
                },
            }
        }
        Err(Stopped { error, first })
    }

    /// Whether the failure is noted in the output, or can't ever be by this process.
    async fn note(&self, failure: &Failure, epoch: Option<i64>) -> bool {
        let Some(epoch) = epoch else { return true };
        let noted = tokio::time::timeout(NOTE_PATIENCE, async {
            let output = Output::connect(&self.definition.output, Purpose::Output).await?;
            output.ledger().record_failure(&self.definition.key, epoch, failure).await?;
            // What was committed last may not have been flushed; now it is, and the slot needn't wait for it.
            let found = output.ledger().fetch_settled(&self.definition.key, epoch).await?;
            let own = found.filter(|checkpoint| checkpoint.epoch == epoch);
            own.and_then(|checkpoint| checkpoint.loaded_lsn).inspect(|loaded| self.floor.raise(*loaded));
            Ok::<(), PipelineError>(())
        });
        match noted.await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::debug!(event = "not_noted", pipeline = %self.definition.pipeline.name, "{error}");
                false
            }
            Err(_) => false,
        }
    }

    /// Only once the output knows may the slot go on.
    async fn give_up(&self, failure: &Failure, epoch: Option<i64>) -> Checked<()> {
        let key = &self.definition.key;
        let fenced =
            || SinkError::Fenced { pipeline: key.pipeline.clone(), expected: self.state.loaded_lsn() };
        let output = Output::connect(&self.definition.output, Purpose::Output).await?;
        if !output.ledger().give_up(key, epoch.ok_or_else(fenced)?, failure).await? {
            return Err(fenced().into());
        }
        self.floor.give_up();
        tracing::error!(event = "place_given_up", pipeline = %key.pipeline,
            "pipeline {}: {}. It needs a backfill now: trucker backfill {}", key.pipeline, failure.error, key.pipeline);
        Ok(())
    }
}
