//! The program under test as a process: started, watched, signalled, killed, and what it printed.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::poll::{PATIENCE, eventually};

/// A process that has ended.
#[derive(Debug)]
pub struct Finished {
    /// Exit code; None after a signal.
    pub code: Option<i32>,
    /// Results.
    pub stdout: String,
    /// Narration.
    pub stderr: String,
}

impl Finished {
    /// Both outputs, for searching.
    pub fn text(&self) -> String {
        format!("{}\n{}", self.stdout, self.stderr)
    }
}

/// A running process; killed when dropped.
pub struct Trucker {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Trucker {
    /// Starts `trucker ARGS`, with its output in files in `logs`.
    pub fn start(logs: &Path, args: &[&str], variables: &[(String, String)]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let (stdout, stderr) = (logs.join(format!("{number}.out")), logs.join(format!("{number}.err")));
        let mut command = Command::new(env!("CARGO_BIN_EXE_trucker"));
        command.args(args).envs(variables.iter().map(|(name, value)| (name, value)));
        command.env("NO_COLOR", "1").stdin(std::process::Stdio::null());
        command.stdout(fs::File::create(&stdout).unwrap()).stderr(fs::File::create(&stderr).unwrap());
        Trucker { child: command.spawn().unwrap(), stdout, stderr }
    }

    /// What it has printed to stderr.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stderr).unwrap_or_default()).into_owned()
    }

    /// Process number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for the condition; panics with what the program printed where it doesn't come true.
    #[track_caller]
    pub fn until(&mut self, what: &str, mut condition: impl FnMut() -> bool) {
        let mut is_running = true;
        let came_true = eventually(PATIENCE, || {
            is_running = self.is_running();
            condition() || !is_running
        });
        let ended = if is_running { "" } else { " (trucker has ended)" };
        assert!(
            came_true && (is_running || condition()),
            "never happened{ended}: {what}\n--- trucker's stderr\n{}",
            tail(&self.stderr())
        );
    }

    /// Waits until stderr contains the text.
    #[track_caller]
    pub fn until_said(&mut self, text: &str) {
        let path = self.stderr.clone();
        self.until(&format!("saying {text:?}"), || {
            String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).contains(text)
        });
    }

    /// Waits until stdout contains the text.
    #[track_caller]
    pub fn until_printed(&mut self, text: &str) {
        let path = self.stdout.clone();
        self.until(&format!("printing {text:?}"), || {
            String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).contains(text)
        });
    }

    /// Answers what it serves at the path: status and body. Waits for it to say where it listens.
    #[track_caller]
    pub fn get(&mut self, path: &str) -> (u16, String) {
        let (status, _, body) = self.request("GET", path);
        (status, body)
    }

    /// The same for any method, with the head of the answer.
    #[track_caller]
    pub fn request(&mut self, method: &str, path: &str) -> (u16, String, String) {
        let host = self.address();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let mut stream = std::net::TcpStream::connect(&host).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("it has a status");
        (status, head.to_owned(), body.to_owned())
    }

    /// Where it listens; waits for it to say so.
    #[track_caller]
    pub fn address(&mut self) -> String {
        self.until_said("\"listening\"");
        let stderr = self.stderr();
        let line = stderr.lines().find(|line| line.contains("\"listening\"")).unwrap();
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["address"].as_str().unwrap().to_owned()
    }

    /// `/status`, read.
    #[track_caller]
    pub fn status(&mut self) -> serde_json::Value {
        serde_json::from_str(&self.get("/status").1).unwrap()
    }

    /// Sends a signal by name: `TERM`, `INT`, `STOP`, `CONT`.
    pub fn signal(&self, name: &str) {
        let status =
            Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status().unwrap();
        assert!(status.success(), "could not send SIG{name}");
    }

    /// SIGKILL, and the end of it.
    pub fn kill9(mut self) -> Finished {
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        self.finished(status)
    }

    /// SIGTERM; has to end by itself, with exit code 0.
    #[track_caller]
    pub fn terminate(self) -> Finished {
        self.signal("TERM");
        let finished = self.wait();
        assert_eq!(finished.code, Some(0), "after SIGTERM\n{}", tail(&finished.stderr));
        finished
    }

    /// Waits until a pipeline has failed, which leaves the process running, or the process has ended; ends it.
    #[track_caller]
    pub fn end_failed(mut self) -> Finished {
        let has_failed = eventually(PATIENCE, || {
            !self.is_running() || self.stderr().contains(r#""event":"pipeline_failed""#)
        });
        assert!(has_failed, "nothing fails\n--- trucker's stderr\n{}", tail(&self.stderr()));
        if self.is_running() {
            self.signal("TERM");
        }
        self.wait()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(self) -> Finished {
        self.wait_for(3 * PATIENCE)
    }

    /// Waits for its end that long.
    #[track_caller]
    pub fn wait_for(mut self, time: Duration) -> Finished {
        let ended = eventually(time, || !self.is_running());
        assert!(ended, "trucker does not end\n--- its stderr\n{}", tail(&self.stderr()));
        let status = self.child.wait().unwrap();
        self.finished(status)
    }

    /// The highest resident size so far, in KiB, of one that runs.
    pub fn peak_memory_kib(&self) -> u64 {
        self.peak_memory_if_running().expect("it runs")
    }

    /// The same; None once it has ended.
    pub fn peak_memory_if_running(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
        Some(line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number of kB"))
    }

    fn finished(&self, status: ExitStatus) -> Finished {
        let stdout = String::from_utf8_lossy(&fs::read(&self.stdout).unwrap()).into_owned();
        Finished { code: status.code(), stdout, stderr: self.stderr() }
    }
}

impl Drop for Trucker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The end of a long text.
pub fn tail(text: &str) -> &str {
    let start = text.len().saturating_sub(6000);
    let start = (start..text.len()).find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    &text[start..]
}
