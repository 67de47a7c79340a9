//! What commits, and its answer: lost on the way, or late. Nobody guesses what became of the transaction; the checkpoint says. It is a
//! COMMIT where a batch is several statements, else the one statement that is the batch.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use super::harness::{Scenario, Trucker, config};

/// What to do with the next message that commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Passes,
    /// The connection breaks before the server has it.
    IsLost,
    /// The server does it, and the connection breaks before the answer is there.
    LosesItsAnswer,
    /// The connection breaks, and the server gets it once it is let go.
    IsHeldBack,
    /// It is held back; others pass.
    IsHeld,
    /// It was held back, and may go.
    MayGo,
    /// Likewise held back, until the next one comes, and done just before that.
    GoesBeforeTheNext,
    /// It was held back, and the next hasn't come yet.
    WaitsForTheNext,
}

/// Whether a message commits.
type Commits = fn(&[u8]) -> bool;

/// Stands between trucker and an output.
#[derive(Clone)]
struct Proxy(Arc<(Mutex<Fate>, Condvar)>, Commits);

impl Proxy {
    fn new(commits: Commits) -> Self {
        Proxy(Arc::new((Mutex::new(Fate::Passes), Condvar::new())), commits)
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

    fn wait(&self, is_over: impl Fn(Fate) -> bool) {
        let fate = self.0.0.lock().unwrap();
        drop(self.0.1.wait_while(fate, |fate| !is_over(*fate)).unwrap());
    }

    fn serve(&self, client: &TcpStream, server: &TcpStream) {
        let (back, to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        thread::spawn(move || {
            forward(&back, &to_client, |_| true);
            let _ = to_client.shutdown(Shutdown::Both);
        });
        forward(client, server, |bytes| {
            if matches!(self.fate(), Fate::Passes | Fate::IsHeld | Fate::MayGo) || !(self.1)(bytes) {
                return true;
            }
            if self.fate() == Fate::WaitsForTheNext {
                self.set(Fate::MayGo);
                self.wait(|fate| fate != Fate::MayGo);
                return true;
            }
            let _ = client.shutdown(Shutdown::Both);
            match self.fate() {
                Fate::IsLost => {
                    self.set(Fate::Passes);
                    return false;
                }
                Fate::IsHeldBack => {
                    self.set(Fate::IsHeld);
                    self.wait(|fate| fate == Fate::MayGo);
                }
                Fate::GoesBeforeTheNext => {
                    self.set(Fate::WaitsForTheNext);
                    self.wait(|fate| fate == Fate::MayGo);
                }
                _ => self.set(Fate::Passes),
            }
            let _ = (&*server).write_all(bytes);
            // Until the server has done it, and hung up.
            let _ = server.shutdown(Shutdown::Write);
            while matches!((&*server).read(&mut [0; 64]), Ok(1..)) {}
            if self.fate() == Fate::MayGo {
                self.set(Fate::Passes);
            }
            false
        });
        let _ = server.shutdown(Shutdown::Both);
    }
}

/// Passes on what comes while `passes` says so.
fn forward(mut from: &TcpStream, mut to: &TcpStream, passes: impl Fn(&[u8]) -> bool) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if !passes(&buffer[..count]) || to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
}

/// A log of all changes, and its process, following, with a proxy before the output. One statement is a batch.
fn world() -> (Scenario, Trucker, Proxy) {
    let append = "on: {insert: insert, update: insert, delete: ignore, truncate: ignore}";
    // The values of a prepared statement, an array of ints without NULLs and the pipeline's name among them.
    const ARRAY: &[u8] = &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 23];
    let commits: Commits = |bytes| {
        let has = |text: &[u8]| bytes.windows(text.len()).any(|part| part == text);
        bytes[0] == b'B' && has(ARRAY) && has(b"the_log")
    };
    start(Scenario::new().pipeline("the_log", &config("t", "log", &[append]), &[]), commits)
}

/// The same by load.sql, which takes several statements and a COMMIT.
fn world_with_commit() -> (Scenario, Trucker, Proxy) {
    let config = "input: {connection: source, table: t}\noutput:\n  connection: output\n  \
                  on: {update: ignore, delete: ignore, truncate: ignore}\n";
    let files =
        [("transform.sql", "SELECT new.id"), ("load.sql", "INSERT INTO log SELECT id FROM {{ rows }}")];
    let commits: Commits = |bytes| bytes.windows(7).any(|part| part == b"COMMIT\0");
    start(Scenario::new().pipeline("the_log", config, &files), commits)
}

fn start(s: Scenario, commits: Commits) -> (Scenario, Trucker, Proxy) {
    let s = s.on_source("CREATE TABLE t (id int PRIMARY KEY)").on_output("CREATE TABLE log (id int)");
    let proxy = Proxy::new(commits);
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

fn meets(fate: Fate, (s, mut trucker, proxy): (Scenario, Trucker, Proxy)) {
    for id in 1..=5 {
        proxy.set(fate);
        s.source.execute(&format!("INSERT INTO t VALUES ({id})"));
        trucker.until("what commits", || proxy.fate() == Fate::Passes);
        s.until_same(&mut trucker, "SELECT id FROM t", "SELECT id FROM log");
    }
    arrives_once(&s, &mut trucker);
}

#[test]
fn a_commit_that_never_arrives_is_done_again() {
    meets(Fate::IsLost, world_with_commit());
}

#[test]
fn a_commit_whose_answer_is_lost_is_not_done_again() {
    meets(Fate::LosesItsAnswer, world_with_commit());
}

#[test]
fn a_statement_that_never_arrives_is_done_again() {
    meets(Fate::IsLost, world());
}

#[test]
fn a_statement_whose_answer_is_lost_is_not_done_again() {
    meets(Fate::LosesItsAnswer, world());
}

#[test]
fn a_commit_that_comes_late_is_waited_for_and_not_done_again() {
    let (s, mut trucker, proxy) = world_with_commit();
    proxy.set(Fate::IsHeldBack);
    s.source.execute("INSERT INTO t VALUES (1)");
    // The next connection asks for the checkpoint, which the late transaction has locked.
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    trucker.until("waiting for what became of the COMMIT", || s.output.number(waiting) > 0);
    assert_eq!(s.output.number("SELECT count(*) FROM log"), 0);
    proxy.set(Fate::MayGo);
    arrives_once(&s, &mut trucker);
}

#[test]
fn a_statement_that_comes_after_what_was_done_instead_does_nothing() {
    let (s, mut trucker, proxy) = world();
    proxy.set(Fate::IsHeldBack);
    s.source.execute("INSERT INTO t VALUES (1)");
    trucker.until("the statement", || proxy.fate() == Fate::IsHeld);
    s.until_same(&mut trucker, "SELECT id FROM t", "SELECT id FROM log");
    proxy.set(Fate::MayGo);
    trucker.until("the late statement", || proxy.fate() == Fate::Passes);
    arrives_once(&s, &mut trucker);
}

#[test]
fn a_statement_that_comes_just_before_what_is_done_instead_is_done_alone() {
    let (s, mut trucker, proxy) = world();
    // Each waits longer, since nothing of this process's own gets through.
    for id in 1..=2 {
        proxy.set(Fate::GoesBeforeTheNext);
        s.source.execute(&format!("INSERT INTO t VALUES ({id})"));
        trucker.until("both statements", || proxy.fate() == Fate::Passes);
        s.until_same(&mut trucker, "SELECT id FROM t", "SELECT id FROM log");
    }
    arrives_once(&s, &mut trucker);
    trucker.until_said("the checkpoint of pipeline the_log is not at");
}
