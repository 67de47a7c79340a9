//! The whole text that a person reads for each common mistake, from the built program against real servers, compared with the
//! snapshots in `texts/`. `TRUCKER_BLESS=1` writes these anew: read the diff, as a newcomer would.

use std::fs;
use std::path::PathBuf;

use trucker::sandbox::ServerOptions;

use super::harness::{Scenario, config, output_server, private_server};

const ORDERS: &str = "CREATE TABLE orders (id int PRIMARY KEY, total int, note text, is_paid bool)";
const FLAT: &str = "CREATE TABLE flat (order_id int PRIMARY KEY, total int, note text)";

/// The cases of one snapshot file.
struct Texts {
    file: PathBuf,
    text: String,
}

impl Texts {
    fn new(name: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/texts");
        Texts { file: folder.join(format!("{name}.txt")), text: String::new() }
    }

    /// Adds what the command says of this project, without what differs from run to run.
    #[track_caller]
    fn add(&mut self, title: &str, s: &Scenario, args: &[&str]) {
        let dir = s.dir();
        let mut args: Vec<&str> = args.to_vec();
        args.insert(1, dir.to_str().unwrap());
        let finished = s.start(&args).wait();
        let text = finished.text();
        assert!(!text.contains("panicked"), "{title}: {text}");
        let from = ["error[", "warning["].iter().filter_map(|word| text.find(&format!("\n{word}"))).min();
        let problems = from.map_or(text.as_str(), |from| &text[from..]);
        let code = finished.code.unwrap_or(-1);
        self.text += &format!("# {title}: exit code {code}\n{}\n\n", plain(problems, s).trim());
    }

    fn check(&mut self, title: &str, s: &Scenario) {
        self.add(title, s, &["check"]);
    }

    #[track_caller]
    fn finish(self) {
        if std::env::var_os("TRUCKER_BLESS").is_some() {
            fs::write(&self.file, self.text).unwrap();
            return;
        }
        let expected = fs::read_to_string(&self.file).unwrap_or_default();
        for (found, expected) in self.text.split("\n# ").zip(expected.split("\n# ")) {
            assert_eq!(found, expected, "TRUCKER_BLESS=1 takes the texts as they are now");
        }
        assert_eq!(self.text.len(), expected.len(), "cases came or went: TRUCKER_BLESS=1");
    }
}

/// Folders, names, ports and versions as they would be for somebody.
fn plain(text: &str, s: &Scenario) -> String {
    let version = |database: &super::harness::Database| database.value("SHOW server_version_num");
    let shown = |number: &str| {
        let number: u32 = number.parse().unwrap();
        format!("Postgres {}.{}", number / 10_000, number % 10_000)
    };
    let mut text = text.replace(s.dir().to_str().unwrap(), "shop").replace(&s.source.name, "webapp");
    text = text.replace(&s.output.name, "warehouse").replace(&s.name, "shop");
    for database in [&s.source, &s.output] {
        text = text.replace(&format!(":{}", database.port), ":5432");
        text = text.replace(&shown(&version(database)), "Postgres NN");
    }
    text
}

fn world() -> Scenario {
    Scenario::new().tables(ORDERS).tables(FLAT)
}

/// Each with a title, more lines of the output's configuration, and the one file.
const SQL: &[(&str, &[&str], &str, &str)] = &[
    (
        "a template in SQL lacks its brace",
        &[],
        "transform.sql",
        "SELECT 1 AS order_id,\n  {{ row.id AS total",
    ),
    (
        "a template asks for a variable that isn't set",
        &[],
        "transform.sql",
        "SELECT {{ env(\"NO_SUCH\") }} AS order_id",
    ),
    ("a template uses a name that isn't there", &[], "transform.sql", "SELECT {{ now.id }} AS order_id"),
    (
        "a template leaves nothing for deletes",
        &[],
        "transform.sql",
        "{% if operation == \"insert\" %}SELECT 1 AS order_id{% endif %}",
    ),
    (
        "a column's name is mistyped in braces",
        &[],
        "transform.sql",
        "SELECT {{ row.id }} AS order_id,\n  {{ row.totl }} AS total",
    ),
    (
        "a column's name is mistyped in plain SQL",
        &[],
        "transform.sql",
        "SELECT row.id AS order_id,\n  row.totl AS total",
    ),
    (
        "a column of old isn't sent",
        &[],
        "transform.sql",
        "SELECT {{ new.id }} AS order_id, {{ new.total }} - {{ old.total }} AS total",
    ),
    (
        "a syntax error in the second line",
        &[],
        "transform.sql",
        "SELECT {{ row.id }} AS order_id,\n  FROM orders",
    ),
    (
        "a syntax error behind a template's block",
        &[],
        "transform.sql",
        "SELECT {{ row.id }} AS order_id\n{% if operation == \"insert\" %}\n  , 1 AS total\n{% endif %}\nFRM orders",
    ),
    ("a table that isn't there", &[], "transform.sql", "SELECT {{ row.id }} AS order_id\nFROM countris"),
    ("a table's name is mistyped", &[], "transform.sql", "SELECT {{ row.id }} AS order_id\nFROM oders"),
    ("a table of another schema", &[], "transform.sql", "SELECT {{ row.id }} AS order_id\nFROM staff AS s"),
    (
        "a table's name is mistyped in its schema",
        &[],
        "transform.sql",
        "SELECT {{ row.id }} AS order_id\nFROM hr.stuff",
    ),
    (
        "a joined column's name is mistyped",
        &[],
        "transform.sql",
        "SELECT {{ row.id }} AS order_id, o.noet AS note\nFROM orders o",
    ),
    (
        "an alias that isn't there",
        &[],
        "transform.sql",
        "SELECT {{ row.id }} AS order_id, x.note\nFROM orders o",
    ),
    (
        "a function that isn't there",
        &[],
        "transform.sql",
        "SELECT {{ row.id }} AS order_id, cents({{ row.total }}) AS total",
    ),
    ("two statements", &[], "transform.sql", "SELECT {{ row.id }} AS order_id;\nDELETE FROM orders"),
    ("transformed without transform.sql", &[], "insert.sql", "SELECT {{ transformed.id }} AS order_id"),
    (
        "a result column without a name",
        &[],
        "transform.sql",
        "SELECT {{ row.id }} AS order_id, {{ row.total }} * 2",
    ),
    (
        "a result column that the output lacks",
        &[],
        "transform.sql",
        "SELECT {{ row.id }} AS order_id, {{ row.total }} AS totals",
    ),
    ("a result without the key", &[], "transform.sql", "SELECT {{ row.total }} AS total"),
    (
        "a type that can't be cast",
        &[],
        "transform.sql",
        "SELECT {{ row.id }} AS order_id, point(1, 2) AS total",
    ),
    (
        "a key that the output lacks",
        &["key: [order_idd]"],
        "transform.sql",
        "SELECT {{ row.id }} AS order_id",
    ),
    (
        "a key without a unique index",
        &["key: [total]"],
        "transform.sql",
        "SELECT {{ row.id }} AS order_id, {{ row.total }} AS total",
    ),
    (
        "a delete that can't be carried out",
        &["key: [note]"],
        "transform.sql",
        "SELECT {{ row.note }} AS note, {{ row.id }} AS order_id",
    ),
    (
        "an aggregate without GROUP BY",
        &[],
        "transform.sql",
        "SELECT {{ row.id }} AS order_id, o.note, sum(o.total) AS total FROM orders o",
    ),
];

#[test]
fn mistakes_in_sql_are_told_in_full() {
    let s = world()
        .on_output("CREATE UNIQUE INDEX ON flat (note)")
        .on_source("CREATE SCHEMA hr; CREATE TABLE hr.staff (id int PRIMARY KEY)");
    let mut texts = Texts::new("sql");
    for (title, more, file, sql) in SQL {
        let folder = s.dir().join("flat");
        let _ = fs::remove_dir_all(&folder);
        s.write_pipeline("flat", &config("orders", "flat", more), &[(file, sql)]);
        texts.check(title, &s);
        s.assert_nothing_created();
    }
    texts.finish();
}

#[test]
fn mistakes_in_load_sql_are_told_in_full() {
    let s = world().on_output("CREATE TABLE revenue (country text PRIMARY KEY, cents bigint)");
    let transform = "SELECT {{ new.note }} AS country, {{ new.total }} AS cents";
    let mut texts = Texts::new("load");
    for (title, load) in [
        (
            "load.sql names a table that isn't there",
            "INSERT INTO revenu\nSELECT country, cents FROM {{ rows }}",
        ),
        (
            "load.sql names a column that the rows lack",
            "INSERT INTO revenue\nSELECT country, sum(centz)\nFROM {{ rows }} GROUP BY country",
        ),
        (
            "load.sql has a conflict on columns without a unique index",
            "INSERT INTO revenue SELECT country, cents FROM {{ rows }}\nON CONFLICT (cents) DO NOTHING",
        ),
        (
            "the second statement of load.sql has a syntax error",
            "DELETE FROM revenue WHERE cents = 0;\nINSERT INTO revenue SELECT * FORM {{ rows }}",
        ),
        (
            "load.sql returns a type that doesn't fit",
            "INSERT INTO revenue SELECT country, country FROM {{ rows }}",
        ),
        ("load.sql isn't closed", "INSERT INTO revenue SELECT * FROM {{ rows"),
    ] {
        let text = config("orders", "revenue", &["on: {delete: ignore, truncate: ignore}"]);
        s.write_pipeline("revenue", &text, &[("transform.sql", transform), ("load.sql", load)]);
        texts.check(title, &s);
        s.assert_nothing_created();
        assert_eq!(s.output.number("SELECT count(*) FROM revenue"), 0);
    }
    let load = "INSERT INTO revenue SELECT country, cents FROM {{ rows }}";
    for (title, truncate) in [
        ("truncate.sql names a table that isn't there", "TRUNCATE revenues"),
        ("the second statement of truncate.sql does", "TRUNCATE revenue;\nDELETE FROM revnue"),
    ] {
        let text = config("orders", "revenue", &["on: {delete: ignore}"]);
        let files = [("transform.sql", transform), ("load.sql", load), ("truncate.sql", truncate)];
        s.write_pipeline("revenue", &text, &files);
        texts.check(title, &s);
    }
    texts.finish();
}

#[test]
fn mistakes_about_tables_are_told_in_full() {
    let s = world();
    s.source.execute(
        "CREATE VIEW seen AS SELECT * FROM orders; CREATE UNLOGGED TABLE fast (id int PRIMARY KEY);
         CREATE FOREIGN DATA WRAPPER fdw; CREATE SERVER far FOREIGN DATA WRAPPER fdw;
         CREATE FOREIGN TABLE away (id int) SERVER far; CREATE TABLE heap (id int, total int);
         CREATE TABLE mute (id int PRIMARY KEY); ALTER TABLE mute REPLICA IDENTITY NOTHING;
         CREATE TABLE other (x int PRIMARY KEY); CREATE TABLE loose (id int PRIMARY KEY, note text);
         CREATE TABLE whole (id int PRIMARY KEY, note text)",
    );
    s.output.execute(
        "CREATE VIEW flat_view AS SELECT * FROM flat; CREATE TABLE keyless (id int, total int);
         CREATE TABLE strict (id int PRIMARY KEY, note text NOT NULL);
         CREATE TABLE demanding (id int PRIMARY KEY, at date NOT NULL);
         CREATE TABLE made (id int PRIMARY KEY, note text GENERATED ALWAYS AS ('x') STORED)",
    );
    let mut texts = Texts::new("tables");
    for (title, input, output, sql) in [
        ("an input that isn't there", "public.ordres", "orders", None),
        ("an output that isn't there", "orders", "public.flatt", None),
        ("an output of its input's name that isn't there", "loose", "loose", None),
        ("a view as input", "seen", "orders", None),
        ("an unlogged table as input", "fast", "orders", None),
        ("a foreign table as input", "away", "orders", None),
        ("an input without a primary key", "heap", "keyless", None),
        ("an input with replica identity nothing", "mute", "orders", None),
        ("a view as output", "orders", "flat_view", None),
        ("an output without a primary key", "orders", "keyless", None),
        ("nothing in common", "other", "flat", None),
        ("a column that must be filled and isn't", "orders", "demanding", None),
        ("a column that may be NULL into one that may not", "loose", "strict", None),
        ("a generated column of the output", "whole", "made", Some("SELECT {{ row.id }} AS id, 'y' AS note")),
    ] {
        let _ = fs::remove_dir_all(s.dir().join("p"));
        let files: Vec<(&str, &str)> = sql.iter().map(|sql| ("transform.sql", *sql)).collect();
        s.write_pipeline("p", &config(input, output, &[]), &files);
        texts.check(title, &s);
        s.assert_nothing_created();
    }
    texts.finish();
}

#[test]
fn mistakes_in_configuration_are_told_in_full() {
    let s = world().copies("orders");
    let yml = s.project_file();
    let pipeline = config("orders", "orders", &[]);
    let mut texts = Texts::new("configuration");
    for (title, yml, pipeline) in [
        (
            "a template in YAML lacks its brace",
            yml.replacen("127.0.0.1", "{{ env(\"HOST\") }", 1),
            pipeline.clone(),
        ),
        (
            "a variable that isn't set",
            yml.replacen("127.0.0.1", "{{ env(\"NO_SUCH_HOST\") }}", 1),
            pipeline.clone(),
        ),
        ("an unknown key", yml.replacen("    host:", "    hots:", 1), pipeline.clone()),
        ("YAML that isn't closed", yml.replacen("127.0.0.1", "\"127.0.0.1", 1), pipeline.clone()),
        (
            "a password in a mistyped key stays hidden",
            yml.replacen("    user:", "    password: hunter2\n    user:", 1),
            pipeline.clone(),
        ),
        (
            "an unknown connection",
            yml.clone(),
            pipeline.replacen("connection: source", "connection: sorce", 1),
        ),
        ("an action that isn't one", yml.clone(), format!("{pipeline}  on: {{insert: upsrt}}\n")),
        (
            "two mistakes in two files at once",
            yml.replacen("    host:", "    hots:", 1),
            format!("{pipeline}  kye: [id]\n"),
        ),
    ] {
        s.file("trucker.yml", &yml);
        s.file("orders/config.yml", &pipeline);
        texts.add(title, &s, &["check", "--offline"]);
        assert!(!texts.text.contains("hunter2"), "{}", texts.text);
    }
    texts.finish();
}

#[test]
fn connections_that_fail_are_told_in_full() {
    let server = private_server(ServerOptions {
        password: Some("right".to_owned()),
        hba: vec![
            "host all postgres 127.0.0.1/32 trust".to_owned(),
            "host all reader 127.0.0.1/32 scram-sha-256".to_owned(),
        ],
        ..ServerOptions::default()
    });
    let s = Scenario::between(server.port(), output_server().port()).tables(ORDERS).copies("orders");
    s.source.execute("CREATE ROLE reader LOGIN PASSWORD 'right'; CREATE ROLE stranger LOGIN");
    let yml = s.project_file();
    let port = format!("port: {}", s.source.port);
    let user = |user: &str| yml.replacen("user: postgres", user, 1);
    let mut texts = Texts::new("connections");
    for (title, yml) in [
        ("a refused port", yml.replacen(&port, "port: 1", 1)),
        ("a host that doesn't resolve", yml.replacen("host: 127.0.0.1", "host: no-such-host.invalid", 1)),
        ("an unknown database", yml.replacen(&s.source.name, "webap", 1)),
        ("a wrong password", user("user: reader\n    pass: hunter2")),
        ("no password", user("user: reader")),
        ("a user whom pg_hba.conf doesn't know", user("user: stranger\n    pass: hunter2")),
        ("TLS where the server has none", yml.replacen("sslmode: disable", "sslmode: require", 1)),
        (
            "both connections at once",
            yml.replacen(&port, "port: 1", 1).replacen(&s.output.name, "warehose", 1),
        ),
    ] {
        s.file("trucker.yml", &yml);
        texts.check(title, &s);
    }
    assert!(!texts.text.contains("hunter2"), "{}", texts.text);
    texts.finish();
}

#[test]
fn servers_that_are_not_set_up_are_told_in_full() {
    let mut texts = Texts::new("servers");
    let options = ServerOptions::default()
        .set("wal_level", "replica")
        .set("max_replication_slots", "1")
        .set("max_wal_senders", "1");
    let mut server = private_server(options);
    let s = Scenario::between(server.port(), output_server().port()).tables(ORDERS).copies("orders");
    s.source.execute("SELECT pg_create_physical_replication_slot('taken')");
    texts.check("wal_level is replica, and all slots are taken", &s);
    let standby = server.start_standby(&ServerOptions::default()).unwrap();
    texts.check("and the last walsender too, which a standby has", &s);
    let yml = s.project_file();
    let source = format!("port: {}", s.source.port);
    s.file("trucker.yml", &yml.replacen(&source, &format!("port: {}", standby.port()), 1));
    texts.check("a hot standby as source", &s);
    let output = format!("port: {}", s.output.port);
    let output_moved = yml.replacen(&output, &format!("port: {}", standby.port()), 1);
    s.file("trucker.yml", &output_moved.replacen(&s.output.name, &s.source.name, 1));
    texts.check("a hot standby as output", &s);
    texts.text = texts.text.replace(&format!(":{}", standby.port()), ":5433");
    texts.finish();
}

/// Roles belong to a whole server: named after the test's database.
fn as_role(s: &Scenario, database: &super::harness::Database, sql: &str) -> String {
    let role = format!("{}_role", database.name);
    let sql = sql.replace("ROLE!", &format!("\"{role}\"")).replace("DB!", &format!("\"{}\"", database.name));
    database.execute(&sql);
    let yml = s.project_file();
    let at = yml.find(&format!("database: {}", database.name)).unwrap();
    format!("{}{}", &yml[..at], yml[at..].replacen("user: postgres", &format!("user: {role}"), 1))
}

#[test]
fn rights_that_are_missing_are_told_in_full() {
    let mut texts = Texts::new("rights");
    for (title, is_source, rights) in [
        ("a source's role with no rights at all", true, ""),
        (
            "a role that doesn't own the table",
            true,
            "ALTER ROLE ROLE! REPLICATION; GRANT CREATE ON DATABASE DB! TO ROLE!; GRANT SELECT ON orders, countries TO ROLE!",
        ),
        (
            "a role that may not read what the SQL joins",
            true,
            "ALTER ROLE ROLE! REPLICATION; GRANT CREATE ON DATABASE DB! TO ROLE!; ALTER TABLE orders OWNER TO ROLE!",
        ),
        (
            "row-level security on the input",
            true,
            "ALTER ROLE ROLE! REPLICATION; GRANT CREATE ON DATABASE DB! TO ROLE!; GRANT ALL ON orders, countries TO ROLE!; ALTER TABLE orders ENABLE ROW LEVEL SECURITY",
        ),
        ("an output's role with no rights at all", false, ""),
        (
            "an output's role that may not delete",
            false,
            "GRANT CREATE ON DATABASE DB! TO ROLE!; GRANT SELECT, INSERT, UPDATE ON flat TO ROLE!",
        ),
    ] {
        let s = world().on_source("CREATE TABLE countries (id int PRIMARY KEY, name text)");
        let sql = "SELECT {{ row.id }} AS order_id,\n  (SELECT name FROM countries c WHERE c.id = {{ row.total }}) AS note";
        let s = s.pipeline(
            "flat",
            &config("orders", "flat", &[]),
            &[("transform.sql", sql), ("delete.sql", "SELECT {{ old.id }} AS order_id")],
        );
        let database = if is_source { &s.source } else { &s.output };
        let all = format!("CREATE ROLE ROLE! LOGIN; GRANT USAGE ON SCHEMA public TO ROLE!; {rights}");
        let yml = as_role(&s, database, &all);
        s.file("trucker.yml", &yml);
        texts.check(title, &s);
        s.assert_nothing_created();
        database.execute(&format!(
            "REASSIGN OWNED BY \"{0}_role\" TO postgres; DROP OWNED BY \"{0}_role\"; DROP ROLE \"{0}_role\"",
            database.name
        ));
    }
    texts.finish();
}
