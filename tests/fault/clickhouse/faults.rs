//! What breaks where the output is a ClickHouse. Each fault begins, lasts a little, and is over.

use super::world::World;
use crate::faults::{Side, wait};
use crate::harness::{Random, eventually};
use crate::proxy::{Mode, Traffic};
use crate::world::Crew;
use std::time::Duration;
use trucker::sandbox::StopMode;

/// See the module. Times are in milliseconds.
#[derive(Debug, Clone)]
pub enum Fault {
    /// SIGKILL.
    Kill,
    /// SIGKILL, a start, SIGKILL, and so on, with so long in between.
    CrashLoop(u64, u64),
    /// SIGTERM.
    Terminate,
    /// The process dies at a named place, at the n-th time.
    Failpoint(&'static str, u64),
    /// SIGSTOP; another process takes over; SIGCONT.
    Zombie(u64),
    /// SIGSTOP, SIGCONT.
    Pause(u64),
    /// The source crashes, and starts again after a while.
    SourceDies(u64),
    /// SIGKILL of ClickHouse, and a start after a while.
    OutputDies(u64),
    /// ClickHouse says and takes nothing for a while.
    OutputFreezes(u64),
    /// Connections are reset.
    Cut(Side),
    /// A connection is reset within a message.
    CutAfter(Side, u64),
    /// What passes is stalled, slowed, swallowed, refused.
    Network(Side, Mode, u64),
    /// Rows, or checkpoints, are written and then reported as refused with this code.
    Refused { code: i32, rows: bool, lasts: u64 },
    /// The table has more parts than it may.
    TooManyParts(u64),
    /// The wall clock is set, by seconds.
    Clock(i64),
}

/// Where the process can be made to die while it follows, or starts.
const FAILPOINTS: [&str; 9] = [
    "frame_read",
    "sql_run",
    "rows_written",
    "rows_sent",
    "rows_sent",
    "commit_answered",
    "floor_raised",
    "feedback_sent",
    "backfill_committed",
];

/// Timeout, too many queries, memory limit, read-only table, no room on the disk, too many parts.
const CODES: [i32; 6] = [159, 202, 241, 242, 243, 252];

impl Fault {
    /// Any of them.
    pub fn random(random: &mut Random) -> Self {
        let side = *random.pick(&[Side::Source, Side::Output, Side::Output]);
        let ms = random.within(50..1200);
        match random.within(0..25) {
            0..2 => Fault::Kill,
            2 => Fault::CrashLoop(random.within(2..6), random.within(100..700)),
            3 => Fault::Terminate,
            4..8 => {
                let &name = random.pick(&FAILPOINTS);
                Fault::Failpoint(name, random.within(1..20))
            }
            8..10 => Fault::Zombie(ms),
            10 => Fault::Pause(ms),
            11 => Fault::SourceDies(ms),
            12..15 => Fault::OutputDies(ms),
            15 => Fault::OutputFreezes(ms),
            16 => Fault::Cut(side),
            17..19 => Fault::CutAfter(side, random.within(1..100_000)),
            19..21 => {
                let mode = *random.pick(&[Mode::Stall, Mode::Slow, Mode::Swallow, Mode::Refuse]);
                Fault::Network(side, mode, ms)
            }
            21..23 => {
                let &code = random.pick(&CODES);
                Fault::Refused { code, rows: random.chance(60), lasts: ms }
            }
            23 => Fault::TooManyParts(ms),
            _ => Fault::Clock(*random.pick(&[-400_000_000, -5, 3600, 86_400 * 365 * 30])),
        }
    }

    /// Begins, lasts, ends.
    pub fn happen(&self, world: &mut World, crew: &mut Crew) {
        match self {
            Fault::Kill => crew.kill(),
            Fault::CrashLoop(times, ms) => {
                for _ in 0..*times {
                    crew.kill();
                    crew.work();
                    wait(*ms);
                }
                crew.kill();
            }
            Fault::Terminate => crew.terminate(),
            Fault::Failpoint(name, count) => crew.die_at(name, *count),
            Fault::Zombie(ms) => crew.take_over([&world.to_source, &world.to_output], *ms),
            Fault::Pause(ms) => crew.pause(*ms),
            Fault::SourceDies(ms) => {
                world.source.stop(StopMode::Immediate).unwrap();
                wait(*ms);
                world.source.start_again().unwrap();
            }
            Fault::OutputDies(ms) => {
                world.server.kill9();
                wait(*ms);
                world.server.start_again();
            }
            Fault::OutputFreezes(ms) => {
                world.server.signal("STOP");
                wait(*ms);
                world.server.signal("CONT");
            }
            Fault::Cut(side) => world.proxy(*side).cut(Traffic::All),
            Fault::CutAfter(side, bytes) => {
                world.proxy(*side).cut_after(*bytes);
                wait(800);
            }
            Fault::Network(side, mode, ms) => {
                world.proxy(*side).set(*mode, Traffic::All);
                wait(*ms);
            }
            Fault::Refused { code, rows, lasts } => refuse(world, *code, *rows, *lasts),
            Fault::TooManyParts(ms) => fill_up(world, *ms),
            Fault::Clock(seconds) => world.clock.set(*seconds),
        }
        world.to_source.heal();
        world.to_output.heal();
    }
}

/// By a view over the table that throws; what it was to see is in the table by then.
fn refuse(world: &World, code: i32, rows: bool, lasts: u64) {
    let table = if rows { "p0_copy" } else { "trucker_checkpoint" };
    let made = world.out.try_rows(&format!(
        "CREATE MATERIALIZED VIEW refuse ENGINE = Memory AS \
         SELECT throwIf(1, 'refused by the test', toInt16({code})) AS x FROM {table} \
         SETTINGS allow_custom_error_code_in_throwif = 1"
    ));
    wait(lasts);
    let is_gone = || world.out.try_rows("DROP TABLE IF EXISTS refuse SYNC").is_ok();
    assert!(eventually(Duration::from_secs(40), is_gone), "the view stays: {made:?}");
}

fn fill_up(world: &World, ms: u64) {
    let set = |count: u32| {
        let sql = format!("ALTER TABLE p0_copy MODIFY SETTING parts_to_throw_insert = {count}");
        world.out.try_rows(&sql)
    };
    world.out.try_rows("SYSTEM STOP MERGES p0_copy").ok();
    set(1).ok();
    wait(ms);
    let is_over = || set(3000).is_ok() && world.out.try_rows("SYSTEM START MERGES p0_copy").is_ok();
    assert!(eventually(Duration::from_secs(40), is_over), "the limit stays");
}
