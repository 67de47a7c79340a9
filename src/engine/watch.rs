//! What a running project looks like from outside: gathers what its parts show of themselves into one snapshot. Reads
//! only; nothing waits for it.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::health::{Seen, SourceHealth, StreamState};
use super::requests::Member;
use crate::observe::snapshot::{
    BackfillSnapshot, Changes, Histogram, PipelineSnapshot, PipelineState, RunState, Snapshot,
    SourceSnapshot, SourceState, Time, TroubleSnapshot,
};
use crate::pipeline::counts::{DURATION_BOUNDS, Timings};
use crate::pipeline::state::{Phase, Shown, State, Trouble};

/// A pipeline that is watched.
pub struct WatchedPipeline {
    /// What it is and shows.
    pub member: Member,
    /// Its source, by its place.
    pub source: usize,
    /// When it was last seen to have everything.
    pub current_at: Instant,
}

/// A source that is watched.
pub struct WatchedSource {
    /// Its connection.
    pub name: String,
    /// Its slot.
    pub slot: String,
    /// What it shows.
    pub health: Arc<SourceHealth>,
}

/// How everything stands now.
pub fn look(state: RunState, pipelines: &mut [WatchedPipeline], sources: &[WatchedSource]) -> Snapshot {
    let seen: Vec<Seen> = sources.iter().map(|source| source.health.see()).collect();
    let mut snapshot = Snapshot { state, ..Snapshot::begin("") };
    for pipeline in pipelines {
        let (source, seen) = (&sources[pipeline.source], &seen[pipeline.source]);
        snapshot.pipelines.push(look_at_pipeline(pipeline, source, seen));
    }
    snapshot.sources = sources.iter().zip(seen).map(|(source, seen)| look_at_source(source, seen)).collect();
    snapshot
}

/// Whether everything that its source has committed is loaded, or how old the oldest commit is that isn't.
fn lag(
    current_at: &mut Instant,
    state: &State,
    shown: &Shown,
    health: &SourceHealth,
    is_current: bool,
) -> Duration {
    if let Some(oldest) = state.pending.oldest() {
        return health.age(oldest);
    }
    match (shown.phase, shown.backfill) {
        (Phase::Follow, _) if is_current => *current_at = Instant::now(),
        (Phase::Backfill, Some((began, None))) => {
            let passed = SystemTime::now().duration_since(began).unwrap_or_default();
            *current_at = Instant::now().checked_sub(passed).unwrap_or(*current_at);
        }
        _ => return current_at.elapsed(),
    }
    match shown.phase {
        Phase::Follow => Duration::ZERO,
        _ => current_at.elapsed(),
    }
}

fn look_at_pipeline(pipeline: &mut WatchedPipeline, source: &WatchedSource, seen: &Seen) -> PipelineSnapshot {
    let (mut shown, counted) = (pipeline.member.state.shown(), pipeline.member.state.counts.read());
    if seen.state == StreamState::Failed && shown.phase != Phase::Failed {
        // It goes nowhere any more, whatever it was at.
        shown = Shown { phase: Phase::Failed, since: seen.since, trouble: seen.trouble.clone(), ..shown };
    }
    let state = &pipeline.member.state;
    let lag = lag(&mut pipeline.current_at, state, &shown, &source.health, seen.is_current);
    let loaded = pipeline.member.state.loaded_lsn();
    let [insert, update, delete, truncate] = counted.changes;
    let fix = || match shown.phase {
        Phase::Failed => Some(format!(
            "Mend the cause, then trucker resume {}: it goes on at {loaded}",
            pipeline.member.name()
        )),
        Phase::Retrying => Some("It is tried again by itself, at least every 30 s".to_owned()),
        _ => None,
    };
    PipelineSnapshot {
        name: pipeline.member.name().to_owned(),
        source: source.name.clone(),
        output: pipeline.member.definition.output.name().to_owned(),
        state: pipeline_state(shown.phase),
        since: Time(shown.since),
        lag_seconds: rounded(lag),
        lag_bytes: seen.wal_lsn.bytes_since(loaded),
        loaded_lsn: loaded.to_string(),
        changes: Changes { insert, update, delete, truncate },
        changes_per_second: 0.0,
        rows: counted.rows,
        batches: counted.batches,
        retries: counted.retries,
        failures: counted.failures,
        skipped: counted.skipped,
        dead_letters: counted.dead_letters,
        backfill: shown.backfill.filter(|_| counted.backfills > 0).map(|(began, ended)| BackfillSnapshot {
            rows: counted.backfill_rows,
            rows_estimate: Some(counted.backfill_estimate).filter(|rows| *rows > 0),
            seconds: rounded(ended.unwrap_or_else(SystemTime::now).duration_since(began).unwrap_or_default()),
            is_done: ended.is_some(),
        }),
        last_error: shown.trouble.clone().map(|trouble| trouble_snapshot(trouble, fix())),
        stages: counted.stages.map(histogram),
    }
}

fn look_at_source(source: &WatchedSource, seen: Seen) -> SourceSnapshot {
    let (slot_age, retention) = match seen.slot {
        Some((age, retention)) => (Some(rounded(age)), Some(retention)),
        None => (None, None),
    };
    let is_missing = matches!(retention, Some(None));
    let retention = retention.flatten();
    let confirmed = retention.as_ref().and_then(|retention| retention.confirmed_flush_lsn);
    let status = retention.as_ref().and_then(|retention| retention.wal_status.clone());
    SourceSnapshot {
        name: source.name.clone(),
        slot: source.slot.clone(),
        state: source_state(seen.state),
        since: Time(seen.since),
        connected: seen.state == StreamState::Streaming,
        reconnects: seen.reconnects,
        received_bytes: seen.received_bytes,
        last_frame_seconds_ago: seen.silence.map(rounded),
        wal_lsn: seen.wal_lsn.to_string(),
        confirmed_lsn: confirmed.map(|lsn| lsn.to_string()),
        slot_state: if is_missing { Some("missing".to_owned()) } else { status },
        slot_lag_bytes: confirmed.map(|lsn| seen.wal_lsn.bytes_since(lsn)),
        wal_retained_bytes: retention
            .as_ref()
            .and_then(|retention| retention.held_bytes)
            .map(|bytes| bytes.max(0) as u64),
        wal_safe_bytes: retention.as_ref().and_then(|retention| retention.safe_bytes),
        slot_seconds_ago: slot_age,
        last_error: seen.trouble.map(|trouble| {
            let fix = (seen.state == StreamState::Retrying)
                .then(|| "It is connected to again by itself, at least every 30 s".to_owned());
            trouble_snapshot(trouble, fix)
        }),
    }
}

fn pipeline_state(phase: Phase) -> PipelineState {
    match phase {
        Phase::Connecting => PipelineState::Connecting,
        Phase::Backfill => PipelineState::Backfilling,
        Phase::Follow => PipelineState::Following,
        Phase::Retrying => PipelineState::Retrying,
        Phase::Failed => PipelineState::Failed,
    }
}

fn source_state(state: StreamState) -> SourceState {
    match state {
        StreamState::Connecting => SourceState::Connecting,
        StreamState::Streaming => SourceState::Streaming,
        StreamState::Waiting => SourceState::Waiting,
        StreamState::Retrying => SourceState::Retrying,
        StreamState::Failed => SourceState::Failed,
    }
}

fn trouble_snapshot(trouble: Trouble, otherwise: Option<String>) -> TroubleSnapshot {
    let fix = trouble.fix.or(otherwise);
    TroubleSnapshot { at: Time(trouble.at), code: trouble.code, message: trouble.message, fix }
}

fn histogram(timings: Timings) -> Histogram {
    let mut count = 0;
    let buckets = DURATION_BOUNDS.iter().zip(timings.buckets).map(|(bound, more)| {
        count += more;
        (bound.as_secs_f64(), count)
    });
    Histogram {
        buckets: buckets.collect(),
        count: timings.buckets.iter().sum(),
        sum: timings.sum.as_secs_f64(),
    }
}

/// In seconds, to the millisecond.
fn rounded(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_nothing_only_where_everything_is_known_to_be_loaded() {
        let ago = Duration::from_secs(600);
        let (state, mut current_at) = (State::default(), Instant::now().checked_sub(ago).unwrap());
        let health = SourceHealth::default();
        let mut lag_in = |phase, is_current| {
            let shown = Shown { phase, since: SystemTime::now(), trouble: None, backfill: None };
            lag(&mut current_at, &state, &shown, &health, is_current)
        };
        for phase in [Phase::Connecting, Phase::Retrying, Phase::Failed, Phase::Follow] {
            assert!(lag_in(phase, false) >= ago, "{phase:?}");
        }
        assert!(lag_in(Phase::Failed, true) >= ago, "the stream may be current for the others");
        assert_eq!(lag_in(Phase::Follow, true), Duration::ZERO);
        let after = lag_in(Phase::Retrying, false);
        assert!(after < Duration::from_secs(60), "it counts from when it had everything: {after:?}");
    }

    #[test]
    fn histograms_are_cumulative() {
        let mut timings = Timings::default();
        (timings.buckets[0], timings.buckets[2], timings.buckets[8]) = (1, 2, 3);
        let histogram = histogram(timings);
        assert_eq!(histogram.buckets.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [1, 1, 3, 3, 3, 3, 3, 3]);
        assert_eq!(histogram.count, 6);
    }
}
