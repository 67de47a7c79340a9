//! The two sides of a comparison: what the SQL makes of the input, and what the output has, row by row in one form. Into Postgres
//! all values are texts; into ClickHouse a row is its key as texts, then all else as the bytes that are sent. Then its version.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::change::{Cell, Tuple};
use crate::clickhouse::encode::put_text;
use crate::clickhouse::{Client, Encoding, PostgresType, Rows as ClickHouseRows, Type};
use crate::config::Connection;
use crate::pipeline::compiled::Compiled;
use crate::pipeline::definition::{Checked, Definition};
use crate::pipeline::encoding;
use crate::pipeline::error::PipelineError;
use crate::postgres::array::ArrayText;
use crate::postgres::text_rows::TextRows;
use crate::postgres::{Purpose, Session, connect};
use crate::sink::clickhouse::Target as ClickHouseTarget;
use crate::sink::clickhouse::actual::{Actual as InClickHouse, WANTED, key_cast};
use crate::sink::postgres::actual::{self, Actual};
use crate::sink::{Key, Ledger, SinkError, Target};
use crate::transform::expected::Expected;
use crate::transform::query::CopyQuery;

/// The output's side.
pub enum There {
    /// A table of Postgres's, and a session.
    Postgres(Box<Session>, Actual),
    /// One of ClickHouse's.
    ClickHouse(Client, InClickHouse, Packing),
}

/// How a row of the source's becomes one that ClickHouse shows.
pub struct Packing {
    key: usize,
    /// Of all columns, the key's first.
    encodings: Vec<Encoding>,
}

/// Rows that are being read.
pub enum Rows {
    /// With the session that they come by.
    Postgres { rows: TextRows, _session: Option<Box<Session>> },
    /// With the number of their columns.
    ClickHouse(ClickHouseRows, usize),
}

impl Rows {
    /// The next row; None at the end.
    pub async fn next(&mut self) -> Checked<Option<Tuple>> {
        match self {
            Rows::Postgres { rows, .. } => rows.next().await.map_err(of_output()),
            Rows::ClickHouse(rows, columns) => {
                let row = rows.next(*columns).await.map_err(SinkError::clickhouse(READING))?;
                Ok(row.map(|row| row.iter().map(|v| v.as_deref().map_or(Cell::Null, Cell::Text)).collect()))
            }
        }
    }
}

impl There {
    /// Both sides' statements; `source` prepares its own.
    pub async fn connect(definition: &Definition, source: &Session) -> Checked<(Expected, Self)> {
        let copies = copies(definition, source).await?;
        match (&definition.output, definition.target.as_ref()) {
            (Connection::Postgres(to), Some(Target::Postgres(target))) => {
                let output = connect(to, Purpose::Output).await?;
                let casts = actual::fetch_casts(&output.client, target).await?;
                let key_array = match target.key.as_slice() {
                    [column] => target
                        .table
                        .column(column)
                        .filter(|c| c.type_name.is_builtin())
                        .and_then(|c| c.type_name.array_sql.clone()),
                    _ => None,
                };
                let expected = expected(&copies, &target.key, &casts, key_array)?;
                let actual = Actual::new(target, &expected.columns);
                Ok((expected, There::Postgres(Box::new(output), actual)))
            }
            (Connection::ClickHouse(to), Some(Target::ClickHouse(target))) => {
                let client = Client::new(to).map_err(SinkError::clickhouse("connecting"))?;
                let (expected, actual, packing) = clickhouse(definition, target, &copies)?;
                Ok((expected, There::ClickHouse(client, actual, packing)))
            }
            _ => Err(PipelineError::Input("it has no output table".to_owned())),
        }
    }

    /// What is known of pipelines there.
    pub fn ledger(&self) -> Ledger<'_> {
        match self {
            There::Postgres(session, _) => Ledger::Postgres(&session.client),
            There::ClickHouse(client, ..) => Ledger::ClickHouse(client),
        }
    }

    /// All rows, in the order of their keys.
    pub async fn all(&self, definition: &Definition) -> Checked<Rows> {
        match self {
            There::Postgres(_, actual) => {
                let Connection::Postgres(to) = &definition.output else {
                    return Err(PipelineError::Input("it has no output table".to_owned()));
                };
                let session = connect(to, Purpose::Output).await?;
                let rows =
                    TextRows::query(&session.client, &actual.all(), Vec::new()).await.map_err(of_output())?;
                Ok(Rows::Postgres { rows, _session: Some(Box::new(session)) })
            }
            There::ClickHouse(client, actual, _) => {
                let rows = client.rows(&actual.all(), None).await.map_err(SinkError::clickhouse(READING))?;
                Ok(Rows::ClickHouse(rows, actual.columns()))
            }
        }
    }

    /// Rows of some keys, given as texts.
    pub async fn of_keys(&self, keys: &[&Key]) -> Checked<Rows> {
        match self {
            There::Postgres(session, actual) => {
                let arrays = arrays(keys);
                let rows = TextRows::query(&session.client, &actual.of_keys(), arrays).await;
                Ok(Rows::Postgres { rows: rows.map_err(of_output())?, _session: None })
            }
            There::ClickHouse(client, actual, packing) => {
                let mut bytes = Vec::new();
                keys.iter().flat_map(|key| key.values()).for_each(|value| put_text(value, &mut bytes));
                let structure: Vec<String> = (0..packing.key).map(|at| format!("k{at} String")).collect();
                let wanted = (WANTED, &*structure.join(", "), Bytes::from(bytes));
                let rows = client.rows(&actual.of_keys(), Some(wanted)).await;
                Ok(Rows::ClickHouse(rows.map_err(SinkError::clickhouse(READING))?, actual.columns()))
            }
        }
    }

    /// How values of the columns are written, the key's first, where that is in binary form.
    pub fn encodings(&self) -> &[Encoding] {
        match self {
            There::ClickHouse(_, _, packing) => &packing.encodings,
            There::Postgres(..) => &[],
        }
    }

    /// A row of the source's, as the output's side has it.
    pub fn pack(&self, row: Tuple) -> Tuple {
        let There::ClickHouse(_, _, packing) = self else { return row };
        let (mut bytes, last) = (Vec::new(), row.len().saturating_sub(1));
        let others = row.cells().take(last).skip(packing.key);
        let is_held = others
            .zip(&packing.encodings[packing.key..])
            .all(|(cell, e)| e.encode(cell.text(), &mut bytes).is_ok());
        let hex: String = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
        // What the output can't hold is equal to nothing.
        let hex = if is_held { hex } else { "?".to_owned() };
        let all: Vec<Cell<'_>> = row.cells().collect();
        let (key, version) = (all.iter().take(packing.key), all.last());
        key.copied().chain([Cell::Text(hex.as_bytes())]).chain(version.copied()).collect()
    }
}

/// One array per column of the key.
pub fn arrays(keys: &[&Key]) -> Vec<ArrayText> {
    let columns = keys.first().map_or(0, |key| key.values().count());
    let mut arrays = vec![ArrayText::default(); columns];
    for key in keys {
        key.values().zip(&mut arrays).for_each(|(value, array)| array.push(Some(value)));
    }
    arrays
}

async fn copies(definition: &Definition, source: &Session) -> Checked<Vec<CopyQuery>> {
    let types = definition.types(&source.client).await?;
    let mut copies = Vec::new();
    for table in &definition.tables {
        copies.push(Compiled::copy(definition, &source.client, &types, table).await?.0);
    }
    Ok(copies)
}

fn expected(
    copies: &[CopyQuery],
    key: &[String],
    casts: &BTreeMap<String, String>,
    key_array: Option<String>,
) -> Checked<Expected> {
    Expected::new(copies, key, casts, key_array)
        .ok_or_else(|| PipelineError::Input("it has no input table".to_owned()))
}

fn clickhouse(
    definition: &Definition,
    target: &ClickHouseTarget,
    copies: &[CopyQuery],
) -> Checked<(Expected, InClickHouse, Packing)> {
    verify_alike(copies)?;
    let columns = copies.first().map(|copy| encoding::of_columns(&copy.columns)).unwrap_or_default();
    let pg = |name: &String| {
        let found = columns.iter().find(|(known, _)| known == name);
        found.map_or(PostgresType::Text("text".to_owned()), |(_, pg)| pg.clone())
    };
    let type_of = |name: &String| target.table.column(name).map_or(Type::String, |c| c.data_type.clone());
    let casts =
        target.key.iter().filter_map(|name| Some((name.clone(), key_cast(&pg(name), &type_of(name))?)));
    let expected = expected(copies, &target.key, &casts.collect(), None)?;
    let key = target.key.len();
    let types: Vec<_> = expected.columns.iter().map(|name| (name.clone(), pg(name))).collect();
    let encodings = encoding::encodings(definition, target, &types)?;
    let names: Vec<&str> = expected.columns.iter().skip(key).map(String::as_str).collect();
    let types: Vec<PostgresType> = target.key.iter().map(pg).collect();
    let actual = InClickHouse::new(target, &types, &names).map_err(PipelineError::Input)?;
    Ok((expected, actual, Packing { key, encodings }))
}

/// Why such a table can't be compared.
pub fn why_not(target: &ClickHouseTarget) -> Option<String> {
    let column = target.table.columns.iter().find(|column| holds_json(&column.data_type))?;
    Some(format!("column {}, of type JSON, doesn't hold texts as they came", column.name))
}

fn holds_json(of: &Type) -> bool {
    match of {
        Type::Json => true,
        Type::Nullable(inner) | Type::Array(inner) => holds_json(inner),
        Type::Map(key, value) => holds_json(key) || holds_json(value),
        Type::Tuple(elements) => elements.iter().any(holds_json),
        _ => false,
    }
}

/// Rows of several input tables are read as those of the first are.
fn verify_alike(copies: &[CopyQuery]) -> Checked<()> {
    let mut types = copies.iter().map(|copy| encoding::of_columns(&copy.columns));
    let first = types.next().unwrap_or_default();
    for (name, other) in types.flatten() {
        let known = first.iter().find(|(known, _)| *known == name);
        if let Some((_, known)) = known.filter(|(_, known)| !is_written_alike(known, &other)) {
            return Err(PipelineError::Input(format!(
                "column {name} is {known} by one input table and {other} by another: cast it in the SQL, so that it has one type"
            )));
        }
    }
    Ok(())
}

fn is_written_alike(one: &PostgresType, other: &PostgresType) -> bool {
    matches!((one, other), (PostgresType::Text(_), PostgresType::Text(_))) || one == other
}

const READING: &str = "reading what the output has";

fn of_output() -> impl FnOnce(tokio_postgres::Error) -> PipelineError {
    |error| SinkError::at(READING)(error).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_seen_wherever_it_is_in_a_type() {
        for (text, expected) in [
            ("JSON", true),
            ("Nullable(JSON)", true),
            ("Array(JSON)", true),
            ("Array(Array(JSON(max_dynamic_paths=8)))", true),
            ("Map(String, JSON)", true),
            ("Tuple(a Int32, b Array(JSON))", true),
            ("Array(String)", false),
            ("Map(String, Tuple(Int8, String))", false),
        ] {
            assert_eq!(holds_json(&Type::parse(text)), expected, "{text}");
        }
    }

    #[test]
    fn tables_whose_values_are_written_otherwise_are_not_compared_as_one() {
        let text = |name: &str| PostgresType::Text(name.to_owned());
        assert!(is_written_alike(&text("bpchar"), &text("text")));
        assert!(is_written_alike(&PostgresType::Int4, &PostgresType::Int4));
        assert!(!is_written_alike(&PostgresType::Timestamp(6), &PostgresType::Timestamptz(6)));
        assert!(!is_written_alike(&PostgresType::Float8, &PostgresType::Numeric(None)));
    }
}
