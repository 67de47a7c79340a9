//! Random transactions on the source: of one row and of thousands, rolled back in part and as a whole, with DDL in between.
//! Several sessions write at once and get into each other's way; what the server then refuses is part of the disorder.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::harness::{Database, Random, Session, holds_for};
use super::schema::{Column, Table};

/// Keys are made of numbers below this.
const KEYS: u64 = 400;

/// Writes until told to stop. A transaction that the server, or its death, takes back is tried no further.
pub fn write(database: &Database, tables: &[Table], mut random: Random, stop: &AtomicBool, done: &AtomicU64) {
    let connect = || Session::try_connect(database.port, &database.name);
    let mut session = connect();
    while !stop.load(Ordering::Relaxed) {
        let Ok(open) = &session else {
            holds_for(Duration::from_millis(50), || true);
            session = connect();
            continue;
        };
        let result = match random.within(0..40) {
            0 => copy(open, &tables[0], &mut random),
            _ => open.try_execute(&transaction(tables, &mut random)),
        };
        done.fetch_add(1, Ordering::Relaxed);
        match result {
            Ok(()) => {}
            Err(error) if error.as_db_error().is_none() => session = connect(),
            Err(_) => drop(open.try_execute("ROLLBACK")),
        }
        holds_for(Duration::from_millis(random.within(0..25)), || true);
    }
}

/// What is there before the program starts.
pub fn fill(tables: &[Table], random: &mut Random) -> String {
    let rows = |table: &Table, random: &mut Random| insert(table, random, 0, KEYS / 2);
    tables.iter().map(|table| rows(table, random) + ";").collect()
}

fn copy(session: &Session, table: &Table, random: &mut Random) -> Result<(), tokio_postgres::Error> {
    let (n, count) = (random.within(0..100), random.within(1..300));
    session.try_execute("BEGIN; CREATE TEMPORARY TABLE lines (i int, n int) ON COMMIT DROP")?;
    let lines = (0..count).map(|i| format!("{}\t{}\n", KEYS * 2 + i, n + i)).collect();
    session.try_copy("COPY lines FROM STDIN", lines)?;
    let keys: Vec<String> = table.keys.iter().map(|key| key.value(random)).collect();
    session.try_execute(&format!(
        "INSERT INTO {} ({}, n) SELECT {}, n FROM lines ON CONFLICT DO NOTHING; COMMIT",
        table.name,
        table.key_list(""),
        keys.join(", ")
    ))
}

fn transaction(tables: &[Table], random: &mut Random) -> String {
    if random.chance(2) {
        return ddl(random.pick(tables), random);
    }
    let mut sql = "SET lock_timeout = '2s'; BEGIN".to_owned();
    for _ in 0..random.within(1..6) {
        let table = random.pick(tables);
        let one = statement(table, random);
        sql += &match random.within(0..10) {
            0 => format!("; SAVEPOINT s; {one}; ROLLBACK TO s"),
            1 => format!("; SAVEPOINT s; {one}; RELEASE s; {}", statement(table, random)),
            2 => format!(
                "; DO $do$ BEGIN BEGIN {one}; {}; RAISE division_by_zero; EXCEPTION WHEN OTHERS THEN {}; END; END $do$",
                statement(table, random),
                statement(table, random)
            ),
            _ => format!("; {one}"),
        };
    }
    sql + if random.chance(12) { "; ROLLBACK" } else { "; COMMIT" }
}

fn statement(table: &Table, random: &mut Random) -> String {
    let from = random.within(0..KEYS);
    let to = from + if random.chance(92) { random.within(0..4) } else { random.within(0..100) };
    if table.is_ledger {
        return insert(table, random, from, to);
    }
    match random.within(0..100) {
        0..36 => insert(table, random, from, to),
        36..62 => update(table, random, from, to),
        62..76 => rekey(table, random, from, to.min(from + 3)),
        76..96 => delete(table, from, to),
        96 => {
            let to = KEYS * 4 + random.within(500..5000);
            insert(table, random, KEYS * 4, to)
        }
        97 => delete(table, KEYS * 2, KEYS * 40),
        98 => format!("UPDATE {} SET n = n + 1", table.name),
        _ => format!("TRUNCATE {}", table.name),
    }
}

fn matching(table: &Table, from: u64, to: u64) -> String {
    let equal = table.keys.iter().map(|key| format!("t.{} = {}", key.name, key.value(&mut Random::new(0))));
    format!("generate_series({from}, {to}) i WHERE {}", equal.collect::<Vec<_>>().join(" AND "))
}

fn insert(table: &Table, random: &mut Random, from: u64, to: u64) -> String {
    let mut values: Vec<String> = table.keys.iter().map(|column| column.value(random)).collect();
    values.push(format!("(i * 7 + {}) % 100", random.within(0..100)));
    values.extend(table.columns.iter().map(|column| column.value(random)));
    let conflict = match random.within(0..3) {
        0 => format!("DO UPDATE SET n = excluded.n + {}", random.within(0..9)),
        _ => "DO NOTHING".to_owned(),
    };
    format!(
        "INSERT INTO {} ({}) SELECT {} FROM generate_series({from}, {to}) i ON CONFLICT ({}) {conflict}",
        table.name,
        table.column_list("", true),
        values.join(", "),
        table.key_list("")
    )
}

fn update(table: &Table, random: &mut Random, from: u64, to: u64) -> String {
    let mut set = format!("n = t.n + {}", random.within(0..5));
    // Large values are mostly left alone, so that they aren't sent.
    for column in table.columns.iter() {
        if random.chance(if column.is_large { 20 } else { 40 }) {
            set += &format!(", {} = {}", column.name, column.value(random));
        }
    }
    format!("UPDATE {} t SET {set} FROM {}", table.name, matching(table, from, to))
}

fn rekey(table: &Table, random: &mut Random, from: u64, to: u64) -> String {
    let by = random.within(1..60);
    // The same value, made of another number.
    let shifted = |column: &Column| {
        let value = column.value(&mut Random::new(0));
        format!("{} = (SELECT {value} FROM (SELECT i.i + {by} AS i) q)", column.name)
    };
    let set: Vec<String> = table.keys.iter().map(shifted).collect();
    let large = match random.chance(20) {
        true => table.columns.iter().map(|c| format!(", {} = {}", c.name, c.value(random))).collect(),
        false => String::new(),
    };
    format!(
        "UPDATE {} t SET {}, n = t.n + 1{large} FROM {}",
        table.name,
        set.join(", "),
        matching(table, from, to)
    )
}

fn delete(table: &Table, from: u64, to: u64) -> String {
    format!("DELETE FROM {} t USING {}", table.name, matching(table, from, to))
}

/// Of columns that no pipeline names.
fn ddl(table: &Table, random: &mut Random) -> String {
    let name = &table.name;
    let what = match random.within(0..4) {
        0 => "DROP COLUMN IF EXISTS spare".to_owned(),
        1 => format!("ADD COLUMN IF NOT EXISTS later_{} int", random.within(0..3)),
        2 => format!("ADD COLUMN IF NOT EXISTS later_{} text DEFAULT 'x'", random.within(0..3)),
        _ => format!("DROP COLUMN IF EXISTS later_{}", random.within(0..3)),
    };
    format!(
        "SET lock_timeout = '1s'; BEGIN; {}; ALTER TABLE {name} {what}; {}; COMMIT",
        statement(table, random),
        statement(table, random)
    )
}
