//! The server that tests are played on: one of our own, or one that was named. Makes databases there, all with one
//! prefix, and removes them again. Touches no other.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;

use super::clickhouse::ClickHouseServer;
use crate::clickhouse;
use crate::config::{ClickHouseConnection, PostgresConnection, SslMode, WalBudget};
use crate::postgres::ident::{quote_ident, quote_literal};
use crate::postgres::{ConnectError, Purpose, Session, connect, describe};
use crate::sandbox::{PostgresServer, SandboxError, ServerOptions};

/// How often an end is looked for.
const LOOK: Duration = Duration::from_millis(3);
/// After that a session that should have ended is ended by the server.
const LOOKS_MAX: u32 = 1000;

/// Why there is no server to play on, or it refused.
#[derive(Debug, thiserror::Error)]
pub enum ServerTrouble {
    /// None of our own could be had.
    #[error("{0}")]
    Sandbox(#[from] SandboxError),
    /// The one that was named, or ours, can't be reached.
    #[error("{0}")]
    Connect(#[from] ConnectError),
    /// The ClickHouse that was named can't be reached, or said no.
    #[error("{0}")]
    ClickHouse(#[from] clickhouse::Error),
    /// It said no.
    #[error("the server for the tests: {what}: {}", describe(.source))]
    Refused {
        /// What was attempted.
        what: String,
        /// Its words.
        source: tokio_postgres::Error,
    },
}

/// See the module.
pub struct TestServer {
    to: PostgresConnection,
    admin: Session,
    clickhouse: Option<ClickHouseServer>,
    /// All databases of this process begin like this.
    prefix: String,
    count: AtomicU32,
    /// Databases with a project's tables in them, to copy; by connection and schema file's text.
    templates: Mutex<HashMap<(String, String), String>>,
    /// Ends with this.
    _own: Option<PostgresServer>,
}

impl TestServer {
    /// Starts a server, or connects to the one that is named; and to the ClickHouse, if one is.
    pub async fn start(
        at: Option<&PostgresConnection>,
        clickhouse: Option<&ClickHouseConnection>,
    ) -> Result<TestServer, ServerTrouble> {
        let clickhouse = match clickhouse {
            Some(to) => Some(ClickHouseServer::connect(to).await?),
            None => None,
        };
        let (to, own) = match at {
            Some(to) => (to.clone(), None),
            None => {
                // Its parts block: other tasks have nothing to do yet.
                let own = PostgresServer::start(&ServerOptions::default())?;
                (of_our_own(own.port()), Some(own))
            }
        };
        let admin = connect(&to, Purpose::Control).await?;
        let number = std::hash::RandomState::new().hash_one(std::process::id());
        let prefix = format!("trucker_test_{:08x}", number >> 32);
        let (count, templates) = (AtomicU32::new(0), Mutex::default());
        Ok(TestServer { to, admin, clickhouse, prefix, count, templates, _own: own })
    }

    /// A name that no other database, project or slot has.
    pub fn unique_name(&self) -> String {
        format!("{}_{}", self.prefix, self.count.fetch_add(1, Ordering::Relaxed))
    }

    /// The ClickHouse, if one was named.
    pub fn clickhouse(&self) -> Option<&ClickHouseServer> {
        self.clickhouse.as_ref()
    }

    /// How to reach a database of that name, by a connection called `name`.
    pub fn connection(&self, name: &str, database: &str) -> PostgresConnection {
        PostgresConnection { name: name.to_owned(), database: database.to_owned(), ..self.to.clone() }
    }

    /// The database with a project's tables in it, made by `fill` where there is none yet.
    pub async fn template<E: From<ServerTrouble>>(
        &self,
        connection: &str,
        sql: &str,
        fill: impl AsyncFnOnce(Session) -> Result<(), E>,
    ) -> Result<String, E> {
        let mut templates = self.templates.lock().await;
        let key = (connection.to_owned(), sql.to_owned());
        if let Some(name) = templates.get(&key) {
            return Ok(name.clone());
        }
        let name = self.unique_name();
        self.create(&name, None).await?;
        let to = self.connection(connection, &name);
        let session = connect(&to, Purpose::Control).await.map_err(ServerTrouble::from)?;
        fill(session).await?;
        self.until_alone(std::slice::from_ref(&name), &[]).await?;
        templates.insert(key, name.clone());
        Ok(name)
    }

    /// Makes a database, empty or as another is.
    pub async fn create(&self, name: &str, template: Option<&str>) -> Result<(), ServerTrouble> {
        let template = template.unwrap_or("template0");
        let sql = format!(
            "CREATE DATABASE {} TEMPLATE {} ENCODING 'UTF8'",
            quote_ident(name),
            quote_ident(template)
        );
        self.admin(&sql, "making a database").await
    }

    /// Waits until nobody but these backends is connected to the databases.
    pub async fn until_alone(&self, databases: &[String], but: &[i32]) -> Result<(), ServerTrouble> {
        let refused = |source| ServerTrouble::Refused { what: "asking who is connected".to_owned(), source };
        let sql = "SELECT count(*), min(pid) FROM pg_catalog.pg_stat_activity \
                   WHERE datname = ANY ($1) AND pid <> ALL ($2)";
        for look in 0.. {
            let row = self.admin.client.query_one(sql, &[&databases, &but]).await.map_err(refused)?;
            if row.try_get::<_, i64>(0).map_err(refused)? == 0 {
                break;
            }
            if look > LOOKS_MAX {
                let pid: Option<i32> = row.try_get(1).map_err(refused)?;
                self.admin.client.query("SELECT pg_terminate_backend($1)", &[&pid]).await.map_err(refused)?;
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Drops the slots of databases, which nobody may use any more.
    pub async fn drop_slots(&self, databases: &[String]) -> Result<(), ServerTrouble> {
        let names: Vec<String> = databases.iter().map(|name| quote_literal(name)).collect();
        let sql = format!(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database IN ({})",
            names.join(", ")
        );
        self.admin(&sql, "dropping a test's slots").await
    }

    /// Drops a database.
    pub async fn drop(&self, name: &str) -> Result<(), ServerTrouble> {
        self.admin(
            &format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quote_ident(name)),
            "dropping a database",
        )
        .await
    }

    /// Drops whatever of this process's is still there, but for `kept`.
    pub async fn clear(&self, kept: &[String]) -> Result<(), ServerTrouble> {
        let refused = |source| ServerTrouble::Refused { what: "looking for databases".to_owned(), source };
        let sql = "SELECT datname::text FROM pg_catalog.pg_database \
                   WHERE starts_with(datname, $1) AND datname <> ALL ($2)";
        let prefix = format!("{}_", self.prefix);
        for row in self.admin.client.query(sql, &[&prefix, &kept]).await.map_err(refused)? {
            let name: String = row.try_get(0).map_err(refused)?;
            self.until_alone(std::slice::from_ref(&name), &[]).await?;
            self.drop_slots(std::slice::from_ref(&name)).await?;
            self.drop(&name).await?;
        }
        if let Some(clickhouse) = &self.clickhouse {
            clickhouse.clear(&prefix, kept).await?;
        }
        Ok(())
    }

    async fn admin(&self, sql: &str, what: &str) -> Result<(), ServerTrouble> {
        let done = self.admin.client.batch_execute(sql).await;
        done.map_err(|source| ServerTrouble::Refused { what: what.to_owned(), source })
    }
}

fn of_our_own(port: u16) -> PostgresConnection {
    PostgresConnection {
        name: "tests".to_owned(),
        host: "127.0.0.1".to_owned(),
        port,
        database: "postgres".to_owned(),
        user: PostgresServer::SUPERUSER.to_owned(),
        pass: None,
        sslmode: SslMode::Disable,
        ssl_root_cert: None,
        ssl_cert: None,
        ssl_key: None,
        wal_budget: WalBudget::default(),
        replica: None,
        failover: false,
    }
}
