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
//! Bounded memory: both sides are streamed, and of candidates there is one chunk. Only reads.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::change::{Lsn, Tuple};
use crate::config::{Action, Connection, PostgresConnection};
use crate::postgres::array::ArrayText;
use crate::postgres::catalog::{fetch_lsn, fetch_replay_lsn};
use crate::postgres::text_rows::TextRows;
use crate::postgres::{Purpose, Session, connect};
use crate::sink::postgres::actual::{self, Actual};
use crate::sink::postgres::checkpoint;
use crate::sink::{Key, SinkError, Target};
use crate::transform::expected::Expected;

use super::compiled::Compiled;
use super::definition::{Checked, Definition};
use super::error::PipelineError;

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
pub fn why_not(definition: &Definition) -> Option<&'static str> {
    let (pipeline, on) = (&definition.pipeline, definition.pipeline.output.on);
    let is_default = (on.insert, on.update, on.delete) == (Action::Upsert, Action::Upsert, Action::Delete);
    match () {
        () if pipeline.sql.load.is_some() => Some("what load.sql writes can't be told from its input"),
        () if !is_default => {
            Some("with these actions (`on`) the output depends on the past, which the input doesn't show")
        }
        () if !pipeline.backfill => Some("without a backfill, rows from before are rightly missing"),
        () if !definition.rules_have_key() => Some("its output has no key"),
        () => None,
    }
}

/// The output, which is Postgres where anything is compared.
pub(super) fn into_postgres(definition: &Definition) -> Checked<&PostgresConnection> {
    match &definition.output {
        Connection::Postgres(output) => Ok(output),
        Connection::ClickHouse(to) => Err(PipelineError::Input(format!(
            "connection {}: rows of ClickHouse can't be compared yet",
            to.name
        ))),
    }
}

/// Both sides of one pipeline.
pub struct Comparison<'a> {
    definition: &'a Definition,
    expected: Expected,
    actual: Actual,
    /// A second session on each side, to look again.
    source: Session,
    output: Session,
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
        let output = connect(into_postgres(definition)?, Purpose::Output).await?;
        let (expected, actual) = sides(definition, &source, &output).await?;
        Ok(Comparison { definition, expected, actual, source, output, is_running, chunk: chunk.max(1) })
    }

    /// Compares all rows, and hands over what differs. Answers how many there were.
    pub async fn run(&self, found: &mut dyn FnMut(Found)) -> Checked<u64> {
        let source = connect(self.definition.source.queried(), Purpose::Source).await?;
        let output = connect(into_postgres(self.definition)?, Purpose::Output).await?;
        let begun = source.client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await;
        begun.map_err(of_source())?;
        let mut expected =
            TextRows::query(&source.client, &self.expected.all(), Vec::new()).await.map_err(of_source())?;
        let mut actual =
            TextRows::query(&output.client, &self.actual.all(), Vec::new()).await.map_err(of_output())?;
        let (mut wanted, mut there) =
            (expected.next().await.map_err(of_source())?, actual.next().await.map_err(of_output())?);
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
                wanted = expected.next().await.map_err(of_source())?;
            }
            if order != Ordering::Less {
                there = actual.next().await.map_err(of_output())?;
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
            let mut expected =
                self.rows(&self.source, &self.expected.of_keys(), &keys).await.map_err(of_source())?;
            self.wait_until_loaded(self.position().await?).await?;
            let mut actual =
                self.rows(&self.output, &self.actual.of_keys(), &keys).await.map_err(of_output())?;
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

    /// Rows of some keys.
    async fn rows(
        &self,
        session: &Session,
        sql: &str,
        keys: &[&Key],
    ) -> Result<BTreeMap<Key, Vec<Values>>, tokio_postgres::Error> {
        let mut arrays = vec![ArrayText::default(); self.key_columns().len()];
        for key in keys {
            key.values().zip(&mut arrays).for_each(|(value, array)| array.push(Some(value)));
        }
        let mut rows = TextRows::query(&session.client, sql, arrays).await?;
        let mut found: BTreeMap<Key, Vec<Values>> = BTreeMap::new();
        while let Some(row) = rows.next().await? {
            if let Some(key) = self.key(&row) {
                let values = row.cells().map(|cell| cell.text().map(<[u8]>::to_vec)).collect();
                found.entry(key).or_default().push(values);
            }
        }
        found.values_mut().for_each(|rows| rows.sort());
        Ok(found)
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
            let now = checkpoint::fetch_one(&self.output.client, key).await?;
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

/// The statements of both sides.
pub(super) async fn sides(
    definition: &Definition,
    source: &Session,
    output: &Session,
) -> Checked<(Expected, Actual)> {
    let types = definition.types(&source.client).await?;
    let mut copies = Vec::new();
    for table in &definition.tables {
        copies.push(Compiled::copy(definition, &source.client, &types, table).await?.0);
    }
    let target = definition
        .target
        .as_ref()
        .and_then(Target::postgres)
        .ok_or_else(|| PipelineError::Input("it has no output table".to_owned()))?;
    let casts = actual::fetch_casts(&output.client, target).await?;
    let key_array = match target.key.as_slice() {
        [column] => target
            .table
            .column(column)
            .filter(|c| c.type_name.is_builtin())
            .and_then(|c| c.type_name.array_sql.clone()),
        _ => None,
    };
    let expected = Expected::new(&copies, &target.key, &casts, key_array)
        .ok_or_else(|| PipelineError::Input("it has no input table".to_owned()))?;
    let actual = Actual::new(target, &expected.columns);
    Ok((expected, actual))
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

fn of_output() -> impl FnOnce(tokio_postgres::Error) -> PipelineError {
    |error| SinkError::at("reading what the output has")(error).into()
}
