//! One seed's world: a Postgres and a ClickHouse of its own, proxies before both, a project that knows only the proxies.

use std::path::PathBuf;
use std::sync::Arc;

use trucker::sandbox::{PostgresServer, ServerOptions};

use super::Plan;
use crate::clock::Clock;
use crate::faults::Side;
use crate::harness::{ClickHouseDatabase, ClickHouseServer, Scenario, private_server};
use crate::oracle;
use crate::proxy::Proxy;

/// See the module.
pub struct World {
    /// Source and project; its own output isn't used.
    pub s: Scenario,
    /// The output.
    pub out: Arc<ClickHouseDatabase>,
    /// Before the source.
    pub to_source: Proxy,
    /// Before the output.
    pub to_output: Proxy,
    /// The program's.
    pub clock: Clock,
    /// To hurt it.
    pub server: ClickHouseServer,
    /// The same.
    pub source: PostgresServer,
}

impl World {
    /// Servers, tables, project.
    pub fn make(plan: &Plan) -> Self {
        let source = private_server(ServerOptions::default().set("wal_sender_timeout", "20s"));
        let server = ClickHouseServer::start(&[]);
        let out = Arc::new(server.database());
        let s = Scenario::between(source.port(), source.port()).to_clickhouse(&out);
        let (to_source, to_output) = (Proxy::start(source.port()), Proxy::start(server.port()));
        s.source.execute(oracle::SETUP);
        plan.tables.iter().for_each(|table| s.source.execute(&table.create_sql()));
        for pipeline in &plan.pipelines {
            let table = &plan.tables[pipeline.table];
            out.execute(&pipeline.output_sql(table));
            let files = pipeline.files(table);
            let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
            s.write_pipeline(&pipeline.name, &pipeline.config(table), &files);
        }
        let through =
            |yml: String, from: u16, to: u16| yml.replace(&format!("port: {from}"), &format!("port: {to}"));
        let yml = through(s.project_file(), source.port(), to_source.port);
        s.file("trucker.yml", &through(yml, server.port(), to_output.port));
        let clock = Clock::new(&s.logs());
        World { s, out, to_source, to_output, clock, server, source }
    }

    /// What is before it.
    pub fn proxy(&self, side: Side) -> &Proxy {
        match side {
            Side::Source => &self.to_source,
            Side::Output => &self.to_output,
        }
    }

    /// Keeps all that there is to look at, and says where.
    pub fn keep(&self, seed: u64) -> PathBuf {
        let logs = [("source", self.source.log_text())];
        crate::world::keep(&self.s, &format!("fault-clickhouse-{seed}"), &logs)
    }
}
