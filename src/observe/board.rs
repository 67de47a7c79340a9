//! Where the engine puts what it sees, and every surface reads it: the latest snapshot, and a short past to draw rates
//! from. Takes secrets out of what the servers said. Nothing that reads here can make the engine wait.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use super::snapshot::{PipelineSnapshot, RunState, Snapshot, Time, TroubleSnapshot};
use crate::config::SecretMask;

/// What rates are over.
const RATE_SPAN: Duration = Duration::from_secs(10);
/// How far apart the points of a sparkline are, and how many there are.
const POINT_SPAN: Duration = Duration::from_secs(5);
const POINTS: usize = 120;

/// What a pipeline did in a span of time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Changes and backfilled rows per second.
    pub rate: f64,
    /// At the end of it.
    pub lag_seconds: f64,
}

/// See the module.
#[derive(Debug)]
pub struct Board {
    latest: watch::Sender<Arc<Snapshot>>,
    mask: SecretMask,
    past: Mutex<BTreeMap<String, Past>>,
}

#[derive(Debug, Default)]
struct Past {
    /// When, and how many changes and rows by then: the last 10 s.
    recent: VecDeque<(SystemTime, u64)>,
    /// What the point that is under way began with.
    point: Option<(SystemTime, u64)>,
    points: VecDeque<Point>,
}

impl Board {
    /// A board for a process that begins.
    pub fn new(project: &str, mask: SecretMask) -> Self {
        let latest = watch::Sender::new(Arc::new(Snapshot::begin(project)));
        Board { latest, mask, past: Mutex::default() }
    }

    /// What was put up last.
    pub fn latest(&self) -> Arc<Snapshot> {
        self.latest.borrow().clone()
    }

    /// To be told of each one.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.latest.subscribe()
    }

    /// The process is at something else.
    pub fn enter(&self, state: RunState) {
        let mut snapshot = (*self.latest()).clone();
        (snapshot.state, snapshot.ready) = (state, false);
        snapshot.taken_at = Time(SystemTime::now());
        self.latest.send_replace(Arc::new(snapshot));
    }

    /// Puts up how things stand. What the process is at, and since when there is one, stays.
    pub fn put(&self, mut snapshot: Snapshot) {
        let before = self.latest();
        snapshot.project.clone_from(&before.project);
        snapshot.started_at = before.started_at;
        let mut past = self.past();
        for pipeline in &mut snapshot.pipelines {
            let past = past.entry(pipeline.name.clone()).or_default();
            pipeline.changes_per_second = past.add(snapshot.taken_at.0, pipeline);
            self.mask(&mut pipeline.last_error);
        }
        drop(past);
        for source in &mut snapshot.sources {
            self.mask(&mut source.last_error);
        }
        snapshot.ready = snapshot.unready().is_empty();
        self.latest.send_replace(Arc::new(snapshot));
    }

    /// A pipeline's last ten minutes, the oldest first.
    pub fn points(&self, pipeline: &str) -> Vec<Point> {
        self.past().get(pipeline).map(|past| past.points.iter().copied().collect()).unwrap_or_default()
    }

    fn past(&self) -> MutexGuard<'_, BTreeMap<String, Past>> {
        // What a panic left behind is only drawn.
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mask(&self, trouble: &mut Option<TroubleSnapshot>) {
        if let Some(trouble) = trouble {
            trouble.message = self.mask.mask(&trouble.message).into_owned();
            trouble.fix = trouble.fix.as_deref().map(|fix| self.mask.mask(fix).into_owned());
        }
    }
}

impl Past {
    /// Takes what a pipeline has done by now; answers the changes and backfilled rows per second of the last 10 s.
    fn add(&mut self, now: SystemTime, pipeline: &PipelineSnapshot) -> f64 {
        let done = pipeline.changes.total() + pipeline.backfill.as_ref().map_or(0, |backfill| backfill.rows);
        // A backfill that starts again counts from 0.
        if self.recent.back().is_some_and(|(_, before)| done < *before) {
            self.recent.clear();
            self.point = None;
        }
        self.recent.push_back((now, done));
        while self.recent.len() > 2 && since(self.recent[1].0, now) >= RATE_SPAN {
            self.recent.pop_front();
        }
        let (began, before) = *self.point.get_or_insert((now, done));
        if since(began, now) >= POINT_SPAN {
            self.points.push_back(Point {
                rate: rate((began, before), (now, done)),
                lag_seconds: pipeline.lag_seconds,
            });
            self.point = Some((now, done));
            if self.points.len() > POINTS {
                self.points.pop_front();
            }
        }
        rate(self.recent[0], (now, done))
    }
}

fn since(earlier: SystemTime, later: SystemTime) -> Duration {
    later.duration_since(earlier).unwrap_or_default()
}

fn rate(from: (SystemTime, u64), to: (SystemTime, u64)) -> f64 {
    let seconds = since(from.0, to.0).as_secs_f64();
    if seconds > 0.0 { to.1.saturating_sub(from.1) as f64 / seconds } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::snapshot::{Changes, samples};

    #[test]
    fn rates_are_over_the_last_seconds_and_begin_anew_with_a_backfill() {
        let (mut past, start) = (Past::default(), SystemTime::UNIX_EPOCH);
        let mut at = |second: u64, insert: u64| {
            let changes = Changes { insert, ..Changes::default() };
            let pipeline = PipelineSnapshot { changes, ..samples::pipeline("p") };
            past.add(start + Duration::from_secs(second), &pipeline)
        };
        assert_eq!([at(0, 0), at(1, 100), at(10, 1000)], [0.0, 100.0, 100.0]);
        assert_eq!(at(20, 1000), 0.0, "the first ten seconds are forgotten");
        assert_eq!(at(21, 5), 0.0);
        assert_eq!(at(22, 10), 5.0);
        let rates: Vec<f64> = past.points.iter().map(|point| point.rate).collect();
        assert_eq!(rates, [100.0, 0.0]);
    }
}
