//! Watches over what a source's stream relies on, from a session beside it: that no other process runs the same
//! project, that the publication still has the tables it had. Postgres says nothing when a table is dropped from a
//! publication, or made anew under its old name; its changes just stop coming.

use std::time::Duration;

use tokio::sync::watch;

use super::error::EngineError;
use super::health::SourceHealth;
use super::prepare::PreparedSource;
use crate::config::PostgresConnection;
use crate::postgres::catalog::fetch_lsn;
use crate::postgres::{Purpose, Session, connect};
use crate::source::publication::{self, Publication};
use crate::source::slot;

const LOOK_INTERVAL: Duration = Duration::from_secs(10);
const WAIT: Duration = Duration::from_secs(1);
/// How long `--once` waits for another process to let go: a killed one's slot is free within moments.
const ONCE_PATIENCE: Duration = Duration::from_secs(5);

/// Locks the project on one source for as long as the session lives.
pub struct Guard {
    connection: PostgresConnection,
    session: Session,
    slot: String,
    published: Option<Publication>,
}

/// Takes the source for this process. Waits while another process has it, and says so by `waits`; with `is_once`, not
/// for long. Answers
/// whether it had to wait: then what was read before may be out of date.
pub async fn take(
    source: &PreparedSource,
    is_once: bool,
    shutdown: &mut watch::Receiver<bool>,
    waits: &(dyn Fn() + Sync),
) -> Result<(Guard, bool), EngineError> {
    take_slot(&source.connection, &source.slot_name, is_once, shutdown, waits).await
}

/// The same, where nothing else is known of the source.
pub async fn take_slot(
    connection: &PostgresConnection,
    slot: &str,
    is_once: bool,
    shutdown: &mut watch::Receiver<bool>,
    waits: &(dyn Fn() + Sync),
) -> Result<(Guard, bool), EngineError> {
    let session = connect(connection, Purpose::Control).await?;
    let guard = Guard { connection: connection.clone(), session, slot: slot.to_owned(), published: None };
    let mut waited = Duration::ZERO;
    loop {
        let holder = match guard.try_lock().await? {
            true => guard.streaming_pid().await?,
            false => Some(0),
        };
        let Some(pid) = holder else { return Ok((guard, !waited.is_zero())) };
        let who =
            if pid == 0 { "another trucker".to_owned() } else { format!("process {pid} of the server's") };
        let message =
            format!("connection {}: replication slot {} is held by {who}", guard.connection.name, guard.slot);
        if is_once && waited >= ONCE_PATIENCE {
            return Err(EngineError::Held(message));
        }
        waits();
        if waited.as_secs().is_multiple_of(10) {
            tracing::warn!(event = "standing_by", "{message}; waiting for it to end");
        }
        tokio::select! {
            () = tokio::time::sleep(WAIT) => waited += WAIT,
            _ = shutdown.wait_for(|end| *end) => return Err(EngineError::Held(message)),
        }
    }
}

impl Guard {
    async fn try_lock(&self) -> Result<bool, EngineError> {
        let sql =
            "SELECT pg_catalog.pg_try_advisory_lock(pg_catalog.hashtextextended('trucker:' || $1::text, 0))";
        let locked = self.session.client.query_one(sql, &[&self.slot]).await.and_then(|row| row.try_get(0));
        locked.map_err(EngineError::at(&self.connection.name, "locking the project"))
    }

    async fn streaming_pid(&self) -> Result<Option<i32>, EngineError> {
        let found = slot::fetch(&self.session.client, self.session.server_version, &self.slot).await;
        let found = found.map_err(EngineError::at(&self.connection.name, "reading slots"))?;
        Ok(found.and_then(|slot| slot.active_pid))
    }

    /// Watches until something is wrong for good; then says what.
    pub async fn watch(mut self, health: &SourceHealth) -> EngineError {
        loop {
            self.look_at_slot(health).await;
            match self.look().await {
                Ok(None) => {}
                Ok(Some(wrong)) => return EngineError::server(wrong),
                Err(error) => {
                    tracing::warn!(event = "guard_lost", "{error}; connecting again");
                    if let Some(error) = self.reconnect().await {
                        return error;
                    }
                }
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Reads what the slot keeps, for others to see. Trouble with it is the next look's to tell.
    async fn look_at_slot(&self, health: &SourceHealth) {
        let client = &self.session.client;
        let looked = async {
            let wal_lsn = fetch_lsn(client, "pg_current_wal_lsn").await?;
            Ok::<_, tokio_postgres::Error>((wal_lsn, slot::fetch_retention(client, &self.slot).await?))
        };
        if let Ok((wal_lsn, retention)) = looked.await {
            health.look(wal_lsn, retention);
        }
    }

    async fn look(&mut self) -> Result<Option<String>, EngineError> {
        let found = publication::fetch(&self.session.client, self.session.server_version, &self.slot).await;
        let found = found.map_err(EngineError::at(&self.connection.name, "looking after the publication"))?;
        let (connection, name) = (&self.connection.name, &self.slot);
        let Some(found) = found else {
            return Ok(Some(format!(
                "connection {connection}: publication {name} was dropped: changes since then are lost"
            )));
        };
        let Some(before) = &self.published else {
            self.published = Some(found);
            return Ok(None);
        };
        if *before == found {
            return Ok(None);
        }
        let lost: Vec<String> = before
            .tables
            .iter()
            .filter(|t| found.table(t.oid).is_none_or(|now| now.entry_oid != t.entry_oid))
            .map(|t| format!("{}.{}", t.schema, t.table))
            .collect();
        let is_narrowed = found.tables.iter().any(|table| table.is_narrowed);
        if before.oid != found.oid || found.alteration.is_some() || is_narrowed || !lost.is_empty() {
            return Ok(Some(format!(
                "connection {connection}: publication {name} was altered or made anew{}{}: changes may be missing from now on",
                if lost.is_empty() {
                    ""
                } else {
                    ", and doesn't have these tables any more, or not without a gap: "
                },
                lost.join(", ")
            )));
        }
        self.published = Some(found);
        Ok(None)
    }

    /// Comes back, and takes the lock again; an error if somebody else has it by now.
    async fn reconnect(&mut self) -> Option<EngineError> {
        loop {
            tokio::time::sleep(WAIT).await;
            match connect(&self.connection, Purpose::Control).await {
                Ok(session) => {
                    self.session = session;
                    match self.try_lock().await {
                        Ok(true) => return None,
                        Ok(false) => {
                            // The server may not have noticed yet that the old session is gone.
                            tracing::warn!(
                                event = "lock_waits",
                                "waiting for the project's lock on {}",
                                self.connection.name
                            );
                        }
                        Err(_) => {}
                    }
                }
                Err(error) if error.is_transient() => {}
                Err(error) => return Some(error.into()),
            }
        }
    }
}
