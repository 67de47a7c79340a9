//! `trucker verify`: whether outputs have what their SQL makes of the input now. Keys are named, other values never are.

use std::path::PathBuf;
use std::process::ExitCode;

use super::columns::value;
use crate::engine::verify::{self, Verified};
use crate::observe::log::LogFormat;

/// Keys that are printed of each kind.
const PRINTED_MAX: usize = 20;

/// What can be said about it.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Pipelines to verify; all by default
    #[arg(value_name = "PIPELINE")]
    pipelines: Vec<String>,
    /// Have the rows under the keys that differ made anew
    #[arg(long)]
    repair: bool,
    /// How many keys that may differ are looked at again together
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    chunk: u32,
    /// Print JSON, with all keys that differ
    #[arg(long)]
    json: bool,
    /// The project's folder
    #[arg(long, default_value = ".")]
    dir: PathBuf,
}

/// Compares, and says what differs.
pub fn run(arguments: Arguments, format: Option<LogFormat>) -> ExitCode {
    let loaded = match super::load(&arguments.dir, format) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let chunk = arguments.chunk as usize;
    let verifying = verify::verify(&loaded.project, &arguments.pipelines, chunk, arguments.repair);
    let verified = match super::block_on(verifying) {
        Ok(Ok(verified)) => verified,
        Ok(Err(error)) => return super::fail(error, &loaded),
        Err(error) => return super::cannot_start(&error),
    };
    if arguments.json {
        match serde_json::to_string_pretty(&verified) {
            Ok(json) => println!("{json}"),
            Err(error) => return super::cannot_start(&error.into()),
        }
    } else {
        verified.iter().for_each(|verified| print!("{}", text(verified)));
    }
    let mut code = ExitCode::SUCCESS;
    for verified in verified.iter().filter(|verified| verified.differences > 0) {
        let repair = verified.repair.as_ref();
        let told = repair.map(|answer| {
            super::outcome(&verified.pipeline, answer, "the rows under these keys were made anew")
        });
        if let Some((_, text)) = &told {
            eprintln!("{}", loaded.secrets.mask(text));
        }
        if told.is_none_or(|(code, _)| code != 0) {
            code = ExitCode::from(1);
        }
    }
    code
}

fn text(verified: &Verified) -> String {
    let name = &verified.pipeline;
    if let Some(reason) = &verified.not_compared {
        return format!("{name}: not compared: {reason}\n");
    }
    let mut text = match verified.differences {
        0 => format!("{name}: {} keys, all alike\n", verified.keys),
        some => format!("{name}: {} keys, {some} differ\n", verified.keys),
    };
    for (what, keys) in [
        ("missing", &verified.missing),
        ("different", &verified.different),
        ("extra", &verified.extra),
        ("unsettled", &verified.unsettled),
    ] {
        for key in keys.iter().take(PRINTED_MAX) {
            let values = verified.key.iter().zip(key);
            let values: Vec<String> =
                values.map(|(column, text)| format!("{column}={}", value(Some(text)))).collect();
            text += &format!("  {what:<10} {}\n", values.join(" "));
        }
        if keys.len() > PRINTED_MAX {
            text += &format!("  {what:<10} … {} more; --json names them\n", keys.len() - PRINTED_MAX);
        }
    }
    if verified.is_stopped && verified.differences > 0 {
        text += "  nobody runs the project: what isn't loaded yet is among these\n";
    }
    text
}
