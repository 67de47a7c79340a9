//! Has pipelines filled anew: by the process that runs the project, which is asked to, or else at the next run. Touches
//! their checkpoints only: rows in the output stay until the backfill brings them in line.

use tokio::sync::watch;

use super::ask::{self, Answer};
use super::error::EngineError;
use super::guard;
use super::inspect::{Inspected, inspect};
use crate::change::Lsn;
use crate::codes::Code;
use crate::config::{Action, Diagnostic, Diagnostics, Pipeline, Project};
use crate::sink::{Asked, CheckpointKey};

/// What became of one pipeline.
#[derive(Debug)]
pub struct Refill {
    /// Its name.
    pub pipeline: String,
    /// Where it was; None if it wasn't filled yet, so that there was nothing to do.
    pub loaded_lsn: Option<Lsn>,
    /// What became of asking the process that runs the project; None if nobody does.
    pub answer: Option<Answer>,
    /// What a person should see to before.
    pub caution: Option<String>,
}

/// Gives up the place of these pipelines, so that they are backfilled.
///
/// # Errors
/// All names that no pipeline has, or whose pipeline has no backfill; servers that can't be reached. In all of these cases
/// nothing has changed.
pub async fn refill(project: &Project, names: &[String]) -> Result<Vec<Refill>, EngineError> {
    let pipelines = select(project, names)?;
    let is_wanted =
        |name: &str| pipelines.iter().any(|p| p.input.connection == name || p.output.connection == name);
    let (found, errors) = inspect(project, is_wanted).await;
    if !errors.is_empty() {
        return Err(EngineError::Servers(errors.into_iter().collect()));
    }
    if found.is_running() {
        return ask_for(project, &pipelines).await;
    }
    let (_keep, mut shutdown) = watch::channel(false);
    let mut guards = Vec::new();
    for database in found.databases.iter().filter(|database| database.is_read) {
        let mut same = found.databases.iter().filter(|f| f.is_same_database(database));
        let Some(source) = same.find_map(|f| f.source.as_ref()) else { continue };
        let taken =
            guard::take_slot(database.streamed().0, &source.slot_name, true, &mut shutdown, &|| {}).await;
        match taken {
            Ok(taken) => guards.push(taken),
            // It has come just now.
            Err(EngineError::Held(_)) => return ask_for(project, &pipelines).await,
            Err(error) => return Err(error),
        }
    }
    let mut refills = Vec::new();
    for pipeline in pipelines {
        refills.push(reset(project, pipeline, &found).await?);
    }
    Ok(refills)
}

/// Asks the process that runs the project.
async fn ask_for(project: &Project, pipelines: &[&Pipeline]) -> Result<Vec<Refill>, EngineError> {
    let mut refills = Vec::new();
    for pipeline in pipelines {
        let standing = ask::look(project, &pipeline.name).await?;
        let loaded_lsn = standing.loaded_lsn();
        let is_needless = loaded_lsn.is_none() && standing.failure().is_none();
        let answer = if is_needless { None } else { Some(standing.ask(&Asked::Backfill).await?) };
        let caution = caution(project, pipeline);
        refills.push(Refill { pipeline: pipeline.name.clone(), loaded_lsn, answer, caution });
    }
    Ok(refills)
}

/// The pipelines of these names, once each.
fn select<'p>(project: &'p Project, names: &[String]) -> Result<Vec<&'p Pipeline>, EngineError> {
    let (mut pipelines, mut problems): (Vec<&Pipeline>, Vec<Diagnostic>) = (Vec::new(), Vec::new());
    for name in names {
        match project.pipeline(name) {
            Ok(pipeline) if pipelines.iter().any(|known| known.name == pipeline.name) => {}
            Ok(pipeline) => match has_no_backfill(pipeline) {
                Some(problem) => problems.push(problem),
                None => pipelines.push(pipeline),
            },
            Err(problem) => problems.push(*problem),
        }
    }
    let problems: Diagnostics = problems.into_iter().collect();
    if problems.is_empty() { Ok(pipelines) } else { Err(EngineError::Files(problems)) }
}

/// Without a backfill its next run would begin with the changes of that day, and those since its place be lost.
pub(super) fn has_no_backfill(pipeline: &Pipeline) -> Option<Diagnostic> {
    let why = match (pipeline.backfill, pipeline.output.on.insert) {
        (false, _) => "backfill: false",
        (true, Action::Ignore) => "on: {insert: ignore}",
        _ => return None,
    };
    let message = format!("pipeline {} can't be filled anew: it has no backfill (`{why}`)", pipeline.name);
    Some(
        Diagnostic::error(Code::NoBackfill, &pipeline.config_path, message)
            .help("change that first, then try again"),
    )
}

async fn reset(project: &Project, pipeline: &Pipeline, found: &Inspected) -> Result<Refill, EngineError> {
    let connection = pipeline.output.connection.as_str();
    let stored = found.output(project, connection).map(|output| &output.found.checkpoints);
    let checkpoint = stored.and_then(|stored| stored.iter().find(|c| c.pipeline == pipeline.name));
    let loaded_lsn = checkpoint.and_then(|checkpoint| checkpoint.loaded_lsn);
    if let Some(ledger) = found.ledger(project, connection).filter(|_| loaded_lsn.is_some()) {
        let key =
            CheckpointKey { project: project.checkpoint_name().to_owned(), pipeline: pipeline.name.clone() };
        let done = ledger.reset(&key).await;
        done.map_err(EngineError::sink(connection))?;
    }
    let caution = caution(project, pipeline);
    Ok(Refill { pipeline: pipeline.name.clone(), loaded_lsn, answer: None, caution })
}

fn caution(project: &Project, pipeline: &Pipeline) -> Option<String> {
    if pipeline.sql.load.is_some() {
        return Some("load.sql gets every row again: empty what it writes first".to_owned());
    }
    let table = pipeline.output.table.as_ref()?;
    if pipeline.output.on.insert == Action::Insert {
        return Some(format!("rows are appended: empty {table} first, or they will be there twice"));
    }
    let is_shared = project.pipelines.iter().any(|other| {
        other.name != pipeline.name
            && other.output.connection == pipeline.output.connection
            && other.output.table.as_ref() == Some(table)
    });
    is_shared.then(|| {
        format!("other pipelines write {table} too, so rows that this one no longer returns stay: delete them first")
    })
}
