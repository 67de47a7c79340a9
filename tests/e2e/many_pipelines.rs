//! Several pipelines, several sources and several outputs in one project.

use super::harness::{Database, Scenario, config};

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
