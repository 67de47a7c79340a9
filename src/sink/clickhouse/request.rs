//! Requests, each with its answer: what is asked for stands until its very text is answered.

use super::ledger::{NOW, emptied, fetch, fetch_entry, own_state, put, put_answer, put_state, since_now};
use crate::clickhouse::{Client, quote_text};
use crate::sink::{Asked, CheckpointKey, Failure, Request, SinkError};

/// Forgets where a pipeline is that this process has, as it was asked to; whether it was its still, and asked for still.
pub async fn refill(
    client: &Client,
    key: &CheckpointKey,
    epoch: i64,
    request: &Request,
) -> Result<bool, SinkError> {
    let Some((entry, state)) = own_state(client, key, epoch).await? else { return Ok(false) };
    if entry.pending().as_ref() != Some(request) {
        return Ok(false);
    }
    put_state(client, key, &emptied(state, None)).await?;
    put_answer(client, key, request, None).await?;
    Ok(true)
}

/// Leaves a request in place of the one that was seen there; with `failure`, only if the pipeline still stands at that.
pub async fn leave(
    client: &Client,
    key: &CheckpointKey,
    asked: &Asked,
    seen: Option<&Request>,
    failure: Option<&Failure>,
) -> Result<bool, SinkError> {
    let Some(entry) = fetch_entry(client, key).await? else { return Ok(false) };
    let Some(state) = entry.state.as_ref().filter(|_| entry.pending().as_ref() == seen) else {
        return Ok(false);
    };
    let stands_there = |failure: &Failure| {
        state.failure.as_ref().is_some_and(|now| now.since.as_ref() == failure.since.as_ref())
    };
    if !failure.is_none_or(stands_there) {
        return Ok(false);
    }
    let mut text = serde_json::to_value(asked).unwrap_or_default();
    if let Some(object) = text.as_object_mut() {
        // So that asking twice for the same is two requests.
        let now = since_now(client, &Failure::default()).await?.since;
        object.insert("at".to_owned(), now.into());
    }
    put(client, key, "request", NOW, &text.to_string()).await?;
    Ok(true)
}

/// All requests of a project, by pipeline.
pub async fn fetch_requests(client: &Client, project: &str) -> Result<Vec<(String, Request)>, SinkError> {
    let entries = fetch(client, &format!("project = {}", quote_text(project))).await?;
    Ok(entries.iter().filter_map(|entry| Some((entry.pipeline.clone(), entry.pending()?))).collect())
}

/// Takes a request away that is seen to, and with it what it was about.
pub async fn clear(client: &Client, key: &CheckpointKey, request: &Request) -> Result<(), SinkError> {
    let entry = fetch_entry(client, key).await?;
    if let Some(state) = entry.and_then(|entry| entry.state).filter(|state| state.failure.is_some()) {
        put_state(client, key, &state.mended()).await?;
    }
    put_answer(client, key, request, None).await
}

/// Takes a request away that can't be done, and says why.
pub async fn refuse(
    client: &Client,
    key: &CheckpointKey,
    request: &Request,
    reason: &str,
) -> Result<(), SinkError> {
    put_answer(client, key, request, Some(reason.to_owned())).await
}
