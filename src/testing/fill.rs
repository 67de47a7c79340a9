//! What a test does to its databases: the rows that are given, the changes. Says of each refusal at which line of the
//! test it was.

use std::fmt::Write;

use super::database::{Unplayable, find_table};
use crate::codes::Code;
use crate::config::nearest::did_you_mean;
use crate::config::template::Place;
use crate::config::{Given, TestCell, TestChange, TestFile, TestOperation, TestRow, TestRows, TestValue};
use crate::postgres::catalog::{Table, TableColumn};
use crate::postgres::ident::{quote_ident, quote_literal};
use crate::postgres::{Session, describe};

/// A database that a test changes.
pub struct Filler<'a> {
    /// The test.
    pub file: &'a TestFile,
    /// The connection's name.
    pub connection: &'a str,
    /// A session of the test's own.
    pub session: &'a Session,
}

impl Filler<'_> {
    /// Puts in what is given. Foreign keys and triggers have no part in that, where the role may decide so: what a test
    /// is not about needn't be there.
    pub async fn give(&self, given: &[Given]) -> Result<(), Unplayable> {
        if given.is_empty() {
            return Ok(());
        }
        // Refused to all but superusers, who have always been able to.
        let _ = self.session.client.batch_execute("SET session_replication_role = replica").await;
        for part in given {
            match part {
                Given::Sql(sql) => self.run(sql.place, &sql.text).await?,
                Given::Rows(rows) => self.change_rows(TestOperation::Insert, rows).await?,
            }
        }
        let _ = self.session.client.batch_execute("RESET session_replication_role").await;
        Ok(())
    }

    /// One transaction.
    pub async fn change(&self, changes: &[TestChange]) -> Result<(), Unplayable> {
        if let [TestChange::Sql(sql)] = changes {
            // What is several statements is one transaction all the same, unless it says otherwise.
            return self.run(sql.place, &sql.text).await;
        }
        let start = Place { line: 1, column: 1 };
        self.run(start, "BEGIN").await?;
        for change in changes {
            match change {
                TestChange::Sql(sql) => self.run(sql.place, &sql.text).await?,
                TestChange::Rows(operation, rows) => self.change_rows(*operation, rows).await?,
            }
        }
        self.run(start, "COMMIT").await
    }

    async fn run(&self, place: Place, sql: &str) -> Result<(), Unplayable> {
        self.session.client.batch_execute(sql).await.map_err(|error| {
            let message = format!("`{}` says: {}", self.connection, describe(&error));
            Unplayable::from(self.file.problem(Code::TestRefused, place, message))
        })
    }

    async fn change_rows(&self, operation: TestOperation, rows: &TestRows) -> Result<(), Unplayable> {
        let table =
            find_table(&self.session.client, self.connection, self.file, &rows.table, rows.place).await?;
        if operation == TestOperation::Truncate {
            return self.run(rows.place, &format!("TRUNCATE {}", table.sql())).await;
        }
        for row in &rows.rows {
            let sql = match operation {
                TestOperation::Update => self.update(&table, row)?,
                TestOperation::Delete => {
                    format!(
                        "DELETE FROM {} WHERE {}",
                        table.sql(),
                        self.list(&table, &row.cells, " AND ", true)?
                    )
                }
                _ => self.insert(&table, row)?,
            };
            self.run_on_one(row.place, &sql, operation).await?;
        }
        Ok(())
    }

    /// A change of a row that isn't there is a mistake in the test.
    async fn run_on_one(&self, place: Place, sql: &str, operation: TestOperation) -> Result<(), Unplayable> {
        let changed =
            self.session.client.execute_raw(sql, std::iter::empty::<i32>()).await.map_err(|error| {
                let message = format!("`{}` says: {}", self.connection, describe(&error));
                Unplayable::from(self.file.problem(Code::TestRefused, place, message))
            })?;
        if changed == 0 && operation != TestOperation::Insert {
            return Err(self.file.problem(Code::TestRefused, place, "there is no such row to change").into());
        }
        Ok(())
    }

    fn insert(&self, table: &Table, row: &TestRow) -> Result<String, Unplayable> {
        if row.cells.is_empty() {
            return Ok(format!("INSERT INTO {} DEFAULT VALUES", table.sql()));
        }
        let (mut names, mut values) = (String::new(), String::new());
        for (number, cell) in row.cells.iter().enumerate() {
            let comma = if number > 0 { ", " } else { "" };
            let column = self.column(table, cell)?;
            let _ = write!(names, "{comma}{}", quote_ident(&cell.column));
            let _ = write!(values, "{comma}{}", self.literal(column, cell)?);
        }
        Ok(format!("INSERT INTO {} ({names}) OVERRIDING SYSTEM VALUE VALUES ({values})", table.sql()))
    }

    fn update(&self, table: &Table, row: &TestRow) -> Result<String, Unplayable> {
        let is_key = |cell: &&TestCell| table.primary_key().is_some_and(|key| key.contains(&cell.column));
        let (key, values): (Vec<&TestCell>, Vec<&TestCell>) = row.cells.iter().partition(is_key);
        if key.is_empty() || key.len() < table.primary_key().map_or(0, <[String]>::len) || values.is_empty() {
            let message =
                format!("a row to update needs the primary key of {} and what changes", table.sql());
            let help = "anything else is said in SQL: - UPDATE … SET … WHERE …";
            return Err(self.file.problem(Code::TestRefused, row.place, message).help(help).into());
        }
        Ok(format!(
            "UPDATE {} SET {} WHERE {}",
            table.sql(),
            self.list(table, values, ", ", false)?,
            self.list(table, key, " AND ", true)?
        ))
    }

    /// `a = 1, b = 2`, or conditions that are true of NULL too.
    fn list<'c>(
        &self,
        table: &Table,
        cells: impl IntoIterator<Item = &'c TestCell>,
        between: &str,
        is_condition: bool,
    ) -> Result<String, Unplayable> {
        let part = |cell: &TestCell| {
            let value = self.literal(self.column(table, cell)?, cell)?;
            let equals = if is_condition { "IS NOT DISTINCT FROM" } else { "=" };
            Ok::<_, Unplayable>(format!("{} {equals} {value}", quote_ident(&cell.column)))
        };
        let parts: Vec<String> = cells.into_iter().map(part).collect::<Result<_, _>>()?;
        Ok(parts.join(between))
    }

    fn column<'t>(&self, table: &'t Table, cell: &TestCell) -> Result<&'t TableColumn, Unplayable> {
        find_column(self.file, table, cell)
    }

    fn literal(&self, column: &TableColumn, cell: &TestCell) -> Result<String, Unplayable> {
        match &cell.value {
            TestValue::Any | TestValue::NotNull => {
                let message = "`<any>` and `<not null>` stand for what is expected, not for what is put in";
                Err(self.file.problem(Code::TestRefused, cell.place, message).into())
            }
            value => {
                Ok(text_of(value, column).map_or_else(|| "NULL".to_owned(), |text| quote_literal(&text)))
            }
        }
    }
}

/// The column that a cell is about.
pub fn find_column<'t>(
    file: &TestFile,
    table: &'t Table,
    cell: &TestCell,
) -> Result<&'t TableColumn, Unplayable> {
    table.column(&cell.column).ok_or_else(|| {
        let message = format!("{} has no column `{}`", table.sql(), cell.column);
        let help = did_you_mean(&cell.column, table.columns.iter().map(|column| column.name.as_str()));
        file.problem(Code::TestName, cell.place, message).help(help).into()
    })
}

/// A value as the column's input function reads it; None for NULL.
pub fn text_of(value: &TestValue, column: &TableColumn) -> Option<String> {
    match value {
        TestValue::Null | TestValue::Any | TestValue::NotNull => None,
        TestValue::Text(text) => Some(text.clone()),
        TestValue::Json(serde_json::Value::Array(items)) if is_array(column) => Some(array_text(items)),
        TestValue::Json(json) => Some(json.to_string()),
    }
}

/// Array types are called as their elements, behind an underscore.
fn is_array(column: &TableColumn) -> bool {
    let name = column.type_name.sql.rsplit('.').next().unwrap_or_default();
    name.trim_start_matches('"').starts_with('_')
}

fn array_text(items: &[serde_json::Value]) -> String {
    let item = |value: &serde_json::Value| match value {
        serde_json::Value::Null => "NULL".to_owned(),
        serde_json::Value::Array(items) => array_text(items),
        serde_json::Value::String(text) => quoted(text),
        other => quoted(&other.to_string()),
    };
    format!("{{{}}}", items.iter().map(item).collect::<Vec<_>>().join(","))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_become_arrays() {
        let items = serde_json::json!(["a", "b \"c\" \\", null, [1, 2], {"k": "v"}, true]);
        let serde_json::Value::Array(items) = items else { unreachable!() };
        assert_eq!(array_text(&items), r#"{"a","b \"c\" \\",NULL,{"1","2"},"{\"k\":\"v\"}","true"}"#);
    }
}
