//! ClickHouse servers and databases: started, killed, spoken to over HTTP as text. Knows no rule that a test proves.
//! TRUCKER_CLICKHOUSE_URL names an existing server for all but those tests that hurt theirs; TRUCKER_CLICKHOUSE is another
//! version that `scripts/ensure-clickhouse` has installed (`make test-clickhouse-versions`).

use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;
use trucker::config::{ClickHouseConnection, Secret, SslMode};

use super::Row;
use super::poll::{PATIENCE, eventually};

const VERSION: &str = "26.9.0";
/// Beside `default`, who has no password. The password holds what a URL or a header could trip over.
const USER: &str = "trucker";
const PASSWORD: &str = "se cret:%/ü\"";

/// A server, of which the process may be ours.
pub struct ClickHouseServer {
    host: String,
    port: u16,
    user: String,
    password: String,
    process: Option<Process>,
}

struct Process {
    folder: TempDir,
    users: Vec<String>,
    child: Child,
}

/// The server that all tests share.
pub fn clickhouse_server() -> &'static ClickHouseServer {
    static SERVER: OnceLock<ClickHouseServer> = OnceLock::new();
    SERVER.get_or_init(|| match env::var("TRUCKER_CLICKHOUSE_URL") {
        Ok(url) => ClickHouseServer::at(&url),
        Err(_) => ClickHouseServer::start(&[]),
    })
}

impl ClickHouseServer {
    /// One of `http://user:password@host:port`.
    fn at(url: &str) -> Self {
        let parts = url.strip_prefix("http://").and_then(|rest| {
            let (login, address) = rest.trim_end_matches('/').rsplit_once('@').unwrap_or(("default:", rest));
            let (user, password) = login.split_once(':')?;
            let (host, port) = address.trim_end_matches('/').rsplit_once(':')?;
            Some((user, password, host, port.parse().ok()?))
        });
        let (user, password, host, port) =
            parts.expect("TRUCKER_CLICKHOUSE_URL is like http://user:password@host:8123");
        let [user, password, host] = [user, password, host].map(str::to_owned);
        ClickHouseServer { host, port, user, password, process: None }
    }

    /// Whether one can be started.
    pub fn is_installed() -> bool {
        home().join("complete").exists()
    }

    /// A server for one test, with further users as `scripts/clickhouse-server` takes them.
    pub fn start(users: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("trucker-clickhouse-").tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut users: Vec<String> = users.iter().map(|user| (*user).to_owned()).collect();
        let encoded: String = PASSWORD.bytes().map(|byte| format!("%{byte:02X}")).collect();
        users.push(format!("{USER}:{encoded}"));
        let child = spawn(folder.path(), port, &users);
        ClickHouseServer {
            host: "127.0.0.1".to_owned(),
            port,
            user: USER.to_owned(),
            password: PASSWORD.to_owned(),
            process: Some(Process { folder, users, child }),
        }
    }

    /// Port of its HTTP interface.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// SIGKILL.
    pub fn kill9(&mut self) {
        let process = self.process.as_mut().expect("the server is the test's own");
        process.child.kill().unwrap();
        process.child.wait().unwrap();
    }

    /// Starts it again where it was.
    pub fn start_again(&mut self) {
        let process = self.process.as_mut().expect("the server is the test's own");
        process.child = spawn(process.folder.path(), self.port, &process.users);
    }

    /// Sends a signal by name: `STOP`, `CONT`.
    pub fn signal(&self, name: &str) {
        let pid = self.process.as_ref().expect("the server is the test's own").child.id();
        let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().unwrap();
        assert!(status.success(), "could not send SIG{name}");
    }

    /// A new database in it.
    pub fn database(&self) -> ClickHouseDatabase {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("trucker_{}_{number}", std::process::id());
        let mut database = ClickHouseDatabase {
            url: format!("http://{}:{}/", self.host, self.port),
            host: self.host.clone(),
            port: self.port,
            user: self.user.clone(),
            password: self.password.clone(),
            name: "default".to_owned(),
        };
        database.execute(&format!("CREATE DATABASE {name}"));
        database.name = name;
        database
    }
}

impl Drop for ClickHouseServer {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }
}

fn version() -> String {
    env::var("TRUCKER_CLICKHOUSE").unwrap_or_else(|_| VERSION.to_owned())
}

fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clickhouse").join(version())
}

/// The Python that has the engine. Its absence is a failure that says how to get it: nothing is skipped.
fn python() -> PathBuf {
    let (home, version) = (home(), version());
    assert!(
        ClickHouseServer::is_installed(),
        "no ClickHouse for the tests: run scripts/ensure-clickhouse {version} (make test does), \
         or name a server in TRUCKER_CLICKHOUSE_URL"
    );
    home.join("bin/python")
}

/// The server lives as long as the pipe to its stdin: no longer than this process.
fn spawn(folder: &Path, port: u16, users: &[String]) -> Child {
    let mut command = Command::new(python());
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/clickhouse-server"));
    command.arg("--data").arg(folder).arg("--throwaway").arg("--http-port").arg(port.to_string());
    users.iter().for_each(|user| _ = command.args(["--user", user]));
    let log = folder.join("stderr.log");
    command.stderr(File::create(&log).unwrap());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let stdout = BufReader::new(child.stdout.take().expect("it is a pipe"));
    // Its first lines may be the engine's.
    let is_ready = stdout.lines().map_while(Result::ok).any(|line| line == "ready");
    assert!(is_ready, "the ClickHouse server did not start: {}", fs::read_to_string(log).unwrap());
    child
}

/// A database that belongs to one test; dropped with it.
pub struct ClickHouseDatabase {
    url: String,
    host: String,
    port: u16,
    user: String,
    password: String,
    /// Its name.
    pub name: String,
}

impl ClickHouseDatabase {
    /// Its entry under `connections:`.
    pub fn connection(&self, name: &str) -> String {
        let pass = serde_json::to_string(&self.password).unwrap();
        format!(
            "  - name: {name}\n    adapter: clickhouse\n    host: {}\n    port: {}\n    database: {}\n    \
             user: {}\n    pass: {pass}\n",
            self.host, self.port, self.name, self.user
        )
    }

    /// The same for the driver by itself.
    pub fn driver(&self) -> ClickHouseConnection {
        ClickHouseConnection {
            name: "output".to_owned(),
            host: self.host.clone(),
            port: self.port,
            database: self.name.clone(),
            user: self.user.clone(),
            pass: Some(Secret::new(self.password.as_bytes())),
            sslmode: SslMode::Disable,
            ssl_root_cert: None,
            ssl_cert: None,
            ssl_key: None,
        }
    }

    /// Runs a statement with what belongs to it; what the server answers, or its words.
    pub fn send(&self, sql: &str, data: Vec<u8>) -> Result<Vec<u8>, String> {
        let request = ureq::post(&self.url)
            .config()
            .http_status_as_error(false)
            .build()
            .query("default_format", "JSONCompactStringsEachRow")
            .query("wait_end_of_query", "1")
            .query("database", &self.name)
            .query("user", &self.user)
            .query("password", &self.password);
        let response =
            if data.is_empty() { request.send(sql) } else { request.query("query", sql).send(&data[..]) };
        let mut response = response.map_err(|error| error.to_string())?;
        let answer = response.body_mut().with_config().limit(1 << 30).read_to_vec();
        let answer = answer.map_err(|error| error.to_string())?;
        if response.status() == 200 { Ok(answer) } else { Err(String::from_utf8_lossy(&answer).into_owned()) }
    }

    /// Runs a statement; its rows, or the server's words.
    pub fn try_rows(&self, sql: &str) -> Result<Vec<Row>, String> {
        let text = String::from_utf8(self.send(sql, Vec::new())?).map_err(|error| error.to_string())?;
        let row = |line: &str| {
            let values: Vec<Option<String>> = serde_json::from_str(line).expect("a list of texts");
            // What this format has for NULL.
            values.into_iter().map(|value| value.filter(|text| text != "ᴺᵁᴸᴸ")).collect()
        };
        Ok(text.lines().map(row).collect())
    }

    /// Runs a statement that must succeed; its rows.
    #[track_caller]
    pub fn rows(&self, sql: &str) -> Vec<Row> {
        self.try_rows(sql).unwrap_or_else(|error| panic!("{error}\nin: {sql}"))
    }

    /// Runs statements that must succeed, one after another: semicolons at ends of lines part them.
    #[track_caller]
    pub fn execute(&self, sql: &str) {
        sql.split(";\n").map(str::trim).filter(|sql| !sql.is_empty()).for_each(|sql| _ = self.rows(sql));
    }

    /// The only value of the only row; NULL as an empty text.
    #[track_caller]
    pub fn value(&self, sql: &str) -> String {
        let rows = self.rows(sql);
        assert!(rows.len() == 1 && rows[0].len() == 1, "not one value: {sql}: {rows:?}");
        rows[0][0].clone().unwrap_or_default()
    }

    /// Waits until a question has this answer.
    #[track_caller]
    pub fn until_value(&self, sql: &str, expected: &str) {
        let came = eventually(PATIENCE, || {
            self.try_rows(sql).is_ok_and(|rows| {
                rows.first().and_then(|row| row.first()).is_some_and(|v| v.as_deref() == Some(expected))
            })
        });
        assert!(came, "{sql} is never {expected}: {:?}", self.try_rows(sql));
    }
}

impl Drop for ClickHouseDatabase {
    fn drop(&mut self) {
        let _ = self.try_rows(&format!("DROP DATABASE IF EXISTS {}", self.name));
    }
}
