//! Reads a pipeline's test files: what is given, what changes, what the output should hold then. Not templates: rows may
//! hold any text. Whether tables, columns and values exist is for `testing` to find out.

use std::path::{Path, PathBuf};

use super::diagnostic::{Diagnostic, Diagnostics};
use super::expression::Expanded;
use super::fields::Reader;
use super::project::TableName;
use super::report::Report;
use super::source_file::SourceFile;
use super::table_name::table_name;
use super::template::Place;
use super::yaml::{Kind, Node, Scalar, parse};
use crate::codes::Code;

/// One test.
#[derive(Debug, Clone)]
pub struct TestFile {
    /// The file, to read and write.
    pub path: PathBuf,
    /// The file, for messages.
    pub shown: PathBuf,
    /// All of it.
    pub text: String,
    /// `env`: variables for templates.
    pub env: Vec<(String, String)>,
    /// `with`: other pipelines that run as well.
    pub with: Vec<(Place, String)>,
    /// `given`: what is in the source before the first run.
    pub given: Vec<Given>,
    /// `given_output`: what is in the output by then.
    pub given_output: Vec<Given>,
    /// At least one; the first is the file's own level.
    pub steps: Vec<TestStep>,
}

/// Rows for a table, or statements.
#[derive(Debug, Clone)]
pub enum Given {
    /// Statements.
    Sql(TestSql),
    /// Rows to insert.
    Rows(TestRows),
}

/// Statements, and where they begin.
#[derive(Debug, Clone)]
pub struct TestSql {
    /// Where.
    pub place: Place,
    /// What.
    pub text: String,
}

/// Rows of a table.
#[derive(Debug, Clone)]
pub struct TestRows {
    /// The table.
    pub table: TableName,
    /// Where it is named.
    pub place: Place,
    /// In the file's order.
    pub rows: Vec<TestRow>,
}

/// One row: the columns that the test names.
#[derive(Debug, Clone)]
pub struct TestRow {
    /// Where it begins.
    pub place: Place,
    /// In the file's order.
    pub cells: Vec<TestCell>,
}

/// A column's value.
#[derive(Debug, Clone)]
pub struct TestCell {
    /// The column.
    pub column: String,
    /// Where the column is named.
    pub place: Place,
    /// What it holds.
    pub value: TestValue,
}

/// What a cell holds, or should.
#[derive(Debug, Clone, PartialEq)]
pub enum TestValue {
    /// NULL.
    Null,
    /// As the type's input function reads it.
    Text(String),
    /// A map or a list: JSON, or an array.
    Json(serde_json::Value),
    /// `<any>`: whatever is there.
    Any,
    /// `<not null>`: whatever is there, but no NULL.
    NotNull,
}

/// What happens to rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TestOperation {
    /// They come.
    Insert,
    /// The row with this primary key gets these values.
    Update,
    /// The rows with these values go.
    Delete,
    /// All go.
    Truncate,
}

/// Something that happens on the source.
#[derive(Debug, Clone)]
pub enum TestChange {
    /// Statements.
    Sql(TestSql),
    /// To rows of a table.
    Rows(TestOperation, TestRows),
}

/// Changes, and what is true once they are loaded.
#[derive(Debug, Clone)]
pub struct TestStep {
    /// Where it begins.
    pub place: Place,
    /// Transactions, in order.
    pub changes: Vec<Vec<TestChange>>,
    /// What the output holds, table by table.
    pub expect: Vec<Expectation>,
    /// What the SQL returns for what is new, by operation: tables of schema [`RETURNED`].
    pub returns: Vec<Expectation>,
    /// Text of the error that stops the pipeline, and where that is said.
    pub fails: Option<(Place, String)>,
}

/// What a table should hold.
#[derive(Debug, Clone)]
pub struct Expectation {
    /// None: the pipeline's output table.
    pub table: Option<TableName>,
    /// Where its key stands.
    pub place: Place,
    /// All rows.
    pub rows: Vec<TestRow>,
}

impl TestFile {
    /// A problem at a place of the file.
    pub fn problem(&self, code: Code, place: Place, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(code, &self.shown, message).within(&self.text, place)
    }
}

/// The schema of what the SQL returned: a table for each operation.
pub const RETURNED: &str = "trucker_returned";

pub(super) const STEP_KEYS: [&str; 4] = ["changes", "expect", "returns", "fails"];
pub(super) const FILE_KEYS: [&str; 9] =
    ["env", "with", "given", "given_output", "changes", "expect", "returns", "fails", "steps"];
pub(super) const OPERATIONS: [(&str, TestOperation); 4] = [
    ("insert", TestOperation::Insert),
    ("update", TestOperation::Update),
    ("delete", TestOperation::Delete),
    ("truncate", TestOperation::Truncate),
];
/// The operations that SQL returns rows for.
pub(super) const RETURNING: [&str; 3] = ["insert", "update", "delete"];
const TABLES: &str = "write it as\npublic.orders:\n  - {id: 1, total: 2.50}";

/// Reads a test file.
///
/// # Errors
/// All that is wrong with it.
pub fn read_test_file(path: &Path) -> Result<TestFile, Diagnostics> {
    let report = Report::default();
    let file = SourceFile::read(path.to_owned(), &report).and_then(|source| {
        let root = parse(&source, &Expanded::verbatim(&source), &report)?;
        TestReader { reader: Reader { file: &source, report: &report } }.file(path, &root)
    });
    report.finish().1?;
    file.ok_or_else(Diagnostics::default)
}

struct TestReader<'a> {
    reader: Reader<'a>,
}

impl<'a> TestReader<'a> {
    fn file(&self, path: &Path, root: &'a Node) -> Option<TestFile> {
        let fields = self.reader.map(root, "the test", &FILE_KEYS)?;
        let env = fields.get("env").map_or(Some(Vec::new()), |node| self.env(node));
        let with = fields.get("with").map_or(Some(Vec::new()), |node| self.names(node));
        let given = fields.get("given").map_or(Some(Vec::new()), |node| self.given(node, "given"));
        let output =
            fields.get("given_output").map_or(Some(Vec::new()), |node| self.given(node, "given_output"));
        let mut steps = vec![self.step(root, "the test", &FILE_KEYS)];
        if let Some(node) = fields.get("steps") {
            let nodes = self.reader.list_or_one(node, "`steps`")?;
            steps.extend(nodes.iter().map(|node| self.step(node, "a step", &STEP_KEYS)));
        }
        let steps = steps.into_iter().collect::<Option<Vec<_>>>()?;
        let asks =
            |step: &TestStep| !step.expect.is_empty() || !step.returns.is_empty() || step.fails.is_some();
        if !steps.iter().any(asks) {
            let help = "say what the output holds in the end:\nexpect:\n  - {order_id: 1, total: 2.50}";
            self.reader.error_with(
                Code::MissingKey,
                root.place,
                "the test expects nothing, so it can't fail",
                help,
            );
        }
        Some(TestFile {
            path: path.to_owned(),
            shown: self.reader.file.shown.clone(),
            text: self.reader.file.text().to_owned(),
            env: env?,
            with: with?,
            given: given?,
            given_output: output?,
            steps,
        })
    }

    fn step(&self, node: &'a Node, what: &str, keys: &[&str]) -> Option<TestStep> {
        // The file's own keys have been looked at.
        let fields = match (&node.kind, what) {
            (Kind::Map(_), "the test") => super::fields::Fields::of(node)?,
            _ => self.reader.map(node, what, keys)?,
        };
        let changes = fields.get("changes").map_or(Some(Vec::new()), |node| self.changes(node));
        let place = fields.place_of("expect");
        let expect = fields.get("expect").map_or(Some(Vec::new()), |node| self.expect(node, place));
        let returns = fields.get("returns").map_or(Some(Vec::new()), |node| self.returns(node));
        let fails = match fields.get("fails") {
            Some(node) => self.reader.name(node, "`fails`").map(|text| Some((node.place, text.to_owned()))),
            None => Some(None),
        };
        Some(TestStep {
            place: node.place,
            changes: changes?,
            expect: expect?,
            returns: returns?,
            fails: fails?,
        })
    }

    fn env(&self, node: &'a Node) -> Option<Vec<(String, String)>> {
        let entries = self.entries(node, "`env`", "write it as\nenv:\n  REGION: eu")?;
        let pair = |(key, node): &'a (super::yaml::Key, Node)| {
            Some((key.name.clone(), self.reader.scalar(node, "a variable")?.text.clone()))
        };
        entries.iter().map(pair).collect()
    }

    fn names(&self, node: &'a Node) -> Option<Vec<(Place, String)>> {
        let nodes = self.reader.list_or_one(node, "`with`")?;
        nodes.iter().map(|n| Some((n.place, self.reader.name(n, "a pipeline")?.to_owned()))).collect()
    }

    fn entries(&self, node: &'a Node, what: &str, help: &str) -> Option<&'a [(super::yaml::Key, Node)]> {
        match &node.kind {
            Kind::Map(entries) => Some(entries),
            _ => {
                self.reader.error_with(Code::Shape, node.place, format!("{what} must be a map"), help);
                None
            }
        }
    }

    fn given(&self, node: &'a Node, key: &str) -> Option<Vec<Given>> {
        let one = |node: &'a Node| match &node.kind {
            Kind::Scalar(scalar) => Some(vec![Given::Sql(sql(node, scalar))]),
            _ => {
                let entries = self.entries(node, &format!("`{key}`"), TABLES)?;
                let tables = entries.iter().map(|(key, node)| self.table_rows(key, node).map(Given::Rows));
                tables.collect::<Option<Vec<_>>>()
            }
        };
        let parts: Option<Vec<Vec<Given>>> = match &node.kind {
            Kind::List(nodes) => nodes.iter().map(one).collect(),
            _ => Some(vec![one(node)?]),
        };
        Some(parts?.into_iter().flatten().collect())
    }

    fn changes(&self, node: &'a Node) -> Option<Vec<Vec<TestChange>>> {
        self.reader.list_or_one_map(node).iter().map(|node| self.transaction(node)).collect()
    }

    fn transaction(&self, node: &'a Node) -> Option<Vec<TestChange>> {
        if let Kind::Scalar(scalar) = &node.kind {
            return Some(vec![TestChange::Sql(sql(node, scalar))]);
        }
        let names = OPERATIONS.map(|(name, _)| name);
        self.reader.map(node, "a change", &names)?;
        let mut changes = Vec::new();
        for (key, node) in self.entries(node, "a change", TABLES)? {
            let (_, operation) = *OPERATIONS.iter().find(|(name, _)| *name == key.name)?;
            if operation == TestOperation::Truncate {
                for node in self.reader.list_or_one(node, "`truncate`")? {
                    let name = self.reader.name(node, "a table")?;
                    let rows =
                        TestRows { table: self.table(name, node.place)?, place: node.place, rows: vec![] };
                    changes.push(TestChange::Rows(operation, rows));
                }
                continue;
            }
            for (key, node) in self.entries(node, &format!("`{}`", key.name), TABLES)? {
                changes.push(TestChange::Rows(operation, self.table_rows(key, node)?));
            }
        }
        Some(changes)
    }

    fn expect(&self, node: &'a Node, place: Place) -> Option<Vec<Expectation>> {
        let Kind::Map(entries) = &node.kind else {
            let rows = self.rows(node, "`expect`")?;
            return Some(vec![Expectation { table: None, place, rows }]);
        };
        let table = |(key, node): &'a (super::yaml::Key, Node)| {
            let TestRows { table, place, rows } = self.table_rows(key, node)?;
            Some(Expectation { table: Some(table), place, rows })
        };
        entries.iter().map(table).collect()
    }

    fn returns(&self, node: &'a Node) -> Option<Vec<Expectation>> {
        self.reader.map(node, "`returns`", &RETURNING)?;
        let operation = |(key, node): &'a (super::yaml::Key, Node)| {
            let table = TableName { schema: RETURNED.to_owned(), table: key.name.clone() };
            let rows = self.rows(node, &format!("`{}`", key.name))?;
            Some(Expectation { table: Some(table), place: key.place, rows })
        };
        self.entries(node, "`returns`", TABLES)?.iter().map(operation).collect()
    }

    fn table_rows(&self, key: &super::yaml::Key, node: &'a Node) -> Option<TestRows> {
        let table = self.table(&key.name, key.place);
        let rows = self.rows(node, &format!("`{}`", key.name));
        Some(TestRows { table: table?, place: key.place, rows: rows? })
    }

    fn table(&self, name: &str, place: Place) -> Option<TableName> {
        match table_name(name) {
            Ok(table) => Some(table),
            Err(reason) => {
                let message = format!("`{name}` can't be a table's name: {reason}");
                self.reader.error_with(Code::Value, place, message, TABLES);
                None
            }
        }
    }

    fn rows(&self, node: &'a Node, what: &str) -> Option<Vec<TestRow>> {
        let help = "a row is a map from columns to values:\n  - {id: 1, total: 2.50}\nno rows: []";
        let Kind::List(nodes) = &node.kind else {
            self.reader.error_with(Code::Shape, node.place, format!("{what} must be a list of rows"), help);
            return None;
        };
        nodes.iter().map(|node| self.row(node, help)).collect()
    }

    fn row(&self, node: &'a Node, help: &str) -> Option<TestRow> {
        let entries = self.entries(node, "a row", help)?;
        let cells = entries.iter().map(|(key, node)| TestCell {
            column: key.name.clone(),
            place: key.place,
            value: value(node),
        });
        Some(TestRow { place: node.place, cells: cells.collect() })
    }
}

fn sql(node: &Node, scalar: &Scalar) -> TestSql {
    TestSql { place: node.place, text: scalar.text.clone() }
}

fn value(node: &Node) -> TestValue {
    match &node.kind {
        Kind::Null | Kind::Unknown => TestValue::Null,
        Kind::Scalar(Scalar { text, is_plain: true, .. }) if text == "<any>" => TestValue::Any,
        Kind::Scalar(Scalar { text, is_plain: true, .. }) if text == "<not null>" => TestValue::NotNull,
        Kind::Scalar(scalar) => TestValue::Text(scalar.text.clone()),
        Kind::List(_) | Kind::Map(_) => TestValue::Json(json(node)),
    }
}

/// As JSON reads it; what it wouldn't read is a text.
fn json(node: &Node) -> serde_json::Value {
    use serde_json::Value;
    match &node.kind {
        Kind::Null | Kind::Unknown => Value::Null,
        Kind::Scalar(Scalar { text, is_plain: false, .. }) => Value::String(text.clone()),
        Kind::Scalar(Scalar { text, .. }) => {
            serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.clone()))
        }
        Kind::List(nodes) => Value::Array(nodes.iter().map(json).collect()),
        Kind::Map(entries) => {
            Value::Object(entries.iter().map(|(key, node)| (key.name.clone(), json(node))).collect())
        }
    }
}
