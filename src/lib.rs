//! trucker picks up data changes from a Postgres logical replication slot, runs the user's SQL over
//! them on the source, and writes the rows to another datastore, exactly once.
//!
//! The modules, in reading order; each knows only those above it (`tests/tidy.rs` checks that):
//!
//! * [`change`]: the model: LSNs, relations, tuples, changes. Pure.
//! * [`checkpoint`]: what has been loaded, what a slot may be told. Pure arithmetic.
//! * [`config`]: what the user wrote, and what the program may rely on.
//! * [`tls`]: what a server's certificate is worth, and the one we show.
//! * [`postgres`]: connections, the catalog, names and values as Postgres writes them.
//! * [`clickhouse`]: the same for ClickHouse, over HTTP.
//! * [`ddl`]: definitions of live tables, as SQL.
//! * [`source`]: publication, slot, snapshot and the replication stream.
//! * [`transform`]: the user's SQL files, as one statement over a batch of changes.
//! * [`sink`]: rows and checkpoint into the output, in one transaction.
//! * [`pipeline`]: one pipeline: backfill, batches, its own troubles.
//! * [`engine`]: a whole project: the only place where all of these meet.
//! * [`observe`]: what it says meanwhile, without secrets.
//! * [`sandbox`]: throwaway Postgres servers for the demo and the tests.
//! * [`testing`]: `trucker test`: pipelines' own tests, played through the engine.
//! * [`scaffold`]: `trucker init`: a project from live tables.
//! * [`cli`]: the commands.
//! * [`codes`]: the numbers of what may be wrong; used by all.
//! * [`failpoint`]: places where a test can have the process die; used by all, nothing in a release build.

pub mod change;
pub mod checkpoint;
pub mod cli;
pub mod clickhouse;
pub mod codes;
pub mod config;
pub mod ddl;
pub mod engine;
pub mod failpoint;
pub mod observe;
pub mod pipeline;
pub mod postgres;
pub mod sandbox;
pub mod scaffold;
pub mod sink;
pub mod source;
pub mod testing;
pub mod tls;
pub mod transform;
