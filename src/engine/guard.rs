//! Watches over what a source's stream relies on, from a session beside it: that no other process runs the same
//! project, that the publication still has the tables it had. Postgres says nothing when a table is dropped from a
//! publication, or made anew under its old name; its changes just stop coming.

use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::budget::Budget;
use super::error::EngineError;
use super::health::SourceHealth;
use super::prepare::PreparedSource;
use crate::codes::Code;
use crate::config::{Diagnostic, PostgresConnection};
use crate::pipeline::error::renamed;
use crate::pipeline::task::{Loss, LostTables};
use crate::postgres::catalog::fetch_wal_end;
use crate::postgres::ident::quote_relation;
use crate::postgres::{Purpose, Session, connect};
use crate::source::partitions::{self, Partition};
use crate::source::publication::{self, Publication, PublishedTable};
use crate::source::slot;

const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// After three looks that never came, the server ends the session, and with it the lock: a process that was stopped, while
/// its connections live on, is not to keep others away for ever.
const HOLD: &str = "SET idle_session_timeout = '30s'";
const WAIT: Duration = Duration::from_secs(1);
/// The first wait, which isn't spoken of: what a process leaves behind that has just ended is gone within moments.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// How long `--once` waits for another process to let go: a killed one's slot is free within moments.
const ONCE_PATIENCE: Duration = Duration::from_secs(5);

/// Locks the project on one source for as long as the session lives: on the server that has the slot.
pub struct Guard {
    connection: PostgresConnection,
    session: Session,
    slot: String,
    published: Option<Publication>,
    partitions: Vec<Partition>,
    /// The session has been told to end where this process doesn't look any more.
    holds: bool,
}

/// Takes the source for this process. Waits while another process has it, and says so by `waits`; with `is_once`, not
/// for long. Answers whether it had to wait: then what was read before may be out of date.
pub async fn take(
    source: &PreparedSource,
    is_once: bool,
    shutdown: &mut watch::Receiver<bool>,
    waits: &(dyn Fn() + Sync),
) -> Result<(Guard, bool), EngineError> {
    take_slot(source.streamed().0, &source.slot_name, is_once, shutdown, waits).await
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
    let guard = Guard {
        connection: connection.clone(),
        session,
        slot: slot.to_owned(),
        published: None,
        partitions: Vec::new(),
        holds: false,
    };
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
        let pause = if waited.is_zero() { FIRST_WAIT } else { WAIT };
        if !waited.is_zero() {
            waits();
            if waited.as_secs().is_multiple_of(10) {
                tracing::warn!(event = "standing_by", code = %Code::Held, "{message}; waiting for it to end");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => waited += pause,
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

    /// Watches until something is wrong for good; then says what. What befalls single tables is put into `lost`, for the
    /// pipelines that read them; `renew` is told where the stream has to be made anew.
    pub async fn watch(
        mut self,
        health: &SourceHealth,
        mut budget: Budget,
        lost: watch::Sender<LostTables>,
        renew: &Notify,
    ) -> EngineError {
        loop {
            // Trouble with the connection is the next question's to tell.
            if let Err(error) = self.look_at_slot(health, &mut budget).await {
                tracing::debug!(event = "budget_unknown", "{error}");
            }
            match self.look(&lost, renew).await {
                Ok(None) => {}
                Ok(Some(wrong)) => return wrong.into(),
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

    /// Reads what the slot keeps, for others to see and for its budget.
    async fn look_at_slot(
        &self,
        health: &SourceHealth,
        budget: &mut Budget,
    ) -> Result<(), tokio_postgres::Error> {
        let client = &self.session.client;
        let wal_lsn = fetch_wal_end(client).await?;
        let retention = slot::fetch_retention(client, &self.slot).await?;
        health.look(wal_lsn, retention.clone());
        match &retention {
            Some(retention) => budget.look(client, wal_lsn, retention).await,
            None => Ok(()),
        }
    }

    async fn look(
        &mut self,
        lost: &watch::Sender<LostTables>,
        renew: &Notify,
    ) -> Result<Option<Diagnostic>, EngineError> {
        let client = &self.session.client;
        let failed = || EngineError::at(&self.connection.name, "looking after the publication");
        if !std::mem::replace(&mut self.holds, true) {
            client.batch_execute(HOLD).await.map_err(failed())?;
        }
        let found = publication::fetch(client, self.session.server_version, &self.slot).await;
        let found = found.map_err(failed())?;
        let (connection, name) = (self.connection.name.clone(), self.slot.clone());
        let Some(found) = found else {
            let message = format!(
                "connection {connection}: publication {name} was dropped: changes since then are lost"
            );
            return Ok(Some(Diagnostic::of_server(Code::PublicationGone, message)));
        };
        self.look_at_partitions(&found, renew).await?;
        let before = self.published.replace(found.clone());
        if found.alteration.is_some() || before.as_ref().is_some_and(|before| before.oid != found.oid) {
            let message = format!(
                "connection {connection}: publication {name} was altered or made anew: changes may be missing from now on"
            );
            return Ok(Some(Diagnostic::of_server(Code::PublicationAltered, message)));
        }
        let before = before.as_ref().unwrap_or(&found);
        let losses: Vec<(u32, Loss)> =
            before.tables.iter().filter_map(|table| Some((table.oid, loss(table, &found, &name)?))).collect();
        if !losses.is_empty() {
            lost.send_modify(|lost| lost.extend(losses));
        }
        Ok(None)
    }

    async fn look_at_partitions(
        &mut self,
        publication: &Publication,
        renew: &Notify,
    ) -> Result<(), EngineError> {
        let now = partitions::fetch(&self.session.client, publication.oid).await;
        let now = now.map_err(EngineError::at(&self.connection.name, "looking after partitions"))?;
        if self.published.is_some() {
            for what in partitions::untold(&self.partitions, &now) {
                tracing::warn!(event = "partition_untold", connection = %self.connection.name,
                    "{what}. If that matters, fill the pipelines that read it anew: trucker backfill");
            }
            // A stream of version 14 goes on with what a table was to the publication when it first met it.
            if self.session.server_version < 150_000 && !partitions::are_same(&self.partitions, &now) {
                renew.notify_one();
            }
        }
        self.partitions = now;
        Ok(())
    }

    /// Comes back, and takes the lock again; an error if somebody else has it by now.
    async fn reconnect(&mut self) -> Option<EngineError> {
        loop {
            tokio::time::sleep(WAIT).await;
            match connect(&self.connection, Purpose::Control).await {
                Ok(session) => {
                    (self.session, self.holds) = (session, false);
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

/// What befell a table of the publication.
fn loss(before: &PublishedTable, now: &Publication, publication: &str) -> Option<Loss> {
    let name = quote_relation(&before.schema, &before.table);
    match now.table(before.oid) {
        None => Some(Loss::Gap(format!(
            "{name} was dropped or taken out of publication {publication}: its changes don't come any more"
        ))),
        Some(table) if table.is_narrowed => Some(Loss::Gap(format!(
            "{name} has a row filter or column list in publication {publication} now: changes are missing"
        ))),
        Some(table) if table.entry_oid != before.entry_oid => Some(Loss::Gap(format!(
            "{name} was taken out of publication {publication} and put back: changes in between are missing"
        ))),
        Some(table) if (&table.schema, &table.table) != (&before.schema, &before.table) => {
            Some(Loss::Renamed(renamed(&name, &quote_relation(&table.schema, &table.table))))
        }
        Some(_) => None,
    }
}
