//! The partitions of published tables: which there are, and which came or went. A partition that is attached, detached,
//! dropped or emptied by itself sends no change, so all that can be done is to say so.

use tokio_postgres::Client;

use crate::postgres::ident::quote_relation;

/// A leaf partition of a published table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Quoted.
    pub name: String,
    /// The published table, quoted.
    pub root: String,
    /// Whether it takes up room.
    pub has_rows: bool,
}

/// All leaf partitions of the tables of a publication.
pub async fn fetch(client: &Client, publication: u32) -> Result<Vec<Partition>, tokio_postgres::Error> {
    let sql = "SELECT l.oid, ln.nspname::text, l.relname::text, rn.nspname::text, r.relname::text, \
               pg_catalog.pg_relation_size(l.oid) > 0 \
               FROM pg_catalog.pg_publication_rel p \
               JOIN pg_catalog.pg_class r ON r.oid = p.prrelid AND r.relkind = 'p' \
               JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace \
               CROSS JOIN LATERAL pg_catalog.pg_partition_tree(r.oid) t \
               JOIN pg_catalog.pg_class l ON l.oid = t.relid \
               JOIN pg_catalog.pg_namespace ln ON ln.oid = l.relnamespace \
               WHERE p.prpubid = $1 AND t.isleaf AND l.relkind <> 'p' ORDER BY 1";
    let rows = client.query(sql, &[&publication]).await?;
    let partition = |row: &tokio_postgres::Row| {
        Ok(Partition {
            oid: row.try_get(0)?,
            name: quote_relation(row.try_get(1)?, row.try_get(2)?),
            root: quote_relation(row.try_get(3)?, row.try_get(4)?),
            has_rows: row.try_get::<_, Option<bool>>(5)?.unwrap_or(false),
        })
    };
    rows.iter().map(partition).collect()
}

/// Whether none has come and none has left.
pub fn are_same(before: &[Partition], now: &[Partition]) -> bool {
    before.iter().map(|p| p.oid).eq(now.iter().map(|p| p.oid))
}

/// What no change will tell of the way from one list to the other, for people.
pub fn untold(before: &[Partition], now: &[Partition]) -> Vec<String> {
    let is_in = |list: &[Partition], oid: u32| list.iter().any(|p| p.oid == oid);
    let left = before.iter().filter(|p| !is_in(now, p.oid)).map(|p| {
        format!(
            "partition {} has left {}: Postgres sends no deletes for its rows, they stay in outputs",
            p.name, p.root
        )
    });
    let joined = now.iter().filter(|p| p.has_rows && !is_in(before, p.oid)).map(|p| {
        format!("partition {} has joined {}: rows that it had before that aren't sent", p.name, p.root)
    });
    left.chain(joined).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_that_left_or_brought_rows_are_told_and_new_ones_are_not() {
        let partition =
            |oid, has_rows| Partition { oid, name: format!("p{oid}"), root: "t".into(), has_rows };
        let before = [partition(1, true), partition(2, false)];
        let now = [partition(2, true), partition(3, true), partition(4, false)];
        let told = untold(&before, &now);
        assert!(told.len() == 2 && told[0].starts_with("partition p1 has left t"), "{told:?}");
        assert!(told[1].starts_with("partition p3 has joined t"), "{told:?}");
        assert_eq!(untold(&now, &now), Vec::<String>::new());
    }
}
