//! Finds what a rendered SQL file refers to: the columns of `new`, `old`, `row` and `transformed`, and where its one
//! statement ends. A scanner, not a parser: it knows comments, strings and names, and errs on the side of more
//! references. Postgres itself judges whether the SQL is right.

use std::ops::Range;

/// A relation that trucker puts into the scope of a SQL file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// The row after.
    New,
    /// The row before.
    Old,
    /// New, or old on delete.
    Row,
    /// A row that transform.sql returned.
    Transformed,
}

impl Scope {
    /// The alias in SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::New => "new",
            Scope::Old => "old",
            Scope::Row => "row",
            Scope::Transformed => "transformed",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        [Scope::New, Scope::Old, Scope::Row, Scope::Transformed].into_iter().find(|s| s.as_str() == word)
    }
}

/// A use of such a relation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Which.
    pub scope: Scope,
    /// The column, unquoted; None for the whole row (`new.*`, `to_jsonb(new)`).
    pub column: Option<String>,
    /// Byte offset in the text.
    pub offset: usize,
}

/// What the scanner found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scanned {
    /// In the order of the text.
    pub references: Vec<Reference>,
    /// Where the statement ends: before a trailing `;` and whatever follows it.
    pub end: usize,
    /// Offset of something after the first statement.
    pub second_statement: Option<usize>,
    /// Whether there is no statement at all.
    pub is_empty: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    /// An unquoted name or keyword, in lower case.
    Word(String),
    /// A quoted name.
    Quoted(String),
    Number,
    String,
    Symbol(u8),
}

/// Scans a rendered file.
pub fn scan(text: &str) -> Scanned {
    let tokens: Vec<(Token, Range<usize>)> = Tokens { text, at: 0 }.collect();
    let semicolon = tokens.iter().position(|(token, _)| *token == Token::Symbol(b';'));
    let body = &tokens[..semicolon.unwrap_or(tokens.len())];
    let rest = semicolon.map_or(&[][..], |at| &tokens[at + 1..]);
    Scanned {
        references: (0..body.len()).filter_map(|at| reference(body, at)).collect(),
        end: semicolon.map_or(text.len(), |at| tokens[at].1.start),
        second_statement: rest.iter().find(|(t, _)| *t != Token::Symbol(b';')).map(|(_, span)| span.start),
        is_empty: body.is_empty(),
    }
}

fn reference(tokens: &[(Token, Range<usize>)], at: usize) -> Option<Reference> {
    let symbol =
        |at: usize, symbol: u8| matches!(tokens.get(at), Some((Token::Symbol(s), _)) if *s == symbol);
    let (Token::Word(word), span) = &tokens[at] else { return None };
    let scope = Scope::from_word(word)?;
    let before = at.checked_sub(1).map(|at| &tokens[at].0);
    // `c.row` is somebody else's column, `AS new` a name being given, `ROW(1, 2)` a constructor.
    let is_qualified = matches!(before, Some(Token::Symbol(b'.')));
    let is_alias = matches!(before, Some(Token::Word(w)) if w == "as");
    if is_qualified || is_alias || (symbol(at + 1, b'(') && scope == Scope::Row) {
        return None;
    }
    if symbol(at + 1, b'.') {
        let column = match tokens.get(at + 2) {
            Some((Token::Word(name) | Token::Quoted(name), _)) => Some(name.clone()),
            _ => None,
        };
        return Some(Reference { scope, column, offset: span.start });
    }
    // CURRENT ROW, FIRST ROW ONLY, FETCH NEXT 1 ROW: the keyword, not the relation.
    let is_keyword = match before {
        Some(Token::Word(w)) => matches!(w.as_str(), "current" | "first" | "next"),
        Some(Token::Number) => true,
        _ => false,
    };
    (scope != Scope::Row || !is_keyword).then_some(Reference { scope, column: None, offset: span.start })
}

struct Tokens<'a> {
    text: &'a str,
    at: usize,
}

impl Tokens<'_> {
    fn rest(&self) -> &[u8] {
        &self.text.as_bytes()[self.at.min(self.text.len())..]
    }

    /// Moves past the next occurrence of `end`, or to the end of the text.
    fn skip_past(&mut self, from: usize, end: &str) {
        let found = self.text.as_bytes()[from.min(self.text.len())..]
            .windows(end.len())
            .position(|window| window == end.as_bytes());
        self.at = found.map_or(self.text.len(), |place| from + place + end.len());
    }

    fn skip_block_comment(&mut self) {
        let mut depth = 0;
        while self.at < self.text.len() {
            match self.rest() {
                [b'/', b'*', ..] => (depth, self.at) = (depth + 1, self.at + 2),
                [b'*', b'/', ..] => (depth, self.at) = (depth - 1, self.at + 2),
                _ => self.at += 1,
            }
            if depth == 0 {
                return;
            }
        }
    }

    /// Past a quoted text whose quote is doubled inside it, or escaped by a backslash where these count.
    fn skip_quoted(&mut self, quote: u8, backslashes: bool) -> String {
        let start = self.at + 1;
        self.at = start;
        while let Some(&byte) = self.rest().first() {
            self.at += match byte {
                b'\\' if backslashes => 2,
                b if b == quote && self.rest().get(1) == Some(&quote) => 2,
                b if b == quote => break,
                _ => 1,
            };
        }
        let end = self.at.min(self.text.len());
        self.at = (end + 1).min(self.text.len());
        let quote = char::from(quote).to_string();
        self.text.get(start..end).unwrap_or_default().replace(&quote.repeat(2), &quote)
    }

    fn skip_dollar_quoted(&mut self) -> bool {
        let tag = self.rest()[1..].iter().take_while(|b| is_name_byte(**b) && **b != b'$').count();
        if self.rest().get(tag + 1) != Some(&b'$') || self.rest()[1].is_ascii_digit() {
            return false;
        }
        let delimiter = self.text[self.at..self.at + tag + 2].to_owned();
        self.skip_past(self.at + delimiter.len(), &delimiter);
        true
    }

    fn word(&mut self) -> Token {
        let start = self.at;
        self.at += self.rest().iter().take_while(|b| is_name_byte(**b)).count();
        let word = self.text[start..self.at].to_lowercase();
        if self.rest().first() == Some(&b'\'') && matches!(word.as_str(), "e" | "b" | "x" | "n") {
            self.skip_quoted(b'\'', word == "e");
            return Token::String;
        }
        Token::Word(word)
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

impl Iterator for Tokens<'_> {
    type Item = (Token, Range<usize>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let start = self.at.min(self.text.len());
            let text = self.text;
            let token = match &text.as_bytes()[start..] {
                [] => return None,
                [b'-', b'-', ..] => {
                    self.skip_past(start, "\n");
                    continue;
                }
                [b'/', b'*', ..] => {
                    self.skip_block_comment();
                    continue;
                }
                [b'\'', ..] => {
                    self.skip_quoted(b'\'', false);
                    Token::String
                }
                [b'"', ..] => Token::Quoted(self.skip_quoted(b'"', false)),
                [b'$', ..] if self.skip_dollar_quoted() => Token::String,
                [b, ..] if b.is_ascii_digit() => {
                    self.at += self.rest().iter().take_while(|b| is_name_byte(**b)).count();
                    Token::Number
                }
                [b, ..] if is_name_byte(*b) && *b != b'$' => self.word(),
                [b, ..] => {
                    self.at += 1;
                    if b.is_ascii_whitespace() {
                        continue;
                    }
                    Token::Symbol(*b)
                }
            };
            return Some((token, start..self.at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references(sql: &str) -> Vec<String> {
        let column = |r: &Reference| r.column.clone().unwrap_or_else(|| "*".into());
        scan(sql).references.iter().map(|r| format!("{}.{}", r.scope.as_str(), column(r))).collect()
    }

    #[test]
    fn references_are_found_where_they_are_and_nowhere_else() {
        let rows: [(&str, &[&str]); 20] = [
            ("SELECT new.id, NEW.Total, row.\"Odd \"\"x\"", &["new.id", "new.total", "row.Odd \"x"]),
            ("SELECT new . id", &["new.id"]),
            ("SELECT new.*, to_jsonb(old)", &["new.*", "old.*"]),
            ("SELECT 'new.id', E'\\'new.id', $$new.id$$, $a$ new.id $$ $a$, \"new.id\"", &[]),
            ("SELECT 1 -- new.id\n, old.x /* row.a /* new.b */ row.c */", &["old.x"]),
            ("SELECT c.row, c.new.x FROM c", &[]),
            ("SELECT ROW(1, new.a)", &["new.a"]),
            ("SELECT sum(x) OVER (ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM t", &[]),
            ("SELECT 1 FETCH FIRST ROW ONLY", &[]),
            ("SELECT 1 FETCH FIRST 1 ROW ONLY", &[]),
            ("SELECT x AS new FROM t", &[]),
            ("SELECT transformed.a FROM x WHERE x.b=row.c", &["transformed.a", "row.c"]),
            ("SELECT newer.id, new_x.id, renew.id", &[]),
            ("SELECT (new).id", &["new.*"]),
            ("SELECT é.new, new.é", &["new.é"]),
            ("SELECT $1, new.a", &["new.a"]),
            ("SELECT U&'new.id' || n'old.x'", &[]),
            ("SELECT 'unclosed new.id", &[]),
            ("SELECT /* unclosed new.id", &[]),
            ("SELECT e'\\", &[]),
        ];
        for (sql, expected) in rows {
            assert_eq!(references(sql), expected, "{sql}");
        }
    }

    #[test]
    fn one_statement_is_told_from_two() {
        for (sql, end, second, is_empty) in [
            ("SELECT 1", 8, None, false),
            ("SELECT 1;", 8, None, false),
            ("SELECT 1; -- done\n", 8, None, false),
            ("SELECT ';' ;;", 11, None, false),
            ("SELECT 1; SELECT 2", 8, Some(10), false),
            ("-- nothing\n", 11, None, true),
            (";", 0, None, true),
        ] {
            let scanned = scan(sql);
            assert_eq!(
                (scanned.end, scanned.second_statement, scanned.is_empty),
                (end, second, is_empty),
                "{sql}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_scanned_without_panic(sql in "(?s).{0,60}|[-'\"$/*a\\\\new.; é]{0,60}") {
            let scanned = scan(&sql);
            proptest::prop_assert!(scanned.end <= sql.len());
        }
    }
}
