//! The files of a project from live tables. Pure.

use super::File;
use super::proposal::{Known, first_test, transform};
use crate::config::{Connection, PostgresConnection, RootCertificates, SslMode};
use crate::postgres::catalog::Table;
use crate::postgres::ident::quote_ident;
use crate::testing::yaml_scalar;

/// What the files are about.
pub struct Parts<'a> {
    /// The project's name.
    pub name: &'a str,
    /// The source.
    pub from: &'a PostgresConnection,
    /// The output.
    pub to: &'a Connection,
    /// Whether somebody said which it is.
    pub is_to_known: bool,
    /// `CREATE TABLE` for each of the outputs.
    pub output_tables: &'a [String],
}

impl Parts<'_> {
    /// All files, in the order in which they are best read.
    pub fn files(&self, tables: &[Table], source: &[String], known: &Known) -> Vec<File> {
        let mut files = vec![("trucker.yml".to_owned(), self.project_file())];
        files.extend(self.pipelines(tables, known));
        let note = |name: &str, what: &str| {
            format!("-- The tables of connection {name}, for `trucker test`. {what}\n\n")
        };
        let written = "Written again by `trucker test --write-schema`.";
        let source = format!("{}{}\n", note(&self.from.name, written), source.join("\n\n"));
        let proposed = "Proposed: change what you like, and run this on the output.";
        let output = note(self.to.name(), proposed) + &self.output_tables.join("\n");
        files.push((schema_file(&self.from.name), source));
        files.push((schema_file(self.to.name()), output));
        files
    }

    /// The files of the tables' pipelines.
    pub fn pipelines(&self, tables: &[Table], known: &Known) -> Vec<File> {
        let is_postgres = matches!(self.to, Connection::Postgres(_));
        let mut files = Vec::new();
        for table in tables {
            let folder = folder(table, tables);
            files.push((format!("{folder}/config.yml"), self.config(table, tables)));
            files.push((format!("{folder}/transform.sql"), transform(table, is_postgres)));
            files.push((format!("{folder}/tests/first.yml"), first_test(table, known, is_postgres)));
        }
        files
    }

    fn config(&self, table: &Table, all: &[Table]) -> String {
        let name = yaml_scalar(&format!("{}.{}", quote_ident(&table.schema), quote_ident(&table.table)));
        let output = match self.to {
            Connection::Postgres(_) => name.clone(),
            Connection::ClickHouse(_) => yaml_scalar(&quote_ident(&bare_name(table, all))),
        };
        let key: Vec<String> =
            table.primary_key().unwrap_or_default().iter().map(|column| yaml_scalar(column)).collect();
        format!(
            "input:\n  connection: {}\n  table: {name}\noutput:\n  connection: {}\n  table: {output}\n  key: [{}]\n",
            yaml_scalar(&self.from.name),
            yaml_scalar(self.to.name()),
            key.join(", ")
        )
    }

    fn project_file(&self) -> String {
        let output = if self.is_to_known { "" } else { "  # The output: say where it is.\n" };
        format!(
            "# Passwords come from the environment; `pass_path: FILE` takes one from a file.\nname: {}\nconnections:\n{}{output}{}",
            self.name,
            connection(&Connection::Postgres(self.from.clone()), true),
            connection(self.to, self.is_to_known)
        )
    }
}

/// A name without a schema, that no other of the tables has.
pub fn bare_name(table: &Table, all: &[Table]) -> String {
    let is_shared = all.iter().filter(|other| other.table == table.table).count() > 1;
    if is_shared { format!("{}_{}", table.schema, table.table) } else { table.table.clone() }
}

/// Folders are named after tables.
fn folder(table: &Table, all: &[Table]) -> String {
    let safe = |c: char| if c == '/' || c == '\0' { '_' } else { c };
    let name: String = bare_name(table, all).chars().map(safe).collect();
    // Hidden folders are skipped, and this one is taken.
    if name.starts_with('.') || name == "schema" { format!("table_{name}") } else { name }
}

/// Where the tables of a connection are defined, for tests.
pub fn schema_file(connection: &str) -> String {
    format!("schema/{connection}.sql")
}

/// The environment variable of a connection's password.
pub fn password_variable(connection: &str) -> String {
    format!("{}_PASSWORD", connection.to_uppercase())
}

/// A connection's entry in trucker.yml; with a password where one was given, or where nobody has said yet where it leads.
pub fn connection(to: &Connection, is_known: bool) -> String {
    let (adapter, host, port, database, user) = match to {
        Connection::Postgres(to) => ("postgres", &to.host, to.port, &to.database, &to.user),
        Connection::ClickHouse(to) => ("clickhouse", &to.host, to.port, &to.database, &to.user),
    };
    let (pass, sslmode, usual, root) = match to {
        Connection::Postgres(to) => (&to.pass, to.sslmode, SslMode::default(), &to.ssl_root_cert),
        Connection::ClickHouse(to) => (&to.pass, to.sslmode, SslMode::Disable, &to.ssl_root_cert),
    };
    let mode = SslMode::NAMES.into_iter().find(|name| SslMode::from_name(name) == Some(sslmode));
    let mode = mode.filter(|_| sslmode != usual);
    let variable = password_variable(to.name());
    let mut text = format!("  - name: {}\n    adapter: {adapter}\n", to.name());
    let mut line = |key: &str, value: &str| text.push_str(&format!("    {key}: {value}\n"));
    line("host", &yaml_scalar(host));
    line("port", &port.to_string());
    line("database", &yaml_scalar(database));
    line("user", &yaml_scalar(user));
    match (pass, is_known) {
        (None, true) => line("# pass", &format!("'{{{{ env(\"{variable}\") }}}}'")),
        _ => line("pass", &format!("'{{{{ env(\"{variable}\") }}}}'")),
    }
    if let Some(mode) = mode {
        line("sslmode", mode);
    }
    match root {
        Some(RootCertificates::System) => line("ssl_root_cert", "system"),
        Some(RootCertificates::Pem(pem)) => {
            let lines =
                String::from_utf8_lossy(pem).lines().map(|l| format!("\n      {l}")).collect::<String>();
            line("ssl_root_cert", &format!("|{lines}"));
        }
        None => {}
    }
    text
}
