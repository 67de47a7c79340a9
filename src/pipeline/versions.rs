//! What two major versions write and read differently, where it could change a value without a word. Pure.

use super::definition::{Definition, config_problem};
use crate::codes::Code;
use crate::postgres::catalog::Table;
use crate::transform::SqlProblem;

/// The one-byte type `"char"`, and its array.
const CHAR_OIDS: [u32; 2] = [18, 1002];

/// Since 15, bytes beyond ASCII in a `"char"` are written as `\377`, of which older servers take the backslash alone.
/// Versions are as `server_version_num`.
pub fn problem(definition: &Definition, source: u32, output: u32) -> Option<SqlProblem> {
    let target = definition.target.as_ref()?.postgres()?;
    let (_, into) = (source >= 150_000 && output < 150_000)
        .then(|| {
            definition.tables.iter().find_map(|table| char_column(table)).zip(char_column(&target.table))
        })
        .flatten()?;
    let message = format!(
        "Postgres {} writes some values of type \"char\" in a way that Postgres {} reads as others",
        source / 10_000,
        output / 10_000
    );
    let cure = format!("ALTER TABLE {} ALTER COLUMN {into} TYPE text", target.table.sql());
    let name = definition.pipeline.output.table.as_ref().map_or("", |name| name.table.as_str());
    Some(config_problem(Code::VersionDiffers, &definition.pipeline, name, message, cure))
}

fn char_column(table: &Table) -> Option<String> {
    let column = table.columns.iter().find(|column| CHAR_OIDS.contains(&column.type_name.base_oid))?;
    Some(crate::postgres::ident::quote_ident(&column.name))
}
