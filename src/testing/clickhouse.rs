//! The ClickHouse that tests are played into: one that was named. Makes databases there, each of a random name with a project's
//! tables in it, puts in what a test gives, and drops them again. Touches no other.

use std::path::Path;

use super::database::Unplayable;
use crate::clickhouse::{Client, Error, quote_ident, quote_text};
use crate::codes::Code;
use crate::config::template::Place;
use crate::config::{ClickHouseConnection, Diagnostic, Given, TestFile, TestRow, TestValue, shown_path};

/// A ClickHouse on which databases may be made.
pub struct ClickHouseServer {
    to: ClickHouseConnection,
    admin: Client,
}

impl From<Error> for Unplayable {
    fn from(error: Error) -> Self {
        Unplayable::Server(error.to_string())
    }
}

impl ClickHouseServer {
    /// Looks whether it answers.
    pub async fn connect(to: &ClickHouseConnection) -> Result<Self, Error> {
        let admin = Client::new(to)?;
        admin.select("SELECT 1", &[]).await?;
        Ok(ClickHouseServer { to: to.clone(), admin })
    }

    /// How to reach a database of that name, by a connection called `name`.
    pub fn connection(&self, name: &str, database: &str) -> ClickHouseConnection {
        ClickHouseConnection { name: name.to_owned(), database: database.to_owned(), ..self.to.clone() }
    }

    /// Makes a connection's database with what `schema/<connection>.sql` says in it.
    pub async fn create(&self, dir: &Path, to: &ClickHouseConnection) -> Result<Client, Unplayable> {
        let path = dir.join("schema").join(format!("{}.sql", to.name));
        let shown = shown_path(&path);
        let sql = std::fs::read_to_string(&path).map_err(|error| {
            let what =
                format!("the tables of connection `{}` are not known: {}: {error}", to.name, shown.display());
            let help = "write their CREATE TABLE statements there, without a database in their names";
            Unplayable::from(Diagnostic::error(Code::TestTables, &shown, what).help(help))
        })?;
        self.admin.execute(&format!("CREATE DATABASE {}", quote_ident(&to.database)), &[]).await?;
        let client = Client::new(to)?;
        for (line, statement) in statements(&sql) {
            client.execute(statement, &[]).await.map_err(|error| match error.code {
                Some(_) => {
                    let place = Place { line, column: 1 };
                    Unplayable::from(
                        Diagnostic::error(Code::TestTables, &shown, error.to_string()).within(&sql, place),
                    )
                }
                None => error.into(),
            })?;
        }
        Ok(client)
    }

    /// Drops a database.
    pub async fn drop(&self, name: &str) -> Result<(), Error> {
        self.admin.execute(&format!("DROP DATABASE IF EXISTS {} SYNC", quote_ident(name)), &[]).await
    }

    /// Drops all databases whose names begin like this, but for `kept`.
    pub async fn clear(&self, prefix: &str, kept: &[String]) -> Result<(), Error> {
        let sql = format!("SELECT name FROM system.databases WHERE startsWith(name, {})", quote_text(prefix));
        let found = self.admin.select(&sql, &[]).await?;
        for name in found.rows.into_iter().flatten().flatten().filter(|name| !kept.contains(name)) {
            self.drop(&name).await?;
        }
        Ok(())
    }
}

/// Statements, which end where a line does, each with the line at which it begins.
pub fn statements(sql: &str) -> Vec<(usize, &str)> {
    let (mut found, mut start, mut end, mut first) = (Vec::new(), 0, 0, 1);
    for (number, line) in sql.split_inclusive('\n').enumerate() {
        let is_empty = line.trim().is_empty() || line.trim_start().starts_with("--");
        if start == end && is_empty {
            start += line.len();
            first = number + 2;
            end = start;
            continue;
        }
        end += line.len();
        let code = line.split("--").next().unwrap_or(line);
        if code.trim_end().ends_with(';') {
            found.push((first, sql[start..end].trim_end()));
            (start, first) = (end, number + 2);
        }
    }
    if !sql[start..].trim().is_empty() {
        found.push((first, sql[start..].trim_end()));
    }
    found
}

/// Puts in what is given.
pub async fn give(client: &Client, file: &TestFile, given: &[Given]) -> Result<(), Unplayable> {
    for part in given {
        match part {
            Given::Sql(sql) => {
                for (line, statement) in statements(&sql.text) {
                    let place = Place { line: sql.place.line + line - 1, ..sql.place };
                    client.execute(statement, &[]).await.map_err(|error| refused(file, place, error))?;
                }
            }
            Given::Rows(rows) => {
                for row in &rows.rows {
                    let sql = insert(&rows.table.table, row);
                    client.execute(&sql, &[]).await.map_err(|error| refused(file, row.place, error))?;
                }
            }
        }
    }
    Ok(())
}

/// What the server says of something in the test.
pub fn refused(file: &TestFile, place: Place, error: Error) -> Unplayable {
    match error.code {
        Some(_) => file.problem(Code::TestRefused, place, error.to_string()).into(),
        None => error.into(),
    }
}

fn insert(table: &str, row: &TestRow) -> String {
    let names: Vec<String> = row.cells.iter().map(|cell| quote_ident(&cell.column)).collect();
    let values: Vec<String> = row.cells.iter().map(|cell| literal(&cell.value)).collect();
    // These are cast, unlike VALUES.
    format!("INSERT INTO {} ({}) SELECT {}", quote_ident(table), names.join(", "), values.join(", "))
}

fn literal(value: &TestValue) -> String {
    match value {
        TestValue::Null | TestValue::Any | TestValue::NotNull => "NULL".to_owned(),
        TestValue::Text(text) => quote_text(text),
        TestValue::Json(json) => quote_text(&json.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_end_with_lines_and_comments_are_none() {
        let sql = "-- a;\n\nCREATE TABLE a (\n  x Int8 -- ;\n); -- b\nSELECT ';' ;\r\n-- end\n\nSELECT 2";
        let expected =
            [(3, "CREATE TABLE a (\n  x Int8 -- ;\n); -- b"), (6, "SELECT ';' ;"), (9, "SELECT 2")];
        assert_eq!(statements(sql), expected);
        assert_eq!(statements("-- nothing\n"), []);
    }
}
