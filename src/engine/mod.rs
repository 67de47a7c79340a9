//! A whole project at work.
