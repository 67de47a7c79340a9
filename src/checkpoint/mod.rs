//! Checkpoint arithmetic.
