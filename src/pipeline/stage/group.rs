//! Changes of one table and operation within a batch, which one statement answers.

use std::sync::Arc;

use super::gather::Stamp;
use crate::change::{Cell, Change, Operation, Tuple};
use crate::config::Action;
use crate::pipeline::compiled::Compiled;
use crate::pipeline::effect::Effects;
use crate::transform::compile::{Removal, Rows};
use crate::transform::resolve;

/// How many changes from the first on have the same table and operation.
pub(super) fn run_length(changes: &[(Stamp, Arc<Change>)]) -> usize {
    let Some((_, first)) = changes.first() else { return 0 };
    let same = |(_, c): &&(Stamp, Arc<Change>)| {
        c.operation == first.operation && c.relation.oid == first.relation.oid
    };
    changes.iter().take_while(same).count()
}

pub(super) struct Group {
    pub(super) compiled: Arc<Compiled>,
    pub(super) operation: Operation,
    pub(super) places: Vec<usize>,
}

impl Group {
    pub(super) fn needs_source(&self, effects: Effects, changes: &[(Stamp, Arc<Change>)]) -> bool {
        let is_query = matches!(self.compiled.transform.rows(self.operation), Rows::Query(_));
        let removes = self.operation != Operation::Insert
            && match self.compiled.transform.removal {
                Removal::Query { .. } => true,
                Removal::Rows => matches!(self.compiled.transform.delete, Rows::Query(_)),
                Removal::None | Removal::ByName(_) => false,
            };
        is_query || removes || !self.unresolved(effects, changes).is_empty()
    }

    /// Places of changes that left out a value which is needed.
    pub(super) fn unresolved(&self, effects: Effects, changes: &[(Stamp, Arc<Change>)]) -> Vec<usize> {
        if self.operation == Operation::Delete {
            return Vec::new();
        }
        let is_partial = |change: &Change| change.new.as_ref().is_some_and(Tuple::has_unchanged);
        let needs = |change: &Change| match self.compiled.transform.rows(self.operation) {
            Rows::Ignored => false,
            Rows::Query(query) => resolve::needs(&query.params, change),
            // Copied as it is, a value may be left alone, unless the row is a new one in the output.
            Rows::Direct(direct) => {
                let is_left_out =
                    |cell: &usize| change.new.as_ref().is_some_and(|new| new.cell(*cell) == Cell::Unchanged);
                let leaves_alone = matches!(effects.on.update, Action::Upsert | Action::Update);
                // The row may come to stand under another key, and nothing but a known old key moves it there.
                let is_lost_sight_of =
                    change.old.is_some() && !matches!(self.compiled.transform.removal, Removal::ByName(_));
                let is_new = !leaves_alone
                    || effects.takes_whole_rows
                    || self.operation == Operation::Insert
                    || is_lost_sight_of
                    || self.compiled.loads[Operation::Update as usize].is_some()
                    || !effects.replace_is_key;
                // A value that no change has brought may have become another without one.
                let is_later = |cell: &usize| self.compiled.relation.columns[*cell].is_later;
                direct.cells.iter().any(|cell| is_left_out(cell) && (is_new || is_later(cell)))
            }
        };
        self.places
            .iter()
            .copied()
            .filter(|&at| is_partial(&changes[at].1) && needs(&changes[at].1))
            .collect()
    }
}
