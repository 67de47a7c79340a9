//! `trucker init`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::clickhouse;
use crate::config::{Connection, Secret, SecretMask, TableName, shown_path};
use crate::postgres::parse_url;
use crate::scaffold::{End, ScaffoldError, Wishes, password_variable, write_project};

/// What can be said about it.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The folder to write to; in a project's, the tables' pipelines are added. Nothing that exists is written over
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// The source: postgres://user:password@host:port/database, or in a project the name of a connection. Without one, a
    /// small example is written
    #[arg(long, value_name = "URL", requires = "tables", value_parser = end)]
    from: Option<End>,
    /// A table to read changes of; may be given several times
    #[arg(long = "table", value_name = "TABLE", requires = "from", value_parser = crate::config::table_name)]
    tables: Vec<TableName>,
    /// The output, as `--from`, or a ClickHouse: clickhouse://user:password@host:port/database, also http:// and https://; in
    /// a project, where its other pipelines write, if it isn't said
    #[arg(long, value_name = "URL", requires = "from", value_parser = any_end)]
    to: Option<End>,
    /// The project's name, which names slot and publication [default: the folder's]
    #[arg(long, value_parser = project_name)]
    name: Option<String>,
}

fn end(text: &str) -> Result<End, String> {
    let is_name = !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || "_-.".contains(c));
    if is_name { Ok(End::Name(text.to_owned())) } else { postgres_url(text).map(End::Url) }
}

fn postgres_url(text: &str) -> Result<Connection, String> {
    parse_url("", text).map(Connection::Postgres)
}

fn any_end(text: &str) -> Result<End, String> {
    match clickhouse::is_url(text) {
        true => clickhouse::parse_url("", text).map(|to| End::Url(Connection::ClickHouse(to))),
        false => end(text),
    }
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
    let urls = [&arguments.from, &arguments.to].into_iter().flatten().filter_map(url);
    let mask = SecretMask::new(urls.filter_map(pass).map(|pass| pass.expose()));
    match super::block_on(write_project(&wishes)) {
        Ok(Ok(written)) => {
            written.files.iter().for_each(|path| println!("wrote {}", shown_path(path).display()));
            written.longer.iter().for_each(|path| println!("added to {}", shown_path(path).display()));
            println!("\n{}", if written.is_added { next_of_added(&wishes) } else { next(&wishes) });
            ExitCode::SUCCESS
        }
        Ok(Err(ScaffoldError::Files(problems))) => {
            eprintln!("{}", mask.mask(&problems.to_string()));
            ExitCode::from(3)
        }
        Ok(Err(error)) => {
            eprintln!("error: {}", mask.mask(&error.to_string()));
            let is_servers = matches!(
                error,
                ScaffoldError::Connect(_) | ScaffoldError::ClickHouse(_) | ScaffoldError::Server(..)
            );
            ExitCode::from(if is_servers { 4 } else { 3 })
        }
        Err(error) => super::cannot_start(&error),
    }
}

fn wishes(arguments: &Arguments) -> Wishes {
    let folder = std::fs::canonicalize(&arguments.dir).unwrap_or_else(|_| arguments.dir.clone());
    let folder = folder.file_name().and_then(|name| name.to_str()).map(|name| name_of(name, 55));
    let name = arguments.name.clone().or(folder).unwrap_or_else(|| "trucker".to_owned());
    let named = |end: &End, other: Option<&str>| match end {
        End::Name(_) => end.clone(),
        End::Url(to) => {
            let mut name = name_of(database(to), 40);
            if Some(name.as_str()) == other {
                name.push_str("_output");
            }
            let mut to = to.clone();
            match &mut to {
                Connection::Postgres(to) => to.name = name,
                Connection::ClickHouse(to) => to.name = name,
            }
            End::Url(to)
        }
    };
    let from = arguments.from.as_ref().map(|from| named(from, None));
    let other = from.as_ref().and_then(url).map(Connection::name);
    let to = arguments.to.as_ref().map(|to| named(to, other));
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

fn url(end: &End) -> Option<&Connection> {
    match end {
        End::Url(to) => Some(to),
        End::Name(_) => None,
    }
}

fn pass(to: &Connection) -> Option<&Secret> {
    match to {
        Connection::Postgres(to) => to.pass.as_ref(),
        Connection::ClickHouse(to) => to.pass.as_ref(),
    }
}

fn database(to: &Connection) -> &str {
    match to {
        Connection::Postgres(to) => &to.database,
        Connection::ClickHouse(to) => &to.database,
    }
}

/// How the proposed tables are made.
fn create(to: &Connection, dir: &str) -> String {
    let file = format!("{dir}/schema/{}.sql", to.name());
    match to {
        Connection::Postgres(to) => {
            format!("psql -h {} -p {} -U {} -d {} -f {file}", to.host, to.port, to.user, to.database)
        }
        Connection::ClickHouse(to) => format!(
            "clickhouse-client --host {} --user {} --ask-password --database {} --queries-file {file}",
            to.host, to.user, to.database
        ),
    }
}

fn shown_dir(wishes: &Wishes) -> String {
    let dir = shown_path(&wishes.dir);
    if dir == Path::new("") { Path::new(".") } else { &dir }.display().to_string()
}

/// How the first test is played.
fn play(wishes: &Wishes, dir: &str) -> String {
    let server = match wishes.to.as_ref().and_then(url) {
        Some(Connection::ClickHouse(_)) => " --clickhouse URL",
        _ => "",
    };
    format!("trucker test {dir}{server}   # plays the first test on a throwaway server")
}

fn next_of_added(wishes: &Wishes) -> String {
    let dir = shown_dir(wishes);
    let lines = [
        play(wishes, &dir),
        format!("create the proposed output table: it stands at the end of a file in {dir}/schema"),
        format!("trucker check {dir}"),
        format!("trucker run {dir}   # started again; the other pipelines go on where they are"),
    ];
    format!("Next:\n  {}", lines.join("\n  "))
}

fn next(wishes: &Wishes) -> String {
    let dir = shown_dir(wishes);
    let mut lines = vec![play(wishes, &dir)];
    if wishes.from.is_none() {
        lines.push(format!("edit {dir}/trucker.yml: where your databases are, and config.yml: which tables"));
        lines.push("export WEBAPP_PASSWORD=… WAREHOUSE_PASSWORD=…   # what trucker.yml refers to".to_owned());
    }
    if let Some(from) = wishes.from.as_ref().and_then(|(from, _)| url(from)) {
        let to = wishes.to.as_ref().and_then(url);
        let passes = [Some(from), to].into_iter().flatten().filter(|to| pass(to).is_some());
        lines.extend(
            passes.map(|to| {
                format!("export {}=…   # what trucker.yml refers to", password_variable(to.name()))
            }),
        );
        match to {
            Some(to) => lines.push(format!("{}   # the proposed output table", create(to, &dir))),
            None => lines.push(
                "edit trucker.yml: where the output is; then create the proposed tables there".to_owned(),
            ),
        }
    }
    lines.push(format!("trucker check {dir}"));
    lines.push(format!("trucker run {dir}"));
    format!("Next:\n  {}", lines.join("\n  "))
}
