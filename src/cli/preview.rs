//! `trucker preview`: what a pipeline's SQL makes of a few rows right now.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use super::columns::{columns, value};
use crate::change::Operation;
use crate::engine::preview;
use crate::observe::log::LogFormat;
use crate::pipeline::preview::TablePreview;
use crate::transform::sample::Sample;

/// What can be said about it.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The pipeline
    #[arg(value_name = "PIPELINE")]
    pipeline: String,
    /// Rows of the input to take, as SQL over its columns, say: "total > 100"
    #[arg(long = "where", value_name = "SQL")]
    condition: Option<String>,
    /// What to take them for
    #[arg(long, value_name = "OPERATION", default_value = "insert", value_parser = ["insert", "update", "delete"])]
    operation: String,
    /// How many rows to take of each input table
    #[arg(long, value_name = "N", default_value_t = 10)]
    limit: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The project's folder
    #[arg(long, default_value = ".")]
    dir: PathBuf,
}

/// Shows what comes of these rows.
pub fn run(arguments: Arguments, format: Option<LogFormat>) -> ExitCode {
    let loaded = match super::load(&arguments.dir, format) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let named = |operation: &Operation| operation.as_str() == arguments.operation;
    let operation = Operation::ALL.into_iter().find(named).unwrap_or(Operation::Insert);
    let sample = Sample { condition: arguments.condition, limit: arguments.limit };
    let name = arguments.pipeline.as_str();
    let shown = super::block_on(preview::preview(&loaded.project, name, operation, &sample));
    let (mut previews, note) = match shown {
        Ok(Ok(shown)) => shown,
        Ok(Err(error)) => return super::fail(error, &loaded),
        Err(error) => return super::cannot_start(&error),
    };
    if let Some(note) = note {
        eprintln!("note: {}", loaded.secrets.mask(&note));
    }
    // SQL may return what a template had from the environment.
    for text in previews.iter_mut().flat_map(values).flatten() {
        *text = loaded.secrets.mask(text).into_owned();
    }
    if arguments.json {
        println!("{}", json!({"pipeline": name, "operation": operation.as_str(), "tables": previews}));
    } else {
        let texts: Vec<String> = previews.iter().map(|preview| text(operation, preview)).collect();
        print!("{}", texts.join("\n"));
    }
    ExitCode::SUCCESS
}

fn values(preview: &mut TablePreview) -> impl Iterator<Item = &mut Option<String>> {
    preview.rows.iter_mut().flat_map(|row| row.input.iter_mut().chain(row.output.iter_mut().flatten()))
}

fn text(operation: Operation, preview: &TablePreview) -> String {
    let what = match preview.action {
        "ignore" => "is ignored",
        "delete" => "removes the rows under",
        "load.sql" => "hands to load.sql",
        "insert" => "appends",
        "update" => "updates",
        _ => "upserts",
    };
    let mut text = format!("{operation} of {} rows of {} {what}\n", preview.rows.len(), preview.table);
    if preview.rows.is_empty() || preview.columns.is_empty() {
        return text;
    }
    let head = preview.input_columns.iter().cloned().chain(["→".to_owned()]);
    let mut lines = vec![head.chain(preview.columns.iter().cloned()).collect::<Vec<_>>()];
    for row in &preview.rows {
        let input = || row.input.iter().map(|text| value(text.as_deref()));
        if row.output.is_empty() {
            lines.push(input().chain(["→".to_owned(), "(no row)".to_owned()]).collect());
        }
        for output in &row.output {
            let output = output.iter().map(|text| value(text.as_deref()));
            lines.push(input().chain(["→".to_owned()]).chain(output).collect());
        }
    }
    text += "\n";
    text += &columns(&lines);
    if preview.is_cut {
        text += "… and more rows\n";
    }
    text
}
