//! Random tables: columns of many types under odd names, keys of one and two columns, every replica identity, partitions,
//! values that are stored out of line. Knows how a value of each is written; no rule that a test proves.

use super::harness::Random;

/// A column, and how its values are made.
pub struct Column {
    /// Quoted.
    pub name: String,
    /// As in CREATE TABLE.
    pub sql_type: &'static str,
    /// Makes a value of `i` and a number.
    value: &'static str,
    /// Stored out of line.
    pub is_large: bool,
}

/// What an update or delete sends of the old row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    Default,
    Full,
    /// By an index on the key; the primary key is another column.
    Index,
}

/// A table of the source.
pub struct Table {
    /// Its place in the plan.
    pub number: usize,
    /// Quoted.
    pub name: String,
    /// What identifies a row.
    pub keys: Vec<Column>,
    /// All others but `n`, an int that every table has.
    pub columns: Vec<Column>,
    /// What is sent of old rows.
    pub identity: Identity,
    /// How many, if it is partitioned.
    partitions: u64,
    /// Rows only ever come.
    pub is_ledger: bool,
}

const NAMES: [&str; 8] = ["plain", "Upper", "with space", "select", "q\"uote", "ünï", "new", "dollar$1"];

/// Type, and how a value is made of `i` and the number `#`. Deterministic: the seed alone decides.
const SMALL: [(&str, &str); 16] = [
    ("int", "(i * # + 7) % 1000"),
    ("bigint", "i::bigint * # * 1000003"),
    ("text", "CASE WHEN i % 5 = 0 THEN NULL ELSE md5((i + #)::text) END"),
    ("text", "E'tab\\t back\\\\N line\\n quote'' {a,b} \"q\" ' || (i + #)"),
    ("varchar(40)", "CASE WHEN (i + #) % 3 = 0 THEN '' ELSE 'ü€🙂' || i END"),
    ("numeric", "CASE WHEN i % 7 = 0 THEN 'NaN' ELSE (i * #)::numeric / 7 END"),
    ("numeric(14,3)", "(i * # % 100000)::numeric / 8"),
    ("boolean", "(i + #) % 2 = 0"),
    ("float8", "CASE WHEN i % 11 = 0 THEN '-Infinity' ELSE sqrt(i + #) END"),
    (
        "timestamptz",
        "CASE WHEN i % 9 = 0 THEN 'infinity' ELSE '2020-02-29 UTC'::timestamptz + i * # * '1 s'::interval END",
    ),
    ("date", "'2024-01-01'::date + (i + #) % 1000"),
    ("uuid", "md5((i + #)::text)::uuid"),
    ("jsonb", "jsonb_build_object('k', i, 'v', md5((i + #)::text))"),
    ("int[]", "ARRAY[i, #, NULL]"),
    ("text[]", "ARRAY['a,b', NULL, '\"q\"', '', md5((i + #)::text)]"),
    ("bytea", "decode(md5((i + #)::text), 'hex')"),
];

const LARGE: [(&str, &str); 4] = [
    ("text", "repeat(md5((i + #)::text), 90 + # % 300)"),
    ("jsonb", "jsonb_build_object('big', repeat(md5((i + #)::text), 100 + # % 200))"),
    ("bytea", "decode(repeat(md5((i + #)::text), 150 + # % 300), 'hex')"),
    ("text[]", "ARRAY[repeat(md5((i + #)::text), 100), NULL, 'x']"),
];

const KEYS: [&[(&str, &str)]; 5] = [
    &[("int", "i")],
    &[("bigint", "i")],
    &[("text", "'k' || i")],
    &[("uuid", "md5(i::text)::uuid")],
    &[("int", "i / 10"), ("text", "'x' || i % 10")],
];

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn column(name: &str, (sql_type, value): (&'static str, &'static str), is_large: bool) -> Column {
    Column { name: quote(name), sql_type, value, is_large }
}

impl Column {
    /// An expression over `i`.
    pub fn value(&self, random: &mut Random) -> String {
        self.value.replace('#', &random.within(1..500).to_string())
    }
}

impl Table {
    /// A table of that place in the plan.
    pub fn random(number: usize, random: &mut Random) -> Self {
        let keys = *random.pick(&KEYS);
        let keys = keys.iter().enumerate().map(|(at, key)| column(&format!("key {at}"), *key, false));
        let mut columns: Vec<Column> = (0..random.within(1..6))
            .map(|at| column(&format!("{} {at}", random.pick(&NAMES)), *random.pick(&SMALL), false))
            .collect();
        if random.chance(60) {
            columns.push(column("large", *random.pick(&LARGE), true));
        }
        let partitions = if random.chance(30) { 3 } else { 0 };
        let identity = match random.within(0..5) {
            0 | 1 => Identity::Default,
            2 if partitions == 0 => Identity::Index,
            _ => Identity::Full,
        };
        let name = quote(&format!("{} t{number}", random.pick(&NAMES)));
        Table { number, name, keys: keys.collect(), columns, identity, partitions, is_ledger: false }
    }

    /// A table whose rows only ever come.
    pub fn ledger(number: usize) -> Self {
        Table {
            number,
            name: quote("ledger"),
            keys: vec![column("id", ("bigint", "nextval('ledger_ids')"), false)],
            columns: Vec::new(),
            identity: Identity::Default,
            partitions: 0,
            is_ledger: true,
        }
    }

    /// Names of the key's columns, separated.
    pub fn key_list(&self, prefix: &str) -> String {
        list(self.keys.iter(), prefix)
    }

    /// Names of all columns that pipelines read; without the large ones, if so asked.
    pub fn column_list(&self, prefix: &str, with_large: bool) -> String {
        let others = self.columns.iter().filter(|c| with_large || !c.is_large);
        let others: String = others.map(|c| format!(", {prefix}{}", c.name)).collect();
        format!("{}, {prefix}n{others}", self.key_list(prefix))
    }

    /// The columns of an output table.
    pub fn output_columns(&self) -> String {
        let all = self.keys.iter().chain(&self.columns);
        let all: String = all.map(|c| format!("{} {}, ", c.name, c.sql_type)).collect();
        format!("{all}n int")
    }

    /// Makes it on the source, with triggers that note each change in `history`.
    pub fn create_sql(&self) -> String {
        let (name, keys) = (&self.name, self.key_list(""));
        let key = match self.identity {
            Identity::Index => format!("pk bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, UNIQUE ({keys})"),
            _ => format!("PRIMARY KEY ({keys})"),
        };
        let defs: String =
            self.keys.iter().map(|c| format!("{} {} NOT NULL, ", c.name, c.sql_type)).collect();
        let others: String = self.columns.iter().map(|c| format!("{} {}, ", c.name, c.sql_type)).collect();
        let by = if self.partitions > 0 {
            format!("PARTITION BY HASH ({})", self.keys[0].name)
        } else {
            String::new()
        };
        let mut sql = format!("CREATE TABLE {name} ({defs}n int NOT NULL, spare text, {others}{key}) {by};");
        let parts: Vec<String> = (0..self.partitions).map(|p| format!("t{}_part{p}", self.number)).collect();
        for (at, part) in parts.iter().enumerate() {
            let modulus = self.partitions;
            sql += &format!(
                "CREATE TABLE {part} PARTITION OF {name} FOR VALUES WITH (MODULUS {modulus}, REMAINDER {at});"
            );
        }
        for real in if parts.is_empty() { std::slice::from_ref(name) } else { &parts[..] } {
            for large in self.columns.iter().filter(|c| c.is_large) {
                sql += &format!("ALTER TABLE {real} ALTER {} SET STORAGE EXTERNAL;", large.name);
            }
            if self.identity == Identity::Full {
                sql += &format!("ALTER TABLE {real} REPLICA IDENTITY FULL;");
            }
        }
        if self.identity == Identity::Full && !parts.is_empty() {
            sql += &format!("ALTER TABLE {name} REPLICA IDENTITY FULL;");
        }
        if self.identity == Identity::Index {
            sql += &format!(
                "DO $$ BEGIN EXECUTE (SELECT format('ALTER TABLE {name} REPLICA IDENTITY USING INDEX %I', c.relname) \
                 FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
                 WHERE i.indrelid = '{name}'::regclass AND i.indisunique AND NOT i.indisprimary); END $$;"
            );
        }
        sql + &self.witness_sql()
    }

    fn witness_sql(&self) -> String {
        let (number, name) = (self.number, &self.name);
        let (old, new) = (self.key_list("OLD."), self.key_list("NEW."));
        let hash =
            |with_large| format!("hashtextextended(ROW({})::text, 0)", self.column_list("NEW.", with_large));
        let (all, small) = (hash(true), hash(false));
        format!(
            "CREATE FUNCTION note_{number}() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
               IF TG_OP = 'TRUNCATE' THEN INSERT INTO history (tab, op) VALUES ({number}, 'T');
               ELSIF TG_OP = 'DELETE' THEN INSERT INTO history (tab, op, old_key) VALUES ({number}, 'D', ROW({old})::text);
               ELSIF TG_OP = 'INSERT' THEN INSERT INTO history (tab, op, new_key, all_hash, small_hash, n)
                 VALUES ({number}, 'I', ROW({new})::text, {all}, {small}, NEW.n);
               ELSE INSERT INTO history (tab, op, old_key, new_key, all_hash, small_hash, n)
                 VALUES ({number}, 'U', ROW({old})::text, ROW({new})::text, {all}, {small}, NEW.n); END IF;
               RETURN NULL;
             END $$;
             CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON {name} FOR EACH ROW EXECUTE FUNCTION note_{number}();
             CREATE TRIGGER note_truncate AFTER TRUNCATE ON {name} FOR EACH STATEMENT EXECUTE FUNCTION note_{number}();"
        )
    }

    /// One line of what it is.
    pub fn describe(&self) -> String {
        let types = |columns: &[Column]| columns.iter().map(|c| c.sql_type).collect::<Vec<_>>().join(", ");
        let identity = match self.identity {
            Identity::Default => "default",
            Identity::Full => "full",
            Identity::Index => "index",
        };
        format!(
            "{} key ({}) columns ({}) identity {identity} partitions {}",
            self.name,
            types(&self.keys),
            types(&self.columns),
            self.partitions
        )
    }
}

fn list<'a>(columns: impl Iterator<Item = &'a Column>, prefix: &str) -> String {
    columns.map(|c| format!("{prefix}{}", c.name)).collect::<Vec<_>>().join(", ")
}
