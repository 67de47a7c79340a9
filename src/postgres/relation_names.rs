//! Which table somebody probably meant who named one that isn't there. Asks the catalogue, and says nothing where that fails.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::ident::{quote_ident, quote_relation};
use crate::config::nearest::nearest;

/// The sentence that offers another table for the one at the start of this SQL, where the server has just said that there is
/// none of that name. None too where nothing is near, or the server doesn't answer.
pub async fn fetch_meant(client: &Client, failure: &tokio_postgres::Error, sql: &str) -> Option<String> {
    let said = failure.as_db_error().filter(|said| *said.code() == SqlState::UNDEFINED_TABLE)?;
    // The same code stands for an alias that isn't in the FROM clause.
    said.routine().filter(|routine| *routine == "parserOpenTable")?;
    let written = written_name(sql);
    let relations = "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c \
                     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname !~ '^(pg_|information_schema$)' \
                     ORDER BY n.nspname <> 'public', 1, 2";
    let rows = client.query(relations, &[]).await.ok()?;
    let known: Vec<(String, String)> =
        rows.iter().filter_map(|row| Some((row.try_get(0).ok()?, row.try_get(1).ok()?))).collect();
    meant(&written, &known).map(|name| format!("did you mean {name}?"))
}

/// The parts of the name that the SQL begins with, as the catalogue has them.
fn written_name(sql: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let mut rest = sql.trim_start();
    loop {
        let quoted = rest.strip_prefix('"').and_then(|inner| inner.split_once('"'));
        let (part, after) = match quoted {
            Some((part, after)) => (part.to_owned(), after),
            None => {
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '$');
                let (part, after) = rest.split_at(end.unwrap_or(rest.len()));
                (part.to_lowercase(), after)
            }
        };
        parts.push(part);
        match after.trim_start().strip_prefix('.') {
            Some(next) => rest = next.trim_start(),
            None => return parts,
        }
    }
}

/// The table of that name in another schema, or else the one with the nearest name.
fn meant(written: &[String], known: &[(String, String)]) -> Option<String> {
    let name = written.last()?;
    let elsewhere = known.iter().find(|(_, table)| table == name);
    let near = || {
        let tables = known.iter().filter(|(schema, _)| written.len() < 2 || *schema == written[0]);
        let found = nearest(name, tables.clone().map(|(_, table)| table.as_str()))?;
        tables.clone().find(|(_, table)| table == found)
    };
    let (schema, table) = elsewhere.or_else(near)?;
    Some(if schema == "public" { quote_ident(table) } else { quote_relation(schema, table) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_or_a_forgotten_schema_finds_its_table() {
        let known =
            [("public", "countries"), ("public", "Odd Name"), ("sales", "orders"), ("sales", "lines")];
        let known = known.map(|(schema, table)| (schema.to_owned(), table.to_owned()));
        for (sql, expected) in [
            ("countris c WHERE", Some("countries")),
            ("orders, x", Some("sales.orders")),
            ("sales.order)", Some("sales.orders")),
            ("sale.orders", Some("sales.orders")),
            ("\"odd name\"", Some("\"Odd Name\"")),
            ("Sales . Lins", Some("sales.lines")),
            ("zebra", None),
            ("", None),
        ] {
            assert_eq!(meant(&written_name(sql), &known).as_deref(), expected, "{sql}");
        }
    }
}
