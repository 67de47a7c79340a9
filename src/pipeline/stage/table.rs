//! What DDL on an input table makes of its changes: those from before it, which lack what the table has now, and those
//! from after it, which may lack what the pipeline was there for. Postgres sends no DDL, and no row that it rewrites.

use std::iter::repeat_n;
use std::sync::Arc;

use crate::change::{Cell, Change, Relation};
use crate::codes::Code;
use crate::pipeline::compiled::current_table;
use crate::pipeline::definition::{Checked, Definition};
use crate::pipeline::error::PipelineError;
use crate::postgres::ident::{quote_ident, quote_idents};

use super::Stage;

/// A relation as it was sent, and as the table is now.
pub(super) struct Widened {
    sent: Arc<Relation>,
    pub(super) wide: Arc<Relation>,
    /// Cells of another type now.
    retyped: Vec<usize>,
}

impl Stage {
    /// The relation, brought up to what the table is now.
    pub(super) async fn widened(&mut self, relation: &Arc<Relation>) -> Checked<Arc<Widened>> {
        if let Some(known) = self.widened.iter().find(|known| Arc::ptr_eq(&known.sent, relation)) {
            return Ok(known.clone());
        }
        let table = current_table(&self.definition, &self.session.client, relation).await?;
        let mut wide = (**relation).clone();
        // What is counted or appended is counted as it was; a copy takes what is there now.
        let key = table.primary_key().unwrap_or_default();
        let retyped = wide.bring_up_to(table.relation().columns, self.heals(), key);
        let wide = if wide == **relation { relation.clone() } else { Arc::new(wide) };
        let widened = Arc::new(Widened { sent: relation.clone(), wide, retyped });
        self.widened.retain(|known| known.sent.oid != relation.oid);
        self.widened.push(widened.clone());
        Ok(widened)
    }

    /// A change from before the table got columns, or got them with another type: their values weren't sent, or not as
    /// they are now, and are read where they are needed.
    pub(super) async fn widen(&mut self, change: Arc<Change>) -> Checked<Arc<Change>> {
        let widened = self.widened(&change.relation).await?;
        let Widened { wide, retyped, .. } = &*widened;
        if Arc::ptr_eq(wide, &change.relation) {
            return Ok(change);
        }
        let more = wide.columns.len() - change.relation.columns.len();
        let old = change.old.as_ref().map(|old| old.cells().chain(repeat_n(Cell::Null, more)).collect());
        let new = change.new.as_ref().map(|new| {
            let cells = new.cells().enumerate();
            let cells = cells.map(|(at, cell)| if retyped.contains(&at) { Cell::Unchanged } else { cell });
            cells.chain(repeat_n(Cell::Unchanged, more)).collect()
        });
        Ok(Arc::new(Change { relation: wide.clone(), operation: change.operation, old, new }))
    }
}

/// Compares a table with what it was when the pipeline started. Says what no change will bring; stops a copy whose column
/// may have been renamed, since under its new name it would silently be copied no longer.
pub(super) fn compare(definition: &Definition, relation: &Relation) -> Checked<()> {
    let Some(before) = definition.tables.iter().find(|t| t.oid == relation.oid) else { return Ok(()) };
    let (before, name) = (before.relation(), before.sql());
    let pipeline = definition.pipeline.name.as_str();
    let is_same = |column: &&crate::change::Column| {
        let earlier = before.columns.iter().find(|c| c.name == column.name);
        earlier.is_none_or(|e| e.type_oid == column.type_oid && e.type_modifier == column.type_modifier)
    };
    for column in relation.columns.iter().filter(|column| !is_same(column)) {
        tracing::warn!(
            event = "column_retyped",
            code = %Code::ColumnRetyped,
            pipeline,
            "column {} of {name} has another type than it had. Values that the ALTER TABLE made others aren't sent: if \
             there are any, fill the pipeline anew: trucker backfill {pipeline}",
            quote_ident(&column.name)
        );
    }
    let sql = &definition.pipeline.sql;
    let is_copy = sql.transform.is_none() && sql.insert.is_none() && sql.update.is_none();
    let Some(target) = definition.target.as_ref().filter(|_| is_copy) else { return Ok(()) };
    let has = |column: &str| target.takes(column);
    let lost = before.columns.iter().map(|c| c.name.as_str());
    let lost: Vec<&str> = lost.filter(|c| relation.column_index(c).is_none() && has(c)).collect();
    let known = |column: &str| before.column_index(column).is_some() || has(column);
    let come = relation.columns.iter().map(|c| c.name.as_str()).find(|c| !known(c));
    match (lost.first(), come) {
        (None, _) => Ok(()),
        (Some(_), None) => {
            tracing::warn!(
                event = "column_gone",
                code = %Code::ColumnGone,
                pipeline,
                "{name} has no column {} any more: {} keeps what it has there, and new rows get its default",
                quote_idents(lost.iter().copied()),
                target.sql()
            );
            Ok(())
        }
        (Some(column), Some(come)) => {
            let (column, come) = (quote_ident(column), quote_ident(come));
            let output = target.sql();
            Err(PipelineError::Input(format!(
                "{name} has no column {column} any more, and a column {come} that {output} lacks. If it was renamed, rename it \
                 in the output too: ALTER TABLE {output} RENAME COLUMN {column} TO {come}. If it was dropped, nothing is to \
                 be done. Then start again"
            )))
        }
    }
}
