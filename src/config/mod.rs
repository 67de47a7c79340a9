//! What the user wrote (trucker.yml, a config file per pipeline, SQL files) and what the program may rely
//! on. Connects to nothing.

mod connection;
mod diagnostic;
mod marker;
mod mask;
mod project;
mod scan;
mod secret;
pub mod template;

pub use connection::{ClickhouseConnection, Connection, PostgresConnection, RootCertificates, SslMode};
pub use project::{
    Action, Actions, Input, Output, Pipeline, Project, SqlFile, SqlFiles, TableName, TruncateAction,
};
pub use secret::Secret;
