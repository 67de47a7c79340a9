//! Why a pipeline stands still, kept beside its checkpoint so that it can be read while nobody runs it. Never holds
//! a row's values.

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::checkpoint::CheckpointKey;
use super::dead_letter::{is_about_text, json_in_ascii};
use super::error::SinkError;

/// A pipeline's failure, as column `failure` of its checkpoint has it.
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
    /// From the column's text; a newer version's words are read as far as they go.
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

    fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|_| "{}".to_owned())
    }
}

/// Notes the failure of a pipeline that this process has.
pub async fn record(
    client: &Client,
    key: &CheckpointKey,
    epoch: i64,
    failure: &Failure,
) -> Result<(), SinkError> {
    let sql = "UPDATE trucker.checkpoint SET failure = $4::text::jsonb || \
               pg_catalog.jsonb_build_object('since', pg_catalog.now()) \
               WHERE project = $1 AND pipeline = $2 AND epoch = $3";
    let done = note(client, sql, key, epoch, failure).await;
    done.map(drop).map_err(SinkError::at("noting why the pipeline failed"))
}

/// Gives up the place of a pipeline that this process has: it needs a backfill. Whether it was still this process's.
pub async fn give_up(
    client: &Client,
    key: &CheckpointKey,
    epoch: i64,
    failure: &Failure,
) -> Result<bool, SinkError> {
    let sql = "UPDATE trucker.checkpoint SET phase = 'backfill', loaded_lsn = NULL, seam_snapshot = NULL, \
               seam_bound = NULL, updated_at = pg_catalog.now(), failure = $4::text::jsonb || \
               pg_catalog.jsonb_build_object('since', pg_catalog.now()) \
               WHERE project = $1 AND pipeline = $2 AND epoch = $3";
    let done = note(client, sql, key, epoch, failure).await;
    done.map(|rows| rows == 1).map_err(SinkError::at("giving up the pipeline's place"))
}

async fn note(
    client: &Client,
    sql: &str,
    key: &CheckpointKey,
    epoch: i64,
    failure: &Failure,
) -> Result<u64, tokio_postgres::Error> {
    let json = failure.json();
    match client.execute(sql, &[&key.project, &key.pipeline, &epoch, &json]).await {
        Err(error) if is_about_text(&error) => {
            client.execute(sql, &[&key.project, &key.pipeline, &epoch, &json_in_ascii(&json)]).await
        }
        done => done,
    }
}
