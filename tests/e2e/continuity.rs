//! Whatever is changed around a project between two starts, or under a running one: it goes on exactly, or says why
//! it can't.

use super::harness::{Database, Scenario, config};

const T: &str = "CREATE TABLE t (id int PRIMARY KEY, v text)";

#[test]
fn columns_added_while_changes_wait_are_read_for_the_changes_from_before() {
    for file in [None, Some(("transform.sql", "SELECT row.id, row.v, row.extra"))] {
        let files: Vec<_> = file.into_iter().collect();
        let s = Scenario::new().tables(T).pipeline("t", &config("t", "t", &[]), &files[..0]);
        s.once();
        s.source.execute("INSERT INTO t VALUES (1, 'a'), (2, 'b'); UPDATE t SET v = 'c' WHERE id = 2");
        s.source.execute("INSERT INTO t VALUES (3, 'gone'); DELETE FROM t WHERE id = 3");
        for database in [&s.source, &s.output] {
            database.execute("ALTER TABLE t ADD COLUMN extra int DEFAULT 7");
        }
        s.source.execute("UPDATE t SET extra = 8 WHERE id = 2; INSERT INTO t VALUES (4, 'd', NULL)");
        files.iter().for_each(|(name, text)| s.file(&format!("t/{name}"), text));
        s.once();
        s.assert_table_same("t");
    }
}

#[test]
fn an_output_that_has_lost_what_was_loaded_is_refused_by_a_running_process_too() {
    let s = Scenario::new().tables(T).copies("t");
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    let before = s.output.value("SELECT loaded_lsn FROM trucker.checkpoint");
    s.source.execute("INSERT INTO t VALUES (1, 'a')");
    s.until_table_same(&mut trucker, "t");
    // As after a failover to a standby that lacked the last transactions.
    s.output.execute(&format!("UPDATE trucker.checkpoint SET loaded_lsn = '{before}'; TRUNCATE t"));
    s.output.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND application_name = 'trucker'",
    );
    s.source.execute("INSERT INTO t VALUES (2, 'b')");
    trucker.until_said("trucker backfill t");
    trucker.signal("TERM");
    let ended = trucker.wait();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
}

#[test]
fn several_input_tables_with_different_columns_fill_an_output_that_has_rows() {
    let s = Scenario::new()
        .on_source("CREATE TABLE a (id int PRIMARY KEY, x int, note text); CREATE TABLE b (id int PRIMARY KEY, x int)")
        .on_output("CREATE TABLE o (id int PRIMARY KEY, x int, note text DEFAULT 'none'); INSERT INTO o VALUES (99, 9)")
        .pipeline(
            "o",
            "input: {connection: source, tables: [a, b]}\noutput: {connection: output, table: o, on: {truncate: ignore}}\n",
            &[],
        );
    s.source.execute("INSERT INTO a VALUES (1, 1, 'one'); INSERT INTO b VALUES (2, 2)");
    s.once();
    assert_eq!(s.output.value("SELECT string_agg(o::text, ' ' ORDER BY id) FROM o"), "(1,1,one) (2,2,none)");
}

#[test]
fn a_partition_that_sends_less_than_its_table_promises_is_refused() {
    let s = Scenario::new()
        .on_source(
            "CREATE TABLE p (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
             CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100);
             ALTER TABLE p REPLICA IDENTITY FULL",
        )
        .on_output("CREATE TABLE p (id int PRIMARY KEY, v text)")
        .copies("p");
    let said = s.once_fails(3);
    assert!(said.contains("ALTER TABLE public.p1 REPLICA IDENTITY FULL"), "{said}");
    s.assert_nothing_created();
    s.source.execute("ALTER TABLE p1 REPLICA IDENTITY FULL; INSERT INTO p VALUES (1, 'a')");
    s.once();
    s.source.execute("UPDATE p SET id = 2");
    s.once();
    s.assert_table_same("p");
}

#[test]
fn a_partition_beside_its_table_in_one_project_is_refused() {
    let s = Scenario::new()
        .on_source(
            "CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);
             CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100)",
        )
        .on_output("CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE p1 (id int PRIMARY KEY)")
        .copies("p")
        .copies("p1");
    assert!(s.once_fails(4).contains("partition of"));
    s.assert_nothing_created();
}

#[test]
fn another_output_table_is_not_taken_for_the_one_that_was_filled() {
    let s = Scenario::new().tables(T).on_output("CREATE TABLE u (id int PRIMARY KEY, v text)").copies("t");
    s.source.execute("INSERT INTO t VALUES (1, 'a')");
    s.once();
    s.write_pipeline("t", &config("t", "u", &[]), &[]);
    let said = s.once_fails(4);
    assert!(said.contains("public.u") && said.contains("public.t"), "{said}");
    assert_eq!(s.output.number("SELECT count(*) FROM u"), 0);
}

#[test]
fn a_pipeline_under_a_new_name_leaves_no_row_of_the_old_one_behind() {
    let s = Scenario::new().tables(T).copies("t");
    s.source.execute("INSERT INTO t VALUES (1, 'a'), (2, 'b')");
    s.once();
    std::fs::rename(s.dir().join("t"), s.dir().join("renamed")).unwrap();
    s.source.execute("DELETE FROM t WHERE id = 1");
    s.once();
    s.assert_table_same("t");
}

#[test]
fn two_databases_of_one_cluster_are_two_sources() {
    let s = Scenario::new().tables(T).on_output("CREATE TABLE u (id int PRIMARY KEY, v text)").copies("t");
    let second = Database::create(s.source.port, &format!("{}_2", s.source.name));
    second.execute(T);
    let path = s.dir().join("trucker.yml");
    let text = std::fs::read_to_string(&path).unwrap();
    let more = format!(
        "  - {{name: second, adapter: postgres, host: 127.0.0.1, port: {}, database: {}, user: postgres}}\n",
        second.port, second.name
    );
    std::fs::write(path, text + &more).unwrap();
    let s = s.pipeline("u", &config("t", "u", &[]).replace("connection: source", "connection: second"), &[]);
    s.source.execute("INSERT INTO t VALUES (1, 'first')");
    second.execute("INSERT INTO t VALUES (2, 'second')");
    for _ in 0..2 {
        s.once();
        assert_eq!(s.output.value("SELECT string_agg(v, ',') FROM t"), "first");
        assert_eq!(s.output.value("SELECT string_agg(v, ',') FROM u"), "second");
    }
    let slots = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()";
    second.rows(slots);
}

#[test]
fn a_key_change_that_leaves_a_large_value_alone_keeps_it_where_deletes_are_ignored() {
    let s = Scenario::new()
        .tables("CREATE TABLE t (id int PRIMARY KEY, v text, w int)")
        .on_source("ALTER TABLE t ALTER v SET STORAGE EXTERNAL")
        .pipeline("t", &config("t", "t", &["on: {delete: ignore}"]), &[]);
    s.source.execute("INSERT INTO t VALUES (1, repeat('x', 50000), 1)");
    s.once();
    s.source.execute("UPDATE t SET id = 2, w = 2");
    s.once();
    assert_eq!(
        s.output.value("SELECT string_agg(id || ':' || length(v), ',' ORDER BY id) FROM t"),
        "1:50000,2:50000"
    );
}

#[test]
fn a_key_that_differs_only_as_text_is_still_one_row() {
    let s = Scenario::new()
        .tables("CREATE TABLE t (id numeric PRIMARY KEY, v text)")
        .on_source("ALTER TABLE t ALTER v SET STORAGE EXTERNAL")
        .copies("t");
    s.source.execute("INSERT INTO t VALUES (1.0, repeat('x', 50000))");
    s.once();
    s.source.execute("UPDATE t SET id = 1.000");
    s.once();
    s.assert_table_same("t");
}

#[test]
fn pipelines_over_two_connections_to_one_output_keep_their_places() {
    let s = Scenario::new().tables(T).on_output("CREATE TABLE u (id int PRIMARY KEY, v text)").copies("t");
    let path = s.dir().join("trucker.yml");
    let text = std::fs::read_to_string(&path).unwrap();
    let more = format!(
        "  - {{name: again, adapter: postgres, host: 127.0.0.1, port: {}, database: {}, user: postgres}}\n",
        s.output.port, s.output.name
    );
    std::fs::write(path, text + &more).unwrap();
    let s = s.pipeline("u", &config("t", "u", &[]).replace("connection: output", "connection: again"), &[]);
    s.once();
    s.source.execute("INSERT INTO t VALUES (1, 'a')");
    let second = s.once();
    assert!(!second.stderr.contains("backfilled"), "{}", second.stderr);
    s.assert_table_same("t");
}

#[test]
fn tables_that_inherit_from_an_input_table_are_left_alone() {
    let s = Scenario::new()
        .on_source("CREATE TABLE par (id int PRIMARY KEY, v text); CREATE TABLE chi () INHERITS (par)")
        .on_output("CREATE TABLE par (id int PRIMARY KEY, v text)")
        .copies("par");
    s.source.execute("INSERT INTO par VALUES (1, 'a'); INSERT INTO chi VALUES (2, 'child')");
    s.once();
    // Without a key of its own, the child could not be updated if it were published.
    s.source.execute("UPDATE chi SET v = 'still mine'; INSERT INTO par VALUES (3, 'c'); INSERT INTO chi VALUES (4, 'child')");
    s.once();
    s.assert_same("SELECT * FROM ONLY par", "SELECT * FROM par");
}
