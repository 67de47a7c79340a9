//! The answer to COMMIT: lost on the way, or late. Nobody guesses what became of the transaction; the checkpoint says. And a BEGIN
//! that fails, with what was sent along with it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use super::harness::{Scenario, Trucker, config};

/// What to do with the next COMMIT, or the next BEGIN, that comes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Passes,
    /// The connection breaks before the server has it.
    IsLost,
    /// The server does it, and the connection breaks before the answer is there.
    LosesItsAnswer,
    /// The connection breaks, and the server gets it once it is let go.
    IsHeldBack,
    /// It was held back, and may go.
    MayGo,
    /// The BEGIN is canceled; what was sent along with it isn't.
    HasNoBegin,
}

/// Stands between trucker and an output.
#[derive(Clone)]
struct Proxy(Arc<(Mutex<Fate>, Condvar)>);

impl Proxy {
    fn new() -> Self {
        Proxy(Arc::new((Mutex::new(Fate::Passes), Condvar::new())))
    }

    /// Takes connections for that port; answers its own.
    fn listen(&self, to: u16) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let proxy = self.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (proxy, server) = (proxy.clone(), TcpStream::connect(("127.0.0.1", to)));
                let Ok(server) = server else { continue };
                thread::spawn(move || proxy.serve(&client, &server));
            }
        });
        port
    }

    fn set(&self, fate: Fate) {
        *self.0.0.lock().unwrap() = fate;
        self.0.1.notify_all();
    }

    fn fate(&self) -> Fate {
        *self.0.0.lock().unwrap()
    }

    fn serve(&self, client: &TcpStream, server: &TcpStream) {
        let (back, to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        thread::spawn(move || {
            forward(&back, &to_client, |_| true);
            let _ = to_client.shutdown(Shutdown::Both);
        });
        forward(client, server, |bytes| {
            if self.fate() == Fate::HasNoBegin {
                if let Some(rest) = bytes.strip_prefix(&simple_query("BEGIN")[..]) {
                    let canceled = simple_query("DO $$ BEGIN RAISE query_canceled; END $$");
                    *bytes = [&canceled, rest].concat();
                    self.set(Fate::Passes);
                }
                return true;
            }
            if self.fate() == Fate::Passes || !bytes.windows(7).any(|part| part == b"COMMIT\0") {
                return true;
            }
            let _ = client.shutdown(Shutdown::Both);
            match self.fate() {
                Fate::IsLost => {
                    self.set(Fate::Passes);
                    return false;
                }
                Fate::IsHeldBack => {
                    let fate = self.0.0.lock().unwrap();
                    drop(self.0.1.wait_while(fate, |fate| *fate != Fate::MayGo).unwrap());
                }
                _ => {}
            }
            self.set(Fate::Passes);
            let _ = (&*server).write_all(bytes);
            // Until the server has done it.
            let _ = (&*server).read(&mut [0; 64]);
            false
        });
        let _ = server.shutdown(Shutdown::Both);
    }
}

/// A message of the simple query protocol.
fn simple_query(sql: &str) -> Vec<u8> {
    let length = u32::try_from(sql.len() + 5).unwrap().to_be_bytes();
    [b"Q", &length[..], sql.as_bytes(), b"\0"].concat()
}

/// Passes on what comes, or what `passes` makes of it, while that says so.
fn forward(mut from: &TcpStream, mut to: &TcpStream, passes: impl Fn(&mut Vec<u8>) -> bool) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let mut bytes = buffer[..count].to_vec();
        if !passes(&mut bytes) || to.write_all(&bytes).is_err() {
            break;
        }
    }
}

/// A log of all changes, and its process, following, with a proxy before the output.
fn world() -> (Scenario, Trucker, Proxy) {
    let append = "on: {insert: insert, update: insert, delete: ignore, truncate: ignore}";
    let s = Scenario::new()
        .on_source("CREATE TABLE t (id int PRIMARY KEY)")
        .on_output("CREATE TABLE log (id int)")
        .pipeline("log", &config("t", "log", &[append]), &[]);
    let proxy = Proxy::new();
    let port = proxy.listen(s.output.port);
    let yml = std::fs::read_to_string(s.dir().join("trucker.yml")).unwrap();
    let (head, tail) = yml.split_once("- name: output").unwrap();
    let tail = tail.replacen(&format!("port: {}", s.output.port), &format!("port: {port}"), 1);
    s.file("trucker.yml", &format!("{head}- name: output{tail}"));
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    (s, trucker, proxy)
}

fn arrives_once(s: &Scenario, trucker: &mut Trucker) {
    s.source.execute("INSERT INTO t VALUES (100)");
    s.until_same(trucker, "SELECT id FROM t", "SELECT id FROM log");
    trucker.until_said("trying again");
}

#[test]
fn rows_whose_begin_failed_are_there_once_with_their_checkpoint() {
    let (s, mut trucker, proxy) = world();
    for id in 1..=5 {
        proxy.set(Fate::HasNoBegin);
        s.source.execute(&format!("INSERT INTO t VALUES ({id})"));
        trucker.until("the BEGIN", || proxy.fate() == Fate::Passes);
        s.until_same(&mut trucker, "SELECT id FROM t", "SELECT id FROM log");
    }
    arrives_once(&s, &mut trucker);
    assert!(trucker.stderr().contains("opening a transaction"), "{}", trucker.stderr());
}

#[test]
fn a_commit_that_never_arrives_is_done_again() {
    let (s, mut trucker, proxy) = world();
    for id in 1..=5 {
        proxy.set(Fate::IsLost);
        s.source.execute(&format!("INSERT INTO t VALUES ({id})"));
        trucker.until("the COMMIT", || proxy.fate() == Fate::Passes);
        s.until_same(&mut trucker, "SELECT id FROM t", "SELECT id FROM log");
    }
    arrives_once(&s, &mut trucker);
}

#[test]
fn a_commit_whose_answer_is_lost_is_not_done_again() {
    let (s, mut trucker, proxy) = world();
    for id in 1..=5 {
        proxy.set(Fate::LosesItsAnswer);
        s.source.execute(&format!("INSERT INTO t VALUES ({id})"));
        trucker.until("the COMMIT", || proxy.fate() == Fate::Passes);
        s.until_same(&mut trucker, "SELECT id FROM t", "SELECT id FROM log");
    }
    arrives_once(&s, &mut trucker);
}

#[test]
fn a_commit_that_comes_late_is_waited_for_and_not_done_again() {
    let (s, mut trucker, proxy) = world();
    proxy.set(Fate::IsHeldBack);
    s.source.execute("INSERT INTO t VALUES (1)");
    // The next connection asks for the checkpoint, which the late transaction has locked.
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    trucker.until("waiting for what became of the COMMIT", || s.output.number(waiting) > 0);
    assert_eq!(s.output.number("SELECT count(*) FROM log"), 0);
    proxy.set(Fate::MayGo);
    arrives_once(&s, &mut trucker);
}
