//! `trucker test`: plays the tests that lie beside pipelines, each between databases of its own, through the engine that
//! `trucker run` uses. Owns the way of a test from its file to its verdict; never touches a database that it did not make.

mod clickhouse;
mod clickhouse_rows;
mod compare;
mod database;
mod definitions;
mod difference;
mod discover;
mod fill;
mod junit;
mod play;
mod server;
mod update;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures_util::StreamExt;

use crate::config::{Connection, Diagnostics, TestFile};

pub use clickhouse::statements as clickhouse_statements;
pub use definitions::write_definitions;
pub use discover::{Found, discover};
pub use junit::junit;
pub use server::TestServer;
pub use update::{scalar as yaml_scalar, updated};

use difference::Difference;

/// How tests are played.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many at a time.
    pub jobs: usize,
    /// How long trucker may take to catch up, each time.
    pub patience: Duration,
    /// Whether databases stay.
    pub keeps: bool,
    /// Whether to go on after rows that differ, since all are to be updated.
    pub updates: bool,
}

/// How a test ended.
#[derive(Debug)]
pub enum Verdict {
    /// All was as expected.
    Passed,
    /// Something wasn't.
    Failed(Vec<Failure>),
    /// It couldn't be played: its files are wrong.
    Broken(Diagnostics),
    /// It couldn't be played: the server is the trouble.
    Server(String),
}

/// What wasn't as expected.
#[derive(Debug)]
pub enum Failure {
    /// Rows differ.
    Rows(Box<Difference>),
    /// Anything else, in words.
    Words(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Rows(difference) => difference.fmt(f),
            Failure::Words(words) => f.write_str(words),
        }
    }
}

/// A test that was played.
#[derive(Debug)]
pub struct Played {
    /// Its pipeline.
    pub pipeline: String,
    /// Its file, for messages.
    pub shown: PathBuf,
    /// What the file says; None where it can't be read.
    pub file: Option<TestFile>,
    /// How it ended.
    pub verdict: Verdict,
    /// How long it took.
    pub took: Duration,
    /// Its databases, where these were to stay.
    pub kept: Vec<Connection>,
}

/// Plays tests on a server, several at a time, and hands over each one as it ends.
pub async fn play(
    server: &TestServer,
    tests: Vec<Found>,
    options: &Options,
    mut ended: impl FnMut(&Played),
) -> Vec<Played> {
    let playing = tests.into_iter().enumerate().map(|(place, found)| async move {
        let began = Instant::now();
        let (pipeline, shown) = (found.pipeline.clone(), found.shown.clone());
        let (file, verdict, kept) = match &found.file {
            Ok(file) => {
                let (verdict, kept) = play::play(server, &found.dir, &found.pipeline, file, options).await;
                (Some(file.clone()), verdict, kept)
            }
            Err(wrong) => (None, Verdict::Broken(wrong.clone()), Vec::new()),
        };
        (place, Played { pipeline, shown, file, verdict, took: began.elapsed(), kept })
    });
    let mut playing = futures_util::stream::iter(playing).buffer_unordered(options.jobs);
    let mut played = Vec::new();
    while let Some((place, one)) = playing.next().await {
        ended(&one);
        played.push((place, one));
    }
    played.sort_by_key(|(place, _)| *place);
    played.into_iter().map(|(_, one)| one).collect()
}
