//! `trucker plan` says what a run would do, and its SQL is enough for a run that may create nothing; SQL that has changed
//! since a backfill is told.

use serde_json::Value;
use trucker::sandbox::ServerOptions;

use super::harness::{Database, Scenario, config, private_output, private_server};

fn world() -> Scenario {
    let s = Scenario::new().tables("CREATE TABLE t (id int PRIMARY KEY, v text)").copies("t");
    s.source.execute("INSERT INTO t SELECT n, 'x' FROM generate_series(1, 500) n; ANALYZE t");
    s
}

#[track_caller]
fn plan(s: &Scenario, args: &[&str]) -> String {
    let dir = s.dir();
    let finished = s.start(&[&["plan", dir.to_str().unwrap()], args].concat()).wait();
    assert_eq!(finished.code, Some(0), "{}", finished.text());
    finished.stdout
}

fn plan_json(s: &Scenario) -> Value {
    serde_json::from_str(&plan(s, &["--json"])).unwrap()
}

/// Runs a script as psql does: each statement by itself.
fn run_script(database: &Database, script: &str) {
    script.split_inclusive(";\n").filter(|sql| !sql.trim().is_empty()).for_each(|sql| database.execute(sql));
}

#[test]
fn plan_says_what_a_run_would_create_and_fill_and_creates_nothing() {
    let s = world();
    let text = plan(&s, &[]);
    let slot = s.slot();
    for expected in [
        &format!("create publication {slot}: public.t"),
        &format!("create replication slot {slot}"),
        "create schema trucker",
        "backfill of public.t (about 500 rows, ",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    s.assert_nothing_created();
    s.once();
    let plan = plan_json(&s);
    assert_eq!(plan["servers"][0]["steps"], serde_json::json!([]), "{plan}");
    assert_eq!(plan["pipelines"][0]["start"]["how"], "continue");
    // Another table, and a folder that is gone.
    std::fs::remove_dir_all(s.dir().join("t")).unwrap();
    let s = s.tables("CREATE TABLE u (id int PRIMARY KEY)").copies("u");
    let later = plan_json(&s);
    let steps: Vec<&Value> =
        later["servers"][0]["steps"].as_array().unwrap().iter().map(|s| &s["what"]).collect();
    assert_eq!(steps.len(), 2, "{later}");
    assert!(
        steps[0].as_str().unwrap().contains("public.u") && steps[1].as_str().unwrap().contains("public.t")
    );
    assert_eq!(later["gone"], serde_json::json!(["t"]));
    assert_eq!(s.source.number("SELECT count(*) FROM pg_publication_tables"), 1, "nothing was changed");
}

#[test]
fn what_plan_prints_as_sql_is_enough_for_a_role_that_may_create_nothing() {
    let servers = (private_server(ServerOptions::default()), private_output(ServerOptions::default()));
    let s = Scenario::between(servers.0.port(), servers.1.port())
        .on_source(
            "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a');
             CREATE ROLE reader LOGIN REPLICATION; GRANT SELECT ON t TO reader",
        )
        .on_output(
            "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE ROLE reader LOGIN;
             GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON t TO reader",
        )
        .copies("t");
    for database in [&s.source, &s.output] {
        database.execute(&format!("REVOKE CREATE, TEMPORARY ON DATABASE \"{}\" FROM PUBLIC", database.name));
    }
    s.file("trucker.yml", &s.project_file().replace("user: postgres", "user: reader"));
    let dir = s.dir();
    let run = || s.start(&["run", dir.to_str().unwrap(), "--once", "--no-create", "--http", "off"]).wait();
    let refused = run();
    assert_eq!(refused.code, Some(4), "{}", refused.text());
    for missing in ["publication", "replication slot", "schema trucker"] {
        let is_named =
            refused.stderr.lines().any(|line| line.contains("--no-create") && line.contains(missing));
        assert!(is_named, "{missing}: {}", refused.stderr);
    }
    s.assert_nothing_created();
    run_script(&s.source, &plan(&s, &["--sql", "--connection", "source"]));
    run_script(&s.output, &plan(&s, &["--sql", "--connection", "output"]));
    let flows = || {
        let finished = run();
        assert_eq!(finished.code, Some(0), "{}", finished.text());
        s.assert_table_same("t");
    };
    flows();
    s.source.execute(
        "INSERT INTO t VALUES (2, 'b'); UPDATE t SET id = 3 WHERE id = 1; DELETE FROM t WHERE id = 2",
    );
    flows();
    // A table more in the publication does no harm, and stays.
    s.source
        .execute(&format!("CREATE TABLE u (id int PRIMARY KEY); ALTER PUBLICATION {} ADD TABLE u", s.slot()));
    s.source.execute("INSERT INTO u VALUES (1); INSERT INTO t VALUES (4, 'd')");
    flows();
    assert_eq!(s.source.number("SELECT count(*) FROM pg_publication_tables"), 2);
    // Twice does no harm either.
    run_script(&s.output, &plan(&s, &["--sql", "--connection", "output"]));
}

#[test]
fn sql_that_has_changed_since_the_backfill_is_told_until_the_next_one() {
    let s = Scenario::new().tables("CREATE TABLE t (id int PRIMARY KEY, v text)").pipeline(
        "t",
        &config("t", "t", &[]),
        &[("transform.sql", "SELECT {{ row.id }} AS id {% if true %}{% endif %}")],
    );
    s.source.execute("INSERT INTO t VALUES (1, 'a')");
    s.once();
    let dir = s.dir();
    let is_told = || {
        let finished = s.start(&["status", dir.to_str().unwrap(), "--json"]).wait();
        let status: Value = serde_json::from_str(&finished.stdout).unwrap();
        status["pipelines"][0]["is_sql_changed"].as_bool().unwrap()
    };
    // Another template that renders to the same SQL is the same SQL.
    s.file("t/transform.sql", "SELECT {{ row['id'] }} AS id");
    assert!(!s.once().stderr.contains("sql_changed") && !is_told());
    s.file("t/transform.sql", "SELECT {{ row.id }} AS id, 'b' AS v");
    assert_eq!(plan_json(&s)["pipelines"][0]["is_sql_changed"], true, "before it runs");
    assert!(!is_told(), "no process has had it");
    assert!(s.once().stderr.contains("sql_changed") && is_told());
    let told = s.start(&["backfill", "t", "--dir", dir.to_str().unwrap()]).wait();
    assert_eq!(told.code, Some(0), "{}", told.text());
    assert!(!s.once().stderr.contains("sql_changed") && !is_told());
    assert_eq!(s.output.value("SELECT v FROM t"), "b");
}

#[test]
fn checkpoints_of_an_earlier_version_go_on_and_say_nothing_of_sql() {
    let s = world();
    s.once();
    s.output.execute("ALTER TABLE trucker.checkpoint DROP COLUMN sql_hash, DROP COLUMN backfilled_sql_hash");
    assert_eq!(plan_json(&s)["pipelines"][0]["is_sql_changed"], false);
    s.file("t/transform.sql", "SELECT row.id, 'y' AS v");
    s.source.execute("INSERT INTO t VALUES (1000, 'x')");
    assert!(!s.once().stderr.contains("sql_changed"));
    assert_eq!(s.output.value("SELECT v FROM t WHERE id = 1000"), "y");
}
