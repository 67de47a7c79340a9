//! Input and output columns of different types: every pair that Postgres assigns by itself gives what its own assignment
//! gives, to the last digit, through the backfill and through the stream.

use super::harness::{Scenario, config, output_server, source_server};

/// Values by type, as SQL expressions; a pair of types leaves out those that the output's type can't hold.
const VALUES: &[(&str, &[&str])] = &[
    ("bool", &["true", "false"]),
    ("int2", &["-32768", "0", "32767"]),
    ("int4", &["-2147483648", "0", "65", "2147483647"]),
    ("int8", &["-9223372036854775808", "0", "66", "9223372036854775807", "9007199254740993"]),
    ("float4", &["'NaN'", "'-Infinity'", "1e-45", "3.4028235e38", "0.1", "-2.5", "16777217"]),
    ("float8", &["'NaN'", "'Infinity'", "5e-324", "1.7976931348623157e308", "0.1", "'-0'", "2.5", "-3.5"]),
    (
        "numeric",
        &["'NaN'", "'Infinity'", "1.500", "2.5", "-0.5", "repeat('9', 300)::numeric", "1e-300", "0.1"],
    ),
    ("money", &["'12.34'", "'-92233720368547758.08'", "'0.01'"]),
    ("text", &["''", "'a'", "'  padded  '", "'é🙂'", "repeat('long', 40)", "'pg_class'"]),
    ("varchar", &["''", "'a  '", "'é🙂'", "repeat('long', 40)", "'pg_class'"]),
    ("bpchar", &["''", "'a  '", "'é'"]),
    ("\"char\"", &["'a'", "''"]),
    ("name", &["''", "'a name'", "repeat('n', 63)"]),
    ("bytea", &["''", "'\\x00ff5c27'"]),
    ("date", &["'infinity'", "'-infinity'", "'4713-01-01 BC'", "'5874897-12-31'", "'2024-02-29'"]),
    ("time", &["'00:00'", "'24:00:00'", "'23:59:59.999999'"]),
    ("timetz", &["'12:00:00.5+15:59'", "'24:00:00-12:34:56'"]),
    (
        "timestamp",
        &["'infinity'", "'4713-01-02 00:00 BC'", "'294276-12-31 23:59:59.999999'", "'2024-02-29 13:00'"],
    ),
    ("timestamptz", &["'-infinity'", "'1890-01-01 12:34:56.789+01:23:45'", "'0044-03-15 12:00+00 BC'"]),
    ("interval", &["'1 year -2 months 3 days -04:05:06.789'", "'0'", "'25:00:00'"]),
    ("json", &["'{\"a\" : 1, \"a\":2 }'", "'null'", "'1E40'"]),
    ("jsonb", &["'{\"b\": [1, null]}'", "'null'", "'1e40'"]),
    ("xml", &["'<a b=\"c\">d&amp;</a>'"]),
    ("uuid", &["'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"]),
    ("inet", &["'192.168.0.1/24'", "'::1'"]),
    ("cidr", &["'10.0.0.0/8'", "'2001:db8::/32'"]),
    ("macaddr", &["'08:00:2b:01:02:03'"]),
    ("macaddr8", &["'08:00:2b:ff:fe:02:03:04'"]),
    ("bit(3)", &["B'101'"]),
    ("varbit", &["B''", "B'10110'"]),
    ("point", &["'(1.1,-2.2)'"]),
    ("lseg", &["'[(0,0),(1,1)]'"]),
    ("box", &["'(1,1),(0,0)'"]),
    ("path", &["'((0,0),(1,1),(1,0))'"]),
    ("polygon", &["'((0,0),(1,1),(1,0))'"]),
    ("circle", &["'<(0,0),1.5>'"]),
    ("oid", &["0", "4294967295"]),
    ("xid8", &["'18446744073709551615'"]),
    ("int4range", &["'[1,10)'", "'empty'"]),
    ("numrange", &["'(1.5,]'"]),
    ("tstzrange", &["'[2024-01-01 00:00+02,infinity)'"]),
    ("int4[]", &["'{1,NULL,-3}'"]),
    ("text[]", &["ARRAY['', NULL, 'a,b']"]),
];

/// What the catalog of casts doesn't list: texts of any type, and arrays as their elements.
const MORE_PAIRS: &[(&str, &str)] = &[
    ("bool", "text"),
    ("int4", "varchar"),
    ("int4", "bpchar"),
    ("float8", "text"),
    ("numeric", "text"),
    ("bytea", "text"),
    ("date", "text"),
    ("timestamptz", "text"),
    ("interval", "text"),
    ("json", "text"),
    ("jsonb", "text"),
    ("xml", "text"),
    ("inet", "varchar"),
    ("box", "text"),
    ("int4range", "text"),
    ("int4[]", "text"),
    ("text[]", "text"),
    ("money", "text"),
    ("int4[]", "int8[]"),
    ("int4[]", "numeric[]"),
    ("text[]", "varchar[]"),
    ("uuid", "text"),
    ("time", "text"),
    ("\"char\"", "text"),
    ("name", "text"),
    ("oid", "text"),
    ("bit(3)", "text"),
    ("macaddr", "text"),
    ("point", "text"),
];

/// Types whose values mean another thing in another database.
const LOCAL: &str = "'{regproc,regprocedure,regoper,regoperator,regclass,regtype,regconfig,regdictionary,regrole,\
                      regnamespace,regcollation,regdatabase}'::text[]";

/// Pairs with a cast that an assignment uses, both types known to [`VALUES`] on the input's side.
fn pairs(s: &Scenario) -> Vec<(String, String)> {
    let sql = format!(
        "SELECT format_type(castsource, NULL), format_type(casttarget, NULL) FROM pg_cast
         JOIN pg_type a ON a.oid = castsource JOIN pg_type b ON b.oid = casttarget
         WHERE castcontext IN ('a', 'i') AND castsource <> casttarget AND a.oid < 16384 AND b.oid < 16384
         AND a.typname <> ALL ({LOCAL}) AND b.typname <> ALL ({LOCAL}) AND b.typtype IN ('b', 'r', 'm')
         ORDER BY 1, 2"
    );
    let canonical = |name: &str| s.source.value(&format!("SELECT '{name}'::regtype::text"));
    let known: Vec<String> = VALUES.iter().map(|(name, _)| canonical(name)).collect();
    let listed = s.source.rows(&sql).into_iter().map(|mut row| (row.swap_remove(0), row.swap_remove(0)));
    let mut pairs: Vec<(String, String)> =
        listed.filter_map(|(from, to)| Some((from?, to?))).filter(|(from, _)| known.contains(from)).collect();
    pairs.extend(MORE_PAIRS.iter().map(|(from, to)| (canonical(from), canonical(to))));
    pairs.dedup();
    // Refused: see a_char_that_the_output_would_read_as_another_is_refused.
    if source_server().binaries().major() >= 15 && output_server().binaries().major() < 15 {
        pairs.retain(|(_, to)| to != "\"char\"");
    }
    pairs
}

fn values<'a>(s: &Scenario, type_name: &str) -> &'a [&'a str] {
    let is = |name: &str| s.source.value(&format!("SELECT '{name}'::regtype::text")) == type_name;
    VALUES.iter().find(|(name, _)| is(name)).map_or(&[], |(_, values)| values)
}

/// A type as a column may have it: without a length, `bit` and `character` would be of length 1.
fn column_type(name: &str) -> String {
    match name {
        "bit" => "bit(3)".to_owned(),
        "character" => "pg_catalog.bpchar".to_owned(),
        name => name.to_owned(),
    }
}

#[test]
fn every_pair_of_types_that_postgres_assigns_gives_what_its_assignment_gives() {
    let s = Scenario::new();
    let pairs = pairs(&s);
    assert!(pairs.len() > 80, "only {} pairs", pairs.len());
    let columns = |side: fn(&(String, String)) -> &String| -> String {
        pairs.iter().enumerate().map(|(at, pair)| format!(", c{at} {}", column_type(side(pair)))).collect()
    };
    let (from, to) = (columns(|pair| &pair.0), columns(|pair| &pair.1));
    let s = s
        .on_source(&format!(
            "CREATE TABLE t (id int PRIMARY KEY{from}); CREATE TABLE expected (id int PRIMARY KEY{to})"
        ))
        .on_output(&format!("CREATE TABLE t (id int PRIMARY KEY{to})"))
        .copies("t")
        .on_output(&format!("CREATE TABLE through_sql (id int PRIMARY KEY{to})"))
        .pipeline(
            "through_sql",
            &config("t", "through_sql", &[]),
            &[("transform.sql", "SELECT row.*"), ("delete.sql", "SELECT {{ old.id }} AS id")],
        );
    // Version 14 sends such a byte as it is, which is no text: the output refuses it, and the pipeline stops.
    let is_torn = |to: &str, value: &str| {
        to == "\"char\"" && !value.is_ascii() && source_server().binaries().major() < 15
    };
    let mut id = 0;
    for _part in ["backfill", "stream"] {
        for (at, (from, to)) in pairs.iter().enumerate() {
            for value in values(&s, from).iter().filter(|value| !is_torn(to, value)) {
                id += 1;
                let assigned = format!(
                    "CREATE TEMPORARY TABLE IF NOT EXISTS pair{at} (v {}); TRUNCATE pair{at};
                     INSERT INTO pair{at} VALUES (({value})::{}); INSERT INTO expected (id, c{at}) SELECT {id}, v FROM pair{at}",
                    column_type(from),
                    column_type(from),
                );
                if s.source.try_rows(&assigned).is_err() {
                    // The output's type can't hold it: see an_output_column_that_can_hold_less_stops_the_pipeline.
                    continue;
                }
                let column = column_type(from);
                s.source.execute(&format!("INSERT INTO t (id, c{at}) VALUES ({id}, ({value})::{column})"));
            }
        }
        s.once();
        for (at, (from, to)) in pairs.iter().enumerate() {
            for output in ["t", "through_sql"] {
                let rows = |table: &str| {
                    format!("SELECT id, c{at} FROM {table} WHERE c{at} IS NOT NULL ORDER BY id")
                };
                let (wanted, found) = (s.source.rows(&rows("expected")), s.output.rows(&rows(output)));
                assert_eq!(found, wanted, "{from} to {to}, into {output}");
            }
        }
    }
}
