//! A ClickHouse that is killed, full, read-only or behind TLS: what can be waited out is, what can't is told.

use super::harness::{
    ClickHouseDatabase, ClickHouseServer, Row, Scenario, TlsFront, clickhouse_server, config,
};

const SOURCE: &str = "SELECT id::text, v FROM t";
const OUTPUT: &str = "SELECT toString(id), v FROM t FINAL";

/// A table on both sides and a pipeline that copies it.
fn copy(out: &ClickHouseDatabase, settings: &str) -> Scenario {
    out.execute(&format!(
        "CREATE TABLE t (id Int32, v Nullable(String), _version UInt128, _is_deleted UInt8) \
         ENGINE = ReplacingMergeTree(_version, _is_deleted) ORDER BY id {settings}"
    ));
    Scenario::new()
        .on_source("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT g, 'first' FROM generate_series(1, 100) g")
        .to_clickhouse(out)
        .pipeline("t", &config("t", &format!("{}.t", out.name), &[]), &[])
}

fn sorted(mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort();
    rows
}

fn is_same(s: &Scenario, out: &ClickHouseDatabase) -> bool {
    out.try_rows(OUTPUT).is_ok_and(|rows| sorted(rows) == sorted(s.source.rows(SOURCE)))
}

#[test]
fn a_server_that_is_killed_again_and_again_has_every_row_in_the_end() {
    let mut server = ClickHouseServer::start(&[]);
    let out = server.database();
    let s = copy(&out, "");
    let mut trucker = s.run();
    trucker.until("the backfill", || is_same(&s, &out));
    for round in 0..3 {
        s.source.execute(&format!(
            "INSERT INTO t SELECT g, 'round {round}' FROM generate_series({0}, {0} + 20000) g; \
             UPDATE t SET v = v || '!' WHERE id % 7 = {round}; DELETE FROM t WHERE id % 11 = {round}; \
             UPDATE t SET id = -id WHERE id % 13 = {round}",
            1000 + round * 100_000
        ));
        server.kill9();
        s.source.execute(&format!("INSERT INTO t VALUES ({}, 'while it was gone')", -1_000_000 - round));
        trucker.until_said("nothing answers at http://127.0.0.1:");
        server.start_again();
        trucker.until("the output is the same again", || is_same(&s, &out));
    }
    trucker.terminate();
}

#[test]
fn too_many_parts_are_waited_out() {
    let out = clickhouse_server().database();
    let s = copy(&out, "SETTINGS parts_to_throw_insert = 2");
    let mut trucker = s.run();
    trucker.until("the backfill", || is_same(&s, &out));
    out.execute("SYSTEM STOP MERGES t");
    let mut number = 1000;
    trucker.until("being refused", || {
        number += 1;
        s.source.execute(&format!("INSERT INTO t VALUES ({number}, 'x')"));
        out.value(
            "SELECT count() FROM system.parts WHERE database = currentDatabase() AND table = 't' AND active",
        ) != "1"
    });
    s.source.execute("UPDATE t SET v = 'late'");
    trucker.until_said("TOO_MANY_PARTS");
    out.execute("SYSTEM START MERGES t;\nALTER TABLE t MODIFY SETTING parts_to_throw_insert = 3000");
    trucker.until("the output is the same again", || is_same(&s, &out));
    trucker.terminate();
}

#[test]
fn a_user_that_may_only_read_is_told_what_it_needs() {
    let server = ClickHouseServer::start(&["reader:pw:readonly"]);
    let out = server.database();
    let s = copy(&out, "");
    let own = "user: trucker";
    let yml = s.project_file();
    let pass = yml.lines().rfind(|line| line.contains("pass: ")).unwrap().trim();
    s.file("trucker.yml", &yml.replace(pass, "pass: pw").replace(own, "user: reader"));
    let finished = s.run_once();
    assert_ne!(finished.code, Some(0));
    let said = finished.text();
    assert!(said.contains("readonly") && said.contains("164"), "{said}");
    assert_eq!(s.source.number("SELECT count(*) FROM pg_publication"), 0);
}

#[test]
fn rows_travel_through_tls_with_any_password() {
    let server = ClickHouseServer::start(&[]);
    let front = TlsFront::before(server.port(), &["localhost"]);
    let out = server.database();
    let s = copy(&out, "");
    let yml = s.project_file();
    let start = yml.find("  - name: output").unwrap();
    let encrypted = yml[start..].replace("host: 127.0.0.1", "host: localhost").replace(
        &format!("port: {}", server.port()),
        &format!("port: {}\n    ssl_root_cert: root.pem", front.port),
    );
    s.file("root.pem", &front.root);
    s.file("trucker.yml", &format!("{}{encrypted}", &yml[..start]));
    s.once();
    assert!(is_same(&s, &out));
    s.source.execute("UPDATE t SET v = 'again'");
    s.once();
    assert!(is_same(&s, &out));
    let pass = encrypted.lines().rfind(|line| line.contains("pass: ")).unwrap();
    s.file("trucker.yml", &format!("{}{}", &yml[..start], encrypted.replace(pass, "    pass: hunter2")));
    let said = s.once_fails(4);
    assert!(said.contains("Are `user` and `pass` right?") && !said.contains("hunter2"), "{said}");
}

#[test]
fn rights_that_are_missing_are_told_with_the_grants_before_anything_is_created() {
    let own = "SELECT, INSERT, ALTER DELETE ON limited.";
    let kept = format!(
        "GRANT {own}trucker_checkpoint;GRANT {own}trucker_dead_letters;GRANT CREATE TABLE ON limited.*;GRANT TABLE ENGINE ON ReplacingMergeTree"
    );
    let server = ClickHouseServer::start(&[
        "nobody:pw::GRANT SELECT ON limited.t",
        &format!("stranger:pw::{kept}"),
        &format!("reader:pw::{kept};GRANT SELECT ON limited.t"),
        &format!("enough:pw::{kept};GRANT SELECT, INSERT ON limited.t"),
    ]);
    let mut out = server.database();
    out.execute("CREATE DATABASE limited");
    "limited".clone_into(&mut out.name);
    let s = copy(&out, "");
    let yml = s.project_file();
    let pass = yml.lines().rfind(|line| line.contains("pass: ")).unwrap().trim();
    for (user, grants) in [
        (
            "nobody",
            &[
                "GRANT CREATE TABLE ON `limited`.* TO `nobody`",
                "GRANT TABLE ENGINE ON ReplacingMergeTree TO `nobody`",
                "GRANT SELECT, INSERT, ALTER DELETE ON `limited`.trucker_checkpoint TO `nobody`",
                "GRANT SELECT, INSERT, ALTER DELETE ON `limited`.trucker_dead_letters TO `nobody`",
            ][..],
        ),
        ("stranger", &["GRANT SELECT, INSERT ON `limited`.`t` TO `stranger`"]),
        ("reader", &["GRANT INSERT ON `limited`.`t` TO `reader`"]),
    ] {
        s.file(
            "trucker.yml",
            &yml.replace(pass, "pass: pw").replace("user: trucker", &format!("user: {user}")),
        );
        let said = s.once_fails(4);
        grants.iter().for_each(|grant| assert!(said.contains(grant), "{grant} is not in: {said}"));
        assert_eq!(s.source.number("SELECT count(*) FROM pg_publication"), 0);
    }
    s.file("trucker.yml", &yml.replace(pass, "pass: pw").replace("user: trucker", "user: enough"));
    s.once();
    assert!(is_same(&s, &out));
}
