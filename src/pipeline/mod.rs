//! One pipeline: from its config to rows in its output. It asks a source to be sent changes, and is told nothing else
//! about where they come from.
//!
//! * [`definition`]: checked against both databases.
//! * [`compiled`]: its SQL, for one version of an input table.
//! * [`queue`]: what the source hands over.
//! * [`stage`]: SQL over batches; [`effect`]: from its answers to writes; [`lineage`]: rows that pass each other.
//! * [`backfill`]: what was there before.
//! * [`task`]: its life; [`error`]: its troubles.
//! * [`state`]: what others see of it; [`counts`]: what it has done; [`pending`]: what it hasn't yet; [`trace`]: its spans.

pub mod backfill;
pub mod compiled;
pub mod counts;
pub mod definition;
pub mod effect;
pub mod error;
pub mod lineage;
pub mod pending;
pub mod queue;
pub mod rights;
pub mod stage;
pub mod state;
pub mod task;
pub mod trace;
pub mod versions;
