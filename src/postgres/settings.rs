//! The session settings that every connection asks for in its startup packet, so that no `ALTER ROLE … SET`
//! or `ALTER DATABASE … SET` can change how values are written or what a query sees; and the check that the
//! server took them, which a connection pooler in between prevents.

use super::connect_error::ConnectError;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Queries on the source: the user's SQL, backfill.
    Source,
    /// Rows and checkpoints into an output.
    Output,
    /// Everything else: looking into catalogs, creating, dropping.
    Control,
}

const SETTINGS: [(&str, &str); 20] = [
    ("DateStyle", "ISO"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "3"),
    ("lc_monetary", "C"),
    // An error instead of rows silently left out.
    ("row_security", "off"),
    ("statement_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("standard_conforming_strings", "on"),
    // Off, a NULL in an array parameter would be read as a text.
    ("array_nulls", "on"),
    ("transform_null_equals", "off"),
    ("default_transaction_isolation", "read committed"),
    ("xmlbinary", "base64"),
    ("xmloption", "content"),
    ("client_min_messages", "warning"),
    // Should this machine vanish, the server lets go of locks and slot within a minute, not two hours: another process may
    // be waiting for them. No meaning on a Unix socket.
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "30s"),
];

/// Those of which a difference would change data.
const VERIFIED: [&str; 7] = [
    "DateStyle",
    "IntervalStyle",
    "TimeZone",
    "bytea_output",
    "extra_float_digits",
    "row_security",
    "array_nulls",
];

/// The startup packet's `options` for an ordinary connection.
pub(super) fn options(purpose: Purpose) -> String {
    // A writer that was stopped inside its transaction holds the checkpoint's lock; the server ends it, so
    // that another can take over.
    // And one that waits too long for another's row lock gives way for a while: the other may be a pipeline of the
    // same stream, which gets no further while this one's queue is full.
    let (idle, lock) = match purpose {
        Purpose::Output => ("60s", "30s"),
        Purpose::Source | Purpose::Control => ("0", "0"),
    };
    let ends = [("idle_in_transaction_session_timeout", idle), ("lock_timeout", lock)];
    // What reads the source writes nothing there, even should the BEGIN READ ONLY fail that it was sent along with.
    let reads = [("default_transaction_read_only", "on")];
    render(&[if purpose == Purpose::Source { &reads[..] } else { &[] }, &ends].concat())
}

/// The startup packet's `options` for a replication connection. Output functions such as `regclass`'s write
/// names as short as the search path allows; there no user's SQL depends on it.
pub(super) fn replication_options() -> String {
    render(&[
        ("idle_in_transaction_session_timeout", "0"),
        ("lock_timeout", "0"),
        ("search_path", "pg_catalog"),
    ])
}

fn render(more: &[(&str, &str)]) -> String {
    let settings = SETTINGS.iter().chain(more);
    settings.map(|(name, value)| format!("-c {name}={}", escape(value))).collect::<Vec<_>>().join(" ")
}

/// The server splits `options` at spaces that have no backslash before them.
fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for c in value.chars() {
        if c.is_ascii_whitespace() || c == '\\' {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// What the check found out on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// As `server_version_num`: 150018 is 15.18.
    pub server_version: u32,
    /// Whether commits may be lost in a crash although they were reported.
    pub commits_asynchronously: bool,
    /// Who answered.
    pub backend: Backend,
}

/// One process of one running server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Backend {
    /// 0 where the server doesn't say.
    pub pid: i32,
    /// When the server started, which no two servers share: one name may stand for several.
    pub server_start: String,
    /// Where it listens, as it sees that itself; empty on a Unix socket.
    pub server_address: String,
}

/// One query whose row [`verify`] reads.
pub(super) fn verification_query() -> String {
    let names = ["server_version_num", "synchronous_commit"].into_iter().chain(VERIFIED);
    let columns: String = names.map(|name| format!("pg_catalog.current_setting('{name}'), ")).collect();
    format!(
        "SELECT {columns}pg_catalog.pg_backend_pid(), pg_catalog.pg_postmaster_start_time(), \
         pg_catalog.host(pg_catalog.inet_server_addr()) || ':' || pg_catalog.inet_server_port()"
    )
}

/// Checks the row of [`verification_query`].
pub(super) fn verify(connection: &str, answers: &[Option<&str>]) -> Result<Found, ConnectError> {
    let pooler = |setting: &str, value: Option<&str>| ConnectError::Pooler {
        connection: connection.to_owned(),
        reason: format!("{setting} is {} after asking for another value", value.unwrap_or("missing")),
    };
    let value = |index: usize| answers.get(index).copied().flatten();
    for (index, name) in VERIFIED.iter().enumerate() {
        let found = value(index + 2);
        let asked = SETTINGS.iter().find(|(setting, _)| setting == name).map(|(_, value)| *value);
        // "ISO, DMY": the second word tells how dates are read, and ISO dates are read alike either way.
        let style = found.map(|text| text.split(',').next().unwrap_or(text));
        if style != asked {
            return Err(pooler(name, found));
        }
    }
    let server_version =
        value(0).and_then(|text| text.parse().ok()).ok_or_else(|| pooler("server_version_num", value(0)))?;
    let after = VERIFIED.len() + 2;
    let backend = Backend {
        pid: value(after).and_then(|text| text.parse().ok()).unwrap_or_default(),
        server_start: value(after + 1).unwrap_or_default().to_owned(),
        server_address: value(after + 2).unwrap_or_default().to_owned(),
    };
    Ok(Found { server_version, commits_asynchronously: value(1) == Some("off"), backend })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [Option<&str>; 12] = [
        Some("150018"),
        Some("on"),
        Some("ISO, DMY"),
        Some("postgres"),
        Some("UTC"),
        Some("hex"),
        Some("3"),
        Some("off"),
        Some("on"),
        Some("4711"),
        Some("2026-01-01 00:00:00.123456+00"),
        None,
    ];

    #[test]
    fn what_the_server_splits_is_escaped() {
        for (value, escaped) in [("UTC", "UTC"), ("a b", "a\\ b"), ("\\\t", "\\\\\\\t"), ("", "")] {
            assert_eq!(escape(value), escaped);
        }
    }

    #[test]
    fn only_a_writer_may_be_ended_inside_its_transaction() {
        let ends = |idle: &str, lock: &str| {
            format!("-c idle_in_transaction_session_timeout={idle} -c lock_timeout={lock}")
        };
        assert!(options(Purpose::Output).ends_with(&ends("60s", "30s")));
        assert!(options(Purpose::Source).ends_with(&ends("0", "0")));
        assert!(options(Purpose::Control).starts_with("-c DateStyle=ISO -c IntervalStyle=postgres "));
        assert!(!options(Purpose::Source).contains("search_path"));
        assert!(replication_options().ends_with(" -c search_path=pg_catalog"));
    }

    #[test]
    fn the_settings_asked_for_are_found() {
        let found = verify("db", &GOOD).unwrap();
        let backend = Backend {
            pid: 4711,
            server_start: "2026-01-01 00:00:00.123456+00".to_owned(),
            server_address: String::new(),
        };
        assert_eq!(found, Found { server_version: 150018, commits_asynchronously: false, backend });
    }

    #[test]
    fn any_other_setting_is_a_pooler_in_between() {
        for (index, name) in VERIFIED.iter().enumerate() {
            let mut row = GOOD;
            row[index + 2] = Some("other");
            let error = verify("db", &row).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("connection pooler"), "{error}");
        }
        assert!(verify("db", &[]).is_err());
    }
}
