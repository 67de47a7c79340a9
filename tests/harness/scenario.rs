//! One test's world: a source database, an output database and a project folder between them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use super::Row;
use super::clickhouse::ClickHouseDatabase;
use super::database::{Database, Session, output_server, source_server};
use super::poll::{PATIENCE, eventually};
use super::process::{Finished, Trucker, tail};

/// The world; its slots and databases go away when it is dropped.
pub struct Scenario {
    /// Input of all pipelines: connection `source`.
    pub source: Database,
    /// Output of all pipelines: connection `output`.
    pub output: Database,
    /// `name:` of trucker.yml.
    pub name: String,
    folder: TempDir,
    variables: Vec<(String, String)>,
}

/// A pipeline's config file; `more` are further lines of `output:`, such as `key: [id]`.
pub fn config(input: &str, output: &str, more: &[&str]) -> String {
    let mut text = format!(
        "input:\n  connection: source\n  table: {input}\noutput:\n  connection: output\n  table: {output}\n"
    );
    more.iter().for_each(|line| text += &format!("  {line}\n"));
    text
}

impl Scenario {
    /// On the shared servers.
    pub fn new() -> Self {
        Scenario::between(source_server().port(), output_server().port())
    }

    /// On the servers with these ports.
    pub fn between(source: u16, output: u16) -> Self {
        let name = unique_name();
        let scenario = Scenario {
            source: Database::create(source, &format!("{name}_in")),
            output: Database::create(output, &format!("{name}_out")),
            name,
            folder: tempfile::Builder::new().prefix("trucker-test-").tempdir().unwrap(),
            variables: Vec::new(),
        };
        fs::create_dir(scenario.folder.path().join("logs")).unwrap();
        fs::create_dir(scenario.dir()).unwrap();
        let yml = format!(
            "name: {}\nconnections:\n{}{}",
            scenario.name,
            connection("source", &scenario.source),
            connection("output", &scenario.output)
        );
        scenario.file("trucker.yml", &yml);
        scenario
    }

    /// The same tables on both sides.
    pub fn tables(self, sql: &str) -> Self {
        self.source.execute(sql);
        self.output.execute(sql);
        self
    }

    /// SQL on the source.
    pub fn on_source(self, sql: &str) -> Self {
        self.source.execute(sql);
        self
    }

    /// SQL on the output.
    pub fn on_output(self, sql: &str) -> Self {
        self.output.execute(sql);
        self
    }

    /// A pipeline folder.
    pub fn pipeline(self, name: &str, config: &str, files: &[(&str, &str)]) -> Self {
        self.write_pipeline(name, config, files);
        self
    }

    /// A pipeline that copies a table to one of the same name.
    pub fn copies(self, table: &str) -> Self {
        self.pipeline(table, &config(table, table, &[]), &[])
    }

    /// The connection `output` is this ClickHouse.
    #[expect(clippy::wrong_self_convention, reason = "it reads as where the rows go")]
    pub fn to_clickhouse(self, database: &ClickHouseDatabase) -> Self {
        let yml = self.project_file();
        let start = yml.find("  - name: output").expect("it stands last");
        self.file("trucker.yml", &format!("{}{}", &yml[..start], database.connection("output")));
        self
    }

    /// A further key of the source's connection, as a line of YAML.
    pub fn source_key(self, line: &str) -> Self {
        let yml = self.project_file();
        self.file("trucker.yml", &yml.replacen("    sslmode", &format!("    {line}\n    sslmode"), 1));
        self
    }

    /// The source has a standby at this port.
    pub fn replica(self, port: u16) -> Self {
        self.source_key(&format!("replica_host: 127.0.0.1\n    replica_port: {port}"))
    }

    /// From now on another server is the source, and it has no standby.
    pub fn source_moves_to(&mut self, port: u16) {
        let yml =
            self.project_file().replacen(&format!("port: {}", self.source.port), &format!("port: {port}"), 1);
        let kept = yml.lines().filter(|line| !line.trim_start().starts_with("replica_"));
        self.file("trucker.yml", &kept.map(|line| format!("{line}\n")).collect::<String>());
        self.source.move_to(port);
    }

    /// What trucker.yml says.
    pub fn project_file(&self) -> String {
        fs::read_to_string(self.dir().join("trucker.yml")).unwrap()
    }

    /// An environment variable for the program.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A pipeline folder, later.
    pub fn write_pipeline(&self, name: &str, config: &str, files: &[(&str, &str)]) {
        self.file(&format!("{name}/config.yml"), config);
        files.iter().for_each(|(file, text)| self.file(&format!("{name}/{file}"), text));
    }

    /// Writes a file of the project.
    pub fn file(&self, path: &str, text: &str) {
        let path = self.dir().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// The project's folder.
    pub fn dir(&self) -> PathBuf {
        self.folder.path().join("project")
    }

    /// Where the output of its processes goes.
    pub fn logs(&self) -> PathBuf {
        self.folder.path().join("logs")
    }

    /// Name of the slot and of the publication.
    pub fn slot(&self) -> String {
        format!("trucker_{}", self.name)
    }

    /// Starts `trucker ARGS`.
    pub fn start(&self, args: &[&str]) -> Trucker {
        Trucker::start(&self.logs(), args, &self.variables)
    }

    /// Starts `trucker run`.
    pub fn run(&self) -> Trucker {
        let dir = self.dir();
        self.start(&["run", dir.to_str().unwrap(), "--http", "127.0.0.1:0"])
    }

    /// `trucker run --once` to its end, whatever that is.
    #[track_caller]
    pub fn run_once(&self) -> Finished {
        let dir = self.dir();
        self.start(&["run", dir.to_str().unwrap(), "--once", "--http", "off"]).wait()
    }

    /// `trucker run --once`, which must succeed: afterwards the output is caught up.
    #[track_caller]
    pub fn once(&self) -> Finished {
        let finished = self.run_once();
        assert_eq!(finished.code, Some(0), "trucker run --once\n{}", tail(&finished.text()));
        finished
    }

    /// `trucker run --once`, which must fail with this code; what it printed.
    #[track_caller]
    pub fn once_fails(&self, code: i32) -> String {
        let finished = self.run_once();
        assert_eq!(finished.code, Some(code), "trucker run --once\n{}", tail(&finished.text()));
        finished.text()
    }

    /// Both questions have the same answer now, in any order of rows.
    #[track_caller]
    pub fn assert_same(&self, on_source: &str, on_output: &str) {
        if let Some(text) = self.difference(on_source, on_output) {
            panic!("{text}");
        }
    }

    /// A table has the same rows on both sides.
    #[track_caller]
    pub fn assert_table_same(&self, table: &str) {
        let sql = format!("SELECT * FROM {table}");
        self.assert_same(&sql, &sql);
    }

    /// Waits until both questions have the same answer.
    #[track_caller]
    pub fn until_same(&self, trucker: &mut Trucker, on_source: &str, on_output: &str) {
        let is_same = || self.difference(on_source, on_output).is_none();
        if !eventually(PATIENCE, || is_same() || !trucker.is_running()) || !is_same() {
            let text = self.difference(on_source, on_output).unwrap_or_default();
            panic!("{text}\n--- trucker's stderr\n{}", tail(&trucker.stderr()));
        }
    }

    /// Waits until a table has the same rows on both sides.
    #[track_caller]
    pub fn until_table_same(&self, trucker: &mut Trucker, table: &str) {
        let sql = format!("SELECT * FROM {table}");
        self.until_same(trucker, &sql, &sql);
    }

    /// Waits until all pipelines follow the stream.
    #[track_caller]
    pub fn until_following(&self, trucker: &mut Trucker, pipelines: i64) {
        let sql = "SELECT count(*) FROM trucker.checkpoint WHERE phase = 'follow'";
        trucker.until("following", || {
            self.output.try_rows(sql).is_ok_and(|rows| rows[0][0].as_deref() == Some(&pipelines.to_string()))
        });
    }

    /// Nothing that trucker makes is on either server.
    #[track_caller]
    pub fn assert_nothing_created(&self) {
        let slot = self.slot();
        let count = |sql: &str| self.source.number(sql);
        assert_eq!(
            count(&format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name ~ '{slot}'")),
            0
        );
        assert_eq!(count("SELECT count(*) FROM pg_publication"), 0, "a publication was created");
        for database in [&self.source, &self.output] {
            let sql = "SELECT count(*) FROM pg_namespace WHERE nspname = 'trucker'";
            assert_eq!(database.number(sql), 0, "schema trucker was created in {}", database.name);
        }
    }

    /// How the answers differ, if they do.
    pub fn difference(&self, on_source: &str, on_output: &str) -> Option<String> {
        let wanted = count_rows(self.source.rows(on_source));
        let found = match self.output.try_rows(on_output) {
            Ok(rows) => count_rows(rows),
            Err(error) => return Some(format!("the output cannot be read: {error}")),
        };
        let mut lines = Vec::new();
        for (row, count) in &wanted {
            let seen = found.get(row).copied().unwrap_or(0);
            if seen < *count {
                lines.push(format!("  missing {}x: {}", count - seen, show(row)));
            }
        }
        for (row, count) in &found {
            let right = wanted.get(row).copied().unwrap_or(0);
            if right < *count {
                lines.push(format!("  too much {}x: {}", count - right, show(row)));
            }
        }
        let total = lines.len();
        lines.truncate(10);
        (total > 0)
            .then(|| format!("the output differs in {total} rows from {on_source}\n{}", lines.join("\n")))
    }
}

impl Drop for Scenario {
    /// A slot that is left would keep the shared source's WAL for ever.
    fn drop(&mut self) {
        if let Ok(session) = Session::try_connect(self.source.port, "postgres") {
            let mine = format!("FROM pg_replication_slots WHERE database = '{}'", self.source.name);
            let gone = eventually(PATIENCE / 4, || {
                let _ = session
                    .try_execute(&format!("SELECT pg_terminate_backend(active_pid) {mine} AND active"));
                let _ = session.try_execute(&format!("SELECT pg_drop_replication_slot(slot_name) {mine}"));
                session.try_rows(&format!("SELECT 1 {mine}")).map_or(true, |rows| rows.is_empty())
            });
            if !gone {
                eprintln!("a slot of {} is left", self.source.name);
            }
        }
        self.source.drop_quietly();
        self.output.drop_quietly();
    }
}

fn connection(name: &str, database: &Database) -> String {
    format!(
        "  - name: {name}\n    adapter: postgres\n    host: 127.0.0.1\n    port: {}\n    database: {}\n    \
         user: postgres\n    sslmode: disable\n",
        database.port, database.name
    )
}

/// From the test's own name, which its thread bears. Slots belong to a whole server.
fn unique_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("test").rsplit("::").next().unwrap_or("test").to_owned();
    let short: String = test.chars().take(30).collect();
    format!("t{}_{short}", COUNT.fetch_add(1, Ordering::Relaxed))
}

fn count_rows(rows: Vec<Row>) -> BTreeMap<Row, usize> {
    let mut counts = BTreeMap::new();
    rows.into_iter().for_each(|row| *counts.entry(row).or_default() += 1);
    counts
}

fn show(row: &Row) -> String {
    let cells: Vec<String> = row
        .iter()
        .map(|cell| match cell {
            None => "NULL".to_owned(),
            Some(text) if text.chars().count() > 60 => {
                format!("{:?}… ({} bytes)", text.chars().take(60).collect::<String>(), text.len())
            }
            Some(text) => format!("{text:?}"),
        })
        .collect();
    cells.join(", ")
}
