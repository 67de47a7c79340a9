//! What a SQLSTATE means for whoever meets it: wait, leave a change out, or ask a person (PostgreSQL documentation, appendix
//! "PostgreSQL Error Codes"). Codes only; words are another file's.

use crate::codes::Code;

/// Whether a SQLSTATE is about values: data that can't be converted (22), constraints (23), a second row where one may be
/// (21), a view's CHECK OPTION (44), what the user's own functions raise (P0, 38), a value too long for its index (54000).
/// Everything else is about the set-up (42), rights, resources or the server, and would meet the next change as well.
pub fn is_about_values(code: &str) -> bool {
    const CLASSES: [&str; 6] = ["21", "22", "23", "38", "44", "P0"];
    CLASSES.iter().any(|class| code.starts_with(class)) || code == "54000"
}

/// Whether what it says may pass by itself.
pub fn is_transient(code: &str) -> bool {
    const CODES: [&str; 15] = [
        "25006", // read-only: a standby that is being promoted
        "25P02", // after an error that nobody waited for: the connection is made again
        "25P03", // idle in transaction for too long
        "25P04", // transaction_timeout
        "40001", // serialization failure, conflict with recovery
        "40003", // statement completion unknown
        "40P01", // deadlock
        "55P03", // lock not available
        "57014", // canceled
        "57P01", // administrator's shutdown
        "57P02", // crash of another process
        "57P03", // cannot connect now
        "57P05", // idle session
        "58030", // input or output error
        "58000", // system error
    ];
    code.starts_with("08") || code.starts_with("53") || CODES.contains(&code)
}

/// What is wrong with SQL of the user's that a server refuses to prepare.
pub fn code_of_preparing(code: &str) -> Code {
    match code {
        "42601" => Code::SqlSyntax,
        "42P01" | "42703" | "42883" | "42704" | "3F000" | "42P02" => Code::SqlUnknownName,
        "42846" => Code::SqlType,
        "42501" => Code::SqlRight,
        _ => Code::SqlRefused,
    }
}

/// What is wrong where SQL of the user's fails for a change, on the source.
pub fn code_of_running(code: &str) -> Code {
    match code {
        "42501" => Code::RightLost,
        _ if is_transient(code) => code_of_trouble(code),
        _ => Code::SqlFailed,
    }
}

/// What is wrong where an output refuses to write.
pub fn code_of_writing(code: &str) -> Code {
    match code {
        "23502" => Code::NotNull,
        "23505" => Code::NotUnique,
        "23503" => Code::ForeignKeyMissing,
        "23514" | "23P01" | "44000" => Code::CheckViolated,
        "42501" => Code::RightLost,
        _ if code.starts_with("22") => Code::ValueUnfit,
        _ if is_transient(code) => code_of_trouble(code),
        _ => Code::OutputRefused,
    }
}

/// What may pass by itself.
fn code_of_trouble(code: &str) -> Code {
    match code {
        "25006" => Code::OutputReadOnly,
        _ if code.starts_with("53") => Code::ServerFull,
        _ => Code::TryAgain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_by_itself_is_transient() {
        for (code, transient) in [
            ("08006", true),
            ("08P01", true),
            ("40001", true),
            ("40P01", true),
            ("55P03", true),
            ("57P01", true),
            ("57P02", true),
            ("57P03", true),
            ("53100", true),
            ("53200", true),
            ("53300", true),
            ("25006", true),
            ("58030", true),
            ("57014", true),
            ("25P03", true),
            ("57P04", false),
            ("XX000", false),
            ("23505", false),
            ("42P01", false),
            ("28P01", false),
            ("3D000", false),
            ("22P02", false),
            ("55006", false),
            ("", false),
        ] {
            assert_eq!(is_transient(code), transient, "{code}");
        }
    }

    #[test]
    fn what_other_changes_would_not_meet_is_about_values() {
        for (code, is_about_values) in [
            ("22012", true),
            ("23505", true),
            ("23514", true),
            ("21000", true),
            ("21P01", true),
            ("44000", true),
            ("P0001", true),
            ("38001", true),
            ("54000", true),
            ("54001", false),
            ("42P01", false),
            ("42703", false),
            ("42501", false),
            ("42804", false),
            ("0A000", false),
            ("25006", false),
            ("53100", false),
            ("40001", false),
            ("57014", false),
            ("XX000", false),
            ("", false),
        ] {
            assert_eq!(super::is_about_values(code), is_about_values, "{code}");
        }
    }
}
