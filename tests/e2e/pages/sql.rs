//! SQL in pages: pipelines' files run as `trucker preview` runs them, everything else on a server, in a transaction that is
//! undone.

use std::collections::HashMap;

use super::all;
use crate::harness::{Scenario, clickhouse_server, config};

/// What the pages speak of, on the source.
const SOURCE: &str = "
CREATE TABLE countries (id int PRIMARY KEY, name text);
CREATE TABLE lines (order_id int, line_no int);
CREATE TABLE orders (id int PRIMARY KEY, country_id int REFERENCES countries, country text, total int, cents int, lines jsonb,
    name text, year int, origin text, flag text, is_paid bool, code text, note text);
ALTER TABLE orders REPLICA IDENTITY FULL;
INSERT INTO countries VALUES (1, 'Chile');
INSERT INTO orders VALUES (1, 1, 'cl', 2, 3, '[{\"sku\": \"a\", \"pieces\": 11}]', 'n', 2024, 'o', 't', true, 'c', 'n')";

/// The same where statements run; all of it is undone.
const FIXTURE: &str = "
CREATE ROLE trucker; CREATE ROLE shop_owner; CREATE ROLE webapp_owner;
CREATE TABLE orders (id int PRIMARY KEY, country_id int, total int) PARTITION BY RANGE (id);
CREATE TABLE orders_2024 PARTITION OF orders FOR VALUES FROM (1) TO (9);
CREATE TABLE countries (id int, name text); CREATE TABLE audit (id int); CREATE SCHEMA sales;
CREATE TABLE orders_flat (order_id int UNIQUE NOT NULL, total int CONSTRAINT orders_flat_total_check CHECK (total > 0), note text);
CREATE TABLE order_lines (order_id int CONSTRAINT order_lines_order_id_fkey REFERENCES orders_flat (order_id));
CREATE TABLE revenue (country text PRIMARY KEY, cents bigint);
CREATE PUBLICATION trucker_shop;";

/// Folder, name and text.
type File = (String, String, String);

/// The files in a block: folder and name from the comment above each, and the text.
fn files(text: &str) -> Vec<File> {
    let mut files: Vec<File> = Vec::new();
    for line in text.lines() {
        let named = line.strip_prefix("-- ").and_then(|rest| rest.split_whitespace().next());
        let named = named.and_then(|path| path.trim_end_matches(':').strip_suffix(".sql"));
        if let Some(path) = named {
            let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
            files.push((folder.to_owned(), name.to_owned(), String::new()));
        } else if files.is_empty() {
            let name = if text.contains("{{ rows }}") { "load" } else { "transform" };
            files.push((String::new(), name.to_owned(), String::new()));
        }
        files.last_mut().expect("pushed above").2 += &format!("{line}\n");
    }
    files
}

/// What runs over the rows of a pipeline, as the statement of its own that it is without them.
fn over_rows(text: &str) -> String {
    text.replace("{{ rows }}", "(VALUES ('cl', 1)) AS rows (country, cents)")
}

/// Whether it is for the other kind of database.
fn is_clickhouse(at: &str, text: &str) -> bool {
    at.starts_with("docs/clickhouse.md") || text.contains("ENGINE =") || text.contains("TABLE shop.orders")
}

/// Runs pipelines' files, each block a pipeline, named after where it stands; what went wrong.
fn preview(blocks: &[(String, Vec<File>)]) -> Vec<String> {
    let mut s = Scenario::new().on_source(SOURCE);
    for (at, files) in blocks {
        let files: Vec<(String, &str)> =
            files.iter().map(|(_, name, text)| (format!("{name}.sql"), &**text)).collect();
        let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (&**name, *text)).collect();
        let text = files.iter().map(|(_, text)| *text).collect::<String>();
        let input = if at.contains("countries") || text.contains("FROM orders o WHERE o.country_id") {
            "countries"
        } else {
            "orders"
        };
        s = s.pipeline(&folder(at), &config(input, "flat", &["on: {truncate: ignore}"]), &files);
    }
    let dir = s.dir();
    let start = |(at, files): &(String, Vec<File>)| {
        let operation = match files.last().map(|(_, name, _)| &**name) {
            Some("delete") => "delete",
            _ => "insert",
        };
        let dir = dir.to_str().unwrap();
        (at.clone(), s.start(&["preview", &folder(at), "--operation", operation, "--dir", dir]))
    };
    let mut failures = Vec::new();
    for some in blocks.chunks(8) {
        let running: Vec<_> = some.iter().map(start).collect();
        for (at, finished) in running.into_iter().map(|(at, process)| (at, process.wait())) {
            if finished.code != Some(0) {
                failures.push(format!("{at}: {}", finished.text()));
            }
        }
    }
    failures
}

fn folder(at: &str) -> String {
    at.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_")
}

/// The server's settings are all that these change: they must exist.
fn is_of_settings(s: &Scenario, at: &str, statement: &str) -> bool {
    let Some(rest) = statement.strip_prefix("ALTER SYSTEM SET ") else { return false };
    let name = rest.split_whitespace().next().unwrap_or_default();
    // Since version 17.
    let is_new = name == "synchronized_standby_slots";
    let is_there = s.output.is(&format!("SELECT true FROM pg_settings WHERE name = '{name}'"));
    assert!(is_there || is_new, "{at}: there is no setting {name}");
    true
}

/// Runs the statements and undoes them; what went wrong.
fn run(s: &Scenario, at: &str, text: &str) -> Option<String> {
    let text = text.replace("DATABASE webapp", &format!("DATABASE \"{}\"", s.output.name));
    let text = ["shop", "warehouse"].iter().fold(text, |text, name| {
        text.replace(&format!("DATABASE {name}"), &format!("DATABASE \"{}\"", s.output.name))
    });
    let code = text.lines().map(|line| line.split("--").next().unwrap_or_default());
    let code: Vec<String> = code.map(str::to_owned).collect();
    let code = code.join("\n");
    let statements = code.split(';').map(str::trim).filter(|sql| !sql.is_empty());
    // A slot outlives transactions; the one that the page drops is of no other test.
    if code.contains("pg_drop_replication_slot") {
        s.output.execute("SELECT pg_create_physical_replication_slot('trucker_shop')");
    }
    let mut batch = FIXTURE.to_owned();
    if code.contains("CREATE ROLE trucker") {
        batch += "DROP ROLE trucker;";
    }
    if code.contains("CREATE TABLE public.orders_flat") {
        batch += "DROP TABLE orders_flat CASCADE;";
    }
    for statement in statements.filter(|statement| !is_of_settings(s, at, statement)) {
        batch += &format!("{statement};\n");
    }
    let session = s.output.session();
    let done = session.try_execute(&format!("BEGIN; {batch} ROLLBACK"));
    done.err().map(|error| format!("{at}: {}\nin:\n{text}", error.as_db_error().unwrap()))
}

#[test]
fn sql_of_the_pages_runs() {
    let s = Scenario::new().tables("CREATE TABLE t (id int PRIMARY KEY)").copies("t");
    // Makes schema trucker.
    s.once();
    let (mut of_pipelines, mut failures, mut count) = (Vec::new(), Vec::new(), 0);
    let mut databases = HashMap::new();
    for (at, block) in all("sql") {
        count += 1;
        if is_clickhouse(&at, &block.text) {
            let page = at.split(':').next().unwrap_or_default().to_owned();
            let out = databases.entry(page).or_insert_with(|| clickhouse_server().database());
            let text = block.text.lines().map(|line| line.split("--").next().unwrap_or_default().trim_end());
            let text = text.collect::<Vec<_>>().join("\n").replace("shop.", &format!("{}.", out.name));
            out.execute(&format!("{text}\n"));
            continue;
        }
        let is_template = block.text.contains("{{") || block.text.contains("{%");
        let runs = |name: &str| is_template && !["load", "truncate"].contains(&name);
        let (own, others): (Vec<_>, Vec<_>) =
            files(&block.text).into_iter().partition(|(_, name, _)| runs(name));
        if !own.is_empty() {
            of_pipelines.push((at.clone(), own));
        }
        failures.extend(others.iter().filter_map(|(_, _, text)| run(&s, &at, &over_rows(text))));
    }
    failures.extend(preview(&of_pipelines));
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(count > 70 && of_pipelines.len() > 20, "{count} blocks, {} of pipelines", of_pipelines.len());
}

#[test]
fn settings_of_the_pages_exist() {
    let s = Scenario::new();
    for (at, block) in all("ini") {
        for line in block.text.lines().filter(|line| !line.starts_with('#')) {
            let statement = format!("ALTER SYSTEM SET {line}");
            assert!(is_of_settings(&s, &at, &statement), "{at}");
        }
    }
}
