//! Requests, in column `request` of the checkpoint: each goes away in the transaction that does it, so that none is done
//! twice.

use tokio_postgres::Client;

use crate::sink::{Asked, CheckpointKey, Failure, Request, SinkError};

/// Leaves a request in place of the one that was seen there. With `failure`, only if the pipeline still stands at that
/// one. Whether the request was left.
pub async fn leave(
    client: &Client,
    key: &CheckpointKey,
    asked: &Asked,
    seen: Option<&Request>,
    failure: Option<&Failure>,
) -> Result<bool, SinkError> {
    let text = serde_json::to_string(asked).unwrap_or_default();
    let sql = "UPDATE trucker.checkpoint SET request = $3::text::jsonb || \
               pg_catalog.jsonb_build_object('at', pg_catalog.clock_timestamp()) WHERE project = $1 AND pipeline = $2 \
               AND CASE WHEN request ->> 'refused' IS NULL THEN request END IS NOT DISTINCT FROM $4::text::jsonb \
               AND ($5::text IS NULL OR failure ->> 'since' = $5)";
    let seen = seen.map(|request| request.text.as_str());
    let since = failure.map(|failure| failure.since.clone().unwrap_or_default());
    let done = client.execute(sql, &[&key.project, &key.pipeline, &text, &seen, &since]).await;
    done.map(|rows| rows == 1).map_err(SinkError::at("leaving a request beside the checkpoint"))
}

/// All requests of a project, by pipeline.
pub async fn fetch(client: &Client, project: &str) -> Result<Vec<(String, Request)>, SinkError> {
    let sql = "SELECT pipeline, request::text FROM trucker.checkpoint \
               WHERE project = $1 AND request IS NOT NULL ORDER BY pipeline";
    let rows = client.query(sql, &[&project]).await;
    let found = rows.and_then(|rows| rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect());
    let found: Vec<(String, String)> = found.map_err(SinkError::at("looking for requests"))?;
    Ok(found.into_iter().filter_map(|(pipeline, text)| Some((pipeline, Request::parse(text)?))).collect())
}

/// Takes a request away that is seen to, and with it what it was about: the pipeline tries again.
pub async fn clear(client: &Client, key: &CheckpointKey, request: &Request) -> Result<(), SinkError> {
    let sql = "UPDATE trucker.checkpoint SET request = NULL, failure = NULL \
               WHERE project = $1 AND pipeline = $2 AND request = $3::text::jsonb";
    let done = client.execute(sql, &[&key.project, &key.pipeline, &request.text]).await;
    done.map(drop).map_err(SinkError::at("taking a request"))
}

/// Puts in a request's place, until the next, why it can't be done.
pub async fn refuse(
    client: &Client,
    key: &CheckpointKey,
    request: &Request,
    reason: &str,
) -> Result<(), SinkError> {
    let sql = "UPDATE trucker.checkpoint SET request = pg_catalog.jsonb_build_object('refused', $4::text) \
               WHERE project = $1 AND pipeline = $2 AND request = $3::text::jsonb";
    let done = client.execute(sql, &[&key.project, &key.pipeline, &request.text, &reason]).await;
    done.map(drop).map_err(SinkError::at("refusing a request"))
}

/// Forgets where a pipeline is that this process has, as it was asked to. Whether it was this process's still, and
/// asked for still.
pub async fn refill(
    client: &Client,
    key: &CheckpointKey,
    epoch: i64,
    request: &Request,
) -> Result<bool, SinkError> {
    let sql = "UPDATE trucker.checkpoint SET phase = 'backfill', loaded_lsn = NULL, seam_snapshot = NULL, \
               seam_bound = NULL, failure = NULL, request = NULL, updated_at = pg_catalog.now() \
               WHERE project = $1 AND pipeline = $2 AND epoch = $3 AND request = $4::text::jsonb";
    let done = client.execute(sql, &[&key.project, &key.pipeline, &epoch, &request.text]).await;
    done.map(|rows| rows == 1).map_err(SinkError::at("resetting the checkpoint"))
}
