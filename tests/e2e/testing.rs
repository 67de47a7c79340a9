//! `trucker test`: pipelines' own tests, what they say where rows differ, and what they leave behind: nothing.

use std::fs;
use std::path::Path;

use super::harness::{Scenario, source_server};

const CONFIG: &str = "\
input: {connection: shop, table: orders}
output: {connection: '{{ env(\"WHERE\", \"warehouse\") }}', table: flat}
";
const TRANSFORM: &str = "SELECT {{ row.id }} AS id, upper({{ row.name }}) AS name, {{ row.cents }} / 100.0 AS total, \
                         {{ env(\"REGION\", \"eu\") }} AS region";
/// Needs variables and files that no test has.
const PROJECT: &str = "\
name: shop
connections:
  - {name: shop, adapter: postgres, host: '{{ env(\"NO_SUCH_HOST\") }}', port: '{{ env(\"NO_PORT\") }}', database: d, user: u, pass_path: /nowhere/pass}
  - {name: warehouse, adapter: postgres, host_path: /nowhere/host, database: d, user: u}
";
const SCHEMA: &str = "CREATE TABLE orders (id int PRIMARY KEY, name text, cents int, tags text[]);
                      ALTER TABLE orders REPLICA IDENTITY FULL;";
const WAREHOUSE: &str = "CREATE TABLE flat (id int PRIMARY KEY, name text NOT NULL, total numeric(12,2), region text, at timestamptz DEFAULT now());";

/// A project with one test. It has no servers but those that `trucker test` starts or is given.
fn project(test: &str) -> Scenario {
    let folder = source_server().binaries().folder();
    let s = Scenario::new().variable("TRUCKER_PG_BIN", folder.to_str().unwrap());
    s.file("trucker.yml", PROJECT);
    s.file("schema/shop.sql", SCHEMA);
    s.file("schema/warehouse.sql", WAREHOUSE);
    s.write_pipeline("flat", CONFIG, &[("transform.sql", TRANSFORM), ("tests/a.yml", test)]);
    s
}

/// Plays them on the tests' shared server, which is quicker than to start one.
fn play(s: &Scenario, more: &[&str]) -> (Option<i32>, String) {
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres?sslmode=disable", source_server().port());
    let dir = s.dir();
    let finished = s.start(&[&["test", dir.to_str().unwrap(), "--postgres", &url], more].concat()).wait();
    (finished.code, format!("{}{}", finished.stdout, finished.stderr))
}

/// What was printed, without what differs from run to run.
fn normal(s: &Scenario, text: &str) -> String {
    let text = text.replace(&format!("{}/", s.dir().display()), "");
    let lines = text.lines().map(|line| match line.rsplit_once("  ") {
        Some((start, time)) if time.ends_with(" s") => start.to_owned(),
        _ => line.split(" (").next().filter(|l| l.ends_with("ed")).unwrap_or(line).to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_examples_pass_their_tests_on_a_server_of_their_own() {
    let folder = source_server().binaries().folder();
    let s = Scenario::new().variable("TRUCKER_PG_BIN", folder.to_str().unwrap());
    let shop = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/shop");
    let finished = s.start(&["test", shop.to_str().unwrap()]).wait();
    assert_eq!(finished.code, Some(0), "{}", finished.text());
    assert!(finished.stdout.contains("3 passed"), "{}", finished.text());
}

#[test]
fn given_rows_come_by_the_backfill_and_changes_by_the_stream() {
    let s = project(
        "env: {REGION: no}
given:
  orders:
    - {id: 1, name: ada, cents: 250, tags: [a, 'b c']}
given_output:
  flat:
    - {id: 9, name: stray, region: x}
expect:
  - {id: 1, name: ADA, total: 2.5, region: 'no', at: <not null>}
steps:
  - changes:
      - insert: {orders: [{id: 2, name: bob, cents: 0}]}
      - UPDATE orders SET cents = cents + 1 WHERE tags = '{a,\"b c\"}'
    expect:
      - {id: 2, name: BOB, total: '0.00'}
      - {id: 1, name: <any>, total: 2.51}
    returns:
      insert: [{id: 2, total: 0}]
      update: [{id: 1, total: 2.51}]
  - changes:
      - delete: {orders: [{id: 1, name: ada}]}
      - update: {orders: [{id: 2, name: bea}]}
    expect: [{id: 2, name: BEA}]
  - changes: {truncate: orders}
    expect: []
",
    );
    let (code, text) = play(&s, &[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("1 passed"), "{text}");
}

const DIFFERENT: &str = "\
given:
  orders:
    - {id: 1, name: ada, cents: 250}
    - {id: 2, name: bob, cents: 100}
    - {id: 3, name: cyd, cents: null}
# what reports read
expect: # all of it
  # the first
  - {id: 1, name: ADA, total: 2.50}
  - id: 2 # wrong
    name: BOB
    total: 7
  - {id: 4, name: DAN, total: <any>}
steps:
  - changes: DELETE FROM orders
    expect: [{id: 1, name: ADA}]
";

#[test]
fn rows_that_differ_are_shown_with_the_lines_that_expect_them() {
    let s = project(DIFFERENT);
    let (code, text) = play(&s, &[]);
    assert_eq!(code, Some(1), "{text}");
    let expected = "\
FAILED  flat/tests/a.yml

error[TRK1005]: public.flat isn't what is expected
  --> flat/tests/a.yml:7:1
   |
   |    id  name  total
10 | ~  2   BOB   7 → 1
13 | -  4   DAN   <any>
   | +  3   CYD   NULL
   = 1 row is as expected; - is missing, + isn't expected, ~ expected → found

0 passed, 1 failed";
    assert_eq!(normal(&s, &text).trim(), expected);
}

#[test]
fn update_rewrites_what_is_expected_and_nothing_else() {
    let s = project(DIFFERENT);
    let (code, text) = play(&s, &["--update"]);
    assert_eq!(code, Some(1), "a test that failed says so, though it was updated: {text}");
    let updated = fs::read_to_string(s.dir().join("flat/tests/a.yml")).unwrap();
    let expected = DIFFERENT
        .replace("  - id: 2 # wrong\n    name: BOB\n    total: 7\n", "  - {id: 2, name: BOB, total: 1}\n")
        .replace("  - {id: 4, name: DAN, total: <any>}\n", "  - {id: 3, name: CYD, total: null}\n")
        .replace("    expect: [{id: 1, name: ADA}]\n", "    expect: []\n");
    assert_eq!(updated, expected);
    let (code, text) = play(&s, &[]);
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn a_failure_can_be_expected_and_is_told_otherwise() {
    let failing = "\
given: {orders: [{id: 1, name: ada, cents: 1}]}
steps:
  - changes: INSERT INTO orders VALUES (2, NULL, 1)
    fails: null value in column
    expect: [{id: 1}]
";
    let s = project(failing);
    let (code, text) = play(&s, &[]);
    assert_eq!(code, Some(0), "{text}");
    s.file("flat/tests/a.yml", &failing.replace("    fails: null value in column\n", ""));
    let (code, text) = play(&s, &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("null value in column") && text.contains("the step at line 3"), "{text}");
    s.file("flat/tests/a.yml", &failing.replace("NULL, 1", "'x', 1"));
    let (code, text) = play(&s, &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("it doesn't fail: everything was loaded"), "{text}");
}

#[test]
fn sql_that_is_wrong_fails_the_test_at_its_own_line() {
    let s = project("given: {orders: []}\nexpect: []\n");
    s.file("flat/transform.sql", "SELECT {{ row.id }} AS id,\n  {{ row.nam }} AS name");
    let (code, text) = play(&s, &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("flat/transform.sql:2:3") && text.contains("did you mean row.name?"), "{text}");
}

#[test]
fn a_wrong_test_file_is_told_with_its_line_and_the_nearest_name() {
    for (test, at, parts) in [
        (
            "given: {ordres: [{id: 1}]}\nexpect: []",
            "1:9",
            ["no table public.ordres", "did you mean `public.orders`?"],
        ),
        ("given: {orders: [{idd: 1}]}\nexpect: []", "1:19", ["no column `idd`", "did you mean `id`?"]),
        ("given: {orders: [{id: x}]}\nexpect: []", "1:18", ["invalid input syntax for type integer", ""]),
        ("expect:\n  - {id: x}", "2:6", ["this is no value for `id`", ""]),
        ("expect:\n  - {totl: 1}", "2:6", ["no column `totl`", "did you mean `total`?"]),
        ("expext: []", "1:1", ["no key `expext`", "did you mean `expect`?"]),
        ("given: {orders: []}", "1:1", ["expects nothing", "expect:"]),
        ("expect: {id: 1}", "1:14", ["must be a list of rows", "no rows: []"]),
        ("changes:\n  - upsert: {orders: []}\nexpect: []", "2:5", ["no key `upsert`", "`insert`"]),
        ("changes: SELECT 1/0\nexpect: []", "1:10", ["division by zero", ""]),
        ("changes:\n  - delete: {orders: [{id: 7}]}\nexpect: []", "2:23", ["no such row", ""]),
        ("with: other\nexpect: []", "1:7", ["no pipeline `other`", ""]),
    ] {
        let s = project(test);
        let (code, text) = play(&s, &[]);
        assert_eq!(code, Some(3), "{test}: {text}");
        assert!(text.contains(&format!("flat/tests/a.yml:{at}")), "{test}: {text}");
        assert!(parts.iter().all(|part| text.contains(part)), "{test}: {text}");
    }
}

#[test]
fn tables_that_are_not_known_are_asked_for() {
    let s = project("expect: []");
    fs::remove_file(s.dir().join("schema/shop.sql")).unwrap();
    let (code, text) = play(&s, &[]);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("the tables of connection `shop` are not known"), "{text}");
    s.file("schema/shop.sql", "CREATE TABLE a (id int);\nCREATE TABEL b (id int);");
    let (code, text) = play(&s, &[]);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("schema/shop.sql:2:8"), "{text}");
}

#[test]
fn tests_are_chosen_by_pipeline_and_by_path() {
    let s = project("expect: []");
    s.write_pipeline("copy", CONFIG, &[("tests/b.yml", "expect: [{id: 1}]")]);
    s.file("copy/transform.sql", TRANSFORM);
    s.file("copy/config.yml", &CONFIG.replace("flat}", "flat, on: {truncate: truncate}}"));
    s.file("flat/config.yml", &CONFIG.replace("flat}", "flat, on: {truncate: truncate}}"));
    let dir = s.dir();
    for (more, code, said) in [
        (&["flat"][..], 0, "1 passed"),
        (&["--filter", "a.yml"], 0, "1 passed"),
        (&["copy", "--filter", "a.yml"], 3, "there is no test to play"),
        (&["falt"], 3, "did you mean `flat`?"),
        (&[], 1, "1 passed, 1 failed"),
    ] {
        let (found, text) = play(&s, more);
        assert_eq!(found, Some(code), "{more:?} in {}: {text}", dir.display());
        assert!(text.contains(said), "{more:?}: {text}");
    }
}

#[test]
fn junit_has_a_case_for_each_test() {
    let s = project("expect: [{id: 1, name: '<&>'}]");
    s.file("flat/tests/b.yml", "expect: []");
    s.file("flat/tests/c.yml", "nonsense: 1");
    let report = s.dir().join("junit.xml");
    let (code, text) = play(&s, &["--junit", report.to_str().unwrap()]);
    assert_eq!(code, Some(3), "{text}");
    let xml = fs::read_to_string(report).unwrap();
    assert!(xml.contains("tests=\"3\" failures=\"1\" errors=\"1\""), "{xml}");
    for part in [
        "classname=\"flat\" name=\"b\"",
        "<failure message=\"error[TRK1005]: public.flat isn't",
        "<error message=",
        "&lt;&amp;&gt;",
    ] {
        assert!(xml.contains(part), "{part}: {xml}");
    }
    assert_eq!(xml.matches("<testcase ").count(), 3);
    assert_eq!(xml.matches("</testcase>").count() + xml.matches("/>\n").count(), 3);
}

#[test]
fn nothing_is_left_on_a_server_that_was_named_and_kept_databases_are() {
    let s = project("expect: [{id: 1}]");
    let left = |prefix: &str| {
        s.source.number(&format!("SELECT count(*) FROM pg_database WHERE datname LIKE '{prefix}%'"))
    };
    let (code, text) = play(&s, &["--keep"]);
    assert_eq!(code, Some(1), "{text}");
    let kept: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("psql"))
        .filter_map(|line| line.split(' ').next_back())
        .collect();
    assert_eq!(kept.len(), 2, "{text}");
    let prefix = kept[0].rsplit_once('_').unwrap().0;
    assert_eq!(left(prefix), 2, "{text}");
    for name in &kept {
        assert!(
            s.source.is(&format!("SELECT count(*) = 0 FROM pg_replication_slots WHERE database = '{name}'"))
        );
        s.source.admin(&format!("DROP DATABASE {name}"));
    }
    let before = left("trucker\\_test\\_");
    let (code, text) = play(&s, &[]);
    assert_eq!(code, Some(1), "{text}");
    // Other tests of this run play at the same time: theirs go as well, in the end.
    assert!(
        super::harness::eventually(super::harness::PATIENCE, || left("trucker\\_test\\_") <= before),
        "{text}"
    );
}
