//! Puts rendered SQL files together as one statement over a whole batch, or over the table itself.
//!
//! A file is written as if for one change. Each becomes a LATERAL subquery over a relation that has the batch's
//! changes as rows, so that CTEs, aggregates, ORDER BY and LIMIT are per change, and the planner still flattens
//! simple files into ordinary joins:
//!
//! ```sql
//! FROM unnest($1::int4[], $2::text[]) WITH ORDINALITY AS trucker_change(c0, c1, n)
//! CROSS JOIN LATERAL (SELECT trucker_change.c0 AS id, trucker_change.c1 AS name) AS new
//! CROSS JOIN LATERAL (SELECT NULL::int4 AS id) AS old
//! CROSS JOIN LATERAL (SELECT new.*) AS row
//! CROSS JOIN LATERAL (
//! <transform.sql>
//! ) AS transformed
//! CROSS JOIN LATERAL (
//! <insert.sql>
//! ) AS trucker_result
//! ```
//!
//! It needs no temporary table, so it runs read-only and on a standby. Pure: builds text, asks no server.

use super::render::RenderedFile;
use super::scan::Scope;
use crate::change::{Change, Operation};
use crate::postgres::catalog::{Generation, Table};
use crate::postgres::ident::quote_ident;

/// One column of the input table as SQL files see it.
#[derive(Debug, Clone)]
pub struct InputColumn {
    /// Its name.
    pub name: String,
    /// Its type, as SQL names it.
    pub type_sql: String,
    /// The array type that carries it as a parameter; None: as text, with a cast.
    pub array_sql: Option<String>,
    /// Its place in the stream's tuples; None if it isn't sent.
    pub cell: Option<usize>,
    /// Whether `old` has it.
    pub in_old: bool,
    /// The expression that makes it, over the other columns.
    pub expression: Option<String>,
}

/// The input table as SQL files see it: the catalog's columns, and where the stream has them.
#[derive(Debug, Clone)]
pub struct InputTable {
    /// `FROM` clause of the table itself.
    pub from_sql: String,
    /// All columns, in the catalog's order.
    pub columns: Vec<InputColumn>,
    /// Its primary key's columns; empty where it has none.
    pub primary_key: Vec<String>,
}

impl InputTable {
    /// The catalog's table, with the columns of the relation that the stream has described.
    pub fn new(table: &Table, relation: &crate::change::Relation) -> Self {
        let full = relation.identity == crate::change::ReplicaIdentity::Full;
        let columns = table.columns.iter().map(|column| {
            let cell = relation.column_index(&column.name);
            let expression = match (&column.generation, cell) {
                (Generation::Expression(expression), None) => Some(expression.clone()),
                _ => None,
            };
            InputColumn {
                name: column.name.clone(),
                type_sql: column.type_name.sql.clone(),
                array_sql: column.type_name.array_sql.clone(),
                in_old: cell.is_some_and(|cell| relation.is_sent_in_old(cell))
                    || (full && expression.is_some()),
                cell,
                expression,
            }
        });
        InputTable {
            from_sql: table.from_sql(),
            columns: columns.collect(),
            primary_key: table.primary_key().map(<[String]>::to_vec).unwrap_or_default(),
        }
    }

    /// Names of the columns that `new` has.
    pub fn new_columns(&self) -> Vec<String> {
        self.columns.iter().map(|c| c.name.clone()).collect()
    }

    /// Names of the columns that `old` has.
    pub fn old_columns(&self) -> Vec<String> {
        self.columns.iter().filter(|c| c.in_old).map(|c| c.name.clone()).collect()
    }

    /// Whether `relation` has that column for this operation.
    pub fn has(&self, scope: Scope, operation: Operation, name: &str) -> bool {
        let of_old = scope == Scope::Old || scope == Scope::Row && operation == Operation::Delete;
        self.columns.iter().any(|c| c.name == name && (c.in_old || !of_old))
    }
}

/// Which of a change's rows a parameter is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The row after.
    New,
    /// The row before; where the update left the identity alone, it wasn't sent and the row after has it.
    Old,
}

/// One array parameter: a column of the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Param {
    /// Which row.
    pub side: Side,
    /// The cell.
    pub cell: usize,
}

impl Param {
    /// The value for one change.
    pub fn cell<'a>(&self, change: &'a Change) -> crate::change::Cell<'a> {
        let tuple = match self.side {
            Side::New => change.new.as_ref(),
            Side::Old => change.old.as_ref().or(change.new.as_ref()),
        };
        tuple.map_or(crate::change::Cell::Null, |tuple| tuple.cell(self.cell))
    }
}

/// A `FROM` clause that ends in the relation `trucker_result`.
#[derive(Debug, Clone)]
pub struct Chain {
    /// The clause, starting with `FROM`.
    pub from: String,
    /// In the order of `$1`, `$2` … Empty for a backfill.
    pub params: Vec<Param>,
    /// Where each file's text starts in `from`.
    pub files: Vec<(usize, RenderedFile)>,
}

/// Stands for the values of an old row that aren't sent: NULL when it runs, but in a plan it can be seen.
pub const UNSENT: &str = "trucker.unsent";

/// The chain over a batch of changes of one operation.
pub fn over_changes(input: &InputTable, operation: Operation, files: &[RenderedFile]) -> Chain {
    over(input, operation, files, false)
}

/// The chain over old rows of which it names columns that aren't sent: these are NULL. Whether the result depends on
/// them is another question, and the caller's to ask.
pub fn over_partial_rows(input: &InputTable, files: &[RenderedFile]) -> Chain {
    over(input, Operation::Delete, files, true)
}

fn over(input: &InputTable, operation: Operation, files: &[RenderedFile], is_partial: bool) -> Chain {
    let mut uses = Uses::of(input, operation, files, is_partial);
    let unsent: Vec<usize> = uses.old.iter().copied().filter(|&at| !input.columns[at].in_old).collect();
    uses.old.retain(|at| !unsent.contains(at));
    let mut batch = Batch::default();
    let new = batch.row(input, &uses.new, (operation != Operation::Delete).then_some(Side::New));
    let mut old = batch.row(input, &uses.old, (operation != Operation::Insert).then_some(Side::Old));
    if !unsent.is_empty() {
        let columns = unsent.iter().map(|&at| {
            let column = &input.columns[at];
            let name = quote_ident(&column.name);
            format!(", pg_catalog.current_setting('{UNSENT}', true)::{} AS {name}", column.type_sql)
        });
        old = format!("SELECT trucker_sent.*{} FROM ({old}) AS trucker_sent", columns.collect::<String>());
    }
    // A batch without a single column still has its number of rows.
    if batch.params.is_empty() {
        let key = input.columns.iter().find(|c| c.in_old).or_else(|| input.columns.first());
        let side = if operation == Operation::Delete { Side::Old } else { Side::New };
        key.into_iter().for_each(|column| drop(batch.value(column, side)));
    }
    let names = (0..batch.params.len()).map(|at| format!("c{at}, ")).collect::<String>();
    let mut from =
        format!("FROM unnest({}) WITH ORDINALITY AS trucker_change({names}n)", batch.arrays.join(", "));
    push_rows(&mut from, &new, &old, operation);
    Chain { params: batch.params, files: push_files(&mut from, files), from }
}

/// The chain over the table itself, as inserts.
pub fn over_table(input: &InputTable, files: &[RenderedFile]) -> Chain {
    let uses = Uses::of(input, Operation::Insert, files, false);
    let new = uses.new.iter().map(|&at| {
        let name = quote_ident(&input.columns[at].name);
        format!("trucker_change.{name} AS {name}")
    });
    let new = format!("SELECT {}", new.collect::<Vec<_>>().join(", "));
    let old = Batch::default().row(input, &uses.old, None);
    let mut from = format!("FROM {} AS trucker_change", input.from_sql);
    push_rows(&mut from, &new, &old, Operation::Insert);
    Chain { params: Vec::new(), files: push_files(&mut from, files), from }
}

fn push_rows(from: &mut String, new: &str, old: &str, operation: Operation) {
    let row = if operation == Operation::Delete { "old" } else { "new" };
    from.push_str(&format!(
        "\nCROSS JOIN LATERAL ({new}) AS new\nCROSS JOIN LATERAL ({old}) AS old\
         \nCROSS JOIN LATERAL (SELECT {row}.*) AS row"
    ));
}

fn push_files(from: &mut String, files: &[RenderedFile]) -> Vec<(usize, RenderedFile)> {
    let last = files.len().saturating_sub(1);
    let push = |(place, file): (usize, &RenderedFile)| {
        from.push_str("\nCROSS JOIN LATERAL (\n");
        let start = from.len();
        from.push_str(file.statement());
        // The newline ends a comment that the file may end in.
        from.push_str(if place == last { "\n) AS trucker_result" } else { "\n) AS transformed" });
        (start, file.clone())
    };
    files.iter().enumerate().map(push).collect()
}

/// Which columns the files need, as places in `InputTable::columns`, ascending.
struct Uses {
    new: Vec<usize>,
    old: Vec<usize>,
}

impl Uses {
    fn of(input: &InputTable, operation: Operation, files: &[RenderedFile], is_partial: bool) -> Self {
        let used = |scope: Scope, name: &str| {
            files
                .iter()
                .flat_map(|f| &f.references)
                .any(|r| r.scope == scope && r.column.as_deref().is_none_or(|column| column == name))
        };
        let row_is_old = operation == Operation::Delete;
        let all = |wanted: &dyn Fn(&InputColumn) -> bool| -> Vec<usize> {
            (0..input.columns.len()).filter(|&at| wanted(&input.columns[at])).collect()
        };
        Uses {
            new: all(&|c| used(Scope::New, &c.name) || !row_is_old && used(Scope::Row, &c.name)),
            old: all(&|c| {
                (c.in_old || is_partial)
                    && (used(Scope::Old, &c.name) || row_is_old && used(Scope::Row, &c.name))
            }),
        }
    }
}

#[derive(Default)]
struct Batch {
    params: Vec<Param>,
    arrays: Vec<String>,
}

impl Batch {
    /// `SELECT … AS column, …`: the values of one row; of NULLs where the operation has no such row.
    fn row(&mut self, input: &InputTable, used: &[usize], side: Option<Side>) -> String {
        let Some(side) = side else {
            let nulls = used.iter().map(|&at| {
                let column = &input.columns[at];
                format!("NULL::{} AS {}", column.type_sql, quote_ident(&column.name))
            });
            return format!("SELECT {}", nulls.collect::<Vec<_>>().join(", "));
        };
        let generated: Vec<&InputColumn> =
            used.iter().map(|&at| &input.columns[at]).filter(|c| c.expression.is_some()).collect();
        // An expression may use any column of the row, so all that were sent have to be there.
        let sent = |c: &InputColumn| c.cell.is_some() && (side == Side::New || c.in_old);
        let columns = input.columns.iter().enumerate();
        let values = columns.filter(|(at, c)| sent(c) && (!generated.is_empty() || used.contains(at)));
        let values: Vec<String> = values
            .map(|(_, column)| format!("{} AS {}", self.value(column, side), quote_ident(&column.name)))
            .collect();
        let values = format!("SELECT {}", values.join(", "));
        if generated.is_empty() {
            return values;
        }
        let expressions = generated
            .iter()
            .map(|c| format!("({}) AS {}", c.expression.as_deref().unwrap_or("NULL"), quote_ident(&c.name)));
        let expressions: Vec<String> = expressions.collect();
        format!("SELECT trucker_sent.*, {} FROM ({values}) AS trucker_sent", expressions.join(", "))
    }

    fn value(&mut self, column: &InputColumn, side: Side) -> String {
        let Some(cell) = column.cell else { return format!("NULL::{}", column.type_sql) };
        let param = Param { side, cell };
        let at = self.params.iter().position(|p| *p == param).unwrap_or_else(|| {
            self.params.push(param);
            let array = column.array_sql.as_deref().unwrap_or("pg_catalog._text");
            self.arrays.push(format!("${}::{array}", self.params.len()));
            self.params.len() - 1
        });
        match column.array_sql {
            Some(_) => format!("trucker_change.c{at}"),
            None => format!("trucker_change.c{at}::{}", column.type_sql),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input() -> InputTable {
        let column = |name: &str, type_sql: &str, cell, in_old, expression: Option<&str>| InputColumn {
            name: name.into(),
            type_sql: format!("pg_catalog.{type_sql}"),
            array_sql: (!type_sql.starts_with('_')).then(|| format!("pg_catalog._{type_sql}")),
            cell,
            in_old,
            expression: expression.map(str::to_owned),
        };
        InputTable {
            from_sql: "ONLY public.t".into(),
            columns: vec![
                column("id", "int4", Some(0), true, None),
                column("tags", "_text", Some(1), false, None),
                column("twice", "int4", None, false, Some("(id * 2)")),
            ],
            primary_key: vec!["id".into()],
        }
    }

    fn chain(operation: Operation, sql: &str) -> (String, Vec<Param>) {
        let file = RenderedFile::synthesized("p".as_ref(), sql.into());
        let chain = over_changes(&input(), operation, &[file]);
        (chain.from.replace('\n', " "), chain.params)
    }

    #[test]
    fn only_the_columns_in_use_travel() {
        let (sql, params) = chain(Operation::Insert, "SELECT row.id");
        assert_eq!(
            sql,
            "FROM unnest($1::pg_catalog._int4) WITH ORDINALITY AS trucker_change(c0, n) \
             CROSS JOIN LATERAL (SELECT trucker_change.c0 AS id) AS new CROSS JOIN LATERAL (SELECT ) AS old \
             CROSS JOIN LATERAL (SELECT new.*) AS row CROSS JOIN LATERAL ( SELECT row.id ) AS trucker_result"
        );
        assert_eq!(params, [Param { side: Side::New, cell: 0 }]);
    }

    #[test]
    fn arrays_travel_as_text_and_missing_rows_are_typed_nulls() {
        let (sql, _) = chain(Operation::Update, "SELECT new.tags, old.id");
        assert!(sql.contains("unnest($1::pg_catalog._text, $2::pg_catalog._int4)"), "{sql}");
        assert!(sql.contains("trucker_change.c0::pg_catalog._text AS tags"), "{sql}");
        let (sql, _) = chain(Operation::Delete, "SELECT new.id, row.id AS x");
        assert!(sql.contains("(SELECT NULL::pg_catalog.int4 AS id) AS new"), "{sql}");
        assert!(sql.contains("(SELECT old.*) AS row"), "{sql}");
    }

    #[test]
    fn generated_columns_are_computed_from_the_columns_that_are_sent() {
        let (sql, params) = chain(Operation::Insert, "SELECT new.twice");
        assert!(
            sql.contains("trucker_sent.*, ((id * 2)) AS twice FROM (SELECT trucker_change.c0 AS id,"),
            "{sql}"
        );
        assert_eq!(params.len(), 2);
    }

    #[test]
    fn a_file_that_uses_no_column_still_runs_once_per_change() {
        let (sql, params) = chain(Operation::Delete, "SELECT 1 AS x");
        assert!(sql.starts_with("FROM unnest($1::pg_catalog._int4) WITH ORDINALITY"), "{sql}");
        assert_eq!(params, [Param { side: Side::Old, cell: 0 }]);
    }
}
