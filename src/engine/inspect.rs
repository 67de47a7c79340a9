//! What a project has on its servers, whether or not anybody runs it: slots, publications, checkpoints. Only reads, and
//! asks nothing of tables, SQL files or rights, so that it also works where the project itself wouldn't start.

use futures_util::future::join_all;
use tokio_postgres::Client;

use super::error::EngineError;
use super::prepare::slot_name;
use crate::change::Lsn;
use crate::clickhouse;
use crate::config::{ClickHouseConnection, Connection, Diagnostic, PostgresConnection, Project};
use crate::postgres::catalog::{ServerIdentity, fetch_lsn, fetch_server_identity};
use crate::postgres::{Purpose, Session, connect};
use crate::sink::{Checkpoint, Ledger, SinkError};
use crate::source::slot::{self, Retention, Slot};

/// All that was found.
pub struct Inspected {
    /// The project's databases of Postgres.
    pub databases: Vec<Found>,
    /// Its databases of ClickHouse, each once.
    pub stores: Vec<Store>,
}

/// A database of ClickHouse.
pub struct Store {
    connection: ClickHouseConnection,
    client: clickhouse::Client,
    found: FoundOutput,
}

impl Store {
    fn is_reached_by(&self, to: &ClickHouseConnection) -> bool {
        let place = |c: &ClickHouseConnection| (c.host.clone(), c.port, c.database.clone());
        place(&self.connection) == place(to)
    }

    fn kept(&self) -> Kept<'_> {
        let ledger = Ledger::ClickHouse(&self.client);
        Kept { connection: &self.connection.name, ledger, found: &self.found }
    }
}

/// An output, and what it has.
#[derive(Clone, Copy)]
pub struct Kept<'f> {
    /// Its connection's name; where several lead there, that of the one that stands for all.
    pub connection: &'f str,
    /// How to reach it.
    pub ledger: Ledger<'f>,
    /// What it has.
    pub found: &'f FoundOutput,
}

impl Inspected {
    /// All outputs, each once.
    pub fn outputs(&self) -> impl Iterator<Item = Kept<'_>> {
        let databases = self.databases.iter().filter_map(|database| {
            let ledger = Ledger::Postgres(&database.session.client);
            Some(Kept { connection: &database.connection.name, ledger, found: database.output.as_ref()? })
        });
        databases.chain(self.stores.iter().map(Store::kept))
    }

    /// The output that this connection of the project's leads to.
    pub fn output(&self, project: &Project, connection: &str) -> Option<Kept<'_>> {
        if let Some(Connection::ClickHouse(to)) = project.connection(connection) {
            return self.stores.iter().find(|store| store.is_reached_by(to)).map(Store::kept);
        }
        let named = self.databases.iter().find(|database| database.connection.name == connection);
        self.outputs().find(|output| {
            let database = self.databases.iter().find(|d| d.connection.name == output.connection);
            named.zip(database).is_some_and(|(named, database)| named.is_same_database(database))
        })
    }

    /// The ledger that it leads to, by that connection.
    pub fn ledger(&self, project: &Project, connection: &str) -> Option<Ledger<'_>> {
        if let Some(Connection::ClickHouse(_)) = project.connection(connection) {
            return self.output(project, connection).map(|output| output.ledger);
        }
        let database = self.databases.iter().find(|database| database.connection.name == connection)?;
        Some(Ledger::Postgres(&database.session.client))
    }

    /// Whether a process runs the project.
    pub fn is_running(&self) -> bool {
        self.databases.iter().filter_map(|f| f.source.as_ref()).any(|source| source.is_running)
    }
}

/// A database of the project's.
pub struct Found {
    /// Where.
    pub connection: PostgresConnection,
    /// A session there.
    pub session: Session,
    /// The standby that is streamed from, where that is so: where, and a session there.
    pub standby: Option<(PostgresConnection, Session)>,
    /// The cluster.
    pub identity: ServerIdentity,
    /// Whether pipelines read from this connection.
    pub is_read: bool,
    /// Whether pipelines write to this connection.
    pub is_written: bool,
    /// What it has as a source; None where another connection stands for the same database.
    pub source: Option<FoundSource>,
    /// What it has as an output; None where another connection stands for the same database.
    pub output: Option<FoundOutput>,
}

/// What a database has as a source.
pub struct FoundSource {
    /// Name of slot and publication, whether they are there or not.
    pub slot_name: String,
    /// The slot.
    pub slot: Option<Slot>,
    /// One of that name on the main server, left from before changes were streamed from a standby.
    pub spare_slot: Option<Slot>,
    /// What the slot keeps.
    pub retention: Option<Retention>,
    /// The publication.
    pub publication: Option<FoundPublication>,
    /// Whether a process holds the project's lock.
    pub is_running: bool,
    /// Where the server's WAL ends.
    pub wal_lsn: Lsn,
}

/// A publication of the project's name.
pub struct FoundPublication {
    /// Who made it.
    pub owner: String,
    /// Whether this role may drop it.
    pub is_ours: bool,
}

/// What a database has as an output.
pub struct FoundOutput {
    /// The project's checkpoints.
    pub checkpoints: Vec<Checkpoint>,
    /// How many dead letters its pipelines have.
    pub dead_letters: Vec<(String, i64)>,
    /// Whether what trucker created there holds nothing else, and may be dropped.
    pub is_spare: bool,
}

impl Found {
    /// Whether both are the same database.
    pub fn is_same_database(&self, other: &Found) -> bool {
        self.identity.system_identifier == other.identity.system_identifier
            && self.connection.database == other.connection.database
    }

    /// Where slot and stream are.
    pub fn streamed(&self) -> (&PostgresConnection, &Session) {
        match &self.standby {
            Some((connection, session)) => (connection, session),
            None => (&self.connection, &self.session),
        }
    }

    /// Whether the checkpoint is about changes of this database.
    pub fn is_origin_of(&self, checkpoint: &Checkpoint) -> bool {
        self.identity.system_identifier == checkpoint.origin.system_identifier
            && self.connection.database == checkpoint.origin.database
    }
}

/// Looks at the Postgres databases of these connections; beside what was found, why others couldn't be looked at.
pub async fn inspect(project: &Project, is_wanted: impl Fn(&str) -> bool) -> (Inspected, Vec<Diagnostic>) {
    let mut errors = Vec::new();
    let wanted = project.connections.iter().filter_map(|connection| match connection {
        Connection::Postgres(connection) if is_wanted(&connection.name) => Some(connection),
        _ => None,
    });
    let mut found = Vec::new();
    for reached in join_all(wanted.map(|connection| reach(project, connection))).await {
        match reached {
            Ok(database) => found.push(database),
            Err(error) => errors.extend(error.into_diagnostics()),
        }
    }
    for at in standing_for(&found, |database| database.is_written) {
        match look_at_output(project, &found[at]).await {
            Ok(output) => found[at].output = Some(output),
            Err(error) => errors.extend(error.into_diagnostics()),
        }
    }
    let stores = look_at_stores(project, is_wanted, &mut errors).await;
    let outputs = found.iter().filter_map(|f| f.output.as_ref()).chain(stores.iter().map(|s| &s.found));
    let checkpoints: Vec<Checkpoint> = outputs.flat_map(|output| output.checkpoints.clone()).collect();
    for at in standing_for(&found, |database| database.is_read) {
        match look_at_source(project, &found[at], &checkpoints).await {
            Ok(source) => found[at].source = Some(source),
            Err(error) => errors.extend(error.into_diagnostics()),
        }
    }
    (Inspected { databases: found, stores }, errors)
}

async fn look_at_stores(
    project: &Project,
    is_wanted: impl Fn(&str) -> bool,
    errors: &mut Vec<Diagnostic>,
) -> Vec<Store> {
    let mut stores: Vec<Store> = Vec::new();
    for connection in &project.connections {
        let Connection::ClickHouse(to) = connection else { continue };
        if !is_wanted(&to.name) || stores.iter().any(|store| store.is_reached_by(to)) {
            continue;
        }
        let looked = async {
            let connecting = || SinkError::clickhouse("connecting");
            let client = clickhouse::Client::new(to).map_err(connecting())?;
            let found = fetch_kept(Ledger::ClickHouse(&client), project.checkpoint_name()).await?;
            Ok::<_, SinkError>(Store { connection: to.clone(), client, found })
        };
        match looked.await {
            Ok(store) => stores.push(store),
            Err(error) => errors.extend(EngineError::sink(&to.name)(error).into_diagnostics()),
        }
    }
    stores
}

async fn fetch_kept(ledger: Ledger<'_>, project: &str) -> Result<FoundOutput, SinkError> {
    let checkpoints = ledger.fetch_all(project).await?;
    let dead_letters = ledger.count_dead_letters(project).await?;
    let is_spare = ledger.is_spare(project).await?;
    Ok(FoundOutput { checkpoints, dead_letters, is_spare })
}

async fn reach(project: &Project, connection: &PostgresConnection) -> Result<Found, EngineError> {
    let session = connect(connection, Purpose::Control).await?;
    let identity = fetch_server_identity(&session.client)
        .await
        .map_err(EngineError::at(&connection.name, "asking which server it is"))?;
    let is_read = project.pipelines.iter().any(|p| p.input.connection == connection.name);
    let streamed = connection.streamed(session.server_version);
    let standby = match is_read && streamed != connection {
        true => Some((streamed.clone(), connect(streamed, Purpose::Control).await?)),
        false => None,
    };
    Ok(Found {
        connection: connection.clone(),
        session,
        standby,
        identity,
        is_read,
        is_written: project.pipelines.iter().any(|p| p.output.connection == connection.name),
        source: None,
        output: None,
    })
}

/// One connection for each database: one that is used for this, since only its role need have the rights.
fn standing_for(found: &[Found], is_used: impl Fn(&Found) -> bool) -> Vec<usize> {
    let chosen = |one: &Found| {
        let mut same = found.iter().enumerate().filter(|(_, other)| other.is_same_database(one));
        let first = same.clone().next();
        same.find(|(_, other)| is_used(other)).or(first).map(|(at, _)| at)
    };
    (0..found.len()).filter(|at| chosen(&found[*at]) == Some(*at)).collect()
}

async fn look_at_output(project: &Project, database: &Found) -> Result<FoundOutput, EngineError> {
    let ledger = Ledger::Postgres(&database.session.client);
    match fetch_kept(ledger, project.checkpoint_name()).await {
        // Where the project doesn't write, a schema that it may not even look into is another's.
        Err(SinkError::Postgres { source, .. })
            if !database.is_written
                && source.code() == Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE) =>
        {
            Ok(FoundOutput { checkpoints: Vec::new(), dead_letters: Vec::new(), is_spare: false })
        }
        looked => looked.map_err(|e: SinkError| EngineError::sink(&database.connection.name)(e)),
    }
}

async fn look_at_source(
    project: &Project,
    database: &Found,
    checkpoints: &[Checkpoint],
) -> Result<FoundSource, EngineError> {
    let (connection, main) = (&database.connection, &database.session);
    let (streamed, session) = database.streamed();
    let failed = |what| EngineError::at(&streamed.name, what);
    let slot_name = name_on(project, database, checkpoints).await?;
    let slot = fetch_slot(database, session, &slot_name).await.map_err(failed("reading slots"))?;
    let spare_slot = match database.standby {
        Some(_) => fetch_slot(database, main, &slot_name).await,
        None => Ok(None),
    };
    let spare_slot = spare_slot.map_err(EngineError::at(&connection.name, "reading slots"))?;
    let retention = match slot {
        Some(_) => {
            slot::fetch_retention(&session.client, &slot_name).await.map_err(failed("reading slots"))?
        }
        None => None,
    };
    let publication = fetch_publication(&main.client, &slot_name)
        .await
        .map_err(EngineError::at(&connection.name, "reading publications"))?;
    let is_running = is_locked(&session.client, &slot_name).await.map_err(failed("reading locks"))?;
    let wal_lsn = fetch_lsn(&main.client, "pg_current_wal_lsn")
        .await
        .map_err(EngineError::at(&connection.name, "asking for the WAL position"))?;
    Ok(FoundSource { slot_name, slot, spare_slot, retention, publication, is_running, wal_lsn })
}

/// A slot that may be the project's: a persistent one of pgoutput's, of the same database.
async fn fetch_slot(
    database: &Found,
    on: &Session,
    name: &str,
) -> Result<Option<Slot>, tokio_postgres::Error> {
    let slot = slot::fetch(&on.client, on.server_version, name).await?;
    Ok(slot.filter(|slot| {
        let is_here = slot.database.as_deref() == Some(&database.connection.database);
        is_here && slot.plugin.as_deref() == Some("pgoutput") && !slot.is_temporary
    }))
}

/// The name that the project uses there. Where slots are missing, the checkpoints remember it; where no pipeline reads
/// from the connection, only they can tell that a slot with the connection's name isn't another project's.
async fn name_on(
    project: &Project,
    database: &Found,
    checkpoints: &[Checkpoint],
) -> Result<String, EngineError> {
    let (streamed, session) = database.streamed();
    let (client, version) = (&session.client, session.server_version);
    let name = slot_name(client, version, streamed, project, |_| false).await?;
    let base = project.slot_name();
    let is_there = slot::fetch(client, version, &name).await;
    let is_there = is_there.map_err(EngineError::at(&streamed.name, "reading slots"))?.is_some();
    if is_there && (database.is_read || name == base) {
        return Ok(name);
    }
    let remembered = checkpoints.iter().find(|c| database.is_origin_of(c)).map(|c| c.origin.slot.clone());
    Ok(remembered.unwrap_or(if database.is_read { name } else { base }))
}

async fn fetch_publication(
    client: &Client,
    name: &str,
) -> Result<Option<FoundPublication>, tokio_postgres::Error> {
    let sql = "SELECT pg_catalog.pg_get_userbyid(pubowner)::text, pg_catalog.pg_has_role(pubowner, 'USAGE') \
               FROM pg_catalog.pg_publication WHERE pubname = $1";
    let row = client.query_opt(sql, &[&name]).await?;
    row.map(|row| Ok(FoundPublication { owner: row.try_get(0)?, is_ours: row.try_get(1)? })).transpose()
}

/// Whether some session has the lock that [`guard`](super::guard) takes. Its 64 bits are shown in two halves.
async fn is_locked(client: &Client, slot: &str) -> Result<bool, tokio_postgres::Error> {
    let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_locks l \
                 JOIN pg_catalog.pg_database d ON d.oid = l.database, \
                 pg_catalog.hashtextextended('trucker:' || $1::text, 0) AS key \
               WHERE d.datname = pg_catalog.current_database() AND l.locktype = 'advisory' AND l.granted \
               AND l.objsubid = 1 AND l.classid = ((key >> 32) & 4294967295)::oid \
               AND l.objid = (key & 4294967295)::oid)";
    client.query_one(sql, &[&slot]).await?.try_get(0)
}
