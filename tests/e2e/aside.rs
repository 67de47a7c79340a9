//! What can't start doesn't keep the others from it: it is set aside, keeps its place, and comes back by itself.

use super::harness::{Database, Scenario, Trucker, config};

/// `good` and `bad` copy t, into two databases of one server.
fn into_two_outputs() -> (Scenario, Database) {
    let table = "CREATE TABLE t (id int PRIMARY KEY, v int)";
    let s = Scenario::new().on_source(table).on_output(table).copies("t");
    let other = Database::create(s.output.port, &format!("{}_other", s.output.name));
    other.execute(table);
    let yml = s.project_file();
    let start = yml.find("  - name: output").expect("it stands last");
    let more =
        yml[start..].replacen("name: output", "name: other", 1).replacen(&s.output.name, &other.name, 1);
    s.file("trucker.yml", &format!("{yml}{more}"));
    s.write_pipeline("bad", &config("t", "t", &[]).replace("connection: output", "connection: other"), &[]);
    (s, other)
}

/// `good` and `bad` copy t into tables of these names.
fn into_two_tables() -> Scenario {
    let table = |name: &str| format!("CREATE TABLE {name} (id int PRIMARY KEY, v int);");
    Scenario::new()
        .on_source(&table("t"))
        .on_output(&(table("good") + &table("bad")))
        .pipeline("good", &config("t", "good", &[]), &[])
        .pipeline("bad", &config("t", "bad", &[]), &[])
}

fn state_of(trucker: &mut Trucker, pipeline: &str) -> (String, String) {
    let status = trucker.status();
    let pipelines = status["pipelines"].as_array().unwrap();
    let found = pipelines.iter().find(|p| p["name"] == pipeline).unwrap_or_else(|| panic!("{status}"));
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    (text(&found["state"]), text(&found["last_error"]["message"]))
}

#[test]
fn an_output_that_is_away_at_the_start_keeps_only_its_own_pipelines_waiting() {
    let (s, other) = into_two_outputs();
    s.source.execute("INSERT INTO t VALUES (1, 1)");
    s.once();
    s.source.execute("INSERT INTO t VALUES (2, 2)");
    s.output.admin(&format!("ALTER DATABASE \"{}\" ALLOW_CONNECTIONS false", other.name));
    let mut trucker = s.run();
    s.until_table_same(&mut trucker, "t");
    let (state, why) = state_of(&mut trucker, "bad");
    assert!(state == "retrying" && why.contains("connection other"), "{state}: {why}");
    let (status, text) = trucker.get("/readyz");
    assert!(status == 503 && text.contains("pipeline bad"), "{status} {text}");
    // What it hasn't got stays where it is, whatever the others have.
    s.source.execute("UPDATE t SET v = 20 WHERE id = 2; DELETE FROM t WHERE id = 1");
    s.until_table_same(&mut trucker, "t");
    trucker.kill9();
    let mut trucker = s.run();
    s.source.execute("INSERT INTO t VALUES (3, 3)");
    s.until_table_same(&mut trucker, "t");
    s.output.admin(&format!("ALTER DATABASE \"{}\" ALLOW_CONNECTIONS true", other.name));
    let expected = s.source.rows("SELECT * FROM t ORDER BY id");
    trucker.until("the other output has all", || {
        other.try_rows("SELECT * FROM t ORDER BY id").is_ok_and(|rows| rows == expected)
    });
    s.source.execute("INSERT INTO t VALUES (4, 4)");
    s.until_table_same(&mut trucker, "t");
    trucker.until("both follow", || other.number("SELECT count(*) FROM t") == 3);
    assert_eq!(other.number("SELECT epoch FROM trucker.checkpoint"), 2, "it was taken again, once");
    trucker.terminate();
    other.drop_quietly();
}

#[test]
fn a_pipeline_that_does_not_fit_any_more_is_set_aside_and_comes_back_when_it_is_mended() {
    let s = into_two_tables();
    s.source.execute("INSERT INTO t VALUES (1, 1)");
    s.once();
    s.source.execute("INSERT INTO t VALUES (2, 2)");
    s.output.execute("ALTER TABLE bad RENAME TO elsewhere");
    let mut trucker = s.run();
    s.until_same(&mut trucker, "SELECT * FROM t", "SELECT * FROM good");
    let (state, why) = state_of(&mut trucker, "bad");
    assert!(state == "failed" && why.contains("bad"), "{state}: {why}");
    let text = trucker.stderr();
    assert!(text.contains("pipeline bad can't start") && text.contains("TRK"), "{text}");
    s.output.execute("ALTER TABLE elsewhere RENAME TO bad");
    s.until_same(&mut trucker, "SELECT * FROM t", "SELECT * FROM bad");
    s.source.execute("UPDATE t SET v = v + 1");
    s.until_same(&mut trucker, "SELECT * FROM t", "SELECT * FROM bad");
    s.until_same(&mut trucker, "SELECT * FROM t", "SELECT * FROM good");
    trucker.terminate();
}

#[test]
fn a_mended_file_brings_its_pipeline_back_and_changes_no_other() {
    let s = into_two_tables();
    s.source.execute("INSERT INTO t VALUES (1, 1)");
    s.once();
    s.file("bad/transform.sql", "SELECT {{ row.id }} AS id, {{ row.v }} AS nothing_like_that");
    let mut trucker = s.run();
    s.source.execute("INSERT INTO t VALUES (2, 2)");
    s.until_same(&mut trucker, "SELECT * FROM t", "SELECT * FROM good");
    // Not to be taken before trucker is started again: that one is at work.
    s.file("good/transform.sql", "SELECT {{ row.id }} AS id, -{{ row.v }} AS v");
    s.file("bad/transform.sql", "SELECT {{ row.id }} AS id, {{ row.v }} * 2 AS v");
    s.until_same(&mut trucker, "SELECT id, CASE id WHEN 1 THEN v ELSE v * 2 END FROM t", "SELECT * FROM bad");
    s.source.execute("INSERT INTO t VALUES (3, 3)");
    s.until_same(&mut trucker, "SELECT * FROM t", "SELECT * FROM good");
    trucker.terminate();
}

#[test]
fn a_pipeline_whose_place_is_lost_is_set_aside_and_a_backfill_brings_it_back() {
    let s = into_two_tables();
    s.source.execute("INSERT INTO t VALUES (1, 1)");
    s.once();
    // As after a restored backup: the output is behind what the slot still has.
    s.output
        .execute("UPDATE trucker.checkpoint SET loaded_lsn = '0/1' WHERE pipeline = 'bad'; DELETE FROM bad");
    let mut trucker = s.run();
    s.source.execute("INSERT INTO t VALUES (2, 2)");
    s.until_same(&mut trucker, "SELECT * FROM t", "SELECT * FROM good");
    let (state, why) = state_of(&mut trucker, "bad");
    assert!(state == "failed" && why.contains("what lies between is lost"), "{state}: {why}");
    assert!(!s.output.is("SELECT EXISTS (SELECT FROM bad)"), "it went on with a gap");
    s.start(&["backfill", "bad", "--dir", &s.dir().display().to_string()]).wait();
    s.until_same(&mut trucker, "SELECT * FROM t", "SELECT * FROM bad");
    s.source.execute("DELETE FROM t WHERE id = 1");
    s.until_same(&mut trucker, "SELECT * FROM t", "SELECT * FROM bad");
    s.until_same(&mut trucker, "SELECT * FROM t", "SELECT * FROM good");
    trucker.terminate();
}

#[test]
fn a_project_that_never_ran_starts_whole_or_not_at_all() {
    let s = into_two_tables();
    s.output.execute("DROP TABLE bad");
    let failed = s.run().wait();
    assert!(failed.stderr.contains("bad"), "{}", failed.stderr);
    s.assert_nothing_created();
}

#[test]
fn a_backfill_is_not_broken_off_for_a_pipeline_that_comes_back() {
    let s = into_two_tables();
    s.once();
    s.output.execute("ALTER TABLE bad RENAME TO elsewhere");
    s.source.execute("INSERT INTO t SELECT i, i FROM generate_series(1, 1000) i");
    let blocker = s.output.session();
    blocker.execute("BEGIN; LOCK TABLE good IN ACCESS EXCLUSIVE MODE");
    let mut trucker = s.run();
    trucker.until_said("can't start");
    let asked = s.start(&["backfill", "good", "--dir", &s.dir().display().to_string()]);
    trucker.until("it is filled", || state_of_quietly(&s) == "backfill");
    s.output.execute("ALTER TABLE elsewhere RENAME TO bad");
    // Long enough to look again once or twice.
    assert!(super::harness::holds_for(std::time::Duration::from_secs(4), || !trucker
        .stderr()
        .contains("begin anew")));
    blocker.execute("COMMIT");
    s.until_same(&mut trucker, "SELECT * FROM t", "SELECT * FROM good");
    s.until_same(&mut trucker, "SELECT * FROM t", "SELECT * FROM bad");
    asked.wait();
    trucker.terminate();
}

fn state_of_quietly(s: &Scenario) -> String {
    s.output.value("SELECT phase FROM trucker.checkpoint WHERE pipeline = 'good'")
}

#[test]
fn what_a_pipeline_was_told_to_run_with_it_keeps_when_another_comes_back() {
    let s = into_two_tables();
    s.source.execute("INSERT INTO t VALUES (1, 1)");
    s.once();
    s.output.execute("ALTER TABLE bad RENAME TO elsewhere");
    let mut trucker = s.run();
    trucker.until_said("can't start");
    s.file("good/transform.sql", "SELECT {{ row.id }} AS id, -{{ row.v }} AS v");
    s.start(&["backfill", "good", "--dir", &s.dir().display().to_string()]).wait();
    s.until_same(&mut trucker, "SELECT id, -v FROM t", "SELECT * FROM good");
    s.output.execute("ALTER TABLE elsewhere RENAME TO bad");
    trucker.until_said("begin anew");
    s.source.execute("INSERT INTO t VALUES (2, 2)");
    s.until_same(&mut trucker, "SELECT id, -v FROM t", "SELECT * FROM good");
    s.until_same(&mut trucker, "SELECT * FROM t", "SELECT * FROM bad");
    trucker.terminate();
}

#[test]
fn a_partition_does_not_come_in_beside_its_root_that_waits() {
    let (s, other) = into_two_outputs();
    s.source.execute(
        "CREATE TABLE r (id int PRIMARY KEY, v int) PARTITION BY RANGE (id); \
         CREATE TABLE r_1 PARTITION OF r FOR VALUES FROM (0) TO (100)",
    );
    for database in [&s.output, &other] {
        database.execute("CREATE TABLE r (id int PRIMARY KEY, v int)");
    }
    let elsewhere = |text: String| text.replace("connection: output", "connection: other");
    s.write_pipeline("bad", &elsewhere(config("r", "r", &[])), &[]);
    s.once();
    s.output.admin(&format!("ALTER DATABASE \"{}\" ALLOW_CONNECTIONS false", other.name));
    s.write_pipeline("part", &config("r_1", "r", &[]), &[]);
    let failed = s.run().wait();
    assert!(failed.code == Some(4) && failed.stderr.contains("connection other"), "{}", failed.text());
    s.output.admin(&format!("ALTER DATABASE \"{}\" ALLOW_CONNECTIONS true", other.name));
    assert!(s.run().wait().stderr.contains("is a partition of"));
    other.drop_quietly();
}
