//! What holds for any input whatever: the targets that cargo-fuzz runs for hours and `tests/fuzz.rs` for seconds.
//! Each takes bytes and panics where a rule is broken. Knows neither where the bytes come from nor how long it goes on.

pub mod clickhouse;
pub mod config;
pub mod decoder;
pub mod encode;
pub mod sql;
pub mod stream;
pub mod template;
