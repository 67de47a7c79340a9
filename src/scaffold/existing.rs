//! What a project has already that gets another pipeline: its connections and its tables' definitions. Reads files; asks no
//! server, and judges nothing that is written there.

use std::path::{Path, PathBuf};

use super::{End, ScaffoldError, files};
use crate::config::nearest::did_you_mean;
use crate::config::{ClickHouseConnection, Connection, PostgresConnection, Project, load, load_filled};

/// The project in the folder, if there is one. Variables that aren't set count only where a connection is to be used as it
/// stands there.
pub fn find(dir: &Path, uses_connections: bool) -> Result<Option<Project>, ScaffoldError> {
    let is_there = ["yml", "yaml", "json"].iter().any(|end| dir.join(format!("trucker.{end}")).exists());
    if !is_there {
        return Ok(None);
    }
    let loaded = if uses_connections { load(dir) } else { load_filled(dir) };
    loaded.map(|loaded| Some(loaded.project)).map_err(ScaffoldError::Files)
}

/// The project's connection that is meant.
pub fn connection(project: &Project, end: &End) -> Result<Connection, ScaffoldError> {
    match end {
        End::Name(name) => project.connection(name).cloned().ok_or_else(|| {
            let help = did_you_mean(name, project.connections.iter().map(Connection::name));
            ScaffoldError::Ends(format!("trucker.yml has no connection `{name}`: {help}"))
        }),
        End::Url(url) => {
            let same = project.connections.iter().find(|known| place(known) == place(url));
            let Some(same) = same else {
                let text = files::connection(url, true);
                let message = format!(
                    "trucker.yml has no connection to that database as that user\n  = help: add this to its connections, and try again:\n\n{text}"
                );
                return Err(ScaffoldError::Ends(message));
            };
            let name = same.name().to_owned();
            Ok(match url.clone() {
                Connection::Postgres(url) => Connection::Postgres(PostgresConnection { name, ..url }),
                Connection::ClickHouse(url) => Connection::ClickHouse(ClickHouseConnection { name, ..url }),
            })
        }
    }
}

/// What tells databases and users apart.
fn place(connection: &Connection) -> (bool, &str, u16, &str, &str) {
    match connection {
        Connection::Postgres(c) => (false, &c.host, c.port, &c.database, &c.user),
        Connection::ClickHouse(c) => (true, &c.host, c.port, &c.database, &c.user),
    }
}

/// The same, where changes come from.
pub fn source(project: &Project, end: &End) -> Result<PostgresConnection, ScaffoldError> {
    match connection(project, end)? {
        Connection::Postgres(connection) => Ok(connection),
        Connection::ClickHouse(to) => {
            let message =
                format!("changes cannot come from {}: it is a ClickHouse, which has no such stream", to.name);
            Err(ScaffoldError::Ends(message))
        }
    }
}

/// Where the other pipelines of that source write, if that is one place.
pub fn usual_output(project: &Project, source: &str) -> Result<Connection, ScaffoldError> {
    let of_source = project.pipelines.iter().filter(|pipeline| pipeline.input.connection == source);
    let mut names: Vec<&str> = of_source.map(|pipeline| pipeline.output.connection.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    match names.as_slice() {
        [name] => connection(project, &End::Name((*name).to_owned())),
        _ => Err(ScaffoldError::Ends(
            "say where the rows go: --to URL, or the name of a connection".to_owned(),
        )),
    }
}

/// The file with those of the statements that it lacks, if it lacks any.
pub fn with_missing(
    dir: &Path,
    name: &str,
    statements: &[String],
) -> Result<Option<(PathBuf, String)>, ScaffoldError> {
    let path = dir.join(name);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(source) => return Err(ScaffoldError::Read { path, source }),
    };
    let missing: Vec<&str> = statements
        .iter()
        .map(|statement| statement.trim())
        .filter(|statement| !text.contains(statement))
        .collect();
    if missing.is_empty() {
        return Ok(None);
    }
    let before = if text.trim().is_empty() { String::new() } else { format!("{}\n\n", text.trim_end()) };
    Ok(Some((path, format!("{before}{}\n", missing.join("\n\n")))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gets_what_it_lacks_behind_what_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let statements = ["CREATE TYPE a;".to_owned(), "CREATE TABLE b ();\n".to_owned()];
        let text = |written: &str| {
            std::fs::write(dir.path().join("s.sql"), written).unwrap();
            with_missing(dir.path(), "s.sql", &statements).unwrap().map(|(_, text)| text)
        };
        assert_eq!(
            text("-- mine\nCREATE TYPE a;\n").unwrap(),
            "-- mine\nCREATE TYPE a;\n\nCREATE TABLE b ();\n"
        );
        assert_eq!(text("").unwrap(), "CREATE TYPE a;\n\nCREATE TABLE b ();\n");
        assert_eq!(text("CREATE TABLE b ();\nCREATE TYPE a;"), None);
    }
}
