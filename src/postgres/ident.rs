//! Names and literals as Postgres writes them. The only place that puts quotes around anything.

/// Words that no table or column can be called without quotes in some major version or position: the "reserved"
/// rows of PostgreSQL's appendix "SQL Key Words", and those that may be a function's or type's name only.
const RESERVED: &str = " all analyse analyze and any array as asc asymmetric authorization between bigint binary bit \
    boolean both case cast char character check coalesce collate collation column concurrently constraint create \
    cross current_catalog current_date current_role current_schema current_time current_timestamp current_user dec \
    decimal default deferrable desc distinct do else end except exists extract false fetch float for foreign freeze \
    from full grant greatest group grouping having ilike in initially inner inout int integer intersect interval \
    into is isnull join lateral leading least left like limit localtime localtimestamp national natural nchar new \
    none normalize not notnull null nullif numeric offset old on only or order out outer overlaps overlay placing \
    position precision primary real references returning right row select session_user setof similar smallint some \
    substring symmetric system_user table tablesample then time timestamp to trailing treat trim true union unique \
    user using values varchar variadic verbose when where window with xmlattributes xmlconcat xmlelement xmlexists \
    xmlforest xmlnamespaces xmlparse xmlpi xmlroot xmlserialize xmltable ";

/// A name as SQL writes it: quoted, unless it is plain lower case and no reserved word. Quoting is always right;
/// leaving it away is for people's eyes.
pub fn quote_ident(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && !RESERVED.contains(&format!(" {name} "));
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// `schema.table`, each part as [`quote_ident`] writes it.
pub fn quote_relation(schema: &str, table: &str) -> String {
    format!("{}.{}", quote_ident(schema), quote_ident(table))
}

/// A list of names, separated by commas.
pub fn quote_idents<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(quote_ident).collect::<Vec<_>>().join(", ")
}

/// A string constant. Right whatever `standard_conforming_strings` says: with a backslash in it, it is written in
/// the escape syntax, which has the same meaning in both settings.
pub fn quote_literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') {
        format!("E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_unless_they_are_plain_beyond_doubt() {
        for (name, quoted) in [
            ("order_id", "order_id"),
            ("c1", "c1"),
            ("id", "id"),
            ("new", "\"new\""),
            ("select", "\"select\""),
            ("Order_id", "\"Order_id\""),
            ("1a_", "\"1a_\""),
            ("a\"b", "\"a\"\"b\""),
            ("é_", "\"é_\""),
            ("", "\"\""),
        ] {
            assert_eq!(quote_ident(name), quoted);
        }
    }

    #[test]
    fn literals_hold_any_text() {
        for (text, quoted) in [("a", "'a'"), ("it's", "'it''s'"), ("a\\'b", "E'a\\\\''b'"), ("", "''")] {
            assert_eq!(quote_literal(text), quoted);
        }
    }
}
