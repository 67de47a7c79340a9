//! `trucker init`: a project from live tables, or a small example to begin with; in a project that is there, another
//! pipeline. Owns what is written; never writes over a file, never writes a password, changes nothing on a server.

mod editor;
mod example;
mod existing;
mod files;
mod outputs;
mod proposal;

use std::path::{Path, PathBuf};

pub use files::password_variable;

use crate::clickhouse;
use crate::config::nearest::did_you_mean;
use crate::config::{Connection, Diagnostics, PostgresConnection, Project, TableName};
use crate::ddl::fetch_definitions;
use crate::postgres::catalog::{Table, fetch_table};
use crate::postgres::{ConnectError, Purpose, Session, connect, describe};

/// Where rows come from or go to.
#[derive(Debug, Clone)]
pub enum End {
    /// A database.
    Url(Connection),
    /// A connection of the project.
    Name(String),
}

/// What a project is made of.
#[derive(Debug)]
pub struct Wishes {
    /// The project's folder.
    pub dir: PathBuf,
    /// `name` of trucker.yml.
    pub name: String,
    /// The source, and the tables to read there; None: the example.
    pub from: Option<(End, Vec<TableName>)>,
    /// The output.
    pub to: Option<End>,
}

/// What was written.
#[derive(Debug, Default)]
pub struct Written {
    /// Files that are new, in the order in which they are best read.
    pub files: Vec<PathBuf>,
    /// Files that got more at their end.
    pub longer: Vec<PathBuf>,
    /// Whether the project was there before.
    pub is_added: bool,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum ScaffoldError {
    /// These files exist.
    #[error(
        "nothing was written, since these exist already:\n{}\n  = help: name another folder; or add a pipeline for a \
         further table to the project that is there: trucker init DIR --from URL --table TABLE",
        list(.0)
    )]
    Exists(Vec<PathBuf>),
    /// The project that is there can't be read.
    #[error("{0}")]
    Files(Diagnostics),
    /// The project has no such connection, or none was named.
    #[error("{0}")]
    Ends(String),
    /// The source has no such table, or it can't be read from.
    #[error("{0}")]
    Table(String),
    /// A server can't be reached.
    #[error("{0}")]
    Connect(#[from] ConnectError),
    /// A ClickHouse can't be reached, or said no.
    #[error("{0}")]
    ClickHouse(#[from] clickhouse::Error),
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
    /// The system said no.
    #[error("{} can't be read: {source}", path.display())]
    Read {
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

/// Writes the project, or what is to be added to the one that is there.
///
/// # Errors
/// Nothing was written then, but for an error of the system's.
pub async fn write_project(wishes: &Wishes) -> Result<Written, ScaffoldError> {
    let ends = wishes.from.iter().map(|(from, _)| from).chain(&wishes.to);
    let uses_connections = ends.clone().any(|end| matches!(end, End::Name(_)));
    let found = match &wishes.from {
        Some(_) => existing::find(&wishes.dir, uses_connections)?,
        None => None,
    };
    match (&wishes.from, found) {
        (None, _) => write(&wishes.dir, example::files(&wishes.name), Vec::new()),
        (Some((from, tables)), Some(project)) => add(wishes, &project, from, tables).await,
        (Some((End::Url(Connection::Postgres(from)), tables)), None) => {
            let to = match &wishes.to {
                Some(End::Name(name)) => return Err(unknown(name)),
                Some(End::Url(to)) => Some(to),
                None => None,
            };
            write(&wishes.dir, new(wishes, from, to, tables).await?, Vec::new())
        }
        (Some((End::Name(name), _)), None) => Err(unknown(name)),
        (Some((End::Url(Connection::ClickHouse(_)), _)), None) => Err(ScaffoldError::Ends(
            "changes cannot come from a ClickHouse: --from is a postgres:// URL".to_owned(),
        )),
    }
}

fn unknown(name: &str) -> ScaffoldError {
    let message = format!(
        "`{name}` is no URL (postgres://user:password@host:port/database), and there is no trucker.yml that has such a connection"
    );
    ScaffoldError::Ends(message)
}

/// Writes files that must not be there, and `longer` ones that may.
fn write(dir: &Path, files: Vec<File>, longer: Vec<(PathBuf, String)>) -> Result<Written, ScaffoldError> {
    let paths: Vec<PathBuf> = files.iter().map(|(name, _)| dir.join(name)).collect();
    let existing: Vec<PathBuf> = paths.iter().filter(|path| path.exists()).cloned().collect();
    if !existing.is_empty() {
        return Err(ScaffoldError::Exists(existing));
    }
    for (path, file) in paths.iter().zip(files) {
        write_file(path, &editor::with_schema(file).1)?;
    }
    for (path, text) in &longer {
        write_file(path, text)?;
    }
    for (name, schema) in editor::schemas() {
        let path = dir.join(name);
        if !path.exists() {
            write_file(&path, &schema)?;
        }
    }
    let longer = longer.into_iter().map(|(path, _)| path).collect();
    Ok(Written { files: paths, longer, is_added: false })
}

fn write_file(path: &Path, text: &str) -> Result<(), ScaffoldError> {
    let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    folder
        .and_then(|()| std::fs::write(path, text))
        .map_err(|source| ScaffoldError::Write { path: path.to_owned(), source })
}

/// What the source says of the tables.
struct Source {
    /// The connection's name.
    name: String,
    session: Session,
    tables: Vec<Table>,
    definitions: Vec<String>,
    known: proposal::Known,
}

async fn fetch_source(from: &PostgresConnection, names: &[TableName]) -> Result<Source, ScaffoldError> {
    let session = connect(from, Purpose::Control).await?;
    let server = |error: tokio_postgres::Error| ScaffoldError::Server(from.name.clone(), describe(&error));
    let mut tables = Vec::new();
    for name in names {
        let found = fetch_table(&session.client, &name.schema, &name.table).await.map_err(server)?;
        tables.push(usable(&session, name, found).await.map_err(server)??);
    }
    let definitions = fetch_definitions(&session.client, names, &[]).await.map_err(server)?;
    let known = fetch_known(&session).await.map_err(server)?;
    Ok(Source { name: from.name.clone(), session, tables, definitions, known })
}

async fn new(
    wishes: &Wishes,
    from: &PostgresConnection,
    to: Option<&Connection>,
    names: &[TableName],
) -> Result<Vec<File>, ScaffoldError> {
    let source = fetch_source(from, names).await?;
    if let Some(Connection::Postgres(to)) = to {
        // A mistake in it is better told now.
        connect(to, Purpose::Control).await?;
    }
    let is_to_known = to.is_some();
    let unknown = Connection::Postgres(proposal::unknown_output(&from.name));
    let to = to.unwrap_or(&unknown);
    let output_tables = &outputs::propose(&source, to).await?;
    let parts = files::Parts { name: &wishes.name, from, to, is_to_known, output_tables };
    Ok(parts.files(&source.tables, &source.definitions, &source.known))
}

/// Further pipelines of a project.
async fn add(
    wishes: &Wishes,
    project: &Project,
    from: &End,
    names: &[TableName],
) -> Result<Written, ScaffoldError> {
    let from = existing::source(project, from)?;
    let to = match &wishes.to {
        Some(to) => existing::connection(project, to)?,
        None => existing::usual_output(project, &from.name)?,
    };
    let source = fetch_source(&from, names).await?;
    let output_tables = &outputs::propose(&source, &to).await?;
    let parts = files::Parts { name: &wishes.name, from: &from, to: &to, is_to_known: true, output_tables };
    let pipelines = parts.pipelines(&source.tables, &source.known);
    let mut longer = Vec::new();
    for (connection, statements) in
        [(from.name.as_str(), source.definitions.as_slice()), (to.name(), output_tables)]
    {
        longer.extend(existing::with_missing(&wishes.dir, &files::schema_file(connection), statements)?);
    }
    write(&wishes.dir, pipelines, longer).map(|written| Written { is_added: true, ..written })
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
