//! Names and texts as ClickHouse's SQL writes them.

/// A name between backticks.
pub fn quote_ident(name: &str) -> String {
    quoted(name, '`')
}

/// `database.table`.
pub fn quote_table(database: &str, table: &str) -> String {
    format!("{}.{}", quote_ident(database), quote_ident(table))
}

/// A text as a literal.
pub fn quote_text(text: &str) -> String {
    quoted(text, '\'')
}

/// Backslashes escape, unlike in Postgres.
fn quoted(text: &str, quote: char) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push(quote);
    for c in text.chars() {
        match c {
            '\0' => quoted.push_str("\\0"),
            c if c == quote || c == '\\' => quoted.extend(['\\', c]),
            c => quoted.push(c),
        }
    }
    quoted.push(quote);
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_cannot_leave_their_quotes() {
        for (name, ident, text) in [
            ("a", "`a`", "'a'"),
            ("a`b'c", "`a\\`b'c`", "'a`b\\'c'"),
            ("\\", "`\\\\`", "'\\\\'"),
            ("", "``", "''"),
            ("\0", "`\\0`", "'\\0'"),
        ] {
            assert_eq!((quote_ident(name).as_str(), quote_text(name).as_str()), (ident, text));
        }
        assert_eq!(quote_table("d", "t"), "`d`.`t`");
    }
}
