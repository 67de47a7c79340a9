//! What a look at a project's files and servers has found: what is fine, what isn't, what couldn't be looked at. `run` asks
//! for the verdict alone, `check` shows all of it.

use serde::Serialize;

use super::error::{EngineError, refusal};
use crate::codes::Code;
use crate::config::{Diagnostic, Severity};
use crate::pipeline::error::PipelineError;
use crate::transform::SqlProblem;

/// What is looked at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// The files as a whole.
    Project,
    /// A connection, by its name.
    Connection(String),
    /// A pipeline, by its name.
    Pipeline(String),
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "outcome")]
pub enum Outcome {
    /// It is fine.
    Ok {
        /// What was found.
        detail: String,
    },
    /// It isn't; the severity says how bad that is.
    #[serde(rename = "problem")]
    Problem(Diagnostic),
    /// It couldn't be looked at.
    Skipped {
        /// Why.
        detail: String,
    },
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it belongs to.
    #[serde(flatten)]
    pub subject: Subject,
    /// What was looked at; None for a problem that came up on the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<String>,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// Everything that was found, before anything is created.
#[derive(Debug)]
pub struct Findings {
    subject: Subject,
    all: Vec<Finding>,
    /// What is wrong with each, also where it is the same that is wrong with another.
    wrong: Vec<(Subject, Diagnostic)>,
}

impl Default for Findings {
    fn default() -> Self {
        Findings { subject: Subject::Project, all: Vec::new(), wrong: Vec::new() }
    }
}

impl Findings {
    /// What follows is about all of it.
    pub fn of_project(&mut self) {
        self.subject = Subject::Project;
    }

    /// What follows is about this connection.
    pub fn of_connection(&mut self, name: &str) {
        self.subject = Subject::Connection(name.to_owned());
    }

    /// What follows is about this pipeline.
    pub fn of_pipeline(&mut self, name: &str) {
        self.subject = Subject::Pipeline(name.to_owned());
    }

    fn push(&mut self, check: Option<&str>, outcome: Outcome) {
        let check = check.map(str::to_owned);
        self.all.push(Finding { subject: self.subject.clone(), check, outcome });
    }

    /// Something is fine.
    pub fn ok(&mut self, check: &str, detail: impl Into<String>) {
        self.push(Some(check), Outcome::Ok { detail: detail.into() });
    }

    /// Something couldn't be looked at, for this reason.
    pub fn skip(&mut self, check: &str, why: impl Into<String>) {
        self.push(Some(check), Outcome::Skipped { detail: why.into() });
    }

    /// Adds what is wrong with a server or a file, once.
    pub fn add(&mut self, problem: Diagnostic) {
        if problem.severity == Severity::Error {
            self.wrong.push((self.subject.clone(), problem.clone()));
        }
        if !self.problems().any(|known| *known == problem) {
            self.push(None, Outcome::Problem(problem));
        }
    }

    /// Adds why something couldn't be looked at.
    pub fn error(&mut self, error: EngineError) {
        error.into_diagnostics().into_iter().for_each(|problem| self.add(problem));
    }

    /// Adds what a server refused, with what to do about it.
    pub fn server(&mut self, code: Code, message: impl Into<String>, help: impl Into<String>) {
        self.add(Diagnostic::of_server(code, message).help(help));
    }

    /// Adds what is wrong with a pipeline.
    pub fn pipeline(&mut self, name: &str, error: PipelineError) {
        self.of_pipeline(name);
        match error {
            PipelineError::Problems(problems) => {
                problems.into_iter().for_each(|problem| self.add(diagnostic(name, problem)));
            }
            PipelineError::Sql { problem, is_transient: false, .. } => self.add(diagnostic(name, *problem)),
            PipelineError::Connect(error) => self.add(refusal(&error)),
            error => self.add(Diagnostic::of_server(error.code(), format!("pipeline {name}: {error}"))),
        }
    }

    /// All of them, in the order in which they were found.
    pub fn all(&self) -> &[Finding] {
        &self.all
    }

    /// What is wrong or dubious.
    pub fn problems(&self) -> impl Iterator<Item = &Diagnostic> {
        self.all.iter().filter_map(|finding| match &finding.outcome {
            Outcome::Problem(problem) => Some(problem),
            _ => None,
        })
    }

    /// What is wrong, and with what.
    pub fn errors(&self) -> impl Iterator<Item = (&Subject, &Diagnostic)> {
        self.wrong.iter().map(|(subject, problem)| (subject, problem))
    }

    /// What is dubious.
    pub fn warnings(&self) -> impl Iterator<Item = &Diagnostic> {
        self.problems().filter(|problem| problem.severity == Severity::Warning)
    }

    /// Ok if nothing is wrong. Problems with files come first: they are the user's own to mend.
    pub fn verdict(&self) -> Result<(), EngineError> {
        let mut errors: Vec<Diagnostic> =
            self.problems().filter(|problem| problem.severity == Severity::Error).cloned().collect();
        if errors.is_empty() {
            return Ok(());
        }
        errors.sort_by_key(|problem| problem.file.is_none());
        let is_about_files = errors.iter().any(|problem| problem.file.is_some());
        let errors = errors.into_iter().collect();
        Err(if is_about_files { EngineError::Files(errors) } else { EngineError::Servers(errors) })
    }
}

/// A SQL problem of a pipeline as a diagnostic, with the line that it is about. One whose cure is on a server is about a
/// file only in passing.
pub(super) fn diagnostic(pipeline: &str, problem: SqlProblem) -> Diagnostic {
    let SqlProblem { code, path, place, message, help, is_refusal } = problem;
    let found = if is_refusal {
        let of_file = path.extension().is_some_and(|extension| extension == "sql");
        let at = if of_file { format!("{}: ", path.display()) } else { String::new() };
        Diagnostic::of_server(code, format!("pipeline {pipeline}: {at}{message}"))
    } else {
        let found = Diagnostic::error(code, path.clone(), message);
        match (place, std::fs::read_to_string(&path)) {
            (Some(place), Ok(text)) => found.within(&text, place),
            _ => found,
        }
    };
    match help {
        Some(help) => found.help(help),
        None => found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_trouble_is_shown_once_and_is_each_ones_own() {
        let mut findings = Findings::default();
        for pipeline in ["a", "b"] {
            findings.of_pipeline(pipeline);
            findings.server(Code::ServerAnswer, "connection c: no answer", "ask again");
        }
        assert_eq!(findings.problems().count(), 1);
        let with: Vec<&Subject> = findings.errors().map(|(subject, _)| subject).collect();
        assert_eq!(with, [&Subject::Pipeline("a".to_owned()), &Subject::Pipeline("b".to_owned())]);
    }
}
