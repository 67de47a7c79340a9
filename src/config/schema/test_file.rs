//! The schema of a pipeline's test files. Which keys there are it has from their reader.

use serde_json::{Value, json};

use super::{DRAFT, properties, text};
use crate::config::test_file::{FILE_KEYS, OPERATIONS, RETURNING, STEP_KEYS};

/// The schema of tests/*.yml.
pub fn test_schema() -> Value {
    let asks = ["expect", "returns", "fails"].map(|key| json!({"required": [key]}));
    let step_asks = json!({"required": ["steps"], "properties": {"steps": {"contains": {"anyOf": asks}}}});
    let asks: Vec<&Value> = asks.iter().chain([&step_asks]).collect();
    json!({
        "$schema": DRAFT,
        "title": "A test of a pipeline",
        "type": "object",
        "additionalProperties": false,
        "properties": properties(&FILE_KEYS, property),
        "anyOf": asks
    })
}

fn property(key: &str) -> (Value, &'static str) {
    match key {
        "env" => (
            json!({"type": "object", "additionalProperties": text()}),
            "Variables for {{ env(\"…\") }}. They count more than those of the environment.",
        ),
        "with" => (one_or_list(text()), "Other pipelines that run too. Without it the pipeline runs alone."),
        "given" => {
            (given(), "What is in the source before the first run: tables and their rows, SQL, or both.")
        }
        "given_output" => (given(), "What is in the output before the first run, as `given`."),
        "changes" => (
            json!({"anyOf": [transaction(), {"type": "array", "items": transaction()}]}),
            "What happens on the source then: transactions, each SQL or rows.",
        ),
        "expect" => {
            (json!({"anyOf": [rows(), tables()]}), "All rows of the output table; or tables and their rows.")
        }
        "returns" => (
            json!({"type": "object", "additionalProperties": false, "properties": properties(&RETURNING, returned)}),
            "What the SQL returns for what is new, by operation.",
        ),
        "fails" => (text(), "Text of the error that stops the pipeline."),
        "steps" => (
            json!({"type": "array", "minItems": 1, "items": {
                "type": "object",
                "additionalProperties": false,
                "properties": properties(&STEP_KEYS, property)
            }}),
            "What happens next, one step after the other.",
        ),
        _ => (json!({}), ""),
    }
}

fn returned(operation: &str) -> (Value, &'static str) {
    let description = match operation {
        "insert" => "Rows for inserts and backfilled rows.",
        "update" => "Rows for updates.",
        _ => "Rows for deletes.",
    };
    (rows(), description)
}

/// SQL, or what happens to rows by operation.
fn transaction() -> Value {
    let operations = OPERATIONS.map(|(name, _)| name);
    let property = |name: &str| match name {
        "insert" => (tables(), "Rows that come."),
        "update" => (tables(), "Rows with their primary key and the columns that change."),
        "delete" => (tables(), "Rows that go, by the columns to find them by."),
        _ => (one_or_list(text()), "Tables that are emptied."),
    };
    let map = json!({
        "type": "object",
        "additionalProperties": false,
        "properties": properties(&operations, property)
    });
    json!({"anyOf": [text(), map]})
}

fn given() -> Value {
    let one = json!({"anyOf": [text(), tables()]});
    json!({"anyOf": [one, {"type": "array", "items": one}]})
}

fn tables() -> Value {
    json!({"type": "object", "additionalProperties": rows()})
}

/// Columns hold anything: JSON and arrays too.
fn rows() -> Value {
    json!({"type": "array", "items": {"type": "object"}})
}

fn one_or_list(one: Value) -> Value {
    json!({"anyOf": [one, {"type": "array", "minItems": 1, "items": one}]})
}
