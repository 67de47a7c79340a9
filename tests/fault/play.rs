//! One seed from start to end: writers write, a watcher looks at checkpoints and outputs, things break; then all is healed, and
//! everything has to be there, once.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::faults::wait;
use super::harness::{Database, Random, eventually};
use super::oracle::{self, Sample, lsn};
use super::plan::Plan;
use super::schema::Table;
use super::workload;
use super::world::{Crew, World};

/// Plays it; what it did, or what was wrong and where to look.
pub fn play(seed: u64) -> Result<String, String> {
    let plan = Plan::of(seed);
    println!("{}", plan.describe());
    let title = format!("TRUCKER_SEED={seed}");
    attempt(&title, || World::make(&plan), |world| run(&plan, world), |world| world.keep(seed))
}

/// Runs something in a world that is made for it. What it did, in which time, or what was wrong and where its world is kept.
pub fn attempt<W>(
    title: &str,
    make: impl FnOnce() -> W,
    run: impl FnOnce(&mut W) -> Result<String, String>,
    keep: impl FnOnce(&mut W) -> PathBuf,
) -> Result<String, String> {
    let begun = Instant::now();
    let mut world = make();
    let result = catch_unwind(AssertUnwindSafe(|| run(&mut world)));
    match result.unwrap_or_else(|panic| Err(words(&*panic))) {
        Ok(text) => Ok(format!("{title}: {text}, {} s", begun.elapsed().as_secs())),
        Err(text) => Err(format!("{title}: {text}\nlogs and project: {}", keep(&mut world).display())),
    }
}

/// What a panic says.
fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
}

fn run(plan: &Plan, world: &mut World) -> Result<String, String> {
    let mut random = plan.random.clone();
    match plan.starts_empty {
        true => drop(world.s.once()),
        false => world.s.source.execute(&workload::fill(&plan.tables, &mut random)),
    }
    let confirmed = world.to_source.confirmed.clone();
    let (source, output, slot) = (beside(&world.s.source), beside(&world.s.output), world.s.slot());
    let cast = Cast { source: &source, tables: &plan.tables, writers: plan.writers };
    let crew = Crew::of(&world.s, &world.clock);
    let mut stage = (world, crew);
    let (samples, written) = perform(
        cast,
        &mut random,
        |random, stop| watch(plan, &source, &output, &slot, &confirmed, random, stop),
        &mut stage,
        |(world, crew), random| disturb(plan, world, crew, random),
        |(world, crew)| settle(plan, world, crew),
    )?;
    let (world, crew) = stage;
    if let Some(complaint) = crew.complaints.first() {
        return Err(complaint.clone());
    }
    oracle::check_outputs(&world.s, &plan.tables, &plan.pipelines)?;
    let compared = oracle::check_samples(&world.s, &plan.tables, &plan.pipelines, &samples)?;
    let changes = world.s.source.number("SELECT count(*) FROM history");
    Ok(format!(
        "{} transactions, {changes} changes, {} faults, {} processes, {compared} states compared",
        written,
        plan.faults.len(),
        crew.started
    ))
}

/// Who writes what.
pub struct Cast<'a> {
    /// Where.
    pub source: &'a Database,
    /// Into which tables.
    pub tables: &'a [Table],
    /// How many at once.
    pub writers: u64,
}

/// Writers write and somebody watches while things break; then the writers stop, all is healed, and the watching ends. What
/// was seen, and how many transactions were written.
pub fn perform<W, S: Send>(
    cast: Cast<'_>,
    random: &mut Random,
    watch: impl FnOnce(Random, &AtomicBool) -> Result<S, String> + Send,
    stage: &mut W,
    disturb: impl FnOnce(&mut W, &mut Random),
    settle: impl FnOnce(&mut W) -> Result<(), String>,
) -> Result<(S, u64), String> {
    let (stop_writing, stop_watching, written) =
        (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
    let (ended, watched) = thread::scope(|scope| {
        let write = |random: Random| {
            let (stop, written, cast) = (&stop_writing, &written, &cast);
            scope.spawn(move || workload::write(cast.source, cast.tables, random, stop, written))
        };
        let writers: Vec<_> = (0..cast.writers).map(|_| write(random.fork())).collect();
        let watching = {
            let (random, stop) = (random.fork(), &stop_watching);
            scope.spawn(move || watch(random, stop))
        };
        let disturbed = catch_unwind(AssertUnwindSafe(|| disturb(stage, random)));
        stop_writing.store(true, Ordering::Relaxed);
        let wrote: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        let ended = disturbed.and_then(|()| {
            wrote.into_iter().collect::<Result<(), _>>()?;
            catch_unwind(AssertUnwindSafe(|| settle(stage)))
        });
        stop_watching.store(true, Ordering::Relaxed);
        (ended, watching.join())
    });
    // What was seen first says more than what came of it.
    let seen = watched.unwrap_or_else(|panic| resume_unwind(panic))?;
    ended.unwrap_or_else(|panic| resume_unwind(panic))?;
    Ok((seen, written.into_inner()))
}

/// For another thread.
fn beside(database: &Database) -> Database {
    Database::at(database.port, &database.name)
}

fn disturb(plan: &Plan, world: &mut World, crew: &mut Crew, random: &mut Random) {
    for fault in &plan.faults {
        crew.work();
        wait(random.within(0..900));
        fault.happen(world, crew);
    }
    crew.work();
}

/// All is healed; the outputs have to become what they have to be.
fn settle(plan: &Plan, world: &World, crew: &mut Crew) -> Result<(), String> {
    crew.work();
    if plan.ends_running {
        wait(500);
        let mut differs = || {
            crew.work();
            world.s.source.execute("DROP TABLE IF EXISTS commit_order");
            world.s.source.execute(oracle::COMMIT_ORDER);
            wait(300);
            oracle::check_outputs(&world.s, &plan.tables, &plan.pipelines).err()
        };
        if !eventually(Duration::from_secs(100), || differs().is_none()) {
            let text = differs().unwrap_or_default();
            return Err(format!("it does not catch up: {text}\n{}", crew.stderr()));
        }
    }
    crew.terminate();
    world.s.source.execute("DROP TABLE IF EXISTS commit_order");
    world.s.source.execute(oracle::COMMIT_ORDER);
    world.s.once();
    Ok(())
}

/// Looks, as often as it can: is the slot ahead of a checkpoint? What does an output hold, and what does its checkpoint say?
fn watch(
    plan: &Plan,
    source: &Database,
    output: &Database,
    slot: &str,
    confirmed: &AtomicU64,
    mut random: Random,
    stop: &AtomicBool,
) -> Result<Vec<Sample>, String> {
    let sampled: Vec<usize> =
        (0..plan.pipelines.len()).filter(|at| oracle::is_sampled(&plan.pipelines[*at])).collect();
    let mut samples = Vec::new();
    let asking = format!("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{slot}'");
    while !stop.load(Ordering::Relaxed) {
        wait(20);
        // What the slot was told comes first: the checkpoints only go on meanwhile.
        let told = source.try_rows(&asking).ok().and_then(|rows| Some(lsn(rows.first()?[0].as_deref()?)));
        let told = told.unwrap_or_default().max(confirmed.load(Ordering::SeqCst));
        let behind = output
            .try_rows("SELECT pipeline, loaded_lsn FROM trucker.checkpoint WHERE loaded_lsn IS NOT NULL");
        for row in behind.unwrap_or_default() {
            let loaded = lsn(row[1].as_deref().unwrap());
            if loaded < told {
                return Err(format!(
                    "the slot was told {told:X}, and {:?} has loaded only up to {loaded:X}",
                    row[0]
                ));
            }
        }
        let at = *random.pick(&sampled);
        samples.extend(look(plan, output, at));
    }
    samples.sort();
    samples.dedup();
    Ok(samples)
}

fn look(plan: &Plan, output: &Database, at: usize) -> Option<Sample> {
    let pipeline = &plan.pipelines[at];
    let digest = pipeline.digest_sql(&plan.tables[pipeline.table])?;
    let sql = format!(
        "SELECT loaded_lsn, seam_snapshot, seam_bound, ({digest}) FROM trucker.checkpoint WHERE pipeline = '{}'",
        pipeline.name
    );
    let row = output.try_rows(&sql).ok()?.into_iter().next()?;
    let seam = row[1].clone().zip(row[2].as_deref().map(lsn));
    Some(Sample { pipeline: at, loaded_lsn: row[0].as_deref().map(lsn), seam, digest: row[3].clone()? })
}
