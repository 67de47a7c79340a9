//! Postgres as an output: rows and checkpoint commit in one transaction.

pub mod actual;
pub mod checkpoint;
pub mod copy;
pub mod dead_letter;
pub mod failure;
mod flight;
mod lines;
pub mod request;
mod rows;
mod statement;
mod writer;

pub use statement::Target;
pub use writer::{Writer, load_columns};
