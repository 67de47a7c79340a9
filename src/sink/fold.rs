//! Turns changes, one after the other, into few statements with the same effect.
//!
//! Statements work on many rows at once, changes come in an order. Within a *segment* all deletes go first, then
//! all puts; that is the same as doing them in turn as long as no two changes of the segment meet in a key. Where
//! they do, one of two things happens:
//!
//! * The changes *merge* to what is left after both, if rows are told by their key alone, nothing else can refuse
//!   a row for what other rows hold, and nothing counts writes (no further unique index, foreign key to itself or
//!   trigger).
//! * Otherwise the segment ends and the next begins.
//!
//! Pure: the order of the statements is the whole point of this file, and it needs no server to be tested.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use smallvec::SmallVec;

use super::row::{Key, Layout, Row};
use super::write::{By, Put, Removal, Write};
use crate::change::{Cell, Tuple};

/// What the fold may rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// `replace` is the key: an input row is one output row.
    pub replace_is_key: bool,
    /// Changes may be merged per key.
    pub merges: bool,
    /// A delete must not overtake a put, nor one kind of put another.
    pub is_ordered: bool,
}

/// Rows to be put, mostly one.
pub type Puts = SmallVec<[(Put, Row); 1]>;

/// The same, with their keys.
type Keyed = SmallVec<[(Put, Option<Key>, Row); 1]>;

/// What one change does: first the removals, then the puts.
#[derive(Debug, Clone, Default)]
pub struct Effect {
    /// Remove all rows under these, but for the keys beside.
    pub removals: Vec<(By, Key, Vec<Key>)>,
    /// Then put these.
    pub puts: Puts,
}

/// A row that is to be found by its key has none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a row without a key: one of the key's columns is NULL")]
pub struct NullKey;

/// Changes in, statements out.
#[derive(Debug)]
pub struct Fold {
    rules: Rules,
    writes: Vec<Write>,
    entries: Vec<Entry>,
    places: HashMap<Key, usize>,
    segment: Segment,
    size: usize,
}

/// What the merged changes of one key come to.
#[derive(Debug, Default)]
struct Entry {
    is_deleted: bool,
    put: Option<(Put, Row)>,
}

/// Changes that don't meet.
#[derive(Debug, Default)]
struct Segment {
    keys: HashSet<Key>,
    replaced: HashSet<Key>,
    deletes: Vec<(By, Vec<Removal>)>,
    puts: Vec<Write>,
    /// Keys put since the last removal. Such a row may stand under another `replace` value in the table still, from
    /// where a later removal, which goes first, must not take it.
    put_since: Vec<Key>,
}

impl Fold {
    /// An empty one.
    pub fn new(rules: Rules) -> Self {
        Fold {
            rules,
            writes: Vec::new(),
            entries: Vec::new(),
            places: HashMap::new(),
            segment: Segment::default(),
            size: 0,
        }
    }

    /// Bytes kept, about.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Adds a change.
    pub fn apply(&mut self, effect: Effect) -> Result<(), NullKey> {
        for (_, key, keep) in &effect.removals {
            self.size += key.size() + keep.iter().map(Key::size).sum::<usize>();
        }
        self.size += effect.puts.iter().map(|(_, row)| row.tuple.size()).sum::<usize>();
        let mut puts = last_of_each_key(effect.puts)?;
        if self.rules.is_ordered {
            // Rows of either kind stay in one statement.
            puts.iter_mut()
                .filter(|(put, ..)| *put == Put::UpsertNew)
                .for_each(|(put, ..)| *put = Put::Upsert);
        }
        if self.rules.merges {
            self.merge(effect.removals, puts);
        } else {
            self.append(effect.removals, puts);
        }
        Ok(())
    }

    /// Adds a change of a row's key that left some values out: they exist only in the output, under the old key.
    pub fn rekey(&mut self, old: Key, row: Row) {
        self.end_segment();
        self.size += old.size() + row.tuple.size();
        self.writes.push(Write::Rekey { old, row });
    }

    /// Adds a TRUNCATE: nothing before it matters any more.
    pub fn truncate(&mut self) {
        *self = Fold { writes: vec![Write::Truncate], ..Fold::new(self.rules) };
    }

    /// The statements for everything added since the last call.
    pub fn take(&mut self) -> Vec<Write> {
        self.end_segment();
        self.size = 0;
        std::mem::take(&mut self.writes)
    }

    fn merge(&mut self, removals: Vec<(By, Key, Vec<Key>)>, puts: Keyed) {
        for (_, key, keep) in removals {
            if !keep.contains(&key) {
                let entry = self.entry(key);
                entry.is_deleted = true;
                entry.put = None;
            }
        }
        for (put, key, row) in puts {
            let Some(key) = key else { continue };
            let entry = self.entry(key);
            let merged = match entry.put.take() {
                None => Some((put, row)),
                Some((before, earlier)) => match merge_rows(&earlier, &row) {
                    // Whether the key exists is up to the first of them.
                    Some(merged) if matches!(before, Put::Upsert | Put::UpsertNew) => Some((before, merged)),
                    Some(merged) => Some((if put == Put::UpsertNew { Put::Upsert } else { put }, merged)),
                    None => {
                        entry.put = Some((before, earlier));
                        self.end_segment();
                        if let Some(key) = row.key() {
                            self.entry(key).put = Some((put, row));
                        }
                        continue;
                    }
                },
            };
            entry.put = merged;
        }
    }

    fn entry(&mut self, key: Key) -> &mut Entry {
        let place = *self.places.entry(key).or_insert_with(|| {
            self.entries.push(Entry::default());
            self.entries.len() - 1
        });
        &mut self.entries[place]
    }

    fn append(&mut self, removals: Vec<(By, Key, Vec<Key>)>, puts: Keyed) {
        let overtakes = self.rules.is_ordered && !removals.is_empty() && !self.segment.puts.is_empty();
        if overtakes || self.meets(&removals, &puts) {
            self.end_segment();
        }
        let removes = !removals.is_empty();
        for (by, key, keep) in removals {
            let touched = if by == By::Key { &mut self.segment.keys } else { &mut self.segment.replaced };
            touched.insert(key.clone());
            if self.rules.replace_is_key {
                self.segment.keys.insert(key.clone());
            }
            self.segment.keys.extend(keep.iter().cloned());
            let mut kept = std::mem::take(&mut self.segment.put_since);
            kept.extend(keep);
            self.segment.delete(by, key, kept);
        }
        for (put, key, row) in puts {
            if !self.rules.replace_is_key && !removes {
                self.segment.put_since.extend(key.clone());
            }
            self.segment.keys.extend(key);
            self.segment.replaced.extend(row.replace());
            self.segment.put(put, row, self.rules.is_ordered);
        }
    }

    fn meets(&self, removals: &[(By, Key, Vec<Key>)], puts: &[(Put, Option<Key>, Row)]) -> bool {
        let segment = &self.segment;
        removals.iter().any(|(by, key, keep)| {
            let by_key = *by == By::Key || self.rules.replace_is_key;
            by_key && segment.keys.contains(key)
                || *by == By::Replace && segment.replaced.contains(key)
                || keep.iter().any(|key| segment.keys.contains(key))
        }) || puts.iter().any(|(_, key, row)| {
            key.as_ref().is_some_and(|key| segment.keys.contains(key))
                || row.replace().is_some_and(|key| segment.replaced.contains(&key))
        })
    }

    fn end_segment(&mut self) {
        let mut segment = std::mem::take(&mut self.segment);
        let mut deleted: Vec<(usize, Key)> = self
            .places
            .drain()
            .map(|(key, place)| (place, key))
            .filter(|(place, _)| self.entries[*place].is_deleted)
            .collect();
        deleted.sort_unstable_by_key(|(place, _)| *place);
        deleted.into_iter().for_each(|(_, key)| segment.delete(By::Key, key, Vec::new()));
        for entry in self.entries.drain(..) {
            if let Some((put, row)) = entry.put {
                segment.put(put, row, self.rules.is_ordered);
            }
        }
        self.writes.extend(segment.deletes.into_iter().map(|(by, keys)| Write::Delete { by, keys }));
        self.writes.append(&mut segment.puts);
    }
}

impl Segment {
    fn delete(&mut self, by: By, key: Key, keep: Vec<Key>) {
        match self.deletes.iter_mut().find(|(b, _)| *b == by) {
            Some((_, keys)) => keys.push((key, keep)),
            None => self.deletes.push((by, vec![(key, keep)])),
        }
    }

    fn put(&mut self, put: Put, row: Row, only_last: bool) {
        let omitted = row.omitted();
        let fits = |write: &Write| match write {
            Write::Put { put: p, layout, omitted: o, .. } => {
                *p == put && *o == omitted && (Arc::ptr_eq(layout, &row.layout) || *layout == row.layout)
            }
            _ => false,
        };
        let from = if only_last { self.puts.len().saturating_sub(1) } else { 0 };
        match self.puts[from..].iter_mut().find(|write| fits(write)) {
            Some(Write::Put { rows, .. }) => rows.push(row.tuple),
            _ => self.puts.push(Write::Put { put, layout: row.layout, omitted, rows: vec![row.tuple] }),
        }
    }
}

/// Of one change's rows the last of each key counts, but for appended ones.
fn last_of_each_key(puts: Puts) -> Result<Keyed, NullKey> {
    let mut kept = Keyed::with_capacity(puts.len());
    let mut places: HashMap<Key, usize> = HashMap::new();
    let several = puts.len() > 1;
    for (put, row) in puts {
        if put == Put::Insert {
            kept.push((put, row.key(), row));
            continue;
        }
        let key = row.key().ok_or(NullKey)?;
        if several && let Some(&place) = places.get(&key) {
            kept[place] = (put, Some(key), row);
            continue;
        }
        if several {
            places.insert(key.clone(), kept.len());
        }
        kept.push((put, Some(key), row));
    }
    Ok(kept)
}

/// The row after both, if it can be said as one: the later must name no column that the earlier lacks, or nothing
/// but what it names is left of the earlier.
fn merge_rows(earlier: &Row, later: &Row) -> Option<Row> {
    if earlier.layout == later.layout && !later.tuple.has_unchanged() {
        return Some(later.clone());
    }
    let cell_of =
        |layout: &Layout, name: &str| layout.columns.iter().find(|(n, _)| n == name).map(|(_, c)| *c);
    if later.layout.columns.iter().any(|(name, _)| cell_of(&earlier.layout, name).is_none()) {
        return None;
    }
    let mut cells: Vec<Cell<'_>> = earlier.tuple.cells().collect();
    for (name, cell) in &later.layout.columns {
        let value = later.tuple.cell(*cell);
        if let (false, Some(place)) = (value == Cell::Unchanged, cell_of(&earlier.layout, name)) {
            cells[place] = value;
        }
    }
    let tuple: Tuple = cells.into_iter().collect();
    Some(Row { layout: earlier.layout.clone(), tuple })
}

#[cfg(test)]
#[path = "fold_tests.rs"]
mod tests;
