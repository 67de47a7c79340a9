//! No fenced block of a page drifts from the program. Some pages are played as they stand by tests of their own; each
//! block of every other page is held here to what would read it: commands to the program's own arguments, and run where
//! that takes seconds; YAML to the readers of projects and tests; SQL to real servers.

mod commands;
mod errors;
mod run;
mod sql;
mod yaml;

use std::fs;
use std::path::{Path, PathBuf};

/// Pages that a test plays block by block, and fails where it doesn't know one: the test's file.
const PLAYED: [(&str, &str); 3] =
    [("docs/tutorial.md", "docs"), ("docs/cookbook.md", "cookbook"), ("docs/permissions.md", "permissions")];

/// What the other pages may hold, and which file here reads it. No language: a picture or what a program printed.
const READERS: [(&str, &str); 8] = [
    ("", "errors"),
    ("sh", "commands"),
    ("console", "commands, what follows a `$`"),
    ("yaml", "yaml"),
    ("sql", "sql"),
    ("ini", "sql"),
    ("json", "yaml"),
    ("rust", "nothing: an example of a test, of which CONTRIBUTING.md has one"),
];

/// A fenced block.
pub struct Block {
    /// What stands after the fence: language, and for some pages a name.
    pub info: String,
    /// Its lines, without the fence's own indentation.
    pub text: String,
    /// Where it opens, from 1.
    pub line: usize,
}

/// A page's blocks, also those within lists.
pub fn blocks(page: &str) -> Vec<Block> {
    let (mut blocks, mut open): (Vec<Block>, Option<(usize, Block)>) = (Vec::new(), None);
    for (number, line) in page.lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        match (line.trim_start().strip_prefix("```"), open.take()) {
            (Some(_), Some((_, block))) => blocks.push(block),
            (Some(info), None) => {
                let info = info.trim().to_owned();
                open = Some((indent, Block { info, text: String::new(), line: number + 1 }));
            }
            (None, Some((fence, block))) => {
                let line = line.get(fence.min(indent)..).unwrap_or_default();
                open = Some((fence, Block { text: block.text + line + "\n", ..block }));
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is never closed");
    blocks
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every page that people read, by its path.
fn pages() -> Vec<(String, String)> {
    let mut folders = ["docs", "examples", "contrib", "benches"].map(|name| root().join(name)).to_vec();
    let mut paths: Vec<PathBuf> = fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { paths.push(path) }
        }
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    paths.sort();
    let page = |path: PathBuf| {
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        (name, fs::read_to_string(path).unwrap())
    };
    paths.into_iter().map(page).collect()
}

/// All blocks of a language outside the played pages, each with where it stands.
fn all(language: &str) -> Vec<(String, Block)> {
    let mut found = Vec::new();
    for (name, text) in pages() {
        if PLAYED.iter().any(|(page, _)| *page == name) {
            continue;
        }
        let of_page = blocks(&text).into_iter().filter(|block| block.info == language);
        found.extend(of_page.map(|block| (format!("{name}:{}", block.line), block)));
    }
    found
}

#[test]
fn every_block_of_every_page_has_a_test_that_reads_it() {
    let pages = pages();
    let mut count = 0;
    for (name, text) in &pages {
        if let Some((_, test)) = PLAYED.iter().find(|(page, _)| page == name) {
            let source = fs::read_to_string(root().join(format!("tests/e2e/{test}.rs"))).unwrap();
            assert!(source.contains(name), "tests/e2e/{test}.rs doesn't read {name}");
            continue;
        }
        for block in blocks(text) {
            let at = format!("{name}:{}", block.line);
            let is_known = READERS.iter().any(|(language, _)| *language == block.info);
            assert!(is_known, "{at}: nothing reads a block of {:?}", block.info);
            let has_command = block.text.lines().any(|line| {
                let line = line.trim_start().trim_start_matches("$ ");
                line.starts_with("trucker ") || line.starts_with("SELECT {{")
            });
            assert!(
                !block.info.is_empty() || !has_command,
                "{at}: say what it is: ```sh, ```console, ```sql"
            );
            count += 1;
        }
    }
    assert!(pages.len() > 20 && count > 150, "{} pages, {count} blocks", pages.len());
}

#[test]
fn blocks_are_found_also_within_lists() {
    let found = blocks("a\n```sh\nb\n  c\n```\n1. d\n\n   ```sql x\n   e\n     f\n   ```\n");
    let found: Vec<_> = found.iter().map(|block| (&*block.info, &*block.text, block.line)).collect();
    assert_eq!(found, [("sh", "b\n  c\n", 2), ("sql x", "e\n  f\n", 8)]);
}
