//! The spans of a pipeline's work, for whoever collects traces: one per batch, and below it one for each statement on
//! the source and each write and commit on the output. Names and attributes are OpenTelemetry's for Postgres clients.
//! Never holds SQL, nor a value of a row; where nobody listens a span is a look at a flag.

use tracing::field::Empty;
use tracing::{Instrument, Span, info_span};

use crate::change::Lsn;
use crate::config::{Connection, PostgresConnection};
use crate::sink::clickhouse::Versioned;
use crate::sink::{Put, Write, Writes};

use super::definition::{Checked, Definition};
use super::error::PipelineError;
use super::queue::Piece;
use super::stage::Work;

/// Which of a pipeline's databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// Where changes come from, and the SQL runs.
    Source,
    /// Where rows go.
    Output,
}

/// A batch of changes; none where there is nothing new in it. `is_new` tells what isn't in the output yet.
pub fn batch(definition: &Definition, pieces: &[Piece], is_new: impl Fn(&Piece) -> bool) -> Span {
    let new = || pieces.iter().filter(|piece| !piece.entries.is_empty() && is_new(piece));
    let Some(first) = new().next() else { return Span::none() };
    info_span!(
        "batch",
        trucker.project = definition.key.project,
        trucker.pipeline = definition.pipeline.name,
        trucker.commit_lsn = %first.commit_lsn,
        trucker.end_lsn = new().filter_map(|piece| piece.end).last().map(|end| end.end_lsn.to_string()),
        trucker.transactions = new().filter(|piece| piece.end.is_some()).count() as i64,
        trucker.changes = new().map(|piece| piece.entries.len()).sum::<usize>() as i64,
        error.type = Empty,
        otel.status_code = Empty,
    )
}

/// A pipeline's backfill.
pub fn backfill(definition: &Definition) -> Span {
    info_span!(
        "backfill",
        trucker.project = definition.key.project,
        trucker.pipeline = definition.pipeline.name,
        error.type = Empty,
        otel.status_code = Empty,
    )
}

/// A statement on the source, or on the output, below `parent`. A `table` where it is about one.
pub fn statement(
    parent: &Span,
    definition: &Definition,
    at: At,
    operation: &str,
    table: Option<&str>,
) -> Span {
    // Without a batch there is nothing to see it in.
    if parent.is_disabled() {
        return Span::none();
    }
    let server = match (at, &definition.output) {
        (At::Output, Connection::Postgres(output)) => Server::postgres(output),
        (At::Output, Connection::ClickHouse(output)) => Server {
            system: "clickhouse",
            name: &output.name,
            database: &output.database,
            host: &output.host,
            port: Some(output.port),
        },
        (At::Source, _) => Server::postgres(definition.source.queried()),
    };
    info_span!(
        parent: parent,
        "statement",
        otel.name = %format_args!("{operation} {}", table.unwrap_or(server.database)),
        otel.kind = "client",
        db.system.name = server.system,
        db.namespace = server.database,
        db.operation.name = operation,
        db.collection.name = table,
        server.address = server.host,
        server.port = server.port.map(i64::from),
        trucker.pipeline = definition.pipeline.name,
        trucker.connection = server.name,
        db.operation.batch.size = Empty,
        trucker.operation = Empty,
        trucker.changes = Empty,
        trucker.rows = Empty,
        trucker.loaded_lsn = Empty,
        db.response.status_code = Empty,
        error.type = Empty,
        otel.status_code = Empty,
    )
}

/// What a span says of the server that it is about.
struct Server<'a> {
    system: &'static str,
    name: &'a str,
    database: &'a str,
    host: &'a str,
    port: Option<u16>,
}

impl<'a> Server<'a> {
    fn postgres(to: &'a PostgresConnection) -> Self {
        let port = (!to.host.starts_with('/')).then_some(to.port);
        Server { system: "postgresql", name: &to.name, database: &to.database, host: &to.host, port }
    }
}

/// What the output is handed, below its batch.
pub fn work(batch: &Span, definition: &Definition, work: &Work) -> Span {
    let table = definition.output_name();
    let of = |operation| statement(batch, definition, At::Output, operation, table.as_deref());
    match work {
        Work::Writes(writes, _) => {
            let (operation, statements, rows) = match writes {
                Writes::Statements(writes) => {
                    (operation(writes), writes.len(), writes.iter().map(rows).sum::<usize>())
                }
                Writes::Versions(versions) => ("INSERT", 1, versions.iter().map(versioned_rows).sum()),
            };
            let span = of(operation);
            if statements > 1 {
                span.record("db.operation.batch.size", statements as i64);
            }
            span.record("trucker.rows", rows as i64);
            span
        }
        Work::LoadRows(_, rows) => {
            let span = statement(batch, definition, At::Output, "COPY", None);
            span.record("trucker.rows", rows.len() as i64);
            span
        }
        Work::LoadRun(_) => of("load.sql"),
        Work::Truncate(_) => of("truncate.sql"),
        Work::DeadLetter(_) => {
            statement(batch, definition, At::Output, "INSERT", Some("trucker.dead_letters"))
        }
        Work::Mark | Work::Settle { .. } => statement(batch, definition, At::Output, "SAVEPOINT", None),
        Work::Sync(_) => Span::none(),
        Work::Complete(end, _) => commit(batch, definition, end.end_lsn),
    }
}

/// The end of the output's transaction, with its checkpoint.
pub fn commit(parent: &Span, definition: &Definition, loaded: Lsn) -> Span {
    let span = statement(parent, definition, At::Output, "COMMIT", None);
    span.record("trucker.loaded_lsn", loaded.to_string());
    span
}

/// What these statements are, as OpenTelemetry names them.
fn operation(writes: &[Write]) -> &'static str {
    let verb = |write: &Write| match write {
        Write::Truncate => "TRUNCATE",
        Write::Delete { .. } => "DELETE",
        Write::Put { put: Put::Insert | Put::Upsert | Put::UpsertNew, .. } => "INSERT",
        Write::Put { put: Put::Update, .. } | Write::Rekey { .. } => "UPDATE",
    };
    match writes {
        [one] => verb(one),
        [first, rest @ ..] if rest.iter().all(|write| verb(write) == verb(first)) => match verb(first) {
            "DELETE" => "BATCH DELETE",
            "INSERT" => "BATCH INSERT",
            "UPDATE" => "BATCH UPDATE",
            _ => "BATCH",
        },
        _ => "BATCH",
    }
}

fn versioned_rows(versioned: &Versioned) -> usize {
    match versioned {
        Versioned::Effect { effect, .. } => effect.removals.len() + effect.puts.len(),
        Versioned::Truncate(_) => 0,
    }
}

fn rows(write: &Write) -> usize {
    match write {
        Write::Truncate => 0,
        Write::Delete { keys, .. } => keys.len(),
        Write::Put { rows, .. } => rows.len(),
        Write::Rekey { .. } => 1,
    }
}

/// Does the work within the span, which says so if it fails.
pub async fn observed<T>(span: Span, work: impl Future<Output = Checked<T>>) -> Checked<T> {
    let outcome = work.instrument(span.clone()).await;
    if let Err(error) = &outcome {
        fail(&span, error);
    }
    outcome
}

/// Marks a span as failed: by the server's SQLSTATE, never by its words, which may hold a value.
pub fn fail(span: &Span, error: &PipelineError) {
    span.record("otel.status_code", "ERROR");
    match error.sqlstate() {
        Some(code) => {
            span.record("error.type", code);
            span.record("db.response.status_code", code);
        }
        None => {
            span.record("error.type", error.kind());
        }
    }
}
