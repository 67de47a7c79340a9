//! What outputs do to those who write into them: full disks, locks, deadlocks, read-only times, triggers, foreign keys,
//! tables that go away. What passes by itself is waited for; what doesn't stops one pipeline, with the server's words.

use super::harness::{Scenario, config};

const T: &str = "CREATE TABLE t (id int PRIMARY KEY, v int)";

fn copy_of_t() -> Scenario {
    Scenario::new().tables(T).copies("t")
}

/// Has every write to `t` fail with that SQLSTATE until the table `trouble` is empty, as a server in trouble would.
fn make_trouble(s: &Scenario, sqlstate: &str) {
    s.output.execute(&format!(
        "CREATE TABLE trouble AS SELECT 1;
         CREATE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           IF EXISTS (SELECT FROM trouble) THEN RAISE SQLSTATE '{sqlstate}'; END IF; RETURN NULL;
         END $$;
         CREATE TRIGGER trouble BEFORE INSERT ON t FOR EACH STATEMENT EXECUTE FUNCTION trouble()"
    ));
}

#[test]
fn what_passes_by_itself_is_waited_for_in_the_stream() {
    // Full disk, out of memory, serialization failure, deadlock, lock not available, canceled, read-only, input or
    // output error.
    for sqlstate in ["53100", "53200", "40001", "40P01", "55P03", "57014", "25006", "58030"] {
        let s = copy_of_t();
        let mut trucker = s.run();
        s.until_following(&mut trucker, 1);
        make_trouble(&s, sqlstate);
        s.source.execute("INSERT INTO t VALUES (1, 1); UPDATE t SET v = 2");
        trucker.until_said(&format!("SQLSTATE {sqlstate}"));
        assert!(trucker.stderr().contains("retrying"), "{}", trucker.stderr());
        s.output.execute("DELETE FROM trouble");
        s.until_table_same(&mut trucker, "t");
    }
}

#[test]
fn a_full_disk_in_a_backfill_is_waited_for_and_leaves_no_half_of_it() {
    let s = copy_of_t();
    make_trouble(&s, "53100");
    s.source.execute("INSERT INTO t SELECT i, i FROM generate_series(1, 1000) i");
    let mut trucker = s.run();
    trucker.until_said("SQLSTATE 53100");
    assert_eq!(s.output.number("SELECT count(*) FROM t"), 0);
    s.output.execute("DELETE FROM trouble");
    s.until_table_same(&mut trucker, "t");
}

#[test]
fn an_output_that_is_read_only_for_a_while_is_waited_for() {
    let s = copy_of_t();
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    let name = &s.output.name;
    let end_sessions = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                        WHERE datname = current_database() AND application_name = 'trucker'";
    s.output.execute(&format!("ALTER DATABASE \"{name}\" SET default_transaction_read_only = on"));
    s.output.execute(end_sessions);
    s.source.execute("INSERT INTO t VALUES (1, 1)");
    trucker.until_said("SQLSTATE 25006");
    s.output
        .execute(&format!("SET default_transaction_read_only = off; ALTER DATABASE \"{name}\" RESET ALL"));
    s.output.execute(end_sessions);
    s.until_table_same(&mut trucker, "t");
}

#[test]
fn an_output_that_is_out_of_connections_for_a_while_is_waited_for() {
    let s = copy_of_t();
    let role = format!("{}_role", s.name);
    s.output.execute(&format!("CREATE ROLE {role} LOGIN; GRANT ALL ON t TO {role}"));
    s.output.execute(&format!("GRANT CREATE ON DATABASE \"{}\" TO {role}", s.output.name));
    let path = s.dir().join("trucker.yml");
    let text = std::fs::read_to_string(&path).unwrap();
    let (head, rest) = text.split_at(text.find("  - name: output").unwrap());
    std::fs::write(&path, format!("{head}{}", rest.replace("user: postgres", &format!("user: {role}"))))
        .unwrap();
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    s.output.execute(&format!("ALTER ROLE {role} CONNECTION LIMIT 0"));
    s.output
        .execute(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'"));
    s.source.execute("INSERT INTO t VALUES (1, 1)");
    trucker.until_said("SQLSTATE 53300");
    s.output.execute(&format!("ALTER ROLE {role} CONNECTION LIMIT -1"));
    s.until_table_same(&mut trucker, "t");
    trucker.terminate();
    s.output
        .execute(&format!("DROP OWNED BY {role}; DROP SCHEMA IF EXISTS trucker CASCADE; DROP ROLE {role}"));
}

#[test]
fn a_deadlock_with_somebody_else_on_the_output_is_survived() {
    let s = copy_of_t();
    s.source.execute("INSERT INTO t VALUES (1, 0), (2, 0)");
    s.output.execute(&format!("ALTER DATABASE \"{}\" SET deadlock_timeout = '1500ms'", s.output.name));
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    s.until_table_same(&mut trucker, "t");
    let other = s.output.session();
    // The one whose timeout ends first is the victim: trucker.
    other.execute("SET deadlock_timeout = '1h'; BEGIN; UPDATE t SET v = -1 WHERE id = 2");
    s.source.execute("UPDATE t SET v = 10 WHERE id = 1; UPDATE t SET v = 20 WHERE id = 2");
    let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
                 AND application_name = 'trucker' AND wait_event_type = 'Lock')";
    trucker.until("trucker waiting for the other's row", || s.output.is(waits));
    other.execute("UPDATE t SET v = -1 WHERE id = 1; COMMIT");
    s.until_table_same(&mut trucker, "t");
    assert!(trucker.stderr().contains("40P01"), "there was no deadlock: {}", trucker.stderr());
}

#[test]
fn two_pipelines_that_write_the_same_rows_in_opposite_orders_both_arrive() {
    let s = Scenario::new()
        .on_source("CREATE TABLE a (id int PRIMARY KEY, x int); CREATE TABLE b (id int PRIMARY KEY, y int)")
        .on_output("CREATE TABLE o (id int PRIMARY KEY, x int, y int)")
        .pipeline("a", &config("a", "o", &["on: {truncate: ignore, delete: ignore}"]), &[])
        .pipeline("b", &config("b", "o", &["on: {truncate: ignore, delete: ignore}"]), &[]);
    s.source.execute(
        "INSERT INTO a SELECT i, 0 FROM generate_series(1, 50) i; INSERT INTO b SELECT i, 0 FROM a i(i)",
    );
    let mut trucker = s.run();
    s.until_following(&mut trucker, 2);
    for round in 1..=30 {
        for (table, column, order) in [("a", "x", ""), ("b", "y", "DESC")] {
            s.source.execute(&format!(
                "DO $$ DECLARE n int; BEGIN FOR n IN SELECT i FROM generate_series(1, 50) i ORDER BY i {order} LOOP
                   UPDATE {table} SET {column} = {round} WHERE id = n; END LOOP; END $$"
            ));
        }
    }
    s.until_same(&mut trucker, "SELECT id, x, y FROM a JOIN b USING (id)", "SELECT * FROM o");
}

#[test]
fn triggers_of_the_output_fire_once_for_each_row_written() {
    let s = copy_of_t().on_output(
        "CREATE TABLE audit (op text, id int, v int);
         CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           INSERT INTO audit SELECT TG_OP, coalesce(NEW.id, OLD.id), NEW.v; RETURN NULL; END $$;
         CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION audit()",
    );
    s.source.execute("INSERT INTO t VALUES (1, 1)");
    s.once();
    s.source.execute(
        "INSERT INTO t VALUES (2, 2); UPDATE t SET v = 20 WHERE id = 2; UPDATE t SET v = 21 WHERE id = 2",
    );
    s.source.execute("DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (1, 100)");
    s.once();
    s.assert_table_same("t");
    let all = "SELECT string_agg(concat_ws(' ', op, id, v), ', ' ORDER BY ctid) FROM audit";
    let expected = "INSERT 1 1, INSERT 2 2, UPDATE 2 20, UPDATE 2 21, DELETE 1, INSERT 1 100";
    assert_eq!(s.output.value(all), expected, "in the order of the changes, none merged");
}

#[test]
fn a_role_in_replica_mode_writes_past_triggers_and_foreign_keys() {
    let s = Scenario::new()
        .on_source(
            "CREATE TABLE child (id int PRIMARY KEY, parent int); CREATE TABLE parent (id int PRIMARY KEY)",
        )
        .on_output(
            "CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent);
             CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'fired'; END $$;
             CREATE TRIGGER never BEFORE INSERT ON child FOR EACH ROW EXECUTE FUNCTION never()",
        )
        .copies("child")
        .copies("parent");
    s.output.execute(&format!("ALTER DATABASE \"{}\" SET session_replication_role = replica", s.output.name));
    s.source.execute("INSERT INTO child VALUES (1, 7)");
    s.once();
    s.source.execute("INSERT INTO child VALUES (2, 8); INSERT INTO parent VALUES (7), (8)");
    s.once();
    s.assert_table_same("child");
    s.assert_table_same("parent");
}

#[test]
fn a_foreign_key_between_outputs_of_two_pipelines_is_refused_with_the_cure() {
    let s = Scenario::new()
        .tables(
            "CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (id int PRIMARY KEY, parent int)",
        )
        .on_output("ALTER TABLE child ADD CONSTRAINT belongs FOREIGN KEY (parent) REFERENCES parent")
        .copies("child")
        .copies("parent");
    let said = s.once_fails(3);
    for word in
        ["belongs", "public.child", "public.parent", "ALTER TABLE public.child DROP CONSTRAINT belongs"]
    {
        assert!(said.contains(word), "no word on {word}: {said}");
    }
    s.assert_nothing_created();
}

#[test]
fn a_foreign_key_to_a_table_that_nobody_feeds_is_the_users_own() {
    let s = Scenario::new()
        .tables("CREATE TABLE t (id int PRIMARY KEY, country int)")
        .on_output("CREATE TABLE country (id int PRIMARY KEY); ALTER TABLE t ADD CONSTRAINT known FOREIGN KEY (country) REFERENCES country")
        .copies("t");
    s.output.execute("INSERT INTO country VALUES (1)");
    s.source.execute("INSERT INTO t VALUES (1, 1)");
    s.once();
    s.source.execute("INSERT INTO t VALUES (2, 2)");
    let said = s.once_fails(1);
    assert!(said.contains("23503") && said.contains("known"), "{said}");
    s.output.execute("INSERT INTO country VALUES (2)");
    s.once();
    s.assert_table_same("t");
}

#[test]
fn an_output_column_that_goes_away_and_comes_back_loses_nothing() {
    let s = copy_of_t();
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    s.output.execute("ALTER TABLE t RENAME COLUMN v TO w");
    s.source.execute("INSERT INTO t VALUES (1, 1)");
    trucker.until_said("42703");
    let ended = trucker.end_failed();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    s.output.execute("ALTER TABLE t RENAME COLUMN w TO v");
    s.source.execute("INSERT INTO t VALUES (2, 2)");
    s.once();
    s.assert_table_same("t");
}

#[test]
fn an_output_column_that_can_hold_less_stops_the_pipeline_instead_of_cutting() {
    for (from, to, value, code) in [
        ("text", "varchar(3)", "'abcd'", "22001"),
        ("bigint", "int", "3000000000", "22003"),
        ("numeric", "numeric(4,2)", "12345.6", "22003"),
        ("text", "int", "'x'", "22P02"),
        ("int", "int NOT NULL", "NULL", "23502"),
        ("json", "jsonb", r#"'"\u0000"'"#, "22P05"),
        ("double precision", "real", "1e300", "22003"),
        ("timestamptz", "timestamp CHECK (isfinite(v))", "'infinity'", "23514"),
    ] {
        for backfills in [true, false] {
            let s = Scenario::new()
                .on_source(&format!("CREATE TABLE t (id int PRIMARY KEY, v {from})"))
                .on_output(&format!("CREATE TABLE t (id int PRIMARY KEY, v {to})"))
                .copies("t");
            if !backfills {
                s.once();
            }
            s.source.execute(&format!("INSERT INTO t VALUES (1, {value})"));
            let said = s.once_fails(1);
            assert!(said.contains(code), "{from} to {to}: no word on {code}: {said}");
            assert_eq!(s.output.number("SELECT count(*) FROM t"), 0);
        }
    }
}
