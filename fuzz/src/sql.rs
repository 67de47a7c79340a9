//! A SQL file: any text, scanned and rendered; and any name in a file that is right.

use trucker::change::Operation;
use trucker::config::{SqlFile, TableName};
use trucker::transform::render::{Scene, render_file};
use trucker::transform::scan::{Scanned, scan};

/// The text is scanned, then rendered as a template, then used as a name.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    check_scan(text);
    if let Ok(file) = render_file(&file(text), &scene("p", "c")) {
        assert!(file.text().starts_with(file.statement()));
        check_scan(file.text());
        for reference in &file.references {
            let place = file.place(reference.offset);
            assert!(place.line >= 1 && place.column >= 1);
        }
    }
    check_name(text);
}

/// References lie in the first statement, in order, and say what stands there; and what follows the statement has no
/// part in it.
fn check_scan(text: &str) {
    let scanned = scan(text);
    let statement = text.get(..scanned.end).expect("the end of the statement is a place in the text");
    let mut last = None;
    for reference in &scanned.references {
        assert!(last < Some(reference.offset), "references come in order, each once");
        last = Some(reference.offset);
        let (name, there) = (reference.scope.as_str(), &statement[reference.offset..]);
        assert!(there.get(..name.len()).is_some_and(|word| word.eq_ignore_ascii_case(name)), "{there}");
    }
    if let Some(second) = scanned.second_statement {
        assert!(text.is_char_boundary(second) && second > scanned.end);
    }
    let alone = scan(statement);
    let Scanned { references, is_empty, .. } = scanned;
    assert_eq!(alone, Scanned { references, is_empty, end: statement.len(), second_statement: None });
}

/// Whatever a name holds, it is one literal where it is printed, and one column where it is a column's.
fn check_name(name: &str) {
    let template = "SELECT {{ pipeline }} AS a, {{ new.id }}, {% for c in new %}{{ new[c] }}, {% endfor %}1 FROM {{ table }}";
    let rendered = render_file(&file(template), &scene(name, name)).expect("names make no template wrong");
    rendered.expect_one_statement().expect("a name is no statement");
    assert_eq!(rendered.statement(), rendered.text());
    let columns: Vec<_> = rendered.references.iter().map(|r| r.column.as_deref()).collect();
    assert_eq!(columns, [Some("id"), Some(name)], "{}", rendered.text());
}

fn file(text: &str) -> SqlFile {
    SqlFile { path: "p/transform.sql".into(), text: text.into(), variables: Default::default() }
}

fn scene<'a>(pipeline: &'a str, column: &str) -> Scene<'a> {
    static TABLE: std::sync::LazyLock<TableName> =
        std::sync::LazyLock::new(|| TableName { schema: "public".into(), table: "orders".into() });
    Scene {
        pipeline,
        operation: Operation::Update,
        table: &TABLE,
        table_sql: "public.orders".into(),
        new: vec![column.to_owned()],
        old: vec!["id".into()],
        rows_sql: None,
    }
}
