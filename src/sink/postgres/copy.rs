//! Fills an output table from a backfill's COPY stream, in the open transaction.
//!
//! An empty table takes the rows as they come. One with rows in it gets them by way of a temporary table: what the
//! SQL doesn't return any more goes (rows that an earlier, interrupted life of the pipeline left behind among them),
//! the rest is put as `on.insert` says.

use std::pin::Pin;

use bytes::Bytes;
use tokio_postgres::CopyInSink;

use super::statement::{Target, copy_sql};
use super::writer::Writer;
use crate::config::Action;
use crate::postgres::ident::{quote_ident, quote_idents};
use crate::sink::SinkError;

/// A backfill under way.
#[derive(Debug, Clone)]
pub struct Fill {
    /// What to do with the rows.
    pub action: Action,
    /// Whether rows of the output that the SQL doesn't return are to go.
    pub removes_others: bool,
    /// By way of the temporary table of this number; None: straight into the output table.
    pub staging: Option<usize>,
    /// The columns that come.
    pub columns: Vec<String>,
    /// In binary form.
    pub is_binary: bool,
}

impl Fill {
    /// The temporary table.
    fn staging_sql(&self) -> String {
        format!("pg_temp.trucker_backfill_{}", self.staging.unwrap_or_default())
    }
}

impl Writer {
    /// Whether the output table has no rows.
    pub async fn is_empty(&mut self) -> Result<bool, SinkError> {
        self.begin().await?;
        let Some(target) = self.target() else { return Ok(true) };
        let sql = format!("SELECT NOT EXISTS (SELECT FROM {})", target.table.sql());
        let row = self.client().query_one(&sql, &[]).await;
        row.and_then(|row| row.try_get(0)).map_err(SinkError::at("looking into the output table"))
    }

    /// Makes the temporary table for rows of these columns.
    pub async fn stage(&mut self, fill: &Fill) -> Result<(), SinkError> {
        self.begin().await?;
        let Some(target) = self.target() else { return Ok(()) };
        let staging = fill.staging_sql();
        let sql = format!(
            "CREATE TEMPORARY TABLE {staging} ON COMMIT DROP AS SELECT {} FROM {} WITH NO DATA; \
             ALTER TABLE {staging} ADD COLUMN trucker_n bigint GENERATED ALWAYS AS IDENTITY",
            quote_idents(fill.columns.iter().map(String::as_str)),
            target.table.sql()
        );
        let what = "making the backfill's temporary table (needs TEMPORARY on the output database)";
        self.client().batch_execute(&sql).await.map_err(SinkError::at(what))
    }

    /// Starts the COPY.
    pub async fn copy(&mut self, fill: &Fill) -> Result<Pin<Box<CopyInSink<Bytes>>>, SinkError> {
        self.begin().await?;
        let table = match self.target() {
            Some(target) if fill.staging.is_none() => target.table.sql(),
            _ => fill.staging_sql(),
        };
        let sql = copy_sql(&table, fill.columns.iter().map(String::as_str), fill.is_binary);
        let copy = self.client().copy_in(&sql).await.map_err(SinkError::at("copying into the output"))?;
        Ok(Box::pin(copy))
    }

    /// Brings what was staged into the table. Answers how many rows of the table had to go.
    pub async fn merge_staged(&mut self, fills: &[Fill]) -> Result<u64, SinkError> {
        let Some(target) = self.target() else { return Ok(0) };
        let mut removed = 0;
        if fills.iter().all(|fill| fill.removes_others) {
            let what = "removing rows that the SQL doesn't return";
            let sql = remove_others(target, fills);
            removed = self.client().execute(&sql, &[]).await.map_err(SinkError::at(what))?;
        }
        for fill in fills {
            if let Some(sql) = merge(target, fill) {
                let what = "writing the backfilled rows";
                self.client().execute(&sql, &[]).await.map_err(SinkError::at(what))?;
            }
            let dropped = self.client().batch_execute(&format!("DROP TABLE {}", fill.staging_sql())).await;
            dropped.map_err(SinkError::at("dropping the backfill's temporary table"))?;
        }
        Ok(removed)
    }
}

fn key_matches(target: &Target, left: &str, right: &str) -> String {
    let equal = target.key.iter().map(|key| format!("{left}.{0} = {right}.{0}", quote_ident(key)));
    equal.collect::<Vec<_>>().join(" AND ")
}

fn remove_others(target: &Target, fills: &[Fill]) -> String {
    let returned = fills.iter().map(|fill| {
        format!(
            "NOT EXISTS (SELECT FROM {} AS s WHERE {})",
            fill.staging_sql(),
            key_matches(target, "o", "s")
        )
    });
    let returned: Vec<String> = returned.collect();
    format!("DELETE FROM {} AS o WHERE {}", target.table.sql(), returned.join(" AND "))
}

fn merge(target: &Target, fill: &Fill) -> Option<String> {
    let table = target.table.sql();
    let columns = quote_idents(fill.columns.iter().map(String::as_str));
    let key = quote_idents(target.key.iter().map(String::as_str));
    let others = fill.columns.iter().filter(|c| !target.key.contains(c)).filter(|c| {
        target
            .table
            .column(c)
            .is_some_and(|c| c.generation != crate::postgres::catalog::Generation::IdentityAlways)
    });
    let set = |row: &str| {
        let set = others.clone().map(|c| format!("{0} = {row}.{0}", quote_ident(c)));
        set.collect::<Vec<_>>().join(", ")
    };
    // Of several rows with one key the last counts, as it would if they came one after the other.
    let staging = fill.staging_sql();
    let last = format!("SELECT DISTINCT ON ({key}) * FROM {staging} ORDER BY {key}, trucker_n DESC");
    let insert = |from: &str| {
        format!("INSERT INTO {table} AS o ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM {from}")
    };
    match fill.action {
        Action::Ignore => None,
        Action::Insert => Some(insert(&format!("{staging} ORDER BY trucker_n"))),
        Action::Upsert if others.clone().next().is_none() => {
            Some(format!("{} ON CONFLICT ({key}) DO NOTHING", insert(&format!("({last}) AS s"))))
        }
        Action::Upsert => Some(format!(
            "{} ON CONFLICT ({key}) DO UPDATE SET {}",
            insert(&format!("({last}) AS s")),
            set("excluded")
        )),
        Action::Update if others.clone().next().is_none() => None,
        Action::Update => Some(format!(
            "UPDATE {table} AS o SET {} FROM ({last}) AS s WHERE {}",
            set("s"),
            key_matches(target, "o", "s")
        )),
        Action::Delete => Some(format!(
            "DELETE FROM {table} AS o USING {staging} AS s WHERE {}",
            key_matches(target, "o", "s")
        )),
    }
}
