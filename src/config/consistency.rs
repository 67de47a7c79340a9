//! What no single place in the files shows to be wrong: settings that contradict each other, within a
//! pipeline or between several.

use super::connection::Connection;
use super::connections::Declared;
use super::fields::Reader;
use super::pipelines::PipelineFile;
use super::project::{SqlFiles, TruncateAction};
use super::report::Report;
use super::source_file::SourceFile;
use crate::codes::Code;

/// A pipeline whose config file could be read.
pub(super) struct Candidate {
    pub(super) name: String,
    pub(super) source: SourceFile,
    pub(super) file: PipelineFile,
    pub(super) sql: SqlFiles,
}

/// The candidates and what they refer to.
pub(super) struct Checks<'a> {
    pub(super) candidates: &'a [Candidate],
    pub(super) declared: &'a [Declared],
    pub(super) report: &'a Report,
}

const SAY_TRUNCATE: &str =
    "say it in `output`: on: {truncate: truncate}, {truncate: ignore} or {truncate: error}";

impl<'a> Checks<'a> {
    /// Reports all contradictions.
    pub(super) fn run(&self) {
        for (i, candidate) in self.candidates.iter().enumerate() {
            self.check_own_tables(candidate);
            self.check_truncate(candidate);
            self.check_shared_output(candidate);
            self.check_input_database(candidate, &self.candidates[..i]);
        }
    }

    fn reader(&self, candidate: &'a Candidate) -> Reader<'a> {
        Reader { file: &candidate.source, report: self.report }
    }

    fn connection(&self, name: &str) -> Option<&'a Connection> {
        self.declared.iter().find(|declared| declared.name == name)?.connection.as_ref()
    }

    /// Whether two names stand for the same database, as far as can be told without asking a server.
    fn is_same_database(&self, one: &str, other: &str) -> bool {
        one == other
            || match (self.connection(one), self.connection(other)) {
                (Some(Connection::Postgres(a)), Some(Connection::Postgres(b))) => {
                    a.host.eq_ignore_ascii_case(&b.host) && a.port == b.port && a.database == b.database
                }
                // ClickHouse tables carry their database in the name.
                (Some(Connection::ClickHouse(a)), Some(Connection::ClickHouse(b))) => {
                    a.host.eq_ignore_ascii_case(&b.host) && a.port == b.port
                }
                _ => false,
            }
    }

    fn check_own_tables(&self, candidate: &'a Candidate) {
        let PipelineFile { input, output, places, .. } = &candidate.file;
        let Some(table) = &output.table else { return };
        if input.tables.contains(table) && self.is_same_database(&input.connection, &output.connection) {
            let message = format!("the pipeline would feed itself: `{table}` is its input as well");
            self.reader(candidate).error_with(
                Code::FeedsItself,
                places.output_table,
                message,
                "write to another table",
            );
        }
    }

    fn check_truncate(&self, candidate: &'a Candidate) {
        let PipelineFile { input, output, places, .. } = &candidate.file;
        let (truncate, reader) = (output.on.truncate, self.reader(candidate));
        if truncate.is_none() && input.tables.len() > 1 && candidate.sql.load.is_none() {
            let message = "with several input tables, `truncate` must be said: when one of them is truncated, \
                           which rows of the output came from it cannot be told";
            reader.error_with(Code::TruncateUnsaid, places.output, message, SAY_TRUNCATE);
        }
        if truncate == Some(TruncateAction::Truncate)
            && output.table.is_none()
            && candidate.sql.truncate.is_none()
        {
            let message = "`truncate: truncate` has no table to empty";
            reader.error_with(
                Code::TruncateNothing,
                places.truncate,
                message,
                "add `table: …` to `output`, or a truncate.sql",
            );
        }
    }

    fn check_shared_output(&self, candidate: &'a Candidate) {
        let output = &candidate.file.output;
        if output.table.is_none() || output.on.truncate.is_some() || candidate.sql.load.is_some() {
            return;
        }
        let other = self.candidates.iter().find(|other| {
            other.name != candidate.name
                && other.file.output.table == output.table
                && self.is_same_database(&other.file.output.connection, &output.connection)
        });
        if let Some(other) = other {
            let message = format!("`{}` writes this table too, so `truncate` must be said", other.name);
            self.reader(candidate).error_with(
                Code::TruncateUnsaid,
                candidate.file.places.output_table,
                message,
                SAY_TRUNCATE,
            );
        }
    }

    /// All pipelines that read a database share a slot, which is made per connection.
    fn check_input_database(&self, candidate: &'a Candidate, earlier: &'a [Candidate]) {
        let name = &candidate.file.input.connection;
        let other = earlier.iter().find(|other| {
            let other = &other.file.input.connection;
            other != name && self.is_same_database(other, name)
        });
        if let Some(other) = other {
            let connection = &other.file.input.connection;
            let message =
                format!("`{name}` reaches the same database as `{connection}`, which `{}` reads", other.name);
            let help =
                format!("a database is read through one connection and one slot: use `{connection}` in both");
            self.reader(candidate).error_with(
                Code::TwoConnections,
                candidate.file.places.input_connection,
                message,
                help,
            );
        }
    }
}
