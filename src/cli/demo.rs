//! `trucker demo`: the project in examples/shop between two throwaway servers, with somebody shopping. Owns
//! the story and what is printed of it; the servers are `sandbox`'s, and the work is done by a `trucker run`
//! like any other, started as a process of its own.

use std::error::Error;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use crate::sandbox::{Folder, PostgresServer, ServerOptions};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// How long the output may take to catch up once the shopping has ended.
const CATCH_UP_MAX: Duration = Duration::from_secs(60);

/// Where [`Folder`] looks for a process to end.
const PID_FILE: &str = "process.pid";

/// The project, as it lies in the repository.
const PROJECT: &[(&str, &str)] = &[
    ("trucker.yml", include_str!("../../examples/shop/trucker.yml")),
    ("orders_flat/config.yml", include_str!("../../examples/shop/orders_flat/config.yml")),
    ("orders_flat/transform.sql", include_str!("../../examples/shop/orders_flat/transform.sql")),
    ("orders_flat/delete.sql", include_str!("../../examples/shop/orders_flat/delete.sql")),
    ("order_lines/config.yml", include_str!("../../examples/shop/order_lines/config.yml")),
    ("order_lines/transform.sql", include_str!("../../examples/shop/order_lines/transform.sql")),
    ("order_lines/delete.sql", include_str!("../../examples/shop/order_lines/delete.sql")),
    ("revenue/config.yml", include_str!("../../examples/shop/revenue/config.yml")),
    ("revenue/transform.sql", include_str!("../../examples/shop/revenue/transform.sql")),
    ("revenue/load.sql", include_str!("../../examples/shop/revenue/load.sql")),
    ("revenue/truncate.sql", include_str!("../../examples/shop/revenue/truncate.sql")),
];
const SOURCE_SQL: &str = include_str!("../../examples/shop/source.sql");
const WAREHOUSE_SQL: &str = include_str!("../../examples/shop/warehouse.sql");

/// For each output table: what it holds, and what it should hold.
const OUTPUTS: [(&str, &str, &str); 3] = [
    (
        "orders_flat",
        "SELECT order_id, customer, country, total FROM orders_flat ORDER BY 1",
        "SELECT o.id, cu.name, co.name, (o.cents / 100.0)::numeric(12,2) FROM orders o
         JOIN customers cu ON cu.id = o.customer_id JOIN countries co ON co.code = o.country ORDER BY 1",
    ),
    (
        "order_lines",
        "SELECT order_id, line_no, sku, pieces FROM order_lines ORDER BY 1, 2",
        "SELECT o.id, l.number, l.item ->> 'sku', l.item ->> 'pieces'
         FROM orders o, jsonb_array_elements(o.lines) WITH ORDINALITY l(item, number) ORDER BY 1, 2",
    ),
    (
        "revenue",
        "SELECT country, orders, cents FROM revenue WHERE orders <> 0 ORDER BY 1",
        "SELECT country, count(*), sum(cents) FROM orders GROUP BY 1 ORDER BY 1",
    ),
];

/// One moment in the shop: new orders, changed ones (their key too), cancelled ones.
const SHOPPING: [&str; 4] = [
    "INSERT INTO orders (customer_id, country, cents, lines)
     SELECT 1 + n % 50, (ARRAY['no', 'cl', 'ke', 'np'])[1 + n % 4], n,
            (SELECT jsonb_agg(jsonb_build_object('sku', 'B' || i, 'pieces', i)) FROM generate_series(1, 1 + n % 4) i)
     FROM (SELECT (random() * 10000)::int AS n FROM generate_series(1, 20)) many",
    "UPDATE orders SET cents = cents + 250, lines = lines || '{\"sku\": \"C1\", \"pieces\": 2}'
     WHERE id IN (SELECT id FROM orders ORDER BY random() LIMIT 8)",
    "UPDATE orders SET country = 'ke', lines = lines - 0, id = -id
     WHERE id = (SELECT id FROM orders WHERE id > 0 AND jsonb_array_length(lines) > 1 ORDER BY random() LIMIT 1)",
    "DELETE FROM orders WHERE id IN (SELECT id FROM orders ORDER BY random() LIMIT 5)",
];

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
    let time = demo_time()?;
    eprintln!("Starting two throwaway Postgres servers…");
    let source_server = PostgresServer::start(&ServerOptions::default())?;
    let warehouse_server = PostgresServer::start(&ServerOptions::default())?;
    let source = create_database(&source_server, "shop", SOURCE_SQL).await?;
    let warehouse = create_database(&warehouse_server, "warehouse", WAREHOUSE_SQL).await?;
    let folder = Folder::create()?;
    for (name, text) in PROJECT {
        folder.write(name, text)?;
    }
    let mut running = Running::start(trucker, folder, &source_server, &warehouse_server)?;
    let page = running.until_listening().await?;
    introduce(&running, &page, &source_server, &warehouse_server);

    let shopping = shop(&source, &warehouse, &mut running, time);
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
        result = wait_until_equal(&source, &warehouse, &mut running) => result,
        signal = tokio::signal::ctrl_c() => signal.map(|()| false).map_err(Into::into),
    };
    let stopped_well = running.stop()?;
    let is_equal = is_equal? && stopped_well;
    for (name, found, expected) in OUTPUTS {
        let (found, expected) = (rows(&warehouse, found).await?, rows(&source, expected).await?);
        let verdict = if found == expected { "equal" } else { "DIFFERENT" };
        println!("  {name:<12} {:>7} rows, {verdict} to its SQL over the source", found.len());
    }
    Ok(is_equal)
}

fn demo_time() -> Result<Option<Duration>> {
    match std::env::var("DEMO_SECONDS") {
        Ok(text) => {
            let seconds = text.parse().map_err(|_| "DEMO_SECONDS has to be a whole number of seconds")?;
            Ok(Some(Duration::from_secs(seconds)))
        }
        Err(_) => Ok(None),
    }
}

fn introduce(running: &Running, page: &str, source: &PostgresServer, warehouse: &PostgresServer) {
    let psql =
        |port, database| format!("psql -h 127.0.0.1 -p {port} -U {} {database}", PostgresServer::SUPERUSER);
    println!("The shop:      {}", psql(source.port(), "shop"));
    println!("The warehouse: {}", psql(warehouse.port(), "warehouse"));
    println!("The project:   {} (examples/shop)", running.folder.path().display());
    println!("The page:      http://{page}");
    println!("Change the shop's orders and look at orders_flat, order_lines and revenue. Ctrl-C ends.\n");
    println!(
        "{:>8} {:>10} {:>13} {:>13} {:>9}",
        "seconds", "orders", "orders_flat", "order_lines", "revenue"
    );
}

/// Shops, and prints how the output follows, until the time is up.
async fn shop(
    source: &Client,
    warehouse: &Client,
    running: &mut Running,
    time: Option<Duration>,
) -> Result<()> {
    let started = Instant::now();
    let mut printed = 0;
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    while time.is_none_or(|time| started.elapsed() < time) {
        tick.tick().await;
        running.expect_alive()?;
        for sql in SHOPPING {
            source.batch_execute(sql).await?;
        }
        if started.elapsed().as_secs() > printed {
            printed = started.elapsed().as_secs();
            let orders = number(source, "SELECT count(*) FROM orders").await?;
            let flat = number(warehouse, "SELECT count(*) FROM orders_flat").await?;
            let lines = number(warehouse, "SELECT count(*) FROM order_lines").await?;
            let cents =
                number(warehouse, "SELECT (coalesce(sum(cents), 0) / 100)::bigint FROM revenue").await?;
            println!("{printed:>8} {orders:>10} {flat:>13} {lines:>13} {cents:>9}");
        }
    }
    Ok(())
}

async fn wait_until_equal(source: &Client, warehouse: &Client, running: &mut Running) -> Result<bool> {
    let deadline = Instant::now() + CATCH_UP_MAX;
    loop {
        running.expect_alive().map_err(|error| running.explain(error))?;
        let mut is_equal = true;
        for (_, found, expected) in OUTPUTS {
            is_equal = is_equal && rows(warehouse, found).await? == rows(source, expected).await?;
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
    fn start(
        trucker: &Path,
        folder: Folder,
        source: &PostgresServer,
        warehouse: &PostgresServer,
    ) -> Result<Self> {
        let log = File::create(folder.path().join("trucker.log"))?;
        let child = Command::new(trucker)
            .arg("run")
            .arg(folder.path())
            .args(["--http", "127.0.0.1:0"])
            .env("SHOP_SOURCE_PORT", source.port().to_string())
            .env("SHOP_WAREHOUSE_PORT", warehouse.port().to_string())
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

async fn rows(client: &Client, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
    let messages = client.simple_query(sql).await?;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|i| row.try_get(i).ok().flatten().map(str::to_owned)).collect())
        }
        _ => None,
    });
    Ok(rows.collect())
}

async fn number(client: &Client, sql: &str) -> Result<i64> {
    Ok(client.query_one(sql, &[]).await?.try_get(0)?)
}
