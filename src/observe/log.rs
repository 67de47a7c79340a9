//! Logs to stderr: text on a terminal, JSON lines elsewhere. Every line goes through the mask, so that no secret can
//! pass by way of a server's words.

use std::io::{self, IsTerminal, Write};

use opentelemetry_sdk::trace::Tracer;
use tracing::Metadata;
use tracing_subscriber::filter::{EnvFilter, FilterExt, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use super::progress;
use crate::config::SecretMask;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For eyes.
    Text,
    /// One object per line.
    Json,
}

impl LogFormat {
    /// What was asked for, or what suits stderr.
    pub fn chosen(asked: Option<LogFormat>) -> LogFormat {
        let suits = if io::stderr().is_terminal() { LogFormat::Text } else { LogFormat::Json };
        asked.unwrap_or(suits)
    }
}

/// Starts logging. `RUST_LOG` filters as usual; without it, everything from info on. Events are for the log, spans for
/// traces, where somebody wants them.
pub fn start(format: Option<LogFormat>, mask: SecretMask, traces: Option<Tracer>) {
    let is_terminal = io::stderr().is_terminal();
    let format = LogFormat::chosen(format);
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt::layer().with_writer(Masked(mask)).with_target(false);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(is_terminal).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let spans = traces.map(|tracer| {
        let layer = tracing_opentelemetry::layer().with_tracer(tracer);
        let layer = layer.with_location(false).with_threads(false).with_target(false).with_level(false);
        let is_ours = |of: &Metadata<'_>| of.is_span() && of.target().starts_with("trucker::");
        layer.with_tracked_inactivity(false).with_filter(filter_fn(is_ours))
    });
    let lines = lines.with_filter(filter.and(filter_fn(|of: &Metadata<'_>| of.is_event())));
    // Starting twice in one process is no reason to fail: the first one stays.
    let _ = tracing_subscriber::registry().with(lines).with(spans).try_init();
}

struct Masked(SecretMask);

struct MaskedLine {
    mask: SecretMask,
    line: Vec<u8>,
}

impl<'a> MakeWriter<'a> for Masked {
    type Writer = MaskedLine;

    fn make_writer(&'a self) -> MaskedLine {
        MaskedLine { mask: self.0.clone(), line: Vec::new() }
    }
}

impl Write for MaskedLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for MaskedLine {
    fn drop(&mut self) {
        let text = String::from_utf8_lossy(&self.line);
        // A log that can't be written is no reason to stop loading rows.
        let line = self.mask.mask(&text);
        progress::above(|| drop(io::stderr().lock().write_all(line.as_bytes())));
    }
}
