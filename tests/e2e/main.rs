//! End-to-end tests: the built program between real Postgres servers. Each file is one area of what users are
//! promised, each test's name the rule it proves. Servers are shared by all tests of the run, databases and
//! project names are not; only tests that hurt a server, or hold transactions open on it, get their own.

#![allow(clippy::unwrap_used)] // A test that cannot go on says where by panicking.

#[allow(dead_code)] // Shared with the tests of faults, which use the rest.
#[path = "../harness/mod.rs"]
mod harness;

mod alerts;
mod big_transaction;
mod commands;
mod connections;
mod continuity;
mod convergence;
mod copy;
mod demo;
mod exactly_once;
mod fencing;
mod handover;
mod hostile_server;
mod identity;
mod isolation;
mod load;
mod many_pipelines;
mod mistakes;
mod names;
mod notify;
mod observability;
mod operator;
mod permissions;
mod replication;
mod same_database;
mod secrets;
mod slot;
mod toast;
mod traces;
mod transform;
mod types;
mod visibility;
