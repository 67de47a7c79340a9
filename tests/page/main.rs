//! The page in a real browser: what people see of a pipeline that failed, one that is filled, one that has nothing to
//! do; in light and dark, wide and narrow. `make test-page` runs it; the pictures are left in the folder that it names.

#![allow(clippy::unwrap_used)] // A test that cannot go on says where by panicking.

#[path = "../harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the end-to-end tests need more of it")]
mod harness;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{PATIENCE, Scenario, Trucker, config, eventually};

fn chromium() -> String {
    let named = std::env::var("CHROMIUM").ok();
    let names = ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome"];
    let is_there =
        |name: &&String| Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success());
    let found = named.into_iter().chain(names.map(str::to_owned)).collect::<Vec<_>>();
    found.iter().find(is_there).expect("no Chromium: scripts/ensure-chromium installs one").clone()
}

/// Runs the browser once; what it printed to stdout and to stderr.
fn browse(url: &str, more: &[&str]) -> (String, String) {
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new("timeout")
        .args([
            "60",
            &chromium(),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
        ])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--hide-scrollbars", "--enable-logging=stderr", "--virtual-time-budget=1500"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(more)
        .arg(url)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}", text(&output.stderr));
    (text(&output.stdout), text(&output.stderr))
}

/// Where pictures are left.
fn folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("page");
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// One pipeline fails, one is being filled, one is busy, one has nothing to do.
fn shop() -> Scenario {
    let columns = "(id int PRIMARY KEY, v text)";
    let slow = [
        ("transform.sql", "SELECT {{ row.id }} AS id, {{ row.v }} || pg_sleep(0.02)::text AS v"),
        ("delete.sql", "SELECT {{ old.id }} AS id"),
    ];
    let bad = [
        ("transform.sql", "SELECT {{ row.id }} AS id,\n       {{ row.v }}::int AS v"),
        ("delete.sql", "SELECT {{ old.id }} AS id"),
    ];
    let s = Scenario::new()
        .on_source(&format!(
            "CREATE TABLE orders {columns}; CREATE TABLE customers {columns}; CREATE TABLE lines {columns}"
        ))
        .on_output(&format!(
            "CREATE TABLE orders {columns}; CREATE TABLE customers {columns}; CREATE TABLE lines {columns}; \
             CREATE TABLE totals (id int PRIMARY KEY, v int)"
        ))
        .pipeline("orders_flat", &config("orders", "orders", &[]), &[])
        .pipeline("customers", &config("customers", "customers", &[]), &[])
        .pipeline("order_totals", &config("orders", "totals", &[]), &bad)
        .pipeline("order_lines", &config("lines", "lines", &[]), &slow);
    s.source.execute(
        "INSERT INTO lines SELECT i, repeat('x', 1000) FROM generate_series(1, 10000) i; ANALYZE lines; \
         INSERT INTO customers SELECT i, 'c' FROM generate_series(1, 200) i",
    );
    s
}

fn until(trucker: &mut Trucker, text: &str) {
    let came = eventually(PATIENCE, || trucker.get("/").1.contains(text));
    assert!(came, "never: {text}\n{}", trucker.get("/").1);
}

#[test]
fn a_browser_shows_what_is_wrong_and_what_to_do_without_breaking_the_pages_own_rules() {
    let s = shop();
    let mut trucker = s.run();
    until(&mut trucker, " of ~10,000 rows");
    // A little history, for the lines that are drawn.
    let mut round = 0;
    let has_history = eventually(PATIENCE, || {
        round += 1;
        if round % 5 == 0 {
            let rows = 40 + 37 * (round % 9);
            let from = round * 1000;
            s.source.execute(&format!(
                "INSERT INTO orders SELECT i, '1' FROM generate_series({from}, {from} + {rows}) i"
            ));
        }
        trucker.get("/").1.matches("class=\"area\"").count() >= 2
    });
    assert!(has_history, "{}", trucker.get("/").1);
    s.source.execute("INSERT INTO orders VALUES (-1, 'a value that nobody should see')");
    until(&mut trucker, "order_totals is failed");
    let url = format!("http://{}/", trucker.address());

    let (document, said) = browse(&url, &["--dump-dom"]);
    for text in [
        "2 of 4 pipelines follow; order_totals is failed",
        "22P02",
        "transform.sql",
        " of ~10,000 rows",
        "<strong>Do:</strong>",
        "no limit",
    ] {
        assert!(document.contains(text), "no {text}: {document}");
    }
    assert!(
        document.contains("<button type=\"button\" data-copy="),
        "the script didn't show the button: {document}"
    );
    assert!(!document.contains("nobody should see"), "{document}");
    for complaint in ["Content Security Policy", "Uncaught", "Failed to load"] {
        assert!(!said.contains(complaint), "{said}");
    }
    let plain = trucker.get("/").1;
    assert!(
        plain.contains("22P02") && plain.contains("hidden data-copy="),
        "not without the script: {plain}"
    );

    let mut pictures = Vec::new();
    for (look, scheme) in [("light", "1"), ("dark", "0")] {
        for (width, size) in [("wide", "1280,900"), ("narrow", "500,1600")] {
            let path = folder().join(format!("{look}-{width}.png"));
            let picture = format!("--screenshot={}", path.display());
            let scheme = format!("--blink-settings=preferredColorScheme={scheme}");
            browse(&url, &[&picture, &scheme, &format!("--window-size={size}")]);
            let bytes = fs::read(&path).expect("a picture was taken");
            assert!(bytes.len() > 10_000, "{} is empty", path.display());
            assert!(!pictures.contains(&bytes), "{} looks like another", path.display());
            pictures.push(bytes);
        }
    }
    println!("pictures: {}", folder().display());
}
