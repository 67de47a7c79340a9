//! Every broken project in `testdata/` and the exact words that its owner reads.
//!
//! A case is `# title`, files under `== path` (variables under `== env`), and the expected text under `--`.
//! `TRUCKER_BLESS=1 cargo test broken_projects` writes the texts anew, for review in the diff.

use std::path::Path;

use tempfile::TempDir;

use super::{Variables, load_with};

/// Stands for every secret in the cases. No message may hold it.
const CANARY: &str = "hunter2";

/// Names and texts.
type Pairs = Vec<(String, String)>;

struct Case {
    title: String,
    files: Vec<(String, String)>,
    expected: String,
}

/// Writes files below a fresh folder.
pub(super) fn write_files(files: &[(String, String)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir
}

fn parse_cases(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut is_expected = false;
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("# ") {
            let (files, expected) = (Vec::new(), String::new());
            cases.push(Case { title: title.to_owned(), files, expected });
            is_expected = false;
            continue;
        }
        let case = cases.last_mut().expect("a title first");
        if let Some(path) = line.strip_prefix("== ") {
            case.files.push((path.to_owned(), String::new()));
        } else if line == "--" {
            is_expected = true;
        } else {
            let text = if is_expected { &mut case.expected } else { &mut case.files.last_mut().unwrap().1 };
            text.push_str(line);
            text.push('\n');
        }
    }
    cases
}

/// Files and variables of all cases in these files of `testdata/`.
pub(super) fn cases_of(paths: &[&str]) -> Vec<(Pairs, Pairs)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/testdata");
    let text = |path: &&str| std::fs::read_to_string(folder.join(path)).unwrap();
    let cases = paths.iter().flat_map(|path| parse_cases(&text(path)));
    let split = |case: Case| {
        let (env, files): (Vec<_>, Vec<_>) = case.files.into_iter().partition(|(path, _)| path == "env");
        let lines = env.iter().flat_map(|(_, text)| text.lines());
        let variables =
            lines.filter_map(|line| line.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned()));
        (files, variables.collect())
    };
    cases.map(split).collect()
}

fn outcome(case: &Case) -> String {
    let (env, files): (Vec<_>, Vec<_>) = case.files.iter().cloned().partition(|(path, _)| path == "env");
    let variables = env.iter().flat_map(|(_, text)| text.lines()).filter_map(|line| line.split_once('='));
    let dir = write_files(&files);
    let shown = match load_with(dir.path(), &Variables::new(variables)) {
        Ok(loaded) => format!("loaded\n{}", loaded.warnings),
        Err(diagnostics) => diagnostics.to_string(),
    };
    shown.replace(dir.path().to_str().unwrap(), "shop").trim_end().to_owned()
}

fn check(path: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/testdata").join(path);
    let cases = parse_cases(&std::fs::read_to_string(&path).unwrap());
    let mut blessed = String::new();
    for case in &cases {
        let outcome = outcome(case);
        assert!(!outcome.contains(CANARY), "{}: a secret is shown:\n{outcome}", case.title);
        blessed.push_str(&format!("# {}\n", case.title));
        case.files.iter().for_each(|(path, text)| blessed.push_str(&format!("== {path}\n{text}")));
        blessed.push_str(&format!("--\n{outcome}\n\n"));
    }
    if std::env::var_os("TRUCKER_BLESS").is_some() {
        std::fs::write(&path, blessed).unwrap();
        return;
    }
    for case in &cases {
        assert_eq!(outcome(case), case.expected.trim_end(), "{}", case.title);
    }
}

#[test]
fn broken_files_are_explained() {
    check("broken_files.txt");
}

#[test]
fn broken_connections_are_explained() {
    check("broken_connections.txt");
}

#[test]
fn broken_pipelines_are_explained() {
    check("broken_pipelines.txt");
}

#[test]
fn a_missing_folder_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("nowhere");
    let error = load_with(&missing, &Variables::default()).unwrap_err().to_string();
    assert!(error.starts_with("error[TRK0101]: there is no folder `"), "{error}");
    assert!(error.contains("trucker init"), "{error}");
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = load_with(&file, &Variables::default()).unwrap_err().to_string();
    assert!(error.contains("is not a folder"), "{error}");
}

#[test]
fn what_is_not_text_is_refused() {
    let (dashes, keys) = ("- ".repeat(50_000), "? ".repeat(50_000));
    let many: String = (0..100_000).map(|i| format!("a{i}: {{x: 1}}, ")).collect();
    let endless = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}";
    let cases: [(&[u8], &str); 10] = [
        (many.as_bytes(), "1 MiB"),
        (format!("{{{}", &many[..900_000]).leak().as_bytes(), "too much in it"),
        (endless.as_bytes(), "fuel"),
        (dashes.as_bytes(), "nested too deeply"),
        (keys.as_bytes(), "a key must be a name"),
        (b"name: a\nx: \xFF\n", "is not UTF-8 (line 2)"),
        (b"name: a\0hunter2", "zero byte"),
        (&[b'a'; 2 << 20], "longer than 1 MiB"),
        (&[b'['; 100_000], "nested too deeply"),
        (&[b'{'; 100_000], "never closed"),
    ];
    for (bytes, reason) in cases {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("trucker.yml"), bytes).unwrap();
        let error = load_with(dir.path(), &Variables::default()).unwrap_err().to_string();
        assert!(error.contains(reason), "{reason}: {error}");
    }
}
