//! A connection as one text, for the command line: `postgres://user:password@host:port/database?sslmode=…`, or libpq's
//! `host=… dbname=…`. Files never hold one.

use tokio_postgres::config::Host;

use crate::config::{PostgresConnection, RootCertificates, Secret, SslMode, WalBudget};

/// Reads it; `name` is what messages call the connection. The error says what is wrong, without the password.
pub fn parse_url(name: &str, text: &str) -> Result<PostgresConnection, String> {
    let (text, sslmode, root) = take_tls(text)?;
    let expected = "expected postgres://user:password@host:port/database";
    let config: tokio_postgres::Config = text.parse().map_err(|_| expected.to_owned())?;
    let host = match config.get_hosts() {
        [Host::Tcp(host)] => host.clone(),
        [Host::Unix(path)] => path.to_string_lossy().into_owned(),
        [] => return Err(format!("{expected}: it names no host")),
        _ => return Err("it names several hosts: give one".to_owned()),
    };
    let user = config.get_user().ok_or_else(|| format!("{expected}: it names no user"))?;
    Ok(PostgresConnection {
        name: name.to_owned(),
        host,
        port: config.get_ports().first().copied().unwrap_or(5432),
        database: config.get_dbname().unwrap_or(user).to_owned(),
        user: user.to_owned(),
        pass: config.get_password().map(Secret::new),
        sslmode,
        ssl_root_cert: root,
        ssl_cert: None,
        ssl_key: None,
        wal_budget: WalBudget::default(),
        replica: None,
        failover: false,
    })
}

/// The driver doesn't know all modes.
fn take_tls(text: &str) -> Result<(String, SslMode, Option<RootCertificates>), String> {
    let (between, start) = if text.contains("://") { ('&', '?') } else { (' ', ' ') };
    let (mut mode, mut root) = (SslMode::default(), None);
    let Some((before, parameters)) = text.split_once(start) else { return Ok((text.to_owned(), mode, root)) };
    // Behind the last `@`: a `?` before it belongs to the password.
    if start == '?' && parameters.contains('@') {
        return Ok((text.to_owned(), mode, root));
    }
    let whole = if start == '?' { parameters } else { text };
    let mut kept = Vec::new();
    for parameter in whole.split(between) {
        match parameter.split_once('=') {
            Some(("sslmode", value)) => {
                mode = SslMode::from_name(value).ok_or_else(|| format!("there is no sslmode `{value}`"))?;
            }
            Some(("sslrootcert", "system")) => root = Some(RootCertificates::System),
            Some(("sslrootcert", path)) => {
                let pem = std::fs::read(path).map_err(|error| format!("sslrootcert {path}: {error}"))?;
                root = Some(RootCertificates::Pem(pem));
            }
            _ => kept.push(parameter),
        }
    }
    let kept = kept.join(&between.to_string());
    let text = match (start, kept.is_empty()) {
        ('?', true) => before.to_owned(),
        ('?', false) => format!("{before}?{kept}"),
        _ => kept,
    };
    Ok((text, mode, root))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_libpq_does() {
        let shown = |text: &str| {
            let to = parse_url("c", text)?;
            let pass = to.pass.map(|pass| String::from_utf8_lossy(pass.expose()).into_owned());
            Ok::<_, String>((to.host, to.port, to.database, to.user, pass, to.sslmode))
        };
        let to = |host: &str, port, database: &str, pass: Option<&str>, mode| {
            Ok((host.to_owned(), port, database.to_owned(), "u".to_owned(), pass.map(str::to_owned), mode))
        };
        for (text, expected) in [
            ("postgres://u@h/d", to("h", 5432, "d", None, SslMode::Prefer)),
            (
                "postgresql://u:p%40%3F@h:6000/d?sslmode=verify-full",
                to("h", 6000, "d", Some("p@?"), SslMode::VerifyFull),
            ),
            ("postgres://u@h?connect_timeout=3&sslmode=disable", to("h", 5432, "u", None, SslMode::Disable)),
            ("host=/tmp user=u dbname=d sslmode=disable", to("/tmp", 5432, "d", None, SslMode::Disable)),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
        for (text, part) in [
            ("postgres://u:hunter2@/d", "names no host"),
            ("postgres://h/d", "names no user"),
            ("hunter2", "expected postgres://"),
            ("postgres://u@h/d?sslmode=maybe", "no sslmode `maybe`"),
        ] {
            let error = shown(text).unwrap_err();
            assert!(error.contains(part) && !error.contains("hunter2"), "{text}: {error}");
        }
    }
}
