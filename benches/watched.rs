//! What it costs to be watched: the same work with nothing turned on, and with everything: a page that is scraped each second, log
//! lines as JSON, a collector of traces. Turn by turn, on one project.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::Effort;
use crate::catch_up::{ORDERS, STEP, Work, mark, one_by_one, orders};
use crate::consumer::{Consumer, Cost, cost, wait_for};
use crate::harness::Trucker;
use crate::report::Report;
use crate::world::{Servers, World};

/// A large transaction of inserts, and very many of one row: few large batches, and many small ones.
pub fn play(servers: &Servers, effort: Effort, report: &mut Report) {
    let (inserts, tiny) = (effort.of(500_000), effort.of(100_000));
    measure(
        servers,
        effort,
        report,
        "watched_inserts",
        inserts,
        Box::new(move |n| vec![orders(n * STEP, inserts)]),
    );
    measure(servers, effort, report, "watched_tiny", tiny, Box::new(move |n| one_by_one(n, tiny)));
}

fn measure(servers: &Servers, effort: Effort, report: &mut Report, name: &str, changes: u64, work: Work) {
    let world = World::new(servers, ORDERS);
    world.pipeline("orders", &[], &[]);
    report.scenario(name, changes as f64, "changes", &[]);
    Consumer::Trucker.attach(&world, servers, "orders");
    let collector = collector();
    for repetition in 0..effort.repetitions * 2 {
        let n = repetition as u64 + 1;
        work(n).iter().for_each(|statement| world.source.execute(statement));
        let last = mark(&world, n);
        // One, the other, the other, one.
        let is_watched = (repetition + repetition / 2) % 2 == 1;
        let who = if is_watched { "trucker, watched" } else { "trucker" };
        report.add(who, catch_up(&world, is_watched.then_some(collector.as_str()), &last));
    }
}

/// How long it takes for what has piled up; watched where there is a collector.
fn catch_up(world: &World, collector: Option<&str>, is_there: &str) -> Cost {
    let dir = world.dir();
    let run = ["run", dir.to_str().expect("a path in UTF-8"), "--http"];
    let variables = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
    };
    let started = Instant::now();
    let Some(collector) = collector else {
        let arguments = [&run[..], &["off"]].concat();
        let trucker = Trucker::start(&world.logs(), &arguments, &variables(&[("RUST_LOG", "off")]));
        let seconds = wait_for(&world.trucker_output, is_there, started, Some(&trucker));
        return cost(trucker, seconds);
    };
    let arguments = [&run[..], &["127.0.0.1:0", "--log-format", "json"]].concat();
    let on = variables(&[("RUST_LOG", "info"), ("OTEL_EXPORTER_OTLP_ENDPOINT", collector)]);
    let mut trucker = Trucker::start(&world.logs(), &arguments, &on);
    let (stop, scraper) = scrape(trucker.address());
    let seconds = wait_for(&world.trucker_output, is_there, started, Some(&trucker));
    drop(stop);
    let scrapes = scraper.join().expect("the page answers");
    assert!(scrapes >= seconds as usize, "{scrapes} scrapes in {seconds} s");
    cost(trucker, seconds)
}

/// Reads the metrics each second, as Prometheus would, until what it answers is dropped; how often.
fn scrape(address: String) -> (Sender<()>, JoinHandle<usize>) {
    let (stop, stopped) = mpsc::channel();
    let scraper = thread::spawn(move || {
        let mut count = 0;
        loop {
            let mut page = TcpStream::connect(&address).expect("it listens");
            page.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                .expect("it reads");
            let mut text = String::new();
            page.read_to_string(&mut text).expect("it answers");
            assert!(text.starts_with("HTTP/1.1 200"), "{text}");
            count += 1;
            if stopped.recv_timeout(Duration::from_secs(1)) != Err(RecvTimeoutError::Timeout) {
                return count;
            }
        }
    });
    (stop, scraper)
}

/// Takes whatever is posted; its address.
fn collector() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it listens");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || while take(&stream).is_some() {});
        }
    });
    format!("http://{address}")
}

fn take(mut stream: &TcpStream) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line.trim().is_empty() {
            break;
        }
    }
    std::io::copy(&mut reader.take(length), &mut std::io::sink()).ok()?;
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").ok()
}
