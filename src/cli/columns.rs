//! Text in columns, for people.

use unicode_width::UnicodeWidthStr;

/// What a value may take of a line.
const WIDTH_MAX: usize = 60;

/// A row of text.
pub(super) fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// Pads all columns but the last.
pub(super) fn columns(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().filter_map(|r| r.get(column)).map(|c| c.width()).max();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().enumerate();
        let padding = |at: usize, cell: &String| " ".repeat(width(at).unwrap_or(0) - cell.width() + 2);
        let line: String = cells.map(|(at, cell)| format!("{cell}{}", padding(at, cell))).collect();
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// A value in one line, cut where it is long; control characters can't reach the terminal.
pub(super) fn value(value: Option<&str>) -> String {
    let Some(value) = value else { return "NULL".to_owned() };
    let mut shown = String::new();
    for letter in value.chars() {
        if shown.width() >= WIDTH_MAX {
            return shown + "…";
        }
        if letter.is_control() {
            shown.extend(letter.escape_default());
        } else {
            shown.push(letter);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [row(["A", "B", "C"]), row(["long", "–", "x"]), row(["日本", "bb", ""])];
        assert_eq!(columns(&rows), "A     B   C\nlong  –   x\n日本  bb\n");
    }

    #[test]
    fn values_are_one_short_line() {
        let long = "x".repeat(100);
        for (given, shown) in [
            (None, "NULL".to_owned()),
            (Some("a\nb\u{1b}[31m"), "a\\nb\\u{1b}[31m".to_owned()),
            (Some(long.as_str()), "x".repeat(60) + "…"),
        ] {
            assert_eq!(value(given), shown);
        }
    }
}
