//! The user's SQL: written as for one change, run over batches, on the source.

use trucker::sandbox::ServerOptions;

use super::harness::{Scenario, config};

/// The example of the documentation: a join, and a delete.sql since a delete carries only the key.
fn orders_flat() -> Scenario {
    Scenario::new()
        .on_source(
            "CREATE TABLE countries (id int PRIMARY KEY, name text);
             INSERT INTO countries VALUES (1, 'Norway'), (2, 'Chile');
             CREATE TABLE orders (id int PRIMARY KEY, total numeric(10,2), country_id int)",
        )
        .on_output("CREATE TABLE orders_flat (order_id int PRIMARY KEY, total_cents bigint, country text)")
        .pipeline(
            "orders_flat",
            &config("public.orders", "public.orders_flat", &["key: [order_id]"]),
            &[
                (
                    "transform.sql",
                    "SELECT {{ row.id }} AS order_id, ({{ row.total }} * 100)::bigint AS total_cents, c.name AS country\n\
                     FROM countries c\nWHERE c.id = {{ row.country_id }}\n",
                ),
                ("delete.sql", "SELECT {{ old.id }} AS order_id"),
            ],
        )
}

const ORDERS_FLAT: &str =
    "SELECT o.id, (o.total * 100)::bigint, c.name FROM orders o JOIN countries c ON c.id = o.country_id";

#[test]
fn a_join_with_a_delete_file_converges() {
    let s = orders_flat();
    s.source.execute("INSERT INTO orders SELECT i, i * 1.25, i % 3 FROM generate_series(1, 500) i");
    let mut trucker = s.run();
    s.until_same(&mut trucker, ORDERS_FLAT, "SELECT * FROM orders_flat");
    s.source.execute("INSERT INTO orders SELECT i, 9.99, 1 + i % 2 FROM generate_series(501, 600) i");
    s.source.execute("UPDATE orders SET total = total + 1 WHERE id % 5 = 0");
    s.source.execute("DELETE FROM orders WHERE id % 7 = 0");
    s.until_same(&mut trucker, ORDERS_FLAT, "SELECT * FROM orders_flat");
    s.source.execute("UPDATE orders SET country_id = 99 WHERE id % 11 = 0");
    s.source.execute("UPDATE orders SET country_id = 1 WHERE id % 11 <> 0 AND country_id = 0");
    s.source.execute("UPDATE orders SET id = id + 10000 WHERE id % 13 = 0");
    s.until_same(&mut trucker, ORDERS_FLAT, "SELECT * FROM orders_flat");
    s.source.execute("TRUNCATE orders");
    s.until_same(&mut trucker, ORDERS_FLAT, "SELECT * FROM orders_flat");
}

#[test]
fn each_operation_has_its_file_and_transformed_is_what_transform_returned() {
    let s = Scenario::new()
        .on_source("CREATE TABLE t (id int PRIMARY KEY, v int)")
        .on_output("CREATE TABLE log (id int, what text, v int, made serial)")
        .pipeline(
            "log",
            &config("t", "log", &["on: {insert: insert, update: insert, delete: insert, truncate: ignore}"]),
            &[
                (
                    "transform.sql",
                    "SELECT {{ row.id }} AS id, n AS v FROM generate_series(1, {{ row.v }}) AS n",
                ),
                (
                    "insert.sql",
                    "SELECT transformed.id, {{ operation }} AS what, {{ transformed.v }} * 10 AS v",
                ),
                ("update.sql", "SELECT new.id, 'once' AS what, new.v"),
                ("delete.sql", "SELECT {{ old.id }} AS id, {{ operation }} AS what, NULL::int AS v"),
            ],
        );
    s.source.execute("INSERT INTO t VALUES (1, 2)");
    s.once();
    s.source.execute("INSERT INTO t VALUES (2, 3), (3, 0)");
    s.source.execute("UPDATE t SET v = v + 1 WHERE id = 2");
    s.source.execute("DELETE FROM t WHERE id = 1");
    s.once();
    assert_eq!(
        s.output
            .value("SELECT string_agg(id || what || coalesce(v::text, '-'), ' ' ORDER BY made, v) FROM log"),
        "1insert10 1insert20 2insert10 2insert20 2insert30 2once4 1delete-"
    );
}

#[test]
fn a_change_may_yield_no_row_one_row_or_many() {
    let s = Scenario::new()
        .on_source("CREATE TABLE t (id int PRIMARY KEY, tags text[])")
        .on_output("CREATE TABLE tags (id int, nr int, tag text, PRIMARY KEY (id, nr))")
        .pipeline(
            "tags",
            &config("t", "tags", &["key: [id, nr]", "replace: [id]"]),
            &[("transform.sql", "SELECT {{ row.id }} AS id, u.nr, u.tag FROM unnest({{ row.tags }}) WITH ORDINALITY u(tag, nr)")],
        );
    let expected = "SELECT id, nr, tag FROM t, unnest(tags) WITH ORDINALITY u(tag, nr)";
    s.source.execute("INSERT INTO t VALUES (1, '{}'), (2, '{a}'), (3, '{a,NULL,c}'), (4, NULL)");
    s.once();
    s.assert_same(expected, "SELECT * FROM tags");
    s.source.execute("INSERT INTO t VALUES (5, '{x,y}')");
    s.source.execute("UPDATE t SET tags = '{z}' WHERE id IN (1, 3)");
    s.source.execute("UPDATE t SET tags = NULL WHERE id = 2");
    s.source.execute("DELETE FROM t WHERE id = 5");
    s.once();
    s.assert_same(expected, "SELECT * FROM tags");
}

#[test]
fn aggregates_order_by_and_limit_are_per_change() {
    let s = Scenario::new()
        .on_source(
            "CREATE TABLE t (id int PRIMARY KEY);
             CREATE TABLE points (t_id int, n int);
             INSERT INTO points SELECT i % 5, i FROM generate_series(1, 50) i",
        )
        .on_output("CREATE TABLE best (id int PRIMARY KEY, total bigint, top int)")
        .pipeline(
            "best",
            &config("t", "best", &[]),
            &[(
                "transform.sql",
                "WITH mine AS (SELECT n FROM points WHERE t_id = {{ row.id }})\n\
                 SELECT {{ row.id }} AS id, (SELECT sum(n) FROM mine) AS total, n AS top\n\
                 FROM mine ORDER BY n DESC LIMIT 1 -- the best",
            )],
        );
    let expected = "SELECT t.id, sum(n), max(n) FROM t JOIN points ON t_id = t.id GROUP BY t.id";
    s.source.execute("INSERT INTO t SELECT generate_series(0, 3)");
    s.once();
    s.assert_same(expected, "SELECT * FROM best");
    s.source.execute("INSERT INTO t VALUES (4), (5), (6)");
    s.once();
    s.assert_same(expected, "SELECT * FROM best");
}

#[test]
fn comments_and_semicolons_at_the_end_do_no_harm() {
    for end in ["", ";", " ; \n", " -- the end", "; -- the end\n", " /* a ; b */ ;\n-- x", "\n;;\n"] {
        let s = Scenario::new().tables("CREATE TABLE t (id int PRIMARY KEY, v text)").pipeline(
            "t",
            &config("t", "t", &[]),
            &[("transform.sql", &format!("-- ; first\nSELECT {{{{ row.id }}}} AS id, ';--' AS v{end}"))],
        );
        s.source.execute("INSERT INTO t VALUES (1)");
        s.once();
        s.source.execute("INSERT INTO t VALUES (2)");
        s.once();
        s.assert_same("SELECT id, ';--' FROM t", "SELECT * FROM t");
    }
}

#[test]
fn data_that_looks_like_sql_or_a_template_stays_data() {
    let s = Scenario::new().tables("CREATE TABLE t (id text PRIMARY KEY, v text)").pipeline(
        "t",
        &config("t", "t", &[]),
        &[(
            "transform.sql",
            "SELECT {{ row.id }} AS id, {{ row.v }} || '' AS v WHERE {{ row.v }} IS NOT NULL",
        )],
    );
    let hostile = [
        "'; DROP TABLE t; --",
        "{{ row.id }}",
        "{% raw %}",
        "$1",
        "\\",
        "\\\\N",
        "\\N",
        "NULL",
        "{a,b}",
        "\"x\"",
        "a\tb\r\nc",
        "",
        " ",
        "é🙂\u{202e}",
        "(,)",
    ];
    let insert = |from: usize| {
        for (i, value) in hostile.iter().enumerate() {
            let quoted = value.replace('\'', "''");
            s.source.execute(&format!("INSERT INTO t VALUES ('{from}{i}{quoted}', '{quoted}')"));
        }
    };
    insert(1);
    s.once();
    s.assert_table_same("t");
    insert(2);
    s.source.execute("UPDATE t SET v = v || id WHERE id LIKE '1%'; DELETE FROM t WHERE id LIKE '_3%'");
    s.source.execute("UPDATE t SET id = id || '''' WHERE id LIKE '_1%'");
    s.once();
    s.assert_table_same("t");
}

#[test]
fn what_templates_print_is_a_literal_a_column_or_a_relation() {
    let s = Scenario::new()
        .variable("REGION", "it's; -- \\")
        .on_source(r#"CREATE TABLE "T x" (id int PRIMARY KEY, "Odd ""Name" text, plain text)"#)
        .on_output("CREATE TABLE o (id int PRIMARY KEY, region text, odd text, plain text, n int, here bigint, who text)")
        .pipeline(
            "odd",
            &config(r#"'public."T x"'"#, "o", &[]),
            &[(
                "transform.sql",
                r#"{# a remark #}SELECT {{ row.id }} AS id, {{ env("REGION") }} AS region, {{ row['Odd "Name'] }} AS odd,
                   row.plain, {{ 40 + 2 }} AS n, {{ pipeline }} AS who,
                   {% if operation == "delete" %}NULL::bigint{% else %}(SELECT count(*) FROM {{ table }}){% endif %}
                   AS {{ "here" | ident }}"#,
            )],
        );
    s.source.execute(r#"INSERT INTO "T x" VALUES (1, 'a', 'p')"#);
    s.once();
    s.source.execute(r#"INSERT INTO "T x" VALUES (2, 'b', 'q')"#);
    s.once();
    s.assert_same(
        r#"SELECT id, 'it''s; -- \', "Odd ""Name", plain, 42, CASE id WHEN 1 THEN 1 ELSE 2 END, 'odd' FROM "T x""#,
        "SELECT id, region, odd, plain, n, here, who FROM o",
    );
    s.source.execute(r#"DELETE FROM "T x" WHERE id = 1"#);
    s.once();
    assert_eq!(s.output.value("SELECT string_agg(id::text, ',') FROM o"), "2");
}

#[test]
fn the_sql_cannot_write_to_the_source() {
    let s = Scenario::new()
        .tables("CREATE TABLE t (id int PRIMARY KEY)")
        .on_source(
            "CREATE SEQUENCE counter; CREATE FUNCTION touch() RETURNS int LANGUAGE plpgsql AS \
                    $$BEGIN INSERT INTO t VALUES (99); RETURN 1; END$$",
        )
        .pipeline(
            "t",
            &config("t", "t", &[]),
            &[("transform.sql", "SELECT {{ row.id }} AS id WHERE touch() = 1")],
        );
    s.source.execute("INSERT INTO t VALUES (1)");
    let text = s.once_fails(1);
    assert!(text.contains("read-only transaction"), "{text}");
    assert_eq!(s.source.number("SELECT count(*) FROM t"), 1);
}

#[test]
fn old_and_new_of_an_update_are_both_in_scope_under_full() {
    let s = Scenario::new()
        .on_source("CREATE TABLE t (id int PRIMARY KEY, v int); ALTER TABLE t REPLICA IDENTITY FULL")
        .on_output("CREATE TABLE steps (id int, step int, what text)")
        .pipeline(
            "steps",
            &config("t", "steps", &["on: {insert: insert, update: insert, delete: insert, truncate: ignore}"]),
            &[(
                "transform.sql",
                "SELECT {{ row.id }} AS id, {{ operation }} AS what, coalesce({{ new.v }}, 0) - coalesce({{ old.v }}, 0) AS step",
            )],
        );
    s.source.execute("INSERT INTO t VALUES (1, 10)");
    s.once();
    s.source.execute("INSERT INTO t VALUES (2, 5)");
    s.source.execute("UPDATE t SET v = v * 3");
    s.source.execute("DELETE FROM t WHERE id = 2");
    s.once();
    assert_eq!(
        s.output.value("SELECT string_agg(id || what || step, ' ' ORDER BY id, what, step) FROM steps"),
        "1insert10 1update20 2delete-15 2insert5 2update10"
    );
}

#[test]
fn key_columns_of_old_are_filled_where_an_update_left_the_key_alone() {
    let s = Scenario::new()
        .on_source("CREATE TABLE t (id int PRIMARY KEY, v int)")
        .on_output("CREATE TABLE moves (before int, after int)")
        .pipeline(
            "moves",
            &config(
                "t",
                "moves",
                &["on: {insert: ignore, update: insert, delete: ignore, truncate: ignore}"],
            ),
            &[("transform.sql", "SELECT {{ old.id }} AS before, {{ new.id }} AS after")],
        );
    s.source.execute("INSERT INTO t VALUES (1, 0)");
    s.once();
    s.source.execute("UPDATE t SET v = 1; UPDATE t SET id = 2");
    s.once();
    assert_eq!(
        s.output.value("SELECT string_agg(before || '>' || after, ' ' ORDER BY after) FROM moves"),
        "1>1 1>2"
    );
}

#[test]
fn joined_columns_follow_through_a_second_pipeline_on_the_joined_table() {
    let s = Scenario::new()
        .on_source(
            "CREATE TABLE countries (id int PRIMARY KEY, name text); CREATE TABLE orders (id int PRIMARY KEY, country_id int)",
        )
        .on_output("CREATE TABLE orders_flat (order_id int PRIMARY KEY, country text)")
        .pipeline(
            "orders_flat",
            &config("orders", "orders_flat", &["on: {truncate: truncate}"]),
            &[
                (
                    "transform.sql",
                    "SELECT {{ row.id }} AS order_id, (SELECT name FROM countries WHERE id = {{ row.country_id }}) AS country",
                ),
                ("delete.sql", "SELECT {{ old.id }} AS order_id"),
            ],
        )
        .pipeline(
            "country_names",
            &config(
                "countries",
                "orders_flat",
                &["key: [order_id]", "on: {insert: ignore, update: update, delete: ignore, truncate: ignore}"],
            ),
            &[(
                "transform.sql",
                "SELECT o.id AS order_id, {{ row.name }} AS country FROM orders o WHERE o.country_id = {{ row.id }}",
            )],
        );
    s.source.execute(
        "INSERT INTO countries VALUES (1, 'Norway'), (2, 'Chile'); INSERT INTO orders VALUES (1, 1), (2, 2)",
    );
    s.once();
    let joined = "SELECT o.id, c.name FROM orders o JOIN countries c ON c.id = o.country_id";
    s.source.execute("UPDATE countries SET name = name || '!'; INSERT INTO orders VALUES (3, 2); UPDATE orders SET country_id = 1 WHERE id = 2");
    s.once();
    s.assert_same(joined, "SELECT * FROM orders_flat");
}

#[test]
fn sql_that_runs_long_costs_neither_the_stream_nor_a_change() {
    let source = super::harness::private_server(ServerOptions::default().set("wal_sender_timeout", "2s"));
    let s = Scenario::between(source.port(), super::harness::output_server().port())
        .tables("CREATE TABLE t (id int PRIMARY KEY, v text)")
        .on_source("ALTER DATABASE postgres SET statement_timeout = '1s'; ALTER ROLE postgres SET statement_timeout = '1s'")
        .pipeline(
            "t",
            &config("t", "t", &[]),
            &[
                ("transform.sql", "SELECT row.id, row.v FROM pg_sleep(CASE WHEN row.v = 'slow' THEN 6 ELSE 0 END)"),
                ("delete.sql", "SELECT {{ old.id }} AS id"),
            ],
        );
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    let streaming = "SELECT active_pid FROM pg_replication_slots";
    trucker.until("streaming", || !s.source.value(streaming).is_empty());
    let pid = s.source.value(streaming);
    s.source.execute("INSERT INTO t VALUES (1, 'slow')");
    for id in 2..50 {
        s.source.execute(&format!("INSERT INTO t VALUES ({id}, 'fast')"));
    }
    s.until_table_same(&mut trucker, "t");
    assert_eq!(s.source.value(streaming), pid, "the server gave the stream up");
}
