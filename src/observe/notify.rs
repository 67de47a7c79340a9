//! systemd's notifications, where it asked for them (`Type=notify`): ready, a line of status, stopping, and the watchdog's
//! pings. A ping is sent for each look at the engine that found all of its tasks turning, never by a clock alone: but
//! while it starts, where each step has a deadline of its own. The protocol is a datagram; nothing waits for it.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::snapshot::{PipelineState, RunState, Snapshot, word};

/// How often it pings while it starts.
const START_INTERVAL: Duration = Duration::from_secs(1);

/// Who started this process wants to know how it is.
#[derive(Debug)]
pub struct Notifier {
    socket: UnixDatagram,
    has_watchdog: bool,
}

impl Notifier {
    /// As the environment says; None where nobody asks. A socket that can't be reached is told in the log: systemd will
    /// then think that the start failed.
    pub fn from_environment() -> Option<Notifier> {
        let address = env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty())?;
        let is_anothers = env::var("WATCHDOG_PID").is_ok_and(|pid| pid != std::process::id().to_string());
        let has_watchdog = env::var_os("WATCHDOG_USEC").is_some() && !is_anothers;
        match connect(address.as_bytes()) {
            Ok(socket) => Some(Notifier { socket, has_watchdog }),
            Err(error) => {
                tracing::warn!(event = "notify_unavailable", "NOTIFY_SOCKET can't be used: {error}");
                None
            }
        }
    }

    /// Tells what is put on the board, until nobody puts anything there any more.
    pub async fn follow(self, mut board: watch::Receiver<Arc<Snapshot>>) {
        let (mut is_ready, mut status) = (false, String::new());
        loop {
            let snapshot = board.borrow_and_update().clone();
            let is_starting = snapshot.state == RunState::Starting;
            let mut message = String::new();
            if !is_ready && matches!(snapshot.state, RunState::Running | RunState::Standby) {
                is_ready = true;
                message += "READY=1\n";
            }
            if snapshot.state == RunState::Stopping {
                message += "STOPPING=1\n";
            }
            let now = summary(&snapshot);
            if now != status {
                message += &format!("STATUS={now}\n");
                status = now;
            }
            if self.has_watchdog && is_ready && snapshot.turns {
                message += "WATCHDOG=1\n";
            }
            if !message.is_empty() {
                // A reader that is gone or slow is no concern of the run's.
                self.socket.send(message.as_bytes()).ok();
            }
            tokio::select! {
                changed = board.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(START_INTERVAL), if is_starting => {}
            }
        }
    }
}

/// A path, or a name in Linux's abstract namespace, written with `@` for its first byte.
fn connect(address: &[u8]) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    let address = match address.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(address))?,
    };
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// One line on how it stands. Changes seldom: lag counts in minutes.
fn summary(snapshot: &Snapshot) -> String {
    match snapshot.state {
        RunState::Starting => return "Starting: looking at its servers".to_owned(),
        RunState::Standby => return "Standing by: another process has the project".to_owned(),
        RunState::Stopping => return "Finishing what is under way".to_owned(),
        RunState::Running => {}
    }
    let states = [
        PipelineState::Failed,
        PipelineState::Retrying,
        PipelineState::Connecting,
        PipelineState::Backfilling,
        PipelineState::Following,
    ];
    let mut parts = Vec::new();
    for state in states {
        let names: Vec<&str> =
            snapshot.pipelines.iter().filter(|p| p.state == state).map(|p| p.name.as_str()).collect();
        match names.as_slice() {
            [] => {}
            names if state == PipelineState::Following => parts.push(format!("{} following", names.len())),
            [name] => parts.push(format!("{name} {}", word(state))),
            names => parts.push(format!("{} {}", names.len(), word(state))),
        }
    }
    let lag = snapshot.pipelines.iter().map(|p| p.lag_seconds as u64).max().unwrap_or(0);
    if lag >= 60 {
        parts.push(format!("up to {} min behind", lag / 60));
    }
    format!("Running: {}", parts.join(", "))
}
