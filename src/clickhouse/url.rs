//! A connection as one text, for the command line: `clickhouse://user:password@host:port/database`, or as the HTTP interface is
//! reached, `https://…`. Files never hold one.

use hyper::Uri;
use percent_encoding::percent_decode_str;

use crate::config::{ClickHouseConnection, RootCertificates, Secret, SslMode};

const EXPECTED: &str = "expected clickhouse://user:password@host:port/database";

/// Whether the text means a ClickHouse.
pub fn is_url(text: &str) -> bool {
    ["clickhouse://", "http://", "https://"].iter().any(|start| text.starts_with(start))
}

/// Reads it; `name` is what messages call the connection. The error says what is wrong, without the password.
pub fn parse_url(name: &str, text: &str) -> Result<ClickHouseConnection, String> {
    let wrong = |what: &str| format!("{EXPECTED}: {what}");
    let uri: Uri =
        text.parse().map_err(|_| wrong("bytes other than A-Z, a-z, 0-9, - and _ are %XX in it"))?;
    let authority = uri.authority().ok_or_else(|| wrong("it names no host"))?;
    let login = authority.as_str().rsplit_once('@').map(|(login, _)| login);
    let (user, pass) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
        Some((user, pass)) => (decoded(user)?, percent_decode_str(pass).collect::<Vec<u8>>()),
        None => ("default".to_owned(), Vec::new()),
    };
    if user.contains(':') {
        return Err("HTTP can't carry a user's name with a colon in it".to_owned());
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Err(wrong("it names no host"));
    }
    let database = decoded(uri.path().trim_matches('/'))?;
    let (sslmode, ssl_root_cert) = tls(uri.scheme_str(), uri.query())?;
    let port = if sslmode == SslMode::Disable { 8123 } else { 8443 };
    Ok(ClickHouseConnection {
        name: name.to_owned(),
        host: host.to_owned(),
        port: authority.port_u16().unwrap_or(port),
        database: if database.is_empty() { "default".to_owned() } else { database },
        user: if user.is_empty() { "default".to_owned() } else { user },
        pass: (!pass.is_empty()).then(|| Secret::new(pass)),
        sslmode,
        ssl_root_cert,
        ssl_cert: None,
        ssl_key: None,
    })
}

fn decoded(text: &str) -> Result<String, String> {
    let plain =
        percent_decode_str(text).decode_utf8().map_err(|_| "it holds bytes that are no UTF-8".to_owned())?;
    Ok(plain.into_owned())
}

fn tls(scheme: Option<&str>, query: Option<&str>) -> Result<(SslMode, Option<RootCertificates>), String> {
    let (mut mode, mut root) = (None, None);
    for parameter in query.unwrap_or_default().split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some(("sslmode", value @ ("disable" | "require" | "verify-ca" | "verify-full"))) => {
                mode = SslMode::from_name(value);
            }
            Some(("sslmode", value)) => {
                return Err(format!(
                    "no sslmode `{value}`: it is disable, require, verify-ca or verify-full"
                ));
            }
            Some(("sslrootcert", "system")) => root = Some(RootCertificates::System),
            Some(("sslrootcert", path)) => {
                let path = decoded(path)?;
                let pem = std::fs::read(&path).map_err(|error| format!("sslrootcert {path}: {error}"))?;
                root = Some(RootCertificates::Pem(pem));
            }
            _ => return Err("the URL may say sslmode and sslrootcert, no more".to_owned()),
        }
    }
    let is_tls = scheme == Some("https") || root.is_some();
    let mode = mode.unwrap_or(if is_tls { SslMode::VerifyFull } else { SslMode::Disable });
    match (scheme, mode) {
        (Some("https"), SslMode::Disable) => Err("https:// is never without TLS".to_owned()),
        (Some("http"), mode) if mode != SslMode::Disable => Err("with TLS it is https://".to_owned()),
        _ => Ok((mode, root)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_with_the_defaults_of_a_connection() {
        let shown = |text: &str| {
            let to = parse_url("c", text)?;
            let pass = to.pass.map(|pass| String::from_utf8_lossy(pass.expose()).into_owned());
            Ok::<_, String>((to.host, to.port, to.database, to.user, pass, to.sslmode))
        };
        let to = |host: &str, port, database: &str, user: &str, pass: Option<&str>, mode| {
            Ok((host.to_owned(), port, database.to_owned(), user.to_owned(), pass.map(str::to_owned), mode))
        };
        for (text, expected) in [
            ("clickhouse://h", to("h", 8123, "default", "default", None, SslMode::Disable)),
            ("http://u:p@h:1/d", to("h", 1, "d", "u", Some("p"), SslMode::Disable)),
            (
                "clickhouse://u:se%20cret%3A%25%2F@[::1]:9000/my%20db",
                to("::1", 9000, "my db", "u", Some("se cret:%/"), SslMode::Disable),
            ),
            ("https://u@h/d", to("h", 8443, "d", "u", None, SslMode::VerifyFull)),
            ("clickhouse://h/d?sslmode=require", to("h", 8443, "d", "default", None, SslMode::Require)),
            (
                "clickhouse://h?sslrootcert=system",
                to("h", 8443, "default", "default", None, SslMode::VerifyFull),
            ),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
        for (text, part) in [
            ("clickhouse://u:hunter2@/d", "expected clickhouse://"),
            ("clickhouse://u:hun ter2@h/d", "%XX"),
            ("https://u:hunter2@h/d?sslmode=disable", "never without TLS"),
            ("http://u:hunter2@h/d?sslmode=require", "https://"),
            ("clickhouse://u:hunter2@h/d?sslmode=prefer", "no sslmode `prefer`"),
            ("clickhouse://u:hunter2@h/d?secure=1", "sslmode and sslrootcert"),
        ] {
            let error = shown(text).unwrap_err();
            assert!(error.contains(part) && !error.contains("hunter2"), "{text}: {error}");
        }
    }
}
