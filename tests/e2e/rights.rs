//! Roles that may not see everything: what a query would silently leave out is refused before anything is created, and
//! what is taken away later fails instead of shrinking.

use super::harness::{Scenario, config};

/// A source whose role is no superuser: it may stream, read `t` and `joined`, and use a publication that is there.
struct Limited {
    s: Scenario,
    role: String,
}

impl Limited {
    fn new() -> Self {
        let s = Scenario::new()
            .tables("CREATE TABLE t (id int PRIMARY KEY, v int)")
            .on_source(
                "CREATE TABLE joined (id int PRIMARY KEY, name text); INSERT INTO joined VALUES (1, 'one')",
            )
            .copies("t");
        let role = format!("{}_role", s.name);
        s.source.execute(&format!(
            "CREATE ROLE {role} LOGIN REPLICATION; GRANT USAGE ON SCHEMA public TO {role};
             GRANT SELECT ON t, joined TO {role};
             CREATE PUBLICATION {} FOR TABLE ONLY t WITH (publish_via_partition_root = true)",
            s.slot()
        ));
        let path = s.dir().join("trucker.yml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, text.replacen("user: postgres", &format!("user: {role}"), 1)).unwrap();
        s.source.execute("INSERT INTO t VALUES (1, 1), (2, 2)");
        Limited { s, role }
    }

    fn refused(&self, words: &[&str]) {
        let said = self.s.run_once();
        let text = said.text();
        assert!(matches!(said.code, Some(3 | 4)), "{text}");
        for word in words {
            assert!(text.contains(word), "no word on {word}: {text}");
        }
        let slots =
            format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{}'", self.s.slot());
        assert_eq!(self.s.source.number(&slots), 0);
        assert_eq!(self.s.output.number("SELECT count(*) FROM t"), 0);
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        let role = &self.role;
        let _ = self.s.source.try_rows(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'"
        ));
        let _ = self.s.source.try_rows(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
    }
}

const HIDE: &str = "CREATE POLICY even ON {} USING (id % 2 = 0); ALTER TABLE {} ENABLE ROW LEVEL SECURITY";

#[test]
fn a_table_whose_rows_are_hidden_from_the_role_is_refused_with_the_cure() {
    let world = Limited::new();
    world.s.source.execute(&HIDE.replace("{}", "t"));
    world.refused(&["row-level security", "public.t", "BYPASSRLS"]);
    world.s.source.execute(&format!("ALTER ROLE {} BYPASSRLS", world.role));
    world.s.once();
    world.s.assert_table_same("t");
}

#[test]
fn a_joined_table_whose_rows_are_hidden_or_not_readable_is_refused_with_file_and_line() {
    let sql = "SELECT row.id, j.id AS v\nFROM joined j WHERE j.id = row.id";
    for (hide, words) in [
        (HIDE.replace("{}", "joined"), ["transform.sql", "row-level security", "42501"]),
        ("REVOKE SELECT ON joined FROM {role}".to_owned(), ["transform.sql", "joined", "42501"]),
    ] {
        let world = Limited::new();
        world.s.write_pipeline(
            "t",
            &config("t", "t", &[]),
            &[("transform.sql", sql), ("delete.sql", "SELECT {{ old.id }} AS id")],
        );
        world.s.source.execute(&hide.replace("{role}", &world.role));
        world.refused(&words);
    }
}

#[test]
fn columns_that_the_role_may_not_read_are_refused_with_the_grant() {
    let world = Limited::new();
    world
        .s
        .source
        .execute(&format!("REVOKE SELECT ON t FROM {0}; GRANT SELECT (id) ON t TO {0}", world.role));
    world.refused(&["lacks SELECT on public.t", "GRANT SELECT ON public.t"]);
}

#[test]
fn rows_hidden_while_a_pipeline_follows_still_arrive_and_its_next_backfill_is_refused() {
    let world = Limited::new();
    let s = &world.s;
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    s.source.execute(&HIDE.replace("{}", "t"));
    s.source.execute("INSERT INTO t VALUES (3, 3), (4, 4)");
    s.until_table_same(&mut trucker, "t");
    trucker.terminate();
    let said = s.once_fails(4);
    assert!(said.contains("row-level security"), "{said}");
    s.source.execute("ALTER TABLE t DISABLE ROW LEVEL SECURITY; INSERT INTO t VALUES (5, 5)");
    s.once();
    s.assert_table_same("t");
}

#[test]
fn rows_hidden_during_a_backfill_wait_for_its_end() {
    let world = Limited::new();
    let s = &world.s;
    let blocker = s.output.session();
    blocker.execute("BEGIN; LOCK TABLE t IN SHARE MODE");
    let mut trucker = s.run();
    let reads = format!(
        "SELECT EXISTS (SELECT FROM pg_stat_activity a JOIN pg_locks l USING (pid)
         WHERE a.usename = '{}' AND l.relation = 't'::regclass AND l.granted AND a.backend_xmin IS NOT NULL)",
        world.role
    );
    let waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 't'::regclass AND NOT granted)";
    trucker.until("the backfill reading", || s.output.is(waits) && s.source.is(&reads));
    let hiding = s.source.session().send(&HIDE.replace("{}", "t"));
    trucker.until("hiding waits", || s.source.is(waits));
    blocker.execute("COMMIT");
    hiding.join().unwrap().unwrap();
    s.until_following(&mut trucker, 1);
    s.assert_table_same("t");
}
