//! The statements that write rows: arrays in, one statement for many rows. Pure text.

use std::collections::HashMap;

use super::checkpoint::advance_sql;
use crate::postgres::binary::{Binary, Element};
use crate::postgres::catalog::{Generation, Table, TableColumn, UniqueIndex};
use crate::postgres::ident::{quote_ident, quote_idents};
use crate::sink::{By, Put};

/// What one statement is about. Two writes with the same shape share a prepared statement.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Shape {
    /// `DELETE` by these columns; with `keeps`, but for given keys.
    Delete {
        /// What the keys are of.
        by: By,
        /// Whether some rows are kept.
        keeps: bool,
    },
    /// Rows with these columns.
    Put {
        /// How.
        put: Put,
        /// Output columns, in the order of the parameters.
        columns: Vec<String>,
    },
    /// Rows with these columns, none of whose keys exist, by COPY.
    Copy {
        /// Output columns, in the order of a row's values.
        columns: Vec<String>,
        /// In COPY's binary form.
        is_binary: bool,
    },
    /// The other, a `Delete` or `Put`, in one statement with the move of the checkpoint, whose values follow as parameters: if
    /// that isn't moved, nothing is written. Answers with one row if it is. A transaction of its own, which doesn't wait for the disk.
    Whole(Box<Shape>),
    /// What types the table's columns have, by name. Asked after a COPY in binary form, whose lock keeps them as they are: the
    /// bytes don't say of which type they are.
    Types,
    /// Makes room for a row whose key moves: deletes by the new key, but for the row under the old one.
    MakeRoom,
    /// A row whose key moves: these columns, then the key as it was.
    Rekey {
        /// Output columns, in the order of the parameters.
        columns: Vec<String>,
    },
}

const TYPES: &str = "SELECT a.attname::text, a.atttypid FROM pg_catalog.pg_attribute AS a \
     WHERE a.attrelid = pg_catalog.to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped";

/// The output table, and what identifies its rows.
#[derive(Debug, Clone)]
pub struct Target {
    /// The catalog's entry.
    pub table: std::sync::Arc<Table>,
    /// The key's columns.
    pub key: Vec<String>,
    /// The columns that identify all rows of one input row.
    pub replace: Vec<String>,
}

impl Target {
    /// The statement of a shape; None if there is nothing to do (an update of no column but the key).
    pub fn sql(&self, shape: &Shape) -> Option<String> {
        match shape {
            Shape::Delete { by, keeps } => Some(self.delete(*by, *keeps)),
            Shape::Put { put: Put::Insert, columns } => Some(self.insert(columns, "")),
            Shape::Put { put: Put::Upsert | Put::UpsertNew, columns } => Some(self.upsert(columns, "")),
            Shape::Put { put: Put::Update, columns } => self.update(columns, false),
            Shape::Copy { columns, is_binary } => Some(self.copy(columns, *is_binary)),
            Shape::Whole(part) => self.whole(part),
            Shape::Types => Some(TYPES.to_owned()),
            Shape::MakeRoom => Some(self.make_room()),
            Shape::Rekey { columns } => self.update(columns, true),
        }
    }

    fn whole(&self, part: &Shape) -> Option<String> {
        let condition = "EXISTS (SELECT FROM moved)";
        let (written, params) = match part {
            Shape::Delete { by, keeps } => {
                let kept = if *keeps { 1 + self.key.len() } else { 0 };
                let sql = format!("{} AND {condition}", self.delete(*by, *keeps));
                (sql, self.columns_of(*by).len() + kept)
            }
            Shape::Put { put, columns } => {
                let filter = format!(" WHERE {condition}");
                let sql = match put {
                    Put::Insert => self.insert(columns, &filter),
                    Put::Upsert | Put::UpsertNew => self.upsert(columns, &filter),
                    Put::Update => format!("{} AND {condition}", self.update(columns, false)?),
                };
                (sql, columns.len())
            }
            _ => return None,
        };
        let moved = advance_sql(params + 1);
        Some(format!(
            "WITH moved AS ({moved} RETURNING 1), written AS ({written}) \
             SELECT pg_catalog.set_config('synchronous_commit', 'off', true) FROM moved"
        ))
    }

    /// The columns that the statement tells rows by.
    pub fn columns_of(&self, by: By) -> &[String] {
        match by {
            By::Key => &self.key,
            By::Replace => &self.replace,
        }
    }

    /// The binary forms of these columns' types, as far as they are known.
    pub fn binary(&self, columns: &[String]) -> Vec<Option<Binary>> {
        columns.iter().map(|name| Binary::of(&self.column(name).type_name)).collect()
    }

    /// The first of these columns that isn't of the type any more that it was of.
    pub fn altered<'a>(&self, columns: &'a [String], now: &HashMap<String, u32>) -> Option<&'a String> {
        columns.iter().find(|name| now.get(*name) != Some(&self.column(name).type_name.oid))
    }

    /// Whether some rows in one statement and the rest in the next come to the same as all in one. Not where something is looked at
    /// once per statement: foreign keys to the table itself, constraints that can be deferred, triggers.
    pub fn may_split(&self) -> bool {
        let is_key = |columns: &[String]| {
            columns.len() == self.key.len() && self.key.iter().all(|k| columns.contains(k))
        };
        let is_plain = |index: &UniqueIndex| index.is_arbiter && is_key(&index.columns);
        !self.table.is_order_sensitive && self.table.unique.iter().all(is_plain)
    }

    /// What the arrays hold that take these columns' values.
    pub fn elements(&self, columns: &[String]) -> Vec<Option<Element>> {
        columns.iter().map(|name| Element::of(&self.column(name).type_name)).collect()
    }

    fn column(&self, name: &str) -> &TableColumn {
        self.table.column(name).expect("columns were checked against the catalog when the SQL was compiled")
    }

    /// `unnest($1::…, …) WITH ORDINALITY AS r(c0, …, n)` and the values as the columns' types.
    fn rows(&self, columns: &[String], first_param: usize, alias: &str) -> (String, Vec<String>) {
        let mut arrays = Vec::new();
        let mut values = Vec::new();
        for (at, name) in columns.iter().enumerate() {
            let type_name = &self.column(name).type_name;
            let param = first_param + at;
            match &type_name.array_sql {
                Some(array) => {
                    arrays.push(format!("${param}::{array}"));
                    values.push(format!("{alias}.c{at}"));
                }
                None => {
                    arrays.push(format!("${param}::pg_catalog._text"));
                    values.push(format!("{alias}.c{at}::{}", type_name.sql));
                }
            }
        }
        let names = (0..columns.len()).map(|at| format!("c{at}, ")).collect::<String>();
        (format!("unnest({}) WITH ORDINALITY AS {alias}({names}n)", arrays.join(", ")), values)
    }

    fn insert(&self, columns: &[String], filter: &str) -> String {
        let (rows, values) = self.rows(columns, 1, "r");
        format!(
            "INSERT INTO {} AS o ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {rows}{filter} ORDER BY r.n",
            self.table.sql(),
            quote_idents(columns.iter().map(String::as_str)),
            values.join(", ")
        )
    }

    fn upsert(&self, columns: &[String], filter: &str) -> String {
        let updated =
            self.updatable(columns).map(|(_, name)| format!("{0} = excluded.{0}", quote_ident(name)));
        let updated: Vec<String> = updated.collect();
        let action = if updated.is_empty() {
            "DO NOTHING".to_owned()
        } else {
            format!("DO UPDATE SET {}", updated.join(", "))
        };
        let key = quote_idents(self.key.iter().map(String::as_str));
        format!("{} ON CONFLICT ({key}) {action}", self.insert(columns, filter))
    }

    fn copy(&self, columns: &[String], is_binary: bool) -> String {
        copy_sql(&self.table.sql(), columns.iter().map(String::as_str), is_binary)
    }

    /// Columns that an update may set: not the key's, and not those that only the table itself may fill.
    fn updatable<'a>(&'a self, columns: &'a [String]) -> impl Iterator<Item = (usize, &'a str)> {
        columns.iter().enumerate().map(|(at, name)| (at, name.as_str())).filter(|(_, name)| {
            !self.key.iter().any(|key| key == name)
                && self.column(name).generation != Generation::IdentityAlways
        })
    }

    fn update(&self, columns: &[String], moves_key: bool) -> Option<String> {
        let all: Vec<String>;
        let given = if moves_key {
            all = columns.iter().chain(&self.key).cloned().collect();
            &all
        } else {
            columns
        };
        let (rows, values) = self.rows(given, 1, "r");
        let set: Vec<String> = if moves_key {
            let set = columns.iter().enumerate();
            set.map(|(at, name)| format!("{} = {}", quote_ident(name), values[at])).collect()
        } else {
            let set = self.updatable(columns);
            set.map(|(at, name)| format!("{} = {}", quote_ident(name), values[at])).collect()
        };
        let place = |key: &String| columns.iter().position(|name| name == key);
        let matches = self.key.iter().enumerate().map(|(at, key)| {
            let value = if moves_key { Some(columns.len() + at) } else { place(key) };
            Some(format!("o.{} = {}", quote_ident(key), values[value?]))
        });
        let matches = matches.collect::<Option<Vec<_>>>()?.join(" AND ");
        (!set.is_empty()).then(|| {
            format!("UPDATE {} AS o SET {} FROM {rows} WHERE {matches}", self.table.sql(), set.join(", "))
        })
    }

    /// Two texts of one key (citext, numeric) are equal only to the server, so it decides whether the two rows are one.
    fn make_room(&self) -> String {
        let both: Vec<String> = self.key.iter().chain(&self.key).cloned().collect();
        let (rows, values) = self.rows(&both, 1, "r");
        let (new, old) = values.split_at(self.key.len());
        let sql = self.table.sql();
        format!(
            "DELETE FROM {sql} AS o USING {rows} WHERE {} AND NOT ({})",
            matches(&self.key, new),
            matches(&self.key, old)
        )
    }

    fn delete(&self, by: By, keeps: bool) -> String {
        let columns = self.columns_of(by);
        let (rows, values) = self.rows(columns, 1, "r");
        let mut sql =
            format!("DELETE FROM {} AS o USING {rows} WHERE {}", self.table.sql(), matches(columns, &values));
        if keeps {
            // The kept keys come with the place of the row from which on they are kept, as one more array.
            let (kept, values) = self.rows(&self.key, columns.len() + 2, "k");
            let kept =
                kept.replacen("unnest(", &format!("unnest(${}::pg_catalog._int8, ", columns.len() + 1), 1);
            let kept = kept.replacen("AS k(", "AS k(place, ", 1);
            sql.push_str(&format!(
                " AND NOT EXISTS (SELECT FROM {kept} WHERE k.place <= r.n AND {})",
                matches(&self.key, &values)
            ));
        }
        sql
    }
}

/// A COPY into these columns of a relation, as SQL names it.
pub fn copy_sql<'a>(relation: &str, columns: impl Iterator<Item = &'a str>, is_binary: bool) -> String {
    let form = if is_binary { " (FORMAT binary)" } else { "" };
    format!("COPY {relation} ({}) FROM STDIN{form}", quote_idents(columns))
}

/// `o.a = … AND o.b = …`
fn matches(columns: &[String], values: &[String]) -> String {
    let equal = columns.iter().zip(values).map(|(name, value)| format!("o.{} = {value}", quote_ident(name)));
    equal.collect::<Vec<_>>().join(" AND ")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::change::ReplicaIdentity;
    use crate::postgres::catalog::TypeName;

    fn target(replace: &[&str]) -> Target {
        let column = |name: &str, type_name: &str, generation: Generation| TableColumn {
            name: name.into(),
            type_name: TypeName {
                oid: 23,
                base_oid: 23,
                sql: format!("pg_catalog.{type_name}"),
                array_sql: (!type_name.starts_with('_')).then(|| format!("pg_catalog._{type_name}")),
                is_enum: false,
            },
            type_modifier: -1,
            is_not_null: false,
            has_default: false,
            generation,
            is_identity: false,
        };
        let table = Table {
            oid: 1,
            schema: "public".into(),
            table: "t".into(),
            kind: 'r',
            persistence: 'p',
            identity: ReplicaIdentity::Default,
            columns: vec![
                column("id", "int4", Generation::None),
                column("tags", "_text", Generation::None),
                column("seq", "int8", Generation::IdentityAlways),
            ],
            unique: Vec::new(),
            is_order_sensitive: false,
            takes_copy: true,
        };
        let names = |names: &[&str]| names.iter().map(|n| n.to_string()).collect();
        Target { table: Arc::new(table), key: vec!["id".into()], replace: names(replace) }
    }

    #[test]
    fn statements_read_as_meant() {
        let put = |put, columns: &[&str]| Shape::Put {
            put,
            columns: columns.iter().map(|c| c.to_string()).collect(),
        };
        let rows: [(Shape, Option<&str>); 7] = [
            (
                put(Put::Upsert, &["id", "tags", "seq"]),
                Some(
                    "INSERT INTO public.t AS o (id, tags, seq) OVERRIDING SYSTEM VALUE \
                     SELECT r.c0, r.c1::pg_catalog._text, r.c2 FROM unnest($1::pg_catalog._int4, $2::pg_catalog._text, \
                     $3::pg_catalog._int8) WITH ORDINALITY AS r(c0, c1, c2, n) ORDER BY r.n \
                     ON CONFLICT (id) DO UPDATE SET tags = excluded.tags",
                ),
            ),
            (
                put(Put::Upsert, &["id"]),
                Some(
                    "INSERT INTO public.t AS o (id) OVERRIDING SYSTEM VALUE SELECT r.c0 FROM \
                     unnest($1::pg_catalog._int4) WITH ORDINALITY AS r(c0, n) ORDER BY r.n ON CONFLICT (id) DO NOTHING",
                ),
            ),
            (
                put(Put::Update, &["tags", "id"]),
                Some(
                    "UPDATE public.t AS o SET tags = r.c0::pg_catalog._text FROM unnest($1::pg_catalog._text, \
                     $2::pg_catalog._int4) WITH ORDINALITY AS r(c0, c1, n) WHERE o.id = r.c1",
                ),
            ),
            (put(Put::Update, &["id"]), None),
            (
                Shape::Copy { columns: vec!["id".into(), "seq".into()], is_binary: true },
                Some("COPY public.t (id, seq) FROM STDIN (FORMAT binary)"),
            ),
            (
                Shape::Rekey { columns: vec!["id".into()] },
                Some(
                    "UPDATE public.t AS o SET id = r.c0 FROM unnest($1::pg_catalog._int4, $2::pg_catalog._int4) \
                     WITH ORDINALITY AS r(c0, c1, n) WHERE o.id = r.c1",
                ),
            ),
            (
                Shape::Delete { by: By::Replace, keeps: true },
                Some(
                    "DELETE FROM public.t AS o USING unnest($1::pg_catalog._int8) WITH ORDINALITY AS r(c0, n) \
                     WHERE o.seq = r.c0 AND NOT EXISTS (SELECT FROM unnest($2::pg_catalog._int8, $3::pg_catalog._int4) \
                     WITH ORDINALITY AS k(place, c0, n) WHERE k.place <= r.n AND o.id = k.c0)",
                ),
            ),
        ];
        for (shape, sql) in rows {
            assert_eq!(target(&["seq"]).sql(&shape).as_deref(), sql, "{shape:?}");
        }
    }

    #[test]
    fn what_is_written_with_the_checkpoint_is_written_only_if_that_moves() {
        let columns = || vec!["id".to_owned(), "tags".to_owned()];
        let rows = "unnest($1::pg_catalog._int4, $2::pg_catalog._text) WITH ORDINALITY AS r(c0, c1, n)";
        let written = [
            (
                Shape::Put { put: Put::Upsert, columns: columns() },
                2,
                format!(
                    "INSERT INTO public.t AS o (id, tags) OVERRIDING SYSTEM VALUE SELECT r.c0, r.c1::pg_catalog._text FROM {rows} \
                     WHERE EXISTS (SELECT FROM moved) ORDER BY r.n ON CONFLICT (id) DO UPDATE SET tags = excluded.tags"
                ),
            ),
            (
                Shape::Put { put: Put::Update, columns: columns() },
                2,
                format!(
                    "UPDATE public.t AS o SET tags = r.c1::pg_catalog._text FROM {rows} WHERE o.id = r.c0 AND EXISTS (SELECT FROM moved)"
                ),
            ),
            (
                Shape::Delete { by: By::Key, keeps: false },
                1,
                "DELETE FROM public.t AS o USING unnest($1::pg_catalog._int4) WITH ORDINALITY AS r(c0, n) \
                 WHERE o.id = r.c0 AND EXISTS (SELECT FROM moved)"
                    .to_owned(),
            ),
        ];
        for (shape, params, written) in written {
            let moved = advance_sql(params + 1);
            let sql = format!(
                "WITH moved AS ({moved} RETURNING 1), written AS ({written}) \
                    SELECT pg_catalog.set_config('synchronous_commit', 'off', true) FROM moved"
            );
            assert_eq!(target(&["id"]).sql(&Shape::Whole(Box::new(shape))), Some(sql));
        }
        let nothing = Shape::Put { put: Put::Update, columns: vec!["id".to_owned()] };
        assert_eq!(target(&["id"]).sql(&Shape::Whole(Box::new(nothing))), None);
    }
}
