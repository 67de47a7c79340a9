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

/// Has pipelines filled anew.
pub fn run(arguments: Arguments, format: Option<LogFormat>) -> ExitCode {
    let loaded = match super::load(&arguments.dir, format) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    match super::block_on(refill::refill(&loaded.project, &arguments.pipelines)) {
        Ok(Ok(refills)) => {
            let tell = |refill: &Refill| {
                if let Some(caution) = refill.caution.as_ref().filter(|_| refill.loaded_lsn.is_some()) {
                    println!("{}: {caution}", refill.pipeline);
                }
                match &refill.answer {
                    Some(answer) => super::tell(&refill.pipeline, answer, IS_FILLED, &loaded),
                    None => {
                        println!("{}", sentence(refill));
                        ExitCode::SUCCESS
                    }
                }
            };
            let codes: Vec<ExitCode> = refills.iter().map(tell).collect();
            codes.into_iter().find(|code| *code != ExitCode::SUCCESS).unwrap_or(ExitCode::SUCCESS)
        }
        Ok(Err(error)) => super::fail(error, &loaded),
        Err(error) => super::cannot_start(&error),
    }
}

const IS_FILLED: &str = "the running process fills it anew, while the others go on";

fn sentence(refill: &Refill) -> String {
    let name = &refill.pipeline;
    match refill.loaded_lsn {
        Some(lsn) => {
            format!("{name}: the next `trucker run` fills it anew (it was loaded up to {lsn})")
        }
        None => format!("{name}: nothing to do: it isn't filled yet, or about to be"),
    }
}
