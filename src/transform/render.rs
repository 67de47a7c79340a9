//! Renders one SQL file for one table and operation. What a template prints is SQL that is safe by construction:
//! columns and relations as such, every other value as a literal. Values of rows never come near it.

use std::fmt;
use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectRepr};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State, UndefinedBehavior, Value};

use super::SqlProblem;
use super::scan::{Reference, Scanned, Scope, scan};
use crate::change::Operation;
use crate::codes::Code;
use crate::config::template::{self, Place, Rendered};
use crate::config::{SqlFile, TableName, Variables};
use crate::postgres::ident::{quote_ident, quote_literal};

/// What a template may ask for.
#[derive(Debug, Clone)]
pub struct Scene<'a> {
    /// The pipeline's name.
    pub pipeline: &'a str,
    /// For which operation; backfilled rows are inserts.
    pub operation: Operation,
    /// The input table.
    pub table: &'a TableName,
    /// The input table as SQL names it.
    pub table_sql: String,
    /// Names of the columns of `new`, and of `row` but on delete.
    pub new: Vec<String>,
    /// Names of the columns of `old`.
    pub old: Vec<String>,
    /// What `{{ rows }}` stands for, in load.sql and truncate.sql.
    pub rows_sql: Option<String>,
}

/// A file, rendered, cut to its one statement and looked through.
#[derive(Debug, Clone)]
pub struct RenderedFile {
    file: SqlFile,
    rendered: Rendered,
    /// What the SQL refers to.
    pub references: Vec<Reference>,
    end: usize,
    second_statement: Option<usize>,
}

impl RenderedFile {
    /// The file.
    pub fn path(&self) -> &std::path::Path {
        &self.file.path
    }

    /// The statement, without a trailing semicolon.
    pub fn statement(&self) -> &str {
        &self.rendered.text[..self.end]
    }

    /// Everything that was rendered, for files that may hold several statements.
    pub fn text(&self) -> &str {
        &self.rendered.text
    }

    /// Its statements one by one, each with where it starts.
    pub fn statements(&self) -> Vec<(usize, &str)> {
        let text = self.text();
        let mut statements = vec![(0, self.statement())];
        let mut next = self.second_statement;
        while let Some(start) = next {
            let Scanned { end, second_statement, .. } = scan(&text[start..]);
            statements.push((start, &text[start..start + end]));
            next = second_statement.map(|second| start + second);
        }
        statements
    }

    /// Whether the SQL uses that relation.
    pub fn uses(&self, scope: Scope) -> bool {
        self.references.iter().any(|r| r.scope == scope)
    }

    /// The file as a problem's place, at a byte offset of the rendered text.
    pub fn problem(
        &self,
        code: Code,
        offset: Option<usize>,
        message: impl Into<String>,
        help: Option<String>,
    ) -> SqlProblem {
        let place = offset.map(|offset| self.place(offset));
        SqlProblem {
            code,
            path: self.file.path.clone(),
            place,
            message: message.into(),
            help,
            is_refusal: false,
        }
    }

    /// The template's line that a line of the rendered text starts in; both count from 1.
    pub fn template_line(&self, line: usize) -> usize {
        self.rendered.template_line(line)
    }

    /// The template's place of a byte offset in the rendered text.
    pub fn place(&self, offset: usize) -> Place {
        let before = self.rendered.text.get(..offset).unwrap_or(&self.rendered.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.matches('\n').count() + 1;
        self.rendered.template_place(Place { line, column: before[line_start..].chars().count() + 1 })
    }

    /// A file of ours in place of one that the user did not write.
    pub fn synthesized(path: &std::path::Path, text: String) -> Self {
        let file =
            SqlFile { path: path.to_owned(), text: text.as_str().into(), variables: Variables::default() };
        let Scanned { references, end, .. } = scan(&text);
        RenderedFile { file, rendered: Rendered::verbatim(text), references, end, second_statement: None }
    }

    /// Refuses a second statement: a transform is one SELECT.
    pub fn expect_one_statement(&self) -> Result<(), SqlProblem> {
        match self.second_statement {
            None => Ok(()),
            Some(offset) => Err(self.problem(
                Code::SqlStatements,
                Some(offset),
                "a second statement: the file must be one SELECT",
                Some("join the two with WITH … or UNION ALL".to_owned()),
            )),
        }
    }
}

/// Renders a file; `scene` says for what.
pub fn render_file(file: &SqlFile, scene: &Scene<'_>) -> Result<RenderedFile, SqlProblem> {
    let env = environment(&file.variables);
    let rendered = template::render(&env, "file.sql", &file.text, context(scene)).map_err(|error| {
        let place = error.place;
        SqlProblem {
            code: error.code,
            path: file.path.clone(),
            place,
            message: error.message,
            help: error.help,
            is_refusal: false,
        }
    })?;
    let Scanned { references, end, second_statement, is_empty } = scan(&rendered.text);
    let rendered = RenderedFile { file: file.clone(), rendered, references, end, second_statement };
    if is_empty {
        let message =
            format!("the file holds no statement for operation '{}' on {}", scene.operation, scene.table);
        return Err(rendered.problem(Code::TemplateEmpty, Some(0), message, None));
    }
    Ok(rendered)
}

fn environment(variables: &Variables) -> Environment<'static> {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_formatter(print);
    // Ends a template that loops for ever; none that a person wrote comes near.
    env.set_fuel(Some(10_000_000));
    let variables = variables.clone();
    env.add_function("env", move |name: String, default: Option<Value>| {
        env_value(&variables, &name, default)
    });
    env.add_filter("ident", |name: String| Value::from_safe_string(quote_ident(&name)));
    env.add_filter("raw", |text: String| Value::from_safe_string(text));
    env
}

fn env_value(variables: &Variables, name: &str, default: Option<Value>) -> Result<Value, Error> {
    match (variables.get(name), default) {
        (Some(Some(value)), _) => Ok(Value::from(value)),
        (Some(None), _) => Err(invalid(format!("the environment variable {name} is no UTF-8 text"))),
        (None, Some(default)) => Ok(default),
        (None, None) => Err(invalid(format!(
            "the environment variable {name} is not set; set it, or give a default: env(\"{name}\", \"…\")"
        ))),
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// Prints a value as SQL. Strings marked as safe are SQL already; only this file marks any.
fn print(out: &mut Output<'_>, _: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    use minijinja::value::ValueKind;
    let sql = match value.kind() {
        _ if value.is_safe() => value.to_string(),
        ValueKind::String => quote_literal(value.as_str().unwrap_or_default()),
        ValueKind::Number => value.to_string(),
        ValueKind::Bool => value.is_true().to_string(),
        ValueKind::None => "NULL".to_owned(),
        ValueKind::Undefined => return Err(Error::new(ErrorKind::UndefinedError, "nothing has this name")),
        _ => match value.downcast_object_ref::<RowName>() {
            Some(row) => row.alias.to_owned(),
            None => {
                return Err(invalid("only strings, numbers, columns and relations can be printed".into()));
            }
        },
    };
    out.write_str(&sql).map_err(|_| invalid("the rendered file could not be written".into()))
}

/// `new`, `old`, `row` or `transformed` in a template: a map from column names to columns. It answers to any
/// name; whether the column exists is checked on the rendered text, where plain `new.x` is checked too.
#[derive(Debug)]
struct RowName {
    alias: &'static str,
    columns: Vec<String>,
}

impl Object for RowName {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        Some(Value::from_safe_string(format!("{}.{}", self.alias, quote_ident(key.as_str()?))))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.columns.iter().map(|name| Value::from(name.clone())).collect())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.alias)
    }
}

fn context(scene: &Scene<'_>) -> Value {
    let row = |scope: Scope, columns: &[String]| {
        Value::from_object(RowName { alias: scope.as_str(), columns: columns.to_vec() })
    };
    let current = if scene.operation == Operation::Delete { &scene.old } else { &scene.new };
    let mut names = vec![
        ("new", row(Scope::New, &scene.new)),
        ("old", row(Scope::Old, &scene.old)),
        ("row", row(Scope::Row, current)),
        ("transformed", row(Scope::Transformed, &[])),
        ("operation", Value::from(scene.operation.as_str())),
        ("table", Value::from_safe_string(scene.table_sql.clone())),
        ("pipeline", Value::from(scene.pipeline)),
    ];
    names.extend(scene.rows_sql.iter().map(|rows| ("rows", Value::from_safe_string(rows.clone()))));
    Value::from_pairs(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(text: &str, operation: Operation) -> Result<RenderedFile, SqlProblem> {
        let file =
            SqlFile { path: "p/transform.sql".into(), text: text.into(), variables: Variables::of_process() };
        let table = TableName { schema: "public".into(), table: "orders".into() };
        let scene = Scene {
            pipeline: "it's",
            operation,
            table: &table,
            table_sql: "public.orders".into(),
            new: vec!["id".into(), "Odd".into()],
            old: vec!["id".into()],
            rows_sql: None,
        };
        render_file(&file, &scene)
    }

    #[test]
    fn what_a_template_prints_is_safe_sql() {
        for (template, sql) in [
            ("SELECT {{ new.id }}", "SELECT new.id"),
            ("SELECT {{ new[\"Odd \\\"Name\"] }}", "SELECT new.\"Odd \"\"Name\""),
            ("SELECT {{ operation }}, {{ pipeline }}", "SELECT 'update', 'it''s'"),
            ("SELECT * FROM {{ table }}", "SELECT * FROM public.orders"),
            (
                "SELECT {% if table == \"public.orders\" and operation == \"update\" %}1{% else %}2{% endif %}",
                "SELECT 1",
            ),
            ("SELECT {{ 1.5 }}, {{ true }}, {{ none }}", "SELECT 1.5, true, NULL"),
            ("SELECT {{ \"a b\" | ident }}, {{ \"now()\" | raw }}", "SELECT \"a b\", now()"),
            ("SELECT {{ env(\"TRUCKER_NOT_SET\", \"x'; --\") }}", "SELECT 'x''; --'"),
            ("SELECT {% for c in new %}{{ new[c] }},{% endfor %}1", "SELECT new.id,new.\"Odd\",1"),
            ("SELECT to_jsonb({{ new }})", "SELECT to_jsonb(new)"),
            ("SELECT {{ old.id ~ \"; DROP TABLE x\" }}", "SELECT 'old.id; DROP TABLE x'"),
        ] {
            assert_eq!(rendered(template, Operation::Update).unwrap().statement(), sql, "{template}");
        }
    }

    #[test]
    fn what_cannot_be_printed_is_refused_with_its_line() {
        for template in [
            "SELECT\n{{ nothing }}",
            "SELECT\n{{ [1] }}",
            "SELECT\n{{ env(\"TRUCKER_NOT_SET\") }}",
            "SELECT\n{{ new.id",
        ] {
            let problem = rendered(template, Operation::Insert).unwrap_err();
            assert_eq!(problem.place.map(|p| p.line), Some(2), "{template}: {problem:?}");
        }
    }

    #[test]
    fn places_are_those_of_the_template() {
        let file =
            rendered("SELECT {% if true %}\n\n  1,{% endif %}\n  new.nope", Operation::Insert).unwrap();
        assert_eq!(file.place(file.references[0].offset).line, 4);
    }

    #[test]
    fn a_template_that_leaves_nothing_is_refused() {
        let template = "{% if operation == \"insert\" %}SELECT 1{% endif %}";
        assert!(rendered(template, Operation::Insert).is_ok());
        assert!(rendered(template, Operation::Delete).unwrap_err().message.contains("no statement"));
    }
}
