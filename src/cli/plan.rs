//! `trucker plan`: what a run would create and fill, in words, as SQL for somebody who may, or as JSON.

use std::path::PathBuf;
use std::process::ExitCode;

use super::columns::columns;
use crate::engine::plan::{self, PipelinePlan, Plan, ServerPlan, Start, TableSize};
use crate::engine::prepare::Creation;
use crate::observe::log::LogFormat;
use crate::observe::units::size;

/// What can be said about it.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The project's folder
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Print the statements, for somebody who may create what trucker's roles may not (see `run --no-create`)
    #[arg(long, conflicts_with = "json")]
    sql: bool,
    /// Print only what is for this connection's server
    #[arg(long, value_name = "NAME")]
    connection: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Says what a run would do.
pub fn run(arguments: Arguments, format: Option<LogFormat>) -> ExitCode {
    let loaded = match super::load(&arguments.dir, format) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let creation = if arguments.sql { Creation::Forbidden } else { Creation::Allowed };
    let mut plan = match super::block_on(plan::plan(&loaded.project, creation)) {
        Ok(Ok(plan)) => plan,
        Ok(Err(error)) => return super::fail(error, &loaded),
        Err(error) => return super::cannot_start(&error),
    };
    if let Some(name) = &arguments.connection {
        plan.servers.retain(|server| server.connection == *name);
        if plan.servers.is_empty() {
            eprintln!("error: there is nothing to do on a connection `{name}`");
            return ExitCode::from(2);
        }
    }
    let text = match (arguments.sql, arguments.json) {
        (true, _) => plan.servers.iter().map(sql).collect::<Vec<_>>().join("\n"),
        (_, true) => match serde_json::to_string_pretty(&plan) {
            Ok(json) => json + "\n",
            Err(error) => return super::cannot_start(&error.into()),
        },
        _ => text(&plan),
    };
    print!("{}", loaded.secrets.mask(&text));
    ExitCode::SUCCESS
}

/// For psql on that server.
fn sql(server: &ServerPlan) -> String {
    let mut text =
        format!("-- connection {}: {}, database {}\n", server.connection, server.address, server.database);
    for step in &server.steps {
        text += &format!("-- {}\n{};\n", step.what, step.sql);
    }
    if server.steps.is_empty() {
        text += "-- nothing is missing\n";
    }
    if !server.grants.is_empty() {
        text += "-- what the role needs, whether it has it or not\n";
    }
    text + &server.grants.iter().map(|grant| format!("{grant};\n")).collect::<String>()
}

fn text(plan: &Plan) -> String {
    let mut text = String::new();
    for server in &plan.servers {
        text +=
            &format!("connection {} ({}, database {})\n", server.connection, server.address, server.database);
        for step in &server.steps {
            text += &format!("  {}{}\n", if step.is_needed { "create " } else { "" }, step.what);
        }
        if server.steps.is_empty() {
            text += "  nothing to create\n";
        }
    }
    let rows: Vec<Vec<String>> = plan.pipelines.iter().map(pipeline).collect();
    text += &format!("pipelines\n{}", columns(&rows));
    let changed = plan.pipelines.iter().filter(|pipeline| pipeline.is_sql_changed);
    for PipelinePlan { name, .. } in changed {
        text += &format!(
            "\n{name}: its SQL has changed since it was backfilled; rows from before stay as they are until their input \
             changes\n  to make all of them anew: trucker backfill {name}\n"
        );
    }
    for name in &plan.gone {
        text += &format!(
            "\n{name}: its folder is gone, so its place is given up; bringing it back means a new backfill\n"
        );
    }
    text
}

fn pipeline(pipeline: &PipelinePlan) -> Vec<String> {
    let start = match &pipeline.start {
        Start::Continue { loaded_lsn } => format!("goes on at {loaded_lsn}"),
        Start::Follow => "takes what changes from then on, without a backfill".to_owned(),
        Start::Backfill { tables } => {
            let tables: Vec<String> = tables.iter().map(table).collect();
            format!("backfill of {}", tables.join(", "))
        }
    };
    vec![format!("  {}", pipeline.name), start, format!("→ {}", pipeline.output)]
}

fn table(table: &TableSize) -> String {
    format!("{} (about {} rows, {})", table.table, table.rows, size(table.bytes))
}
