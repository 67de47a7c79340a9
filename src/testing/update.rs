//! Rewrites a test's expectations as what was found, row by row, and leaves the rest of the file, comments included, as it
//! is. Pure: works on the file's lines.

use super::difference::{Cell, Difference, Fate, Row};
use super::{Failure, Played, Verdict};
use crate::config::{TestFile, TestRow};

/// The file's text with what was found for what was expected; None if nothing of it is to be rewritten.
pub fn updated(played: &Played) -> Option<String> {
    let (Some(file), Verdict::Failed(failures)) = (&played.file, &played.verdict) else { return None };
    let mut differences: Vec<&Difference> = failures
        .iter()
        .filter_map(|failure| match failure {
            Failure::Rows(difference) => Some(&**difference),
            Failure::Words(_) => None,
        })
        .collect();
    if differences.is_empty() {
        return None;
    }
    // From the end, so that lines keep their numbers.
    differences.sort_by_key(|difference| std::cmp::Reverse(difference.line));
    let mut lines: Vec<String> = file.text.lines().map(str::to_owned).collect();
    for difference in differences {
        rewrite(&mut lines, file, difference);
    }
    Some(lines.join("\n") + "\n")
}

fn rewrite(lines: &mut Vec<String>, file: &TestFile, difference: &Difference) {
    let key_line = difference.line - 1;
    let indent = difference.key_column() - 1;
    let end = block_end(lines, key_line, indent);
    let is_block = without_comment(&lines[key_line]).ends_with(':');
    let rows: Vec<usize> = difference.expected.iter().map(|(row, _)| row.line - 1).collect();
    let stand_alone = rows.iter().all(|&row| row > key_line && lines[row].trim_start().starts_with('-'))
        && rows.windows(2).all(|pair| pair[0] != pair[1]);
    if is_block && stand_alone {
        rewrite_rows(lines, file, difference, (key_line, end, indent));
    } else {
        rewrite_whole(lines, file, difference, (key_line, end, indent));
    }
}

fn rewrite_rows(
    lines: &mut Vec<String>,
    file: &TestFile,
    difference: &Difference,
    (key_line, end, indent): (usize, usize, usize),
) {
    let first = difference.expected.first().map(|(row, _)| row.line - 1);
    let dash = first.map_or(indent + 2, |row| indent_of(&lines[row]));
    let last = difference.expected.last().map_or(key_line + 1, |(row, _)| row_end(lines, row.line - 1, end));
    let extra: Vec<String> =
        difference.extra.iter().map(|row| line_of(dash, &all(difference, row))).collect();
    lines.splice(last..last, extra);
    for (expected, fate) in difference.expected.iter().rev() {
        let start = expected.line - 1;
        let range = start..row_end(lines, start, end);
        match fate {
            Fate::Equal => {}
            Fate::Missing => drop(lines.drain(range)),
            Fate::Changed(row) => {
                let cells = named(difference, file, expected.line, &expected.cells, row);
                lines.splice(range, [line_of(dash, &cells)]);
            }
        }
    }
    let is_left = |(_, fate): &(_, Fate)| !matches!(fate, Fate::Missing);
    if difference.extra.is_empty() && !difference.expected.iter().any(is_left) {
        let key = without_comment(&lines[key_line]).len();
        lines[key_line].insert_str(key, " []");
    }
}

/// For an expectation that isn't written row by row.
fn rewrite_whole(
    lines: &mut Vec<String>,
    file: &TestFile,
    difference: &Difference,
    (key_line, end, indent): (usize, usize, usize),
) {
    let mut rows: Vec<String> = Vec::new();
    for (expected, fate) in &difference.expected {
        let row: Row = match fate {
            Fate::Missing => continue,
            Fate::Changed(row) => row.clone(),
            Fate::Equal => expected
                .cells
                .iter()
                .map(|cell| match cell {
                    Cell::Value(value) => value.clone(),
                    _ => None,
                })
                .collect(),
        };
        rows.push(line_of(indent + 2, &named(difference, file, expected.line, &expected.cells, &row)));
    }
    rows.extend(difference.extra.iter().map(|row| line_of(indent + 2, &all(difference, row))));
    let colon = lines[key_line][indent..].find(": ").map_or(lines[key_line].len(), |at| indent + at + 1);
    let key = lines[key_line][..colon].to_owned();
    rows.insert(0, if rows.is_empty() { format!("{key} []") } else { key });
    lines.splice(key_line..end, rows);
}

/// The columns that the test's own row names.
fn named(
    difference: &Difference,
    file: &TestFile,
    line: usize,
    cells: &[Cell],
    row: &Row,
) -> Vec<(String, String)> {
    let steps = file.steps.iter().flat_map(|step| step.expect.iter().chain(&step.returns));
    let rows: Vec<&TestRow> =
        steps.flat_map(|expected| &expected.rows).filter(|row| row.place.line == line).collect();
    let is_named = |column: &String| {
        let of_row = |row: &&TestRow| row.cells.iter().any(|cell| cell.column == *column);
        rows.iter().any(of_row)
    };
    let columns = difference.columns.iter().zip(cells.iter().zip(row));
    columns
        .filter(|(column, _)| is_named(column))
        .map(|(column, (cell, value))| match cell {
            Cell::Any => (column.clone(), "<any>".to_owned()),
            Cell::NotNull if value.is_some() => (column.clone(), "<not null>".to_owned()),
            _ => (column.clone(), written(value)),
        })
        .collect()
}

fn all(difference: &Difference, row: &Row) -> Vec<(String, String)> {
    difference.columns.iter().cloned().zip(row.iter().map(written)).collect()
}

fn line_of(indent: usize, cells: &[(String, String)]) -> String {
    let cells: Vec<String> =
        cells.iter().map(|(column, value)| format!("{}: {value}", scalar(column))).collect();
    format!("{:indent$}- {{{}}}", "", cells.join(", "))
}

fn written(value: &Option<String>) -> String {
    value.as_deref().map_or_else(|| "null".to_owned(), scalar)
}

/// A text as YAML has it inside `{…}`.
pub fn scalar(text: &str) -> String {
    let is_fine = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | ' ' | '+' | '-' | '/' | ':');
    let is_plain = text.starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '-' && text.len() > 1)
        && !text.starts_with("- ")
        && !text.starts_with("--")
        && text.chars().all(is_fine)
        && !text.contains(": ")
        && !text.ends_with([' ', ':'])
        && !matches!(text.to_lowercase().as_str(), "null" | "~");
    if is_plain { text.to_owned() } else { serde_json::Value::String(text.to_owned()).to_string() }
}

fn indent_of(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

fn is_content(line: &str) -> bool {
    !line.trim().is_empty() && !line.trim_start().starts_with('#')
}

/// Behind the last line of the value of a key at this column.
fn block_end(lines: &[String], key_line: usize, indent: usize) -> usize {
    let mut end = key_line + 1;
    for (number, line) in lines.iter().enumerate().skip(key_line + 1).filter(|(_, line)| is_content(line)) {
        let is_item = indent_of(line) == indent && line.trim_start().starts_with("- ");
        if indent_of(line) <= indent && !is_item {
            break;
        }
        end = number + 1;
    }
    end
}

/// Behind the last line of a row.
fn row_end(lines: &[String], start: usize, block_end: usize) -> usize {
    let indent = indent_of(&lines[start]);
    let rest = lines[start + 1..block_end.min(lines.len())].iter();
    start + 1 + rest.take_while(|line| is_content(line) && indent_of(line) > indent).count()
}

fn without_comment(line: &str) -> &str {
    line.split(" #").next().unwrap_or(line).trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_where_yaml_would_read_something_else() {
        for (value, expected) in [
            (Some("2.50"), "2.50"),
            (Some("-3"), "-3"),
            (Some("Ada L."), "Ada L."),
            (Some("2024-01-01 10:00:00+00"), "2024-01-01 10:00:00+00"),
            (Some("a: b"), "\"a: b\""),
            (Some("{\"a\": 1}"), "\"{\\\"a\\\": 1}\""),
            (Some(""), "\"\""),
            (Some("null"), "\"null\""),
            (Some("<any>"), "\"<any>\""),
            (Some("a, b"), "\"a, b\""),
            (Some("- a"), "\"- a\""),
            (None, "null"),
        ] {
            assert_eq!(written(&value.map(str::to_owned)), expected);
        }
    }

    #[test]
    fn a_block_ends_where_the_indentation_does() {
        let lines: Vec<String> = "a:\n  - x: 1\n    y: 2\n\n  # c\n  - z\n\n# d\nb:\n- q\nc: 1"
            .lines()
            .map(str::to_owned)
            .collect();
        assert_eq!(block_end(&lines, 0, 0), 6);
        assert_eq!(row_end(&lines, 1, 6), 3);
        assert_eq!(block_end(&lines, 8, 0), 10);
    }
}
