//! A TCP proxy that loses patience: between the program and one server it cuts, stalls, slows down or swallows what passes, for
//! all connections or for the replication connection alone. Reads along just enough to know what passes: whether a
//! connection replicates, which LSN it confirms, when COMMIT goes by. Never changes a byte.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use super::harness::holds_for;

const TICK: Duration = Duration::from_millis(20);
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";
const STATUS: &[u8] = b"d\0\0\0\x26r";

/// What happens to bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They pass.
    Pass,
    /// They wait.
    Stall,
    /// A few at a time.
    Slow,
    /// What the server says never arrives; such a connection is cut when it is over.
    Swallow,
    /// Connections are closed as soon as they are made.
    Refuse,
}

/// Whom it happens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// All connections.
    All,
    /// Replication connections.
    Replication,
    /// The others.
    Ordinary,
}

/// The proxy; ends when it is dropped.
pub struct Proxy {
    /// Where it listens.
    pub port: u16,
    /// The furthest LSN that a slot was told to forget.
    pub confirmed: Arc<AtomicU64>,
    shared: Arc<Shared>,
}

struct Shared {
    target: u16,
    mode: Mutex<(Mode, Traffic)>,
    connections: Mutex<Vec<Weak<Connection>>>,
    /// Bytes after which the next connection that moves any is cut; 0: none.
    cut_after: AtomicU64,
    /// The answer to the next COMMIT is kept back.
    is_trap_set: AtomicBool,
    /// A COMMIT went by, and its answer is kept back.
    has_caught: AtomicBool,
    /// The furthest LSN that the slot was told to forget.
    confirmed: Arc<AtomicU64>,
    is_closed: AtomicBool,
}

struct Connection {
    client: TcpStream,
    server: TcpStream,
    replicates: AtomicBool,
    /// Bytes were lost, or are to be.
    is_mute: AtomicBool,
    is_cut: AtomicBool,
}

impl Connection {
    fn matches(&self, traffic: Traffic) -> bool {
        let replicates = self.replicates.load(Ordering::Relaxed);
        traffic == Traffic::All || replicates == (traffic == Traffic::Replication)
    }

    /// As by a peer that is gone: with a reset, so that what is under way is lost.
    fn cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
        for stream in [&self.client, &self.server] {
            SockRef::from(stream).set_linger(Some(Duration::ZERO)).ok();
            stream.shutdown(Shutdown::Both).ok();
        }
    }
}

impl Proxy {
    /// Between a port of its own and that one.
    pub fn start(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            target,
            mode: Mutex::new((Mode::Pass, Traffic::All)),
            connections: Mutex::default(),
            cut_after: AtomicU64::new(0),
            is_trap_set: AtomicBool::new(false),
            has_caught: AtomicBool::new(false),
            confirmed: Arc::default(),
            is_closed: AtomicBool::new(false),
        });
        let for_thread = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if for_thread.is_closed.load(Ordering::Relaxed) {
                    return;
                }
                for_thread.clone().connect(client);
            }
        });
        Proxy { port, confirmed: shared.confirmed.clone(), shared }
    }

    /// From now on.
    pub fn set(&self, mode: Mode, traffic: Traffic) {
        *self.shared.mode.lock().unwrap() = (mode, traffic);
        if mode != Mode::Swallow {
            self.each(|connection| {
                if connection.is_mute.load(Ordering::Relaxed) {
                    connection.cut();
                }
            });
        }
    }

    /// Cuts the connections that there are.
    pub fn cut(&self, traffic: Traffic) {
        self.each(|connection| {
            if connection.matches(traffic) {
                connection.cut();
            }
        });
    }

    /// Cuts a connection once that many bytes have passed, wherever in a message that is.
    pub fn cut_after(&self, bytes: u64) {
        self.shared.cut_after.store(bytes, Ordering::Relaxed);
    }

    /// Keeps back the answer to the next COMMIT.
    pub fn set_trap(&self) {
        self.shared.has_caught.store(false, Ordering::Relaxed);
        self.shared.is_trap_set.store(true, Ordering::Relaxed);
    }

    /// Whether a COMMIT went into the trap.
    pub fn has_caught(&self) -> bool {
        self.shared.has_caught.load(Ordering::Relaxed)
    }

    /// Lets all pass again; what had bytes swallowed is cut.
    pub fn heal(&self) {
        self.shared.cut_after.store(0, Ordering::Relaxed);
        self.shared.is_trap_set.store(false, Ordering::Relaxed);
        self.set(Mode::Pass, Traffic::All);
    }

    fn each(&self, act: impl Fn(&Connection)) {
        let mut connections = self.shared.connections.lock().unwrap();
        connections.retain(|connection| connection.strong_count() > 0);
        connections.iter().filter_map(Weak::upgrade).for_each(|connection| act(&connection));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.is_closed.store(true, Ordering::Relaxed);
        self.cut(Traffic::All);
        // Wakes the thread that listens.
        TcpStream::connect(("127.0.0.1", self.port)).ok();
    }
}

impl Shared {
    fn connect(self: Arc<Self>, client: TcpStream) {
        if self.mode.lock().unwrap().0 == Mode::Refuse {
            return;
        }
        let Ok(server) = TcpStream::connect(("127.0.0.1", self.target)) else { return };
        for stream in [&client, &server] {
            stream.set_nodelay(true).ok();
            stream.set_read_timeout(Some(TICK)).ok();
        }
        let connection = Arc::new(Connection {
            client,
            server,
            replicates: AtomicBool::new(false),
            is_mute: AtomicBool::new(false),
            is_cut: AtomicBool::new(false),
        });
        self.connections.lock().unwrap().push(Arc::downgrade(&connection));
        for is_request in [true, false] {
            let (shared, connection) = (self.clone(), connection.clone());
            thread::spawn(move || shared.forward(&connection, is_request));
        }
    }

    fn forward(&self, connection: &Connection, is_request: bool) {
        let (mut from, mut to) = match is_request {
            true => (&connection.client, &connection.server),
            false => (&connection.server, &connection.client),
        };
        let mut buffer = [0; 32 * 1024];
        while !self.is_closed.load(Ordering::Relaxed) && !connection.is_cut.load(Ordering::Relaxed) {
            let (mode, traffic) = *self.mode.lock().unwrap();
            let mode = if connection.matches(traffic) { mode } else { Mode::Pass };
            if mode == Mode::Stall {
                holds_for(TICK, || true);
                continue;
            }
            let room = if mode == Mode::Slow { 2000 } else { buffer.len() };
            let count = match from.read(&mut buffer[..room]) {
                Ok(0) => {
                    to.shutdown(Shutdown::Write).ok();
                    return;
                }
                Ok(count) => count,
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
                Err(_) => return connection.cut(),
            };
            let bytes = self.passed(connection, is_request, &buffer[..count]);
            if !is_request && mode == Mode::Swallow {
                connection.is_mute.store(true, Ordering::Relaxed);
            }
            let is_mute = !is_request && connection.is_mute.load(Ordering::Relaxed);
            if !is_mute && to.write_all(bytes).is_err() || bytes.len() < count {
                return connection.cut();
            }
            if mode == Mode::Slow {
                holds_for(TICK, || true);
            }
        }
    }

    /// Notes what goes by. Answers how much of it may.
    fn passed<'a>(&self, connection: &Connection, is_request: bool, bytes: &'a [u8]) -> &'a [u8] {
        if is_request {
            let has = |what: &[u8]| bytes.windows(what.len()).any(|window| window == what);
            if has(b"\0replication\0") {
                connection.replicates.store(true, Ordering::Relaxed);
            }
            if self.is_trap_set.load(Ordering::Relaxed)
                && has(COMMIT)
                && self.is_trap_set.swap(false, Ordering::Relaxed)
            {
                connection.is_mute.store(true, Ordering::Relaxed);
                self.has_caught.store(true, Ordering::Relaxed);
            }
            if connection.replicates.load(Ordering::Relaxed) {
                self.read_status(bytes);
            }
        }
        let left = self.cut_after.load(Ordering::Relaxed);
        if left == 0 {
            return bytes;
        }
        let count = bytes.len() as u64;
        match self
            .cut_after
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(count)))
        {
            Ok(left) if left > 0 && left <= count => &bytes[..left as usize - 1],
            _ => bytes,
        }
    }

    /// A standby status update: written, flushed, applied.
    fn read_status(&self, bytes: &[u8]) {
        for (at, _) in bytes.windows(STATUS.len()).enumerate().filter(|(_, window)| *window == STATUS) {
            if let Some(flushed) = bytes.get(at + 14..at + 22) {
                let flushed = u64::from_be_bytes(flushed.try_into().unwrap());
                self.confirmed.fetch_max(flushed, Ordering::SeqCst);
            }
        }
    }
}
