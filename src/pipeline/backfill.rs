//! Fills the output from what is in the input tables, through the same SQL, and leaves the checkpoint where the stream
//! goes on. Interrupted at any instant, it starts again: in Postgres all of it is one transaction, of which nothing is there
//! then; for ClickHouse see [`clickhouse`].

mod clickhouse;
mod readers;

use bytes::Bytes;
use futures_util::SinkExt;
use tokio::sync::mpsc;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tracing::Span;

use crate::config::Action;
use crate::failpoint;
use crate::postgres::Session;
use crate::postgres::catalog::Table;
use crate::sink::postgres::copy::Fill;
use crate::sink::{Goal, Load, SinkError, Writer, postgres};
use crate::source::snapshot::{self, BackfillSnapshot};
use crate::transform::query::{CopyQuery, Types};

use super::compiled::Compiled;
use super::counts::Counts;
use super::definition::{Checked, Definition};
use super::error::PipelineError;
use super::reading::{self, Reading};
use super::trace::{self, At};
use readers::{HEADER, Piece, Readers, TRAILER};

/// Runs the backfill and commits it with its checkpoint. `source` reads in one transaction; `control` is another
/// session, on the primary.
pub async fn run(
    definition: &Definition,
    source: &Session,
    control: &Session,
    publication: &str,
    writer: &mut Writer,
    counts: &Counts,
) -> Checked<()> {
    let copies = definition.pipeline.backfill && definition.pipeline.output.on.insert != Action::Ignore;
    let mut is_staged = match writer {
        Writer::Postgres(writer) if copies => !is_plain(definition, writer).await?,
        _ => true,
    };
    loop {
        let reading = reading::open_snapshot(definition, source, control, publication).await?;
        let source = reading.session(source);
        let done = match writer {
            _ if !copies => Ok(()),
            Writer::Postgres(writer) => fill(definition, &reading, source, writer, is_staged, counts).await,
            Writer::ClickHouse(writer) => {
                clickhouse::fill(definition, &reading, source, writer, counts).await
            }
        };
        match done {
            Err(error) if !is_staged && is_unique_violation(&error) => {
                // Two rows of the SQL have one key: the last counts, and only the other way can tell which that is.
                tracing::info!(event = "backfill_restarts", pipeline = %definition.pipeline.name,
                    "the SQL returns a key twice: starting over by way of a temporary table");
                if let Writer::Postgres(writer) = writer {
                    writer.roll_back().await?;
                }
                end(source).await?;
                is_staged = true;
            }
            Err(error) => return Err(error),
            Ok(()) => {
                end(source).await?;
                let BackfillSnapshot { start_lsn, seam } = reading.snapshot;
                if let Some(seam) = &seam {
                    // A standby has only what is on the main server's disk.
                    snapshot::wait_until_flushed(&control.client, seam)
                        .await
                        .map_err(PipelineError::source("waiting for the source's disk"))?;
                }
                failpoint::reach("backfill_copied");
                let span = trace::commit(&Span::current(), definition, start_lsn);
                let goal = Goal { loaded_lsn: start_lsn, commit_time: None, seam, done: None };
                trace::observed(span, async { Ok(writer.commit(goal).await?) }).await?;
                failpoint::reach("backfill_committed");
                return Ok(());
            }
        }
    }
}

async fn end(source: &Session) -> Checked<()> {
    let ended = source.client.batch_execute("COMMIT").await;
    ended.map_err(PipelineError::source("ending the backfill's snapshot"))
}

/// Whether rows can be copied straight into the output table.
async fn is_plain(definition: &Definition, writer: &mut postgres::Writer) -> Checked<bool> {
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
    reading: &Reading,
    source: &Session,
    writer: &mut postgres::Writer,
    is_staged: bool,
    counts: &Counts,
) -> Checked<()> {
    let copies = begin(definition, source, counts).await?;
    let readers = Readers::gather(definition, reading, source, &copies).await?;
    if copies.iter().any(|(_, load)| load.is_some()) {
        return fill_by_load(definition, &readers, writer, copies, counts).await;
    }
    let (mut rows, mut fills) = (0, Vec::new());
    for (number, (copy, _)) in copies.iter().enumerate() {
        let fill = filling(definition, copy, is_staged.then_some(number));
        if is_staged {
            writer.stage(&fill).await?;
        }
        let mut into = writer.copy(&fill).await?;
        let piping = pipe(&readers, number, copy, &mut into, fill.is_binary, counts);
        rows += trace::observed(copy_span(definition, number), piping).await?;
        fills.push(fill);
    }
    let removed = if is_staged { writer.merge_staged(&fills).await? } else { 0 };
    tracing::info!(event = "backfilled", pipeline = %definition.pipeline.name, rows, removed, "backfill done");
    Ok(())
}

/// What is to be read of each input table; from now on the backfill is counted.
async fn begin(
    definition: &Definition,
    source: &Session,
    counts: &Counts,
) -> Checked<Vec<(CopyQuery, Option<Load>)>> {
    let types = definition.types(&source.client).await?;
    let mut copies = Vec::new();
    for table in &definition.tables {
        copies.push(Compiled::copy(definition, &source.client, &types, table).await?);
    }
    counts.begin_backfill(estimate(source, copies.iter().map(|(copy, _)| copy)).await?);
    Ok(copies)
}

fn copy_span(definition: &Definition, table: usize) -> Span {
    let table = definition.tables.get(table).map(|table| table.relation().display_name());
    trace::statement(&Span::current(), definition, At::Source, "COPY", table.as_deref())
}

/// How many rows the source's planner expects: right for a plain table that was analyzed, a guess otherwise.
async fn estimate(source: &Session, copies: impl Iterator<Item = &CopyQuery>) -> Checked<u64> {
    let mut rows = 0;
    for copy in copies {
        let plan = source.client.query(&format!("EXPLAIN {}", copy.sql), &[]).await;
        let plan = plan.map_err(|e| PipelineError::sql(copy.problem(&e), &e))?;
        rows += plan.first().and_then(|line| line.try_get(0).ok()).map_or(0, planned_rows);
    }
    Ok(rows)
}

/// How many rows the planner expects in an input table, and what it takes on disk.
pub async fn size(client: &Client, table: &Table) -> Result<(u64, i64), tokio_postgres::Error> {
    let plan = client.query(&format!("EXPLAIN SELECT FROM {}", table.from_sql()), &[]).await?;
    let rows = plan.first().and_then(|line| line.try_get(0).ok()).map_or(0, planned_rows);
    let sql = "SELECT pg_catalog.pg_table_size($1::oid::regclass) + coalesce((SELECT sum(pg_catalog.pg_table_size(relid)) \
               FROM pg_catalog.pg_partition_tree($1::oid::regclass) WHERE relid <> $1::oid), 0)::bigint";
    Ok((rows, client.query_one(sql, &[&table.oid]).await?.try_get(0)?))
}

/// From the first line of a plan: `Seq Scan on t  (cost=0.00..35.50 rows=2550 width=4)`.
fn planned_rows(line: &str) -> u64 {
    let rows = line.rsplit_once(" rows=").map_or("", |(_, rest)| rest);
    rows.split(' ').next().and_then(|rows| rows.parse().ok()).unwrap_or(0)
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
    readers: &Readers<'_>,
    writer: &mut postgres::Writer,
    copies: Vec<(CopyQuery, Option<Load>)>,
    counts: &Counts,
) -> Checked<()> {
    for (number, (copy, load)) in copies.into_iter().enumerate() {
        let Some(load) = load else { continue };
        writer.create_relation(&load.relation, &load.columns).await?;
        let mut into = writer.copy_into(&load.relation, &load.columns).await?;
        let piping = pipe(readers, number, &copy, &mut into, false, counts);
        let rows = trace::observed(copy_span(definition, number), piping).await?;
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

/// From the source's COPY to the output's, for the input table of that number: neither side's rows are looked into.
async fn pipe(
    readers: &Readers<'_>,
    table: usize,
    copy: &CopyQuery,
    into: &mut std::pin::Pin<Box<tokio_postgres::CopyInSink<Bytes>>>,
    is_binary: bool,
    counts: &Counts,
) -> Checked<u64> {
    let writing = || SinkError::at("copying into the output");
    let (sender, mut pieces) = mpsc::channel::<Piece>(1);
    let write = async {
        let mut rows = 0;
        if is_binary {
            into.feed(Bytes::from_static(HEADER)).await.map_err(writing())?;
        }
        while let Some(piece) = pieces.recv().await {
            into.send(piece.bytes).await.map_err(writing())?;
            rows += piece.rows;
        }
        if is_binary {
            into.feed(Bytes::from_static(TRAILER)).await.map_err(writing())?;
        }
        Ok(rows)
    };
    let ((), rows) = tokio::try_join!(readers.read(table, copy, is_binary, sender, counts), write)?;
    into.as_mut().finish().await.map_err(writing())?;
    Span::current().record("trucker.rows", rows);
    Ok(rows)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_is_read_from_a_plans_first_line() {
        for (line, rows) in [
            ("Seq Scan on t  (cost=0.00..35.50 rows=2550 width=4)", 2550),
            ("Nested Loop  (cost=0.00..1e+09 rows=12345678901 width=0)", 12_345_678_901),
            ("Seq Scan on \" rows=7\"  (cost=0.00..35.50 rows=1 width=4)", 1),
            ("Result", 0),
        ] {
            assert_eq!(planned_rows(line), rows);
        }
    }
}
