//! Sources: publication, slot, snapshot and the replication stream. Knows nothing of SQL files or outputs;
//! is told which LSN to confirm.

pub mod assemble;
pub mod partitions;
pub mod pgoutput;
pub mod publication;
pub mod slot;
pub mod snapshot;
pub mod standby;
pub mod stream;
