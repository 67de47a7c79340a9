//! Where an output keeps what trucker knows of pipelines: checkpoints, failures, requests, dead letters. One face for
//! every kind of output; what each can promise is told where it is done.

use tokio_postgres::Client;

use super::checkpoint::{Checkpoint, CheckpointKey, Origin};
use super::clickhouse::{dead_letter as letters, ledger as kept, removal, request as asking};
use super::error::SinkError;
use super::failure::Failure;
use super::postgres::{checkpoint, dead_letter, failure, request};
use super::request::{Asked, Request};
use crate::clickhouse;

/// What a pipeline is at the moment it is claimed, as its checkpoint keeps it.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// Where its changes come from.
    pub origin: &'a Origin,
    /// The output table's name.
    pub output_table: Option<&'a str>,
    /// Its input tables' names.
    pub input_tables: &'a str,
    /// What the publication's entries of these are known by.
    pub published: Option<&'a str>,
    /// What its SQL is known by.
    pub sql_hash: &'a str,
}

/// The ledger of one output, by an open connection to it.
#[derive(Clone, Copy)]
pub enum Ledger<'c> {
    /// Schema `trucker`.
    Postgres(&'c Client),
    /// Tables `trucker_…`.
    ClickHouse(&'c clickhouse::Client),
}

impl Ledger<'_> {
    /// Creates tables where they are missing, and brings those of an earlier version up to date.
    pub async fn ensure_tables(self) -> Result<(), SinkError> {
        match self {
            Ledger::Postgres(client) => checkpoint::ensure_tables(client).await,
            Ledger::ClickHouse(client) => kept::ensure_tables(client).await,
        }
    }

    /// Whether its tables are there as this version wants them.
    pub async fn is_complete(self) -> Result<bool, SinkError> {
        match self {
            Ledger::Postgres(client) => checkpoint::are_tables_complete(client).await,
            Ledger::ClickHouse(client) => kept::is_complete(client).await,
        }
    }

    /// The statements that make them so.
    pub fn tables_sql(self) -> String {
        match self {
            Ledger::Postgres(_) => checkpoint::tables_sql(),
            Ledger::ClickHouse(_) => kept::tables_sql().join(";\n"),
        }
    }

    /// Notes what the pipeline's SQL is known by from now on.
    pub async fn note_sql(self, key: &CheckpointKey, epoch: i64, sql_hash: &str) -> Result<(), SinkError> {
        match self {
            Ledger::Postgres(client) => checkpoint::note_sql(client, key, epoch, sql_hash).await,
            Ledger::ClickHouse(client) => kept::note_sql(client, key, epoch, sql_hash).await,
        }
    }

    /// All checkpoints of a project. An error is never taken for their absence.
    pub async fn fetch_all(self, project: &str) -> Result<Vec<Checkpoint>, SinkError> {
        match self {
            Ledger::Postgres(client) => checkpoint::fetch_all(client, project).await,
            Ledger::ClickHouse(client) => kept::fetch_all(client, project).await,
        }
    }

    /// One checkpoint, as it is.
    pub async fn fetch_one(self, key: &CheckpointKey) -> Result<Option<Checkpoint>, SinkError> {
        match self {
            Ledger::Postgres(client) => checkpoint::fetch_one(client, key).await,
            Ledger::ClickHouse(client) => kept::fetch_one(client, key).await,
        }
    }

    /// One checkpoint, once nothing is moving it any more that this process, with that epoch, had sent before.
    pub async fn fetch_settled(
        self,
        key: &CheckpointKey,
        epoch: i64,
    ) -> Result<Option<Checkpoint>, SinkError> {
        match self {
            Ledger::Postgres(client) => checkpoint::fetch_settled(client, key).await,
            Ledger::ClickHouse(client) => kept::fetch_settled(client, key, epoch).await,
        }
    }

    /// Takes the pipeline: from here on, no other process can move its checkpoint.
    pub async fn claim(self, key: &CheckpointKey, claim: Claim<'_>) -> Result<Checkpoint, SinkError> {
        match self {
            Ledger::Postgres(client) => checkpoint::claim(client, key, claim).await,
            Ledger::ClickHouse(client) => kept::claim(client, key, claim).await,
        }
    }

    /// Forgets where the pipeline was, so that its next start is a backfill.
    pub async fn reset(self, key: &CheckpointKey) -> Result<(), SinkError> {
        match self {
            Ledger::Postgres(client) => checkpoint::reset(client, key).await,
            Ledger::ClickHouse(client) => kept::reset(client, key).await,
        }
    }

    /// Forgets where a pipeline is that this process has, as it was asked to. Whether it was this process's still, and
    /// asked for still.
    pub async fn refill(self, key: &CheckpointKey, epoch: i64, request: &Request) -> Result<bool, SinkError> {
        match self {
            Ledger::Postgres(client) => request::refill(client, key, epoch, request).await,
            Ledger::ClickHouse(client) => asking::refill(client, key, epoch, request).await,
        }
    }

    /// Whether other pipelines' checkpoints, of whatever project, name that output table. Of this project only the
    /// given pipelines count.
    pub async fn has_other_writers(
        self,
        key: &CheckpointKey,
        table: &str,
        pipelines: &[String],
    ) -> Result<bool, SinkError> {
        match self {
            Ledger::Postgres(client) => checkpoint::has_other_writers(client, key, table, pipelines).await,
            Ledger::ClickHouse(client) => kept::has_other_writers(client, key, table, pipelines).await,
        }
    }

    /// Notes the failure of a pipeline that this process has.
    pub async fn record_failure(
        self,
        key: &CheckpointKey,
        epoch: i64,
        failure: &Failure,
    ) -> Result<(), SinkError> {
        match self {
            Ledger::Postgres(client) => failure::record(client, key, epoch, failure).await,
            Ledger::ClickHouse(client) => kept::record_failure(client, key, epoch, failure).await,
        }
    }

    /// Gives up the place of a pipeline that this process has: it needs a backfill. Whether it was still this process's.
    pub async fn give_up(
        self,
        key: &CheckpointKey,
        epoch: i64,
        failure: &Failure,
    ) -> Result<bool, SinkError> {
        match self {
            Ledger::Postgres(client) => failure::give_up(client, key, epoch, failure).await,
            Ledger::ClickHouse(client) => kept::give_up(client, key, epoch, failure).await,
        }
    }

    /// Leaves a request in place of the one that was seen there. With `failure`, only if the pipeline still stands at
    /// that one. Whether the request was left.
    pub async fn leave(
        self,
        key: &CheckpointKey,
        asked: &Asked,
        seen: Option<&Request>,
        failure: Option<&Failure>,
    ) -> Result<bool, SinkError> {
        match self {
            Ledger::Postgres(client) => request::leave(client, key, asked, seen, failure).await,
            Ledger::ClickHouse(client) => asking::leave(client, key, asked, seen, failure).await,
        }
    }

    /// All requests of a project, by pipeline.
    pub async fn fetch_requests(self, project: &str) -> Result<Vec<(String, Request)>, SinkError> {
        match self {
            Ledger::Postgres(client) => request::fetch(client, project).await,
            Ledger::ClickHouse(client) => asking::fetch_requests(client, project).await,
        }
    }

    /// Takes a request away that is seen to, and with it what it was about: the pipeline tries again.
    pub async fn clear(self, key: &CheckpointKey, request: &Request) -> Result<(), SinkError> {
        match self {
            Ledger::Postgres(client) => request::clear(client, key, request).await,
            Ledger::ClickHouse(client) => asking::clear(client, key, request).await,
        }
    }

    /// Takes a request away that can't be done, and says why.
    pub async fn refuse(self, key: &CheckpointKey, request: &Request, reason: &str) -> Result<(), SinkError> {
        match self {
            Ledger::Postgres(client) => request::refuse(client, key, request, reason).await,
            Ledger::ClickHouse(client) => asking::refuse(client, key, request, reason).await,
        }
    }

    /// How many dead letters there are, by pipeline.
    pub async fn count_dead_letters(self, project: &str) -> Result<Vec<(String, i64)>, SinkError> {
        match self {
            Ledger::Postgres(client) => dead_letter::count(client, project).await,
            Ledger::ClickHouse(client) => letters::count(client, project).await,
        }
    }

    /// Forgets one pipeline, with its dead letters.
    pub async fn delete(self, key: &CheckpointKey) -> Result<(), SinkError> {
        match self {
            Ledger::Postgres(client) => checkpoint::delete(client, key).await,
            Ledger::ClickHouse(client) => removal::delete(client, key).await,
        }
    }

    /// Other projects that have something there.
    pub async fn other_projects(self, project: &str) -> Result<Vec<String>, SinkError> {
        match self {
            Ledger::Postgres(client) => checkpoint::other_projects(client, project).await,
            Ledger::ClickHouse(client) => removal::other_projects(client, project).await,
        }
    }

    /// Forgets all pipelines of a project.
    pub async fn delete_all(self, project: &str) -> Result<(), SinkError> {
        match self {
            Ledger::Postgres(client) => checkpoint::delete_all(client, project).await,
            Ledger::ClickHouse(client) => removal::delete_all(client, project).await,
        }
    }

    /// Whether it holds nothing but what is this project's, and this role may drop it.
    pub async fn is_spare(self, project: &str) -> Result<bool, SinkError> {
        match self {
            Ledger::Postgres(client) => checkpoint::is_schema_spare(client, project).await,
            Ledger::ClickHouse(client) => removal::is_spare(client, project).await,
        }
    }

    /// Drops it, if no project has anything there and nothing depends on it; whether it did.
    pub async fn drop(self) -> Result<bool, SinkError> {
        match self {
            Ledger::Postgres(client) => checkpoint::drop_schema(client).await,
            Ledger::ClickHouse(client) => removal::drop(client).await,
        }
    }

    /// What it is, with what is in it.
    pub fn what(self) -> &'static str {
        match self {
            Ledger::Postgres(_) => "schema trucker, with its tables",
            Ledger::ClickHouse(_) => self.name(),
        }
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Ledger::Postgres(_) => "schema trucker",
            Ledger::ClickHouse(_) => "tables trucker_checkpoint and trucker_dead_letters",
        }
    }
}
