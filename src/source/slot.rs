//! The replication slot: made once, kept for as long as the project lives, looked at before every use.

use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row};

use super::stream::StreamError;
use crate::change::Lsn;
use crate::config::PostgresConnection;
use crate::postgres::RawConnection;
use crate::postgres::ident::quote_literal;

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
    /// Where reading WAL begins, to have the whole of every transaction from `confirmed_flush_lsn` on.
    pub restart_lsn: Option<Lsn>,
    /// Process that streams from it.
    pub active_pid: Option<i32>,
    /// Why it can't be used any more.
    pub lost: Option<String>,
    /// Ends with the session that made it.
    pub is_temporary: bool,
    /// Postgres carries it over to standbys that ask for it (17 and later).
    pub is_failover: bool,
    /// Sends prepared transactions before they are committed.
    pub is_two_phase: bool,
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
    let failover = if server_version >= 170_000 { "failover" } else { "false" };
    let sql = format!(
        "SELECT database::text, plugin::text, confirmed_flush_lsn::text, active_pid, {lost}, temporary, {failover}, two_phase, \
         restart_lsn::text \
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
        is_failover: row.try_get(6)?,
        is_two_phase: row.try_get(7)?,
        restart_lsn: row.try_get::<_, Option<String>>(8)?.and_then(|text| text.parse().ok()),
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
    /// Somebody streams from it.
    pub is_active: bool,
}

/// Reads what a slot keeps; None if there is none of that name. On a standby, of what is replayed.
pub async fn fetch_retention(
    client: &Client,
    name: &str,
) -> Result<Option<Retention>, tokio_postgres::Error> {
    let sql = "SELECT (CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
                 ELSE pg_catalog.pg_current_wal_lsn() END - restart_lsn)::bigint, safe_wal_size, wal_status, \
               confirmed_flush_lsn::text, active FROM pg_catalog.pg_replication_slots WHERE slot_name = $1";
    let Some(row) = client.query_opt(sql, &[&name]).await? else { return Ok(None) };
    Ok(Some(Retention {
        held_bytes: row.try_get(0)?,
        safe_bytes: row.try_get(1)?,
        wal_status: row.try_get(2)?,
        confirmed_flush_lsn: row.try_get::<_, Option<String>>(3)?.and_then(|text| text.parse().ok()),
        is_active: row.try_get(4)?,
    }))
}

/// The statement that creates the slot.
pub fn create_sql(name: &str, is_failover: bool) -> String {
    let failover = if is_failover { ", failover => true" } else { "" };
    let name = quote_literal(name);
    format!("SELECT lsn FROM pg_catalog.pg_create_logical_replication_slot({name}, 'pgoutput'{failover})")
}

/// Creates the slot, to be carried over to standbys if `is_failover`, and answers the LSN that it starts at. Waits, however
/// long, for the transactions that were writing when it began, which `main`, a session of the main server, tells of; None if
/// `stop` came first. `other` is another session of the same server and role.
pub async fn create(
    client: &Client,
    other: &Client,
    main: &Client,
    name: &str,
    is_failover: bool,
    stop: impl Future<Output = ()>,
) -> Result<Option<Lsn>, tokio_postgres::Error> {
    let pid: i32 = client.query_one("SELECT pg_catalog.pg_backend_pid()", &[]).await?.try_get(0)?;
    let sql = format!("SELECT made.lsn::text FROM ({}) AS made", create_sql(name, is_failover));
    let creation = client.query_one(&sql, &[]);
    let lsn = |row: Row| Ok(row.try_get::<_, String>(0)?.parse().unwrap_or_default());
    tokio::pin!(creation, stop);
    loop {
        tokio::select! {
            row = &mut creation => return lsn(row?).map(Some),
            () = &mut stop => break,
            () = tokio::time::sleep(QUIET) => tell_blockers(main, "the replication slot's creation").await,
        }
    }
    // Only closing the connection, the server would wait on, make the slot at last, and keep WAL for nobody.
    other.execute("SELECT pg_catalog.pg_cancel_backend($1)", &[&pid]).await?;
    match creation.await {
        Ok(row) => lsn(row).map(Some),
        Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Has a slot that exists carried over to standbys from now on.
pub async fn make_failover(on: &PostgresConnection, name: &str) -> Result<(), StreamError> {
    let mut connection = RawConnection::connect(on).await?;
    let done = connection.query(&format!("ALTER_REPLICATION_SLOT {name} (FAILOVER true)")).await;
    done.map(drop).map_err(StreamError::from)
}

/// Does `work` while a temporary slot of the session's exists; it is given the slot's name and the LSN that it starts at.
/// Every transaction that commits from there on has begun after the call: all that were writing then have ended.
pub async fn with_temporary<T>(
    client: &Client,
    base: &str,
    work: impl AsyncFnOnce(&str, Lsn) -> Result<T, tokio_postgres::Error>,
) -> Result<T, tokio_postgres::Error> {
    let pid: i32 = client.query_one("SELECT pg_catalog.pg_backend_pid()", &[]).await?.try_get(0)?;
    let name = format!("{}_{pid}", &base[..base.len().min(50)]);
    let sql = "SELECT lsn::text FROM pg_catalog.pg_create_logical_replication_slot($1, 'pgoutput', temporary => true)";
    let lsn = client.query_one(sql, &[&name]).await?.try_get::<_, String>(0)?.parse().unwrap_or_default();
    let done = work(&name, lsn).await;
    // An open transaction, or a broken connection, would fail here and end the slot as well.
    let dropped = client.execute("SELECT pg_catalog.pg_drop_replication_slot($1)", &[&name]).await;
    let done = done?;
    dropped.map(|_| done)
}

/// Whether a transaction of the publication's has its commit record where a record that follows `lsn` may begin: right
/// there, or after the head of a page. `slot` must start at or before `lsn`, and goes up to there.
pub async fn has_commit_at(
    client: &Client,
    slot: &str,
    publication: &str,
    lsn: Lsn,
) -> Result<bool, tokio_postgres::Error> {
    const PAGE_HEAD_MAX: u64 = 40;
    let advance = "SELECT pg_catalog.pg_replication_slot_advance($1, $2::text::pg_lsn)";
    client.execute(advance, &[&slot, &lsn.to_string()]).await?;
    let upto = Lsn(lsn.0 + PAGE_HEAD_MAX + 1).to_string();
    // Message B, Begin, holds the commit's position in its first eight bytes.
    let sql = "SELECT substr(data, 2, 8) FROM pg_catalog.pg_logical_slot_peek_binary_changes($1, $2::text::pg_lsn, NULL, \
               'proto_version', '1', 'publication_names', $3) WHERE get_byte(data, 0) = ascii('B')";
    let commits = client.query(sql, &[&slot, &upto, &publication]).await?;
    let begins_near = |bytes: &[u8]| {
        let commit = bytes.try_into().map_or(0, u64::from_be_bytes);
        (lsn.0..=lsn.0 + PAGE_HEAD_MAX).contains(&commit)
    };
    let near = commits.iter().map(|row| row.try_get(0).map(begins_near)).collect::<Result<Vec<bool>, _>>()?;
    Ok(near.contains(&true))
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
