//! `trucker compile`: the SQL that a project runs, to files or to stdout.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::engine::compile;
use crate::observe::log::LogFormat;
use crate::pipeline::listing::Listed;

/// What can be said about it.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Pipelines whose SQL to write; all by default
    #[arg(value_name = "PIPELINE")]
    pipelines: Vec<String>,
    /// Write files <OUT>/<PIPELINE>/<TABLE>.<WHAT>.sql instead of printing
    #[arg(long, value_name = "OUT")]
    out: Option<PathBuf>,
    /// The project's folder
    #[arg(long, default_value = ".")]
    dir: PathBuf,
}

/// Writes the SQL.
pub fn run(arguments: Arguments, format: Option<LogFormat>) -> ExitCode {
    let loaded = match super::load(&arguments.dir, format) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let compiled = match super::block_on(compile::compile(&loaded.project, &arguments.pipelines)) {
        Ok(Ok(compiled)) => compiled,
        Ok(Err(error)) => return super::fail(error, &loaded),
        Err(error) => return super::cannot_start(&error),
    };
    let mut count = 0;
    for (pipeline, listed) in compiled {
        for Listed { file, text } in listed {
            // A template may have printed a secret of the environment.
            let text = loaded.secrets.mask(&text);
            let path = Path::new(&pipeline).join(file);
            let Some(out) = &arguments.out else {
                print!("{}-- {}\n{text}", if count == 0 { "" } else { "\n" }, path.display());
                count += 1;
                continue;
            };
            if let Err(error) = write(&out.join(&path), &text) {
                eprintln!("error: {}: {error}", out.join(&path).display());
                return ExitCode::from(1);
            }
            count += 1;
        }
    }
    if let Some(out) = &arguments.out {
        eprintln!("{count} files in {}", out.display());
    }
    ExitCode::SUCCESS
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(path, text)
}
