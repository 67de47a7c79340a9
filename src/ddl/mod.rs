//! Writes the definitions of a live database's tables as SQL, from the catalogue alone: what the pipelines name, and what
//! their SQL and these definitions name in turn. For tests and new projects: enough to run the SQL, no backup. Reads;
//! changes nothing.

mod queries;

use tokio_postgres::{Client, Row};

use crate::config::TableName;

/// A relation or function that SQL may name.
struct Candidate {
    oid: u32,
    /// Schema and name.
    name: (String, String),
    /// `relkind`; `F` for functions.
    kind: char,
    /// What it names in turn.
    text: String,
    /// The partitioned table that it is a part of.
    parent: Option<u32>,
}

/// The statements that make the tables, and whatever their columns, defaults and the given SQL texts need, in an empty
/// database. A relation or function counts as needed where its name is a word of the SQL: rather one too many than one
/// too few. What is left out is said in comments.
///
/// # Errors
/// The server's.
pub async fn fetch_definitions(
    client: &Client,
    tables: &[TableName],
    sql: &[&str],
) -> Result<Vec<String>, tokio_postgres::Error> {
    // Everything is written with its schema then.
    client.batch_execute("BEGIN READ ONLY; SET LOCAL search_path = ''").await?;
    let written = write(client, tables, sql).await;
    client.batch_execute("ROLLBACK").await?;
    written
}

async fn write(
    client: &Client,
    tables: &[TableName],
    sql: &[&str],
) -> Result<Vec<String>, tokio_postgres::Error> {
    let needed = needed(candidates(client).await?, tables, sql);
    let of = |kinds: &str| -> Vec<u32> {
        needed
            .iter()
            .filter(|candidate| kinds.contains(candidate.kind))
            .map(|candidate| candidate.oid)
            .collect()
    };
    let (stored, views, functions) = (of("rpf"), of("vm"), of("F"));
    let mut parts: Vec<String> = Vec::new();
    if !functions.is_empty() {
        parts.push("SET check_function_bodies = off;".to_owned());
    }
    let mut ask = async |query: &str, oids: &[u32]| {
        let rows = client.query(query, &[&oids]).await?;
        for row in rows {
            parts.extend(row.try_get::<_, Option<String>>(0)?);
        }
        Ok::<_, tokio_postgres::Error>(())
    };
    let all: Vec<u32> = [stored.as_slice(), &views].concat();
    ask(queries::SCHEMAS, &[all.as_slice(), &functions].concat()).await?;
    ask(queries::EXTENSIONS, &all).await?;
    ask(queries::TYPES, &stored).await?;
    ask(queries::SEQUENCES, &stored).await?;
    ask(queries::FUNCTIONS_BEFORE, &functions).await?;
    ask(queries::TABLES, &stored).await?;
    ask(queries::PARTITIONS, &stored).await?;
    ask(queries::OWNED_SEQUENCES, &stored).await?;
    ask(queries::CONSTRAINTS, &stored).await?;
    ask(queries::UNIQUE_INDEXES, &stored).await?;
    ask(queries::FOREIGN_KEYS, &stored).await?;
    ask(queries::REPLICA_IDENTITY, &stored).await?;
    ask(queries::FUNCTIONS_AFTER, &functions).await?;
    ask(queries::VIEWS, &views).await?;
    ask(queries::LEFT_OUT, &stored).await?;
    Ok(parts)
}

async fn candidates(client: &Client) -> Result<Vec<Candidate>, tokio_postgres::Error> {
    let rows = client.query(queries::CANDIDATES, &[]).await?;
    let candidate = |row: &Row| {
        Ok(Candidate {
            oid: row.try_get(0)?,
            name: (row.try_get(1)?, row.try_get(2)?),
            kind: row.try_get::<_, String>(3)?.chars().next().unwrap_or(' '),
            text: row.try_get::<_, Option<String>>(4)?.unwrap_or_default(),
            parent: row.try_get(5)?,
        })
    };
    rows.iter().map(candidate).collect()
}

/// Those that are named by the project, by its SQL, or by one that is needed.
fn needed(mut candidates: Vec<Candidate>, tables: &[TableName], sql: &[&str]) -> Vec<Candidate> {
    let mut taken: Vec<Candidate> = Vec::new();
    let mut words: Vec<String> = sql.iter().flat_map(|text| words_of(text)).collect();
    loop {
        let is_needed = |candidate: &Candidate| {
            let (schema, name) = &candidate.name;
            words.contains(name)
                || tables.iter().any(|table| table.schema == *schema && table.table == *name)
                || taken.iter().any(|other| candidate.parent == Some(other.oid))
        };
        let (more, rest): (Vec<_>, Vec<_>) = candidates.into_iter().partition(is_needed);
        candidates = rest;
        if more.is_empty() {
            taken.sort_by_key(|candidate| candidate.oid);
            return taken;
        }
        words.extend(more.iter().flat_map(|candidate| words_of(&candidate.text)));
        taken.extend(more);
    }
}

/// Whatever could be a name: with quotes as it is, without in lower case.
fn words_of(text: &str) -> Vec<String> {
    let quoted = text.split('"').skip(1).step_by(2).map(str::to_owned);
    let plain = text.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '$');
    quoted.chain(plain.filter(|word| !word.is_empty()).map(str::to_lowercase)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_sql_names_is_needed_and_what_that_names() {
        let candidate = |oid, name: &str, text: &str, parent| Candidate {
            oid,
            name: ("public".to_owned(), name.to_owned()),
            kind: 'r',
            text: text.to_owned(),
            parent,
        };
        let all = [
            candidate(1, "orders", "next_number()", None),
            candidate(2, "next_number", "", None),
            candidate(3, "Odd Name", "SELECT FROM beneath", None),
            candidate(4, "beneath", "", None),
            candidate(5, "beneath_2024", "", Some(4)),
            candidate(6, "other", "", None),
        ];
        let orders = TableName { schema: "public".to_owned(), table: "orders".to_owned() };
        let names = |sql: &str| -> Vec<u32> {
            let all = all.iter().map(|c| candidate(c.oid, &c.name.1, &c.text, c.parent)).collect();
            needed(all, std::slice::from_ref(&orders), &[sql]).iter().map(|c| c.oid).collect()
        };
        assert_eq!(names("SELECT 1"), [1, 2]);
        assert_eq!(names("SELECT * FROM \"Odd Name\""), [1, 2, 3, 4, 5]);
        assert_eq!(names("select from OTHER;"), [1, 2, 6]);
    }
}
