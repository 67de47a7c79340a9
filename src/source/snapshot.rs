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

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::slot;
use crate::change::Lsn;
use crate::checkpoint::{Seam, Snapshot};
use crate::postgres::catalog::{Table, fetch_lsn};

const PAUSE_MAX: Duration = Duration::from_millis(100);
const QUIET: Duration = Duration::from_secs(5);

/// What a backfill reads, as the stream has to know it.
#[derive(Debug, Clone)]
pub struct BackfillSnapshot {
    /// Where the stream has to start for this pipeline.
    pub start_lsn: Lsn,
    /// Which of its transactions the backfill has read.
    pub seam: Seam,
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
    let locks = tables.iter().map(|table| {
        let only = if table.kind == 'p' { "" } else { "ONLY " };
        format!("{only}{}", table.sql())
    });
    let begin = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; LOCK TABLE {} IN ACCESS SHARE MODE",
        locks.collect::<Vec<_>>().join(", ")
    );
    let (mut pause, mut told) = (Duration::from_millis(5), Instant::now());
    loop {
        client.batch_execute(&begin).await?;
        let row = client.query_one("SELECT pg_catalog.pg_current_snapshot()::text", &[]).await?;
        let snapshot = row.try_get::<_, String>(0)?.parse::<Snapshot>();
        if let Ok(snapshot) = snapshot
            && snapshot.xmin > x2
        {
            let bound = fetch_lsn(other, "pg_current_wal_insert_lsn").await?;
            return Ok(BackfillSnapshot { start_lsn, seam: Seam { snapshot, bound } });
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
