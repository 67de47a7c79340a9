//! The rights that docs/permissions.md says are needed are enough, and each of them is missed with its cure. The SQL is
//! read from the document itself.

use trucker::sandbox::{PostgresServer, ServerOptions};

use super::harness::{Scenario, config, private_output, private_server};

const SOURCE: &str = "source";
const PUBLISHES: &str = "source, trucker publishes";
const OWNER_PUBLISHES: &str = "source, the owner publishes";
const OUTPUT: &str = "output";
const MAKES_SCHEMA: &str = "output, trucker makes its schema";
const SCHEMA_MADE: &str = "output, you make its schema";

/// The statements of the document's block of that name, with this test's databases.
fn documented(s: &Scenario, name: &str) -> Vec<String> {
    let text = include_str!("../../docs/permissions.md");
    let start = text.find(&format!("```sql {name}\n")).unwrap_or_else(|| panic!("no block {name:?}"));
    let block = text[start..].split("```").nth(1).unwrap().split_once('\n').unwrap().1;
    let block = block.replace("DATABASE shop", &format!("DATABASE \"{}\"", s.source.name));
    let block = block.replace("DATABASE warehouse", &format!("DATABASE \"{}\"", s.output.name));
    let block = block.replace("trucker_shop", &s.slot());
    block.split_inclusive(';').map(|sql| sql.trim().to_owned()).filter(|sql| !sql.is_empty()).collect()
}

/// Roles belong to a whole server.
fn servers() -> (PostgresServer, PostgresServer) {
    (private_server(ServerOptions::default()), private_output(ServerOptions::default()))
}

/// The document's tables; and nothing that Postgres gives to everybody.
fn world(servers: &(PostgresServer, PostgresServer)) -> Scenario {
    let s = Scenario::between(servers.0.port(), servers.1.port())
        .on_source(
            "CREATE ROLE shop_owner; CREATE TABLE orders (id int PRIMARY KEY, country int, total int);
             CREATE TABLE countries (id int PRIMARY KEY, name text); INSERT INTO countries VALUES (1, 'Chile');
             ALTER TABLE orders OWNER TO shop_owner; ALTER TABLE countries OWNER TO shop_owner;
             INSERT INTO orders VALUES (1, 1, 10), (2, 1, 20)",
        )
        .on_output("CREATE TABLE orders_flat (id int PRIMARY KEY, total int, country text)")
        .pipeline(
            "orders_flat",
            &config("orders", "orders_flat", &[]),
            &[(
                "transform.sql",
                "SELECT row.id, row.total, c.name AS country FROM countries c WHERE c.id = row.country",
            ), ("delete.sql", "SELECT old.id")],
        );
    for database in [&s.source, &s.output] {
        database.execute(&format!(
            "REVOKE ALL ON DATABASE \"{}\" FROM PUBLIC; REVOKE ALL ON SCHEMA public FROM PUBLIC",
            database.name
        ));
    }
    let path = s.dir().join("trucker.yml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(path, text.replace("user: postgres", "user: trucker")).unwrap();
    s
}

fn give(s: &Scenario, blocks: &[&str]) {
    for block in blocks {
        let database = if block.starts_with(SOURCE) { &s.source } else { &s.output };
        documented(s, block).iter().for_each(|sql| database.execute(sql));
    }
}

fn flows(s: &Scenario) {
    let wanted = "SELECT o.id, o.total, c.name FROM orders o JOIN countries c ON c.id = o.country";
    s.once();
    s.assert_same(wanted, "SELECT * FROM orders_flat");
    s.source.execute(
        "INSERT INTO orders VALUES (3, 1, 30); UPDATE orders SET total = 11 WHERE id = 1; \
         UPDATE orders SET id = 20 WHERE id = 2",
    );
    s.once();
    s.assert_same(wanted, "SELECT * FROM orders_flat");
    s.source.execute("TRUNCATE orders; INSERT INTO orders VALUES (7, 1, 70)");
    s.once();
    s.assert_same(wanted, "SELECT * FROM orders_flat");
    // Into a table that has rows: by way of a temporary one.
    let dir = s.dir();
    let refilled = s.start(&["backfill", "orders_flat", "--dir", dir.to_str().unwrap()]).wait();
    assert_eq!(refilled.code, Some(0), "{}", refilled.text());
    s.once();
    s.assert_same(wanted, "SELECT * FROM orders_flat");
}

#[test]
fn the_documented_rights_are_enough_where_trucker_publishes_and_makes_its_schema() {
    let servers = servers();
    let s = world(&servers);
    give(&s, &[SOURCE, PUBLISHES, OUTPUT, MAKES_SCHEMA]);
    flows(&s);
    s.output.execute(&format!("REVOKE CREATE ON DATABASE \"{}\" FROM trucker", s.output.name));
    s.once();
    let dir = s.dir();
    let finished = s.start(&["teardown", dir.to_str().unwrap(), "--yes"]).wait();
    assert_eq!(finished.code, Some(0), "{}", finished.text());
    s.assert_nothing_created();
}

#[test]
fn the_documented_rights_are_enough_where_others_publish_and_make_its_schema() {
    let servers = servers();
    let s = world(&servers);
    give(&s, &[SOURCE, OWNER_PUBLISHES, OUTPUT, SCHEMA_MADE]);
    flows(&s);
}

#[test]
fn each_right_that_is_missing_is_named_with_its_cure_and_nothing_is_created() {
    let servers = servers();
    let s = world(&servers);
    give(&s, &[SOURCE, PUBLISHES, OUTPUT, MAKES_SCHEMA]);
    let (shop, warehouse) = (&s.source.name, &s.output.name);
    let source = [
        ("ALTER ROLE trucker NOREPLICATION".to_owned(), "ALTER ROLE trucker REPLICATION".to_owned()),
        (
            format!("REVOKE CONNECT ON DATABASE \"{shop}\" FROM trucker"),
            format!("GRANT CONNECT ON DATABASE {shop} TO"),
        ),
        (
            "REVOKE USAGE ON SCHEMA public FROM trucker".into(),
            "GRANT USAGE ON SCHEMA public TO trucker".into(),
        ),
        (
            format!("REVOKE CREATE ON DATABASE \"{shop}\" FROM trucker"),
            format!("GRANT CREATE ON DATABASE {shop} TO trucker"),
        ),
        ("REVOKE shop_owner FROM trucker".into(), "make trucker a member of the owner".into()),
    ];
    let output = [
        (
            format!("REVOKE CONNECT ON DATABASE \"{warehouse}\" FROM trucker"),
            format!("GRANT CONNECT ON DATABASE {warehouse} TO"),
        ),
        (
            "REVOKE USAGE ON SCHEMA public FROM trucker".into(),
            "GRANT USAGE ON SCHEMA public TO trucker".into(),
        ),
        (
            format!("REVOKE CREATE ON DATABASE \"{warehouse}\" FROM trucker"),
            format!("GRANT CREATE ON DATABASE {warehouse} TO trucker"),
        ),
        (
            "REVOKE DELETE ON orders_flat FROM trucker".into(),
            "GRANT DELETE ON public.orders_flat TO trucker".into(),
        ),
        (
            "REVOKE SELECT, TRUNCATE ON orders_flat FROM trucker".into(),
            "GRANT SELECT, TRUNCATE ON public.orders_flat TO trucker".into(),
        ),
    ];
    let cases =
        source.iter().map(|case| (&s.source, case)).chain(output.iter().map(|case| (&s.output, case)));
    for (database, (takes, cure)) in cases {
        database.execute(takes);
        let finished = s.run_once();
        assert!(matches!(finished.code, Some(1 | 3 | 4)), "{takes}: {}", finished.text());
        assert!(finished.text().contains(cure.as_str()), "{takes}: no {cure:?} in\n{}", finished.text());
        s.assert_nothing_created();
        let gives = cure.strip_prefix("make").map_or(cure.as_str(), |_| "GRANT shop_owner TO trucker");
        let gives = if gives.ends_with(" TO") { format!("{gives} trucker") } else { gives.to_owned() };
        database.execute(&gives);
    }
    flows(&s);
}

#[test]
fn a_role_that_may_not_read_what_is_joined_or_published_is_told_which_table() {
    let servers = servers();
    let s = world(&servers);
    give(&s, &[SOURCE, OWNER_PUBLISHES, OUTPUT, SCHEMA_MADE]);
    s.source.execute("REVOKE SELECT ON orders FROM trucker");
    assert!(s.once_fails(4).contains("GRANT SELECT ON public.orders TO trucker"));
    s.source.execute("GRANT SELECT ON orders TO trucker; REVOKE SELECT ON countries FROM trucker");
    let text = s.once_fails(4);
    assert!(text.contains("permission denied for table countries"), "{text}");
    assert!(text.contains("GRANT SELECT ON countries TO"), "{text}");
    assert_eq!(s.source.number("SELECT count(*) FROM pg_replication_slots"), 0);
}

#[test]
fn a_role_whose_own_schema_has_no_room_for_progress_is_told_the_grant() {
    let servers = servers();
    let s = world(&servers);
    give(&s, &[SOURCE, OWNER_PUBLISHES, OUTPUT]);
    for (state, cure) in [
        ("CREATE SCHEMA trucker", "GRANT USAGE, CREATE ON SCHEMA trucker TO trucker"),
        ("SELECT 1", ""),
        (
            "ALTER TABLE trucker.checkpoint OWNER TO postgres",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA trucker TO trucker",
        ),
        ("REVOKE USAGE ON SCHEMA trucker FROM trucker", "GRANT USAGE ON SCHEMA trucker TO trucker"),
    ] {
        s.output.execute(state);
        if cure.is_empty() {
            s.once();
            continue;
        }
        let text = s.once_fails(4);
        assert!(text.contains(cure), "{state}: {text}");
        s.output.execute(cure);
    }
    s.once();
}

#[test]
fn rows_that_row_level_security_hides_are_refused_on_both_ends() {
    let servers = servers();
    let s = world(&servers);
    give(&s, &[SOURCE, OWNER_PUBLISHES, OUTPUT, SCHEMA_MADE]);
    let guard = |table: &str| {
        format!("ALTER TABLE {table} ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON {table} USING (id <> 2)")
    };
    for (database, table) in [(&s.source, "orders"), (&s.output, "orders_flat")] {
        database.execute(&guard(table));
        let text = s.once_fails(4);
        assert!(text.contains(&format!("hides rows of public.{table} from trucker")), "{text}");
        assert!(text.contains("ALTER ROLE trucker BYPASSRLS"), "{text}");
        database.execute("ALTER ROLE trucker BYPASSRLS");
    }
    flows(&s);
}
