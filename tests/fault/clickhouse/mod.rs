//! The same with a ClickHouse as the output: what a number decides, and one number from start to end.

mod faults;
mod oracle;
mod pipelines;
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use self::faults::Fault;
use self::oracle::Sample;
use self::pipelines::Pipeline;
use self::world::World;
use crate::faults::wait;
use crate::harness::{ClickHouseDatabase, Database, Random, eventually};
use crate::oracle::{COMMIT_ORDER, lsn};
use crate::play::{Cast, attempt, perform};
use crate::schema::Table;
use crate::workload;
use crate::world::Crew;

/// All that a number decides.
pub struct Plan {
    seed: u64,
    tables: Vec<Table>,
    pipelines: Vec<Pipeline>,
    faults: Vec<Fault>,
    writers: u64,
    starts_empty: bool,
    ends_running: bool,
    random: Random,
}

impl Plan {
    fn of(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut tables: Vec<Table> =
            (0..random.within(1..3)).map(|n| Table::random(n as usize, &mut random)).collect();
        tables.push(Table::ledger(tables.len()));
        let starts_empty = random.chance(50);
        let pipelines = pipelines::random(&tables, starts_empty, &mut random);
        let faults = (0..random.within(6..13)).map(|_| Fault::random(&mut random)).collect();
        let (writers, ends_running) = (random.within(2..4), random.chance(30));
        Plan { seed, tables, pipelines, faults, writers, starts_empty, ends_running, random }
    }

    fn describe(&self) -> String {
        let start = if self.starts_empty { "empty" } else { "in the midst" };
        let mut text = format!("TRUCKER_SEED={} into ClickHouse: starts {start}\n", self.seed);
        self.tables
            .iter()
            .for_each(|table| text += &format!("  table {}: {}\n", table.number, table.describe()));
        let names: Vec<&str> = self.pipelines.iter().map(|p| p.name.as_str()).collect();
        text + &format!("  pipelines {}\n  faults {:?}", names.join(" "), self.faults)
    }
}

/// Plays it; what it did, or what was wrong and where to look.
pub fn play(seed: u64) -> Result<String, String> {
    let plan = Plan::of(seed);
    println!("{}", plan.describe());
    let title = format!("TRUCKER_SEED={seed} into ClickHouse");
    attempt(&title, || World::make(&plan), |world| run(&plan, world), |world| world.keep(seed))
}

fn run(plan: &Plan, world: &mut World) -> Result<String, String> {
    let mut random = plan.random.clone();
    match plan.starts_empty {
        true => drop(world.s.once()),
        false => world.s.source.execute(&workload::fill(&plan.tables, &mut random)),
    }
    let source = Database::at(world.s.source.port, &world.s.source.name);
    let cast = Cast { source: &source, tables: &plan.tables, writers: plan.writers };
    let (watcher, crew) = (Watcher::of(plan, world, &source), Crew::of(&world.s, &world.clock));
    let mut stage = (world, crew);
    let (samples, written) = perform(
        cast,
        &mut random,
        |random, stop| watcher.watch(random, stop),
        &mut stage,
        |(world, crew), random| disturb(plan, world, crew, random),
        |(world, crew)| settle(plan, world, crew),
    )?;
    let (world, crew) = stage;
    if let Some(complaint) = crew.complaints.first() {
        return Err(complaint.clone());
    }
    oracle::check_outputs(&world.s, &world.out, plan)?;
    let compared = oracle::check_samples(&world.s, plan, &samples)?;
    let changes = world.s.source.number("SELECT count(*) FROM history");
    Ok(format!(
        "{} transactions, {changes} changes, {} faults, {} processes, {compared} rows of {} moments compared",
        written,
        plan.faults.len(),
        crew.started,
        samples.len()
    ))
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
    let note_order = || {
        world.s.source.execute("DROP TABLE IF EXISTS commit_order");
        world.s.source.execute(COMMIT_ORDER);
    };
    if plan.ends_running {
        let mut differs = || {
            crew.work();
            wait(300);
            oracle::check_outputs(&world.s, &world.out, plan).err()
        };
        if !eventually(Duration::from_secs(60), || differs().is_none()) {
            let text = differs().unwrap_or_default();
            return Err(format!("it does not catch up: {text}"));
        }
    }
    crew.terminate();
    note_order();
    world.s.once();
    Ok(())
}

/// Looks, as often as it can: is the slot ahead of a checkpoint? What does an output hold, and what does its checkpoint say?
struct Watcher<'w> {
    plan: &'w Plan,
    source: &'w Database,
    out: Arc<ClickHouseDatabase>,
    confirmed: Arc<AtomicU64>,
    asking: String,
}

impl<'w> Watcher<'w> {
    fn of(plan: &'w Plan, world: &World, source: &'w Database) -> Self {
        let slot = world.s.slot();
        Watcher {
            plan,
            source,
            out: world.out.clone(),
            confirmed: world.to_source.confirmed.clone(),
            asking: format!(
                "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{slot}'"
            ),
        }
    }

    fn watch(&self, mut random: Random, stop: &AtomicBool) -> Result<Vec<Sample>, String> {
        let mut samples = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            wait(100);
            // What the slot was told comes first: the checkpoints only go on meanwhile.
            let told = self.source.try_rows(&self.asking);
            let told = told.ok().and_then(|rows| Some(lsn(rows.first()?[0].as_deref()?)));
            let told = told.unwrap_or_default().max(self.confirmed.load(Ordering::SeqCst));
            let Ok(checkpoints) = oracle::fetch_checkpoints(&self.out) else { continue };
            for (pipeline, loaded, _) in &checkpoints {
                if *loaded < told {
                    return Err(format!(
                        "the slot was told {told:X}, and {pipeline} has loaded only up to {loaded:X}"
                    ));
                }
            }
            let at = random.within(0..self.plan.pipelines.len() as u64) as usize;
            let own = checkpoints
                .iter()
                .find(|(name, _, has_seam)| *name == self.plan.pipelines[at].name && !has_seam);
            samples.extend(own.and_then(|(_, loaded, _)| oracle::look(self.plan, &self.out, at, *loaded)));
        }
        Ok(samples)
    }
}
