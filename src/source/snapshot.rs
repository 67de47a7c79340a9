//! One snapshot that a backfill reads, and what the stream needs to know of it.
//!
//! The problem: the stream starts at some LSN, a snapshot is not an LSN, and a transaction whose commit record is
//! before the start may become visible only after the snapshot was taken (it waits for a synchronous standby, say):
//! then it would be in neither. Hence the order here:
//!
//! 1. `start_lsn` is read; the stream will begin there (and the slot is held there).
//! 2. A transaction id X2 is drawn. Whatever committed before `start_lsn` has a lower one.
//! 3. Snapshots are taken until one's xmin is beyond X2: all of those have ended, and it sees them.
//! 4. `bound` is read: whatever commits from there on, the snapshot doesn't see.
//!
//! The tables are locked in ACCESS SHARE before the snapshot: a TRUNCATE or a rewriting ALTER in between would leave
//! it with an empty table, and no error.
//!
//! On a standby none of this holds: its `pg_current_snapshot()` names no running transactions, and a snapshot can't be shared
//! with other sessions (`pg_export_snapshot()` there is wrong). But a standby applies one WAL record after another, so its
//! snapshots do have a position, but for the one record that is being applied: a commit is visible a moment before
//! the replay position moves beyond it. Hence [`open_on_standby`]:
//!
//! 1. A temporary slot is made on the main server. All that commits from its LSN on has begun after the publication was
//!    altered, and is sent whole; the standby is waited for until it has replayed that far.
//! 2. The replay position is read, the snapshot taken, the position read again. If it hasn't moved from A, the snapshot
//!    is what was committed before A, and perhaps one commit whose record begins at A.
//! 3. The slot tells whether there is such a commit of these tables. If so, another try; if not, A is exact: the stream
//!    is followed from there, and no transaction's visibility has to be asked.
//!
//! Pausing replay would spare the tries, but needs more rights, and a process that dies in between leaves the standby stopped.

use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::slot;
use crate::change::Lsn;
use crate::checkpoint::{Seam, Snapshot};
use crate::postgres::catalog::{Table, fetch_lsn, fetch_replay_lsn};
use crate::postgres::ident::quote_literal;

const PAUSE_MAX: Duration = Duration::from_millis(100);
const QUIET: Duration = Duration::from_secs(5);
/// How long a standby is tried that applies records without a break.
const STANDBY_PATIENCE: Duration = Duration::from_secs(15);

/// What a backfill reads, as the stream has to know it.
#[derive(Debug, Clone)]
pub struct BackfillSnapshot {
    /// Where the stream has to start for this pipeline.
    pub start_lsn: Lsn,
    /// Which of its transactions the backfill has read; None if none of them.
    pub seam: Option<Seam>,
}

/// Opens, on `client`, a read-only transaction that a backfill of these tables can read. `other` is another session
/// of the same primary.
pub async fn open(
    client: &Client,
    other: &Client,
    tables: &[&Table],
) -> Result<BackfillSnapshot, tokio_postgres::Error> {
    let start_lsn = fetch_lsn(other, "pg_current_wal_insert_lsn").await?;
    let x2: String =
        other.query_one("SELECT pg_catalog.pg_current_xact_id()::text", &[]).await?.try_get(0)?;
    let x2: u64 = x2.parse().unwrap_or(u64::MAX);
    let begin = begin_sql(tables);
    let (mut pause, mut told) = (Duration::from_millis(5), Instant::now());
    loop {
        client.batch_execute(&begin).await?;
        let row = client.query_one("SELECT pg_catalog.pg_current_snapshot()::text", &[]).await?;
        let snapshot = row.try_get::<_, String>(0)?.parse::<Snapshot>();
        if let Ok(snapshot) = snapshot
            && snapshot.xmin > x2
        {
            let bound = fetch_lsn(other, "pg_current_wal_insert_lsn").await?;
            return Ok(BackfillSnapshot { start_lsn, seam: Some(Seam { snapshot, bound }) });
        }
        client.batch_execute("ROLLBACK").await?;
        if told.elapsed() > QUIET {
            slot::tell_blockers(other, "a backfill's snapshot").await;
            told = Instant::now();
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

fn begin_sql(tables: &[&Table]) -> String {
    let locks = tables.iter().map(|table| {
        let only = if table.kind == 'p' { "" } else { "ONLY " };
        format!("{only}{}", table.sql())
    });
    format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; LOCK TABLE {} IN ACCESS SHARE MODE",
        locks.collect::<Vec<_>>().join(", ")
    )
}

/// How long a session that comes to share a snapshot waits for a lock: who is before it may wait for the session that exported it.
const LOCK_PATIENCE: &str = "2s";

/// What is read in pieces would be compiled for each of them, which takes longer than it saves.
const WITHOUT_JIT: &str = "SET LOCAL jit = off";

/// Lets other sessions of this primary read the snapshot that is open on `client`, as long as it is. Answers what it is called;
/// None if the role may not do that.
pub async fn export(client: &Client) -> Result<Option<String>, tokio_postgres::Error> {
    // Asked before, since a refusal would end the transaction.
    let sql = "SELECT pg_catalog.has_function_privilege('pg_catalog.pg_export_snapshot()', 'EXECUTE')";
    if !client.query_one(sql, &[]).await?.try_get::<_, bool>(0)? {
        return Ok(None);
    }
    client.batch_execute(WITHOUT_JIT).await?;
    client.query_one("SELECT pg_catalog.pg_export_snapshot()", &[]).await?.try_get(0).map(Some)
}

/// Opens, on `client`, a transaction that reads the snapshot of that name; false if it isn't the one that was exported, as another
/// server may have one of that name.
pub async fn join(
    client: &Client,
    name: &str,
    exported: &BackfillSnapshot,
) -> Result<bool, tokio_postgres::Error> {
    let begin = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}; SET LOCAL lock_timeout = '{LOCK_PATIENCE}'; {WITHOUT_JIT}",
        quote_literal(name)
    );
    client.batch_execute(&begin).await?;
    let row = client.query_one("SELECT pg_catalog.pg_current_snapshot()::text", &[]).await?;
    let snapshot = row.try_get::<_, String>(0)?.parse::<Snapshot>().ok();
    Ok(snapshot.is_some() && snapshot.as_ref() == exported.seam.as_ref().map(|seam| &seam.snapshot))
}

/// Has a session that shares its snapshot, with all locks that are known beforehand, wait for further ones with patience, but not for
/// ever: who is before it may wait for another session of the snapshot, and that one for this.
pub async fn wait_for_locks_with_patience(client: &Client) -> Result<(), tokio_postgres::Error> {
    client.batch_execute("SET LOCAL lock_timeout = '60s'").await
}

/// What came of trying to open a snapshot on a standby.
#[derive(Debug)]
pub enum OnStandby {
    /// It is open.
    Open(BackfillSnapshot),
    /// The standby applies records without a break, or the main server has no slot left.
    Unsuitable(&'static str),
    /// The server is no standby (any more).
    NoStandby,
}

/// The same on a standby; `main` is a session of its main server, which it then needs no longer. See the module.
pub async fn open_on_standby(
    standby: &Client,
    main: &Client,
    publication: &str,
    tables: &[&Table],
) -> Result<OnStandby, tokio_postgres::Error> {
    let opened = slot::with_temporary(main, publication, async |slot, from| {
        if !wait_until_replayed(standby, from).await? {
            return Ok(OnStandby::NoStandby);
        }
        let started = Instant::now();
        while started.elapsed() < STANDBY_PATIENCE {
            match snapshot_between_records(standby, tables).await? {
                Some(Some(lsn)) if !slot::has_commit_at(main, slot, publication, lsn).await? => {
                    return Ok(OnStandby::Open(BackfillSnapshot { start_lsn: lsn, seam: None }));
                }
                Some(_) => standby.batch_execute("ROLLBACK").await?,
                None => return Ok(OnStandby::NoStandby),
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        Ok(OnStandby::Unsuitable("it applies changes without a break"))
    });
    match opened.await {
        Err(e) if e.code() == Some(&SqlState::CONFIGURATION_LIMIT_EXCEEDED) => {
            Ok(OnStandby::Unsuitable("the main server has no replication slot left for a moment's use"))
        }
        opened => opened,
    }
}

/// Opens a transaction whose snapshot was taken while the replay position didn't move, and answers that position;
/// `Some(None)` if it did move, None if the server is no standby. A transaction is open in either case.
async fn snapshot_between_records(
    standby: &Client,
    tables: &[&Table],
) -> Result<Option<Option<Lsn>>, tokio_postgres::Error> {
    const POSITION: &str = "SELECT pg_catalog.pg_last_wal_replay_lsn()::text, pg_catalog.pg_is_in_recovery()";
    // In one go, since every moment between the two positions counts. The transaction's first SELECT takes its snapshot,
    // then reads the position.
    let sql = format!("BEGIN; {POSITION}; COMMIT; {}; {POSITION}", begin_sql(tables));
    let messages = standby.simple_query(&sql).await?;
    let positions: Vec<Option<Lsn>> = messages
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        })
        .map(|row| {
            row.try_get(0).ok()??.parse().ok().filter(|_| row.try_get(1).is_ok_and(|is| is == Some("t")))
        })
        .collect();
    Ok(match positions[..] {
        [Some(before), Some(after)] => Some((before == after).then_some(after)),
        _ => None,
    })
}

/// Waits until the standby has replayed beyond `lsn`; false if it is none any more.
async fn wait_until_replayed(standby: &Client, lsn: Lsn) -> Result<bool, tokio_postgres::Error> {
    let mut told = Instant::now();
    while let Some(replayed) = fetch_replay_lsn(standby).await? {
        if replayed >= lsn {
            return Ok(true);
        }
        if told.elapsed() > QUIET {
            tracing::warn!(
                event = "waiting_for_replica",
                "a backfill's snapshot waits for the standby, which has replayed up to {replayed} and is wanted at {lsn}"
            );
            told = Instant::now();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(false)
}

/// Waits until everything that the snapshot could see is on the source's disk: what a backfill has stored must not be
/// undone by a crash of the source (transactions with `synchronous_commit = off`).
pub async fn wait_until_flushed(client: &Client, seam: &Seam) -> Result<(), tokio_postgres::Error> {
    while fetch_lsn(client, "pg_current_wal_flush_lsn").await? < seam.bound {
        if fetch_lsn(client, "pg_current_wal_insert_lsn").await? <= seam.bound {
            // Nothing has been written since, so nothing would push the last bytes out but a write of our own.
            client.query_one("SELECT pg_catalog.pg_current_xact_id()::text", &[]).await?;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}
