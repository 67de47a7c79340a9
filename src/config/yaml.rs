//! Reads YAML (and JSON, which is nearly a part of it) into a tree in which every node knows its place in
//! the template, with the values of expressions put in. A file cannot make it use more than a bounded depth;
//! anchors, aliases and tags are refused: no configuration here needs them.

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};

use super::excerpt::sounds_secret;
use super::expression::Expanded;
use super::report::Report;
use super::settings::may_be_path;
use super::source_file::SourceFile;
use super::template::Place;
use crate::codes::Code;

/// A value and where it begins.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// Nothing was written.
    Null,
    /// Its value is missing and that has been reported.
    Unknown,
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A text or a number: which it is, its reader decides.
#[derive(Debug)]
pub(super) struct Scalar {
    pub(super) text: String,
    /// What expressions put into it.
    pub(super) values: Vec<String>,
    /// Written without quotes.
    pub(super) is_plain: bool,
}

#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) place: Place,
}

/// The deepest nesting that is read; a configuration has four levels.
const DEPTH_MAX: usize = 32;
/// The most nodes that are read: thousands of connections.
const NODES_MAX: usize = 50_000;

/// The tree of the one document in the file; None where something made it unreadable, which is reported.
pub(super) fn parse(file: &SourceFile, expanded: &Expanded, report: &Report) -> Option<Node> {
    let mut tree = Tree { file, expanded, report, open: Vec::new(), root: None, documents: 0, nodes: 0 };
    for event in Parser::new_from_str(&expanded.rendered.text) {
        let added = match event {
            Ok((event, span)) => tree.add(event, span),
            Err(error) => Err(tree.syntax_error(&error)),
        };
        if added.is_err() {
            return None;
        }
    }
    if tree.root.as_ref().is_none_or(|root| matches!(root.kind, Kind::Null)) {
        report.add(file.error(Code::FileEmpty, None, format!("`{}` is empty", file.name())));
        return None;
    }
    tree.root
}

/// A tree while it grows. The stack of open collections is explicit: a file cannot exhaust the program's own.
struct Tree<'a> {
    file: &'a SourceFile,
    expanded: &'a Expanded,
    report: &'a Report,
    open: Vec<Open>,
    root: Option<Node>,
    documents: usize,
    nodes: usize,
}

/// The file cannot be read further, which has been reported.
struct Refused;

enum Open {
    List(Place, Vec<Node>),
    /// The key waits for its value.
    Map(Place, Vec<(Key, Node)>, Option<Key>),
}

impl Tree<'_> {
    fn add(&mut self, event: Event<'_>, span: Span) -> Result<(), Refused> {
        let place = self.place(&span);
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(self.refuse(place, "the file has too much in it", "no configuration needs this"));
        }
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(self.refuse(place, "a second document begins here", "one file holds one"));
                }
            }
            Event::Alias(_) => return Err(self.refuse_anchor(place)),
            Event::Scalar(_, _, anchor, _)
            | Event::SequenceStart(anchor, _)
            | Event::MappingStart(anchor, _)
                if anchor > 0 =>
            {
                return Err(self.refuse_anchor(place));
            }
            Event::Scalar(_, _, _, Some(_))
            | Event::SequenceStart(_, Some(_))
            | Event::MappingStart(_, Some(_)) => {
                return Err(self.refuse(
                    place,
                    "YAML tags (`!…`) are not read",
                    "quote a value that begins with `!`",
                ));
            }
            Event::Scalar(text, style, _, _) => return self.add_scalar(place, &text, style),
            Event::SequenceStart(..) => self.open(place, Open::List(place, Vec::new()))?,
            Event::MappingStart(..) => self.open(place, Open::Map(place, Vec::new(), None))?,
            Event::SequenceEnd | Event::MappingEnd => {
                let node = match self.open.pop() {
                    Some(Open::List(place, items)) => Node { place, kind: Kind::List(items) },
                    Some(Open::Map(place, entries, _)) => Node { place, kind: Kind::Map(entries) },
                    None => return Ok(()),
                };
                self.attach(node);
            }
            Event::DocumentEnd | Event::StreamStart | Event::StreamEnd | Event::Nothing => {}
        }
        Ok(())
    }

    fn place(&self, span: &Span) -> Place {
        self.expanded.rendered.template_place(Place { line: span.start.line(), column: span.start.col() + 1 })
    }

    fn refuse(&self, place: Place, message: &str, help: &str) -> Refused {
        self.report.add(self.file.error(Code::YamlFeature, Some(place), message).help(help));
        Refused
    }

    fn refuse_anchor(&self, place: Place) -> Refused {
        let message = "YAML anchors and aliases (`&…`, `*…`) are not read";
        self.refuse(
            place,
            message,
            "use `{% set x = … %}` and `{{ x }}`; quote a value that begins with `&` or `*`",
        )
    }

    fn open(&mut self, place: Place, open: Open) -> Result<(), Refused> {
        if let Some(Open::Map(_, _, None)) = self.open.last() {
            return Err(self.refuse(
                place,
                "a key must be a name",
                "quote a value that begins with `{` or `[`",
            ));
        }
        if self.open.len() == DEPTH_MAX {
            return Err(self.refuse(place, "this is nested too deeply", "no configuration needs this"));
        }
        self.open.push(open);
        Ok(())
    }

    fn add_scalar(&mut self, place: Place, text: &str, style: ScalarStyle) -> Result<(), Refused> {
        if let Some(Open::Map(_, entries, key @ None)) = self.open.last_mut() {
            if self.expanded.has_expression(text) {
                let message = "an expression cannot stand in a key";
                return Err(self.refuse(place, message, "use `{% if … %}` around whole lines"));
            }
            if let Some((first, _)) = entries.iter().find(|(first, _)| first.name == text) {
                let message =
                    format!("the key `{text}` stands here twice; first in line {}", first.place.line);
                self.report.add(self.file.error(Code::Twice, Some(place), message));
            }
            *key = Some(Key { name: text.to_owned(), place });
            return Ok(());
        }
        let is_plain = style == ScalarStyle::Plain;
        let filled = self.expanded.fill(text);
        let kind = if !filled.missing.is_empty() {
            for (message, help) in filled.missing {
                self.report.add(self.file.error(Code::VariableUnset, Some(place), message).help(help));
            }
            Kind::Unknown
        } else if is_plain && filled.values.is_empty() && matches!(text, "" | "~" | "null" | "Null" | "NULL")
        {
            Kind::Null
        } else {
            Kind::Scalar(Scalar { text: filled.text, values: filled.values, is_plain })
        };
        self.attach(Node { place, kind });
        Ok(())
    }

    fn attach(&mut self, node: Node) {
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List(_, items)) => items.push(node),
            Some(Open::Map(_, entries, key)) => {
                let Some(key) = key.take() else { return };
                if let Kind::Scalar(scalar) = &node.kind
                    && is_secret(&key.name, &scalar.text)
                {
                    self.report.add_secret(scalar.text.clone());
                    scalar.values.iter().for_each(|value| self.report.add_secret(value.clone()));
                }
                entries.push((key, node));
            }
        }
    }

    fn syntax_error(&self, error: &ScanError) -> Refused {
        let mark = error.marker();
        let text = self.expanded.rendered.text.trim_end();
        let last = text.char_indices().next_back().map_or(0, |(offset, _)| offset);
        let at = Place { line: mark.line().max(1), column: mark.col() + 1 };
        let place = self.expanded.rendered.template_place(at.min(Place::START.after(&text[..last])));
        let (message, help) = in_plain_words(error.info());
        let format = if self.file.name().ends_with(".json") { "JSON" } else { "YAML" };
        let problem =
            self.file.error(Code::FileSyntax, Some(place), format!("this is no valid {format}: {message}"));
        self.report.add(problem.maybe_help(help.map(str::to_owned)));
        Refused
    }
}

/// Whether to hide the value wherever it comes up, even if the key turns out to be unknown. `ssl_key` may
/// name a file.
fn is_secret(key: &str, value: &str) -> bool {
    sounds_secret(key) && !(key == "ssl_key" && !value.contains("-----BEGIN") && may_be_path(value))
}

/// What usually is behind a parser's message. The parser may quote a character of the file: that is dropped,
/// it may be a password's.
fn in_plain_words(info: &str) -> (&str, Option<&'static str>) {
    let has = |part: &str| info.contains(part);
    if has("unexpected character") {
        ("no value can begin with this character", Some("put the value in quotes"))
    } else if has("tabs ") || has("tab ") || has(" a tab") {
        (info, Some("indent with spaces"))
    } else if has("indentation in quoted scalar") {
        (
            "a quote opens here and isn't closed before the next key",
            Some("close it; a quote within quotes is doubled"),
        )
    } else if has("Unicode character escape") {
        ("this escape stands for no character", Some("write the character itself"))
    } else if has("recursion limit") {
        ("this is nested too deeply", None)
    } else if has("mapping values are not allowed") {
        (
            "a `: ` stands where no key can be",
            Some("put a value that holds `: ` in quotes; check the indentation"),
        )
    } else if has("simple key expect") {
        (
            "here a key and `:` should stand",
            Some("check the indentation, and that a `:` and a space follow the key"),
        )
    } else if has("trailing content after double-quoted") {
        let help = "a `,` may be missing; a value with double quotes inside goes in single ones: \
                    table: '\"Odd Name\"'";
        ("something follows the closing quote", Some(help))
    } else if has("expected node content") {
        ("a value or a closing bracket is missing", None)
    } else if has("quoted scalar") && has("end of stream") {
        ("a quote is not closed", None)
    } else {
        (info, None)
    }
}
