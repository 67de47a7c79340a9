//! Columns that may bring a NULL into an output column that takes none: told before the first one stops the pipeline. Knows only
//! of values that are taken from a table's column as they are; of expressions nothing is known beforehand.

use tokio_postgres::Client;

use super::compiled::Compiled;
use super::definition::{Checked, Definition, output_problem};
use super::encoding::allow_null;
use super::error::PipelineError;
use crate::codes::Code;
use crate::config::Action;
use crate::postgres::ident::quote_ident;
use crate::sink::Target;
use crate::transform::SqlProblem;

const NULLABLE: &str = "SELECT c.relname || '.' || a.attname FROM pg_catalog.pg_attribute a \
                        JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
                        WHERE a.attrelid = $1 AND a.attnum = $2 AND NOT a.attnotnull AND c.relkind IN ('r', 'p')";

/// A column that takes no NULL: why, and what would let it.
struct Strict {
    is: String,
    allow: String,
}

impl Strict {
    fn of(target: &Target, name: &str) -> Option<Strict> {
        let (sql, shown) = (target.sql(), quote_ident(name));
        match target {
            Target::Postgres(target) => target.table.column(name).filter(|c| c.is_not_null).map(|_| Strict {
                is: "is NOT NULL".to_owned(),
                allow: format!("ALTER TABLE {sql} ALTER COLUMN {shown} DROP NOT NULL"),
            }),
            Target::ClickHouse(target) => {
                target.table.column(name).filter(|c| !c.data_type.is_nullable()).map(|column| Strict {
                    is: format!("is {}", column.type_text),
                    allow: allow_null(target, column),
                })
            }
        }
    }
}

/// What may be NULL and must not be. `client` is on the source.
pub async fn warnings(definition: &Definition, client: &Client) -> Checked<Vec<SqlProblem>> {
    let Some(target) =
        definition.target.as_ref().filter(|_| definition.pipeline.output.on.insert != Action::Ignore)
    else {
        return Ok(Vec::new());
    };
    let failed = || PipelineError::source("asking which columns may be NULL");
    let mut warnings = Vec::new();
    let types = definition.types(client).await?;
    for table in &definition.tables {
        let (copy, _) = Compiled::copy(definition, client, &types, table).await?;
        for (column, origin) in copy.columns.iter().zip(&copy.taken_from) {
            let (Some(strict), Some((oid, number))) = (Strict::of(target, &column.name), origin) else {
                continue;
            };
            let row = client.query_opt(NULLABLE, &[oid, number]).await;
            let from = row.and_then(|row| row.map(|row| row.try_get::<_, String>(0)).transpose());
            let Some(from) = from.map_err(failed())? else { continue };
            let (name, output) = (quote_ident(&column.name), target.sql());
            let Strict { is, allow } = strict;
            let message = format!("{from} may be NULL, but column {name} of {output}, where it goes, {is}");
            let help =
                format!("return coalesce(…) AS {name}, leave such rows out by a WHERE, or allow it: {allow}");
            let table = definition.pipeline.output.table.as_ref().map_or("output", |table| &table.table);
            let problem = output_problem(Code::MayBeNull, &definition.pipeline, table, message, help);
            warnings.push(problem);
        }
    }
    Ok(warnings)
}
