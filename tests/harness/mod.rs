//! What the tests are written in: servers, databases, projects and the running program. Knows no rule that
//! a test proves.

mod clickhouse;
mod database;
mod disorder;
mod metrics;
mod poll;
mod process;
mod promtool;
mod scenario;
mod tls;

pub use clickhouse::{ClickHouseDatabase, ClickHouseServer, clickhouse_server};
pub use database::{Database, Session, output_server, private_output, private_server, source_server};
pub use disorder::{Random, is_soak};
pub use metrics::Metrics;
pub use poll::{PATIENCE, eventually, holds_for};
pub use process::Trucker;
pub use promtool::promtool;
pub use scenario::{Scenario, config};
pub use tls::TlsFront;

/// One row, as text.
pub type Row = Vec<Option<String>>;
