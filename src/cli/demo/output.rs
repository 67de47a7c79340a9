//! Where the demo's rows go: a throwaway Postgres, or a database of its own in a ClickHouse that somebody else started. Makes it, asks it,
//! removes it.

use tokio_postgres::Client;

use super::{Result, Rows, create_database, psql, rows};
use crate::clickhouse;
use crate::config::{ClickHouseConnection, SslMode};
use crate::sandbox::{PostgresServer, ServerOptions};
use crate::testing::clickhouse_statements;

/// The example's name for it.
const ANALYTICS: &str = "analytics";

/// See the module.
pub enum Output {
    Postgres { server: PostgresServer, client: Box<Client> },
    ClickHouse { port: u16, client: clickhouse::Client },
}

impl Output {
    /// A server with the tables that this makes.
    pub async fn postgres(sql: &str) -> Result<Self> {
        let server = PostgresServer::start(&ServerOptions::default())?;
        let client = create_database(&server, "warehouse", sql).await?;
        Ok(Output::Postgres { server, client: Box::new(client) })
    }

    /// A database in the server at that port of this machine; refused where it has one of that name.
    pub async fn clickhouse(port: u16, sql: &str) -> Result<Self> {
        connect("default", port)?.execute(&format!("CREATE DATABASE {ANALYTICS}"), &[]).await?;
        let client = connect(ANALYTICS, port)?;
        for (_, statement) in clickhouse_statements(sql) {
            client.execute(statement, &[]).await?;
        }
        Ok(Output::ClickHouse { port, client })
    }

    /// Where trucker reaches it.
    pub fn port(&self) -> u16 {
        match self {
            Output::Postgres { server, .. } => server.port(),
            Output::ClickHouse { port, .. } => *port,
        }
    }

    /// How to look into it.
    pub fn address(&self) -> String {
        match self {
            Output::Postgres { server, .. } => psql(server.port(), "warehouse"),
            Output::ClickHouse { port, .. } => {
                format!(
                    "curl 'http://127.0.0.1:{port}/?database={ANALYTICS}' -d 'SELECT count() FROM orders FINAL'"
                )
            }
        }
    }

    /// What a query answers.
    pub async fn rows(&self, sql: &str) -> Result<Rows> {
        match self {
            Output::Postgres { client, .. } => rows(client, sql).await,
            Output::ClickHouse { client, .. } => Ok(client.select(sql, &[]).await?.rows),
        }
    }

    /// Nothing of it stays.
    pub async fn remove(self) -> Result<()> {
        if let Output::ClickHouse { client, .. } = self {
            client.execute(&format!("DROP DATABASE {ANALYTICS}"), &[]).await?;
        }
        Ok(())
    }
}

fn connect(database: &str, port: u16) -> Result<clickhouse::Client> {
    let connection = ClickHouseConnection {
        name: ANALYTICS.to_owned(),
        host: "127.0.0.1".to_owned(),
        port,
        database: database.to_owned(),
        user: "default".to_owned(),
        pass: None,
        sslmode: SslMode::Disable,
        ssl_root_cert: None,
        ssl_cert: None,
        ssl_key: None,
    };
    Ok(clickhouse::Client::new(&connection)?)
}
