//! The servers that a run is made on, and one scenario's databases and project. Knows nothing of who is measured.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;
use trucker::sandbox::{PostgresServer, ServerOptions};

use crate::harness::{ClickHouseDatabase, Database, private_output, private_server};

/// A source and an output, as they are run in earnest: what is committed is on disk. Nothing runs by the clock, so that
/// repetitions have the same to do.
pub struct Servers {
    pub source: PostgresServer,
    pub output: PostgresServer,
}

impl Servers {
    /// Starts both.
    pub fn start() -> Self {
        let options = || {
            ServerOptions::default()
                .set("fsync", "on")
                .set("full_page_writes", "on")
                .set("shared_buffers", "256MB")
                .set("max_wal_size", "16GB")
                .set("checkpoint_timeout", "1h")
                .set("autovacuum", "off")
                .set("max_logical_replication_workers", "8")
                // A subscription that is enabled begins at once, not after five seconds.
                .set("wal_retrieve_retry_interval", "50ms")
        };
        Servers { source: private_server(options()), output: private_output(options()) }
    }
}

impl Servers {
    /// A client program that came with the source's server, if it did: some packages bring none.
    pub fn client_program(&self, name: &str) -> Option<PathBuf> {
        let binaries = self.source.binaries();
        let beside = |path: PathBuf| path.parent().map(|folder| folder.join(name));
        // Where the server's programs are links, the client's are where these lead to.
        let real = binaries.program("postgres").canonicalize().ok().and_then(beside);
        [Some(binaries.program(name)), real].into_iter().flatten().find(|path| path.is_file())
    }
}

/// One scenario's databases: the source, an output for trucker, an output for native replication.
pub struct World {
    pub source: Database,
    pub trucker_output: Database,
    pub native_output: Database,
    pub name: String,
    folder: TempDir,
}

impl World {
    /// With the same tables everywhere.
    pub fn new(servers: &Servers, tables: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("bench_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let output = servers.output.port();
        let world = World {
            source: Database::create(servers.source.port(), &format!("{name}_source")),
            trucker_output: Database::create(output, &format!("{name}_trucker")),
            native_output: Database::create(output, &format!("{name}_native")),
            folder: tempfile::Builder::new()
                .prefix("trucker-bench-")
                .tempdir()
                .expect("a folder can be made"),
            name,
        };
        for database in [&world.source, &world.trucker_output, &world.native_output] {
            database.execute(tables);
        }
        world.lead_output_to(output);
        world
    }

    /// Where trucker reaches its output: the server's port, or a proxy's.
    pub fn lead_output_to(&self, port: u16) {
        self.connect_to(&connection("output", port, &self.trucker_output.name));
    }

    /// Trucker's output is that database of ClickHouse.
    pub fn lead_output_into(&self, database: &ClickHouseDatabase) {
        self.connect_to(&database.connection("output"));
    }

    fn connect_to(&self, output: &str) {
        let source = connection("source", self.source.port, &self.source.name);
        self.write("trucker.yml", &format!("name: {}\nconnections:\n{source}{output}", self.name));
    }

    /// A pipeline from a table to one of the same name, with SQL files and further lines for `output:`.
    pub fn pipeline(&self, table: &str, more: &[&str], files: &[(&str, &str)]) {
        let mut text = format!(
            "input: {{connection: source, table: {table}}}\noutput:\n  connection: output\n  table: {table}\n"
        );
        more.iter().for_each(|line| text += &format!("  {line}\n"));
        self.write(&format!("{table}/config.yml"), &text);
        files.iter().for_each(|(file, sql)| self.write(&format!("{table}/{file}"), sql));
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.dir().join(path);
        fs::create_dir_all(path.parent().expect("it is in the project")).expect("a folder can be made");
        fs::write(path, text).expect("a file can be written");
    }

    /// The project.
    pub fn dir(&self) -> PathBuf {
        self.folder.path().join("project")
    }

    /// Where the program's output goes.
    pub fn logs(&self) -> PathBuf {
        let path = self.folder.path().join("logs");
        fs::create_dir_all(&path).expect("a folder can be made");
        path
    }
}

fn connection(name: &str, port: u16, database: &str) -> String {
    format!(
        "  - {{name: {name}, adapter: postgres, host: 127.0.0.1, port: {port}, database: {database}, \
         user: {}, sslmode: disable}}\n",
        PostgresServer::SUPERUSER
    )
}

impl Drop for World {
    fn drop(&mut self) {
        let slots = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
                     WHERE database = current_database() AND NOT active";
        let _ = self.source.try_rows(slots);
        for database in [&self.source, &self.trucker_output, &self.native_output] {
            database.drop_quietly();
        }
    }
}
