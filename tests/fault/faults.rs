//! What breaks: the program, its servers, what is between them, what they answer, the clock. Each fault begins, lasts a
//! little, and is over.

use std::time::Duration;

use trucker::sandbox::StopMode;

use super::harness::{Random, Session, eventually, holds_for};
use super::proxy::{Mode, Proxy, Traffic};
use super::world::{Crew, World};

/// A server of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Source,
    Output,
}

/// See the module. Times are in milliseconds.
#[derive(Debug, Clone)]
pub enum Fault {
    /// SIGKILL.
    Kill,
    /// SIGTERM.
    Terminate,
    /// The process dies at a named place, at the n-th time.
    Failpoint(&'static str, u64),
    /// SIGSTOP; another process takes over; SIGCONT.
    Zombie(u64),
    /// SIGSTOP, SIGCONT.
    Pause(u64),
    /// The server stops so, and starts again after a while.
    Stop(Side, Stop, u64),
    /// Connections are reset.
    Cut(Side, Traffic),
    /// A connection is reset within a message.
    CutAfter(Side, u64),
    /// What passes is stalled, slowed, swallowed, refused.
    Network(Side, Mode, Traffic, u64),
    /// A COMMIT arrives, its answer doesn't; then the process dies, or only its connection.
    LostAnswer { dies: bool },
    /// pg_terminate_backend on all of its sessions.
    Terminated(Side),
    /// pg_cancel_backend on all of its sessions.
    Canceled(Side),
    /// The output refuses to move checkpoints, or to take rows, with this SQLSTATE.
    Refused { state: &'static str, rows: bool, lasts: u64 },
    /// Somebody locks an output table.
    Locked(u64),
    /// The wall clock is set, by seconds.
    Clock(i64),
}

/// How a server stops.
#[derive(Debug, Clone, Copy)]
pub enum Stop {
    Fast,
    Immediate,
    Kill,
}

/// Where the process can be made to die while it follows, or starts.
pub const FAILPOINTS: [&str; 9] = [
    "frame_read",
    "sql_run",
    "rows_written",
    "checkpoint_moved",
    "commit_answered",
    "floor_raised",
    "feedback_sent",
    "backfill_copied",
    "backfill_committed",
];

/// Disk full, lock timeout, deadlock, serialization failure, out of memory, input/output error.
const STATES: [&str; 6] = ["53100", "55P03", "40P01", "40001", "53200", "58030"];

impl Fault {
    /// Any of them.
    pub fn random(random: &mut Random) -> Self {
        let side = *random.pick(&[Side::Source, Side::Output]);
        let traffic = *random.pick(&[Traffic::All, Traffic::Replication, Traffic::Ordinary]);
        let ms = random.within(50..1200);
        match random.within(0..22) {
            0..3 => Fault::Kill,
            3 => Fault::Terminate,
            4..7 => {
                let &name = random.pick(&FAILPOINTS);
                Fault::Failpoint(name, random.within(1..40))
            }
            7 => Fault::Zombie(ms),
            8 => Fault::Pause(ms),
            9..12 => Fault::Stop(side, *random.pick(&[Stop::Fast, Stop::Immediate, Stop::Kill]), ms),
            12 => Fault::Cut(side, traffic),
            13 => Fault::CutAfter(side, random.within(1..200_000)),
            14..16 => {
                let mode = *random.pick(&[Mode::Stall, Mode::Slow, Mode::Swallow, Mode::Refuse]);
                Fault::Network(side, mode, traffic, ms)
            }
            16 => Fault::LostAnswer { dies: random.chance(50) },
            17 => Fault::Terminated(side),
            18 => Fault::Canceled(side),
            19 => {
                let &state = random.pick(&STATES);
                Fault::Refused { state, rows: random.chance(50), lasts: ms }
            }
            20 => Fault::Locked(ms),
            _ => Fault::Clock(*random.pick(&[-400_000_000, -86_400, -5, 3600, 86_400 * 365 * 30])),
        }
    }

    /// Begins, lasts, ends.
    pub fn happen(&self, world: &mut World, crew: &mut Crew) {
        match self {
            Fault::Kill => crew.kill(),
            Fault::Terminate => crew.terminate(),
            Fault::Failpoint(name, count) => crew.die_at(name, *count),
            Fault::Zombie(ms) => crew.take_over([&world.to_source, &world.to_output], *ms),
            Fault::Pause(ms) => crew.pause(*ms),
            Fault::Stop(side, stop, ms) => {
                let server = world.server(*side);
                match stop {
                    Stop::Fast => server.stop(StopMode::Fast).unwrap(),
                    Stop::Immediate => server.stop(StopMode::Immediate).unwrap(),
                    Stop::Kill => server.kill9(),
                }
                wait(*ms);
                server.start_again().unwrap();
            }
            Fault::Cut(side, traffic) => world.proxy(*side).cut(*traffic),
            Fault::CutAfter(side, bytes) => {
                world.proxy(*side).cut_after(*bytes);
                wait(800);
            }
            Fault::Network(side, mode, traffic, ms) => {
                world.proxy(*side).set(*mode, *traffic);
                wait(*ms);
            }
            Fault::LostAnswer { dies } => {
                let proxy: &Proxy = &world.to_output;
                proxy.set_trap();
                if eventually(Duration::from_secs(2), || proxy.has_caught()) && *dies {
                    crew.kill();
                }
            }
            Fault::Terminated(side) => world.signal_sessions(*side, "pg_terminate_backend"),
            Fault::Canceled(side) => world.signal_sessions(*side, "pg_cancel_backend"),
            Fault::Refused { state, rows, lasts } => refuse(world, state, *rows, *lasts),
            Fault::Locked(ms) => lock(world, *ms),
            Fault::Clock(seconds) => world.clock.set(*seconds),
        }
        world.to_source.heal();
        world.to_output.heal();
    }
}

/// Faults last for a time, not until something happens.
pub fn wait(ms: u64) {
    holds_for(Duration::from_millis(ms), || true);
}

/// By a trigger that raises the error.
fn refuse(world: &World, state: &str, rows: bool, lasts: u64) {
    let Ok(session) = Session::try_connect(world.s.output.port, &world.s.output.name) else { return };
    let table = if rows { "p0_0_copy" } else { "trucker.checkpoint" };
    let made = session.try_execute(&format!(
        "SET lock_timeout = '3s';
         CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN RAISE 'refused by the test' USING ERRCODE = '{state}'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT OR UPDATE OR DELETE ON {table} EXECUTE FUNCTION refuse()"
    ));
    wait(lasts);
    let drop = format!("SET lock_timeout = 0; DROP TRIGGER IF EXISTS refuse ON {table}");
    let is_gone = || session.try_execute(&drop).is_ok();
    assert!(made.is_err() || eventually(Duration::from_secs(40), is_gone), "the trigger stays");
}

fn lock(world: &World, ms: u64) {
    let Ok(session) = Session::try_connect(world.s.output.port, &world.s.output.name) else { return };
    if session
        .try_execute("SET lock_timeout = '3s'; BEGIN; LOCK TABLE p0_0_copy IN ACCESS EXCLUSIVE MODE")
        .is_ok()
    {
        wait(ms);
    }
    session.try_execute("ROLLBACK").ok();
}
