//! `trucker teardown`.

use std::io::{IsTerminal, stdin};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::engine::teardown;
use crate::observe::log::LogFormat;

/// What can be said about it.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The project's folder
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Don't ask
    #[arg(long, short)]
    yes: bool,
}

/// Lists what trucker created for the project, asks, and removes it.
pub fn run(arguments: Arguments, format: Option<LogFormat>) -> ExitCode {
    let loaded = match super::load_files(&arguments.dir, format) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let name = loaded.project.checkpoint_name();
    let plan = match super::block_on(teardown::plan(&loaded.project)) {
        Ok(Ok(plan)) => plan,
        Ok(Err(error)) => return super::fail(error, &loaded),
        Err(error) => return super::cannot_start(&error),
    };
    if plan.removed.is_empty() {
        println!("project {name} has nothing on its servers that could be removed");
        print(&plan.left, "left");
        return ExitCode::SUCCESS;
    }
    if !arguments.yes {
        print(&plan.removed, "to remove");
        print(&plan.left, "stays");
        if !stdin().is_terminal() {
            eprintln!("error: nothing was removed: without a terminal to ask on, say --yes");
            return ExitCode::from(2);
        }
        let them = if plan.removed.len() == 1 { "it" } else { "them" };
        if !super::is_agreed(&format!("Remove {them}? Output rows stay.")) {
            eprintln!("nothing was removed");
            return ExitCode::from(1);
        }
    }
    match super::block_on(teardown::remove(&loaded.project)) {
        Ok(Ok(done)) => {
            print(&done.removed, "removed");
            print(&done.left, "left");
            ExitCode::SUCCESS
        }
        Ok(Err(error)) => super::fail(error, &loaded),
        Err(error) => super::cannot_start(&error),
    }
}

fn print(lines: &[String], what: &str) {
    lines.iter().for_each(|line| println!("{what}: {line}"));
}
