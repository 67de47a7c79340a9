//! What went wrong with ClickHouse, in words that may be shown: never a row's values. And whether trying again may help.

use std::fmt;

/// Why a statement isn't done, or isn't known to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The connection's name in trucker.yml.
    pub connection: String,
    /// ClickHouse's error code, where a server that is one has answered.
    pub code: Option<i32>,
    /// Its name, such as `TOO_MANY_PARTS`; empty without a code.
    pub name: String,
    /// The server's words, values replaced by `…`; else what happened.
    pub message: String,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// No connection, or it broke.
    Network,
    /// The certificate or another setting of TLS is no good.
    Tls,
    /// A setting can't be used.
    Setting,
    /// The server said so.
    Server,
    /// Something in between, or something that is no ClickHouse, answered with an HTTP status.
    Http { status: u16 },
}

impl Error {
    pub(super) fn network(connection: &str, message: String) -> Self {
        Error::new(connection, Kind::Network, message)
    }

    pub(super) fn tls(connection: &str, message: String) -> Self {
        Error::new(connection, Kind::Tls, message)
    }

    pub(super) fn setting(connection: &str, message: String) -> Self {
        Error::new(connection, Kind::Setting, message)
    }

    fn new(connection: &str, kind: Kind, message: String) -> Self {
        Error { connection: connection.to_owned(), code: None, name: String::new(), message, kind }
    }

    /// From an answer that isn't a success: its status, the code that its head may hold, and as much of its body as was read.
    pub(super) fn from_answer(connection: &str, status: u16, code: Option<i32>, body: &[u8]) -> Self {
        let body = String::from_utf8_lossy(body);
        let body = body.trim();
        let said = body.strip_prefix("Code: ").and_then(|rest| rest.split_once(". DB::Exception: "));
        let code = code.or_else(|| said.and_then(|(code, _)| code.parse().ok()));
        let Some(code) = code else {
            let words = body.lines().next().unwrap_or_default();
            let message = format!("HTTP status {status}: {}", words.chars().take(200).collect::<String>());
            return Error::new(connection, Kind::Http { status }, message);
        };
        let (message, name) = split_name(said.map_or(body, |(_, words)| words));
        let message = one_line(&without_values(code, message));
        Error { code: Some(code), name: name.to_owned(), ..Error::new(connection, Kind::Server, message) }
    }

    /// Whether the same may work later without anyone's doing.
    pub fn is_transient(&self) -> bool {
        match (self.kind, self.code) {
            (Kind::Network, _) => true,
            (Kind::Http { status }, _) => matches!(status, 408 | 429 | 502..=504),
            (_, Some(code)) => TRANSIENT.iter().any(|(transient, _)| *transient == code),
            (Kind::Tls | Kind::Setting | Kind::Server, None) => false,
        }
    }

    /// Whether it is about the values that were sent, so that others would not have met it.
    pub fn is_about_values(&self) -> bool {
        self.code.is_some_and(|code| ABOUT_VALUES.iter().any(|(about, _)| *about == code))
    }

    fn cure(&self) -> &'static str {
        match (self.kind, self.code) {
            (_, Some(516 | 193 | 192)) => ". Are `user` and `pass` right?",
            (_, Some(81)) => ". Is `database` right?",
            (_, Some(164)) => {
                ". The user must be allowed to write and to set settings: its `readonly` must be 0"
            }
            (_, Some(252)) => ". Parts come faster than they merge; larger batches make fewer of them",
            _ => "",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection {}: {}", self.connection, self.message.trim_end_matches('.'))?;
        if let Some(code) = self.code {
            write!(f, " (code {code}, {})", self.name)?;
        }
        f.write_str(self.cure())
    }
}

impl std::error::Error for Error {}

/// Something is busy, full, starting or unreachable.
const TRANSIENT: [(i32, &str); 32] = [
    (3, "UNEXPECTED_END_OF_FILE"),
    (95, "CANNOT_READ_FROM_SOCKET"),
    (96, "CANNOT_WRITE_TO_SOCKET"),
    (159, "TIMEOUT_EXCEEDED"),
    (160, "TOO_SLOW"),
    (198, "DNS_ERROR"),
    (201, "QUOTA_EXCEEDED"),
    (202, "TOO_MANY_SIMULTANEOUS_QUERIES"),
    (203, "NO_FREE_CONNECTION"),
    (209, "SOCKET_TIMEOUT"),
    (210, "NETWORK_ERROR"),
    (225, "NO_ZOOKEEPER"),
    (236, "ABORTED"),
    (241, "MEMORY_LIMIT_EXCEEDED"),
    (242, "TABLE_IS_READ_ONLY"),
    (243, "NOT_ENOUGH_SPACE"),
    (244, "UNEXPECTED_ZOOKEEPER_ERROR"),
    (252, "TOO_MANY_PARTS"),
    (254, "NO_ACTIVE_REPLICAS"),
    (279, "ALL_CONNECTION_TRIES_FAILED"),
    (285, "TOO_FEW_LIVE_REPLICAS"),
    (286, "UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE"),
    (319, "UNKNOWN_STATUS_OF_INSERT"),
    (394, "QUERY_WAS_CANCELLED"),
    (439, "CANNOT_SCHEDULE_TASK"),
    (473, "DEADLOCK_AVOIDED"),
    (499, "S3_ERROR"),
    (574, "DISTRIBUTED_TOO_MANY_PENDING_BYTES"),
    (667, "NOT_INITIALIZED"),
    (734, "QUERY_WAS_CANCELLED_BY_CLIENT"),
    (745, "SERVER_OVERLOADED"),
    (999, "KEEPER_EXCEPTION"),
];

/// What quotes values, or may: these lose all that is quoted.
const ABOUT_VALUES: [(i32, &str); 26] = [
    (6, "CANNOT_PARSE_TEXT"),
    (26, "CANNOT_PARSE_QUOTED_STRING"),
    (27, "CANNOT_PARSE_INPUT_ASSERTION_FAILED"),
    (38, "CANNOT_PARSE_DATE"),
    (41, "CANNOT_PARSE_DATETIME"),
    (53, "TYPE_MISMATCH"),
    (67, "UNKNOWN_ELEMENT_OF_SET"),
    (69, "ARGUMENT_OUT_OF_BOUND"),
    (70, "CANNOT_CONVERT_TYPE"),
    (72, "CANNOT_PARSE_NUMBER"),
    (117, "INCORRECT_DATA"),
    (128, "TOO_LARGE_ARRAY_SIZE"),
    (130, "CANNOT_READ_ARRAY_FROM_TEXT"),
    (131, "TOO_LARGE_STRING_SIZE"),
    (153, "ILLEGAL_DIVISION"),
    (321, "VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE"),
    (349, "CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN"),
    (376, "CANNOT_PARSE_UUID"),
    (395, "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO"),
    (407, "DECIMAL_OVERFLOW"),
    (441, "CANNOT_PARSE_DOMAIN_VALUE_FROM_STRING"),
    (467, "CANNOT_PARSE_BOOL"),
    (469, "VIOLATED_CONSTRAINT"),
    (675, "CANNOT_PARSE_IPV4"),
    (676, "CANNOT_PARSE_IPV6"),
    (691, "UNKNOWN_ELEMENT_OF_ENUM"),
];

/// `words (NAME) (version 26.9.2.1 (official build))` without the version, and the name by itself.
fn split_name(text: &str) -> (&str, &str) {
    let text = text.rsplit_once(" (version ").map_or(text, |(before, _)| before).trim_end();
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b == b'_' || b.is_ascii_uppercase() || b.is_ascii_digit())
    };
    match text.strip_suffix(')').and_then(|text| text.rsplit_once(" (")) {
        Some((words, name)) if is_name(name) => (words, name),
        _ => (text, ""),
    }
}

/// The message without what a row held: after a list of values, and between quotes where the code is one that quotes data.
fn without_values(code: i32, message: &str) -> String {
    // A raised error says what the user's SQL has put together.
    if code == 395 {
        return "raised by throwIf; its words are in the server's log".to_owned();
    }
    let cuts =
        ["Column values:", ". Expected one of:", "(at row ", "Row 1:", ", Stack trace", "\nStack trace"];
    let end = cuts.iter().filter_map(|cut| message.find(cut)).min().unwrap_or(message.len());
    let message = message[..end].trim_end();
    if !ABOUT_VALUES.iter().any(|(about, _)| *about == code) {
        return message.to_owned();
    }
    without_quoted(message)
}

fn without_quoted(message: &str) -> String {
    let mut kept = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(start) = rest.find(['\'', '"', '`']) {
        let quote = &rest[start..=start];
        let (before, quoted) = (&rest[..start], &rest[start + 1..]);
        kept.push_str(before);
        let word = before.trim_end().rsplit(' ').next().unwrap_or_default().to_lowercase();
        match quoted.find(quote) {
            Some(end) if quote == "`" || NAMING_WORDS.contains(&word.as_str()) => {
                kept.push_str(&rest[start..=start + 1 + end]);
                rest = &quoted[end + 1..];
            }
            // The value may hold quotes itself: all up to the last one.
            _ => {
                kept.push('…');
                rest = quoted.rfind(quote).map_or("", |end| &quoted[end + 1..]);
            }
        }
    }
    kept.push_str(rest);
    without_number(&kept)
}

/// Quotes after one of these words hold a name.
const NAMING_WORDS: [&str; 8] =
    ["type", "column", "table", "function", "constraint", "database", "setting", "columns"];

/// Numbers may be values: digits that are part of no word are left out.
fn without_number(message: &str) -> String {
    let is_number = |word: &str| {
        let word = word.trim_matches(|c: char| matches!(c, ',' | '.' | ':' | '(' | ')' | '-'));
        word.starts_with(|c: char| c.is_ascii_digit())
    };
    let words = message.split(' ').map(|word| if is_number(word) { "…" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
