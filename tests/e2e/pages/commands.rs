//! Shell in pages: every line is one that a shell reads; trucker's commands have the arguments and options that the program
//! has; what else is called exists in the repository as far as it comes from there.

use std::process::{Command, Stdio};

use super::{Block, all, root};

/// Programs that aren't trucker's, and why they aren't run here.
const OTHERS: [(&str, &str); 22] = [
    ("make", "the targets are looked up in the Makefile"),
    ("cargo", "the tests that it names are looked up"),
    (".ci/run", "runs this very test"),
    ("docker", "contrib/ is built in its own check"),
    ("kubectl", "contrib/ is read by its own check"),
    ("systemctl", "changes the machine"),
    ("install", "changes the machine"),
    ("cp", "the reader's own files"),
    ("mv", "the reader's own files"),
    ("rm", "the reader's own files"),
    ("mkdir", "the reader's own files"),
    ("chmod", "the reader's own files"),
    ("iconv", "the reader's own files"),
    ("git", "the reader's own files"),
    ("psql", "after a pipe: what is piped is run elsewhere"),
    ("pg_isready", "the reader's own server"),
    ("getent", "the reader's own server"),
    ("-v", "goes on with docker"),
    ("for", "of the shell"),
    ("done", "of the shell"),
    ("curl", "the reader's own server"),
    ("jq", "after a pipe"),
];

/// A line's commands as words, and its comment.
fn commands(line: &str) -> (Vec<Vec<String>>, &str) {
    let (code, comment) = match line.find(" #").or(line.starts_with('#').then_some(0)) {
        Some(at) => (&line[..at], &line[at..]),
        None => (line, ""),
    };
    let code = code.replace("&&", ";").replace('|', ";");
    let words = |part: &str| -> Vec<String> {
        let part = part.split('>').next().unwrap_or_default().trim().trim_start_matches("do ");
        let is_variable = |word: &&str| word.contains('=') && !word.starts_with('-');
        part.split_whitespace().skip_while(is_variable).map(str::to_owned).collect()
    };
    (code.split(';').map(words).filter(|words| !words.is_empty()).collect(), comment)
}

/// What a synopsis stands for: `[DIR]`, `PIPELINE…`.
fn concrete(word: &str) -> String {
    let word = word.trim_matches(['[', ']', '…']);
    match word {
        "SHELL" => "bash",
        "FILE" | "$file" => "trucker",
        "CODE" => "TRK0101",
        other => other,
    }
    .to_owned()
}

fn hold_to_the_program(at: &str, words: &[String], comment: &str) {
    let words: Vec<String> = words.iter().map(|word| concrete(word)).collect();
    let command = trucker::cli::command();
    if let Err(error) = command.clone().try_get_matches_from(&words) {
        panic!("{at}: the program doesn't take {words:?}\n{error}");
    }
    let subcommand = words.get(1).and_then(|name| command.find_subcommand(name));
    let subcommand = subcommand.unwrap_or_else(|| panic!("{at}: no command in {words:?}"));
    for option in comment.split_whitespace().filter_map(|word| word.strip_prefix("--")) {
        let option = option.trim_end_matches([',', ';', '.']);
        let is_known = subcommand.get_arguments().any(|argument| argument.get_long() == Some(option));
        assert!(is_known, "{at}: {} has no --{option}", subcommand.get_name());
    }
}

fn hold_to_the_repository(at: &str, words: &[String]) {
    let Some((_, _)) = OTHERS.iter().find(|(name, _)| *name == words[0]) else {
        panic!("{at}: `{}` is no program that a page may call without a reason: OTHERS", words[0]);
    };
    let text = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    if words[0] == "make" {
        let target = format!("\n{}:", words[1]);
        assert!(text("Makefile").contains(&target), "{at}: no target {}", words[1]);
    }
    if let Some(option) = words.iter().position(|word| word == "--test") {
        let name = &words[option + 1];
        let is_there = ["", "/main"].iter().any(|end| root().join(format!("tests/{name}{end}.rs")).exists());
        assert!(is_there, "{at}: no tests/{name}");
    }
    for path in words.iter().filter(|word| word.starts_with("contrib/") || word.starts_with(".ci/")) {
        assert!(root().join(path).exists(), "{at}: there is no {path}");
    }
}

#[test]
fn every_command_of_the_pages_is_one_that_the_program_takes() {
    let (mut own, mut others) = (0, 0);
    let typed = |text: &str| -> String {
        text.lines().filter_map(|line| line.strip_prefix("$ ")).map(|line| format!("{line}\n")).collect()
    };
    let console =
        all("console").into_iter().map(|(at, block)| (at, Block { text: typed(&block.text), ..block }));
    for (at, block) in all("sh").into_iter().chain(console) {
        assert!(!block.text.is_empty(), "{at}: there is no command in it");
        let shell = Command::new("sh").args(["-nc", &block.text]).stdin(Stdio::null()).output().unwrap();
        assert!(shell.status.success(), "{at}: {}", String::from_utf8_lossy(&shell.stderr));
        for line in block.text.replace("\\\n", " ").lines() {
            let (found, comment) = commands(line);
            for words in found {
                if words[0] == "trucker" {
                    hold_to_the_program(&at, &words, comment);
                    own += 1;
                } else {
                    hold_to_the_repository(&at, &words);
                    others += 1;
                }
            }
        }
    }
    assert!(own > 60 && others > 20, "{own} of trucker's, {others} others");
}

#[test]
fn commands_in_prose_exist() {
    let command = trucker::cli::command();
    let mut count = 0;
    for (name, text) in super::pages() {
        let spans = text.split('`').skip(1).step_by(2).filter_map(|span| span.strip_prefix("trucker "));
        for words in spans.map(|span| span.split_whitespace().collect::<Vec<_>>()) {
            let is_name = |word: &&str| word.chars().all(|c| c.is_ascii_lowercase());
            let Some(first) = words.first().filter(|word| is_name(word)) else { continue };
            let known = command.find_subcommand(first);
            let known = known.unwrap_or_else(|| panic!("{name}: there is no command `trucker {first}`"));
            for option in words.iter().filter_map(|word| word.strip_prefix("--")) {
                let is_known = known.get_arguments().any(|argument| argument.get_long() == Some(option));
                assert!(is_known, "{name}: `trucker {first}` has no --{option}");
            }
            count += 1;
        }
    }
    assert!(count > 40, "{count} commands");
}

#[test]
fn the_page_on_running_lists_every_command() {
    let page = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let list = super::blocks(&page).into_iter().find(|block| block.info == "sh").unwrap().text;
    let command = trucker::cli::command();
    let names: Vec<&str> = command.get_subcommands().map(|known| known.get_name()).collect();
    let listed = |name: &&str| list.lines().any(|line| line.split_whitespace().nth(1) == Some(*name));
    let missing: Vec<_> = names.iter().filter(|name| !listed(name) && **name != "help").collect();
    assert!(names.len() > 15 && missing.is_empty(), "not listed: {missing:?}");
}
