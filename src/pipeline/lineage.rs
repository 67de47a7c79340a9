//! Which input row stands behind an output row's key, while a transaction moves rows between keys.
//!
//! Where the source checks a unique key only at the end of a statement or transaction (`DEFERRABLE`), two rows can
//! have one key in between: `UPDATE t SET id = id + 1` arrives as 1→2, 2→3, … The first change puts a row under 2; the
//! second takes away the row that *was* under 2, not the one just put there. Postgres tells the two apart by their
//! old rows; so does this. Without it the second change would remove the first one's row.

use std::collections::HashMap;

use crate::change::Change;
use crate::sink::Key;

/// Bytes remembered at most. Of a transaction that moves more rows than that, the rest is taken as if no two rows ever
/// had one key.
const BYTES_MAX: usize = 8 << 20;

/// Rows that the open transaction has put under a key that they didn't have before.
#[derive(Debug, Clone, Default)]
pub struct Lineage {
    xid: u32,
    /// By output key: the identity of the input row that was put there.
    put: HashMap<Key, Key>,
    bytes: usize,
}

impl Lineage {
    /// Leaves out what a change would remove of other rows, and remembers what it puts. `removed` are the output keys
    /// that the change leaves behind, `put` those of its rows.
    pub fn follow(&mut self, xid: u32, change: &Change, removed: &mut Vec<Key>, put: &[Key]) {
        if std::mem::replace(&mut self.xid, xid) != xid {
            self.put.clear();
            self.bytes = 0;
        }
        // An update that leaves the key alone, while no row has moved yet: nothing to tell apart.
        if self.put.is_empty() && !removed.is_empty() && put.iter().all(|key| removed.contains(key)) {
            return;
        }
        let before = identity(change, change.old.as_ref().or(change.new.as_ref()));
        removed.retain(|key| match (self.put.get(key), &before) {
            // Somebody else's row by now: the one that was meant went when that one was put there.
            (Some(owner), Some(before)) => owner == before,
            _ => true,
        });
        let owned: Vec<Key> = removed.iter().filter(|key| self.put.remove(key).is_some()).cloned().collect();
        let Some(after) = identity(change, change.new.as_ref()) else { return };
        for key in put.iter().filter(|key| owned.contains(key) || !removed.contains(key)) {
            if self.bytes < BYTES_MAX {
                self.bytes += key.size() + after.size();
                self.put.insert(key.clone(), after.clone());
            }
        }
    }
}

/// The values of the columns that the replica identity sends.
fn identity(change: &Change, tuple: Option<&crate::change::Tuple>) -> Option<Key> {
    let tuple = tuple?;
    let columns = (0..tuple.len()).filter(|&column| change.relation.is_sent_in_old(column));
    // NULL is a value here, told from texts by its length.
    let values: Vec<&[u8]> = columns.map(|column| tuple.cell(column).text().unwrap_or(b"\0NULL")).collect();
    Key::from_values(values.into_iter().map(Some))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::change::{Cell, Column, Operation, Relation, ReplicaIdentity, Tuple};

    fn key(id: &str) -> Key {
        Key::from_values([Some(id.as_bytes())].into_iter()).unwrap()
    }

    fn update(old: (&str, &str), new: (&str, &str)) -> Change {
        let column = |name: &str| Column {
            name: name.into(),
            type_oid: 25,
            type_modifier: -1,
            is_identity: true,
            is_later: false,
        };
        let relation = Arc::new(Relation {
            oid: 1,
            schema: "s".into(),
            table: "t".into(),
            identity: ReplicaIdentity::Full,
            columns: vec![column("id"), column("v")],
        });
        let tuple = |(id, v): (&str, &str)| -> Tuple {
            [Cell::Text(id.as_bytes()), Cell::Text(v.as_bytes())].into_iter().collect()
        };
        Change { relation, operation: Operation::Update, old: Some(tuple(old)), new: Some(tuple(new)) }
    }

    /// Runs updates of rows `(id, v)`, each from one id to another, over a table of what is there.
    fn run(moves: &[(&str, &str, &str)], table: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut lineage = Lineage::default();
        let mut rows: HashMap<Key, (String, String)> =
            table.iter().map(|(id, v)| (key(id), (id.to_string(), v.to_string()))).collect();
        for (v, from, to) in moves {
            let mut removed = vec![key(from)];
            lineage.follow(7, &update((from, v), (to, v)), &mut removed, &[key(to)]);
            removed.iter().for_each(|key| drop(rows.remove(key)));
            rows.insert(key(to), (to.to_string(), v.to_string()));
        }
        let mut rows: Vec<_> = rows.into_values().collect();
        rows.sort();
        rows
    }

    #[test]
    fn rows_that_pass_each_other_on_a_key_all_arrive() {
        let table = [("1", "a"), ("2", "b"), ("3", "c")];
        let strings = |rows: &[(&str, &str)]| -> Vec<(String, String)> {
            rows.iter().map(|(id, v)| (id.to_string(), v.to_string())).collect()
        };
        let chain = [("a", "1", "2"), ("b", "2", "3"), ("c", "3", "4")];
        assert_eq!(run(&chain, &table), strings(&[("2", "a"), ("3", "b"), ("4", "c")]));
        let swap = [("a", "1", "2"), ("b", "2", "1")];
        assert_eq!(run(&swap, &table), strings(&[("1", "b"), ("2", "a"), ("3", "c")]));
        let by_way_of = [("a", "1", "9"), ("b", "2", "1"), ("a", "9", "2")];
        assert_eq!(run(&by_way_of, &table), strings(&[("1", "b"), ("2", "a"), ("3", "c")]));
        let in_place_between = [("a", "1", "2"), ("a", "2", "2"), ("b", "2", "3")];
        assert_eq!(run(&in_place_between, &table[..2]), strings(&[("2", "a"), ("3", "b")]));
        let there_and_back = [("a", "1", "2"), ("a", "2", "1")];
        let left = run(&there_and_back, &[("1", "a"), ("3", "c")]);
        assert_eq!(left, strings(&[("1", "a"), ("3", "c")]));
    }
}
