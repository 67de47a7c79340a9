//! The fold against a plain model: whatever it merges, reorders or cuts, the table ends the same.

use std::collections::BTreeMap;

use proptest::prelude::*;
use smallvec::smallvec;

use super::*;

/// Output rows by key: the `replace` value, and the payload ("-" where it was never given).
type Table = BTreeMap<String, (String, String)>;

#[derive(Debug, Clone)]
struct Change {
    /// Remove everything under this.
    removed: Option<u8>,
    /// Rows put: key, replace value, payload; None: left out of the layout.
    puts: Vec<(u8, u8, Option<u16>)>,
    /// Leaves the payload unchanged instead, where the row is there.
    unchanged: bool,
}

fn layouts(replace_is_key: bool) -> [Arc<Layout>; 2] {
    let key = vec!["k".to_owned()];
    let replace = vec![if replace_is_key { "k" } else { "p" }.to_owned()];
    let columns =
        |names: &[&str]| names.iter().enumerate().map(|(i, n)| (n.to_string(), i)).collect::<Vec<_>>();
    [&["k", "p", "v"][..], &["k", "p"]].map(|names| Arc::new(Layout::new(columns(names), &key, &replace)))
}

fn key(value: u8) -> Key {
    Key::from_values([Some(value.to_string().as_bytes())].into_iter()).unwrap()
}

fn text(cell: Cell<'_>) -> String {
    String::from_utf8(cell.text().unwrap().to_vec()).unwrap()
}

fn row(layouts: &[Arc<Layout>; 2], put: &(u8, u8, Option<u16>), unchanged: bool) -> Row {
    let (k, p) = (put.0.to_string(), put.1.to_string());
    let v = put.2.map(|v| v.to_string());
    let mut cells = vec![Cell::Text(k.as_bytes()), Cell::Text(p.as_bytes())];
    let layout = match (&v, unchanged) {
        (_, true) => &layouts[0],
        (Some(_), _) => &layouts[0],
        (None, _) => &layouts[1],
    };
    if unchanged {
        cells.push(Cell::Unchanged);
    } else if let Some(v) = &v {
        cells.push(Cell::Text(v.as_bytes()));
    }
    Row { layout: layout.clone(), tuple: cells.into_iter().collect() }
}

fn put_row(table: &mut Table, row: &Row, only_update: bool) {
    let k = text(row.tuple.cell(0));
    let p = text(row.tuple.cell(1));
    let v = (row.layout.columns.len() > 2).then(|| row.tuple.cell(2));
    let existing = table.get(&k).map(|(_, v)| v.clone());
    if existing.is_none() && (only_update || v == Some(Cell::Unchanged)) {
        return;
    }
    let kept = existing.unwrap_or_else(|| "-".to_owned());
    let v = match v {
        Some(Cell::Text(_)) => text(v.unwrap()),
        _ => kept,
    };
    table.insert(k, (p, v));
}

fn remove(table: &mut Table, by_key: bool, removed: &Key, keep: &[Key]) {
    table.retain(|k, (p, _)| {
        let told = if by_key { k } else { p };
        let is_kept = keep.contains(&Key::from_values([Some(k.as_bytes())].into_iter()).unwrap());
        Key::from_values([Some(told.as_bytes())].into_iter()).unwrap() != *removed || is_kept
    });
}

fn run_writes(table: &mut Table, writes: &[Write], replace_is_key: bool) {
    for write in writes {
        match write {
            Write::Truncate => table.clear(),
            Write::Delete { by, keys } => {
                let by_key = *by == By::Key || replace_is_key;
                let mut kept = Vec::new();
                for (key, keep) in keys {
                    kept.extend(keep.iter().cloned());
                    remove(table, by_key, key, &kept);
                }
            }
            Write::Put { put, layout, omitted, rows } => {
                let mut seen = HashSet::new();
                for tuple in rows {
                    let row = Row { layout: layout.clone(), tuple: tuple.clone() };
                    assert!(seen.insert(row.key()), "a key twice in one statement");
                    assert_eq!(&row.omitted(), omitted);
                    put_row(table, &row, *put == Put::Update);
                }
            }
            Write::Rekey { .. } => unreachable!("not generated here"),
        }
    }
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let put = (0u8..5, 0u8..3, proptest::option::weighted(0.8, 0u16..1000));
    let change =
        (proptest::option::of(0u8..5), proptest::collection::vec(put, 0..3), proptest::bool::weighted(0.2));
    let change = change.prop_map(|(removed, puts, unchanged)| Change { removed, puts, unchanged });
    proptest::collection::vec(change, 0..25)
}

fn check(rules: Rules, changes: &[Change], cut: usize) -> Result<(), TestCaseError> {
    let layouts = layouts(rules.replace_is_key);
    let start: Table = (0..3).map(|k| (k.to_string(), ((k % 3).to_string(), "start".to_owned()))).collect();
    let (mut expected, mut actual) = (start.clone(), start);
    let mut fold = Fold::new(rules);
    for (at, change) in changes.iter().enumerate() {
        let rows: Vec<Row> = change
            .puts
            .iter()
            .map(|put| row(&layouts, put, change.unchanged && expected.contains_key(&put.0.to_string())))
            .collect();
        let keep: Vec<Key> = rows.iter().filter_map(Row::key).collect();
        let by = if rules.replace_is_key { By::Key } else { By::Replace };
        let removals: Vec<_> = change.removed.map(|r| (by, key(r), keep)).into_iter().collect();
        for (_, removed, keep) in &removals {
            remove(&mut expected, rules.replace_is_key, removed, keep);
        }
        // Of one change's rows with the same key, the last counts.
        let last: BTreeMap<_, _> = rows.iter().map(|row| (row.key(), row)).collect();
        last.values().for_each(|row| put_row(&mut expected, row, false));
        fold.apply(Effect { removals, puts: rows.into_iter().map(|row| (Put::Upsert, row)).collect() })
            .unwrap();
        if cut > 0 && at % cut == 0 {
            run_writes(&mut actual, &fold.take(), rules.replace_is_key);
        }
    }
    run_writes(&mut actual, &fold.take(), rules.replace_is_key);
    prop_assert_eq!(actual, expected);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn merged_changes_leave_what_single_ones_would(changes in changes(), cut in 0usize..6) {
        check(Rules { replace_is_key: true, merges: true, is_ordered: false }, &changes, cut)?;
    }

    #[test]
    fn segments_leave_what_single_changes_would(changes in changes(), cut in 0usize..6, ordered: bool) {
        for replace_is_key in [true, false] {
            check(Rules { replace_is_key, merges: false, is_ordered: ordered }, &changes, cut)?;
        }
    }
}

#[test]
fn truncate_forgets_what_came_before_it() {
    let layouts = layouts(true);
    let mut fold = Fold::new(Rules { replace_is_key: true, merges: true, is_ordered: false });
    let put = |v| Effect {
        puts: smallvec![(Put::Upsert, row(&layouts, &(1, 1, Some(v)), false))],
        ..Effect::default()
    };
    fold.apply(put(1)).unwrap();
    fold.truncate();
    fold.apply(put(2)).unwrap();
    let mut table: Table = [("9".to_owned(), ("9".to_owned(), "old".to_owned()))].into();
    run_writes(&mut table, &fold.take(), true);
    assert_eq!(table, [("1".to_owned(), ("1".to_owned(), "2".to_owned()))].into());
}

#[test]
fn many_changes_of_one_key_are_one_row() {
    let layouts = layouts(true);
    let mut fold = Fold::new(Rules { replace_is_key: true, merges: true, is_ordered: false });
    for v in 0..100 {
        let puts = smallvec![(Put::Upsert, row(&layouts, &(1, 1, Some(v)), false))];
        fold.apply(Effect { removals: vec![(By::Key, key(1), vec![key(1)])], puts }).unwrap();
    }
    let writes = fold.take();
    assert!(matches!(&writes[..], [Write::Put { rows, .. }] if rows.len() == 1), "{writes:?}");
}

#[test]
fn a_row_without_a_key_is_refused() {
    let layout = layouts(true)[0].clone();
    let tuple: Tuple = [Cell::Null, Cell::Null, Cell::Null].into_iter().collect();
    let mut fold = Fold::new(Rules { replace_is_key: true, merges: true, is_ordered: false });
    let puts = smallvec![(Put::Upsert, Row { layout, tuple })];
    assert_eq!(fold.apply(Effect { puts, ..Effect::default() }), Err(NullKey));
}
