//! What was played as JUnit XML, which CI servers read.

use std::fmt::Write;

use super::{Played, Verdict};

/// The whole file.
pub fn junit(played: &[Played]) -> String {
    let is_failure = |one: &&Played| matches!(one.verdict, Verdict::Failed(_));
    let is_error = |one: &&Played| matches!(one.verdict, Verdict::Broken(_) | Verdict::Server(_));
    let seconds: f64 = played.iter().map(|one| one.took.as_secs_f64()).sum();
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n  <testsuite name=\"trucker\" tests=\"{}\" \
         failures=\"{}\" errors=\"{}\" time=\"{seconds:.3}\">\n",
        played.len(),
        played.iter().filter(is_failure).count(),
        played.iter().filter(is_error).count(),
    );
    for one in played {
        let (file, name) = (one.shown.display().to_string(), one.shown.file_stem().unwrap_or_default());
        let _ = write!(
            xml,
            "    <testcase classname=\"{}\" name=\"{}\" file=\"{}\" time=\"{:.3}\"",
            escaped(&one.pipeline),
            escaped(&name.to_string_lossy()),
            escaped(&file),
            one.took.as_secs_f64()
        );
        let (tag, text) = match &one.verdict {
            Verdict::Passed => {
                xml.push_str("/>\n");
                continue;
            }
            Verdict::Failed(failures) => {
                ("failure", failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n\n"))
            }
            Verdict::Broken(wrong) => ("error", wrong.to_string()),
            Verdict::Server(trouble) => ("error", trouble.clone()),
        };
        let message = text.lines().next().unwrap_or_default();
        let message = escaped(message);
        let _ = writeln!(
            xml,
            ">\n      <{tag} message=\"{message}\">{}</{tag}>\n    </testcase>",
            escaped(&text)
        );
    }
    xml.push_str("  </testsuite>\n</testsuites>\n");
    xml
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // XML has no way to write the others.
            c if c.is_control() && !matches!(c, '\n' | '\t') => escaped.push('\u{FFFD}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped() {
        assert_eq!(escaped("a<b> & \"c\"\u{1b}\n"), "a&lt;b&gt; &amp; &quot;c&quot;\u{FFFD}\n");
    }
}
