//! The standby of a source that has one: whether it is one, of that very server, able and set up to serve. Only looks, but for
//! the wait until it has what the main server has.

use std::time::Duration;

use tokio_postgres::Client;

use super::error::EngineError;
use super::findings::Findings;
use super::prepare::PreparedSource;
use crate::codes::Code;
use crate::config::{Diagnostic, PostgresConnection};
use crate::postgres::catalog::{ServerIdentity, fetch_durable_lsn, fetch_replay_lsn};
use crate::postgres::{Purpose, Session, connect};
use crate::source::publication;
use crate::source::standby::{Standby, Standing};

/// How long a start waits for a standby that is behind, before it checks pipelines against the catalog that it has.
const CATCH_UP: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);
const QUIET: Duration = Duration::from_secs(5);

/// A source's standby.
pub struct Replica {
    /// Where.
    pub connection: PostgresConnection,
    /// A session there.
    pub session: Session,
    /// Its history, and how far it has replayed it.
    pub identity: ServerIdentity,
}

/// Connects to the standby of `connection` and sees whether it can serve; `main` is a session of the main server.
pub async fn reach(
    connection: &PostgresConnection,
    main: &Session,
    identity: &ServerIdentity,
    findings: &mut Findings,
) -> Result<Option<Replica>, EngineError> {
    let Some(to) = connection.replica.as_deref() else { return Ok(None) };
    let name = to.name.as_str();
    if to.database != connection.database {
        let message = format!(
            "connection {name}: a standby has the databases of its main server, and there the database is {}, not {}",
            connection.database, to.database
        );
        return Err(Diagnostic::of_server(Code::ReplicaDatabase, message)
            .help("take `replica_database` away")
            .into());
    }
    let session = connect(to, Purpose::Control).await?;
    let standing = Standby::connect(to).await?.look().await;
    let standing = standing.map_err(|e| EngineError::server(e.code(), format!("connection {name}: {e}")))?;
    let standing_lsn = standing.identity.flush_lsn;
    let durable = fetch_durable_lsn(&main.client)
        .await
        .map_err(EngineError::at(&connection.name, "asking for the WAL position"))?;
    if let Some(problem) = foreign(name, &standing, identity) {
        return Err(problem.into());
    }
    if standing_lsn > durable {
        let message = format!(
            "connection {name}: it has replayed up to {standing_lsn}, but the WAL of `host` ends at {durable}: it is another \
             server's standby"
        );
        return Err(Diagnostic::of_server(Code::ReplicaForeign, message)
            .help("name a standby of `host`")
            .into());
    }
    if connection.streamed(session.server_version) == to {
        check_decoding(name, &session).await?;
    }
    findings.ok("replica", format!("{}:{}, replayed up to {standing_lsn}", to.host, to.port));
    recommend(name, &session.client, findings).await?;
    catch_up(name, &session.client, durable).await?;
    Ok(Some(Replica { connection: to.clone(), session, identity: standing.identity }))
}

/// Why a server isn't a standby of the one with this identity.
fn foreign(name: &str, standing: &Standing, main: &ServerIdentity) -> Option<Diagnostic> {
    let identity = &standing.identity;
    if identity.system_identifier != main.system_identifier {
        let message = format!(
            "connection {name}: it is another database cluster than `host` (system identifier {}, not {})",
            identity.system_identifier, main.system_identifier
        );
        return Some(
            Diagnostic::of_server(Code::ReplicaForeign, message).help("name a standby of that server"),
        );
    }
    if !standing.is_standby {
        let message = format!(
            "connection {name}: `replica_host` is no standby: it takes writes itself, or was promoted"
        );
        let help = "if it has become the main server, name it as `host` and take `replica_host` away; else name a standby of `host`";
        return Some(Diagnostic::of_server(Code::ReplicaNoStandby, message).help(help));
    }
    (identity.timeline != main.timeline).then(|| {
        let message = format!(
            "connection {name}: it replays timeline {}, but `host` is on {}: they parted at a failover",
            identity.timeline, main.timeline
        );
        let help = "have the standby follow `host`, or name another one";
        Diagnostic::of_server(Code::ReplicaForeign, message).help(help)
    })
}

/// Whether changes can be decoded on it.
async fn check_decoding(name: &str, session: &Session) -> Result<(), EngineError> {
    let sql = "SELECT pg_catalog.current_setting('wal_level')";
    let row = session.client.query_one(sql, &[]).await;
    let level = row.and_then(|row| row.try_get::<_, String>(0));
    match level.map_err(EngineError::at(name, "asking for wal_level"))?.as_str() {
        "logical" => Ok(()),
        level => {
            let message = format!(
                "connection {name}: wal_level is {level}, but changes can be decoded on a standby only with logical, there as \
                 on its main server"
            );
            let help = "on the main server: ALTER SYSTEM SET wal_level = logical;\n\
                        set it in the standby's postgresql.conf too, and restart the standby";
            Err(Diagnostic::of_server(Code::WalLevel, message).help(help).into())
        }
    }
}

/// Settings that a standby should have, or long queries and the slot itself suffer.
async fn recommend(name: &str, client: &Client, findings: &mut Findings) -> Result<(), EngineError> {
    let sql = "SELECT pg_catalog.current_setting('hot_standby_feedback')::bool, \
               coalesce(pg_catalog.current_setting('primary_slot_name', true), '') <> ''";
    let row = client.query_one(sql, &[]).await;
    let settings = row.and_then(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
    let (has_feedback, has_slot): (bool, bool) =
        settings.map_err(EngineError::at(name, "asking for settings"))?;
    let (message, help) = if !has_feedback {
        (
            "hot_standby_feedback is off: a vacuum on the main server can cancel queries of the standby, and lose a slot there \
             for good",
            "set hot_standby_feedback = on in the standby's postgresql.conf and reload it",
        )
    } else if !has_slot {
        (
            "primary_slot_name isn't set: whenever the standby is disconnected from its main server, what \
             hot_standby_feedback protects isn't protected",
            "give it a physical replication slot",
        )
    } else {
        return Ok(());
    };
    let warning = Diagnostic::of_server(Code::ReplicaSettings, format!("connection {name}: {message}"));
    findings.add(warning.help(help).as_warning());
    Ok(())
}

/// So that tables made a moment ago are there. A standby that is further behind is taken as it is.
async fn catch_up(name: &str, client: &Client, durable: crate::change::Lsn) -> Result<(), EngineError> {
    let started = tokio::time::Instant::now();
    loop {
        let replayed =
            fetch_replay_lsn(client).await.map_err(EngineError::at(name, "asking how far it is"))?;
        let replayed = replayed.unwrap_or_default();
        if replayed >= durable {
            return Ok(());
        }
        if started.elapsed() > CATCH_UP {
            tracing::warn!(
                event = "replica_behind",
                code = %Code::ReplicaBehind,
                "connection {name}: it has replayed up to {replayed}, and its main server is at {durable}: pipelines are \
                 checked against an older catalog"
            );
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits until the standby that is streamed from has the publication as the main server has it: a slot made there earlier
/// could not decode what lies between, and the guard would take our own changes for somebody else's.
pub async fn wait_for_publication(source: &PreparedSource) -> Result<(), EngineError> {
    let Some(replica) = source.replica.as_ref().filter(|_| source.streams_from_standby()) else {
        return Ok(());
    };
    let failed = |name| EngineError::at(name, "reading publications");
    let (main, standby) = (&source.control, &replica.session);
    let mut told = tokio::time::Instant::now();
    loop {
        let wanted = publication::fetch(&main.client, main.server_version, &source.slot_name).await;
        let found = publication::fetch(&standby.client, standby.server_version, &source.slot_name).await;
        if wanted.map_err(failed(&source.connection.name))?
            == found.map_err(failed(&replica.connection.name))?
        {
            return Ok(());
        }
        if told.elapsed() > QUIET {
            tracing::warn!(
                event = "waiting_for_replica",
                "connection {}: waiting until it has replayed the changes of the \
                publication",
                replica.connection.name
            );
            told = tokio::time::Instant::now();
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(system: &str, timeline: u32, is_standby: bool) -> Standing {
        let identity = ServerIdentity {
            system_identifier: system.to_owned(),
            timeline,
            flush_lsn: crate::change::Lsn::ZERO,
        };
        Standing { identity, is_standby }
    }

    #[test]
    fn only_a_standby_of_the_same_cluster_and_timeline_will_do() {
        let main = standing("7", 2, false).identity;
        for (found, said) in [
            (standing("7", 2, true), None),
            (standing("8", 2, true), Some("another database cluster")),
            (standing("8", 2, false), Some("another database cluster")),
            (standing("7", 2, false), Some("is no standby")),
            (standing("7", 3, false), Some("is no standby")),
            (standing("7", 1, true), Some("parted at a failover")),
            (standing("7", 3, true), Some("parted at a failover")),
        ] {
            let problem = foreign("db's replica", &found, &main);
            assert_eq!(problem.is_some(), said.is_some(), "{found:?}");
            let told = problem.map(|problem| problem.message).unwrap_or_default();
            assert!(told.contains(said.unwrap_or_default()), "{found:?}");
        }
    }
}
