//! Keeps a pipeline's failure in column `failure` of its checkpoint.

use tokio_postgres::Client;

use super::dead_letter::{is_about_text, json_in_ascii};
use crate::sink::{CheckpointKey, Failure, SinkError};

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
