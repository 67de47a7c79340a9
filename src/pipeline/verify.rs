//! Whether a pipeline's output has the rows that its SQL makes of the input now, while the stream runs.
//!
//! The problem: what the output has is what the input was a moment ago, and no position says which moment exactly. The way:
//!
//! 1. Both sides are read once, in the order of the output's key, and merged. Keys that differ are candidates, no more; most
//!    of them are only late.
//! 2. Candidates are looked at again, a chunk at a time: their rows by the SQL, then the source's position, then, once the
//!    pipeline has passed that, their rows in the output. Equal now: it was only late.
//! 3. Otherwise the same again. A difference is one if it is there in two rounds in a row, between the very same versions of
//!    the rows (`xmin`, `ctid`). For if the SQL's row is of the same version of the input row in both, then that hasn't changed
//!    from before the first position until after it was loaded, so the output should have had it; and if there is no such
//!    row in either, then a row of the output that was rightly there in the first round has been deleted, or written again,
//!    before the second. Values alone don't tell: rows that flip to and fro look the same. (Where an output has no columns but
//!    its key, such a row isn't always written again.) A row that never keeps still is said to be unsettled, and is
//!    neither right nor wrong.
//!
//! In ClickHouse a row's version is the one that decides which row of its key counts: whatever writes the row again gives it a
//! later one. Rows come before the checkpoint there, so what is read after it has them.
//!
//! Bounded memory: both sides are streamed, and of candidates there is one chunk. Only reads.

mod sides;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::change::{Lsn, Tuple};
use crate::config::Action;
use crate::postgres::catalog::{fetch_lsn, fetch_replay_lsn};
use crate::postgres::text_rows::TextRows;
use crate::postgres::{Purpose, Session, connect};
use crate::sink::{Key, Target};
use crate::transform::expected::Expected;

use super::definition::{Checked, Definition};
use super::error::PipelineError;
pub(super) use sides::{There, arrays};

/// For how many rounds a difference has to stay what it is.
const ROUNDS: u32 = 2;
/// After how many a row that never keeps still is left.
const ROUNDS_MAX: u32 = 6;
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How long the pipeline may take to reach a position. On a quiet source the checkpoint moves every ten seconds.
const PATIENCE: Duration = Duration::from_secs(120);

/// How a key differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// The output lacks its row.
    Missing,
    /// Its row has other values.
    Different,
    /// The SQL returns no such row.
    Extra,
    /// It has changed all the time.
    Unsettled,
}

/// What was found, handed over chunk by chunk.
pub type Found = Vec<(Key, Difference)>;

/// Why a pipeline's output can't be compared with its SQL.
pub fn why_not(definition: &Definition) -> Option<String> {
    let (pipeline, on) = (&definition.pipeline, definition.pipeline.output.on);
    let is_default = (on.insert, on.update, on.delete) == (Action::Upsert, Action::Upsert, Action::Delete);
    if let Some(Target::ClickHouse(target)) = &definition.target
        && let Some(reason) = sides::why_not(target)
    {
        return Some(reason);
    }
    let reason = match () {
        () if pipeline.sql.load.is_some() => Some("what load.sql writes can't be told from its input"),
        () if !is_default => {
            Some("with these actions (`on`) the output depends on the past, which the input doesn't show")
        }
        () if !pipeline.backfill => Some("without a backfill, rows from before are rightly missing"),
        () if !definition.rules_have_key() => Some("its output has no key"),
        () => None,
    };
    reason.map(str::to_owned)
}

/// Both sides of one pipeline.
pub struct Comparison<'a> {
    definition: &'a Definition,
    expected: Expected,
    actual: There,
    /// To look again.
    source: Session,
    /// Whether a process moves the output on.
    is_running: bool,
    chunk: usize,
}

#[derive(Default)]
struct Candidate {
    /// Rows by the SQL, and in the output, with their versions.
    seen: Option<(Vec<Values>, Vec<Values>)>,
    rounds: u32,
}

type Values = Vec<Option<Vec<u8>>>;

impl<'a> Comparison<'a> {
    /// Connects.
    pub async fn new(definition: &'a Definition, is_running: bool, chunk: usize) -> Checked<Self> {
        let source = connect(definition.source.queried(), Purpose::Source).await?;
        let (expected, actual) = There::connect(definition, &source).await?;
        Ok(Comparison { definition, expected, actual, source, is_running, chunk: chunk.max(1) })
    }

    /// Compares all rows, and hands over what differs. Answers how many there were.
    pub async fn run(&self, found: &mut dyn FnMut(Found)) -> Checked<u64> {
        let source = connect(self.definition.source.queried(), Purpose::Source).await?;
        let begun = source.client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await;
        begun.map_err(of_source())?;
        let mut expected =
            TextRows::query(&source.client, &self.expected.all(), Vec::new()).await.map_err(of_source())?;
        let mut actual = self.actual.all(self.definition).await?;
        let (mut wanted, mut there) = (self.next(&mut expected).await?, actual.next().await?);
        let (mut count, mut candidates) = (0, Vec::new());
        loop {
            let (key, order) = match (&wanted, &there) {
                (None, None) => break,
                (Some(wanted), None) => (self.key(wanted), Ordering::Less),
                (None, Some(there)) => (self.key(there), Ordering::Greater),
                (Some(wanted), Some(there)) => {
                    let order = self.values(wanted).cmp(&self.values(there));
                    (self.key(if order == Ordering::Greater { there } else { wanted }), order)
                }
            };
            count += 1;
            // The SQL may return a key several times, of which one counts.
            let mut is_same = false;
            while let Some(row) =
                wanted.as_ref().filter(|row| order != Ordering::Greater && self.key(row) == key)
            {
                is_same |=
                    there.as_ref().is_some_and(|there| order == Ordering::Equal && is_equal(row, there));
                wanted = self.next(&mut expected).await?;
            }
            if order != Ordering::Less {
                there = actual.next().await?;
            }
            let counts = order != Ordering::Greater || self.definition.is_only_writer;
            candidates.extend(key.filter(|_| counts && !is_same));
            if candidates.len() >= self.chunk {
                found(self.look_again(std::mem::take(&mut candidates)).await?);
            }
        }
        found(self.look_again(candidates).await?);
        Ok(count)
    }

    fn key_columns(&self) -> std::ops::Range<usize> {
        0..self.definition.target.as_ref().map_or(0, |target| target.key().len())
    }

    fn key(&self, row: &Tuple) -> Option<Key> {
        Key::of(row, &self.key_columns().collect::<Vec<_>>())
    }

    /// The key as the servers order it.
    fn values<'t>(&self, row: &'t Tuple) -> Vec<Option<&'t [u8]>> {
        self.key_columns().map(|cell| row.cell(cell).text()).collect()
    }

    async fn look_again(&self, keys: Vec<Key>) -> Checked<Found> {
        let mut candidates: BTreeMap<Key, Candidate> =
            keys.into_iter().map(|key| (key, Candidate::default())).collect();
        let mut settled = Found::new();
        let mut round = 0;
        while !candidates.is_empty() {
            round += 1;
            let keys: Vec<&Key> = candidates.keys().collect();
            let mut expected = self.expected_rows(&keys).await?;
            self.wait_until_loaded(self.position().await?).await?;
            let mut actual = self.actual_rows(&keys).await?;
            candidates.retain(|key, candidate| {
                let now = (expected.remove(key).unwrap_or_default(), actual.remove(key).unwrap_or_default());
                let is_there = |row: &Values| now.1.iter().any(|other| content(other) == content(row));
                if now.0.is_empty() && now.1.is_empty() || now.0.iter().any(is_there) {
                    return false;
                }
                if candidate.seen.as_ref() != Some(&now) {
                    candidate.rounds = 0;
                    candidate.seen = Some(now);
                }
                candidate.rounds += 1;
                let is_settled = candidate.rounds >= ROUNDS || !self.is_running;
                if is_settled || round >= ROUNDS_MAX {
                    settled.push((key.clone(), difference(candidate, is_settled)));
                }
                !is_settled && round < ROUNDS_MAX
            });
        }
        settled.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(settled)
    }

    /// The next row that the output should have.
    async fn next(&self, expected: &mut TextRows) -> Checked<Option<Tuple>> {
        let row = expected.next().await.map_err(of_source())?;
        Ok(row.map(|row| self.actual.pack(row)))
    }

    /// What the output should have under these keys.
    async fn expected_rows(&self, keys: &[&Key]) -> Checked<BTreeMap<Key, Vec<Values>>> {
        let mut rows = TextRows::query(&self.source.client, &self.expected.of_keys(), arrays(keys))
            .await
            .map_err(of_source())?;
        let mut found = BTreeMap::new();
        while let Some(row) = self.next(&mut rows).await? {
            self.add(&mut found, &row);
        }
        found.values_mut().for_each(|rows| rows.sort());
        Ok(found)
    }

    /// What it has.
    async fn actual_rows(&self, keys: &[&Key]) -> Checked<BTreeMap<Key, Vec<Values>>> {
        let mut rows = self.actual.of_keys(keys).await?;
        let mut found = BTreeMap::new();
        while let Some(row) = rows.next().await? {
            self.add(&mut found, &row);
        }
        found.values_mut().for_each(|rows| rows.sort());
        Ok(found)
    }

    fn add(&self, found: &mut BTreeMap<Key, Vec<Values>>, row: &Tuple) {
        if let Some(key) = self.key(row) {
            let values = row.cells().map(|cell| cell.text().map(<[u8]>::to_vec)).collect();
            found.entry(key).or_default().push(values);
        }
    }

    /// Where the source is, read after what it was asked.
    async fn position(&self) -> Checked<Lsn> {
        let client = &self.source.client;
        let replayed = fetch_replay_lsn(client).await.map_err(of_source())?;
        match replayed {
            Some(lsn) => Ok(lsn),
            None => fetch_lsn(client, "pg_current_wal_insert_lsn").await.map_err(of_source()),
        }
    }

    /// Waits until the pipeline has loaded everything before that position, if anybody runs it.
    async fn wait_until_loaded(&self, position: Lsn) -> Checked<()> {
        if !self.is_running {
            return Ok(());
        }
        let (key, begun) = (&self.definition.key, Instant::now());
        loop {
            let now = self.actual.ledger().fetch_one(key).await?;
            if now.as_ref().and_then(|now| now.loaded_lsn).is_some_and(|loaded| loaded >= position) {
                return Ok(());
            }
            let failure = now.and_then(|now| now.failure).map(|failure| failure.error);
            if failure.is_some() || begun.elapsed() > PATIENCE {
                let why = failure.unwrap_or_else(|| format!("it hasn't reached {position} for {PATIENCE:?}"));
                return Err(PipelineError::Input(format!(
                    "pipeline {} doesn't come after its source, so nothing can be said of its output: {why}",
                    key.pipeline
                )));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

fn difference(candidate: &Candidate, is_settled: bool) -> Difference {
    match &candidate.seen {
        _ if !is_settled => Difference::Unsettled,
        Some((expected, _)) if expected.is_empty() => Difference::Extra,
        Some((_, actual)) if actual.is_empty() => Difference::Missing,
        _ => Difference::Different,
    }
}

/// A row without its version, which comes last.
fn content(row: &Values) -> &[Option<Vec<u8>>] {
    row.split_last().map_or(&[], |(_, content)| content)
}

fn is_equal(a: &Tuple, b: &Tuple) -> bool {
    let columns = a.len().min(b.len()).saturating_sub(1);
    a.cells().take(columns).eq(b.cells().take(columns))
}

fn of_source() -> impl FnOnce(tokio_postgres::Error) -> PipelineError {
    PipelineError::source("reading what the output should have")
}
