//! Renders a configuration file so that no value can change its structure: each expression prints a
//! placeholder, and what it stands for is put in after the YAML has been read.
//!
//! A variable that isn't set is a problem only where it is needed: one in a YAML comment isn't.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Object, ObjectRepr, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value};

use super::diagnostic::Diagnostic;
use super::marker::Marker;
use super::source_file::SourceFile;
use super::template::{Place, Rendered, render};
use crate::codes::Code;

/// The environment variables that `env()` sees.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Variables {
    values: Arc<HashMap<OsString, OsString>>,
    /// Whether one that isn't set is an empty text.
    fills_missing: bool,
}

/// Without any value: they may be secrets.
impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Variables")
    }
}

impl Variables {
    /// Those of this process.
    pub fn of_process() -> Variables {
        Variables { values: Arc::new(std::env::vars_os().collect()), fills_missing: false }
    }

    /// These.
    pub fn new<K: Into<OsString>, V: Into<OsString>>(pairs: impl IntoIterator<Item = (K, V)>) -> Variables {
        let values = pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        Variables { values: Arc::new(values), fills_missing: false }
    }

    /// These and more, which count where both have one.
    pub fn and(&self, more: impl IntoIterator<Item = (String, String)>) -> Variables {
        let mut values = (*self.values).clone();
        values.extend(more.into_iter().map(|(name, value)| (name.into(), value.into())));
        Variables { values: Arc::new(values), fills_missing: self.fills_missing }
    }

    /// The same, but one that isn't set and has no default is an empty text.
    pub(super) fn filled(&self) -> Variables {
        Variables { values: self.values.clone(), fills_missing: true }
    }

    /// The variable's value; None where it isn't set, Some(None) where it is no UTF-8.
    pub fn get(&self, name: &str) -> Option<Option<&str>> {
        let value = self.values.get(std::ffi::OsStr::new(name)).map(|value| value.to_str());
        if value.is_none() && self.fills_missing { Some(Some("")) } else { value }
    }
}

/// A rendered file with placeholders, and what they stand for.
#[derive(Debug)]
pub(super) struct Expanded {
    pub(super) rendered: Rendered,
    marker: Marker,
    printed: Vec<Printed>,
}

/// What one `{{ … }}` printed.
#[derive(Clone)]
enum Printed {
    Value(String),
    /// A variable without a usable value.
    Missing(String, Why),
}

impl fmt::Debug for Printed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Printed")
    }
}

#[derive(Debug, Clone, Copy)]
enum Why {
    NotSet,
    NotUtf8,
}

/// A text of the file with the values put in.
#[derive(Debug, Default)]
pub(super) struct Filled {
    pub(super) text: String,
    /// The values, in order; empty for a text without expressions.
    pub(super) values: Vec<String>,
    /// What is wrong with variables that it needs, and the cures.
    pub(super) missing: Vec<(String, String)>,
}

impl Expanded {
    /// A file that is no template.
    pub(super) fn verbatim(file: &SourceFile) -> Expanded {
        let text = file.text().to_owned();
        let marker = Marker::absent_from(&text);
        Expanded { rendered: Rendered::verbatim(text), marker, printed: Vec::new() }
    }

    /// Puts the values in.
    pub(super) fn fill(&self, text: &str) -> Filled {
        let mut filled = Filled::default();
        for (piece, number) in self.marker.split(text) {
            filled.text.push_str(piece);
            match number.and_then(|number| self.printed.get(number)) {
                Some(Printed::Value(value)) => {
                    filled.text.push_str(value);
                    filled.values.push(value.clone());
                }
                Some(Printed::Missing(name, why)) => filled.missing.push(explain(name, *why)),
                None => {}
            }
        }
        filled
    }

    /// Whether an expression stands in the text.
    pub(super) fn has_expression(&self, text: &str) -> bool {
        self.marker.split(text).any(|(_, number)| number.is_some())
    }
}

/// A value that holds placeholders itself was captured by `{% set %}…{% endset %}` or a macro. They stand for what was
/// printed before, which holds none any more. Ends where the text is too long: each capture may double the last.
fn without_marks(value: &str, marker: &Marker, printed: &[Printed]) -> Result<Printed, Error> {
    let mut text = String::new();
    for (piece, number) in marker.split(value) {
        text.push_str(piece);
        match number.and_then(|number| printed.get(number)) {
            Some(Printed::Value(inner)) => text.push_str(inner),
            Some(missing @ Printed::Missing(..)) => return Ok(missing.clone()),
            None => {}
        }
        if text.len() > VALUE_BYTES_MAX {
            return Err(Error::new(ErrorKind::InvalidOperation, "this expression yields more than 1 MiB"));
        }
    }
    Ok(Printed::Value(text))
}

fn explain(name: &str, why: Why) -> (String, String) {
    match why {
        Why::NotSet => (
            format!("the environment variable `{name}` is not set"),
            format!("set it, or give a default: env(\"{name}\", \"…\")"),
        ),
        Why::NotUtf8 => (
            format!("the environment variable `{name}` is not UTF-8"),
            "a password of other bytes can come from a file: pass_path".to_owned(),
        ),
    }
}

/// What templates leave behind while they are rendered.
#[derive(Default)]
struct Record {
    printed: Vec<Printed>,
    /// What they come to.
    bytes: usize,
    /// Each call of `env()` without a usable value, and whether it was printed as it is.
    missing: Vec<(String, Why, bool)>,
}

type Shared = Arc<Mutex<Record>>;

fn lock(record: &Shared) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What `env()` returns where it has no value: the template goes on, so that all problems are found.
#[derive(Debug)]
struct MissingVariable(usize);

impl Object for MissingVariable {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn render(self: &Arc<Self>, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

/// Renders the file, or says why not.
pub(super) fn expand(file: &SourceFile, variables: &Variables) -> Result<Expanded, Vec<Diagnostic>> {
    let marker = Marker::absent_from(file.text());
    let record = Shared::default();
    let env = environment(&marker, &record, variables);
    let result = render(&env, &file.name(), file.text(), Value::UNDEFINED);
    let Record { printed, missing, .. } = std::mem::take(&mut *lock(&record));
    let needed = missing.iter().filter(|(_, _, is_printed)| !is_printed || result.is_err());
    let mut problems: Vec<Diagnostic> = needed
        .map(|(name, why, _)| {
            let (message, help) = explain(name, *why);
            file.error(Code::VariableUnset, place_of_call(file.text(), name), message).help(help)
        })
        .collect();
    match result {
        Ok(rendered) if problems.is_empty() => return Ok(Expanded { rendered, marker, printed }),
        Err(error) if problems.is_empty() => problems.push(
            file.error(error.code, error.place, format!("template: {}", error.message))
                .maybe_help(error.help),
        ),
        _ => {}
    }
    Err(problems)
}

/// Instructions that one file may take; a thousand connections take less.
const FUEL: u64 = 1_000_000;
/// What one expression may print. No host and no password is as long.
const VALUE_BYTES_MAX: usize = 1024 * 1024;
/// What all expressions of a file may print.
const VALUES_BYTES_MAX: usize = 16 * VALUE_BYTES_MAX;

fn environment(marker: &Marker, record: &Shared, variables: &Variables) -> Environment<'static> {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_fuel(Some(FUEL));
    if let Ok(syntax) = SyntaxConfig::builder().keep_trailing_newline(true).build() {
        env.set_syntax(syntax);
    }
    let (calls, variables) = (record.clone(), variables.clone());
    env.add_function("env", move |name: &str, default: Option<Value>| {
        let is_set = variables.values.contains_key(std::ffi::OsStr::new(name));
        let why = match (variables.get(name), default) {
            (_, Some(default)) if !is_set => return default,
            (Some(Some(value)), _) => return Value::from(value),
            (Some(None), _) => Why::NotUtf8,
            (None, _) => Why::NotSet,
        };
        let mut record = lock(&calls);
        record.missing.push((name.to_owned(), why, false));
        Value::from_object(MissingVariable(record.missing.len() - 1))
    });
    let (marker, record) = (marker.clone(), record.clone());
    env.set_formatter(move |out, _, value| {
        let mut record = lock(&record);
        let printed = match value.downcast_object_ref::<MissingVariable>() {
            Some(&MissingVariable(call)) => {
                let (name, why, is_printed) = &mut record.missing[call];
                *is_printed = true;
                Printed::Missing(name.clone(), *why)
            }
            None => without_marks(&text_of(value)?, &marker, &record.printed)?,
        };
        if let Printed::Value(text) = &printed {
            record.bytes += text.len();
        }
        if record.bytes > VALUES_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                "the file's expressions yield more than 16 MiB",
            ));
        }
        record.printed.push(printed);
        Ok(out.write_str(&marker.mark(record.printed.len() - 1))?)
    });
    env
}

fn text_of(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::String | ValueKind::Number | ValueKind::Bool => Ok(value.to_string()),
        kind => {
            let message = format!("this expression yields no text but {kind}");
            Err(Error::new(ErrorKind::InvalidOperation, message))
        }
    }
}

/// Where a template asks for a variable: minijinja tells functions no line.
fn place_of_call(template: &str, name: &str) -> Option<Place> {
    let quoted = ["\"", "'"].map(|quote| format!("env({quote}{name}{quote}"));
    let offset = quoted.iter().filter_map(|call| template.find(call)).min()?;
    Some(Place::START.after(&template[..offset]))
}
