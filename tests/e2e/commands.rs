//! The commands for the time when trucker doesn't run: what they find, what they remove, what they leave alone.

use super::harness::{Database, Scenario, config, source_server};

fn world() -> Scenario {
    let s = Scenario::new().tables("CREATE TABLE t (id int PRIMARY KEY, v text)").copies("t");
    s.source.execute("INSERT INTO t VALUES (1, 'a'), (2, 'b')");
    s
}

/// Runs `trucker COMMAND ARGS` to its end; the exit code and all that it printed.
#[track_caller]
fn command(s: &Scenario, args: &[&str]) -> (Option<i32>, String) {
    let finished = s.start(args).wait();
    (finished.code, finished.text())
}

fn in_dir(s: &Scenario, name: &str, more: &[&str]) -> (Option<i32>, String) {
    let dir = s.dir();
    command(s, &[&[name, dir.to_str().unwrap()], more].concat())
}

fn backfill(s: &Scenario, names: &[&str]) -> (Option<i32>, String) {
    let dir = s.dir();
    command(s, &[&["backfill", "--dir", dir.to_str().unwrap()], names].concat())
}

fn status(s: &Scenario) -> (Option<i32>, serde_json::Value) {
    let dir = s.dir();
    let finished = s.start(&["status", dir.to_str().unwrap(), "--json"]).wait();
    let json = serde_json::from_str(&finished.stdout);
    (finished.code, json.unwrap_or_else(|e| panic!("{e}: {}{}", finished.stdout, finished.stderr)))
}

fn count_slots(s: &Scenario) -> i64 {
    s.source
        .number(&format!("SELECT count(*) FROM pg_replication_slots WHERE database = '{}'", s.source.name))
}

fn count_schemas(database: &Database) -> i64 {
    database.number("SELECT count(*) FROM pg_namespace WHERE nspname = 'trucker'")
}

#[test]
fn backfill_brings_an_output_in_line_again() {
    let s = world();
    s.once();
    s.output.execute("DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (9, 'stray')");
    s.once();
    assert_eq!(
        s.output.number("SELECT count(*) FROM t WHERE id = 1"),
        0,
        "the stream alone brings nothing back"
    );
    let (code, text) = backfill(&s, &["t"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("t: the next `trucker run` fills it anew"), "{text}");
    assert_eq!(s.output.number("SELECT count(*) FROM t"), 2, "rows stay until the run: {text}");
    assert_eq!(status(&s).1["pipelines"][0]["state"], "to_fill");
    s.once();
    s.assert_table_same("t");
}

#[test]
fn backfill_of_one_pipeline_leaves_the_others_where_they_are() {
    let s = world().tables("CREATE TABLE u (id int PRIMARY KEY)").copies("u");
    s.source.execute("INSERT INTO u VALUES (1)");
    s.once();
    let at = "SELECT loaded_lsn FROM trucker.checkpoint WHERE pipeline = 'u'";
    let before = s.output.value(at);
    s.output.execute("DELETE FROM t; DELETE FROM u");
    let (code, text) = backfill(&s, &["t"]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(s.output.value(at), before);
    s.once();
    s.assert_table_same("t");
    assert_eq!(s.output.number("SELECT count(*) FROM u"), 0);
}

#[test]
fn backfill_without_a_checkpoint_has_nothing_to_do() {
    let s = world();
    let (code, text) = backfill(&s, &["t"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("nothing to do: it isn't filled yet"), "{text}");
    s.assert_nothing_created();
}

#[test]
fn backfill_of_an_unknown_pipeline_offers_the_nearest_and_touches_none() {
    let s = world().tables("CREATE TABLE orders (id int PRIMARY KEY)").copies("orders");
    s.once();
    let (code, text) = backfill(&s, &["t", "ordres"]);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("there is no pipeline `ordres`"), "{text}");
    assert!(text.contains("did you mean `orders`?"), "{text}");
    assert_eq!(s.output.number("SELECT count(*) FROM trucker.checkpoint WHERE phase = 'follow'"), 2);
}

#[test]
fn backfill_is_refused_where_the_next_run_would_not_fill() {
    let s = world();
    s.write_pipeline("t", &(config("t", "t", &[]) + "backfill: false\n"), &[]);
    s.once();
    let (code, text) = backfill(&s, &["t"]);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("`backfill: false`") && text.contains("config.yml"), "{text}");
    assert_eq!(s.output.number("SELECT count(*) FROM trucker.checkpoint WHERE phase = 'follow'"), 1);
}

#[test]
fn backfill_says_where_rows_would_be_there_twice() {
    let s = Scenario::new()
        .on_source("CREATE TABLE t (id int PRIMARY KEY)")
        .on_output("CREATE TABLE log (id int)")
        .pipeline(
            "log",
            &config("t", "log", &["on: {insert: insert, update: insert, delete: ignore, truncate: ignore}"]),
            &[],
        );
    s.once();
    let (code, text) = backfill(&s, &["log"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("empty public.log first"), "{text}");
}

#[test]
fn teardown_leaves_a_running_project_alone() {
    let s = world();
    let mut running = s.run();
    s.until_following(&mut running, 1);
    let (code, text) = in_dir(&s, "teardown", &["--yes"]);
    assert_eq!(code, Some(5), "{text}");
    assert!(text.contains(&s.slot()) && text.contains("Stop it"), "{text}");
    s.source.execute("INSERT INTO t VALUES (3, 'c')");
    s.until_table_same(&mut running, "t");
    running.terminate();
    assert_eq!(s.output.number("SELECT count(*) FROM trucker.checkpoint WHERE phase = 'follow'"), 1);
}

#[test]
fn teardown_removes_all_that_was_created_and_keeps_the_rows() {
    let s = world();
    s.once();
    let (code, text) = in_dir(&s, "teardown", &["--yes"]);
    assert_eq!(code, Some(0), "{text}");
    for part in ["replication slot", "publication", "checkpoints of t", "schema trucker"] {
        assert!(
            text.lines().any(|line| line.starts_with("removed: ") && line.contains(part)),
            "{part}: {text}"
        );
    }
    s.assert_nothing_created();
    s.assert_table_same("t");
    let (code, text) = in_dir(&s, "teardown", &[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("nothing on its servers"), "{text}");
    s.source.execute("DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (3, 'c')");
    s.once();
    s.assert_table_same("t");
}

#[test]
fn teardown_without_a_terminal_needs_to_be_told_yes() {
    let s = world();
    s.once();
    let (code, text) = in_dir(&s, "teardown", &[]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("to remove: connection source: replication slot"), "{text}");
    assert!(text.contains("--yes"), "{text}");
    assert_eq!((count_slots(&s), count_schemas(&s.output)), (1, 1));
}

#[test]
fn teardown_finishes_what_was_removed_in_part() {
    let s = world();
    let parts: [&dyn Fn(); 3] = [
        &|| s.source.execute(&format!("SELECT pg_drop_replication_slot('{}')", s.slot())),
        &|| s.source.execute(&format!("DROP PUBLICATION {}", s.slot())),
        &|| s.output.execute("DROP SCHEMA trucker CASCADE"),
    ];
    for part in parts {
        s.once();
        part();
        let (code, text) = in_dir(&s, "teardown", &["--yes"]);
        assert_eq!(code, Some(0), "{text}");
        s.assert_nothing_created();
    }
}

#[test]
fn teardown_works_when_all_pipelines_are_gone() {
    let s = world();
    s.once();
    std::fs::remove_dir_all(s.dir().join("t")).unwrap();
    let (code, text) = in_dir(&s, "teardown", &["--yes"]);
    assert_eq!(code, Some(0), "{text}");
    s.assert_nothing_created();
}

#[test]
fn teardown_touches_nothing_of_another_project() {
    let s = world();
    s.once();
    let mine = s.source.value(&format!("SELECT oid FROM pg_publication WHERE pubname = '{}'", s.slot()));
    // Another project between the same databases: its name begins as the first one's.
    let yml = std::fs::read_to_string(s.dir().join("trucker.yml")).unwrap();
    let other = format!("{}_output", s.name);
    s.file("trucker.yml", &yml.replace(&format!("name: {}\n", s.name), &format!("name: {other}\n")));
    s.once();
    assert_eq!(count_slots(&s), 2);
    let (code, text) = in_dir(&s, "teardown", &["--yes"]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(count_slots(&s), 1);
    assert_eq!(s.source.value("SELECT oid FROM pg_publication"), mine);
    assert_eq!(s.output.value("SELECT project FROM trucker.checkpoint"), s.name);
    // The same the other way round: a table of somebody's keeps the schema.
    s.file("trucker.yml", &yml);
    s.output.execute("CREATE TABLE trucker.notes (note text)");
    let (code, text) = in_dir(&s, "teardown", &["--yes"]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(count_slots(&s), 0);
    assert_eq!(s.output.number("SELECT count(*) FROM trucker.notes"), 0);
}

#[test]
fn teardown_finds_the_names_in_a_second_database_of_one_server_without_their_slots() {
    let port = source_server().port();
    let s = Scenario::between(port, port)
        .tables("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE back (id int PRIMARY KEY)")
        .copies("t");
    s.once();
    let back = "input: {connection: output, table: t}\noutput: {connection: source, table: back}\n";
    s.write_pipeline("back", back, &[]);
    s.once();
    let second = format!("{}_output", s.slot());
    assert!(s.output.is(&format!("SELECT count(*) = 1 FROM pg_publication WHERE pubname = '{second}'")));
    for slot in [s.slot(), second] {
        s.source.execute(&format!("SELECT pg_drop_replication_slot('{slot}')"));
    }
    let (code, text) = in_dir(&s, "teardown", &["--yes"]);
    assert_eq!(code, Some(0), "{text}");
    s.assert_nothing_created();
    assert_eq!(s.output.number("SELECT count(*) FROM pg_publication"), 0);
}

#[test]
fn teardown_removes_nothing_while_a_server_cannot_be_reached() {
    let s = world();
    s.once();
    let yml = std::fs::read_to_string(s.dir().join("trucker.yml")).unwrap();
    s.file("trucker.yml", &yml.replace(&format!("database: {}", s.output.name), "database: nowhere"));
    let (code, text) = in_dir(&s, "teardown", &["--yes"]);
    assert_eq!(code, Some(4), "{text}");
    assert!(text.contains("nowhere"), "{text}");
    assert_eq!((count_slots(&s), count_schemas(&s.output)), (1, 1));
}

#[test]
fn a_view_on_the_checkpoints_keeps_the_schema() {
    let s = world();
    s.once();
    s.output.execute("CREATE VIEW progress AS SELECT * FROM trucker.checkpoint");
    let (code, text) = in_dir(&s, "teardown", &["--yes"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("left: connection output: schema trucker"), "{text}");
    assert_eq!(s.output.number("SELECT count(*) FROM progress"), 0);
}

#[test]
fn status_tells_each_state_with_and_without_a_process() {
    let s = world();
    let (code, json) = status(&s);
    assert_eq!(code, Some(0), "{json}");
    assert_eq!(json["pipelines"][0]["state"], "never_filled");
    assert_eq!(json["sources"][0]["slot_state"], "missing");
    let mut running = s.run();
    s.until_following(&mut running, 1);
    running.until("streaming", || {
        s.source.is("SELECT active FROM pg_replication_slots WHERE database = current_database()")
    });
    let (code, json) = status(&s);
    assert_eq!(code, Some(0), "{json}");
    assert_eq!(json["sources"][0]["is_running"], true);
    assert_eq!(json["sources"][0]["slot_state"], "active");
    running.terminate();
    s.source.execute("INSERT INTO t SELECT generate_series(10, 2000)");
    let (code, json) = status(&s);
    assert_eq!(code, Some(0), "{json}");
    let (pipeline, source) = (&json["pipelines"][0], &json["sources"][0]);
    assert_eq!((&pipeline["state"], &pipeline["name"]), (&"following".into(), &"t".into()));
    assert!(pipeline["lag_bytes"].as_u64().is_some_and(|bytes| bytes > 50_000), "{json}");
    let loaded = s.output.value("SELECT loaded_lsn FROM trucker.checkpoint");
    assert_eq!(pipeline["loaded_lsn"], loaded.as_str());
    assert!(pipeline["updated_seconds_ago"].as_u64().is_some_and(|seconds| seconds < 600), "{json}");
    assert_eq!((&source["is_running"], &source["slot_state"]), (&false.into(), &"idle".into()));
    assert_eq!(source["has_publication"], true);
    assert!(source["held_bytes"].as_i64().is_some_and(|bytes| bytes > 50_000), "{json}");
    let (_, text) = in_dir(&s, "status", &[]);
    assert!(text.contains("following") && text.contains(&loaded) && text.contains(&s.slot()), "{text}");
}

#[test]
fn status_names_a_pipeline_whose_folder_is_gone() {
    let s = world();
    s.once();
    std::fs::rename(s.dir().join("t"), s.dir().join("renamed")).unwrap();
    let (code, json) = status(&s);
    assert_eq!(code, Some(0), "{json}");
    let states: Vec<_> =
        json["pipelines"].as_array().unwrap().iter().map(|p| (&p["name"], &p["state"])).collect();
    assert_eq!(states, [(&"renamed".into(), &"never_filled".into()), (&"t".into(), &"gone".into())]);
}

#[test]
fn status_fails_while_a_followed_slot_is_missing() {
    let s = world();
    s.once();
    s.source.execute(&format!("SELECT pg_drop_replication_slot('{}')", s.slot()));
    let (code, json) = status(&s);
    assert_eq!(code, Some(1), "{json}");
    assert_eq!(json["sources"][0]["slot_state"], "missing");
    assert_eq!(json["pipelines"][0]["state"], "following");
    // What the refusal of a run says is what helps.
    let text = s.once_fails(4);
    assert!(text.contains("trucker teardown, then trucker run"), "{text}");
    assert_eq!(in_dir(&s, "teardown", &["--yes"]).0, Some(0));
    s.once();
    assert_eq!(status(&s).0, Some(0));
}

#[test]
fn status_shows_the_rest_when_a_server_cannot_be_reached() {
    let s = world();
    s.once();
    let yml = std::fs::read_to_string(s.dir().join("trucker.yml")).unwrap();
    s.file("trucker.yml", &yml.replace(&format!("database: {}", s.output.name), "database: nowhere"));
    let (code, json) = status(&s);
    assert_eq!(code, Some(4), "{json}");
    assert_eq!(json["pipelines"][0]["state"], "unknown");
    assert_eq!(json["sources"][0]["slot_state"], "idle");
    assert!(json["errors"][0]["message"].as_str().is_some_and(|error| error.contains("nowhere")), "{json}");
}
