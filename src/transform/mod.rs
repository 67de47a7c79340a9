//! The user's SQL over a batch of changes, on the source, read-only: templates → chain of LATERALs → query.
//! Knows nothing of replication or of how rows are written.

pub mod chain;
pub mod compile;
pub mod expected;
pub mod fingerprint;
mod mistakes;
pub mod query;
mod refused;
pub mod render;
pub mod resolve;
pub mod run;
pub mod sample;
pub mod scan;
pub mod visibility;

use std::path::PathBuf;

use crate::codes::Code;
use crate::config::template::Place;

/// What is wrong with a SQL file, or with what it is meant for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlProblem {
    /// Which kind of problem.
    pub code: Code,
    /// The file.
    pub path: PathBuf,
    /// Where in it, if it is about a place.
    pub place: Option<Place>,
    /// What is wrong; the server's words included.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// The cure is on a server, and the files are fine: a right is missing.
    pub is_refusal: bool,
}

impl SqlProblem {
    /// Whether mending one mends the other: the same at the same place, met for another operation.
    pub fn is_same_mistake(&self, other: &SqlProblem) -> bool {
        let is_there = self.place.is_some() && self.place == other.place;
        self == other || self.code == other.code && self.path == other.path && is_there
    }
}

impl std::fmt::Display for SqlProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(place) = self.place {
            write!(f, ":{}:{}", place.line, place.column)?;
        }
        write!(f, ": {}", self.message)?;
        self.help.as_ref().map_or(Ok(()), |help| write!(f, " ({help})"))
    }
}
