//! `trucker backfill`.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::engine::refill::{self, Refill};
use crate::observe::log::LogFormat;

/// What can be said about it.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Pipelines to fill anew
    #[arg(required = true, value_name = "PIPELINE")]
    pipelines: Vec<String>,
    /// The project's folder
    #[arg(long, default_value = ".")]
    dir: PathBuf,
}

/// Marks pipelines for a backfill at the next run.
pub fn run(arguments: Arguments, format: Option<LogFormat>) -> ExitCode {
    let loaded = match super::load(&arguments.dir, format) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    match super::block_on(refill::refill(&loaded.project, &arguments.pipelines)) {
        Ok(Ok(refills)) => {
            refills.iter().for_each(|refill| println!("{}", sentence(refill)));
            ExitCode::SUCCESS
        }
        Ok(Err(error)) => super::fail(&error, &loaded),
        Err(error) => super::cannot_start(&error),
    }
}

fn sentence(refill: &Refill) -> String {
    let name = &refill.pipeline;
    let text = match refill.loaded_lsn {
        Some(lsn) => {
            format!("{name}: the next `trucker run` fills it anew (it was loaded up to {lsn})")
        }
        None => format!("{name}: nothing to do: it isn't filled yet, the first run will do it anyway"),
    };
    match (&refill.caution, refill.loaded_lsn) {
        (Some(caution), Some(_)) => format!("{text}\n  {caution}"),
        _ => text,
    }
}
