//! Reads files whole, with bounds, and says of each problem in one where it is.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::diagnostic::Diagnostic;
use super::excerpt::{ShownLine, shown_lines};
use super::report::Report;
use super::template::Place;
use crate::codes::Code;

/// No file that a person writes is longer.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A configuration file.
#[derive(Debug)]
pub(super) struct SourceFile {
    /// For messages.
    pub(super) shown: PathBuf,
    path: PathBuf,
    text: String,
    shown_lines: Vec<ShownLine>,
}

impl SourceFile {
    /// Reads a UTF-8 file, dropping a byte order mark. None if it cannot be read, which is reported.
    pub(super) fn read(path: PathBuf, report: &Report) -> Option<SourceFile> {
        let shown = shown_path(&path);
        let text = read_text(&path).and_then(|text| match text.contains('\0') {
            true => Err("it holds a zero byte".to_owned()),
            false => Ok(text),
        });
        match text {
            Ok(text) => Some(SourceFile { shown_lines: shown_lines(&text), shown, path, text }),
            Err(reason) => {
                let message = format!("`{}` cannot be read: {reason}", file_name(&path));
                report.add(Diagnostic::error(Code::FileUnreadable, &shown, message));
                None
            }
        }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The file's own name.
    pub(super) fn name(&self) -> String {
        file_name(&self.path)
    }

    /// A path in the file is relative to the file.
    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(path)
    }

    /// A problem at this place.
    pub(super) fn error(&self, code: Code, place: Option<Place>, message: impl Into<String>) -> Diagnostic {
        let diagnostic = Diagnostic::error(code, &self.shown, message);
        match place {
            Some(place) => {
                let line = self.shown_lines.get(place.line - 1);
                diagnostic.at(place, line.map(|line| around(&line.text, line.column(place.column))))
            }
            None => diagnostic,
        }
    }
}

/// How much of a very long line is kept around a column, in characters: more than is shown, so that a secret
/// is whole when it is masked.
const AROUND: usize = 2048;

fn around(line: &str, column: usize) -> (String, usize) {
    let skipped = (column - 1).saturating_sub(AROUND);
    (line.chars().skip(skipped).take(2 * AROUND).collect(), column - skipped)
}

pub(super) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// The file's text; the error says why not, in words.
pub(super) fn read_text(path: &Path) -> Result<String, String> {
    let bytes = read_bytes(path)?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
        format!("it is not UTF-8 (line {line}): save it as UTF-8")
    })?;
    Ok(match text.strip_prefix('\u{FEFF}') {
        Some(rest) => rest.to_owned(),
        None => text,
    })
}

/// The file's bytes; the error says why not, in words, and never what is in it.
pub(super) fn read_bytes(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| reason(&error))?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| reason(&error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err("it is longer than 1 MiB".to_owned());
    }
    Ok(bytes)
}

/// What the system says, in the words of this project where that is common.
pub(super) fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "there is no such file".to_owned(),
        ErrorKind::PermissionDenied => "this user may not read it".to_owned(),
        ErrorKind::IsADirectory => "it is a folder".to_owned(),
        _ => error.to_string(),
    }
}

/// A path for messages: relative to where the command was started if it lies below, else as given.
pub fn shown_path(path: &Path) -> PathBuf {
    let below = std::env::current_dir().ok().and_then(|dir| Some(path.strip_prefix(dir).ok()?.to_owned()));
    let path = below.unwrap_or_else(|| path.to_owned());
    match path.strip_prefix(".") {
        Ok(rest) if !rest.as_os_str().is_empty() => rest.to_owned(),
        _ => path,
    }
}
