//! A run as it stands at one time: what every surface (metrics, status, page, terminal, log) is made from, so that they
//! never contradict each other. Serialized, it is `/status`; its fields are described in docs/metrics.md. Knows no
//! pipeline and no source: the engine fills it in.

use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

use crate::codes::Code;

/// Upper bounds of a histogram's buckets in seconds with how many are at or below, how many there are, and their sum.
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    /// Cumulative, as Prometheus wants them.
    pub buckets: Vec<(f64, u64)>,
    /// All.
    pub count: u64,
    /// In seconds.
    pub sum: f64,
}

/// A point in time, to the second, in UTC.
#[derive(Debug, Clone, Copy)]
pub struct Time(pub SystemTime);

impl Time {
    /// Seconds since 1970.
    pub fn unix_seconds(self) -> f64 {
        self.0.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
    }

    /// How long before `later` it was.
    pub fn before(self, later: Time) -> Duration {
        later.0.duration_since(self.0).unwrap_or_default()
    }
}

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", humantime::format_rfc3339_seconds(self.0))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What the process is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// It looks at its servers.
    Starting,
    /// Another process has the project.
    Standby,
    /// Its pipelines are at work.
    Running,
    /// It finishes what is under way.
    Stopping,
}

/// What a pipeline is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PipelineState {
    /// A person must mend something.
    Failed,
    /// Something failed that may pass.
    Retrying,
    /// It copies what is there.
    Backfilling,
    /// It is reaching for its databases.
    Connecting,
    /// It follows the stream.
    Following,
}

/// What a source's stream is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceState {
    /// It is being opened.
    Connecting,
    /// It is open.
    Streaming,
    /// No pipeline wants changes.
    Waiting,
    /// It broke, and is opened anew.
    Retrying,
    /// Only a person can help.
    Failed,
}

/// See the module.
#[derive(Debug, Clone, Serialize)]
pub struct Snapshot {
    /// The project's name.
    pub project: String,
    /// Of the program.
    pub version: &'static str,
    /// What the process is at.
    pub state: RunState,
    /// Whether `/readyz` says so.
    pub ready: bool,
    /// Whether none of the engine's tasks is stuck.
    #[serde(skip)]
    pub turns: bool,
    /// When the process began.
    pub started_at: Time,
    /// When this was seen.
    pub taken_at: Time,
    /// In the project's order.
    pub pipelines: Vec<PipelineSnapshot>,
    /// In the project's order.
    pub sources: Vec<SourceSnapshot>,
}

/// Changes by operation.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[allow(missing_docs, reason = "they are called what they are")]
pub struct Changes {
    pub insert: u64,
    pub update: u64,
    pub delete: u64,
    pub truncate: u64,
}

impl Changes {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.insert + self.update + self.delete + self.truncate
    }
}

/// A backfill of this process's.
#[derive(Debug, Clone, Serialize)]
pub struct BackfillSnapshot {
    /// Rows copied so far.
    pub rows: u64,
    /// How many the source's planner expects.
    pub rows_estimate: Option<u64>,
    /// How long it has taken so far, or took.
    pub seconds: f64,
    /// Whether it has ended.
    pub is_done: bool,
}

/// What went wrong.
#[derive(Debug, Clone, Serialize)]
pub struct TroubleSnapshot {
    /// When.
    pub at: Time,
    /// Which kind of problem.
    pub code: Code,
    /// What, where, and the server's words.
    pub message: String,
    /// What to do.
    pub fix: Option<String>,
}

/// A pipeline.
#[derive(Debug, Clone, Serialize)]
pub struct PipelineSnapshot {
    /// Its name.
    pub name: String,
    /// The connection that it reads from.
    pub source: String,
    /// The connection that it writes to.
    pub output: String,
    /// What it is at.
    pub state: PipelineState,
    /// Since when.
    pub since: Time,
    /// Age of the oldest commit that isn't loaded.
    pub lag_seconds: f64,
    /// The source's WAL after what is loaded.
    pub lag_bytes: u64,
    /// Up to where its rows are loaded.
    pub loaded_lsn: String,
    /// Loaded.
    pub changes: Changes,
    /// Of the last 10 s. Put in by the board.
    pub changes_per_second: f64,
    /// Returned by the SQL for them.
    pub rows: u64,
    /// Commits that had changes.
    pub batches: u64,
    /// After errors that may pass.
    pub retries: u64,
    /// Stops for errors that don't.
    pub failures: u64,
    /// Changes passed over.
    pub skipped: u64,
    /// Changes put aside.
    pub dead_letters: u64,
    /// This process's backfill.
    pub backfill: Option<BackfillSnapshot>,
    /// The last one, also when it has passed.
    pub last_error: Option<TroubleSnapshot>,
    /// SQL, writes, commit.
    #[serde(skip)]
    pub stages: [Histogram; 3],
}

impl PipelineSnapshot {
    /// One that has done nothing yet, and why.
    pub fn idle(
        name: &str,
        (source, output): (&str, &str),
        state: PipelineState,
        since: Time,
        last_error: Option<TroubleSnapshot>,
    ) -> Self {
        PipelineSnapshot {
            name: name.to_owned(),
            source: source.to_owned(),
            output: output.to_owned(),
            state,
            since,
            lag_seconds: 0.0,
            lag_bytes: 0,
            loaded_lsn: "0/0".to_owned(),
            changes: Changes::default(),
            changes_per_second: 0.0,
            rows: 0,
            batches: 0,
            retries: 0,
            failures: 0,
            skipped: 0,
            dead_letters: 0,
            backfill: None,
            last_error,
            stages: Default::default(),
        }
    }

    /// Its last error, if it still counts.
    pub fn trouble(&self) -> Option<&TroubleSnapshot> {
        let counts = matches!(self.state, PipelineState::Failed | PipelineState::Retrying);
        self.last_error.as_ref().filter(|_| counts)
    }
}

/// A source.
#[derive(Debug, Clone, Serialize)]
pub struct SourceSnapshot {
    /// Its connection.
    pub name: String,
    /// Its slot.
    pub slot: String,
    /// What its stream is at.
    pub state: SourceState,
    /// Since when.
    pub since: Time,
    /// Whether the stream is open.
    pub connected: bool,
    /// Times that the stream was opened anew.
    pub reconnects: u64,
    /// Of the stream.
    pub received_bytes: u64,
    /// Since the server last said anything.
    pub last_frame_seconds_ago: Option<f64>,
    /// Where its WAL ended.
    pub wal_lsn: String,
    /// What the slot was told.
    pub confirmed_lsn: Option<String>,
    /// `wal_status`, or `missing`; None before it was looked at.
    pub slot_state: Option<String>,
    /// WAL after what the slot was told.
    pub slot_lag_bytes: Option<u64>,
    /// WAL that the slot keeps.
    pub wal_retained_bytes: Option<u64>,
    /// WAL that may still be written before the slot is in danger; None without a limit.
    pub wal_safe_bytes: Option<i64>,
    /// How old what is said of the slot is.
    pub slot_seconds_ago: Option<f64>,
    /// The last one, also when it has passed.
    pub last_error: Option<TroubleSnapshot>,
}

impl SourceSnapshot {
    /// Its last error, if it still counts.
    pub fn trouble(&self) -> Option<&TroubleSnapshot> {
        let counts = matches!(self.state, SourceState::Failed | SourceState::Retrying);
        self.last_error.as_ref().filter(|_| counts)
    }
}

impl Snapshot {
    /// Nothing but that the process is there.
    pub fn begin(project: &str) -> Self {
        let now = Time(SystemTime::now());
        Snapshot {
            project: project.to_owned(),
            version: env!("CARGO_PKG_VERSION"),
            state: RunState::Starting,
            ready: false,
            turns: true,
            started_at: now,
            taken_at: now,
            pipelines: Vec::new(),
            sources: Vec::new(),
        }
    }

    /// Why it isn't ready, a line each; nothing if it is.
    pub fn unready(&self) -> Vec<String> {
        let run = match self.state {
            RunState::Running => None,
            RunState::Starting => Some("starting: the servers are being looked at"),
            RunState::Standby => Some("standby: another process has the project"),
            RunState::Stopping => Some("stopping"),
        };
        let pipelines = self.pipelines.iter().filter(|p| p.state != PipelineState::Following);
        let pipelines = pipelines.map(|p| match p.trouble() {
            Some(trouble) => format!("pipeline {} is {}: {}", p.name, word(p.state), trouble.message),
            None => format!("pipeline {} is {}", p.name, word(p.state)),
        });
        run.map(str::to_owned).into_iter().chain(pipelines).collect()
    }
}

/// The word that a state is called by, in JSON as in labels.
pub fn word(state: impl Serialize) -> String {
    match serde_json::to_value(state) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

#[cfg(test)]
pub mod samples {
    //! Snapshots to test surfaces with.

    use super::*;

    /// A pipeline that follows.
    pub fn pipeline(name: &str) -> PipelineSnapshot {
        let since = Time(SystemTime::UNIX_EPOCH);
        PipelineSnapshot::idle(name, ("source", "output"), PipelineState::Following, since, None)
    }

    /// One that failed with this message.
    pub fn failed(name: &str, message: &str) -> PipelineSnapshot {
        let at = Time(SystemTime::UNIX_EPOCH);
        let (code, fix) = (Code::SqlFailed, Some(message.to_owned()));
        let last_error = Some(TroubleSnapshot { at, code, message: message.to_owned(), fix });
        PipelineSnapshot { state: PipelineState::Failed, last_error, ..pipeline(name) }
    }

    /// A run of these.
    pub fn running(pipelines: Vec<PipelineSnapshot>) -> Snapshot {
        Snapshot { state: RunState::Running, pipelines, ..Snapshot::begin("shop") }
    }
}
