//! The publication, altered behind our back: while trucker runs it is noticed within moments, while it is away at the
//! next start, and neither a restart nor putting things back makes it forget that changes are missing.

use super::harness::{Scenario, Trucker};

/// Fills `t` with two rows and brings the pipeline up.
fn world() -> Scenario {
    let s = Scenario::new()
        .tables("CREATE TABLE t (id int PRIMARY KEY, v text)")
        .on_source("CREATE TABLE other (id int PRIMARY KEY)")
        .copies("t");
    s.source.execute("INSERT INTO t VALUES (1, 'a'), (2, 'b')");
    s
}

/// What is done to the publication, `{}`; the change made meanwhile is not published.
const GAPS: &[&str] = &[
    "DROP PUBLICATION {}; INSERT INTO t VALUES (3, 'missed'); \
     CREATE PUBLICATION {} FOR TABLE ONLY t WITH (publish_via_partition_root = true)",
    "ALTER PUBLICATION {} SET TABLE other; INSERT INTO t VALUES (3, 'missed'); ALTER PUBLICATION {} SET TABLE t",
    "ALTER PUBLICATION {} DROP TABLE t; INSERT INTO t VALUES (3, 'missed'); ALTER PUBLICATION {} ADD TABLE t",
];

/// What is done to it for good.
const ALTERATIONS: &[&str] = &[
    "DROP PUBLICATION {}",
    "ALTER PUBLICATION {} RENAME TO {}_once",
    "ALTER PUBLICATION {} SET TABLE other",
    "ALTER PUBLICATION {} SET (publish = 'insert, update, truncate')",
    "ALTER PUBLICATION {} SET (publish_via_partition_root = false)",
];

/// The same, where Postgres knows of it.
const NARROWINGS: &[&str] =
    &["ALTER PUBLICATION {} SET TABLE t WHERE (id < 3)", "ALTER PUBLICATION {} SET TABLE t (id)"];

fn alterations(s: &Scenario) -> Vec<String> {
    let narrowings = if s.source.number("SELECT current_setting('server_version_num')::int") < 150_000 {
        &[]
    } else {
        NARROWINGS
    };
    GAPS.iter().chain(ALTERATIONS).chain(narrowings).map(|sql| (*sql).to_owned()).collect()
}

fn alter(s: &Scenario, sql: &str) {
    for statement in sql.replace("{}", &s.slot()).split("; ") {
        s.source.execute(statement);
    }
}

fn count() -> usize {
    alterations(&world()).len()
}

#[test]
fn a_publication_altered_while_trucker_is_away_is_refused_even_if_it_was_put_back() {
    for at in 0..count() {
        let s = world();
        s.once();
        let sql = alterations(&s).swap_remove(at);
        alter(&s, &sql);
        s.source.execute("INSERT INTO t VALUES (4, 'later')");
        let finished = s.run_once();
        assert!(!matches!(finished.code, Some(0) | None), "{sql}: went on silently: {}", finished.text());
        assert!(finished.text().contains("trucker "), "{sql}: no cure: {}", finished.text());
        assert_eq!(s.output.value("SELECT string_agg(id || v, ' ' ORDER BY id) FROM t"), "1a 2b", "{sql}");
    }
}

#[test]
fn a_publication_altered_under_a_running_process_ends_it_and_stays_refused() {
    // All at once: each of them takes as long as it takes to be noticed, and so does the slot that moves on.
    let mut worlds: Vec<(String, Scenario, Trucker)> = Vec::new();
    for at in 0..count() {
        let s = world();
        let mut trucker = s.run();
        s.until_following(&mut trucker, 1);
        worlds.push((alterations(&s).swap_remove(at), s, trucker));
    }
    let lsn = worlds[0].1.source.value("SELECT pg_current_wal_lsn()");
    worlds.iter().for_each(|(_, s, _)| s.source.execute("INSERT INTO other VALUES (1)"));
    for (_, s, trucker) in &mut worlds {
        // The watch over the publication has had its first look once the slot was told of something.
        let slot = s.slot();
        trucker.until("the slot moving on", || {
            s.source.is(&format!(
                "SELECT confirmed_flush_lsn > '{lsn}' FROM pg_replication_slots WHERE slot_name = '{slot}'"
            ))
        });
    }
    worlds.iter().for_each(|(sql, s, _)| alter(s, sql));
    for (sql, s, trucker) in worlds {
        let ended = trucker.end_failed();
        assert_eq!(ended.code, Some(1), "{sql}: {}", ended.stderr);
        assert!(ended.stderr.contains("publication"), "{sql}: {}", ended.stderr);
        let again = s.run_once();
        assert!(!matches!(again.code, Some(0) | None), "{sql}: the restart forgot: {}", again.text());
    }
}

#[test]
fn a_table_that_came_back_into_the_publication_is_right_after_a_new_backfill() {
    let s = world();
    s.once();
    alter(&s, GAPS[2]);
    let said = s.once_fails(4);
    assert!(said.contains("trucker backfill t"), "{said}");
    let dir = s.dir();
    let finished = s.start(&["backfill", "t", "--dir", dir.to_str().unwrap()]).wait();
    assert_eq!(finished.code, Some(0), "{}", finished.text());
    s.once();
    s.assert_table_same("t");
    s.source.execute("UPDATE t SET v = 'after'");
    s.once();
    s.assert_table_same("t");
}

#[test]
fn a_table_added_by_hand_and_the_owner_changed_are_no_reason_to_stop() {
    let s = world();
    s.once();
    alter(&s, "ALTER PUBLICATION {} ADD TABLE other; ALTER PUBLICATION {} OWNER TO CURRENT_USER");
    s.source.execute("INSERT INTO other VALUES (1); INSERT INTO t VALUES (3, 'c')");
    s.once();
    s.assert_table_same("t");
}
