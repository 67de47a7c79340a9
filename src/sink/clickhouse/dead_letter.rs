//! Changes that a pipeline could not load, in `trucker_dead_letters`. The key is the change itself, so one that is recorded
//! again by a replay is there once, read with FINAL.

use bytes::Bytes;
use serde_json::json;

use super::ledger::{DURABLE, SETTINGS, exists};
use crate::clickhouse::{Client, quote_text};
use crate::sink::{CheckpointKey, DeadLetter, SinkError};

pub(super) const TABLE: &str = "trucker_dead_letters";

pub(super) fn table() -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {TABLE} (project String, pipeline String, commit_lsn String, ordinal UInt64, \
         xid UInt32, `table` String, operation LowCardinality(String), old Nullable(String), new Nullable(String), \
         error String, code Nullable(String), file Nullable(String), is_skipped Bool, \
         recorded_at DateTime64(6, 'UTC') DEFAULT now64(6)) \
         ENGINE = ReplacingMergeTree ORDER BY (project, pipeline, commit_lsn, ordinal) SETTINGS {DURABLE} \
         COMMENT 'Changes that pipelines of trucker could not load, or were told to skip; read it with FINAL. Rows may be deleted'"
    )
}

/// Records a change.
pub async fn record(client: &Client, key: &CheckpointKey, letter: &DeadLetter) -> Result<(), SinkError> {
    let row = json!({
        "project": key.project,
        "pipeline": key.pipeline,
        "commit_lsn": letter.commit_lsn.to_string(),
        "ordinal": letter.ordinal,
        "xid": letter.xid,
        "table": letter.table,
        "operation": letter.operation,
        "old": letter.old,
        "new": letter.new,
        "error": letter.error,
        "code": letter.sqlstate,
        "file": letter.file,
        "is_skipped": letter.is_skipped,
    });
    let sql = format!(
        "INSERT INTO {TABLE} (project, pipeline, commit_lsn, ordinal, xid, `table`, operation, old, new, error, code, \
         file, is_skipped) FORMAT JSONEachRow"
    );
    let what = "recording a change in trucker_dead_letters (needs INSERT there)";
    let body = Bytes::from(row.to_string());
    client.insert(&sql, SETTINGS, body).await.map_err(SinkError::clickhouse(what))
}

/// How many there are, by pipeline.
pub async fn count(client: &Client, project: &str) -> Result<Vec<(String, i64)>, SinkError> {
    if !exists(client, TABLE).await? {
        return Ok(Vec::new());
    }
    let project = quote_text(project);
    let sql =
        format!("SELECT pipeline, count() FROM {TABLE} FINAL WHERE project = {project} GROUP BY pipeline");
    let answer = client.select(&sql, SETTINGS).await;
    let answer = answer.map_err(SinkError::clickhouse("counting trucker_dead_letters"))?;
    let count = |row: Vec<Option<String>>| match &row[..] {
        [Some(pipeline), Some(count)] => Some((pipeline.clone(), count.parse().ok()?)),
        _ => None,
    };
    Ok(answer.rows.into_iter().filter_map(count).collect())
}
