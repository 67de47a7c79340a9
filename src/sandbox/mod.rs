//! Throwaway Postgres servers for `trucker demo`, `trucker test` and the project's own tests. Owns their
//! processes and folders, from initdb to the last file removed; knows nothing of projects or pipelines, and
//! never touches a server that it did not make.

mod binaries;
mod folder;
mod server;

use std::io;
use std::path::PathBuf;

pub use binaries::Binaries;
pub use folder::Folder;
pub use server::{PostgresServer, ServerOptions, StopMode};

/// Why a throwaway server could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// No server programs on this machine.
    #[error(
        "found no Postgres server programs (initdb, pg_ctl, postgres){wanted}; looked in $TRUCKER_PG_BIN, $PATH, \
         /usr/lib/postgresql/*/bin, /usr/local and `pg_config --bindir`\n\
         install them with `apt-get install postgresql`, or name their folder in TRUCKER_PG_BIN"
    )]
    NoBinaries {
        /// ` of version N`, where one was asked for.
        wanted: String,
    },
    /// Postgres refuses to run as root, and there is nobody else to run it as.
    #[error("Postgres does not run as root, and this machine has neither a user `postgres` nor `nobody`")]
    NoUser,
    /// One of Postgres's programs said no.
    #[error("{program} failed:\n{output}")]
    Program {
        /// Its name.
        program: &'static str,
        /// What it printed.
        output: String,
    },
    /// The server did not come up, or did not stop, in time.
    #[error("the Postgres server did not {action} within {seconds} s; the end of its log:\n{log}")]
    Timeout {
        /// `start` or `stop`.
        action: &'static str,
        /// How long was waited.
        seconds: u64,
        /// The last lines of its log.
        log: String,
    },
    /// The operating system said no.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's own words.
        source: io::Error,
    },
}

impl SandboxError {
    fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| SandboxError::Io { action, path, source }
    }
}
