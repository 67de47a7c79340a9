//! A transform must see the change that triggered it. The stream brings a transaction as soon as its commit record
//! is flushed, but other sessions see its rows only once the committing backend has left the list of running
//! transactions: with synchronous replication that is after a standby's answer, otherwise a little later, sometimes.
//! So every batch's SQL runs in one snapshot in which each of its transactions is visible. On a standby, what has been
//! replayed is visible, and what the stream brought may not have been replayed yet.

use std::time::{Duration, Instant};

use tokio_postgres::{Client, SimpleQueryMessage};

use crate::change::Lsn;
use crate::checkpoint::Snapshot;
use crate::postgres::catalog::fetch_replay_lsn;

const PAUSE_MAX: Duration = Duration::from_millis(50);
const SILENCE: Duration = Duration::from_secs(30);
const BEGIN: &str =
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT pg_catalog.pg_current_snapshot()::text";

/// Opens a read-only transaction whose snapshot shows all of these transactions (top-level xids as the stream gives
/// them). Waits as long as it takes: until then the answer of any SQL could be wrong for ever. Primaries only: a
/// standby's `pg_current_snapshot()` doesn't list what is running. Whether they were visible at once.
pub async fn begin_after(client: &Client, xids: &[u32]) -> Result<bool, tokio_postgres::Error> {
    let mut pause = Duration::from_millis(1);
    let mut told = Instant::now();
    let mut is_first = true;
    loop {
        if try_begin(client, xids).await? {
            return Ok(is_first);
        }
        is_first = false;
        client.batch_execute("ROLLBACK").await?;
        if told.elapsed() > SILENCE {
            tracing::warn!(
                event = "waiting_for_visibility",
                "a committed transaction isn't visible on the source yet: is a synchronous standby not answering?"
            );
            told = Instant::now();
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Waits until a standby has replayed the commit record that begins at `commit_lsn`: from then on its snapshots show
/// the transaction, and its catalog is not older. As long as it takes; false if the server is no standby (any more).
pub async fn wait_until_replayed(client: &Client, commit_lsn: Lsn) -> Result<bool, tokio_postgres::Error> {
    let mut pause = Duration::from_millis(1);
    let mut told = Instant::now();
    while let Some(replayed) = fetch_replay_lsn(client).await? {
        // The position is always the end of a record, so beyond its start is behind its end.
        if replayed > commit_lsn {
            return Ok(true);
        }
        if told.elapsed() > SILENCE {
            tracing::warn!(
                event = "waiting_for_replica",
                "a batch waits for the standby, which has replayed up to {replayed} and is wanted beyond {commit_lsn}"
            );
            told = Instant::now();
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
    Ok(false)
}

/// Opens a read-only transaction with one snapshot, on a standby that has replayed what it should show.
pub async fn begin_on_standby(client: &Client) -> Result<(), tokio_postgres::Error> {
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await
}

/// Opens such a transaction with the snapshot as it is now. Whether it shows all of these.
pub async fn try_begin(client: &Client, xids: &[u32]) -> Result<bool, tokio_postgres::Error> {
    let messages = client.simple_query(BEGIN).await?;
    let snapshot: Option<Snapshot> = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.try_get(0).ok()??.parse().ok(),
        _ => None,
    });
    Ok(snapshot.is_some_and(|s| xids.iter().all(|&xid| s.is_visible(xid))))
}
