//! Fills an output table from a backfill's rows. They go as they come, and readers see them come; what makes it right is
//! that each has a version before all changes that are streamed later, and behind all that there was. What the SQL doesn't
//! return any more goes last.

use std::sync::Arc;

use super::block::Wording;
use super::version::Version;
use super::writer::Writer;
use crate::change::{Lsn, Tuple};
use crate::clickhouse::Client;
use crate::sink::{Key, Layout, Row, SinkError};

use super::ledger::SETTINGS;
use super::writer::SEND_BYTES;

/// A backfill under way.
#[derive(Debug)]
pub struct Fill {
    start_lsn: Lsn,
    first: u64,
    next: u64,
}

impl Fill {
    /// Keeps so many versions for removals that are added at last and yet count less than all rows added before.
    pub fn reserve(&mut self, count: usize) -> Fill {
        let reserved = Fill { start_lsn: self.start_lsn, first: self.first, next: self.next };
        self.next += count as u64;
        reserved
    }
}

impl Writer {
    /// Begins one whose stream goes on at `start_lsn`. Where nobody else writes the table, refuses one that holds rows of
    /// another history, which would win over all that could be written.
    pub async fn begin_fill(&mut self, start_lsn: Lsn, is_only_writer: bool) -> Result<Fill, SinkError> {
        let mut first = 0;
        let before = Version::of_change(start_lsn, 0);
        if let Some((target, sql)) = self.target().and_then(|target| Some((target, target.versions(before)?)))
        {
            let [own, highest] = fetch_versions(self.client(), &sql, &target.sql()).await?;
            if is_only_writer && highest.next_in_backfill(start_lsn).is_none() {
                return Err(SinkError::Ahead { table: target.sql(), start_lsn });
            }
            first = own.next_in_backfill(start_lsn).unwrap_or_default();
        }
        Ok(Fill { start_lsn, first, next: first })
    }

    /// Adds that there is no row under a key, unless one of a later version is added.
    pub fn remove(&mut self, fill: &mut Fill, wording: &Wording, key: &Key) -> Result<(), SinkError> {
        let version = Version::of_backfill(fill.start_lsn, fill.next);
        fill.next += 1;
        self.tombstone(version, wording, key)
    }

    /// Adds a row. Of several with one key the last counts.
    pub async fn fill(
        &mut self,
        fill: &mut Fill,
        layout: &Arc<Layout>,
        tuple: Tuple,
    ) -> Result<(), SinkError> {
        let version = Version::of_backfill(fill.start_lsn, fill.next);
        fill.next += 1;
        self.put(version, &Row { layout: layout.clone(), tuple })?;
        if self.gathered() <= SEND_BYTES {
            return Ok(());
        }
        self.look_again();
        self.send().await
    }

    /// Ends it: if wanted, what was there before and hasn't come again goes.
    pub async fn end_fill(&mut self, fill: Fill, removes_others: bool) -> Result<(), SinkError> {
        self.look_again();
        self.send().await?;
        self.hold().await?;
        let version = |number| Version::of_backfill(fill.start_lsn, number);
        let sql = self.target().and_then(|t| t.remove_older(version(fill.first), version(fill.next)));
        match sql.filter(|_| removes_others) {
            Some(sql) => self.run(&sql, "removing rows that the SQL doesn't return of").await,
            None => Ok(()),
        }
    }
}

async fn fetch_versions(client: &Client, sql: &str, table: &str) -> Result<[Version; 2], SinkError> {
    let what = || format!("looking into {table}");
    let answer = client.select(sql, SETTINGS).await.map_err(SinkError::clickhouse(what()))?;
    let version =
        |text: &Option<String>| text.as_ref().and_then(|text| text.parse().ok()).map_or(Version(0), Version);
    Ok(match answer.rows.first().map(Vec::as_slice) {
        Some([own, highest]) => [version(own), version(highest)],
        _ => [Version(0); 2],
    })
}
