//! Values that an update left out because they are stored out of line and did not change (TOAST). Where `old` has
//! the value (REPLICA IDENTITY FULL) the source has filled it in already; where SQL or the output needs it and nothing has it,
//! it is read from the source by the row's identity. It is never NULL.

use tokio_postgres::{Client, Row};

use super::chain::{InputTable, Param, Side};
use crate::change::{Cell, Cells, Change, Relation, ReplicaIdentity, Tuple};
use crate::postgres::array::ArrayText;
use crate::postgres::ident::quote_ident;

/// Whether a query with these parameters needs a value of this change that wasn't sent.
pub fn needs(params: &[Param], change: &Change) -> bool {
    params.iter().any(|param| param.side == Side::New && param.cell(change) == Cell::Unchanged)
}

/// Reads the values left out of these changes' new rows, as they are now in the transaction that is open on
/// `client`. Answers the completed changes in the same order; None where the row is not there any more: then a
/// delete or a change of its key comes later in the stream.
pub async fn fetch_unchanged(
    client: &Client,
    input: &InputTable,
    relation: &Relation,
    types_with_text_cast: &[u32],
    changes: &[&Change],
) -> Result<Vec<Option<Change>>, tokio_postgres::Error> {
    let missing: Vec<usize> =
        (0..relation.columns.len()).filter(|&cell| changes.iter().any(|c| is_unchanged(c, cell))).collect();
    let (keys, is_whole_row) = locating_cells(input, relation);
    let sql = statement(input, relation, types_with_text_cast, &missing, &keys, is_whole_row);
    let mut arrays = vec![ArrayText::default(); keys.len()];
    for change in changes {
        for (&key, array) in keys.iter().zip(&mut arrays) {
            array.push(identity_cell(change, key).text());
        }
    }
    let arrays: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> =
        arrays.iter().map(|a| a as &(dyn tokio_postgres::types::ToSql + Sync)).collect();
    let mut completed = vec![None; changes.len()];
    for row in client.query(&sql, &arrays).await? {
        let at = usize::try_from(row.try_get::<_, i64>(0)?.saturating_sub(1)).unwrap_or_default();
        if let (Some(change), Some(place)) = (changes.get(at), completed.get_mut(at)) {
            *place = Some(complete(change, &missing, &row)?);
        }
    }
    Ok(completed)
}

/// The cells that a row is found by, and whether that is all there is of it: REPLICA IDENTITY FULL without a primary key.
fn locating_cells(input: &InputTable, relation: &Relation) -> (Vec<usize>, bool) {
    let cells = 0..relation.columns.len();
    if relation.identity != ReplicaIdentity::Full {
        return (cells.filter(|&cell| relation.columns[cell].is_identity).collect(), false);
    }
    let primary: Option<Vec<usize>> =
        input.primary_key.iter().map(|name| relation.column_index(name)).collect();
    match primary.filter(|cells| !cells.is_empty()) {
        Some(cells) => (cells, false),
        None => {
            let is_there = |cell: &usize| {
                let column = &relation.columns[*cell];
                !column.is_later && input.columns.iter().any(|c| c.cell == Some(*cell))
            };
            (cells.filter(is_there).collect(), true)
        }
    }
}

fn is_unchanged(change: &Change, cell: usize) -> bool {
    change.new.as_ref().is_some_and(|new| new.cell(cell) == Cell::Unchanged)
}

/// A column of the identity that the row has now: a toasted key that did not change comes in the old tuple.
fn identity_cell(change: &Change, cell: usize) -> Cell<'_> {
    match change.new.as_ref().map_or(Cell::Null, |new| new.cell(cell)) {
        Cell::Unchanged => change.old.as_ref().map_or(Cell::Null, |old| old.cell(cell)),
        value => value,
    }
}

fn statement(
    input: &InputTable,
    relation: &Relation,
    types_with_text_cast: &[u32],
    missing: &[usize],
    keys: &[usize],
    is_whole_row: bool,
) -> String {
    let of_cell = |cell: usize| input.columns.iter().find(|c| c.cell == Some(cell));
    let values = missing.iter().map(|&cell| {
        let column = &relation.columns[cell];
        let name = format!("t.{}", quote_ident(&column.name));
        format!(", {}", text_sql(&name, column.type_oid, types_with_text_cast))
    });
    let arrays = keys.iter().enumerate().map(|(place, &cell)| {
        let array = of_cell(cell).and_then(|c| c.array_sql.as_deref()).filter(|_| !is_whole_row);
        format!("${}::{}", place + 1, array.unwrap_or("pg_catalog._text"))
    });
    let matches = keys.iter().enumerate().map(|(place, &cell)| {
        if is_whole_row {
            // As texts, as they were sent: not every type has an equality, and NULLs are to be equal.
            let name = format!("t.{}", quote_ident(&relation.columns[cell].name));
            let text = format!("CASE WHEN {name} IS NOT NULL THEN pg_catalog.concat({name}) END");
            return format!("{text} IS NOT DISTINCT FROM k.k{place}");
        }
        let cast = match of_cell(cell) {
            Some(column) if column.array_sql.is_none() => format!("::{}", column.type_sql),
            _ => String::new(),
        };
        format!("t.{} = k.k{place}{cast}", quote_ident(&relation.columns[cell].name))
    });
    let names = (0..keys.len()).map(|place| format!("k{place}, ")).collect::<String>();
    format!(
        "SELECT k.n{} FROM unnest({}) WITH ORDINALITY AS k({names}n) JOIN {} AS t ON {}",
        values.collect::<String>(),
        arrays.collect::<Vec<_>>().join(", "),
        input.from_sql,
        matches.collect::<Vec<_>>().join(" AND "),
    )
}

/// A value as the text that its type's output function writes, which is what the stream has.
pub(super) fn text_sql(value: &str, type_oid: u32, types_with_text_cast: &[u32]) -> String {
    if types_with_text_cast.contains(&type_oid) {
        format!("CASE WHEN {value} IS NOT NULL THEN pg_catalog.concat({value}) END")
    } else {
        format!("({value})::pg_catalog.text")
    }
}

fn complete(change: &Change, missing: &[usize], row: &Row) -> Result<Change, tokio_postgres::Error> {
    let Some(new) = &change.new else { return Ok(change.clone()) };
    let cells = new.cells().enumerate().map(|(cell, value)| {
        let place = missing.iter().position(|&m| m == cell).filter(|_| value == Cell::Unchanged);
        let Some(place) = place else { return Ok(value) };
        let fetched: Option<&str> = row.try_get(place + 1)?;
        Ok(fetched.map_or(Cell::Null, |text| Cell::Text(text.as_bytes())))
    });
    let completed = Tuple::new(&cells.collect::<Result<Cells<'_>, _>>()?);
    Ok(Change { new: Some(completed), ..change.clone() })
}
