//! A standby that is decoded on: which history it replays, how far it is, and how a slot is made there. Judges nothing:
//! whether what it finds may go on is the engine's to say.
//!
//! A stream doesn't break when its standby is promoted, or follows its main server to another timeline; decoding just goes
//! on with what comes then. So who streams from a standby asks, before it relies on a position, whether that was still
//! replayed on the timeline that it knows. A promotion always begins a new timeline, and a standby shows one only
//! once all of the old has been replayed: a position that was read before the old timeline was seen is of the old one.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::Client;

use super::slot;
use super::stream::StreamError;
use crate::change::Lsn;
use crate::config::PostgresConnection;
use crate::postgres::catalog::ServerIdentity;
use crate::postgres::{ConnectError, Purpose, RawConnection, connect};

/// For a standby to say how far it is: a moment, unless the network is cut.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often the main server is asked to write what a slot's creation on its standby waits for.
const NUDGE_INTERVAL: Duration = Duration::from_millis(200);

/// A connection to ask a standby with, again and again.
#[derive(Debug)]
pub struct Standby {
    connection: RawConnection,
}

/// What a server says of itself.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Its history, and how far it has replayed that.
    pub identity: ServerIdentity,
    /// Whether it still is a standby.
    pub is_standby: bool,
}

impl Standby {
    /// Connects to it.
    pub async fn connect(to: &PostgresConnection) -> Result<Self, ConnectError> {
        Ok(Standby { connection: RawConnection::connect(to).await? })
    }

    /// Asks where it is. The position was reached on the timeline that comes with it, or on one before.
    pub async fn look(&mut self) -> Result<Standing, StreamError> {
        let looked = timeout(PATIENCE, async {
            // The position first, the timeline after: see the module.
            let sql = "SELECT pg_catalog.pg_last_wal_replay_lsn(), pg_catalog.pg_is_in_recovery()";
            let position = self.connection.query(sql).await?;
            let system = self.connection.query("IDENTIFY_SYSTEM").await?;
            let position = position.into_iter().next().unwrap_or_default();
            let system = system.into_iter().next().unwrap_or_default();
            let text =
                |cells: &[Option<String>], at: usize| cells.get(at).cloned().flatten().unwrap_or_default();
            let read = || {
                Some(Standing {
                    identity: ServerIdentity {
                        system_identifier: text(&system, 0),
                        timeline: text(&system, 1).parse().ok()?,
                        flush_lsn: text(&position, 0).parse().unwrap_or_default(),
                    },
                    is_standby: text(&position, 1) == "t",
                })
            };
            read().ok_or_else(|| StreamError::Protocol("IDENTIFY_SYSTEM names no timeline".to_owned()))
        });
        looked.await.unwrap_or(Err(StreamError::Silent(PATIENCE)))
    }
}

/// Creates the slot on a standby, of which `other` is another session; answers the LSN that it starts at, or None if `stop`
/// came first. That waits for the main server to write which
/// transactions are running: on an idle one for ever. Making a slot there writes just that, again once the transactions
/// have ended that were running, and needs no right that isn't needed anyway; so temporary slots are made and dropped on the
/// main server meanwhile, by a session of their own.
pub async fn create_slot(
    standby: &Client,
    other: &Client,
    main: &PostgresConnection,
    observer: &Client,
    name: &str,
    stop: impl Future<Output = ()>,
) -> Result<Option<Lsn>, tokio_postgres::Error> {
    let creation = slot::create(standby, other, observer, name, false, stop);
    tokio::pin!(creation);
    loop {
        tokio::select! {
            done = &mut creation => return done,
            error = nudge(main, name) => tracing::warn!(event = "standby_slot_waits", "{error}; the creation of replication slot \
                {name} on the standby goes on once the main server writes its running transactions by itself"),
        }
        // It does so within 15 s of any write.
        tokio::select! {
            done = &mut creation => return done,
            () = tokio::time::sleep(PATIENCE) => {}
        }
    }
}

/// Nudges until that fails. Dropped, it cancels what it has under way.
async fn nudge(main: &PostgresConnection, name: &str) -> String {
    let session = match connect(main, Purpose::Control).await {
        Ok(session) => session,
        Err(error) => return error.to_string(),
    };
    loop {
        if let Err(error) = slot::with_temporary(&session.client, name, async |_, _| Ok(())).await {
            return format!("connection {}: {}", main.name, crate::postgres::describe(&error));
        }
        tokio::time::sleep(NUDGE_INTERVAL).await;
    }
}
