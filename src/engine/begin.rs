//! How a run begins: look at the servers, lock the project, see that it goes on where it was, create what is missing. What
//! then runs, the module above starts.

use tokio::sync::watch::Receiver;

use super::error::EngineError;
use super::findings::Findings;
use super::guard::{self, Guard};
use super::prepare::{self, PreparedProject};
use super::{Options, Until, aside, continuity, create};
use crate::config::Project;
use crate::observe::board::Board;
use crate::observe::snapshot::RunState;

/// The project with a guard for each source, in the same order, when all is there that it needs; None if it was to stop
/// first.
pub async fn begin(
    project: &Project,
    options: Options,
    shutdown: &mut Receiver<bool>,
    board: &Board,
) -> Result<Option<(PreparedProject, Vec<Guard>)>, EngineError> {
    let mut prepared = prepare(project, options).await?;
    let (guards, have_waited) = take_guards(&prepared, options, shutdown, board).await?;
    if have_waited {
        // What was read before may be out of date. The sources are the same: they are the project's, all of them.
        board.enter(RunState::Starting);
        prepared = prepare(project, options).await?;
    }
    let mut findings = Findings::default();
    for source in &prepared.sources {
        continuity::look(source, &mut findings).await;
    }
    match options.until {
        Until::CaughtUp => findings.verdict()?,
        Until::Shutdown => aside::divide(project, &findings, &mut prepared).await?,
    }
    tokio::select! {
        made = create::create(&mut prepared, options.creation) => made?,
        _ = shutdown.wait_for(|end| *end) => return Ok(None),
    }
    if !create::create_slots(&mut prepared, shutdown).await? {
        return Ok(None);
    }
    Ok(Some((prepared, guards)))
}

/// `--once` is all or nothing: nobody is there who would come back to what was set aside.
async fn prepare(project: &Project, options: Options) -> Result<PreparedProject, EngineError> {
    match options.until {
        Until::CaughtUp => prepare::prepare(project, options.creation).await,
        Until::Shutdown => prepare::prepare_those_that_fit(project, options.creation).await,
    }
}

/// For each source, and whether another process had one of them first.
async fn take_guards(
    prepared: &PreparedProject,
    options: Options,
    shutdown: &mut Receiver<bool>,
    board: &Board,
) -> Result<(Vec<Guard>, bool), EngineError> {
    let (mut guards, mut have_waited) = (Vec::new(), false);
    for source in &prepared.sources {
        let is_once = options.until == Until::CaughtUp;
        let waits = || board.enter(RunState::Standby);
        let (guard, has_waited) = guard::take(source, is_once, shutdown, &waits).await?;
        guards.push(guard);
        have_waited |= has_waited;
    }
    Ok((guards, have_waited))
}
