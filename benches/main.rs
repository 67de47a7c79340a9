//! trucker side by side with what Postgres itself offers, in one run and taking turns: `make bench`. Prints one table, writes the same
//! as JSON. Judges nothing but what it measured; what has to be correct is the tests' business.
//!
//! `BENCH=name` plays the scenarios whose names contain that (`BENCH=memory` those that are left out otherwise, for the time they take), `BENCH_REPETITIONS` (3) says how often, `BENCH_SCALE` (1.0) how much.

mod backfill;
mod catch_up;
mod clickhouse;
mod consumer;
#[path = "../tests/harness/mod.rs"]
#[allow(dead_code, unused_imports, clippy::unwrap_used, reason = "the tests use the rest, and may panic")]
mod harness;
mod latency;
mod proxy;
mod report;
mod watched;
mod world;

use report::Report;
use world::Servers;

/// How much of everything, from the environment.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// How often each measurement is taken.
    pub repetitions: usize,
    scale: f64,
}

impl Effort {
    fn from_environment() -> Self {
        let read = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<f64>().ok());
        Effort {
            repetitions: read("BENCH_REPETITIONS").map_or(3, |number| number.max(1.0) as usize),
            scale: read("BENCH_SCALE").unwrap_or(1.0),
        }
    }

    /// So many, at this scale.
    pub fn of(&self, number: u64) -> u64 {
        ((number as f64 * self.scale) as u64).max(100)
    }
}

type Play = fn(&Servers, Effort, &mut Report);

fn main() {
    let wanted = std::env::var("BENCH").unwrap_or_default();
    let effort = Effort::from_environment();
    let mut report = Report::new(effort.repetitions);
    let servers = Servers::start();
    for scenario in catch_up::all(effort) {
        if scenario.name.contains(&wanted) && !(scenario.is_extra && wanted.is_empty()) {
            let repetitions = if scenario.is_extra { 1 } else { effort.repetitions };
            catch_up::play(&scenario, &servers, Effort { repetitions, ..effort }, &mut report);
        }
    }
    let others: [(&str, Play); 6] = [
        ("latency", latency::play),
        ("backfill", backfill::play),
        ("backfill_joined", backfill::play_joined),
        ("backfill_parallel", backfill::play_parallel),
        ("watched", watched::play),
        ("clickhouse", clickhouse::play),
    ];
    for (name, play) in others {
        if name.contains(&wanted) {
            play(&servers, effort, &mut report);
        }
    }
    print!("{}", report.table());
    let path = report.write_json();
    eprintln!("\nThe same as JSON, with each repetition: {}", path.display());
}
