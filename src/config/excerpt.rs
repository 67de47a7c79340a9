//! The lines of a file as they may be shown: what stands behind a key that sounds secret is hidden. Works on
//! lines, not on what they mean, since the file may be one that nobody can parse; in doubt it hides more.

use std::ops::Range;

/// A line with literal secrets replaced by `***`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ShownLine {
    /// What may be shown.
    pub(super) text: String,
    /// Columns, from 0, of the file's line that are hidden.
    hidden: Vec<Range<usize>>,
}

const STARS: &str = "***";

impl ShownLine {
    fn new(line: &str, hidden: &[Range<usize>]) -> ShownLine {
        let column = |offset: usize| line[..offset].chars().count();
        let columns = hidden.iter().map(|range| column(range.start)..column(range.end)).collect();
        let mut text = String::with_capacity(line.len());
        let mut from = 0;
        for range in hidden {
            text.push_str(&line[from..range.start]);
            text.push_str(STARS);
            from = range.end;
        }
        text.push_str(&line[from..]);
        ShownLine { text, hidden: columns }
    }

    /// Where a column of the file's line is in the shown text. Both count from 1.
    pub(super) fn column(&self, column: usize) -> usize {
        let mut at = column - 1;
        for range in self.hidden.iter().rev() {
            if at >= range.end {
                at = at - range.len() + STARS.len();
            } else if at > range.start {
                at = range.start;
            }
        }
        at + 1
    }
}

/// The lines of a text as they may be shown.
pub(super) fn shown_lines(text: &str) -> Vec<ShownLine> {
    let mut hiding = Hiding::No;
    text.lines().map(|line| ShownLine::new(line, &hidden_in(line, &mut hiding))).collect()
}

/// Whether a line goes on with a value that began before.
enum Hiding {
    No,
    /// All lines indented deeper than this.
    Deeper(usize),
    /// The next line that isn't blank, and all deeper ones.
    Next(usize),
    /// All up to the end of a PEM block.
    Pem,
}

/// The stretches of a line that must not be shown, as offsets.
fn hidden_in(line: &str, hiding: &mut Hiding) -> Vec<Range<usize>> {
    let indent = line.len() - line.trim_start().len();
    let goes_on = match *hiding {
        Hiding::No => false,
        Hiding::Pem => true,
        Hiding::Deeper(column) => line.trim().is_empty() || indent > column,
        Hiding::Next(column) => {
            let is_value = !line.trim().is_empty() && (indent > column || !begins_with_key(line));
            if is_value {
                *hiding = Hiding::Deeper(column);
            }
            is_value || line.trim().is_empty()
        }
    };
    if line.contains("-----BEGIN") {
        *hiding = Hiding::Pem;
    } else if line.contains("-----END") {
        *hiding = Hiding::No;
    }
    if goes_on || matches!(hiding, Hiding::Pem) {
        return Vec::from_iter(filled(line));
    }
    *hiding = Hiding::No;
    let values = hidden_values(line, hiding);
    match url_login(line) {
        Some(login) if values.is_empty() => vec![login],
        _ => values,
    }
}

/// `user:password` of a URL: no key takes one, but people try.
fn url_login(line: &str) -> Option<Range<usize>> {
    let start = line.find("://")? + 3;
    let login = &line[start..];
    Some(start..start + login.rfind('@')?)
}

/// The values of the line's secret keys.
fn hidden_values(line: &str, hiding: &mut Hiding) -> Vec<Range<usize>> {
    let mut hidden = Vec::new();
    let mut from = 0;
    while let Some((key_start, value_start)) = find_secret_key(line, from) {
        let value = &line[value_start..];
        let first_key = line.len() - line.trim_start_matches([' ', '\t', '-']).len();
        let is_first = key_start <= first_key + 1;
        let end = if is_first { value.len() } else { flow_value_end(value) };
        if !may_be_shown(&value[..end])
            && let Some(range) = filled(&value[..end])
        {
            hidden.push(value_start + range.start..value_start + range.end);
        }
        if value_start + end == line.len() {
            let begun = value.trim().trim_end_matches(['-', '+', '0', '1', '2', '3', '4']);
            let is_open = matches!(begun, "" | "|" | ">" | "\"" | "'");
            *hiding = if is_open { Hiding::Next(first_key) } else { Hiding::Deeper(first_key) };
        }
        from = value_start + end;
    }
    hidden
}

/// Where the next key that sounds secret starts, and where what follows its colon does.
fn find_secret_key(line: &str, from: usize) -> Option<(usize, usize)> {
    let mut at = from;
    while let Some(found) = line[at..].find(':') {
        let colon = at + found;
        let before = line[from..colon].trim_end().trim_end_matches(['"', '\'']);
        let name_len = before.chars().rev().take_while(|c| c.is_alphanumeric() || *c == '_').count();
        let name_start = before.char_indices().rev().take(name_len).last().map_or(before.len(), |(i, _)| i);
        if sounds_secret(&before[name_start..]) {
            return Some((from + name_start, colon + 1));
        }
        at = colon + 1;
    }
    None
}

/// Whether a key of that name may hold a secret. One that ends in `_path` holds a path.
pub(super) fn sounds_secret(key: &str) -> bool {
    let key = key.to_lowercase();
    let words = ["pass", "pwd", "secret", "token", "key_", "_key", "apikey", "credential"];
    !key.ends_with("_path") && words.iter().any(|word| key.contains(word))
}

/// Where the value of a key inside `{…}` ends: a quoted one that is properly followed by the next key or the
/// end, at its quote; any other at the line's end.
fn flow_value_end(value: &str) -> usize {
    let start = value.len() - value.trim_start().len();
    let bytes = value.as_bytes();
    let Some(&quote @ (b'"' | b'\'')) = bytes.get(start) else { return value.len() };
    let mut i = start + 1;
    while i < bytes.len() && bytes[i] != quote {
        i += if quote == b'"' && bytes[i] == b'\\' { 2 } else { 1 };
    }
    let Some(rest) = value.get(i + 1..) else { return value.len() };
    let rest = rest.trim_start_matches(['}', ']', ' ']);
    let is_proper = match rest.strip_prefix(',') {
        Some(next) => next.trim().is_empty() || begins_with_key(next),
        None => rest.is_empty(),
    };
    if is_proper { i + 1 } else { value.len() }
}

/// Whether a line begins with `key:`, perhaps behind brackets and dashes.
fn begins_with_key(line: &str) -> bool {
    let line = line.trim_start_matches([' ', '\t', '-', '{', '[', '"', '\'']);
    let end = line.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(line.len());
    end > 0 && line[end..].trim_start_matches(['"', '\'']).trim_start().starts_with(':')
}

/// Whether a secret key's value is none: the begin of a block, or a variable's name.
fn may_be_shown(value: &str) -> bool {
    let value = value.trim().trim_end_matches(',');
    matches!(value, "" | "|" | ">" | "|-" | ">-" | "|+" | ">+" | "[" | "{")
        || is_variable(value.trim_matches(['"', '\'']))
}

/// The text without the blanks around it; None if there is nothing else.
fn filled(text: &str) -> Option<Range<usize>> {
    let start = text.len() - text.trim_start().len();
    let end = text.trim_end().len();
    (start < end).then_some(start..end)
}

/// Whether the text is `{{ env("NAME") }}`.
fn is_variable(text: &str) -> bool {
    let inside = text.strip_prefix("{{").and_then(|text| text.strip_suffix("}}"));
    let argument = inside.and_then(|inside| inside.trim().strip_prefix("env("));
    let argument = argument.and_then(|argument| argument.strip_suffix(')'));
    argument.is_some_and(|argument| {
        let name = argument.trim().trim_matches(['"', '\'']);
        name.len() + 2 == argument.trim().len() && name.chars().all(|c| c.is_alphanumeric() || c == '_')
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_stands_behind_a_secret_key_is_hidden() {
        let cases = [
            ("host: a.example", "host: a.example"),
            ("pass: hunter2", "pass: ***"),
            ("  - pass: hunter2 # my dog", "  - pass: ***"),
            ("    \"replica_pass\": \"hunter2\",", "    \"replica_pass\": ***"),
            ("{name: a, pass: 'hunter2', host: b}", "{name: a, pass: ***, host: b}"),
            (r#"{"pass": "hu\"nt,er2", "host": "b"}"#, r#"{"pass": ***, "host": "b"}"#),
            ("{name: a, pass: 'hunt', er2', host: b}", "{name: a, pass: ***"),
            ("{name: a, pass: hunter2, host: b}", "{name: a, pass: ***"),
            ("pass_path: /run/secrets/x", "pass_path: /run/secrets/x"),
            ("pass: {{ env(\"P\") }}", "pass: {{ env(\"P\") }}"),
            ("pass: \"{{ env('P') }}\"", "pass: \"{{ env('P') }}\""),
            ("pass: {{ env(\"P\", \"hunter2\") }}", "pass: ***"),
            ("pass: {{ env(hunter2) }}", "pass: ***"),
            ("pass: |\n  hunter2\n\n  hunter2\nhost: a", "pass: |\n  ***\n\n  ***\nhost: a"),
            ("- pass:\n    hunter2\n  host: a", "- pass:\n    ***\n  host: a"),
            ("pass:\nhunter2\nhost: a", "pass:\n***\nhost: a"),
            ("pass:\nhost: a", "pass:\nhost: a"),
            ("pass: \"a\n  hunter2\"\nhost: a", "pass: ***\n  ***\nhost: a"),
            ("x: |\n-----BEGIN KEY-----\nhunter2\n-----END KEY-----\ny: a", "x: |\n***\n***\n***\ny: a"),
            ("host: postgres://u:p@hunter2@h/d", "host: postgres://***@h/d"),
            ("api_token : hunter2", "api_token : ***"),
            ("PassWord: hunter2", "PassWord: ***"),
            ("päss: 1, pass: hunter2", "päss: 1, pass: ***"),
        ];
        for (text, expected) in cases {
            let shown: Vec<String> = shown_lines(text).into_iter().map(|line| line.text).collect();
            assert_eq!(shown.join("\n"), expected, "{text:?}");
        }
    }

    #[test]
    fn columns_follow_what_is_hidden() {
        let [line] = shown_lines("{é: 1, pass: 'hunter2', pwd: 'x', host: b}").try_into().unwrap();
        assert_eq!(line.text, "{é: 1, pass: ***, pwd: ***, host: b}");
        for (column, expected) in [(1, 1), (8, 8), (14, 14), (20, 14), (23, 17), (25, 19), (35, 29), (99, 93)]
        {
            assert_eq!(line.column(column), expected, "{column}");
        }
    }

    proptest! {
        #[test]
        fn any_text_may_stand_in_a_file(text in "[pas:\"'\\\\{}|> \n\té,-]{0,60}") {
            prop_assert_eq!(shown_lines(&text).len(), text.lines().count());
        }
    }
}
