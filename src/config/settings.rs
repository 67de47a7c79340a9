//! A connection's values, each given as `K` or, in a file of its own, as `K_path`.

use std::path::Path;

use super::connection::RootCertificates;
use super::excerpt::sounds_secret;
use super::fields::{Fields, Reader};
use super::secret::Secret;
use super::size::parse_size;
use super::source_file::{read_bytes, shown_path};
use super::template::Place;
use super::yaml::{Node, Scalar};
use crate::codes::Code;

/// The keys of one connection. Each method reports what is wrong and then returns None; a key that is absent
/// is an inner None, or the default.
pub(super) struct Settings<'a> {
    pub(super) reader: Reader<'a>,
    pub(super) fields: Fields<'a>,
    /// What messages call the connection.
    pub(super) what: String,
}

/// A value as it was given.
struct Given {
    bytes: Vec<u8>,
    place: Place,
    /// For messages: the text, unless it may be secret.
    shown: Option<String>,
}

impl<'a> Settings<'a> {
    /// Whether the key or its `_path` has a value.
    pub(super) fn has(&self, key: &str) -> bool {
        self.fields.get(key).is_some() || self.fields.get(&format!("{key}_path")).is_some()
    }

    /// Where the key or its `_path` stands.
    pub(super) fn place_of(&self, key: &str) -> Place {
        let path_key = format!("{key}_path");
        let key = if self.fields.get(&path_key).is_some() { &path_key } else { key };
        self.fields.place_of(key)
    }

    fn given(&self, key: &str) -> Option<Given> {
        let path_key = format!("{key}_path");
        match (self.fields.get(key), self.fields.get(&path_key)) {
            (Some(_), Some(_)) => {
                let message = format!("{} has both `{key}` and `{path_key}`", self.what);
                self.reader.error_with(
                    Code::Both,
                    self.fields.place_of(&path_key),
                    message,
                    "keep one of them",
                );
                None
            }
            (Some(node), None) => {
                let scalar = self.scalar(key, node)?;
                let shown = scalar.is_literal() && !sounds_secret(key);
                Some(Given {
                    bytes: scalar.text.clone().into_bytes(),
                    place: node.place,
                    shown: shown.then(|| scalar.text.clone()),
                })
            }
            (None, Some(node)) => {
                let path = self.scalar(&path_key, node)?;
                let bytes = without_line_end(self.read_file(&path_key, node.place, path)?);
                self.reader.report.add_secret(bytes.clone());
                Some(Given { bytes, place: node.place, shown: None })
            }
            (None, None) => None,
        }
    }

    fn scalar(&self, key: &str, node: &'a Node) -> Option<&'a Scalar> {
        self.reader.scalar(node, &format!("`{key}` of {}", self.what))
    }

    fn error(&self, place: Place, key: &str, problem: &str) {
        self.reader.error(Code::Value, place, format!("`{key}` of {} {problem}", self.what));
    }

    /// The bytes of the file that a value names.
    fn read_file(&self, key: &str, place: Place, path: &Scalar) -> Option<Vec<u8>> {
        let resolved = self.reader.file.resolve(&path.text);
        let result = read_bytes(&resolved);
        if let Err(reason) = &result {
            let file = match is_shown_path(path) {
                true => format!("`{}`", shown_path(&resolved).display()),
                false => "what its expression yields".to_owned(),
            };
            let problem =
                format!("`{key}` of {} names a file that cannot be read, {file}: {reason}", self.what);
            self.reader.error(Code::FileUnreadable, place, problem);
        }
        result.ok()
    }

    /// A text with something in it.
    pub(super) fn optional(&self, key: &str) -> Option<Option<String>> {
        if !self.has(key) {
            return Some(None);
        }
        let given = self.given(key)?;
        let problem = match String::from_utf8(given.bytes) {
            Ok(text) if text.is_empty() => "is empty",
            Ok(text) if text.contains('\0') => "holds a zero byte",
            Ok(text) => return Some(Some(text)),
            Err(_) => "is not UTF-8",
        };
        self.error(given.place, key, problem);
        None
    }

    /// A text that must be there.
    pub(super) fn required(&self, key: &str) -> Option<String> {
        let text = self.optional(key)?;
        if text.is_none() {
            let help = format!("add `{key}: …`, or `{key}_path: …` with a file that holds it");
            self.reader.error_with(
                Code::MissingKey,
                self.fields.place,
                format!("{} has no `{key}`", self.what),
                help,
            );
        }
        text
    }

    /// Any bytes but a zero, which would end the value in Postgres's protocol.
    pub(super) fn secret(&self, key: &str) -> Option<Option<Secret>> {
        if !self.has(key) {
            return Some(None);
        }
        let given = self.given(key)?;
        if given.bytes.contains(&0) {
            self.error(given.place, key, "holds a zero byte");
            return None;
        }
        Some(Some(Secret::new(given.bytes)))
    }

    /// A port number.
    pub(super) fn port(&self, key: &str, default: u16) -> Option<u16> {
        if !self.has(key) {
            return Some(default);
        }
        let given = self.given(key)?;
        let text = std::str::from_utf8(&given.bytes).unwrap_or_default().trim();
        let port = text.parse::<u16>().ok().filter(|&port| port > 0);
        if port.is_none() {
            let but = given.shown.map(|shown| format!(", not `{shown}`")).unwrap_or_default();
            self.error(given.place, key, &format!("must be a port, 1 to 65535{but}"));
        }
        port
    }

    /// A size in bytes.
    pub(super) fn size(&self, key: &str, default: u64) -> Option<u64> {
        if !self.has(key) {
            return Some(default);
        }
        let given = self.given(key)?;
        let size = parse_size(std::str::from_utf8(&given.bytes).unwrap_or_default());
        if size.is_none() {
            let but = given.shown.map(|shown| format!(", not `{shown}`")).unwrap_or_default();
            self.error(given.place, key, &format!("must be a size such as 512MB or 50GB{but}"));
        }
        size
    }

    /// One of the names.
    pub(super) fn choice<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Option<Option<T>> {
        if let Some(node) = self.fields.get(key).filter(|_| !self.has_both(key)) {
            return self.reader.choice(node, &format!("`{key}` of {}", self.what), choices).map(Some);
        }
        let Some(text) = self.optional(key)? else { return Some(None) };
        let chosen = choices.iter().find(|(name, _)| *name == text.trim());
        if chosen.is_none() {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            self.error(self.place_of(key), key, &format!("must be one of {}", names.join(", ")));
        }
        chosen.map(|(_, value)| Some(*value))
    }

    fn has_both(&self, key: &str) -> bool {
        self.fields.get(key).is_some() && self.fields.get(&format!("{key}_path")).is_some()
    }

    /// PEM: as it is, or in a file.
    pub(super) fn pem(&self, key: &str) -> Option<Option<Vec<u8>>> {
        if !self.has(key) {
            return Some(None);
        }
        let is_path = |scalar: &Scalar| !has_pem(scalar.text.as_bytes());
        let node = self.fields.get(key).filter(|_| !self.has_both(key));
        let (bytes, place) = match node.map(|node| (node, self.scalar(key, node))) {
            Some((_, None)) => return None,
            Some((node, Some(scalar))) if is_path(scalar) => {
                if !may_be_path(&scalar.text) {
                    self.error(node.place, key, "is neither PEM nor a file's path");
                    return None;
                }
                (self.read_file(key, node.place, scalar)?, node.place)
            }
            _ => {
                let given = self.given(key)?;
                (given.bytes, given.place)
            }
        };
        if key == "ssl_key" {
            self.reader.report.add_secret(bytes.clone());
        }
        if !has_pem(&bytes) {
            self.error(place, key, "is no PEM: it has no line with `-----BEGIN`");
            return None;
        }
        Some(Some(bytes))
    }

    /// PEM, or the machine's own store.
    pub(super) fn root_certificates(&self, key: &str) -> Option<Option<RootCertificates>> {
        if let Some(node) = self.fields.get(key).filter(|_| !self.has_both(key))
            && self.scalar(key, node)?.text == "system"
        {
            return Some(Some(RootCertificates::System));
        }
        Some(self.pem(key)?.map(RootCertificates::Pem))
    }
}

fn without_line_end(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.ends_with(b"\n") {
        bytes.pop();
        if bytes.ends_with(b"\r") {
            bytes.pop();
        }
    }
    bytes
}

fn has_pem(bytes: &[u8]) -> bool {
    const BEGIN: &[u8] = b"-----BEGIN";
    bytes.windows(BEGIN.len()).any(|window| window == BEGIN)
}

/// Whether the value of a key that takes PEM or a path can be a path at all.
pub(super) fn may_be_path(text: &str) -> bool {
    !text.is_empty() && text.len() <= 255 && !text.contains(char::is_control)
}

/// Somebody may have put a password's variable where a path belongs.
fn is_shown_path(path: &Scalar) -> bool {
    let text = Path::new(&path.text);
    path.is_literal() || text.is_absolute() || text.starts_with(".") || text.starts_with("..")
}
