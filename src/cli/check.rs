//! `trucker check`: a list of what was looked at, and all that is wrong, for people or as JSON.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::config::{self, Diagnostic, Diagnostics, Loaded, Severity};
use crate::engine::check;
use crate::engine::findings::{Finding, Findings, Outcome, Subject};
use crate::observe::log::{self, LogFormat};

/// What can be said about it.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The project's folder
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Look at the files alone, and ask no server
    #[arg(long)]
    offline: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Fail where there are warnings
    #[arg(long)]
    deny_warnings: bool,
}

/// Checks files, servers and how they fit; all that is wrong is said at once.
pub fn run(arguments: &Arguments, format: Option<LogFormat>) -> ExitCode {
    let loaded = match config::load(&arguments.dir) {
        Ok(loaded) => loaded,
        Err(diagnostics) => return of_files(arguments, &diagnostics),
    };
    log::start(format, loaded.secrets.clone(), None);
    let findings = if arguments.offline {
        check::check_offline(&loaded)
    } else {
        match super::block_on(check::check(&loaded)) {
            Ok(findings) => findings,
            Err(error) => return super::cannot_start(&error),
        }
    };
    tell(arguments, &findings, &loaded);
    let is_denied = arguments.deny_warnings && findings.warnings().next().is_some();
    match findings.verdict() {
        Err(error) => ExitCode::from(error.exit_code()),
        Ok(()) if loaded.project.pipelines.is_empty() => ExitCode::from(3),
        Ok(()) if is_denied => ExitCode::from(1),
        Ok(()) => ExitCode::SUCCESS,
    }
}

/// Files that can't even be loaded.
fn of_files(arguments: &Arguments, diagnostics: &Diagnostics) -> ExitCode {
    if arguments.json {
        let checks: Vec<Value> =
            diagnostics.iter().map(|d| with_outcome(json!({ "project": null }), d)).collect();
        println!("{:#}", document(&checks, diagnostics.iter()));
    } else {
        eprintln!("{diagnostics}\n\n{}", summary(diagnostics.iter(), 0));
    }
    ExitCode::from(3)
}

fn tell(arguments: &Arguments, findings: &Findings, loaded: &Loaded) {
    if arguments.json {
        let checks: Vec<Value> = findings.all().iter().map(as_json).collect();
        println!("{}", loaded.secrets.mask(&format!("{:#}", document(&checks, findings.problems()))));
        return;
    }
    let skipped = findings.all().iter().filter(|f| matches!(f.outcome, Outcome::Skipped { .. })).count();
    let mut text = list(findings);
    for problem in findings.problems() {
        text += &format!("\n{problem}\n");
    }
    println!("{}\n{}", loaded.secrets.mask(&text), summary(findings.problems(), skipped));
}

/// The shape that docs/operations.md describes.
fn document<'a>(checks: &[Value], problems: impl Iterator<Item = &'a Diagnostic>) -> Value {
    let (warnings, errors): (Vec<_>, Vec<_>) = problems.partition(|p| p.severity == Severity::Warning);
    json!({ "errors": errors.len(), "warnings": warnings.len(), "checks": checks })
}

fn as_json(finding: &Finding) -> Value {
    let subject = match &finding.subject {
        Subject::Project => json!({ "project": null }),
        Subject::Connection(name) => json!({ "connection": name }),
        Subject::Pipeline(name) => json!({ "pipeline": name }),
    };
    let mut value = match &finding.outcome {
        Outcome::Problem(problem) => return with_outcome(subject, problem),
        Outcome::Ok { detail } => merged(subject, json!({ "outcome": "ok", "detail": detail })),
        Outcome::Skipped { detail } => merged(subject, json!({ "outcome": "skipped", "detail": detail })),
    };
    value["check"] = json!(finding.check);
    value
}

fn with_outcome(subject: Value, problem: &Diagnostic) -> Value {
    let mut value = merged(subject, json!(problem));
    if let Some(severity) = value.as_object_mut().and_then(|map| map.remove("severity")) {
        value["outcome"] = severity;
    }
    value
}

fn merged(mut one: Value, other: Value) -> Value {
    if let (Some(into), Value::Object(from)) = (one.as_object_mut(), other) {
        into.extend(from);
    }
    one
}

/// What was looked at, by what it belongs to.
fn list(findings: &Findings) -> String {
    let mut subjects: Vec<&Subject> = findings.all().iter().map(|finding| &finding.subject).collect();
    subjects.sort();
    subjects.dedup();
    let mut text = String::new();
    for subject in subjects {
        text += &match subject {
            Subject::Project => "project\n".to_owned(),
            Subject::Connection(name) => format!("connection {name}\n"),
            Subject::Pipeline(name) => format!("pipeline {name}\n"),
        };
        for finding in findings.all().iter().filter(|finding| finding.subject == *subject) {
            text += &line(finding);
        }
    }
    text
}

fn line(finding: &Finding) -> String {
    let check = finding.check.as_deref().unwrap_or_default();
    match &finding.outcome {
        Outcome::Ok { detail } => format!("  ok       {check}: {detail}\n"),
        Outcome::Skipped { detail } => format!("  skipped  {check}: {detail}\n"),
        Outcome::Problem(problem) => {
            let (severity, first) = (problem.severity.to_string(), problem.message.lines().next());
            format!("  {severity:<8} {}: {}\n", problem.code, first.unwrap_or_default())
        }
    }
}

fn summary<'a>(problems: impl Iterator<Item = &'a Diagnostic>, skipped: usize) -> String {
    let (warnings, errors): (Vec<_>, Vec<_>) = problems.partition(|p| p.severity == Severity::Warning);
    let count = |count: usize, what: &str| match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    };
    let mut parts = vec![count(errors.len(), "error"), count(warnings.len(), "warning")];
    if skipped > 0 {
        parts.push(format!("{skipped} skipped"));
    }
    let explain = errors.first().or(warnings.first());
    let explain = explain.map(|p| format!("; `trucker explain {}` says more", p.code)).unwrap_or_default();
    format!("{}{explain}", parts.join(", "))
}
