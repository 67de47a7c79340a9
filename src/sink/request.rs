//! What a person asks of a pipeline, left beside its checkpoint: there the process that has it finds it, now or when it
//! starts. A request goes away by comparing it with what was done, so that a later one is never lost.

use serde::{Deserialize, Serialize};

use super::failure::Failure;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Asked {
    /// Try again at the change that failed.
    Resume,
    /// Leave out the changes of these failures, one after the other of one transaction.
    Skip {
        /// All of the transaction.
        is_whole: bool,
        /// What failed.
        failures: Vec<Failure>,
    },
    /// Fill the output anew.
    Backfill,
    /// Make the rows under these keys anew.
    Repair {
        /// Texts, in the order of the output's key.
        keys: Vec<Vec<String>>,
    },
}

/// A request as it was left.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Its text, by which it is told from another.
    pub text: String,
    /// What is asked for.
    pub asked: Asked,
}

impl Request {
    /// From its text; None for what only a newer version understands.
    pub fn parse(text: String) -> Option<Self> {
        let asked = serde_json::from_str(&text).ok()?;
        Some(Request { text, asked })
    }

    /// Why it was refused, where that stands in its place.
    pub fn refusal(text: &str) -> Option<String> {
        let stands: serde_json::Value = serde_json::from_str(text).ok()?;
        stands.get("refused")?.as_str().map(str::to_owned)
    }
}
