//! From a commit on the source until its row can be read in the output: with nothing else going on, beside a steady load of a
//! thousand commits a second, and beside half of what trucker can take.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::Effort;
use crate::catch_up::{ORDERS, mark, one_by_one};
use crate::consumer::{Consumer, Cost, start_trucker, wait_for};
use crate::report::{Report, percentile};
use crate::world::{Servers, World};

/// Between two commits that are looked at, so that each meets an idle system.
const BETWEEN: Duration = Duration::from_millis(10);
/// Between two bursts of the load beside them.
const BURST: Duration = Duration::from_millis(10);

/// Measures trucker and a native subscription in turns.
pub fn play(servers: &Servers, effort: Effort, report: &mut Report) {
    let world = World::new(servers, ORDERS);
    world.pipeline("orders", &[], &[]);
    let both = [Consumer::Trucker, Consumer::Native];
    both.iter().for_each(|who| who.attach(&world, servers, "orders"));
    let count = effort.of(200);
    let half = (throughput(&world, servers, effort) / 2.0 * BURST.as_secs_f64()) as u64;
    let mut next = 1;
    for (load, name) in [(0, "latency idle"), (10, "latency loaded"), (half, "latency half load")] {
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

/// How many transactions of one row trucker takes in a second, when they have piled up.
fn throughput(world: &World, servers: &Servers, effort: Effort) -> f64 {
    let count = effort.of(100_000);
    one_by_one(100, count).iter().for_each(|statement| world.source.execute(statement));
    let seconds = Consumer::Trucker.catch_up(world, servers, &mark(world, 100)).seconds;
    count as f64 / seconds
}

/// Seconds, commit by commit. With a load, so many rows are committed one by one in each burst beside it.
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

/// Bursts of so many commits, at a steady pace, or as near to it as the source gets; tells how near.
fn disturb(world: &World, commits: u64, is_over: &AtomicBool) {
    let session = world.source.session();
    session.execute("SET synchronous_commit = off");
    session.execute("CREATE SEQUENCE IF NOT EXISTS load START 5000000000");
    let (started, mut bursts) = (Instant::now(), 0);
    while !is_over.load(Ordering::Relaxed) {
        session.execute(&format!(
            "DO $$ BEGIN FOR i IN 1 .. {commits} LOOP \
             INSERT INTO orders VALUES (nextval('load'), 0, 'load', 0, 'note', now(), false); COMMIT; END LOOP; END $$"
        ));
        bursts += 1;
        thread::sleep((BURST * bursts).saturating_sub(started.elapsed()));
    }
    let per_second = (u64::from(bursts) * commits) as f64 / started.elapsed().as_secs_f64();
    eprintln!("   beside it: {per_second:.0} commits a second");
}
