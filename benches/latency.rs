//! From a commit on the source until its row can be read in the output: with nothing else going on, and beside a steady load.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::Effort;
use crate::catch_up::ORDERS;
use crate::consumer::{Consumer, Cost, start_trucker, wait_for};
use crate::report::{Report, percentile};
use crate::world::{Servers, World};

/// Between two commits that are looked at, so that each meets an idle system.
const BETWEEN: Duration = Duration::from_millis(10);

/// Measures trucker and a native subscription in turns.
pub fn play(servers: &Servers, effort: Effort, report: &mut Report) {
    let world = World::new(servers, ORDERS);
    world.pipeline("orders", &[], &[]);
    let both = [Consumer::Trucker, Consumer::Native];
    both.iter().for_each(|who| who.attach(&world, servers, "orders"));
    let count = effort.of(200);
    let mut next = 1;
    for (load, name) in [(0, "latency idle"), (10, "latency loaded")] {
        let mut taken: Vec<(Consumer, Vec<f64>)> = both.iter().map(|who| (*who, Vec::new())).collect();
        for _ in 0..effort.repetitions {
            for (who, latencies) in &mut taken {
                latencies.extend(measure(&world, *who, count, load, &mut next));
            }
        }
        for (part, part_name) in [(0.5, "p50"), (0.99, "p99")] {
            let aims: &[(&str, f64)] =
                if load == 0 && part < 0.9 { &[("native subscription", 0.5)] } else { &[] };
            report.scenario(&format!("{name} {part_name}"), 1.0, "commits", aims);
            for (who, latencies) in &taken {
                let seconds = percentile(latencies.iter().copied(), part);
                report.add(who.name(), Cost { seconds, ..Cost::default() });
            }
        }
    }
    both.iter().for_each(|who| who.detach(&world));
}

/// Seconds, commit by commit. With a load, ten rows are committed one by one in each so many milliseconds beside it.
fn measure(world: &World, who: Consumer, count: u64, load: u64, next: &mut u64) -> Vec<f64> {
    let output = if who == Consumer::Native { &world.native_output } else { &world.trucker_output };
    let trucker = (who == Consumer::Trucker).then(|| start_trucker(world, &[]));
    if who == Consumer::Native {
        who.let_loose(world);
    }
    let insert = |id: u64| format!("INSERT INTO orders VALUES ({id}, 0, '', 0, NULL, now(), false)");
    let source = world.source.session();
    *next += 1;
    source.execute(&insert(*next));
    wait_for(
        output,
        &format!("SELECT exists(SELECT FROM orders WHERE id = {next})"),
        Instant::now(),
        trucker.as_ref(),
    );
    let (is_over, observer) = (AtomicBool::new(false), output.session());
    let mut latencies = Vec::new();
    thread::scope(|scope| {
        if load > 0 {
            scope.spawn(|| disturb(world, load, &is_over));
        }
        for _ in 0..count {
            *next += 1;
            source.execute(&insert(*next));
            let committed = Instant::now();
            let question = format!("SELECT FROM orders WHERE id = {next}");
            while observer.try_rows(&question).expect("the output can be asked").is_empty() {}
            latencies.push(committed.elapsed().as_secs_f64());
            thread::sleep(BETWEEN);
        }
        is_over.store(true, Ordering::Relaxed);
    });
    match trucker {
        Some(trucker) => drop(trucker.terminate()),
        None => who.hold(world),
    }
    latencies
}

fn disturb(world: &World, every: u64, is_over: &AtomicBool) {
    let session = world.source.session();
    session.execute("SET synchronous_commit = off");
    session.execute("CREATE SEQUENCE IF NOT EXISTS load START 1000000000");
    while !is_over.load(Ordering::Relaxed) {
        session.execute(
            "DO $$ BEGIN FOR i IN 1 .. 10 LOOP \
             INSERT INTO orders VALUES (nextval('load'), 0, 'load', 0, 'note', now(), false); COMMIT; END LOOP; END $$",
        );
        thread::sleep(Duration::from_millis(every));
    }
}
