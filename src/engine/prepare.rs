//! Everything before the first change flows: reach the servers, check every pipeline against them, see that stored
//! progress and slot belong together. Up to here nothing is created; [`create`](super::create) does that.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::error::{EngineError, Findings};
use super::replica::{self, Replica};
use super::rights;
use super::wiring;
use crate::change::Lsn;
use crate::config::{Connection, Pipeline, PostgresConnection, Project};
use crate::pipeline::backfill;
use crate::pipeline::compiled::Compiled;
use crate::pipeline::definition::{Checked, Definition};
use crate::pipeline::error::PipelineError;
use crate::pipeline::versions;
use crate::postgres::catalog::{ServerIdentity, fetch_running_server, fetch_server_identity};
use crate::postgres::{Purpose, RawConnection, RawError, Session, connect};
use crate::sink::postgres::checkpoint::{self, Checkpoint, CheckpointKey, Origin};
use crate::source::publication::{self, Publication};
use crate::source::slot::{self, Slot};

/// The oldest major version that is supported, as server_version_num.
const VERSION_MIN: u32 = 140_000;

/// Whether a run may create what is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Creation {
    /// It does, so its roles must have the right to.
    Allowed,
    /// Somebody else does (`--no-create`).
    Forbidden,
}

/// A pipeline, ready to run.
#[derive(Debug)]
pub struct Prepared {
    /// What it is.
    pub definition: Arc<Definition>,
    /// Where it was left; None if it never ran, or its first backfill isn't done.
    pub checkpoint: Option<Checkpoint>,
}

/// A source, as it was found.
pub struct PreparedSource {
    /// Where.
    pub connection: PostgresConnection,
    /// A session for what isn't about changes.
    pub control: Session,
    /// Another, to look at what the first waits for.
    pub observer: Session,
    /// The standby, where it has one. Both sessions above are on the main server.
    pub replica: Option<Replica>,
    /// Name of slot and publication.
    pub slot_name: String,
    /// The slot, if it exists.
    pub slot: Option<Slot>,
    /// The publication, if it exists.
    pub publication: Option<Publication>,
    /// The cluster, and the history that is streamed.
    pub identity: ServerIdentity,
    /// The running server: the same for two databases of it.
    pub(super) server: String,
    /// Its pipelines.
    pub pipelines: Vec<Prepared>,
}

impl PreparedSource {
    /// Where queries run.
    pub fn queried(&self) -> &Session {
        self.replica.as_ref().map_or(&self.control, |replica| &replica.session)
    }

    /// Where slot and stream are.
    pub fn streamed(&self) -> (&PostgresConnection, &Session) {
        match &self.replica {
            Some(replica) if self.streams_from_standby() => (&replica.connection, &replica.session),
            _ => (&self.connection, &self.control),
        }
    }

    /// Whether changes are decoded on the standby.
    pub fn streams_from_standby(&self) -> bool {
        self.replica
            .as_ref()
            .is_some_and(|r| self.connection.streamed(r.session.server_version) == &r.connection)
    }

    /// What checkpoints are bound to.
    pub fn origin(&self) -> Origin {
        Origin {
            system_identifier: self.identity.system_identifier.clone(),
            timeline: self.identity.timeline,
            slot: self.slot_name.clone(),
            database: self.connection.database.clone(),
        }
    }

    /// What the publication's entries of a pipeline's tables are known by.
    pub fn marks(&self, definition: &Definition) -> Option<String> {
        let publication = self.publication.as_ref()?;
        Some(publication.marks(definition.tables.iter().map(|table| table.oid)))
    }
}

/// A project that fits its servers.
pub struct PreparedProject {
    /// Its sources.
    pub sources: Vec<PreparedSource>,
    /// Outputs, by connection name.
    pub outputs: BTreeMap<String, Session>,
    /// The project's name in checkpoints.
    pub name: String,
}

/// Checks a whole project against its servers. Changes nothing on any of them.
pub async fn prepare(project: &Project, creation: Creation) -> Result<PreparedProject, EngineError> {
    let name = project.name.clone().unwrap_or_else(|| "trucker".to_owned());
    let mut findings = Findings::default();
    let (mut sources, mut outputs) = (Vec::new(), BTreeMap::new());
    for pipeline in &project.pipelines {
        let output = postgres(project, &pipeline.output.connection);
        let Some(output) = output else {
            findings.server(format!(
                "pipeline {}: connection {} is ClickHouse, which can't be written to yet",
                pipeline.name, pipeline.output.connection
            ));
            continue;
        };
        if !outputs.contains_key(&output.name) {
            match connect(output, Purpose::Output).await {
                Ok(session) => {
                    if rights::check_schema(&output.name, &session, creation, &mut findings).await? {
                        outputs.insert(output.name.clone(), session);
                    }
                }
                Err(error) => findings.server(error.to_string()),
            }
        }
    }
    for connection in project.connections.iter().filter_map(as_postgres) {
        let of_source: Vec<&Pipeline> =
            project.pipelines.iter().filter(|p| p.input.connection == connection.name).collect();
        if of_source.is_empty() {
            continue;
        }
        let taken: Vec<(String, String)> =
            sources.iter().map(|s: &PreparedSource| (s.server.clone(), s.slot_name.clone())).collect();
        match reach(connection, project, &taken).await {
            Ok(mut source) => {
                check_capacity(&source, creation, &mut findings).await?;
                check_pipelines(project, &name, &mut source, &outputs, &of_source, &mut findings).await?;
                if creation == Creation::Allowed {
                    check_ownership(&source, &mut findings).await?;
                }
                sources.push(source);
            }
            Err(EngineError::Servers(messages)) => messages.into_iter().for_each(|m| findings.server(m)),
            Err(error) => return Err(error),
        }
    }
    wiring::check(&sources, &outputs, &mut findings).await?;
    findings.verdict()?;
    Ok(PreparedProject { sources, outputs, name })
}

pub(super) fn as_postgres(connection: &Connection) -> Option<&PostgresConnection> {
    match connection {
        Connection::Postgres(connection) => Some(connection),
        Connection::ClickHouse(_) => None,
    }
}

pub(super) fn postgres<'a>(project: &'a Project, name: &str) -> Option<&'a PostgresConnection> {
    project.connection(name).and_then(as_postgres)
}

/// Connects to a source and sees whether it can be one at all.
async fn reach(
    connection: &PostgresConnection,
    project: &Project,
    taken: &[(String, String)],
) -> Result<PreparedSource, EngineError> {
    let name = connection.name.as_str();
    let control = connect(connection, Purpose::Control).await?;
    let observer = connect(connection, Purpose::Control).await?;
    let version = control.server_version;
    if version < VERSION_MIN {
        let message = format!(
            "connection {name}: Postgres {} is too old: 14 is the oldest that works",
            version / 10_000
        );
        return Err(EngineError::server(message));
    }
    let client = &control.client;
    let sql = "SELECT pg_catalog.current_setting('wal_level'), pg_catalog.pg_is_in_recovery()";
    let asking = || EngineError::at(name, "asking for wal_level");
    let row = client.query_one(sql, &[]).await.map_err(asking())?;
    if row.try_get(1).map_err(asking())? {
        let message = format!("connection {name}: the server is a standby: name the primary as host");
        return Err(EngineError::server(message));
    }
    let level: String = row.try_get(0).map_err(asking())?;
    if level != "logical" {
        return Err(EngineError::server(format!(
            "connection {name}: wal_level is {level}, but changes can be read only with logical. \
             Run ALTER SYSTEM SET wal_level = logical and restart the server"
        )));
    }
    let identity =
        fetch_server_identity(client).await.map_err(EngineError::at(name, "asking which server it is"))?;
    let server =
        fetch_running_server(client).await.map_err(EngineError::at(name, "asking which server it is"))?;
    let is_taken = |name: &str| taken.iter().any(|(id, slot)| *id == server && slot == name);
    let replica = replica::reach(connection, &control, &identity).await?;
    let streamed = connection.streamed(version);
    let on_standby = replica.as_ref().filter(|replica| replica.connection == *streamed);
    let slots = on_standby.map_or(client, |replica| &replica.session.client);
    let slot_name = slot_name(slots, version, streamed, project, is_taken).await?;
    let slot = slot::fetch(slots, version, &slot_name)
        .await
        .map_err(EngineError::at(&streamed.name, "reading slots"))?;
    check_failover(connection, &control).await?;
    let publication = publication::fetch(client, version, &slot_name)
        .await
        .map_err(EngineError::at(name, "reading publications"))?;
    let source = PreparedSource {
        connection: connection.clone(),
        control,
        observer,
        replica,
        slot_name,
        slot,
        publication,
        identity,
        server,
        pipelines: Vec::new(),
    };
    Ok(source)
}

/// Whether the slot can be carried over to standbys, where that was asked for.
async fn check_failover(connection: &PostgresConnection, control: &Session) -> Result<(), EngineError> {
    let (name, version) = (connection.name.as_str(), control.server_version);
    if !connection.failover {
        return Ok(());
    }
    if version < 170_000 {
        return Err(EngineError::server(format!(
            "connection {name}: `failover: true` needs Postgres 17 or later, and this is {}. Take it away: after a failover \
             every pipeline is then filled anew",
            version / 10_000
        )));
    }
    if connection.replica.is_some() {
        return Err(EngineError::server(format!(
            "connection {name}: `failover: true` and `replica_host` exclude each other: a slot on a standby can't be carried over \
             to another server. Take one of them away"
        )));
    }
    let sql = "SELECT pg_catalog.current_setting('synchronized_standby_slots', true)";
    let row = control.client.query_one(sql, &[]).await;
    let standbys = row.and_then(|row| row.try_get::<_, Option<String>>(0));
    let standbys = standbys.map_err(EngineError::at(name, "asking for settings"))?;
    if standbys.unwrap_or_default().is_empty() {
        tracing::warn!(
            event = "failover_settings",
            "connection {name}: synchronized_standby_slots is empty, so trucker may be sent changes that no standby has yet: \
             after a failover that loses them, pipelines have to be filled anew. Name the standbys' physical slots there"
        );
    }
    Ok(())
}

/// Slots are the cluster's, not the database's: a second database of the same cluster needs a name of its own.
pub(super) async fn slot_name(
    client: &tokio_postgres::Client,
    version: u32,
    connection: &PostgresConnection,
    project: &Project,
    is_taken: impl Fn(&str) -> bool,
) -> Result<String, EngineError> {
    let base = project.slot_name();
    let other: String = connection
        .name
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    let longer: String = format!("{base}_{other}").chars().take(63).collect();
    let at = || EngineError::at(&connection.name, "reading slots");
    let is_ours = |slot: &Option<Slot>| {
        slot.as_ref().is_some_and(|s| s.database.as_deref() == Some(&connection.database))
    };
    if is_taken(&base) {
        return Ok(longer);
    }
    let of_base = slot::fetch(client, version, &base).await.map_err(at())?;
    if of_base.is_none() || is_ours(&of_base) || of_base.as_ref().is_some_and(|s| s.database.is_none()) {
        let of_longer = slot::fetch(client, version, &longer).await.map_err(at())?;
        return Ok(if of_base.is_none() && is_ours(&of_longer) { longer } else { base });
    }
    Ok(longer)
}

/// Whether what is missing may be made: slots left, rights given.
async fn check_capacity(
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
                 <= (SELECT count(*) FROM pg_catalog.pg_stat_replication) \
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
        if !is(0)? {
            findings.server(format!(
                "connection {name}: {role} may not use replication. ALTER ROLE {role} REPLICATION"
            ));
        }
        let is_streamed = *name == source.streamed().0.name;
        if is_streamed && source.slot.is_none() && is(2)? {
            findings.server(format!(
                "connection {name}: all replication slots are taken. Raise max_replication_slots (needs a restart), or drop \
                 one that nobody uses: SELECT slot_name, active FROM pg_replication_slots"
            ));
        }
        if is_streamed && !is_streaming && is(5)? {
            findings.server(format!(
                "connection {name}: no walsender is left to stream from. Raise max_wal_senders (needs a restart), or end one \
                 that nobody needs: SELECT pid, application_name FROM pg_stat_replication"
            ));
        }
        let makes_publication = creation == Creation::Allowed && source.publication.is_none();
        if *name == source.connection.name && makes_publication && !is(3)? {
            let database = text(4)?;
            findings.server(format!(
                "connection {name}: {role} may not create a publication. GRANT CREATE ON DATABASE {database} TO {role}"
            ));
        }
    }
    Ok(())
}

async fn check_pipelines(
    project: &Project,
    name: &str,
    source: &mut PreparedSource,
    outputs: &BTreeMap<String, Session>,
    pipelines: &[&Pipeline],
    findings: &mut Findings,
) -> Result<(), EngineError> {
    for &pipeline in pipelines {
        let Some(output) = postgres(project, &pipeline.output.connection) else { continue };
        let Some(session) = outputs.get(&output.name) else { continue };
        match check_pipeline(project, name, source, (output, session), pipeline).await {
            Ok(prepared) => source.pipelines.push(prepared),
            Err(error) => findings.pipeline(&pipeline.name, error),
        }
    }
    check_ancestors(source, findings).await
}

async fn check_pipeline(
    project: &Project,
    name: &str,
    source: &PreparedSource,
    output: (&PostgresConnection, &Session),
    pipeline: &Pipeline,
) -> Checked<Prepared> {
    let definition = define(project, (&source.connection, source.queried()), output, pipeline).await?;
    let all = checkpoint::fetch_all(&output.1.client, name).await?;
    let found = all.into_iter().find(|c| c.pipeline == pipeline.name && c.loaded_lsn.is_some());
    Ok(Prepared { definition: Arc::new(definition), checkpoint: found })
}

/// A pipeline, its SQL and its backfill, checked against both databases; the session is where its SQL runs.
pub(super) async fn define(
    project: &Project,
    source: (&PostgresConnection, &Session),
    output: (&PostgresConnection, &Session),
    pipeline: &Pipeline,
) -> Checked<Definition> {
    let key =
        CheckpointKey { project: project.checkpoint_name().to_owned(), pipeline: pipeline.name.clone() };
    let is_only_writer = match &pipeline.output.table {
        None => true,
        Some(table) => {
            let same = project.pipelines.iter().filter(|p| {
                p.output.connection == pipeline.output.connection && p.output.table.as_ref() == Some(table)
            });
            let client = &output.1.client;
            let names: Vec<String> = project.pipelines.iter().map(|p| p.name.clone()).collect();
            same.count() == 1
                && !checkpoint::has_other_writers(client, &key, &table.to_string(), &names).await?
        }
    };
    let definition = Definition::check(
        Arc::new(pipeline.clone()),
        (source.0, &source.1.client),
        (output.0, &output.1.client),
        key.clone(),
        is_only_writer,
    )
    .await?;
    let versions = (source.1.server_version, output.1.server_version);
    if let Some(problem) = versions::problem(&definition, versions.0, versions.1) {
        return Err(PipelineError::Problems(vec![problem]));
    }
    let client = &source.1.client;
    let types = definition.types(client).await?;
    for table in &definition.tables {
        let relation = Arc::new(table.relation());
        Compiled::new(&definition, client, &types, &relation).await?;
    }
    backfill::check(&definition, source.1, &types).await?;
    Ok(definition)
}

/// Only a table's owner may publish it.
async fn check_ownership(source: &PreparedSource, findings: &mut Findings) -> Result<(), EngineError> {
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
            findings.server(format!(
                "connection {name}: {role} doesn't own {table}, so it may not publish it. ALTER TABLE {table} OWNER TO {role}, \
                 or make {role} a member of the owner"
            ));
        }
    }
    Ok(())
}

/// Changes of a partition are sent as those of its topmost published ancestor: a pipeline on the partition itself would
/// get nothing.
async fn check_ancestors(source: &PreparedSource, findings: &mut Findings) -> Result<(), EngineError> {
    let name = source.connection.name.as_str();
    let tables: Vec<_> = source.pipelines.iter().flat_map(|p| &p.definition.tables).collect();
    let wanted: Vec<u32> = tables.iter().map(|t| t.oid).collect();
    for table in tables {
        let sql = "SELECT a.relid::regclass::text FROM pg_catalog.pg_partition_ancestors($1::oid::regclass) a \
                   WHERE a.relid <> $1::oid AND a.relid = ANY ($2::oid[])";
        let found = source.control.client.query(sql, &[&table.oid, &wanted]).await;
        let ancestor = found.and_then(|rows| rows.first().map(|row| row.try_get::<_, String>(0)).transpose());
        if let Some(ancestor) = ancestor.map_err(EngineError::at(name, "looking for partitions"))? {
            findings.server(format!(
                "connection {name}: {} is a partition of {ancestor}, which another pipeline reads: its changes are sent as \
                 those of {ancestor}. Read {ancestor} in both, and filter in transform.sql",
                table.sql()
            ));
        }
    }
    Ok(())
}

/// Where the server's history left a timeline, asked of the server itself.
pub async fn fetch_switch_point(
    connection: &PostgresConnection,
    left: u32,
    current: u32,
) -> Result<Option<Lsn>, EngineError> {
    let failed = |e: String| {
        EngineError::server(format!("connection {}: reading the timeline's history: {e}", connection.name))
    };
    let mut raw = RawConnection::connect(connection).await?;
    let rows = raw.query(&format!("TIMELINE_HISTORY {current}")).await.map_err(|e| match e {
        RawError::Server(error) => failed(error.to_string()),
        error => failed(format!("{error:?}")),
    })?;
    let text = rows.into_iter().flatten().flatten().next_back().unwrap_or_default();
    // Lines of: timeline, switch point, reason.
    let line = text.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        (fields.next()?.parse() == Ok(left)).then(|| fields.next()?.parse().ok())?
    });
    Ok(line)
}
