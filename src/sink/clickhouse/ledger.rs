//! What trucker keeps in a ClickHouse database: table `trucker_checkpoint`, in which the last word counts.
//!
//! There are no transactions and no compare-and-set, so each entry has one author. A pipeline's *state* (checkpoint and
//! failure) is its process's; its version is the epoch and a count, so that a process that lost the pipeline can't make
//! its word count again. A *request* is whoever asks for something's, and the *answer*, which names the request that it is
//! about, the process's again: a request stands until its very text is answered, so none is lost and none done for another.
//! Between looking and writing there is a moment in which two processes pass each other; what that can do is in
//! docs/guarantees.md.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::dead_letter;
use crate::change::Lsn;
use crate::checkpoint::Seam;
use crate::clickhouse::{Client, quote_text};
use crate::sink::{Checkpoint, CheckpointKey, Claim, Failure, Goal, Origin, Request, SinkError};

pub(super) const TABLE: &str = "trucker_checkpoint";

/// Also after a power cut, what was acknowledged is there.
pub(super) const DURABLE: &str = "fsync_after_insert = 1, fsync_part_directory = 1";

/// How statements of ours are run: answered when they are done, and read where they were written.
pub(super) const SETTINGS: &[(&str, &str)] = &[
    ("async_insert", "0"),
    ("select_sequential_consistency", "1"),
    ("lightweight_deletes_sync", "2"),
    // A request, and its answer, may name thousands of keys.
    ("max_query_size", "67108864"),
];

/// A pipeline's state.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct State {
    epoch: i64,
    /// Of writes within the epoch.
    count: u64,
    loaded_lsn: Option<String>,
    system_identifier: String,
    timeline: u32,
    slot: String,
    source_database: String,
    output_table: Option<String>,
    input_tables: Option<String>,
    published: Option<String>,
    sql_hash: Option<String>,
    backfilled_sql_hash: Option<String>,
    delay_ms: Option<u64>,
    seam_snapshot: Option<String>,
    seam_bound: Option<String>,
    pub(super) failure: Option<Failure>,
}

/// What became of a request.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Answer {
    request: String,
    refused: Option<String>,
}

/// All that is kept of one pipeline.
#[derive(Debug, Clone, Default)]
pub(super) struct Entry {
    pub(super) project: String,
    pub(super) pipeline: String,
    pub(super) state: Option<State>,
    request: Option<String>,
    answer: Option<Answer>,
    age: Duration,
}

impl Entry {
    /// A request that isn't answered.
    pub(super) fn pending(&self) -> Option<Request> {
        let text = self.request.as_ref()?;
        let is_answered = self.answer.as_ref().is_some_and(|answer| answer.request == *text);
        if is_answered { None } else { Request::parse(text.clone()) }
    }

    fn checkpoint(&self) -> Option<Checkpoint> {
        let state = self.state.as_ref()?;
        let lsn = |text: &Option<String>| text.as_ref().and_then(|text| text.parse::<Lsn>().ok());
        let snapshot = state.seam_snapshot.as_ref().and_then(|text| text.parse().ok());
        let answered = self.answer.as_ref().filter(|answer| self.request.as_ref() == Some(&answer.request));
        let refused = answered.and_then(|answer| answer.refused.clone());
        Some(Checkpoint {
            pipeline: self.pipeline.clone(),
            epoch: state.epoch,
            loaded_lsn: lsn(&state.loaded_lsn),
            origin: Origin {
                system_identifier: state.system_identifier.clone(),
                timeline: state.timeline,
                slot: state.slot.clone(),
                database: state.source_database.clone(),
            },
            output_table: state.output_table.clone(),
            input_tables: state.input_tables.clone(),
            published: state.published.clone(),
            delay: state.delay_ms.map(Duration::from_millis),
            sql_hash: state.sql_hash.clone(),
            backfilled_sql_hash: state.backfilled_sql_hash.clone(),
            seam: snapshot.zip(lsn(&state.seam_bound)).map(|(snapshot, bound)| Seam { snapshot, bound }),
            age: self.age,
            failure: state.failure.clone().map(|failure| Failure { refused: refused.clone(), ..failure }),
            request: self.pending(),
            refused,
        })
    }
}

/// Creates what is missing.
pub async fn ensure_tables(client: &Client) -> Result<(), SinkError> {
    for sql in tables_sql() {
        let what = "creating trucker_checkpoint (needs CREATE TABLE on the output database)";
        client.execute(&sql, SETTINGS).await.map_err(SinkError::clickhouse(what))?;
    }
    Ok(())
}

/// Both tables' names.
pub const TABLES: [&str; 2] = [TABLE, dead_letter::TABLE];

/// What is done with them.
pub const TABLE_RIGHTS: &[&str] = &["SELECT", "INSERT", "ALTER DELETE"];

/// Whether both tables are there.
pub async fn is_complete(client: &Client) -> Result<bool, SinkError> {
    Ok(exists(client, TABLE).await? && exists(client, dead_letter::TABLE).await?)
}

/// The statements that create them.
pub fn tables_sql() -> [String; 2] {
    let checkpoint = format!(
        "CREATE TABLE IF NOT EXISTS {TABLE} (project String, pipeline String, part LowCardinality(String), \
         version UInt128, value String, updated_at DateTime64(6, 'UTC') DEFAULT now64(6)) \
         ENGINE = ReplacingMergeTree(version) ORDER BY (project, pipeline, part) SETTINGS {DURABLE} \
         COMMENT 'How far each pipeline of trucker has loaded; read it with FINAL. Written by trucker only.'"
    );
    [checkpoint, dead_letter::table()]
}

/// Notes what the pipeline's SQL is known by from now on.
pub async fn note_sql(
    client: &Client,
    key: &CheckpointKey,
    epoch: i64,
    sql_hash: &str,
) -> Result<(), SinkError> {
    let Some((_, state)) = own_state(client, key, epoch).await? else { return Ok(()) };
    let sql_hash = Some(sql_hash.to_owned());
    put_state(client, key, &State { count: state.count + 1, sql_hash, ..state }).await
}

pub(super) async fn exists(client: &Client, table: &str) -> Result<bool, SinkError> {
    let sql = format!(
        "SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = {}",
        quote_text(table)
    );
    let answer = client.select(&sql, SETTINGS).await.map_err(SinkError::clickhouse("looking for a table"))?;
    Ok(answer.first() != Some("0"))
}

/// Entries that a condition picks.
pub(super) async fn fetch(client: &Client, condition: &str) -> Result<Vec<Entry>, SinkError> {
    if !exists(client, TABLE).await? {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT project, pipeline, part, value, greatest(0, date_diff('second', updated_at, now64(6))) \
         FROM {TABLE} FINAL WHERE {condition} ORDER BY project, pipeline"
    );
    let reading = || SinkError::clickhouse("reading trucker_checkpoint");
    let answer = client.select(&sql, SETTINGS).await.map_err(reading())?;
    let mut entries: Vec<Entry> = Vec::new();
    for row in answer.rows {
        let [Some(project), Some(pipeline), Some(part), Some(value), age] = &row[..] else { continue };
        if entries.last().is_none_or(|last| (&last.project, &last.pipeline) != (project, pipeline)) {
            let (project, pipeline) = (project.clone(), pipeline.clone());
            entries.push(Entry { project, pipeline, ..Entry::default() });
        }
        let Some(entry) = entries.last_mut() else { continue };
        match part.as_str() {
            "state" => {
                // Taking what can't be read for nothing would fill the pipeline anew.
                let state = serde_json::from_str(value);
                entry.state = Some(state.map_err(|e| SinkError::Ledger(format!("{pipeline}: {e}")))?);
                let age = age.as_ref().and_then(|age| age.parse().ok()).unwrap_or_default();
                entry.age = Duration::from_secs(age);
            }
            "request" => entry.request = Some(value.clone()),
            "answer" => entry.answer = serde_json::from_str(value).ok(),
            _ => {}
        }
    }
    Ok(entries)
}

pub(super) async fn fetch_entry(client: &Client, key: &CheckpointKey) -> Result<Option<Entry>, SinkError> {
    let (project, pipeline) = (quote_text(&key.project), quote_text(&key.pipeline));
    let found = fetch(client, &format!("project = {project} AND pipeline = {pipeline}")).await?;
    Ok(found.into_iter().next())
}

pub(super) async fn put(
    client: &Client,
    key: &CheckpointKey,
    part: &str,
    version: &str,
    value: &str,
) -> Result<(), SinkError> {
    let sql = format!(
        "INSERT INTO {TABLE} (project, pipeline, part, version, value) SELECT {}, {}, {}, {version}, {}",
        quote_text(&key.project),
        quote_text(&key.pipeline),
        quote_text(part),
        quote_text(value)
    );
    client.execute(&sql, SETTINGS).await.map_err(SinkError::clickhouse("writing trucker_checkpoint"))
}

pub(super) async fn put_state(client: &Client, key: &CheckpointKey, state: &State) -> Result<(), SinkError> {
    let version = (state.epoch as u128) << 64 | u128::from(state.count);
    let value = serde_json::to_string(state).unwrap_or_default();
    put(client, key, "state", &format!("toUInt128('{version}')"), &value).await
}

/// By the server's clock: who speaks last is heard.
pub(super) const NOW: &str = "toUInt128(toUnixTimestamp64Micro(now64(6)))";

pub(super) async fn put_answer(
    client: &Client,
    key: &CheckpointKey,
    request: &Request,
    refused: Option<String>,
) -> Result<(), SinkError> {
    let answer = Answer { request: request.text.clone(), refused };
    put(client, key, "answer", NOW, &serde_json::to_string(&answer).unwrap_or_default()).await
}

/// All checkpoints of a project.
pub async fn fetch_all(client: &Client, project: &str) -> Result<Vec<Checkpoint>, SinkError> {
    let entries = fetch(client, &format!("project = {}", quote_text(project))).await?;
    Ok(entries.iter().filter_map(Entry::checkpoint).collect())
}

/// One checkpoint.
pub async fn fetch_one(client: &Client, key: &CheckpointKey) -> Result<Option<Checkpoint>, SinkError> {
    Ok(fetch_entry(client, key).await?.as_ref().and_then(Entry::checkpoint))
}

/// More writes than can be under way.
const STRIDE: u64 = 1000;

/// The same for the process that has it, after it lost its connection: what it had sent before and arrives only now
/// doesn't count any more.
pub async fn fetch_settled(
    client: &Client,
    key: &CheckpointKey,
    epoch: i64,
) -> Result<Option<Checkpoint>, SinkError> {
    if let Some((_, state)) = own_state(client, key, epoch).await? {
        put_state(client, key, &State { count: state.count + STRIDE, ..state }).await?;
    }
    fetch_one(client, key).await
}

/// Takes the pipeline.
pub async fn claim(client: &Client, key: &CheckpointKey, claim: Claim<'_>) -> Result<Checkpoint, SinkError> {
    let mut entry = fetch_entry(client, key).await?.unwrap_or_default();
    let before = entry.state.take().unwrap_or_default();
    // Not the next number: of two processes that claim at the same time, one is above the other.
    let ahead = 1 + (RandomState::new().build_hasher().finish() >> 44) as i64;
    let state = State {
        epoch: before.epoch + ahead,
        count: 0,
        system_identifier: claim.origin.system_identifier.clone(),
        timeline: claim.origin.timeline,
        slot: claim.origin.slot.clone(),
        source_database: claim.origin.database.clone(),
        output_table: claim.output_table.map(str::to_owned),
        input_tables: Some(claim.input_tables.to_owned()),
        published: claim.published.map(str::to_owned),
        sql_hash: Some(claim.sql_hash.to_owned()),
        failure: None,
        ..before
    };
    put_state(client, key, &state).await?;
    let entry = Entry { pipeline: key.pipeline.clone(), state: Some(state), ..entry };
    let unreadable = || SinkError::Ledger(format!("{}: it has no state", key.pipeline));
    entry.checkpoint().ok_or_else(unreadable)
}

/// The state, if it is still this process's.
pub(super) async fn own_state(
    client: &Client,
    key: &CheckpointKey,
    epoch: i64,
) -> Result<Option<(Entry, State)>, SinkError> {
    let Some(mut entry) = fetch_entry(client, key).await? else { return Ok(None) };
    let state = entry.state.take().filter(|state| state.epoch == epoch);
    Ok(state.map(|state| (entry, state)))
}

/// Proof that the pipeline was this process's a moment ago, where it had left it; with it the checkpoint can be moved.
#[derive(Debug)]
pub struct Held(State);

/// Sees that the pipeline is still this process's, where it had left it.
pub async fn hold(
    client: &Client,
    key: &CheckpointKey,
    epoch: i64,
    loaded: Option<Lsn>,
) -> Result<Held, SinkError> {
    let held = own_state(client, key, epoch).await?.map(|(_, state)| state);
    let text = loaded.map(|lsn| lsn.to_string());
    let fenced =
        || SinkError::Fenced { pipeline: key.pipeline.clone(), expected: loaded.unwrap_or_default() };
    held.filter(|state| state.loaded_lsn == text).map(Held).ok_or_else(fenced)
}

/// Moves the checkpoint.
pub async fn advance(
    client: &Client,
    key: &CheckpointKey,
    held: Held,
    goal: &Goal<'_>,
) -> Result<(), SinkError> {
    let Goal { loaded_lsn, commit_time, seam, done } = goal;
    let is_backfill = held.0.loaded_lsn.is_none();
    let hash = if is_backfill { &held.0.sql_hash } else { &held.0.backfilled_sql_hash };
    let backfilled_sql_hash = hash.clone();
    let state = State {
        count: held.0.count + 1,
        loaded_lsn: Some(loaded_lsn.to_string()),
        seam_snapshot: seam.as_ref().map(|seam| seam.snapshot.to_string()),
        seam_bound: seam.as_ref().map(|seam| seam.bound.to_string()),
        failure: None,
        backfilled_sql_hash,
        delay_ms: commit_time.map(delay_ms),
        ..held.0
    };
    put_state(client, key, &state).await?;
    match done {
        Some(request) => put_answer(client, key, request, None).await,
        None => Ok(()),
    }
}

/// How long ago that was, by this machine's clock.
fn delay_ms(commit_time: i64) -> u64 {
    const EPOCH: Duration = Duration::from_secs(946_684_800);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let since = now.saturating_sub(EPOCH + Duration::from_micros(commit_time.unsigned_abs()));
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl State {
    /// The next write of the same epoch, without a failure.
    pub(super) fn mended(self) -> State {
        State { count: self.count + 1, failure: None, ..self }
    }
}

pub(super) fn emptied(state: State, failure: Option<Failure>) -> State {
    State {
        count: state.count + 1,
        loaded_lsn: None,
        seam_snapshot: None,
        seam_bound: None,
        failure,
        ..state
    }
}

/// Forgets where the pipeline was.
pub async fn reset(client: &Client, key: &CheckpointKey) -> Result<(), SinkError> {
    let Some(entry) = fetch_entry(client, key).await? else { return Ok(()) };
    let request = entry.pending();
    let Some(state) = entry.state else { return Ok(()) };
    let epoch = state.epoch + 1;
    put_state(client, key, &State { epoch, count: 0, ..emptied(state, None) }).await?;
    match request {
        Some(request) => put_answer(client, key, &request, None).await,
        None => Ok(()),
    }
}

/// Whether other pipelines' checkpoints name that output table.
pub async fn has_other_writers(
    client: &Client,
    key: &CheckpointKey,
    table: &str,
    pipelines: &[String],
) -> Result<bool, SinkError> {
    let entries = fetch(client, "part = 'state'").await?;
    Ok(entries.iter().any(|entry| {
        let is_other = (&entry.project, &entry.pipeline) != (&key.project, &key.pipeline);
        let counts = entry.project != key.project || pipelines.contains(&entry.pipeline);
        let written = entry.state.as_ref().and_then(|state| state.output_table.as_deref());
        is_other && counts && written == Some(table)
    }))
}

/// Notes a failure.
pub async fn record_failure(
    client: &Client,
    key: &CheckpointKey,
    epoch: i64,
    failure: &Failure,
) -> Result<(), SinkError> {
    let Some((_, state)) = own_state(client, key, epoch).await? else { return Ok(()) };
    let failure = since_now(client, failure).await?;
    put_state(client, key, &State { count: state.count + 1, failure: Some(failure), ..state }).await
}

pub(super) async fn since_now(client: &Client, failure: &Failure) -> Result<Failure, SinkError> {
    let sql = "SELECT formatDateTime(now64(6, 'UTC'), '%Y-%m-%dT%H:%i:%S.%f+00:00')";
    let now = client.select(sql, SETTINGS).await.map_err(SinkError::clickhouse("asking for the time"))?;
    Ok(Failure { since: now.first().map(str::to_owned), ..failure.clone() })
}

/// Gives up the place of a pipeline that this process has; whether it was its still.
pub async fn give_up(
    client: &Client,
    key: &CheckpointKey,
    epoch: i64,
    failure: &Failure,
) -> Result<bool, SinkError> {
    let Some((_, state)) = own_state(client, key, epoch).await? else { return Ok(false) };
    let failure = since_now(client, failure).await?;
    put_state(client, key, &emptied(state, Some(failure))).await?;
    Ok(true)
}
