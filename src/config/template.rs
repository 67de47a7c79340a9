//! Renders a Jinja template and knows, for each place in the result, which place of the template it came
//! from. Owns nothing but that: which functions exist and how a value is printed is the caller's
//! `minijinja::Environment`.
//!
//! The problem: `{% for %}`, `{% if %}` and values of several lines shift lines, and minijinja doesn't say
//! where a piece of its output comes from. The way chosen: before rendering, an anchor (private-use
//! characters around a number) goes before the first non-blank character of each line of text and before
//! each `{{`; after rendering the anchors are taken out again, and what they say is kept. Anchors never
//! stand where whitespace control (`{%-`, `lstrip_blocks`) would meet them, nor in text that the template
//! captures (`{% set x %}…{% endset %}`), where it could see them. Each rendering draws its own three
//! characters to recognise an anchor by, so that no value can pass for one.
//!
//! Only the delimiters `{{`, `{%` and `{#` are known here.

use std::fmt;
use std::io;

use minijinja::{Environment, ErrorKind, Value};

use super::marker::Marker;
use super::scan::{Scan, Spot, block_name};
use crate::codes::Code;

/// A rendered template.
#[derive(Debug, Clone, Default)]
pub struct Rendered {
    /// The text.
    pub text: String,
    anchors: Vec<Anchor>,
}

/// One place in the text of which the place in the template is known.
#[derive(Debug, Clone, Copy)]
struct Anchor {
    rendered: Place,
    template: Place,
    /// What follows was printed by an expression, up to the next anchor.
    is_expression: bool,
}

/// A line and a column, both counted from 1; columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

impl Place {
    pub(super) const START: Place = Place { line: 1, column: 1 };

    /// Where one stands who started here and read the text.
    pub(super) fn after(mut self, text: &str) -> Place {
        for c in text.chars() {
            if c == '\n' {
                self = Place { line: self.line + 1, column: 1 };
            } else {
                self.column += 1;
            }
        }
        self
    }
}

impl Rendered {
    /// A text that no template made: every place is its own.
    pub fn verbatim(text: String) -> Self {
        Rendered { text, anchors: Vec::new() }
    }

    /// The line of the template that this line of the text starts in. Both count from 1.
    pub fn template_line(&self, rendered_line: usize) -> usize {
        self.template_place(Place { line: rendered_line, column: 1 }).line
    }

    /// The place in the template of a place in the text. What an expression printed maps to its `{{`.
    pub fn template_place(&self, rendered: Place) -> Place {
        let after = self.anchors.partition_point(|anchor| anchor.rendered <= rendered);
        let before = after.checked_sub(1).map(|i| self.anchors[i]);
        let next = self.anchors.get(after);
        match (before, next) {
            (Some(anchor), _) if anchor.rendered.line == rendered.line => {
                let shift = if anchor.is_expression { 0 } else { rendered.column - anchor.rendered.column };
                Place { column: anchor.template.column + shift, ..anchor.template }
            }
            (_, Some(anchor)) if anchor.rendered.line == rendered.line => {
                let back = anchor.rendered.column - rendered.column;
                Place { column: anchor.template.column.saturating_sub(back).max(1), ..anchor.template }
            }
            (Some(anchor), _) => anchor.template,
            (None, Some(_)) => Place::START,
            (None, None) => rendered,
        }
    }
}

/// Why a template could not be rendered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateError {
    /// Which kind of problem.
    pub code: Code,
    /// Where, if known.
    pub place: Option<Place>,
    /// What is wrong. Holds names and syntax from the template, never values.
    pub message: String,
    /// What usually is the cure.
    pub help: Option<String>,
}

impl TemplateError {
    /// The line, counted from 1, if known.
    pub fn line(&self) -> Option<usize> {
        self.place.map(|place| place.line)
    }
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for TemplateError {}

/// Renders `source`; `name` is what minijinja calls it (its ending decides on auto-escaping unless the
/// environment says otherwise).
pub fn render(
    env: &Environment<'_>,
    name: &str,
    source: &str,
    context: Value,
) -> Result<Rendered, TemplateError> {
    let scan = Scan::of(source);
    let marker = Marker::absent_from(source);
    let marked = insert_anchors(&marker, source, &scan.anchors);
    let mut text = BoundedText(Vec::new());
    env.template_from_named_str(name, &marked)
        .and_then(|template| template.render_captured_to(context, &mut text).map(|_| ()))
        .map_err(|error| explain(&error, source, &scan))?;
    let text = String::from_utf8(text.0).expect("a rendered template is UTF-8");
    Ok(take_out_anchors(&marker, &text, source, &scan.anchors))
}

/// No configuration and no query is as long as this; a loop gone wrong is.
const RENDERED_BYTES_MAX: usize = 16 * 1024 * 1024;

struct BoundedText(Vec<u8>);

impl io::Write for BoundedText {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > RENDERED_BYTES_MAX {
            return Err(io::Error::other("the rendered text is longer than 16 MiB"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The template with an anchor at each spot.
fn insert_anchors(marker: &Marker, source: &str, spots: &[Spot]) -> String {
    let mut marked = String::with_capacity(source.len() + spots.len() * Marker::MARK_LEN);
    let mut from = 0;
    for (number, spot) in spots.iter().enumerate() {
        marked.push_str(&source[from..spot.offset]);
        marked.push_str(&marker.mark(number));
        from = spot.offset;
    }
    marked.push_str(&source[from..]);
    marked
}

/// The text without anchors, and what they said.
fn take_out_anchors(marker: &Marker, marked: &str, source: &str, spots: &[Spot]) -> Rendered {
    let places = places_of(source, spots);
    let mut text = String::with_capacity(marked.len());
    let mut anchors = Vec::with_capacity(spots.len());
    let mut here = Place::START;
    for (piece, number) in marker.split(marked) {
        here = here.after(piece);
        text.push_str(piece);
        if let Some(i) = number.filter(|&i| i < spots.len()) {
            let is_expression = spots[i].is_expression;
            anchors.push(Anchor { rendered: here, template: places[i], is_expression });
        }
    }
    if anchors.is_empty() {
        // All of it was captured, or blank.
        anchors.push(Anchor { rendered: Place::START, template: Place::START, is_expression: true });
    }
    Rendered { text, anchors }
}

/// The places of offsets in ascending order.
fn places_of(source: &str, spots: &[Spot]) -> Vec<Place> {
    let mut here = Place::START;
    let mut from = 0;
    let place = |spot: &Spot| {
        here = here.after(&source[from..spot.offset]);
        from = spot.offset;
        here
    };
    spots.iter().map(place).collect()
}

/// Puts minijinja's error into the template's own places and adds what usually is wrong.
fn explain(error: &minijinja::Error, source: &str, scan: &Scan) -> TemplateError {
    let reason = match (std::error::Error::source(error), error.detail()) {
        (Some(source), _) if error.kind() == ErrorKind::WriteFailure => source.to_string(),
        (_, Some(detail)) => match detail.strip_suffix(" is unknown") {
            Some(name) if error.kind() == ErrorKind::UnknownFunction => {
                format!("there is no function `{name}`")
            }
            _ => detail.to_owned(),
        },
        _ => error.kind().to_string(),
    };
    if let (ErrorKind::SyntaxError, Some(start)) = (error.kind(), scan.unclosed) {
        let (opener, closer) = match source.as_bytes()[start + 1] {
            b'{' => ("{{", "}}"),
            b'%' if block_name(&source[start..]) == "raw" => ("{% raw %}", "{% endraw %}"),
            b'%' => ("{%", "%}"),
            _ => ("{#", "#}"),
        };
        return TemplateError {
            code: Code::TemplateSyntax,
            place: Some(Place::START.after(&source[..start])),
            message: format!("this `{opener}` is never closed ({reason})"),
            help: Some(format!("end it with `{closer}`, and close each quote and bracket in it")),
        };
    }
    let place = error.range().map(|range| {
        let spots = &scan.anchors;
        // An anchor is five characters of four bytes each.
        let anchors_before = (0..spots.len()).take_while(|&i| spots[i].offset + i * 20 < range.start).count();
        let before = source.get(..range.start.saturating_sub(anchors_before * 20));
        Place::START.after(before.unwrap_or(source))
    });
    let place = place.or_else(|| error.line().map(|line| Place { line, column: 1 }));
    let code = match error.kind() {
        ErrorKind::SyntaxError => Code::TemplateSyntax,
        _ if reason.starts_with("the environment variable ") => Code::VariableUnset,
        _ => Code::TemplateValue,
    };
    TemplateError { code, place, help: usual_cure(error, &reason), message: reason }
}

fn usual_cure(error: &minijinja::Error, reason: &str) -> Option<String> {
    let cure = match error.kind() {
        ErrorKind::SyntaxError if reason.starts_with("unexpected end of input") => {
            "each `{% if %}` needs an `{% endif %}`, each `{% for %}` an `{% endfor %}`"
        }
        ErrorKind::UndefinedError => {
            "a text is written in quotes; a variable of the environment is `env(\"NAME\")`"
        }
        _ => return None,
    };
    Some(cure.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn environment() -> Environment<'static> {
        let mut env = Environment::new();
        env.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
        env.add_global("lines", "one\ntwo\nthree");
        env
    }

    /// For each line of the result: the line of the template that it came from.
    fn lines(source: &str) -> Vec<(String, usize)> {
        let rendered = render(&environment(), "t", source, Value::UNDEFINED).unwrap();
        let numbered = rendered.text.lines().enumerate();
        numbered.map(|(i, line)| (line.to_owned(), rendered.template_line(i + 1))).collect()
    }

    fn check_lines(source: &str, expected: &[(&str, usize)]) {
        let expected: Vec<_> = expected.iter().map(|&(text, line)| (text.to_owned(), line)).collect();
        assert_eq!(lines(source), expected, "{source:?}");
    }

    #[test]
    fn each_line_knows_its_line_in_the_template() {
        check_lines("a\nb\n", &[("a", 1), ("b", 2)]);
        check_lines(
            "{% for i in [1, 2] %}\n- {{ i }}\n{% endfor %}\nend",
            &[("", 1), ("- 1", 2), ("", 2), ("- 2", 2), ("", 2), ("end", 4)],
        );
        check_lines("{%- if false %}\na\nb\n{%- endif -%}\n  c\nd", &[("c", 5), ("d", 6)]);
        check_lines("{{ lines }} x\ny", &[("one", 1), ("two", 1), ("three x", 1), ("y", 2)]);
        check_lines("{{\n1\n+\n1\n}}\ny", &[("2", 1), ("y", 6)]);
        check_lines("{#\n\n#}x\n{{ '}}' }}y", &[("x", 3), ("}}y", 4)]);
        check_lines("{% raw %}\n{{ a }}\n{% endraw %}b", &[("", 1), ("{{ a }}", 2), ("b", 3)]);
        check_lines("{% set x %}\na\n{% endset %}{{ x }}\nz", &[("", 3), ("a", 3), ("", 3), ("z", 4)]);
    }

    #[test]
    fn columns_are_those_of_the_template() {
        let source = "  {% if true %}ab: {{ lines }} cd{% endif %}";
        let rendered = render(&environment(), "t", source, Value::UNDEFINED).unwrap();
        assert_eq!(rendered.text, "  ab: one\ntwo\nthree cd");
        let cases = [
            ((1, 3), 16),
            ((1, 5), 18),
            ((1, 7), 20),
            ((1, 9), 20),
            ((2, 2), 20),
            ((3, 7), 32),
            ((3, 8), 33),
        ];
        for ((line, column), expected) in cases {
            let place = rendered.template_place(Place { line, column });
            assert_eq!(place, Place { line: 1, column: expected }, "{line}:{column}");
        }
    }

    #[test]
    fn errors_name_place_and_cure() {
        let cases = [
            ("a\n b: {{ env(1) }}", "2:8", "env", None),
            ("a\n b: {{ 'x' }\nc: {{ 1 }}", "2:5", "this `{{` is never closed", Some("`}}`")),
            ("a\n{% if true\nb", "2:1", "this `{%` is never closed", Some("`%}`")),
            ("{% raw %}", "1:1", "this `{% raw %}` is never closed", Some("`{% endraw %}`")),
            ("x\n\n{# y", "3:1", "this `{#` is never closed", Some("`#}`")),
            ("a\n{% if true %}\nb\n", "2:14", "unexpected end of input", Some("`{% endif %}`")),
            ("a\nb {{ c }} d {{ 1 }}", "2:6", "c", Some("in quotes")),
            ("a\n{{ 1 | nope }}", "2:8", "nope", None),
        ];
        for (source, at, message, help) in cases {
            let error = render(&environment(), "t", source, Value::UNDEFINED).unwrap_err();
            let place = error.place.map(|p| format!("{}:{}", p.line, p.column));
            assert_eq!(place.as_deref(), Some(at), "{source:?}: {error:?}");
            assert!(error.message.contains(message), "{source:?}: {error:?}");
            let help_is_right = match help {
                Some(help) => error.help.as_deref().is_some_and(|h| h.contains(help)),
                None => error.help.is_none(),
            };
            assert!(help_is_right, "{source:?}: {error:?}");
        }
    }

    #[test]
    fn a_loop_gone_wrong_ends() {
        let source = "{% for i in range(9999) %}{{ 'x' * 9999 }}{% endfor %}";
        let error = render(&environment(), "t", source, Value::UNDEFINED).unwrap_err();
        assert_eq!(error.message, "the rendered text is longer than 16 MiB");
    }

    const FRAGMENTS: [&str; 24] = [
        "a",
        "é",
        "\n",
        "\n\n",
        " ",
        "  ",
        "\t",
        "{{ 1 }}",
        "{{- 1 -}}",
        "{{ lines }}",
        "{{ '}}' }}",
        "{",
        "}",
        "\r\n",
        "{% if true %}",
        "{%- if false -%}",
        "{% endif %}",
        "{%- endif -%}",
        "{# c #}",
        "{%- raw -%} {{ x {%- endraw -%}",
        "{% set x %} a {% endset %}{{ x | length }}",
        "\u{F0001}",
        "\u{100000}",
        "{% filter upper %}b {{ lines }}\n{% endfilter %}",
    ];

    proptest! {
        #[test]
        fn anchors_leave_no_trace_in_the_text(
            picks in prop::collection::vec(0..FRAGMENTS.len(), 0..20),
            lstrip in any::<bool>(),
        ) {
            let mut env = environment();
            let mut syntax = minijinja::syntax::SyntaxConfig::builder();
            env.set_syntax(syntax.lstrip_blocks(lstrip).trim_blocks(lstrip).build().unwrap());
            let source: String = picks.iter().map(|&i| FRAGMENTS[i]).collect();
            let plain = env.render_named_str("t", &source, ());
            match (plain, render(&env, "t", &source, Value::UNDEFINED)) {
                (Ok(plain), Ok(rendered)) => prop_assert_eq!(plain, rendered.text),
                (plain, rendered) => prop_assert_eq!(plain.is_ok(), rendered.is_ok(), "{:?}", source),
            }
        }

        #[test]
        fn no_text_makes_the_scan_panic(source in "(\\{\\{|\\}\\}|%|#|\\{|\\}|-|\"|'|\\\\|\\(|\\)| |\n|raw|endraw|é|x){0,24}") {
            let plain = environment().render_named_str("t", &source, ());
            let rendered = render(&environment(), "t", &source, Value::UNDEFINED);
            prop_assert_eq!(plain.is_ok(), rendered.is_ok());
        }
    }
}
