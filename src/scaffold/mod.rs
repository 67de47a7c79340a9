//! `trucker init`: a project from live tables, or a small example to begin with. Owns what is written; never writes over
//! a file, never writes a password, changes nothing on a server.

mod editor;
mod example;
mod files;
mod proposal;

use std::path::{Path, PathBuf};

pub use files::password_variable;

use crate::config::nearest::did_you_mean;
use crate::config::{PostgresConnection, TableName};
use crate::ddl::fetch_definitions;
use crate::postgres::catalog::{Table, fetch_table};
use crate::postgres::{ConnectError, Purpose, Session, connect, describe};

/// What a project is made of.
#[derive(Debug)]
pub struct Wishes {
    /// The project's folder.
    pub dir: PathBuf,
    /// `name` of trucker.yml.
    pub name: String,
    /// The source, and the tables to read there; None: the example.
    pub from: Option<(PostgresConnection, Vec<TableName>)>,
    /// The output.
    pub to: Option<PostgresConnection>,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum ScaffoldError {
    /// These files exist.
    #[error("nothing was written, since these exist already:\n{}", list(.0))]
    Exists(Vec<PathBuf>),
    /// The source has no such table, or it can't be read from.
    #[error("{0}")]
    Table(String),
    /// A server can't be reached.
    #[error("{0}")]
    Connect(#[from] ConnectError),
    /// A server said no.
    #[error("connection {0}: {1}")]
    Server(String, String),
    /// The system said no.
    #[error("{} can't be written: {source}", path.display())]
    Write {
        /// What.
        path: PathBuf,
        /// Its words.
        source: std::io::Error,
    },
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| format!("  {}", path.display())).collect::<Vec<_>>().join("\n")
}

/// A file to be: its path in the project, and its text.
pub type File = (String, String);

/// Writes the project; the files, in the order in which they are best read.
///
/// # Errors
/// Nothing was written then, but for an error of the system's.
pub async fn write_project(wishes: &Wishes) -> Result<Vec<PathBuf>, ScaffoldError> {
    let files = match &wishes.from {
        Some((from, tables)) => from_tables(wishes, from, tables).await?,
        None => example::files(&wishes.name),
    };
    let files: Vec<File> = files.into_iter().map(editor::with_schema).collect();
    write(&wishes.dir, &files)
}

fn write(dir: &Path, files: &[File]) -> Result<Vec<PathBuf>, ScaffoldError> {
    let paths: Vec<PathBuf> = files.iter().map(|(name, _)| dir.join(name)).collect();
    let existing: Vec<PathBuf> = paths.iter().filter(|path| path.exists()).cloned().collect();
    if !existing.is_empty() {
        return Err(ScaffoldError::Exists(existing));
    }
    for (path, (_, text)) in paths.iter().zip(files) {
        write_file(path, text)?;
    }
    for (name, schema) in editor::schemas() {
        let path = dir.join(name);
        if !path.exists() {
            write_file(&path, &schema)?;
        }
    }
    Ok(paths)
}

fn write_file(path: &Path, text: &str) -> Result<(), ScaffoldError> {
    let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    folder
        .and_then(|()| std::fs::write(path, text))
        .map_err(|source| ScaffoldError::Write { path: path.to_owned(), source })
}

async fn from_tables(
    wishes: &Wishes,
    from: &PostgresConnection,
    names: &[TableName],
) -> Result<Vec<File>, ScaffoldError> {
    let session = connect(from, Purpose::Control).await?;
    let server = |error: tokio_postgres::Error| ScaffoldError::Server(from.name.clone(), describe(&error));
    let mut tables = Vec::new();
    for name in names {
        let found = fetch_table(&session.client, &name.schema, &name.table).await.map_err(server)?;
        tables.push(usable(&session, name, found).await.map_err(server)??);
    }
    let source = fetch_definitions(&session.client, names, &[]).await.map_err(server)?;
    let known = fetch_known(&session).await.map_err(server)?;
    let to = wishes.to.clone().unwrap_or_else(|| proposal::unknown_output(&from.name));
    if wishes.to.is_some() {
        // A mistake in it is better told now.
        connect(&to, Purpose::Control).await?;
    }
    let project = files::Parts { name: &wishes.name, from, to: &to, is_to_known: wishes.to.is_some() };
    Ok(project.files(&tables, &source, &known))
}

/// The table, if changes of it can be read; otherwise what would help.
async fn usable(
    session: &Session,
    name: &TableName,
    found: Option<Table>,
) -> Result<Result<Table, ScaffoldError>, tokio_postgres::Error> {
    let Some(table) = found else {
        let sql = "SELECT n.nspname || '.' || c.relname FROM pg_catalog.pg_class c \
                   JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                   WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^(pg_|information_schema$)' ORDER BY 1";
        let rows = session.client.query(sql, &[]).await?;
        let names = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>()?;
        let help = did_you_mean(&name.to_string(), names.iter().map(String::as_str));
        return Ok(Err(ScaffoldError::Table(format!("the source has no table {name}: {help}"))));
    };
    if !matches!(table.kind, 'r' | 'p') {
        let message = format!("{name} is no table: a view or foreign table has no changes of its own");
        return Ok(Err(ScaffoldError::Table(message)));
    }
    if table.primary_key().is_none() {
        let message = format!(
            "{name} has no primary key, by which trucker would know its rows\n  = help: ALTER TABLE {} ADD PRIMARY KEY (…)",
            table.sql()
        );
        return Ok(Err(ScaffoldError::Table(message)));
    }
    Ok(Ok(table))
}

async fn fetch_known(session: &Session) -> Result<proposal::Known, tokio_postgres::Error> {
    let sql = "SELECT DISTINCT ON (enumtypid) enumtypid, enumlabel::text FROM pg_catalog.pg_enum \
               ORDER BY enumtypid, enumsortorder";
    let rows = session.client.query(sql, &[]).await?;
    let enums = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, _>>()?;
    let sql = "SELECT DISTINCT conrelid FROM pg_catalog.pg_constraint WHERE contype = 'f'";
    let rows = session.client.query(sql, &[]).await?;
    let with_foreign_keys = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    Ok(proposal::Known { enums, with_foreign_keys })
}
