//! `trucker run`.

use std::path::PathBuf;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::engine::{self, Ended, Until};
use crate::observe::log::{self, LogFormat};
use crate::observe::otel::{self, Traces};

/// What can be said about it.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The project's folder
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Backfill, load everything that was committed before the start, and exit
    #[arg(long)]
    once: bool,
}

/// Runs until SIGINT or SIGTERM; a second one ends at once.
pub fn run(arguments: Arguments, format: Option<LogFormat>) -> ExitCode {
    let loaded = match super::read(&arguments.dir).and_then(super::with_pipelines) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let mask = loaded.secrets.and(otel::secrets());
    let traces = Traces::from_environment(&mask);
    log::start(format, mask, traces.tracer());
    traces.tell_problem();
    let until = if arguments.once { Until::CaughtUp } else { Until::Shutdown };
    let outcome = super::block_on(async {
        let (stop, stopping) = watch::channel(false);
        let signals = tokio::spawn(wait_for_signals(stop));
        let outcome = engine::run(&loaded.project, until, stopping).await;
        signals.abort();
        outcome
    });
    traces.end();
    match outcome {
        Ok(Ok(Ended::Well)) => ExitCode::SUCCESS,
        Ok(Ok(Ended::WithFailures)) => ExitCode::from(1),
        Ok(Ok(Ended::Fenced)) => ExitCode::from(5),
        Ok(Err(error)) => super::fail(&error, &loaded),
        Err(error) => super::cannot_start(&error),
    }
}

async fn wait_for_signals(stop: watch::Sender<bool>) {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        tracing::error!(event = "no_signals", "signals can't be caught: only kill -9 will end this process");
        return;
    };
    let mut next = async || {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
    };
    next().await;
    tracing::info!(event = "stopping", "finishing what is under way; once more to stop at once");
    stop.send_replace(true);
    next().await;
    // What is under way is undone by the servers, as after kill -9.
    std::process::exit(1);
}
