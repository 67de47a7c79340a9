//! The driver layer: connections with TLS and settings that keep values what they are, and what servers' errors
//! mean. Knows nothing of slots, pipelines or sinks.

pub mod array;
pub mod binary;
mod bulk_socket;
pub mod catalog;
mod connect;
mod connect_error;
pub mod error;
pub mod ident;
mod liveness;
mod raw;
pub mod relation_names;
mod settings;
mod socket;
pub mod sqlstate;
pub mod text_rows;
mod tls;
mod url;

pub use connect::{Session, connect};
pub use connect_error::ConnectError;
pub use error::{ServerError, describe, is_transient};
pub use raw::{BackendMessage, MessageReader, RawConnection, RawError, RawRow};
pub use settings::Purpose;
pub use socket::{PlainSocket, Wire};
pub use url::parse_url;
