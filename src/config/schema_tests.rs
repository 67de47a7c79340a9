//! The schemas agree with the readers: what loads is accepted, and keys that are unknown, missing or of the wrong kind are not.

use std::path::{Path, PathBuf};

use boon::{Compiler, Schemas};
use serde_json::{Value, json};

use super::broken_projects::{cases_of, write_files};
use super::expression::{Expanded, expand};
use super::report::Report;
use super::source_file::SourceFile;
use super::yaml::{Kind, Node, parse};
use super::{Variables, load_with, schema};
use crate::codes::Code;

/// Each configuration file below the folder that can be read as a tree, and whether its schema accepts it.
pub(super) fn verdicts(dir: &Path, variables: &Variables) -> Vec<(PathBuf, bool)> {
    let mut files: Vec<(PathBuf, Value)> = Vec::new();
    let endings = ["yml", "yaml", "json"];
    files.extend(endings.map(|ending| (dir.join(format!("trucker.{ending}")), schema::project_schema())));
    for folder in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        let is_hidden = folder.file_name().unwrap().to_str().unwrap().starts_with('.');
        if folder.is_dir() && !is_hidden {
            files.extend(endings.map(|e| (folder.join(format!("config.{e}")), schema::pipeline_schema())));
        }
    }
    let verdict = |(path, schema): (PathBuf, Value)| {
        let is_accepted = accepts(schema, &tree(&path, variables)?);
        Some((path, is_accepted))
    };
    files.into_iter().filter(|(path, _)| path.is_file()).filter_map(verdict).collect()
}

fn accepts(schema: Value, instance: &Value) -> bool {
    let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
    compiler.add_resource("schema.json", schema).unwrap();
    let schema = compiler.compile("schema.json", &mut schemas).unwrap();
    schemas.validate(instance, schema).is_ok()
}

/// Whether the schema accepts the text as an editor has it, with its expressions as they stand.
pub(crate) fn accepts_text(schema: Value, text: &str) -> bool {
    let report = Report::default();
    let dir = write_files(&[("file.yml".to_owned(), text.to_owned())]);
    let file = SourceFile::read(dir.path().join("file.yml"), &report).unwrap();
    parse(&file, &Expanded::verbatim(&file), &report)
        .and_then(|tree| value(&tree))
        .is_some_and(|tree| accepts(schema, &tree))
}

/// The file as an editor has it, with the values of its expressions.
fn tree(path: &Path, variables: &Variables) -> Option<Value> {
    let report = Report::default();
    let file = SourceFile::read(path.to_owned(), &report)?;
    value(&parse(&file, &expand(&file, variables).ok()?, &report)?)
}

fn value(node: &Node) -> Option<Value> {
    Some(match &node.kind {
        Kind::Unknown => return None,
        Kind::Null => Value::Null,
        Kind::Scalar(scalar) => match (scalar.text.parse::<i64>(), scalar.text.as_str()) {
            (Ok(number), _) => json!(number),
            (_, "true") => json!(true),
            (_, "false") => json!(false),
            (_, text) => json!(text),
        },
        Kind::List(nodes) => Value::Array(nodes.iter().map(value).collect::<Option<_>>()?),
        Kind::Map(entries) => {
            let entry = |(key, node): &(super::yaml::Key, Node)| Some((key.name.clone(), value(node)?));
            Value::Object(entries.iter().map(entry).collect::<Option<_>>()?)
        }
    })
}

/// What depends on other keys, or on whether there is a load.sql.
const NOT_ITS_OWN: [&str; 2] = [" but no ", "`output` has no `table`"];

#[test]
fn schemas_refuse_what_the_readers_refuse_for_its_keys_and_nothing_that_they_take() {
    let (mut refused, mut accepted) = (0, 0);
    for (files, env) in cases_of(&["broken_files.txt", "broken_connections.txt", "broken_pipelines.txt"]) {
        let dir = write_files(&files);
        let variables = Variables::new(env);
        let errors = match load_with(dir.path(), &variables) {
            Ok(_) => Vec::new(),
            Err(diagnostics) => {
                diagnostics.iter().map(|d| (d.file.clone(), d.code, d.message.clone())).collect()
            }
        };
        for (path, is_accepted) in verdicts(dir.path(), &variables) {
            let of_file = || {
                errors.iter().filter(|(file, ..)| {
                    file.as_ref().is_some_and(|file| path.ends_with(file) || *file == path)
                })
            };
            let is_about_keys = of_file().any(|(_, code, message)| {
                matches!(code, Code::UnknownKey | Code::MissingKey | Code::Shape)
                    && !NOT_ITS_OWN.iter().any(|words| message.contains(words))
            });
            // A problem with two files is said of the folder.
            assert!(is_accepted || !errors.is_empty(), "refused without an error: {files:?}");
            assert!(!is_accepted || !is_about_keys, "accepted in spite of {errors:?}: {files:?}");
            if is_accepted { accepted += 1 } else { refused += 1 }
        }
    }
    assert!(refused > 20 && accepted > 20, "{refused} refused, {accepted} accepted");
}

#[test]
fn the_schema_of_tests_takes_what_their_reader_takes() {
    let rows = "[{id: 1, total: null, note: {a: [1]}, at: <any>}]";
    let (sql, expect) = ("UPDATE t SET a = 1", "expect: []");
    let cases = [
        (format!("expect: {rows}"), true),
        (format!("expect: {{public.t: {rows}, trucker.dead_letters: []}}"), true),
        (format!("given: {sql}\n{expect}"), true),
        (format!("given: {{t: {rows}}}\ngiven_output: [{sql}, {{t: {rows}}}]\n{expect}"), true),
        (format!("env: {{REGION: eu, LIMIT: 5}}\nwith: customers\n{expect}"), true),
        (format!("with: [customers, parts]\nchanges: {sql}\nfails: division by zero"), true),
        (
            format!("changes:\n  - insert: {{t: {rows}}}\n    delete: {{t: {rows}}}\n  - {sql}\n{expect}"),
            true,
        ),
        (format!("changes: {{truncate: [t, u]}}\nsteps: [{{changes: {{truncate: t}}, {expect}}}]"), true),
        (format!("returns: {{insert: {rows}, update: [], delete: []}}"), true),
        ("given: {t: []}".to_owned(), false),
        ("steps: [{changes: DELETE FROM t}]".to_owned(), false),
        (format!("expected: {rows}"), false),
        (format!("{expect}\ngiven: {{t: {{id: 1}}}}"), false),
        (format!("{expect}\ngiven: {{t: [1]}}"), false),
        (format!("{expect}\nenv: REGION"), false),
        (format!("{expect}\nenv: {{REGION: [eu]}}"), false),
        (format!("{expect}\nwith: []"), false),
        (format!("{expect}\nwith: {{a: b}}"), false),
        (format!("{expect}\nchanges: {{upsert: {{t: {rows}}}}}"), false),
        (format!("{expect}\nchanges: {{insert: [t]}}"), false),
        (format!("{expect}\nchanges: {{truncate: []}}"), false),
        (format!("{expect}\nsteps: []"), false),
        (format!("{expect}\nsteps: {{{expect}}}"), false),
        (format!("{expect}\nsteps: [{{given: {sql}}}]"), false),
        (format!("{expect}\nreturns: {{truncate: []}}"), false),
        (format!("{expect}\nreturns: []"), false),
        (format!("{expect}\nfails: [a]"), false),
        ("expect: 5".to_owned(), false),
        ("[]".to_owned(), false),
    ];
    for (text, is_taken) in cases {
        let dir = write_files(&[("test.yml".to_owned(), text.clone())]);
        let read = super::read_test_file(&dir.path().join("test.yml"));
        assert_eq!(read.is_ok(), is_taken, "{text}: {:?}", read.err().map(|error| error.to_string()));
        assert_eq!(accepts_text(schema::test_schema(), &text), is_taken, "the schema: {text}");
    }
}
