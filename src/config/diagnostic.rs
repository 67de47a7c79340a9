//! What is wrong with a project's files, and how that looks on a terminal. Never holds a secret: the text
//! of a diagnostic is masked before anybody sees it.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::mask::SecretMask;
use super::template::Place;
use crate::codes::Code;

/// Whether the project may be used all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// No.
    Error,
    /// Yes, but it probably isn't what was meant.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        })
    }
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Which kind of problem.
    pub code: Code,
    /// How bad it is.
    pub severity: Severity,
    /// The file or folder; None if it is about a server.
    pub file: Option<PathBuf>,
    /// Line, counted from 1.
    pub line: Option<usize>,
    /// Column in characters, counted from 1.
    pub column: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// The line of the file.
    #[serde(skip)]
    pub excerpt: Option<String>,
    /// What to do.
    pub help: Option<String>,
    /// The column in the excerpt, which is another where something before it is hidden.
    #[serde(skip)]
    caret: usize,
}

impl Diagnostic {
    /// A problem that stops.
    pub fn error(code: Code, file: impl Into<PathBuf>, message: impl Into<String>) -> Diagnostic {
        Diagnostic { file: Some(file.into()), ..Diagnostic::of_server(code, message) }
    }

    /// A problem that stops, and that no file is about: a server's. The message says which.
    pub fn of_server(code: Code, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            code,
            severity: Severity::Error,
            file: None,
            line: None,
            column: None,
            message: message.into(),
            excerpt: None,
            help: None,
            caret: 1,
        }
    }

    /// A problem that doesn't stop.
    pub fn warning(code: Code, file: impl Into<PathBuf>, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(code, file, message).as_warning()
    }

    /// The same, as one that doesn't stop.
    pub fn as_warning(self) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..self }
    }

    /// Places it in a text that holds no secrets, such as a SQL file.
    pub fn within(self, text: &str, place: Place) -> Diagnostic {
        let place = Place { line: place.line.max(1), column: place.column.max(1) };
        let line = text.lines().nth(place.line - 1);
        self.at(place, line.map(|line| (line.to_owned(), place.column)))
    }

    /// Places it; the excerpt comes with the column that the place has in it.
    pub(super) fn at(mut self, place: Place, excerpt: Option<(String, usize)>) -> Diagnostic {
        self.line = Some(place.line);
        self.column = Some(place.column);
        if let Some((excerpt, caret)) = excerpt {
            self.excerpt = Some(excerpt);
            self.caret = caret;
        }
        self
    }

    /// With what to do.
    pub fn help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(help.into());
        self
    }

    pub(super) fn maybe_help(mut self, help: Option<String>) -> Diagnostic {
        self.help = help;
        self
    }

    /// What is wrong and what to do, in one line without the code: for logs, which have the code as a field.
    pub fn one_line(&self) -> String {
        let place = match (&self.file, self.line) {
            (Some(file), Some(line)) => format!("{}:{line}: ", file.display()),
            (Some(file), None) => format!("{}: ", file.display()),
            (None, _) => String::new(),
        };
        let help = self.help.iter().map(|help| format!(". {}", help.replace('\n', "; "))).collect::<String>();
        format!("{place}{}{help}", self.message)
    }

    /// The same, without the secrets.
    pub fn masked(mut self, mask: &SecretMask) -> Diagnostic {
        let masked = |text: String| mask.mask(&text).into_owned();
        if let Some(excerpt) = &self.excerpt {
            let before: String = excerpt.chars().take(self.caret - 1).collect();
            let beyond = (self.caret - 1).saturating_sub(before.chars().count());
            self.caret = masked(before).chars().count() + beyond + 1;
        }
        self.message = masked(self.message);
        self.excerpt = self.excerpt.map(masked);
        self.help = self.help.map(masked);
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]: {}", self.severity, self.code, printable(&self.message))?;
        let margin = self.line.map_or(1, |line| line.to_string().len());
        if let Some(file) = &self.file {
            write!(f, "\n{:margin$}--> {}", "", printable(&file.display().to_string()))?;
        }
        if let Some(line) = self.line {
            write!(f, ":{line}:{}", self.column.unwrap_or(1))?;
            if let Some(excerpt) = &self.excerpt {
                let (excerpt, caret) = window(excerpt, self.caret);
                write!(f, "\n{:margin$} |\n{line} | {excerpt}\n{:margin$} | {:caret$}^", "", "", "")?;
            }
        }
        if let Some(help) = &self.help {
            let mut lines = help.lines();
            write!(f, "\n{:margin$} = help: {}", "", printable(lines.next().unwrap_or_default()))?;
            for line in lines {
                write!(f, "\n{:margin$}         {}", "", printable(line))?;
            }
        }
        Ok(())
    }
}

/// How much of a long line is shown, in characters.
const WINDOW: usize = 100;

/// The part of a line around a column, and how far into it the column lies.
fn window(line: &str, column: usize) -> (String, usize) {
    let chars: Vec<char> = line.trim_end().chars().map(|c| if c == '\t' { ' ' } else { c }).collect();
    let caret = column.saturating_sub(1).min(chars.len());
    if chars.len() <= WINDOW {
        return (printable(&chars.iter().collect::<String>()), caret);
    }
    let start = caret.saturating_sub(WINDOW / 2).min(chars.len() - WINDOW);
    let end = start + WINDOW;
    let (before, after) = (if start > 0 { "…" } else { "" }, if end < chars.len() { "…" } else { "" });
    let shown: String = chars[start..end].iter().collect();
    (format!("{before}{}{after}", printable(&shown)), caret - start + before.chars().count())
}

/// Control characters could move the terminal's cursor.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect()
}

/// All problems that were found, in the order of files and lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    pub(super) fn new(diagnostics: Vec<Diagnostic>, mask: &SecretMask) -> Diagnostics {
        Diagnostics(diagnostics.into_iter().map(|diagnostic| diagnostic.masked(mask)).collect())
    }

    /// One after the other.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Diagnostic> for Diagnostics {
    fn from_iter<I: IntoIterator<Item = Diagnostic>>(diagnostics: I) -> Diagnostics {
        Diagnostics(diagnostics.into_iter().collect())
    }
}

impl IntoIterator for Diagnostics {
    type Item = Diagnostic;
    type IntoIter = std::vec::IntoIter<Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, diagnostic) in self.0.iter().enumerate() {
            let gap = if i == 0 { "" } else { "\n\n" };
            write!(f, "{gap}{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diagnostic_reads_as_the_compilers_do() {
        let plain = Diagnostic::error(Code::NoProjectFile, "shop", "it has no trucker.yml")
            .help("create it\n  name: shop");
        assert_eq!(
            plain.to_string(),
            "error[TRK0102]: it has no trucker.yml\n --> shop\n  = help: create it\n            name: shop"
        );
        let text = format!("{}\t x: 1\n", "\n".repeat(11));
        let placed = Diagnostic::warning(Code::Value, "a.yml", "odd\u{1b}[2J")
            .within(&text, Place { line: 12, column: 3 });
        assert_eq!(
            placed.to_string(),
            "warning[TRK0113]: odd\u{FFFD}[2J\n  --> a.yml:12:3\n   |\n12 |   x: 1\n   |   ^"
        );
    }

    #[test]
    fn a_caret_follows_what_is_masked() {
        let mask = SecretMask::new([b"hunter2".as_slice()]);
        let excerpt = Some(("{a: hunter2, b: 1}".to_owned(), 14));
        let placed =
            Diagnostic::error(Code::Value, "a", "hunter2").at(Place { line: 1, column: 14 }, excerpt);
        let shown = Diagnostics::new(vec![placed], &mask).to_string();
        assert_eq!(shown, "error[TRK0113]: ***\n --> a:1:14\n  |\n1 | {a: ***, b: 1}\n  |          ^");
    }

    #[test]
    fn a_long_line_is_shown_around_its_column() {
        let line = format!("{}x{}", "a".repeat(300), "b".repeat(300));
        let (shown, caret) = window(&line, 301);
        assert_eq!(shown.chars().nth(caret), Some('x'));
        assert_eq!(shown.chars().count(), WINDOW + 2);
        assert_eq!(window(&line, 601).0.chars().count(), WINDOW + 1);
        assert_eq!(window("ab", 99), ("ab".to_owned(), 2));
    }
}
