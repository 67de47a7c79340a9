//! `trucker check`.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::engine;
use crate::observe::log::LogFormat;

/// What can be said about it.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The project's folder
    #[arg(default_value = ".")]
    dir: PathBuf,
}

/// Checks files, servers and how they fit; all that is wrong is said at once.
pub fn run(arguments: Arguments, format: Option<LogFormat>) -> ExitCode {
    let loaded = match super::load(&arguments.dir, format) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    match super::block_on(engine::check(&loaded.project)) {
        Ok(Ok(())) => {
            println!("{} pipelines are fine", loaded.project.pipelines.len());
            ExitCode::SUCCESS
        }
        Ok(Err(error)) => super::fail(error, &loaded),
        Err(error) => super::cannot_start(&error),
    }
}
