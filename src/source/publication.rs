//! The publication: which tables the slot's stream carries. One per source and project, shared by its pipelines.

use tokio_postgres::{Client, Row};

use crate::postgres::ident::{quote_ident, quote_relation};

/// A publication as the catalog has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// `pg_publication.oid`: another one means that it was made anew, and that changes in between are lost.
    pub oid: u32,
    /// Why it isn't one that this program made and relies on: it leaves out operations, or is for all tables.
    pub alteration: Option<String>,
    /// Its tables.
    pub tables: Vec<PublishedTable>,
}

/// A table in a publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedTable {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Schema, unquoted.
    pub schema: String,
    /// Table, unquoted.
    pub table: String,
    /// `pg_publication_rel.oid`: another one means that the table was taken out and put back, and that changes in
    /// between are lost.
    pub entry_oid: u32,
    /// Has a row filter or a column list, which somebody else put there.
    pub is_narrowed: bool,
}

impl Publication {
    /// The table with that OID.
    pub fn table(&self, oid: u32) -> Option<&PublishedTable> {
        self.tables.iter().find(|t| t.oid == oid)
    }

    /// What tells this publication of these tables from one that was made anew, or that they were taken out of and put
    /// back into: kept with checkpoints, since changes made in between are in no stream.
    pub fn marks(&self, oids: impl Iterator<Item = u32>) -> String {
        let mut entries: Vec<u32> = oids.filter_map(|oid| self.table(oid)).map(|t| t.entry_oid).collect();
        entries.sort_unstable();
        entries.iter().fold(self.oid.to_string(), |marks, entry| format!("{marks} {entry}"))
    }
}

/// Reads a publication; None if there is none of that name.
pub async fn fetch(
    client: &Client,
    server_version: u32,
    name: &str,
) -> Result<Option<Publication>, tokio_postgres::Error> {
    let sql = "SELECT oid, puballtables, pubinsert AND pubupdate AND pubdelete AND pubtruncate, pubviaroot \
               FROM pg_catalog.pg_publication WHERE pubname = $1";
    let Some(row) = client.query_opt(sql, &[&name]).await? else { return Ok(None) };
    let oid: u32 = row.try_get(0)?;
    let alteration = match (row.try_get(1)?, row.try_get(2)?, row.try_get(3)?) {
        (true, _, _) => Some("it is FOR ALL TABLES"),
        (_, false, _) => Some("it doesn't publish all of insert, update, delete and truncate"),
        (_, _, false) => Some("publish_via_partition_root is off"),
        _ => None,
    };
    // Row filters and column lists came with Postgres 15.
    let narrowed =
        if server_version >= 150_000 { "r.prqual IS NOT NULL OR r.prattrs IS NOT NULL" } else { "false" };
    let sql = format!(
        "SELECT c.oid, n.nspname::text, c.relname::text, {narrowed}, r.oid FROM pg_catalog.pg_publication_rel r \
         JOIN pg_catalog.pg_class c ON c.oid = r.prrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE r.prpubid = $1 ORDER BY 2, 3"
    );
    let tables = client.query(&sql, &[&oid]).await?;
    let published = |row: &Row| {
        Ok(PublishedTable {
            oid: row.try_get(0)?,
            schema: row.try_get(1)?,
            table: row.try_get(2)?,
            is_narrowed: row.try_get(3)?,
            entry_oid: row.try_get(4)?,
        })
    };
    let tables = tables.iter().map(published).collect::<Result<_, tokio_postgres::Error>>()?;
    Ok(Some(Publication { oid, alteration: alteration.map(str::to_owned), tables }))
}

/// `CREATE PUBLICATION` for these tables, as [`relation_sql`] writes them. Partitions are published as their root.
pub fn create_sql(name: &str, tables: &[String]) -> String {
    format!(
        "CREATE PUBLICATION {} FOR TABLE {} WITH (publish_via_partition_root = true)",
        quote_ident(name),
        tables.join(", ")
    )
}

/// `ALTER PUBLICATION … ADD TABLE`. On servers with the decoding bug that the minors of May 2025 fixed, a lock makes
/// it wait for transactions that write to the tables: with a stale idea of what is published, the rest of these would
/// be lost. (On all others the backfill's snapshot is enough.)
pub fn add_sql(server_version: u32, name: &str, tables: &[String]) -> String {
    let add = format!("ALTER PUBLICATION {} ADD TABLE {}", quote_ident(name), tables.join(", "));
    let fixed = match server_version / 10_000 {
        14 => 140_018,
        15 => 150_013,
        16 => 160_009,
        17 => 170_005,
        _ => return add,
    };
    if server_version >= fixed {
        return add;
    }
    format!("BEGIN; LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE; {add}; COMMIT", tables.join(", "))
}

/// `ALTER PUBLICATION … DROP TABLE`.
pub fn drop_sql(name: &str, tables: &[String]) -> String {
    format!("ALTER PUBLICATION {} DROP TABLE {}", quote_ident(name), tables.join(", "))
}

/// A table as a publication names it: without the tables that inherit from it, which have replica identities of their own
/// and are nobody's input.
pub fn relation_sql(schema: &str, table: &str) -> String {
    format!("ONLY {}", quote_relation(schema, table))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted() {
        assert_eq!(
            create_sql("trucker_shop", &[relation_sql("public", "orders"), relation_sql("Odd", "a\"b")]),
            "CREATE PUBLICATION trucker_shop FOR TABLE ONLY public.orders, ONLY \"Odd\".\"a\"\"b\" \
             WITH (publish_via_partition_root = true)"
        );
    }

    #[test]
    fn tables_are_added_under_a_lock_where_the_server_would_lose_open_transactions() {
        let tables = [relation_sql("public", "a"), relation_sql("public", "b")];
        for (version, is_locked) in [
            (140_017, true),
            (140_018, false),
            (150_012, true),
            (150_013, false),
            (160_002, true),
            (160_009, false),
            (170_004, true),
            (170_005, false),
            (180_000, false),
        ] {
            let sql = add_sql(version, "p", &tables);
            assert_eq!(
                sql.contains("LOCK TABLE ONLY public.a, ONLY public.b IN"),
                is_locked,
                "{version}: {sql}"
            );
            assert!(sql.contains("ALTER PUBLICATION p ADD TABLE ONLY public.a, ONLY public.b"), "{sql}");
        }
    }
}
