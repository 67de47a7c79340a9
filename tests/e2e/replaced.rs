//! What is behind an address may be another server by the time it is reached again: a restored copy, another cluster.
//! It is looked at before every stream, and never continued silently.

use std::path::Path;
use std::process::Command;

use trucker::sandbox::{PostgresServer, ServerOptions, StopMode};

use super::harness::{Scenario, Session, Trucker, output_server, private_server, source_server};

const T: &str = "CREATE TABLE t (id int PRIMARY KEY, v text)";

fn copy_of_t(source: u16, output: u16) -> Scenario {
    Scenario::between(source, output).tables(T).copies("t")
}

/// A server's data as they are on disk, to come back to.
struct Backup(tempfile::TempDir);

impl Backup {
    /// Of a server that is stopped for it.
    fn of(server: &mut PostgresServer) -> Self {
        server.stop(StopMode::Fast).unwrap();
        let folder = tempfile::tempdir().unwrap();
        copy(&server.data_dir(), &folder.path().join("data"));
        server.start_again().unwrap();
        Backup(folder)
    }

    /// Puts a stopped server's data back.
    fn restore(&self, server: &PostgresServer) {
        std::fs::remove_dir_all(server.data_dir()).unwrap();
        copy(&self.0.path().join("data"), &server.data_dir());
    }
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

fn ends_with(trucker: Trucker, words: &str) {
    let ended = trucker.end_failed();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains(words), "no word on {words}: {}", ended.stderr);
}

#[test]
fn a_source_put_back_to_a_backup_is_refused_by_a_running_process_and_at_the_start() {
    let mut source = private_server(ServerOptions::default());
    let s = copy_of_t(source.port(), output_server().port());
    s.once();
    let backup = Backup::of(&mut source);
    let mut trucker = s.run();
    s.source.execute("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 1000) i");
    s.until_table_same(&mut trucker, "t");
    source.stop(StopMode::Immediate).unwrap();
    backup.restore(&source);
    source.start_again().unwrap();
    ends_with(trucker, "it was restored from a backup");
    let said = s.once_fails(4);
    assert!(said.contains("trucker backfill t"), "{said}");
    assert_eq!(s.output.number("SELECT count(*) FROM t"), 1000, "nothing was changed");
}

#[test]
fn another_cluster_at_the_same_address_is_refused_by_a_running_process() {
    let mut source = private_server(ServerOptions::default());
    let mut other = private_server(ServerOptions { is_distinct: true, ..ServerOptions::default() });
    let s = copy_of_t(source.port(), output_server().port());
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    s.source.execute("INSERT INTO t VALUES (1, 'a')");
    s.until_table_same(&mut trucker, "t");
    // Complete with tables, publication and slot.
    let to = |database: &str| Session::try_connect(other.port(), database).unwrap();
    to("postgres").execute(&format!("CREATE DATABASE \"{}\"", s.source.name));
    let twin = to(&s.source.name);
    let slot = s.slot();
    twin.execute(&format!(
        "{T}; INSERT INTO t VALUES (2, 'not ours'); CREATE PUBLICATION {slot} FOR TABLE t
        WITH (publish_via_partition_root = true)"
    ));
    twin.execute(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"));
    drop(twin);
    let port = source.port();
    source.stop(StopMode::Immediate).unwrap();
    other.set("port", &port.to_string()).unwrap();
    other.restart(StopMode::Fast).unwrap();
    ends_with(trucker, "it is another database cluster");
    assert_eq!(s.output.value("SELECT string_agg(v, ' ') FROM t"), "a");
}

#[test]
fn a_slot_made_anew_while_the_source_was_away_is_refused_by_a_running_process() {
    let s = copy_of_t(source_server().port(), output_server().port());
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    let slot = s.slot();
    // At once, before the process has connected again.
    s.source.execute(&format!(
        "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = '{slot}';
         SELECT pg_drop_replication_slot('{slot}')"
    ));
    s.source.execute("INSERT INTO t VALUES (1, 'missed')");
    s.source.execute(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"));
    ends_with(trucker, "the source is not what it was");
}

#[test]
fn a_slot_that_goes_while_it_is_connected_to_is_said_to_be_gone() {
    let s = copy_of_t(source_server().port(), output_server().port());
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    let slot = s.slot();
    s.source.execute(&format!(
        "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = '{slot}';
         SELECT pg_drop_replication_slot('{slot}')"
    ));
    ends_with(trucker, "the source is not what it was: replication slot");
}

#[test]
fn an_output_put_back_to_a_backup_is_refused_where_the_slot_has_gone_on() {
    let mut output = private_server(ServerOptions::default());
    let s = copy_of_t(source_server().port(), output.port());
    s.once();
    let backup = Backup::of(&mut output);
    s.source.execute("INSERT INTO t VALUES (1, 'a')");
    s.once();
    output.stop(StopMode::Fast).unwrap();
    backup.restore(&output);
    output.start_again().unwrap();
    s.source.execute("INSERT INTO t VALUES (2, 'b')");
    let said = s.once_fails(4);
    assert!(said.contains("what lies between is lost") && said.contains("trucker backfill t"), "{said}");
    assert_eq!(s.output.number("SELECT count(*) FROM t"), 0, "nothing was changed");
    let dir = s.dir();
    assert_eq!(s.start(&["backfill", "--dir", dir.to_str().unwrap(), "t"]).wait().code, Some(0));
    s.once();
    s.assert_table_same("t");
}

#[test]
fn an_output_put_back_to_a_backup_goes_on_where_the_slot_still_has_everything() {
    let mut output = private_server(ServerOptions::default());
    let s = copy_of_t(source_server().port(), output.port());
    s.once();
    s.source.execute("INSERT INTO t VALUES (1, 'a')");
    s.once();
    let backup = Backup::of(&mut output);
    output.stop(StopMode::Fast).unwrap();
    backup.restore(&output);
    output.start_again().unwrap();
    s.source.execute("INSERT INTO t VALUES (2, 'b')");
    s.once();
    s.assert_table_same("t");
}

#[test]
fn a_checkpoint_that_cannot_be_read_is_not_taken_for_a_missing_one() {
    let s = copy_of_t(source_server().port(), output_server().port());
    s.source.execute("INSERT INTO t VALUES (1, 'a')");
    s.once();
    let role = format!("{}_writer", s.name);
    s.output.execute(&format!(
        "CREATE ROLE \"{role}\" LOGIN; GRANT ALL ON t TO \"{role}\"; GRANT USAGE ON SCHEMA trucker TO \"{role}\";
         GRANT INSERT, UPDATE ON trucker.checkpoint TO \"{role}\""
    ));
    let yml = std::fs::read_to_string(s.dir().join("trucker.yml")).unwrap();
    let (head, tail) = yml.rsplit_once("user: postgres").unwrap();
    s.file("trucker.yml", &format!("{head}user: {role}{tail}"));
    s.source.execute("INSERT INTO t VALUES (2, 'b')");
    let said = s.once_fails(4);
    assert!(said.contains("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA trucker"), "{said}");
    assert_eq!(s.output.value("SELECT string_agg(v, ' ') FROM t"), "a");
    s.file("trucker.yml", &yml);
    s.once();
    s.assert_table_same("t");
    s.output.execute(&format!("DROP OWNED BY \"{role}\"; DROP ROLE \"{role}\""));
}
