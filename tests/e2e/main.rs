//! End-to-end tests: the built program between real Postgres servers. Each file is one area of what users are
//! promised, each test's name the rule it proves. Servers are shared by all tests of the run, databases and
//! project names are not; only tests that hurt a server, or hold transactions open on it, get their own.

#![allow(clippy::unwrap_used)] // A test that cannot go on says where by panicking.

#[allow(dead_code)] // Shared with the tests of faults, which use the rest.
#[path = "../harness/mod.rs"]
mod harness;

mod alerts;
mod aside;
mod backfill;
mod big_transaction;
mod bulk;
mod check;
mod clickhouse;
mod clickhouse_driver;
mod clickhouse_example;
mod clickhouse_faults;
mod clickhouse_init;
mod clickhouse_recovery;
mod clickhouse_testing;
mod clickhouse_types;
mod clickhouse_verify;
mod commands;
mod commit;
mod compile;
mod connections;
mod continuity;
mod convergence;
mod cookbook;
mod copy;
mod ddl;
mod dead_letters;
mod demo;
mod docs;
mod encodings;
mod exactly_once;
mod failover;
mod fencing;
mod flush;
mod handover;
mod hostile_server;
mod identity;
mod init;
mod isolation;
mod load;
mod loops;
mod manual;
mod many_pipelines;
mod mistakes;
mod names;
mod network;
mod notify;
mod observability;
mod operator;
mod output_trouble;
mod pages;
mod permissions;
mod plan;
mod preview;
mod publication;
mod ranges;
mod replaced;
mod replica;
mod replication;
mod restored;
mod resume;
mod rights;
mod same_database;
mod secrets;
mod slot;
mod slot_lost;
mod testing;
mod texts;
mod toast;
mod traces;
mod transactions;
mod transform;
mod type_pairs;
mod types;
mod verify;
mod visibility;
mod wal_budget;
