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

/// What stands between quotes of either kind, as the server prints them; None where it isn't quoted, whole and alone.
pub(super) fn unquoted(text: &str) -> Option<String> {
    let quote = text.chars().next().filter(|c| matches!(c, '`' | '\'' | '"'))?;
    let inner = text.get(1..)?.strip_suffix(quote)?;
    let mut plain = String::with_capacity(inner.len());
    let mut rest = inner.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => plain.push(match rest.next()? {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                'b' => '\u{8}',
                'f' => '\u{c}',
                'a' => '\u{7}',
                'v' => '\u{b}',
                '0' => '\0',
                other => other,
            }),
            c if c == quote => {
                // Doubled within the quotes stands for one; alone it would have ended them.
                rest.next().filter(|&next| next == quote)?;
                plain.push(quote);
            }
            c => plain.push(c),
        }
    }
    Some(plain)
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
            assert_eq!(unquoted(ident).as_deref(), Some(name));
            assert_eq!(unquoted(text).as_deref(), Some(name));
        }
        for (text, plain) in
            [("'a''b'", Some("a'b")), ("a", None), ("'a' + 'b'", None), ("'", None), ("'a\\'", None)]
        {
            assert_eq!(unquoted(text).as_deref(), plain, "{text}");
        }
        assert_eq!(quote_table("d", "t"), "`d`.`t`");
    }
}
