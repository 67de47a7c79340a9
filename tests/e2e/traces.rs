//! Traces: what a collector is sent, and that a collector which isn't there disturbs nothing. The collector is a small
//! HTTP server of this test's.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use super::harness::{PATIENCE, Scenario, config, eventually};

const TOKEN: &str = "c0llector-t0ken";
const MARKER: &str = "s3cret-value";

/// Head and body of a request.
type Post = (String, Vec<u8>);

/// What was posted.
#[derive(Clone, Default)]
struct Posts(Arc<Mutex<Vec<Post>>>);

impl Posts {
    fn all(&self) -> Vec<Post> {
        self.0.lock().unwrap().clone()
    }

    fn requests(&self) -> Vec<ExportTraceServiceRequest> {
        self.all()
            .iter()
            .map(|(_, body)| ExportTraceServiceRequest::decode(body.as_slice()).unwrap())
            .collect()
    }

    fn spans(&self) -> Vec<Span> {
        let resources = self.requests().into_iter().flat_map(|request| request.resource_spans);
        resources.flat_map(|r| r.scope_spans).flat_map(|s| s.spans).collect()
    }

    fn of_kind(&self, name: &str) -> Vec<Span> {
        self.spans().into_iter().filter(|span| span.name == name).collect()
    }
}

/// A collector on a port of its own, for as long as the test runs.
fn collector(answer: &'static str) -> (Posts, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let posts = Posts::default();
    let kept = posts.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let posts = kept.clone();
            thread::spawn(move || while receive(&stream, &posts, answer).is_some() {});
        }
    });
    (posts, format!("http://{address}"))
}

fn receive(mut stream: &TcpStream, posts: &Posts, answer: &str) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let start = head.len();
        reader.read_line(&mut head).ok().filter(|read| *read > 0)?;
        let line = head[start..].trim().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    posts.0.lock().unwrap().push((head, body));
    stream.write_all(format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n").as_bytes()).ok()
}

fn attributes(all: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Option<AnyValue>| match value.as_ref().and_then(|value| value.value.clone()) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    all.iter().map(|pair| (pair.key.clone(), text(&pair.value))).collect()
}

/// A pipeline whose rows hold [`MARKER`], with a name and SQL of its own, traced to that collector.
fn traced(endpoint: &str) -> Scenario {
    Scenario::new()
        .variable("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .variable("OTEL_EXPORTER_OTLP_HEADERS", &format!("authorization=Bearer%20{TOKEN}"))
        .variable("OTEL_BSP_SCHEDULE_DELAY", "50")
        .variable("RUST_LOG", "debug")
        .on_source("CREATE TABLE t (id int PRIMARY KEY, v text)")
        .on_output("CREATE TABLE u (id int PRIMARY KEY, v text CHECK (v <> 'bad'))")
        .pipeline(
            "traced",
            &config("t", "u", &[]),
            &[("transform.sql", "SELECT row.id, lower(row.v) || 'sql-t3xt' AS v")],
        )
}

#[test]
fn a_batch_is_a_span_with_its_sql_its_writes_and_its_commit_below_it() {
    let (posts, endpoint) = collector("200 OK");
    let s = traced(&endpoint).variable("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test");
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    s.source.execute(&format!("INSERT INTO t SELECT n, '{MARKER}' FROM generate_series(1, 3) n"));
    trucker.until("a batch's span", || !posts.of_kind("batch").is_empty());
    let finished = trucker.terminate();
    let batches = posts.of_kind("batch");
    assert_eq!(batches.len(), 1, "{batches:#?}");
    let of_batch = attributes(&batches[0].attributes);
    assert_eq!(of_batch["trucker.pipeline"], "traced");
    assert_eq!(of_batch["trucker.project"], s.name);
    assert_eq!((of_batch["trucker.changes"].as_str(), of_batch["trucker.transactions"].as_str()), ("3", "1"));
    assert!(of_batch["trucker.end_lsn"].contains('/'), "{of_batch:?}");
    let mut children: Vec<Span> =
        posts.spans().into_iter().filter(|span| span.parent_span_id == batches[0].span_id).collect();
    children.sort_by_key(|span| span.start_time_unix_nano);
    let names: Vec<&str> = children.iter().map(|span| span.name.as_str()).collect();
    let commit = format!("COMMIT {}", s.output.name);
    let begin = format!("BEGIN {}", s.source.name);
    assert_eq!(names, [begin.as_str(), "SELECT public.t", "INSERT public.u", &commit]);
    for (span, database) in children.iter().zip([&s.source, &s.source, &s.output, &s.output]) {
        let of = attributes(&span.attributes);
        assert_eq!(of["db.system.name"], "postgresql");
        assert_eq!(of["db.namespace"], database.name);
        assert_eq!(
            (of["server.address"].as_str(), of["server.port"].as_str()),
            ("127.0.0.1", &*database.port.to_string())
        );
        assert_eq!(of["trucker.pipeline"], "traced");
        assert!(span.name.starts_with(&of["db.operation.name"]), "{}", span.name);
        assert_eq!((span.kind, span.status.clone().unwrap_or_default().code), (3, 0), "a client's, and well");
        assert!(span.end_time_unix_nano <= batches[0].end_time_unix_nano, "{} outlives its batch", span.name);
        let known =
            |key: &str| key.starts_with("db.") || key.starts_with("server.") || key.starts_with("trucker.");
        assert!(of.keys().all(|key| known(key)), "{of:?}");
    }
    let select = attributes(&children[1].attributes);
    assert_eq!(select["db.collection.name"], "public.t");
    assert_eq!((select["trucker.operation"].as_str(), select["trucker.changes"].as_str()), ("insert", "3"));
    assert_eq!(attributes(&children[2].attributes)["trucker.rows"], "3");
    assert_eq!(attributes(&children[3].attributes)["trucker.loaded_lsn"], of_batch["trucker.end_lsn"]);
    let resource = posts.requests()[0].resource_spans[0].resource.clone().unwrap();
    let resource = attributes(&resource.attributes);
    assert_eq!(resource["service.name"], "trucker");
    assert_eq!(resource["deployment.environment.name"], "test");
    let (head, _) = &posts.all()[0];
    assert!(head.starts_with("POST /v1/traces HTTP/1.1"), "{head}");
    assert!(head.to_ascii_lowercase().contains(&format!("authorization: bearer {TOKEN}")), "{head}");
    assert!(!finished.text().contains(TOKEN), "{}", finished.text());
    assert_nothing_is_told(&posts);
}

#[track_caller]
fn assert_nothing_is_told(posts: &Posts) {
    for (_, body) in posts.all() {
        let text = String::from_utf8_lossy(&body);
        for secret in [MARKER, "sql-t3xt", TOKEN] {
            assert!(!text.contains(secret), "{secret} was sent: {text}");
        }
    }
}

#[test]
fn a_backfill_is_a_span_with_what_it_copied_and_its_commit() {
    let (posts, endpoint) = collector("200 OK");
    let s = traced(&endpoint).variable("OTEL_SERVICE_NAME", "shop-trucker");
    s.source.execute(&format!("INSERT INTO t SELECT n, '{MARKER}' FROM generate_series(1, 5) n"));
    s.once();
    let backfills = posts.of_kind("backfill");
    assert_eq!(backfills.len(), 1);
    let copy = &posts.of_kind("COPY public.t")[0];
    assert_eq!(copy.parent_span_id, backfills[0].span_id);
    assert_eq!(attributes(&copy.attributes)["trucker.rows"], "5");
    let commits = posts.of_kind(&format!("COMMIT {}", s.output.name));
    assert!(commits.iter().any(|commit| commit.parent_span_id == backfills[0].span_id));
    let resource = posts.requests()[0].resource_spans[0].resource.clone().unwrap();
    assert_eq!(attributes(&resource.attributes)["service.name"], "shop-trucker");
    assert_nothing_is_told(&posts);
}

#[test]
fn what_fails_is_marked_with_the_servers_code_and_not_its_words() {
    let (posts, endpoint) = collector("200 OK");
    let s = traced(&endpoint);
    s.once();
    s.output.execute("ALTER TABLE u ADD CHECK (v NOT LIKE '%sql-t3xt')");
    s.source.execute(&format!("INSERT INTO t VALUES (1, '{MARKER}')"));
    s.once_fails(1);
    let failed: Vec<Span> =
        posts.spans().into_iter().filter(|s| s.status.clone().unwrap_or_default().code == 2).collect();
    let writes: Vec<&Span> = failed.iter().filter(|span| span.name == "INSERT public.u").collect();
    assert!(!writes.is_empty(), "{failed:#?}");
    let of = attributes(&writes[0].attributes);
    assert_eq!((of["error.type"].as_str(), of["db.response.status_code"].as_str()), ("23514", "23514"));
    assert!(failed.iter().any(|span| span.name == "batch" && span.span_id == writes[0].parent_span_id));
    assert_nothing_is_told(&posts);
}

#[test]
fn a_collector_that_is_gone_or_refuses_or_never_answers_disturbs_nothing() {
    let (_, refusing) = collector("503 Service Unavailable");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (endpoint, words) in [
        (refusing, "503"),
        (format!("http://{}", silent.local_addr().unwrap()), ""),
        (format!("http://{closed}"), "refused"),
    ] {
        let s = traced(&endpoint);
        s.source.execute("INSERT INTO t VALUES (1, 'x')");
        let mut trucker = s.run();
        s.until_following(&mut trucker, 1);
        for n in 2..6 {
            s.source.execute(&format!("INSERT INTO t VALUES ({n}, 'x')"));
            s.until_same(&mut trucker, "SELECT id FROM t", "SELECT id FROM u");
        }
        if !words.is_empty() {
            trucker.until_said("traces_lost");
        }
        let begun = Instant::now();
        let finished = trucker.terminate();
        assert!(begun.elapsed() < Duration::from_secs(10), "it waited for {endpoint}");
        let told = finished.stderr.lines().filter(|line| line.contains("traces_lost")).count();
        assert!(told <= 1, "told {told} times\n{}", finished.stderr);
        assert!(finished.stderr.contains(words), "{}", finished.stderr);
        assert!(!finished.stderr.contains(TOKEN), "{}", finished.stderr);
    }
}

#[test]
fn a_wrong_setting_is_told_and_the_rows_are_loaded_all_the_same() {
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "not a url"),
    ] {
        let s = traced("http://127.0.0.1:9").variable(name, value);
        s.source.execute("INSERT INTO t VALUES (1, 'x')");
        let finished = s.once();
        assert!(finished.stderr.contains("traces_off"), "{name}\n{}", finished.stderr);
        assert_eq!(s.output.number("SELECT count(*) FROM u"), 1);
    }
}

#[test]
fn nothing_is_sent_where_nobody_asked_for_it() {
    let (posts, endpoint) = collector("200 OK");
    let s = traced(&endpoint).variable("OTEL_SDK_DISABLED", "true");
    s.source.execute("INSERT INTO t VALUES (1, 'x')");
    s.once();
    let s = traced("");
    s.once();
    assert!(!eventually(PATIENCE / 100, || !posts.all().is_empty()));
}
