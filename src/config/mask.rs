//! Takes secrets out of text that is about to be shown.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// Replaces every secret that the project's files held by `***`. Cheap to clone.
///
/// Secrets of fewer than four bytes are not replaced: they would garble every text. They are kept out of
/// messages where these are made.
#[derive(Clone, Default)]
pub struct SecretMask {
    /// Distinct, none empty.
    secrets: Arc<Vec<String>>,
}

const SECRET_BYTES_MIN: usize = 4;
/// A line of a longer secret; shorter ones are too likely to be something else.
const SECRET_LINE_BYTES_MIN: usize = 8;

impl SecretMask {
    /// A mask for these values.
    pub fn new<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> SecretMask {
        let mut secrets: Vec<String> = values.into_iter().flat_map(forms).collect();
        secrets.sort();
        secrets.dedup();
        SecretMask { secrets: Arc::new(secrets) }
    }

    /// A mask for these as well, which didn't come from the project's files.
    pub fn and(&self, more: impl IntoIterator<Item = String>) -> SecretMask {
        let mut secrets = (*self.secrets).clone();
        secrets.extend(more.into_iter().flat_map(|value| forms(value.as_bytes())));
        secrets.sort();
        secrets.dedup();
        SecretMask { secrets: Arc::new(secrets) }
    }

    /// The text with `***` in place of each stretch that is part of a secret.
    pub fn mask<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut found: Vec<(usize, usize)> =
            self.secrets.iter().flat_map(|secret| occurrences(text, secret)).collect();
        if found.is_empty() {
            return Cow::Borrowed(text);
        }
        found.sort_unstable();
        let mut masked = String::with_capacity(text.len());
        let mut shown_to = 0;
        let mut hidden_to = 0;
        for (start, end) in found {
            if start >= hidden_to {
                masked.push_str(&text[shown_to..start]);
                masked.push_str("***");
            }
            hidden_to = hidden_to.max(end);
            shown_to = hidden_to;
        }
        masked.push_str(&text[shown_to..]);
        Cow::Owned(masked)
    }
}

impl fmt::Debug for SecretMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretMask({} values)", self.secrets.len())
    }
}

/// The ways in which a value may come to stand in a text: as it is, line by line, escaped as Rust's `{:?}`
/// or JSON do.
fn forms(value: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(value);
    let mut forms = vec![text.clone().into_owned()];
    if text.contains('\n') {
        let lines = text.lines().map(str::trim);
        let lines = lines.filter(|l| l.len() >= SECRET_LINE_BYTES_MIN && !l.starts_with("-----"));
        forms.extend(lines.map(str::to_owned));
    }
    let debug = format!("{text:?}");
    forms.push(debug[1..debug.len() - 1].to_owned());
    if let Ok(json) = serde_json::to_string(&*text) {
        forms.push(json[1..json.len() - 1].to_owned());
    }
    forms.retain(|form| form.len() >= SECRET_BYTES_MIN);
    forms
}

/// Where a secret stands, overlapping occurrences too.
fn occurrences<'a>(text: &'a str, secret: &'a str) -> impl Iterator<Item = (usize, usize)> + 'a {
    let step = secret.chars().next().map_or(1, char::len_utf8);
    let mut from = 0;
    std::iter::from_fn(move || {
        let start = from + text[from..].find(secret)?;
        from = start + step;
        Some((start, start + secret.len()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(secrets: &[&str], text: &str) -> String {
        SecretMask::new(secrets.iter().map(|s| s.as_bytes())).mask(text).into_owned()
    }

    #[test]
    fn every_trace_of_a_secret_becomes_stars() {
        let cases: [(&[&str], &str, &str); 9] = [
            (&[], "hunter2", "hunter2"),
            (&["hunter2"], "pass=hunter2, hunter2!", "pass=***, ***!"),
            (&["hunter2", "hunter"], "hunter2 hunter", "*** ***"),
            (&["abcdef", "defghi"], "xabcdefghix", "x***x"),
            (&["aaaa"], "aaaaaa", "***"),
            (&["abc", ""], "abc", "abc"),
            (&["a\"b\\c"], r#"{"p":"a\"b\\c"}"#, r#"{"p":"***"}"#),
            (&["pä\u{1}ss"], "{pä\\u{1}ss} {pä\\u0001ss}", "{***} {***}"),
            (&["-----BEGIN\nMIIEvQIBADAN\n-----END"], "-----BEGIN\n  MIIEvQIBADAN", "-----BEGIN\n  ***"),
        ];
        for (secrets, text, expected) in cases {
            assert_eq!(masked(secrets, text), expected, "{secrets:?}");
        }
    }

    #[test]
    fn a_mask_does_not_show_what_it_hides() {
        let mask = SecretMask::new([b"hunter2".as_slice()]);
        assert!(!format!("{mask:?}").contains("hunter2"));
    }
}
