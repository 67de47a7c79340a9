//! Nothing is lost and nothing comes twice, whatever breaks: random tables, pipelines, transactions and faults, all of them made
//! of one number; and a death at each place that ARCHITECTURE.md names. `TRUCKER_SEED=n` plays that number alone,
//! `SOAK_MINUTES=n` fresh ones for so long.

#![allow(clippy::unwrap_used)] // A test that cannot go on says where by panicking.

#[allow(dead_code, unused_imports)] // Shared with the end-to-end tests, which use the rest.
#[path = "../harness/mod.rs"]
mod harness;

mod clickhouse;
mod clock;
#[cfg(debug_assertions)]
mod failpoints;
mod faults;
mod oracle;
mod pipelines;
mod plan;
mod play;
mod proxy;
mod schema;
mod workload;
mod world;

use std::time::{Duration, Instant, SystemTime};

/// Those of every `make test`: chosen since between them they have all kinds of pipelines and nearly all kinds of
/// faults, with rows from the start and without.
const SEEDS: [u64; 2] = [1971, 3973];
/// The same with ClickHouse: with appended rows, which need a start from nothing.
const CLICKHOUSE_SEED: u64 = 4;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

type Play = fn(u64) -> Result<String, String>;

fn play_all(play: Play, seeds: impl Iterator<Item = u64>) {
    for seed in seeds {
        match play(seed) {
            Ok(text) => println!("{text}"),
            Err(text) => panic!("{text}"),
        }
    }
}

/// One number where it is given, fresh ones while there is time, else those of every run.
fn play_share(play: Play, share: usize, fixed: u64) {
    if let Some(seed) = number("TRUCKER_SEED") {
        if share == 0 {
            play_all(play, [seed].into_iter());
        }
        return;
    }
    let Some(minutes) = number("SOAK_MINUTES") else {
        return play_all(play, [fixed].into_iter());
    };
    let end = Instant::now() + Duration::from_secs(60 * minutes);
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let first = since.as_secs() * 1000 + 500 * share as u64;
    play_all(play, (first..).take_while(|_| Instant::now() < end));
}

#[test]
fn whatever_breaks_nothing_is_lost_and_nothing_comes_twice() {
    play_share(play::play, 0, SEEDS[0]);
}

#[test]
fn whatever_breaks_nothing_is_lost_and_nothing_comes_twice_either() {
    play_share(play::play, 1, SEEDS[1]);
}

#[test]
fn whatever_breaks_a_clickhouse_is_in_the_end_what_the_source_is() {
    play_share(clickhouse::play, 0, CLICKHOUSE_SEED);
}
