//! `trucker run`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::config::Loaded;
use crate::engine::prepare::Creation;
use crate::engine::{self, Ended, Options, Until};
use crate::observe::board::Board;
use crate::observe::log::{self, LogFormat};
use crate::observe::notify::Notifier;
use crate::observe::otel::{self, Traces};
use crate::observe::{http, progress};

/// Where a run can be looked at, if nobody says where.
const HTTP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8484);

/// What can be said about it.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The project's folder
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Backfill, load everything that was committed before the start, and exit
    #[arg(long)]
    once: bool,
    /// Create nothing on any server; say what is missing instead (`trucker plan --sql` prints it)
    #[arg(long)]
    no_create: bool,
    /// Where to serve the page, /metrics, /status, /livez and /readyz; `off` for nowhere [default: 127.0.0.1:8484]
    #[arg(long, value_name = "ADDR")]
    http: Option<Http>,
    /// Log SQL that takes this long, with its pipeline and file; `off` for never
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = slow_query)]
    slow_query: Duration,
}

/// An address to serve at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Http {
    Off,
    At(SocketAddr),
}

impl FromStr for Http {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Http::Off);
        }
        let address = text.replacen("localhost:", "127.0.0.1:", 1);
        let help =
            "expected an address with a port, such as 127.0.0.1:8484, 0.0.0.0:8484 or [::1]:8484, or `off`";
        address.parse().map(Http::At).map_err(|_| help.to_owned())
    }
}

fn slow_query(text: &str) -> Result<Duration, String> {
    if text == "off" {
        return Ok(Duration::MAX);
    }
    humantime::parse_duration(text)
        .map_err(|_| "expected a duration such as 5s, 500ms or 2min, or `off`".to_owned())
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
    let outcome = super::block_on(run_loaded(&arguments, &loaded, format));
    traces.end();
    match outcome {
        Ok(code) => code,
        Err(error) => super::cannot_start(&error),
    }
}

async fn run_loaded(arguments: &Arguments, loaded: &Loaded, format: Option<LogFormat>) -> ExitCode {
    let until = if arguments.once { Until::CaughtUp } else { Until::Shutdown };
    let creation = if arguments.no_create { Creation::Forbidden } else { Creation::Allowed };
    let options = Options { until, slow_query: arguments.slow_query, creation };
    let board = Arc::new(Board::new(loaded.project.checkpoint_name(), loaded.secrets.clone()));
    let _served = match listen(arguments.http).await {
        Ok(listener) => listener.map(|l| AbortOnDropHandle::new(tokio::spawn(http::serve(l, board.clone())))),
        Err(why) => {
            eprintln!("error: {why}");
            return ExitCode::from(2);
        }
    };
    let has_foot = LogFormat::chosen(format) == LogFormat::Text;
    let told = tokio::spawn(progress::tell(board.clone(), has_foot));
    let notifier = Notifier::from_environment();
    let _notified = notifier.map(|n| AbortOnDropHandle::new(tokio::spawn(n.follow(board.subscribe()))));
    let (stop, stopping) = watch::channel(false);
    let signals = tokio::spawn(wait_for_signals(stop));
    let outcome = engine::run(&loaded.project, options, stopping, &board).await;
    signals.abort();
    told.abort();
    // What it had at the foot of the terminal is gone once it has ended.
    told.await.ok();
    match outcome {
        Ok(Ended::Well) => ExitCode::SUCCESS,
        Ok(Ended::WithFailures) => ExitCode::from(1),
        Ok(Ended::Fenced) => ExitCode::from(5),
        Err(error) => super::fail(error, loaded),
    }
}

/// Takes the address that was asked for, or else nobody's wish: that one may be taken, by a process that stands by on the
/// same machine, say.
async fn listen(asked: Option<Http>) -> Result<Option<TcpListener>, String> {
    let address = match asked {
        Some(Http::Off) => return Ok(None),
        Some(Http::At(address)) => address,
        None => HTTP,
    };
    let listener = match (http::bind(address).await, asked) {
        (Ok(listener), _) => listener,
        (Err(error), None) => {
            tracing::warn!(event = "http_unavailable", address = %address,
                "{address} can't be listened on ({error}): running without page and metrics; `--http` takes another address");
            return Ok(None);
        }
        (Err(error), Some(_)) => {
            return Err(format!(
                "{address} can't be listened on: {error}. Give `--http` another address, or `off`"
            ));
        }
    };
    let address = listener.local_addr().map_err(|error| format!("--http {address}: {error}"))?;
    tracing::info!(event = "listening", address = %address, "page and metrics at http://{address}");
    Ok(Some(listener))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_off_or_has_a_port() {
        let at = |text: &str| Http::At(text.parse().unwrap());
        for (text, expected) in [
            ("off", Ok(Http::Off)),
            ("0.0.0.0:9000", Ok(at("0.0.0.0:9000"))),
            ("[::1]:9000", Ok(at("[::1]:9000"))),
            ("localhost:0", Ok(at("127.0.0.1:0"))),
            ("9000", Err(())),
            (":9000", Err(())),
            ("example.org:80", Err(())),
            ("127.0.0.1", Err(())),
        ] {
            assert_eq!(text.parse::<Http>().map_err(drop), expected, "{text}");
        }
    }

    #[test]
    fn a_slow_query_is_a_duration_or_off() {
        assert_eq!(slow_query("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(slow_query("off"), Ok(Duration::MAX));
        assert!(slow_query("5").is_err());
    }
}
