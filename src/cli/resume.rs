//! `trucker resume`.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::engine::ask::{self, Answer};
use crate::observe::log::LogFormat;
use crate::sink::Asked;

/// What can be said about it.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The pipeline that failed
    pipeline: String,
    /// The project's folder
    #[arg(default_value = ".")]
    dir: PathBuf,
}

/// Has a failed pipeline go on where it stands, by its files as they are now.
pub fn run(arguments: Arguments, format: Option<LogFormat>) -> ExitCode {
    let loaded = match super::load(&arguments.dir, format) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let name = &arguments.pipeline;
    let outcome = super::block_on(async {
        let standing = ask::look(&loaded.project, name).await?;
        if standing.failure().is_none() {
            return Ok(None);
        }
        standing.check_files().await?;
        if standing.is_running {
            standing.ask(&Asked::Resume).await.map(Some)
        } else {
            Ok(Some(Answer::Left))
        }
    });
    match outcome {
        Ok(Ok(None)) => {
            println!("{name}: nothing to do: it hasn't failed");
            ExitCode::SUCCESS
        }
        Ok(Ok(Some(answer))) => super::tell(name, &answer, "goes on where it stood", &loaded),
        Ok(Err(error)) => super::fail(error, &loaded),
        Err(error) => super::cannot_start(&error),
    }
}
