//! Puts rows of an output right that were found to be wrong: what the SQL makes of the input now replaces what is there under
//! these keys. It is done where the pipeline stands at its checkpoint and has nothing under way, in one transaction
//! that takes the request away and leaves the checkpoint where it is. What the stream brings afterwards includes all that
//! was committed since that checkpoint, so the rows end as if they had never been wrong.

pub mod clickhouse;

use std::sync::Arc;

use crate::change::Lsn;
use crate::postgres::array::ArrayText;
use crate::postgres::text_rows::TextRows;
use crate::postgres::{Purpose, Session, connect};
use crate::sink::postgres::Writer;
use crate::sink::{By, Goal, Key, Layout, Put, Request, SinkError, Write};
use crate::source::snapshot;

use super::definition::{Checked, Definition};
use super::error::PipelineError;
use super::reading::{self, Reading};
use super::verify::{There, arrays};

/// Rows that are written at once.
const WRITE_ROWS: usize = 1_000;

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
    let columns = writer.target().map_or(0, |target| target.key.len());
    let keys = keys_of(keys, columns);
    let (expected, _) = There::connect(definition, source).await?;
    let reading = snapshot_for_repair(definition, source, slot, loaded).await?;
    let from = reading.session(source);
    let arrays = match keys.is_empty() {
        true => vec![ArrayText::default(); columns],
        false => arrays(&keys.iter().collect::<Vec<_>>()),
    };
    writer
        .write(
            &[Write::Delete { by: By::Key, keys: keys.into_iter().map(|key| (key, Vec::new())).collect() }],
            None,
        )
        .await?;
    let layout = layout(writer, &expected.columns);
    let failed = || PipelineError::source("reading what the output should have");
    let mut rows = TextRows::query(&from.client, &expected.of_keys(), arrays).await.map_err(failed())?;
    let (mut count, mut batch) = (0, Vec::new());
    while let Some(row) = rows.next().await.map_err(failed())? {
        // Of rows with one key, the last counts.
        if let Some(key) = layout.key.as_deref().and_then(|cells| Key::of(&row, cells)) {
            batch.retain(|(other, _)| *other != key);
            batch.push((key, row));
        }
        if batch.len() >= WRITE_ROWS {
            count += put(writer, &layout, &mut batch).await?;
        }
    }
    count += put(writer, &layout, &mut batch).await?;
    let ended = from.client.batch_execute("COMMIT").await;
    ended.map_err(PipelineError::source("ending a snapshot"))?;
    let seam = writer.seam().cloned();
    writer.commit(Goal { loaded_lsn: loaded, commit_time: None, seam, done: Some(request) }).await?;
    Ok(count)
}

/// Those of the texts that can be a key of so many columns.
fn keys_of(texts: &[Vec<String>], columns: usize) -> Vec<Key> {
    let texts = texts.iter().filter(|key| key.len() == columns);
    texts.filter_map(|key| Key::from_values(key.iter().map(|value| Some(value.as_bytes())))).collect()
}

/// A snapshot that has all that was loaded, and nothing that isn't on the source's disk.
async fn snapshot_for_repair(
    definition: &Definition,
    source: &Session,
    slot: &str,
    loaded: Lsn,
) -> Checked<Reading> {
    let control = connect(&definition.source, Purpose::Control).await?;
    let reading = reading::open_snapshot(definition, source, &control, slot).await?;
    if reading.snapshot.start_lsn < loaded {
        // A standby that is behind what was loaded: later it isn't.
        return Err(PipelineError::StreamBroke);
    }
    if let Some(seam) = &reading.snapshot.seam {
        // What is put right must not be undone by a crash of the source.
        let flushed = snapshot::wait_until_flushed(&control.client, seam).await;
        flushed.map_err(PipelineError::source("waiting for the source's disk"))?;
    }
    Ok(reading)
}

fn layout(writer: &Writer, columns: &[String]) -> Arc<Layout> {
    let places = columns.iter().cloned().enumerate().map(|(at, name)| (name, at)).collect();
    let (key, replace) = writer
        .target()
        .map_or((&[][..], &[][..]), |target| (target.key.as_slice(), target.replace.as_slice()));
    Arc::new(Layout::new(places, key, replace))
}

async fn put(
    writer: &mut Writer,
    layout: &Arc<Layout>,
    batch: &mut Vec<(Key, crate::change::Tuple)>,
) -> Result<usize, SinkError> {
    let rows: Vec<_> = batch.drain(..).map(|(_, row)| row).collect();
    let count = rows.len();
    if count > 0 {
        let put = Write::Put { put: Put::Upsert, layout: layout.clone(), omitted: Vec::new(), rows };
        writer.write(&[put], None).await?;
    }
    Ok(count)
}
