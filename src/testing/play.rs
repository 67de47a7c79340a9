//! One test: its databases, what is given, then step after step: changes, trucker until it has loaded them, what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use tokio::sync::watch;

use super::clickhouse::give;
use super::clickhouse_rows::ClickHouseComparison;
use super::compare::Comparison;
use super::database::{Unplayable, create};
use super::fill::Filler;
use super::server::{ServerTrouble, TestServer};
use super::{Failure, Options, Verdict};
use crate::clickhouse::Client as ClickHouse;
use crate::codes::Code;
use crate::config::nearest::did_you_mean;
use crate::config::{
    Connection, Diagnostic, Expectation, Pipeline, Project, RETURNED, SecretMask, SqlFile, TestFile,
    TestStep, TruncateAction, Variables, load_without_connections,
};
use crate::engine::prepare::Creation;
use crate::engine::{self, Ended, Until};
use crate::observe::board::Board;
use crate::postgres::{Purpose, Session, connect, describe};

/// Takes what the SQL returns out of a pipeline, in place of its own write.
const CAPTURE: &str = "\
CREATE TABLE IF NOT EXISTS trucker_returned.{{ operation | ident }} AS SELECT * FROM {{ rows }} WITH NO DATA;
INSERT INTO trucker_returned.{{ operation | ident }} SELECT * FROM {{ rows }}";

/// Plays one test; afterwards its databases are gone, or named.
pub async fn play(
    server: &TestServer,
    dir: &Path,
    pipeline: &str,
    file: &TestFile,
    options: &Options,
) -> (Verdict, Vec<Connection>) {
    let mut databases = BTreeMap::new();
    let verdict = match prepare(server, dir, pipeline, file, &mut databases).await {
        Ok(test) => test.play(server, options).await,
        Err(unplayable) => Err(unplayable),
    };
    let cleared = clear(server, &databases, options).await;
    let verdict = match (verdict, cleared) {
        (Ok(failures), Ok(())) if failures.is_empty() => Verdict::Passed,
        (Ok(_), Err(trouble)) => Verdict::Server(trouble.to_string()),
        (Ok(failures), Ok(())) => Verdict::Failed(failures),
        (Err(Unplayable::Files(wrong)), _) => Verdict::Broken(wrong),
        (Err(Unplayable::Server(trouble)), _) => Verdict::Server(trouble),
    };
    (verdict, if options.keeps { databases.into_values().collect() } else { Vec::new() })
}

/// Drops a test's databases, unless they are to stay.
async fn clear(
    server: &TestServer,
    databases: &BTreeMap<String, Connection>,
    options: &Options,
) -> Result<(), ServerTrouble> {
    let names = postgres_databases(databases);
    server.until_alone(&names, &[]).await?;
    server.drop_slots(&names).await?;
    for to in databases.values().filter(|_| !options.keeps) {
        match (to, server.clickhouse()) {
            (Connection::Postgres(to), _) => server.drop(&to.database).await?,
            (Connection::ClickHouse(to), Some(clickhouse)) => clickhouse.drop(&to.database).await?,
            (Connection::ClickHouse(_), None) => {}
        }
    }
    Ok(())
}

fn postgres_databases(databases: &BTreeMap<String, Connection>) -> Vec<String> {
    let name = |to: &Connection| match to {
        Connection::Postgres(to) => Some(to.database.clone()),
        Connection::ClickHouse(_) => None,
    };
    databases.values().filter_map(name).collect()
}

/// A test whose databases are there.
struct Test<'a> {
    file: &'a TestFile,
    pipeline: Pipeline,
    project: Project,
    /// Loads what the SQL returns, where the test asks for that.
    returning: Option<Project>,
    /// Those in Postgres.
    databases: Vec<String>,
    source: Session,
    output: Output,
}

/// Where the pipeline writes.
enum Output {
    Postgres(Session),
    ClickHouse { client: ClickHouse, database: String },
}

async fn prepare<'a>(
    server: &TestServer,
    dir: &Path,
    name: &str,
    file: &'a TestFile,
    databases: &mut BTreeMap<String, Connection>,
) -> Result<Test<'a>, Unplayable> {
    let variables = Variables::of_process().and(file.env.iter().cloned());
    let loaded = load_without_connections(dir, &variables)?;
    let pipeline = loaded.project.pipeline(name).map_err(|wrong| Unplayable::from(*wrong))?.clone();
    let mut pipelines = vec![pipeline.clone()];
    for (place, name) in &file.with {
        let names = loaded.project.pipelines.iter().map(|pipeline| pipeline.name.as_str());
        let help = did_you_mean(name, names);
        let other = loaded.project.pipelines.iter().find(|pipeline| pipeline.name == *name);
        let other = other.ok_or_else(|| {
            Unplayable::from(
                file.problem(Code::TestName, *place, format!("there is no pipeline `{name}`")).help(help),
            )
        })?;
        pipelines.push(other.clone());
    }
    let both = |p: &Pipeline| [p.input.connection.clone(), p.output.connection.clone()];
    let used: BTreeSet<String> = pipelines.iter().flat_map(both).collect();
    let mut clients = BTreeMap::new();
    for connection in &used {
        let database = server.unique_name();
        // Named first: what is there of it has to go again, whatever happens.
        if let Some(Connection::ClickHouse(_)) = loaded.project.connection(connection) {
            let clickhouse = server.clickhouse().ok_or_else(|| no_clickhouse(&pipeline, connection))?;
            let to = clickhouse.connection(connection, &database);
            databases.insert(connection.clone(), Connection::ClickHouse(to.clone()));
            clients.insert(connection.clone(), (clickhouse.create(dir, &to).await?, database.clone()));
            let into = pipelines.iter_mut().filter(|pipeline| pipeline.output.connection == *connection);
            into.filter_map(|pipeline| pipeline.output.table.as_mut())
                .for_each(|table| table.schema.clone_from(&database));
        } else {
            let to = server.connection(connection, &database);
            databases.insert(connection.clone(), Connection::Postgres(to));
            create(server, dir, connection, &database).await?;
        }
    }
    let pipeline = pipelines[0].clone();
    let project_name = server.unique_name();
    let connections: Vec<Connection> = databases.values().cloned().collect();
    let project = Project { name: Some(project_name.clone()), connections, pipelines, ..loaded.project };
    let asks = file.steps.iter().any(|step| !step.returns.is_empty());
    let returning = asks.then(|| Project {
        name: Some(format!("{project_name}_r")),
        pipelines: vec![capturing(&pipeline, clients.contains_key(&pipeline.output.connection))],
        ..project.clone()
    });
    let session = async |name: &str| match databases.get(name) {
        Some(Connection::Postgres(to)) => Ok(connect(to, Purpose::Control).await?),
        _ => Err(Unplayable::Server(format!("connection {name} has no database"))),
    };
    let source = session(&pipeline.input.connection).await?;
    let output = match clients.remove(&pipeline.output.connection) {
        Some((client, database)) => Output::ClickHouse { client, database },
        None => Output::Postgres(session(&pipeline.output.connection).await?),
    };
    let databases = postgres_databases(databases);
    Ok(Test { file, pipeline, project, returning, databases, source, output })
}

fn no_clickhouse(pipeline: &Pipeline, connection: &str) -> Unplayable {
    let what = format!("`{connection}` is ClickHouse, and nothing says on which one to play");
    let help = "trucker test --clickhouse http://user:password@localhost:8123: there each test gets a database of a random name, \
                which is dropped afterwards";
    Diagnostic::error(Code::Adapter, &pipeline.config_path, what).help(help).into()
}

/// The pipeline, with [`CAPTURE`] in place of its write: into the source's database where its own output is ClickHouse.
fn capturing(pipeline: &Pipeline, is_clickhouse: bool) -> Pipeline {
    let mut pipeline = pipeline.clone();
    if is_clickhouse {
        pipeline.output.connection.clone_from(&pipeline.input.connection);
    }
    let (path, variables) = (pipeline.config_path.clone(), Variables::default());
    pipeline.sql.load = Some(SqlFile { path, text: CAPTURE.into(), variables });
    pipeline.sql.truncate = None;
    (pipeline.output.table, pipeline.output.key, pipeline.output.replace) = (None, None, None);
    pipeline.output.on.truncate = Some(TruncateAction::Ignore);
    pipeline
}

impl Test<'_> {
    async fn play(&self, server: &TestServer, options: &Options) -> Result<Vec<Failure>, Unplayable> {
        let (patience, mut all) = (options.patience, Vec::new());
        let filler = |session, connection| Filler { file: self.file, connection, session };
        let source = filler(&self.source, &self.pipeline.input.connection);
        source.give(&self.file.given).await?;
        let given = &self.file.given_output;
        match &self.output {
            Output::Postgres(output) => filler(output, &self.pipeline.output.connection).give(given).await?,
            Output::ClickHouse { client, .. } => give(client, self.file, given).await?,
        }
        for (number, step) in self.file.steps.iter().enumerate() {
            if number == 0 {
                // The backfill, so that changes come by the stream.
                let failures = self.run(server, step, step.changes.is_empty(), patience).await?;
                if !failures.is_empty() {
                    return Ok(failures);
                }
            }
            for transaction in &step.changes {
                source.change(transaction).await?;
            }
            let has_run = number == 0 && step.changes.is_empty();
            let mut failures =
                if has_run { Vec::new() } else { self.run(server, step, true, patience).await? };
            for expected in step.expect.iter().chain(&step.returns) {
                failures.extend(self.compare(expected).await?.map(|d| Failure::Rows(Box::new(d))));
            }
            let goes_on = options.updates && failures.iter().all(|f| matches!(f, Failure::Rows(_)));
            all.append(&mut failures);
            if !all.is_empty() && !goes_on {
                break;
            }
        }
        Ok(all)
    }

    async fn compare(&self, expected: &Expectation) -> Result<Option<super::Difference>, Unplayable> {
        let output = &self.pipeline.output;
        let (connection, table, key) = (&output.connection, output.table.as_ref(), output.key.as_deref());
        let is_returned = expected.table.as_ref().is_some_and(|table| table.schema == RETURNED);
        if let (Output::ClickHouse { client, database }, false) = (&self.output, is_returned) {
            let (file, source) = (self.file, &self.source.client);
            let comparison =
                ClickHouseComparison { file, connection, client, database, source, output: table, key };
            return comparison.difference(expected).await;
        }
        let client = &self.returned().client;
        Comparison { file: self.file, connection, client, output: table, key }.difference(expected).await
    }

    /// Where what the SQL returns is captured.
    fn returned(&self) -> &Session {
        match &self.output {
            Output::Postgres(session) => session,
            Output::ClickHouse { .. } => &self.source,
        }
    }

    /// Has trucker load all that there is. With `may_fail` a failure that the step expects is none.
    async fn run(
        &self,
        server: &TestServer,
        step: &TestStep,
        may_fail: bool,
        patience: Duration,
    ) -> Result<Vec<Failure>, Unplayable> {
        if self.returning.is_some() {
            let sql = format!("DROP SCHEMA IF EXISTS {RETURNED} CASCADE; CREATE SCHEMA {RETURNED}");
            let made = self.returned().client.batch_execute(&sql).await;
            made.map_err(|error| Unplayable::Server(describe(&error)))?;
        }
        let mut trouble = self.run_project(server, &self.project, patience).await?;
        if let (None, Some(returning)) = (&trouble, &self.returning) {
            trouble = self.run_project(server, returning, patience).await?;
        }
        let expected = step.fails.as_ref().filter(|_| may_fail);
        Ok(match (trouble, expected) {
            (None, None) => Vec::new(),
            (Some(trouble), Some((_, text))) if trouble.contains(text) => Vec::new(),
            (Some(trouble), Some((place, text))) => {
                let message = format!("it fails, but what it says has no `{text}` in it");
                vec![Failure::Words(
                    self.file.problem(Code::TestDiffers, *place, message).help(trouble).to_string(),
                )]
            }
            (None, Some((place, _))) => {
                let problem =
                    self.file.problem(Code::TestDiffers, *place, "it doesn't fail: everything was loaded");
                vec![Failure::Words(problem.to_string())]
            }
            (Some(trouble), None) => {
                let place = self.file.shown.display();
                vec![Failure::Words(format!("{trouble}\n(in {place}, the step at line {})", step.place.line))]
            }
        })
    }

    /// As `trucker run --once`. What went wrong, in words.
    async fn run_project(
        &self,
        server: &TestServer,
        project: &Project,
        patience: Duration,
    ) -> Result<Option<String>, Unplayable> {
        let board = Board::new(project.checkpoint_name(), SecretMask::default());
        let (stop, stopping) = watch::channel(false);
        let options = engine::Options {
            until: Until::CaughtUp,
            slow_query: Duration::MAX,
            creation: Creation::Allowed,
        };
        let mut running = Box::pin(engine::run(project, options, stopping, &board));
        let mut is_late = false;
        let ended = tokio::select! {
            ended = &mut running => ended,
            () = tokio::time::sleep(patience) => {
                is_late = true;
                stop.send_replace(true);
                running.await
            }
        };
        let own = [pid(&self.source).await?, pid(self.returned()).await?];
        server.until_alone(&self.databases, &own).await?;
        let mut words: Vec<String> = Vec::new();
        for pipeline in &board.latest().pipelines {
            if let Some(trouble) = &pipeline.last_error
                && (is_late || pipeline.trouble().is_some())
            {
                let fix = trouble.fix.as_ref().map(|fix| format!("\n  = help: {fix}")).unwrap_or_default();
                words.push(format!("error: pipeline {}: {}{fix}", pipeline.name, trouble.message));
            }
        }
        if is_late {
            words.insert(0, format!("error: not everything was loaded within {} s", patience.as_secs()));
        }
        match ended {
            Ok(Ended::Well) if !is_late => return Ok(None),
            Ok(_) if words.is_empty() => words.push("error: the run failed; see its log: --log".to_owned()),
            Ok(_) => {}
            Err(error) => words.push(error.to_string()),
        }
        Ok(Some(words.join("\n")))
    }
}

async fn pid(session: &Session) -> Result<i32, Unplayable> {
    let row = session.client.query_one("SELECT pg_catalog.pg_backend_pid()", &[]).await;
    row.and_then(|row| row.try_get(0)).map_err(|error| Unplayable::Server(describe(&error)))
}
