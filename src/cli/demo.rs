//! `trucker demo`: an example project between throwaway servers, with somebody shopping. Owns what happens and what is printed of
//! it; the servers are `sandbox`'s, and the work is done by a `trucker run` like any other, started as a process of its own.
//! `DEMO_CLICKHOUSE_PORT` names a ClickHouse for the rows to go to; trucker brings none.

mod output;
mod story;

use std::error::Error;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use self::output::Output;
use self::story::Story;
use crate::sandbox::{Folder, PostgresServer, ServerOptions};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// How long the output may take to catch up once the shopping has ended.
const CATCH_UP_MAX: Duration = Duration::from_secs(60);

/// Where [`Folder`] looks for a process to end.
const PID_FILE: &str = "process.pid";

/// Runs the demo with the `trucker` at that path until Ctrl-C, or for DEMO_SECONDS seconds. Success means
/// that in the end every output was equal to its SQL over the source.
pub fn run(trucker: &Path) -> ExitCode {
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Into::into)
        .and_then(|runtime| runtime.block_on(tell(trucker)));
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::from(4)
        }
    }
}

/// The whole story; whether it ended well.
async fn tell(trucker: &Path) -> Result<bool> {
    let time = number_from("DEMO_SECONDS")?.map(Duration::from_secs);
    let clickhouse: Option<u16> = number_from("DEMO_CLICKHOUSE_PORT")?;
    let story = if clickhouse.is_some() { &story::ANALYTICS } else { &story::SHOP };
    eprintln!("Starting throwaway servers…");
    let source_server = PostgresServer::start(&ServerOptions::default())?;
    let source = create_database(&source_server, "shop", story.source_sql).await?;
    let output = match clickhouse {
        Some(port) => Output::clickhouse(port, story.output_sql).await?,
        None => Output::postgres(story.output_sql).await?,
    };
    let folder = Folder::create()?;
    for (name, text) in story.project {
        folder.write(name, text)?;
    }
    let mut running = Running::start(trucker, folder, &source_server, (story.port_variable, output.port()))?;
    let page = running.until_listening().await?;
    introduce(story, &running, &page, &source_server, &output);

    let shopping = shop(story, &source, &output, &mut running, time);
    let interrupted = tokio::select! {
        result = shopping => result.map(|()| false),
        signal = tokio::signal::ctrl_c() => signal.map(|()| true).map_err(Into::into),
    };
    match interrupted {
        Ok(true) => println!("\nInterrupted: the shop closes."),
        Ok(false) => println!("The shop closes."),
        Err(error) => return Err(running.explain(error)),
    }
    let is_equal = tokio::select! {
        result = wait_until_equal(story, &source, &output, &mut running) => result,
        signal = tokio::signal::ctrl_c() => signal.map(|()| false).map_err(Into::into),
    };
    let stopped_well = running.stop()?;
    let is_equal = is_equal? && stopped_well;
    for (name, found, expected) in story.outputs {
        let (found, expected) = (output.rows(found).await?, rows(&source, expected).await?);
        let verdict = if found == expected { "equal" } else { "DIFFERENT" };
        println!("  {name:<12} {:>7} rows, {verdict} to its SQL over the source", found.len());
    }
    output.remove().await?;
    Ok(is_equal)
}

fn number_from<T: FromStr>(variable: &str) -> Result<Option<T>> {
    let Ok(text) = std::env::var(variable) else { return Ok(None) };
    let number = text.parse().map_err(|_| format!("{variable} has to be a whole number"))?;
    Ok(Some(number))
}

fn psql(port: u16, database: &str) -> String {
    format!("psql -h 127.0.0.1 -p {port} -U {} {database}", PostgresServer::SUPERUSER)
}

fn introduce(story: &Story, running: &Running, page: &str, source: &PostgresServer, output: &Output) {
    let [a, b, c] = story.outputs.map(|(name, ..)| name);
    println!("The shop:      {}", psql(source.port(), "shop"));
    println!("The output:    {}", output.address());
    println!("The project:   {} ({})", running.folder.path().display(), story.folder);
    println!("The page:      http://{page}");
    println!("Change the shop's orders and look at {a}, {b} and {c}. Ctrl-C ends.\n");
    println!("{:>8} {:>10} {a:>13} {b:>13} {c:>13}", "seconds", "orders");
}

/// Shops, and prints how the output follows, until the time is up.
async fn shop(
    story: &Story,
    source: &Client,
    output: &Output,
    running: &mut Running,
    time: Option<Duration>,
) -> Result<()> {
    let started = Instant::now();
    let mut printed = 0;
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    while time.is_none_or(|time| started.elapsed() < time) {
        tick.tick().await;
        running.expect_alive()?;
        for sql in story.shopping {
            source.batch_execute(sql).await?;
        }
        if started.elapsed().as_secs() > printed {
            printed = started.elapsed().as_secs();
            let mut line = format!("{printed:>8} {:>10}", first(rows(source, story::ORDERS).await?));
            for sql in story.numbers {
                line += &format!(" {:>13}", first(output.rows(sql).await?));
            }
            println!("{line}");
        }
    }
    Ok(())
}

async fn wait_until_equal(
    story: &Story,
    source: &Client,
    output: &Output,
    running: &mut Running,
) -> Result<bool> {
    let deadline = Instant::now() + CATCH_UP_MAX;
    loop {
        running.expect_alive().map_err(|error| running.explain(error))?;
        let mut is_equal = true;
        for (_, found, expected) in story.outputs {
            is_equal = is_equal && output.rows(found).await? == rows(source, expected).await?;
        }
        if is_equal || Instant::now() > deadline {
            return Ok(is_equal);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// `trucker run` on the project; killed when dropped, since nothing else would end it.
struct Running {
    child: Child,
    folder: Folder,
}

impl Running {
    fn start(trucker: &Path, folder: Folder, source: &PostgresServer, output: (&str, u16)) -> Result<Self> {
        let log = File::create(folder.path().join("trucker.log"))?;
        let child = Command::new(trucker)
            .arg("run")
            .arg(folder.path())
            .args(["--http", "127.0.0.1:0"])
            .env("SHOP_SOURCE_PORT", source.port().to_string())
            .env(output.0, output.1.to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C is for the demo, which then lets trucker finish.
            .process_group(0)
            .spawn()?;
        // Should the demo be killed, the folder's watchdog ends this one.
        folder.write(PID_FILE, &child.id().to_string())?;
        Ok(Running { child, folder })
    }

    /// Waits for it to say where its page is.
    async fn until_listening(&mut self) -> Result<String> {
        loop {
            let log = std::fs::read_to_string(self.folder.path().join("trucker.log")).unwrap_or_default();
            let address = log.split_once("\"address\":\"").and_then(|(_, rest)| rest.split('"').next());
            if let Some(address) = address {
                return Ok(address.to_owned());
            }
            self.expect_alive().map_err(|error| self.explain(error))?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn expect_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!("trucker run has ended: {status}").into()),
        }
    }

    /// SIGTERM, and its end; whether it ended with exit code 0.
    fn stop(&mut self) -> Result<bool> {
        Command::new("kill").arg(self.child.id().to_string()).status()?;
        let status = self.child.wait()?;
        if !status.success() {
            eprintln!("{}", self.explain(format!("trucker run ended with {status}").into()));
        }
        Ok(status.success())
    }

    /// The error, with the end of what trucker said.
    fn explain(&self, error: Box<dyn Error>) -> Box<dyn Error> {
        let log = std::fs::read_to_string(self.folder.path().join("trucker.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        format!("{error}\n{}", lines[lines.len().saturating_sub(20)..].join("\n")).into()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The number may belong to another process from now on.
        let _ = std::fs::remove_file(self.folder.path().join(PID_FILE));
    }
}

async fn create_database(server: &PostgresServer, name: &str, sql: &str) -> Result<Client> {
    connect(server, "postgres").await?.batch_execute(&format!("CREATE DATABASE {name}")).await?;
    let client = connect(server, name).await?;
    client.batch_execute(sql).await?;
    Ok(client)
}

async fn connect(server: &PostgresServer, database: &str) -> Result<Client> {
    let mut config = Config::new();
    config.host("127.0.0.1").port(server.port()).user(PostgresServer::SUPERUSER).dbname(database);
    let (client, connection) = config.connect(NoTls).await?;
    // Ends with the client; what goes wrong with it, the client's next statement says.
    tokio::spawn(connection);
    Ok(client)
}

/// Rows as text.
type Rows = Vec<Vec<Option<String>>>;

fn first(rows: Rows) -> String {
    rows.into_iter().flatten().flatten().next().unwrap_or_default()
}

async fn rows(client: &Client, sql: &str) -> Result<Rows> {
    let messages = client.simple_query(sql).await?;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|i| row.try_get(i).ok().flatten().map(str::to_owned)).collect())
        }
        _ => None,
    });
    Ok(rows.collect())
}
