//! ClickHouse as an output: rows with versions, then the checkpoint. Nothing there commits together, so everything here can
//! be done again: [`version`] says why that changes nothing.

pub mod actual;
mod block;
pub mod dead_letter;
mod fill;
pub mod ledger;
pub mod load;
pub mod removal;
pub mod request;
mod target;
mod version;
mod writer;

pub use block::Wording;
pub use fill::Fill;
pub use target::{Keeping, Target};
pub use version::{Version, Versioned};
pub use writer::Writer;
