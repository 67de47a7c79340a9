//! Changes that a pipeline could not load, in `trucker.dead_letters`: written in the transaction in which the checkpoint
//! passes them, so each is there exactly once. Here, and only here, are a row's values kept: the table is in the user's
//! own database.

use tokio_postgres::Client;

use crate::sink::{CheckpointKey, DeadLetter, SinkError};

/// The table, and what finds a pipeline's rows in it.
pub const TABLE: &str = "\
CREATE TABLE IF NOT EXISTS trucker.dead_letters (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  project text NOT NULL,
  pipeline text NOT NULL,
  commit_lsn pg_lsn NOT NULL,
  ordinal bigint NOT NULL,
  xid bigint NOT NULL,
  \"table\" text NOT NULL,
  operation text NOT NULL,
  old jsonb,
  new jsonb,
  error text NOT NULL,
  sqlstate text,
  file text,
  is_skipped boolean NOT NULL,
  recorded_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS dead_letters_pipeline ON trucker.dead_letters (project, pipeline);
COMMENT ON TABLE trucker.dead_letters IS
  'Changes that pipelines of trucker could not load, or were told to skip. Rows may be deleted'";

/// Text that any encoding can hold: characters beyond ASCII as `\u{…}`.
fn in_ascii(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii() { c.to_string() } else { c.escape_unicode().to_string() }).collect()
}

/// The same within JSON.
pub(super) fn json_in_ascii(json: &str) -> String {
    json.chars()
        .map(|c| if c.is_ascii() { c.to_string() } else { format!("\\{}", c.escape_unicode()) })
        .collect()
}

/// Whether the output refuses a text for what is in it: its encoding lacks a character.
pub(super) fn is_about_text(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| code.code().starts_with("22"))
}

/// Records a change in the transaction that is open on `client`.
pub async fn record(client: &Client, key: &CheckpointKey, letter: &DeadLetter) -> Result<(), SinkError> {
    let what = || "recording a change in trucker.dead_letters (needs INSERT there)".to_owned();
    let failed = || SinkError::at(what());
    client.batch_execute("SAVEPOINT trucker_letter").await.map_err(failed())?;
    if let Err(error) = insert(client, key, letter).await {
        if !is_about_text(&error) {
            return Err(failed()(error));
        }
        client.batch_execute("ROLLBACK TO SAVEPOINT trucker_letter").await.map_err(failed())?;
        let json = |json: &Option<String>| json.as_deref().map(json_in_ascii);
        let letter = DeadLetter {
            old: json(&letter.old),
            new: json(&letter.new),
            table: in_ascii(&letter.table),
            error: in_ascii(&letter.error),
            file: letter.file.as_deref().map(in_ascii),
            ..letter.clone()
        };
        insert(client, key, &letter).await.map_err(failed())?;
    }
    client.batch_execute("RELEASE SAVEPOINT trucker_letter").await.map_err(failed())
}

async fn insert(
    client: &Client,
    key: &CheckpointKey,
    letter: &DeadLetter,
) -> Result<u64, tokio_postgres::Error> {
    let sql = "INSERT INTO trucker.dead_letters (project, pipeline, commit_lsn, ordinal, xid, \"table\", operation, \
               old, new, error, sqlstate, file, is_skipped) VALUES ($1, $2, $3::text::pg_lsn, $4, $5, $6, $7, \
               $8::text::jsonb, $9::text::jsonb, $10, $11, $12, $13)";
    client
        .execute(
            sql,
            &[
                &key.project,
                &key.pipeline,
                &letter.commit_lsn.to_string(),
                &(letter.ordinal as i64),
                &i64::from(letter.xid),
                &letter.table,
                &letter.operation,
                &letter.old,
                &letter.new,
                &letter.error,
                &letter.sqlstate,
                &letter.file,
                &letter.is_skipped,
            ],
        )
        .await
}

async fn exists(client: &Client) -> Result<bool, SinkError> {
    let sql = "SELECT pg_catalog.to_regclass('trucker.dead_letters') IS NOT NULL";
    let row = client.query_one(sql, &[]).await;
    row.and_then(|row| row.try_get(0)).map_err(SinkError::at("looking for trucker.dead_letters"))
}

/// How many there are, by pipeline.
pub async fn count(client: &Client, project: &str) -> Result<Vec<(String, i64)>, SinkError> {
    if !exists(client).await? {
        return Ok(Vec::new());
    }
    let sql = "SELECT pipeline, count(*) FROM trucker.dead_letters WHERE project = $1 GROUP BY pipeline";
    let rows = client.query(sql, &[&project]).await;
    let counts =
        rows.and_then(|rows| rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect());
    counts.map_err(SinkError::at("counting trucker.dead_letters"))
}

/// Whether there are any of other projects.
pub async fn has_others(client: &Client, project: &str) -> Result<bool, SinkError> {
    if !exists(client).await? {
        return Ok(false);
    }
    let sql = "SELECT EXISTS (SELECT FROM trucker.dead_letters WHERE project <> $1)";
    let row = client.query_one(sql, &[&project]).await;
    row.and_then(|row| row.try_get(0)).map_err(SinkError::at("looking into trucker.dead_letters"))
}

/// Deletes those of a project.
pub async fn delete_all(client: &Client, project: &str) -> Result<(), SinkError> {
    if !exists(client).await? {
        return Ok(());
    }
    let done = client.execute("DELETE FROM trucker.dead_letters WHERE project = $1", &[&project]).await;
    done.map(drop).map_err(SinkError::at("deleting the project's dead letters"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ascii_says_any_text() {
        assert_eq!(json_in_ascii(r#"{"a":"é\n"}"#), r#"{"a":"\\u{e9}\n"}"#);
        assert_eq!(in_ascii("é\n"), "\\u{e9}\n");
    }
}
