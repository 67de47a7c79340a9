//! What the source says against a statement, at the place of the file that it comes from, with the name that was probably meant.

use tokio_postgres::error::ErrorPosition;
use tokio_postgres::{Client, Statement};

use super::SqlProblem;
use super::query::CompileError;
use super::render::RenderedFile;
use crate::codes::Code;
use crate::postgres::relation_names::fetch_meant;
use crate::postgres::{error, sqlstate};

/// Prepares a statement of which `files` lie behind the first `chain_start` bytes.
pub(super) async fn prepare_located(
    client: &Client,
    sql: &str,
    chain_start: usize,
    files: &[(usize, RenderedFile)],
) -> Result<Statement, CompileError> {
    match client.prepare(sql).await {
        Ok(statement) => Ok(statement),
        Err(failure) => Err(locate(client, failure, sql, chain_start, files).await),
    }
}

/// What the source said when it was to prepare such a statement.
pub(super) async fn locate(
    client: &Client,
    failure: tokio_postgres::Error,
    sql: &str,
    chain_start: usize,
    files: &[(usize, RenderedFile)],
) -> CompileError {
    if failure.as_db_error().is_none() || error::is_transient(&failure) {
        return CompileError::Postgres(failure);
    }
    let at = position(&failure, Some(sql));
    let mut problem = problem_at(
        sqlstate::code_of_preparing,
        &failure,
        at.and_then(|at| at.checked_sub(chain_start)),
        files,
    );
    if let Some(at) = at
        && let Some(meant) = fetch_meant(client, &failure, &sql[at..]).await
    {
        problem.help = Some(meant);
    }
    problem.into()
}

/// Byte offset that the server points at; its own count is of characters.
pub(super) fn position(failure: &tokio_postgres::Error, sql: Option<&str>) -> Option<usize> {
    let Some(ErrorPosition::Original(position)) = failure.as_db_error()?.position() else { return None };
    let characters = (*position as usize).saturating_sub(1);
    Some(sql.map_or(characters, |sql| sql.char_indices().nth(characters).map_or(sql.len(), |(at, _)| at)))
}

/// Blames the file that the offset lies in, or the last one.
pub(super) fn problem_at(
    code_of: fn(&str) -> Code,
    failure: &tokio_postgres::Error,
    at: Option<usize>,
    files: &[(usize, RenderedFile)],
) -> SqlProblem {
    let found = at.and_then(|at| {
        files.iter().find(|(start, f)| (*start..=start + f.statement().len()).contains(&at)).map(|f| (f, at))
    });
    let message = error::describe(failure);
    let code = code_of(failure.code().map_or("", |state| state.code()));
    let said = failure.as_db_error();
    let help = match code {
        // The server's own hint is nearer than anything here.
        _ if said.is_some_and(|said| said.hint().is_some()) => None,
        Code::SqlUnknownName if said.and_then(|said| said.routine()) == Some("errorMissingRTE") => {
            Some("name it in FROM; the row itself is new, old or row".to_owned())
        }
        Code::SqlUnknownName => {
            Some("is it spelled as on the source? Tables outside `public` need their schema".to_owned())
        }
        _ => None,
    };
    match (found, files.last()) {
        (Some(((start, file), at)), _) => file.problem(code, Some(at - start), message, help),
        (None, Some((_, file))) => file.problem(code, None, message, help),
        (None, None) => {
            SqlProblem { code, path: Default::default(), place: None, message, help: None, is_refusal: false }
        }
    }
}
