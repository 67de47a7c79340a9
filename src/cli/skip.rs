//! `trucker skip`.

use std::io::{IsTerminal, stdin};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::Loaded;
use crate::engine::ask::{self, Standing};
use crate::observe::log::LogFormat;
use crate::sink::{Asked, Failure};

/// What can be said about it.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The pipeline that failed
    pipeline: String,
    /// The project's folder
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Leave out all changes of the pipeline in that transaction
    #[arg(long)]
    transaction: bool,
    /// Don't ask
    #[arg(long, short)]
    yes: bool,
}

/// Shows the change that a pipeline failed at, asks, and has it left out.
pub fn run(arguments: Arguments, format: Option<LogFormat>) -> ExitCode {
    let loaded = match super::load(&arguments.dir, format) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let name = &arguments.pipeline;
    let standing = match super::block_on(ask::look(&loaded.project, name)) {
        Ok(Ok(standing)) => standing,
        Ok(Err(error)) => return super::fail(error, &loaded),
        Err(error) => return super::cannot_start(&error),
    };
    let failure = match to_skip(&standing, &arguments) {
        Ok(failure) => failure.clone(),
        Err(why) => {
            eprintln!("error: {name}: nothing was skipped: {why}");
            return ExitCode::from(1);
        }
    };
    println!("{}", loaded.secrets.mask(&shown(name, &failure, arguments.transaction)));
    if !arguments.yes {
        if !stdin().is_terminal() {
            eprintln!("error: nothing was skipped: without a terminal to ask on, say --yes");
            return ExitCode::from(2);
        }
        if !super::is_agreed("Leave it out?") {
            eprintln!("nothing was skipped");
            return ExitCode::from(1);
        }
    }
    skip(standing, &arguments, failure, &loaded)
}

fn skip(standing: Standing, arguments: &Arguments, failure: Failure, loaded: &Loaded) -> ExitCode {
    let asked = Asked::Skip { is_whole: arguments.transaction, failures: vec![failure] };
    // The runtime that the sessions of `standing` belong to has ended: look again, and ask about what was shown.
    let outcome = super::block_on(async {
        let now = ask::look(&loaded.project, &arguments.pipeline).await?;
        if now.failure().map(|failure| &failure.since) != standing.failure().map(|failure| &failure.since) {
            return Ok(ask::Answer::Moved);
        }
        now.check_files().await?;
        now.ask(&asked).await
    });
    match outcome {
        Ok(Ok(answer)) => super::tell(
            &arguments.pipeline,
            &answer,
            "skipped; it is in trucker.dead_letters, and the pipeline goes on",
            loaded,
        ),
        Ok(Err(error)) => super::fail(error, loaded),
        Err(error) => super::cannot_start(&error),
    }
}

/// The failure, if it is about something that can be left out.
fn to_skip<'s>(standing: &'s Standing, arguments: &Arguments) -> Result<&'s Failure, String> {
    let name = &arguments.pipeline;
    let failure = standing.failure().ok_or("it hasn't failed")?;
    if failure.is_given_up {
        return Err(format!("its place was given up, and it needs a backfill: trucker backfill {name}"));
    }
    if standing.loaded_lsn().is_none() {
        return Err("it failed in its backfill, which reads the table as a whole".to_owned());
    }
    match (&failure.commit_lsn, failure.ordinal, arguments.transaction) {
        (None, ..) => Err(format!("it hasn't failed at a change, but at: {}", failure.error)),
        (_, None, false) => Err(format!(
            "it failed at the COMMIT of a transaction, and nothing says which of its changes is to blame: leave out \
             all of them with --transaction. {}",
            failure.error
        )),
        _ => Ok(failure),
    }
}

fn shown(name: &str, failure: &Failure, is_whole: bool) -> String {
    let place = failure.place().unwrap_or_default();
    let key = match failure.key.as_slice() {
        [] => String::new(),
        key => format!(" (rows told by {})", key.join(", ")),
    };
    let xid = failure.xid.map(|xid| format!(", transaction id {xid}")).unwrap_or_default();
    let all = if is_whole { "all changes of the transaction of " } else { "" };
    format!("{name} stands at {all}{place}{key}{xid}\n  {}", failure.error)
}
