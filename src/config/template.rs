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
use std::hash::{BuildHasher, Hasher, RandomState};

use minijinja::{Environment, ErrorKind, Value};

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
            (None, Some(_)) => Place { line: 1, column: 1 },
            (None, None) => rendered,
        }
    }
}

/// Why a template could not be rendered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateError {
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
    let tag = AnchorTag::absent_from(source);
    let marked = tag.insert(source, &scan.anchors);
    env.template_from_named_str(name, &marked)
        .and_then(|template| template.render(context))
        .map(|text| tag.take_out(&text, source, &scan.anchors))
        .map_err(|error| explain(&error, source, &scan))
}

/// A byte offset of the template at which an anchor goes.
#[derive(Debug, Clone, Copy)]
struct Spot {
    offset: usize,
    is_expression: bool,
}

/// What one pass over a template finds.
#[derive(Debug, Default)]
struct Scan {
    anchors: Vec<Spot>,
    /// Byte offset of a tag that does not end.
    unclosed: Option<usize>,
}

impl Scan {
    fn of(source: &str) -> Scan {
        let mut scan = Scan::default();
        let mut at = 0;
        let mut captures = 0_usize;
        while let Some(start) = find_tag(source, at) {
            scan.mark_text(source, at, start, captures);
            let Some(end) = tag_end(source, start) else {
                scan.unclosed = Some(start);
                return scan;
            };
            at = end;
            match source.as_bytes()[start + 1] {
                b'{' if captures == 0 && source.as_bytes()[start + 2] != b'-' => {
                    scan.anchors.push(Spot { offset: start, is_expression: true });
                }
                b'%' => match block_name(&source[start..end]) {
                    "raw" => {
                        let Some((raw_end, tag_end)) = find_endraw(source, end) else {
                            scan.unclosed = Some(start);
                            return scan;
                        };
                        scan.mark_text(source, end, raw_end, captures);
                        at = tag_end;
                    }
                    "filter" | "macro" | "call" => captures += 1,
                    "set" if !source[start..end].contains('=') => captures += 1,
                    "endfilter" | "endmacro" | "endcall" | "endset" => {
                        captures = captures.saturating_sub(1);
                    }
                    _ => {}
                },
                _ => {}
            }
        }
        scan.mark_text(source, at, source.len(), captures);
        scan
    }

    /// Anchors the first non-blank character of each line of a stretch of text.
    fn mark_text(&mut self, source: &str, start: usize, end: usize, captures: usize) {
        if captures > 0 {
            return;
        }
        let mut offset = start;
        for line in source[start..end].split_inclusive('\n') {
            let blank = line.len() - line.trim_start().len();
            if blank < line.len() {
                self.anchors.push(Spot { offset: offset + blank, is_expression: false });
            }
            offset += line.len();
        }
    }
}

fn find_tag(source: &str, from: usize) -> Option<usize> {
    let bytes = source.as_bytes();
    (from..bytes.len().saturating_sub(1))
        .find(|&i| bytes[i] == b'{' && matches!(bytes[i + 1], b'{' | b'%' | b'#'))
}

/// The offset behind the tag that starts at `start`; strings and brackets inside are respected, as
/// minijinja does.
fn tag_end(source: &str, start: usize) -> Option<usize> {
    let closer: &[u8] = match source.as_bytes()[start + 1] {
        b'{' => b"}}",
        b'%' => b"%}",
        _ => return source[start + 2..].find("#}").map(|i| start + 2 + i + 2),
    };
    let bytes = source.as_bytes();
    let mut open = 0_usize;
    let mut i = start + 2;
    while i < bytes.len() {
        match bytes[i] {
            _ if open == 0 && bytes[i..].starts_with(closer) => return Some(i + 2),
            quote @ (b'"' | b'\'') => i = string_end(bytes, i + 1, quote)?,
            b'(' | b'[' | b'{' => open += 1,
            b')' | b']' | b'}' => open = open.checked_sub(1)?,
            _ => {}
        }
        i += 1;
    }
    None
}

/// The offset of the quote that ends a string.
fn string_end(bytes: &[u8], mut i: usize, quote: u8) -> Option<usize> {
    while *bytes.get(i)? != quote {
        i += if bytes[i] == b'\\' { 2 } else { 1 };
    }
    Some(i)
}

/// `if` of `{%- if x %}`.
fn block_name(tag: &str) -> &str {
    let inside = tag[2..].trim_start_matches(['-', '+']).trim_start();
    let end = inside.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(inside.len());
    &inside[..end]
}

/// Where the text of a raw block ends, and where its end tag does.
fn find_endraw(source: &str, mut from: usize) -> Option<(usize, usize)> {
    loop {
        let start = from + source[from..].find("{%")?;
        if block_name(&source[start..]) == "endraw" {
            return Some((start, start + source[start..].find("%}")? + 2));
        }
        from = start + 2;
    }
}

/// The characters that tell an anchor from anything else in one rendering.
struct AnchorTag([char; 3]);

/// How many characters of each private-use plane are drawn from; the two last of a plane are no characters.
const PLANE: u32 = 0xF000;

impl AnchorTag {
    fn absent_from(source: &str) -> AnchorTag {
        loop {
            let random = RandomState::new().build_hasher().finish();
            let tag = AnchorTag([0, 16, 32].map(|shift| private_use(0xF_0000, random >> shift)));
            if !source.contains(tag.0) {
                return tag;
            }
        }
    }

    fn insert(&self, source: &str, spots: &[Spot]) -> String {
        let mut marked = String::with_capacity(source.len() + spots.len() * 20);
        let mut from = 0;
        for (number, spot) in spots.iter().enumerate() {
            marked.push_str(&source[from..spot.offset]);
            marked.extend(self.0);
            marked.extend(number_to_chars(number));
            from = spot.offset;
        }
        marked.push_str(&source[from..]);
        marked
    }

    fn take_out(&self, marked: &str, source: &str, spots: &[Spot]) -> Rendered {
        let places = places_of(source, spots);
        let prefix: String = self.0.iter().collect();
        let mut text = String::with_capacity(marked.len());
        let mut anchors = Vec::with_capacity(spots.len());
        let mut here = Place { line: 1, column: 1 };
        let mut rest = marked;
        while let Some(found) = rest.find(&prefix) {
            here = advance(here, &rest[..found]);
            text.push_str(&rest[..found]);
            rest = &rest[found + prefix.len()..];
            let mut chars = rest.chars();
            let number = chars.next().zip(chars.next()).and_then(|(a, b)| number_from_chars([a, b]));
            if let Some(i) = number.filter(|&i| i < spots.len()) {
                let is_expression = spots[i].is_expression;
                anchors.push(Anchor { rendered: here, template: places[i], is_expression });
                rest = chars.as_str();
            }
        }
        text.push_str(rest);
        Rendered { text, anchors }
    }
}

fn private_use(plane: u32, number: u64) -> char {
    let low = u32::try_from(number % u64::from(PLANE)).expect("less than PLANE");
    char::from_u32(plane + low).expect("a character of a private-use plane")
}

fn number_to_chars(number: usize) -> [char; 2] {
    let number = number as u64;
    [number / u64::from(PLANE), number].map(|part| private_use(0x10_0000, part))
}

fn number_from_chars(chars: [char; 2]) -> Option<usize> {
    let [high, low] = chars.map(|c| u32::from(c).checked_sub(0x10_0000).filter(|&part| part < PLANE));
    Some(high? as usize * PLANE as usize + low? as usize)
}

/// The places of offsets in ascending order.
fn places_of(source: &str, spots: &[Spot]) -> Vec<Place> {
    let mut here = Place { line: 1, column: 1 };
    let mut from = 0;
    let place = |spot: &Spot| {
        here = advance(here, &source[from..spot.offset]);
        from = spot.offset;
        here
    };
    spots.iter().map(place).collect()
}

fn advance(mut place: Place, over: &str) -> Place {
    for c in over.chars() {
        if c == '\n' {
            place = Place { line: place.line + 1, column: 1 };
        } else {
            place.column += 1;
        }
    }
    place
}

/// Puts minijinja's error into the template's own places and adds what usually is wrong.
fn explain(error: &minijinja::Error, source: &str, scan: &Scan) -> TemplateError {
    let reason = match error.detail() {
        Some(detail) => detail.to_owned(),
        None => error.kind().to_string(),
    };
    if let (ErrorKind::SyntaxError, Some(start)) = (error.kind(), scan.unclosed) {
        let (opener, closer) = match source.as_bytes()[start + 1] {
            b'{' => ("{{", "}}"),
            b'%' if block_name(&source[start..]) == "raw" => ("{% raw %}", "{% endraw %}"),
            b'%' => ("{%", "%}"),
            _ => ("{#", "#}"),
        };
        return TemplateError {
            place: Some(advance(Place { line: 1, column: 1 }, &source[..start])),
            message: format!("this `{opener}` is never closed ({reason})"),
            help: Some(format!("end it with `{closer}`, and close each quote and bracket in it")),
        };
    }
    let place = error.range().map(|range| {
        let spots = &scan.anchors;
        // An anchor is five characters of four bytes each.
        let anchors_before = (0..spots.len()).take_while(|&i| spots[i].offset + i * 20 < range.start).count();
        let before = source.get(..range.start.saturating_sub(anchors_before * 20));
        advance(Place { line: 1, column: 1 }, before.unwrap_or(source))
    });
    let place = place.or_else(|| error.line().map(|line| Place { line, column: 1 }));
    TemplateError { place, help: usual_cure(error, &reason), message: reason }
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
