//! What is proposed for a table: the output table, the SQL, rows for a first test. Pure.

use crate::config::{PostgresConnection, SslMode, WalBudget};
use crate::postgres::catalog::{Table, TableColumn};
use crate::postgres::ident::{quote_ident, quote_idents};

/// What else the source's catalogue says.
#[derive(Debug)]
pub struct Known {
    /// The first label of each enum, by the type's OID.
    pub enums: Vec<(u32, String)>,
    /// OIDs of the tables that have foreign keys.
    pub with_foreign_keys: Vec<u32>,
}

/// An output that nobody has named yet.
pub fn unknown_output(source: &str) -> PostgresConnection {
    let name = if source == "warehouse" { "output" } else { "warehouse" };
    PostgresConnection {
        name: name.to_owned(),
        host: "localhost".to_owned(),
        port: 5432,
        database: name.to_owned(),
        user: "trucker".to_owned(),
        pass: None,
        sslmode: SslMode::default(),
        ssl_root_cert: None,
        ssl_cert: None,
        ssl_key: None,
        wal_budget: WalBudget::default(),
        replica: None,
        failover: false,
    }
}

/// What the catalogue calls a type that is built in; the one beneath a domain.
fn builtin_name(column: &TableColumn) -> Option<&str> {
    let name = column.type_name.sql.strip_prefix("pg_catalog.")?;
    column.type_name.is_builtin().then_some(name.trim_matches('"'))
}

/// The type that the output's column gets: of types that aren't built in, text, which holds every one.
fn output_type(column: &TableColumn) -> &str {
    match builtin_name(column) {
        // What the catalogue calls its types, as people do.
        Some("int2") => "smallint",
        Some("int4") => "integer",
        Some("int8") => "bigint",
        Some("float4") => "real",
        Some("float8") => "double precision",
        Some("bool") => "boolean",
        Some("bpchar" | "varchar" | "name") => "text",
        Some("char") => "\"char\"",
        Some(name) => match name.strip_prefix('_') {
            Some("int2") => "smallint[]",
            Some("int4") => "integer[]",
            Some("int8") => "bigint[]",
            Some("text" | "varchar" | "bpchar") => "text[]",
            Some("numeric") => "numeric[]",
            Some("uuid") => "uuid[]",
            Some("timestamptz") => "timestamptz[]",
            Some(_) => "text",
            None => name,
        },
        None => "text",
    }
}

/// Whether the output's column holds another type, to which the SQL has to cast.
fn is_cast(column: &TableColumn) -> bool {
    output_type(column) == "text" && column.type_name.sql != "pg_catalog.text"
}

/// `CREATE TABLE` for the output.
pub fn output_table(table: &Table) -> String {
    let key = table.primary_key().unwrap_or_default();
    let width =
        table.columns.iter().map(|column| quote_ident(&column.name).chars().count()).max().unwrap_or(0);
    let column = |column: &TableColumn| {
        let not_null = if key.contains(&column.name) { " NOT NULL" } else { "" };
        format!("    {:<width$} {}{not_null}", quote_ident(&column.name), output_type(column))
    };
    let mut lines: Vec<String> = table.columns.iter().map(column).collect();
    lines.push(format!("    PRIMARY KEY ({})", quote_idents(key.iter().map(String::as_str))));
    let schema = match table.schema.as_str() {
        "public" => String::new(),
        schema => format!("CREATE SCHEMA IF NOT EXISTS {};\n", quote_ident(schema)),
    };
    format!("{schema}CREATE TABLE {} (\n{}\n);\n", table.sql(), lines.join(",\n"))
}

/// transform.sql: all columns as they are, to begin with; cast where the proposed table for Postgres wants it.
pub fn transform(table: &Table, casts: bool) -> String {
    let written = |column: &TableColumn| {
        let name = &column.name;
        let plain = quote_ident(name) == *name;
        let value = if plain { format!("{{{{ row.{name} }}}}") } else { format!("{{{{ row[{name:?}] }}}}") };
        if casts && is_cast(column) { format!("{value}::text") } else { value }
    };
    let values: Vec<String> = table.columns.iter().map(written).collect();
    let width = values.iter().map(|value| value.chars().count()).max().unwrap_or(0);
    let columns = values.iter().zip(&table.columns);
    let lines: Vec<String> =
        columns.map(|(value, column)| format!("{value:<width$} AS {}", quote_ident(&column.name))).collect();
    format!(
        "-- Written as if for one row of {}; trucker runs it over all that change, on the source.\n\
         -- Rename columns, compute, join other tables: the output table has to have what is selected here.\n\
         -- Of a deleted row Postgres sends the key alone; where that isn't enough, a delete.sql says what goes.\n\
         SELECT {}\n",
        table.sql(),
        lines.join(",\n       ")
    )
}

/// A value for a first test, as YAML, if one is known for the type. It is the same on both sides.
fn sample(column: &TableColumn, enums: &[(u32, String)], number: usize) -> Option<String> {
    if let Some((_, label)) = enums.iter().find(|(oid, _)| *oid == column.type_name.base_oid) {
        return Some(serde_json::Value::String(label.clone()).to_string());
    }
    Some(match builtin_name(column)? {
        "int2" | "int4" | "int8" => number.to_string(),
        "numeric" | "float4" | "float8" => format!("{number}.5"),
        "bool" => "true".to_owned(),
        // As short as char(1) and with a letter that most checks take.
        "text" | "varchar" | "bpchar" => {
            ["a", "b", "c"].get(number - 1).map_or("x", |letter| letter).to_owned()
        }
        "date" => format!("2024-01-0{number}"),
        "timestamp" => format!("2024-01-0{number} 12:00:00"),
        "timestamptz" => format!("2024-01-0{number} 12:00:00+00"),
        "uuid" => format!("00000000-0000-0000-0000-00000000000{number}"),
        "json" | "jsonb" => "{}".to_owned(),
        _ => return None,
    })
}

/// tests/first.yml. Rows of a table with foreign keys are given, which needs no others; a change would. ClickHouse keeps the
/// spaces of a char(n), which are left out of what is expected.
pub fn first_test(table: &Table, known: &Known, is_postgres: bool) -> String {
    let enums = &known.enums;
    let key = table.primary_key().unwrap_or_default();
    let columns: Vec<&TableColumn> = table.columns.iter().filter(|column| !column.is_generated()).collect();
    let is_possible = columns.iter().all(|column| {
        let is_needed = column.is_not_null && !column.has_default || key.contains(&column.name);
        !is_needed || sample(column, enums, 1).is_some()
    });
    let quoted = |name: &str| crate::testing::yaml_scalar(name);
    let name = quoted(&format!("{}.{}", quote_ident(&table.schema), quote_ident(&table.table)));
    let head =
        "# What the SQL makes of rows. `trucker test` plays it on a throwaway server: docs/testing.md\n";
    if !is_possible {
        return format!(
            "{head}# Give rows that the table takes, and what should become of them.\ngiven:\n  {name}: []\nexpect: []\n"
        );
    }
    let row = |number: usize, wanted: &dyn Fn(&TableColumn) -> bool| {
        let cells = columns.iter().filter(|column| wanted(column)).filter_map(|column| {
            Some(format!("{}: {}", quoted(&column.name), sample(column, enums, number)?))
        });
        format!("{{{}}}", cells.collect::<Vec<_>>().join(", "))
    };
    let all = |_: &TableColumn| true;
    let of_key = |column: &TableColumn| key.contains(&column.name);
    let shown = |column: &TableColumn| is_postgres || builtin_name(column) != Some("bpchar");
    if known.with_foreign_keys.contains(&table.oid) {
        return format!(
            "{head}given:\n  {name}:\n    - {}\n    - {}\nexpect: # after the backfill\n  - {}\n  - {}\nsteps:\n  \
             - changes: # these come by the stream\n      - delete:\n          {name}:\n            - {}\n    \
             expect:\n      - {}\n",
            row(1, &all),
            row(2, &all),
            row(1, &shown),
            row(2, &shown),
            row(1, &of_key),
            row(2, &shown),
        );
    }
    format!(
        "{head}given:\n  {name}:\n    - {}\nexpect: # after the backfill\n  - {}\nsteps:\n  \
         - changes: # these come by the stream\n      - insert:\n          {name}:\n            - {}\n    \
         expect:\n      - {}\n      - {}\n  \
         - changes:\n      - delete:\n          {name}:\n            - {}\n    expect:\n      - {}\n",
        row(1, &all),
        row(1, &shown),
        row(2, &all),
        row(1, &shown),
        row(2, &shown),
        row(1, &of_key),
        row(2, &shown),
    )
}
