//! What the user wrote (trucker.yml, a config file per pipeline, SQL files) and what the program may rely
//! on. Connects to nothing.
//!
//! The way of a file: `source_file` reads it, `expression` renders its template with placeholders for values
//! (`template`, `scan` and `marker` keep its lines), `yaml` makes a tree of it and puts the values in,
//! `connections` or `pipelines` read the tree. Problems and secrets gather in a `report`.

mod connection;
mod connections;
mod consistency;
mod diagnostic;
mod excerpt;
mod expression;
mod fields;
mod load;
mod marker;
mod mask;
pub mod nearest;
mod pipelines;
mod project;
mod report;
mod scan;
pub mod schema;
mod secret;
mod settings;
mod size;
mod source_file;
mod sql_files;
mod table_name;
pub mod template;
mod test_file;
mod yaml;

#[cfg(test)]
mod broken_projects;
#[cfg(test)]
mod good_projects;
#[cfg(test)]
mod schema_tests;

#[cfg(test)]
pub(crate) use schema_tests::accepts_text;

pub use connection::{
    ClickHouseConnection, Connection, OnWalBudget, PostgresConnection, RootCertificates, SslMode, WalBudget,
};
pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use expression::Variables;
pub use load::{Loaded, load, load_filled, load_with, load_without_connections};
pub use mask::SecretMask;
pub use project::{
    Action, Actions, Input, OnError, Output, Pipeline, Project, SqlFile, SqlFiles, TableName, TruncateAction,
};
pub use secret::Secret;
pub use size::shown_size;
pub use source_file::shown_path;
pub use table_name::table_name;
pub use test_file::{
    Expectation, Given, RETURNED, TestCell, TestChange, TestFile, TestOperation, TestRow, TestRows, TestSql,
    TestStep, TestValue, read_test_file,
};
