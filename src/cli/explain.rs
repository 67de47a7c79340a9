//! `trucker explain`: what a code means, why, and how it is mended.

use std::process::ExitCode;

use crate::codes::Code;

/// What can be said about it.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A code such as TRK0401; without one, all are listed
    code: Option<Code>,
}

/// Prints a code's explanation, or the list of all codes.
pub fn run(arguments: &Arguments) -> ExitCode {
    match arguments.code {
        Some(code) => println!("{code}: {}\n\n{}", code.title(), code.explanation()),
        None => Code::ALL.iter().for_each(|code| println!("{code}  {}", code.title())),
    }
    ExitCode::SUCCESS
}
