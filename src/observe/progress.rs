//! How it goes, without being asked: on a terminal a line per pipeline at its foot, elsewhere an event now and then.
//! Log lines and these never garble each other: the log writes through [`above`].

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::board::Board;
use super::snapshot::{BackfillSnapshot, PipelineSnapshot, PipelineState, RunState, Snapshot, word};
use super::units::{count, rate, size, time};

/// Pipelines that get a line of their own; the others share one.
const LINES_MAX: usize = 12;
const PROGRESS_INTERVAL: Duration = Duration::from_secs(30);
const BACKFILL_INTERVAL: Duration = Duration::from_secs(10);
/// Lag that is told of again and again, in seconds.
const LATE: f64 = 10.0;
const BAR_WIDTH: usize = 24;

static FOOT: OnceLock<MultiProgress> = OnceLock::new();

/// Writes something to stderr, above what is at the foot of the terminal.
pub fn above(write: impl FnOnce()) {
    match FOOT.get() {
        Some(foot) => foot.suspend(write),
        None => write(),
    }
}

/// Tells how it goes until it is dropped: at the foot of the terminal if `is_terminal`, else as events.
pub async fn tell(board: Arc<Board>, has_foot: bool) {
    let mut latest = board.subscribe();
    if has_foot && std::io::stderr().is_terminal() {
        let mut foot = Foot::new();
        while latest.changed().await.is_ok() {
            foot.show(&latest.borrow_and_update().clone());
        }
        return;
    }
    let mut told = Told::default();
    while latest.changed().await.is_ok() {
        told.tell(&latest.borrow_and_update().clone());
    }
}

/// Lines at the foot of the terminal; gone when it is dropped.
struct Foot {
    all: MultiProgress,
    lines: Vec<ProgressBar>,
}

impl Foot {
    fn new() -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(4));
        // A second one in the same process would write between the first one's lines: it gets none.
        let all = FOOT.get_or_init(|| all).clone();
        Foot { all, lines: Vec::new() }
    }

    fn show(&mut self, snapshot: &Snapshot) {
        let texts = lines(snapshot);
        while self.lines.len() > texts.len() {
            self.lines.pop().iter().for_each(|line| self.all.remove(line));
        }
        while self.lines.len() < texts.len() {
            let line = ProgressBar::new_spinner();
            line.set_style(
                ProgressStyle::with_template("{wide_msg}")
                    .unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            self.lines.push(self.all.add(line));
        }
        for (line, text) in self.lines.iter().zip(texts) {
            line.set_message(text);
            line.tick();
        }
    }
}

impl Drop for Foot {
    fn drop(&mut self) {
        self.lines.iter().for_each(ProgressBar::finish_and_clear);
        self.all.clear().ok();
    }
}

/// A line for each pipeline, those in trouble first.
fn lines(snapshot: &Snapshot) -> Vec<String> {
    if snapshot.state != RunState::Running {
        return Vec::new();
    }
    let mut pipelines: Vec<&PipelineSnapshot> = snapshot.pipelines.iter().collect();
    if pipelines.len() > LINES_MAX {
        pipelines.sort_by(|a, b| a.state.cmp(&b.state).then(b.lag_seconds.total_cmp(&a.lag_seconds)));
    }
    let rest = pipelines.split_off(pipelines.len().min(LINES_MAX));
    let width = pipelines.iter().map(|p| p.name.chars().count()).max().unwrap_or(0);
    let mut lines: Vec<String> = pipelines.iter().map(|p| line(p, width)).collect();
    if !rest.is_empty() {
        let following = rest.iter().filter(|p| p.state == PipelineState::Following).count();
        lines.push(format!("… and {} more, {following} of them following", rest.len()));
    }
    lines
}

fn line(p: &PipelineSnapshot, width: usize) -> String {
    let head = format!("{:<width$}  {:<11}", p.name, word(p.state));
    let pace = rate(p.changes_per_second);
    match (p.state, &p.backfill) {
        (PipelineState::Backfilling, Some(backfill)) => format!("{head}  {}  {pace}", bar(backfill)),
        _ => {
            let first_line = |message: &str| message.lines().next().unwrap_or_default().to_owned();
            let trouble =
                p.trouble().map_or_else(String::new, |trouble| format!("  {}", first_line(&trouble.message)));
            let lag = format!("lag {} ({})", time(p.lag_seconds as u64), size(p.lag_bytes as i64));
            format!("{head}  {pace:>10}  {lag}{trouble}")
        }
    }
}

fn bar(backfill: &BackfillSnapshot) -> String {
    let rows = count(backfill.rows);
    let Some(estimate) = backfill.rows_estimate else { return format!("{rows} rows") };
    // An estimate may be too low: only the end is the end.
    let share = (backfill.rows as f64 / estimate as f64).min(0.99);
    let full = (share * BAR_WIDTH as f64) as usize;
    let bar = "█".repeat(full) + &"░".repeat(BAR_WIDTH - full);
    format!("{bar} {rows} of ~{} rows", count(estimate))
}

/// What was told of each pipeline last.
#[derive(Default)]
struct Told(BTreeMap<String, (Instant, Past)>);

#[derive(Clone, PartialEq)]
struct Past {
    state: PipelineState,
    changes: u64,
    backfill_rows: u64,
}

impl Told {
    fn tell(&mut self, snapshot: &Snapshot) {
        if snapshot.state != RunState::Running {
            return;
        }
        for p in &snapshot.pipelines {
            let now = Past {
                state: p.state,
                changes: p.changes.total(),
                backfill_rows: p.backfill.as_ref().map_or(0, |backfill| backfill.rows),
            };
            let is_filling = p.state == PipelineState::Backfilling;
            let interval = if is_filling { BACKFILL_INTERVAL } else { PROGRESS_INTERVAL };
            let (told, before) = self.0.entry(p.name.clone()).or_insert((Instant::now(), now.clone()));
            if told.elapsed() < interval {
                continue;
            }
            if is_filling || now != *before || p.lag_seconds >= LATE {
                tell_of(p, now.changes.saturating_sub(before.changes));
            }
            (*told, *before) = (Instant::now(), now);
        }
    }
}

fn tell_of(p: &PipelineSnapshot, changes: u64) {
    if let (PipelineState::Backfilling, Some(backfill)) = (p.state, &p.backfill) {
        let estimate =
            backfill.rows_estimate.map_or_else(String::new, |rows| format!(" of ~{}", count(rows)));
        tracing::info!(
            event = "backfilling",
            pipeline = p.name,
            rows = backfill.rows,
            rows_estimate = backfill.rows_estimate,
            seconds = backfill.seconds,
            rows_per_second = p.changes_per_second.round(),
            "backfill of {}: {}{estimate} rows",
            p.name,
            count(backfill.rows)
        );
        return;
    }
    tracing::info!(
        event = "progress",
        pipeline = p.name,
        state = word(p.state),
        lag_seconds = p.lag_seconds,
        lag_bytes = p.lag_bytes,
        changes,
        changes_per_second = (p.changes_per_second * 10.0).round() / 10.0,
        loaded_lsn = p.loaded_lsn,
        "{} is {}: {} changes loaded, lag {}",
        p.name,
        word(p.state),
        count(changes),
        time(p.lag_seconds as u64)
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::snapshot::samples;

    #[test]
    fn a_line_says_what_a_pipeline_is_at() {
        let backfill =
            BackfillSnapshot { rows: 600, rows_estimate: Some(1200), seconds: 1.0, is_done: false };
        let state = PipelineState::Backfilling;
        let filling = PipelineSnapshot {
            state,
            backfill: Some(backfill),
            changes_per_second: 300.0,
            ..samples::pipeline("p")
        };
        for (pipeline, expected) in [
            (samples::pipeline("p"), "p   following          0/s  lag 0 s (0 B)"),
            (samples::failed("p", "first\nsecond"), "p   failed             0/s  lag 0 s (0 B)  first"),
            (filling, "p   backfilling  ████████████░░░░░░░░░░░░ 600 of ~1,200 rows  300/s"),
        ] {
            assert_eq!(line(&pipeline, 2), expected);
        }
    }

    #[test]
    fn many_pipelines_share_a_line_and_those_in_trouble_have_their_own() {
        let mut pipelines: Vec<PipelineSnapshot> =
            (0..20).map(|n| samples::pipeline(&format!("p{n}"))).collect();
        pipelines.push(samples::failed("bad", "m"));
        let lines = lines(&samples::running(pipelines));
        assert_eq!(lines.len(), LINES_MAX + 1);
        assert!(lines[0].starts_with("bad"), "{lines:?}");
        assert_eq!(lines[LINES_MAX], "… and 9 more, 9 of them following");
    }
}
