//! What describes trucker to other programs: `trucker schema` for editors, `trucker completions` for shells, `trucker man` for man.

use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap_complete::Shell;

use crate::config::schema;

/// Which file.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum File {
    /// trucker.yml
    Trucker,
    /// a pipeline's config.yml
    Pipeline,
    /// a pipeline's tests/*.yml
    Test,
}

/// What can be said about `schema`.
#[derive(Debug, clap::Args)]
pub struct SchemaArguments {
    /// Which file's schema
    #[arg(value_name = "FILE", default_value = "trucker")]
    file: File,
}

/// What can be said about `completions`.
#[derive(Debug, clap::Args)]
pub struct CompletionsArguments {
    /// Which shell's
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// What can be said about `man`.
#[derive(Debug, clap::Args)]
pub struct ManArguments {
    /// Write trucker.1 and a page for each command into this folder, instead of printing the first
    #[arg(long, value_name = "OUT")]
    out: Option<PathBuf>,
}

/// Prints a schema.
pub fn schema(arguments: SchemaArguments) -> ExitCode {
    let schema = match arguments.file {
        File::Trucker => schema::project_schema(),
        File::Pipeline => schema::pipeline_schema(),
        File::Test => schema::test_schema(),
    };
    print(format!("{schema:#}\n").as_bytes())
}

/// Prints a shell's completion script.
pub fn completions(arguments: CompletionsArguments) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut super::command(), "trucker", &mut script);
    print(&script)
}

/// Prints or writes man pages.
pub fn man(arguments: ManArguments) -> ExitCode {
    let command = super::command();
    let done = match &arguments.out {
        Some(out) => write_pages(out, command),
        None => page(command).and_then(|page| stdout().write_all(&page)),
    };
    done.map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS)
}

fn page(command: clap::Command) -> std::io::Result<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    Ok(page)
}

fn write_pages(out: &Path, command: clap::Command) -> std::io::Result<()> {
    std::fs::create_dir_all(out)?;
    clap_mangen::generate_to(command, out)
}

fn print(bytes: &[u8]) -> ExitCode {
    stdout().write_all(bytes).map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS)
}

fn failed(error: &std::io::Error) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(1)
}
