//! What is true of a ClickHouse that trucker writes. At any moment: the slot has been told nothing beyond a checkpoint, and no
//! checkpoint is ahead of the rows, that is each key has the version of the last transaction before the checkpoint
//! that touched it, or a later one. When all is done: `FINAL` is what the SQL returns over the source.

use std::collections::{BTreeMap, HashMap};

use super::Plan;
use super::pipelines::Pipeline;
use crate::harness::{ClickHouseDatabase, Row, Scenario};
use crate::oracle::lsn;

/// An output as it was seen after its checkpoint had been.
pub struct Sample {
    /// Place of the pipeline in the plan.
    pub pipeline: usize,
    /// The checkpoint, once no seam stands beside it.
    pub loaded_lsn: u64,
    /// By key, the LSN of the greatest version.
    pub versions: HashMap<String, u64>,
}

/// All checkpoints: pipeline, position, whether a seam stands beside it.
pub fn fetch_checkpoints(out: &ClickHouseDatabase) -> Result<Vec<(String, u64, bool)>, String> {
    let rows = out.try_rows(
        "SELECT pipeline, JSONExtractString(value, 'loaded_lsn'), toString(JSONHas(value, 'seam_snapshot') \
         AND NOT JSONExtractRaw(value, 'seam_snapshot') = 'null') FROM trucker_checkpoint FINAL WHERE part = 'state'",
    )?;
    let text = |row: &Row, at: usize| row[at].clone().unwrap_or_default();
    let known = rows.iter().filter(|row| !text(row, 1).is_empty());
    Ok(known.map(|row| (text(row, 0), lsn(&text(row, 1)), text(row, 2) == "1")).collect())
}

/// Looks at a pipeline's rows, for a checkpoint that was read before.
pub fn look(plan: &Plan, out: &ClickHouseDatabase, at: usize, loaded_lsn: u64) -> Option<Sample> {
    let pipeline = &plan.pipelines[at];
    let sql = pipeline.versions_sql(&plan.tables[pipeline.table])?;
    let rows = out.try_rows(&sql).ok()?;
    let version = |row: Row| Some((row[0].clone()?, row[1].as_deref()?.parse().ok()?));
    Some(Sample { pipeline: at, loaded_lsn, versions: rows.into_iter().filter_map(version).collect() })
}

/// A transaction that touched a key: where it ends, and where the one before it does.
struct Touch {
    end_lsn: u64,
    before: u64,
}

/// By key, in order, the transactions that touched it.
fn fetch_touches(s: &Scenario, table: usize) -> HashMap<String, Vec<Touch>> {
    let rows = s.source.rows(&format!(
        "WITH o AS (SELECT xid, nr, end_lsn, lag(end_lsn, 1, '0/0') OVER (ORDER BY nr) AS before FROM commit_order)
         SELECT DISTINCT k.key, o.end_lsn::text, o.before::text, o.nr FROM history h JOIN o USING (xid),
         LATERAL (VALUES (h.old_key), (h.new_key)) k(key) WHERE h.tab = {table} AND k.key IS NOT NULL ORDER BY o.nr"
    ));
    let mut touches: HashMap<String, Vec<Touch>> = HashMap::new();
    for row in rows {
        let text = |at: usize| row[at].as_deref().unwrap();
        let touch = Touch { end_lsn: lsn(text(1)), before: lsn(text(2)) };
        touches.entry(text(0).to_owned()).or_default().push(touch);
    }
    touches
}

/// Whether no checkpoint that was seen was ahead of the rows. Answers how many keys were looked at.
pub fn check_samples(s: &Scenario, plan: &Plan, samples: &[Sample]) -> Result<usize, String> {
    let mut count = 0;
    let mut touches: BTreeMap<usize, HashMap<String, Vec<Touch>>> = BTreeMap::new();
    for sample in samples {
        let pipeline = &plan.pipelines[sample.pipeline];
        let all = touches.entry(pipeline.table).or_insert_with(|| fetch_touches(s, pipeline.table));
        // What the backfill has read has other versions, and rows that it hasn't found have none.
        let start = first_checkpoint(samples, sample.pipeline);
        for (key, touches) in all {
            let streamed = |touch: &&Touch| touch.end_lsn <= sample.loaded_lsn && touch.before >= start;
            let Some(last) = touches.iter().rev().find(streamed) else { continue };
            let seen = sample.versions.get(key).copied().unwrap_or_default();
            if seen < last.before {
                return Err(ahead(pipeline, sample, key, seen, last));
            }
            count += 1;
        }
    }
    Ok(count)
}

fn first_checkpoint(samples: &[Sample], pipeline: usize) -> u64 {
    let own = samples.iter().filter(|sample| sample.pipeline == pipeline);
    own.map(|sample| sample.loaded_lsn).min().unwrap_or_default()
}

fn ahead(pipeline: &Pipeline, sample: &Sample, key: &str, seen: u64, last: &Touch) -> String {
    format!(
        "the checkpoint of {} was ahead of its rows: at {:X} the row {key} had version {seen:X}, and a transaction between \
         {:X} and {:X} had touched it",
        pipeline.name, sample.loaded_lsn, last.before, last.end_lsn
    )
}

/// Whether every output is what its SQL over the source is now.
pub fn check_outputs(s: &Scenario, out: &ClickHouseDatabase, plan: &Plan) -> Result<(), String> {
    for pipeline in &plan.pipelines {
        let (on_source, on_output) = pipeline.answers(&plan.tables[pipeline.table]);
        let (mut wanted, mut found) = (s.source.rows(&on_source), out.try_rows(&on_output)?);
        wanted.sort();
        found.sort();
        if wanted != found {
            let (name, found_count, count) = (&pipeline.name, found.len(), wanted.len());
            let (missing, too_much) = (other_than(&wanted, &found), other_than(&found, &wanted));
            return Err(format!(
                "{name}: {found_count} rows, not {count}; missing {missing}; too much {too_much}"
            ));
        }
    }
    Ok(())
}

/// One of these rows that the others, sorted as well, lack; each counts as often as it is there.
fn other_than(rows: &[Row], others: &[Row]) -> String {
    let mut others = others.iter().peekable();
    let is_other = |row: &&Row| {
        while others.next_if(|other| other < row).is_some() {}
        others.next_if(|other| other == row).is_none()
    };
    let mut rest = rows.iter();
    let first = rest.find(is_other);
    first.map_or("none".to_owned(), |row| format!("{row:?}").chars().take(200).collect())
}
