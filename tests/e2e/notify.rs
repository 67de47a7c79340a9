//! What systemd is told: readiness, a line of status, the watchdog, the end. The tests are the service manager: a
//! datagram socket, at a path or in the abstract namespace.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use super::harness::{PATIENCE, Scenario, Trucker, eventually, holds_for};

/// The manager's end, and what came in so far.
struct Manager {
    socket: UnixDatagram,
    said: String,
}

impl Manager {
    fn at(address: &SocketAddr) -> Self {
        let socket = UnixDatagram::bind_addr(address).unwrap();
        socket.set_nonblocking(true).unwrap();
        Manager { socket, said: String::new() }
    }

    fn abstract_name(name: &str) -> Self {
        Manager::at(&SocketAddr::from_abstract_name(name).unwrap())
    }

    fn listen(&mut self) -> &str {
        let mut buffer = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            self.said += std::str::from_utf8(&buffer[..length]).unwrap();
        }
        &self.said
    }

    fn count(&mut self, line: &str) -> usize {
        self.listen().lines().filter(|said| *said == line).count()
    }

    #[track_caller]
    fn until_said(&mut self, trucker: &mut Trucker, line: &str) {
        trucker.until(line, || self.count(line) > 0);
    }
}

fn scenario() -> Scenario {
    Scenario::new().tables("CREATE TABLE t (id int PRIMARY KEY, v text)").copies("t")
}

#[test]
fn systemd_is_told_of_the_start_of_how_it_stands_and_of_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let mut manager = Manager::at(&SocketAddr::from_pathname(&path).unwrap());
    let s =
        scenario().variable("NOTIFY_SOCKET", path.to_str().unwrap()).variable("WATCHDOG_USEC", "120000000");
    let mut trucker = s.run();
    manager.until_said(&mut trucker, "READY=1");
    manager.until_said(&mut trucker, "STATUS=Running: 1 following");
    manager.until_said(&mut trucker, "WATCHDOG=1");
    let pings = manager.count("WATCHDOG=1");
    trucker.until("pings that go on", || manager.count("WATCHDOG=1") > pings + 2);
    s.output.execute("ALTER TABLE t ADD CHECK (v <> 'bad')");
    s.source.execute("INSERT INTO t VALUES (1, 'bad')");
    let finished = trucker.end_failed();
    assert_eq!(finished.code, Some(1));
    assert_eq!(manager.count("READY=1"), 1, "{}", manager.said);
    assert_eq!(manager.count("STOPPING=1"), 1, "{}", manager.said);
}

#[test]
fn a_process_that_stands_by_is_ready_and_pings() {
    let s = scenario();
    let mut first = s.run();
    s.until_following(&mut first, 1);
    let mut manager = Manager::abstract_name(&s.name);
    let address = format!("@{}", s.name);
    let s = s.variable("NOTIFY_SOCKET", &address).variable("WATCHDOG_USEC", "120000000");
    let mut second = s.run();
    manager.until_said(&mut second, "STATUS=Standing by: another process has the project");
    manager.until_said(&mut second, "READY=1");
    let pings = manager.count("WATCHDOG=1");
    second.until("pings that go on", || manager.count("WATCHDOG=1") > pings + 2);
    first.terminate();
    manager.until_said(&mut second, "STATUS=Running: 1 following");
    second.terminate();
    assert_eq!(manager.count("READY=1"), 1, "{}", manager.said);
}

#[test]
fn a_process_that_is_frozen_pings_no_more() {
    let s = scenario();
    let mut manager = Manager::abstract_name(&s.name);
    let address = format!("@{}", s.name);
    let s = s.variable("NOTIFY_SOCKET", &address).variable("WATCHDOG_USEC", "120000000");
    let mut trucker = s.run();
    manager.until_said(&mut trucker, "WATCHDOG=1");
    trucker.signal("STOP");
    assert!(eventually(PATIENCE, || {
        let pings = manager.count("WATCHDOG=1");
        holds_for(Duration::from_secs(3), || manager.count("WATCHDOG=1") == pings)
    }));
    trucker.signal("CONT");
    trucker.terminate();
}

#[test]
fn a_watchdog_that_waits_for_another_process_or_for_none_is_not_fed() {
    let s = scenario();
    let mut manager = Manager::abstract_name(&s.name);
    let address = format!("@{}", s.name);
    let s = s.variable("NOTIFY_SOCKET", &address).variable("WATCHDOG_PID", "1");
    let s = s.variable("WATCHDOG_USEC", "120000000");
    let mut trucker = s.run();
    manager.until_said(&mut trucker, "STATUS=Running: 1 following");
    assert!(holds_for(Duration::from_secs(3), || manager.count("WATCHDOG=1") == 0));
    trucker.terminate();
}

#[test]
fn a_manager_that_is_gone_disturbs_nothing() {
    let s = scenario().variable("NOTIFY_SOCKET", "/nowhere/notify");
    s.source.execute("INSERT INTO t VALUES (1, 'a')");
    let finished = s.once();
    assert!(finished.stderr.contains("notify_unavailable"), "{}", finished.stderr);
    s.assert_table_same("t");
}
