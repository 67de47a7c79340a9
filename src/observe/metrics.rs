//! A snapshot as Prometheus's text format. The names are those of docs/metrics.md; `tests/tidy.rs` compares them.

use std::collections::BTreeMap;

use prometheus::TextEncoder;
use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Bucket, Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use super::snapshot::{
    Histogram, PipelineSnapshot, PipelineState, RunState, Snapshot, SourceSnapshot, SourceState, word,
};

/// What the text is to be called in `Content-Type`.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const RUN_STATES: [RunState; 4] =
    [RunState::Starting, RunState::Standby, RunState::Running, RunState::Stopping];
const PIPELINE_STATES: [PipelineState; 5] = [
    PipelineState::Connecting,
    PipelineState::Backfilling,
    PipelineState::Following,
    PipelineState::Retrying,
    PipelineState::Failed,
];
const SOURCE_STATES: [SourceState; 5] = [
    SourceState::Connecting,
    SourceState::Streaming,
    SourceState::Waiting,
    SourceState::Retrying,
    SourceState::Failed,
];
/// What Postgres calls them, and one of ours.
const SLOT_STATES: [&str; 5] = ["reserved", "extended", "unreserved", "lost", "missing"];

/// All metrics, those of the process included.
pub fn encode(snapshot: &Snapshot) -> String {
    let mut families = Families::default();
    families.run(snapshot);
    for pipeline in &snapshot.pipelines {
        families.pipeline(pipeline, snapshot.taken_at.unix_seconds());
    }
    for source in &snapshot.sources {
        families.source(source);
    }
    let families = families.0.into_values().map(|(mut family, metrics)| {
        family.set_metric(metrics);
        family
    });
    let mut families: Vec<MetricFamily> = families.collect();
    families.extend(ProcessCollector::for_self().collect());
    let mut text = String::new();
    // Writing to memory doesn't fail, and a family is there only with what it holds.
    TextEncoder::new().encode_utf8(&families, &mut text).ok();
    text
}

#[derive(Default)]
struct Families(BTreeMap<String, (MetricFamily, Vec<Metric>)>);

type Labels<'a> = &'a [(&'a str, &'a str)];

impl Families {
    fn run(&mut self, snapshot: &Snapshot) {
        let version = [("version", snapshot.version)];
        self.gauge("trucker_build_info", "Always 1.", &version, 1.0);
        let states = RUN_STATES.map(word);
        self.one_hot("trucker_run_state", "What the process is at.", &[], &states, &word(snapshot.state));
        self.gauge("trucker_ready", "1 if /readyz says so.", &[], f64::from(u8::from(snapshot.ready)));
    }

    fn pipeline(&mut self, p: &PipelineSnapshot, now: f64) {
        let its = [("pipeline", p.name.as_str())];
        let info = [its[0], ("source", &p.source), ("output", &p.output)];
        self.gauge("trucker_pipeline_info", "Always 1: which connections it has.", &info, 1.0);
        let states = PIPELINE_STATES.map(word);
        self.one_hot("trucker_pipeline_state", "What the pipeline is at.", &its, &states, &word(p.state));
        let since = p.since.unix_seconds().min(now);
        let help = "When it came into its state, as Unix time.";
        self.gauge("trucker_pipeline_state_since_timestamp_seconds", help, &its, since);
        let help = "Age of the oldest commit of the source that isn't loaded; 0 if there is none.";
        self.gauge("trucker_pipeline_lag_seconds", help, &its, p.lag_seconds);
        let help = "The source's WAL after what is loaded.";
        self.gauge("trucker_pipeline_lag_bytes", help, &its, p.lag_bytes as f64);
        self.pipeline_counters(p);
        for (stage, histogram) in ["sql", "write", "commit"].iter().zip(&p.stages) {
            let labels = [its[0], ("stage", *stage)];
            let help = "Time per batch in SQL on the source, in writes, in the commit.";
            self.histogram("trucker_pipeline_stage_duration_seconds", help, &labels, histogram);
        }
        if let Some(backfill) = &p.backfill {
            let help = "Rows that its backfill has copied so far.";
            self.gauge("trucker_pipeline_backfill_rows", help, &its, backfill.rows as f64);
            if let Some(rows) = backfill.rows_estimate {
                let help = "Rows that the source's planner expects of the backfill.";
                self.gauge("trucker_pipeline_backfill_rows_estimate", help, &its, rows as f64);
            }
        }
    }

    fn pipeline_counters(&mut self, p: &PipelineSnapshot) {
        let its = [("pipeline", p.name.as_str())];
        let c = p.changes;
        for (operation, count) in
            [("insert", c.insert), ("update", c.update), ("delete", c.delete), ("truncate", c.truncate)]
        {
            let labels = [its[0], ("operation", operation)];
            self.counter("trucker_pipeline_changes_total", "Changes loaded.", &labels, count);
        }
        for (name, help, count) in [
            ("trucker_pipeline_rows_total", "Rows that the SQL returned for loaded changes.", p.rows),
            ("trucker_pipeline_batches_total", "Batches committed in the output.", p.batches),
            ("trucker_pipeline_retries_total", "New starts after errors that may pass.", p.retries),
            ("trucker_pipeline_failures_total", "Stops for errors that a person must mend.", p.failures),
            ("trucker_pipeline_skipped_total", "Changes passed over because somebody said so.", p.skipped),
            ("trucker_pipeline_dead_letters_total", "Changes put into trucker.dead_letters.", p.dead_letters),
        ] {
            self.counter(name, help, &its, count);
        }
    }

    fn source(&mut self, s: &SourceSnapshot) {
        let its = [("source", s.name.as_str())];
        let connected = f64::from(u8::from(s.connected));
        self.gauge("trucker_source_connected", "1 while the slot's stream is open.", &its, connected);
        let states = SOURCE_STATES.map(word);
        self.one_hot("trucker_source_state", "What the stream is at.", &its, &states, &word(s.state));
        if let Some(state) = &s.slot_state {
            let states = SLOT_STATES.map(str::to_owned);
            let help = "wal_status of the slot, or missing.";
            self.one_hot("trucker_source_slot_state", help, &its, &states, state);
        }
        let help = "Times that the stream broke and was opened anew.";
        self.counter("trucker_source_reconnects_total", help, &its, s.reconnects);
        self.counter("trucker_source_received_bytes_total", "Bytes of the stream.", &its, s.received_bytes);
        for (name, help, value) in [
            (
                "trucker_source_last_frame_age_seconds",
                "Since the server last said anything in the stream.",
                s.last_frame_seconds_ago,
            ),
            (
                "trucker_source_slot_lag_bytes",
                "WAL after what the slot was told.",
                s.slot_lag_bytes.map(|bytes| bytes as f64),
            ),
            (
                "trucker_source_wal_retained_bytes",
                "WAL that the server keeps for the slot.",
                s.wal_retained_bytes.map(|bytes| bytes as f64),
            ),
            (
                "trucker_source_wal_safe_bytes",
                "WAL that may still be written before the slot is in danger.",
                s.wal_safe_bytes.map(|bytes| bytes as f64),
            ),
            ("trucker_source_slot_age_seconds", "How old the figures of the slot are.", s.slot_seconds_ago),
        ] {
            if let Some(value) = value {
                self.gauge(name, help, &its, value);
            }
        }
    }

    fn one_hot(&mut self, name: &str, help: &str, labels: Labels<'_>, states: &[String], now: &str) {
        for state in states {
            let labels: Vec<(&str, &str)> =
                labels.iter().copied().chain([("state", state.as_str())]).collect();
            self.gauge(name, help, &labels, f64::from(u8::from(state == now)));
        }
    }

    fn gauge(&mut self, name: &str, help: &str, labels: Labels<'_>, value: f64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut metric = Metric::from_label(pairs(labels));
        metric.set_gauge(gauge);
        self.push(name, help, MetricType::GAUGE, metric);
    }

    fn counter(&mut self, name: &str, help: &str, labels: Labels<'_>, value: u64) {
        let mut counter = Counter::default();
        counter.set_value(value as f64);
        let mut metric = Metric::from_label(pairs(labels));
        metric.set_counter(counter);
        self.push(name, help, MetricType::COUNTER, metric);
    }

    fn histogram(&mut self, name: &str, help: &str, labels: Labels<'_>, from: &Histogram) {
        let buckets = from.buckets.iter().map(|(bound, count)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(*count);
            bucket
        });
        let mut histogram = prometheus::proto::Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(from.count);
        histogram.set_sample_sum(from.sum);
        let mut metric = Metric::from_label(pairs(labels));
        metric.set_histogram(histogram);
        self.push(name, help, MetricType::HISTOGRAM, metric);
    }

    fn push(&mut self, name: &str, help: &str, kind: MetricType, metric: Metric) {
        let (family, metrics) = self.0.entry(name.to_owned()).or_default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        metrics.push(metric);
    }
}

fn pairs(labels: Labels<'_>) -> Vec<LabelPair> {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    labels.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::snapshot::samples;

    #[test]
    fn names_with_quotes_and_newlines_stay_within_their_labels() {
        let text = encode(&samples::running(vec![samples::pipeline("a\"b\\c\nd")]));
        assert!(text.contains(r#"trucker_pipeline_lag_seconds{pipeline="a\"b\\c\nd"} 0"#), "{text}");
    }

    #[test]
    fn a_state_is_one_for_what_it_is_and_zero_for_the_rest() {
        let text = encode(&samples::running(vec![samples::failed("p", "m")]));
        for (state, value) in
            [("connecting", 0), ("backfilling", 0), ("following", 0), ("retrying", 0), ("failed", 1)]
        {
            let line = format!("trucker_pipeline_state{{pipeline=\"p\",state=\"{state}\"}} {value}\n");
            assert!(text.contains(&line), "{line} in {text}");
        }
    }
}
