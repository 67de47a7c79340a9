//! The `CREATE TABLE` that is proposed for an output: a ReplacingMergeTree that holds every value, and of each key one row. Pure.

use super::catalog::Server;
use super::mapping::{PostgresType, propose};
use super::quote_ident;

/// A table that would hold what a pipeline's SQL returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// As the statement names it, quoted.
    table: String,
    /// Names, quoted, and types.
    columns: Vec<(String, String)>,
    engine: String,
}

impl Proposal {
    /// For columns of these types, which say NOT NULL or don't. `table` is quoted; without a key its place is left open.
    pub fn new(
        table: String,
        columns: &[(&str, PostgresType, bool)],
        key: &[String],
        server: &Server,
    ) -> Self {
        let type_of = |(name, pg, is_not_null): &(&str, PostgresType, bool)| {
            let is_key = key.iter().any(|column| column == name);
            (quote_ident(name), propose(pg, *is_not_null, is_key, server))
        };
        let own = |name: &str| {
            let mut name = name.to_owned();
            while columns.iter().any(|(taken, ..)| *taken == name) {
                name.insert(0, '_');
            }
            quote_ident(&name)
        };
        let (version, is_deleted) = (own("_version"), own("_is_deleted"));
        let key: Vec<String> = key.iter().map(|column| quote_ident(column)).collect();
        let key = if key.is_empty() { "…".to_owned() } else { key.join(", ") };
        let engine = format!("ENGINE = ReplacingMergeTree({version}, {is_deleted}) ORDER BY ({key})");
        let mut columns: Vec<_> = columns.iter().map(type_of).collect();
        columns.extend([(version, "UInt128".to_owned()), (is_deleted, "UInt8".to_owned())]);
        Proposal { table, columns, engine }
    }

    /// The statement in one line.
    pub fn line(&self) -> String {
        let columns: Vec<String> =
            self.columns.iter().map(|(name, type_text)| format!("{name} {type_text}")).collect();
        format!("CREATE TABLE {} ({}) {}", self.table, columns.join(", "), self.engine)
    }

    /// The same statement for a file, a column a line.
    pub fn lines(&self) -> String {
        let width = self.columns.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let columns: Vec<String> =
            self.columns.iter().map(|(name, type_text)| format!("    {name:<width$} {type_text}")).collect();
        format!("CREATE TABLE {} (\n{}\n)\n{};\n", self.table, columns.join(",\n"), self.engine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_its_own_have_names_that_are_free() {
        let server = Server { version: (26, 9), timezone: "UTC".to_owned() };
        let columns = [
            ("id", PostgresType::Int8, true),
            ("_version", PostgresType::Int4, false),
            ("__version", PostgresType::Bool, true),
        ];
        let proposal = Proposal::new("`t`".to_owned(), &columns, &["id".to_owned()], &server);
        let columns = "`id` Int64, `_version` Nullable(Int32), `__version` Bool, `___version` UInt128, `_is_deleted` UInt8";
        let engine = "ENGINE = ReplacingMergeTree(`___version`, `_is_deleted`) ORDER BY (`id`)";
        assert_eq!(proposal.line(), format!("CREATE TABLE `t` ({columns}) {engine}"));
        let words = |text: &str| text.split_whitespace().collect::<String>();
        assert_eq!(words(&proposal.lines()), words(&format!("{};", proposal.line())));
    }
}
