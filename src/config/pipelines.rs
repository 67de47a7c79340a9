//! Reads one pipeline's config file.

use super::connection::Connection;
use super::connections::{Adapter, Declared};
use super::fields::{Fields, Reader};
use super::nearest::{did_you_mean, known};
use super::project::{Action, Actions, Input, OnError, Output, SqlFiles, TableName, TruncateAction};
use super::table_name::{Dialect, parse_table_name};
use super::template::Place;
use super::yaml::{Kind, Node};
use crate::codes::Code;

pub(super) const PIPELINE_KEYS: [&str; 4] = ["input", "output", "backfill", "on_error"];
pub(super) const INPUT_KEYS: [&str; 3] = ["connection", "table", "tables"];
pub(super) const OUTPUT_KEYS: [&str; 5] = ["connection", "table", "key", "replace", "on"];
pub(super) const ON_KEYS: [&str; 4] = ["insert", "update", "delete", "truncate"];

/// What a config file says, with the places that later checks speak of.
#[derive(Debug)]
pub(super) struct PipelineFile {
    pub(super) input: Input,
    pub(super) output: Output,
    pub(super) backfill: bool,
    pub(super) on_error: OnError,
    pub(super) places: Places,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    pub(super) input_connection: Place,
    pub(super) output: Place,
    pub(super) output_table: Place,
    pub(super) truncate: Place,
}

/// Reads the file's tree. `declared` is None where trucker.yml could not be read.
pub(super) fn read_pipeline(
    reader: Reader<'_>,
    root: &Node,
    declared: Option<&[Declared]>,
    sql: &SqlFiles,
) -> Option<PipelineFile> {
    let file = PipelineReader { reader, declared };
    let fields = reader.map(root, "the pipeline", &PIPELINE_KEYS)?;
    let section = |key: &str, known: &[&str]| match fields.get(key) {
        Some(node) => reader.map(node, &format!("`{key}`"), known),
        None => {
            let help = format!("add\n{key}:\n  connection: …\n  table: …");
            reader.error_with(Code::MissingKey, root.place, format!("the pipeline has no `{key}`"), help);
            None
        }
    };
    let input_fields = section("input", &INPUT_KEYS);
    let output_fields = section("output", &OUTPUT_KEYS);
    let input = input_fields.and_then(|fields| file.input(fields));
    let output = output_fields.and_then(|fields| file.output(fields, sql.load.is_some()));
    let backfill = fields.get("backfill").map_or(Some(true), |node| reader.bool(node, "`backfill`"));
    let choices = [("stop", OnError::Stop), ("dead_letter", OnError::DeadLetter)];
    let on_error = fields
        .get("on_error")
        .map_or(Some(OnError::Stop), |node| reader.choice(node, "`on_error`", &choices));
    let (input_fields, output_fields) = (input_fields?, output_fields?);
    let places = Places {
        input_connection: input_fields.place_of("connection"),
        output: output_fields.place,
        output_table: output_fields.place_of("table"),
        truncate: truncate_place(output_fields),
    };
    Some(PipelineFile { input: input?, output: output?, backfill: backfill?, on_error: on_error?, places })
}

fn truncate_place(output: Fields<'_>) -> Place {
    let on = match output.get("on").map(|node| &node.kind) {
        Some(Kind::Map(entries)) => entries.iter().find(|(key, _)| key.name == "truncate"),
        _ => None,
    };
    on.map_or(output.place_of("on"), |(key, _)| key.place)
}

struct PipelineReader<'a> {
    reader: Reader<'a>,
    declared: Option<&'a [Declared]>,
}

impl<'a> PipelineReader<'a> {
    fn input(&self, fields: Fields<'a>) -> Option<Input> {
        let connection = self.connection(fields, "input");
        if let Some((_, Some(Declared { name, adapter: Some(Adapter::ClickHouse), .. }))) = connection {
            let message = format!("changes cannot come from `{name}`: its adapter is clickhouse");
            let help = "an input is a Postgres with logical replication";
            self.reader.error_with(Code::Adapter, fields.place_of("connection"), message, help);
        }
        let tables = match (fields.get("table"), fields.get("tables")) {
            (Some(_), Some(_)) => {
                let message = "`input` has both `table` and `tables`";
                self.reader.error_with(Code::Both, fields.place_of("tables"), message, "keep one of them");
                None
            }
            (Some(node), None) => self.postgres_table(node, "`table`").map(|table| vec![table]),
            (None, Some(node)) => self.tables(node),
            (None, None) => {
                let help = "add `table: …`, or `tables: […]` for several";
                self.reader.error_with(Code::MissingKey, fields.place, "`input` has no `table`", help);
                None
            }
        };
        Some(Input { connection: connection?.0, tables: tables? })
    }

    /// The connection's name, and what is known of it.
    fn connection(&self, fields: Fields<'a>, section: &str) -> Option<(String, Option<&'a Declared>)> {
        let Some(node) = fields.get("connection") else {
            let help = match self.declared {
                Some(all) => known(all.iter().map(|declared| declared.name.as_str())),
                None => "add `connection: …`, a name from trucker.yml".to_owned(),
            };
            self.reader.error_with(
                Code::MissingKey,
                fields.place,
                format!("`{section}` has no `connection`"),
                help,
            );
            return None;
        };
        let scalar = self.reader.scalar(node, "`connection`")?;
        let Some(all) = self.declared else { return Some((scalar.text.clone(), None)) };
        let found = all.iter().find(|declared| declared.name == scalar.text);
        if found.is_none() {
            let names = all.iter().map(|declared| declared.name.as_str());
            let (message, help) = if scalar.is_literal() {
                (
                    format!("trucker.yml has no connection {}", scalar.shown()),
                    did_you_mean(&scalar.text, names),
                )
            } else {
                (
                    "trucker.yml has no connection of the name that this expression yields".to_owned(),
                    known(names),
                )
            };
            self.reader.error_with(Code::UnknownConnection, node.place, message, help);
        }
        Some((found?.name.clone(), found))
    }

    fn postgres_table(&self, node: &'a Node, what: &str) -> Option<TableName> {
        self.table(node, what, Dialect::Postgres, "public")
    }

    fn table(&self, node: &'a Node, what: &str, dialect: Dialect, schema: &str) -> Option<TableName> {
        let scalar = self.reader.scalar(node, what)?;
        match parse_table_name(&scalar.text, dialect) {
            Ok((given, table)) => {
                Some(TableName { schema: given.unwrap_or_else(|| schema.to_owned()), table })
            }
            Err(reason) => {
                let message = format!("{what} cannot be {}: {reason}", scalar.shown());
                let help = "examples: orders, sales.orders, '\"Odd Schema\".\"Odd Table\"'";
                self.reader.error_with(Code::Value, node.place, message, help);
                None
            }
        }
    }

    fn tables(&self, node: &'a Node) -> Option<Vec<TableName>> {
        let nodes = self.reader.list_or_one(node, "`tables`")?;
        let mut tables = Vec::new();
        for node in nodes {
            let Some(table) = self.postgres_table(node, "a table") else { continue };
            if tables.contains(&table) {
                self.reader.error(
                    Code::Twice,
                    node.place,
                    format!("the table `{table}` stands in `tables` twice"),
                );
            }
            tables.push(table);
        }
        (tables.len() == nodes.len()).then_some(tables)
    }

    fn output(&self, fields: Fields<'a>, has_load: bool) -> Option<Output> {
        let connection = self.connection(fields, "output");
        let (dialect, schema) = match connection.as_ref().and_then(|(_, found)| found.as_ref()) {
            Some(Declared { adapter: Some(Adapter::ClickHouse), connection, .. }) => match connection {
                Some(Connection::ClickHouse(known)) => (Dialect::ClickHouse, known.database.as_str()),
                _ => (Dialect::ClickHouse, "default"),
            },
            _ => (Dialect::Postgres, "public"),
        };
        let table = match fields.get("table") {
            Some(node) => self.table(node, "`table`", dialect, schema).map(Some),
            None if has_load => Some(None),
            None => {
                let help = "add `table: …`; only a pipeline with a load.sql can do without";
                self.reader.error_with(Code::MissingKey, fields.place, "`output` has no `table`", help);
                None
            }
        };
        let key = self.columns(fields, "key");
        let replace = self.columns(fields, "replace");
        let on = self.actions(fields);
        Some(Output { connection: connection?.0, table: table?, key: key?, replace: replace?, on: on? })
    }

    /// Column names: a list, or one alone.
    fn columns(&self, fields: Fields<'a>, key: &str) -> Option<Option<Vec<String>>> {
        let Some(node) = fields.get(key) else { return Some(None) };
        let nodes = self.reader.list_or_one(node, &format!("`{key}`"))?;
        let mut columns = Vec::new();
        for node in nodes {
            let Some(column) = self.reader.name(node, &format!("a column in `{key}`")) else { continue };
            if columns.iter().any(|other| other == column) {
                self.reader.error(
                    Code::Twice,
                    node.place,
                    format!("the column `{column}` stands in `{key}` twice"),
                );
            }
            columns.push(column.to_owned());
        }
        (columns.len() == nodes.len()).then_some(Some(columns))
    }

    fn actions(&self, output: Fields<'a>) -> Option<Actions> {
        let default = Actions {
            insert: Action::Upsert,
            update: Action::Upsert,
            delete: Action::Delete,
            truncate: None,
        };
        let Some(node) = output.get("on") else { return Some(default) };
        let fields = self.reader.map(node, "`on`", &ON_KEYS)?;
        let action = |key: &str, default: Action| match fields.get(key) {
            Some(node) => self.reader.choice(node, &format!("`{key}`"), &ACTIONS),
            None => Some(default),
        };
        let insert = action("insert", default.insert);
        let update = action("update", default.update);
        let delete = action("delete", default.delete);
        let truncate = match fields.get("truncate") {
            Some(node) => self.reader.choice(node, "`truncate`", &TRUNCATE_ACTIONS).map(Some),
            None => Some(None),
        };
        Some(Actions { insert: insert?, update: update?, delete: delete?, truncate: truncate? })
    }
}

const ACTIONS: [(&str, Action); 5] = [
    ("insert", Action::Insert),
    ("upsert", Action::Upsert),
    ("update", Action::Update),
    ("delete", Action::Delete),
    ("ignore", Action::Ignore),
];

const TRUNCATE_ACTIONS: [(&str, TruncateAction); 3] = [
    ("truncate", TruncateAction::Truncate),
    ("ignore", TruncateAction::Ignore),
    ("error", TruncateAction::Error),
];
