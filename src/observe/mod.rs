//! What the program says while it runs. Known to the engine's callers only; layers below return counts and emit
//! tracing events.

pub mod log;
pub mod otel;
