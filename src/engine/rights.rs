//! Whether the role of an output may keep its progress there: schema `trucker` and the tables in it, or tables beside the
//! output's on ClickHouse. Asks only.

use super::error::EngineError;
use super::findings::Findings;
use super::prepare::Creation;
use crate::clickhouse;
use crate::clickhouse::rights::{fetch_missing, fetch_names};
use crate::codes::Code;
use crate::config::Diagnostic;
use crate::postgres::Session;
use crate::sink::clickhouse::ledger::{TABLE_RIGHTS, TABLES};
use crate::sink::{Ledger, Output, SinkError};

const SCHEMA: &str = "\
SELECT n.oid IS NOT NULL, n.oid IS NULL OR pg_catalog.has_schema_privilege(n.oid, 'USAGE'),
       CASE WHEN n.oid IS NULL THEN pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')
            ELSE c.oid IS NOT NULL OR pg_catalog.has_schema_privilege(n.oid, 'CREATE') END,
       c.oid IS NULL OR (SELECT bool_and(pg_catalog.has_table_privilege(c.oid, p))
                         FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS p),
       pg_catalog.quote_ident(current_user), pg_catalog.quote_ident(pg_catalog.current_database()),
       pg_catalog.current_setting('transaction_read_only')::bool
FROM (SELECT) AS one LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = 'trucker'
LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = 'checkpoint'";

/// Whether progress can be kept on this output; if not, the findings say what would help.
pub async fn check_ledger(
    connection: &str,
    output: &Output,
    creation: Creation,
    findings: &mut Findings,
) -> Result<bool, EngineError> {
    match output {
        Output::Postgres(session) => check_schema(connection, session, creation, findings).await,
        Output::ClickHouse(client) => {
            let asked = check_tables(connection, client, creation, findings).await;
            asked.map_err(EngineError::sink(connection))
        }
    }
}

/// On ClickHouse progress is kept in two tables of the connection's database.
async fn check_tables(
    connection: &str,
    client: &clickhouse::Client,
    creation: Creation,
    findings: &mut Findings,
) -> Result<bool, SinkError> {
    let asking = || SinkError::clickhouse("asking for rights");
    let [user, database] = fetch_names(client).await.map_err(asking())?;
    let exist = Ledger::ClickHouse(client).is_complete().await?;
    let mut wanted: Vec<(String, &[&str])> = Vec::new();
    if !exist && creation == Creation::Allowed {
        wanted.push((format!("{database}.*"), &["CREATE TABLE"]));
        // Asked for only where the server is told to; elsewhere everybody has it.
        wanted.push(("ReplacingMergeTree".to_owned(), &["TABLE ENGINE"]));
    }
    wanted.extend(TABLES.map(|table| (format!("{database}.{table}"), TABLE_RIGHTS)));
    let mut grants = Vec::new();
    for (on, rights) in wanted {
        let missing = fetch_missing(client, rights, &on).await.map_err(asking())?;
        if !missing.is_empty() {
            grants.push(format!("GRANT {} ON {on} TO {user}", missing.join(", ")));
        }
    }
    if grants.is_empty() {
        return Ok(true);
    }
    let what = if exist { "use" } else { "create" };
    let message = format!(
        "connection {connection}: {user} may not {what} {}, where progress is kept",
        TABLES.map(|table| format!("{database}.{table}")).join(" and ")
    );
    findings.server(Code::SchemaTrucker, message, grants.join(";\n"));
    Ok(false)
}

async fn check_schema(
    connection: &str,
    session: &Session,
    creation: Creation,
    findings: &mut Findings,
) -> Result<bool, EngineError> {
    let asked = session.client.query_one(SCHEMA, &[]).await;
    let asked = asked.and_then(|row| {
        let is = |column: usize| row.try_get::<_, bool>(column);
        let names = (row.try_get::<_, String>(4)?, row.try_get::<_, String>(5)?);
        Ok(([is(0)?, is(1)?, is(2)?, is(3)?, is(6)?], names))
    });
    let ([exists, may_look, may_create, may_write, is_read_only], (role, database)) =
        asked.map_err(EngineError::at(connection, "asking for rights on schema trucker"))?;
    if is_read_only {
        let message =
            format!("connection {connection}: the server takes no writes now: it is a standby, or read-only");
        let help = "name the server that takes writes; or, if it should: ALTER DATABASE … SET default_transaction_read_only = off";
        let problem = Diagnostic::of_server(Code::OutputReadOnly, message).help(help);
        // A project that has written there goes on once somebody has promoted the standby.
        findings.add(if exists { problem.as_warning() } else { problem });
    }
    let may_create = may_create || creation == Creation::Forbidden;
    let cure = match (may_look, may_create, may_write) {
        (_, false, _) if !exists => format!("GRANT CREATE ON DATABASE {database} TO {role}"),
        (_, false, _) => format!("GRANT USAGE, CREATE ON SCHEMA trucker TO {role}"),
        (false, ..) => format!("GRANT USAGE ON SCHEMA trucker TO {role}"),
        (.., false) => {
            format!("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA trucker TO {role}")
        }
        _ => return Ok(true),
    };
    let what = if exists { "use" } else { "create" };
    let message =
        format!("connection {connection}: {role} may not {what} schema trucker, where progress is kept");
    findings.server(Code::SchemaTrucker, message, cure);
    Ok(false)
}
