//! What is true. Triggers on the source note every change in `history`, within its transaction; a second slot, which nobody
//! confirms, says in which order transactions committed and where. From both follows what each output had to hold at every
//! checkpoint that was ever seen there.

use std::collections::{BTreeMap, HashMap};

use super::harness::{Database, Scenario};
use super::pipelines::{Kind, Pipeline};
use super::schema::Table;

/// On the source, before anything else.
pub const SETUP: &str = "
    SELECT pg_create_logical_replication_slot('witness', 'test_decoding');
    CREATE SEQUENCE ledger_ids;
    CREATE TABLE regions (id int PRIMARY KEY, name text);
    INSERT INTO regions SELECT i, 'region ' || i FROM generate_series(0, 3) i;
    CREATE TABLE history (nr bigserial, xid bigint DEFAULT pg_current_xact_id()::text::bigint, tab int, op text,
      old_key text, new_key text, all_hash bigint, small_hash bigint, n int)";

/// Afterwards: the transactions in the order of their commits.
pub const COMMIT_ORDER: &str = "
    CREATE TABLE commit_order AS
    SELECT row_number() OVER () AS nr, xid::text::bigint AS xid, lsn AS end_lsn
    FROM pg_logical_slot_peek_changes('witness', NULL, NULL, 'skip-empty-xacts', '1') WHERE data LIKE 'COMMIT%'";

/// An output as it was seen at some moment, with its checkpoint, in one snapshot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sample {
    /// Place of the pipeline in the plan.
    pub pipeline: usize,
    /// The checkpoint; None before the backfill.
    pub loaded_lsn: Option<u64>,
    /// The seam's snapshot and bound.
    pub seam: Option<(String, u64)>,
    /// What it held.
    pub digest: String,
}

/// What a table, and the outputs that follow it, hold after some transactions.
#[derive(Default)]
pub struct State {
    /// By key: both hashes and `n`.
    pub rows: HashMap<String, (i128, i128, i64)>,
    /// Sum over all rows.
    pub all_hash: i128,
    /// Sum over the rows that the filter lets through.
    pub small_hash: i128,
    /// How many these are.
    pub filtered: u64,
    /// Sum of `n`.
    pub n: i64,
    /// Inserts, updates, deletes so far.
    pub operations: [u64; 3],
}

struct Transaction {
    end_lsn: u64,
    xid: u64,
    changes: Vec<Noted>,
}

struct Noted {
    operation: char,
    old_key: Option<String>,
    new_key: Option<String>,
    row: (i128, i128, i64),
}

impl State {
    fn apply(&mut self, change: &Noted) {
        match change.operation {
            'I' => self.operations[0] += 1,
            'U' => self.operations[1] += 1,
            'D' => self.operations[2] += 1,
            _ => {
                *self = State { operations: self.operations, ..State::default() };
                return;
            }
        }
        if let Some(row) = change.old_key.as_ref().and_then(|key| self.rows.remove(key)) {
            self.count(row, -1);
        }
        if let Some(key) = &change.new_key {
            self.rows.insert(key.clone(), change.row);
            self.count(change.row, 1);
        }
    }

    fn count(&mut self, (all, small, n): (i128, i128, i64), sign: i64) {
        self.all_hash += i128::from(sign) * all;
        self.n += sign * n;
        if n % 3 != 0 {
            self.small_hash += i128::from(sign) * small;
            self.filtered = self.filtered.checked_add_signed(sign).expect("a row that left had come");
        }
    }
}

/// An LSN as a number.
pub fn lsn(text: &str) -> u64 {
    let (high, low) = text.split_once('/').expect("an LSN");
    (u64::from_str_radix(high, 16).unwrap() << 32) | u64::from_str_radix(low, 16).unwrap()
}

fn fetch_history(source: &Database, table: usize) -> Vec<Transaction> {
    let rows = source.rows(&format!(
        "SELECT o.end_lsn, h.xid, h.op, h.old_key, h.new_key, h.all_hash, h.small_hash, h.n
         FROM history h LEFT JOIN commit_order o USING (xid) WHERE h.tab = {table} ORDER BY o.nr, h.nr"
    ));
    let mut transactions: Vec<Transaction> = Vec::new();
    for row in rows {
        let number = |at: usize| row[at].as_deref().map_or(0, |text: &str| text.parse::<i64>().unwrap());
        let (end_lsn, xid) = (lsn(row[0].as_deref().expect("the witness saw each commit")), number(1) as u64);
        let change = Noted {
            operation: row[2].as_deref().and_then(|op| op.chars().next()).unwrap(),
            old_key: row[3].clone(),
            new_key: row[4].clone(),
            row: (number(5).into(), number(6).into(), number(7)),
        };
        match transactions.last_mut() {
            Some(last) if last.xid == xid => last.changes.push(change),
            _ => transactions.push(Transaction { end_lsn, xid, changes: vec![change] }),
        }
    }
    transactions
}

/// Whether each output that was seen is what the transactions up to its checkpoint make, no more and no less. Answers how
/// many were compared.
pub fn check_samples(
    s: &Scenario,
    tables: &[Table],
    pipelines: &[Pipeline],
    samples: &[Sample],
) -> Result<usize, String> {
    let mut count = 0;
    for table in tables {
        let history = fetch_history(&s.source, table.number);
        let mut plain: BTreeMap<u64, Vec<&Sample>> = BTreeMap::new();
        for sample in samples.iter().filter(|sample| pipelines[sample.pipeline].table == table.number) {
            match &sample.seam {
                None => plain.entry(sample.loaded_lsn.unwrap_or_default()).or_default().push(sample),
                Some((snapshot, bound)) => {
                    let visible = fetch_visible(&s.source, snapshot);
                    let loaded = sample.loaded_lsn.unwrap_or_default();
                    let mut state = State::default();
                    let has = |t: &&Transaction| {
                        t.end_lsn <= loaded || t.end_lsn <= *bound && visible.contains_key(&t.xid)
                    };
                    history
                        .iter()
                        .filter(has)
                        .flat_map(|t| &t.changes)
                        .for_each(|change| state.apply(change));
                    compare(&pipelines[sample.pipeline], sample, &state)?;
                    count += 1;
                }
            }
        }
        let (mut state, mut next) = (State::default(), history.iter().peekable());
        for (loaded, samples) in plain {
            while let Some(transaction) = next.next_if(|t| t.end_lsn <= loaded) {
                transaction.changes.iter().for_each(|change| state.apply(change));
            }
            for sample in samples {
                compare(&pipelines[sample.pipeline], sample, &state)?;
                count += 1;
            }
        }
    }
    Ok(count)
}

/// The noted transactions that a snapshot sees.
fn fetch_visible(source: &Database, snapshot: &str) -> HashMap<u64, ()> {
    let sql =
        format!("SELECT xid FROM commit_order WHERE pg_visible_in_snapshot(xid::text::xid8, '{snapshot}')");
    source.rows(&sql).into_iter().map(|row| (row[0].as_deref().unwrap().parse().unwrap(), ())).collect()
}

fn compare(pipeline: &Pipeline, sample: &Sample, state: &State) -> Result<(), String> {
    let expected = pipeline.digest(state);
    if sample.digest == expected {
        return Ok(());
    }
    Err(format!(
        "the output of {} was no prefix of the source: at {:X?} (seam {:?}) it held {}, and that prefix is {expected}",
        pipeline.name, sample.loaded_lsn, sample.seam, sample.digest
    ))
}

/// Whether every output is what its SQL over the source is now.
pub fn check_outputs(s: &Scenario, tables: &[Table], pipelines: &[Pipeline]) -> Result<(), String> {
    for pipeline in pipelines {
        let (on_source, on_output) = pipeline.answers(&tables[pipeline.table]);
        if let Some(text) = s.difference(&on_source, &on_output) {
            return Err(format!("{} ({:?}): {text}", pipeline.name, pipeline.kind));
        }
    }
    Ok(())
}

/// Whether a pipeline's output can be judged at any moment.
pub fn is_sampled(pipeline: &Pipeline) -> bool {
    !matches!(pipeline.kind, Kind::Join | Kind::FanOut)
}
