//! Compares a table with what a test expects of it: the columns that the test names, all rows. Both sides are read by the
//! column's own type and written by the same server, so that `2.5` is `2.50`, and `'2024-01-01'` a timestamp at midnight.

use tokio_postgres::Client;

use super::database::{Unplayable, find_table};
use super::difference::{Cell, Difference, Expected, Row, Shape, pair};
use super::fill::{find_column, text_of};
use crate::codes::Code;
use crate::config::{Expectation, RETURNED, TableName, TestFile, TestValue};
use crate::postgres::catalog::{Table, TableColumn};
use crate::postgres::describe;
use crate::postgres::ident::{quote_ident, quote_idents};

const JSON_OID: u32 = 114;
const NUMERIC_OID: u32 = 1700;

/// What is compared with what.
pub struct Comparison<'a> {
    /// The test.
    pub file: &'a TestFile,
    /// The output's connection.
    pub connection: &'a str,
    /// A session there.
    pub client: &'a Client,
    /// The pipeline's output table.
    pub output: Option<&'a TableName>,
    /// `output.key`, where the pipeline says it.
    pub key: Option<&'a [String]>,
}

impl Comparison<'_> {
    /// How the table differs from what is expected; None if it doesn't.
    pub async fn difference(&self, expected: &Expectation) -> Result<Option<Difference>, Unplayable> {
        let name = self.table_name(expected)?;
        if name.schema == RETURNED && !self.exists(name).await? {
            // No rows of that operation have come.
            return Ok(self.nothing(expected, name));
        }
        let table = find_table(self.client, self.connection, self.file, name, expected.place).await?;
        let mut columns: Vec<&TableColumn> = Vec::new();
        for cell in expected.rows.iter().flat_map(|row| &row.cells) {
            let column = find_column(self.file, &table, cell)?;
            if !columns.iter().any(|known| known.name == column.name) {
                columns.push(column);
            }
        }
        let key = self.key_of(&table, name);
        if columns.is_empty() {
            // No row is expected: those that are there are shown by their key.
            let is_shown = |column: &&TableColumn| key.is_empty() || key.contains(&column.name);
            columns = table.columns.iter().filter(is_shown).collect();
        }
        let key: Vec<usize> =
            key.iter().filter_map(|name| columns.iter().position(|column| column.name == *name)).collect();
        let is_keyed = !key.is_empty() && key.len() == self.key_of(&table, name).len();
        let mut wanted: Vec<Expected> = expected
            .rows
            .iter()
            .map(|row| Expected { line: row.place.line, cells: vec![Cell::Any; columns.len()] })
            .collect();
        for (place, column) in columns.iter().enumerate() {
            self.read_expected(expected, column, place, &mut wanted).await?;
        }
        let found = self.read_found(&table, &columns).await?;
        let shape = Shape {
            columns: columns.iter().map(|column| column.name.clone()).collect(),
            key: if is_keyed { key } else { Vec::new() },
        };
        Ok(pair(shape, wanted, found).map(|rows| rows.about(self.file, expected, name)))
    }

    fn nothing(&self, expected: &Expectation, name: &TableName) -> Option<Difference> {
        let mut columns: Vec<String> = Vec::new();
        for cell in expected.rows.iter().flat_map(|row| &row.cells) {
            if !columns.contains(&cell.column) {
                columns.push(cell.column.clone());
            }
        }
        let wanted = expected.rows.iter().map(|row| {
            let shown = |column: &String| {
                let cell = row.cells.iter().find(|cell| cell.column == *column);
                match cell.map(|cell| &cell.value) {
                    None | Some(TestValue::Any) => Cell::Any,
                    Some(TestValue::NotNull) => Cell::NotNull,
                    Some(TestValue::Null) => Cell::Value(None),
                    Some(TestValue::Text(text)) => Cell::Value(Some(text.clone())),
                    Some(TestValue::Json(json)) => Cell::Value(Some(json.to_string())),
                }
            };
            Expected { line: row.place.line, cells: columns.iter().map(shown).collect() }
        });
        let wanted = wanted.collect();
        let shape = Shape { columns, key: Vec::new() };
        pair(shape, wanted, Vec::new()).map(|rows| rows.about(self.file, expected, name))
    }

    fn table_name<'e>(&'e self, expected: &'e Expectation) -> Result<&'e TableName, Unplayable> {
        expected.table.as_ref().or(self.output).ok_or_else(|| {
            let message = "the pipeline names no output table, so the test has to";
            let help = "write it as\nexpect:\n  public.revenue:\n    - {country: 'no', cents: 250}";
            self.file.problem(Code::TestRefused, expected.place, message).help(help).into()
        })
    }

    async fn exists(&self, name: &TableName) -> Result<bool, Unplayable> {
        let sql = "SELECT to_regclass($1) IS NOT NULL";
        let name = crate::postgres::ident::quote_relation(&name.schema, &name.table);
        let row = self.client.query_one(sql, &[&name]).await;
        row.and_then(|row| row.try_get(0)).map_err(server)
    }

    fn key_of(&self, table: &Table, name: &TableName) -> Vec<String> {
        let own = self.key.filter(|_| Some(name) == self.output);
        own.or(table.primary_key()).unwrap_or_default().to_vec()
    }

    /// A column of the expected rows, as the server writes it.
    async fn read_expected(
        &self,
        expected: &Expectation,
        column: &TableColumn,
        place: usize,
        wanted: &mut [Expected],
    ) -> Result<(), Unplayable> {
        let canonical = canonical(column, &format!("v::{}", column.type_name.sql));
        let sql = format!("SELECT {canonical} FROM unnest($1::text[]) WITH ORDINALITY AS u(v, n) ORDER BY n");
        let (mut rows, mut cells, mut texts) = (Vec::new(), Vec::new(), Vec::new());
        for (number, row) in expected.rows.iter().enumerate() {
            let Some(cell) = row.cells.iter().find(|cell| cell.column == column.name) else { continue };
            match cell.value {
                TestValue::Any => {}
                TestValue::NotNull => wanted[number].cells[place] = Cell::NotNull,
                _ => {
                    rows.push(number);
                    cells.push(cell);
                    texts.push(text_of(&cell.value, column));
                }
            }
        }
        let read = match self.client.query(&sql, &[&texts]).await {
            Ok(read) => read,
            Err(all) => {
                // One at a time, to say which.
                for (cell, text) in cells.iter().zip(&texts) {
                    if let Err(error) = self.client.query(&sql, &[&vec![text.clone()]]).await {
                        let message = format!("this is no value for `{}`: {}", column.name, describe(&error));
                        return Err(self.file.problem(Code::TestRefused, cell.place, message).into());
                    }
                }
                return Err(server(all));
            }
        };
        for (row, number) in read.iter().zip(rows) {
            wanted[number].cells[place] = Cell::Value(row.try_get(0).map_err(server)?);
        }
        Ok(())
    }

    async fn read_found(&self, table: &Table, columns: &[&TableColumn]) -> Result<Vec<Row>, Unplayable> {
        let cells: Vec<String> = columns.iter().map(|c| canonical(c, &quote_ident(&c.name))).collect();
        let order = match table.primary_key() {
            Some(key) => format!(" ORDER BY {}", quote_idents(key.iter().map(String::as_str))),
            None => String::new(),
        };
        let sql = format!("SELECT {} FROM {}{order}", cells.join(", "), table.sql());
        let rows = self.client.query(&sql, &[]).await.map_err(server)?;
        let row = |row: &tokio_postgres::Row| (0..columns.len()).map(|at| row.try_get(at)).collect();
        rows.iter().map(row).collect::<Result<Vec<Row>, _>>().map_err(server)
    }
}

fn server(error: tokio_postgres::Error) -> Unplayable {
    Unplayable::Server(describe(&error))
}

/// The text by which values are compared: equal where the values are.
fn canonical(column: &TableColumn, value: &str) -> String {
    match column.type_name.base_oid {
        NUMERIC_OID => format!("pg_catalog.trim_scale(({value})::pg_catalog.numeric)::pg_catalog.text"),
        JSON_OID => format!("({value})::pg_catalog.jsonb::pg_catalog.text"),
        _ => format!("({value})::pg_catalog.text"),
    }
}
