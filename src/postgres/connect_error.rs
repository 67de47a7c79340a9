//! Why there is no connection: what is wrong, by which code, and the cure. Never makes one, never shows a password.

use std::fmt;
use std::io;

use super::error::ServerError;
use crate::codes::Code;

/// Why there is no connection. Names the connection as trucker.yml does, and the cure.
#[derive(Debug)]
#[allow(missing_docs, reason = "the texts say it")]
pub enum ConnectError {
    Unreachable { connection: String, address: String, source: io::Error },
    HostUnknown { connection: String, address: String, source: io::Error },
    NoTls { connection: String, address: String, mode: &'static str },
    Untrusted { connection: String, address: String, reason: String },
    WrongName { connection: String, address: String, reason: String },
    TlsFile { connection: String, key: &'static str, reason: String },
    Handshake { connection: String, address: String, reason: String },
    Password { connection: String, given: bool, error: Box<ServerError> },
    NotAllowed { connection: String, error: Box<ServerError> },
    NoDatabase { connection: String, error: Box<ServerError> },
    Server { connection: String, error: Box<ServerError> },
    Pooler { connection: String, reason: String },
    Protocol { connection: String, address: String, reason: String },
}

impl ConnectError {
    /// What is wrong, without the cure.
    pub fn what(&self) -> String {
        let text = match self {
            ConnectError::Unreachable { address, source, .. } => {
                format!("nothing answers at {address}: {source}")
            }
            ConnectError::HostUnknown { address, source, .. } => {
                format!("the host of {address} has no address: {source}")
            }
            ConnectError::NoTls { address, mode, .. } => {
                format!("the server at {address} offers no TLS, but sslmode is {mode}")
            }
            ConnectError::Untrusted { address, reason, .. } => {
                format!("the certificate of {address} is not to be trusted: {reason}")
            }
            ConnectError::WrongName { address, reason, .. } => {
                format!("the certificate of {address} is for another name: {reason}")
            }
            ConnectError::TlsFile { key, reason, .. } => format!("{key} can't be used: {reason}"),
            ConnectError::Handshake { address, reason, .. } => format!("no TLS with {address}: {reason}"),
            ConnectError::Password { error, .. }
            | ConnectError::NotAllowed { error, .. }
            | ConnectError::NoDatabase { error, .. }
            | ConnectError::Server { error, .. } => error.to_string(),
            ConnectError::Pooler { reason, .. } => {
                format!("there seems to be a connection pooler in between ({reason})")
            }
            ConnectError::Protocol { address, reason, .. } => {
                format!("the server at {address} doesn't speak as Postgres does: {reason}")
            }
        };
        format!("connection {}: {text}", self.connection())
    }

    /// What to do about it, where that is known.
    pub fn cure(&self) -> Option<&'static str> {
        Some(match self {
            ConnectError::Unreachable { .. } => "Is the server running, and reachable from here?",
            ConnectError::HostUnknown { .. } => "Is `host` right, and known to this machine's name server?",
            ConnectError::NoTls { .. } => "Turn on `ssl` on the server, or choose `sslmode: prefer`",
            ConnectError::Untrusted { .. } => {
                "Name the certificate authority that signed it in ssl_root_cert"
            }
            ConnectError::WrongName { .. } => {
                "Use the name that the certificate has as `host`, or `sslmode: verify-ca`"
            }
            ConnectError::Password { given: true, .. } => "Is `user` right, and `pass`?",
            ConnectError::Password { given: false, .. } => "Set `pass`",
            ConnectError::NotAllowed { .. } => {
                "Add a line to the server's pg_hba.conf, `host DATABASE USER ADDRESS scram-sha-256`, and SELECT \
                 pg_reload_conf(); or, where it has one for TLS alone (`hostssl`), choose `sslmode: require`"
            }
            ConnectError::NoDatabase { .. } => "Is `database` right?",
            ConnectError::Pooler { .. } => "Connect to Postgres directly",
            ConnectError::Protocol { .. } => "Are `host` and `port` those of a Postgres server?",
            ConnectError::TlsFile { .. } | ConnectError::Handshake { .. } | ConnectError::Server { .. } => {
                return None;
            }
        })
    }

    /// Which kind of problem.
    pub fn code(&self) -> Code {
        match self {
            ConnectError::Unreachable { .. } => Code::Unreachable,
            ConnectError::HostUnknown { .. } => Code::HostUnknown,
            ConnectError::NoTls { .. } => Code::NoTls,
            ConnectError::Untrusted { .. } => Code::CertificateUntrusted,
            ConnectError::WrongName { .. } => Code::CertificateName,
            ConnectError::TlsFile { .. } => Code::TlsFile,
            ConnectError::Handshake { .. } => Code::TlsHandshake,
            ConnectError::Password { .. } => Code::Password,
            ConnectError::NotAllowed { .. } => Code::NotAllowed,
            ConnectError::NoDatabase { .. } => Code::NoDatabase,
            ConnectError::Server { .. } => Code::ConnectionRefused,
            ConnectError::Pooler { .. } => Code::Pooler,
            ConnectError::Protocol { .. } => Code::NotPostgres,
        }
    }

    fn connection(&self) -> &str {
        match self {
            ConnectError::Unreachable { connection, .. }
            | ConnectError::HostUnknown { connection, .. }
            | ConnectError::NoTls { connection, .. }
            | ConnectError::Untrusted { connection, .. }
            | ConnectError::WrongName { connection, .. }
            | ConnectError::TlsFile { connection, .. }
            | ConnectError::Handshake { connection, .. }
            | ConnectError::Password { connection, .. }
            | ConnectError::NotAllowed { connection, .. }
            | ConnectError::NoDatabase { connection, .. }
            | ConnectError::Server { connection, .. }
            | ConnectError::Pooler { connection, .. }
            | ConnectError::Protocol { connection, .. } => connection,
        }
    }

    /// Whether trying again later may help.
    pub fn is_transient(&self) -> bool {
        match self {
            // A name that isn't known yet, a server that isn't up yet, a firewall that is being changed.
            ConnectError::Unreachable { .. } | ConnectError::HostUnknown { .. } => true,
            ConnectError::Server { error, .. } => error.is_transient(),
            _ => false,
        }
    }

    /// Sorts what a server said to the startup packet or to a password.
    pub(super) fn from_server(connection: &str, given: bool, error: ServerError) -> Self {
        let error = Box::new(error);
        let connection = connection.to_owned();
        match error.code.as_str() {
            "28P01" => ConnectError::Password { connection, given, error },
            "28000" => ConnectError::NotAllowed { connection, error },
            "3D000" => ConnectError::NoDatabase { connection, error },
            "42501" if error.message.starts_with("permission denied for database") => {
                let mut error = error;
                let database = error.message.split('"').nth(1).unwrap_or("…");
                error.hint = Some(format!("GRANT CONNECT ON DATABASE {database} TO its user"));
                ConnectError::Server { connection, error }
            }
            "08P01" if error.message.contains("startup parameter") => {
                ConnectError::Pooler { connection, reason: error.message }
            }
            _ => ConnectError::Server { connection, error },
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what())?;
        self.cure().map_or(Ok(()), |cure| write!(f, ". {cure}"))
    }
}

impl std::error::Error for ConnectError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(code: &str, message: &str) -> ServerError {
        ServerError::decode(format!("VFATAL\0C{code}\0M{message}\0\0").as_bytes())
    }

    #[test]
    fn each_refusal_names_the_connection_and_the_cure() {
        for (given, code, message, shown) in [
            (
                true,
                "28P01",
                "password authentication failed for user \"u\"",
                "connection db: password authentication failed for user \"u\" (SQLSTATE 28P01). Is `user` right, and `pass`?",
            ),
            (
                false,
                "28P01",
                "empty password returned by client",
                "connection db: empty password returned by client (SQLSTATE 28P01). Set `pass`",
            ),
            (
                true,
                "28000",
                "no pg_hba.conf entry for host \"::1\", user \"u\", database \"d\", no encryption",
                "connection db: no pg_hba.conf entry for host \"::1\", user \"u\", database \"d\", no encryption \
                 (SQLSTATE 28000). Add a line to the server's pg_hba.conf, `host DATABASE USER ADDRESS scram-sha-256`, \
                 and SELECT pg_reload_conf(); or, where it has one for TLS alone (`hostssl`), choose `sslmode: require`",
            ),
            (
                true,
                "3D000",
                "database \"d\" does not exist",
                "connection db: database \"d\" does not exist (SQLSTATE 3D000). Is `database` right?",
            ),
            (
                true,
                "08P01",
                "unsupported startup parameter: options",
                "connection db: there seems to be a connection pooler in between (unsupported startup parameter: \
                 options). Connect to Postgres directly",
            ),
            (
                true,
                "57P03",
                "the database system is starting up",
                "connection db: the database system is starting up (SQLSTATE 57P03)",
            ),
        ] {
            let error = ConnectError::from_server("db", given, server(code, message));
            assert_eq!(error.to_string(), shown);
            assert_eq!(error.is_transient(), code == "57P03");
        }
    }
}
