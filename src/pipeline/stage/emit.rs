//! The end of the first half: outcomes, in the order of their changes, become work for the output. Also for the one
//! change whose rows are more than memory should hold: these go on as they are read.

use std::sync::Arc;

use crate::change::{Change, Tuple};
use crate::pipeline::definition::Checked;
use crate::pipeline::effect::{Outcome, Outgoing};
use crate::pipeline::error::PipelineError;
use crate::pipeline::trace;
use crate::sink::{Key, Row};
use crate::transform::compile::Rows;
use crate::transform::run;

use super::gather::{Gather, Stamp};
use super::group::Group;
use super::{Stage, WRITE_BYTES_MAX, Work};

impl Stage {
    pub(super) async fn emit(
        &mut self,
        changes: &[(Stamp, Arc<Change>)],
        outcomes: Vec<Outcome>,
    ) -> Checked<()> {
        if self.definition.pipeline.sql.load.is_some() {
            let groups = self.groups(&changes[..changes.len().min(1)]).await?;
            let Some(group) = groups.first() else { return Ok(()) };
            self.emit_load(group, outcomes).await?;
            return self.end_load(group).await;
        }
        for ((stamp, change), mut outcome) in changes.iter().zip(outcomes) {
            if self.rows_may_pass_each_other(change) {
                let put: Vec<Key> = outcome.rows.iter().filter_map(Row::replace).collect();
                self.lineage.follow(stamp.xid, change, &mut outcome.left_behind, &put);
            }
            let outgoing = self.effects.of(change.operation, outcome);
            let wording = match self.gather {
                Gather::Versions(..) => self.compiled(&change.relation).await?.wording.clone(),
                Gather::Fold(_) => None,
            };
            let gathered = self.gather.apply(*stamp, outgoing, wording.as_ref());
            gathered.map_err(|null| self.null_key(null))?;
            if self.gather.size() > WRITE_BYTES_MAX {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Whether two rows can have one output key in the middle of a transaction. Not where the replica identity is the
    /// key: Postgres takes only a key for it that is checked at once.
    fn rows_may_pass_each_other(&self, change: &Change) -> bool {
        let relation = &change.relation;
        self.effects.replace_is_key
            && (relation.identity == crate::change::ReplicaIdentity::Full
                || self.definition.target.as_ref().is_some_and(|target| {
                    let is_sent = |name: &String| {
                        relation.column_index(name).is_some_and(|column| relation.is_sent_in_old(column))
                    };
                    !target.key().iter().all(is_sent)
                }))
    }

    fn null_key(&self, null: crate::sink::fold::NullKey) -> PipelineError {
        let key = self.definition.target.as_ref().map(|target| target.key().join(", "));
        crate::sink::SinkError::NullKey(null, key.unwrap_or_default()).into()
    }

    /// Rows of a run of changes with the same operation, to load.sql.
    async fn emit_load(&mut self, group: &Group, outcomes: Vec<Outcome>) -> Checked<()> {
        let Some(load) = group.compiled.loads[group.operation as usize].clone() else { return Ok(()) };
        let layout = &group.compiled.layouts[group.operation as usize];
        let cells: Vec<usize> = layout.iter().flat_map(|l| l.columns.iter().map(|(_, cell)| *cell)).collect();
        let is_whole = |tuple: &Tuple| tuple.len() == cells.len() && cells.iter().copied().eq(0..cells.len());
        let rows = outcomes.into_iter().flat_map(|outcome| outcome.rows).map(|row| {
            if is_whole(&row.tuple) {
                return row.tuple;
            }
            cells.iter().map(|&cell| row.tuple.cell(cell)).collect()
        });
        let rows: Vec<Tuple> = rows.collect();
        if rows.is_empty() {
            return Ok(());
        }
        self.has_load_rows = true;
        self.hand_on(Work::LoadRows(load, rows)).await
    }

    /// The run is over: load.sql may run.
    async fn end_load(&mut self, group: &Group) -> Checked<()> {
        let load = group.compiled.loads[group.operation as usize].clone();
        match load.filter(|_| std::mem::take(&mut self.has_load_rows)) {
            Some(load) => self.hand_on(Work::LoadRun(load)).await,
            None => Ok(()),
        }
    }

    /// One change that becomes more rows than memory should hold: what was there goes, then the rows come as they are
    /// read. (Columns that the SQL doesn't return can't keep their values here.)
    pub(super) async fn large_change(&mut self, changes: &mut [(Stamp, Arc<Change>)]) -> Checked<()> {
        let groups = self.groups(changes).await?;
        let Some(group) = groups.first() else { return Ok(()) };
        self.begin_snapshot(changes).await?;
        let gone = self.resolve(group, changes).await?;
        let mut outcomes = vec![Outcome::default()];
        // Unlike its rows, the keys of one change are few.
        let mut unbounded = usize::MAX;
        self.removals(group, changes, &mut outcomes, &mut unbounded).await?.ok();
        self.emit(changes, outcomes).await?;
        if gone.is_empty() {
            self.stream_rows(group, changes).await?;
        }
        self.end_snapshot()
    }

    /// Runs the SQL of one change, and hands its rows on as they come.
    async fn stream_rows(&mut self, group: &Group, changes: &[(Stamp, Arc<Change>)]) -> Checked<()> {
        let layout = &group.compiled.layouts[group.operation as usize];
        let (Rows::Query(query), Some(layout)) = (group.compiled.transform.rows(group.operation), layout)
        else {
            return Ok(());
        };
        let span = self.span("SELECT", Some(&group.compiled.relation));
        trace::observed(span, async {
            let failed = |e: tokio_postgres::Error| PipelineError::sql(query.problem(&e), &e);
            let these = changes.iter().map(|(_, change)| &**change);
            let mut rows = run::run(&self.session.client, query, these).await.map_err(failed)?;
            let (mut part, mut bytes) = (Outcome::default(), 0);
            while let Some((_, tuple)) = rows.next().await.map_err(failed)? {
                bytes += tuple.size();
                part.rows.push(Row { layout: layout.clone(), tuple });
                if bytes > WRITE_BYTES_MAX {
                    bytes = 0;
                    self.emit_part(group, changes, std::mem::take(&mut part)).await?;
                }
            }
            self.emit_part(group, changes, part).await?;
            self.end_load(group).await
        })
        .await
    }

    async fn emit_part(
        &mut self,
        group: &Group,
        changes: &[(Stamp, Arc<Change>)],
        part: Outcome,
    ) -> Checked<()> {
        self.tally.rows += part.rows.len() as u64;
        if self.definition.pipeline.sql.load.is_some() {
            return self.emit_load(group, vec![part]).await;
        }
        let Some((stamp, _)) = changes.first() else { return Ok(()) };
        let outgoing = Outgoing::Effect(self.effects.of_rows(group.operation, part.rows));
        let gathered = self.gather.apply(*stamp, outgoing, group.compiled.wording.as_ref());
        gathered.map_err(|null| self.null_key(null))?;
        self.flush().await
    }
}
