//! The replication slot: made once, kept for as long as the project lives, looked at before every use.

use std::time::Duration;

use tokio_postgres::Client;

use crate::change::Lsn;

/// How long creating a slot may wait before it is said for whom.
const QUIET: Duration = Duration::from_secs(5);

/// A slot as the server has it.
#[derive(Debug, Clone)]
pub struct Slot {
    /// Database that it decodes.
    pub database: Option<String>,
    /// Output plugin; None for a physical slot.
    pub plugin: Option<String>,
    /// What the server may forget WAL before.
    pub confirmed_flush_lsn: Option<Lsn>,
    /// Process that streams from it.
    pub active_pid: Option<i32>,
    /// Why it can't be used any more.
    pub lost: Option<String>,
    /// Ends with the session that made it.
    pub is_temporary: bool,
}

/// Reads a slot; None if there is none of that name.
pub async fn fetch(
    client: &Client,
    server_version: u32,
    name: &str,
) -> Result<Option<Slot>, tokio_postgres::Error> {
    let lost = match server_version {
        170_000.. => "coalesce(invalidation_reason, CASE WHEN wal_status = 'lost' THEN 'wal_removed' END)",
        160_000.. => "CASE WHEN wal_status = 'lost' THEN 'wal_removed' WHEN conflicting THEN 'conflict' END",
        _ => "CASE WHEN wal_status = 'lost' THEN 'wal_removed' END",
    };
    let sql = format!(
        "SELECT database::text, plugin::text, confirmed_flush_lsn::text, active_pid, {lost}, temporary \
         FROM pg_catalog.pg_replication_slots WHERE slot_name = $1"
    );
    let Some(row) = client.query_opt(&sql, &[&name]).await? else { return Ok(None) };
    Ok(Some(Slot {
        database: row.try_get(0)?,
        plugin: row.try_get(1)?,
        confirmed_flush_lsn: row.try_get::<_, Option<String>>(2)?.and_then(|text| text.parse().ok()),
        active_pid: row.try_get(3)?,
        lost: row.try_get(4)?,
        is_temporary: row.try_get(5)?,
    }))
}

/// The WAL that a slot keeps.
#[derive(Debug, Clone)]
pub struct Retention {
    /// Bytes kept.
    pub held_bytes: Option<i64>,
    /// Bytes that may still be written before the slot is in danger; None without a limit.
    pub safe_bytes: Option<i64>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// What the server may forget WAL before.
    pub confirmed_flush_lsn: Option<Lsn>,
}

/// Reads what a slot keeps; None if there is none of that name.
pub async fn fetch_retention(
    client: &Client,
    name: &str,
) -> Result<Option<Retention>, tokio_postgres::Error> {
    let sql = "SELECT (pg_catalog.pg_current_wal_lsn() - restart_lsn)::bigint, safe_wal_size, wal_status, \
               confirmed_flush_lsn::text FROM pg_catalog.pg_replication_slots WHERE slot_name = $1";
    let Some(row) = client.query_opt(sql, &[&name]).await? else { return Ok(None) };
    Ok(Some(Retention {
        held_bytes: row.try_get(0)?,
        safe_bytes: row.try_get(1)?,
        wal_status: row.try_get(2)?,
        confirmed_flush_lsn: row.try_get::<_, Option<String>>(3)?.and_then(|text| text.parse().ok()),
    }))
}

/// Creates the slot and answers the LSN that it starts at. Waits, however long, for the transactions that were
/// writing when it began; dropping the future cancels it, and the server drops the half-made slot.
pub async fn create(client: &Client, other: &Client, name: &str) -> Result<Lsn, tokio_postgres::Error> {
    let sql = "SELECT lsn::text FROM pg_catalog.pg_create_logical_replication_slot($1, 'pgoutput')";
    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&name];
    let creation = client.query_one(sql, &params);
    tokio::pin!(creation);
    loop {
        tokio::select! {
            row = &mut creation => return Ok(row?.try_get::<_, String>(0)?.parse().unwrap_or_default()),
            () = tokio::time::sleep(QUIET) => tell_blockers(other, "the replication slot's creation").await,
        }
    }
}

/// Says which open transactions something waits for. A failure to find out is none of the waiting one's.
pub async fn tell_blockers(client: &Client, waiting: &str) {
    let sql = "SELECT string_agg(who, ', ') FROM (
                 SELECT 'pid ' || pid || ' (' || coalesce(nullif(application_name, ''), usename::text) || ', since '
                        || to_char(xact_start, 'HH24:MI:SS') || ' UTC)' AS who
                 FROM pg_catalog.pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_catalog.pg_backend_pid()
                 UNION ALL SELECT 'prepared transaction ' || quote_literal(gid) FROM pg_catalog.pg_prepared_xacts
               ) AS writers";
    let found = client.query_one(sql, &[]).await;
    let who = found.ok().and_then(|row| row.try_get::<_, Option<String>>(0).ok().flatten());
    let who = who.unwrap_or_else(|| "transactions that can't be named".to_owned());
    tracing::warn!(event = "waiting_for_transactions", "{waiting} waits for open transactions to end: {who}");
}
