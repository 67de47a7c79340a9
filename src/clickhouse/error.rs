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
    /// The server's words as far as they hold no values; else what happened.
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

/// What another row wouldn't meet.
const ABOUT_VALUES: [(i32, &str); 25] = [
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

/// What of the message may be shown. The server's words for a bad value mostly hold it, quoted or not.
fn without_values(code: i32, message: &str) -> String {
    // Names and types alone.
    let is_header = message.contains("(while reading header)");
    let end = CONTEXTS.iter().filter_map(|context| message.find(context)).min().unwrap_or(message.len());
    let message = message[..end].trim_end_matches([' ', ':', '.']);
    let quotes_value = ABOUT_VALUES.iter().any(|(about, _)| *about == code) || code == BAD_ARGUMENTS;
    if quotes_value && code != VIOLATED_CONSTRAINT && !is_header {
        return "a value is refused; the words for it, which may quote it, are in the server's log"
            .to_owned();
    }
    message.to_owned()
}

const BAD_ARGUMENTS: i32 = 36;
const VIOLATED_CONSTRAINT: i32 = 469;

/// Where a message goes on with the values of a row, the user's own SQL, all that could have been said, or the server's code.
const CONTEXTS: [&str; 8] = [
    "Column values:",
    "(while reading header)",
    "(at row ",
    ". Expected one of:",
    "In scope ",
    ": while executing",
    ": While executing",
    "Stack trace",
];

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: u16, code: Option<i32>, body: &str) -> Error {
        Error::from_answer("output", status, code, body.as_bytes())
    }

    #[test]
    fn the_servers_words_are_kept_without_values() {
        let version = "(version 26.9.2.1 (official build))";
        for (body, shown) in [
            (
                "Code: 60. DB::Exception: Unknown table expression identifier 'a.b'. Maybe you meant x? In scope SELECT 1. \
                 (UNKNOWN_TABLE)",
                "Unknown table expression identifier 'a.b'. Maybe you meant x? (code 60, UNKNOWN_TABLE)",
            ),
            (
                "Code: 117. DB::Exception: Type of 'a' must be Int32, not Int64: (while reading header): While executing \
                 BinaryRowInputFormat. (INCORRECT_DATA)",
                "Type of 'a' must be Int32, not Int64 (code 117, INCORRECT_DATA)",
            ),
            (
                "Code: 469. DB::Exception: Constraint `pos` for table d.e (ab27) is violated at row 1. Expression: (a > 0). \
                 Column values: a = 4711. (VIOLATED_CONSTRAINT)",
                "Constraint `pos` for table d.e (ab27) is violated at row 1. Expression: (a > 0) \
                 (code 469, VIOLATED_CONSTRAINT)",
            ),
            (
                "Code: 62. DB::Exception: Syntax error: failed at position 1 (selec). Expected one of: Query, USE. (SYNTAX_ERROR)",
                "Syntax error: failed at position 1 (selec) (code 62, SYNTAX_ERROR)",
            ),
            (
                "Code: 516. DB::Exception: ch: Authentication failed: password is incorrect. (AUTHENTICATION_FAILED)",
                "ch: Authentication failed: password is incorrect (code 516, AUTHENTICATION_FAILED). Are `user` and \
                 `pass` right?",
            ),
        ] {
            assert_eq!(
                said(500, None, &format!("{body} {version}\n")).to_string(),
                format!("connection output: {shown}")
            );
        }
        for body in [
            "Code: 6. DB::Exception: Cannot parse string '4711' as Int32: In scope SELECT 4711. (CANNOT_PARSE_TEXT)",
            "Code: 376. DB::Exception: Cannot parse uuid 4711: Cannot parse UUID from String. (CANNOT_PARSE_UUID)",
            "Code: 395. DB::Exception: 4711: while executing 'FUNCTION throwIf(4711)'. (FUNCTION_THROW_IF_VALUE_IS_NON_ZERO)",
            "Code: 36. DB::Exception: Unknown timezone 4711. (BAD_ARGUMENTS)",
        ] {
            let error = said(400, None, body).to_string();
            assert!(!error.contains("4711") && error.contains("are in the server's log (code "), "{error}");
        }
    }

    #[test]
    fn what_may_pass_by_itself_is_transient() {
        for (code, is_transient) in [
            (241, true),
            (252, true),
            (159, true),
            (202, true),
            (242, true),
            (319, true),
            (999, true),
            (164, false),
            (60, false),
            (62, false),
            (117, false),
            (516, false),
            (497, false),
            (0, false),
        ] {
            let error = said(500, Some(code), "Code: 1. DB::Exception: x. (X)");
            assert_eq!((error.code, error.is_transient()), (Some(code), is_transient));
        }
        assert!(Error::network("output", String::new()).is_transient());
        assert!(!Error::tls("output", String::new()).is_transient());
    }

    #[test]
    fn what_answers_in_a_servers_place_is_told_by_its_status() {
        for (status, is_transient) in
            [(502, true), (503, true), (504, true), (429, true), (404, false), (200, false)]
        {
            let error = said(status, None, "<html>\nbusy");
            assert_eq!((error.code, error.is_transient()), (None, is_transient));
            assert!(error.to_string().contains(&format!("HTTP status {status}: <html>")), "{error}");
        }
    }
}
