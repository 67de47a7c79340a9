//! Changes on trial: done as ever, but so that a failure undoes them alone, and the output's transaction goes on. What
//! is made of a failure is not decided here.

use tokio::sync::oneshot;

use crate::pipeline::definition::Checked;
use crate::pipeline::error::PipelineError;
use crate::sink::DeadLetter;

use super::gather::Gather;
use super::{Part, Stage, Work};

impl Stage {
    /// Does these, or, where a change may be to blame, none of them; then the inner result says why. Waits until the
    /// output has taken them.
    pub async fn attempt(&mut self, parts: &[Part]) -> Checked<Checked<()>> {
        let (lineage, tally) = (self.lineage.clone(), self.tally.clone());
        self.hand_on(Work::Mark).await?;
        let read = match self.process(parts.to_vec()).await {
            Ok(()) => self.flush().await,
            failed => failed,
        };
        let (sender, verdict) = oneshot::channel();
        self.hand_on(Work::Settle { is_wanted: read.is_ok(), verdict: sender }).await?;
        let written = verdict.await.map_err(|_| PipelineError::StreamBroke)?;
        let error = match (written, read) {
            (Ok(()), Ok(())) => return Ok(Ok(())),
            (Err(error), _) => error.into(),
            (Ok(()), Err(error)) => error,
        };
        if !error.is_about_changes() {
            return Err(error);
        }
        // As if they had never been seen.
        (self.lineage, self.tally) = (lineage, tally);
        self.gather = Gather::new(&self.definition);
        self.has_load_rows = false;
        let ended = self.session.client.batch_execute("ROLLBACK").await;
        ended.map_err(PipelineError::source("ending a snapshot"))?;
        Ok(Err(error))
    }

    /// Records a change instead of loading it.
    pub async fn record(&mut self, letter: DeadLetter) -> Checked<()> {
        self.hand_on(Work::DeadLetter(Box::new(letter))).await
    }

    /// Waits until the output has done all that was handed on.
    pub async fn settle(&mut self) -> Checked<()> {
        let (sender, done) = oneshot::channel();
        self.hand_on(Work::Sync(sender)).await?;
        done.await.map_err(|_| PipelineError::StreamBroke)
    }
}
