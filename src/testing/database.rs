//! The databases of one test: a copy for each connection of what `schema/<connection>.sql` makes.

use std::path::Path;

use tokio_postgres::Client;
use tokio_postgres::error::ErrorPosition;

use super::server::{ServerTrouble, TestServer};
use crate::codes::Code;
use crate::config::nearest::did_you_mean;
use crate::config::template::Place;
use crate::config::{Diagnostic, Diagnostics, PostgresConnection, TableName, TestFile, shown_path};
use crate::postgres::catalog::{Table, fetch_table};
use crate::postgres::describe;

/// Why a test can't be played on.
#[derive(Debug)]
pub enum Unplayable {
    /// Its files are wrong.
    Files(Diagnostics),
    /// The server is the trouble.
    Server(String),
}

impl From<ServerTrouble> for Unplayable {
    fn from(trouble: ServerTrouble) -> Self {
        Unplayable::Server(trouble.to_string())
    }
}

impl From<crate::postgres::ConnectError> for Unplayable {
    fn from(error: crate::postgres::ConnectError) -> Self {
        Unplayable::Server(error.to_string())
    }
}

impl From<Diagnostic> for Unplayable {
    fn from(problem: Diagnostic) -> Self {
        Unplayable::Files(std::iter::once(problem).collect())
    }
}

impl From<Diagnostics> for Unplayable {
    fn from(problems: Diagnostics) -> Self {
        Unplayable::Files(problems)
    }
}

/// Makes a connection's database, called `name`.
pub async fn create(
    server: &TestServer,
    dir: &Path,
    connection: &str,
    name: &str,
) -> Result<PostgresConnection, Unplayable> {
    let path = dir.join("schema").join(format!("{connection}.sql"));
    let shown = shown_path(&path);
    let sql = std::fs::read_to_string(&path).map_err(|error| {
        let what =
            format!("the tables of connection `{connection}` are not known: {}: {error}", shown.display());
        let help = format!(
            "write their CREATE TABLE statements there, or have `trucker test --write-schema {}` write them \
             from the live database",
            shown_path(dir).display()
        );
        Unplayable::from(Diagnostic::error(Code::TestTables, &shown, what).help(help))
    })?;
    let template = server
        .template(connection, &sql, async |session| {
            let done = session.client.batch_execute(&sql).await;
            done.map_err(|error| {
                Unplayable::from(wrong_sql(&shown, &sql, Place { line: 1, column: 1 }, &error))
            })
        })
        .await?;
    server.create(name, Some(&template)).await?;
    Ok(server.connection(connection, name))
}

/// What the server says of statements in a file, at the line that it is about.
fn wrong_sql(shown: &Path, sql: &str, start: Place, error: &tokio_postgres::Error) -> Diagnostic {
    let at = match error.as_db_error().and_then(|error| error.position()) {
        Some(ErrorPosition::Original(at)) => *at as usize,
        _ => 0,
    };
    let before: String = sql.chars().take(at.saturating_sub(1)).collect();
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let column = before[line_start..].chars().count() + 1;
    let place = match at {
        0 => start,
        _ => Place { line: before.matches('\n').count() + 1, column },
    };
    Diagnostic::error(Code::TestTables, shown, describe(error)).within(sql, place)
}

/// A table that a test names, as it is.
pub async fn find_table(
    client: &Client,
    connection: &str,
    file: &TestFile,
    name: &TableName,
    place: Place,
) -> Result<Table, Unplayable> {
    let server = |error: tokio_postgres::Error| Unplayable::Server(describe(&error));
    if let Some(table) = fetch_table(client, &name.schema, &name.table).await.map_err(server)? {
        return Ok(table);
    }
    let sql = "SELECT n.nspname || '.' || c.relname FROM pg_catalog.pg_class c \
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
               WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname !~ '^(pg_|information_schema$)'";
    let rows = client.query(sql, &[]).await.map_err(server)?;
    let names = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>().map_err(server)?;
    let message = format!("`{connection}` has no table {name}");
    let help = did_you_mean(&name.to_string(), names.iter().map(String::as_str));
    Err(file
        .problem(Code::TestName, place, message)
        .help(format!("{help}\nits tables are those of schema/{connection}.sql"))
        .into())
}
