//! Whether a pipeline's roles may do what it will do on its tables, and the statement that lets them. Asks before
//! anything is created; changes nothing.

use tokio_postgres::Client;

use super::definition::{Checked, config_problem};
use super::error::PipelineError;
use crate::codes::Code;
use crate::config::{Action, Pipeline, TableName, TruncateAction};
use crate::postgres::catalog::Table;
use crate::postgres::ident::quote_ident;
use crate::transform::SqlProblem;

const RIGHTS: &str = "SELECT array_agg(p) FILTER (WHERE NOT pg_catalog.has_table_privilege($1::oid, p)), \
                      pg_catalog.has_schema_privilege($3, 'USAGE'), pg_catalog.row_security_active($1::oid), \
                      pg_catalog.quote_ident(current_user) FROM unnest($2::text[]) AS p";

/// What keeps the role from reading all of an input table.
pub async fn of_input(
    pipeline: &Pipeline,
    name: &TableName,
    table: &Table,
    client: &Client,
) -> Checked<Vec<SqlProblem>> {
    missing(pipeline, name, table, client, &["SELECT"], "a backfill would be incomplete").await
}

/// What keeps the role from writing all of an output table as the pipeline will.
pub async fn of_output(
    pipeline: &Pipeline,
    name: &TableName,
    table: &Table,
    client: &Client,
) -> Checked<Vec<SqlProblem>> {
    let on = pipeline.output.on;
    let all = [on.insert, on.update, on.delete];
    let puts = all.iter().any(|a| matches!(a, Action::Insert | Action::Upsert));
    let wanted = [
        ("SELECT", true),
        ("INSERT", puts),
        ("UPDATE", all.iter().any(|a| matches!(a, Action::Update | Action::Upsert))),
        ("DELETE", all.contains(&Action::Delete)),
        ("TRUNCATE", matches!(on.truncate, None | Some(TruncateAction::Truncate))),
    ];
    let wanted: Vec<&str> = wanted.iter().filter(|(_, needed)| *needed).map(|(name, _)| *name).collect();
    missing(pipeline, name, table, client, &wanted, "rows that should go would stay").await
}

async fn missing(
    pipeline: &Pipeline,
    name: &TableName,
    table: &Table,
    client: &Client,
    wanted: &[&str],
    hidden: &str,
) -> Checked<Vec<SqlProblem>> {
    let asked = client.query_one(RIGHTS, &[&table.oid, &wanted, &table.schema]).await;
    let found = asked.and_then(|row| {
        let missing = row.try_get::<_, Option<Vec<String>>>(0)?.unwrap_or_default();
        let (may_look, is_filtered) = (row.try_get::<_, bool>(1)?, row.try_get::<_, bool>(2)?);
        Ok((missing, may_look, is_filtered, row.try_get::<_, String>(3)?))
    });
    let (missing, may_look, is_filtered, role) =
        found.map_err(PipelineError::source("asking for rights on a table"))?;
    let (sql, missing) = (table.sql(), missing.join(", "));
    let mut problems = Vec::new();
    let mut refuse = |code: Code, message: String, cure: String| {
        let problem = config_problem(code, pipeline, &name.table, message, cure);
        problems.push(SqlProblem { is_refusal: true, ..problem });
    };
    if !may_look {
        let schema = quote_ident(&table.schema);
        refuse(
            Code::SchemaRight,
            format!("{role} may not look into schema {schema}"),
            format!("GRANT USAGE ON SCHEMA {schema} TO {role}"),
        );
    }
    if !missing.is_empty() {
        refuse(
            Code::TableRight,
            format!("{role} lacks {missing} on {sql}"),
            format!("GRANT {missing} ON {sql} TO {role}"),
        );
    } else if is_filtered {
        refuse(
            Code::RowSecurity,
            format!("row-level security hides rows of {sql} from {role}: {hidden}"),
            format!("ALTER ROLE {role} BYPASSRLS"),
        );
    }
    Ok(problems)
}
