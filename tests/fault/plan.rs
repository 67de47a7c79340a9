//! All that a seed decides: tables, pipelines, what is written and what breaks. Two runs of a seed differ only in who is faster.

use super::faults::Fault;
use super::harness::Random;
use super::pipelines::{self, Pipeline};
use super::schema::Table;

/// See the module.
pub struct Plan {
    /// The number that it is made of.
    pub seed: u64,
    /// The last one is a ledger.
    pub tables: Vec<Table>,
    /// Of every kind.
    pub pipelines: Vec<Pipeline>,
    /// One after the other.
    pub faults: Vec<Fault>,
    /// Sessions that write.
    pub writers: u64,
    /// Whether the backfill comes before the first row, rather than in the midst of it all.
    pub starts_empty: bool,
    /// Whether the end is that the running process catches up, rather than that it is stopped and `--once` does.
    pub ends_running: bool,
    /// For all else.
    pub random: Random,
}

impl Plan {
    /// The plan of that number.
    pub fn of(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut tables: Vec<Table> =
            (0..random.within(1..4)).map(|n| Table::random(n as usize, &mut random)).collect();
        tables.push(Table::ledger(tables.len()));
        let starts_empty = random.chance(50);
        let pipelines = pipelines::random(&tables, starts_empty, &mut random);
        let faults = (0..random.within(5..12)).map(|_| Fault::random(&mut random)).collect();
        let (writers, ends_running) = (random.within(2..5), random.chance(30));
        Plan { seed, tables, pipelines, faults, writers, starts_empty, ends_running, random }
    }

    /// In lines.
    pub fn describe(&self) -> String {
        let mut text = format!(
            "TRUCKER_SEED={}: {} writers, starts {}\n",
            self.seed,
            self.writers,
            if self.starts_empty { "empty" } else { "in the midst" }
        );
        self.tables
            .iter()
            .for_each(|table| text += &format!("  table {}: {}\n", table.number, table.describe()));
        let names: Vec<&str> = self.pipelines.iter().map(|p| p.name.as_str()).collect();
        text += &format!("  pipelines {}\n", names.join(" "));
        text + &format!("  faults {:?}", self.faults)
    }
}
