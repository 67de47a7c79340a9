//! Who reads a backfill's rows: the session that has its snapshot; and for a large table with SQL over it, others that share the
//! snapshot, so that several of the source's processes do the SQL's work for the one writer, whose transaction stays one. Each takes
//! the next range of pages until none is left. A version of a row stays on its page as long as the snapshot is in use, so ranges
//! meet without a gap; the last one has no end. A plain copy has one reader: reading costs the source less than writing costs the
//! output, and a writer that waits for nobody isn't made faster. Never writes.
//!
//! Others are welcome, not needed: where one can't be had (no connection left, another server answers), it goes without. Once they
//! read, the failure of one is the backfill's. On a standby there is one reader: a snapshot can't be shared there.
//!
//! Each session takes locks of its own. Behind an ALTER TABLE that waits for the first session's lock the second would wait for
//! ever, since the first keeps it until all have read: a circle that no server sees. So the others don't wait long for the locks that
//! their statements name. What functions of the SQL lock on the way may close such a circle later: from then on none of the sessions
//! waits for ever. That ends the backfill, which begins again.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::{join_all, try_join_all};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};

use crate::pipeline::counts::Counts;
use crate::pipeline::definition::{Checked, Definition};
use crate::pipeline::error::PipelineError;
use crate::pipeline::reading::Reading;
use crate::postgres::catalog::Table;
use crate::postgres::{Purpose, Session, connect};
use crate::sink::Load;
use crate::source::snapshot;
use crate::transform::query::CopyQuery;

/// At most so many, the first included.
const READERS_MAX: u64 = 4;
/// Sessions beside the first ones that all backfills of this process have at most: the source's are few, and the application's.
const OTHERS_MAX: usize = 8;
static OTHERS: Semaphore = Semaphore::const_new(OTHERS_MAX);
/// What one of them is enough for.
const BYTES_EACH: u64 = 64 * 1024 * 1024;
/// Who has met rows that cost less takes more of the ranges. Each is a statement that begins anew, with what it joins.
const RANGES_EACH: u64 = 4;
/// Rows are handed on in pieces of about that size.
const PIECE_BYTES: usize = 128 * 1024;

/// Whole rows, in COPY's form without its header and trailer.
pub struct Piece {
    /// How many.
    pub rows: u64,
    /// The rows.
    pub bytes: Bytes,
}

/// The sessions, and what they have to read.
pub struct Readers<'a> {
    first: &'a Session,
    others: Vec<(Session, SemaphorePermit<'static>)>,
    /// For each input table, statements that together return all of its rows.
    statements: Vec<Vec<String>>,
    /// For each input table, what it and its partitions were before the first range was planned.
    parts: Vec<(&'a Table, Vec<u32>)>,
}

impl<'a> Readers<'a> {
    /// As many as these tables are worth. `first` has the snapshot.
    pub async fn gather(
        definition: &'a Definition,
        reading: &Reading,
        first: &'a Session,
        copies: &[(CopyQuery, Option<Load>)],
    ) -> Checked<Readers<'a>> {
        let mut ranges: Vec<_> = copies.iter().map(|(copy, _)| vec![copy.sql.clone()]).collect();
        let mut readers =
            Readers { first, others: Vec::new(), statements: ranges.clone(), parts: Vec::new() };
        let sql = &definition.pipeline.sql;
        // A snapshot of a standby has no seam.
        if reading.snapshot.seam.is_none() || sql.transform.is_none() && sql.insert.is_none() {
            return Ok(readers);
        }
        let mut wanted = 1;
        for table in &definition.tables {
            let parts = fetch_parts(first, table).await.map_err(PipelineError::source(PARTS))?;
            readers.parts.push((table, parts));
        }
        for (at, ((copy, _), table)) in copies.iter().zip(&definition.tables).enumerate() {
            let size = fetch_size(first, table).await;
            let (pages, bytes) = size.map_err(PipelineError::source("asking how large a table is"))?;
            let count = (bytes / bytes_each()).clamp(1, READERS_MAX);
            if count > 1 && reads_ranges_alone(first, copy).await? {
                let of_table = split(pages, count * RANGES_EACH).into_iter();
                ranges[at] = of_table.map(|(from, to)| copy.of_pages(from, to)).collect();
                wanted = count.max(wanted);
            }
        }
        let allowed: Vec<_> = (1..wanted).map_while(|_| OTHERS.try_acquire().ok()).collect();
        if !allowed.is_empty() {
            readers.invite(definition, reading, allowed).await?;
        }
        // Whoever reads alone reads in one go.
        if !readers.others.is_empty() {
            readers.statements = ranges;
        }
        Ok(readers)
    }

    async fn invite(
        &mut self,
        definition: &Definition,
        reading: &Reading,
        allowed: Vec<SemaphorePermit<'static>>,
    ) -> Checked<()> {
        let failed = || PipelineError::source("sharing the backfill's snapshot");
        let exported = snapshot::export(&self.first.client).await.map_err(failed())?;
        let (count, mut refusal) = (allowed.len() + 1, None);
        if let Some(id) = exported {
            let joined = join_all(allowed.iter().map(|_| self.join(definition, reading, &id))).await;
            for (joined, permit) in joined.into_iter().zip(allowed) {
                match joined {
                    Ok(session) => self.others.push((session, permit)),
                    Err(error) => refusal = Some(error.to_string()),
                }
            }
        } else {
            refusal = Some("the role may not execute pg_export_snapshot()".to_owned());
        }
        if !self.others.is_empty() {
            snapshot::wait_for_locks_with_patience(&self.first.client).await.map_err(failed())?;
        }
        let (pipeline, readers) = (&definition.pipeline.name, self.others.len() + 1);
        match refusal {
            None => tracing::info!(event = "backfill_readers", %pipeline, readers,
                "{readers} sessions read the backfill, which share its snapshot"),
            Some(refusal) => tracing::warn!(event = "backfill_fewer_readers", %pipeline, readers,
                "{readers} of {count} sessions read the backfill: {refusal}"),
        }
        Ok(())
    }

    /// Another session on the snapshot, with all locks that its statements need.
    async fn join(&self, definition: &Definition, reading: &Reading, id: &str) -> Checked<Session> {
        let session = connect(&definition.source, Purpose::Source).await?;
        let joined = snapshot::join(&session.client, id, &reading.snapshot).await;
        let failed = || PipelineError::source("sharing the backfill's snapshot");
        if !joined.map_err(failed())? {
            let (name, what) = (&definition.source.name, "its address leads to several servers");
            return Err(PipelineError::Input(format!(
                "connection {name}: {what}, of which another answered"
            )));
        }
        for sql in self.statements.iter().filter_map(|statements| statements.first()) {
            let explained = session.client.batch_execute(&format!("EXPLAIN {sql}")).await;
            explained.map_err(PipelineError::source("preparing another reader of the backfill"))?;
        }
        let limited = snapshot::wait_for_locks_with_patience(&session.client).await;
        limited.map_err(failed())?;
        Ok(session)
    }

    /// Reads the input table of that number: `copy`'s rows. Returns when all of them have been handed to `pieces`.
    pub async fn read(
        &self,
        table: usize,
        copy: &CopyQuery,
        is_binary: bool,
        pieces: mpsc::Sender<Piece>,
        counts: &Counts,
    ) -> Checked<()> {
        let next = AtomicUsize::new(0);
        let (next, pieces) = (&next, &pieces);
        let sessions = std::iter::once(self.first).chain(self.others.iter().map(|(session, _)| session));
        let reading = sessions.map(|session| async move {
            while let Some(sql) = self.statements[table].get(next.fetch_add(1, Ordering::Relaxed)) {
                read(session, sql, copy, is_binary, pieces, counts).await?;
            }
            Checked::Ok(())
        });
        try_join_all(reading).await?;
        match self.parts.get(table).filter(|_| self.statements[table].len() > 1) {
            Some((table, parts)) => self.expect_no_part_more(table, parts).await,
            None => Ok(()),
        }
    }

    /// Each range is planned by itself, so of a partition that was attached in between, some may have been read and some not. What is
    /// empty has no rows that matter, and none goes while it is being read.
    async fn expect_no_part_more(&self, table: &Table, parts: &[u32]) -> Checked<()> {
        let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_partition_tree($1::oid::regclass) \
                   WHERE relid::oid <> ALL ($2::oid[]) AND pg_catalog.pg_relation_size(relid) > 0)";
        let grown = self.first.client.query_one(sql, &[&table.oid, &parts]).await;
        match grown.and_then(|row| row.try_get(0)).map_err(PipelineError::source(PARTS))? {
            true => Err(PipelineError::Attached { table: table.relation().display_name() }),
            false => Ok(()),
        }
    }
}

/// One statement's rows.
async fn read(
    session: &Session,
    sql: &str,
    copy: &CopyQuery,
    is_binary: bool,
    pieces: &mpsc::Sender<Piece>,
    counts: &Counts,
) -> Checked<()> {
    let failed = |e: tokio_postgres::Error| PipelineError::sql(copy.problem(&e), &e);
    let format = if is_binary { " (FORMAT binary)" } else { "" };
    let mut messages =
        Box::pin(session.client.copy_out(&format!("COPY ({sql}) TO STDOUT{format}")).await.map_err(failed)?);
    let mut gathered = Gathered { pieces, rows: 0, bytes: Vec::new() };
    let mut is_first = true;
    while let Some(message) = messages.next().await.transpose().map_err(failed)? {
        let row = if is_binary { binary_row(&message, is_first) } else { &message };
        is_first = false;
        if row.is_empty() {
            continue;
        }
        counts.backfilled();
        if !gathered.take(&message, row).await {
            // Nobody takes them: what the writer failed of is told by the writer.
            return Ok(());
        }
    }
    gathered.hand_on().await;
    Ok(())
}

/// Rows on their way to the writer.
struct Gathered<'a> {
    pieces: &'a mpsc::Sender<Piece>,
    rows: u64,
    bytes: Vec<u8>,
}

impl Gathered<'_> {
    /// A row of a message; false if nobody takes any.
    async fn take(&mut self, message: &Bytes, row: &[u8]) -> bool {
        if row.len() >= PIECE_BYTES {
            // Large enough to go alone: a copy of each would be held by each reader.
            let alone = Piece { rows: 1, bytes: message.slice_ref(row) };
            return self.hand_on().await && self.pieces.send(alone).await.is_ok();
        }
        if self.bytes.is_empty() {
            self.bytes.reserve(PIECE_BYTES);
        }
        self.bytes.extend_from_slice(row);
        self.rows += 1;
        self.bytes.len() < PIECE_BYTES || self.hand_on().await
    }

    async fn hand_on(&mut self) -> bool {
        let piece =
            Piece { rows: std::mem::take(&mut self.rows), bytes: std::mem::take(&mut self.bytes).into() };
        piece.rows == 0 || self.pieces.send(piece).await.is_ok()
    }
}

/// COPY's binary form begins with this: signature, flags, and an extension of no bytes.
pub const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// And ends so.
pub const TRAILER: &[u8] = b"\xff\xff";

/// What is left of a message of the binary form: a row, or nothing. The header stands before the first one.
fn binary_row(message: &[u8], is_first: bool) -> &[u8] {
    let row = if is_first { message.strip_prefix(HEADER).unwrap_or(message) } else { message };
    if row == TRAILER { &[] } else { row }
}

const PARTS: &str = "asking for the partitions of a table";

/// The table's partitions, as they are now and not in the snapshot: the planner sees them so.
async fn fetch_parts(session: &Session, table: &Table) -> Result<Vec<u32>, tokio_postgres::Error> {
    let sql = "SELECT relid::oid FROM pg_catalog.pg_partition_tree($1::oid::regclass)";
    session.client.query(sql, &[&table.oid]).await?.iter().map(|row| row.try_get(0)).collect()
}

/// Pages of the table, or of its largest partition, and bytes in all.
async fn fetch_size(session: &Session, table: &Table) -> Result<(u64, u64), tokio_postgres::Error> {
    let sql = "SELECT max(size) / pg_catalog.current_setting('block_size')::bigint, sum(size)::bigint \
               FROM (SELECT pg_catalog.pg_relation_size($1::oid::regclass) AS size UNION ALL \
               SELECT pg_catalog.pg_relation_size(relid) FROM pg_catalog.pg_partition_tree($1::oid::regclass) \
               WHERE relid <> $1::oid) AS sizes";
    let row = session.client.query_one(sql, &[&table.oid]).await?;
    let number = |at| row.try_get::<_, Option<i64>>(at).map(|n| n.unwrap_or(0).max(0).unsigned_abs());
    Ok((number(0)?, number(1)?))
}

/// Whether the source reads a range without reading the rest of the table.
async fn reads_ranges_alone(session: &Session, copy: &CopyQuery) -> Checked<bool> {
    let plan = session.client.query(&format!("EXPLAIN (COSTS OFF) {}", copy.of_pages(0, Some(1))), &[]).await;
    let lines = plan.and_then(|lines| lines.iter().map(|line| line.try_get(0)).collect());
    let lines: Vec<String> = lines.map_err(|e| PipelineError::sql(copy.problem(&e), &e))?;
    Ok(scans_ranges(&lines))
}

/// Whether all scans of the input table, or of its partitions, are of a range.
fn scans_ranges(plan: &[String]) -> bool {
    // The input table goes by this name in the statement, its partitions with a number behind it.
    let is_input = |line: &&String| {
        let (what, name) = line.rsplit_once(' ').unwrap_or_default();
        let number = name.strip_prefix("trucker_change").map(|rest| rest.trim_start_matches('_'));
        what.contains(" on ") && number.is_some_and(|number| number.bytes().all(|b| b.is_ascii_digit()))
    };
    let mut scans = plan.iter().filter(is_input).peekable();
    scans.peek().is_some() && scans.all(|line| line.contains("Tid Range Scan on "))
}

/// So many pages in about so many ranges: first page, and the one behind the last. The last range has none, so that it doesn't
/// matter when they were counted.
fn split(pages: u64, ranges: u64) -> Vec<(u64, Option<u64>)> {
    let (pages, ranges) = (pages.max(1), ranges.max(1));
    let size = pages.div_ceil(ranges);
    let starts = (0..).map(|n| n * size).take_while(|start| *start < pages);
    starts.map(|start| (start, Some(start + size).filter(|end| *end < pages))).collect()
}

/// The tests have small tables.
#[cfg(debug_assertions)]
fn bytes_each() -> u64 {
    let wanted = std::env::var("TRUCKER_BACKFILL_BYTES_EACH").ok().and_then(|bytes| bytes.parse().ok());
    wanted.unwrap_or(BYTES_EACH).max(1)
}

#[cfg(not(debug_assertions))]
fn bytes_each() -> u64 {
    BYTES_EACH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_pages_meet_and_the_last_has_no_end() {
        for (pages, ranges, expected) in [
            (0, 4, vec![(0, None)]),
            (1, 4, vec![(0, None)]),
            (3, 2, vec![(0, Some(2)), (2, None)]),
            (4, 2, vec![(0, Some(2)), (2, None)]),
            (5, 4, vec![(0, Some(2)), (2, Some(4)), (4, None)]),
            (3, 1, vec![(0, None)]),
        ] {
            assert_eq!(split(pages, ranges), expected, "{pages} pages in {ranges}");
        }
    }

    #[test]
    fn header_and_trailer_of_the_binary_form_are_no_rows() {
        let begun = [HEADER, b"\0\x01row"].concat();
        let empty = [HEADER, TRAILER].concat();
        let messages: [(&[u8], bool, &[u8]); 6] = [
            (&begun, true, b"\0\x01row"),
            (HEADER, true, b""),
            (&empty, true, b""),
            (b"\0\x01row", false, b"\0\x01row"),
            (TRAILER, false, b""),
            // A row without a single column.
            (b"\0\0", false, b"\0\0"),
        ];
        for (message, is_first, row) in messages {
            assert_eq!(binary_row(message, is_first), row);
        }
    }

    #[test]
    fn a_plan_reads_ranges_if_every_scan_of_the_input_does() {
        let plan = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        for (text, expected) in [
            ("Tid Range Scan on t trucker_change\n  TID Cond: (ctid < '(1,0)'::tid)", true),
            (
                "Append\n  ->  Tid Range Scan on t_1 trucker_change_1\n  ->  Tid Range Scan on t_2 trucker_change_2",
                true,
            ),
            (
                "Append\n  ->  Tid Range Scan on t_1 trucker_change_1\n  ->  Seq Scan on t_2 trucker_change_2",
                false,
            ),
            ("Hash Join\n  ->  Seq Scan on c\n  ->  Tid Range Scan on t trucker_change", true),
            ("Index Scan using t_pkey on t trucker_change\n  Filter: trucker_change.is_paid", false),
            ("Result\n  One-Time Filter: false", false),
        ] {
            assert_eq!(scans_ranges(&plan(text)), expected, "{text}");
        }
    }
}
