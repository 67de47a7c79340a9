//! Connections as the rest of the program may rely on them: every value read, checked and complete.

use std::fmt;

use super::secret::Secret;

/// libpq's six modes, with libpq's meanings (PostgreSQL documentation, "SSL Mode Descriptions").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// Without TLS first; with it where the server refuses that.
    Allow,
    /// With TLS where the server has it. libpq's default, and ours.
    #[default]
    Prefer,
    /// Always TLS; the certificate is checked only where a root certificate is given, as verify-ca does.
    Require,
    /// Always TLS, with a certificate that the root certificate vouches for.
    VerifyCa,
    /// verify-ca, and the certificate names the host.
    VerifyFull,
}

impl SslMode {
    /// All names, as libpq writes them.
    pub const NAMES: [&'static str; 6] =
        ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

    /// The mode of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "disable" => SslMode::Disable,
            "allow" => SslMode::Allow,
            "prefer" => SslMode::Prefer,
            "require" => SslMode::Require,
            "verify-ca" => SslMode::VerifyCa,
            "verify-full" => SslMode::VerifyFull,
            _ => return None,
        })
    }
}

/// Who may vouch for a server's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootCertificates {
    /// The machine's own store (`ssl_root_cert: system`).
    System,
    /// These, in PEM.
    Pem(Vec<u8>),
}

/// What happens when the source keeps more WAL than is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnWalBudget {
    /// It is said, again and again.
    #[default]
    Warn,
    /// A pipeline that has failed loses its place, and needs a backfill.
    GiveUp,
}

/// How much WAL a source may keep for the project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalBudget {
    /// Bytes.
    pub bytes: u64,
    /// What happens beyond.
    pub on_excess: OnWalBudget,
}

impl Default for WalBudget {
    fn default() -> Self {
        WalBudget { bytes: 10 << 30, on_excess: OnWalBudget::Warn }
    }
}

/// How to reach one Postgres database.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresConnection {
    /// The connection's name in trucker.yml, by which messages call it.
    pub name: String,
    /// Host name, address, or the directory of a Unix socket (starts with `/`).
    pub host: String,
    /// TCP port, or the number in the Unix socket's name.
    pub port: u16,
    /// Database.
    pub database: String,
    /// Role.
    pub user: String,
    /// Password, if any.
    pub pass: Option<Secret>,
    /// Whether and how TLS is used. No meaning on a Unix socket.
    pub sslmode: SslMode,
    /// Who vouches for the server.
    pub ssl_root_cert: Option<RootCertificates>,
    /// The client's certificate chain in PEM.
    pub ssl_cert: Option<Vec<u8>>,
    /// Its key in PEM.
    pub ssl_key: Option<Secret>,
    /// As a source: how much WAL it may keep.
    pub wal_budget: WalBudget,
    /// A standby to read from, complete with what it takes over from the main connection.
    pub replica: Option<Box<PostgresConnection>>,
    /// Whether its slot is to survive a failover (Postgres 17 and later).
    pub failover: bool,
}

impl PostgresConnection {
    /// Where queries run: the standby where there is one, else the server itself.
    pub fn queried(&self) -> &PostgresConnection {
        self.replica.as_deref().unwrap_or(self)
    }

    /// Where slot and stream are: on the standby where there is one and its version (`server_version_num`) can decode
    /// there, else on the server itself.
    pub fn streamed(&self, server_version: u32) -> &PostgresConnection {
        if server_version >= 160_000 { self.queried() } else { self }
    }
}

impl fmt::Debug for PostgresConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresConnection").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How to reach one ClickHouse database.
#[derive(Clone, PartialEq, Eq)]
pub struct ClickHouseConnection {
    /// The connection's name in trucker.yml.
    pub name: String,
    /// Host name or address.
    pub host: String,
    /// Port of the HTTP interface.
    pub port: u16,
    /// Database, for names that have none before them.
    pub database: String,
    /// User.
    pub user: String,
    /// Password, if any.
    pub pass: Option<Secret>,
    /// Whether it is HTTPS, and what is checked then. Never `allow` or `prefer`: a port speaks one or the other.
    pub sslmode: SslMode,
    /// Who vouches for the server.
    pub ssl_root_cert: Option<RootCertificates>,
    /// The client's certificate chain in PEM.
    pub ssl_cert: Option<Vec<u8>>,
    /// Its key in PEM.
    pub ssl_key: Option<Secret>,
}

impl fmt::Debug for ClickHouseConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClickHouseConnection").field("name", &self.name).finish_non_exhaustive()
    }
}

/// One entry of `connections`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connection {
    /// `adapter: postgres`
    Postgres(PostgresConnection),
    /// `adapter: clickhouse`
    ClickHouse(ClickHouseConnection),
}

impl Connection {
    /// The name in trucker.yml.
    pub fn name(&self) -> &str {
        match self {
            Connection::Postgres(c) => &c.name,
            Connection::ClickHouse(c) => &c.name,
        }
    }
}
