//! A pipeline that failed waits in the running process for somebody to mend the cause: `trucker resume`, `trucker skip`,
//! `trucker backfill`.

use super::harness::{Scenario, Trucker, config, holds_for};

const DIVIDES: &str = "SELECT {{ row.id }} AS id, 100 / {{ row.v }} AS v";
const MENDED: &str = "SELECT {{ row.id }} AS id, 100 / nullif({{ row.v }}, 0) AS v";
const DELETE: (&str, &str) = ("delete.sql", "SELECT {{ old.id }} AS id");

/// `good` copies t; `bad` divides by v.
fn world() -> Scenario {
    Scenario::new()
        .on_source("CREATE TABLE t (id int PRIMARY KEY, v int)")
        .on_output(
            "CREATE TABLE good (id int PRIMARY KEY, v int); CREATE TABLE bad (id int PRIMARY KEY, v int)",
        )
        .pipeline("good", &config("t", "good", &[]), &[])
        .pipeline("bad", &config("t", "bad", &[]), &[("transform.sql", DIVIDES), DELETE])
}

/// `trucker COMMAND PIPELINE DIR ARGS`: its exit code and all that it printed.
#[track_caller]
fn tell(s: &Scenario, command: &str, more: &[&str]) -> (Option<i32>, String) {
    let dir = s.dir();
    let finished = s.start(&[&[command, "bad", dir.to_str().unwrap()], more].concat()).wait();
    (finished.code, finished.text())
}

#[track_caller]
fn backfill(s: &Scenario) -> (Option<i32>, String) {
    let dir = s.dir();
    let finished = s.start(&["backfill", "bad", "--dir", dir.to_str().unwrap()]).wait();
    (finished.code, finished.text())
}

fn status(s: &Scenario) -> (Option<i32>, serde_json::Value) {
    let dir = s.dir();
    let finished = s.start(&["status", dir.to_str().unwrap(), "--json"]).wait();
    let json: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
    let bad = json["pipelines"].as_array().unwrap().iter().find(|p| p["name"] == "bad").unwrap().clone();
    (finished.code, bad)
}

fn until_failed(s: &Scenario, trucker: &mut Trucker) {
    let sql = "SELECT failure IS NOT NULL FROM trucker.checkpoint WHERE pipeline = 'bad'";
    trucker.until("its failure is noted", || s.output.is(sql));
}

/// Running, with `bad` at the second change of a transaction.
fn failed() -> (Scenario, Trucker) {
    let s = world();
    let mut trucker = s.run();
    s.until_following(&mut trucker, 2);
    s.source.execute("INSERT INTO t VALUES (1, 1)");
    s.source.execute("BEGIN; INSERT INTO t VALUES (2, 2); INSERT INTO t VALUES (3, 0); INSERT INTO t VALUES (4, 4711000); COMMIT");
    s.source.execute("INSERT INTO t VALUES (5, 5)");
    until_failed(&s, &mut trucker);
    (s, trucker)
}

#[test]
fn resume_reads_the_mended_file_and_goes_on_where_it_stood() {
    let (s, mut trucker) = failed();
    assert_eq!(s.output.value("SELECT string_agg(id::text, ' ') FROM bad"), "1");
    let (code, text) = tell(&s, "resume", &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("failed again") && text.contains("division by zero"), "{text}");
    s.file("bad/transform.sql", "SELECT {{ row.id }} AS id, {{ row.nothing }} AS v");
    let (code, text) = tell(&s, "resume", &[]);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("transform.sql") && text.contains("nothing"), "{text}");
    s.file("bad/transform.sql", MENDED);
    let (code, text) = tell(&s, "resume", &[]);
    assert_eq!(code, Some(0), "{text}");
    s.until_same(&mut trucker, "SELECT id, 100 / nullif(v, 0) FROM t", "SELECT * FROM bad");
    s.until_same(&mut trucker, "SELECT * FROM t", "SELECT * FROM good");
    let (code, text) = tell(&s, "resume", &[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("hasn't failed"), "{text}");
    assert_eq!(status(&s).0, Some(0));
    trucker.terminate();
}

#[test]
fn the_process_stays_though_all_its_pipelines_have_failed_and_ends_with_1() {
    let s = world();
    std::fs::remove_dir_all(s.dir().join("good")).unwrap();
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    s.source.execute("INSERT INTO t VALUES (3, 0)");
    until_failed(&s, &mut trucker);
    assert!(holds_for(std::time::Duration::from_secs(2), || trucker.is_running()));
    trucker.signal("TERM");
    let finished = trucker.wait();
    assert_eq!(finished.code, Some(1), "{}", finished.text());
}

#[test]
fn a_process_whose_pipelines_go_on_again_ends_with_0() {
    let (s, mut trucker) = failed();
    s.file("bad/transform.sql", MENDED);
    assert_eq!(tell(&s, "resume", &[]).0, Some(0));
    s.until_same(&mut trucker, "SELECT id FROM t", "SELECT id FROM bad");
    trucker.terminate();
}

#[test]
fn status_tells_the_failure_while_nobody_runs_and_no_values() {
    let (s, trucker) = failed();
    trucker.kill9();
    let (code, bad) = status(&s);
    assert_eq!(code, Some(1), "{bad}");
    assert_eq!(bad["state"], "failed");
    let failure = &bad["failure"];
    assert_eq!((&failure["ordinal"], &failure["operation"]), (&2.into(), &"insert".into()), "{failure}");
    assert_eq!((&failure["table"], &failure["sqlstate"]), (&"public.t".into(), &"22012".into()), "{failure}");
    assert_eq!(failure["key"], serde_json::json!(["id"]));
    assert!(failure["file"].as_str().is_some_and(|file| file.ends_with("bad/transform.sql")), "{failure}");
    assert!(failure["since"].is_string() && failure["commit_lsn"].is_string(), "{failure}");
    let dir = s.dir();
    let text = s.start(&["status", dir.to_str().unwrap()]).wait().text();
    assert!(text.contains("failed") && text.contains("trucker resume bad"), "{text}");
    assert!(!text.contains("4711000") && !failure.to_string().contains("4711000"), "{text}");
    // Nobody runs it: resuming is starting.
    let (code, text) = tell(&s, "resume", &[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("next `trucker run`"), "{text}");
    s.file("bad/transform.sql", MENDED);
    s.once();
    s.assert_same("SELECT id, 100 / nullif(v, 0) FROM t", "SELECT * FROM bad");
    assert_eq!(status(&s).0, Some(0));
}

#[test]
fn resume_is_refused_where_more_than_the_pipeline_has_changed() {
    let (s, mut trucker) = failed();
    s.output.execute("CREATE TABLE other (id int PRIMARY KEY, v int)");
    s.write_pipeline("bad", &config("t", "other", &[]), &[("transform.sql", MENDED)]);
    let (code, text) = tell(&s, "resume", &[]);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("restart"), "{text}");
    s.write_pipeline("bad", &config("t", "bad", &[]), &[]);
    assert_eq!(tell(&s, "resume", &[]).0, Some(0));
    s.until_same(&mut trucker, "SELECT id FROM t", "SELECT id FROM bad");
}

#[test]
fn skip_leaves_out_exactly_the_change_that_was_shown() {
    let (s, mut trucker) = failed();
    let (code, text) = tell(&s, "skip", &[]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("change 2 of the transaction") && text.contains("insert of public.t"), "{text}");
    assert!(text.contains("rows told by id") && text.contains("--yes"), "{text}");
    let (code, text) = tell(&s, "skip", &["--yes"]);
    assert_eq!(code, Some(0), "{text}");
    s.until_same(&mut trucker, "SELECT id, 100 / v FROM t WHERE v <> 0", "SELECT * FROM bad");
    let letter =
        "SELECT ordinal || operation || is_skipped || (new ->> 'id') || sqlstate FROM trucker.dead_letters";
    assert_eq!(s.output.value(letter), "2inserttrue322012");
    assert!(s.output.is("SELECT bool_and(failure IS NULL AND request IS NULL) FROM trucker.checkpoint"));
    let (code, text) = tell(&s, "skip", &["--yes"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("hasn't failed"), "{text}");
    assert_eq!(status(&s).1["dead_letters"], 1);
}

#[test]
fn skip_of_a_transaction_leaves_out_all_of_it_and_nothing_else() {
    let (s, mut trucker) = failed();
    let (code, text) = tell(&s, "skip", &["--yes", "--transaction"]);
    assert_eq!(code, Some(0), "{text}");
    s.until_same(&mut trucker, "SELECT id, 100 / v FROM t WHERE id NOT IN (2, 3, 4)", "SELECT * FROM bad");
    let letters = "SELECT string_agg(ordinal || ':' || (new ->> 'id'), ' ' ORDER BY id) FROM trucker.dead_letters WHERE is_skipped";
    assert_eq!(s.output.value(letters), "1:2 2:3 3:4");
}

#[test]
fn skip_one_after_the_other_never_takes_more_than_one_even_if_asked_twice_at_once() {
    let s = world();
    let mut trucker = s.run();
    s.until_following(&mut trucker, 2);
    s.source.execute("INSERT INTO t VALUES (1, 0), (2, 0), (3, 3)");
    until_failed(&s, &mut trucker);
    let dir = s.dir();
    let args = ["skip", "bad", dir.to_str().unwrap(), "--yes"];
    trucker.signal("STOP");
    let (mut one, mut two) = (s.start(&args), s.start(&args));
    one.until_printed("bad stands at change 1 of");
    two.until_printed("bad stands at change 1 of");
    trucker.signal("CONT");
    let codes = [one.wait().code, two.wait().code];
    assert_eq!(
        codes,
        [Some(1), Some(1)],
        "the one that was first says that it has failed again, at the next change"
    );
    let at = "SELECT failure ->> 'ordinal' = '2' FROM trucker.checkpoint WHERE pipeline = 'bad'";
    trucker.until("it fails at the next change", || s.output.is(at));
    // A transaction is loaded as a whole: it waits for its second change to be skipped as well.
    assert_eq!(s.output.number("SELECT count(*) FROM trucker.dead_letters"), 0);
    let (code, text) = tell(&s, "resume", &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("change 2 of"), "trying again doesn't undo the first skip: {text}");
    let (code, text) = tell(&s, "skip", &["--yes"]);
    assert_eq!(code, Some(0), "{text}");
    s.until_same(&mut trucker, "SELECT id, 33 FROM t WHERE v = 3", "SELECT * FROM bad");
    assert_eq!(s.output.number("SELECT count(*) FROM trucker.dead_letters"), 2);
    trucker.terminate();
}

#[test]
fn skip_survives_kills_and_is_done_once() {
    let (s, mut trucker) = failed();
    for _ in 0..3 {
        let dir = s.dir();
        let skip = s.start(&["skip", "bad", dir.to_str().unwrap(), "--yes"]);
        trucker.kill9();
        drop(skip.wait());
        trucker = s.run();
        s.until_following(&mut trucker, 2);
    }
    let skipped = || s.output.number("SELECT count(*) FROM trucker.dead_letters") == 1;
    if !skipped() {
        until_failed_or(&s, &mut trucker, &skipped);
        tell(&s, "skip", &["--yes"]);
    }
    s.until_same(&mut trucker, "SELECT id, 100 / v FROM t WHERE v <> 0", "SELECT * FROM bad");
    assert!(skipped());
    trucker.terminate();
}

fn until_failed_or(s: &Scenario, trucker: &mut Trucker, other: &dyn Fn() -> bool) {
    let sql = "SELECT failure IS NOT NULL FROM trucker.checkpoint WHERE pipeline = 'bad'";
    trucker.until("it fails, or is past it", || s.output.is(sql) || other());
}

#[test]
fn skip_without_a_process_is_done_by_the_next_run_and_by_a_standby() {
    let (s, trucker) = failed();
    trucker.kill9();
    let (code, text) = tell(&s, "skip", &["--yes"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("next `trucker run`"), "{text}");
    s.once();
    s.assert_same("SELECT id, 100 / v FROM t WHERE v <> 0", "SELECT * FROM bad");
    assert_eq!(s.output.number("SELECT count(*) FROM trucker.dead_letters"), 1);
    let mut first = s.run();
    first.until_said("running");
    let mut standby = s.run();
    standby.until_said("standing_by");
    s.source.execute("INSERT INTO t VALUES (10, 0), (11, 11)");
    until_failed(&s, &mut first);
    first.signal("STOP");
    let dir = s.dir();
    let skip = s.start(&["skip", "bad", dir.to_str().unwrap(), "--yes"]);
    let is_asked = "SELECT request IS NOT NULL FROM trucker.checkpoint WHERE pipeline = 'bad'";
    standby.until("it is asked", || s.output.is(is_asked));
    first.kill9();
    s.until_same(&mut standby, "SELECT id, 100 / v FROM t WHERE v <> 0", "SELECT * FROM bad");
    assert_eq!(skip.wait().code, Some(0));
    assert_eq!(s.output.number("SELECT count(*) FROM trucker.dead_letters"), 2);
}

#[test]
fn a_deferred_constraint_that_fails_at_commit_is_skipped_only_with_its_transaction() {
    let s = world();
    s.file("bad/transform.sql", MENDED);
    s.output.execute(
        "CREATE TABLE parents (id int PRIMARY KEY); INSERT INTO parents SELECT generate_series(1, 10);
         ALTER TABLE bad ADD FOREIGN KEY (id) REFERENCES parents DEFERRABLE INITIALLY DEFERRED",
    );
    let mut trucker = s.run();
    s.until_following(&mut trucker, 2);
    s.source.execute("INSERT INTO t VALUES (1, 1)");
    s.source.execute("INSERT INTO t VALUES (2, 2), (11, 1)");
    s.source.execute("INSERT INTO t VALUES (3, 3)");
    until_failed(&s, &mut trucker);
    let (code, text) = tell(&s, "skip", &["--yes"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("--transaction"), "{text}");
    let (code, text) = tell(&s, "skip", &["--yes", "--transaction"]);
    assert_eq!(code, Some(0), "{text}");
    s.until_same(&mut trucker, "SELECT id, 100 / v FROM t WHERE id IN (1, 3)", "SELECT * FROM bad");
    assert_eq!(s.output.number("SELECT count(*) FROM trucker.dead_letters"), 2);
}

#[test]
fn a_pipeline_is_filled_anew_under_load_while_the_others_stream() {
    let s = world();
    s.file("bad/transform.sql", MENDED);
    s.source.execute("INSERT INTO t SELECT i, i FROM generate_series(1, 20000) i");
    let mut trucker = s.run();
    s.until_following(&mut trucker, 2);
    let (port, name) = (s.source.port, s.source.name.clone());
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let load = std::thread::spawn(move || {
        let session = super::harness::Session::try_connect(port, &name).unwrap();
        let mut n = 20_000;
        while stopped.try_recv().is_err() {
            n += 1;
            session.execute(&format!(
                "BEGIN; INSERT INTO t VALUES ({n}, {n}); UPDATE t SET v = v + 1 WHERE id % 997 = {n} % 997;
                 DELETE FROM t WHERE id = {n} - 15000; UPDATE t SET id = -id WHERE id = {n} - 10000; COMMIT"
            ));
        }
    });
    for _ in 0..3 {
        s.output.execute("DELETE FROM bad WHERE id % 3 = 0; INSERT INTO bad VALUES (1000000, 1)");
        let (code, text) = backfill(&s);
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("the running process fills it anew"), "{text}");
        s.until_following(&mut trucker, 2);
        trucker.until("the stray row is gone", || {
            s.output.is("SELECT count(*) = 0 FROM bad WHERE id = 1000000")
        });
    }
    stop.send(()).unwrap();
    load.join().unwrap();
    s.until_same(&mut trucker, "SELECT id, 100 / nullif(v, 0) FROM t", "SELECT * FROM bad");
    s.until_same(&mut trucker, "SELECT * FROM t", "SELECT * FROM good");
    trucker.terminate();
    s.once();
    s.assert_same("SELECT id, 100 / nullif(v, 0) FROM t", "SELECT * FROM bad");
}

#[test]
fn a_pipeline_that_failed_may_be_filled_anew() {
    let (s, mut trucker) = failed();
    s.source.execute("UPDATE t SET v = 9 WHERE v = 0");
    let (code, text) = backfill(&s);
    assert_eq!(code, Some(0), "{text}");
    s.until_same(&mut trucker, "SELECT id, 100 / v FROM t", "SELECT * FROM bad");
    trucker.terminate();
}

#[test]
fn a_checkpoint_table_of_an_earlier_version_is_brought_up_to_date_by_two_processes_at_once() {
    let s = world();
    s.file("bad/transform.sql", MENDED);
    s.once();
    s.output.execute(
        "DROP TABLE trucker.dead_letters; ALTER TABLE trucker.checkpoint DROP COLUMN failure, DROP COLUMN request",
    );
    assert_eq!(status(&s).0, Some(0));
    let dir = s.dir();
    assert_eq!(s.start(&["check", dir.to_str().unwrap()]).wait().code, Some(0));
    let columns = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'trucker.checkpoint'::regclass AND NOT attisdropped
                   AND attname IN ('failure', 'request')";
    assert_eq!(s.output.number(columns), 0, "status and check change nothing");
    s.source.execute("INSERT INTO t VALUES (1, 1)");
    let (mut one, two) = (s.run(), s.run());
    s.until_same(&mut one, "SELECT id, 100 / v FROM t", "SELECT * FROM bad");
    assert_eq!(s.output.number(columns), 2);
    drop((one, two));
    s.once();
}
