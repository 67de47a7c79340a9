//! `trucker status`: how a project stands, as columns for people or JSON for machines.

use std::io::{IsTerminal, Write, stdout};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::columns::{columns, row};
use crate::config::Loaded;
use crate::engine::status::{self, PipelineState, PipelineStatus, SlotState, SourceStatus, Status};
use crate::observe::log::LogFormat;
use crate::observe::units::{size, time};

const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// What can be said about it.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The project's folder
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Go on showing it, every two seconds; with --json, a line each time
    #[arg(long)]
    watch: bool,
    /// Exit with 1 where a pipeline is later than this, or not filled
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    max_lag: Option<Duration>,
}

/// Says how the project stands, whether or not it runs.
pub fn run(arguments: Arguments, format: Option<LogFormat>) -> ExitCode {
    let loaded = match super::load_files(&arguments.dir, format) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let looking = async {
        loop {
            let status = status::fetch(&loaded.project).await;
            let shown = show(status, &arguments, &loaded);
            match shown {
                Ok(_) if arguments.watch => tokio::time::sleep(WATCH_INTERVAL).await,
                Ok(code) => return code,
                // Whoever read it has gone.
                Err(_) => return ExitCode::from(1),
            }
        }
    };
    super::block_on(looking).unwrap_or_else(|error| super::cannot_start(&error))
}

fn show(mut status: Status, arguments: &Arguments, loaded: &Loaded) -> std::io::Result<ExitCode> {
    for error in &mut status.errors {
        *error = error.clone().masked(&loaded.secrets);
        eprintln!("{error}");
    }
    let late: Vec<&str> = match arguments.max_lag {
        Some(max_lag) => status.late(max_lag).map(|pipeline| pipeline.name.as_str()).collect(),
        None => Vec::new(),
    };
    let mut out = stdout().lock();
    match (arguments.json, arguments.watch) {
        // A line each time, for a machine that reads along.
        (true, true) => writeln!(out, "{}", serde_json::to_string(&status)?)?,
        (true, false) => writeln!(out, "{}", serde_json::to_string_pretty(&status)?)?,
        (false, is_watching) => {
            if is_watching && stdout().is_terminal() {
                write!(out, "\x1b[H\x1b[2J")?;
            }
            write!(out, "{}", loaded.secrets.mask(&text(&status)))?;
        }
    }
    out.flush()?;
    if !late.is_empty() {
        eprintln!("error: later than allowed, or not filled: {}", late.join(", "));
    }
    Ok(match (status.errors.is_empty(), status.is_bad() || !late.is_empty()) {
        (false, _) => ExitCode::from(4),
        (true, true) => ExitCode::from(1),
        (true, false) => ExitCode::SUCCESS,
    })
}

fn text(status: &Status) -> String {
    let mut pipelines =
        vec![row(["PIPELINE", "STATE", "LOADED", "BEHIND", "LAG", "WRITTEN", "DEAD LETTERS"])];
    pipelines.extend(status.pipelines.iter().map(pipeline_row));
    let mut sources =
        vec![row(["SOURCE", "PROCESS", "SLOT", "STATE", "CONFIRMED", "WAL HELD", "WAL LEFT", "PUBLICATION"])];
    sources.extend(status.sources.iter().map(source_row));
    let failures: String = status.pipelines.iter().filter_map(failure).collect();
    let changed = status.pipelines.iter().filter(|pipeline| pipeline.is_sql_changed);
    let changed: String = changed.map(|pipeline| changed_sql(&pipeline.name)).collect();
    format!("{}{failures}{changed}\n{}", columns(&pipelines), columns(&sources))
}

fn changed_sql(name: &str) -> String {
    format!(
        "\n{name}: its SQL has changed since it was backfilled: rows from before stay as they are until their input changes\n  \
         to make all of them anew: trucker backfill {name}\n"
    )
}

/// What a person has to know of a pipeline that stands still.
fn failure(pipeline: &PipelineStatus) -> Option<String> {
    let (name, failure) = (&pipeline.name, pipeline.failure.as_ref()?);
    let mut text = format!("\n{name}: {}", failure.error);
    if let Some(since) = &failure.since {
        text += &format!("\n  since {since}");
    }
    if let Some(refused) = &failure.refused {
        text += &format!("\n  the running process refused what it was asked for last: {refused}");
    }
    text += &match (failure.is_given_up, &failure.commit_lsn) {
        (true, _) => format!("\n  trucker backfill {name}\n"),
        (false, Some(_)) => {
            format!(
                "\n  mend the cause, then trucker resume {name}; or leave the change out: trucker skip {name}\n"
            )
        }
        (false, None) => format!("\n  mend the cause, then trucker resume {name}\n"),
    };
    Some(text)
}

fn pipeline_row(pipeline: &PipelineStatus) -> Vec<String> {
    let state = match pipeline.state {
        PipelineState::NeverFilled => "never filled",
        PipelineState::ToFill => "to be filled",
        PipelineState::Filling => "filling",
        PipelineState::Following => "following",
        PipelineState::Failed => "failed",
        PipelineState::Gone => "gone",
        PipelineState::Unknown => "unknown",
    };
    let lag = pipeline.lag_bytes.and_then(|bytes| i64::try_from(bytes).ok());
    row([
        &pipeline.name,
        state,
        or_dash(&pipeline.loaded_lsn),
        &lag.map_or("–".to_owned(), size),
        &pipeline.lag_seconds.map_or("–".to_owned(), time),
        &pipeline.updated_seconds_ago.map_or("–".to_owned(), |seconds| format!("{} ago", time(seconds))),
        &pipeline.dead_letters.to_string(),
    ])
}

fn source_row(source: &SourceStatus) -> Vec<String> {
    let state = match (source.slot_state, source.active_pid, &source.lost_reason) {
        (SlotState::Missing, ..) => "missing".to_owned(),
        (SlotState::Lost, _, Some(reason)) => format!("lost ({reason})"),
        (SlotState::Lost, ..) => "lost".to_owned(),
        (_, Some(pid), _) => format!("active (pid {pid})"),
        _ => "idle".to_owned(),
    };
    let left = match (source.slot_state, source.safe_bytes) {
        (SlotState::Missing | SlotState::Lost, _) => "–".to_owned(),
        (_, Some(bytes)) => size(bytes),
        (_, None) => "no limit".to_owned(),
    };
    row([
        &source.name,
        if source.is_running { "running" } else { "none" },
        &source.slot,
        &state,
        or_dash(&source.confirmed_lsn),
        &source.held_bytes.map_or("–".to_owned(), size),
        &left,
        if source.has_publication { "present" } else { "missing" },
    ])
}

fn or_dash(text: &Option<String>) -> &str {
    text.as_deref().unwrap_or("–")
}
