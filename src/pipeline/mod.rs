//! One pipeline.
