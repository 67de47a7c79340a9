//! One seed's world: two servers of its own, proxies before both, a project that knows only the proxies; and the crew, that is
//! the process under test and whoever takes its place.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use trucker::sandbox::{PostgresServer, ServerOptions};

use super::clock::Clock;
use super::faults::{Side, wait};
use super::harness::{PATIENCE, Scenario, Trucker, eventually, private_server};
use super::oracle;
use super::plan::Plan;
use super::proxy::{Proxy, Traffic};

/// See the module.
pub struct World {
    /// Databases and project.
    pub s: Scenario,
    /// Before the source.
    pub to_source: Proxy,
    /// Before the output.
    pub to_output: Proxy,
    /// The program's.
    pub clock: Clock,
    source: PostgresServer,
    output: PostgresServer,
}

impl World {
    /// Servers, tables, project.
    pub fn make(plan: &Plan) -> Self {
        let server = || private_server(ServerOptions::default().set("wal_sender_timeout", "20s"));
        let (source, output) = (server(), server());
        let s = Scenario::between(source.port(), output.port());
        let (to_source, to_output) = (Proxy::start(source.port()), Proxy::start(output.port()));
        s.source.execute(oracle::SETUP);
        for table in &plan.tables {
            s.source.execute(&table.create_sql());
        }
        for pipeline in &plan.pipelines {
            let table = &plan.tables[pipeline.table];
            s.output.execute(&pipeline.output_sql(table));
            let files = pipeline.files(table);
            let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
            s.write_pipeline(&pipeline.name, &pipeline.config(table), &files);
        }
        let yml = fs::read_to_string(s.dir().join("trucker.yml")).unwrap();
        let through =
            |yml: String, from: u16, to: u16| yml.replace(&format!("port: {from}"), &format!("port: {to}"));
        let yml = through(through(yml, source.port(), to_source.port), output.port(), to_output.port);
        s.file("trucker.yml", &yml);
        let clock = Clock::new(&s.logs());
        World { s, to_source, to_output, clock, source, output }
    }

    /// A server, to hurt it.
    pub fn server(&mut self, side: Side) -> &mut PostgresServer {
        match side {
            Side::Source => &mut self.source,
            Side::Output => &mut self.output,
        }
    }

    /// What is before it.
    pub fn proxy(&self, side: Side) -> &Proxy {
        match side {
            Side::Source => &self.to_source,
            Side::Output => &self.to_output,
        }
    }

    /// Calls a function for each of the program's sessions there.
    pub fn signal_sessions(&self, side: Side, function: &str) {
        let database = match side {
            Side::Source => &self.s.source,
            Side::Output => &self.s.output,
        };
        let sql = format!("SELECT {function}(pid) FROM pg_stat_activity WHERE application_name = 'trucker'");
        database.try_rows(&sql).ok();
    }

    /// Keeps all that there is to look at, and says where.
    pub fn keep(&self, seed: u64) -> PathBuf {
        let logs = [("source", self.source.log_text()), ("output", self.output.log_text())];
        keep(&self.s, &format!("fault-{seed}"), &logs)
    }
}

/// The process under test.
pub struct Crew {
    logs: PathBuf,
    dir: PathBuf,
    variables: Vec<(String, String)>,
    working: Option<Trucker>,
    /// A process was replaced by another, and woke up.
    had_zombie: bool,
    /// What processes that are gone have said that they must not.
    pub complaints: Vec<String>,
    /// How many were started.
    pub started: u64,
}

impl Crew {
    /// Nobody works yet.
    pub fn of(s: &Scenario, clock: &Clock) -> Self {
        Crew {
            logs: s.logs(),
            dir: s.dir(),
            variables: clock.variables(),
            working: None,
            had_zombie: false,
            complaints: Vec::new(),
            started: 0,
        }
    }

    fn start(&mut self, more: &[(String, String)]) -> Trucker {
        self.started += 1;
        let variables = [&self.variables[..], more].concat();
        Trucker::start(&self.logs, &["run", self.dir.to_str().unwrap(), "--http", "127.0.0.1:0"], &variables)
    }

    /// Sees that somebody works. A start while a server is down fails, as it should; so it is tried again.
    pub fn work(&mut self) {
        if let Some(mut process) = self.working.take() {
            if process.is_running() {
                self.working = Some(process);
                return;
            }
            let finished = process.wait();
            if matches!(finished.code, Some(1 | 3)) {
                self.complaints.push(format!("it ended by itself: {}", finished.stderr));
            }
            self.hear(&finished.stderr, false);
        }
        self.working = Some(self.start(&[]));
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(process) = self.working.take() {
            let finished = process.kill9();
            self.hear(&finished.stderr, false);
        }
    }

    /// SIGTERM; has to end within its grace.
    pub fn terminate(&mut self) {
        let Some(mut process) = self.working.take() else { return };
        if process.is_running() {
            process.signal("TERM");
        }
        let finished = process.wait_for(PATIENCE);
        self.hear(&finished.stderr, false);
    }

    /// A process that dies at that place, if it comes there soon.
    pub fn die_at(&mut self, failpoint: &str, count: u64) {
        self.kill();
        let mut process = self.start(&[("TRUCKER_FAILPOINT".to_owned(), format!("{failpoint}:{count}"))]);
        eventually(Duration::from_secs(3), || !process.is_running());
        self.working = Some(process);
        self.kill();
    }

    /// SIGSTOP for a while.
    pub fn pause(&mut self, ms: u64) {
        if let Some(process) = self.working.as_mut()
            && process.is_running()
        {
            process.signal("STOP");
            wait(ms);
            process.signal("CONT");
        }
    }

    /// A process stops, the servers lose it, another takes over, the first wakes up.
    pub fn take_over(&mut self, proxies: [&Proxy; 2], ms: u64) {
        let Some(mut zombie) = self.working.take() else { return };
        if !zombie.is_running() {
            self.working = Some(zombie);
            return;
        }
        zombie.signal("STOP");
        proxies.iter().for_each(|proxy| proxy.cut(Traffic::All));
        let mut heir = self.start(&[]);
        eventually(Duration::from_secs(4), || heir.stderr().contains("\"running\"") || !heir.is_running());
        zombie.signal("CONT");
        wait(ms);
        self.working = Some(heir);
        let finished = zombie.kill9();
        self.hear(&finished.stderr, true);
    }

    /// Nothing that breaks is a reason to give up a pipeline; but for a process whose place was taken. One that wakes up while it
    /// claims a pipeline may take it from its heir.
    fn hear(&mut self, stderr: &str, was_replaced: bool) {
        self.had_zombie |= was_replaced;
        let is_bad = |line: &&str| {
            let gives_up = ["pipeline_failed", "source_failed"].iter().any(|event| line.contains(event))
                && !(self.had_zombie && line.contains("TRK0902"));
            line.contains("panicked") || line.contains("\"bug\"") || gives_up && !was_replaced
        };
        let bad: Vec<String> = stderr.lines().filter(is_bad).map(str::to_owned).collect();
        self.complaints.extend(bad);
    }

    /// What the one at work has said so far.
    pub fn stderr(&self) -> String {
        self.working.as_ref().map(Trucker::stderr).unwrap_or_default()
    }
}

/// Keeps a project with its logs, and those of servers by their names; where.
pub fn keep(s: &Scenario, name: &str, logs: &[(&str, String)]) -> PathBuf {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::remove_dir_all(&kept).ok();
    fs::create_dir_all(&kept).unwrap();
    for folder in [s.logs(), s.dir()] {
        Command::new("cp").arg("-R").arg(folder).arg(&kept).status().ok();
    }
    for (server, log) in logs {
        fs::write(kept.join(format!("{server}.log")), log).ok();
    }
    kept
}
