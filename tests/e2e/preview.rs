//! `trucker preview`: what SQL makes of some rows is shown as the stream would make it, and nothing is changed anywhere.

use serde_json::{Value, json};

use super::harness::{Scenario, config};

const TRANSFORM: &str = "SELECT {{ row.id }} AS order_id, {{ row.total }} * 100 AS cents, c.name AS country\n\
                         FROM countries c WHERE c.id = {{ row.country }}";

fn world() -> Scenario {
    Scenario::new()
        .on_source(
            "CREATE TABLE orders (id int PRIMARY KEY, country int, total numeric);
             CREATE TABLE countries (id int PRIMARY KEY, name text);
             INSERT INTO countries VALUES (1, 'Chile'), (2, NULL);
             INSERT INTO orders VALUES (3, 1, 1.5), (1, 2, 20), (2, 9, 30)",
        )
        .on_output("CREATE TABLE flat (order_id bigint PRIMARY KEY, cents bigint, country text)")
        .pipeline(
            "flat",
            &config("orders", "flat", &[]),
            &[("transform.sql", TRANSFORM), ("delete.sql", "SELECT {{ old.id }} AS order_id")],
        )
}

fn preview(s: &Scenario, args: &[&str]) -> (Option<i32>, String, String) {
    let dir = s.dir();
    let finished = s.start(&[&["preview", "--dir", dir.to_str().unwrap()], args].concat()).wait();
    (finished.code, finished.stdout, finished.stderr)
}

#[track_caller]
fn tables(s: &Scenario, args: &[&str]) -> Value {
    let (code, stdout, stderr) = preview(s, &[args, &["--json"]].concat());
    assert_eq!(code, Some(0), "{stderr}");
    serde_json::from_str::<Value>(&stdout).unwrap()["tables"].clone()
}

#[test]
fn preview_shows_what_the_sql_makes_of_rows_before_anything_is_created() {
    let s = world();
    let (code, stdout, stderr) = preview(&s, &["flat"]);
    assert_eq!(code, Some(0), "{stderr}");
    // Cast to the output's types; a row that the SQL leaves out is shown to be.
    let expected = "insert of 3 rows of public.orders upserts\n\n\
                    id  →  order_id  cents  country\n\
                    1   →  1         2000   NULL\n\
                    2   →  (no row)\n\
                    3   →  3         150    Chile\n";
    assert_eq!(stdout, expected);
    let found = tables(&s, &["flat", "--where", "new.total < 30 -- cheap", "--limit", "1"]);
    assert_eq!(
        found[0]["rows"],
        json!([{"input": ["1"], "output": [["1", "2000", null]]}]),
        "the first by its key"
    );
    s.assert_nothing_created();
}

#[test]
fn preview_of_an_update_and_of_a_delete_runs_what_the_stream_would_run() {
    let s = world();
    s.file(
        "flat/update.sql",
        "SELECT transformed.order_id, new.total - old.id AS cents FROM (SELECT) AS one",
    );
    let update = tables(&s, &["flat", "--operation", "update", "--where", "id = 3"]);
    assert_eq!(update[0]["columns"], json!(["order_id", "cents"]));
    assert_eq!(update[0]["rows"][0]["output"], json!([["3", "-2"]]));
    let delete = tables(&s, &["flat", "--operation", "delete"]);
    assert_eq!(delete[0]["action"], "delete");
    assert_eq!(delete[0]["columns"], json!(["order_id"]), "what identifies the rows that go");
    let keys: Vec<&Value> = delete[0]["rows"].as_array().unwrap().iter().map(|row| &row["output"]).collect();
    assert_eq!(keys, [&json!([["1"]]), &json!([["2"]]), &json!([["3"]])]);
}

#[test]
fn preview_needs_neither_the_output_nor_its_table_nor_the_other_files() {
    let s = world();
    s.output.execute("DROP TABLE flat");
    let (code, stdout, stderr) = preview(&s, &["flat"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("3   →  3         150.0  Chile"), "as the SQL returns it: {stdout}");
    assert!(stderr.contains("there is no table public.flat yet"), "{stderr}");
    let yml = s.project_file().replace(
        &format!("port: {}\n    database: {}", s.output.port, s.output.name),
        "port: 1\n    database: none",
    );
    s.file("trucker.yml", &yml);
    s.file("flat/delete.sql", "SELECT nonsense");
    let (code, stdout, stderr) = preview(&s, &["flat"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("150.0") && stderr.contains("connection output"), "{stdout}{stderr}");
}

#[test]
fn preview_of_a_plain_copy_and_of_load_sql_shows_the_rows_that_are_written() {
    let s = Scenario::new().tables("CREATE TABLE t (id int PRIMARY KEY, v text)").copies("t").pipeline(
        "sums",
        "input: {connection: source, table: t}\noutput: {connection: output, on: {truncate: ignore}}\n",
        &[("transform.sql", "SELECT row.id % 2 AS part"), ("load.sql", "SELECT count(*) FROM {{ rows }}")],
    );
    s.source.execute("INSERT INTO t VALUES (1, E'a\\nb'), (2, NULL)");
    let (_, stdout, stderr) = preview(&s, &["t"]);
    assert!(stdout.contains("1   →  1   a\\nb\n2   →  2   NULL\n"), "{stdout}{stderr}");
    assert_eq!(tables(&s, &["t"])[0]["rows"][0]["output"], json!([["1", "a\nb"]]), "JSON has it as it is");
    assert_eq!(tables(&s, &["t", "--operation", "delete"])[0]["rows"][1]["output"], json!([["2"]]));
    let sums = tables(&s, &["sums", "--operation", "delete"]);
    assert_eq!((&sums[0]["action"], &sums[0]["rows"][0]["output"]), (&json!("load.sql"), &json!([["1"]])));
}

#[test]
fn what_is_wrong_with_the_sql_or_the_condition_is_said_where_it_stands() {
    let s = world();
    for (args, expected) in [
        (&["flat", "--where", "totl = 1"][..], "column \"totl\" does not exist"),
        (&["flat", "--where", "true); DROP TABLE orders; SELECT (1"], "--> --where"),
        (&["flta"], "did you mean `flat`?"),
    ] {
        let (code, stdout, stderr) = preview(&s, args);
        assert_eq!((code, stdout.as_str()), (Some(3), ""), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
    }
    s.file("flat/transform.sql", "SELECT 1 AS order_id,\n  1 / ({{ new.id }} - 3) AS cents");
    let (code, _, stderr) = preview(&s, &["flat"]);
    assert_eq!(code, Some(3));
    assert!(stderr.contains("division by zero") && stderr.contains("transform.sql"), "{stderr}");
    assert_eq!(s.source.number("SELECT count(*) FROM orders"), 3);
    let (code, _, stderr) = preview(&s, &["flat", "--operation", "truncate"]);
    assert_eq!(code, Some(2), "{stderr}");
}
