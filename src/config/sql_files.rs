//! Finds and reads a pipeline's SQL files. What they mean is `transform`'s to say.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::diagnostic::Diagnostic;
use super::expression::Variables;
use super::nearest::{did_you_mean, list};
use super::project::{SqlFile, SqlFiles};
use super::report::Report;
use super::source_file::{file_name, read_text, shown_path};
use crate::codes::Code;

/// The files that a pipeline may have.
pub(super) const SQL_FILE_NAMES: [&str; 6] =
    ["transform.sql", "insert.sql", "update.sql", "delete.sql", "load.sql", "truncate.sql"];

/// Reads those of the folder's files that are SQL files, and warns of any that only look like one.
pub(super) fn read_sql_files(files: &[PathBuf], variables: &Variables, report: &Report) -> SqlFiles {
    let read = |name: &str| {
        let path = files.iter().find(|path| file_name(path) == name)?;
        read_sql_file(path, variables, report)
    };
    let sql = SqlFiles {
        transform: read("transform.sql"),
        insert: read("insert.sql"),
        update: read("update.sql"),
        delete: read("delete.sql"),
        load: read("load.sql"),
        truncate: read("truncate.sql"),
    };
    for path in files.iter().filter(|path| looks_like_sql(path)) {
        let name = file_name(path);
        if !SQL_FILE_NAMES.contains(&name.as_str()) {
            let warning =
                Diagnostic::warning(Code::UnusedFile, shown_path(path), format!("`{name}` is not used"));
            report.add(warning.help(did_you_mean(&name, SQL_FILE_NAMES)));
        }
    }
    if let (Some(truncate), false) = (&sql.truncate, files.iter().any(|path| file_name(path) == "load.sql")) {
        let message = "truncate.sql works only beside a load.sql";
        let help = "without one, `on: {truncate: truncate}` in the config file empties the output";
        report.add(Diagnostic::error(Code::TruncateFile, &truncate.path, message).help(help));
    }
    sql
}

/// Says that a folder with SQL files is no pipeline.
pub(super) fn warn_of_no_config(folder: &Path, files: &[PathBuf], report: &Report) {
    let names: Vec<String> = files.iter().map(|path| file_name(path)).collect();
    let names: Vec<&str> =
        names.iter().map(String::as_str).filter(|name| SQL_FILE_NAMES.contains(name)).collect();
    if !names.is_empty() {
        let message =
            format!("`{}` has {} but no config.yml, so it is no pipeline", file_name(folder), list(&names));
        report.add(Diagnostic::warning(Code::NoConfigFile, shown_path(folder), message));
    }
}

fn looks_like_sql(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("sql"))
}

fn read_sql_file(path: &Path, variables: &Variables, report: &Report) -> Option<SqlFile> {
    let name = file_name(path);
    let shown = shown_path(path);
    let (code, problem) = match read_text(path) {
        Ok(text) if text.contains('\0') => (Code::FileUnreadable, format!("`{name}` holds a zero byte")),
        Ok(text) if !has_statement(&text) => (Code::FileEmpty, format!("`{name}` holds no statement")),
        Ok(text) => {
            return Some(SqlFile { path: shown, text: Arc::from(text), variables: variables.clone() });
        }
        Err(reason) => (Code::FileUnreadable, format!("`{name}` cannot be read: {reason}")),
    };
    report.add(Diagnostic::error(code, shown, problem));
    None
}

/// Whether there is anything but blanks, semicolons and comments of SQL and of templates.
fn has_statement(text: &str) -> bool {
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ';');
        let behind = if rest.starts_with("--") {
            rest.find('\n').map(|end| &rest[end..])
        } else if rest.starts_with("/*") {
            block_comment_end(rest).map(|end| &rest[end..])
        } else if rest.starts_with("{#") {
            rest.find("#}").map(|end| &rest[end + 2..])
        } else {
            return !rest.is_empty();
        };
        rest = behind.unwrap_or_default();
    }
}

/// Comments of this kind nest in SQL.
fn block_comment_end(text: &str) -> Option<usize> {
    let mut depth = 0;
    let mut at = 0;
    while let Some(found) = text[at..].find(['/', '*']) {
        at += found;
        let step = match &text[at..] {
            rest if rest.starts_with("/*") => {
                depth += 1;
                2
            }
            rest if rest.starts_with("*/") => {
                depth -= 1;
                2
            }
            _ => 1,
        };
        at += step;
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_no_statement() {
        let cases = [
            ("", false),
            (" ;\n", false),
            ("-- SELECT 1", false),
            ("-- a\n/* b /* c */ d */ {# e #}\n;", false),
            ("/* open", false),
            ("/* a */ SELECT 1", true),
            ("{{ x }}", true),
            ("-- a\nSELECT 1", true),
            ("/* a /* b */ SELECT 1", false),
        ];
        for (text, expected) in cases {
            assert_eq!(has_statement(text), expected, "{text:?}");
        }
    }
}
