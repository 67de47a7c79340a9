//! Which rows of a table are which of those expected, and how that looks on a terminal. Pure.

use std::fmt;
use std::path::PathBuf;

use crate::codes::Code;
use crate::config::{Expectation, RETURNED, TableName, TestFile};

/// A row of the table: what is in the columns that are compared.
pub type Row = Vec<Option<String>>;

/// What is expected of a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell {
    /// Whatever is there.
    Any,
    /// Whatever is there, but no NULL.
    NotNull,
    /// This.
    Value(Option<String>),
}

impl Cell {
    /// Whether that is as expected.
    pub fn accepts(&self, found: &Option<String>) -> bool {
        match self {
            Cell::Any => true,
            Cell::NotNull => found.is_some(),
            Cell::Value(value) => value == found,
        }
    }

    fn shown(&self) -> String {
        match self {
            Cell::Any => "<any>".to_owned(),
            Cell::NotNull => "<not null>".to_owned(),
            Cell::Value(value) => shown(value),
        }
    }
}

/// A row that is expected.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Its line in the test.
    pub line: usize,
    /// In the columns' order.
    pub cells: Vec<Cell>,
}

/// The columns that are compared.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Their names.
    pub columns: Vec<String>,
    /// Which of them tell rows apart; none where the test doesn't name the key.
    pub key: Vec<usize>,
}

/// What became of a row.
#[derive(Debug, Clone)]
pub enum Fate {
    /// It is there.
    Equal,
    /// One that is much like it is there.
    Changed(Row),
    /// It isn't there.
    Missing,
}

/// Rows, each with its counterpart.
#[derive(Debug)]
pub struct Paired {
    shape: Shape,
    expected: Vec<(Expected, Fate)>,
    extra: Vec<Row>,
}

/// Pairs rows; None if there is no difference.
pub fn pair(shape: Shape, wanted: Vec<Expected>, mut found: Vec<Row>) -> Option<Paired> {
    let mut fates: Vec<Option<Fate>> = vec![None; wanted.len()];
    // Those that leave the least open choose first.
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by_key(|&number| wanted[number].cells.iter().filter(|cell| **cell == Cell::Any).count());
    for &number in &order {
        let cells = &wanted[number].cells;
        if let Some(at) =
            found.iter().position(|row| cells.iter().zip(row).all(|(cell, value)| cell.accepts(value)))
        {
            found.remove(at);
            fates[number] = Some(Fate::Equal);
        }
    }
    for number in 0..wanted.len() {
        if fates[number].is_none() {
            let alike = most_alike(&shape, &wanted[number].cells, &found);
            fates[number] = Some(alike.map_or(Fate::Missing, |at| Fate::Changed(found.remove(at))));
        }
    }
    let expected: Vec<(Expected, Fate)> = wanted.into_iter().zip(fates.into_iter().flatten()).collect();
    let is_same = found.is_empty() && expected.iter().all(|(_, fate)| matches!(fate, Fate::Equal));
    (!is_same).then_some(Paired { shape, expected, extra: found })
}

/// The row with the same key; without one, the row that shares the most cells, if that is half of them.
fn most_alike(shape: &Shape, cells: &[Cell], found: &[Row]) -> Option<usize> {
    if !shape.key.is_empty() {
        return found.iter().position(|row| shape.key.iter().all(|&at| cells[at].accepts(&row[at])));
    }
    let equal = |row: &Row| cells.iter().zip(row).filter(|(cell, value)| cell.accepts(value)).count();
    let best = found
        .iter()
        .enumerate()
        .map(|(at, row)| (equal(row), at))
        .max_by_key(|(equal, at)| (*equal, usize::MAX - at))?;
    (2 * best.0 >= cells.len() && best.0 > 0).then_some(best.1)
}

impl Paired {
    /// Says what it is about.
    pub fn about(self, file: &TestFile, expected: &Expectation, table: &TableName) -> Difference {
        let what = if table.schema == RETURNED {
            format!("what the SQL returned for {}s isn't what is expected", table.table)
        } else {
            format!("{table} isn't what is expected")
        };
        Difference {
            what,
            shown: file.shown.clone(),
            line: expected.place.line,
            column: expected.place.column,
            columns: self.shape.columns,
            expected: self.expected,
            extra: self.extra,
        }
    }
}

/// How a table differs from what a test expects.
#[derive(Debug)]
pub struct Difference {
    what: String,
    shown: PathBuf,
    /// Where the expectation begins.
    pub line: usize,
    column: usize,
    /// Names of the columns that are compared.
    pub columns: Vec<String>,
    /// In the test's order.
    pub expected: Vec<(Expected, Fate)>,
    /// Rows that nothing expects.
    pub extra: Vec<Row>,
}

/// How many rows are shown.
const ROWS_MAX: usize = 50;
/// How much of a cell is shown, in characters.
const CELL_MAX: usize = 60;

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (lines, hidden) = self.lines();
        let margin = lines.iter().filter_map(|line| line.number).max().unwrap_or(1).to_string().len();
        write!(
            f,
            "error[{}]: {}\n{:margin$}--> {}:{}:{}",
            Code::TestDiffers,
            self.what,
            "",
            self.shown.display(),
            self.line,
            self.column
        )?;
        write!(f, "\n{:margin$} |", "")?;
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|at| {
                lines.iter().filter_map(|line| line.cells.get(at)).map(|cell| cell.chars().count()).max()
            })
            .map(Option::unwrap_or_default)
            .collect();
        for line in &lines {
            let number = line.number.map(|number| number.to_string()).unwrap_or_default();
            let mut text = format!("{number:>margin$} | {}", line.sign);
            for (cell, &width) in line.cells.iter().zip(&widths) {
                text.push_str("  ");
                text.push_str(cell);
                text.extend(std::iter::repeat_n(' ', width - cell.chars().count()));
            }
            write!(f, "\n{}", text.trim_end())?;
        }
        if hidden > 0 {
            write!(f, "\n{:margin$} | … and {hidden} more", "")?;
        }
        let equal = self.expected.iter().filter(|(_, fate)| matches!(fate, Fate::Equal)).count();
        let rows = if equal == 1 { "1 row is".to_owned() } else { format!("{equal} rows are") };
        write!(f, "\n{:margin$} = {rows} as expected; {}", "", self.legend())
    }
}

struct Line {
    number: Option<usize>,
    sign: char,
    cells: Vec<String>,
}

impl Difference {
    /// Column of the expectation's key.
    pub fn key_column(&self) -> usize {
        self.column
    }

    fn lines(&self) -> (Vec<Line>, usize) {
        let mut lines = vec![Line { number: None, sign: ' ', cells: self.columns.clone() }];
        for (expected, fate) in &self.expected {
            let shown = |cells: Vec<String>, sign| Line { number: Some(expected.line), sign, cells };
            let cells = expected.cells.iter();
            lines.extend(match fate {
                Fate::Equal => None,
                Fate::Missing => Some(shown(cells.map(Cell::shown).collect(), '-')),
                Fate::Changed(row) => Some(shown(cells.zip(row).map(changed).collect(), '~')),
            });
        }
        let extra = self.extra.iter();
        lines.extend(extra.map(|row| Line {
            number: None,
            sign: '+',
            cells: row.iter().map(shown).collect(),
        }));
        let hidden = lines.len().saturating_sub(ROWS_MAX + 1);
        lines.truncate(ROWS_MAX + 1);
        (lines, hidden)
    }

    fn legend(&self) -> String {
        let is = |wanted: fn(&Fate) -> bool| self.expected.iter().any(|(_, fate)| wanted(fate));
        let parts = [
            is(|fate| matches!(fate, Fate::Missing)).then_some("- is missing"),
            (!self.extra.is_empty()).then_some("+ isn't expected"),
            is(|fate| matches!(fate, Fate::Changed(_))).then_some("~ expected → found"),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

fn changed((cell, value): (&Cell, &Option<String>)) -> String {
    if cell.accepts(value) { shown(value) } else { format!("{} → {}", cell.shown(), shown(value)) }
}

fn shown(value: &Option<String>) -> String {
    let Some(text) = value else { return "NULL".to_owned() };
    let is_plain =
        !text.is_empty() && text.trim() == text && text != "NULL" && !text.contains(char::is_control);
    let text = if is_plain { text.clone() } else { format!("{text:?}") };
    match text.char_indices().nth(CELL_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Cell {
        Cell::Value(Some(text.to_owned()))
    }

    fn row(cells: &[&str]) -> Row {
        cells.iter().map(|cell| (*cell != "NULL").then(|| (*cell).to_owned())).collect()
    }

    fn shape(columns: &[&str], key: &[usize]) -> Shape {
        Shape { columns: columns.iter().map(|name| (*name).to_owned()).collect(), key: key.to_vec() }
    }

    fn expected(line: usize, cells: &[Cell]) -> Expected {
        Expected { line, cells: cells.to_vec() }
    }

    fn difference(paired: Paired) -> String {
        let Paired { shape, expected, extra } = paired;
        let difference = Difference {
            what: "public.t isn't what is expected".to_owned(),
            shown: "p/tests/a.yml".into(),
            line: 7,
            column: 1,
            columns: shape.columns,
            expected,
            extra,
        };
        difference.to_string()
    }

    #[test]
    fn rows_are_paired_by_key_and_changed_cells_are_marked() {
        let wanted = vec![
            expected(8, &[value("1"), value("Ada"), Cell::Any]),
            expected(9, &[value("2"), value("Bob"), Cell::NotNull]),
            expected(10, &[value("3"), Cell::Value(None), Cell::Any]),
        ];
        let found = vec![row(&["2", "Bea", "NULL"]), row(&["1", "Ada", "x"]), row(&["4", " d\n", "NULL"])];
        let paired = pair(shape(&["id", "name", "at"], &[0]), wanted, found).unwrap();
        assert_eq!(
            difference(paired),
            "error[TRK1005]: public.t isn't what is expected\n  --> p/tests/a.yml:7:1\n   |\n   |    id  name       at\n \
             9 | ~  2   Bob → Bea  <not null> → NULL\n10 | -  3   NULL       <any>\n   | +  4   \" d\\n\"     NULL\n   \
             = 1 row is as expected; - is missing, + isn't expected, ~ expected → found"
        );
    }

    #[test]
    fn without_a_key_equal_rows_go_first_and_the_rest_by_what_they_share() {
        let wanted = vec![
            expected(1, &[Cell::Any, Cell::Any]),
            expected(2, &[value("a"), value("b")]),
            expected(3, &[value("c"), value("d")]),
        ];
        let found = vec![row(&["a", "b"]), row(&["x", "y"]), row(&["c", "e"])];
        let paired = pair(shape(&["k", "v"], &[]), wanted.clone(), found.clone()).unwrap();
        assert!(matches!(paired.expected[0].1, Fate::Equal));
        assert!(matches!(&paired.expected[2].1, Fate::Changed(row) if row[1].as_deref() == Some("e")));
        assert!(paired.extra.is_empty());
        let same = vec![found[0].clone(), found[1].clone(), row(&["c", "d"])];
        assert!(pair(shape(&["k", "v"], &[]), wanted, same).is_none());
    }

    #[test]
    fn equal_rows_are_counted() {
        let two = || vec![row(&["a"]), row(&["a"])];
        let wanted = vec![expected(1, &[value("a")])];
        let paired = pair(shape(&["v"], &[]), wanted, two()).unwrap();
        assert_eq!(paired.extra, [row(&["a"])]);
    }
}
