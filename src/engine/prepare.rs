//! Everything before the first change flows: reach the servers, check every pipeline against them, see that stored
//! progress and slot belong together. Up to here nothing is created; [`create`](super::create) does that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::aside::{self, Aside};
use super::error::EngineError;
use super::findings::Findings;
use super::replica::{self, Replica};
use super::requirements;
use super::rights;
use super::wiring;
use crate::change::ReplicaIdentity;
use crate::codes::Code;
use crate::config::{Connection, Diagnostic, Pipeline, PostgresConnection, Project};
use crate::pipeline::backfill;
use crate::pipeline::compiled::Compiled;
use crate::pipeline::definition::{Checked, Definition};
use crate::pipeline::error::PipelineError;
use crate::pipeline::versions;
use crate::pipeline::{loading, offline};
use crate::postgres::catalog::{ServerIdentity, fetch_running_server, fetch_server_identity};
use crate::postgres::ident::quote_idents;
use crate::postgres::{Purpose, Session, connect};
use crate::sink::{Checkpoint, CheckpointKey, Origin, Output};
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

impl Prepared {
    /// Where it goes on. The place of one that is to be filled anew counts for nothing: it may be of another history.
    pub fn place(&self) -> Option<&Checkpoint> {
        self.checkpoint.as_ref().filter(|found| !found.is_to_be_filled())
    }
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
    pub outputs: BTreeMap<String, Output>,
    /// The project's name in checkpoints.
    pub name: String,
    /// Pipelines that can't start now.
    pub aside: Vec<Aside>,
}

/// Checks a whole project against its servers. Changes nothing on any of them.
pub async fn prepare(project: &Project, creation: Creation) -> Result<PreparedProject, EngineError> {
    let mut findings = Findings::default();
    let prepared = survey(project, creation, &mut findings).await;
    findings.verdict()?;
    advise(&findings);
    Ok(prepared)
}

/// The same for a run that goes on without the pipelines that can't start, where there are others.
pub async fn prepare_those_that_fit(
    project: &Project,
    creation: Creation,
) -> Result<PreparedProject, EngineError> {
    let mut findings = Findings::default();
    let mut prepared = survey(project, creation, &mut findings).await;
    aside::divide(project, &findings, &mut prepared).await?;
    advise(&findings);
    Ok(prepared)
}

fn advise(findings: &Findings) {
    for warning in findings.warnings() {
        tracing::warn!(event = "advice", code = %warning.code, "{}", warning.one_line());
    }
}

/// The same, gathering all that is found, whatever it is. What it answers is whole only where nothing is wrong.
pub(super) async fn survey(
    project: &Project,
    creation: Creation,
    findings: &mut Findings,
) -> PreparedProject {
    let name = project.checkpoint_name().to_owned();
    let outputs = survey_outputs(project, creation, findings).await;
    let mut sources: Vec<PreparedSource> = Vec::new();
    for connection in project.connections.iter().filter_map(as_postgres) {
        let of_source: Vec<&Pipeline> =
            project.pipelines.iter().filter(|p| p.input.connection == connection.name).collect();
        if of_source.is_empty() {
            continue;
        }
        findings.of_connection(&connection.name);
        let taken: Vec<(String, String)> =
            sources.iter().map(|s| (s.server.clone(), s.slot_name.clone())).collect();
        match reach(connection, project, &taken, findings).await {
            Ok(mut source) => {
                if let Err(error) = requirements::capacity(&source, creation, findings).await {
                    findings.error(error);
                }
                survey_pipelines(project, &mut source, &outputs, &of_source, findings).await;
                findings.of_connection(&connection.name);
                let done = requirements::publishing(&source, creation, findings).await;
                done.unwrap_or_else(|error| findings.error(error));
                sources.push(source);
            }
            Err(error) => {
                findings.error(error);
                for pipeline in of_source {
                    findings.of_pipeline(&pipeline.name);
                    skip_pipeline(pipeline, &connection.name, findings);
                }
            }
        }
    }
    let done = wiring::check(&sources, &outputs, findings).await;
    findings.of_project();
    done.unwrap_or_else(|error| findings.error(error));
    PreparedProject { sources, outputs, name, aside: Vec::new() }
}

/// Reaches the outputs. Those that can't be written to are left out.
async fn survey_outputs(
    project: &Project,
    creation: Creation,
    findings: &mut Findings,
) -> BTreeMap<String, Output> {
    let mut outputs = BTreeMap::new();
    let mut tried = BTreeSet::new();
    for pipeline in &project.pipelines {
        let Some(connection) = project.connection(&pipeline.output.connection) else { continue };
        let name = connection.name();
        if !tried.insert(name) {
            continue;
        }
        findings.of_connection(name);
        let looked = async {
            let output =
                Output::connect(connection, Purpose::Output).await.map_err(EngineError::sink(name))?;
            findings.ok("output", reached_output(connection, &output));
            let may_write = rights::check_ledger(name, &output, creation, findings).await?;
            Ok(may_write.then_some(output))
        };
        match looked.await {
            Ok(Some(output)) => drop(outputs.insert(name.to_owned(), output)),
            Ok(None) => {}
            Err(error) => findings.error(error),
        }
    }
    outputs
}

/// Where a connection leads, for the list of what was looked at.
fn reached(connection: &PostgresConnection, session: &Session) -> String {
    let version = session.server_version;
    let PostgresConnection { host, port, database, .. } = connection;
    format!("{host}:{port}, database {database}, Postgres {}.{}", version / 10_000, version % 10_000)
}

fn reached_output(connection: &Connection, output: &Output) -> String {
    match (connection, output) {
        (Connection::Postgres(connection), Output::Postgres(session)) => reached(connection, session),
        (Connection::ClickHouse(connection), _) => {
            format!("{}:{}, database {}, ClickHouse", connection.host, connection.port, connection.database)
        }
        (Connection::Postgres(_), Output::ClickHouse(_)) => {
            unreachable!("an output is of its connection's kind")
        }
    }
}

/// A pipeline whose servers can't be asked: its files can still be looked at.
fn skip_pipeline(pipeline: &Pipeline, connection: &str, findings: &mut Findings) {
    let problems = offline::problems(pipeline);
    if !problems.is_empty() {
        findings.pipeline(&pipeline.name, PipelineError::Problems(problems));
    }
    findings.skip("tables and SQL", format!("connection {connection} can't be used, see there"));
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

pub(super) fn refused(code: Code, message: String, help: &str) -> EngineError {
    Diagnostic::of_server(code, message).help(help).into()
}

/// Connects to a source and sees whether it can be one at all.
async fn reach(
    connection: &PostgresConnection,
    project: &Project,
    taken: &[(String, String)],
    findings: &mut Findings,
) -> Result<PreparedSource, EngineError> {
    let name = connection.name.as_str();
    let control = connect(connection, Purpose::Control).await?;
    let observer = connect(connection, Purpose::Control).await?;
    let version = control.server_version;
    findings.ok("source", reached(connection, &control));
    if version < VERSION_MIN {
        let message = format!("connection {name}: Postgres {} is too old", version / 10_000);
        return Err(refused(Code::VersionTooOld, message, "14 is the oldest that works: upgrade the server"));
    }
    let client = &control.client;
    let sql = "SELECT pg_catalog.current_setting('wal_level'), pg_catalog.pg_is_in_recovery()";
    let asking = || EngineError::at(name, "asking for wal_level");
    let row = client.query_one(sql, &[]).await.map_err(asking())?;
    if row.try_get(1).map_err(asking())? {
        let message = format!("connection {name}: the server is a standby");
        let help = "name the primary as `host`, and this one as `replica_host`";
        return Err(refused(Code::SourceIsStandby, message, help));
    }
    let level: String = row.try_get(0).map_err(asking())?;
    if level != "logical" {
        let message =
            format!("connection {name}: wal_level is {level}, but changes can be read only with logical");
        let help = "ALTER SYSTEM SET wal_level = logical; then restart the server";
        findings.server(Code::WalLevel, message, help);
    } else {
        findings.ok("wal_level", level);
    }
    let identity =
        fetch_server_identity(client).await.map_err(EngineError::at(name, "asking which server it is"))?;
    let server =
        fetch_running_server(client).await.map_err(EngineError::at(name, "asking which server it is"))?;
    let is_taken = |name: &str| taken.iter().any(|(id, slot)| *id == server && slot == name);
    let replica = replica::reach(connection, &control, &identity, findings).await?;
    let streamed = connection.streamed(version);
    let on_standby = replica.as_ref().filter(|replica| replica.connection == *streamed);
    let slots = on_standby.map_or(client, |replica| &replica.session.client);
    let slot_name = slot_name(slots, version, streamed, project, is_taken).await?;
    let slot = slot::fetch(slots, version, &slot_name)
        .await
        .map_err(EngineError::at(&streamed.name, "reading slots"))?;
    requirements::failover(connection, &control, findings).await?;
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

async fn survey_pipelines(
    project: &Project,
    source: &mut PreparedSource,
    outputs: &BTreeMap<String, Output>,
    pipelines: &[&Pipeline],
    findings: &mut Findings,
) {
    for &pipeline in pipelines {
        findings.of_pipeline(&pipeline.name);
        let name_of_output = &pipeline.output.connection;
        let output = project.connection(name_of_output).zip(outputs.get(name_of_output));
        let Some(output) = output else {
            skip_pipeline(pipeline, name_of_output, findings);
            continue;
        };
        let name = project.checkpoint_name();
        match check_pipeline(project, name, source, output, pipeline).await {
            Ok(prepared) => {
                tell_fine(&prepared.definition, findings);
                source.pipelines.push(prepared);
            }
            Err(error) => findings.pipeline(&pipeline.name, error),
        }
    }
}

/// What of a pipeline was looked at, and is fine.
fn tell_fine(definition: &Definition, findings: &mut Findings) {
    for table in &definition.tables {
        let sent = table.columns.iter().filter(|column| column.is_identity).map(|c| c.name.as_str());
        let identity = match table.identity {
            ReplicaIdentity::Full => "whole rows are sent as old".to_owned(),
            _ => format!("of old rows ({}) are sent", quote_idents(sent)),
        };
        findings.ok("input", format!("{}: {identity}", table.sql()));
    }
    if let Some(target) = &definition.target {
        let key = match target.key() {
            [] => "rows are appended".to_owned(),
            key => format!("key ({})", quote_idents(key.iter().map(String::as_str))),
        };
        findings.ok("output", format!("{}: {key}", target.sql()));
    }
    let files: Vec<String> = definition.pipeline.sql.files().map(|file| file.name()).collect();
    let files =
        if files.is_empty() { "columns of the same name are copied".to_owned() } else { files.join(", ") };
    findings.ok("SQL", files);
    if let (Connection::ClickHouse(_), Some(file)) = (&definition.output, &definition.pipeline.sql.truncate) {
        let why = "ClickHouse prepares no such statement without running it: the first TRUNCATE does that";
        findings.skip(&format!("{} on the output", file.name()), why);
    }
}

async fn check_pipeline(
    project: &Project,
    name: &str,
    source: &PreparedSource,
    output: (&Connection, &Output),
    pipeline: &Pipeline,
) -> Checked<Prepared> {
    let definition = define(project, (&source.connection, source.queried()), output, pipeline).await?;
    let all = output.1.ledger().fetch_all(name).await?;
    let found = all.into_iter().find(|c| c.pipeline == pipeline.name && c.loaded_lsn.is_some());
    Ok(Prepared { definition: Arc::new(definition), checkpoint: found })
}

/// A pipeline, its SQL and its backfill, checked against both databases; the session is where its SQL runs.
pub(super) async fn define(
    project: &Project,
    source: (&PostgresConnection, &Session),
    output: (&Connection, &Output),
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
            let names: Vec<String> = project.pipelines.iter().map(|p| p.name.clone()).collect();
            same.count() == 1
                && !output.1.ledger().has_other_writers(&key, &table.to_string(), &names).await?
        }
    };
    let definition = Definition::check(
        Arc::new(pipeline.clone()),
        (source.0, &source.1.client),
        output,
        key.clone(),
        is_only_writer,
    )
    .await?;
    if let Some(into) = output.1.postgres()
        && let Some(problem) = versions::problem(&definition, source.1.server_version, into.server_version)
    {
        return Err(PipelineError::Problems(vec![problem]));
    }
    let client = &source.1.client;
    let types = definition.types(client).await?;
    for table in &definition.tables {
        let relation = Arc::new(table.relation());
        let compiled = Compiled::new(&definition, client, &types, &relation).await?;
        loading::check(&compiled, output.1).await?;
    }
    backfill::check(&definition, source.1, &types).await?;
    Ok(definition)
}
