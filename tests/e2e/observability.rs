//! What a run shows of itself at its address: right numbers, in the right form, and nothing that it shouldn't.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use super::harness::{Metrics, PATIENCE, Scenario, Trucker, config, eventually, holds_for};

fn copying() -> Scenario {
    Scenario::new().tables("CREATE TABLE t (id int PRIMARY KEY, v text)").copies("t")
}

fn metrics(trucker: &mut Trucker) -> Metrics {
    Metrics::parse(&trucker.get("/metrics").1)
}

fn until_ready(trucker: &mut Trucker) {
    let came = eventually(PATIENCE, || trucker.get("/readyz").0 == 200);
    assert!(came, "never ready: {}\n{}", trucker.get("/readyz").1, trucker.stderr());
}

#[test]
fn changes_are_counted_by_operation_once_they_are_loaded() {
    let s = copying();
    s.source.execute("INSERT INTO t SELECT i, 'before' FROM generate_series(1, 40) i");
    let mut trucker = s.run();
    until_ready(&mut trucker);
    s.source.execute("INSERT INTO t VALUES (101, 'a'), (102, 'b'), (103, 'c')");
    s.source.execute("UPDATE t SET v = 'd' WHERE id IN (101, 102)");
    s.source.execute("DELETE FROM t WHERE id = 103");
    s.until_table_same(&mut trucker, "t");
    let count = |m: &Metrics, operation: &str| {
        m.value(&format!("trucker_pipeline_changes_total{{pipeline=\"t\",operation=\"{operation}\"}}"))
    };
    assert!(eventually(PATIENCE, || count(&metrics(&mut trucker), "delete") == 1.0));
    let m = metrics(&mut trucker);
    assert_eq!([count(&m, "insert"), count(&m, "update"), count(&m, "truncate")], [3.0, 2.0, 0.0]);
    assert_eq!(m.value("trucker_pipeline_rows_total{pipeline=\"t\"}"), 5.0);
    assert_eq!(m.value("trucker_pipeline_backfill_rows{pipeline=\"t\"}"), 40.0);
    let batches = m.value("trucker_pipeline_batches_total{pipeline=\"t\"}");
    for stage in ["sql", "write", "commit"] {
        let series =
            format!("trucker_pipeline_stage_duration_seconds_count{{pipeline=\"t\",stage=\"{stage}\"}}");
        assert_eq!(m.value(&series), batches, "{stage}");
    }
    assert!((1.0..=3.0).contains(&batches), "{batches}");
    assert!(m.value("trucker_source_received_bytes_total{source=\"source\"}") > 100.0);
    assert!(m.value("process_resident_memory_bytes") > 1e6);
    assert_eq!(m.state("trucker_run_state", ""), "running");
    let status = trucker.status();
    assert_eq!(status["pipelines"][0]["changes"]["insert"], 3);
    assert_eq!(status["pipelines"][0]["backfill"]["is_done"], true);
    assert_eq!(status["sources"][0]["slot"], s.slot());
}

#[test]
fn an_idle_source_has_no_lag_and_it_stays_so() {
    let s = copying();
    let mut trucker = s.run();
    until_ready(&mut trucker);
    let lag = |trucker: &mut Trucker| metrics(trucker).value("trucker_pipeline_lag_seconds{pipeline=\"t\"}");
    assert!(eventually(PATIENCE, || lag(&mut trucker) == 0.0));
    // What others write isn't the pipeline's, and not lag either.
    s.source.execute("CREATE TABLE other (id int); INSERT INTO other SELECT generate_series(1, 1000)");
    let is_idle = holds_for(Duration::from_secs(16), || lag(&mut trucker) == 0.0);
    assert!(is_idle, "{}", trucker.get("/status").1);
}

#[test]
fn a_status_of_everything_is_json_and_a_page_is_html_without_a_script_in_it() {
    let s = copying();
    let mut trucker = s.run();
    until_ready(&mut trucker);
    for (path, content_type) in [
        ("/", "text/html; charset=utf-8"),
        ("/page.css", "text/css; charset=utf-8"),
        ("/page.js", "text/javascript; charset=utf-8"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
        ("/status", "application/json"),
        ("/livez", "text/plain; charset=utf-8"),
    ] {
        let (status, head, body) = trucker.request("GET", path);
        assert_eq!(status, 200, "{path}");
        let head = head.to_lowercase();
        assert!(head.contains(&format!("content-type: {content_type}")), "{path}: {head}");
        assert!(head.contains("content-security-policy: default-src 'none'"), "{path}: {head}");
        assert!(!body.is_empty());
        let (status, _, body) = trucker.request("HEAD", path);
        assert_eq!((status, body.as_str()), (200, ""), "{path}");
    }
    let page = trucker.get("/").1;
    assert!(page.contains("All 1 pipelines follow.") && page.contains("following"), "{page}");
    assert!(!page.contains("<style") && !page.contains("style=") && !page.contains("onclick"), "{page}");
    let scripts: Vec<&str> = page.match_indices("<script").map(|(at, _)| &page[at..at + 30]).collect();
    assert_eq!(scripts, ["<script src=\"/page.js\" defer></"], "{page}");
}

#[test]
fn only_small_and_quick_requests_to_read_are_answered() {
    let s = copying();
    let mut trucker = s.run();
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let (status, head, _) = trucker.request(method, "/status");
        assert_eq!(status, 405, "{method}");
        assert!(head.to_lowercase().contains("allow: get, head"), "{head}");
    }
    assert_eq!(trucker.get("/../../etc/passwd").0, 404);
    assert_eq!(trucker.get("/<script>alert(1)</script>").1.matches("<script").count(), 0);
    let address = trucker.address();
    let mut large = TcpStream::connect(&address).unwrap();
    large.set_read_timeout(Some(PATIENCE)).unwrap();
    // The server may hang up before it has read all of it.
    large
        .write_all(format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(200_000)).as_bytes())
        .ok();
    let mut answer = Vec::new();
    large.read_to_end(&mut answer).ok();
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    let mut slow = TcpStream::connect(&address).unwrap();
    slow.set_read_timeout(Some(PATIENCE)).unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nHost:").unwrap();
    answer.clear();
    slow.read_to_end(&mut answer).expect("the server ends the conversation");
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
    assert_eq!(trucker.get("/livez").0, 200);
}

#[test]
fn an_address_that_is_taken_is_an_error_where_it_was_asked_for_and_a_warning_where_not() {
    let s = copying();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let dir = s.dir();
    let dir = dir.to_str().unwrap();
    let finished = s.start(&["run", dir, "--http", &address]).wait();
    assert_eq!(finished.code, Some(2), "{}", finished.text());
    assert!(finished.stderr.contains(&address) && finished.stderr.contains("--http"), "{}", finished.stderr);
    s.assert_nothing_created();
    // Somebody else on this machine may have it already, which does as well.
    let _default = TcpListener::bind("127.0.0.1:8484");
    let finished = s.start(&["run", dir, "--once"]).wait();
    assert_eq!(finished.code, Some(0), "{}", finished.text());
    assert!(finished.stderr.contains("http_unavailable"), "{}", finished.stderr);
}

#[test]
fn a_process_that_stands_by_is_live_and_not_ready() {
    let s = copying();
    let mut first = s.run();
    until_ready(&mut first);
    let mut second = s.run();
    second.until_said("standing_by");
    assert_eq!(second.get("/livez").0, 200);
    let (status, why) = second.get("/readyz");
    assert_eq!(status, 503);
    assert!(why.contains("standby"), "{why}");
    assert_eq!(metrics(&mut second).state("trucker_run_state", ""), "standby");
    assert!(second.get("/").1.contains("Another process has the project"));
    first.terminate();
    until_ready(&mut second);
}

#[test]
fn every_log_line_is_an_object_with_an_event() {
    let s = copying();
    let mut trucker = s.run();
    until_ready(&mut trucker);
    let finished = trucker.terminate();
    for line in finished.stderr.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
        assert!(line["event"].is_string() && line["message"].is_string(), "{line}");
    }
}

#[test]
fn slow_sql_is_told_with_its_pipeline_and_file_on_both_sides() {
    let s = Scenario::new()
        .on_source("CREATE TABLE t (id int PRIMARY KEY, v text)")
        .on_output("CREATE TABLE seen (id int)")
        .pipeline(
            "slow",
            &config("t", "seen", &["on: {truncate: ignore}"]),
            &[
                (
                    "transform.sql",
                    "SELECT {{ row.id }} AS id, pg_sleep(0.2)::text AS waited, {{ row.v }} AS v",
                ),
                ("load.sql", "INSERT INTO seen SELECT id FROM {{ rows }}, pg_sleep(0.2)"),
            ],
        );
    let dir = s.dir();
    let args = ["run", dir.to_str().unwrap(), "--http", "127.0.0.1:0", "--slow-query", "150ms"];
    let mut trucker = s.start(&args);
    until_ready(&mut trucker);
    s.source.execute("INSERT INTO t VALUES (1, 'a value that nobody should see')");
    for (file, connection) in [("slow/transform.sql", "source"), ("slow/load.sql", "output")] {
        let path = format!("{}/{file}", s.dir().display());
        let is_told = |line: &serde_json::Value| {
            line["event"] == "slow_query"
                && line["pipeline"] == "slow"
                && line["file"] == path.as_str()
                && line["connection"] == connection
                && line["seconds"].as_f64().is_some_and(|seconds| seconds >= 0.15)
        };
        let came = eventually(PATIENCE, || {
            let stderr = trucker.stderr();
            stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).any(|line| is_told(&line))
        });
        assert!(came, "{file}: {}", trucker.stderr());
    }
    assert!(!trucker.stderr().contains("nobody should see"));
}
