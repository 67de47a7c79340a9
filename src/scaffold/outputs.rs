//! The output tables that are proposed for tables of the source. Asks which types these have; creates nothing.

use super::{ScaffoldError, Source, files, proposal};
use crate::clickhouse::catalog::fetch_server;
use crate::clickhouse::{Client, PostgresType, Proposal, quote_ident};
use crate::config::Connection;
use crate::postgres::catalog::Table;
use crate::postgres::describe;
use crate::postgres::ident::quote_idents;

/// `CREATE TABLE` for each of the tables.
pub async fn propose(source: &Source, to: &Connection) -> Result<Vec<String>, ScaffoldError> {
    let Connection::ClickHouse(to) = to else {
        return Ok(source.tables.iter().map(proposal::output_table).collect());
    };
    let server = fetch_server(&Client::new(to)?).await?;
    let mut proposed = Vec::new();
    for table in &source.tables {
        let name = quote_ident(&files::bare_name(table, &source.tables));
        let types = fetch_types(source, table).await?;
        let columns = table.columns.iter().zip(types);
        let columns: Vec<_> = columns.map(|(c, pg)| (c.name.as_str(), pg, c.is_not_null)).collect();
        let key = table.primary_key().unwrap_or_default();
        proposed.push(Proposal::new(name, &columns, key, &server).lines());
    }
    Ok(proposed)
}

/// The types of its columns, as a statement tells them.
async fn fetch_types(source: &Source, table: &Table) -> Result<Vec<PostgresType>, ScaffoldError> {
    let columns = table.columns.iter().map(|column| column.name.as_str());
    let sql = format!("SELECT {} FROM {}", quote_idents(columns), table.sql());
    let statement = source.session.client.prepare(&sql).await;
    let statement =
        statement.map_err(|error| ScaffoldError::Server(source.name.clone(), describe(&error)))?;
    Ok(statement.columns().iter().map(|c| PostgresType::new(c.type_(), c.type_modifier())).collect())
}
