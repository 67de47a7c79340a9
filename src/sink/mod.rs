//! Outputs: rows and checkpoint into a datastore, in one transaction where it has any. Knows nothing of
//! replication or of the user's transforms, and never retries: it says whether a retry may help.

mod checkpoint;
pub mod clickhouse;
pub mod dead_letter;
mod error;
mod failure;
pub mod fold;
mod ledger;
mod load;
mod output;
pub mod postgres;
mod request;
mod row;
mod write;

pub use checkpoint::{Checkpoint, CheckpointKey, Goal, Origin};
pub use dead_letter::DeadLetter;
pub use error::SinkError;
pub use failure::Failure;
pub use ledger::{Claim, Ledger};
pub use load::{Load, LoadColumn, Words};
pub use output::{Output, Target, Writer};
pub use request::{Asked, Request};
pub use row::{Key, Layout, Row};
pub use write::{By, Put, Removal, Write, Writes};
