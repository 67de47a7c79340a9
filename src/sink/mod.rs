//! Outputs: rows and checkpoint into a datastore, in one transaction where it has any. Knows nothing of
//! replication or of the user's transforms, and never retries: it says whether a retry may help.

pub mod fold;
pub mod postgres;
mod row;
mod write;

pub use row::{Key, Layout, Row};
pub use write::{By, Put, Write};
