//! Servers and databases, and SQL on them without any ceremony: text in, text out. Sessions fix every
//! setting that changes how values print, so that two databases can be compared whatever their settings.

use std::env;
use std::path::Path;
use std::sync::{Mutex, OnceLock};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use futures_util::SinkExt;
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::{Client, Config, Error, NoTls, SimpleQueryMessage};
use trucker::sandbox::{PostgresServer, ServerOptions};

use super::Row;

const PLAIN_TEXT: &str = "-c DateStyle=ISO,YMD -c IntervalStyle=postgres -c bytea_output=hex -c TimeZone=UTC \
                          -c extra_float_digits=1 -c search_path=public -c standard_conforming_strings=on \
                          -c xmlbinary=base64 -c lc_monetary=C -c synchronous_commit=local";

/// The source that all tests share.
pub fn source_server() -> &'static PostgresServer {
    static SERVER: OnceLock<PostgresServer> = OnceLock::new();
    SERVER.get_or_init(|| private_server(ServerOptions::default()))
}

/// The output that all tests share.
pub fn output_server() -> &'static PostgresServer {
    static SERVER: OnceLock<PostgresServer> = OnceLock::new();
    SERVER.get_or_init(|| private_output(ServerOptions::default()))
}

/// A server for one test, of the source's version.
pub fn private_server(options: ServerOptions) -> PostgresServer {
    start("TRUCKER_PG_SOURCE", options)
}

/// A server for one test, of the output's version.
pub fn private_output(options: ServerOptions) -> PostgresServer {
    start("TRUCKER_PG_OUTPUT", options)
}

/// With the programs that the variable names, by their folder or their major version; else with any.
fn start(variable: &str, mut options: ServerOptions) -> PostgresServer {
    if let Ok(chosen) = env::var(variable) {
        let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/postgres").join(&chosen).join("bin");
        match chosen.parse() {
            Ok(_) if fetched.is_dir() => options.bin_dir = Some(fetched),
            Ok(major) => options.major = Some(major),
            Err(_) => options.bin_dir = Some(chosen.into()),
        }
    }
    PostgresServer::start(&options).unwrap_or_else(|error| panic!("{variable}: {error}"))
}

/// One connection.
pub struct Session {
    runtime: Runtime,
    client: Client,
}

impl Session {
    /// Connects as the superuser.
    pub fn try_connect(port: u16, database: &str) -> Result<Self, Error> {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let mut config = Config::new();
        config.host("127.0.0.1").port(port).user(PostgresServer::SUPERUSER).dbname(database);
        config.options(PLAIN_TEXT).application_name("test");
        let (client, connection) = runtime.block_on(config.connect(NoTls))?;
        runtime.spawn(connection);
        Ok(Session { runtime, client })
    }

    /// Runs statements; the last one's rows, as text.
    pub fn try_rows(&self, sql: &str) -> Result<Vec<Row>, Error> {
        let messages = self.runtime.block_on(self.client.simple_query(sql))?;
        let mut rows = Vec::new();
        for message in messages {
            match message {
                SimpleQueryMessage::Row(row) => {
                    rows.push((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect());
                }
                SimpleQueryMessage::RowDescription(_) => rows.clear(),
                _ => {}
            }
        }
        Ok(rows)
    }

    /// Runs statements.
    pub fn try_execute(&self, sql: &str) -> Result<(), Error> {
        self.runtime.block_on(self.client.batch_execute(sql))
    }

    /// Runs statements that must succeed.
    #[track_caller]
    pub fn execute(&self, sql: &str) {
        self.try_execute(sql).unwrap_or_else(|error| panic!("{}", explain(sql, &error)));
    }

    /// Hands lines to a `COPY … FROM STDIN`.
    pub fn try_copy(&self, sql: &str, lines: String) -> Result<(), Error> {
        self.runtime.block_on(async {
            let mut sink = Box::pin(self.client.copy_in(sql).await?);
            sink.send(Bytes::from(lines)).await?;
            sink.as_mut().finish().await.map(drop)
        })
    }

    /// Starts the statements and leaves without waiting for an answer: for a commit that waits for a
    /// standby, as the tests' other commits never do.
    pub fn send(self, sql: &str) -> JoinHandle<Result<(), Error>> {
        let sql = sql.to_owned();
        thread::spawn(move || {
            self.try_execute("SET synchronous_commit = on")?;
            self.try_execute(&sql)
        })
    }
}

/// A database that belongs to one test.
pub struct Database {
    /// The server's port.
    pub port: u16,
    /// Its name.
    pub name: String,
    session: Mutex<Option<Session>>,
}

impl Database {
    /// Creates it, in UTF-8.
    pub fn create(port: u16, name: &str) -> Self {
        Session::try_connect(port, "postgres")
            .expect("the server takes connections")
            .execute(&format!(r#"CREATE DATABASE "{name}""#));
        Database { port, name: name.to_owned(), session: Mutex::default() }
    }

    /// One that exists already.
    pub fn at(port: u16, name: &str) -> Self {
        Database { port, name: name.to_owned(), session: Mutex::default() }
    }

    /// The same database on another server: a copy that has taken over.
    pub fn move_to(&mut self, port: u16) {
        self.port = port;
        self.session = Mutex::default();
    }

    /// Runs statements in the server's own database: what can't be done from within this one.
    #[track_caller]
    pub fn admin(&self, sql: &str) {
        Session::try_connect(self.port, "postgres").expect("the server takes connections").execute(sql);
    }

    /// Another connection, for transactions held open and for writers in threads.
    pub fn session(&self) -> Session {
        Session::try_connect(self.port, &self.name).expect("the database takes connections")
    }

    /// Runs statements that must succeed.
    #[track_caller]
    pub fn execute(&self, sql: &str) {
        self.rows(sql);
    }

    /// Runs statements that must succeed; the last one's rows.
    #[track_caller]
    pub fn rows(&self, sql: &str) -> Vec<Row> {
        self.try_rows(sql).unwrap_or_else(|error| panic!("{}", explain(sql, &error)))
    }

    /// Runs statements; the last one's rows. Connects anew where the server had been stopped.
    pub fn try_rows(&self, sql: &str) -> Result<Vec<Row>, Error> {
        let mut session = self.session.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // A server that was stopped meanwhile is noticed only by speaking to it.
        if session.as_ref().is_none_or(|session| session.try_execute("").is_err()) {
            *session = Some(Session::try_connect(self.port, &self.name)?);
        }
        let result = session.as_ref().expect("connected above").try_rows(sql);
        if result.as_ref().is_err_and(|error| error.as_db_error().is_none()) {
            *session = None;
        }
        result
    }

    /// The only value of the only row; NULL as an empty text.
    #[track_caller]
    pub fn value(&self, sql: &str) -> String {
        let rows = self.rows(sql);
        assert!(rows.len() == 1 && rows[0].len() == 1, "not one value: {sql}: {rows:?}");
        rows[0][0].clone().unwrap_or_default()
    }

    /// A count or another number.
    #[track_caller]
    pub fn number(&self, sql: &str) -> i64 {
        let text = self.value(sql);
        text.parse().unwrap_or_else(|_| panic!("not a number: {sql}: {text}"))
    }

    /// Whether a question is answered with true.
    #[track_caller]
    pub fn is(&self, sql: &str) -> bool {
        self.value(&format!("SELECT coalesce(({sql}), false)")) == "t"
    }

    /// Removes the database, with whatever is connected to it; quiet where the server is gone.
    pub fn drop_quietly(&self) {
        *self.session.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = None;
        if let Ok(session) = Session::try_connect(self.port, "postgres") {
            let _ = session.try_execute(&format!(r#"DROP DATABASE IF EXISTS "{}" WITH (FORCE)"#, self.name));
        }
    }
}

fn explain(sql: &str, error: &Error) -> String {
    let why = error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string);
    let sql: String = sql.chars().take(400).collect();
    format!("{why}\nin: {sql}")
}
