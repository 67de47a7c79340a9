//! A server that announces more than it sends, or than there is: trucker's memory stays small, and it says what is wrong.
//! Between trucker and a real server stands one that speaks up in its place, at a moment of the test's choice.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::harness::{Scenario, eventually, holds_for, output_server, source_server};

/// Less than any of the lengths that are announced.
const MEMORY_MAX_KIB: u64 = 100 * 1024;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Moment {
    /// In place of the first answer.
    Startup,
    /// In place of the answer to the first query.
    Query,
    /// In place of the stream's first frame.
    Stream,
}

#[derive(Clone)]
struct Attack {
    moment: Moment,
    /// Connections for replication, or ordinary ones.
    on_replication: bool,
    bytes: Vec<u8>,
}

#[derive(Clone, Default)]
struct Shared {
    attack: Arc<Mutex<Option<Attack>>>,
    made: Arc<AtomicUsize>,
    /// The connections that were attacked: held open, until they are let go.
    held: Arc<Mutex<Vec<TcpStream>>>,
}

/// Listens; its port.
fn stand_before(upstream: u16, shared: &Shared) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let shared = shared.clone();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let shared = shared.clone();
            thread::spawn(move || serve(client, upstream, &shared));
        }
    });
    port
}

fn serve(mut client: TcpStream, upstream: u16, shared: &Shared) -> Option<()> {
    let mut length = [0; 4];
    client.read_exact(&mut length).ok()?;
    let mut startup = length.to_vec();
    startup.resize(usize::try_from(u32::from_be_bytes(length)).ok()?, 0);
    client.read_exact(&mut startup[4..]).ok()?;
    let says = |text: &[u8]| startup.windows(text.len()).any(|part| part == text);
    let attack = shared
        .attack
        .lock()
        .unwrap()
        .clone()
        .filter(|attack| says(b"\0trucker\0") && says(b"\0replication\0") == attack.on_replication);
    if let Some(attack) = attack.as_ref().filter(|attack| attack.moment == Moment::Startup) {
        return strike(client, &attack.bytes, shared);
    }
    let mut server = TcpStream::connect(("127.0.0.1", upstream)).ok()?;
    server.write_all(&startup).ok()?;
    let (mut from_client, mut to_server) = (client.try_clone().ok()?, server.try_clone().ok()?);
    thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let Some(attack) = attack else {
        let _ = std::io::copy(&mut server, &mut client);
        return client.shutdown(Shutdown::Write).ok();
    };
    let sign: &[u8] = if attack.moment == Moment::Query { b"Z\0\0\0\x05I" } else { b"W\0\0\0\x07\0\0\0" };
    let mut seen = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let count = server.read(&mut chunk).ok().filter(|count| *count > 0)?;
        seen.extend_from_slice(&chunk[..count]);
        client.write_all(&chunk[..count]).ok()?;
        if seen.windows(sign.len()).any(|part| part == sign) {
            return strike(client, &attack.bytes, shared);
        }
    }
}

fn strike(mut client: TcpStream, bytes: &[u8], shared: &Shared) -> Option<()> {
    client.write_all(bytes).ok()?;
    shared.held.lock().unwrap().push(client);
    shared.made.fetch_add(1, Ordering::SeqCst);
    Some(())
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[tag], &length.to_be_bytes()[..], body].concat()
}

/// A frame with one pgoutput message.
fn frame(payload: &[u8]) -> Vec<u8> {
    message(b'd', &[b"w\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0", payload].concat())
}

/// One attack after the other, each against a new process; what is said in the end contains one of the texts.
fn withstands(attacks: Vec<(Attack, &[&str])>) {
    let shared = Shared::default();
    let port = stand_before(source_server().port(), &shared);
    let s = Scenario::between(port, output_server().port())
        .tables("CREATE TABLE t (id int PRIMARY KEY, v text)")
        .copies("t");
    s.source.execute("INSERT INTO t VALUES (1, 'a')");
    s.once();
    for (attack, said) in attacks {
        let what = format!("{:?}, {}", attack.moment, attack.bytes.escape_ascii());
        *shared.attack.lock().unwrap() = Some(attack);
        shared.made.store(0, Ordering::SeqCst);
        let trucker = s.run();
        let struck = || shared.made.load(Ordering::SeqCst) > 0;
        assert!(
            eventually(Duration::from_secs(20), struck),
            "no connection for {what}\n{}",
            trucker.stderr()
        );
        let mut peak = 0;
        let is_small = holds_for(Duration::from_millis(300), || {
            peak = trucker.peak_memory_if_running().unwrap_or(peak);
            peak < MEMORY_MAX_KIB
        });
        assert!(is_small, "{peak} KiB for {what}");
        // What it was waiting for doesn't come.
        *shared.attack.lock().unwrap() = None;
        shared.held.lock().unwrap().drain(..).for_each(|client| drop(client.shutdown(Shutdown::Both)));
        let told =
            eventually(Duration::from_secs(20), || said.iter().any(|text| trucker.stderr().contains(text)));
        assert!(told, "{what}: none of {said:?} in\n{}", trucker.stderr());
    }
    s.once();
    s.assert_table_same("t");
}

fn at(moment: Moment, on_replication: bool, bytes: impl Into<Vec<u8>>) -> Attack {
    Attack { moment, on_replication, bytes: bytes.into() }
}

#[test]
fn lengths_announced_before_authentication_allocate_nothing() {
    let closed: &[&str] = &["connection source"];
    withstands(vec![
        (at(Moment::Startup, false, b"R\x7F\xFF\xFF\xFF\0\0\0\x05"), closed),
        (at(Moment::Startup, false, b"E\xFF\xFF\xFF\xFFS"), closed),
        (at(Moment::Startup, false, message(b'R', b"\0\0\0\x0A\xFF")), closed),
        (
            at(Moment::Startup, true, b"R\x3F\xFF\xFF\xFF\0\0\0\x05"),
            &["a message that would be 1073741823 bytes long"],
        ),
        (
            at(Moment::Startup, true, b"E\xFF\xFF\xFF\xFFS"),
            &["a message that would be 4294967295 bytes long"],
        ),
        (at(Moment::Startup, true, message(b'R', b"\0\0\0\x05\x01")), &["malformed md5 salt"]),
    ]);
}

#[test]
fn lengths_and_counts_announced_in_answers_allocate_nothing() {
    let refused: &[&str] = &["connection source"];
    let row = |body: &[u8]| {
        let columns = [&b"\0\x01v\0"[..], &[0; 6], b"\0\0\0\x19\xFF\xFF\xFF\xFF\xFF\xFF\0\0"].concat();
        [message(b'T', &columns), message(b'D', body)].concat()
    };
    withstands(vec![
        (at(Moment::Query, false, b"D\x7F\xFF\xFF\xFF\0\x01"), refused),
        (at(Moment::Query, false, message(b'T', b"\xFF\xFFa\0")), refused),
        (at(Moment::Query, false, message(b't', b"\xFF\xFF\0\0")), refused),
        (at(Moment::Query, false, row(b"\xFF\xFF\0\0\0\x01a")), refused),
        (at(Moment::Query, false, row(b"\0\x01\x7F\xFF\xFF\xFFa")), refused),
        (at(Moment::Query, true, b"D\x3F\xFF\xFF\xFF\0\x01"), &["closed the connection"]),
        (at(Moment::Query, true, message(b'D', b"\xFF\xFF\0\0\0\x01a")), &["malformed row"]),
        (at(Moment::Query, true, message(b'D', b"\0\x01\x7F\xFF\xFF\xFFa")), &["malformed row"]),
        (at(Moment::Query, true, message(b'D', b"\0\0").repeat(1000)), &["it doesn't end"]),
    ]);
}

#[test]
fn lengths_and_counts_announced_in_the_stream_allocate_nothing() {
    let early: &[&str] = &["pgoutput message ends too early"];
    let begin = frame(&[&b"B"[..], &[0, 0, 0, 0, 0, 0, 0, 9], &[0; 12]].concat());
    let insert = |tuple: &[u8]| [&begin[..], &frame(&[b"I\0\0\0\x01N", tuple].concat())].concat();
    withstands(vec![
        (at(Moment::Stream, true, b"d\x3F\xFF\xFF\xFFw"), &["reconnecting"]),
        (at(Moment::Stream, true, b"d\x7F\xFF\xFF\xFFw"), &["a message that would be 2147483647 bytes long"]),
        (at(Moment::Stream, true, insert(b"\x7F\xFFn")), early),
        (at(Moment::Stream, true, insert(b"\0\x01t\x7F\xFF\xFF\xFFa")), early),
        (at(Moment::Stream, true, frame(b"R\0\0\0\x01s\0t\0d\x7F\xFF\x01id\0")), early),
        (at(Moment::Stream, true, frame(b"T\x3F\xFF\xFF\xFF\0\0\0\0\x01")), early),
        (at(Moment::Stream, true, frame(b"M\0\0\0\0\0\0\0\0\x01p\0\x7F\xFF\xFF\xFFx")), early),
    ]);
}
