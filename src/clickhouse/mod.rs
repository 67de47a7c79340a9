//! The driver layer for ClickHouse: one HTTP client for all statements, its errors in words that may be shown, what its
//! catalog says of a table, and Postgres's values as its types hold them. Knows nothing of pipelines or sinks; never retries.

mod answer;
mod body;
pub mod catalog;
mod client;
pub mod encode;
mod error;
mod ident;
pub mod mapping;
mod proposal;
pub mod rights;
mod rows;
pub mod types;
mod url;

pub use answer::Answer;
pub use client::Client;
pub use encode::{EncodeError, Encoding};
pub use error::Error;
pub use ident::{quote_ident, quote_table, quote_text};
pub use mapping::PostgresType;
pub use proposal::Proposal;
pub use rows::Rows;
pub use types::Type;
pub use url::{is_url, parse_url};
