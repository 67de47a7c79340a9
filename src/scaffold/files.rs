//! The files of a project from live tables. Pure.

use super::File;
use super::proposal::{Known, first_test, output_table, transform};
use crate::config::{PostgresConnection, SslMode};
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
    pub to: &'a PostgresConnection,
    /// Whether somebody said which it is.
    pub is_to_known: bool,
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
        let output = note(&self.to.name, proposed) + &output_tables(tables).join("\n");
        files.push((schema_file(self.from), source));
        files.push((schema_file(self.to), output));
        files
    }

    /// The files of the tables' pipelines.
    pub fn pipelines(&self, tables: &[Table], known: &Known) -> Vec<File> {
        let mut files = Vec::new();
        for table in tables {
            let folder = self.folder(table, tables);
            files.push((format!("{folder}/config.yml"), self.config(table)));
            files.push((format!("{folder}/transform.sql"), transform(table)));
            files.push((format!("{folder}/tests/first.yml"), first_test(table, known)));
        }
        files
    }

    /// Folders are named after tables, and their schemas where that is needed.
    fn folder(&self, table: &Table, all: &[Table]) -> String {
        let is_shared = all.iter().filter(|other| other.table == table.table).count() > 1;
        let name = if is_shared { format!("{}_{}", table.schema, table.table) } else { table.table.clone() };
        let safe = |c: char| if c == '/' || c == '\0' { '_' } else { c };
        let name: String = name.chars().map(safe).collect();
        // Hidden folders are skipped, and this one is taken.
        if name.starts_with('.') || name == "schema" { format!("table_{name}") } else { name }
    }

    fn config(&self, table: &Table) -> String {
        let name = yaml_scalar(&format!("{}.{}", quote_ident(&table.schema), quote_ident(&table.table)));
        let key: Vec<String> =
            table.primary_key().unwrap_or_default().iter().map(|column| yaml_scalar(column)).collect();
        format!(
            "input:\n  connection: {}\n  table: {name}\noutput:\n  connection: {}\n  table: {name}\n  key: [{}]\n",
            yaml_scalar(&self.from.name),
            yaml_scalar(&self.to.name),
            key.join(", ")
        )
    }

    fn project_file(&self) -> String {
        let output = if self.is_to_known { "" } else { "  # The output: say where it is.\n" };
        format!(
            "# Passwords come from the environment; `pass_path: FILE` takes one from a file.\nname: {}\nconnections:\n{}{output}{}",
            self.name,
            connection(self.from, true),
            connection(self.to, self.is_to_known)
        )
    }
}

/// Where the tables of a connection are defined, for tests.
pub fn schema_file(connection: &PostgresConnection) -> String {
    format!("schema/{}.sql", connection.name)
}

/// `CREATE TABLE` for each of the outputs.
pub fn output_tables(tables: &[Table]) -> Vec<String> {
    tables.iter().map(output_table).collect()
}

/// The environment variable of a connection's password.
pub fn password_variable(connection: &str) -> String {
    format!("{}_PASSWORD", connection.to_uppercase())
}

/// A connection's entry in trucker.yml; with a password where one was given, or where nobody has said yet where it leads.
pub fn connection(to: &PostgresConnection, is_known: bool) -> String {
    let mode = SslMode::NAMES.into_iter().find(|name| SslMode::from_name(name) == Some(to.sslmode));
    let mode = mode.filter(|_| to.sslmode != SslMode::default());
    let variable = password_variable(&to.name);
    let mut text = format!("  - name: {}\n    adapter: postgres\n", to.name);
    let mut line = |key: &str, value: &str| text.push_str(&format!("    {key}: {value}\n"));
    line("host", &yaml_scalar(&to.host));
    line("port", &to.port.to_string());
    line("database", &yaml_scalar(&to.database));
    line("user", &yaml_scalar(&to.user));
    match (&to.pass, is_known) {
        (None, true) => line("# pass", &format!("'{{{{ env(\"{variable}\") }}}}'")),
        _ => line("pass", &format!("'{{{{ env(\"{variable}\") }}}}'")),
    }
    if let Some(mode) = mode {
        line("sslmode", mode);
    }
    text
}
