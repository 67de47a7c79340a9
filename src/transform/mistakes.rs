//! What is wrong with a pipeline's SQL where the program itself finds it, in words, with the cure. Asks no server.

use std::path::Path;

use super::SqlProblem;
use super::chain::InputTable;
use super::compile::Compiler;
use super::query::{Query, nearest};
use super::scan::Scope;
use crate::change::Operation;
use crate::codes::Code;
use crate::postgres::ident::{quote_ident, quote_idents};

impl Compiler<'_> {
    /// Deletes can't be carried out either where rows come without their key: then that is the mistake.
    pub(super) fn without_key(&self, insert: &Query, mut problems: Vec<SqlProblem>) -> Vec<SqlProblem> {
        let is_returned = |name: &String| insert.columns.iter().any(|column| column.name == *name);
        let missing: Vec<&str> =
            self.replace.iter().filter(|name| !is_returned(name)).map(String::as_str).collect();
        let untraceable = problems.iter().position(|problem| problem.code == Code::Untraceable);
        if let (Some(at), Some(path), false) = (untraceable, insert.files().last(), missing.is_empty()) {
            let columns = quote_idents(missing);
            let output = self.types.target.as_deref().map_or("", |table| &table.sql);
            problems[at] = SqlProblem {
                code: Code::KeyNotReturned,
                path: path.to_owned(),
                place: None,
                message: format!("the SQL doesn't return {columns}, which identifies rows in {output}"),
                help: Some(format!("add {columns} to the SELECT")),
                is_refusal: false,
            };
        }
        problems
    }

    /// Words for a column that isn't in scope: unknown, or known but not sent.
    pub(super) fn missing(
        &self,
        input: &InputTable,
        scope: Scope,
        operation: Operation,
        name: &str,
    ) -> (Code, String, String) {
        let (table, column) = (self.source.sql(), quote_ident(name));
        if self.source.column(name).is_some() {
            let sent = quote_idents(input.old_columns().iter().map(String::as_str));
            let message = format!(
                "{}.{column} isn't there on {operation}: of the old row of {table} Postgres sends only ({sent})",
                scope.as_str()
            );
            let help = format!(
                "use only these columns, or have whole rows sent: ALTER TABLE {table} REPLICA IDENTITY FULL"
            );
            return (Code::SqlColumnUnsent, message, help);
        }
        let names = input.new_columns();
        let help = match nearest(name, names.iter().map(String::as_str)) {
            Some(near) => format!("did you mean {}.{}?", scope.as_str(), quote_ident(near)),
            None => format!("its columns: {}", quote_idents(names.iter().map(String::as_str))),
        };
        let message = format!("{}.{column}: table {table} has no column {column}", scope.as_str());
        (Code::SqlColumnUnknown, message, help)
    }

    pub(super) fn config_path(&self) -> &Path {
        &self.pipeline.config_path
    }

    pub(super) fn config_problem(&self, code: Code, message: String, help: Option<String>) -> SqlProblem {
        SqlProblem {
            code,
            path: self.config_path().to_owned(),
            place: None,
            message,
            help,
            is_refusal: false,
        }
    }

    pub(super) fn untraceable(&self, input: &InputTable) -> SqlProblem {
        let output = self.types.target.as_deref().map_or_else(String::new, |table| table.sql.clone());
        let names = |names: &[String]| quote_idents(names.iter().map(String::as_str));
        let (source, sent, wanted) = (self.source.sql(), input.old_columns(), names(&self.replace));
        let example =
            sent.first().map_or_else(|| "…".to_owned(), |c| format!("{{{{ old.{} }}}}", quote_ident(c)));
        let first = self.replace.first().map_or_else(String::new, |c| quote_ident(c));
        self.config_problem(
            Code::Untraceable,
            format!(
                "deletes and key changes of {source} can't be carried out in {output}: its rows are identified by \
                 ({wanted}), but of the old row Postgres sends only ({})",
                names(&sent)
            ),
            Some(format!(
                "add {}/delete.sql that returns {wanted}, say: SELECT {example} AS {first}\n\
                 or have whole rows sent: ALTER TABLE {source} REPLICA IDENTITY FULL\n\
                 or keep such rows: on: {{delete: ignore}}",
                self.pipeline.name
            )),
        )
    }
}
