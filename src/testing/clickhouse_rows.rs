//! Compares a ClickHouse table with what a test expects of it: its rows as FINAL shows them, the columns that the test names.
//! Both sides are written by the column's own type: numbers as Postgres reads them, exactly, others as ClickHouse does.

use tokio_postgres::Client as Source;

use super::clickhouse::refused;
use super::database::Unplayable;
use super::difference::{Cell, Difference, Expected, Row, Shape, pair};
use crate::clickhouse::catalog::{Column, Table, fetch_table};
use crate::clickhouse::{Client, Type, quote_ident, quote_text};
use crate::codes::Code;
use crate::config::nearest::did_you_mean;
use crate::config::{Expectation, TableName, TestCell, TestFile, TestValue};
use crate::postgres::describe;

/// As Postgres writes times.
const SETTINGS: &[(&str, &str)] = &[("cast_string_to_date_time_mode", "best_effort")];

/// What is compared with what.
pub struct ClickHouseComparison<'a> {
    /// The test.
    pub file: &'a TestFile,
    /// The output's connection.
    pub connection: &'a str,
    /// The test's database.
    pub client: &'a Client,
    /// The same, by its name.
    pub database: &'a str,
    /// Where numbers and JSON are read.
    pub source: &'a Source,
    /// The pipeline's output table.
    pub output: Option<&'a TableName>,
    /// `output.key`, where the pipeline says it.
    pub key: Option<&'a [String]>,
}

impl ClickHouseComparison<'_> {
    /// How the table differs from what is expected; None if it doesn't.
    pub async fn difference(&self, expected: &Expectation) -> Result<Option<Difference>, Unplayable> {
        let name = expected.table.as_ref().or(self.output).ok_or_else(|| {
            let message = "the pipeline names no output table, so the test has to";
            self.file.problem(Code::TestRefused, expected.place, message)
        })?;
        let table = self.find_table(expected, name).await?;
        let is_output = self.output.is_some_and(|output| output.table == name.table);
        let key = self.key.filter(|_| is_output).unwrap_or(&table.sorting_key);
        let mut columns: Vec<&Column> = Vec::new();
        for cell in expected.rows.iter().flat_map(|row| &row.cells) {
            let column = self.find_column(&table, cell)?;
            if !columns.iter().any(|known| known.name == column.name) {
                columns.push(column);
            }
        }
        if columns.is_empty() {
            // No row is expected: those that are there are shown by their key.
            columns = table.columns.iter().filter(|column| key.contains(&column.name)).collect();
        }
        if columns.is_empty() {
            columns = table.columns.iter().take(1).collect();
        }
        let wanted = expected.rows.iter();
        let wanted =
            wanted.map(|row| Expected { line: row.place.line, cells: vec![Cell::Any; columns.len()] });
        let mut wanted: Vec<Expected> = wanted.collect();
        for (number, row) in expected.rows.iter().enumerate() {
            for cell in &row.cells {
                if let Some(place) = columns.iter().position(|column| column.name == cell.column) {
                    wanted[number].cells[place] = self.read_cell(cell, columns[place]).await?;
                }
            }
        }
        let found = self.read_found(&table, &columns).await?;
        let named = key.iter().filter_map(|name| columns.iter().position(|column| column.name == *name));
        let named: Vec<usize> = named.collect();
        let key = if named.len() == key.len() { named } else { Vec::new() };
        let shape = Shape { columns: columns.iter().map(|column| column.name.clone()).collect(), key };
        // The database is the test's own, and of no interest.
        let shown = TableName { schema: self.connection.to_owned(), table: name.table.clone() };
        Ok(pair(shape, wanted, found).map(|rows| rows.about(self.file, expected, &shown)))
    }

    async fn find_table(&self, expected: &Expectation, name: &TableName) -> Result<Table, Unplayable> {
        if let Some(table) = fetch_table(self.client, self.database, &name.table).await? {
            return Ok(table);
        }
        let known =
            self.client.select("SELECT name FROM system.tables WHERE database = currentDatabase()", &[]);
        let known: Vec<String> = known.await?.rows.into_iter().flatten().flatten().collect();
        let message = format!("`{}` has no table {}", self.connection, name.table);
        let help = did_you_mean(&name.table, known.iter().map(String::as_str));
        let help = format!("{help}\nits tables are those of schema/{}.sql", self.connection);
        Err(self.file.problem(Code::TestName, expected.place, message).help(help).into())
    }

    fn find_column<'t>(&self, table: &'t Table, cell: &TestCell) -> Result<&'t Column, Unplayable> {
        table.column(&cell.column).ok_or_else(|| {
            let message = format!("{} has no column `{}`", table.name, cell.column);
            let help = did_you_mean(&cell.column, table.columns.iter().map(|column| column.name.as_str()));
            self.file.problem(Code::TestName, cell.place, message).help(help).into()
        })
    }

    /// What is expected of a column, as the two servers write it.
    async fn read_cell(&self, cell: &TestCell, column: &Column) -> Result<Cell, Unplayable> {
        let own = column.data_type.without_nullable();
        let text = match &cell.value {
            TestValue::Any => return Ok(Cell::Any),
            TestValue::NotNull => return Ok(Cell::NotNull),
            TestValue::Null => return Ok(Cell::Value(None)),
            TestValue::Json(json) if matches!(own, Type::String) => {
                self.of_source(cell, "$1::text::jsonb::text", &json.to_string()).await?
            }
            TestValue::Json(json) => {
                let (json, of_type) = (quote_text(&json.to_string()), quote_text(&column.type_text));
                self.of_output(cell, &format!("JSONExtract({json}, {of_type})")).await?
            }
            TestValue::Text(text) => match own {
                Type::Int { .. } | Type::UInt { .. } | Type::Decimal { .. } => {
                    self.of_source(cell, "trim_scale($1::text::numeric)::text", text).await?
                }
                Type::String | Type::Other(_) => text.clone(),
                _ => {
                    let (text, of_type) = (quote_text(text), quote_text(&column.type_text));
                    self.of_output(cell, &format!("CAST({text}, {of_type})")).await?
                }
            },
        };
        Ok(Cell::Value(Some(text)))
    }

    async fn of_source(&self, cell: &TestCell, expression: &str, text: &str) -> Result<String, Unplayable> {
        let row = self.source.query_one(&format!("SELECT {expression}"), &[&text]).await;
        row.and_then(|row| row.try_get(0)).map_err(|error| {
            let message = format!("this is no value for `{}`: {}", cell.column, describe(&error));
            self.file.problem(Code::TestRefused, cell.place, message).into()
        })
    }

    async fn of_output(&self, cell: &TestCell, expression: &str) -> Result<String, Unplayable> {
        let answer = self.client.select(&format!("SELECT toString({expression})"), SETTINGS).await;
        let answer = answer.map_err(|error| refused(self.file, cell.place, error))?;
        // What can't be cast to a Nullable type is NULL.
        answer.first().map(str::to_owned).ok_or_else(|| {
            let message = format!("this is no value for `{}`", cell.column);
            self.file.problem(Code::TestRefused, cell.place, message).into()
        })
    }

    async fn read_found(&self, table: &Table, columns: &[&Column]) -> Result<Vec<Row>, Unplayable> {
        let shown = |column: &&Column| {
            let name = quote_ident(&column.name);
            let is_state = column.type_text.starts_with("AggregateFunction(");
            if is_state {
                format!("toString(finalizeAggregation({name}))")
            } else {
                format!("toString({name})")
            }
        };
        let cells: Vec<String> = columns.iter().map(shown).collect();
        let family = table.engine_family();
        let is_final = if family.ends_with("MergeTree") && family != "MergeTree" { " FINAL" } else { "" };
        let sql =
            format!("SELECT {} FROM {}{is_final} ORDER BY ALL", cells.join(", "), quote_ident(&table.name));
        Ok(self.client.select(&sql, &[]).await?.rows)
    }
}
