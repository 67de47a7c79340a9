//! What the first half of a pipeline hands to the second, in the order in which it is to be done.

use tokio::sync::oneshot;

use crate::change::Tuple;
use crate::pipeline::counts::Tally;
use crate::pipeline::queue::End;
use crate::sink::{DeadLetter, Load, SinkError, Writes};

/// For the second half.
#[derive(Debug)]
pub enum Work {
    /// Default writes; with an end, `Complete` of it is next.
    Writes(Writes, Option<End>),
    /// Rows for load.sql.
    LoadRows(Load, Vec<Tuple>),
    /// load.sql over the rows since the last run.
    LoadRun(Load),
    /// truncate.sql.
    Truncate(String),
    /// The transactions so far are complete up to there, and came to that.
    Complete(End, Tally),
    /// What follows is on trial.
    Mark,
    /// The end of the trial: undone unless it is wanted, and nothing has gone wrong.
    Settle {
        /// Whether the first half is content.
        is_wanted: bool,
        /// Where to say how it went.
        verdict: oneshot::Sender<Verdict>,
    },
    /// A change that isn't loaded.
    DeadLetter(Box<DeadLetter>),
    /// Say so once everything before this is done.
    Sync(oneshot::Sender<()>),
}

/// What the second half has to say on a trial: what went wrong in the output. It is undone then.
pub type Verdict = Result<(), SinkError>;
