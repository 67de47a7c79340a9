//! What trucker tells editors, shells and man about itself.

use std::path::Path;

use super::harness::{Scenario, config};

fn printed(s: &Scenario, args: &[&str]) -> String {
    let finished = s.start(args).wait();
    assert_eq!(finished.code, Some(0), "{}", finished.text());
    finished.stdout
}

#[test]
fn schemas_completions_and_man_pages_know_the_commands_and_keys() {
    let s = Scenario::new();
    let schema: serde_json::Value = serde_json::from_str(&printed(&s, &["schema"])).unwrap();
    assert_eq!(schema["$schema"], "http://json-schema.org/draft-07/schema#");
    assert!(printed(&s, &["schema", "pipeline"]).contains("\"replace\""));
    assert!(printed(&s, &["schema", "test"]).contains("\"given_output\""));
    for shell in ["bash", "zsh", "fish"] {
        assert!(printed(&s, &["completions", shell]).contains("teardown"), "{shell}");
    }
    assert!(printed(&s, &["man"]).contains("trucker"));
    let out = s.logs().join("man");
    printed(&s, &["man", "--out", out.to_str().unwrap()]);
    for page in ["trucker.1", "trucker-run.1", "trucker-verify.1"] {
        assert!(Path::new(&out).join(page).is_file(), "{page}");
    }
}

#[test]
fn status_fails_where_a_pipeline_is_later_than_allowed() {
    let s = Scenario::new().tables("CREATE TABLE t (id int PRIMARY KEY)").copies("t");
    let dir = s.dir();
    let status = |max: &str| s.start(&["status", dir.to_str().unwrap(), "--max-lag", max, "--json"]).wait();
    let never = status("1h");
    assert_eq!(never.code, Some(1), "it isn't filled: {}", never.text());
    s.once();
    let fresh = status("1h");
    assert_eq!(fresh.code, Some(0), "{}", fresh.text());
    // As if it had been loaded an hour after its commit, and something were waiting.
    s.output.execute("UPDATE trucker.checkpoint SET committed_at = updated_at - interval '1 hour'");
    s.source.execute("INSERT INTO t VALUES (1)");
    let late = status("59min");
    assert_eq!(late.code, Some(1), "{}", late.text());
    assert!(late.stderr.contains("later than allowed, or not filled: t"), "{}", late.stderr);
    assert_eq!(status("2h").code, Some(0));
    // As if nobody had moved it for long.
    s.output.execute(
        "UPDATE trucker.checkpoint SET committed_at = NULL, updated_at = now() - interval '3 hours'",
    );
    assert_eq!(status("2h").code, Some(1));
    s.once();
    assert_eq!(status("1min").code, Some(0));
    let usage = status("soon");
    assert_eq!(usage.code, Some(2), "{}", usage.text());
}

#[test]
fn what_is_left_of_gone_pipelines_and_projects_is_removed_and_nothing_else() {
    let s = Scenario::new()
        .tables("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY)")
        .copies("t")
        .copies("u");
    s.once();
    let (dir, name) = (s.dir(), s.name.clone());
    let teardown = |more: &[&str]| {
        let finished = s.start(&[&["teardown", dir.to_str().unwrap(), "--yes"], more].concat()).wait();
        (finished.code, finished.text())
    };
    std::fs::remove_dir_all(s.dir().join("u")).unwrap();
    let (code, text) = teardown(&["--orphans"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("removed: connection output: checkpoint of u"), "{text}");
    assert_eq!(s.output.value("SELECT string_agg(pipeline, ' ') FROM trucker.checkpoint"), "t");
    let (_, text) = teardown(&["--orphans"]);
    assert!(text.contains("nothing on its servers that could be removed"), "{text}");
    assert_eq!(teardown(&["--project", &name]).0, Some(2), "it is this one");
    // Under another name the old one is another project, whose folder is gone.
    s.file("trucker.yml", &s.project_file().replace(&format!("name: {name}"), &format!("name: {name}_b")));
    s.write_pipeline("t", &config("t", "t", &[]), &[]);
    s.once();
    let (_, text) = teardown(&["--orphans"]);
    assert!(text.contains(&format!("checkpoints of project {name};")), "{text}");
    assert!(text.contains(&format!("replication slot trucker_{name} of another project")), "{text}");
    let (code, text) = teardown(&["--project", &name]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(
        s.output.value("SELECT string_agg(project, ' ') FROM trucker.checkpoint"),
        format!("{name}_b")
    );
    let slots =
        "SELECT string_agg(slot_name, ' ') FROM pg_replication_slots WHERE database = current_database()";
    assert_eq!(s.source.value(slots), format!("trucker_{name}_b"));
    s.source.execute("INSERT INTO t VALUES (5)");
    s.once();
    s.assert_table_same("t");
}
