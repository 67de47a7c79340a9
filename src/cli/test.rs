//! `trucker test`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::clickhouse;
use crate::config::{ClickHouseConnection, Connection, PostgresConnection, SecretMask, shown_path};
use crate::observe::log::{self, LogFormat};
use crate::testing::{self, Found, Options, Played, TestServer, Verdict, discover};

/// What can be said about it.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The project's folder
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Play the tests of these pipelines alone
    #[arg(value_name = "PIPELINE")]
    pipelines: Vec<String>,
    /// Play only tests whose path contains this
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Make the tests' databases on this server, postgres://user:password@host:port/database, instead of one that is started
    /// for them
    #[arg(long, value_name = "URL", value_parser = url)]
    postgres: Option<PostgresConnection>,
    /// Play what goes into ClickHouse on this server, http://user:password@host:8123: in databases that are made for that, and
    /// dropped afterwards
    #[arg(long, value_name = "URL", value_parser = clickhouse_url)]
    clickhouse: Option<ClickHouseConnection>,
    /// How many tests to play at a time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=32))]
    jobs: u16,
    /// How long trucker may take to load what a test has changed
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    patience: Duration,
    /// Rewrite what tests expect as what was found
    #[arg(long)]
    update: bool,
    /// Keep the tests' databases, and say how to reach them; a server that was started for them runs until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Write a report that CI servers read
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Write schema/CONNECTION.sql, which tests make their databases of, from the live databases, and play nothing
    #[arg(long, conflicts_with_all = ["filter", "postgres", "clickhouse", "update", "keep", "junit"])]
    write_schema: bool,
    /// Show what trucker logs meanwhile
    #[arg(long)]
    log: bool,
}

fn url(text: &str) -> Result<PostgresConnection, String> {
    crate::postgres::parse_url("tests", text)
}

fn clickhouse_url(text: &str) -> Result<ClickHouseConnection, String> {
    clickhouse::parse_url("tests", text)
}

/// Plays the tests and says how they ended.
pub fn run(arguments: Arguments, format: Option<LogFormat>) -> ExitCode {
    if arguments.log {
        let pass = arguments.postgres.as_ref().and_then(|to| to.pass.as_ref());
        let other = arguments.clickhouse.as_ref().and_then(|to| to.pass.as_ref());
        let passes = [pass, other].into_iter().flatten();
        log::start(format, SecretMask::new(passes.map(|pass| pass.expose())), None);
    }
    if arguments.write_schema {
        return write_schema(&arguments, format);
    }
    let found = match discover(&arguments.dir, &arguments.pipelines, arguments.filter.as_deref()) {
        Ok(found) => found,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(3);
        }
    };
    match super::block_on(play(&arguments, found)) {
        Ok(code) => code,
        Err(error) => super::cannot_start(&error),
    }
}

fn write_schema(arguments: &Arguments, format: Option<LogFormat>) -> ExitCode {
    let loaded = match super::load(&arguments.dir, format) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    match super::block_on(testing::write_definitions(&loaded.project)) {
        Ok(Ok(paths)) => {
            paths.iter().for_each(|path| println!("wrote {}", path.display()));
            ExitCode::SUCCESS
        }
        Ok(Err(trouble)) => {
            eprintln!("error: {}", loaded.secrets.mask(&trouble));
            ExitCode::from(4)
        }
        Err(error) => super::cannot_start(&error),
    }
}

async fn play(arguments: &Arguments, found: Vec<Found>) -> ExitCode {
    let began = Instant::now();
    let server = match TestServer::start(arguments.postgres.as_ref(), arguments.clickhouse.as_ref()).await {
        Ok(server) => server,
        Err(trouble) => {
            eprintln!("error: {trouble}");
            return ExitCode::from(4);
        }
    };
    let options = Options {
        jobs: arguments.jobs.into(),
        patience: arguments.patience,
        keeps: arguments.keep,
        updates: arguments.update,
    };
    let playing = testing::play(&server, found, &options, |one| tell(one, arguments.update));
    let (mut played, is_interrupted) = tokio::select! {
        played = playing => (played, false),
        _ = tokio::signal::ctrl_c() => (Vec::new(), true),
    };
    let mut code = code_of(&played);
    if arguments.update {
        code = code.max(update(&mut played));
    }
    if let Some(path) = &arguments.junit
        && let Err(error) = std::fs::write(path, testing::junit(&played))
    {
        eprintln!("error: {} can't be written: {error}", path.display());
        code = code.max(4);
    }
    if is_interrupted {
        code = 1;
    } else {
        summarize(&played, began.elapsed());
    }
    if arguments.keep && !is_interrupted {
        keep(arguments, &played).await;
    }
    let kept: Vec<String> =
        played.iter().flat_map(|one| &one.kept).map(|to| database(to).to_owned()).collect();
    if let Err(trouble) = server.clear(&kept).await {
        eprintln!("error: {trouble}");
    }
    ExitCode::from(code)
}

fn database(to: &Connection) -> &str {
    match to {
        Connection::Postgres(to) => &to.database,
        Connection::ClickHouse(to) => &to.database,
    }
}

/// What can't be played weighs more than what fails.
fn code_of(played: &[Played]) -> u8 {
    let code = |one: &Played| match one.verdict {
        Verdict::Passed => 0,
        Verdict::Failed(_) => 1,
        Verdict::Broken(_) => 3,
        Verdict::Server(_) => 4,
    };
    played.iter().map(code).max().unwrap_or(0)
}

fn tell(one: &Played, is_to_update: bool) {
    let text = match &one.verdict {
        Verdict::Passed => None,
        // Said once it has been written.
        Verdict::Failed(_) if is_to_update && testing::updated(one).is_some() => return,
        Verdict::Failed(failures) => {
            Some(failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n\n"))
        }
        Verdict::Broken(wrong) => Some(wrong.to_string()),
        Verdict::Server(trouble) => Some(format!("error: {trouble}")),
    };
    let word = match &one.verdict {
        Verdict::Passed => "ok",
        Verdict::Failed(_) => "FAILED",
        Verdict::Broken(_) | Verdict::Server(_) => "ERROR",
    };
    println!("{word:<7} {}  {:.1} s", one.shown.display(), one.took.as_secs_f64());
    if let Some(text) = text {
        println!("\n{text}\n");
    }
}

/// Writes what was found into the files; the exit code that this has.
fn update(played: &mut [Played]) -> u8 {
    let mut code = 0;
    for one in played {
        let Some((text, file)) = testing::updated(one).zip(one.file.as_ref()) else { continue };
        match std::fs::write(&file.path, text) {
            Ok(()) => {
                println!("updated {}", one.shown.display());
                one.verdict = Verdict::Passed;
            }
            Err(error) => {
                eprintln!("error: {} can't be written: {error}", one.shown.display());
                code = 4;
            }
        }
    }
    code
}

fn summarize(played: &[Played], took: Duration) {
    let count = |is: fn(&Verdict) -> bool| played.iter().filter(|one| is(&one.verdict)).count();
    let passed = count(|verdict| matches!(verdict, Verdict::Passed));
    let failed = count(|verdict| matches!(verdict, Verdict::Failed(_)));
    let other = played.len() - passed - failed;
    let failed = if failed > 0 { format!(", {failed} failed") } else { String::new() };
    let other = if other > 0 { format!(", {other} couldn't be played") } else { String::new() };
    println!("{passed} passed{failed}{other} ({:.1} s)", took.as_secs_f64());
}

async fn keep(arguments: &Arguments, played: &[Played]) {
    for one in played {
        for to in &one.kept {
            let (shown, name, database) = (one.shown.display(), to.name(), database(to));
            match to {
                Connection::Postgres(to) => {
                    let (host, port, user) = (&to.host, to.port, &to.user);
                    println!("{shown} {name}: psql -h {host} -p {port} -U {user} {database}");
                }
                Connection::ClickHouse(_) => {
                    println!("{shown} {name}: database {database} of that ClickHouse")
                }
            }
        }
    }
    if arguments.postgres.is_none() {
        println!("The server runs until Ctrl-C. ({})", shown_path(&arguments.dir).display());
        let _ = tokio::signal::ctrl_c().await;
    }
}
