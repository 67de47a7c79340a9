//! Why a pipeline stands still, kept beside its checkpoint so that it can be read while nobody runs it. Never holds
//! a row's values.

use serde::{Deserialize, Serialize};

/// A pipeline's failure, as it stands beside the checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Failure {
    /// What went wrong, in the words that the log has.
    pub error: String,
    /// Which kind of problem: `TRK0802`.
    pub code: Option<String>,
    /// The server's code.
    pub sqlstate: Option<String>,
    /// The SQL file.
    pub file: Option<String>,
    /// Start of the commit record of the transaction that it stands at.
    pub commit_lsn: Option<String>,
    /// Id of that transaction.
    pub xid: Option<u32>,
    /// Which of the pipeline's changes in that transaction, from 1; None if it is about the transaction as a whole.
    pub ordinal: Option<u64>,
    /// The input table.
    pub table: Option<String>,
    /// `insert`, `update`, `delete` or `truncate`.
    pub operation: Option<String>,
    /// Names of the columns that tell the table's rows.
    pub key: Vec<String>,
    /// Since when, by the output's clock.
    pub since: Option<String>,
    /// Its place was given up, so that it needs a backfill.
    pub is_given_up: bool,
    /// Why the running process didn't do what it was last asked for.
    pub refused: Option<String>,
}

impl Failure {
    /// From that text; a newer version's words are read as far as they go.
    pub fn parse(text: &str) -> Self {
        let unreadable = || Failure { error: text.to_owned(), ..Failure::default() };
        serde_json::from_str(text).unwrap_or_else(|_| unreadable())
    }

    /// The change or transaction that it stands at, in words.
    pub fn place(&self) -> Option<String> {
        let commit_lsn = self.commit_lsn.as_ref()?;
        let transaction = format!("the transaction that commits at {commit_lsn}");
        Some(match (self.ordinal, &self.operation, &self.table) {
            (Some(ordinal), Some(operation), Some(table)) => {
                format!("change {ordinal} of {transaction}: {operation} of {table}")
            }
            _ => transaction,
        })
    }

    /// As text.
    pub fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|_| "{}".to_owned())
    }
}
