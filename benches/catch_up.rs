//! Changes that have piled up, and how long each consumer takes for them: one kind of transaction after the other, the same WAL for
//! everyone, turn by turn. All are stopped while it is written; a change of its own at the end says when all is there.

use crate::Effort;
use crate::consumer::Consumer;
use crate::proxy::DelayingProxy;
use crate::report::Report;
use crate::world::{Servers, World};

/// Seven columns, as a shop's orders have them.
pub const ORDERS: &str = "CREATE TABLE orders (id bigint PRIMARY KEY, customer int NOT NULL, status text NOT NULL, cents bigint NOT NULL, \
     note text, placed timestamptz NOT NULL, is_paid boolean NOT NULL)";

/// Rows of it, so many from that number on.
pub fn orders(from: u64, count: u64) -> String {
    format!(
        "INSERT INTO orders SELECT i, i % 1000, 'placed', i * 7 % 100000, 'note of order ' || i, now(), i % 3 = 0 \
         FROM generate_series({from}, {}) i",
        from + count - 1
    )
}

/// A repetition's statements, by its number.
pub type Work = Box<dyn Fn(u64) -> Vec<String>>;

/// One kind of work.
pub struct Scenario {
    /// As in the table, and what `BENCH` chooses.
    pub name: &'static str,
    tables: String,
    /// What is there before anybody is attached.
    fill: String,
    pipelines: fn(&World),
    /// Names of the input tables.
    published: String,
    /// The work of one repetition, statement by statement, and how many changes that is.
    work: Work,
    changes: u64,
    who: Vec<Consumer>,
    aims: Vec<(&'static str, f64)>,
    /// How far away trucker's output is, in milliseconds there and back.
    round_trip: Option<f64>,
    /// Writes a last change into every table; answers how to ask whether all of them are there.
    mark: fn(&World, u64) -> String,
    /// Takes long: played once, and only if it is asked for.
    pub is_extra: bool,
}

const EVERYBODY: [Consumer; 3] = [Consumer::Trucker, Consumer::Native, Consumer::Decoding];
const NATIVE: &str = "native subscription";

impl Scenario {
    fn of_orders(name: &'static str, changes: u64, work: impl Fn(u64) -> Vec<String> + 'static) -> Self {
        Scenario {
            name,
            tables: ORDERS.to_owned(),
            fill: String::new(),
            pipelines: |world| world.pipeline("orders", &[], &[]),
            published: "orders".to_owned(),
            work: Box::new(work),
            changes,
            who: EVERYBODY.to_vec(),
            aims: Vec::new(),
            round_trip: None,
            mark,
            is_extra: false,
        }
    }

    fn aims(mut self, native: f64) -> Self {
        self.aims = vec![(NATIVE, native)];
        self
    }

    fn filled(mut self, rows: u64) -> Self {
        self.fill = orders(1, rows);
        self
    }

    fn alone(mut self) -> Self {
        self.who = vec![Consumer::Trucker];
        self
    }
}

/// Where the rows of a repetition begin.
pub const STEP: u64 = 10_000_000;

/// All scenarios of catching up.
pub fn all(effort: Effort) -> Vec<Scenario> {
    let (inserts, updates, tiny) = (effort.of(500_000), effort.of(250_000), effort.of(100_000));
    let mut scenarios = vec![
        Scenario::of_orders("inserts", inserts, move |n| vec![orders(n * STEP, inserts)]).aims(2.0),
        Scenario::of_orders("updates", updates, move |_| {
            vec![format!("UPDATE orders SET status = 'paid', cents = cents + 1 WHERE id <= {updates}")]
        })
        .filled(updates * 2)
        .aims(3.0),
        Scenario::of_orders("deletes", updates, move |n| {
            vec![format!("DELETE FROM orders WHERE id BETWEEN {} AND {}", (n - 1) * updates + 1, n * updates)]
        })
        .filled(updates * effort.repetitions as u64)
        .aims(2.0),
        Scenario::of_orders("mixed", 3 * (updates / 3), move |n| {
            let part = updates / 3;
            vec![format!(
                "BEGIN; {}; UPDATE orders SET cents = cents + 1 WHERE id <= {part}; \
                 DELETE FROM orders WHERE id BETWEEN {} AND {}; COMMIT",
                orders(n * STEP, part),
                n * part + 1,
                (n + 1) * part,
            )]
        })
        .filled((updates / 3) * (effort.repetitions as u64 + 1)),
        Scenario::of_orders("tiny", tiny, move |n| one_by_one(n, tiny)).aims(4.0),
        tpcb(effort),
        wide(effort),
        toast_unchanged(effort),
    ];
    scenarios.extend(with_sql(effort));
    for (name, milliseconds) in [("inserts_2.5ms", 2.5), ("inserts_12ms", 12.0)] {
        let mut far = Scenario::of_orders(name, inserts, move |n| vec![orders(n * STEP, inserts)]).alone();
        far.round_trip = Some(milliseconds);
        scenarios.push(far);
    }
    scenarios.extend([many_tables("inserts_of_4", 4, inserts), many_tables("inserts_of_16", 16, inserts)]);
    scenarios.push(busy_tables(16, inserts));
    scenarios.extend(memory(effort));
    scenarios
}

/// So many transactions of one row. The source needn't wait for its disk while they are made.
pub fn one_by_one(n: u64, count: u64) -> Vec<String> {
    let insert = "INSERT INTO orders VALUES (i, i % 1000, 'placed', i, 'note of order ' || i, now(), false)";
    let (from, to) = (n * STEP, n * STEP + count - 1);
    vec![
        "SET synchronous_commit = off".to_owned(),
        // By itself: a block can't commit inside of another statement's transaction.
        format!("DO $$ BEGIN FOR i IN {from} .. {to} LOOP {insert}; COMMIT; END LOOP; END $$"),
    ]
}

/// What pgbench's default script does, transaction by transaction, in tables like its own: three updates and an insert into a table
/// each, a pipeline for each of them. (Its history has no key, which native replication of inserts needs none of; here it has one.)
fn tpcb(effort: Effort) -> Scenario {
    const TABLES: &str = "CREATE TABLE branches (bid int PRIMARY KEY, balance int NOT NULL, filler char(88)); \
         CREATE TABLE tellers (tid int PRIMARY KEY, bid int NOT NULL, balance int NOT NULL, filler char(84)); \
         CREATE TABLE accounts (aid int PRIMARY KEY, bid int NOT NULL, balance int NOT NULL, filler char(84)); \
         CREATE TABLE history (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, tid int, bid int, aid int, delta int, \
         mtime timestamp, filler char(22))";
    const ALL: [&str; 4] = ["branches", "tellers", "accounts", "history"];
    let transactions = effort.of(20_000);
    let mut scenario = Scenario::of_orders("tpcb", 4 * transactions, move |_| {
        let random = |most: u32| format!("1 + floor(random() * {most})::int");
        let (account, teller, branch) = (random(100_000), random(100), random(10));
        vec![
            "SET synchronous_commit = off".to_owned(),
            format!(
                "DO $$ DECLARE a int; t int; b int; d int; BEGIN FOR i IN 1 .. {transactions} LOOP \
                 a := {account}; t := {teller}; b := {branch}; d := floor(random() * 10001)::int - 5000; \
                 UPDATE accounts SET balance = balance + d WHERE aid = a; UPDATE tellers SET balance = balance + d WHERE tid = t; \
                 UPDATE branches SET balance = balance + d WHERE bid = b; \
                 INSERT INTO history (tid, bid, aid, delta, mtime) VALUES (t, b, a, d, now()); COMMIT; END LOOP; END $$"
            ),
        ]
    });
    scenario.tables = TABLES.to_owned();
    scenario.fill = "INSERT INTO branches SELECT i, 0, '' FROM generate_series(0, 10) i; \
         INSERT INTO tellers SELECT i, (i - 1) / 10 + 1, 0, '' FROM generate_series(0, 100) i; \
         INSERT INTO accounts SELECT i, (i - 1) / 10000 + 1, 0, '' FROM generate_series(0, 100000) i; \
         INSERT INTO history (id, delta) VALUES (0, 0)"
        .to_owned();
    scenario.published = ALL.join(", ");
    scenario.pipelines = |world| ALL.iter().for_each(|table| world.pipeline(table, &[], &[]));
    // Row 0 of each is nobody's else.
    scenario.mark = |world, repetition| {
        let keys = ["bid", "tid", "aid", "id"].map(|key| format!("{key} = 0"));
        let value = |table: &str| if table == "history" { "delta" } else { "balance" };
        mark_all(
            world,
            ALL.iter().zip(&keys).map(|(table, key)| (*table, value(table), key.as_str())),
            repetition,
        )
    };
    scenario
}

/// Sets a column of one row of each table, in one transaction.
fn mark_all<'a>(
    world: &World,
    rows: impl Iterator<Item = (&'a str, &'a str, &'a str)>,
    repetition: u64,
) -> String {
    let (mut updates, mut questions) = (Vec::new(), Vec::new());
    for (table, column, row) in rows {
        updates.push(format!("UPDATE {table} SET {column} = {repetition} WHERE {row}"));
        questions.push(format!("EXISTS (SELECT FROM {table} WHERE {row} AND {column} = {repetition})"));
    }
    world.source.execute(&updates.join("; "));
    format!("SELECT {}", questions.join(" AND "))
}

/// Forty short columns and a value that is stored out of line, of so many times 32 bytes; the rows from that number on.
fn wide_table() -> String {
    format!(
        "CREATE TABLE orders (id bigint PRIMARY KEY, {}, body text NOT NULL); \
         ALTER TABLE orders ALTER body SET STORAGE EXTERNAL",
        forty(&|i| format!("c{i} text"))
    )
}

fn wide_rows(from: u64, count: u64, size: u32) -> String {
    let values = forty(&|i| format!("'value {i} of row ' || i"));
    let last = from + count - 1;
    format!(
        "INSERT INTO orders SELECT i, {values}, repeat(md5(i::text), {size}) FROM generate_series({from}, {last}) i"
    )
}

fn forty(make: &dyn Fn(u32) -> String) -> String {
    (1..=40).map(make).collect::<Vec<_>>().join(", ")
}

fn wide(effort: Effort) -> Scenario {
    let rows = effort.of(10_000);
    let mut scenario =
        Scenario::of_orders("wide_and_toast", rows, move |n| vec![wide_rows(n * STEP, rows, 320)]);
    scenario.tables = wide_table();
    scenario
}

/// Updates of a short column beside a large value that stays, and therefore isn't sent.
fn toast_unchanged(effort: Effort) -> Scenario {
    let rows = effort.of(10_000);
    let mut scenario = Scenario::of_orders("toast_unchanged", 2 * rows, move |n| {
        vec![
            format!("UPDATE orders SET c1 = 'once {n}' WHERE id <= {rows}"),
            format!("UPDATE orders SET c1 = 'twice {n}' WHERE id <= {rows}"),
        ]
    });
    scenario.tables = wide_table();
    scenario.fill = wide_rows(1, rows, 320);
    scenario
}

/// What memory has to hold, or rather hasn't: a transaction of millions of rows, and one of very large values.
fn memory(effort: Effort) -> [Scenario; 2] {
    let (rows, large) = (effort.of(5_000_000), effort.of(10_000));
    let many = Scenario::of_orders("memory_5M_rows", rows, move |n| vec![orders(n * STEP, rows)]).alone();
    // 10,000 times 100 kB.
    let mut toast =
        Scenario::of_orders("memory_1GB_toast", large, move |n| vec![wide_rows(n * STEP, large, 3277)])
            .alone();
    toast.tables = wide_table();
    [many, toast].map(|scenario| Scenario { is_extra: true, ..scenario })
}

const CUSTOMERS: &str = "CREATE TABLE customers (id int PRIMARY KEY, country text NOT NULL); \
     INSERT INTO customers SELECT i, 'country ' || i % 50 FROM generate_series(0, 999) i";

fn with_sql(effort: Effort) -> Vec<Scenario> {
    let inserts = effort.of(250_000);
    let mut joined = Scenario::of_orders("joined", inserts, move |n| vec![orders(n * STEP, inserts)]).alone();
    joined.tables = format!("{ORDERS}; ALTER TABLE orders ADD country text; {CUSTOMERS}");
    joined.pipelines = |world| {
        let sql = "SELECT row.id, row.customer, row.status, row.cents, row.note, row.placed, row.is_paid, c.country \
                   FROM customers c WHERE c.id = row.customer";
        world.pipeline("orders", &[], &[("transform.sql", sql)]);
    };
    let mut loaded =
        Scenario::of_orders("load_sql", inserts, move |n| vec![orders(n * STEP, inserts)]).alone();
    loaded.tables =
        format!("{ORDERS}; CREATE TABLE revenue (customer int PRIMARY KEY, cents bigint NOT NULL)");
    loaded.pipelines = |world| {
        let transform = "SELECT new.customer, new.cents, new.id";
        let load = "WITH sums AS (SELECT customer, sum(cents)::bigint AS cents FROM {{ rows }} GROUP BY customer), \
                    seen AS (INSERT INTO orders (id, customer, status, cents, placed, is_paid) \
                    SELECT max(id), 0, '', 0, now(), false FROM {{ rows }} ON CONFLICT DO NOTHING) \
                    INSERT INTO revenue AS r SELECT customer, cents FROM sums \
                    ON CONFLICT (customer) DO UPDATE SET cents = r.cents + excluded.cents";
        world.pipeline(
            "orders",
            &["on: {update: ignore, delete: ignore, truncate: ignore}"],
            &[("transform.sql", transform), ("load.sql", load)],
        );
    };
    vec![joined, loaded]
}

/// One busy table and others that are idle.
fn many_tables(name: &'static str, count: u32, inserts: u64) -> Scenario {
    let mut scenario = Scenario::of_orders(name, inserts, move |n| vec![orders(n * STEP, inserts)]).alone();
    let idle = (1..count).map(|i| format!("; CREATE TABLE idle_{i} (id int PRIMARY KEY)"));
    scenario.tables = format!("{ORDERS}{}", idle.collect::<String>());
    scenario.pipelines = |world| {
        world.pipeline("orders", &[], &[]);
        let idle = world
            .source
            .rows("SELECT relname FROM pg_class WHERE relname ~ '^idle_[0-9]+$' AND relkind = 'r'");
        idle.iter().flatten().flatten().for_each(|table| world.pipeline(table, &[], &[]));
    };
    scenario
}

/// As many rows as in one table, spread over several, a pipeline for each.
fn busy_tables(count: u32, inserts: u64) -> Scenario {
    let rows = inserts / u64::from(count);
    let mut scenario = Scenario::of_orders("inserts_over_16", rows * u64::from(count), move |n| {
        let insert = |i| orders(n * STEP, rows).replace("INTO orders", &format!("INTO busy_{i}"));
        vec![(1..=count).map(insert).collect::<Vec<_>>().join("; ")]
    })
    .alone();
    let table = |i| {
        let table = ORDERS.replace("TABLE orders", &format!("TABLE busy_{i}"));
        format!("{table}; INSERT INTO busy_{i} VALUES (0, 0, '', 0, '', now(), false)")
    };
    scenario.tables = (1..=count).map(table).collect::<Vec<_>>().join("; ");
    scenario.pipelines = |world| busy(world).iter().for_each(|table| world.pipeline(table, &[], &[]));
    scenario.mark = |world, repetition| {
        let tables = busy(world);
        mark_all(world, tables.iter().map(|table| (table.as_str(), "cents", "id = 0")), repetition)
    };
    scenario
}

fn busy(world: &World) -> Vec<String> {
    let tables = "SELECT relname FROM pg_class WHERE relname ~ '^busy_[0-9]+$' AND relkind = 'r'";
    world.source.rows(tables).into_iter().flatten().flatten().collect()
}

/// Measures one scenario.
pub fn play(scenario: &Scenario, servers: &Servers, effort: Effort, report: &mut Report) {
    let world = World::new(servers, &scenario.tables);
    (scenario.pipelines)(&world);
    let _proxy = scenario.round_trip.map(|milliseconds| {
        let proxy = DelayingProxy::start(world.trucker_output.port, milliseconds);
        world.lead_output_to(proxy.port);
        proxy
    });
    if !scenario.fill.is_empty() {
        world.source.execute(&scenario.fill);
    }
    world.source.execute("ANALYZE");
    report.scenario(scenario.name, scenario.changes as f64, "changes", &scenario.aims);
    let is_here =
        |who: &Consumer| *who != Consumer::Decoding || servers.client_program("pg_recvlogical").is_some();
    let who: Vec<Consumer> = scenario.who.iter().copied().filter(is_here).collect();
    who.iter().for_each(|who| who.attach(&world, servers, &scenario.published));
    for repetition in 1..=effort.repetitions {
        for statement in (scenario.work)(repetition as u64) {
            world.source.execute(&statement);
        }
        // From here on a slot can be read again once it is past. Else each repetition would decode all that came before it as well.
        world.source.execute("CHECKPOINT");
        let last = (scenario.mark)(&world, repetition as u64);
        for turn in 0..who.len() {
            // Nobody always goes first.
            let who = who[(turn + repetition) % who.len()];
            report.add(who.name(), who.catch_up(&world, servers, &last));
        }
    }
    who.iter().for_each(|who| who.detach(&world));
}

/// A last row, in a transaction of its own; answers how to ask for it.
pub fn mark(world: &World, repetition: u64) -> String {
    let id = repetition * STEP + STEP - 1;
    let columns = "SELECT string_agg(CASE WHEN attname = 'id' THEN 'ID' WHEN atttypid = 'text'::regtype THEN '''''' \
         WHEN atttypid = 'bool'::regtype THEN 'false' WHEN atttypid = 'timestamptz'::regtype THEN 'now()' ELSE '0' END, ', ' ORDER BY attnum) \
         FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attnum > 0 AND NOT attisdropped";
    let values = world.source.value(columns).replace("ID", &id.to_string());
    world.source.execute(&format!("INSERT INTO orders VALUES ({values})"));
    format!("SELECT exists(SELECT FROM orders WHERE id = {id})")
}
