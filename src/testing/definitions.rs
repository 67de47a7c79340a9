//! Writes `schema/<connection>.sql` from the live databases: what tests make their own databases of.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::config::{Connection, Project, SqlFile, TableName, shown_path};
use crate::ddl::fetch_definitions;
use crate::postgres::{Purpose, connect, describe};

/// Writes the files of all connections that pipelines use; the files, for messages.
///
/// # Errors
/// What can't be reached, read or written, in words.
pub async fn write_definitions(project: &Project) -> Result<Vec<PathBuf>, String> {
    let mut needed: BTreeMap<&str, (Vec<TableName>, Vec<&SqlFile>)> = BTreeMap::new();
    for pipeline in &project.pipelines {
        let sql = &pipeline.sql;
        let input = needed.entry(&pipeline.input.connection).or_default();
        input.0.extend(pipeline.input.tables.iter().cloned());
        input.1.extend([&sql.transform, &sql.insert, &sql.update, &sql.delete].into_iter().flatten());
        let output = needed.entry(&pipeline.output.connection).or_default();
        output.0.extend(pipeline.output.table.clone());
        output.1.extend([&sql.load, &sql.truncate].into_iter().flatten());
    }
    let mut written = Vec::new();
    for (name, (tables, sql)) in needed {
        let Some(Connection::Postgres(connection)) = project.connection(name) else { continue };
        let session =
            connect(connection.queried(), Purpose::Control).await.map_err(|error| error.to_string())?;
        let sql: Vec<&str> = sql.iter().map(|file| &*file.text).collect();
        let definitions = fetch_definitions(&session.client, &tables, &sql).await;
        let definitions = definitions.map_err(|error| format!("connection {name}: {}", describe(&error)))?;
        let definitions = definitions.join("\n\n") + "\n";
        written.push(write(&project.dir, name, &definitions)?);
    }
    Ok(written)
}

fn write(dir: &Path, connection: &str, definitions: &str) -> Result<PathBuf, String> {
    let path = dir.join("schema").join(format!("{connection}.sql"));
    let text = format!(
        "-- The tables of connection {connection} that the pipelines use, for `trucker test`.\n\
         -- Written by `trucker test --write-schema`.\n\n{definitions}"
    );
    let done = std::fs::create_dir_all(dir.join("schema")).and_then(|()| std::fs::write(&path, text));
    done.map_err(|error| format!("{} can't be written: {error}", shown_path(&path).display()))?;
    Ok(shown_path(&path))
}
