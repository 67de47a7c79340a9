//! `trucker teardown`.

use std::io::{IsTerminal, stdin};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::engine::{orphans, teardown};
use crate::observe::log::LogFormat;

/// What can be said about it.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The project's folder
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Remove only what is left of pipelines whose folder is gone; says which other projects have something there
    #[arg(long)]
    orphans: bool,
    /// Remove what another project of this name has on the same servers, its folder being gone
    #[arg(long, value_name = "NAME", conflicts_with = "orphans")]
    project: Option<String>,
    /// Don't ask
    #[arg(long, short)]
    yes: bool,
}

/// Lists what trucker created for the project, asks, and removes it.
pub fn run(arguments: Arguments, format: Option<LogFormat>) -> ExitCode {
    let mut loaded = match super::load_files(&arguments.dir, format) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    if let Some(name) = &arguments.project {
        if name == loaded.project.checkpoint_name() {
            eprintln!("error: {name} is the project in this folder: leave --project out");
            return ExitCode::from(2);
        }
        // Without pipelines, what is looked for is what bears the name.
        loaded.project.name = Some(name.clone()).filter(|name| name != "trucker");
        loaded.project.pipelines.clear();
    }
    let name = loaded.project.checkpoint_name();
    let plan = match arguments.orphans {
        true => super::block_on(orphans::plan(&loaded.project)),
        false => super::block_on(teardown::plan(&loaded.project)),
    };
    let plan = match plan {
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
    let removed = match arguments.orphans {
        true => super::block_on(orphans::remove(&loaded.project)),
        false => super::block_on(teardown::remove(&loaded.project)),
    };
    match removed {
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
