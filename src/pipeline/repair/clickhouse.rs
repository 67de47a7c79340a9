//! The same in ClickHouse, where nothing commits together: what the rows under these keys are now is told by rows of a version
//! behind all that was loaded and before all that is streamed from the checkpoint on, as a backfill's are. So whatever the stream
//! brings afterwards counts more, and doing it again changes nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{keys_of, snapshot_for_repair};
use crate::pipeline::definition::{Checked, Definition};
use crate::pipeline::error::PipelineError;
use crate::pipeline::verify::{There, arrays};
use crate::postgres::Session;
use crate::postgres::text_rows::TextRows;
use crate::sink::clickhouse::{Wording, Writer};
use crate::sink::{Goal, Key, Layout, Request};

/// Repairs these keys, given as texts in the key's order. Answers how many rows there are under them now.
pub async fn run(
    definition: &Definition,
    source: &Session,
    slot: &str,
    writer: &mut Writer,
    keys: &[Vec<String>],
    request: &Request,
) -> Checked<usize> {
    let loaded = writer.loaded_lsn().unwrap_or_default();
    let (expected, there) = There::connect(definition, source).await?;
    let no_table = || PipelineError::Input("it has no output table".to_owned());
    let target = writer.target().ok_or_else(no_table)?;
    let keys = keys_of(keys, target.key.len());
    let encodings = there.encodings().to_vec();
    let wording = Wording { key: encodings[..target.key.len()].to_vec(), replace: Vec::new() };
    let places = expected.columns.iter().cloned().enumerate().map(|(at, name)| (name, at)).collect();
    let layout = Arc::new(Layout { encodings, ..Layout::new(places, &target.key, &target.key) });
    let reading = snapshot_for_repair(definition, source, slot, loaded).await?;
    let from = reading.session(source);
    let mut fill = writer.begin_fill(loaded, false).await?;
    let mut removals = fill.reserve(keys.len());
    let mut without_row: BTreeSet<&Key> = keys.iter().collect();
    let failed = || PipelineError::source("reading what the output should have");
    let mut count = 0;
    if !keys.is_empty() {
        let arrays = arrays(&keys.iter().collect::<Vec<_>>());
        let mut rows = TextRows::query(&from.client, &expected.of_keys(), arrays).await.map_err(failed())?;
        while let Some(row) = rows.next().await.map_err(failed())? {
            if let Some(key) = layout.key.as_deref().and_then(|cells| Key::of(&row, cells)) {
                without_row.remove(&key);
            }
            writer.fill(&mut fill, &layout, row).await?;
            count += 1;
        }
    }
    // Only now: a row that can't be written gives the repair up, and what is there stays.
    for key in without_row {
        writer.remove(&mut removals, &wording, key)?;
    }
    let ended = from.client.batch_execute("COMMIT").await;
    ended.map_err(PipelineError::source("ending a snapshot"))?;
    let seam = writer.seam().cloned();
    writer.commit(Goal { loaded_lsn: loaded, commit_time: None, seam, done: Some(request) }).await?;
    Ok(count)
}
