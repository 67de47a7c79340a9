//! Reads trucker.yml: the project's name and its connections.

use super::connection::{
    ClickHouseConnection, Connection, OnWalBudget, PostgresConnection, RootCertificates, SslMode, WalBudget,
};
use super::fields::Reader;
use super::settings::Settings;
use super::template::Place;
use super::yaml::{Kind, Node};
use crate::codes::Code;

/// What trucker.yml says.
#[derive(Debug, Default)]
pub(super) struct ProjectFile {
    pub(super) name: Option<String>,
    /// None if it isn't even known which there are.
    pub(super) connections: Option<Vec<Declared>>,
}

/// An entry of `connections`, good or not: pipelines may name one that has something wrong.
#[derive(Debug)]
pub(super) struct Declared {
    pub(super) name: String,
    pub(super) adapter: Option<Adapter>,
    /// None if something is wrong with it.
    pub(super) connection: Option<Connection>,
    place: Place,
}

/// Kinds of servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Adapter {
    Postgres,
    ClickHouse,
}

const ADAPTERS: [(&str, Adapter); 2] = [("postgres", Adapter::Postgres), ("clickhouse", Adapter::ClickHouse)];

pub(super) const POSTGRES_KEYS: [&str; 20] = [
    "name",
    "adapter",
    "host",
    "port",
    "database",
    "user",
    "pass",
    "sslmode",
    "ssl_root_cert",
    "ssl_cert",
    "ssl_key",
    "wal_budget",
    "on_wal_budget",
    "failover",
    "replica_host",
    "replica_port",
    "replica_database",
    "replica_db",
    "replica_user",
    "replica_pass",
];

pub(super) const CLICKHOUSE_KEYS: [&str; 11] = [
    "name",
    "adapter",
    "host",
    "port",
    "database",
    "user",
    "pass",
    "sslmode",
    "ssl_root_cert",
    "ssl_cert",
    "ssl_key",
];

/// How much of the connections is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All.
    Whole,
    /// Which there are. Each becomes one that leads nowhere.
    Names,
}

/// Reads the file's tree. What is wrong is reported; what is right is returned.
pub(super) fn read_project_file(reader: Reader<'_>, root: &Node, wanted: Wanted) -> Option<ProjectFile> {
    let fields = reader.map(root, "trucker.yml", &["name", "connections"])?;
    let name = match wanted {
        Wanted::Whole => fields.get("name").and_then(|node| read_project_name(reader, node)),
        Wanted::Names => None,
    };
    Some(ProjectFile { name, connections: read_connections(reader, root, fields.get("connections"), wanted) })
}

fn read_connections(
    reader: Reader<'_>,
    root: &Node,
    list: Option<&Node>,
    wanted: Wanted,
) -> Option<Vec<Declared>> {
    let nodes = match list.map(|node| (node, &node.kind)) {
        Some((_, Kind::List(nodes))) if !nodes.is_empty() => nodes,
        Some((_, Kind::Unknown)) => return None,
        Some((node, kind)) => {
            let problem = if matches!(kind, Kind::List(_)) { "is an empty list" } else { "must be a list" };
            reader.error_with(
                Code::Shape,
                node.place,
                format!("`connections` {problem}"),
                CONNECTION_EXAMPLE,
            );
            return None;
        }
        None => {
            reader.error_with(
                Code::MissingKey,
                root.place,
                "trucker.yml has no `connections`",
                CONNECTION_EXAMPLE,
            );
            return None;
        }
    };
    let mut connections: Vec<Declared> = Vec::new();
    let mut is_complete = true;
    for (i, node) in nodes.iter().enumerate() {
        let Some(declared) = read_connection(reader, node, i, wanted) else {
            is_complete = false;
            continue;
        };
        if let Some(first) = connections.iter().find(|other| other.name == declared.name) {
            let (name, line) = (&declared.name, first.place.line);
            let message = format!("the name `{name}` is taken by the connection in line {line}");
            reader.error(Code::Twice, declared.place, message);
            continue;
        }
        connections.push(declared);
    }
    is_complete.then_some(connections)
}

const CONNECTION_EXAMPLE: &str = "write one as\nconnections:\n  - name: shop_db\n    adapter: postgres\n    \
     host: localhost\n    database: shop\n    user: trucker";

/// `trucker_` before it must still be a slot's name: at most 63 bytes of a-z, 0-9 and _.
const PROJECT_NAME_BYTES_MAX: usize = 55;

fn read_project_name(reader: Reader<'_>, node: &Node) -> Option<String> {
    let name = reader.name(node, "`name`")?;
    let is_fine = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '_');
    if name.len() <= PROJECT_NAME_BYTES_MAX && name.chars().all(is_fine) {
        return Some(name.to_owned());
    }
    let message = "`name` becomes part of a replication slot's name and cannot be this";
    reader.error_with(Code::Value, node.place, message, "use 1 to 55 of the characters a-z, 0-9 and _");
    None
}

fn read_connection(reader: Reader<'_>, node: &Node, index: usize, wanted: Wanted) -> Option<Declared> {
    let unnamed = format!("connection number {}", index + 1);
    // Which keys there are depends on the adapter, which is one of them.
    let adapter = match &node.kind {
        Kind::Map(entries) => {
            entries.iter().find(|(key, _)| key.name == "adapter").map(|(_, node)| &node.kind)
        }
        _ => None,
    };
    let is_clickhouse = matches!(adapter, Some(Kind::Scalar(scalar)) if scalar.text == "clickhouse");
    let keys: &[&str] = if is_clickhouse { &CLICKHOUSE_KEYS } else { &POSTGRES_KEYS };
    let paths: Vec<String> = keys.iter().map(|key| format!("{key}_path")).collect();
    let known: Vec<&str> = keys.iter().copied().chain(paths.iter().map(String::as_str)).collect();
    let named = match &node.kind {
        Kind::Map(entries) => entries.iter().find_map(|(key, node)| match &node.kind {
            Kind::Scalar(scalar) if key.name == "name" => Some(&scalar.text),
            _ => None,
        }),
        _ => None,
    };
    let what = named.map_or(unnamed, |name| format!("connection `{name}`"));
    let fields = reader.map(node, &what, &known)?;
    let settings = Settings { reader, fields, what };
    let name = settings.required("name");
    let adapter = settings.choice("adapter", &ADAPTERS);
    if adapter == Some(None) {
        let message = format!("{} has no `adapter`", settings.what);
        reader.error_with(
            Code::MissingKey,
            node.place,
            message,
            "add `adapter: postgres` or `adapter: clickhouse`",
        );
    }
    let adapter = adapter.flatten();
    let shown_name = name.clone().unwrap_or_default();
    let connection = match adapter {
        Some(adapter) if wanted == Wanted::Names => Some(stand_in(adapter, shown_name)),
        Some(Adapter::ClickHouse) => read_clickhouse(&settings, shown_name).map(Connection::ClickHouse),
        _ => read_postgres(&settings, shown_name).map(Connection::Postgres),
    };
    let connection = connection.filter(|_| adapter.is_some());
    Some(Declared { place: settings.place_of("name"), name: name?, adapter, connection })
}

/// A connection of that name that leads nowhere, and to no other's database.
fn stand_in(adapter: Adapter, name: String) -> Connection {
    let (host, database, user) = (name.clone(), name.clone(), String::new());
    match adapter {
        Adapter::Postgres => Connection::Postgres(PostgresConnection {
            name,
            host,
            port: 5432,
            database,
            user,
            pass: None,
            sslmode: SslMode::Disable,
            ssl_root_cert: None,
            ssl_cert: None,
            ssl_key: None,
            wal_budget: WalBudget::default(),
            replica: None,
            failover: false,
        }),
        Adapter::ClickHouse => Connection::ClickHouse(ClickHouseConnection {
            name,
            host,
            port: 8123,
            database,
            user,
            pass: None,
            sslmode: SslMode::Disable,
            ssl_root_cert: None,
            ssl_cert: None,
            ssl_key: None,
        }),
    }
}

fn read_host(settings: &Settings<'_>, key: &str, host: Option<String>) -> Option<String> {
    let host = host?;
    let is_url = host.contains("://");
    let has_port = host.split_once(':').is_some_and(|(name, port)| {
        !name.is_empty() && !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
    });
    if is_url || has_port || host.contains(char::is_whitespace) {
        let message = format!("`{key}` of {} must be a name or an address alone", settings.what);
        let help = "each part has a key of its own: `host`, `port`, `database`, `user`, `pass`";
        settings.reader.error_with(Code::Value, settings.place_of(key), message, help);
        return None;
    }
    Some(host)
}

fn read_postgres(settings: &Settings<'_>, name: String) -> Option<PostgresConnection> {
    let host = read_host(settings, "host", settings.required("host"));
    let port = settings.port("port", 5432);
    let database = settings.required("database");
    let user = settings.required("user");
    let pass = settings.secret("pass");
    let modes = SslMode::NAMES.map(|name| (name, SslMode::from_name(name).unwrap_or_default()));
    let sslmode = settings.choice("sslmode", &modes);
    let ssl_root_cert = settings.root_certificates("ssl_root_cert");
    let ssl_cert = settings.pem("ssl_cert");
    let ssl_key = settings.pem("ssl_key");
    check_key_pair(settings);
    let wal_budget = read_wal_budget(settings);
    let failover = settings.choice("failover", &[("true", true), ("false", false)]);
    let sslmode = sslmode.and_then(|given| read_ssl_mode(settings, given, ssl_root_cert.as_ref()));
    let main = host.zip(port).zip(database).zip(user).zip(pass).and_then(|parts| {
        let ((((host, port), database), user), pass) = parts;
        Some(PostgresConnection {
            name,
            host,
            port,
            database,
            user,
            pass,
            sslmode: sslmode?,
            ssl_root_cert: ssl_root_cert?,
            ssl_cert: ssl_cert?,
            ssl_key: ssl_key?.map(super::secret::Secret::new),
            wal_budget: wal_budget?,
            replica: None,
            failover: failover?.unwrap_or_default(),
        })
    });
    let replica = read_replica(settings, main.as_ref());
    Some(PostgresConnection { replica: replica?, ..main? })
}

fn read_wal_budget(settings: &Settings<'_>) -> Option<WalBudget> {
    let default = WalBudget::default();
    let bytes = settings.size("wal_budget", default.bytes);
    let on_excess =
        settings.choice("on_wal_budget", &[("warn", OnWalBudget::Warn), ("give_up", OnWalBudget::GiveUp)]);
    Some(WalBudget { bytes: bytes?, on_excess: on_excess?.unwrap_or_default() })
}

fn check_key_pair(settings: &Settings<'_>) {
    for (key, other) in [("ssl_cert", "ssl_key"), ("ssl_key", "ssl_cert")] {
        if settings.has(key) && !settings.has(other) {
            let message = format!("{} has `{key}` but no `{other}`", settings.what);
            let help = "a client certificate needs both; a server's goes to `ssl_root_cert`";
            settings.reader.error_with(Code::MissingKey, settings.place_of(key), message, help);
        }
    }
}

/// As in libpq, the machine's store, in which anybody's certificate is vouched for, is of use only with the
/// host's name checked.
fn read_ssl_mode(
    settings: &Settings<'_>,
    given: Option<SslMode>,
    root: Option<&Option<RootCertificates>>,
) -> Option<SslMode> {
    match (given, root) {
        (None, Some(Some(RootCertificates::System))) => Some(SslMode::VerifyFull),
        (Some(mode), Some(Some(RootCertificates::System))) if mode != SslMode::VerifyFull => {
            let message = format!("`ssl_root_cert: system` of {} needs `verify-full`", settings.what);
            let help = "anybody can have a certificate that the system's store vouches for, so the host's \
                        name must be checked: sslmode: verify-full";
            settings.reader.error_with(Code::Both, settings.place_of("sslmode"), message, help);
            None
        }
        (mode, _) => Some(mode.unwrap_or_default()),
    }
}

/// The standby: what its keys leave out is the main connection's.
fn read_replica(
    settings: &Settings<'_>,
    main: Option<&PostgresConnection>,
) -> Option<Option<Box<PostgresConnection>>> {
    let keys = ["replica_port", "replica_database", "replica_db", "replica_user", "replica_pass"];
    if !settings.has("replica_host") {
        for key in keys.into_iter().filter(|key| settings.has(key)) {
            let message = format!("{} has `{key}` but no `replica_host`", settings.what);
            settings.reader.error(Code::MissingKey, settings.place_of(key), message);
        }
        return Some(None);
    }
    if settings.has("replica_database") && settings.has("replica_db") {
        let message = format!("{} has both `replica_database` and `replica_db`", settings.what);
        settings.reader.error_with(Code::Both, settings.place_of("replica_db"), message, "keep one of them");
    }
    let host = read_host(settings, "replica_host", settings.required("replica_host"));
    let port = settings.port("replica_port", main.map_or(5432, |main| main.port));
    let database = settings.optional("replica_database");
    let db = settings.optional("replica_db");
    let user = settings.optional("replica_user");
    let pass = settings.secret("replica_pass");
    let main = main?;
    Some(Some(Box::new(PostgresConnection {
        name: format!("{}'s replica", main.name),
        host: host?,
        port: port?,
        database: database?.or(db?).unwrap_or_else(|| main.database.clone()),
        user: user?.unwrap_or_else(|| main.user.clone()),
        pass: pass?.or_else(|| main.pass.clone()),
        ..main.clone()
    })))
}

fn read_clickhouse(settings: &Settings<'_>, name: String) -> Option<ClickHouseConnection> {
    let host = read_host(settings, "host", settings.required("host"));
    let database = settings.optional("database");
    let user = read_clickhouse_user(settings);
    let pass = settings.secret("pass");
    let modes = HTTP_MODES.map(|name| (name, SslMode::from_name(name).unwrap_or_default()));
    let sslmode = settings.choice("sslmode", &modes);
    let ssl_root_cert = settings.root_certificates("ssl_root_cert");
    let ssl_cert = settings.pem("ssl_cert");
    let ssl_key = settings.pem("ssl_key");
    check_key_pair(settings);
    // Who names a certificate means TLS.
    let has_tls_keys = ["ssl_root_cert", "ssl_cert"].iter().any(|key| settings.has(key));
    let default = if has_tls_keys { SslMode::VerifyFull } else { SslMode::Disable };
    let sslmode = sslmode
        .and_then(|given| read_ssl_mode(settings, Some(given.unwrap_or(default)), ssl_root_cert.as_ref()));
    let port = settings.port("port", if sslmode == Some(SslMode::Disable) { 8123 } else { 8443 });
    Some(ClickHouseConnection {
        name,
        host: host?,
        port: port?,
        database: database?.unwrap_or_else(|| "default".to_owned()),
        user: user?,
        pass: pass?,
        sslmode: sslmode?,
        ssl_root_cert: ssl_root_cert?,
        ssl_cert: ssl_cert?,
        ssl_key: ssl_key?.map(super::secret::Secret::new),
    })
}

/// Without those that leave it to the server: a port speaks HTTP or HTTPS.
const HTTP_MODES: [&str; 4] = ["disable", "require", "verify-ca", "verify-full"];

/// The header that carries any password ends the user's name with a colon.
fn read_clickhouse_user(settings: &Settings<'_>) -> Option<String> {
    let user = settings.optional("user")?.unwrap_or_else(|| "default".to_owned());
    if user.contains(':') {
        let message = format!("`user` of {} holds a colon, which HTTP can't carry", settings.what);
        settings.reader.error_with(
            Code::Value,
            settings.place_of("user"),
            message,
            "use a user with another name",
        );
        return None;
    }
    Some(user)
}
