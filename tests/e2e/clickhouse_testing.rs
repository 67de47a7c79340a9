//! `trucker test` of pipelines into ClickHouse: what they are compared by, and that nothing of theirs stays there.

use super::harness::{ClickHouseDatabase, Scenario, clickhouse_server, source_server};

const PROJECT: &str = "\
connections:
  - {name: shop, adapter: postgres, host: nowhere, database: d, user: u}
  - {name: analytics, adapter: clickhouse, host: nowhere, database: live}
";
const SHOP: &str = "CREATE TABLE orders (id int PRIMARY KEY, name text, cents int, tags text[] NOT NULL DEFAULT '{}', note jsonb, at timestamptz);";
const ANALYTICS: &str = "\
-- Without a database in their names.
CREATE TABLE flat (id Int32, name Nullable(String), total Decimal(12, 2), tags Array(String), note Nullable(String),
    at Nullable(DateTime64(6, 'UTC')), _version UInt128, _is_deleted UInt8)
ENGINE = ReplacingMergeTree(_version, _is_deleted) ORDER BY id;

CREATE TABLE latest (name String, last AggregateFunction(argMax, Int32, Int32)) ENGINE = AggregatingMergeTree ORDER BY name;
";
const TRANSFORM: &str = "SELECT {{ row.id }} AS id, upper({{ row.name }}) AS name, ({{ row.cents }} / 100.0)::numeric(12,2) AS total, \
                         {{ row.tags }} AS tags, {{ row.note }} AS note, {{ row.at }} AS at";
const TEST: &str = "\
given:
  orders:
    - {id: 1, name: ada, cents: 250, tags: [a, b], note: {x: [1, null]}, at: 2024-01-01 12:00:00+02}
given_output:
  flat:
    - {id: 9, name: stale}
expect:
  - {id: 1, name: ADA, total: 2.5, tags: [a, b], note: {x: [1, null]}, at: 2024-01-01 10:00:00}
returns:
  insert:
    - {id: 1, name: ADA}
steps:
  - changes:
      - insert: {orders: [{id: 2, name: bob, cents: 10}]}
      - UPDATE orders SET id = 3, name = NULL WHERE id = 1
    expect:
      - {id: 2, total: 0.10, at: null}
      - {id: 3, name: null, tags: <any>, at: <not null>}
  - changes:
      - DELETE FROM orders
    expect: []
";

fn project(test: &str) -> Scenario {
    let folder = source_server().binaries().folder();
    let s = Scenario::new().variable("TRUCKER_PG_BIN", folder.to_str().unwrap());
    s.file("trucker.yml", PROJECT);
    s.file("schema/shop.sql", SHOP);
    s.file("schema/analytics.sql", ANALYTICS);
    let config = "input: {connection: shop, table: orders}\noutput: {connection: analytics, table: flat}\n";
    let delete = ("delete.sql", "SELECT {{ old.id }} AS id");
    s.write_pipeline("flat", config, &[("transform.sql", TRANSFORM), delete, ("tests/a.yml", test)]);
    s
}

fn url(out: &ClickHouseDatabase) -> String {
    let to = out.driver();
    let pass = to.pass.as_ref().map_or(&[][..], |pass| pass.expose());
    let pass: String = pass.iter().map(|byte| format!("%{byte:02X}")).collect();
    format!("http://{}:{pass}@{}:{}", to.user, to.host, to.port)
}

fn play(s: &Scenario, more: &[&str]) -> (Option<i32>, String) {
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres?sslmode=disable", source_server().port());
    let dir = s.dir();
    let finished = s.start(&[&["test", dir.to_str().unwrap(), "--postgres", &url], more].concat()).wait();
    (finished.code, format!("{}{}", finished.stdout, finished.stderr))
}

#[test]
fn a_pipeline_into_clickhouse_is_played_and_compared_as_final_shows_it() {
    let out = clickhouse_server().database();
    let s = project(TEST);
    let (code, text) = play(&s, &["--clickhouse", &url(&out)]);
    assert_eq!(code, Some(0), "{text}");
    // What a load.sql makes of them: states are shown as what they come to.
    let config = "input: {connection: shop, table: orders}\noutput: {connection: analytics, on: {update: ignore, delete: ignore, truncate: ignore}}\n";
    let load = "INSERT INTO latest SELECT name, argMaxState(cents, id) FROM {{ rows }} GROUP BY name";
    let transform = "SELECT {{ row.id }} AS id, coalesce({{ row.name }}, '') AS name, coalesce({{ row.cents }}, 0) AS cents";
    let test = "given:\n  orders: [{id: 1, name: a, cents: 5}, {id: 2, name: a, cents: 4}]\nexpect:\n  latest: [{name: a, last: 4}]\n\
                steps:\n  - changes:\n      - insert: {orders: [{id: 3, name: a, cents: 7}]}\n    expect:\n      latest: [{name: a, last: 7}]\n";
    let s = project(TEST);
    s.write_pipeline(
        "latest",
        config,
        &[("transform.sql", transform), ("load.sql", load), ("tests/b.yml", test)],
    );
    let (code, text) = play(&s, &["--clickhouse", &url(&out), "--filter", "b.yml"]);
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn what_differs_in_clickhouse_is_shown() {
    let out = clickhouse_server().database();
    for (from, to, said) in [
        ("total: 2.5,", "total: 2.505,", "2.505 → 2.5"),
        (
            "at: 2024-01-01 10:00:00}",
            "at: 2024-01-01 10:00:01}",
            "10:00:01.000000 → 2024-01-01 10:00:00.000000",
        ),
        (
            "tags: [a, b], note: {x: [1, null]}, at: 2024-01-01 10",
            "tags: [a], note: {x: [1, null]}, at: 2024-01-01 10",
            "['a'] → ['a','b']",
        ),
        ("expect: []", "expect: [{id: 7}]", "isn't what is expected"),
        ("{id: 1, name: ADA}", "{id: 1, name: ada}", "ada → ADA"),
    ] {
        assert!(TEST.contains(from), "{from}");
        let s = project(&TEST.replace(from, to));
        let (code, text) = play(&s, &["--clickhouse", &url(&out)]);
        assert!(code == Some(1) && text.contains(said), "{to}: {code:?} {text}");
    }
    for (from, to, said) in [
        ("total: 2.5,", "total: much,", "this is no value for `total`"),
        ("at: 2024-01-01 10:00:00}", "at: noon}", "this is no value for `at`"),
        ("{id: 2, total: 0.10", "{id: 2, totl: 0.10", "did you mean `total`?"),
    ] {
        let s = project(&TEST.replace(from, to));
        let (code, text) = play(&s, &["--clickhouse", &url(&out)]);
        assert!(code == Some(3) && text.contains(said), "{to}: {code:?} {text}");
    }
    let s = project(TEST);
    s.file(
        "schema/analytics.sql",
        "CREATE TABLE ok (id Int8) ENGINE = Memory;\n\nCREATE TABLE flat (id Int32) ENGINE = Nothing;\n",
    );
    let (code, text) = play(&s, &["--clickhouse", &url(&out)]);
    assert!(
        code == Some(3) && text.contains("analytics.sql:3") && text.contains("Nothing"),
        "{code:?} {text}"
    );
    let (code, text) = play(&project(TEST), &["--clickhouse", &url(&out), "--log"]);
    assert_eq!(code, Some(0), "{text}");
    let pass = out.driver().pass.map(|pass| String::from_utf8_lossy(pass.expose()).into_owned());
    assert!(pass.is_none_or(|pass| pass.is_empty() || !text.contains(&pass)), "{text}");
}

#[test]
fn databases_of_tests_in_clickhouse_are_dropped_and_others_are_left_alone() {
    // A server where no other test makes any.
    let server = super::harness::ClickHouseServer::start(&[]);
    let out = server.database();
    out.execute("CREATE TABLE mine (id Int32) ENGINE = MergeTree ORDER BY id");
    let databases = || out.rows("SELECT name FROM system.databases ORDER BY name");
    let before = databases();
    let s = project(TEST);
    assert_eq!(play(&s, &["--clickhouse", &url(&out)]).0, Some(0));
    assert_eq!(databases(), before);
    let s = project(&TEST.replace("total: 2.5,", "total: 7,"));
    assert_eq!(play(&s, &["--clickhouse", &url(&out)]).0, Some(1));
    assert_eq!(databases(), before);
}

#[test]
fn without_a_clickhouse_to_play_on_the_cure_is_told() {
    let (code, text) = play(&project(TEST), &[]);
    assert!(
        code == Some(3) && text.contains("trucker test --clickhouse http://user:password@localhost:8123"),
        "{text}"
    );
    let (code, text) = play(&project(TEST), &["--clickhouse", "http://u:hunter2@127.0.0.1:1"]);
    assert!(code == Some(4) && text.contains("nothing answers") && !text.contains("hunter2"), "{text}");
}
