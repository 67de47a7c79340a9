//! A pipeline's SQL as files to read and to try in psql: the very statements that a run prepares, each with where its lines
//! come from. Pure but for what it is given.

use std::fmt::Write as _;
use std::sync::Arc;

use super::compiled::Compiled;
use super::definition::{Checked, Definition};
use crate::change::{Operation, Relation};
use crate::config::Action;
use crate::postgres::Session;
use crate::postgres::catalog::Table;
use crate::postgres::ident::{quote_ident, quote_idents};
use crate::sink::Load;
use crate::transform::chain::Side;
use crate::transform::compile::{Direct, Removal, Rows};
use crate::transform::query::{LineOrigin, Query};

/// One statement, as a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// `<table>.<what>.sql`.
    pub file: String,
    /// What stands in it.
    pub text: String,
}

/// All statements of a pipeline, in a fixed order. The session is where its SQL runs.
pub async fn list(definition: &Definition, source: &Session) -> Checked<Vec<Listed>> {
    let types = definition.types(&source.client).await?;
    let mut all = Vec::new();
    for table in &definition.tables {
        let relation = Arc::new(table.relation());
        let compiled = Compiled::new(definition, &source.client, &types, &relation).await?;
        let on = definition.pipeline.output.on;
        let mut listing = Listing { definition, table, relation: &relation, listed: Vec::new() };
        if definition.pipeline.backfill && on.insert != Action::Ignore {
            let (copy, _) = Compiled::copy(definition, &source.client, &types, table).await?;
            let head = format!("Backfill of {}, in one snapshot.", table.sql());
            listing.push("backfill", &head, &[], &format!("{};", copy.sql), &copy.origins());
        }
        for operation in Operation::ALL {
            listing.rows(operation, compiled.transform.rows(operation));
        }
        listing.removal(&compiled.transform.removal);
        for (operation, load) in Operation::ALL.into_iter().zip(&compiled.loads) {
            load.iter().for_each(|load| listing.load(operation, load));
        }
        if let Some(sql) = &compiled.truncate {
            let head =
                format!("When {} is truncated, on connection {}.", table.sql(), definition.output.name());
            listing.push_plain("truncate", &head, sql.text());
        }
        all.append(&mut listing.listed);
    }
    Ok(all)
}

struct Listing<'a> {
    definition: &'a Definition,
    table: &'a Table,
    relation: &'a Relation,
    listed: Vec<Listed>,
}

impl Listing<'_> {
    fn rows(&mut self, operation: Operation, rows: &Rows) {
        let of = format!("{operation} of {}", self.table.sql());
        match rows {
            Rows::Ignored => {}
            Rows::Direct(direct) => self.direct(&operation.to_string(), &format!("On {of}"), direct),
            Rows::Query(query) => {
                self.query(&operation.to_string(), &format!("On {of}: the rows that it becomes."), query);
            }
        }
    }

    fn removal(&mut self, removal: &Removal) {
        let head =
            format!("On delete of {0}, and update: what identifies the rows that go", self.table.sql());
        match removal {
            Removal::None | Removal::Rows => {}
            Removal::ByName(direct) => self.direct("removal", &head, direct),
            Removal::Query { query, .. } => self.query("removal", &format!("{head}."), query),
        }
    }

    /// Where no SQL runs.
    fn direct(&mut self, what: &str, head: &str, direct: &Direct) {
        let side = if direct.side == Side::Old { "old" } else { "new" };
        let columns = quote_idents(direct.columns.iter().map(String::as_str));
        let text =
            format!("-- {head}: no SQL runs. These columns of {side} go as they came:\n-- {columns}\n");
        self.push_text(what, text);
    }

    fn query(&mut self, what: &str, head: &str, query: &Query) {
        let name = quote_ident(&format!("{}_{what}", self.definition.pipeline.name));
        let params: Vec<String> = query
            .params
            .iter()
            .enumerate()
            .map(|(at, param)| {
                let side = if param.side == Side::Old { "old" } else { "new" };
                let column = &self.relation.columns[param.cell].name;
                format!("${}: an array of {side}.{}, a change each", at + 1, quote_ident(column))
            })
            .collect();
        let arrays = vec!["'{…}'"; params.len()].join(", ");
        let mut notes = params;
        notes.push(format!("EXECUTE {name}({arrays})"));
        // The statement begins on the line after.
        let text = format!("PREPARE {name} AS\n{};", query.sql);
        let origins: Vec<LineOrigin> = query.origins().into_iter().map(|o| shifted(o, 1)).collect();
        self.push(what, &format!("{head} Over a batch of changes, read-only."), &notes, &text, &origins);
    }

    fn load(&mut self, operation: Operation, load: &Load) {
        let head = format!(
            "load.sql for a run of changes by {operation} of {}, on connection {}, in the transaction that moves the checkpoint.",
            self.table.sql(),
            self.definition.output.name()
        );
        let columns: Vec<String> =
            load.columns.iter().map(|c| format!("{} {}", quote_ident(&c.name), c.type_sql)).collect();
        let made = format!("CREATE TEMPORARY TABLE {} ({})", load.relation, columns.join(", "));
        self.push_plain(&format!("load.{operation}"), &head, &format!("{made};\n{}", load.sql));
    }

    fn push_plain(&mut self, what: &str, head: &str, sql: &str) {
        let sql = sql.trim_end();
        let end = if sql.ends_with(';') { "" } else { "\n;" };
        self.push_text(what, format!("-- {head}\n{sql}{end}\n"));
    }

    /// A statement below comments: what it is for, and which lines come from where.
    fn push(&mut self, what: &str, head: &str, notes: &[String], sql: &str, origins: &[LineOrigin]) {
        let source = &self.definition.source.queried().name;
        let mut text = format!("-- {head} Runs on connection {source}.\n");
        // Into a String nothing fails.
        for note in notes {
            let _ = writeln!(text, "-- {note}");
        }
        let above = text.lines().count() + origins.len();
        for origin in origins {
            let origin = shifted(origin.clone(), above + 1);
            let _ = writeln!(
                text,
                "-- {}: {} {}",
                span("line", origin.lines),
                origin.path.display(),
                span("line", origin.template_lines)
            );
        }
        text += sql;
        text.push('\n');
        self.push_text(what, text);
    }

    fn push_text(&mut self, what: &str, text: String) {
        let table = format!("{}.{}", self.table.schema, self.table.table).replace(['/', '\0'], "_");
        self.listed.push(Listed { file: format!("{table}.{what}.sql"), text });
    }
}

fn shifted(origin: LineOrigin, by: usize) -> LineOrigin {
    LineOrigin { lines: (origin.lines.0 + by, origin.lines.1 + by), ..origin }
}

fn span(word: &str, (first, last): (usize, usize)) -> String {
    if first == last { format!("{word} {first}") } else { format!("{word}s {first}-{last}") }
}
