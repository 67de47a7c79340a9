//! The page: a snapshot as HTML that is complete without JavaScript. Every value passes through the template's
//! escaping; there is no script or style in the page itself, which the content security policy relies on.

use std::sync::OnceLock;

use minijinja::Environment;
use minijinja::value::Serde;
use serde::Serialize;

use super::board::{Board, Point};
use super::snapshot::{
    BackfillSnapshot, PipelineSnapshot, PipelineState, RunState, Snapshot, SourceSnapshot, Time,
    TroubleSnapshot, word,
};
use super::units::{count, rate, size, time};

/// How it looks.
pub const CSS: &str = include_str!("page/page.css");
/// What renews it in place.
pub const JS: &str = include_str!("page/page.js");
const HTML: &str = include_str!("page/page.html");

/// From where on lag stands out, in seconds.
const LATE: f64 = 30.0;
/// Of the WAL that a slot may keep: where what is left stands out.
const LEFT_MIN: f64 = 0.2;

#[derive(Serialize)]
struct View<'s> {
    project: &'s str,
    version: &'s str,
    state: String,
    up: String,
    taken_at: String,
    verdict: Verdict,
    pipelines: Vec<PipelineView<'s>>,
    sources: Vec<SourceView<'s>>,
}

#[derive(Serialize)]
struct Verdict {
    text: String,
    is_bad: bool,
}

#[derive(Serialize)]
struct PipelineView<'s> {
    name: &'s str,
    source: &'s str,
    output: &'s str,
    state: String,
    since: String,
    since_ago: String,
    lag: String,
    lag_size: String,
    is_late: bool,
    rate: String,
    spark: Spark,
    changes: String,
    loaded_lsn: &'s str,
    backfill: Option<BackfillView>,
    tally: Option<String>,
    trouble: Option<TroubleView<'s>>,
}

#[derive(Serialize)]
struct BackfillView {
    text: String,
    share: Option<u64>,
}

#[derive(Serialize)]
struct SourceView<'s> {
    name: &'s str,
    slot: &'s str,
    slot_state: Option<&'s str>,
    state: String,
    since: String,
    since_ago: String,
    behind: String,
    retained: String,
    safe: String,
    received: String,
    heard: String,
    warning: Option<String>,
    trouble: Option<TroubleView<'s>>,
}

#[derive(Serialize)]
struct TroubleView<'s> {
    at: String,
    at_ago: String,
    message: &'s str,
    fix: Option<&'s str>,
    is_past: bool,
}

#[derive(Serialize)]
struct Spark {
    label: String,
    area: String,
    edge: String,
}

/// The page.
pub fn render(board: &Board, snapshot: &Snapshot) -> String {
    static PAGE: OnceLock<Environment<'static>> = OnceLock::new();
    let page = PAGE.get_or_init(|| {
        let mut page = Environment::new();
        // The name's ending turns escaping on.
        page.add_template("page.html", HTML).expect("the template is the program's own, and tested");
        page
    });
    let now = snapshot.taken_at;
    // Those in trouble first; the others keep their order.
    let mut pipelines: Vec<&PipelineSnapshot> = snapshot.pipelines.iter().collect();
    pipelines.sort_by_key(|p| p.state);
    let pipelines = pipelines.into_iter().map(|p| pipeline(p, now, &board.points(&p.name))).collect();
    let sources: Vec<SourceView<'_>> = snapshot.sources.iter().map(|s| source(s, now)).collect();
    let view = View {
        project: &snapshot.project,
        version: snapshot.version,
        state: word(snapshot.state),
        up: ago(snapshot.started_at, now),
        taken_at: now.to_string(),
        verdict: verdict(snapshot),
        pipelines,
        sources,
    };
    let rendered = page.get_template("page.html").and_then(|page| page.render(Serde(&view)));
    rendered.unwrap_or_else(|error| format!("<!DOCTYPE html><title>trucker</title><p>{error}; see /status"))
}

fn verdict(snapshot: &Snapshot) -> Verdict {
    let calm = |text: &str| Verdict { text: text.to_owned(), is_bad: false };
    match snapshot.state {
        RunState::Starting => return calm("Starting: looking at the servers."),
        RunState::Standby => return calm("Another process has the project; this one waits for it to end."),
        RunState::Stopping => return calm("Stopping: finishing what is under way."),
        RunState::Running => {}
    }
    let all = snapshot.pipelines.len();
    let names = |state| {
        let those = snapshot.pipelines.iter().filter(|p| p.state == state).map(|p| p.name.as_str());
        those.collect::<Vec<_>>()
    };
    let mut parts = Vec::new();
    let mut is_bad = false;
    for state in [
        PipelineState::Failed,
        PipelineState::Retrying,
        PipelineState::Backfilling,
        PipelineState::Connecting,
    ] {
        let those = names(state);
        is_bad |= !those.is_empty() && matches!(state, PipelineState::Failed | PipelineState::Retrying);
        match those.as_slice() {
            [] => {}
            [name] => parts.push(format!("{name} is {}", word(state))),
            names => parts.push(format!("{} are {}", names.len(), word(state))),
        }
    }
    let late =
        snapshot.pipelines.iter().filter(|p| p.state == PipelineState::Following && p.lag_seconds >= LATE);
    if let Some(most) = late.max_by(|a, b| a.lag_seconds.total_cmp(&b.lag_seconds)) {
        is_bad = true;
        parts.push(format!("{} is {} behind", most.name, time(most.lag_seconds as u64)));
    }
    if let Some(slot) = snapshot.sources.iter().find_map(warning) {
        is_bad = true;
        parts.push(slot);
    }
    let following = names(PipelineState::Following).len();
    if parts.is_empty() {
        return calm(&format!("All {all} pipelines follow."));
    }
    let text = format!("{following} of {all} pipelines follow; {}.", parts.join("; "));
    Verdict { text, is_bad }
}

fn pipeline<'s>(p: &'s PipelineSnapshot, now: Time, points: &[Point]) -> PipelineView<'s> {
    let mut tally = Vec::new();
    for (number, what) in [(p.retries, "retried"), (p.skipped, "skipped")] {
        if number > 0 {
            tally.push(format!("{what} {} times", count(number)).replace(" 1 times", " once"));
        }
    }
    if p.dead_letters > 0 {
        tally.push(format!("{} dead letters", count(p.dead_letters)));
    }
    PipelineView {
        name: &p.name,
        source: &p.source,
        output: &p.output,
        state: word(p.state),
        since: p.since.to_string(),
        since_ago: ago(p.since, now),
        lag: time(p.lag_seconds as u64),
        lag_size: size(i64::try_from(p.lag_bytes).unwrap_or(i64::MAX)),
        is_late: p.lag_seconds >= LATE && p.state != PipelineState::Backfilling,
        rate: rate(p.changes_per_second),
        spark: spark(points),
        changes: count(p.changes.total()),
        loaded_lsn: &p.loaded_lsn,
        backfill: p.backfill.as_ref().filter(|_| p.state == PipelineState::Backfilling).map(backfill),
        tally: Some(tally.join(", ")).filter(|text| !text.is_empty()),
        trouble: p.last_error.as_ref().map(|error| trouble(error, p.trouble().is_none(), now)),
    }
}

fn backfill(backfill: &BackfillSnapshot) -> BackfillView {
    let (rows, seconds) = (count(backfill.rows), time(backfill.seconds as u64));
    let Some(estimate) = backfill.rows_estimate else {
        return BackfillView { text: format!("{rows} rows in {seconds}"), share: None };
    };
    // An estimate may be too low, and done is done only when it is committed.
    let share = (backfill.rows * 100 / estimate.max(1)).min(99);
    BackfillView { text: format!("{rows} of ~{} rows in {seconds}", count(estimate)), share: Some(share) }
}

fn source(s: &SourceSnapshot, now: Time) -> SourceView<'_> {
    let bytes =
        |bytes: Option<u64>| bytes.and_then(|bytes| i64::try_from(bytes).ok()).map_or("–".to_owned(), size);
    SourceView {
        name: &s.name,
        slot: &s.slot,
        slot_state: s.slot_state.as_deref(),
        state: word(s.state),
        since: s.since.to_string(),
        since_ago: ago(s.since, now),
        behind: bytes(s.slot_lag_bytes),
        retained: bytes(s.wal_retained_bytes),
        safe: match (s.wal_safe_bytes, &s.slot_state) {
            (Some(bytes), _) => size(bytes),
            (None, Some(state)) if ["reserved", "extended"].contains(&state.as_str()) => {
                "no limit".to_owned()
            }
            _ => "–".to_owned(),
        },
        received: bytes(Some(s.received_bytes)),
        heard: s
            .last_frame_seconds_ago
            .map_or_else(String::new, |seconds| format!("{} ago", time(seconds as u64))),
        warning: warning(s),
        trouble: s.last_error.as_ref().map(|error| trouble(error, s.trouble().is_none(), now)),
    }
}

/// What is wrong with a slot, or soon will be.
fn warning(s: &SourceSnapshot) -> Option<String> {
    let name = &s.slot;
    match s.slot_state.as_deref() {
        Some("lost") => Some(format!("slot {name} is lost: every pipeline has to be filled anew")),
        Some("missing") => Some(format!("slot {name} is missing")),
        Some("unreserved") => Some(format!("slot {name} is about to be lost: raise max_slot_wal_keep_size")),
        _ => {
            let (left, kept) = (s.wal_safe_bytes? as f64, s.wal_retained_bytes? as f64);
            let is_near = left < LEFT_MIN * (left + kept);
            is_near
                .then(|| format!("slot {name} may be lost soon: {} of WAL are left to it", size(left as i64)))
        }
    }
}

fn trouble(error: &TroubleSnapshot, is_past: bool, now: Time) -> TroubleView<'_> {
    TroubleView {
        at: error.at.to_string(),
        at_ago: ago(error.at, now),
        message: &error.message,
        fix: error.fix.as_deref(),
        is_past,
    }
}

fn ago(then: Time, now: Time) -> String {
    time(then.before(now).as_secs())
}

/// Rates as a line 120 wide and 24 high, the newest at the right.
fn spark(points: &[Point]) -> Spark {
    let highest = points.iter().map(|point| point.rate).fold(0.0, f64::max);
    let label = format!("at most {}", rate(highest));
    if points.len() < 2 || highest <= 0.0 {
        return Spark { label, area: String::new(), edge: String::new() };
    }
    let first = 120 - points.len();
    let places: Vec<String> = points
        .iter()
        .enumerate()
        .map(|(at, point)| format!("{} {:.1}", first + at, 23.0 - 21.0 * point.rate / highest))
        .collect();
    let edge = format!("M{}", places.join("L"));
    let area = format!("{edge}V24H{first}Z");
    Spark { label, area, edge }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SecretMask;
    use crate::observe::snapshot::samples;

    fn page(pipelines: Vec<PipelineSnapshot>) -> String {
        let board = Board::new("shop", SecretMask::new([b"hunter2".as_slice()]));
        board.put(samples::running(pipelines));
        render(&board, &board.latest())
    }

    #[test]
    fn whatever_servers_and_folders_say_is_text() {
        let evil = "<script>alert(1)</script>\"'&";
        let page = page(vec![samples::failed(evil, evil)]);
        assert!(!page.contains("<script>alert") && page.contains("&lt;script&gt;alert"), "{page}");
        assert!(!page.contains("\"'&\""), "{page}");
    }

    #[test]
    fn secrets_are_not_shown() {
        let page = page(vec![samples::failed("p", "password hunter2 was refused")]);
        assert!(!page.contains("hunter2") && page.contains("password *** was refused"), "{page}");
    }

    #[test]
    fn the_verdict_says_what_is_wrong_first() {
        let late = PipelineSnapshot { lag_seconds: 600.0, ..samples::pipeline("slow") };
        for (pipelines, expected) in [
            (vec![samples::pipeline("a"), samples::pipeline("b")], "All 2 pipelines follow."),
            (
                vec![samples::pipeline("a"), samples::failed("b", "m"), late],
                "2 of 3 pipelines follow; b is failed; slow is 10 min behind.",
            ),
        ] {
            assert_eq!(verdict(&samples::running(pipelines)).text, expected);
        }
    }

    #[test]
    fn a_line_of_rates_ends_at_the_right_and_stays_within_its_frame() {
        let point = |rate| Point { rate, lag_seconds: 0.0 };
        assert_eq!(spark(&[point(0.0), point(0.0)]).edge, "");
        assert_eq!(spark(&[point(0.0), point(50.0), point(100.0)]).edge, "M117 23.0L118 12.5L119 2.0");
    }
}
