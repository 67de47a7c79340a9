//! What servers say when something goes wrong, in words that may be shown: never a row's values. And whether
//! trying again may help.

use std::error::Error as _;
use std::fmt;
use std::io;

use tokio_postgres::error::{DbError, ErrorPosition};

use super::sqlstate;

/// An error or notice of a server, without the parts that carry row values (DETAIL, CONTEXT, and quoted
/// values in the message).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerError {
    /// ERROR, FATAL, WARNING, …; not translated.
    pub severity: String,
    /// The SQLSTATE.
    pub code: String,
    /// The server's words, values replaced by `…`.
    pub message: String,
    /// The server's advice.
    pub hint: Option<String>,
    /// What it is about, as far as the server says: table, column, constraint.
    pub place: Vec<(&'static str, String)>,
    /// Which function of the server's says it: the same whatever language its words are in.
    pub routine: String,
}

impl ServerError {
    /// From an error that the driver read.
    pub fn from_db_error(error: &DbError) -> Self {
        let place = [
            ("schema", error.schema()),
            ("table", error.table()),
            ("column", error.column()),
            ("constraint", error.constraint()),
        ];
        let said = ServerError {
            severity: error.severity().to_owned(),
            code: error.code().code().to_owned(),
            message: error.message().to_owned(),
            hint: error.hint().map(str::to_owned),
            place: place.into_iter().filter_map(|(k, v)| v.map(|v| (k, v.to_owned()))).collect(),
            routine: error.routine().unwrap_or_default().to_owned(),
        };
        let is_within_function = matches!(error.position(), Some(ErrorPosition::Internal { .. }));
        said.without_values(error.file(), is_within_function)
    }

    /// From the body of an ErrorResponse or NoticeResponse. What can't be read of it is left out.
    pub fn decode(body: &[u8]) -> Self {
        let mut error = ServerError {
            severity: String::new(),
            code: String::new(),
            message: String::new(),
            hint: None,
            place: Vec::new(),
            routine: String::new(),
        };
        let (mut file, mut is_within_function) = (None, false);
        for field in body.split(|&byte| byte == 0) {
            let Some((kind, value)) = field.split_first() else { break };
            let value = String::from_utf8_lossy(value).into_owned();
            match kind {
                b'S' if error.severity.is_empty() => error.severity = value,
                b'V' => error.severity = value,
                b'C' => error.code = value,
                b'M' => error.message = value,
                b'H' => error.hint = Some(value),
                b's' => error.place.push(("schema", value)),
                b't' => error.place.push(("table", value)),
                b'c' => error.place.push(("column", value)),
                b'n' => error.place.push(("constraint", value)),
                b'F' => file = Some(value),
                b'R' => error.routine = value,
                b'q' => is_within_function = true,
                _ => {}
            }
        }
        error.without_values(file.as_deref(), is_within_function)
    }

    /// What of it may be shown. A function's own words may say anything, under any code, in any field; and what is wrong
    /// with SQL that a function has put together may be the values in it.
    fn without_values(self, file: Option<&str>, is_within_function: bool) -> Self {
        let is_raised = ["P0", "38"].iter().any(|class| self.code.starts_with(class))
            || self.routine == "exec_stmt_raise"
            || file.is_some_and(|file| RAISING_FILES.iter().any(|start| file.starts_with(start)));
        if is_raised {
            let message = "raised by a function; its words are in the server's log".to_owned();
            return ServerError { message, hint: None, place: Vec::new(), ..self };
        }
        let may_quote = self.code.starts_with("22") || is_within_function && self.code == "42601";
        let message = if may_quote { without_values(&self.message) } else { self.message };
        ServerError { message, ..self }
    }

    /// Whether the same may work later without anyone's doing.
    pub fn is_transient(&self) -> bool {
        sqlstate::is_transient(&self.code)
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (SQLSTATE {}", one_line(&self.message), self.code)?;
        for (kind, name) in &self.place {
            write!(f, ", {kind} {name}")?;
        }
        f.write_str(")")?;
        match &self.hint {
            Some(hint) => write!(f, ". Hint: {}", one_line(hint)),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ServerError {}

/// Whether the same may work later without anyone's doing: the connection broke, the server is starting or
/// stopping, others were in the way, something is full.
pub fn is_transient(error: &tokio_postgres::Error) -> bool {
    match error.as_db_error() {
        Some(db) => sqlstate::is_transient(db.code().code()),
        None => error.is_closed() || io_cause(error).is_some(),
    }
}

/// One line for people, without row values.
pub fn describe(error: &tokio_postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        return ServerError::from_db_error(db).to_string();
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    one_line(&text)
}

/// The input or output error beneath, if that is what went wrong.
pub(super) fn io_cause(error: &tokio_postgres::Error) -> Option<&io::Error> {
    error.source().and_then(|cause| cause.downcast_ref())
}

/// Source files of the server's in which functions written in other languages than SQL raise what they like.
const RAISING_FILES: [&str; 4] = ["plpy", "plperl", "pltcl", "plv8"];

/// Quotes after one of these words hold a name; all others may hold data.
const NAMING_WORDS: [&str; 10] = [
    "type",
    "enum",
    "encoding",
    "column",
    "relation",
    "function",
    "parameter",
    "sequence",
    "operator",
    "domain",
];

/// Errors of class 22 (data exception) quote values.
fn without_values(message: &str) -> String {
    let mut kept = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(start) = rest.find('"') {
        let (before, quoted) = (&rest[..start], &rest[start + 1..]);
        kept.push_str(before);
        let word = before.trim_end().rsplit(' ').next().unwrap_or_default();
        match quoted.find('"') {
            Some(end) if NAMING_WORDS.contains(&word) => {
                kept.push_str(&rest[start..=start + 1 + end]);
                rest = &quoted[end + 1..];
            }
            // The value may itself hold quotes: up to the last one, or after a colon all that is left.
            _ => {
                kept.push_str("\"…\"");
                let end = if before.ends_with(": ") { None } else { quoted.rfind('"') };
                rest = end.map_or("", |end| &quoted[end + 1..]);
            }
        }
    }
    kept.push_str(rest);
    without_number(&without_bytes(&kept)).to_owned()
}

/// `date field value out of range: 2024-13-01`: some errors show a number without quotes, last.
fn without_number(message: &str) -> &str {
    match message.rsplit_once(": ") {
        Some((words, value)) if value.starts_with(|c: char| c == '-' || c.is_ascii_digit()) => words,
        _ => message,
    }
}

/// Bytes that are no text are shown as `0xe2 0x28`.
fn without_bytes(message: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for word in message.split(' ') {
        let word = if word.starts_with("0x") { "…" } else { word };
        if !(word == "…" && kept.last() == Some(&"…")) {
            kept.push(word);
        }
    }
    kept.join(" ")
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(code: &str, message: &str) -> ServerError {
        ServerError::decode(format!("VFATAL\0C{code}\0M{message}\0\0").as_bytes())
    }

    #[test]
    fn values_are_taken_out_of_class_22_and_names_are_kept() {
        for (code, message, shown) in [
            (
                "22P02",
                r#"invalid input syntax for type integer: "abc""#,
                r#"invalid input syntax for type integer: "…""#,
            ),
            (
                "22P02",
                r#"invalid input syntax for type uuid: "a"b: "c"#,
                r#"invalid input syntax for type uuid: "…""#,
            ),
            (
                "22P02",
                r#"invalid input value for enum mood: "x""#,
                r#"invalid input value for enum mood: "…""#,
            ),
            (
                "22P02",
                r#"invalid input value for enum "Mood": "x""#,
                r#"invalid input value for enum "Mood": "…""#,
            ),
            ("22P02", "malformed array literal: \"{\n\"", r#"malformed array literal: "…""#),
            ("22P02", r#""2" is not a valid binary digit"#, r#""…" is not a valid binary digit"#),
            (
                "22003",
                r#"value "999" is out of range for type smallint"#,
                r#"value "…" is out of range for type smallint"#,
            ),
            ("22003", r#"value "9"9" is out of range for type "T""#, r#"value "…""#),
            (
                "22003",
                r#""1e400" is out of range for type double precision"#,
                r#""…" is out of range for type double precision"#,
            ),
            ("22003", "integer out of range", "integer out of range"),
            ("22008", "date field value out of range: 2024-13-01", "date field value out of range"),
            (
                "22008",
                r#"date/time field value out of range: "2024-13-01""#,
                r#"date/time field value out of range: "…""#,
            ),
            ("22007", r#"invalid value "Mo" for "DD""#, r#"invalid value "…""#),
            ("22023", r#"time zone "secret" not recognized"#, r#"time zone "…" not recognized"#),
            (
                "22021",
                r#"invalid byte sequence for encoding "UTF8": 0xff 0xfe"#,
                r#"invalid byte sequence for encoding "UTF8": …"#,
            ),
            (
                "22P05",
                r#"character with byte sequence 0xe2 0x98 0xba in encoding "UTF8" has no equivalent in encoding "LATIN1""#,
                r#"character with byte sequence … in encoding "UTF8" has no equivalent in encoding "LATIN1""#,
            ),
            (
                "22001",
                "value too long for type character varying(3)",
                "value too long for type character varying(3)",
            ),
            ("22P02", r#"unterminated "abc"#, r#"unterminated "…""#),
            (
                "23505",
                r#"duplicate key value violates unique constraint "t_pkey""#,
                r#"duplicate key value violates unique constraint "t_pkey""#,
            ),
            ("42703", r#"column "a" does not exist"#, r#"column "a" does not exist"#),
        ] {
            assert_eq!(server(code, message).message, shown);
        }
    }

    #[test]
    fn a_server_error_is_shown_without_detail_and_context() {
        let body = b"SFEHLER\0VERROR\0C23505\0Mduplicate key value\nviolates unique constraint \"t_pkey\"\0\
            DKey (email)=(a@b.c) already exists.\0Hask\n again\0WCOPY t, line 1: \"a@b.c\"\0spublic\0tt\0nt_pkey\0\0";
        let error = ServerError::decode(body);
        assert_eq!(error.severity, "ERROR");
        assert_eq!(
            error.to_string(),
            "duplicate key value violates unique constraint \"t_pkey\" (SQLSTATE 23505, schema public, table t, \
             constraint t_pkey). Hint: ask again"
        );
    }

    #[test]
    fn what_functions_say_is_not_shown_whatever_code_they_give_it() {
        for (code, origin, is_shown) in [
            ("P0001", "", false),
            ("38000", "", false),
            ("23514", "Fpl_exec.c\0Rexec_stmt_raise\0", false),
            ("01000", "Fpl_exec.c\0Rexec_stmt_raise\0", false),
            ("22000", "Fplpy_plpymodule.c\0RPLy_output\0", false),
            ("XX000", "Fplperl.c\0Rplperl_call_perl_func\0", false),
            ("23514", "FexecMain.c\0RExecConstraints\0", true),
            ("42601", "Fscan.l\0Rscanner_yyerror\0", true),
            ("42601", "qSELECT secret\0Fscan.l\0Rscanner_yyerror\0", false),
        ] {
            let body = format!("VERROR\0C{code}\0Msaid \"secret\"\0{origin}Hsay secret\0nsecret\0\0");
            let error = ServerError::decode(body.as_bytes());
            let text = if code == "42601" { error.message } else { error.to_string() };
            assert_eq!(text.contains("secret"), is_shown, "{code} {origin}: {text}");
        }
    }
}
