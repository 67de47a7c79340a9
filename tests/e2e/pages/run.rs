//! Commands of pages, run as they stand on a project such as the pages speak of: each has to end well. What a person would
//! end or confirm gets the option for it.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};

use trucker::sandbox::ServerOptions;

use super::{Block, blocks, root};
use crate::harness::{Database, Scenario, config, private_output, private_server, source_server};

fn page(name: &str) -> Vec<Block> {
    blocks(&fs::read_to_string(root().join(name)).unwrap())
}

/// The lines of the page's commands; a synopsis, which has brackets, is none.
fn lines(name: &str) -> Vec<String> {
    let shell = page(name).into_iter().filter(|block| block.info == "sh" && !block.text.contains("[DIR]"));
    let text: String = shell.map(|block| block.text.replace("\\\n", " ")).collect();
    text.lines().map(|line| line.split(" #").next().unwrap_or_default().trim().to_owned()).collect()
}

/// As it can be run here: it ends, asks nothing, and leaves the machine alone.
fn placed(line: &str, s: &Scenario) -> String {
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres?sslmode=disable", source_server().port());
    let (command, option) = [
        ("trucker run ", " --once --http off".to_owned()),
        ("trucker teardown ", " --yes".to_owned()),
        ("trucker skip ", " --yes".to_owned()),
        ("trucker test ", format!(" --postgres '{url}'")),
    ]
    .into_iter()
    .find(|(command, _)| line.contains(command))
    .unwrap_or_default();
    let line = line.split(" | psql").next().unwrap_or_default();
    let option = if command.is_empty() || line.contains("--write-schema") { String::new() } else { option };
    let out = s.logs().display().to_string();
    let line = line.replace("/etc/bash_completion.d", &out).replace("/usr/local/share/man/man1", &out);
    line.replace("collector.example.org:4318", "127.0.0.1:9") + &option
}

/// Runs it in a shell, in the folder above the project's; it must succeed.
fn run(line: &str, s: &Scenario) -> String {
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_trucker")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("timeout");
    shell.args(["60", "sh", "-ec", &placed(line, s)]).current_dir(s.dir()).stdin(Stdio::null());
    shell.env("PATH", path).env("WEBAPP_PASSWORD", "any").env("NO_COLOR", "1");
    shell.env("TRUCKER_PG_BIN", source_server().binaries().folder());
    let output = shell.output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{line}\n{text}");
    text
}

/// The files of the README's project, for these databases.
fn write_project_of_readme(s: &Scenario) {
    let server = |database: &Database| format!("host: 127.0.0.1\n    port: {}", database.port);
    for block in page("README.md") {
        let first = block.text.lines().next().unwrap_or_default();
        let named = first.trim_start_matches(['#', '-', ' ']).split(": ").next().unwrap_or_default();
        if !named.starts_with("shop/") {
            continue;
        }
        let text = block.text.replace("host: db.example.org", &server(&s.source));
        let text = text.replace("host: warehouse.example.org", &server(&s.output));
        let text = text.replace("database: shop", &format!("database: {}", s.source.name));
        let text = text.replace("database: warehouse", &format!("database: {}", s.output.name));
        let text = text.replace("verify-full", "disable");
        let text = text.replace("/run/secrets/warehouse_password", s.logs().join("pass").to_str().unwrap());
        s.file(named, &text);
    }
    fs::write(s.logs().join("pass"), "any\n").unwrap();
}

#[test]
fn the_readme_works_as_it_stands() {
    let (source, output) =
        (private_server(ServerOptions::default()), private_output(ServerOptions::default()));
    let s = Scenario::between(source.port(), output.port())
        .on_source(
            "CREATE ROLE shop_owner; CREATE TABLE countries (id int PRIMARY KEY, name text);
             CREATE TABLE orders (id int PRIMARY KEY, country_id int, total numeric);
             ALTER TABLE orders OWNER TO shop_owner; INSERT INTO countries VALUES (1, 'Chile');
             INSERT INTO orders VALUES (1, 1, 2.5), (2, 1, 3)",
        )
        .on_output("CREATE TABLE orders_flat (order_id int PRIMARY KEY, total_cents int, country text)");
    // What it asks of the databases, with the rights that this gives.
    let rights = page("README.md").into_iter().filter(|block| block.text.contains("CREATE ROLE"));
    for (block, database) in rights.zip([&s.source, &s.output]) {
        let text = block.text.replace("DATABASE shop", &format!("DATABASE \"{}\"", s.source.name));
        let text = text.replace("DATABASE warehouse", &format!("DATABASE \"{}\"", s.output.name));
        text.lines().for_each(|statement| database.execute(statement));
    }
    let mut count = 0;
    for line in lines("README.md").iter().filter(|line| !line.starts_with("make ")) {
        if line.starts_with("trucker check") {
            // `init` has written another one before.
            fs::remove_dir_all(s.dir().join("shop")).unwrap();
            write_project_of_readme(&s);
        }
        run(line, &s);
        if line.starts_with("trucker run") {
            let rows = "SELECT string_agg(order_id || total_cents::text || country, ' ' ORDER BY 1) FROM orders_flat";
            assert_eq!(s.output.value(rows), "1250Chile 2300Chile");
        }
        count += 1;
    }
    assert_eq!(s.source.number("SELECT count(*) FROM pg_replication_slots"), 0);
    assert!(count >= 8, "{count} commands");
}

/// The project that docs/testing.md and docs/operations.md speak of.
fn world() -> Scenario {
    let source = "CREATE TABLE countries (code text PRIMARY KEY, name text);
        CREATE TABLE orders (id int PRIMARY KEY, country text, cents int);";
    let output = "CREATE TABLE orders_flat (order_id int PRIMARY KEY, country text, total numeric);";
    let s = Scenario::new().on_source(source).on_output(output);
    let project = s.project_file();
    let project = project.replace("name: source", "name: webapp").replace("name: output", "name: warehouse");
    let pipeline = config("orders", "orders_flat", &[]);
    let pipeline =
        pipeline.replace("source", "webapp").replace("connection: output", "connection: warehouse");
    let test = page("docs/testing.md").into_iter().find(|block| block.info == "yaml").unwrap();
    for (path, text) in [
        ("trucker.yml", &*project),
        ("orders_flat/config.yml", &pipeline),
        (
            "orders_flat/transform.sql",
            "SELECT {{ row.id }} AS order_id, c.name AS country, {{ row.cents }} / 100.0 AS total
             FROM countries c WHERE c.code = {{ row.country }}",
        ),
        ("orders_flat/delete.sql", "SELECT {{ old.id }} AS order_id"),
        ("orders_flat/tests/lifecycle.yml", &test.text),
        ("schema/webapp.sql", source),
        ("schema/warehouse.sql", output),
    ] {
        s.file(&format!("shop/{path}"), text);
    }
    s
}

#[test]
fn the_commands_of_the_pages_on_testing_and_running_work_as_they_stand() {
    let s = world();
    let pages = ["docs/testing.md", "docs/configuration.md", "docs/tracing.md", "docs/operations.md"];
    let lines: Vec<String> =
        pages.iter().flat_map(|name| lines(name)).filter(|line| !line.is_empty()).collect();
    let is_about_failures = |line: &&String| line.contains("resume") || line.contains("skip");
    for line in lines.iter().filter(|line| !is_about_failures(line)) {
        // Who may create nothing runs what somebody else has made.
        if line.contains("--no-create") {
            run("trucker run shop", &s);
        }
        run(line, &s);
    }
    s.output.execute("ALTER TABLE orders_flat ADD CHECK (total < 10)");
    s.source.execute("INSERT INTO countries VALUES ('no', 'Norway'); INSERT INTO orders VALUES (1, 'no', 100), (2, 'no', 5000)");
    run("! trucker run shop", &s);
    let mut count = 0;
    for line in lines.iter().filter(is_about_failures) {
        run(line, &s);
        count += 1;
    }
    assert!(lines.len() >= 18 && count == 3, "{} commands, {count} after a failure", lines.len());
}

/// Those that a cure on the page on errors names: within the project where no folder is named.
#[test]
fn the_commands_of_the_page_on_errors_work_where_they_are_pasted() {
    let s = world();
    // As `init` calls it, and so does the page.
    let tests = s.dir().join("shop/orders_flat/tests");
    fs::rename(tests.join("lifecycle.yml"), tests.join("first.yml")).unwrap();
    let all: BTreeSet<String> =
        lines("docs/errors.md").into_iter().filter(|line| line.starts_with("trucker ")).collect();
    let within = |line: &str| match line.replace("/srv/trucker/shop", "shop") {
        line if line.contains(" shop") => line,
        line => format!("cd shop; {line} "),
    };
    let is_about_failures = |line: &&String| line.contains("resume");
    run("trucker run shop", &s);
    for line in all.iter().filter(|line| !is_about_failures(line)) {
        line.split(" && ").for_each(|command| drop(run(&within(command), &s)));
    }
    run("trucker run shop", &s);
    s.output.execute("ALTER TABLE orders_flat ADD CHECK (total < 10)");
    s.source
        .execute("INSERT INTO countries VALUES ('no', 'Norway'); INSERT INTO orders VALUES (2, 'no', 5000)");
    for line in all.iter().filter(is_about_failures) {
        run("! trucker run shop", &s);
        run(&within(line), &s);
    }
    assert!(all.len() >= 11, "{} commands", all.len());
}
