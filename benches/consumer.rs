//! Those who take changes from a source, each stopped and let loose in the same way: trucker, a native subscription, and
//! `pg_recvlogical` to nowhere, which is what decoding alone costs. Knows no scenario.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use trucker::sandbox::PostgresServer;

use crate::harness::{Database, Trucker, eventually};
use crate::world::{Servers, World};

/// How long anything may take before the run is given up.
const PATIENCE: Duration = Duration::from_secs(600);

/// What one catching up took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// From letting loose until the last change is visible.
    pub seconds: f64,
    /// Of the process itself, where that is ours to look at.
    pub cpu_seconds: Option<f64>,
    /// The most that was resident, likewise.
    pub peak_mib: Option<f64>,
}

/// Who.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Consumer {
    /// The built program.
    Trucker,
    /// `CREATE SUBSCRIPTION … (binary)`.
    Native,
    /// `pg_recvlogical` into /dev/null.
    Decoding,
}

impl Consumer {
    /// As in the table.
    pub fn name(self) -> &'static str {
        match self {
            Consumer::Trucker => "trucker",
            Consumer::Native => "native subscription",
            Consumer::Decoding => "decoding alone",
        }
    }

    /// Makes its slot, and fills its output with what is there. Stopped afterwards.
    pub fn attach(self, world: &World, servers: &Servers, tables: &str) {
        let name = format!("native_{}", world.name);
        match self {
            Consumer::Trucker => {
                let trucker = start_trucker(world, &["--once"]);
                let finished = trucker.wait_for(PATIENCE);
                assert_eq!(finished.code, Some(0), "{}", finished.text());
            }
            Consumer::Native => {
                world.source.execute(&format!("CREATE PUBLICATION {name} FOR TABLE {tables}"));
                world.native_output.execute(&format!(
                    "CREATE SUBSCRIPTION {name} CONNECTION 'host=127.0.0.1 port={} dbname={} user={}' PUBLICATION {name} \
                     WITH (binary = true, slot_name = '{name}')",
                    servers.source.port(),
                    world.source.name,
                    PostgresServer::SUPERUSER
                ));
                let left = "SELECT count(*) = 0 FROM pg_subscription_rel WHERE srsubstate <> 'r'";
                let is_done = eventually(PATIENCE, || world.native_output.is(left));
                assert!(is_done, "the subscription doesn't get ready");
                self.hold(world);
            }
            Consumer::Decoding => {
                let publication = format!("decoding_{}", world.name);
                world.source.execute(&format!("CREATE PUBLICATION {publication} FOR TABLE {tables}"));
                world.source.execute(&format!(
                    "SELECT pg_create_logical_replication_slot('{publication}', 'pgoutput')"
                ));
            }
        }
    }

    /// Takes what has piled up; `is_there` is asked of the output until it is true.
    pub fn catch_up(self, world: &World, servers: &Servers, is_there: &str) -> Cost {
        match self {
            Consumer::Trucker => {
                let started = Instant::now();
                let trucker = start_trucker(world, &[]);
                let seconds = wait_for(&world.trucker_output, is_there, started, Some(&trucker));
                cost(trucker, seconds)
            }
            Consumer::Native => {
                let started = Instant::now();
                self.let_loose(world);
                let seconds = wait_for(&world.native_output, is_there, started, None);
                self.hold(world);
                Cost { seconds, ..Cost::default() }
            }
            Consumer::Decoding => Cost { seconds: decode(world, servers), ..Cost::default() },
        }
    }

    /// Enables the subscription.
    pub fn let_loose(self, world: &World) {
        world.native_output.execute(&format!("ALTER SUBSCRIPTION native_{} ENABLE", world.name));
    }

    /// Disables it, and waits until nobody holds its slot.
    pub fn hold(self, world: &World) {
        let name = format!("native_{}", world.name);
        world.native_output.execute(&format!("ALTER SUBSCRIPTION {name} DISABLE"));
        let active = format!("SELECT NOT active FROM pg_replication_slots WHERE slot_name = '{name}'");
        assert!(eventually(PATIENCE, || world.source.is(&active)), "the subscription goes on");
    }

    /// Ends it for good: its slot would keep WAL.
    pub fn detach(self, world: &World) {
        if self == Consumer::Native {
            let _ = world.native_output.try_rows(&format!("DROP SUBSCRIPTION native_{}", world.name));
        }
    }
}

/// `trucker run` on the world's project.
pub fn start_trucker(world: &World, more: &[&str]) -> Trucker {
    let dir = world.dir();
    let mut arguments = vec!["run", dir.to_str().expect("a path in UTF-8"), "--http", "off"];
    arguments.extend(more);
    Trucker::start(&world.logs(), &arguments, &[])
}

/// What a running trucker has cost, which took so long. Ends it.
pub fn cost(trucker: Trucker, seconds: f64) -> Cost {
    let cpu_seconds = Some(cpu_seconds(trucker.pid()));
    let cost = Cost { seconds, cpu_seconds, peak_mib: Some(trucker.peak_memory_kib() as f64 / 1024.0) };
    trucker.terminate();
    cost
}

/// Asks until it is true; the seconds since.
pub fn wait_for(output: &Database, is_there: &str, since: Instant, trucker: Option<&Trucker>) -> f64 {
    let session = output.session();
    loop {
        let rows = session.try_rows(is_there).expect("the output can be asked");
        if rows.first().is_some_and(|row| row[0].as_deref() == Some("t")) {
            return since.elapsed().as_secs_f64();
        }
        if since.elapsed() > PATIENCE {
            panic!("never there: {is_there}\n{}", trucker.map(Trucker::stderr).unwrap_or_default());
        }
        // Asking costs the output something, all the same to everyone.
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Reads the slot up to where the WAL ends now.
fn decode(world: &World, servers: &Servers) -> f64 {
    let slot = format!("decoding_{}", world.name);
    let end = world.source.value("SELECT pg_current_wal_lsn()");
    let started = Instant::now();
    let status = Command::new(servers.client_program("pg_recvlogical").expect("looked for before"))
        .args(["--host", "127.0.0.1", "--port", &servers.source.port().to_string()])
        .args(["--username", PostgresServer::SUPERUSER, "--dbname", &world.source.name, "--slot", &slot])
        .args(["--start", "--no-loop", "--endpos", &end, "--file", "-"])
        .args(["--option", "proto_version=1", "--option", &format!("publication_names={slot}")])
        .stdout(Stdio::null())
        .status();
    assert!(status.as_ref().is_ok_and(|status| status.success()), "pg_recvlogical: {status:?}");
    started.elapsed().as_secs_f64()
}

/// User and system time of a process so far.
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    // After the name, which may hold spaces: field 14 and 15 of proc(5), in ticks of 10 ms.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks =
        |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok()).unwrap_or_default();
    (ticks(11) + ticks(12)) / 100.0
}
