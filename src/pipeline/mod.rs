//! One pipeline: from its config to rows in its output. It asks a source to be sent changes, and is told nothing else
//! about where they come from.
//!
//! * [`definition`]: checked against both databases; `output`: the table that it writes.
//! * [`compiled`]: its SQL, for one version of an input table.
//! * [`queue`]: what the source hands over.
//! * [`stage`]: SQL over batches; [`effect`]: from its answers to writes; [`lineage`]: rows that pass each other.
//! * [`backfill`]: what was there before.
//! * [`task`]: its life, with its two halves `intake` and `delivery`; [`error`]: its troubles.
//! * [`isolation`]: the one change that fails; [`letters`]: what is told of those that aren't loaded; [`standstill`]: a
//!   pipeline that failed.
//! * [`beat`]: that it turns; [`state`]: what others see of it; [`counts`]: what it has done; [`pending`]: what it hasn't yet; [`trace`]: its spans.

pub mod backfill;
pub mod beat;
pub mod compiled;
pub mod counts;
pub mod definition;
mod delivery;
pub mod effect;
mod encoding;
pub mod error;
mod intake;
pub mod isolation;
pub mod letters;
pub mod lineage;
pub mod listing;
pub mod loading;
pub mod nullable;
pub mod offline;
mod output;
pub mod pending;
pub mod preview;
pub mod queue;
mod reading;
mod repair;
pub mod rights;
pub mod stage;
pub mod standstill;
pub mod state;
pub mod task;
pub mod trace;
pub mod verify;
pub mod versions;
