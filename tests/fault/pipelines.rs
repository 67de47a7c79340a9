//! Pipelines of every kind on random tables, and what each one's output has to be: by SQL over the source when all is done,
//! and, where the input row alone decides, after any number of transactions.

use super::harness::{Random, config};
use super::oracle::State;
use super::schema::{Identity, Table};

/// What a pipeline does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// No SQL.
    Copy,
    /// Rows enter and leave.
    Filter,
    /// With a table that stays as it is.
    Join,
    /// Several output rows for an input row.
    FanOut,
    /// A line for each change; its table begins empty.
    Log,
    /// load.sql adds up.
    Counter,
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

/// A copy of each table, and some of the other kinds. A log can be compared only if it began before the first change.
pub fn random(tables: &[Table], starts_empty: bool, random: &mut Random) -> Vec<Pipeline> {
    let mut pipelines = Vec::new();
    for table in tables {
        let mut kinds = vec![Kind::Copy];
        let mut others = vec![Kind::Filter, Kind::Join, Kind::FanOut];
        if table.identity == Identity::Full {
            others.extend([Kind::Counter, Kind::Counter]);
        }
        if starts_empty {
            others.push(Kind::Log);
        }
        if !table.is_ledger {
            kinds.extend((0..2).map(|_| *random.pick(&others)));
        }
        kinds.dedup();
        let named = |(at, kind): (usize, Kind)| {
            let name = format!("p{}_{at}_{kind:?}", table.number).to_lowercase();
            Pipeline { name, kind, table: table.number }
        };
        pipelines.extend(kinds.into_iter().enumerate().map(named));
    }
    pipelines
}

impl Pipeline {
    /// Makes the output table.
    pub fn output_sql(&self, table: &Table) -> String {
        let (name, keys) = (&self.name, table.key_list(""));
        let columns = table.output_columns();
        match self.kind {
            Kind::Copy if table.is_ledger => format!("CREATE TABLE {name} ({columns})"),
            Kind::Copy | Kind::Filter => format!("CREATE TABLE {name} ({columns}, PRIMARY KEY ({keys}))"),
            Kind::Join => format!("CREATE TABLE {name} ({columns}, region text, PRIMARY KEY ({keys}))"),
            Kind::FanOut => format!("CREATE TABLE {name} ({columns}, line int, PRIMARY KEY ({keys}, line))"),
            Kind::Log => format!("CREATE TABLE {name} (nr bigserial, what text, {columns})"),
            Kind::Counter => format!("CREATE TABLE {name} (bucket int PRIMARY KEY, n bigint, ones bigint)"),
        }
    }

    /// config.yml.
    pub fn config(&self, table: &Table) -> String {
        let input = format!("'{}'", table.name.replace('\'', "''"));
        if self.kind == Kind::Counter {
            return format!(
                "input:\n  connection: source\n  table: {input}\noutput:\n  connection: output\n"
            );
        }
        let more = match self.kind {
            Kind::Copy if table.is_ledger => {
                vec!["on: {insert: insert, update: ignore, delete: ignore, truncate: ignore}".to_owned()]
            }
            Kind::Log => {
                vec!["on: {insert: insert, update: insert, delete: insert, truncate: ignore}".to_owned()]
            }
            Kind::FanOut => vec![format!("replace: [{}]", yaml_keys(table))],
            _ => Vec::new(),
        };
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        config(&input, &self.name, &more)
    }

    /// Its SQL files.
    pub fn files(&self, table: &Table) -> Vec<(&'static str, String)> {
        let (keys, small) = (table.key_list("row."), table.column_list("row.", false));
        match self.kind {
            Kind::Copy => Vec::new(),
            Kind::Filter => vec![("transform.sql", format!("SELECT {small} WHERE row.n % 3 <> 0"))],
            Kind::Join => vec![(
                "transform.sql",
                format!("SELECT {small}, r.name AS region FROM regions r WHERE r.id = row.n % 5"),
            )],
            Kind::FanOut => vec![(
                "transform.sql",
                format!("SELECT {keys}, row.n, g AS line FROM generate_series(1, row.n % 4) g"),
            )],
            Kind::Log => vec![("transform.sql", format!("SELECT {{{{ operation }}}} AS what, {keys}"))],
            Kind::Counter => vec![
                (
                    "transform.sql",
                    "SELECT new.n % 4 AS bucket, new.n AS n, 1 AS one WHERE {{ operation }} <> 'delete'
                     UNION ALL SELECT old.n % 4, -old.n, -1 WHERE {{ operation }} <> 'insert'"
                        .to_owned(),
                ),
                (
                    "load.sql",
                    format!(
                        "INSERT INTO {0} AS c (bucket, n, ones) SELECT bucket, sum(n), sum(one) FROM {{{{ rows }}}} GROUP BY bucket
                         ON CONFLICT (bucket) DO UPDATE SET n = c.n + excluded.n, ones = c.ones + excluded.ones",
                        self.name
                    ),
                ),
                ("truncate.sql", format!("DELETE FROM {}", self.name)),
            ],
        }
    }

    /// What the output has to be when all is done: on the source, and how to ask the output.
    pub fn answers(&self, table: &Table) -> (String, String) {
        let (from, to) = (&table.name, &self.name);
        let (all, small, keys) =
            (table.column_list("", true), table.column_list("", false), table.key_list(""));
        match self.kind {
            Kind::Copy => (format!("SELECT {all} FROM {from}"), format!("SELECT {all} FROM {to}")),
            Kind::Filter => {
                (format!("SELECT {small} FROM {from} WHERE n % 3 <> 0"), format!("SELECT {small} FROM {to}"))
            }
            Kind::Join => (
                format!("SELECT {small}, r.name FROM {from} t JOIN regions r ON r.id = t.n % 5"),
                format!("SELECT {small}, region FROM {to}"),
            )
            ,
            Kind::FanOut => (
                format!("SELECT {keys}, n, g FROM {from}, generate_series(1, n % 4) g"),
                format!("SELECT {keys}, n, line FROM {to}"),
            ),
            Kind::Log => (
                format!(
                    "SELECT row_number() OVER (ORDER BY o.nr, h.nr), CASE h.op WHEN 'I' THEN 'insert' WHEN 'U' THEN 'update' ELSE 'delete' END,
                     coalesce(h.new_key, h.old_key) FROM history h JOIN commit_order o USING (xid) WHERE h.tab = {} AND h.op <> 'T'",
                    self.table
                ),
                format!("SELECT row_number() OVER (ORDER BY nr), what, ROW({keys})::text FROM {to}"),
            ),
            Kind::Counter => (
                format!("SELECT n % 4, sum(n), count(*) FROM {from} GROUP BY 1"),
                format!("SELECT bucket, n, ones FROM {to} WHERE (n, ones) <> (0, 0)"),
            ),
        }
    }

    /// What the output holds, in one line that tells any two states apart; None where more than the input rows decides.
    pub fn digest_sql(&self, table: &Table) -> Option<String> {
        let hash = |with_large| {
            format!("coalesce(sum(hashtextextended(ROW({})::text, 0)), 0)", table.column_list("", with_large))
        };
        let digest = match self.kind {
            Kind::Copy => format!("count(*), {}", hash(true)),
            Kind::Filter => format!("count(*), {}", hash(false)),
            Kind::Counter => "coalesce(sum(ones), 0), coalesce(sum(n), 0)".to_owned(),
            Kind::Log => "count(*) FILTER (WHERE what = 'insert'), count(*) FILTER (WHERE what = 'update'), count(*) FILTER (WHERE what = 'delete')".to_owned(),
            Kind::Join | Kind::FanOut => return None,
        };
        Some(format!("SELECT concat_ws(':', {digest}) FROM {}", self.name))
    }

    /// The same line, as it has to be in that state.
    pub fn digest(&self, state: &State) -> String {
        match self.kind {
            Kind::Copy => format!("{}:{}", state.rows.len(), state.all_hash),
            Kind::Filter => format!("{}:{}", state.filtered, state.small_hash),
            Kind::Counter => format!("{}:{}", state.rows.len(), state.n),
            Kind::Log => format!("{}:{}:{}", state.operations[0], state.operations[1], state.operations[2]),
            Kind::Join | Kind::FanOut => String::new(),
        }
    }
}

fn yaml_keys(table: &Table) -> String {
    let plain = |name: &str| format!("'{}'", name.trim_matches('"'));
    table.keys.iter().map(|key| plain(&key.name)).collect::<Vec<_>>().join(", ")
}
