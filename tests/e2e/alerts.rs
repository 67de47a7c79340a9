//! The shipped alerts, on what a run in trouble really shows: its /metrics, frozen as they are for an hour, are put to
//! Prometheus's own evaluation, and exactly those alerts fire that should.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use trucker::sandbox::{ServerOptions, StopMode};

use super::harness::{
    PATIENCE, Scenario, Trucker, eventually, output_server, private_server, promtool, source_server,
};

fn scenario() -> Scenario {
    Scenario::new().tables("CREATE TABLE t (id int PRIMARY KEY, v text)").copies("t")
}

/// The rules that are shipped.
fn rules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/prometheus/alerts.yml")
}

/// What a process shows now, as series that stay so for an hour, as far as rules name them. Times of day become times before
/// the hour's begin.
fn series(trucker: &mut Trucker) -> String {
    let (status, text) = trucker.get("/metrics");
    assert_eq!(status, 200, "{text}");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let mut series = "      - {series: 'up{job=\"shop\", instance=\"here\"}', values: '1x240'}\n".to_owned();
    let rules = fs::read_to_string(rules()).unwrap();
    let is_named = |line: &&str| rules.contains(line.split(['{', ' ']).next().unwrap());
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).filter(is_named) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        let value: f64 = value.parse().unwrap();
        let value = if name.contains("_timestamp_seconds") || name.contains("start_time") {
            value - now
        } else {
            value
        };
        let name = match name.strip_suffix('}') {
            Some(name) => format!("{name},job=\"shop\",instance=\"here\"}}"),
            None => format!("{name}{{job=\"shop\",instance=\"here\"}}"),
        };
        series += &format!("      - {{series: '{name}', values: '{value:.3}x240'}}\n");
    }
    series
}

/// Has Prometheus read these series every 15 s, look at its rules every minute, and say which alerts fire an hour later.
#[track_caller]
fn assert_firing(series: &str, expected: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let mut samples = String::new();
    for name in expected.iter().collect::<BTreeSet<_>>() {
        samples += &format!("          - {{labels: '{{alertname=\"{name}\"}}', value: 1}}\n");
    }
    let text = format!(
        "rule_files: ['{}']\nevaluation_interval: 1m\ntests:\n  - interval: 15s\n    input_series:\n{series}    \
         promql_expr_test:\n      - expr: 'count by (alertname) (ALERTS{{alertstate=\"firing\"}}) > bool 0'\n        \
         eval_time: 1h\n        exp_samples:\n{samples}",
        rules().display()
    );
    if let Err(printed) = promtool("test", folder.path(), &text) {
        panic!("{printed}\nof\n{series}");
    }
}

/// Waits until a series has a value that will do.
#[track_caller]
fn until(trucker: &mut Trucker, series: &str, is_it: impl Fn(f64) -> bool) {
    let mut seen = String::new();
    let came_true = eventually(PATIENCE, || {
        seen = trucker.get("/metrics").1;
        let value = seen.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
        value.is_some_and(&is_it)
    });
    assert!(came_true, "{series} never came to that\n{seen}\n{}", trucker.stderr());
}

fn state(pipeline: &str, state: &str) -> String {
    format!("trucker_pipeline_state{{pipeline=\"{pipeline}\",state=\"{state}\"}}")
}

#[track_caller]
fn until_well(trucker: &mut Trucker) {
    until(trucker, &state("t", "following"), |value| value == 1.0);
    until(trucker, "trucker_source_connected{source=\"source\"}", |value| value == 1.0);
    until(trucker, "trucker_pipeline_lag_seconds{pipeline=\"t\"}", |value| value == 0.0);
}

#[test]
fn a_run_that_is_well_fires_nothing() {
    let s = scenario();
    s.source.execute("INSERT INTO t VALUES (1, 'a')");
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    until_well(&mut trucker);
    assert_firing(&series(&mut trucker), &[]);
}

#[test]
fn a_pipeline_that_failed_fires_for_itself_and_for_its_lag() {
    let s = scenario().tables("CREATE TABLE well (id int PRIMARY KEY)").copies("well");
    s.output.execute("ALTER TABLE t ADD CHECK (v <> 'bad')");
    let mut trucker = s.run();
    s.until_following(&mut trucker, 2);
    until_well(&mut trucker);
    s.source.execute("INSERT INTO t VALUES (1, 'bad')");
    until(&mut trucker, &state("t", "failed"), |value| value == 1.0);
    until(&mut trucker, "trucker_pipeline_lag_seconds{pipeline=\"t\"}", |value| value > 0.0);
    let seen = series(&mut trucker);
    assert_firing(&seen, &["TruckerPipelineFailed"]);
    // Nobody acts: its lag grows with the clock.
    let later = with(&seen, "trucker_pipeline_lag_seconds{pipeline=\"t\"", "0+15x240");
    assert_firing(&later, &["TruckerPipelineFailed", "TruckerLagging"]);
}

/// The same, but for the values of one series.
fn with(series: &str, of: &str, values: &str) -> String {
    let alter = |line: &str| match line.split_once(", values: '") {
        Some((name, _)) if name.contains(of) => format!("{name}, values: '{values}'}}\n"),
        _ => format!("{line}\n"),
    };
    let altered: String = series.lines().map(alter).collect();
    assert_ne!(altered, series, "there is no series {of}");
    altered
}

#[test]
fn an_output_that_is_down_fires_for_retries() {
    let mut output = private_server(ServerOptions::default());
    let s = Scenario::between(source_server().port(), output.port());
    let s = s.tables("CREATE TABLE t (id int PRIMARY KEY, v text)").copies("t");
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    until_well(&mut trucker);
    output.stop(StopMode::Immediate).unwrap();
    s.source.execute("INSERT INTO t VALUES (1, 'a')");
    until(&mut trucker, &state("t", "retrying"), |value| value == 1.0);
    assert_firing(&series(&mut trucker), &["TruckerPipelineRetrying"]);
    output.start_again().unwrap();
    s.until_table_same(&mut trucker, "t");
    until_well(&mut trucker);
    assert_firing(&series(&mut trucker), &[]);
}

#[test]
fn a_source_that_is_gone_fires() {
    let mut source = private_server(ServerOptions::default());
    let s = Scenario::between(source.port(), output_server().port());
    let s = s.tables("CREATE TABLE t (id int PRIMARY KEY, v text)").copies("t");
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    until_well(&mut trucker);
    source.stop(StopMode::Immediate).unwrap();
    until(&mut trucker, "trucker_source_connected{source=\"source\"}", |value| value == 0.0);
    // Nobody can read the slot's figures meanwhile.
    let later = with(&series(&mut trucker), "trucker_source_slot_age_seconds{", "0+15x240");
    assert_firing(&later, &["TruckerSourceDisconnected", "TruckerSlotUnknown"]);
    source.start_again().unwrap();
}

#[test]
fn a_slot_that_its_source_may_lose_fires_before_it_does() {
    let source = private_server(ServerOptions::default().set("max_slot_wal_keep_size", "64MB"));
    let s = Scenario::between(source.port(), output_server().port());
    let s = s.tables("CREATE TABLE t (id int PRIMARY KEY, v text)").copies("t");
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    until_well(&mut trucker);
    until(&mut trucker, "trucker_source_wal_safe_bytes{source=\"source\"}", |value| value > 0.0);
    // 64 MB is less than the 2 GiB that the rule asks for, from the start.
    assert_firing(&series(&mut trucker), &["TruckerSlotInDanger"]);
    let shrinking = with(&series(&mut trucker), "trucker_source_wal_safe_bytes{", "9000000000-20000000x240");
    assert_firing(&shrinking, &["TruckerSlotWillBeLost"]);
}

/// What a whole hour of trouble would show, of which a test can't wait for: one series of a run that is well, altered.
#[test]
fn whatever_goes_wrong_with_a_single_number_fires_its_alert() {
    let s = scenario();
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    until_well(&mut trucker);
    let well = series(&mut trucker);
    let cases: [(&str, &str, &[&str]); 8] = [
        ("trucker_pipeline_lag_seconds{", "0+15x240", &["TruckerLagging", "TruckerNoProgress"]),
        ("trucker_pipeline_retries_total{", "0+1x240", &["TruckerPipelineRetrying"]),
        ("trucker_pipeline_dead_letters_total{", "0+1x240", &["TruckerDeadLetters"]),
        ("trucker_source_last_frame_age_seconds{", "0+15x240", &["TruckerSourceSilent"]),
        ("trucker_source_wal_retained_bytes{", "11000000000x240", &["TruckerSlotRetainsWal"]),
        ("trucker_source_slot_state{source=\"source\",state=\"lost\"", "1x240", &["TruckerSlotLost"]),
        ("trucker_source_slot_age_seconds{", "0+15x240", &["TruckerSlotUnknown"]),
        ("process_start_time_seconds{", "0+60x240", &["TruckerRestarts"]),
    ];
    for (of, values, expected) in cases {
        assert_firing(&with(&well, of, values), expected);
    }
    let filling = with(&well, "trucker_pipeline_state{pipeline=\"t\",state=\"backfilling\"", "1x240");
    assert_firing(&filling, &["TruckerBackfillStalls"]);
    let since = with(&filling, "trucker_pipeline_state_since_timestamp_seconds{", "-30000x240");
    assert_firing(&since, &["TruckerBackfillStalls", "TruckerBackfillLong"]);
}

#[test]
fn a_project_that_nobody_runs_fires_and_so_does_one_that_is_not_there() {
    let s = scenario();
    let mut first = s.run();
    s.until_following(&mut first, 1);
    until_well(&mut first);
    let mut second = s.run();
    until(&mut second, "trucker_run_state{state=\"standby\"}", |value| value == 1.0);
    assert_firing(&series(&mut second), &["TruckerNobodyRuns"]);
    let both = series(&mut first).replace("\"here\"", "\"there\"") + &series(&mut second);
    assert_firing(&both, &[]);
    assert_firing("      - {series: 'up{job=\"else\"}', values: '1x240'}\n", &["TruckerAbsent"]);
    let gone = series(&mut first).replace("x240'", "x40'").replacen("'1x40'", "'1x40 0x200'", 1);
    assert_firing(&gone, &["TruckerAbsent", "TruckerDown"]);
}
