//! The second half of a pipeline that follows the stream: carries out in the output what the first half hands over, in
//! its order, and moves the checkpoint with it. The slot is told a little later, when that is durable. What fails on trial is undone
//! alone. Never speaks to the source.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tracing::Span;

use super::backfill;
use super::counts::Tally;
use super::definition::{Checked, Definition};
use super::isolation::Skip;
use super::letters::Letters;
use super::queue::End;
use super::stage::slow::tell_if_slow;
use super::stage::{Verdict, Work};
use super::state::State;
use super::trace;
use crate::change::Lsn;
use crate::checkpoint::{Floor, is_loaded};
use crate::failpoint;
use crate::sink::{Goal, Request, SinkError, Writer};

/// How often the output hears from a transaction that waits for the source's SQL.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How often commits are made durable, and the slot told. Readers see them at once; the longer, the fewer of them wait for a disk.
pub(super) const FLUSH_INTERVAL: Duration = Duration::from_millis(200);

/// See the module.
pub(super) struct Delivery<'a> {
    /// What the pipeline is.
    pub definition: &'a Definition,
    /// Its word on what the slot has to keep.
    pub floor: &'a Floor,
    /// What others may see.
    pub state: &'a State,
    /// How often commits are made durable.
    pub flush_interval: Duration,
    /// How long load.sql may take before it is told of.
    pub slow_query: Duration,
    /// What somebody wants left out, and the request that is answered once it is passed.
    pub skip: Option<(Request, Skip)>,
}

/// What is under way in the output.
#[derive(Default)]
struct Open {
    letters: Letters,
    /// What has come of the trial so far, if there is one.
    trial: Option<Verdict>,
    /// Time that rows have taken since the last commit.
    writing: Duration,
    /// Up to where something was committed that isn't durable yet.
    unflushed: Option<Lsn>,
}

impl Delivery<'_> {
    /// Carries out work until there is none any more. `pause` is none again once something has got through.
    pub async fn run(
        &self,
        writer: &mut Writer,
        mut work: mpsc::Receiver<(Work, Span)>,
        pause: &mut Duration,
    ) -> Checked<()> {
        let (mut open, mut next_flush) = (Open::default(), Instant::now());
        loop {
            let is_to_flush = open.unflushed.is_some() && !writer.is_open();
            if is_to_flush && next_flush <= Instant::now() {
                self.flush(writer, &mut open).await?;
                next_flush = Instant::now() + self.flush_interval;
                continue;
            }
            let work = tokio::select! {
                work = work.recv() => work,
                () = tokio::time::sleep_until(next_flush.into()), if is_to_flush => continue,
                () = tokio::time::sleep(KEEP_ALIVE), if writer.is_open() => {
                    writer.keep_alive().await?;
                    continue;
                }
            };
            let Some((work, batch)) = work else {
                // What there is of a transaction that didn't come to its end comes again.
                writer.roll_back().await?;
                return self.flush(writer, &mut open).await;
            };
            let span = trace::work(&batch, self.definition, &work);
            let done = trace::observed(span, self.take(writer, work, &mut open)).await;
            // A span ends where it was last left, and its batch has long been read.
            batch.in_scope(|| ());
            if done.inspect_err(|error| trace::fail(&batch, error))? {
                *pause = Duration::ZERO;
            }
        }
    }

    /// Answers whether it was a commit.
    async fn take(&self, writer: &mut Writer, work: Work, open: &mut Open) -> Checked<bool> {
        match work {
            Work::Complete(end, tally) => {
                self.commit(writer, end, &tally, open).await?;
                return Ok(true);
            }
            Work::DeadLetter(letter) => {
                writer.record(&letter).await?;
                open.letters.add(&letter);
            }
            Work::Sync(done) => {
                done.send(()).ok();
            }
            work => {
                let begun = Instant::now();
                self.carry_out(writer, work, &mut open.trial).await?;
                open.writing += begun.elapsed();
            }
        }
        Ok(false)
    }

    async fn commit(&self, writer: &mut Writer, end: End, tally: &Tally, open: &mut Open) -> Checked<()> {
        let (name, begun) = (&self.definition.pipeline.name, Instant::now());
        writer.commit(self.goal(writer, end)).await?;
        failpoint::reach("commit_answered");
        open.unflushed = Some(end.end_lsn);
        self.state.loaded(end.end_lsn);
        self.state.counts.loaded(tally, std::mem::take(&mut open.writing), begun.elapsed());
        open.letters.committed(name, &self.state.counts);
        tracing::debug!(event = "loaded", pipeline = %name, loaded_lsn = %end.end_lsn, "loaded");
        Ok(())
    }

    /// Has the slot told of what was committed, once a crash of the output can't take it back.
    async fn flush(&self, writer: &Writer, open: &mut Open) -> Checked<()> {
        let Some(lsn) = open.unflushed.take() else { return Ok(()) };
        writer.flush().await?;
        failpoint::reach("flushed");
        self.floor.raise(lsn);
        failpoint::reach("floor_raised");
        Ok(())
    }

    /// What it means for the checkpoint that everything up to there is loaded.
    fn goal(&self, writer: &Writer, end: End) -> Goal<'_> {
        let seam = writer.seam().filter(|seam| end.end_lsn < seam.bound).cloned();
        let done = self.skip.as_ref().filter(|(_, skip)| is_loaded(skip.commit_lsn, end.end_lsn));
        let done = done.map(|(request, _)| request);
        Goal { loaded_lsn: end.end_lsn, commit_time: end.commit_time, seam, done }
    }

    /// Does what may be on trial. What fails on trial is undone at once, and what follows of the trial left out.
    async fn carry_out(
        &self,
        writer: &mut Writer,
        work: Work,
        trial: &mut Option<Verdict>,
    ) -> Result<(), SinkError> {
        let done = match work {
            Work::Mark => {
                *trial = Some(Ok(()));
                return writer.mark().await;
            }
            Work::Settle { is_wanted, verdict } => {
                let mut outcome = trial.take().unwrap_or(Ok(()));
                match (&outcome, is_wanted) {
                    (Err(_), _) => {}
                    (Ok(()), false) => writer.undo().await?,
                    (Ok(()), true) => match writer.keep().await {
                        Err(error) if !error.is_transient() => {
                            writer.undo().await?;
                            outcome = Err(error);
                        }
                        kept => kept?,
                    },
                }
                // Who asked is gone only where the whole pipeline is on its way back.
                verdict.send(outcome).ok();
                return Ok(());
            }
            _ if matches!(trial, Some(Err(_))) => return Ok(()),
            Work::Writes(writes, end) => {
                let goal = end.map(|end| self.goal(writer, end));
                writer.write(&writes, goal.as_ref()).await
            }
            Work::LoadRows(load, rows) => writer.load_rows(&load, &rows).await,
            Work::LoadRun(load) => {
                let (begun, path) = (Instant::now(), backfill::load_path(self.definition));
                let done = writer.load_run(&load, &path).await;
                failpoint::reach("rows_written");
                let (pipeline, output) = (&self.definition.pipeline.name, self.definition.output.name());
                tell_if_slow(self.slow_query, begun, pipeline, &path, output, None);
                done
            }
            Work::Truncate(sql) => writer.run_file(&sql, "truncate.sql").await,
            Work::Complete(..) | Work::DeadLetter(_) | Work::Sync(_) => Ok(()),
        };
        match done {
            Err(error) if trial.is_some() && !error.is_transient() => {
                writer.undo().await?;
                *trial = Some(Err(error));
                Ok(())
            }
            done => done,
        }
    }
}
