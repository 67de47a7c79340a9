//! The users SQL.
