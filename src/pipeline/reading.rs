//! Where a pipeline reads its source: on the main server, or on a standby of it. Sees that a standby is the right one and
//! far enough before anything is read there; never writes, never decides what a change becomes.

use crate::change::Lsn;
use crate::postgres::{Purpose, Session, connect};
use crate::sink::Origin;
use crate::source::snapshot::{self, BackfillSnapshot, OnStandby};
use crate::source::standby::Standby;
use crate::source::stream::StreamError;
use crate::transform::visibility;

use super::definition::{Checked, Definition};
use super::error::PipelineError;

/// A session for the pipeline's queries.
pub async fn connect_source(definition: &Definition, origin: &Origin) -> Checked<Session> {
    let to = definition.source.queried();
    let session = connect(to, Purpose::Source).await?;
    if definition.source.replica.is_none() {
        return Ok(session);
    }
    let looked = async { Standby::connect(to).await?.look().await }.await;
    let standing = looked.map_err(|error: StreamError| match error {
        StreamError::Connect(error) => PipelineError::Connect(error),
        error => PipelineError::Standby(error),
    })?;
    let (identity, name) = (standing.identity, &to.name);
    if !standing.is_standby {
        return Err(no_standby(definition));
    }
    if (&identity.system_identifier, identity.timeline) != (&origin.system_identifier, origin.timeline) {
        return Err(PipelineError::Replica(format!(
            "connection {name}: it replays timeline {} of the cluster {}, but the changes come from timeline {} of {}. Start \
             trucker again once it follows its main server",
            identity.timeline, identity.system_identifier, origin.timeline, origin.system_identifier
        )));
    }
    Ok(session)
}

/// Waits until what is committed at `commit_lsn` is there to read. On the main server, each snapshot sees to that.
pub async fn wait_for_replica(definition: &Definition, session: &Session, commit_lsn: Lsn) -> Checked<()> {
    if definition.source.replica.is_none() {
        return Ok(());
    }
    let is_standby = visibility::wait_until_replayed(&session.client, commit_lsn).await;
    let is_standby = is_standby.map_err(PipelineError::source("asking how far the standby is"))?;
    if is_standby { Ok(()) } else { Err(no_standby(definition)) }
}

fn no_standby(definition: &Definition) -> PipelineError {
    PipelineError::Replica(format!(
        "connection {}: it is no standby any more. If it has become the main server, name it as `host` and take \
         `replica_host` away; else name another standby",
        definition.source.queried().name
    ))
}

/// A backfill's open snapshot.
pub struct Reading {
    /// What the stream has to know of it.
    pub snapshot: BackfillSnapshot,
    /// The session that has it, where that isn't the one for the pipeline's queries.
    own: Option<Session>,
}

impl Reading {
    /// The session that has the snapshot.
    pub fn session<'a>(&'a self, source: &'a Session) -> &'a Session {
        self.own.as_ref().unwrap_or(source)
    }
}

/// Opens the backfill's snapshot on `source`, or, where that is a standby that never lets one be placed in the stream, on the
/// main server, of which `control` is a session.
pub async fn open_snapshot(
    definition: &Definition,
    source: &Session,
    control: &Session,
    publication: &str,
) -> Checked<Reading> {
    let tables: Vec<_> = definition.tables.iter().map(AsRef::as_ref).collect();
    let failed = || PipelineError::source("opening the backfill's snapshot");
    if definition.source.replica.is_none() {
        let snapshot = snapshot::open(&source.client, &control.client, &tables).await.map_err(failed())?;
        return Ok(Reading { snapshot, own: None });
    }
    let opened = snapshot::open_on_standby(&source.client, &control.client, publication, &tables).await;
    match opened.map_err(failed())? {
        OnStandby::Open(snapshot) => Ok(Reading { snapshot, own: None }),
        OnStandby::NoStandby => Err(no_standby(definition)),
        OnStandby::Unsuitable(why) => {
            tracing::warn!(event = "backfill_from_main", pipeline = %definition.pipeline.name,
                "no snapshot of the standby can be placed in the stream of changes: {why}; the backfill reads the main server");
            let own = connect(&definition.source, Purpose::Source).await?;
            let snapshot = snapshot::open(&own.client, &control.client, &tables).await.map_err(failed())?;
            Ok(Reading { snapshot, own: Some(own) })
        }
    }
}
