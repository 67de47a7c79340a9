//! One pipeline's trouble is its own: it stops, says why and where, keeps its place, and the others go on.

use super::harness::{Scenario, config};

/// `good` copies t; `bad` fails in the way that the test asks for.
fn good_and(bad_config: &str, bad_files: &[(&str, &str)]) -> Scenario {
    Scenario::new()
        .on_source("CREATE TABLE t (id int PRIMARY KEY, v int)")
        .on_output(
            "CREATE TABLE good (id int PRIMARY KEY, v int); CREATE TABLE bad (id int PRIMARY KEY, v int)",
        )
        .pipeline("good", &config("t", "good", &[]), &[])
        .pipeline("bad", bad_config, bad_files)
}

#[test]
fn sql_that_fails_on_a_value_stops_its_pipeline_alone_and_goes_on_where_it_stood() {
    let s = good_and(
        &config("t", "bad", &[]),
        &[
            ("transform.sql", "SELECT {{ row.id }} AS id,\n       100 / {{ row.v }} AS v"),
            ("delete.sql", "SELECT {{ old.id }} AS id"),
        ],
    );
    s.source.execute("INSERT INTO t VALUES (1, 10)");
    let mut trucker = s.run();
    s.until_following(&mut trucker, 2);
    s.source.execute("INSERT INTO t VALUES (2, 20)");
    s.source.execute("INSERT INTO t VALUES (3, 0)");
    s.source.execute("INSERT INTO t VALUES (4, 25)");
    s.until_same(&mut trucker, "SELECT * FROM t", "SELECT * FROM good");
    trucker.until_said("division by zero");
    s.source.execute("UPDATE t SET v = v + 5 WHERE id = 4");
    s.until_same(&mut trucker, "SELECT * FROM t", "SELECT * FROM good");
    let text = trucker.stderr();
    for word in ["bad", "transform.sql", "division by zero", "22012"] {
        assert!(text.contains(word), "no word on {word}: {text}");
    }
    // What had been before the change that fails is there, what comes after it is not.
    assert!(!s.output.is("SELECT bool_or(id >= 3) FROM bad"));
    trucker.kill9();
    s.once_fails(1);
    s.file("bad/transform.sql", "SELECT {{ row.id }} AS id, 100 / nullif({{ row.v }}, 0) AS v");
    s.once();
    s.assert_same("SELECT id, 100 / nullif(v, 0) FROM t", "SELECT * FROM bad");
    s.assert_same("SELECT * FROM t", "SELECT * FROM good");
}

#[test]
fn a_constraint_of_the_output_stops_its_pipeline_alone_with_the_servers_words() {
    let s = good_and(&config("t", "bad", &[]), &[]);
    s.output.execute("ALTER TABLE bad ADD CONSTRAINT small CHECK (v < 100)");
    s.source.execute("INSERT INTO t VALUES (1, 1)");
    s.once();
    s.source.execute("INSERT INTO t VALUES (2, 4711000)");
    s.source.execute("INSERT INTO t VALUES (3, 3)");
    let text = s.once_fails(1);
    for word in ["bad", "small", "23514"] {
        assert!(text.contains(word), "no word on {word}: {text}");
    }
    assert!(!text.contains("4711000"), "a row's value was shown: {text}");
    s.assert_same("SELECT * FROM t", "SELECT * FROM good");
    s.output.execute("ALTER TABLE bad DROP CONSTRAINT small");
    s.once();
    s.assert_same("SELECT * FROM t", "SELECT * FROM bad");
}

#[test]
fn a_backfill_that_fails_leaves_the_others_alone_and_starts_again() {
    let s = good_and(
        &config("t", "bad", &[]),
        &[
            ("transform.sql", "SELECT {{ row.id }} AS id, 100 / {{ row.v }} AS v"),
            ("delete.sql", "SELECT {{ old.id }} AS id"),
        ],
    );
    s.source.execute("INSERT INTO t SELECT i, i - 500 FROM generate_series(1, 1000) i");
    let text = s.once_fails(1);
    assert!(text.contains("bad") && text.contains("division by zero"), "{text}");
    s.assert_same("SELECT * FROM t", "SELECT * FROM good");
    assert_eq!(s.output.number("SELECT count(*) FROM bad"), 0);
    s.source.execute("DELETE FROM t WHERE v = 0");
    s.once();
    s.assert_same("SELECT id, 100 / v FROM t", "SELECT * FROM bad");
}

#[test]
fn a_dropped_output_table_stops_its_pipeline_alone() {
    let s = good_and(&config("t", "bad", &[]), &[]);
    let mut trucker = s.run();
    s.until_following(&mut trucker, 2);
    s.output.execute("ALTER TABLE bad RENAME TO elsewhere");
    s.source.execute("INSERT INTO t VALUES (1, 1)");
    s.until_same(&mut trucker, "SELECT * FROM t", "SELECT * FROM good");
    trucker.until_said("42P01");
    trucker.kill9();
    s.output.execute("ALTER TABLE elsewhere RENAME TO bad");
    s.once();
    s.assert_same("SELECT * FROM t", "SELECT * FROM bad");
}

#[test]
fn deadlocks_and_lock_timeouts_are_retried() {
    let s = good_and(&config("t", "bad", &[]), &[]);
    s.output.execute(&format!("ALTER DATABASE \"{}\" SET lock_timeout = '300ms'", s.output.name));
    let mut trucker = s.run();
    s.until_following(&mut trucker, 2);
    let blocker = s.output.session();
    blocker.execute("BEGIN; LOCK TABLE bad IN ACCESS EXCLUSIVE MODE");
    s.source.execute("INSERT INTO t VALUES (1, 1)");
    s.until_same(&mut trucker, "SELECT * FROM t", "SELECT * FROM good");
    assert!(super::harness::holds_for(std::time::Duration::from_secs(1), || trucker.is_running()));
    blocker.execute("COMMIT");
    s.until_same(&mut trucker, "SELECT * FROM t", "SELECT * FROM bad");
}

#[test]
fn a_failed_pipeline_keeps_the_wal_that_it_still_needs() {
    let s = good_and(&config("t", "bad", &[]), &[]);
    s.output.execute("ALTER TABLE bad ADD CHECK (v < 100)");
    let mut trucker = s.run();
    s.until_following(&mut trucker, 2);
    s.source.execute("INSERT INTO t VALUES (1, 1000)");
    // What others write on the server comes in between: no distance would do.
    let lsn = s.source.value("SELECT pg_current_wal_lsn()");
    for n in 2..50 {
        s.source.execute(&format!("INSERT INTO t VALUES ({n}, {n}); SELECT pg_switch_wal()"));
    }
    s.until_same(&mut trucker, "SELECT * FROM t", "SELECT * FROM good");
    let slot = s.slot();
    let kept =
        format!("SELECT confirmed_flush_lsn < '{lsn}' FROM pg_replication_slots WHERE slot_name = '{slot}'");
    assert!(s.source.is(&kept), "the slot went past the failed change");
    trucker.kill9();
    s.output.execute("ALTER TABLE bad DROP CONSTRAINT bad_v_check");
    s.once();
    s.assert_same("SELECT * FROM t", "SELECT * FROM bad");
}

#[test]
fn whole_transactions_before_the_one_that_fails_are_loaded_and_nothing_of_it() {
    // All wait at once, the failing one so large that it goes in pieces, and fails in its last.
    let s = good_and(
        &config("t", "bad", &[]),
        &[
            ("transform.sql", "SELECT {{ row.id }} AS id, 100 / {{ row.v }} AS v"),
            ("delete.sql", "SELECT {{ old.id }} AS id"),
        ],
    );
    s.once();
    for id in 1..=20 {
        s.source.execute(&format!("INSERT INTO t VALUES ({id}, 1), ({id} + 100, 1)"));
    }
    s.source.execute("INSERT INTO t SELECT i, 80000 - i FROM generate_series(1001, 80000) i");
    s.source.execute("INSERT INTO t VALUES (200, 1)");
    s.once_fails(1);
    s.assert_same("SELECT id, 100 FROM t WHERE id < 150", "SELECT * FROM bad");
    s.assert_same("SELECT * FROM t", "SELECT * FROM good");
    s.file("bad/transform.sql", "SELECT {{ row.id }} AS id, 100 / nullif({{ row.v }}, 0) AS v");
    s.once();
    s.assert_same("SELECT id, 100 / nullif(v, 0) FROM t", "SELECT * FROM bad");
}

#[test]
fn a_pipeline_that_stumbles_again_and_again_does_not_keep_the_others_from_getting_on() {
    let s = good_and(&config("t", "bad", &[]), &[]);
    // Two of three transactions are told to try again.
    s.output.execute(
        "CREATE SEQUENCE tries; CREATE FUNCTION stumble() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           IF nextval('tries') % 3 <> 0 THEN RAISE 'again' USING ERRCODE = '40001'; END IF; RETURN NULL; END $$;
         CREATE TRIGGER stumble BEFORE INSERT ON bad FOR EACH STATEMENT EXECUTE FUNCTION stumble()",
    );
    let mut trucker = s.run();
    s.until_following(&mut trucker, 2);
    for round in 0..20 {
        s.source
            .execute(&format!("INSERT INTO t SELECT {round} * 1000 + i, 1 FROM generate_series(1, 1000) i"));
    }
    s.until_same(&mut trucker, "SELECT * FROM t", "SELECT * FROM good");
    trucker.until("stumbling", || s.output.number("SELECT last_value FROM tries") >= 3);
    // However often it stumbles on a slow machine before it has all, the others have it already.
    s.output.execute("DROP TRIGGER stumble ON bad");
    s.until_same(&mut trucker, "SELECT * FROM t", "SELECT * FROM bad");
    s.assert_same("SELECT * FROM t", "SELECT * FROM good");
}

#[test]
fn a_table_that_is_lost_stops_the_pipelines_that_read_it_alone() {
    let s = good_and(&config("u", "bad", &[]), &[]).on_source("CREATE TABLE u (id int PRIMARY KEY, v int)");
    let mut trucker = s.run();
    s.until_following(&mut trucker, 2);
    let slot = s.slot();
    s.source.execute(&format!("ALTER PUBLICATION {slot} DROP TABLE u"));
    trucker.until_said("public.u was dropped or taken out of publication");
    s.source.execute("INSERT INTO t VALUES (1, 1)");
    s.until_same(&mut trucker, "SELECT * FROM t", "SELECT * FROM good");
    assert!(trucker.is_running());
}
