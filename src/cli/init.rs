//! `trucker init`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::config::{PostgresConnection, SecretMask, TableName, shown_path};
use crate::postgres::parse_url;
use crate::scaffold::{ScaffoldError, Wishes, password_variable, write_project};

/// What can be said about it.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The folder to write to; files that exist are never touched
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// The source: postgres://user:password@host:port/database. Without one, a small example is written
    #[arg(long, value_name = "URL", requires = "tables", value_parser = |text: &str| parse_url("", text))]
    from: Option<PostgresConnection>,
    /// A table to read changes of; may be given several times
    #[arg(long = "table", value_name = "TABLE", requires = "from", value_parser = crate::config::table_name)]
    tables: Vec<TableName>,
    /// The output, as `--from`
    #[arg(long, value_name = "URL", requires = "from", value_parser = |text: &str| parse_url("", text))]
    to: Option<PostgresConnection>,
    /// The project's name, which names slot and publication [default: the folder's]
    #[arg(long, value_parser = project_name)]
    name: Option<String>,
}

fn project_name(text: &str) -> Result<String, String> {
    if !text.is_empty() && name_of(text, 55) == text {
        Ok(text.to_owned())
    } else {
        Err("use 1 to 55 of the characters a-z, 0-9 and _".to_owned())
    }
}

/// What may be a project's or a connection's name.
fn name_of(text: &str, length: usize) -> String {
    let safe = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '_' };
    text.to_lowercase().chars().map(safe).take(length).collect()
}

/// Writes the project and says what to do next.
pub fn run(arguments: &Arguments) -> ExitCode {
    let wishes = wishes(arguments);
    let passes = [&arguments.from, &arguments.to].into_iter().flatten().filter_map(|to| to.pass.as_ref());
    let mask = SecretMask::new(passes.map(|pass| pass.expose()));
    match super::block_on(write_project(&wishes)) {
        Ok(Ok(paths)) => {
            paths.iter().for_each(|path| println!("wrote {}", shown_path(path).display()));
            println!("\n{}", next(&wishes));
            ExitCode::SUCCESS
        }
        Ok(Err(error)) => {
            eprintln!("error: {}", mask.mask(&error.to_string()));
            ExitCode::from(match error {
                ScaffoldError::Exists(_) | ScaffoldError::Table(_) | ScaffoldError::Write { .. } => 3,
                ScaffoldError::Connect(_) | ScaffoldError::Server(..) => 4,
            })
        }
        Err(error) => super::cannot_start(&error),
    }
}

fn wishes(arguments: &Arguments) -> Wishes {
    let folder = std::fs::canonicalize(&arguments.dir).unwrap_or_else(|_| arguments.dir.clone());
    let folder = folder.file_name().and_then(|name| name.to_str()).map(|name| name_of(name, 55));
    let name = arguments.name.clone().or(folder).unwrap_or_else(|| "trucker".to_owned());
    let named = |to: &PostgresConnection, other: Option<&str>| {
        let mut name = name_of(&to.database, 40);
        if Some(name.as_str()) == other {
            name.push_str("_output");
        }
        PostgresConnection { name, ..to.clone() }
    };
    let from = arguments.from.as_ref().map(|from| named(from, None));
    let to = arguments.to.as_ref().map(|to| named(to, from.as_ref().map(|from| from.name.as_str())));
    let mut tables = arguments.tables.clone();
    let mut seen = Vec::new();
    tables.retain(|table| {
        !seen.contains(table) && {
            seen.push(table.clone());
            true
        }
    });
    Wishes { dir: arguments.dir.clone(), name, from: from.map(|from| (from, tables)), to }
}

fn next(wishes: &Wishes) -> String {
    let dir = shown_path(&wishes.dir);
    let dir = if dir == Path::new("") { Path::new(".") } else { &dir }.display().to_string();
    let mut lines = vec![format!("trucker test {dir}   # plays the first test on a throwaway server")];
    if let Some((from, _)) = &wishes.from {
        let passes = [Some(from), wishes.to.as_ref()].into_iter().flatten().filter(|to| to.pass.is_some());
        lines
            .extend(passes.map(|to| {
                format!("export {}=…   # what trucker.yml refers to", password_variable(&to.name))
            }));
        match &wishes.to {
            Some(to) => lines.push(format!(
                "psql -h {} -p {} -U {} -d {} -f {dir}/schema/{}.sql   # the proposed output table",
                to.host, to.port, to.user, to.database, to.name
            )),
            None => lines.push(
                "edit trucker.yml: where the output is; then create the proposed tables there".to_owned(),
            ),
        }
    }
    lines.push(format!("trucker check {dir}"));
    lines.push(format!("trucker run {dir}"));
    format!("Next:\n  {}", lines.join("\n  "))
}
