//! Pipelines into ClickHouse on random tables, and what each one's output has to be when all is done.

use crate::harness::{Random, config};
use crate::schema::{Column, Identity, Table};

/// What a pipeline does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// No SQL, into versions.
    Copy,
    /// Rows enter and leave.
    Filter,
    /// Several output rows for an input row.
    Lines,
    /// A row for each change, appended; its table begins empty, and remembers tokens.
    Log,
    /// load.sql, of which a replay changes nothing: a set of all keys that there ever were.
    Seen,
}

/// A pipeline on a table.
pub struct Pipeline {
    /// Its name, and its output table's.
    pub name: String,
    /// What it does.
    pub kind: Kind,
    /// Place of its table in the plan.
    pub table: usize,
}

/// A copy of each table, and some of the other kinds. Appended rows are there once only if none of them came by a backfill.
pub fn random(tables: &[Table], starts_empty: bool, random: &mut Random) -> Vec<Pipeline> {
    let mut pipelines = Vec::new();
    for table in tables {
        let mut kinds = match table.is_ledger {
            true => vec![Kind::Seen],
            false => vec![Kind::Copy, *random.pick(&[Kind::Filter, Kind::Lines])],
        };
        if starts_empty {
            kinds.push(Kind::Log);
        }
        pipelines.extend(kinds.into_iter().map(|kind| {
            let name = format!("p{}_{kind:?}", table.number).to_lowercase();
            Pipeline { name, kind, table: table.number }
        }));
    }
    pipelines
}

/// How a type is held: the column's type, how to ask it and how to ask the source, for the same text.
fn held(sql_type: &str) -> (&'static str, &'static str, &'static str) {
    match sql_type {
        "int" => ("Int32", "toString(@)", "@::text"),
        "bigint" => ("Int64", "toString(@)", "@::text"),
        "boolean" => ("Bool", "toString(@)", "@::text"),
        "date" => ("Date32", "toString(@)", "@::text"),
        "uuid" => ("UUID", "toString(@)", "@::text"),
        "numeric(14,3)" => ("Decimal(14, 3)", "toDecimalString(@, 3)", "@::text"),
        "float8" => (
            "Float64",
            "toString(reinterpretAsInt64(@))",
            "('x' || encode(float8send(@), 'hex'))::bit(64)::bigint::text",
        ),
        "timestamptz" => (
            "String",
            "@",
            "CASE WHEN isfinite(@) THEN (@ AT TIME ZONE 'UTC')::text || '+00' ELSE @::text END",
        ),
        "bytea" => ("String", "lower(hex(@))", "encode(@, 'hex')"),
        _ => ("String", "@", "@::text"),
    }
}

/// A name as ClickHouse has it.
fn quoted(column: &Column) -> String {
    format!("`{}`", column.name[1..column.name.len() - 1].replace("\"\"", "\""))
}

impl Pipeline {
    /// The columns that it writes and that the input table has, by the key's first, and `n`.
    fn columns<'t>(&self, table: &'t Table) -> Vec<&'t Column> {
        let others = table.columns.iter().filter(|column| match self.kind {
            Kind::Copy => true,
            Kind::Filter => !column.is_large,
            Kind::Lines | Kind::Log | Kind::Seen => false,
        });
        table.keys.iter().chain(others).collect()
    }

    /// Makes the output table.
    pub fn output_sql(&self, table: &Table) -> String {
        let is_key = |column: &Column| table.keys.iter().any(|key| key.name == column.name);
        let define = |column: &&Column| match (is_key(column), held(column.sql_type).0) {
            (true, held) => format!("{} {held}, ", quoted(column)),
            (false, held) => format!("{} Nullable({held}), ", quoted(column)),
        };
        let (name, columns) = (&self.name, self.columns(table).iter().map(define).collect::<String>());
        let keys: Vec<String> = table.keys.iter().map(quoted).collect();
        let keys = keys.join(", ");
        let versioned =
            "_version UInt128, _is_deleted UInt8) ENGINE = ReplacingMergeTree(_version, _is_deleted)";
        match self.kind {
            Kind::Copy | Kind::Filter => {
                format!("CREATE TABLE {name} ({columns}n Int32, {versioned} ORDER BY ({keys})")
            }
            Kind::Lines => {
                format!(
                    "CREATE TABLE {name} ({columns}n Int32, line Int32, {versioned} ORDER BY ({keys}, line)"
                )
            }
            Kind::Log => format!(
                "CREATE TABLE {name} ({columns}what String) ENGINE = MergeTree ORDER BY tuple() \
                 SETTINGS non_replicated_deduplication_window = 10000"
            ),
            Kind::Seen => format!(
                "CREATE TABLE {name} (bucket UInt8, seen AggregateFunction(uniqExact, Int64)) \
                 ENGINE = AggregatingMergeTree ORDER BY bucket"
            ),
        }
    }

    /// config.yml.
    pub fn config(&self, table: &Table) -> String {
        let input = format!("'{}'", table.name.replace('\'', "''"));
        let keys = table.keys.iter().map(|key| format!("'{}'", key.name.trim_matches('"')));
        let line = match self.kind {
            Kind::Copy | Kind::Filter => String::new(),
            Kind::Lines => format!("replace: [{}]", keys.collect::<Vec<_>>().join(", ")),
            Kind::Log => "on: {insert: insert, update: insert, delete: insert, truncate: ignore}".to_owned(),
            Kind::Seen => {
                return format!(
                    "input: {{connection: source, table: {input}}}\n\
                     output: {{connection: output, on: {{update: ignore, delete: ignore, truncate: ignore}}}}\n"
                );
            }
        };
        config(&input, &self.name, &[line.as_str()])
    }

    /// Its SQL files.
    pub fn files(&self, table: &Table) -> Vec<(&'static str, String)> {
        let (keys, small) = (table.key_list("row."), table.column_list("row.", false));
        let transform = match self.kind {
            Kind::Copy => return Vec::new(),
            Kind::Filter => format!("SELECT {small} WHERE row.n % 3 <> 0"),
            Kind::Lines => {
                format!("SELECT {keys}, row.n, g AS line FROM generate_series(1, row.n % 4) g")
            }
            Kind::Log => format!("SELECT {{{{ operation }}}} AS what, {keys}"),
            Kind::Seen => {
                let load = format!(
                    "INSERT INTO {} SELECT bucket, uniqExactState(id) FROM {{{{ rows }}}} GROUP BY bucket",
                    self.name
                );
                let transform = "SELECT (row.id % 3)::int AS bucket, row.id AS id".to_owned();
                return vec![("transform.sql", transform), ("load.sql", load)];
            }
        };
        vec![("transform.sql", transform)]
    }

    /// What the output has to be when all is done: on the source, and how to ask the output.
    pub fn answers(&self, table: &Table) -> (String, String) {
        let columns = self.columns(table);
        let ask = |column: &&Column| held(column.sql_type).1.replace('@', &quoted(column));
        let tell = |column: &&Column| held(column.sql_type).2.replace('@', &column.name);
        let asked = columns.iter().map(ask).collect::<Vec<_>>().join(", ");
        let told = columns.iter().map(tell).collect::<Vec<_>>().join(", ");
        let (from, to) = (&table.name, &self.name);
        match self.kind {
            Kind::Copy => (
                format!("SELECT {told}, n::text FROM {from}"),
                format!("SELECT {asked}, toString(n) FROM {to} FINAL"),
            ),
            Kind::Filter => (
                format!("SELECT {told}, n::text FROM {from} WHERE n % 3 <> 0"),
                format!("SELECT {asked}, toString(n) FROM {to} FINAL"),
            ),
            Kind::Lines => (
                format!("SELECT {told}, n::text, g::text FROM {from}, generate_series(1, n % 4) g"),
                format!("SELECT {asked}, toString(n), toString(line) FROM {to} FINAL"),
            ),
            Kind::Log => (
                format!(
                    "SELECT CASE op WHEN 'I' THEN 'insert' WHEN 'U' THEN 'update' ELSE 'delete' END,
                     coalesce(new_key, old_key) FROM history WHERE tab = {} AND op <> 'T'",
                    self.table
                ),
                format!("SELECT what, {} FROM {to}", self.key_sql(table)),
            ),
            Kind::Seen => (
                format!("SELECT count(*)::text FROM history WHERE tab = {} AND op = 'I'", self.table),
                format!("SELECT toString(uniqExactMerge(seen)) FROM {to}"),
            ),
        }
    }

    /// A row's key as the history on the source has it.
    fn key_sql(&self, table: &Table) -> String {
        let keys: Vec<String> = table.keys.iter().map(|key| format!("toString({})", quoted(key))).collect();
        format!("concat('(', {}, ')')", keys.join(", ',', "))
    }

    /// Of each key the greatest version; None where not every change of the input makes one: an update that left a large
    /// value out makes none once its row is gone, since the delete is yet to come.
    pub fn versions_sql(&self, table: &Table) -> Option<String> {
        let is_whole = table.identity == Identity::Full || !table.columns.iter().any(|c| c.is_large);
        (self.kind == Kind::Copy && is_whole).then(|| {
            let key = self.key_sql(table);
            format!(
                "SELECT {key}, toString(toUInt64(bitShiftRight(max(_version), 64))) FROM {} GROUP BY 1",
                self.name
            )
        })
    }
}
