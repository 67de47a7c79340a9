//! Passwords, and row values, never appear in any output.

use trucker::sandbox::ServerOptions;

use super::harness::{Scenario, config, output_server, private_server};

const CANARY: &str = "k4naRy-'\"#: {{x}} $1";

#[test]
fn a_password_is_in_no_output_whatever_goes_wrong() {
    let server = private_server(ServerOptions {
        hba: vec![
            "host all postgres 127.0.0.1/32 trust".to_owned(),
            "host all all 127.0.0.1/32 scram-sha-256".to_owned(),
        ],
        ..ServerOptions::default()
    });
    let s = Scenario::between(server.port(), output_server().port())
        .variable("CANARY", CANARY)
        .variable("RUST_LOG", "trace")
        .variable("RUST_BACKTRACE", "1")
        .tables("CREATE TABLE t (id int PRIMARY KEY, v text)")
        .copies("t");
    let quoted = CANARY.replace('\'', "''");
    s.source.execute(&format!("CREATE ROLE reader LOGIN SUPERUSER PASSWORD '{quoted}'"));
    let path = s.dir().join("trucker.yml");
    let text = std::fs::read_to_string(&path).unwrap();
    let with_pass = text.replacen("user: postgres", "user: reader\n    pass: {{ env(\"CANARY\") }}", 1);
    std::fs::write(&path, &with_pass).unwrap();
    let mut outputs = vec![s.once().text()];
    let dir = s.dir();
    let dir = dir.to_str().unwrap();
    for command in ["check", "plan", "compile", "status", "verify"] {
        outputs.push(s.start(&[command, dir]).wait().text());
    }
    s.source.execute("ALTER ROLE reader PASSWORD 'another'");
    outputs.push(s.run_once().text());
    for wrong in ["nonsense: ", "port: ", "sslmode: ", "host_path: ", "database: &x "] {
        std::fs::write(&path, with_pass.clone() + "    " + wrong + "{{ env(\"CANARY\") }}\n").unwrap();
        outputs.push(s.run_once().text());
    }
    for text in outputs {
        assert!(!text.contains("k4naRy"), "{text}");
    }
}

#[test]
fn a_url_that_is_no_argument_is_told_without_its_password() {
    let s = Scenario::new();
    let wrong = [
        "postgres://u:hunter2@/d",
        "postgres//u:hunter2@h/d",
        "postgres://u:hunter2@h/d?sslmode=maybe",
        "host=h user=u password=hunter2 port=none",
        "clickhouse://u:hunter2@/d",
        "clickhouse://u:hunter2@h/d?x=y",
        "https://u:hunter2@h/d?sslmode=disable",
    ];
    let arguments: [(&[&str], &str); 4] = [
        (&["init", "made", "--table", "t"], "--from"),
        (&["init", "made", "--from", "postgres://u@h/d", "--table", "t"], "--to"),
        (&["test", "made"], "--postgres"),
        (&["test", "made"], "--clickhouse"),
    ];
    for (before, argument) in arguments {
        for url in wrong {
            let joined = format!("{argument}={url}");
            for last in [&[argument, url][..], &[joined.as_str()]] {
                let finished = s.start(&[before, last].concat()).wait();
                let text = finished.text();
                assert_eq!(finished.code, Some(2), "{argument} {url}: {text}");
                assert!(text.contains(&format!("'…' for '{argument} <URL>': ")), "{text}");
                assert!(!text.contains("hunter2"), "{text}");
            }
        }
    }
    // Where none is expected.
    for before in [&[][..], &["init", "made"], &["check", "made"]] {
        let finished = s.start(&[before, &["postgres://u:hunter2@h/d"]].concat()).wait();
        let text = finished.text();
        assert_eq!(finished.code, Some(2), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn a_rows_values_are_in_no_output_whatever_goes_wrong() {
    let marker = "s3cret-value";
    let s = Scenario::new()
        .variable("RUST_LOG", "debug")
        .on_source("CREATE TABLE t (id text PRIMARY KEY, v text)")
        .on_output(
            "CREATE TABLE t (id text PRIMARY KEY, v varchar(3)); CREATE TABLE u (id text PRIMARY KEY, v int)",
        )
        .copies("t")
        .pipeline(
            "u",
            &config("t", "u", &[]),
            &[
                ("transform.sql", "SELECT row.id, row.v::int AS v"),
                ("delete.sql", "SELECT {{ old.id }} AS id"),
            ],
        );
    s.once();
    s.source.execute(&format!("INSERT INTO t VALUES ('{marker}-id', '{marker}')"));
    let text = s.once_fails(1);
    assert!(!text.contains(marker), "{text}");
    // The same in a backfill.
    let s = s.on_output("CREATE TABLE w (id text PRIMARY KEY, v int)").pipeline(
        "w",
        &config("t", "w", &[]),
        &[("transform.sql", "SELECT row.id, row.v::int AS v"), ("delete.sql", "SELECT {{ old.id }} AS id")],
    );
    let text = s.once_fails(1);
    assert!(!text.contains(marker), "{text}");
}

#[test]
fn what_functions_and_triggers_say_is_in_no_output_whatever_code_they_give_it() {
    let marker = "s3cret-value";
    for (code, more) in [
        ("P0001", ""),
        ("23514", ", HINT = 'say ' || NEW.v, CONSTRAINT = NEW.v"),
        ("22023", ", DETAIL = NEW.v"),
        ("40001", ""),
        ("42501", ", TABLE = NEW.v"),
    ] {
        let s = Scenario::new()
            .variable("RUST_LOG", "trace")
            .tables("CREATE TABLE t (id int PRIMARY KEY, v text)")
            .copies("t");
        s.output.execute(&format!(
            "CREATE FUNCTION speak() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               RAISE WARNING 'writing %', NEW.v;
               RAISE EXCEPTION 'no %', NEW.v USING ERRCODE = '{code}'{more};
             END $$;
             CREATE TRIGGER speak BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION speak()"
        ));
        let mut trucker = s.run();
        s.until_following(&mut trucker, 1);
        s.source.execute(&format!("INSERT INTO t VALUES (1, '{marker}')"));
        trucker.until_said(&format!("SQLSTATE {code}"));
        let said = trucker.kill9().text();
        assert!(said.contains("raised by a function") && !said.contains(marker), "{code}: {said}");
    }
}

#[test]
fn sql_that_a_trigger_puts_together_from_a_row_is_not_shown_where_it_fails() {
    let s = Scenario::new().tables("CREATE TABLE t (id int PRIMARY KEY, v text)").copies("t").on_output(
        "CREATE FUNCTION build() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           EXECUTE 'SELECT ' || NEW.v; RETURN NEW;
         END $$;
         CREATE TRIGGER build BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION build()",
    );
    s.source.execute("INSERT INTO t VALUES (1, '1 s3cret2 s3cret3')");
    let said = s.once_fails(1);
    assert!(said.contains("42601") && !said.contains("s3cret"), "{said}");
}
