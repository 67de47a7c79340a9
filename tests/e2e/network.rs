//! The network between trucker and its servers: slow outputs, connections that break at any byte, connections that
//! stay open and carry nothing any more, and poolers that speak for Postgres without being it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use trucker::sandbox::ServerOptions;

use super::harness::{Database, Random, Scenario, holds_for, private_server};

const T: &str = "CREATE TABLE t (id int PRIMARY KEY, v text)";

/// Stands between trucker and a server, and does to the bytes what the test asks for.
struct Proxy {
    port: u16,
    faults: Arc<Faults>,
}

#[derive(Default)]
struct Faults {
    /// What is sent to the server in the first packet is changed by this.
    startup: Option<fn(Vec<u8>) -> Vec<u8>>,
    /// Connections of an earlier generation than this carry nothing any more.
    generation: AtomicU64,
    /// Connections are cut after so many bytes from the server; 0 for never.
    cut_after: AtomicU64,
    /// The server's port.
    server: AtomicU16,
}

impl Proxy {
    fn to(server: u16, startup: Option<fn(Vec<u8>) -> Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let faults = Arc::new(Faults { startup, server: server.into(), ..Faults::default() });
        let shared = faults.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let faults = shared.clone();
                thread::spawn(move || faults.carry(client));
            }
        });
        Proxy { port, faults }
    }

    /// From now on, the connections that are open carry nothing any more.
    fn stall(&self) {
        self.faults.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// From now on, new connections go to another server, as with a name that stands for several.
    fn lead_to(&self, server: u16) {
        self.faults.server.store(server, Ordering::Relaxed);
    }
}

impl Faults {
    fn carry(self: Arc<Self>, mut client: TcpStream) -> Option<()> {
        let mut server = TcpStream::connect(("127.0.0.1", self.server.load(Ordering::Relaxed))).ok()?;
        let generation = self.generation.load(Ordering::Relaxed);
        let mut length = [0; 4];
        client.read_exact(&mut length).ok()?;
        let mut startup = vec![0; (u32::from_be_bytes(length) as usize).checked_sub(4)?];
        client.read_exact(&mut startup).ok()?;
        let startup = self.startup.map_or_else(|| startup.clone(), |change| change(startup.clone()));
        server.write_all(&(startup.len() as u32 + 4).to_be_bytes()).ok()?;
        server.write_all(&startup).ok()?;
        let (up, down) = (client.try_clone().ok()?, server.try_clone().ok()?);
        let faults = self.clone();
        thread::spawn(move || faults.copy(up, server, 0, generation));
        self.copy(down, client, self.cut_after.load(Ordering::Relaxed), generation);
        Some(())
    }

    fn copy(&self, mut from: TcpStream, mut to: TcpStream, cut_after: u64, generation: u64) {
        let (mut buffer, mut carried) = ([0; 16 * 1024], 0);
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if self.generation.load(Ordering::Relaxed) > generation {
                // Taken, acknowledged, and gone.
                continue;
            }
            let left = if cut_after == 0 { count } else { count.min((cut_after - carried) as usize) };
            if to.write_all(&buffer[..left]).is_err() || left < count {
                break;
            }
            carried += left as u64;
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }
}

/// Leads one connection of the project through a proxy.
fn through(s: &Scenario, port: u16, proxy: &Proxy) {
    let path = s.dir().join("trucker.yml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace(&format!("port: {port}"), &format!("port: {}", proxy.port))).unwrap();
}

/// As PgBouncer does where `ignore_startup_parameters = options` is set.
fn without_options(startup: Vec<u8>) -> Vec<u8> {
    let mut kept = startup[..4].to_vec();
    let mut fields = startup[4..].split(|byte| *byte == 0);
    while let (Some(name @ [_, ..]), Some(value)) = (fields.next(), fields.next()) {
        if name != b"options" {
            kept.extend_from_slice(&[name, b"\0", value, b"\0"].concat());
        }
    }
    kept.push(0);
    kept
}

#[test]
fn a_pooler_that_drops_session_settings_is_refused_on_either_side() {
    for is_source in [true, false] {
        let s = Scenario::new().tables(T).copies("t");
        let port = if is_source { s.source.port } else { s.output.port };
        through(&s, port, &Proxy::to(port, Some(without_options)));
        let said = s.once_fails(4);
        for word in ["connection pooler", "Connect to Postgres directly"] {
            assert!(said.contains(word), "no word on {word}: {said}");
        }
        s.assert_nothing_created();
    }
}

#[test]
fn an_output_slower_than_wal_sender_timeout_costs_no_connection() {
    let s = Scenario::new().tables(T).copies("t");
    s.source.execute(&format!("ALTER DATABASE \"{}\" SET wal_sender_timeout = '1500ms'", s.source.name));
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    let blocker = s.output.session();
    blocker.execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE");
    // More than all queues hold, so that reading stops as well.
    s.source.execute("INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1, 40000) i");
    let slot = s.slot();
    let pid = format!("SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{slot}'");
    let first = s.source.value(&pid);
    assert!(holds_for(Duration::from_secs(6), || s.source.value(&pid) == first), "{}", trucker.stderr());
    blocker.execute("COMMIT");
    s.until_same(&mut trucker, "SELECT count(*) FROM t", "SELECT count(*) FROM t");
    s.assert_table_same("t");
    assert!(!trucker.stderr().contains("reconnecting"), "{}", trucker.stderr());
}

#[test]
fn connections_that_break_at_any_byte_lose_and_repeat_nothing() {
    let mut random = Random::seeded(50);
    let s = Scenario::new().tables(T).copies("t");
    let (source, output) = (Proxy::to(s.source.port, None), Proxy::to(s.output.port, None));
    through(&s, s.source.port, &source);
    through(&s, s.output.port, &output);
    s.source.execute("INSERT INTO t SELECT i, repeat('x', i) FROM generate_series(1, 200) i");
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    let end_sessions = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                        WHERE datname = current_database() AND application_name = 'trucker'";
    for round in 0..12 {
        for proxy in [&source, &output] {
            proxy.faults.cut_after.store(random.within(1..6000), Ordering::Relaxed);
        }
        s.source.execute(end_sessions);
        s.output.execute(end_sessions);
        for n in 0..20 {
            let id = random.within(1..220);
            s.source.execute(&format!(
                "INSERT INTO t VALUES ({id}, 'r{round}') ON CONFLICT (id) DO UPDATE SET v = t.v || '{n}'; \
                 DELETE FROM t WHERE id = {}",
                random.within(1..220)
            ));
        }
    }
    [&source, &output].iter().for_each(|proxy| proxy.faults.cut_after.store(0, Ordering::Relaxed));
    s.source.execute(end_sessions);
    s.output.execute(end_sessions);
    s.until_table_same(&mut trucker, "t");
}

#[test]
fn connections_that_stay_open_and_carry_nothing_are_made_again() {
    let s = Scenario::new().tables(T).copies("t");
    let (source, output) = (Proxy::to(s.source.port, None), Proxy::to(s.output.port, None));
    through(&s, s.source.port, &source);
    through(&s, s.output.port, &output);
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    // Those that are open are stuck for good; new ones are as good as ever.
    output.stall();
    s.source.execute("INSERT INTO t VALUES (1, 'a')");
    s.until_table_same(&mut trucker, "t");
    source.stall();
    s.source.execute("INSERT INTO t VALUES (2, 'b')");
    let ends =
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active AND slot_name = ";
    // The stream would find out by itself, and the guard beside it; this saves the time.
    s.source.execute(&format!("{ends} '{}'", s.slot()));
    s.until_table_same(&mut trucker, "t");
}

#[test]
fn a_long_statement_is_not_given_up_because_another_server_of_that_name_knows_nothing_of_it() {
    let s = Scenario::new().tables(T).copies("t").on_output(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(18); RETURN new; END';
         CREATE TRIGGER slow BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION slow()",
    );
    let other = private_server(ServerOptions::default());
    let _database = Database::create(other.port(), &s.output.name);
    let proxy = Proxy::to(s.output.port, None);
    through(&s, s.output.port, &proxy);
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    s.source.execute("INSERT INTO t VALUES (1, 'a')");
    let sleeps = "SELECT exists(SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database())";
    trucker.until("the slow statement", || s.output.is(sleeps));
    proxy.lead_to(other.port());
    s.until_table_same(&mut trucker, "t");
    assert!(!trucker.stderr().contains("connection_lost"), "{}", trucker.stderr());
}
