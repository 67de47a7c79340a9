//! Where the readers of all files leave what they find: problems and secrets.

use std::cell::RefCell;

use super::diagnostic::{Diagnostic, Diagnostics, Severity};
use super::mask::SecretMask;
use crate::codes::Code;

/// Nobody reads more at once.
const DIAGNOSTICS_MAX: usize = 100;

/// Grows while a project is read.
#[derive(Default)]
pub(super) struct Report {
    diagnostics: RefCell<Vec<Diagnostic>>,
    secrets: RefCell<Vec<Vec<u8>>>,
}

impl Report {
    pub(super) fn add(&self, diagnostic: Diagnostic) {
        let mut diagnostics = self.diagnostics.borrow_mut();
        match diagnostics.len() {
            0..DIAGNOSTICS_MAX => diagnostics.push(diagnostic),
            DIAGNOSTICS_MAX => {
                let message = "there are more problems than these, shown when these are mended";
                let file = diagnostic.file.unwrap_or_default();
                diagnostics.push(Diagnostic::error(Code::TooManyProblems, file, message));
            }
            _ => {}
        }
    }

    /// Takes in a value that nobody may ever see.
    pub(super) fn add_secret(&self, value: impl Into<Vec<u8>>) {
        self.secrets.borrow_mut().push(value.into());
    }

    /// The mask, and the masked diagnostics by file, line and column; files stay in the order in which they
    /// were read. Err if one is an error.
    pub(super) fn finish(self) -> (SecretMask, Result<Diagnostics, Diagnostics>) {
        let secrets = self.secrets.into_inner();
        let mask = SecretMask::new(secrets.iter().map(Vec::as_slice));
        let mut diagnostics = self.diagnostics.into_inner();
        let mut files: Vec<_> = Vec::new();
        for diagnostic in &diagnostics {
            if !files.contains(&diagnostic.file) {
                files.push(diagnostic.file.clone());
            }
        }
        diagnostics.sort_by_key(|d| (files.iter().position(|file| *file == d.file), d.line, d.column));
        let is_bad = diagnostics.iter().any(|d| d.severity == Severity::Error);
        let diagnostics = Diagnostics::new(diagnostics, &mask);
        (mask, if is_bad { Err(diagnostics) } else { Ok(diagnostics) })
    }
}
