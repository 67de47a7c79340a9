//! Break things, and see from each surface alone what is wrong, since when, and what to do.

use std::process::Command;
use std::time::Duration;

use trucker::sandbox::{ServerOptions, StopMode};

use super::harness::{Metrics, PATIENCE, Scenario, Trucker, config, eventually, holds_for, private_server};

fn metrics(trucker: &mut Trucker) -> Metrics {
    Metrics::parse(&trucker.get("/metrics").1)
}

fn state(trucker: &mut Trucker, pipeline: &str) -> String {
    metrics(trucker).state("trucker_pipeline_state", &format!("pipeline=\"{pipeline}\""))
}

fn lag(trucker: &mut Trucker, pipeline: &str) -> f64 {
    metrics(trucker).value(&format!("trucker_pipeline_lag_seconds{{pipeline=\"{pipeline}\"}}"))
}

#[track_caller]
fn until_state(trucker: &mut Trucker, pipeline: &str, wanted: &str) {
    let came = eventually(PATIENCE, || {
        trucker.get("/metrics").1.contains("trucker_pipeline_state{") && state(trucker, pipeline) == wanted
    });
    assert!(came, "{pipeline} never {wanted}: {}\n{}", trucker.get("/status").1, trucker.stderr());
}

#[test]
fn a_bad_row_shows_which_pipeline_failed_why_since_when_and_what_to_do() {
    let s = Scenario::new()
        .on_source("CREATE TABLE t (id int PRIMARY KEY, v text)")
        .on_output(
            "CREATE TABLE good (id int PRIMARY KEY, v text); CREATE TABLE bad (id int PRIMARY KEY, v int)",
        )
        .pipeline("good", &config("t", "good", &[]), &[])
        .pipeline(
            "bad",
            &config("t", "bad", &[]),
            &[
                ("transform.sql", "SELECT {{ row.id }} AS id,\n       {{ row.v }}::int AS v"),
                ("delete.sql", "SELECT {{ old.id }} AS id"),
            ],
        );
    let mut trucker = s.run();
    until_state(&mut trucker, "bad", "following");
    s.source.execute("INSERT INTO t VALUES (1, 'sesame opens')");
    until_state(&mut trucker, "bad", "failed");
    s.until_same(&mut trucker, "SELECT * FROM t", "SELECT * FROM good");
    let surfaces =
        ["/status", "/readyz", "/"].map(|path| trucker.get(path).1).into_iter().chain([trucker.stderr()]);
    for text in surfaces {
        for word in ["bad", "transform.sql", "22P02"] {
            assert!(text.contains(word), "no word on {word}: {text}");
        }
        assert!(!text.contains("sesame"), "a row's value was shown: {text}");
    }
    assert_eq!((trucker.get("/livez").0, trucker.get("/readyz").0), (200, 503));
    let m = metrics(&mut trucker);
    assert_eq!(m.value("trucker_pipeline_failures_total{pipeline=\"bad\"}"), 1.0);
    assert_eq!(m.value("trucker_ready"), 0.0);
    assert_eq!(m.state("trucker_pipeline_state", "pipeline=\"good\""), "following");
    let status = trucker.status();
    let bad = status["pipelines"].as_array().unwrap().iter().find(|p| p["name"] == "bad").unwrap();
    assert_eq!(bad["state"], "failed");
    assert!(
        bad["last_error"]["fix"].as_str().unwrap().contains(bad["loaded_lsn"].as_str().unwrap()),
        "{bad}"
    );
    assert!(trucker.get("/").1.contains("1 of 2 pipelines follow; bad is failed."));
    let before = lag(&mut trucker, "bad");
    assert!(eventually(PATIENCE, || lag(&mut trucker, "bad") >= before + 2.0), "its lag doesn't grow");
    assert!(eventually(PATIENCE, || lag(&mut trucker, "good") == 0.0), "the other one's does");
}

#[test]
fn an_output_that_is_down_shows_as_retrying_with_growing_lag_and_wal_that_is_kept() {
    let source = private_server(ServerOptions::default().set("max_slot_wal_keep_size", "1GB"));
    let mut output = private_server(ServerOptions::default());
    let s = Scenario::between(source.port(), output.port())
        .tables("CREATE TABLE t (id int PRIMARY KEY, v text)")
        .copies("t");
    let mut trucker = s.run();
    until_state(&mut trucker, "t", "following");
    let retained = |trucker: &mut Trucker| {
        metrics(trucker).get("trucker_source_wal_retained_bytes{source=\"source\"}").unwrap_or_default()
    };
    output.stop(StopMode::Immediate).unwrap();
    s.source.execute("INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1, 5000) i");
    until_state(&mut trucker, "t", "retrying");
    // However often it connects in vain, it is retrying and has been since it began.
    let since = trucker.status()["pipelines"][0]["since"].clone();
    assert!(holds_for(Duration::from_secs(2), || state(&mut trucker, "t") == "retrying"));
    assert!(eventually(PATIENCE, || lag(&mut trucker, "t") >= 4.0));
    assert_eq!(trucker.status()["pipelines"][0]["since"], since);
    assert!(eventually(PATIENCE, || retained(&mut trucker) > 5e6), "{}", trucker.get("/status").1);
    let m = metrics(&mut trucker);
    assert!(m.value("trucker_pipeline_retries_total{pipeline=\"t\"}") >= 1.0);
    assert!(m.value("trucker_pipeline_lag_bytes{pipeline=\"t\"}") > 5e6);
    assert!(m.value("trucker_source_slot_lag_bytes{source=\"source\"}") > 5e6);
    assert!(m.value("trucker_source_wal_safe_bytes{source=\"source\"}") > 5e8);
    assert_eq!(m.state("trucker_source_slot_state", "source=\"source\""), "reserved");
    assert_eq!(trucker.get("/livez").0, 200, "lag is no reason to be killed");
    let (status, why) = trucker.get("/readyz");
    assert!(status == 503 && why.contains("pipeline t is retrying: "), "{why}");
    assert!(trucker.get("/").1.contains("0 of 1 pipelines follow; t is retrying."));
    output.start_again().unwrap();
    until_state(&mut trucker, "t", "following");
    s.until_table_same(&mut trucker, "t");
    assert!(eventually(PATIENCE, || lag(&mut trucker, "t") == 0.0));
    assert_eq!(trucker.get("/readyz").0, 200);
    let status = trucker.status();
    assert!(status["pipelines"][0]["last_error"]["message"].is_string(), "what it was can be seen: {status}");
}

/// A pipeline whose backfill takes some 15 s: 1500 rows, with 10 ms of SQL and a kilobyte each.
fn slow_backfill() -> Scenario {
    let s = Scenario::new().tables("CREATE TABLE t (id int PRIMARY KEY, v text)").pipeline(
        "t",
        &config("t", "t", &[]),
        &[
            ("transform.sql", "SELECT {{ row.id }} AS id, {{ row.v }} || pg_sleep(0.01)::text AS v"),
            ("delete.sql", "SELECT {{ old.id }} AS id"),
        ],
    );
    s.source.execute("INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1, 1500) i; ANALYZE t");
    s
}

#[test]
fn a_backfill_shows_its_rows_with_an_estimate() {
    let s = slow_backfill();
    let mut trucker = s.run();
    until_state(&mut trucker, "t", "backfilling");
    let rows = |trucker: &mut Trucker| {
        metrics(trucker).get("trucker_pipeline_backfill_rows{pipeline=\"t\"}").unwrap_or_default()
    };
    assert!(eventually(PATIENCE, || rows(&mut trucker) >= 100.0));
    let m = metrics(&mut trucker);
    assert_eq!(m.value("trucker_pipeline_backfill_rows_estimate{pipeline=\"t\"}"), 1500.0);
    assert!(m.value("trucker_pipeline_backfill_rows{pipeline=\"t\"}") < 1500.0);
    let page = trucker.get("/").1;
    assert!(page.contains(" of ~1,500 rows") && page.contains("<progress"), "{page}");
    assert_eq!(trucker.get("/readyz"), (503, "pipeline t is backfilling\n".to_owned()));
    trucker.until_said("\"backfilling\"");
    let stderr = trucker.stderr();
    let line = stderr.lines().find(|line| line.contains("\"backfilling\"")).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!((&line["pipeline"], &line["rows_estimate"]), (&"t".into(), &1500.into()));
    until_state(&mut trucker, "t", "following");
    assert!(eventually(PATIENCE, || lag(&mut trucker, "t") == 0.0));
}

#[test]
fn a_terminal_shows_a_bar_for_a_backfill_then_a_line_with_rate_and_lag_and_log_lines_stay_whole() {
    let s = slow_backfill();
    let typescript = s.dir().with_file_name("typescript");
    let command = format!(
        "stty cols 120 rows 40; exec {} run {} --http off",
        env!("CARGO_BIN_EXE_trucker"),
        s.dir().display()
    );
    let mut script = Command::new("script")
        .args(["-q", "-f", "-e", "-c", &command])
        .arg(&typescript)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .env("TERM", "xterm")
        .spawn()
        .unwrap();
    let shown = || String::from_utf8_lossy(&std::fs::read(&typescript).unwrap_or_default()).into_owned();
    let has_bar = eventually(PATIENCE, || shown().contains("░") && shown().contains(" of ~1,500 rows"));
    let has_line = has_bar && eventually(PATIENCE, || shown().contains("lag 0 s"));
    script.kill().ok();
    script.wait().ok();
    assert!(has_bar && has_line, "{}", shown());
    let logged: Vec<String> =
        shown().lines().filter(|line| line.contains("backfill done")).map(str::to_owned).collect();
    assert_eq!(logged.len(), 1, "{}", shown());
    assert!(!logged[0].contains('█') && !logged[0].contains("lag "), "a line is garbled: {logged:?}");
}
