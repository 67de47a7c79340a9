//! The rules of the house that a machine can keep. Reads the repository's own sources, and nothing else.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

/// What each module may use, in reading order; all may use `failpoint`, which is nothing in a release build, and `codes`. A name that is
/// missing here is a module nobody decided on.
const MAY_USE: &[(&str, &[&str])] = &[
    ("failpoint", &[]),
    ("codes", &[]),
    ("change", &[]),
    ("checkpoint", &["change"]),
    ("config", &[]),
    ("tls", &["config"]),
    ("postgres", &["change", "config", "tls"]),
    ("clickhouse", &["change", "config", "tls"]),
    ("ddl", &["config", "postgres"]),
    ("source", &["change", "checkpoint", "config", "postgres"]),
    ("transform", &["change", "checkpoint", "config", "postgres"]),
    ("sink", &["change", "checkpoint", "config", "postgres", "clickhouse"]),
    (
        "pipeline",
        &["change", "checkpoint", "config", "postgres", "clickhouse", "source", "transform", "sink"],
    ),
    (
        "engine",
        &[
            "change",
            "checkpoint",
            "config",
            "postgres",
            "clickhouse",
            "source",
            "transform",
            "sink",
            "pipeline",
            "observe",
        ],
    ),
    ("observe", &["change", "config"]),
    ("sandbox", &[]),
    ("testing", &["config", "postgres", "clickhouse", "ddl", "engine", "observe", "sandbox"]),
    ("scaffold", &["config", "postgres", "clickhouse", "ddl", "testing"]),
    (
        "cli",
        &[
            "change",
            "checkpoint",
            "config",
            "postgres",
            "clickhouse",
            "source",
            "transform",
            "sink",
            "pipeline",
            "engine",
            "observe",
            "sandbox",
            "testing",
            "scaffold",
        ],
    ),
];

const FORBIDDEN_NAMES: &[&str] =
    &["core", "base", "utils", "util", "common", "helpers", "helper", "misc", "manager"];

struct Source {
    /// Relative to the repository.
    path: PathBuf,
    lines: Vec<String>,
    /// Whether it is a module that its parent has in tests alone.
    is_test: bool,
}

impl Source {
    /// The lines that are part of the program: no comments, and nothing from the inline tests on.
    fn program(&self) -> impl Iterator<Item = (usize, &str)> {
        let end = if self.is_test { 0 } else { self.tests_start().unwrap_or(self.lines.len()) };
        self.code().take_while(move |(number, _)| *number <= end)
    }

    /// Where the inline tests begin; 0 for a file of tests.
    fn tests_start(&self) -> Option<usize> {
        if self.is_test {
            return Some(0);
        }
        let is_start = |pair: &[String]| pair[0] == "#[cfg(test)]" && pair[1].ends_with('{');
        self.lines.windows(2).position(is_start)
    }

    /// The files that it declares as modules for tests alone.
    fn test_modules(&self) -> Vec<PathBuf> {
        let stem = self.path.with_extension("");
        let is_root = ["mod", "lib", "main"].iter().any(|name| stem.ends_with(name));
        let folder = if is_root { stem.parent().unwrap().to_owned() } else { stem };
        let mut files = Vec::new();
        for (index, _) in self.lines.iter().enumerate().filter(|(_, line)| *line == "#[cfg(test)]") {
            for line in self.lines[index + 1..].iter().take(2) {
                if let Some(name) = line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')) {
                    files.extend([folder.join(format!("{name}.rs")), folder.join(name).join("mod.rs")]);
                }
                if let Some(name) = line.strip_prefix("#[path = \"").and_then(|rest| rest.strip_suffix("\"]"))
                {
                    files.push(self.path.with_file_name(name));
                }
            }
        }
        files
    }

    /// The lines that are not comments.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let numbered = self.lines.iter().enumerate().map(|(index, line)| (index + 1, line.as_str()));
        numbered.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    /// The module below `src`, None for lib.rs and main.rs.
    fn module(&self) -> Option<&str> {
        let name = self.path.strip_prefix("src").ok()?.iter().next()?.to_str()?;
        let name = name.strip_suffix(".rs").unwrap_or(name);
        (name != "lib" && name != "main").then_some(name)
    }

    fn is_below(&self, folder: &str) -> bool {
        self.path.starts_with(folder)
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders =
        ["src", "tests", "benches", "fuzz/src", "fuzz/fuzz_targets"].map(|name| root.join(name)).to_vec();
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let lines = fs::read_to_string(&path).unwrap().lines().map(str::to_owned).collect();
                let path = path.strip_prefix(root).unwrap().to_owned();
                sources.push(Source { is_test: path.starts_with("tests"), path, lines });
            }
        }
    }
    assert!(sources.len() > 10, "the sources were not found");
    let tests: Vec<PathBuf> = sources.iter().flat_map(Source::test_modules).collect();
    sources.iter_mut().filter(|source| tests.contains(&source.path)).for_each(|source| source.is_test = true);
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

/// Fails with all findings at once.
fn check(rule: &str, find: impl Fn(&Source) -> Vec<String>) {
    let findings: Vec<String> = sources()
        .iter()
        .flat_map(|source| find(source).into_iter().map(|text| format!("{}: {text}", source.path.display())))
        .collect();
    assert!(findings.is_empty(), "{rule}\n  {}", findings.join("\n  "));
}

fn lines_with(lines: impl Iterator<Item = (usize, impl AsRef<str>)>, words: &[&str]) -> Vec<String> {
    lines
        .flat_map(|(number, line)| {
            let line = line.as_ref().to_owned();
            words
                .iter()
                .filter(move |word| line.contains(**word))
                .map(move |word| format!("line {number}: {word}"))
        })
        .collect()
}

#[test]
fn each_module_uses_only_those_that_it_may() {
    check("an import against the reading order; see MAY_USE in tests/tidy.rs", |source| {
        let Some(module) = source.module() else { return Vec::new() };
        let Some((_, may)) = MAY_USE.iter().find(|(name, _)| *name == module) else {
            return vec![format!("module {module} has no entry")];
        };
        let text: String = source.program().map(|(_, line)| format!("{line}\n")).collect();
        let used = used_modules(&text);
        used.into_iter()
            .filter(|name| name != module && MAY_USE.iter().any(|(known, _)| known == name))
            .filter(|name| !["failpoint", "codes"].contains(&name.as_str()) && !may.contains(&name.as_str()))
            .map(|name| format!("{module} uses {name}"))
            .collect()
    });
}

/// The names that follow `crate::`, also within `crate::{…}`.
fn used_modules(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (start, _) in text.match_indices("crate::") {
        let rest = &text[start + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            names.push(identifier(rest));
            continue;
        };
        let mut depth = 0;
        let mut is_start = true;
        for (index, letter) in group.char_indices() {
            if is_start && depth == 0 && letter.is_alphabetic() {
                names.push(identifier(&group[index..]));
                is_start = false;
            }
            match letter {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => is_start = true,
                _ => {}
            }
        }
    }
    names
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
}

#[test]
fn imports_are_found_in_every_form() {
    let text = "use crate::a::B;\nuse crate::{c::{D, E}, f, g::H};\nlet x = crate::i::j();";
    assert_eq!(used_modules(text), ["a", "c", "f", "g", "i"]);
}

#[test]
fn files_are_short() {
    check("split it where a reader would", |source| {
        let count = source.lines.len();
        if count > LINES_MAX { vec![format!("{count} lines, more than {LINES_MAX}")] } else { Vec::new() }
    });
}

#[test]
fn functions_fit_on_a_screen() {
    check("give its parts names of their own", |source| {
        // The sources are formatted, so that a function ends with a brace in its own column.
        let mut findings = Vec::new();
        for (index, line) in source.lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let starts = ["fn ", "pub fn ", "async fn ", "pub async fn ", "const fn ", "pub const fn "];
            let is_scoped = line.trim_start().starts_with("pub(") && line.contains(" fn ");
            if !is_scoped && !starts.iter().any(|start| line.trim_start().starts_with(start)) {
                continue;
            }
            let end = " ".repeat(indent) + "}";
            let length = source.lines[index..].iter().position(|line| *line == end).unwrap_or(0) + 1;
            if length > FUNCTION_LINES_MAX {
                findings.push(format!("line {}: a function of {length} lines", index + 1));
            }
        }
        findings
    });
}

#[test]
fn every_file_says_what_it_is() {
    check("open the file with `//!`: what it owns and what it never does", |source| {
        let is_said = source.lines.first().is_some_and(|line| line.starts_with("//! "));
        if is_said { Vec::new() } else { vec!["no head".to_owned()] }
    });
}

#[test]
fn no_file_has_a_name_that_says_nothing() {
    check("name it after what it owns", |source| {
        let names =
            source.path.iter().filter_map(|part| part.to_str()).map(|part| part.trim_end_matches(".rs"));
        names.filter(|name| FORBIDDEN_NAMES.contains(name)).map(str::to_owned).collect()
    });
}

#[test]
fn what_is_public_is_named_one_by_one() {
    check("no re-exports by glob", |source| {
        let globs = source
            .program()
            .filter(|(_, line)| line.trim_start().starts_with("pub") && line.contains("use "));
        globs.filter(|(_, line)| line.contains("::*")).map(|(number, _)| format!("line {number}")).collect()
    });
}

#[test]
fn nothing_in_the_program_unwraps() {
    check("say the invariant with `expect`, or return the error", |source| {
        if source.is_below("src") {
            lines_with(source.program(), &[".unwrap()", ".unwrap_err()"])
        } else {
            Vec::new()
        }
    });
}

#[test]
fn no_answer_of_a_server_can_panic() {
    check("`get` panics where a row isn't as expected: `try_get`", |source| {
        let words = [concat!("row.", "get("), concat!("row.", "get::<")];
        if source.is_below("src") { lines_with(source.program(), &words) } else { Vec::new() }
    });
}

#[test]
fn nothing_is_left_for_later() {
    check("finish it or leave it out", |source| {
        let words = [
            concat!("todo", "!("),
            concat!("unimplemented", "!("),
            concat!("dbg", "!("),
            concat!("#[", "ignore"),
        ];
        lines_with(source.code(), &words)
    });
}

#[test]
fn tests_wait_for_conditions_and_never_for_time() {
    check("wait with `eventually` or `holds_for`", |source| {
        if source.path.ends_with("harness/poll.rs") {
            return Vec::new();
        }
        let Some(first) = source.tests_start() else { return Vec::new() };
        let words = [concat!("thread::", "sleep"), concat!("time::", "sleep"), concat!(" sleep", "(")];
        lines_with(source.code().filter(|(number, _)| *number > first), &words)
    });
}

#[test]
fn the_modules_are_those_of_the_table() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let mut declared: Vec<&str> =
        lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let mut known: Vec<&str> = MAY_USE.iter().map(|(name, _)| *name).collect();
    declared.sort_unstable();
    known.sort_unstable();
    assert_eq!(declared, known);
}

fn text_of(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// What stands between `start` and `end`, wherever that is of letters, digits and underscores alone.
fn words_between(text: &str, start: &str, end: char) -> BTreeSet<String> {
    let words = text.match_indices(start).filter_map(|(at, _)| {
        let word = identifier(&text[at + start.len()..]);
        text[at + start.len() + word.len()..].starts_with(end).then_some(word)
    });
    words.filter(|word| !word.is_empty()).collect()
}

#[test]
fn metrics_are_those_of_the_docs() {
    let code = words_between(&text_of("src/observe/metrics.rs"), "\"trucker_", '"');
    let docs = words_between(&text_of("docs/metrics.md"), "| `trucker_", '`');
    assert!(code.len() > 20);
    assert_eq!(code, docs);
}

#[test]
fn every_code_is_one_that_the_program_gives() {
    let table = text_of("src/codes.rs");
    let table = table.split("\ncodes! {").nth(1).unwrap().split("\n}").next().unwrap();
    let names: Vec<&str> =
        table.lines().filter_map(|line| line.trim().strip_prefix('"')?.split_whitespace().nth(1)).collect();
    let sources = sources();
    let program =
        sources.iter().filter(|source| source.is_below("src") && !source.path.ends_with("codes.rs"));
    let text: String =
        program.flat_map(|source| source.program()).map(|(_, line)| format!("{line}\n")).collect();
    let used: BTreeSet<String> =
        text.match_indices("Code::").map(|(at, _)| identifier(&text[at + "Code::".len()..])).collect();
    let idle: Vec<_> = names.iter().filter(|name| !used.contains(**name)).collect();
    assert!(names.len() > 100 && idle.is_empty(), "codes that nothing gives: {idle:?}");
}

#[test]
fn events_are_those_of_the_docs() {
    let mut code = BTreeSet::new();
    for source in sources().iter().filter(|source| source.is_below("src")) {
        let text: String = source.program().map(|(_, line)| format!("{line}\n")).collect();
        code.extend(words_between(&text, "event = \"", '"'));
    }
    let docs = text_of("docs/observability.md");
    let docs = docs.split("| event | level | |").nth(1).unwrap();
    let rows =
        docs.lines().filter(|line| line.starts_with("| `")).filter_map(|line| line.split(" | ").next());
    let docs: BTreeSet<String> = rows.flat_map(|cell| words_between(cell, "`", '`')).collect();
    assert!(code.len() > 20);
    assert_eq!(code, docs);
}

/// Says, case by case, which test proves what.
const FAILURES: &str = "docs/failures.md";

/// `file::name` in backticks.
fn named_tests(text: &str) -> Vec<(&str, &str)> {
    let quoted = text.split('`').skip(1).step_by(2);
    let is_name =
        |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    quoted
        .filter_map(|text| text.split_once("::").filter(|(file, name)| is_name(file) && is_name(name)))
        .collect()
}

#[test]
fn every_test_that_the_catalogue_of_failures_names_exists() {
    let sources = sources();
    let is_of = |source: &&Source, file: &str| {
        let stem = source.path.with_extension("");
        stem.ends_with(file)
            || stem.ends_with(format!("{file}/mod"))
            || stem.ends_with(format!("{file}_tests"))
    };
    let is_there = |file: &str, name: &str| {
        let (start, is_attribute) = (format!("fn {name}("), |line: &str| line.trim_start().starts_with("#["));
        sources.iter().filter(|source| is_of(source, file)).any(|source| {
            let at = source.lines.iter().position(|line| line.contains(&start));
            at.is_some_and(|at| at > 0 && is_attribute(&source.lines[at - 1]))
        })
    };
    let page = text_of(FAILURES);
    let named = named_tests(&page);
    assert!(!named.is_empty());
    let gone = named.iter().filter(|(file, name)| !is_there(file, name));
    let gone: Vec<String> = gone.map(|(file, name)| format!("{file}::{name}")).collect();
    assert!(gone.is_empty(), "{FAILURES} names tests that don't exist\n  {}", gone.join("\n  "));
}

#[test]
fn every_case_of_the_catalogue_of_failures_is_proved_or_not_promised() {
    let page = text_of(FAILURES);
    let rows = page.lines().filter(|line| line.starts_with('|') && !line.starts_with("|--"));
    let is_settled = |row: &&str| {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        cells.len() == 3
            && (!named_tests(cells[2]).is_empty() || cells[2].trim_start().starts_with("not promised"))
    };
    let open: Vec<&str> = rows.filter(|row| !row.starts_with("| case |") && !is_settled(row)).collect();
    assert!(
        open.is_empty(),
        "three columns; the last names a test, or begins with: not promised\n  {}",
        open.join("\n  ")
    );
}
