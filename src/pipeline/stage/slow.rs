//! Tells of statements of the user's that take long: which pipeline's, which file, how long, never what they read.

use std::time::{Duration, Instant};

use super::Stage;
use crate::transform::query::Query;

/// Tells of a statement that began then, if it took as long as `slow_query`.
pub fn tell_if_slow(
    slow_query: Duration,
    begun: Instant,
    pipeline: &str,
    file: &str,
    on: &str,
    changes: Option<usize>,
) {
    let took = begun.elapsed();
    if took >= slow_query {
        let seconds = (took.as_secs_f64() * 1000.0).round() / 1000.0;
        tracing::warn!(
            event = "slow_query",
            pipeline,
            file,
            connection = on,
            seconds,
            changes,
            "{file} took {seconds:.1} s on {on}"
        );
    }
}

impl Stage {
    pub(super) fn tell_if_slow(&self, query: &Query, begun: Instant, changes: usize) {
        if begun.elapsed() >= self.slow_query {
            let definition = &self.definition;
            let files = query.files().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
            let (pipeline, source) = (&definition.pipeline.name, &definition.source.queried().name);
            tell_if_slow(self.slow_query, begun, pipeline, &files, source, Some(changes));
        }
    }
}
