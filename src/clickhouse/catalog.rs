//! What ClickHouse's catalog says of a table. Reads; changes nothing.

use super::Client;
use super::answer::Answer;
use super::error::Error;
use super::ident::{quote_text, unquoted};
use super::types::{Type, split_arguments};

/// Which server this is, as far as values depend on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Major and minor version: 26.9.
    pub version: (u32, u32),
    /// In which it shows times of columns that name no zone.
    pub timezone: String,
}

/// A table, as of when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Database, unquoted.
    pub database: String,
    /// Name, unquoted.
    pub name: String,
    /// Engine without its arguments, such as `ReplacingMergeTree`; `Replicated` or `Shared` before it is left there.
    pub engine: String,
    /// Of a `ReplacingMergeTree(version, is_deleted)`: the column that tells which row is the latest.
    pub version_column: Option<String>,
    /// The column that tells whether that row is there.
    pub is_deleted_column: Option<String>,
    /// What rows are sorted by, and in a `ReplacingMergeTree` replaced by: columns, unquoted, or expressions.
    pub sorting_key: Vec<String>,
    /// The expression that parts the table; empty without one.
    pub partition_key: String,
    /// For how many last blocks the table remembers deduplication tokens; 0 is not at all.
    pub deduplication_window: u64,
    /// In the table's order.
    pub columns: Vec<Column>,
    /// Where it is.
    pub server: Server,
}

/// One column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Name, unquoted.
    pub name: String,
    /// Type exactly as the server writes it, which is how RowBinaryWithNamesAndTypes wants it.
    pub type_text: String,
    /// The same, read.
    pub data_type: Type,
    /// How it gets its values by itself.
    pub default_kind: DefaultKind,
}

/// How a column gets its values by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultKind {
    /// Its type's own default: zero, an empty text, NULL where it may be.
    None,
    /// `DEFAULT`, or `EPHEMERAL`, which can be inserted as well.
    Default,
    /// `MATERIALIZED` or `ALIAS`: can't be inserted.
    Computed,
}

impl Table {
    /// The column of that name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The engine's name, whatever replicates it.
    pub fn engine_family(&self) -> &str {
        let engine = self.engine.as_str();
        engine.strip_prefix("Replicated").or(engine.strip_prefix("Shared")).unwrap_or(engine)
    }
}

/// Reads a table's description; None if there is none of that name (or none that this user may see).
pub async fn fetch_table(client: &Client, database: &str, table: &str) -> Result<Option<Table>, Error> {
    let place =
        |name: &str| format!("database = {} AND {name} = {}", quote_text(database), quote_text(table));
    let sql = format!(
        "SELECT engine, engine_full, sorting_key, partition_key FROM system.tables WHERE {}",
        place("name")
    );
    let answer = client.select(&sql, &[]).await?;
    let Some([engine, engine_full, sorting_key, partition_key]) = texts(&answer).next() else {
        return Ok(None);
    };
    let sql = format!(
        "SELECT name, type, default_kind FROM system.columns WHERE {} ORDER BY position",
        place("table")
    );
    let columns = client.select(&sql, &[]).await?;
    let is_replicated = engine.starts_with("Replicated") || engine.starts_with("Shared");
    let (version_column, is_deleted_column) = replacing_columns(engine, engine_full);
    Ok(Some(Table {
        database: database.to_owned(),
        name: table.to_owned(),
        engine: engine.to_owned(),
        version_column,
        is_deleted_column,
        sorting_key: key_columns(sorting_key),
        partition_key: partition_key.to_owned(),
        deduplication_window: deduplication_window(engine_full, is_replicated),
        columns: texts(&columns).map(column).collect(),
        server: fetch_server(client).await?,
    }))
}

/// Asks the server who it is.
pub async fn fetch_server(client: &Client) -> Result<Server, Error> {
    let answer = client.select("SELECT version(), timezone()", &[]).await?;
    let [version, timezone] = texts(&answer).next().unwrap_or([""; 2]);
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or_default());
    let version = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    Ok(Server { version, timezone: timezone.to_owned() })
}

/// Rows of N texts.
fn texts<const N: usize>(answer: &Answer) -> impl Iterator<Item = [&str; N]> {
    answer
        .rows
        .iter()
        .map(|values| std::array::from_fn(|at| values.get(at).and_then(Option::as_deref).unwrap_or_default()))
}

fn column([name, type_text, default_kind]: [&str; 3]) -> Column {
    Column {
        name: name.to_owned(),
        type_text: type_text.to_owned(),
        data_type: Type::parse(type_text),
        default_kind: match default_kind {
            "" => DefaultKind::None,
            "MATERIALIZED" | "ALIAS" => DefaultKind::Computed,
            _ => DefaultKind::Default,
        },
    }
}

/// The arguments of `…ReplacingMergeTree(…)`; those of a replicated one begin with two texts.
fn replacing_columns(engine: &str, engine_full: &str) -> (Option<String>, Option<String>) {
    let arguments = engine_full.strip_prefix(engine).and_then(|rest| rest.strip_prefix('('));
    if !engine.ends_with("ReplacingMergeTree") || arguments.is_none() {
        return (None, None);
    }
    let arguments = until_closed(arguments.unwrap_or_default());
    let names = split_arguments(arguments).unwrap_or_default().into_iter();
    let mut names = names.filter(|text| !text.starts_with('\'')).map(plain);
    (names.next(), names.next())
}

/// The text before the parenthesis that closes what was open before it.
fn until_closed(text: &str) -> &str {
    let ends = text.match_indices(')').map(|(at, _)| at);
    ends.map(|at| &text[..at]).find(|inner| split_arguments(inner).is_some()).unwrap_or_default()
}

/// `ORDER BY (a)` is kept as it was written.
fn plain(name: &str) -> String {
    let inner = name.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
    match inner.filter(|inner| split_arguments(inner).is_some_and(|parts| parts.len() == 1)) {
        Some(inner) => plain(inner),
        None => unquoted(name).unwrap_or_else(|| name.to_owned()),
    }
}

fn key_columns(sorting_key: &str) -> Vec<String> {
    split_arguments(sorting_key).unwrap_or_default().into_iter().map(plain).collect()
}

/// Replicated tables have a window unless they are told otherwise; others don't.
fn deduplication_window(engine_full: &str, is_replicated: bool) -> u64 {
    let (name, default) = match is_replicated {
        true => ("replicated_deduplication_window = ", 10_000),
        false => ("non_replicated_deduplication_window = ", 0),
    };
    let settings = engine_full.rsplit_once(" SETTINGS ").map_or("", |(_, settings)| settings);
    let value = settings.split(", ").find_map(|setting| setting.strip_prefix(name));
    value.map_or(default, |number| number.parse().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_engine_replaces_by_is_read_from_its_definition() {
        for (engine, full, version, is_deleted) in [
            ("MergeTree", "MergeTree ORDER BY a", None, None),
            ("ReplacingMergeTree", "ReplacingMergeTree ORDER BY (a, b)", None, None),
            ("ReplacingMergeTree", "ReplacingMergeTree(v) ORDER BY a", Some("v"), None),
            ("ReplacingMergeTree", "ReplacingMergeTree((v), (d)) ORDER BY (a)", Some("v"), Some("d")),
            (
                "ReplacingMergeTree",
                "ReplacingMergeTree(v, d) PARTITION BY f(a) ORDER BY a",
                Some("v"),
                Some("d"),
            ),
            ("ReplacingMergeTree", "ReplacingMergeTree(`my v)`, d) ORDER BY a", Some("my v)"), Some("d")),
            (
                "ReplicatedReplacingMergeTree",
                "ReplicatedReplacingMergeTree('/t/{uuid}/{shard}', '{replica}', v, d) ORDER BY a",
                Some("v"),
                Some("d"),
            ),
            ("SharedReplacingMergeTree", "SharedReplacingMergeTree('/a(', '{r}') ORDER BY a", None, None),
            ("SummingMergeTree", "SummingMergeTree(v) ORDER BY a", None, None),
        ] {
            let found = replacing_columns(engine, full);
            assert_eq!((found.0.as_deref(), found.1.as_deref()), (version, is_deleted), "{full}");
        }
    }

    #[test]
    fn a_key_is_columns_or_expressions() {
        for (text, key) in [
            ("", &[][..]),
            ("a", &["a"]),
            ("a, `b c`, toDate(d, 'x, y')", &["a", "b c", "toDate(d, 'x, y')"]),
            ("(`b c`)", &["b c"]),
            ("(a), ((`(b)`))", &["a", "(b)"]),
            ("(a + 1) * (b)", &["(a + 1) * (b)"]),
        ] {
            assert_eq!(key_columns(text), key);
        }
    }

    #[test]
    fn a_window_is_what_the_table_sets_or_its_engine_has() {
        let plain = "MergeTree ORDER BY a SETTINGS index_granularity = 8192";
        let set =
            "MergeTree ORDER BY a SETTINGS non_replicated_deduplication_window = 7, index_granularity = 8192";
        let replicated = "X ORDER BY a SETTINGS replicated_deduplication_window = 5";
        for (full, is_replicated, window) in
            [(plain, false, 0), (set, false, 7), (plain, true, 10_000), (replicated, true, 5)]
        {
            assert_eq!(deduplication_window(full, is_replicated), window, "{full}");
        }
    }
}
