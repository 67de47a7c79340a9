//! A source made of a copy of its files: recovered to a point in time, or cloned without its slots. What was loaded from
//! the one that is gone is never mixed with what the other says. (Plain restores are in `replaced`.)

use std::path::{Path, PathBuf};
use std::process::Command;

use trucker::sandbox::{PostgresServer, ServerOptions, StopMode};

use super::harness::{PATIENCE, Scenario, eventually, output_server, private_server};

struct Backup {
    source: PostgresServer,
    s: Scenario,
    copy: PathBuf,
}

impl Backup {
    /// A source with row 1, a copy of its files as of then, and an output that has rows 1 and 2.
    fn new() -> Self {
        let mut source = private_server(ServerOptions::default());
        let s = Scenario::between(source.port(), output_server().port())
            .tables("CREATE TABLE t (id int PRIMARY KEY, v text)")
            .copies("t");
        s.source.execute("INSERT INTO t VALUES (1, 'kept')");
        s.once();
        source.stop(StopMode::Fast).unwrap();
        let copy = source.data_dir().with_file_name("backup");
        copy_folder(&source.data_dir(), &copy);
        source.start_again().unwrap();
        s.source.execute("INSERT INTO t VALUES (2, 'lost')");
        s.once();
        s.assert_table_same("t");
        Backup { source, s, copy }
    }

    /// Puts the copy in the place of the server's files; `change` does something to them before the start.
    fn restore(&mut self, change: impl FnOnce(&Path)) {
        self.source.stop(StopMode::Fast).unwrap();
        let data = self.source.data_dir();
        std::fs::remove_dir_all(&data).unwrap();
        copy_folder(&self.copy, &data);
        change(&data);
        self.source.start_again().unwrap();
    }

    fn is_refused(&self, words: &[&str]) {
        let said = self.s.once_fails(4);
        for word in words {
            assert!(said.contains(word), "no word on {word}: {said}");
        }
        assert_eq!(self.s.output.value("SELECT string_agg(id || v, ' ' ORDER BY id) FROM t"), "1kept 2lost");
    }

    fn starts_over(&self) {
        let dir = self.s.dir();
        let torn = self.s.start(&["teardown", dir.to_str().unwrap(), "--yes"]).wait();
        assert_eq!(torn.code, Some(0), "{}", torn.text());
        self.s.once();
        self.s.assert_table_same("t");
    }
}

/// With owners and rights: the server runs as another user where the tests run as root.
fn copy_folder(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

#[test]
fn a_source_recovered_to_a_point_before_what_was_loaded_is_refused() {
    let mut backup = Backup::new();
    // Recovery ends at once, for want of WAL, and opens a new timeline.
    backup.restore(|data| {
        let signal = data.join("recovery.signal");
        copy_folder(&data.join("PG_VERSION"), &signal);
        let conf = data.join("postgresql.conf");
        let text = std::fs::read_to_string(&conf).unwrap() + "\nrestore_command = 'false'\n";
        std::fs::write(&conf, text).unwrap();
    });
    let is_over = || backup.s.source.is("NOT pg_is_in_recovery()");
    assert!(eventually(PATIENCE, is_over), "recovery doesn't end");
    let timeline = "SELECT substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)";
    assert_eq!(backup.s.source.value(timeline), "00000002");
    // Even after it has written more WAL than was ever loaded.
    backup.s.source.execute("CREATE TABLE more AS SELECT repeat('x', 1000) FROM generate_series(1, 5000)");
    backup.s.source.execute("INSERT INTO t VALUES (3, 'new')");
    backup.is_refused(&["timeline 2", "trucker backfill t"]);
    backup.starts_over();
}

#[test]
fn a_copy_of_the_source_without_its_slots_is_refused() {
    let mut backup = Backup::new();
    // As pg_basebackup leaves them out.
    backup.restore(|data| {
        let slots = data.join("pg_replslot");
        for slot in std::fs::read_dir(&slots).unwrap() {
            std::fs::remove_dir_all(slot.unwrap().path()).unwrap();
        }
    });
    backup.s.source.execute("CREATE TABLE more AS SELECT repeat('x', 1000) FROM generate_series(1, 5000)");
    backup.s.source.execute("INSERT INTO t VALUES (3, 'new')");
    backup.is_refused(&["is gone", "trucker teardown"]);
    let slots = "SELECT count(*) FROM pg_replication_slots";
    assert_eq!(backup.s.source.number(slots), 0, "a new slot hides the gap");
}
