//! Checkpoints in the output: one row per pipeline in `trucker.checkpoint`, moved in the very transaction that
//! writes the rows, by compare-and-set. Who starts a pipeline raises its epoch; a process that lost the pipeline to
//! another finds its epoch gone, and its transaction is undone.

use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row, Statement};

use super::dead_letter;
use crate::change::Lsn;
use crate::checkpoint::Seam;
use crate::sink::{Checkpoint, CheckpointKey, Claim, Failure, Goal, Origin, Request, SinkError};

const TABLE: &str = "\
DO $$ BEGIN IF pg_catalog.to_regnamespace('trucker') IS NULL THEN CREATE SCHEMA trucker; END IF; END $$;
CREATE TABLE IF NOT EXISTS trucker.checkpoint (
  project text NOT NULL,
  pipeline text NOT NULL,
  epoch bigint NOT NULL,
  phase text NOT NULL CHECK (phase IN ('backfill', 'follow')),
  loaded_lsn pg_lsn,
  system_identifier text NOT NULL,
  timeline bigint NOT NULL,
  slot text NOT NULL,
  source_database text NOT NULL,
  output_table text,
  input_tables text,
  published text,
  seam_snapshot text,
  seam_bound pg_lsn,
  updated_at timestamptz NOT NULL DEFAULT now(),
  failure jsonb,
  request jsonb,
  sql_hash text,
  backfilled_sql_hash text,
  committed_at timestamptz,
  PRIMARY KEY (project, pipeline)
);
ALTER TABLE trucker.checkpoint ADD COLUMN IF NOT EXISTS failure jsonb, ADD COLUMN IF NOT EXISTS request jsonb,
  ADD COLUMN IF NOT EXISTS published text, ADD COLUMN IF NOT EXISTS sql_hash text,
  ADD COLUMN IF NOT EXISTS backfilled_sql_hash text, ADD COLUMN IF NOT EXISTS committed_at timestamptz;
COMMENT ON TABLE trucker.checkpoint IS
  'How far each pipeline of trucker has loaded; moves with the rows. Written by trucker only.'";

/// Also read from a table of an earlier version, which lacks the last ones.
const COLUMNS: &str = "pipeline, epoch, phase, loaded_lsn::text, system_identifier, timeline, slot, source_database, \
                       output_table, seam_snapshot, seam_bound::text, \
                       extract(epoch FROM pg_catalog.now() - updated_at)::float8, \
                       input_tables, pg_catalog.to_jsonb(c) ->> 'failure', pg_catalog.to_jsonb(c) ->> 'request', \
                       pg_catalog.to_jsonb(c) ->> 'published', pg_catalog.to_jsonb(c) ->> 'sql_hash', \
                       pg_catalog.to_jsonb(c) ->> 'backfilled_sql_hash', \
                       extract(epoch FROM updated_at - (pg_catalog.to_jsonb(c) ->> 'committed_at')::timestamptz)::float8";

/// Creates schema and tables where they are missing, and brings those of an earlier version up to date. Asks first,
/// since a role may use what it may not create or alter.
pub async fn ensure_tables(client: &Client) -> Result<(), SinkError> {
    if are_tables_complete(client).await? {
        return Ok(());
    }
    // Two processes that start at once: the second waits here and then finds the tables.
    let sql = format!(
        "BEGIN; SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('trucker.checkpoint', 0)); {}; COMMIT",
        tables_sql()
    );
    let done = client.batch_execute(&sql).await;
    if done.is_err() {
        client.batch_execute("ROLLBACK").await.ok();
    }
    done.map_err(SinkError::at(
        "creating schema trucker, or bringing its tables up to date (needs CREATE on the output database; where the \
         schema is there, to own it)",
    ))
}

/// Whether schema and tables are there as this version wants them.
pub async fn are_tables_complete(client: &Client) -> Result<bool, SinkError> {
    let complete = "SELECT pg_catalog.to_regclass('trucker.dead_letters') IS NOT NULL AND count(*) = 6 \
                    FROM pg_catalog.pg_attribute WHERE attrelid = pg_catalog.to_regclass('trucker.checkpoint') \
                    AND attname IN ('failure', 'request', 'published', 'sql_hash', 'backfilled_sql_hash', 'committed_at') \
                    AND NOT attisdropped";
    let row = client.query_one(complete, &[]).await;
    row.and_then(|row| row.try_get(0)).map_err(SinkError::at("looking into schema trucker"))
}

/// The statements that make them so, whatever is there.
pub fn tables_sql() -> String {
    format!("{TABLE};\n{}", dead_letter::TABLE)
}

/// Notes what the pipeline's SQL is known by from now on.
pub async fn note_sql(
    client: &Client,
    key: &CheckpointKey,
    epoch: i64,
    sql_hash: &str,
) -> Result<(), SinkError> {
    let sql =
        "UPDATE trucker.checkpoint SET sql_hash = $4 WHERE project = $1 AND pipeline = $2 AND epoch = $3";
    let done = client.execute(sql, &[&key.project, &key.pipeline, &epoch, &sql_hash]).await;
    done.map(drop).map_err(SinkError::at("noting the pipeline's SQL"))
}

/// Whether there is a checkpoint table.
pub async fn exists(client: &Client) -> Result<bool, SinkError> {
    let sql = "SELECT pg_catalog.to_regclass('trucker.checkpoint') IS NOT NULL";
    let row = client.query_one(sql, &[]).await.and_then(|row| row.try_get(0));
    row.map_err(SinkError::at("looking for trucker.checkpoint"))
}

/// All checkpoints of a project. An error is never taken for their absence.
pub async fn fetch_all(client: &Client, project: &str) -> Result<Vec<Checkpoint>, SinkError> {
    if !exists(client).await? {
        return Ok(Vec::new());
    }
    let sql = format!("SELECT {COLUMNS} FROM trucker.checkpoint c WHERE project = $1 ORDER BY pipeline");
    let rows = client.query(&sql, &[&project]).await;
    rows.and_then(|rows| rows.iter().map(checkpoint).collect())
        .map_err(SinkError::at("reading trucker.checkpoint"))
}

/// One checkpoint, as it is.
pub async fn fetch_one(client: &Client, key: &CheckpointKey) -> Result<Option<Checkpoint>, SinkError> {
    let sql = format!("SELECT {COLUMNS} FROM trucker.checkpoint c WHERE project = $1 AND pipeline = $2");
    let row = client.query_opt(&sql, &[&key.project, &key.pipeline]).await;
    row.and_then(|row| row.as_ref().map(checkpoint).transpose())
        .map_err(SinkError::at("reading trucker.checkpoint"))
}

/// One checkpoint, after waiting for a transaction that is moving it: a COMMIT whose answer was lost may still be under way.
pub async fn fetch_settled(client: &Client, key: &CheckpointKey) -> Result<Option<Checkpoint>, SinkError> {
    let sql =
        format!("SELECT {COLUMNS} FROM trucker.checkpoint c WHERE project = $1 AND pipeline = $2 FOR UPDATE");
    let row = client.query_opt(&sql, &[&key.project, &key.pipeline]).await;
    row.and_then(|row| row.as_ref().map(checkpoint).transpose())
        .map_err(SinkError::at("reading trucker.checkpoint"))
}

fn checkpoint(row: &Row) -> Result<Checkpoint, tokio_postgres::Error> {
    let text = |at: usize| row.try_get::<_, Option<String>>(at);
    let lsn = |at: usize| Ok::<_, tokio_postgres::Error>(text(at)?.and_then(|text| text.parse().ok()));
    let is_following = row.try_get::<_, String>(2)? == "follow";
    let refused = text(14)?.as_deref().and_then(Request::refusal);
    let snapshot = text(9)?.and_then(|text| text.parse().ok());
    Ok(Checkpoint {
        pipeline: row.try_get(0)?,
        epoch: row.try_get(1)?,
        loaded_lsn: lsn(3)?.filter(|_| is_following),
        origin: Origin {
            system_identifier: row.try_get(4)?,
            timeline: u32::try_from(row.try_get::<_, i64>(5)?).unwrap_or_default(),
            slot: row.try_get(6)?,
            database: row.try_get(7)?,
        },
        output_table: row.try_get(8)?,
        input_tables: row.try_get(12)?,
        published: row.try_get(15)?,
        sql_hash: row.try_get(16)?,
        backfilled_sql_hash: row.try_get(17)?,
        delay: row
            .try_get::<_, Option<f64>>(18)?
            .map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default()),
        seam: snapshot.zip(lsn(10)?).map(|(snapshot, bound)| Seam { snapshot, bound }),
        // A clock that was set back is no reason to fail.
        age: Duration::try_from_secs_f64(row.try_get(11)?).unwrap_or_default(),
        failure: text(13)?
            .as_deref()
            .map(|text| Failure { refused: refused.clone(), ..Failure::parse(text) }),
        request: text(14)?.and_then(Request::parse),
        refused,
    })
}

/// Takes the pipeline: from here on, no other process can move its checkpoint. Creates the row where there is none.
pub async fn claim(client: &Client, key: &CheckpointKey, claim: Claim<'_>) -> Result<Checkpoint, SinkError> {
    let sql = format!(
        "INSERT INTO trucker.checkpoint AS c
           (project, pipeline, epoch, phase, system_identifier, timeline, slot, source_database, output_table,
            input_tables, published, sql_hash)
         VALUES ($1, $2, 1, 'backfill', $3, $4, $5, $6, $7, $8, $9, $10)
         ON CONFLICT (project, pipeline) DO UPDATE
         SET epoch = c.epoch + 1, timeline = excluded.timeline, output_table = excluded.output_table, input_tables = excluded.input_tables,
             system_identifier = excluded.system_identifier, slot = excluded.slot,
             source_database = excluded.source_database, published = excluded.published, failure = NULL,
             request = CASE WHEN c.request ->> 'refused' IS NULL THEN c.request END,
             sql_hash = excluded.sql_hash,
             updated_at = pg_catalog.now()
         RETURNING {COLUMNS}"
    );
    let Claim { origin, output_table, input_tables, published, sql_hash } = claim;
    let timeline = i64::from(origin.timeline);
    let row = client
        .query_one(
            &sql,
            &[
                &key.project,
                &key.pipeline,
                &origin.system_identifier,
                &timeline,
                &origin.slot,
                &origin.database,
                &output_table,
                &input_tables,
                &published,
                &sql_hash,
            ],
        )
        .await;
    row.and_then(|row| checkpoint(&row)).map_err(SinkError::at("taking the pipeline's checkpoint"))
}

/// A move of the checkpoint.
#[derive(Debug)]
pub struct Step<'a> {
    /// As this process knows it.
    pub epoch: i64,
    /// Where the checkpoint is, as this process knows it.
    pub from: Option<Lsn>,
    /// Where it will be.
    pub to: Lsn,
    /// When the last transaction was committed at the source, in microseconds since 2000-01-01; None for a mere position.
    pub commit_time: Option<i64>,
    /// What the backfill has read, as long as that matters.
    pub seam: Option<&'a Seam>,
    /// The request that this fulfils.
    pub done: Option<&'a Request>,
}

impl Goal<'_> {
    /// The move that it is from there, for whom this process claimed the checkpoint as.
    pub(super) fn step(&self, epoch: i64, from: Option<Lsn>) -> Step<'_> {
        let Goal { loaded_lsn, commit_time, seam, done } = self;
        Step { epoch, from, to: *loaded_lsn, commit_time: *commit_time, seam: seam.as_ref(), done: *done }
    }
}

/// The statement that moves a checkpoint; `first` is the place of the first of [`StepValues`] among its parameters.
pub fn advance_sql(first: usize) -> String {
    let [project, pipeline, epoch, from, to, snapshot, bound, done, time] =
        std::array::from_fn(|at| format!("${}", first + at));
    format!(
        "UPDATE trucker.checkpoint SET phase = 'follow', loaded_lsn = {to}::text::pg_lsn, seam_snapshot = {snapshot}, \
         seam_bound = {bound}::text::pg_lsn, failure = NULL, request = nullif(request, {done}::text::jsonb), \
         backfilled_sql_hash = CASE WHEN loaded_lsn IS NULL THEN sql_hash ELSE backfilled_sql_hash END, \
         committed_at = timestamptz '2000-01-01 00:00:00+00' + {time}::int8 * interval '1 microsecond', \
         updated_at = pg_catalog.clock_timestamp() \
         WHERE project = {project} AND pipeline = {pipeline} AND epoch = {epoch} \
         AND loaded_lsn IS NOT DISTINCT FROM {from}::text::pg_lsn"
    )
}

/// What the statement takes.
#[derive(Debug)]
pub struct StepValues<'a> {
    key: &'a CheckpointKey,
    epoch: i64,
    from: Option<String>,
    to: String,
    snapshot: Option<String>,
    bound: Option<String>,
    done: Option<&'a str>,
    commit_time: Option<i64>,
}

impl<'a> StepValues<'a> {
    /// Of a step of that pipeline's.
    pub fn new(key: &'a CheckpointKey, step: &Step<'a>) -> Self {
        StepValues {
            key,
            epoch: step.epoch,
            from: step.from.map(|lsn| lsn.to_string()),
            to: step.to.to_string(),
            snapshot: step.seam.map(|seam| seam.snapshot.to_string()),
            bound: step.seam.map(|seam| seam.bound.to_string()),
            done: step.done.map(|request| request.text.as_str()),
            commit_time: step.commit_time,
        }
    }

    /// In the statement's order.
    pub fn params(&self) -> [&(dyn ToSql + Sync); 9] {
        let StepValues { key, epoch, from, to, snapshot, bound, done, commit_time } = self;
        [&key.project, &key.pipeline, epoch, from, to, snapshot, bound, done, commit_time]
    }
}

/// Prepares the statement that moves checkpoints.
pub async fn prepare_advance(client: &Client) -> Result<Statement, SinkError> {
    client.prepare(&advance_sql(1)).await.map_err(SinkError::at("moving the checkpoint"))
}

/// Moves the checkpoint, in the transaction that is open on `client`, if epoch and position are still as this
/// process knows them. What failed before has passed.
pub async fn advance(
    client: &Client,
    statement: &Statement,
    key: &CheckpointKey,
    step: &Step<'_>,
) -> Result<(), SinkError> {
    let moved = client.execute(statement, &StepValues::new(key, step).params()).await;
    expect_own(moved.map_err(SinkError::at("moving the checkpoint"))?, key, step.from)
}

/// Returns once whatever was committed before is durable: the lock on the checkpoint's row is WAL that comes after it, and the end
/// of its transaction waits, as the session's `synchronous_commit` has it, for the disk and for synchronous standbys. A user's file
/// may have set that to `off` for the session.
pub async fn flush(
    client: &Client,
    key: &CheckpointKey,
    epoch: i64,
    loaded_lsn: Option<Lsn>,
) -> Result<(), SinkError> {
    let sql = "SELECT CASE WHEN pg_catalog.current_setting('synchronous_commit') = 'off' \
               THEN pg_catalog.set_config('synchronous_commit', 'on', true) END \
               FROM trucker.checkpoint WHERE project = $1 AND pipeline = $2 AND epoch = $3 \
               AND loaded_lsn IS NOT DISTINCT FROM $4::text::pg_lsn FOR UPDATE";
    let loaded = loaded_lsn.map(|lsn| lsn.to_string());
    let params: [(&(dyn ToSql + Sync), Type); 4] = [
        (&key.project, Type::TEXT),
        (&key.pipeline, Type::TEXT),
        (&epoch, Type::INT8),
        (&loaded, Type::TEXT),
    ];
    let locked = client.query_typed(sql, &params).await;
    let locked = locked.map_err(SinkError::at("making the checkpoint durable"))?.len();
    expect_own(locked as u64, key, loaded_lsn)
}

/// Whether so many checkpoints as were found at that LSN are this pipeline's one.
pub fn expect_own(found: u64, key: &CheckpointKey, expected: Option<Lsn>) -> Result<(), SinkError> {
    if found == 1 {
        return Ok(());
    }
    Err(SinkError::Unmoved { pipeline: key.pipeline.clone(), expected: expected.unwrap_or_default() })
}

/// Forgets where the pipeline was, so that its next start is a backfill.
pub async fn reset(client: &Client, key: &CheckpointKey) -> Result<(), SinkError> {
    let sql = "UPDATE trucker.checkpoint SET phase = 'backfill', epoch = epoch + 1, loaded_lsn = NULL, \
               seam_snapshot = NULL, seam_bound = NULL, failure = NULL, request = NULL, updated_at = pg_catalog.now() \
               WHERE project = $1 AND pipeline = $2";
    let done = client.execute(sql, &[&key.project, &key.pipeline]).await;
    done.map(drop).map_err(SinkError::at("resetting the checkpoint"))
}

/// Whether other pipelines' checkpoints, of whatever project, name that output table. Of this project only the given
/// pipelines count: what is left of one whose folder is gone writes nothing.
pub async fn has_other_writers(
    client: &Client,
    key: &CheckpointKey,
    table: &str,
    pipelines: &[String],
) -> Result<bool, SinkError> {
    if !exists(client).await? {
        return Ok(false);
    }
    let sql = "SELECT EXISTS (SELECT FROM trucker.checkpoint WHERE output_table = $3 \
               AND (project, pipeline) <> ($1, $2) AND (project <> $1 OR pipeline = ANY ($4)))";
    let row = client.query_one(sql, &[&key.project, &key.pipeline, &table, &pipelines]).await;
    row.and_then(|row| row.try_get(0)).map_err(SinkError::at("reading trucker.checkpoint"))
}

/// Forgets all pipelines of a project.
pub async fn delete_all(client: &Client, project: &str) -> Result<(), SinkError> {
    if !exists(client).await? {
        return Ok(());
    }
    dead_letter::delete_all(client, project).await?;
    let done = client.execute("DELETE FROM trucker.checkpoint WHERE project = $1", &[&project]).await;
    done.map(drop).map_err(SinkError::at("deleting the project's checkpoints"))
}

/// Forgets one pipeline, with its dead letters.
pub async fn delete(client: &Client, key: &CheckpointKey) -> Result<(), SinkError> {
    let letters = "DELETE FROM trucker.dead_letters WHERE project = $1 AND pipeline = $2";
    let checkpoint = "DELETE FROM trucker.checkpoint WHERE project = $1 AND pipeline = $2";
    let has_letters = "SELECT pg_catalog.to_regclass('trucker.dead_letters') IS NOT NULL";
    let failed = || SinkError::at("deleting the pipeline's checkpoint");
    let has_letters = client.query_one(has_letters, &[]).await.and_then(|row| row.try_get(0));
    if has_letters.map_err(failed())? {
        client.execute(letters, &[&key.project, &key.pipeline]).await.map_err(failed())?;
    }
    client.execute(checkpoint, &[&key.project, &key.pipeline]).await.map(drop).map_err(failed())
}

/// Whether schema `trucker` holds nothing but the checkpoints of this project, and this role may drop it.
pub async fn is_schema_spare(client: &Client, project: &str) -> Result<bool, SinkError> {
    if !exists(client).await? {
        return Ok(false);
    }
    let sql = "SELECT pg_catalog.pg_has_role(n.nspowner, 'USAGE') \
               AND NOT EXISTS (SELECT FROM trucker.checkpoint WHERE project <> $1) \
               AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.deptype = 'n' \
                 AND d.refclassid = 'pg_catalog.pg_namespace'::regclass AND d.refobjid = n.oid \
                 AND NOT (d.classid = 'pg_catalog.pg_class'::regclass AND d.objid IN ('trucker.checkpoint'::regclass, \
                   coalesce(pg_catalog.to_regclass('trucker.dead_letters'), 0), \
                   coalesce(pg_catalog.to_regclass('trucker.dead_letters_id_seq'), 0)))) \
               FROM pg_catalog.pg_namespace n WHERE n.nspname = 'trucker'";
    let row = client.query_one(sql, &[&project]).await;
    let is_spare: bool =
        row.and_then(|row| row.try_get(0)).map_err(SinkError::at("looking into schema trucker"))?;
    Ok(is_spare && !dead_letter::has_others(client, project).await?)
}

/// Drops the checkpoint table and its schema, if no project has checkpoints there and nothing depends on them;
/// whether it did.
pub async fn drop_schema(client: &Client) -> Result<bool, SinkError> {
    // Under the lock no other project can put its first checkpoint there in between. RESTRICT is the default.
    let sql = "BEGIN; LOCK TABLE trucker.checkpoint IN ACCESS EXCLUSIVE MODE; \
               DO $$ BEGIN IF EXISTS (SELECT FROM trucker.checkpoint) THEN \
                 RAISE dependent_objects_still_exist USING MESSAGE = 'another project has checkpoints there'; \
               END IF; END $$; \
               DROP TABLE IF EXISTS trucker.dead_letters; DROP TABLE trucker.checkpoint; DROP SCHEMA trucker; COMMIT";
    let Err(error) = client.batch_execute(sql).await else { return Ok(true) };
    client.batch_execute("ROLLBACK").await.ok();
    if error.code() == Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST) {
        return Ok(false);
    }
    Err(SinkError::at("dropping schema trucker")(error))
}

/// Other projects that have checkpoints there, as far as this role may look.
pub async fn other_projects(client: &Client, project: &str) -> Result<Vec<String>, SinkError> {
    let exists = "SELECT pg_catalog.to_regclass('trucker.checkpoint') IS NOT NULL \
                  AND pg_catalog.has_table_privilege(pg_catalog.to_regclass('trucker.checkpoint'), 'SELECT')";
    let failed = || SinkError::at("looking for other projects");
    let exists: Option<bool> =
        client.query_one(exists, &[]).await.and_then(|row| row.try_get(0)).map_err(failed())?;
    if exists != Some(true) {
        return Ok(Vec::new());
    }
    let sql = "SELECT DISTINCT project FROM trucker.checkpoint WHERE project <> $1 ORDER BY 1";
    let rows = client.query(sql, &[&project]).await;
    rows.and_then(|rows| rows.iter().map(|row| row.try_get(0)).collect()).map_err(failed())
}
