//! Errors that pages show are those that the program prints: their code, and their words but for names.

use std::collections::HashMap;
use std::fs;

use super::{all, root};

/// Where tests hold the program's texts to the letter.
const TEXTS: [&str; 3] = ["src/config/testdata", "tests/e2e/texts", "src/testing"];

/// The code and the message of a line such as `error[TRK0109]: there is no …`.
fn shown(line: &str) -> Option<(&str, &str)> {
    let line = &line[line.find("error[TRK").or(line.find("warning[TRK"))?..];
    let (code, message) = line.split_once('[')?.1.split_once("]: ")?;
    Some((code, message.split("\\n").next()?))
}

#[test]
fn errors_of_the_pages_are_the_programs_own() {
    let mut texts: HashMap<String, Vec<String>> = HashMap::new();
    let folders = TEXTS.iter().flat_map(|folder| fs::read_dir(root().join(folder)).unwrap());
    for text in folders.map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap()) {
        for (code, message) in text.lines().filter_map(shown) {
            texts.entry(code.to_owned()).or_default().push(message.to_owned());
        }
    }
    let mut count = 0;
    for (at, block) in all("").into_iter().chain(all("console")) {
        for line in block.text.lines().map(str::trim) {
            assert!(!line.starts_with("error:"), "{at}: without its code: {line}");
            let Some((code, message)) = shown(line) else { continue };
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            let is_like = |other: &String| {
                let (one, other) = (words(message), words(other));
                let same = one.iter().zip(&other).filter(|(a, b)| a == b).count();
                one.len() == other.len() && same * 10 >= one.len() * 6
            };
            let known = texts.get(code).cloned().unwrap_or_default();
            assert!(known.iter().any(is_like), "{at}: {message}\nis like none of {known:#?}");
            count += 1;
        }
    }
    assert!(count >= 5, "{count} errors");
}
