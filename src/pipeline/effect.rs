//! From what SQL returned for one change to what it does to the output. Pure: this is where the convergence
//! invariant is made, row by row.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::change::{Cell, Change, Operation, Tuple};
use crate::config::{Action, Actions};
use crate::sink::fold::{Effect, Puts};
use crate::sink::{By, Key, Layout, Put, Row};
use crate::transform::chain::{Param, Side};
use crate::transform::compile::Direct;

/// Mostly one.
pub type Rows = SmallVec<[Row; 1]>;

/// What SQL, or the change itself, gave for one change.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Rows after, or for `on: {delete: upsert}` and the like, rows of the delete.
    pub rows: Rows,
    /// What identifies the rows of the row before.
    pub left_behind: Vec<Key>,
    /// Where deletes write rows: the rows that the row before leaves, for an update.
    pub retired: Vec<Row>,
}

/// How changes become effects.
#[derive(Debug, Clone, Copy)]
pub struct Effects {
    /// `output.on`.
    pub on: Actions,
    /// An input row is one output row.
    pub replace_is_key: bool,
    /// A row is written as a whole, so that no value of it can be left alone.
    pub takes_whole_rows: bool,
}

/// What a change does.
#[derive(Debug)]
pub enum Outgoing {
    /// Rows go and come.
    Effect(Effect),
    /// A row moves to another key and keeps values that weren't sent.
    Rekey(Key, Row),
}

impl Effects {
    /// What the change does to the output.
    pub fn of(&self, operation: Operation, outcome: Outcome) -> Outgoing {
        match operation {
            Operation::Insert => Outgoing::Effect(self.of_rows(operation, outcome.rows)),
            Operation::Update => self.update(outcome),
            Operation::Delete if self.on.delete == Action::Delete => {
                let removals = outcome.left_behind.into_iter().map(|key| (By::Replace, key, Vec::new()));
                Outgoing::Effect(Effect { removals: removals.collect(), puts: Puts::new() })
            }
            Operation::Delete => Outgoing::Effect(act(self.on.delete, outcome.rows)),
        }
    }

    /// What the rows of an operation do when what was there has been seen to already.
    pub fn of_rows(&self, operation: Operation, rows: Rows) -> Effect {
        match operation {
            Operation::Insert if self.on.insert == Action::Upsert => put(Put::UpsertNew, rows),
            Operation::Insert => act(self.on.insert, rows),
            Operation::Update => act(self.on.update, rows),
            Operation::Delete => act(self.on.delete, rows),
        }
    }

    fn update(&self, outcome: Outcome) -> Outgoing {
        let Outcome { rows, left_behind, retired } = outcome;
        let replaces = matches!(self.on.update, Action::Upsert | Action::Update);
        if !replaces {
            return Outgoing::Effect(act(self.on.update, rows));
        }
        let is_there = |key: &Key| rows.iter().any(|row| row.is_under(key));
        if let (true, [old], [row]) = (self.replace_is_key, &left_behind[..], &rows[..])
            && row.tuple.has_unchanged()
            && row.key().is_some_and(|new| new != *old)
        {
            return Outgoing::Rekey(old.clone(), row.clone());
        }
        // Where an input row is one output row, one that stays needs no word; where it is several, those that the
        // SQL doesn't return any more go, even if others of them stay.
        let gone = left_behind.into_iter().filter(|key| !(self.replace_is_key && is_there(key)));
        let keep =
            || if self.replace_is_key { Vec::new() } else { rows.iter().filter_map(Row::key).collect() };
        let removals: Vec<_> = gone.map(|key| (By::Replace, key, keep())).collect();
        let retired = retired.into_iter().filter(|row| row.replace().is_none_or(|key| !is_there(&key)));
        let mut effect = act(self.on.delete, retired.collect());
        effect.removals.extend(removals);
        let put = act(self.on.update, rows);
        effect.puts.extend(put.puts);
        Outgoing::Effect(effect)
    }
}

/// Rows, under an action.
fn act(action: Action, rows: Rows) -> Effect {
    match action {
        Action::Insert => put(Put::Insert, rows),
        Action::Upsert => put(Put::Upsert, rows),
        Action::Update => put(Put::Update, rows),
        Action::Ignore => Effect::default(),
        Action::Delete => {
            let keys = rows.iter().filter_map(Row::key);
            Effect { removals: keys.map(|key| (By::Key, key, Vec::new())).collect(), puts: Puts::new() }
        }
    }
}

fn put(put: Put, rows: Rows) -> Effect {
    Effect { removals: Vec::new(), puts: rows.into_iter().map(|row| (put, row)).collect() }
}

/// The change's own columns as a row.
pub fn direct_row(direct: &Direct, layout: &Arc<Layout>, change: &Change) -> Option<Row> {
    let tuple = match direct.side {
        Side::New => change.new.clone(),
        Side::Old => change.old.clone().or_else(|| change.new.clone()),
    };
    tuple.map(|tuple| Row { layout: layout.clone(), tuple })
}

/// What the old row's own columns say about its output row.
pub fn direct_key(direct: &Direct, change: &Change) -> Option<Key> {
    Key::from_values(direct.cells.iter().map(|&cell| old_cell(change, cell).text()))
}

/// What a row of the delete chain says, and where it says NULL or nothing, the old row's columns.
pub fn removal_key(
    columns: &[(Option<usize>, Option<usize>)],
    change: &Change,
    returned: Option<&Tuple>,
) -> Option<Key> {
    let value = |(returned_at, old_at): &(Option<usize>, Option<usize>)| {
        let from_sql = returned.zip(*returned_at).map_or(Cell::Null, |(tuple, at)| tuple.cell(at));
        let old = old_at.map_or(Cell::Null, |cell| old_cell(change, cell));
        // The tuple outlives the closure's borrow only as bytes.
        from_sql.text().or(old.text()).map(<[u8]>::to_vec)
    };
    let values: Vec<Option<Vec<u8>>> = columns.iter().map(value).collect();
    Key::from_values(values.iter().map(Option::as_deref))
}

fn old_cell(change: &Change, cell: usize) -> Cell<'_> {
    Param { side: Side::Old, cell }.cell(change)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effects(replace_is_key: bool, update: Action, delete: Action) -> Effects {
        let on = Actions { insert: Action::Upsert, update, delete, truncate: None };
        Effects { on, replace_is_key, takes_whole_rows: false }
    }

    fn key(text: &str) -> Key {
        Key::from_values([Some(text.as_bytes())].into_iter()).unwrap()
    }

    fn row(id: &str, parent: &str, rest: Cell<'_>, replace_is_key: bool) -> Row {
        let columns =
            ["id", "parent", "rest"].iter().enumerate().map(|(at, name)| (name.to_string(), at)).collect();
        let replace = if replace_is_key { "id" } else { "parent" };
        let layout = Arc::new(Layout::new(columns, &["id".to_owned()], &[replace.to_owned()]));
        let tuple = [Cell::Text(id.as_bytes()), Cell::Text(parent.as_bytes()), rest].into_iter().collect();
        Row { layout, tuple }
    }

    fn said(outgoing: Outgoing) -> String {
        match outgoing {
            Outgoing::Rekey(old, row) => format!("rekey {old:?} {:?}", row.key().unwrap() == key("2")),
            Outgoing::Effect(effect) => {
                let removals = effect.removals.iter().map(|(by, k, keep)| {
                    let text = |k: &Key| String::from_utf8_lossy(k.values().next().unwrap()).into_owned();
                    format!("-{by:?}:{}{:?}", text(k), keep.iter().map(text).collect::<Vec<_>>())
                });
                let puts = effect.puts.iter().map(|(put, row)| {
                    format!("+{put:?}:{}", String::from_utf8_lossy(row.tuple.cell(0).text().unwrap()))
                });
                removals.chain(puts).collect::<Vec<_>>().join(" ")
            }
        }
    }

    fn update(effects: Effects, rows: Vec<Row>, left_behind: &[&str]) -> String {
        let left_behind = left_behind.iter().map(|k| key(k)).collect();
        said(effects.of(Operation::Update, Outcome { rows: rows.into(), left_behind, retired: Vec::new() }))
    }

    #[test]
    fn an_update_leaves_exactly_the_rows_that_the_sql_returns() {
        let text = Cell::Text(b"x");
        let one = effects(true, Action::Upsert, Action::Delete);
        let stays = vec![row("1", "1", text, true)];
        let several = effects(false, Action::Upsert, Action::Delete);
        let lines = vec![row("1", "7", text, false), row("2", "7", text, false)];
        for (rows, left_behind, effects, expected) in [
            (stays.clone(), &["1"][..], one, "+Upsert:1"),
            (vec![row("2", "2", text, true)], &["1"], one, "-Replace:1[] +Upsert:2"),
            (vec![], &["1"], one, "-Replace:1[]"),
            (lines.clone(), &["7"], several, "-Replace:7[\"1\", \"2\"] +Upsert:1 +Upsert:2"),
            (lines, &["6"], several, "-Replace:6[\"1\", \"2\"] +Upsert:1 +Upsert:2"),
            (stays.clone(), &["1"], effects(true, Action::Insert, Action::Delete), "+Insert:1"),
            (stays.clone(), &["1"], effects(true, Action::Ignore, Action::Delete), ""),
            (stays, &["1"], effects(true, Action::Delete, Action::Delete), "-Key:1[]"),
        ] {
            assert_eq!(update(effects, rows, left_behind), expected);
        }
    }

    #[test]
    fn a_key_change_that_left_values_out_moves_the_row() {
        let one = effects(true, Action::Upsert, Action::Delete);
        assert!(update(one, vec![row("2", "2", Cell::Unchanged, true)], &["1"]).starts_with("rekey"));
        assert_eq!(update(one, vec![row("1", "1", Cell::Unchanged, true)], &["1"]), "+Upsert:1");
    }

    #[test]
    fn a_soft_delete_marks_the_row_under_the_old_key_only_if_it_moved() {
        let soft = effects(true, Action::Upsert, Action::Upsert);
        let text = Cell::Text(b"x");
        for (new, expected) in [("1", "+Upsert:1"), ("2", "+Upsert:1 +Upsert:2")] {
            let outcome = Outcome {
                rows: vec![row(new, new, text, true)].into(),
                left_behind: vec![],
                retired: vec![row("1", "1", text, true)],
            };
            assert_eq!(said(soft.of(Operation::Update, outcome)), expected);
        }
    }

    #[test]
    fn what_the_delete_chain_leaves_open_the_old_row_tells() {
        let relation = Arc::new(crate::change::Relation {
            oid: 1,
            schema: "s".into(),
            table: "t".into(),
            identity: crate::change::ReplicaIdentity::Full,
            columns: vec![],
        });
        let old = [Cell::Text(b"1"), Cell::Null].into_iter().collect();
        let change = Change { relation, operation: Operation::Delete, old: Some(old), new: None };
        let returned: Tuple = [Cell::Null, Cell::Text(b"sql")].into_iter().collect();
        let both = [(Some(0), Some(0)), (Some(1), None)];
        let expected = Key::from_values([Some(b"1".as_slice()), Some(b"sql")].into_iter());
        assert_eq!(removal_key(&both, &change, Some(&returned)), expected);
        assert_eq!(removal_key(&both, &change, None), None);
        assert_eq!(removal_key(&[(Some(0), Some(0))], &change, None), Some(key("1")));
    }
}
