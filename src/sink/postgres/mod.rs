//! Postgres as an output: rows and checkpoint commit in one transaction.

pub mod actual;
pub mod checkpoint;
pub mod copy;
pub mod dead_letter;
mod error;
pub mod failure;
pub mod request;
mod statement;
mod writer;

pub use error::SinkError;
pub use statement::Target;
pub use writer::{LoadColumn, Writer, load_columns};
