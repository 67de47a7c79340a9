//! The snapshot of the source that a batch's SQL runs in, and the SQL's way there: in one flight with the question whether the batch
//! is visible in it. Answers from a snapshot in which it is not are never used.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::join;

use crate::change::Change;
use crate::pipeline::definition::Checked;
use crate::pipeline::effect::Outcome;
use crate::pipeline::error::PipelineError;
use crate::pipeline::trace;
use crate::transform::visibility;

use super::gather::Stamp;
use super::group::Group;
use super::{Answer, Stage};

impl Stage {
    /// What a segment of changes came to.
    pub(super) async fn segment(
        &mut self,
        changes: &mut [(Stamp, Arc<Change>)],
    ) -> Checked<Answer<Vec<Outcome>>> {
        let groups = self.groups(changes).await?;
        if !groups.iter().any(|group| group.needs_source(self.effects, changes)) {
            return self.answers(&groups, changes).await;
        }
        // Nearly always a batch is visible at once, so the SQL doesn't wait for the word on that; unless the last one wasn't, since
        // behind a synchronous standby hardly any is. Values that are filled into changes can't be taken back: they wait, too.
        let is_complete = |group: &Group| group.unresolved(self.effects, changes).is_empty();
        let tries = self.is_prompt && groups.iter().all(is_complete);
        if tries {
            let xids = xids(changes);
            let (begun, answered) = join(self.try_snapshot(&xids), self.answers(&groups, changes)).await;
            if begun? {
                self.end_snapshot()?;
                return answered;
            }
            let ended = self.session.client.batch_execute("ROLLBACK").await;
            ended.map_err(PipelineError::source("ending a snapshot"))?;
        }
        self.is_prompt = self.begin_snapshot(changes).await? && !tries;
        let answered = self.answers(&groups, changes).await?;
        self.end_snapshot()?;
        Ok(answered)
    }

    /// Opens a snapshot; false if these transactions aren't visible in it.
    async fn try_snapshot(&self, xids: &[u32]) -> Checked<bool> {
        let client = &self.session.client;
        trace::observed(self.span("BEGIN", None), async {
            let begun = match self.definition.source.replica {
                // What the batch brought is there already.
                Some(_) => visibility::begin_on_standby(client).await.map(|()| true),
                None => visibility::try_begin(client, xids).await,
            };
            begun.map_err(PipelineError::source("opening a snapshot"))
        })
        .await
    }

    /// Opens a snapshot in which these are visible. Whether they were at once.
    pub(super) async fn begin_snapshot(&self, changes: &[(Stamp, Arc<Change>)]) -> Checked<bool> {
        let xids = xids(changes);
        let client = &self.session.client;
        trace::observed(self.span("BEGIN", None), async {
            let begun = match self.definition.source.replica {
                Some(_) => visibility::begin_on_standby(client).await.map(|()| true),
                None => visibility::begin_after(client, &xids).await,
            };
            begun.map_err(PipelineError::source("opening a snapshot"))
        })
        .await
    }

    /// Nobody waits for the answer: nothing was written, and whatever the connection does next it does after that.
    pub(super) fn end_snapshot(&self) -> Checked<()> {
        let sent = self.session.client.batch_execute("COMMIT").now_or_never();
        sent.unwrap_or(Ok(())).map_err(PipelineError::source("ending a snapshot"))
    }
}

/// Transactions that changes are of.
fn xids(changes: &[(Stamp, Arc<Change>)]) -> Vec<u32> {
    let xids: BTreeSet<u32> = changes.iter().map(|(stamp, _)| stamp.xid).collect();
    xids.into_iter().collect()
}
