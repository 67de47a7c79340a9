//! Several pipelines, several sources and several outputs in one project.

use trucker::sandbox::{PostgresServer, ServerOptions};

use super::harness::{Database, Scenario, config, private_server};

#[test]
fn several_pipelines_on_one_table_each_have_every_change() {
    let mut s = Scenario::new().on_source("CREATE TABLE t (id int PRIMARY KEY, v int)");
    for i in 0..8 {
        s = s.on_output(&format!("CREATE TABLE out{i} (id int PRIMARY KEY, v int)")).pipeline(
            &format!("out{i}"),
            &config("t", &format!("out{i}"), &[]),
            &[
                (
                    "transform.sql",
                    &format!("SELECT row.id, {{{{ row.v }}}} + {i} AS v WHERE {{{{ row.id }}}} % 8 <> {i}"),
                ),
                ("delete.sql", "SELECT {{ old.id }} AS id"),
            ],
        );
    }
    s.source.execute("INSERT INTO t SELECT i, i FROM generate_series(1, 500) i");
    let mut trucker = s.run();
    s.until_following(&mut trucker, 8);
    s.source.execute("UPDATE t SET v = v * 2 WHERE id % 3 = 0; DELETE FROM t WHERE id % 5 = 0");
    s.source.execute("UPDATE t SET id = id + 1001 WHERE id % 7 = 0; INSERT INTO t VALUES (9999, 1)");
    for i in 0..8 {
        s.until_same(
            &mut trucker,
            &format!("SELECT id, v + {i} FROM t WHERE id % 8 <> {i}"),
            &format!("SELECT * FROM out{i}"),
        );
    }
    let slots =
        "SELECT count(*) FROM pg_replication_slots WHERE database = current_database() AND NOT temporary";
    assert_eq!(s.source.number(slots), 1, "one slot for a source, however many pipelines");
}

#[test]
fn several_sources_and_outputs_work_in_one_project() {
    let s = Scenario::new().tables("CREATE TABLE t (id int PRIMARY KEY, v text)");
    let output = Database::create(s.output.port, &format!("{}_second", s.output.name));
    // The second source is a database of the output's server, so that it has another slot of the same name.
    let source = Database::create(s.output.port, &format!("{}_third", s.output.name));
    for database in [&output, &source] {
        database.execute(
            "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY, v text)",
        );
    }
    s.output.execute("CREATE TABLE u (id int PRIMARY KEY, v text)");
    let path = s.dir().join("trucker.yml");
    let mut text = std::fs::read_to_string(&path).unwrap();
    for (name, database) in [("source2", &source), ("output2", &output)] {
        text += &format!(
            "  - {{name: {name}, adapter: postgres, host: 127.0.0.1, port: {}, database: {}, user: postgres}}\n",
            database.port, database.name
        );
    }
    std::fs::write(path, text).unwrap();
    let between = |from: &str, to: &str, table: &str| {
        config("t", table, &["on: {truncate: ignore}"])
            .replace("connection: source", &format!("connection: {from}"))
            .replace("connection: output", &format!("connection: {to}"))
    };
    let s = s
        .pipeline("a", &between("source", "output", "t"), &[])
        .pipeline("b", &between("source", "output2", "t"), &[])
        .pipeline("c", &between("source2", "output", "u"), &[])
        .pipeline("d", &between("source2", "output2", "u"), &[]);
    s.source.execute("INSERT INTO t SELECT i, 'first' FROM generate_series(1, 100) i");
    source.execute("INSERT INTO t SELECT i, 'second' FROM generate_series(1, 100) i");
    s.once();
    s.source.execute("UPDATE t SET v = 'one' WHERE id < 50; DELETE FROM t WHERE id = 60");
    source.execute("UPDATE t SET v = 'two' WHERE id > 50; DELETE FROM t WHERE id = 40");
    s.once();
    let sorted =
        |database: &Database, table: &str| database.rows(&format!("SELECT * FROM {table} ORDER BY id"));
    let (first, second) = (sorted(&s.source, "t"), sorted(&source, "t"));
    assert_eq!(sorted(&s.output, "t"), first);
    assert_eq!(sorted(&output, "t"), first);
    assert_eq!(sorted(&s.output, "u"), second);
    assert_eq!(sorted(&output, "u"), second);
    source.execute(&format!("SELECT pg_drop_replication_slot('{}')", s.slot()));
    source.drop_quietly();
    output.drop_quietly();
}

#[test]
fn two_projects_on_one_database_do_not_meet() {
    let s = Scenario::new().tables("CREATE TABLE t (id int PRIMARY KEY)").copies("t");
    s.output.execute("CREATE TABLE second (id int PRIMARY KEY)");
    s.source.execute("INSERT INTO t VALUES (1)");
    s.once();
    let other = format!("name: {}_b\n", s.name);
    let path = s.dir().join("trucker.yml");
    let first = std::fs::read_to_string(&path).unwrap();
    s.write_pipeline("t", &config("t", "second", &[]), &[]);
    std::fs::write(&path, first.replacen(&format!("name: {}\n", s.name), &other, 1)).unwrap();
    s.once();
    s.source.execute("INSERT INTO t VALUES (2)");
    s.once();
    s.write_pipeline("t", &config("t", "t", &[]), &[]);
    std::fs::write(&path, first).unwrap();
    s.once();
    s.assert_table_same("t");
    s.assert_same("SELECT * FROM t", "SELECT * FROM second");
}

#[test]
fn a_chain_of_pipelines_through_the_output_arrives_at_its_end() {
    let s = Scenario::new()
        .tables("CREATE TABLE t (id int PRIMARY KEY, v int)")
        .on_output("CREATE TABLE far (id int PRIMARY KEY, v int)")
        .copies("t")
        .pipeline(
            "far",
            &config("t", "far", &[]).replace("connection: source", "connection: output"),
            &[
                ("transform.sql", "SELECT row.id, {{ row.v }} * 2 AS v"),
                ("delete.sql", "SELECT {{ old.id }} AS id"),
            ],
        );
    let mut trucker = s.run();
    s.until_following(&mut trucker, 2);
    s.source.execute("INSERT INTO t SELECT i, i FROM generate_series(1, 100) i; DELETE FROM t WHERE id = 5");
    s.until_same(&mut trucker, "SELECT id, v * 2 FROM t", "SELECT * FROM far");
    trucker.terminate();
    s.output.execute(&format!("SELECT pg_drop_replication_slot('{}')", s.slot()));
}

/// Two sources, each with a server of its own, and one output.
fn two_sources() -> (PostgresServer, Scenario, Database) {
    let server = private_server(ServerOptions::default());
    let second = Database::create(server.port(), "second");
    second.execute("CREATE TABLE b (id int PRIMARY KEY)");
    let s = Scenario::new()
        .on_source("CREATE TABLE a (id int PRIMARY KEY)")
        .on_output("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)")
        .copies("a")
        .pipeline("b", &config("b", "b", &[]).replace("connection: source", "connection: second"), &[]);
    let path = s.dir().join("trucker.yml");
    let text = std::fs::read_to_string(&path).unwrap();
    let more = format!(
        "  - {{name: second, adapter: postgres, host: 127.0.0.1, port: {}, database: second, user: postgres}}\n",
        server.port()
    );
    std::fs::write(path, text + &more).unwrap();
    (server, s, second)
}

#[test]
fn a_source_that_is_down_leaves_the_pipelines_of_another_alone() {
    let (mut server, s, second) = two_sources();
    let mut trucker = s.run();
    s.until_following(&mut trucker, 2);
    server.kill9();
    for n in 0..5 {
        s.source.execute(&format!("INSERT INTO a VALUES ({n})"));
        s.until_table_same(&mut trucker, "a");
    }
    server.start_again().unwrap();
    second.execute("INSERT INTO b VALUES (1)");
    trucker.until("the other source's row", || s.output.is("SELECT count(*) = 1 FROM b"));
}

#[test]
fn a_source_that_is_lost_for_good_leaves_the_pipelines_of_another_alone() {
    let (_server, s, second) = two_sources();
    let mut trucker = s.run();
    s.until_following(&mut trucker, 2);
    let slot = s.slot();
    // As soon as its walsender is gone, somebody drops the slot.
    trucker.until("the slot being dropped", || {
        let mine = format!("FROM pg_replication_slots WHERE slot_name = '{slot}'");
        second.rows(&format!("SELECT pg_terminate_backend(active_pid) {mine} AND active"));
        let _ = second.try_rows(&format!("SELECT pg_drop_replication_slot(slot_name) {mine}"));
        second.rows(&format!("SELECT 1 {mine}")).is_empty()
    });
    trucker.until_said("source_failed");
    for n in 0..5 {
        s.source.execute(&format!("INSERT INTO a VALUES ({n})"));
        s.until_table_same(&mut trucker, "a");
    }
    trucker.signal("TERM");
    let ended = trucker.end_failed();
    assert_eq!(ended.code, Some(1), "a source has failed: {}", ended.stderr);
    assert!(ended.stderr.contains(&format!("replication slot {slot} is gone")), "{}", ended.stderr);
}
