//! Fills the output from what is in the input tables, through the same SQL, and leaves the checkpoint where the stream
//! goes on. All of it is one transaction of the output: interrupted at any instant, nothing of it is there, and it
//! starts again.

use std::time::Instant;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio_postgres::error::SqlState;

use crate::config::Action;
use crate::failpoint;
use crate::postgres::Session;
use crate::sink::postgres::copy::Fill;
use crate::sink::postgres::{SinkError, Writer};
use crate::source::snapshot::{self, BackfillSnapshot};
use crate::transform::query::{CopyQuery, Types};

use super::compiled::{Compiled, Load};
use super::definition::{Checked, Definition};
use super::error::PipelineError;

/// Runs the backfill and commits it with its checkpoint. `source` reads in one transaction; `control` is another
/// session on the same primary.
pub async fn run(
    definition: &Definition,
    source: &Session,
    control: &Session,
    writer: &mut Writer,
) -> Checked<()> {
    let copies = definition.pipeline.backfill && definition.pipeline.output.on.insert != Action::Ignore;
    let mut is_staged = !copies || !is_plain(definition, writer).await?;
    loop {
        let snapshot = open_snapshot(definition, source, control).await?;
        let done = if copies { fill(definition, source, writer, is_staged).await } else { Ok(()) };
        match done {
            Err(error) if !is_staged && is_unique_violation(&error) => {
                // Two rows of the SQL have one key: the last counts, and only the other way can tell which that is.
                tracing::info!(event = "backfill_restarts", pipeline = %definition.pipeline.name,
                    "the SQL returns a key twice: starting over by way of a temporary table");
                writer.roll_back().await?;
                end(source).await?;
                is_staged = true;
            }
            Err(error) => return Err(error),
            Ok(()) => {
                end(source).await?;
                snapshot::wait_until_flushed(&control.client, &snapshot.seam)
                    .await
                    .map_err(PipelineError::source("waiting for the source's disk"))?;
                failpoint::reach("backfill_copied");
                writer.commit(snapshot.start_lsn, Some(snapshot.seam)).await?;
                failpoint::reach("backfill_committed");
                return Ok(());
            }
        }
    }
}

async fn open_snapshot(
    definition: &Definition,
    source: &Session,
    control: &Session,
) -> Checked<BackfillSnapshot> {
    let tables: Vec<_> = definition.tables.iter().map(AsRef::as_ref).collect();
    let snapshot = snapshot::open(&source.client, &control.client, &tables).await;
    snapshot.map_err(PipelineError::source("opening the backfill's snapshot"))
}

async fn end(source: &Session) -> Checked<()> {
    let ended = source.client.batch_execute("COMMIT").await;
    ended.map_err(PipelineError::source("ending the backfill's snapshot"))
}

/// Whether rows can be copied straight into the output table.
async fn is_plain(definition: &Definition, writer: &mut Writer) -> Checked<bool> {
    let takes_all = matches!(definition.pipeline.output.on.insert, Action::Insert | Action::Upsert);
    let is_empty = writer.is_empty().await?;
    writer.roll_back().await?;
    Ok(takes_all && is_empty)
}

fn is_unique_violation(error: &PipelineError) -> bool {
    match error {
        PipelineError::Sink(SinkError::Postgres { source, .. }) => {
            source.code() == Some(&SqlState::UNIQUE_VIOLATION)
        }
        _ => false,
    }
}

async fn fill(
    definition: &Definition,
    source: &Session,
    writer: &mut Writer,
    is_staged: bool,
) -> Checked<()> {
    let types = definition.types(&source.client).await?;
    let mut copies = Vec::new();
    for table in &definition.tables {
        copies.push(Compiled::copy(definition, &source.client, &types, table).await?);
    }
    if copies.iter().any(|(_, load)| load.is_some()) {
        return fill_by_load(definition, source, writer, copies).await;
    }
    let (mut rows, mut fills) = (0, Vec::new());
    for (number, (copy, _)) in copies.iter().enumerate() {
        let fill = filling(definition, copy, is_staged.then_some(number));
        if is_staged {
            writer.stage(&fill).await?;
        }
        let mut into = writer.copy(&fill).await?;
        rows += pipe(source, copy, &mut into, fill.is_binary, &definition.pipeline.name).await?;
        fills.push(fill);
    }
    let removed = if is_staged { writer.merge_staged(&fills).await? } else { 0 };
    tracing::info!(event = "backfilled", pipeline = %definition.pipeline.name, rows, removed, "backfill done");
    Ok(())
}

fn names(copy: &CopyQuery) -> Vec<String> {
    copy.columns.iter().map(|c| c.name.clone()).collect()
}

fn filling(definition: &Definition, copy: &CopyQuery, staging: Option<usize>) -> Fill {
    let on = definition.pipeline.output.on;
    Fill {
        action: on.insert,
        // Appended rows have a past that the input table doesn't show; where deletes are kept, so are their rows.
        removes_others: definition.is_only_writer
            && on.delete == Action::Delete
            && on.insert == Action::Upsert
            && definition.rules_have_key(),
        staging,
        columns: names(copy),
        is_binary: copy.is_binary(),
    }
}

/// The whole backfill as one run of inserts for load.sql, table by table.
async fn fill_by_load(
    definition: &Definition,
    source: &Session,
    writer: &mut Writer,
    copies: Vec<(CopyQuery, Option<Load>)>,
) -> Checked<()> {
    for (copy, load) in copies {
        let Some(load) = load else { continue };
        writer.create_relation(&load.relation, &load.columns).await?;
        let mut into = writer.copy_into(&load.relation, &load.columns).await?;
        let rows = pipe(source, &copy, &mut into, false, &definition.pipeline.name).await?;
        writer
            .load_run(&load.relation, if rows > 0 { &load.sql } else { "SELECT" }, &load_path(definition))
            .await?;
        tracing::info!(event = "backfilled", pipeline = %definition.pipeline.name, rows, "backfill done");
    }
    Ok(())
}

/// load.sql, as messages call it.
pub fn load_path(definition: &Definition) -> String {
    definition.pipeline.sql.load.as_ref().map_or_else(String::new, |file| file.path.display().to_string())
}

/// From the source's COPY to the output's, message by message: neither side's rows are looked into.
async fn pipe(
    source: &Session,
    copy: &CopyQuery,
    into: &mut std::pin::Pin<Box<tokio_postgres::CopyInSink<Bytes>>>,
    is_binary: bool,
    pipeline: &str,
) -> Checked<u64> {
    const BUFFER: usize = 128 * 1024;
    let format = if is_binary { " (FORMAT binary)" } else { "" };
    let sql = format!("COPY ({}) TO STDOUT{format}", copy.sql);
    let reading = |e: tokio_postgres::Error| PipelineError::sql(copy.problem(&e), &e);
    let writing = || SinkError::at("copying into the output");
    let mut rows = Box::pin(source.client.copy_out(&sql).await.map_err(reading)?);
    let (mut count, mut told, mut buffer) = (0u64, Instant::now(), Vec::with_capacity(BUFFER));
    while let Some(row) = rows.next().await {
        buffer.extend_from_slice(&row.map_err(reading)?);
        count += 1;
        if buffer.len() >= BUFFER {
            let full = std::mem::replace(&mut buffer, Vec::with_capacity(BUFFER));
            into.send(Bytes::from(full)).await.map_err(writing())?;
        }
        if count % 4096 == 0 && told.elapsed().as_secs() >= 5 {
            tracing::info!(event = "backfilling", pipeline, rows = count, "backfill goes on");
            told = Instant::now();
        }
    }
    into.send(Bytes::from(buffer)).await.map_err(writing())?;
    into.as_mut().finish().await.map_err(writing())?;
    // Binary form has a message of its own at the end.
    Ok(count - u64::from(is_binary && count > 0))
}

/// The types that a backfill's statements are made with.
pub async fn check(definition: &Definition, source: &Session, types: &Types) -> Checked<()> {
    if definition.pipeline.backfill && definition.pipeline.output.on.insert != Action::Ignore {
        for table in &definition.tables {
            Compiled::copy(definition, &source.client, types, table).await?;
        }
    }
    Ok(())
}
