//! Logs to stderr: text on a terminal, JSON lines elsewhere. Every line goes through the mask, so that no secret can
//! pass by way of a server's words.

use std::io::{self, IsTerminal, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

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

/// Starts logging. `RUST_LOG` filters as usual; without it, everything from info on.
pub fn start(format: Option<LogFormat>, mask: SecretMask) {
    let is_terminal = io::stderr().is_terminal();
    let format = LogFormat::chosen(format);
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(Masked(mask));
    // Starting twice in one process is no reason to fail: the first one stays.
    let _ = match format {
        LogFormat::Text => builder.with_ansi(is_terminal).with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_target(false).try_init(),
    };
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
