//! One throwaway Postgres server: initdb, start, stop, kill, log. Speaks to it through its own programs and
//! files only; who wants SQL connects to its port.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::folder::Folder;
use super::{Binaries, SandboxError};

/// A start may have to recover, a fast stop waits for the walsenders.
const PATIENCE: Duration = Duration::from_secs(60);

/// Many tests or pipelines share a server, nothing has to survive the machine, and the ports belong to us.
const SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", "127.0.0.1"),
    ("wal_level", "logical"),
    ("fsync", "off"),
    ("synchronous_commit", "on"),
    ("full_page_writes", "off"),
    ("max_connections", "200"),
    ("max_wal_senders", "50"),
    ("max_replication_slots", "50"),
    ("shared_buffers", "64MB"),
    ("max_wal_size", "2GB"),
    ("log_line_prefix", "%m [%p] %d "),
];

/// What a server should be like. The default is the newest version found, trust on loopback, and
/// `wal_level=logical`.
#[derive(Debug, Clone, Default)]
pub struct ServerOptions {
    /// Settings of postgresql.conf that replace ours or come in addition.
    pub settings: Vec<(String, String)>,
    /// Lines of pg_hba.conf; with none, everybody on this machine is trusted.
    pub hba: Vec<String>,
    /// Password of the superuser.
    pub password: Option<String>,
    /// Folder of the server's programs; None looks for them.
    pub bin_dir: Option<PathBuf>,
    /// Major version to look for.
    pub major: Option<u32>,
    /// Made by an initdb of its own: others of this process have one system identifier.
    pub is_distinct: bool,
}

impl ServerOptions {
    /// Adds a setting of postgresql.conf.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// How a standby is made: the settings beside those of any server.
const STANDBY_SETTINGS: &[(&str, &str)] =
    &[("hot_standby_feedback", "on"), ("wal_retrieve_retry_interval", "100ms")];

/// How a server is told to stop, as pg_ctl names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Ends sessions, writes a checkpoint.
    Fast,
    /// Drops everything, as a crash would; the next start recovers.
    Immediate,
}

/// A server of our own, listening at 127.0.0.1 and at a Unix socket. Dropped, it is stopped and its data
/// removed; so it is when this process dies.
#[derive(Debug)]
pub struct PostgresServer {
    binaries: Binaries,
    port: u16,
    child: Option<Child>,
    folder: Folder,
}

impl PostgresServer {
    /// Name of the superuser.
    pub const SUPERUSER: &str = "postgres";

    /// Makes a server and waits until it takes connections.
    pub fn start(options: &ServerOptions) -> Result<Self, SandboxError> {
        let binaries = match &options.bin_dir {
            Some(dir) => Binaries::in_dir(dir).ok_or_else(|| SandboxError::NoBinaries {
                wanted: format!(" in {}, which was asked for", dir.display()),
            })?,
            None => Binaries::find(options.major)?,
        };
        let folder = Folder::create()?;
        if options.is_distinct {
            init(&binaries, &folder)?;
        } else {
            let data = template_of(&binaries)?.path().join("data");
            run("cp", folder.command(Path::new("cp")).arg("-R").arg(data).arg(folder.path()))?;
        }
        let mut server = PostgresServer { binaries, port: free_port(), child: None, folder };
        server.configure(options)?;
        server.start_again()?;
        Ok(server)
    }

    /// Makes a standby of this server, which is stopped for a moment: its data folder is copied. The standby follows by
    /// streaming and takes connections; `primary_slot_name` and more are the options' to set.
    pub fn start_standby(&mut self, options: &ServerOptions) -> Result<Self, SandboxError> {
        self.stop(StopMode::Fast)?;
        let copied = self.copy();
        self.start_again()?;
        let mut standby = copied?;
        let primary = format!("host=127.0.0.1 port={} user={} dbname=postgres", self.port, Self::SUPERUSER);
        let mut of_standby = ServerOptions { password: None, ..options.clone() };
        let settings = STANDBY_SETTINGS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let settings = settings.chain([("primary_conninfo".to_owned(), primary)]);
        of_standby.settings = settings.chain(options.settings.iter().cloned()).collect();
        standby.configure(&of_standby)?;
        standby.folder.write("data/standby.signal", "")?;
        standby.start_again()?;
        Ok(standby)
    }

    /// A server with a copy of this one's data, but for its replication slots, not started yet.
    fn copy(&self) -> Result<Self, SandboxError> {
        let folder = Folder::create()?;
        let copy = |command: &mut Command| run("cp", command);
        copy(folder.command(Path::new("cp")).arg("-R").arg(self.data_dir()).arg(folder.path()))?;
        let server =
            PostgresServer { binaries: self.binaries.clone(), port: free_port(), child: None, folder };
        let slots = server.data_dir().join("pg_replslot");
        let entries = fs::read_dir(&slots).map_err(SandboxError::io("cannot read", &slots))?;
        for slot in entries.flatten() {
            fs::remove_dir_all(slot.path()).map_err(SandboxError::io("cannot remove", slot.path()))?;
        }
        Ok(server)
    }

    /// Makes a standby a primary, and waits until it is.
    pub fn promote(&self) -> Result<(), SandboxError> {
        let seconds = PATIENCE.as_secs().to_string();
        run("pg_ctl promote", self.pg_ctl().args(["promote", "-w", "-t", &seconds]))
    }

    /// TCP port at 127.0.0.1; stays the same for the server's life.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Folder of the Unix socket, which may be given as a host.
    pub fn socket_dir(&self) -> &Path {
        self.folder.path()
    }

    /// The data folder.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The programs that it runs from.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// All that the server has logged since it was made.
    pub fn log_text(&self) -> String {
        fs::read(self.log_path())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Appends a setting to postgresql.conf; it holds from the next start, or the next [`Self::reload`].
    pub fn set(&self, name: &str, value: &str) -> Result<(), SandboxError> {
        let path = self.data_dir().join("postgresql.conf");
        OpenOptions::new()
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(setting(name, value).as_bytes()))
            .map_err(SandboxError::io("cannot write", path))
    }

    /// Has the server read its configuration again.
    pub fn reload(&self) -> Result<(), SandboxError> {
        run("pg_ctl reload", self.pg_ctl().arg("reload"))
    }

    /// Starts the server after a stop or a kill, on the same port and data, and waits until it takes
    /// connections.
    pub fn start_again(&mut self) -> Result<(), SandboxError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut child = self.spawn()?;
            let ready = self.wait_until_ready(&mut child, deadline);
            match ready {
                Ok(true) => {
                    self.child = Some(child);
                    return Ok(());
                }
                // After a kill the old backends may hold the shared memory for another moment.
                Ok(false) if Instant::now() < deadline => thread::sleep(Duration::from_millis(200)),
                Ok(false) => return Err(self.timeout("start")),
                Err(error) => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(error);
                }
            }
        }
    }

    /// Stops the server and waits until it has.
    pub fn stop(&mut self, mode: StopMode) -> Result<(), SandboxError> {
        let mode = match mode {
            StopMode::Fast => "fast",
            StopMode::Immediate => "immediate",
        };
        let seconds = PATIENCE.as_secs().to_string();
        // Asked first, reaped after: pg_ctl waits for the pid file to go, not for the process.
        run("pg_ctl stop", self.pg_ctl().args(["stop", "-w", "-m", mode, "-t", &seconds]))?;
        self.reap();
        Ok(())
    }

    /// Stops and starts the server.
    pub fn restart(&mut self, mode: StopMode) -> Result<(), SandboxError> {
        self.stop(mode)?;
        self.start_again()
    }

    /// SIGKILL to the postmaster; its children end themselves when they notice.
    pub fn kill9(&mut self) {
        if let Some(child) = &mut self.child {
            // Fails only where the process is gone, which is what was wanted.
            let _ = child.kill();
        }
        self.reap();
    }

    fn configure(&self, options: &ServerOptions) -> Result<(), SandboxError> {
        let mut text = setting("port", &self.port.to_string());
        text += &setting("unix_socket_directories", &self.folder.path().to_string_lossy());
        SETTINGS.iter().for_each(|(name, value)| text += &setting(name, value));
        options.settings.iter().for_each(|(name, value)| text += &setting(name, value));
        self.folder.write("data/postgresql.conf", &text)?;
        if !options.hba.is_empty() {
            self.folder.write("data/pg_hba.conf", &(options.hba.join("\n") + "\n"))?;
        }
        match &options.password {
            Some(password) => self.set_password(password),
            None => Ok(()),
        }
    }

    /// Through single-user mode, which needs neither a client nor a running server.
    fn set_password(&self, password: &str) -> Result<(), SandboxError> {
        let sql = format!("ALTER ROLE {} PASSWORD '{}'\n", Self::SUPERUSER, password.replace('\'', "''"));
        let mut child = self
            .folder
            .command(&self.binaries.program("postgres"))
            .args(["--single", "-D"])
            .arg(self.data_dir())
            .arg("postgres")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(SandboxError::io("cannot run", self.binaries.program("postgres")))?;
        let mut stdin = child.stdin.take().expect("stdin was asked for above");
        stdin.write_all(sql.as_bytes()).map_err(SandboxError::io("cannot speak to", self.data_dir()))?;
        drop(stdin);
        let status = child.wait().map_err(SandboxError::io("cannot wait for", self.data_dir()))?;
        match status.success() {
            true => Ok(()),
            false => Err(SandboxError::Program {
                program: "postgres --single",
                output: "could not set the superuser's password".to_owned(),
            }),
        }
    }

    fn spawn(&self) -> Result<Child, SandboxError> {
        let path = self.log_path();
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|file| Ok((file.try_clone()?, file)))
            .map_err(SandboxError::io("cannot write", &path));
        let (stdout, stderr): (File, File) = log?;
        let program = self.binaries.program("postgres");
        self.folder
            .command(&program)
            .arg("-D")
            .arg(self.data_dir())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .map_err(SandboxError::io("cannot run", program))
    }

    /// False if the server gave up.
    fn wait_until_ready(&self, child: &mut Child, deadline: Instant) -> Result<bool, SandboxError> {
        let pid_file = self.data_dir().join("postmaster.pid");
        let pid = child.id().to_string();
        while Instant::now() < deadline {
            if child.try_wait().map_err(SandboxError::io("cannot wait for", &pid_file))?.is_some() {
                return Ok(false);
            }
            // Line 1 is the pid, line 8 the state.
            let text = fs::read_to_string(&pid_file).unwrap_or_default();
            let lines: Vec<&str> = text.lines().map(str::trim).collect();
            if lines.first() == Some(&pid.as_str()) && matches!(lines.get(7), Some(&"ready" | &"standby")) {
                return Ok(true);
            }
            thread::sleep(Duration::from_millis(10));
        }
        Err(self.timeout("start"))
    }

    fn reap(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }

    fn pg_ctl(&self) -> Command {
        let mut command = self.folder.command(&self.binaries.program("pg_ctl"));
        command.arg("-D").arg(self.data_dir());
        command
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn timeout(&self, action: &'static str) -> SandboxError {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        let log = lines[lines.len().saturating_sub(15)..].join("\n");
        SandboxError::Timeout { action, seconds: PATIENCE.as_secs(), log }
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        if self.child.is_some() && self.stop(StopMode::Immediate).is_err() {
            self.kill9();
        }
    }
}

fn init(binaries: &Binaries, folder: &Folder) -> Result<(), SandboxError> {
    run(
        "initdb",
        folder
            .command(&binaries.program("initdb"))
            .args(["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--username"])
            .arg(PostgresServer::SUPERUSER)
            .arg("--pgdata")
            .arg(folder.path().join("data")),
    )
}

/// A data folder fresh from initdb, made once for each process and version: copying it takes a fraction of
/// initdb's time.
fn template_of(binaries: &Binaries) -> Result<Arc<Folder>, SandboxError> {
    static TEMPLATES: OnceLock<Mutex<HashMap<Binaries, Arc<Folder>>>> = OnceLock::new();
    let templates = TEMPLATES.get_or_init(Mutex::default);
    let mut templates = templates.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(template) = templates.get(binaries) {
        return Ok(template.clone());
    }
    let folder = Folder::create()?;
    init(binaries, &folder)?;
    let folder = Arc::new(folder);
    templates.insert(binaries.clone(), folder.clone());
    Ok(folder)
}

/// A port that nobody listens at, below the range from which the system gives ports to clients: between a
/// stop and the next start nobody gets it by chance.
fn free_port() -> u16 {
    let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id());
    let start = (seed % 12_000) as u16;
    (0..12_000)
        .map(|n| 20_000 + (start + n) % 12_000)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .unwrap_or(0)
}

fn setting(name: &str, value: &str) -> String {
    format!("{name} = '{}'\n", value.replace('\'', "''"))
}

fn run(program: &'static str, command: &mut Command) -> Result<(), SandboxError> {
    let output = command.output().map_err(SandboxError::io("cannot run", program))?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(SandboxError::Program { program, output: String::from_utf8_lossy(&text).trim().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_quoted() {
        assert_eq!(setting("a.b", "it's"), "a.b = 'it''s'\n");
    }

    #[test]
    fn a_server_starts_restarts_survives_a_kill_and_leaves_nothing_behind() {
        let options = ServerOptions { password: Some("it's".to_owned()), ..ServerOptions::default() };
        let mut server = PostgresServer::start(&options.set("work_mem", "5MB")).unwrap();
        let connects = |port| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        assert!(connects(server.port()));
        server.restart(StopMode::Fast).unwrap();
        server.restart(StopMode::Immediate).unwrap();
        server.kill9();
        server.start_again().unwrap();
        assert!(connects(server.port()));
        let (port, dir) = (server.port(), server.socket_dir().to_owned());
        drop(server);
        assert!(!connects(port));
        assert!(!dir.exists());
    }
}
