//! The command line: reads arguments and files, hands over to the engine, turns how it ended into an exit code.

mod backfill;
mod check;
mod columns;
mod compile;
mod demo;
mod explain;
mod init;
mod manual;
mod plan;
mod preview;
mod resume;
mod run;
mod skip;
mod status;
mod teardown;
mod test;
mod verify;

use std::io::{Write, stdin, stdout};
use std::path::Path;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, Parser, Subcommand};

use crate::config::{self, Loaded};
use crate::engine::ask::Answer;
use crate::engine::error::EngineError;
use crate::observe::log::{self, LogFormat};

/// Postgres changes, through your own SQL, into another database, exactly once.
#[derive(Debug, Parser)]
#[command(name = "trucker", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// How log lines look; default: text on a terminal, json elsewhere
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a project: from live tables, or a small example; or add a pipeline to one
    Init(init::Arguments),
    /// Play the tests that lie beside pipelines, on a throwaway server
    Test(test::Arguments),
    /// Check a project against its servers, and change nothing
    Check(check::Arguments),
    /// Run a project: backfill what is there, then follow its changes
    Run(run::Arguments),
    /// Say what `run` would create and fill, and change nothing
    Plan(plan::Arguments),
    /// Write the SQL that `run` would run, per pipeline, table and operation; asks the servers for columns and types
    Compile(compile::Arguments),
    /// Show what a pipeline's SQL makes of a few rows of its input right now, and change nothing
    Preview(preview::Arguments),
    /// Say how far each pipeline is and what its slot holds, whether or not it runs
    Status(status::Arguments),
    /// Have pipelines filled anew: now, where the project runs, or at the next run
    Backfill(backfill::Arguments),
    /// Have a pipeline that failed go on where it stands, by its files as they are now
    Resume(resume::Arguments),
    /// Have a pipeline that failed leave out the change it stands at, and go on
    Skip(skip::Arguments),
    /// Compare outputs with what their SQL makes of the input now, while the stream runs
    Verify(verify::Arguments),
    /// Remove what trucker created for a project: slots, publications, checkpoints
    Teardown(teardown::Arguments),
    /// Say what an error's code means, and how to mend it
    Explain(explain::Arguments),
    /// Show a small shop at work between two throwaway Postgres servers
    Demo,
    /// Print the JSON Schema of a configuration or test file, for editors
    Schema(manual::SchemaArguments),
    /// Print a shell's completion script
    Completions(manual::CompletionsArguments),
    /// Print the man page, or write those of all commands
    Man(manual::ManArguments),
}

/// The program's arguments, for what describes or checks them.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(mut error) => {
            let code = if error.use_stderr() { 2 } else { 0 };
            hide_urls(&mut error);
            error.print().ok();
            return ExitCode::from(code);
        }
    };
    match cli.command {
        Command::Run(arguments) => run::run(arguments, cli.log_format),
        Command::Check(arguments) => check::run(&arguments, cli.log_format),
        Command::Plan(arguments) => plan::run(arguments, cli.log_format),
        Command::Compile(arguments) => compile::run(arguments, cli.log_format),
        Command::Preview(arguments) => preview::run(arguments, cli.log_format),
        Command::Status(arguments) => status::run(arguments, cli.log_format),
        Command::Backfill(arguments) => backfill::run(arguments, cli.log_format),
        Command::Resume(arguments) => resume::run(arguments, cli.log_format),
        Command::Skip(arguments) => skip::run(arguments, cli.log_format),
        Command::Verify(arguments) => verify::run(arguments, cli.log_format),
        Command::Schema(arguments) => manual::schema(arguments),
        Command::Completions(arguments) => manual::completions(arguments),
        Command::Man(arguments) => manual::man(arguments),
        Command::Teardown(arguments) => teardown::run(arguments, cli.log_format),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Init(arguments) => init::run(&arguments),
        Command::Test(arguments) => test::run(arguments, cli.log_format),
        Command::Demo => match std::env::current_exe() {
            Ok(trucker) => demo::run(&trucker),
            Err(error) => {
                eprintln!("error: the program can't find itself: {error}");
                ExitCode::from(1)
            }
        },
    }
}

/// Has clap's message show no URL, nor what was meant as one: a password may be in it.
fn hide_urls(error: &mut clap::Error) {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.as_str(),
        _ => "",
    };
    let is_url = text(ContextKind::InvalidArg).ends_with("<URL>");
    let kinds = [ContextKind::InvalidValue, ContextKind::InvalidArg, ContextKind::InvalidSubcommand];
    let shows = |kind: &ContextKind| {
        text(*kind).contains("://") || is_url && *kind == ContextKind::InvalidValue && !text(*kind).is_empty()
    };
    for kind in kinds.into_iter().filter(shows).collect::<Vec<_>>() {
        error.insert(kind, ContextValue::String("…".to_owned()));
    }
}

/// Reads a project that has pipelines and starts logging; on failure, what is wrong has been said.
fn load(dir: &Path, format: Option<LogFormat>) -> Result<Loaded, ExitCode> {
    with_pipelines(load_files(dir, format)?)
}

/// The same for a project that may have lost its pipelines, but not what is left of them.
fn load_files(dir: &Path, format: Option<LogFormat>) -> Result<Loaded, ExitCode> {
    let loaded = read(dir)?;
    log::start(format, loaded.secrets.clone(), None);
    Ok(loaded)
}

fn read(dir: &Path) -> Result<Loaded, ExitCode> {
    match config::load(dir) {
        Ok(loaded) => {
            if !loaded.warnings.is_empty() {
                eprintln!("{}", loaded.warnings);
            }
            Ok(loaded)
        }
        Err(diagnostics) => {
            eprintln!("{diagnostics}");
            Err(ExitCode::from(3))
        }
    }
}

fn with_pipelines(loaded: Loaded) -> Result<Loaded, ExitCode> {
    // The warning has said so: there is nothing to do.
    if loaded.project.pipelines.is_empty() { Err(ExitCode::from(3)) } else { Ok(loaded) }
}

/// Says why a project doesn't run, without its secrets.
fn fail(error: EngineError, loaded: &Loaded) -> ExitCode {
    let code = error.exit_code();
    eprintln!("{}", loaded.secrets.mask(&error.into_diagnostics().to_string()));
    ExitCode::from(code)
}

/// Says what became of a request; `done` if it was done.
fn tell(name: &str, answer: &Answer, done: &str, loaded: &Loaded) -> ExitCode {
    let (code, text) = outcome(name, answer, done);
    let text = loaded.secrets.mask(&text).into_owned();
    if code == 0 {
        println!("{text}")
    } else {
        eprintln!("error: {text}")
    }
    ExitCode::from(code)
}

/// The exit code and the words.
fn outcome(name: &str, answer: &Answer, done: &str) -> (u8, String) {
    match answer {
        Answer::Done => (0, format!("{name}: {done}")),
        Answer::FailedAgain(failure) => {
            (1, format!("{name}: done, and it has failed again: {}", failure.error))
        }
        Answer::Left => (0, format!("{name}: nobody runs the project; the next `trucker run` does it")),
        Answer::Pending => (0, format!("{name}: the running process is at it; see trucker status")),
        Answer::Refused(reason) => (3, format!("{name}: the running process refuses: {reason}")),
        Answer::Moved => {
            (1, format!("{name}: nothing was done: it isn't where it was any more; see trucker status"))
        }
    }
}

/// Asks on the terminal.
fn is_agreed(question: &str) -> bool {
    print!("{question} [y/N] ");
    let mut answer = String::new();
    let is_read = stdout().flush().is_ok() && stdin().read_line(&mut answer).is_ok();
    is_read && matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
}

/// Says why a command can't begin.
fn cannot_start(error: &std::io::Error) -> ExitCode {
    eprintln!("error: the program can't start: {error}");
    ExitCode::from(1)
}

/// The asynchronous part of a command.
fn block_on<F: Future>(future: F) -> std::io::Result<F::Output> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(future))
}
