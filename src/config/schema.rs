//! JSON Schema (draft-07) of the configuration files, for editors: which keys there are, what they take and what they mean.
//! Which keys exist it has from the readers; it judges nothing, since values may come from templates.

use serde_json::{Map, Value, json};

use super::connections::{CLICKHOUSE_KEYS, POSTGRES_KEYS};
use super::pipelines::{INPUT_KEYS, ON_KEYS, OUTPUT_KEYS, PIPELINE_KEYS};

mod test_file;

pub use test_file::test_schema;

const DRAFT: &str = "http://json-schema.org/draft-07/schema#";

/// The schema of trucker.yml.
pub fn project_schema() -> Value {
    json!({
        "$schema": DRAFT,
        "title": "trucker.yml",
        "type": "object",
        "required": ["connections"],
        "additionalProperties": false,
        "properties": {
            "name": {
                "description": "Names the replication slot and the publication: trucker_<name>. Default: trucker.",
                "type": "string",
                "pattern": "^[a-z0-9_]{1,55}$"
            },
            "connections": {
                "description": "The databases that pipelines read from and write to.",
                "type": "array",
                "minItems": 1,
                "items": {
                    "if": {"properties": {"adapter": {"const": "clickhouse"}}, "required": ["adapter"]},
                    "then": connection(&CLICKHOUSE_KEYS, &["name", "host"], "clickhouse"),
                    "else": connection(&POSTGRES_KEYS, &["name", "host", "database", "user"], "postgres")
                }
            }
        }
    })
}

/// The schema of a pipeline's config.yml.
pub fn pipeline_schema() -> Value {
    json!({
        "$schema": DRAFT,
        "title": "config.yml of a pipeline",
        "type": "object",
        "required": ["input", "output"],
        "additionalProperties": false,
        "properties": properties(&PIPELINE_KEYS, pipeline_property)
    })
}

/// A connection: each key may be given by a file as `<key>_path`, but not both ways.
fn connection(keys: &[&str], required: &[&str], adapter: &str) -> Value {
    let mut properties = properties(keys, connection_property);
    let mut rules = Vec::new();
    for key in keys {
        let path = format!("{key}_path");
        if required.contains(key) {
            rules.push(json!({"oneOf": [{"required": [key]}, {"required": [path]}]}));
        } else {
            rules.push(json!({"not": {"required": [key, path]}}));
        }
        let description = format!("A file that holds the value of {key}, relative to this one.");
        properties.insert(path, json!({"description": description, "type": "string"}));
    }
    properties
        .insert("adapter".to_owned(), json!({"description": "The kind of database.", "const": adapter}));
    json!({
        "type": "object",
        "required": ["adapter"],
        "additionalProperties": false,
        "properties": properties,
        "allOf": rules
    })
}

fn properties(keys: &[&str], property: impl Fn(&str) -> (Value, &'static str)) -> Map<String, Value> {
    let described = |key: &&str| {
        let (mut schema, description) = property(key);
        if let Value::Object(fields) = &mut schema {
            fields.insert("description".to_owned(), description.into());
        }
        (key.to_string(), schema)
    };
    keys.iter().map(described).collect()
}

/// What YAML may take for something else: `user: 0123`.
fn text() -> Value {
    json!({"type": ["string", "number", "boolean"]})
}

fn port() -> Value {
    json!({"type": ["integer", "string"], "minimum": 1, "maximum": 65535})
}

/// `"true"`, from a template in quotes, is as good as true.
fn boolean() -> Value {
    json!({"enum": [true, false, "true", "false"]})
}

fn connection_property(key: &str) -> (Value, &'static str) {
    let modes = super::connection::SslMode::NAMES;
    match key {
        "name" => (text(), "What pipelines call it."),
        "adapter" => (text(), "The kind of database."),
        "host" => (text(), "Name or address of the server, or the folder of its socket."),
        "port" => (port(), "Its port. Default: 5432 for postgres."),
        "database" => (text(), "The database."),
        "user" => (text(), "The role."),
        "pass" => (text(), "Its password. Better in a file: pass_path."),
        "sslmode" => (json!({"enum": modes}), "As libpq's. Default: prefer."),
        "ssl_root_cert" => {
            (text(), "Certificates that vouch for the server: a file, PEM, or `system` for the machine's.")
        }
        "ssl_cert" => (text(), "The client's certificate: a file, or PEM."),
        "ssl_key" => (text(), "The client's key: a file, or PEM."),
        "wal_budget" => (
            json!({"type": ["string", "integer"]}),
            "WAL that the slot may keep before it is told. Default: 10 GB.",
        ),
        "on_wal_budget" => {
            (json!({"enum": ["warn", "give_up"]}), "Whether a failed pipeline loses its place beyond that.")
        }
        "failover" => (boolean(), "Have the slot carried over to standbys (Postgres 17 and later)."),
        "replica_host" => (text(), "A standby to run queries on, and from Postgres 16 on to stream from."),
        "replica_port" => (port(), "The standby's port. Default: the main server's."),
        "replica_database" | "replica_db" => (text(), "The database there. Default: the main server's."),
        "replica_user" => (text(), "The role there. Default: the main server's."),
        "replica_pass" => (text(), "Its password. Default: the main server's."),
        _ => (json!({}), ""),
    }
}

fn pipeline_property(key: &str) -> (Value, &'static str) {
    match key {
        "input" => (
            json!({
                "type": "object",
                "required": ["connection"],
                "oneOf": [{"required": ["table"]}, {"required": ["tables"]}],
                "additionalProperties": false,
                "properties": properties(&INPUT_KEYS, input_property)
            }),
            "Where changes come from.",
        ),
        "output" => (
            json!({
                "type": "object",
                "required": ["connection"],
                "additionalProperties": false,
                "properties": properties(&OUTPUT_KEYS, output_property)
            }),
            "Where rows go.",
        ),
        "backfill" => (boolean(), "Copy what is already there first. Default: true."),
        "on_error" => (
            json!({"enum": ["stop", "dead_letter"]}),
            "What becomes of a change that can't be loaded: the pipeline stops, or records it and goes on.",
        ),
        _ => (json!({}), ""),
    }
}

fn input_property(key: &str) -> (Value, &'static str) {
    match key {
        "connection" => (text(), "A connection of trucker.yml."),
        "table" => (text(), "The table, in schema public or as schema.table."),
        "tables" => {
            (json!({"type": "array", "minItems": 1, "items": text()}), "Several tables of the same kind.")
        }
        _ => (json!({}), ""),
    }
}

fn output_property(key: &str) -> (Value, &'static str) {
    let columns = || json!({"anyOf": [text(), {"type": "array", "minItems": 1, "items": text()}]});
    match key {
        "connection" => (text(), "A connection of trucker.yml."),
        "table" => (text(), "The table to write. Optional with a load.sql."),
        "key" => (columns(), "What identifies an output row. Default: the table's primary key."),
        "replace" => (columns(), "What identifies all rows of one input row. Default: key."),
        "on" => (
            json!({"type": "object", "additionalProperties": false, "properties": properties(&ON_KEYS, on_property)}),
            "What is done with the rows of each operation.",
        ),
        _ => (json!({}), ""),
    }
}

fn on_property(key: &str) -> (Value, &'static str) {
    let actions = || json!({"enum": ["insert", "upsert", "update", "delete", "ignore"]});
    match key {
        "insert" => (actions(), "For inserts and backfilled rows. Default: upsert."),
        "update" => (actions(), "For updates. Default: upsert."),
        "delete" => (actions(), "For deletes. Default: delete."),
        "truncate" => (
            json!({"enum": ["truncate", "ignore", "error"]}),
            "For TRUNCATE of the input. Default: truncate.",
        ),
        _ => (json!({}), ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every property, with the path to it.
    fn walk(schema: &Value, path: &str, found: &mut Vec<(String, Value)>) {
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            for (key, property) in properties {
                found.push((format!("{path}.{key}"), property.clone()));
                walk(property, &format!("{path}.{key}"), found);
            }
        }
        for part in ["items", "then", "else"] {
            schema.get(part).into_iter().for_each(|part| walk(part, path, found));
        }
    }

    #[test]
    fn every_key_is_described() {
        let mut found = Vec::new();
        walk(&project_schema(), "trucker", &mut found);
        walk(&pipeline_schema(), "pipeline", &mut found);
        walk(&test_schema(), "test", &mut found);
        assert!(found.len() > 75);
        for (path, property) in found {
            let description = property.get("description").and_then(Value::as_str).unwrap_or_default();
            assert!(!description.is_empty(), "{path}: say what it means");
        }
    }
}
