//! Reads maps, lists and scalars of a configuration file, and says what is wrong with them.

use super::nearest::{did_you_mean, known};
use super::report::Report;
use super::source_file::SourceFile;
use super::template::Place;
use super::yaml::{Key, Kind, Node, Scalar};
use crate::codes::Code;

/// A file that is being read, and where problems go.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    pub(super) file: &'a SourceFile,
    pub(super) report: &'a Report,
}

/// A map, only known keys in it.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    pub(super) place: Place,
    entries: &'a [(Key, Node)],
}

impl<'a> Fields<'a> {
    /// A map whose keys were looked at before.
    pub(super) fn of(node: &'a Node) -> Option<Fields<'a>> {
        match &node.kind {
            Kind::Map(entries) => Some(Fields { place: node.place, entries }),
            _ => None,
        }
    }

    /// The key's value; None where it is absent or empty.
    pub(super) fn get(&self, key: &str) -> Option<&'a Node> {
        let (_, node) = self.entries.iter().find(|(entry, _)| entry.name == key)?;
        (!matches!(node.kind, Kind::Null)).then_some(node)
    }

    /// Where the key stands, or else the map.
    pub(super) fn place_of(&self, key: &str) -> Place {
        let entry = self.entries.iter().find(|(entry, _)| entry.name == key);
        entry.map_or(self.place, |(entry, _)| entry.place)
    }
}

impl<'a> Reader<'a> {
    pub(super) fn error(&self, code: Code, place: Place, message: impl Into<String>) {
        self.report.add(self.file.error(code, Some(place), message));
    }

    pub(super) fn error_with(
        &self,
        code: Code,
        place: Place,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.report.add(self.file.error(code, Some(place), message).help(help));
    }

    /// A map; `what` is what messages call it. Keys that aren't known are errors.
    pub(super) fn map(&self, node: &'a Node, what: &str, known: &[&str]) -> Option<Fields<'a>> {
        let entries = match &node.kind {
            Kind::Map(entries) => entries,
            Kind::Unknown => return None,
            kind => {
                let help = match known {
                    [first, ..] => format!("write it as `key: value`, as in `{first}: …`"),
                    [] => "write it as `key: value`".to_owned(),
                };
                self.error_with(
                    Code::Shape,
                    node.place,
                    format!("{what} must be a map, not {}", name_of(kind)),
                    help,
                );
                return None;
            }
        };
        for (key, _) in entries {
            if !known.contains(&key.name.as_str()) {
                let message = format!("{what} has no key `{}`", key.name);
                let names = known.iter().copied().filter(|name| !name.ends_with("_path"));
                self.error_with(Code::UnknownKey, key.place, message, did_you_mean(&key.name, names));
            }
        }
        Some(Fields { place: node.place, entries })
    }

    /// A text. Numbers and booleans are taken as they are written.
    pub(super) fn scalar(&self, node: &'a Node, what: &str) -> Option<&'a Scalar> {
        match &node.kind {
            Kind::Scalar(scalar) => Some(scalar),
            Kind::Unknown => None,
            kind => {
                self.error(
                    Code::Shape,
                    node.place,
                    format!("{what} must be a single value, not {}", name_of(kind)),
                );
                None
            }
        }
    }

    /// A text that isn't empty.
    pub(super) fn name(&self, node: &'a Node, what: &str) -> Option<&'a str> {
        let scalar = self.scalar(node, what)?;
        if scalar.text.is_empty() {
            self.error(Code::Value, node.place, format!("{what} is empty"));
            return None;
        }
        Some(&scalar.text)
    }

    /// A list with something in it, or a single value, which stands for a list of one.
    pub(super) fn list_or_one(&self, node: &'a Node, what: &str) -> Option<&'a [Node]> {
        match &node.kind {
            Kind::List(items) if items.is_empty() => {
                self.error(Code::Shape, node.place, format!("{what} is an empty list"));
                None
            }
            Kind::List(items) => Some(items),
            Kind::Scalar(_) => Some(std::slice::from_ref(node)),
            Kind::Unknown => None,
            kind => {
                self.error(Code::Shape, node.place, format!("{what} must be a list, not {}", name_of(kind)));
                None
            }
        }
    }

    /// A list, or anything else, which stands for a list of one.
    pub(super) fn list_or_one_map(&self, node: &'a Node) -> &'a [Node] {
        match &node.kind {
            Kind::List(items) => items,
            _ => std::slice::from_ref(node),
        }
    }

    /// One of the given names.
    pub(super) fn choice<T: Copy>(&self, node: &'a Node, what: &str, choices: &[(&str, T)]) -> Option<T> {
        let scalar = self.scalar(node, what)?;
        let chosen = choices.iter().find(|(name, _)| *name == scalar.text);
        if chosen.is_none() {
            let message = format!("{what} cannot be {}", scalar.shown());
            let names = choices.iter().map(|(name, _)| *name);
            let help = if scalar.is_literal() { did_you_mean(&scalar.text, names) } else { known(names) };
            self.error_with(Code::Value, node.place, message, help);
        }
        chosen.map(|(_, value)| *value)
    }

    /// `true` or `false`.
    pub(super) fn bool(&self, node: &'a Node, what: &str) -> Option<bool> {
        self.choice(node, what, &[("true", true), ("false", false)])
    }
}

impl Scalar {
    /// Whether the file holds it as it is.
    pub(super) fn is_literal(&self) -> bool {
        self.values.is_empty()
    }

    /// The text for messages. What came from an expression may be a secret in the wrong place.
    pub(super) fn shown(&self) -> String {
        if self.is_literal() { format!("`{}`", self.text) } else { "what its expression yields".to_owned() }
    }
}

fn name_of(kind: &Kind) -> &'static str {
    match kind {
        Kind::Null => "nothing",
        Kind::Unknown => "something unknown",
        Kind::Scalar(_) => "a single value",
        Kind::List(_) => "a list",
        Kind::Map(_) => "a map",
    }
}
