//! A whole project as the rest of the program may rely on it: checked, complete, templates of the
//! configuration files filled in. The SQL files are kept as written; `transform` renders them.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::connection::Connection;
use super::diagnostic::Diagnostic;
use super::expression::Variables;
use super::nearest::did_you_mean;
use crate::codes::Code;

/// A project folder.
#[derive(Debug, Clone)]
pub struct Project {
    /// The folder, as given.
    pub dir: PathBuf,
    /// `name` of trucker.yml.
    pub name: Option<String>,
    /// In the order of the file; names are unique.
    pub connections: Vec<Connection>,
    /// By name; every connection that they name exists.
    pub pipelines: Vec<Pipeline>,
}

impl Project {
    /// Name of the slot and of the publication on each source: `trucker_<name>`, or `trucker`.
    /// Fits `[a-z0-9_]{1,63}`: the name was checked when it was read.
    pub fn slot_name(&self) -> String {
        match &self.name {
            Some(name) => format!("trucker_{name}"),
            None => "trucker".to_owned(),
        }
    }

    /// The project's name in checkpoints: `trucker` where it has none.
    pub fn checkpoint_name(&self) -> &str {
        self.name.as_deref().unwrap_or("trucker")
    }

    /// The pipeline of that name; otherwise an error that offers the nearest one.
    pub fn pipeline(&self, name: &str) -> Result<&Pipeline, Box<Diagnostic>> {
        self.pipelines.iter().find(|pipeline| pipeline.name == name).ok_or_else(|| {
            let names = self.pipelines.iter().map(|pipeline| pipeline.name.as_str());
            let help = did_you_mean(name, names);
            Box::new(
                Diagnostic::error(Code::UnknownPipeline, &self.dir, format!("there is no pipeline `{name}`"))
                    .help(help),
            )
        })
    }

    /// The connection of that name.
    pub fn connection(&self, name: &str) -> Option<&Connection> {
        self.connections.iter().find(|c| c.name() == name)
    }
}

/// A table as the user names it: `orders` (in schema public), `sales.orders`, `"Odd.Name"."T"`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName {
    /// Schema (database for ClickHouse), unquoted.
    pub schema: String,
    /// Table, unquoted.
    pub table: String,
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

/// What to do with the rows that a change yields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Append.
    Insert,
    /// Insert, or update where the key exists.
    Upsert,
    /// Update where the key exists.
    Update,
    /// Delete where the key exists.
    Delete,
    /// Nothing; the SQL isn't even run.
    Ignore,
}

/// What to do when an input table is truncated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TruncateAction {
    /// Empty the output.
    Truncate,
    /// Nothing.
    Ignore,
    /// Stop the pipeline.
    Error,
}

/// `output.on`, with the defaults filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Actions {
    /// For inserts and backfilled rows.
    pub insert: Action,
    /// For updates.
    pub update: Action,
    /// For deletes.
    pub delete: Action,
    /// For TRUNCATE; None where the file doesn't say.
    pub truncate: Option<TruncateAction>,
}

/// What a pipeline does about a change that it cannot load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnError {
    /// Stop, and keep its place.
    #[default]
    Stop,
    /// Record the change in `trucker.dead_letters` and go on.
    DeadLetter,
}

/// One of a pipeline's SQL files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlFile {
    /// Path for messages: relative to where the command was started if it lies below, else as given.
    pub path: PathBuf,
    /// The text as it is in the file (UTF-8, without a byte order mark).
    pub text: Arc<str>,
    /// The environment that its templates see.
    pub variables: Variables,
}

/// The SQL files that a pipeline's folder has.
#[derive(Debug, Clone, Default)]
pub struct SqlFiles {
    /// transform.sql
    pub transform: Option<SqlFile>,
    /// insert.sql
    pub insert: Option<SqlFile>,
    /// update.sql
    pub update: Option<SqlFile>,
    /// delete.sql
    pub delete: Option<SqlFile>,
    /// load.sql
    pub load: Option<SqlFile>,
    /// truncate.sql
    pub truncate: Option<SqlFile>,
}

impl SqlFiles {
    /// Those that there are, in the order in which they run.
    pub fn files(&self) -> impl Iterator<Item = &SqlFile> {
        let of_source = [&self.transform, &self.insert, &self.update, &self.delete];
        of_source.into_iter().chain([&self.load, &self.truncate]).flatten()
    }
}

impl SqlFile {
    /// Its own name, such as `transform.sql`.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned()
    }
}

/// One pipeline folder.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// The folder's name.
    pub name: String,
    /// Its config file, for messages.
    pub config_path: PathBuf,
    /// `input`
    pub input: Input,
    /// `output`
    pub output: Output,
    /// Whether to copy what is already there first.
    pub backfill: bool,
    /// What a permanent error does.
    pub on_error: OnError,
    /// The SQL files.
    pub sql: SqlFiles,
}

/// Where changes come from.
#[derive(Debug, Clone)]
pub struct Input {
    /// Name of a Postgres connection.
    pub connection: String,
    /// At least one table, no two the same.
    pub tables: Vec<TableName>,
}

/// Where rows go.
#[derive(Debug, Clone)]
pub struct Output {
    /// Name of a connection.
    pub connection: String,
    /// None only where there is a load.sql.
    pub table: Option<TableName>,
    /// `key`, where the file gives it.
    pub key: Option<Vec<String>>,
    /// `replace`, where the file gives it.
    pub replace: Option<Vec<String>>,
    /// `on`, with the defaults filled in.
    pub on: Actions,
}
