//! Pages whose commands are run as they stand. In such a page, in order:
//!
//! * ` ```sh ` is run in a shell, in one empty folder for the whole page, with `trucker` on its path;
//! * ` ```text ` right after it is what was printed: each line, in order, `…` for what differs from run to run;
//! * ` ```sql DATABASE ` is run on `webapp` or `warehouse`; ` ```LANGUAGE FILE ` is written to that file.
//!
//! The page's `webapp.example.org` and `warehouse.example.org` are servers of the tests.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::harness::{Scenario, source_server};
use super::pages::blocks;

/// The page's databases are those of the scenario.
fn placed(s: &Scenario, text: &str) -> String {
    let mut text = text.to_owned();
    for (name, database) in [("webapp", &s.source), ("warehouse", &s.output)] {
        let url = format!("{name}.example.org/{name}");
        text = text.replace(&url, &format!("127.0.0.1:{}/{}?sslmode=disable", database.port, database.name));
    }
    text
}

/// Whether the lines come one after the other, perhaps with others between.
fn has_lines(printed: &str, expected: &str) -> Result<(), String> {
    let mut rest = printed.lines();
    for line in expected.lines().filter(|line| !line.trim().is_empty()) {
        let parts: Vec<&str> = line.trim().split('…').collect();
        let is_it = |found: &str| {
            let mut at = 0;
            parts.iter().all(|part| match found[at..].find(part) {
                Some(start) => {
                    at += start + part.len();
                    true
                }
                None => false,
            })
        };
        if !rest.any(is_it) {
            return Err(line.to_owned());
        }
    }
    Ok(())
}

fn run_page(name: &str) {
    let folder = source_server().binaries().folder();
    let s = Scenario::new();
    let dir = s.dir().join("page");
    fs::create_dir(&dir).unwrap();
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_trucker")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let mut printed = String::new();
    let mut commands = 0;
    for block in blocks(&page) {
        let at = format!("{name}:{}", block.line);
        match block.info.split_once(' ').unwrap_or((&block.info, "")) {
            ("sh", _) => {
                let mut shell = Command::new("sh");
                shell.args(["-ec", &placed(&s, &block.text)]).current_dir(&dir).stdin(Stdio::null());
                shell.env("PATH", &path).env("TRUCKER_PG_BIN", folder).env("NO_COLOR", "1");
                let output = shell.output().unwrap();
                printed = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
                assert!(output.status.success(), "{at}:\n{}\n{printed}", block.text);
                commands += 1;
            }
            ("text", _) => {
                if let Err(line) = has_lines(&printed, &placed(&s, &block.text)) {
                    panic!("{at}: not printed: {line}\n{printed}");
                }
            }
            ("sql", "webapp") => s.source.execute(&block.text),
            ("sql", "warehouse") => s.output.execute(&block.text),
            (language, "") => panic!("{at}: what is to be done with ```{language}?"),
            (_, file) => {
                fs::write(dir.join(file), &block.text).unwrap_or_else(|error| panic!("{at}: {error}"))
            }
        }
    }
    assert!(commands > 0, "{name} has no commands");
}

#[test]
fn the_tutorial_works_as_it_stands() {
    run_page("docs/tutorial.md");
}

#[test]
fn lines_are_looked_for_in_order() {
    assert_eq!(has_lines("a\nb 1 c\nd", "a\nb … c"), Ok(()));
    assert_eq!(has_lines("b\na", "a\nb"), Err("b".to_owned()));
}
