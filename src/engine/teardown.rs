//! Removes what trucker created for a project, and nothing else: slots first, since they hold WAL, then publications,
//! then checkpoints. Interrupted, it goes on where it was: each part is looked for by itself.

use tokio::sync::watch;
use tokio_postgres::error::SqlState;

use super::error::EngineError;
use super::guard::{self, Guard};
use super::inspect::{Found, FoundSource, Inspected, Kept, inspect};
use crate::config::{PostgresConnection, Project};
use crate::postgres::Session;
use crate::postgres::ident::quote_ident;

/// What there is to remove, in the user's words.
#[derive(Debug, Default)]
pub struct Plan {
    /// What will be removed, in this order.
    pub removed: Vec<String>,
    /// What stays, and why.
    pub left: Vec<String>,
}

/// Says what [`remove`] would do. Changes nothing.
///
/// # Errors
/// If one of the project's servers can't be looked at.
pub async fn plan(project: &Project) -> Result<Plan, EngineError> {
    Ok(plan_for(&look(project).await?))
}

/// Removes it, and says what it did.
///
/// # Errors
/// If one of the servers can't be looked at, or another process runs the project: then nothing was removed. If a server
/// refuses something: then what came before is gone, and trying again goes on there.
pub async fn remove(project: &Project) -> Result<Plan, EngineError> {
    let mut found = look(project).await?;
    let (_guards, has_waited) = lock(&found).await?;
    if has_waited {
        found = look(project).await?;
    }
    let mut plan = plan_for(&found);
    for (database, source) in sources(&found) {
        for (connection, session) in slots(database, source) {
            drop_slot(connection, session, &source.slot_name).await?;
        }
    }
    for (database, source) in sources(&found).filter(|(_, source)| is_droppable(source)) {
        let sql = format!("DROP PUBLICATION IF EXISTS {}", quote_ident(&source.slot_name));
        let dropped = database.session.client.batch_execute(&sql).await;
        dropped.map_err(EngineError::at(&database.connection.name, "dropping the publication"))?;
    }
    for output in found.outputs() {
        let failed = EngineError::sink(output.connection);
        if !output.found.checkpoints.is_empty() || !output.found.dead_letters.is_empty() {
            output.ledger.delete_all(project.checkpoint_name()).await.map_err(failed)?;
        }
        if output.found.is_spare && !output.ledger.drop().await.map_err(failed)? {
            let line = ledger(output);
            plan.removed.retain(|removed| *removed != line);
            plan.left.push(format!("{line}: something else uses it"));
        }
    }
    Ok(plan)
}

async fn look(project: &Project) -> Result<Inspected, EngineError> {
    let (found, errors) = inspect(project, |_| true).await;
    if errors.is_empty() { Ok(found) } else { Err(EngineError::Servers(errors.into_iter().collect())) }
}

fn sources(found: &Inspected) -> impl Iterator<Item = (&Found, &FoundSource)> {
    found.databases.iter().filter_map(|database| Some((database, database.source.as_ref()?)))
}

/// Keeps every process of the project away, or fails; and whether that took a while.
pub(super) async fn lock(found: &Inspected) -> Result<(Vec<Guard>, bool), EngineError> {
    let (_keep, mut shutdown) = watch::channel(false);
    let (mut guards, mut has_waited) = (Vec::new(), false);
    for (database, source) in sources(found) {
        if !database.is_read && source.slot.is_none() && source.publication.is_none() {
            continue;
        }
        let taken =
            guard::take_slot(database.streamed().0, &source.slot_name, true, &mut shutdown, &|| {}).await;
        let (guard, waited) = taken.map_err(|error| match error {
            EngineError::Held(held) => {
                EngineError::Held(format!("{held}. Stop it first; nothing was removed"))
            }
            error => error,
        })?;
        guards.push(guard);
        has_waited |= waited;
    }
    Ok((guards, has_waited))
}

fn is_droppable(source: &FoundSource) -> bool {
    source.publication.as_ref().is_some_and(|publication| publication.is_ours)
}

fn ledger(output: Kept<'_>) -> String {
    format!("connection {}: {}", output.connection, output.ledger.name())
}

fn plan_for(found: &Inspected) -> Plan {
    let mut plan = Plan::default();
    for (database, source) in sources(found) {
        let slots = slots(database, source);
        plan.removed.extend(
            slots.map(|(c, _)| format!("connection {}: replication slot {}", c.name, source.slot_name)),
        );
    }
    for (database, source) in sources(found) {
        let Some(publication) = &source.publication else { continue };
        let line = format!("connection {}: publication {}", database.connection.name, source.slot_name);
        if publication.is_ours {
            plan.removed.push(line);
        } else {
            plan.left.push(format!(
                "{line}: it belongs to {}, who may DROP PUBLICATION {}",
                publication.owner,
                quote_ident(&source.slot_name)
            ));
        }
    }
    for kept in found.outputs() {
        let (output, name) = (kept.found, kept.connection);
        if !output.checkpoints.is_empty() {
            let names: Vec<&str> = output.checkpoints.iter().map(|c| c.pipeline.as_str()).collect();
            plan.removed.push(format!("connection {name}: checkpoints of {}", names.join(", ")));
        }
        let letters: i64 = output.dead_letters.iter().map(|(_, count)| count).sum();
        if letters > 0 {
            plan.removed.push(format!("connection {name}: {letters} rows of trucker.dead_letters"));
        }
        if output.is_spare {
            plan.removed.push(ledger(kept));
        }
    }
    plan
}

/// Where there is a slot of the project's.
fn slots<'f>(
    database: &'f Found,
    source: &FoundSource,
) -> impl Iterator<Item = (&'f PostgresConnection, &'f Session)> {
    let slot = source.slot.is_some().then(|| database.streamed());
    let spare = source.spare_slot.is_some().then_some((&database.connection, &database.session));
    slot.into_iter().chain(spare)
}

async fn drop_slot(
    connection: &PostgresConnection,
    session: &Session,
    slot: &str,
) -> Result<(), EngineError> {
    let sql = "SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots \
               WHERE slot_name = $1";
    let name = &connection.name;
    match session.client.execute(sql, &[&slot]).await {
        Ok(_) => Ok(()),
        Err(error) if error.code() == Some(&SqlState::OBJECT_IN_USE) => Err(EngineError::Held(format!(
            "connection {name}: replication slot {slot} is held by another process. Stop it first"
        ))),
        Err(error) => Err(EngineError::at(name, "dropping the replication slot")(error)),
    }
}
