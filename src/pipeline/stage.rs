//! The first half of a pipeline: batches of changes in, writes out. Runs the SQL of a whole batch in one snapshot in
//! which the batch's transactions are visible, and puts the answers back into the order of the changes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tracing::Span;

use crate::change::{Change, Lsn, Operation, Relation, Tuple};
use crate::config::{Action, TruncateAction};
use crate::failpoint;
use crate::postgres::Session;
use crate::sink::{Key, Row};
use crate::transform::compile::{Removal, Rows};
use crate::transform::query::{Query, Types};
use crate::transform::{resolve, run};

use super::compiled::Compiled;
use super::counts::Tally;
use super::definition::{Checked, Definition};
use super::effect::{Effects, Outcome, direct_key, direct_row, removal_key};
use super::error::PipelineError;
use super::lineage::Lineage;
use super::queue::{End, Entry};
use super::reading::wait_for_replica;
use super::trace::{self, At};

mod attempt;
mod emit;
mod gather;
mod group;
pub mod slow;
mod snapshot;
mod table;
mod work;

use gather::{Gather, Stamp};
use group::{Group, run_length};
use table::Widened;
pub use work::{Verdict, Work};

/// Rows of a result that a batch may gather before it is cut in halves.
const RESULT_BYTES_MAX: usize = 6 << 20;
/// Writes that are handed on at once.
const WRITE_BYTES_MAX: usize = 3 << 20;

/// See the module.
pub struct Stage {
    definition: Arc<Definition>,
    session: Session,
    types: Types,
    effects: Effects,
    compiled: Vec<Arc<Compiled>>,
    gather: Gather,
    lineage: Lineage,
    widened: Vec<Arc<Widened>>,
    /// The last batch was visible on the source as soon as it was looked for.
    is_prompt: bool,
    /// Rows have gone to load.sql since it last ran.
    has_load_rows: bool,
    /// Of the batch that is under way.
    tally: Tally,
    slow_query: Duration,
    work: mpsc::Sender<(Work, Span)>,
    /// The batch at hand, in traces.
    batch: Span,
}

/// The answers to a segment of changes were more than memory should hold.
struct Overflow;

type Answer<T> = Result<T, Overflow>;

/// A change with the transaction that it belongs to.
#[derive(Debug, Clone)]
pub struct Part {
    /// Top-level transaction id.
    pub xid: u32,
    /// Start of its commit record.
    pub commit_lsn: Lsn,
    /// Its place among the pipeline's changes of the transaction, from 1.
    pub ordinal: u64,
    /// What happened.
    pub entry: Entry,
}

impl Stage {
    /// A stage that reads the source through `session` and hands writes to `work`. Statements that take as long as
    /// `slow_query` are told of.
    pub async fn new(
        definition: Arc<Definition>,
        session: Session,
        slow_query: Duration,
        work: mpsc::Sender<(Work, Span)>,
    ) -> Checked<Self> {
        let types = definition.types(&session.client).await?;
        let rules = definition.rules;
        let takes_whole_rows = definition.target.as_ref().is_some_and(|target| target.clickhouse().is_some());
        let effects = Effects {
            on: definition.pipeline.output.on,
            replace_is_key: rules.replace_is_key,
            takes_whole_rows,
        };
        let gather = Gather::new(&definition);
        Ok(Stage {
            definition,
            session,
            types,
            effects,
            compiled: Vec::new(),
            gather,
            lineage: Lineage::default(),
            widened: Vec::new(),
            is_prompt: true,
            has_load_rows: false,
            tally: Tally::default(),
            slow_query,
            work,
            batch: Span::none(),
        })
    }

    /// What it works for.
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// Handles a batch: whole transactions, or a part of one. What it came to may not be handed on yet: see
    /// [`flush`](Self::flush) and [`complete`](Self::complete).
    pub async fn process(&mut self, parts: Vec<Part>) -> Checked<()> {
        self.batch = Span::current();
        if let Some(last) = parts.iter().map(|part| part.commit_lsn).max() {
            wait_for_replica(&self.definition, &self.session, last).await?;
        }
        let mut segment: Vec<(Stamp, Arc<Change>)> = Vec::new();
        for part in parts {
            self.tally.add(&part.entry);
            let Part { xid, commit_lsn, ordinal, .. } = part;
            let stamp = Stamp { xid, commit_lsn, ordinal };
            match part.entry {
                Entry::Change(change) => segment.push((stamp, self.widen(change).await?)),
                Entry::Truncate(relation) => {
                    let relation = self.widened(&relation).await?.wide.clone();
                    self.changes(std::mem::take(&mut segment)).await?;
                    self.truncate(stamp, &relation).await?;
                }
            }
        }
        self.changes(segment).await
    }

    /// Hands on what is left, and says how far the output is then complete.
    pub async fn complete(&mut self, end: End) -> Checked<()> {
        if let Some(writes) = self.gather.take() {
            self.hand_on(Work::Writes(writes, Some(end))).await?;
        }
        let tally = std::mem::take(&mut self.tally);
        self.hand_on(Work::Complete(end, tally)).await
    }

    async fn hand_on(&mut self, work: Work) -> Checked<()> {
        // The other half is gone only when it has failed itself, and then its error is the one that counts.
        self.work.send((work, self.batch.clone())).await.map_err(|_| PipelineError::StreamBroke)
    }

    /// Hands on what has gathered.
    pub async fn flush(&mut self) -> Checked<()> {
        match self.gather.take() {
            Some(writes) => self.hand_on(Work::Writes(writes, None)).await,
            None => Ok(()),
        }
    }

    async fn truncate(&mut self, stamp: Stamp, relation: &Arc<Relation>) -> Checked<()> {
        let has_load = self.definition.pipeline.sql.load.is_some();
        let table = || relation.display_name();
        let truncate_sql = self.compiled(relation).await?.truncate.clone();
        match (self.definition.pipeline.output.on.truncate, truncate_sql) {
            (_, Some(file)) => {
                self.flush().await?;
                self.hand_on(Work::Truncate(file.text().to_owned())).await
            }
            (Some(TruncateAction::Ignore), None) => Ok(()),
            (Some(TruncateAction::Error), None) => Err(PipelineError::Truncated {
                table: table(),
                reason: ", as `truncate: error` says",
                cure: "Bring the output in order, then set `truncate: ignore` or `truncate: truncate`".into(),
            }),
            (_, None) if has_load => Err(PipelineError::Truncated {
                table: table(),
                reason: ": only you know what that means for what load.sql has written",
                cure: "Add a truncate.sql, or `on: {truncate: ignore}`".into(),
            }),
            (_, None) => {
                self.gather.truncate(stamp);
                Ok(())
            }
        }
    }

    async fn compiled(&mut self, relation: &Arc<Relation>) -> Checked<Arc<Compiled>> {
        let known = |c: &&Arc<Compiled>| Arc::ptr_eq(&c.relation, relation) || c.relation == *relation;
        if let Some(compiled) = self.compiled.iter().find(known) {
            return Ok(compiled.clone());
        }
        let made = Compiled::new(&self.definition, &self.session.client, &self.types, relation).await?;
        table::compare(&self.definition, relation)?;
        self.compiled.retain(|c| c.relation.oid != relation.oid);
        self.compiled.push(Arc::new(made));
        Ok(self.compiled[self.compiled.len() - 1].clone())
    }

    /// Changes without a TRUNCATE among them. Halves them until the answers fit into memory.
    async fn changes(&mut self, changes: Vec<(Stamp, Arc<Change>)>) -> Checked<()> {
        let mut todo = vec![changes];
        while let Some(mut changes) = todo.pop() {
            if changes.is_empty() {
                continue;
            }
            if self.definition.pipeline.sql.load.is_some() {
                let rest = changes.split_off(run_length(&changes));
                todo.push(rest);
            }
            let begun = Instant::now();
            let answer = self.segment(&mut changes).await?;
            self.tally.sql += begun.elapsed();
            match answer {
                Ok(outcomes) => {
                    failpoint::reach("sql_run");
                    self.tally.rows += outcomes.iter().map(|outcome| outcome.rows.len() as u64).sum::<u64>();
                    self.emit(&changes, outcomes).await?;
                }
                Err(Overflow) if changes.len() == 1 => self.large_change(&mut changes).await?,
                Err(Overflow) => {
                    let second = changes.split_off(changes.len() / 2);
                    todo.push(second);
                    todo.push(changes);
                }
            }
        }
        Ok(())
    }

    async fn answers(
        &self,
        groups: &[Group],
        changes: &mut [(Stamp, Arc<Change>)],
    ) -> Checked<Answer<Vec<Outcome>>> {
        let mut outcomes = vec![Outcome::default(); changes.len()];
        let mut budget = RESULT_BYTES_MAX;
        for group in groups {
            if self.group(group, changes, &mut outcomes, &mut budget).await?.is_err() {
                return Ok(Err(Overflow));
            }
        }
        Ok(Ok(outcomes))
    }

    fn span(&self, operation: &str, table: Option<&Relation>) -> Span {
        let table = table.filter(|_| !self.batch.is_disabled()).map(Relation::display_name);
        trace::statement(&self.batch, &self.definition, At::Source, operation, table.as_deref())
    }

    /// Changes of one table and operation, wherever they stand.
    async fn groups(&mut self, changes: &[(Stamp, Arc<Change>)]) -> Checked<Vec<Group>> {
        let mut groups: Vec<Group> = Vec::new();
        for (at, (_, change)) in changes.iter().enumerate() {
            let fits = |g: &&mut Group| {
                g.operation == change.operation && Arc::ptr_eq(&g.compiled.relation, &change.relation)
            };
            if let Some(group) = groups.iter_mut().rev().find(fits) {
                group.places.push(at);
                continue;
            }
            let compiled = self.compiled(&change.relation).await?;
            let same =
                |g: &&mut Group| g.operation == change.operation && Arc::ptr_eq(&g.compiled, &compiled);
            match groups.iter_mut().find(same) {
                Some(group) => group.places.push(at),
                None => groups.push(Group { compiled, operation: change.operation, places: vec![at] }),
            }
        }
        Ok(groups)
    }

    async fn group(
        &self,
        group: &Group,
        changes: &mut [(Stamp, Arc<Change>)],
        outcomes: &mut [Outcome],
        budget: &mut usize,
    ) -> Checked<Answer<()>> {
        let gone = self.resolve(group, changes).await?;
        let rows = self.rows(group, group.operation, changes, &gone, budget).await?;
        let Ok(rows) = rows else { return Ok(Err(Overflow)) };
        for (at, row) in rows {
            outcomes[at].rows.push(row);
        }
        self.removals(group, changes, outcomes, budget).await
    }

    /// What the rows before leave behind in the output.
    async fn removals(
        &self,
        group: &Group,
        changes: &[(Stamp, Arc<Change>)],
        outcomes: &mut [Outcome],
        budget: &mut usize,
    ) -> Checked<Answer<()>> {
        if group.operation == Operation::Insert {
            return Ok(Ok(()));
        }
        match &group.compiled.transform.removal {
            Removal::None => {}
            Removal::ByName(direct) => {
                for &at in &group.places {
                    outcomes[at].left_behind.extend(direct_key(direct, &changes[at].1));
                }
            }
            Removal::Query { query, columns } => {
                let Ok(rows) = self.query(query, &group.places, changes, budget).await? else {
                    return Ok(Err(Overflow));
                };
                let mut returned: Vec<Vec<Tuple>> = vec![Vec::new(); changes.len()];
                rows.into_iter().for_each(|(at, tuple)| returned[at].push(tuple));
                for &at in &group.places {
                    let change = &changes[at].1;
                    let keys: BTreeSet<Key> = match returned[at].as_slice() {
                        [] => removal_key(columns, change, None).into_iter().collect(),
                        rows => rows.iter().filter_map(|r| removal_key(columns, change, Some(r))).collect(),
                    };
                    outcomes[at].left_behind.extend(keys);
                }
            }
            Removal::Rows if group.operation == Operation::Update => {
                let rows = self.rows(group, Operation::Delete, changes, &[], budget).await?;
                let Ok(rows) = rows else { return Ok(Err(Overflow)) };
                for (at, row) in rows {
                    outcomes[at].retired.push(row);
                }
            }
            Removal::Rows => {}
        }
        Ok(Ok(()))
    }

    /// Fills in values that updates left out and that are needed. Answers the places whose row is not there any more.
    async fn resolve(&self, group: &Group, changes: &mut [(Stamp, Arc<Change>)]) -> Checked<Vec<usize>> {
        let places = group.unresolved(self.effects, changes);
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let these: Vec<&Change> = places.iter().map(|&at| &*changes[at].1).collect();
        let relation = &group.compiled.relation;
        let input = &group.compiled.transform.input;
        let types = &self.types.with_text_cast;
        let completed = trace::observed(self.span("SELECT", Some(relation)), async {
            resolve::fetch_unchanged(&self.session.client, input, relation, types, &these)
                .await
                .map_err(PipelineError::source("reading values that an update left out"))
        });
        let completed = completed.await?;
        let mut gone = Vec::new();
        for (at, completed) in places.into_iter().zip(completed) {
            match completed {
                Some(change) => changes[at].1 = Arc::new(change),
                None if !self.heals() => {
                    return Err(PipelineError::ValueGone { table: relation.display_name() });
                }
                // The row has gone or has another key by now, which the stream will say: leave it to that.
                None => gone.push(at),
            }
        }
        Ok(gone)
    }

    /// Whether a row that was left out for having gone is seen to by the change that made it go.
    fn heals(&self) -> bool {
        let on = self.effects.on;
        self.definition.pipeline.sql.load.is_none()
            && matches!(on.update, Action::Upsert | Action::Update)
            && on.delete == Action::Delete
    }

    async fn rows(
        &self,
        group: &Group,
        operation: Operation,
        changes: &[(Stamp, Arc<Change>)],
        without: &[usize],
        budget: &mut usize,
    ) -> Checked<Answer<Vec<(usize, Row)>>> {
        let Some(layout) = &group.compiled.layouts[operation as usize] else { return Ok(Ok(Vec::new())) };
        let places: Vec<usize> = group.places.iter().copied().filter(|at| !without.contains(at)).collect();
        match group.compiled.transform.rows(operation) {
            Rows::Ignored => Ok(Ok(Vec::new())),
            Rows::Direct(direct) => {
                let row = |at: usize| Some((at, direct_row(direct, layout, &changes[at].1)?));
                Ok(Ok(places.into_iter().filter_map(row).collect()))
            }
            Rows::Query(query) => {
                let tuples = self.query(query, &places, changes, budget).await?;
                Ok(tuples.map(|tuples| {
                    let row = |(at, tuple)| (at, Row { layout: layout.clone(), tuple });
                    tuples.into_iter().map(row).collect()
                }))
            }
        }
    }

    async fn query(
        &self,
        query: &Query,
        places: &[usize],
        changes: &[(Stamp, Arc<Change>)],
        budget: &mut usize,
    ) -> Checked<Answer<Vec<(usize, Tuple)>>> {
        if places.is_empty() {
            return Ok(Ok(Vec::new()));
        }
        let begun = Instant::now();
        let first = &changes[places[0]].1;
        let span = self.span("SELECT", Some(&first.relation));
        span.record("trucker.operation", first.operation.as_str());
        span.record("trucker.changes", places.len() as i64);
        let tuples = trace::observed(span, self.ask(query, places, changes, budget)).await?;
        if tuples.is_ok() {
            self.tell_if_slow(query, begun, places.len());
        }
        Ok(tuples)
    }

    async fn ask(
        &self,
        query: &Query,
        places: &[usize],
        changes: &[(Stamp, Arc<Change>)],
        budget: &mut usize,
    ) -> Checked<Answer<Vec<(usize, Tuple)>>> {
        let failed = |e: tokio_postgres::Error| PipelineError::sql(query.problem(&e), &e);
        let these = places.iter().map(|&at| &*changes[at].1);
        let mut rows = run::run(&self.session.client, query, these).await.map_err(failed)?;
        let mut tuples = Vec::new();
        while let Some((n, tuple)) = rows.next().await.map_err(failed)? {
            match budget.checked_sub(tuple.size()) {
                Some(left) => *budget = left,
                None => return Ok(Err(Overflow)),
            }
            let place = places.get(n).ok_or_else(|| {
                PipelineError::Input(
                    "the source answered for a change that it was not asked about".to_owned(),
                )
            })?;
            tuples.push((*place, tuple));
        }
        Span::current().record("trucker.rows", tuples.len() as i64);
        Ok(Ok(tuples))
    }
}
