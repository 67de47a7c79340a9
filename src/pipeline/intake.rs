//! The first half of a pipeline that follows the stream: takes batches from the queue as they gather, leaves out what is
//! loaded already, and puts the rest through the SQL; on trial where a change is known to fail. Never speaks to the
//! output: what comes out is handed to [`delivery`](super::delivery).

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::definition::Checked;
use super::error::PipelineError;
use super::isolation::Isolation;
use super::queue::{End, Piece, QueueReceiver};
use super::stage::{Part, Stage};
use super::state::State;
use super::task::ended;
use super::trace;
use crate::change::Lsn;
use crate::checkpoint::{Seam, is_loaded};

/// For how long after a dead letter the next is expected, and every batch on trial.
const TRIAL: Duration = Duration::from_secs(60);

/// What is loaded, as far as this half has read.
pub(super) struct Position {
    /// Everything that commits before this.
    pub loaded: Lsn,
    /// And what the backfill has read.
    pub seam: Option<Seam>,
}

impl Position {
    fn has(&self, piece: &Piece) -> bool {
        is_loaded(piece.commit_lsn, self.loaded)
            || self.seam.as_ref().is_some_and(|seam| seam.covers(piece.commit_lsn, piece.xid))
    }
}

/// How batches are taken and put through.
pub(super) struct Care {
    /// Transactions that commit up to here come one by one, and on trial.
    pub through: Lsn,
    /// What to do about changes that fail.
    pub isolation: Isolation,
    /// Bytes that are taken at once.
    pub batch_bytes: usize,
}

/// See the module.
pub(super) struct Intake {
    stage: Stage,
    position: Position,
    care: Care,
    state: Arc<State>,
    /// Of the last change, within its transaction.
    ordinal: u64,
    last_letter: Option<Instant>,
}

impl Intake {
    /// From that position on.
    pub fn new(stage: Stage, position: Position, care: Care, state: Arc<State>) -> Self {
        Intake { stage, position, care, state, ordinal: 0, last_letter: None }
    }

    /// Takes batches until told to end.
    pub async fn run(
        mut self,
        mut receiver: QueueReceiver,
        mut shutdown: watch::Receiver<bool>,
    ) -> Checked<()> {
        loop {
            let is_careful = self.position.loaded <= self.care.through;
            let batch = tokio::select! {
                biased;
                () = ended(&mut shutdown) => return Ok(()),
                batch = receiver.next_batch(self.care.batch_bytes, is_careful) => batch,
            };
            let Some(batch) = batch else { return Err(PipelineError::StreamBroke) };
            if let Some(piece) = batch.last() {
                self.state.reading(piece.commit_lsn, piece.xid);
            }
            let span = trace::batch(self.stage.definition(), &batch, |piece| !self.position.has(piece));
            trace::observed(span, self.take(batch, is_careful)).await?;
        }
    }

    /// Puts a batch through the SQL.
    async fn take(&mut self, mut batch: Vec<Piece>, is_careful: bool) -> Checked<()> {
        let is_on_trial = is_careful || self.last_letter.is_some_and(|at| at.elapsed() < TRIAL);
        let whole = batch.iter().rposition(|piece| piece.end.is_some()).map_or(0, |last| last + 1);
        let mut rest = batch.split_off(whole);
        for pieces in [&batch, &rest] {
            self.note_age(pieces);
        }
        for pieces in [&mut batch, &mut rest] {
            let parts = self.parts(pieces);
            if is_on_trial && !parts.is_empty() {
                if self.care.isolation.load(&mut self.stage, parts).await? > 0 {
                    self.last_letter = Some(Instant::now());
                }
            } else {
                self.stage.process(parts).await?;
            }
            match pieces.last().and_then(|piece| piece.end) {
                Some(end) => self.complete(end).await?,
                None => self.stage.flush().await?,
            }
            if is_careful {
                // What fails at COMMIT must be known to be this transaction.
                self.stage.settle().await?;
            }
        }
        Ok(())
    }

    /// Remembers since when the oldest of these has been waiting.
    fn note_age(&self, pieces: &[Piece]) {
        let first = pieces.iter().find(|piece| !self.position.has(piece));
        if let Some((commit_lsn, time)) = first.and_then(|piece| Some((piece.commit_lsn, piece.commit_time?)))
        {
            self.state.pending.take(commit_lsn, time);
        }
    }

    /// What of these pieces isn't in the output yet. Changes are counted within their transaction, from piece to piece.
    fn parts(&mut self, pieces: &mut [Piece]) -> Vec<Part> {
        let mut parts = Vec::new();
        for piece in pieces {
            let is_loaded = self.position.has(piece);
            let Piece { xid, commit_lsn, .. } = *piece;
            for entry in std::mem::take(&mut piece.entries) {
                self.ordinal += 1;
                if !is_loaded {
                    parts.push(Part { xid, commit_lsn, ordinal: self.ordinal, entry });
                }
            }
            if piece.end.is_some() {
                self.ordinal = 0;
            }
        }
        parts
    }

    async fn complete(&mut self, end: End) -> Checked<()> {
        if end.end_lsn > self.position.loaded {
            self.position.loaded = end.end_lsn;
            self.stage.complete(end).await?;
        }
        Ok(())
    }
}
