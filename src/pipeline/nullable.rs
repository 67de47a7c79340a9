//! Columns that may bring a NULL into an output column that takes none: told before the first one stops the pipeline. Knows only
//! of values that are taken from a table's column as they are; of expressions nothing is known beforehand.

use tokio_postgres::Client;

use super::compiled::Compiled;
use super::definition::{Checked, Definition, output_problem};
use super::error::PipelineError;
use crate::codes::Code;
use crate::config::Action;
use crate::postgres::ident::quote_ident;
use crate::sink::Target;
use crate::transform::SqlProblem;

const NULLABLE: &str = "SELECT c.relname || '.' || a.attname FROM pg_catalog.pg_attribute a \
                        JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
                        WHERE a.attrelid = $1 AND a.attnum = $2 AND NOT a.attnotnull AND c.relkind IN ('r', 'p')";

/// What may be NULL and must not be. `client` is on the source.
pub async fn warnings(definition: &Definition, client: &Client) -> Checked<Vec<SqlProblem>> {
    let (Some(target), true) = (
        definition.target.as_ref().and_then(Target::postgres),
        definition.pipeline.output.on.insert != Action::Ignore,
    ) else {
        return Ok(Vec::new());
    };
    let failed = || PipelineError::source("asking which columns may be NULL");
    let mut warnings = Vec::new();
    let types = definition.types(client).await?;
    for table in &definition.tables {
        let (copy, _) = Compiled::copy(definition, client, &types, table).await?;
        for (column, origin) in copy.columns.iter().zip(&copy.taken_from) {
            let is_required = target.table.column(&column.name).is_some_and(|c| c.is_not_null);
            let (true, Some((oid, number))) = (is_required, origin) else { continue };
            let row = client.query_opt(NULLABLE, &[oid, number]).await;
            let from = row.and_then(|row| row.map(|row| row.try_get::<_, String>(0)).transpose());
            let Some(from) = from.map_err(failed())? else { continue };
            let (name, output) = (quote_ident(&column.name), target.table.sql());
            let message =
                format!("{from} may be NULL, but column {name} of {output}, where it goes, is NOT NULL");
            let help = format!(
                "return coalesce(…) AS {name}, leave such rows out by a WHERE, or allow it: \
                 ALTER TABLE {output} ALTER COLUMN {name} DROP NOT NULL"
            );
            let problem =
                output_problem(Code::MayBeNull, &definition.pipeline, &target.table.table, message, help);
            warnings.push(problem);
        }
    }
    Ok(warnings)
}
