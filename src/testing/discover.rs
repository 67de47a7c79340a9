//! Finds test files: `<pipeline>/tests/*.yml`. Reads them; plays none.

use std::path::{Path, PathBuf};

use crate::codes::Code;
use crate::config::nearest::did_you_mean;
use crate::config::{Diagnostic, Diagnostics, TestFile, read_test_file, shown_path};

/// A test file.
#[derive(Debug)]
pub struct Found {
    /// The project's folder.
    pub dir: PathBuf,
    /// The pipeline's name.
    pub pipeline: String,
    /// The file, for messages.
    pub shown: PathBuf,
    /// What it says, or what is wrong with it.
    pub file: Result<TestFile, Diagnostics>,
}

/// The tests of these pipelines, or of all where none is named, whose path contains `filter`.
///
/// # Errors
/// There is no such pipeline, or no test.
pub fn discover(dir: &Path, names: &[String], filter: Option<&str>) -> Result<Vec<Found>, Box<Diagnostic>> {
    let shown = shown_path(dir);
    let folders = pipelines(dir).map_err(|error| {
        let help = "a project is a folder with a trucker.yml; `trucker init` makes one";
        Box::new(
            Diagnostic::error(
                Code::ProjectFolder,
                &shown,
                format!("`{}` can't be read: {error}", shown.display()),
            )
            .help(help),
        )
    })?;
    if let Some(name) = names.iter().find(|name| !folders.contains(name)) {
        let help = did_you_mean(name, folders.iter().map(String::as_str));
        return Err(Box::new(
            Diagnostic::error(Code::UnknownPipeline, shown, format!("there is no pipeline `{name}`"))
                .help(help),
        ));
    }
    let wanted = folders.iter().filter(|name| names.is_empty() || names.contains(name));
    let tests = wanted.flat_map(|name| {
        let paths = files(&dir.join(name).join("tests"));
        paths.into_iter().map(move |path| (name.clone(), path))
    });
    let found: Vec<Found> = tests
        .filter(|(_, path)| filter.is_none_or(|filter| path.to_string_lossy().contains(filter)))
        .map(|(pipeline, path)| Found {
            dir: dir.to_owned(),
            pipeline,
            shown: shown_path(&path),
            file: read_test_file(&path),
        })
        .collect();
    if found.is_empty() {
        let help = "a test is a file such as orders_flat/tests/changes.yml: see docs/testing.md";
        return Err(Box::new(
            Diagnostic::error(Code::TestNone, shown, "there is no test to play").help(help),
        ));
    }
    Ok(found)
}

/// Names of the folders that have a config file.
fn pipelines(dir: &Path) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let has_config =
            ["yml", "yaml", "json"].iter().any(|end| path.join(format!("config.{end}")).is_file());
        let name = path.file_name().and_then(|name| name.to_str()).filter(|name| !name.starts_with('.'));
        names.extend(name.filter(|_| has_config).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_test = |path: &PathBuf| {
        path.extension().is_some_and(|end| ["yml", "yaml", "json"].iter().any(|e| end == *e))
    };
    let mut files: Vec<PathBuf> = entries.filter(is_test).collect();
    files.sort();
    files
}
