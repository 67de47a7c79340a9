//! Table names as people write them: `orders`, `sales.orders`, `"Odd.Name"."T""x"`.

use super::project::TableName;

/// How a name without quotes is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Folded to lower case, as Postgres does; at most 63 bytes.
    Postgres,
    /// As written; backticks quote as well.
    ClickHouse,
}

/// A table of Postgres's, in schema public where the text has none; the error says what is wrong.
pub fn table_name(text: &str) -> Result<TableName, String> {
    let (schema, table) = parse_table_name(text, Dialect::Postgres)?;
    Ok(TableName { schema: schema.unwrap_or_else(|| "public".to_owned()), table })
}

/// The longest identifier that Postgres keeps.
const POSTGRES_BYTES_MAX: usize = 63;

/// Schema, if given, and table; the error says what is wrong.
pub(super) fn parse_table_name(text: &str, dialect: Dialect) -> Result<(Option<String>, String), String> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        let (part, behind) = parse_part(rest, dialect)?;
        if part.is_empty() {
            return Err("a part of it is empty".to_owned());
        }
        if part.contains('\0') {
            return Err("it holds a zero byte".to_owned());
        }
        if dialect == Dialect::Postgres && part.len() > POSTGRES_BYTES_MAX {
            return Err(format!("a part of it is longer than {POSTGRES_BYTES_MAX} bytes"));
        }
        parts.push(part);
        rest = match behind.strip_prefix('.') {
            Some(next) => next,
            None if behind.is_empty() => break,
            None => return Err("a `.` should follow the closing quote".to_owned()),
        };
    }
    let mut parts = parts.into_iter();
    match (parts.next(), parts.next(), parts.next()) {
        (Some(table), None, None) => Ok((None, table)),
        (Some(schema), Some(table), None) => Ok((Some(schema), table)),
        _ => Err("it has more than two parts: the connection already says which database".to_owned()),
    }
}

/// The first part, and what follows.
fn parse_part(text: &str, dialect: Dialect) -> Result<(String, &str), String> {
    let quotes: &[char] = if dialect == Dialect::ClickHouse { &['"', '`'] } else { &['"'] };
    let Some(quote) = text.chars().next().filter(|c| quotes.contains(c)) else {
        let end = text.find('.').unwrap_or(text.len());
        let part = &text[..end];
        if part.contains(|c: char| c.is_whitespace() || c.is_control() || quotes.contains(&c)) {
            return Err("a part with spaces or quotes in it goes in double quotes".to_owned());
        }
        let part = if dialect == Dialect::Postgres { part.to_ascii_lowercase() } else { part.to_owned() };
        return Ok((part, &text[end..]));
    };
    let mut part = String::new();
    let mut chars = text[1..].chars();
    while let Some(c) = chars.next() {
        if c != quote {
            part.push(c);
        } else if chars.as_str().starts_with(quote) {
            part.push(quote);
            chars.next();
        } else {
            return Ok((part, chars.as_str()));
        }
    }
    Err("a quote in it is not closed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_the_servers_do() {
        let cases = [
            ("orders", None, "orders"),
            ("Orders", None, "orders"),
            ("sales.orders", Some("sales"), "orders"),
            (r#""Odd.Name"."T""x""#, Some("Odd.Name"), "T\"x"),
            (r#"Sales."Orders""#, Some("sales"), "Orders"),
            ("ÄPFEL", None, "Äpfel"),
            ("my-table", None, "my-table"),
        ];
        for (text, schema, table) in cases {
            let expected = Ok((schema.map(str::to_owned), table.to_owned()));
            assert_eq!(parse_table_name(text, Dialect::Postgres), expected, "{text}");
        }
        let expected = Ok((Some("Db".to_owned()), "My`T".to_owned()));
        assert_eq!(parse_table_name("Db.`My``T`", Dialect::ClickHouse), expected);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "x".repeat(64);
        let cases = [
            ("", "empty"),
            ("a.", "empty"),
            (".a", "empty"),
            ("\"\"", "empty"),
            ("a.b.c", "more than two parts"),
            ("\"a", "not closed"),
            ("\"a\"b", "should follow"),
            ("a b", "double quotes"),
            ("a\"b", "double quotes"),
            (&long, "longer than 63"),
        ];
        for (text, reason) in cases {
            let error = parse_table_name(text, Dialect::Postgres).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
