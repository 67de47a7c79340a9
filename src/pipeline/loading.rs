//! load.sql and truncate.sql, looked at on the output beforehand: what a server says of them is said before the first rows
//! come. Postgres prepares and plans both, in a transaction that is always undone; ClickHouse explains load.sql. Writes
//! nothing.

use tokio_postgres::Client;
use tokio_postgres::error::{ErrorPosition, SqlState};

use super::compiled::Compiled;
use super::definition::Checked;
use super::error::PipelineError;
use crate::clickhouse;
use crate::codes::Code;
use crate::postgres::error;
use crate::postgres::ident::quote_ident;
use crate::postgres::relation_names::fetch_meant;
use crate::sink::clickhouse::load::decide;
use crate::sink::{Output, SinkError};
use crate::transform::SqlProblem;
use crate::transform::render::RenderedFile;

/// ClickHouse's code for a right that is missing.
const ACCESS_DENIED: i32 = 497;

/// What the output refuses of one input table's files.
pub async fn check(compiled: &Compiled, output: &Output) -> Checked<()> {
    let problems = match output {
        Output::Postgres(session) => on_postgres(compiled, &session.client).await?,
        Output::ClickHouse(client) => on_clickhouse(compiled, client).await?,
    };
    let mut told: Vec<SqlProblem> = Vec::new();
    for problem in problems {
        if !told.iter().any(|known| known.is_same_mistake(&problem)) {
            told.push(problem);
        }
    }
    if told.is_empty() { Ok(()) } else { Err(PipelineError::Problems(told)) }
}

async fn on_clickhouse(compiled: &Compiled, output: &clickhouse::Client) -> Checked<Vec<SqlProblem>> {
    let mut problems = Vec::new();
    for (load, file) in compiled.loads.iter().flatten().zip(compiled.load_files.iter().flatten()) {
        match decide(output, load).await {
            Ok(_) => {}
            Err(error) if error.is_transient() => {
                return Err(SinkError::clickhouse("explaining load.sql on the output")(error).into());
            }
            Err(error) => {
                let is_refusal = error.code == Some(ACCESS_DENIED);
                let code = if is_refusal { Code::SqlRight } else { Code::LoadRefused };
                problems.push(SqlProblem { is_refusal, ..file.problem(code, None, error.to_string(), None) });
            }
        }
    }
    Ok(problems)
}

/// `output` is a session without an open transaction.
async fn on_postgres(compiled: &Compiled, output: &Client) -> Checked<Vec<SqlProblem>> {
    let mut problems: Vec<SqlProblem> = Vec::new();
    for (load, file) in compiled.loads.iter().flatten().zip(compiled.load_files.iter().flatten()) {
        let columns: Vec<String> =
            load.columns.iter().map(|c| format!("{} {}", quote_ident(&c.name), c.type_sql)).collect();
        let relation = format!("CREATE TEMPORARY TABLE {} ({})", load.relation, columns.join(", "));
        problems.extend(refusal(output, Some(&relation), file).await?);
    }
    if let Some(file) = &compiled.truncate {
        problems.extend(refusal(output, None, file).await?);
    }
    Ok(problems)
}

/// What is wrong with a file whose statements read the relation that is made by this statement.
async fn refusal(
    output: &Client,
    relation: Option<&str>,
    file: &RenderedFile,
) -> Checked<Option<SqlProblem>> {
    let asking = || SinkError::at("preparing load.sql on the output");
    output.batch_execute("BEGIN").await.map_err(asking())?;
    let refused = match relation {
        Some(sql) => output.batch_execute(sql).await.err().map(|failure| of_relation(&failure, file)),
        None => None,
    };
    let (mut refused, failure) = match refused {
        None => first_refusal(output, file)
            .await
            .map_or((None, None), |(p, failure, sql)| (Some(p), Some((failure, sql)))),
        refused => (refused, None),
    };
    output.batch_execute("ROLLBACK").await.map_err(asking())?;
    if let (Some(problem), Some((failure, sql))) = (&mut refused, failure) {
        problem.help = match failure.code() {
            // What ON CONFLICT names has no unique index.
            Some(&SqlState::INVALID_COLUMN_REFERENCE) => Some(
                "CREATE UNIQUE INDEX ON the table that it writes (the columns of its ON CONFLICT)".to_owned(),
            ),
            _ => fetch_meant(output, &failure, sql).await,
        };
    }
    Ok(refused)
}

fn of_relation(failure: &tokio_postgres::Error, file: &RenderedFile) -> SqlProblem {
    let message =
        format!("the relation that it reads can't be made on the output: {}", error::describe(failure));
    if failure.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
        let help = "GRANT TEMPORARY ON DATABASE … TO the connection's user".to_owned();
        let problem = file.problem(Code::TemporaryRight, None, message, Some(help));
        return SqlProblem { is_refusal: true, ..problem };
    }
    file.problem(Code::LoadRefused, None, message, None)
}

/// The first statement that the server refuses: what it says, and the SQL that it says it of.
async fn first_refusal<'f>(
    output: &Client,
    file: &'f RenderedFile,
) -> Option<(SqlProblem, tokio_postgres::Error, &'f str)> {
    let mut before = String::new();
    for (start, sql) in file.statements() {
        let Err((failure, shift)) = prepare(output, sql).await else {
            before += &sql.to_lowercase();
            continue;
        };
        let is_about_name = matches!(failure.code().map(SqlState::code), Some("42P01" | "42883" | "3F000"));
        if is_about_name && before.contains("create") {
            // A statement before it may make what it names.
            return None;
        }
        let place = match failure.as_db_error().and_then(|said| said.position()) {
            Some(ErrorPosition::Original(place)) => usize::try_from(*place as isize - 1 - shift).ok(),
            _ => None,
        };
        let place = place.and_then(|place| sql.char_indices().nth(place)).map(|(offset, _)| offset);
        let offset = place.map(|offset| start + offset);
        let problem = file.problem(Code::LoadRefused, offset, error::describe(&failure), None);
        let is_refusal = failure.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE);
        let code = if is_refusal { Code::SqlRight } else { Code::LoadRefused };
        return Some((SqlProblem { code, is_refusal, ..problem }, failure, &sql[place.unwrap_or(0)..]));
    }
    None
}

/// Has the server parse a statement, and plan it where it can be planned: that asks for rights, and for the unique index of
/// ON CONFLICT. The error comes with how many characters of ours stand before the statement's own.
async fn prepare(output: &Client, sql: &str) -> Result<(), (tokio_postgres::Error, isize)> {
    output.prepare(sql).await.map_err(|failure| (failure, 0))?;
    if let Some((start, tables)) = truncated(sql) {
        const FROM: &str = "SELECT FROM ";
        let skipped = sql[..start].chars().count() as isize;
        let asked = output.prepare(&format!("{FROM}{tables}")).await;
        return asked.map(drop).map_err(|failure| (failure, FROM.len() as isize - skipped));
    }
    const EXPLAIN: &str = "EXPLAIN ";
    let word: String = sql.trim_start().chars().take_while(char::is_ascii_alphabetic).collect();
    let can_plan = ["insert", "update", "delete", "merge", "select", "with"];
    if !can_plan.contains(&word.to_lowercase().as_str()) {
        return Ok(());
    }
    let planned = output.query(&format!("{EXPLAIN}{sql}"), &[]).await;
    planned.map(drop).map_err(|failure| (failure, EXPLAIN.len() as isize))
}

/// The tables of a TRUNCATE, which a server looks up only when it runs, and where they begin.
fn truncated(sql: &str) -> Option<(usize, &str)> {
    let mut rest = sql;
    for (word, is_needed) in [("truncate", true), ("table", false)] {
        let start = rest.trim_start();
        let is_it = start.get(..word.len()).is_some_and(|first| first.eq_ignore_ascii_case(word))
            && start[word.len()..].starts_with(char::is_whitespace);
        match (is_it, is_needed) {
            (true, _) => rest = &start[word.len()..],
            (false, true) => return None,
            (false, false) => {}
        }
    }
    let lower = rest.to_ascii_lowercase();
    let options = [" restart ", " continue ", " cascade", " restrict"];
    let end = options.iter().filter_map(|option| lower.find(option)).min().unwrap_or(rest.len());
    Some((sql.len() - rest.len(), &rest[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_of_a_truncate_are_found() {
        for (sql, expected) in [
            ("TRUNCATE revenue", Some((8, " revenue"))),
            ("truncate table only a, s.b cascade", Some((14, " only a, s.b"))),
            ("\n TRUNCATE\n\"Odd\" RESTART IDENTITY", Some((10, "\n\"Odd\""))),
            ("TRUNCATE tables", Some((8, " tables"))),
            ("TRUNCATED", None),
            ("DELETE FROM a", None),
        ] {
            assert_eq!(truncated(sql), expected, "{sql}");
        }
    }
}
