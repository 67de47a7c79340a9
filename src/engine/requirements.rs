//! What a source's server must allow for a run: slots and walsenders that are left, rights of the role, a publication that can
//! hold the tables. Asks and changes nothing.

use tokio_postgres::Row;

use super::error::EngineError;
use super::findings::Findings;
use super::prepare::{Creation, PreparedSource};
use crate::codes::Code;
use crate::config::{Diagnostic, PostgresConnection};
use crate::postgres::Session;

/// Whether the slot can be carried over to standbys, where that was asked for.
pub(super) async fn failover(
    connection: &PostgresConnection,
    control: &Session,
    findings: &mut Findings,
) -> Result<(), EngineError> {
    let (name, version) = (connection.name.as_str(), control.server_version);
    if !connection.failover {
        return Ok(());
    }
    if version < 170_000 {
        let message = format!(
            "connection {name}: `failover: true` needs Postgres 17 or later, and this is {}",
            version / 10_000
        );
        let help = "take it away: after a failover every pipeline is then filled anew";
        findings.server(Code::FailoverVersion, message, help);
        return Ok(());
    }
    if connection.replica.is_some() {
        let message = format!(
            "connection {name}: `failover: true` and `replica_host` exclude each other: a slot on a standby can't be carried over \
             to another server"
        );
        findings.server(Code::FailoverReplica, message, "take one of them away");
        return Ok(());
    }
    let sql = "SELECT pg_catalog.current_setting('synchronized_standby_slots', true)";
    let row = control.client.query_one(sql, &[]).await;
    let standbys = row.and_then(|row| row.try_get::<_, Option<String>>(0));
    let standbys = standbys.map_err(EngineError::at(name, "asking for settings"))?;
    if standbys.unwrap_or_default().is_empty() {
        let message = format!(
            "connection {name}: synchronized_standby_slots is empty, so trucker may be sent changes that no standby has yet: \
             after a failover that loses them, pipelines have to be filled anew"
        );
        let help = "name the standbys' physical slots there";
        findings.add(Diagnostic::of_server(Code::FailoverSettings, message).help(help).as_warning());
    }
    Ok(())
}

/// Whether what is missing may be made: slots left, rights given.
pub(super) async fn capacity(
    source: &PreparedSource,
    creation: Creation,
    findings: &mut Findings,
) -> Result<(), EngineError> {
    let sql = "SELECT r.rolsuper OR r.rolreplication OR EXISTS (SELECT FROM pg_catalog.pg_roles m WHERE m.rolname = \
               'rds_replication' AND pg_catalog.pg_has_role(m.oid, 'MEMBER')), pg_catalog.quote_ident(r.rolname), \
               (SELECT count(*) FROM pg_catalog.pg_replication_slots) \
                 >= pg_catalog.current_setting('max_replication_slots')::int, \
               pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE'), \
               pg_catalog.quote_ident(pg_catalog.current_database()), \
               pg_catalog.current_setting('max_wal_senders')::int \
                 <= (SELECT count(*) FROM pg_catalog.pg_stat_replication), \
               (SELECT count(*) FROM pg_catalog.pg_replication_slots) || ' of ' \
                 || pg_catalog.current_setting('max_replication_slots') || ' taken', \
               (SELECT count(*) FROM pg_catalog.pg_stat_replication) || ' of ' \
                 || pg_catalog.current_setting('max_wal_senders') || ' taken', \
               pg_catalog.current_setting('max_slot_wal_keep_size') \
               FROM pg_catalog.pg_roles r WHERE r.rolname = current_user";
    let is_streaming = source.slot.as_ref().is_some_and(|slot| slot.active_pid.is_some());
    let mut asked = vec![(&source.connection, &source.control)];
    asked.extend(source.replica.as_ref().map(|replica| (&replica.connection, &replica.session)));
    for (connection, session) in asked {
        let name = &connection.name;
        let asking = || EngineError::at(name, "asking for rights");
        let row = session.client.query_one(sql, &[]).await.map_err(asking())?;
        let is = |column: usize| row.try_get::<_, bool>(column).map_err(asking());
        let text = |column: usize| row.try_get::<_, String>(column).map_err(asking());
        let role = text(1)?;
        if is(0)? {
            findings.ok("replication", format!("{role} may use it"));
        } else {
            findings.server(
                Code::NoReplicationRight,
                format!("connection {name}: {role} may not use replication"),
                format!("ALTER ROLE {role} REPLICATION"),
            );
        }
        let is_streamed = *name == source.streamed().0.name;
        if is_streamed {
            tell_limits(&row, findings).map_err(asking())?;
        }
        if is_streamed && source.slot.is_none() && is(2)? {
            findings.server(
                Code::NoFreeSlot,
                format!("connection {name}: all replication slots are taken"),
                "raise max_replication_slots (needs a restart), or drop one that nobody uses:\n\
                 SELECT slot_name, active FROM pg_replication_slots",
            );
        }
        if is_streamed && !is_streaming && is(5)? {
            findings.server(
                Code::NoFreeWalsender,
                format!("connection {name}: no walsender is left to stream from"),
                "raise max_wal_senders (needs a restart), or end one that nobody needs:\n\
                 SELECT pid, application_name FROM pg_stat_replication",
            );
        }
        let makes_publication = creation == Creation::Allowed && source.publication.is_none();
        if *name == source.connection.name && makes_publication && !is(3)? {
            let database = text(4)?;
            findings.server(
                Code::NoPublicationRight,
                format!("connection {name}: {role} may not create a publication"),
                format!("GRANT CREATE ON DATABASE {database} TO {role}"),
            );
        }
    }
    Ok(())
}

/// What the server has left, for the list of what was looked at.
fn tell_limits(row: &Row, findings: &mut Findings) -> Result<(), tokio_postgres::Error> {
    findings.ok("replication slots", row.try_get::<_, String>(6)?);
    findings.ok("walsenders", row.try_get::<_, String>(7)?);
    let kept = match row.try_get::<_, String>(8)?.as_str() {
        "-1" => "no limit: an abandoned slot fills the disk (max_slot_wal_keep_size)".to_owned(),
        limit => format!("{limit}, then a slot is lost (max_slot_wal_keep_size)"),
    };
    findings.ok("WAL kept for slots", kept);
    Ok(())
}

/// Whether the publication can hold the pipelines' tables.
pub(super) async fn publishing(
    source: &PreparedSource,
    creation: Creation,
    findings: &mut Findings,
) -> Result<(), EngineError> {
    ancestors(source, findings).await?;
    if creation == Creation::Allowed { ownership(source, findings).await } else { Ok(()) }
}

/// Only a table's owner may publish it.
async fn ownership(source: &PreparedSource, findings: &mut Findings) -> Result<(), EngineError> {
    let name = source.connection.name.as_str();
    let published = |oid: u32| source.publication.as_ref().is_some_and(|p| p.table(oid).is_some());
    for table in source.pipelines.iter().flat_map(|p| &p.definition.tables).filter(|t| !published(t.oid)) {
        let sql = "SELECT pg_catalog.pg_has_role(c.relowner, 'USAGE'), pg_catalog.quote_ident(current_user) \
                   FROM pg_catalog.pg_class c WHERE c.oid = $1";
        let row = source.control.client.query_one(sql, &[&table.oid]).await;
        let found = row.and_then(|row| Ok((row.try_get::<_, bool>(0)?, row.try_get::<_, String>(1)?)));
        let (is_owner, role) = found.map_err(EngineError::at(name, "asking who owns a table"))?;
        if !is_owner {
            let table = table.sql();
            findings.server(
                Code::NotOwner,
                format!("connection {name}: {role} doesn't own {table}, so it may not publish it"),
                format!("ALTER TABLE {table} OWNER TO {role}, or make {role} a member of the owner"),
            );
        }
    }
    Ok(())
}

/// Changes of a partition are sent as those of its topmost published ancestor: a pipeline on the partition itself would
/// get nothing.
async fn ancestors(source: &PreparedSource, findings: &mut Findings) -> Result<(), EngineError> {
    let name = source.connection.name.as_str();
    let tables: Vec<_> = source.pipelines.iter().flat_map(|p| &p.definition.tables).collect();
    let wanted: Vec<u32> = tables.iter().map(|t| t.oid).collect();
    for table in tables {
        let sql = "SELECT a.relid::regclass::text FROM pg_catalog.pg_partition_ancestors($1::oid::regclass) a \
                   WHERE a.relid <> $1::oid AND a.relid = ANY ($2::oid[])";
        let found = source.control.client.query(sql, &[&table.oid, &wanted]).await;
        let ancestor = found.and_then(|rows| rows.first().map(|row| row.try_get::<_, String>(0)).transpose());
        if let Some(ancestor) = ancestor.map_err(EngineError::at(name, "looking for partitions"))? {
            findings.server(
                Code::PartitionOfInput,
                format!(
                    "connection {name}: {} is a partition of {ancestor}, which another pipeline reads: its changes are \
                     sent as those of {ancestor}",
                    table.sql()
                ),
                format!("read {ancestor} in both, and filter in transform.sql"),
            );
        }
    }
    Ok(())
}
