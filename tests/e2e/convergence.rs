//! Convergence: whenever a pipeline with the default write has caught up, its output equals its SQL run over
//! the input table now.

use super::harness::{Random, Scenario, config, is_soak};

const T: &str = "CREATE TABLE t (id int PRIMARY KEY, v int)";

fn copy_of_t() -> Scenario {
    Scenario::new().tables(T).copies("t")
}

#[test]
fn a_key_change_removes_the_row_under_the_old_key() {
    let s = copy_of_t();
    s.source.execute("INSERT INTO t SELECT i, i FROM generate_series(1, 20) i");
    s.once();
    s.source.execute("UPDATE t SET id = id + 100 WHERE id <= 10");
    s.source.execute("UPDATE t SET id = -id, v = v + 1 WHERE id > 15");
    s.once();
    s.assert_table_same("t");
}

#[test]
fn two_rows_that_swap_keys_in_one_transaction_swap_in_the_output() {
    let s = copy_of_t();
    s.source.execute("INSERT INTO t VALUES (1, 10), (2, 20), (3, 30)");
    s.once();
    s.source.execute(
        "BEGIN; UPDATE t SET id = -1 WHERE id = 1; UPDATE t SET id = 1 WHERE id = 2; UPDATE t SET id = 2 WHERE id = -1; COMMIT",
    );
    s.once();
    s.assert_table_same("t");
}

#[test]
fn keys_that_move_along_a_chain_in_one_statement_arrive() {
    let s =
        Scenario::new().tables("CREATE TABLE t (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v int)");
    // A deferrable key is no replica identity, and no target for upserts.
    s.source.execute("ALTER TABLE t DROP CONSTRAINT t_pkey, REPLICA IDENTITY FULL");
    s.output.execute("ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id)");
    let s = s.copies("t");
    s.source.execute("INSERT INTO t SELECT i, i FROM generate_series(1, 50) i");
    s.once();
    s.source.execute("UPDATE t SET id = id + 1");
    s.once();
    s.assert_table_same("t");
    s.source.execute("UPDATE t SET id = 100 - id");
    s.once();
    s.assert_table_same("t");
}

#[test]
fn many_changes_of_one_row_in_one_transaction_end_as_the_last() {
    let s = copy_of_t();
    s.source.execute("INSERT INTO t VALUES (1, 1)");
    s.once();
    s.source.execute(
        "BEGIN; UPDATE t SET v = 2; DELETE FROM t; INSERT INTO t VALUES (1, 3); UPDATE t SET id = 2;
         INSERT INTO t VALUES (1, 4); DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (2, 5);
         INSERT INTO t VALUES (3, 6); DELETE FROM t WHERE id = 3; SAVEPOINT a; DELETE FROM t; ROLLBACK TO a; COMMIT",
    );
    s.once();
    s.assert_table_same("t");
}

fn filtered() -> Scenario {
    Scenario::new().tables(T).pipeline(
        "t",
        &config("t", "t", &[]),
        &[("transform.sql", "SELECT {{ row.id }} AS id, {{ row.v }} AS v WHERE {{ row.v }} > 0")],
    )
}

const POSITIVE: &str = "SELECT * FROM t WHERE v > 0";

#[test]
fn a_row_that_the_sql_no_longer_returns_is_removed_and_one_it_returns_again_comes_back() {
    let s = filtered();
    s.source.execute("INSERT INTO t SELECT i, i % 3 - 1 FROM generate_series(1, 30) i");
    s.once();
    s.assert_same(POSITIVE, "SELECT * FROM t");
    s.source.execute("UPDATE t SET v = -v");
    s.once();
    s.assert_same(POSITIVE, "SELECT * FROM t");
    s.source.execute("BEGIN; UPDATE t SET v = -v; UPDATE t SET v = NULL WHERE id = 3; COMMIT");
    s.once();
    s.assert_same(POSITIVE, "SELECT * FROM t");
}

#[test]
fn a_key_change_into_and_out_of_the_filter_leaves_no_row_behind() {
    let s = filtered();
    s.source.execute("INSERT INTO t VALUES (1, 1), (2, 1), (3, -1), (4, -1)");
    s.once();
    s.source.execute("UPDATE t SET id = id + 10, v = -v");
    s.once();
    s.assert_same(POSITIVE, "SELECT * FROM t");
    s.source.execute("DELETE FROM t WHERE id > 12; UPDATE t SET id = id + 10, v = 5");
    s.once();
    s.assert_same(POSITIVE, "SELECT * FROM t");
}

#[test]
fn rows_that_the_output_held_before_are_overwritten_by_key() {
    let s = copy_of_t();
    s.output.execute("INSERT INTO t VALUES (1, -1), (2, -2)");
    s.source.execute("INSERT INTO t VALUES (1, 1), (2, 2), (3, 3)");
    s.once();
    s.assert_table_same("t");
}

fn order_lines() -> Scenario {
    Scenario::new()
        .on_source("CREATE TABLE orders (id int PRIMARY KEY, lines jsonb)")
        .on_output(
            "CREATE TABLE lines (order_id int, line_no int, sku text, PRIMARY KEY (order_id, line_no))",
        )
        .pipeline(
            "lines",
            &config("orders", "lines", &["key: [order_id, line_no]", "replace: [order_id]"]),
            &[
                (
                    "transform.sql",
                    "SELECT {{ row.id }} AS order_id, l.nr AS line_no, l.sku #>> '{}' AS sku\n\
                     FROM jsonb_array_elements({{ row.lines }}) WITH ORDINALITY l(sku, nr)",
                ),
                ("delete.sql", "SELECT {{ old.id }} AS order_id"),
            ],
        )
}

const LINES: &str =
    "SELECT id, nr, sku #>> '{}' FROM orders, jsonb_array_elements(lines) WITH ORDINALITY l(sku, nr)";

#[test]
fn output_rows_of_one_input_row_are_replaced_as_a_whole() {
    let s = order_lines();
    s.source.execute(
        r#"INSERT INTO orders VALUES (1, '["a","b","c"]'), (2, '["d"]'), (3, '[]'), (4, '["x","y"]')"#,
    );
    s.once();
    s.assert_same(LINES, "SELECT * FROM lines");
    s.source.execute(
        r#"UPDATE orders SET lines = '["a"]' WHERE id = 1; UPDATE orders SET lines = '["d","e","f"]' WHERE id = 2;
           UPDATE orders SET lines = '["g"]' WHERE id = 3; DELETE FROM orders WHERE id = 4"#,
    );
    s.once();
    s.assert_same(LINES, "SELECT * FROM lines");
    s.source.execute(
        r#"BEGIN; UPDATE orders SET lines = '[]' WHERE id = 2; UPDATE orders SET id = id + 10; COMMIT"#,
    );
    s.source
        .execute(r#"INSERT INTO orders VALUES (1, '["again"]'); UPDATE orders SET id = 30 WHERE id = 13"#);
    s.once();
    s.assert_same(LINES, "SELECT * FROM lines");
    s.source.execute("TRUNCATE orders");
    s.once();
    s.assert_same(LINES, "SELECT * FROM lines");
}

#[test]
fn a_key_that_the_sql_computes_is_removed_through_delete_sql() {
    let s = Scenario::new()
        .on_source("CREATE TABLE t (id int PRIMARY KEY, v int)")
        .on_output("CREATE TABLE o (code text PRIMARY KEY, v int)")
        .pipeline(
            "o",
            &config("t", "o", &["key: [code]"]),
            &[
                (
                    "transform.sql",
                    "SELECT 'T-' || {{ row.id }} AS code, {{ row.v }} AS v WHERE {{ row.v }} > 0",
                ),
                ("delete.sql", "SELECT 'T-' || {{ old.id }} AS code"),
            ],
        );
    let expected = "SELECT 'T-' || id, v FROM t WHERE v > 0";
    s.source.execute("INSERT INTO t SELECT i, 1 FROM generate_series(1, 9) i");
    s.once();
    s.source.execute(
        "UPDATE t SET v = 0 WHERE id = 1; UPDATE t SET id = 20 WHERE id = 2; DELETE FROM t WHERE id = 3",
    );
    s.source.execute("UPDATE t SET id = 40, v = 0 WHERE id = 4");
    s.once();
    s.assert_same(expected, "SELECT * FROM o");
}

#[test]
fn a_key_that_transform_sql_computes_from_sent_columns_needs_no_delete_sql() {
    let s = Scenario::new()
        .on_source("CREATE TABLE t (id int PRIMARY KEY, v int)")
        .on_output("CREATE TABLE o (code text PRIMARY KEY, v int)")
        .pipeline(
            "o",
            &config("t", "o", &["key: [code]"]),
            &[("transform.sql", "SELECT 'T-' || {{ row.id }} AS code, {{ row.v }} AS v")],
        );
    s.source.execute("INSERT INTO t SELECT i, 1 FROM generate_series(1, 9) i");
    s.once();
    s.source.execute(
        "UPDATE t SET id = 20 WHERE id = 2; DELETE FROM t WHERE id = 3; UPDATE t SET v = 2 WHERE id = 4",
    );
    s.once();
    s.assert_same("SELECT 'T-' || id, v FROM t", "SELECT * FROM o");
}

#[test]
fn lines_that_move_between_very_many_groups_keep_what_only_the_output_knows() {
    let s = Scenario::new()
        .on_source("CREATE TABLE g (id int PRIMARY KEY, lines int[])")
        .on_output("CREATE TABLE lines (line int PRIMARY KEY, g_id int, what text DEFAULT 'new')")
        .pipeline(
            "lines",
            &config("g", "lines", &["key: [line]", "replace: [g_id]"]),
            &[
                ("transform.sql", "SELECT l AS line, {{ row.id }} AS g_id FROM unnest({{ row.lines }}) AS l"),
                ("delete.sql", "SELECT {{ old.id }} AS g_id"),
            ],
        );
    // More groups than one statement is given, and the lines move that far.
    s.source.execute(
        "INSERT INTO g SELECT i, CASE WHEN i > 11000 THEN ARRAY[i, 100000 + i] ELSE ARRAY[i] END FROM generate_series(1, 30000) i",
    );
    s.once();
    s.output.execute("UPDATE lines SET what = 'mine'");
    s.source
        .execute("UPDATE g SET lines = CASE WHEN id <= 19000 THEN ARRAY[id, 111000 + id] ELSE ARRAY[id] END");
    s.once();
    s.assert_same("SELECT l, id, 'mine' FROM g, unnest(lines) l", "SELECT line, g_id, what FROM lines");
}

#[test]
fn random_changes_of_a_copy_a_filter_and_a_fan_out_converge() {
    let mut random = Random::seeded(7);
    let s = Scenario::new()
        .on_source("CREATE TABLE t (id int PRIMARY KEY, v int)")
        .on_output(
            "CREATE TABLE copy (id int PRIMARY KEY, v int); CREATE TABLE evens (id int PRIMARY KEY, v int);
             CREATE TABLE fan (t_id int, n int, PRIMARY KEY (t_id, n))",
        )
        .pipeline("copy", &config("t", "copy", &[]), &[])
        .pipeline(
            "evens",
            &config("t", "evens", &[]),
            &[("transform.sql", "SELECT {{ row.id }} AS id, {{ row.v }} AS v WHERE {{ row.v }} % 2 = 0")],
        )
        .pipeline(
            "fan",
            &config("t", "fan", &["replace: [t_id]"]),
            &[
                (
                    "transform.sql",
                    "SELECT {{ row.id }} AS t_id, n FROM generate_series(1, {{ row.v }} % 4) n",
                ),
                ("delete.sql", "SELECT {{ old.id }} AS t_id"),
            ],
        );
    let mut trucker = s.run();
    for _ in 0..if is_soak() { 100 } else { 8 } {
        for _ in 0..40 {
            let statements: Vec<String> =
                (0..random.within(1..6)).map(|_| random_statement(&mut random)).collect();
            let end = if random.within(0..8) == 0 { "ROLLBACK" } else { "COMMIT" };
            s.source.execute(&format!("BEGIN; {}; {end}", statements.join("; ")));
        }
        s.until_same(&mut trucker, "SELECT * FROM t", "SELECT * FROM copy");
        s.until_same(&mut trucker, "SELECT * FROM t WHERE v % 2 = 0", "SELECT * FROM evens");
        s.until_same(&mut trucker, "SELECT id, n FROM t, generate_series(1, v % 4) n", "SELECT * FROM fan");
    }
}

fn random_statement(random: &mut Random) -> String {
    let (id, v) = (random.within(1..40), random.within(0..9));
    match random.within(0..20) {
        0..8 => format!("INSERT INTO t VALUES ({id}, {v}) ON CONFLICT (id) DO UPDATE SET v = excluded.v"),
        8..12 => format!("UPDATE t SET v = {v} WHERE id = {id}"),
        12..15 => format!("DELETE FROM t WHERE id = {id}"),
        15..18 => format!(
            "UPDATE t SET id = {id}, v = v + 1 WHERE id = {} AND NOT EXISTS (SELECT FROM t WHERE id = {id})",
            random.within(1..40)
        ),
        18 => format!("SAVEPOINT s; DELETE FROM t WHERE id < {id}; ROLLBACK TO s"),
        _ if v == 0 => "TRUNCATE t".to_owned(),
        _ => format!("UPDATE t SET v = v + 1 WHERE id % 3 = {}", v % 3),
    }
}
