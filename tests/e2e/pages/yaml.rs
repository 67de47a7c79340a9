//! YAML and JSON in pages: whole files are loaded as they stand, fragments where they belong, with what they leave out put beside them.

use tempfile::TempDir;
use trucker::codes::Code;
use trucker::config::{Diagnostics, Variables, load_with, read_test_file};

use super::all;

/// What depends on the reader's machine, or on the rest of the reader's project.
const ELSEWHERE: [Code; 4] = [Code::NoPipeline, Code::FileUnreadable, Code::TlsFile, Code::TruncateUnsaid];

const PIPELINE: [&str; 4] = ["input", "output", "backfill", "on_error"];
const OUTPUT: [&str; 4] = ["table", "key", "replace", "on"];
const TEST: [&str; 6] = ["given", "given_output", "changes", "expect", "returns", "steps"];

/// The keys that aren't indented.
fn keys(text: &str) -> Vec<&str> {
    let is_name = |key: &&str| key.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    text.lines().filter_map(|line| line.split_once(':')).map(|(key, _)| key).filter(is_name).collect()
}

fn indented(text: &str, by: usize) -> String {
    text.lines().map(|line| format!("{:by$}{line}\n", "")).collect()
}

/// Without the indentation that all lines share, and without lines that stand for what is left out.
fn dedented(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty() && line.trim() != "…" && !line.starts_with("{%"))
        .collect();
    let least = lines.iter().map(|line| line.len() - line.trim_start().len()).min().unwrap_or(0);
    let kept = text.lines().filter(|line| line.trim() != "…");
    kept.map(|line| {
        format!("{}\n", if line.starts_with("{%") { line } else { line.get(least..).unwrap_or("") })
    })
    .collect()
}

/// A connection of that name with these lines of its own.
fn connection(own: &str) -> String {
    let own = own.trim_start_matches("- ");
    let own = own.lines().map(|line| line.strip_prefix("  ").unwrap_or(line));
    let own: String = own.map(|line| format!("{line}\n")).collect();
    let mut text = own.clone();
    let given = keys(&own);
    for (key, value) in [
        ("name", "webapp"),
        ("adapter", "postgres"),
        ("host", "h"),
        ("database", "webapp"),
        ("user", "trucker"),
    ] {
        if !given.iter().any(|name| *name == key || *name == format!("{key}_path")) {
            text += &format!("{key}: {value}\n");
        }
    }
    format!("  -\n{}", indented(&text, 4))
}

const WAREHOUSE: &str =
    "  - {name: warehouse, adapter: postgres, host: w, database: warehouse, user: trucker}\n";

/// A section with what it leaves out.
fn section(text: &str, name: &str, more: &[(&str, &str)]) -> String {
    let Some(at) = text.lines().position(|line| line.starts_with(&format!("{name}:"))) else {
        let more: String = more.iter().map(|(key, value)| format!("  {key}: {value}\n")).collect();
        return format!("{text}{name}:\n{more}");
    };
    let own: Vec<&str> = text.lines().skip(at + 1).take_while(|line| line.starts_with(' ')).collect();
    let given = own.iter().filter_map(|line| line.trim().split_once(':')).map(|(key, _)| key);
    let given: Vec<&str> = given.collect();
    let is_given = |key: &str| given.contains(&key) || (key == "table" && given.contains(&"tables"));
    let missing: String = more
        .iter()
        .filter(|(key, _)| !is_given(key))
        .map(|(key, value)| format!("  {key}: {value}\n"))
        .collect();
    text.lines()
        .enumerate()
        .map(|(number, line)| format!("{line}\n{}", if number == at { missing.as_str() } else { "" }))
        .collect()
}

fn load(project: &str, pipeline: Option<&str>) -> Result<(), Diagnostics> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("trucker.yml"), project).unwrap();
    if let Some(pipeline) = pipeline {
        std::fs::create_dir(dir.path().join("orders_flat")).unwrap();
        std::fs::write(dir.path().join("orders_flat/config.yml"), pipeline).unwrap();
    }
    let quoted = project.split("env(\"").skip(1).filter_map(|rest| rest.split('"').next());
    let variables = Variables::new(quoted.map(|name| (name, "eu")));
    load_with(dir.path(), &variables).map(drop)
}

fn read_test(dir: &TempDir, text: &str) -> Result<(), Diagnostics> {
    let asks = ["expect", "returns", "fails"].iter().any(|key| text.contains(&format!("{key}:")));
    let text = if asks { text.to_owned() } else { format!("{text}expect: []\n") };
    let path = dir.path().join("test.yml");
    std::fs::write(&path, text).unwrap();
    read_test_file(&path).map(drop)
}

/// Puts it where it belongs, and reads that.
fn read(text: &str) -> Result<(), Diagnostics> {
    let text = dedented(text);
    let found = keys(&text);
    let has = |known: &[&str]| found.iter().any(|key| known.contains(key));
    let project = format!("connections:\n{}{WAREHOUSE}", connection(""));
    let whole = |text: &str| {
        let text = section(text, "input", &[("connection", "webapp"), ("table", "orders")]);
        section(&text, "output", &[("connection", "warehouse"), ("table", "orders_flat")])
    };
    if has(&["connections"]) {
        // The last item may leave out what it isn't about.
        let (before, last) = text.rsplit_once("\n  - ").expect("it has connections");
        load(&format!("{before}\n{}", connection(&format!("- {}", last.replace("\n    ", "\n  ")))), None)
    } else if has(&PIPELINE) {
        load(&project, Some(&whole(&text)))
    } else if has(&TEST) {
        read_test(&tempfile::tempdir().unwrap(), &text)
    } else if has(&OUTPUT) {
        load(&project, Some(&whole(&format!("output:\n{}", indented(&text, 2)))))
    } else if found == ["name"] {
        load(&format!("{text}{project}"), None)
    } else {
        load(&format!("connections:\n{}{WAREHOUSE}", connection(&text)), None)
    }
}

/// Some blocks show the same key twice, as it may be said one way or the other.
fn ways(text: &str) -> Vec<String> {
    let flat = dedented(text);
    let mut found = keys(&flat);
    found.sort_unstable();
    if found.windows(2).any(|pair| pair[0] == pair[1]) {
        return flat.lines().map(|line| format!("{line}\n")).collect();
    }
    vec![text.to_owned()]
}

#[test]
fn yaml_of_the_pages_is_read_as_it_stands() {
    let mut count = 0;
    for (at, block) in all("yaml") {
        let lines = block.text.lines().filter(|line| !line.starts_with('#')).count();
        if lines == 0 {
            let schema = block.text.trim().strip_prefix("# yaml-language-server: $schema=.trucker/");
            assert_eq!(schema, Some("trucker.json"), "{at}: nothing but comments");
        }
        for way in ways(&block.text).iter().filter(|_| lines > 0) {
            if let Err(problems) = read(way) {
                let all: Vec<_> = problems.iter().filter(|p| !ELSEWHERE.contains(&p.code)).collect();
                assert!(all.is_empty(), "{at}: {}\nin:\n{way}", all[0]);
            }
        }
        count += 1;
    }
    assert!(count > 40, "{count} blocks");
    for (at, block) in all("json") {
        let _: serde_json::Value =
            serde_json::from_str(&block.text).unwrap_or_else(|error| panic!("{at}: {error}"));
    }
}

#[test]
fn a_fragment_with_a_mistake_is_noticed() {
    for text in [
        "output:\n  kye: [id]\n",
        "sslmode: ful\n",
        "    pass: a\n    pasword: b\n",
        "input:\n  connection: warehose\n",
        "given: {orders: {id: 1}}\n",
        "- name: a\n  adapter: postgre\n",
        "connections:\n  - name: a\n    hots: b\n",
        "key: {a: b}\n",
    ] {
        assert!(read(text).is_err(), "{text}");
    }
}
