//! Loads a project folder: the table of contents of this module. All files are read whatever is wrong with
//! the others, so that all problems are shown at once.

use std::path::{Path, PathBuf};

use super::connections::{Declared, ProjectFile, Wanted, read_project_file};
use super::consistency::{Candidate, Checks};
use super::diagnostic::{Diagnostic, Diagnostics};
use super::expression::{Variables, expand};
use super::fields::Reader;
use super::mask::SecretMask;
use super::pipelines::read_pipeline;
use super::project::{Pipeline, Project};
use super::report::Report;
use super::source_file::{SourceFile, file_name, reason, shown_path};
use super::sql_files::{read_sql_files, warn_of_no_config};
use super::yaml::{Node, parse};
use crate::codes::Code;

/// A project that can be used.
#[derive(Debug)]
pub struct Loaded {
    /// The project.
    pub project: Project,
    /// Hides what its files hold that nobody may see.
    pub secrets: SecretMask,
    /// What probably isn't as it was meant. May be empty.
    pub warnings: Diagnostics,
}

/// Loads the project in a folder, with this process's environment. Connects to nothing.
///
/// # Errors
/// All problems of all files, if one of them is an error; secrets are masked.
pub fn load(dir: &Path) -> Result<Loaded, Diagnostics> {
    load_with(dir, &Variables::of_process())
}

/// As [`load`], with these environment variables.
///
/// # Errors
/// As [`load`].
pub fn load_with(dir: &Path, variables: &Variables) -> Result<Loaded, Diagnostics> {
    read_project(dir, variables, Wanted::Whole)
}

/// As [`load`], with an empty text for each variable that isn't set: to look at what a project has, not to use it.
///
/// # Errors
/// As [`load`].
pub fn load_filled(dir: &Path) -> Result<Loaded, Diagnostics> {
    load_with(dir, &Variables::of_process().filled())
}

/// As [`load`], with these environment variables, for a project whose connections will be replaced: of each only name and
/// adapter are read, so that neither secrets nor files of them are needed, nor variables that only they use.
///
/// # Errors
/// As [`load`].
pub fn load_without_connections(dir: &Path, variables: &Variables) -> Result<Loaded, Diagnostics> {
    read_project(dir, variables, Wanted::Names)
}

fn read_project(dir: &Path, variables: &Variables, wanted: Wanted) -> Result<Loaded, Diagnostics> {
    let report = Report::default();
    let project = Loader { dir, variables, wanted, report: &report }.project();
    let (secrets, diagnostics) = report.finish();
    let warnings = diagnostics?;
    Ok(Loaded { project: project.ok_or_else(Diagnostics::default)?, secrets, warnings })
}

/// The endings of configuration files.
const ENDINGS: [&str; 3] = ["yml", "yaml", "json"];

struct Loader<'a> {
    dir: &'a Path,
    variables: &'a Variables,
    wanted: Wanted,
    report: &'a Report,
}

impl Loader<'_> {
    /// None if something is wrong, which has been reported.
    fn project(&self) -> Option<Project> {
        let entries = self.entries(self.dir)?;
        let file = self.project_file(&entries);
        let declared = file.as_ref().and_then(|file| file.connections.as_deref());
        let candidates = self.candidates(&entries, declared);
        let all = declared.unwrap_or_default();
        Checks { candidates: &candidates, declared: all, report: self.report }.run();
        let file = file?;
        Some(Project {
            dir: self.dir.to_owned(),
            name: file.name,
            connections: file.connections?.into_iter().filter_map(|declared| declared.connection).collect(),
            pipelines: candidates.into_iter().map(pipeline).collect(),
        })
    }

    /// What is in a folder, by name.
    fn entries(&self, dir: &Path) -> Option<Vec<PathBuf>> {
        let listed = std::fs::read_dir(dir)
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>());
        match listed {
            Ok(mut paths) => {
                paths.sort();
                Some(paths)
            }
            Err(error) => {
                let shown = shown_path(dir);
                let message = match error.kind() {
                    std::io::ErrorKind::NotFound => format!("there is no folder `{}`", shown.display()),
                    std::io::ErrorKind::NotADirectory => format!("`{}` is not a folder", shown.display()),
                    _ => format!("the folder `{}` cannot be read: {}", shown.display(), reason(&error)),
                };
                let help = "a project is a folder with a trucker.yml; `trucker init` makes one";
                self.report.add(Diagnostic::error(Code::ProjectFolder, shown, message).help(help));
                None
            }
        }
    }

    /// The folder's `<stem>.yml`, `.yaml` or `.json`. Err if there are several, which is reported.
    fn find_config(&self, dir: &Path, entries: &[PathBuf], stem: &str) -> Result<Option<PathBuf>, ()> {
        let names = ENDINGS.map(|ending| format!("{stem}.{ending}"));
        let found: Vec<&PathBuf> = entries.iter().filter(|path| names.contains(&file_name(path))).collect();
        if let [_, second, ..] = found.as_slice() {
            let all: Vec<String> = found.iter().map(|path| format!("`{}`", file_name(path))).collect();
            let message = format!("`{}` has {}", shown_path(dir).display(), all.join(" and "));
            self.report.add(
                Diagnostic::error(Code::TwoConfigFiles, shown_path(second), message).help("keep one of them"),
            );
            return Err(());
        }
        Ok(found.first().map(|path| path.to_path_buf()))
    }

    fn project_file(&self, entries: &[PathBuf]) -> Option<ProjectFile> {
        let Some(path) = self.find_config(self.dir, entries, "trucker").ok()? else {
            let shown = shown_path(self.dir);
            let message = format!("`{}` has no trucker.yml", shown.display());
            let beneath = entries.iter().find(|path| path.join("trucker.yml").is_file());
            let help = match beneath {
                Some(project) => {
                    format!("`{0}` has one: give it as the project's folder", shown_path(project).display())
                }
                None => "write one (`trucker init` does), or give the project's folder: trucker run DIR"
                    .to_owned(),
            };
            self.report.add(Diagnostic::error(Code::NoProjectFile, shown, message).help(help));
            return None;
        };
        let filled;
        let variables = match self.wanted {
            Wanted::Whole => self.variables,
            Wanted::Names => {
                filled = self.variables.filled();
                &filled
            }
        };
        let (source, root) = self.tree(path, variables)?;
        read_project_file(Reader { file: &source, report: self.report }, &root?, self.wanted)
    }

    /// A configuration file and its tree; None for what could not be read.
    fn tree(&self, path: PathBuf, variables: &Variables) -> Option<(SourceFile, Option<Node>)> {
        let source = SourceFile::read(path, self.report)?;
        let tree = match expand(&source, variables) {
            Ok(expanded) => parse(&source, &expanded, self.report),
            Err(problems) => {
                problems.into_iter().for_each(|problem| self.report.add(problem));
                None
            }
        };
        Some((source, tree))
    }

    fn candidates(&self, entries: &[PathBuf], declared: Option<&[Declared]>) -> Vec<Candidate> {
        let folders = entries.iter().filter(|path| path.is_dir() && !file_name(path).starts_with('.'));
        let found: Vec<Option<Candidate>> =
            folders.filter_map(|folder| self.candidate(folder, declared)).collect();
        if found.is_empty() {
            let shown = shown_path(self.dir);
            let message = format!("`{}` has no pipeline", shown.display());
            let help = "a pipeline is a folder in it with a config.yml";
            self.report.add(Diagnostic::warning(Code::NoPipeline, shown, message).help(help));
        }
        found.into_iter().flatten().collect()
    }

    /// None if the folder is no pipeline; an inner None if it is one with something wrong.
    fn candidate(&self, folder: &Path, declared: Option<&[Declared]>) -> Option<Option<Candidate>> {
        let entries = self.entries(folder)?;
        let path = match self.find_config(folder, &entries, "config") {
            Ok(Some(path)) => path,
            Ok(None) => {
                warn_of_no_config(folder, &entries, self.report);
                return None;
            }
            Err(()) => return Some(None),
        };
        let tree = self.tree(path, self.variables);
        let sql = read_sql_files(&entries, self.variables, self.report);
        let Some(name) = folder.file_name().and_then(|name| name.to_str()) else {
            let message = "the name of a pipeline's folder must be UTF-8";
            self.report.add(Diagnostic::error(Code::FileUnreadable, shown_path(folder), message));
            return Some(None);
        };
        let Some((source, Some(root))) = tree else { return Some(None) };
        let file = read_pipeline(Reader { file: &source, report: self.report }, &root, declared, &sql);
        Some(file.map(|file| Candidate { name: name.to_owned(), source, file, sql }))
    }
}

fn pipeline(candidate: Candidate) -> Pipeline {
    let Candidate { name, source, file, sql } = candidate;
    Pipeline {
        name,
        config_path: source.shown,
        input: file.input,
        output: file.output,
        backfill: file.backfill,
        on_error: file.on_error,
        sql,
    }
}
