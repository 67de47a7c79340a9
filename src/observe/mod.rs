//! What the program says while it runs. Known to the engine and its callers only; layers below return counts and emit
//! tracing events.
//!
//! * [`snapshot`]: a run at one time; [`board`]: where the engine puts it.
//! * [`http`]: the address where it can be looked at: [`metrics`], status, health, and the [`page`].
//! * [`log`]: lines on stderr; [`progress`]: what is at the foot of a terminal, or now and then in the log.
//! * [`otel`]: spans to a collector; [`notify`]: what systemd wants to know.
//! * [`units`]: numbers for people.

pub mod board;
pub mod http;
pub mod log;
pub mod metrics;
pub mod notify;
pub mod otel;
pub mod page;
pub mod progress;
pub mod snapshot;
pub mod units;
