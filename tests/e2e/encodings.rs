//! Databases in other encodings than UTF-8: texts arrive as the same characters, and what the other side has no
//! characters for stops the pipeline instead of being replaced.

use super::harness::{Scenario, config};

/// A world whose databases are in these encodings.
fn world(source: &str, output: &str) -> Scenario {
    let s = Scenario::new();
    for (database, encoding) in [(&s.source, source), (&s.output, output)] {
        let name = &database.name;
        database.drop_quietly();
        database.admin(&format!(
            "CREATE DATABASE \"{name}\" ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"
        ));
    }
    s
}

const T: &str = "CREATE TABLE \"täble\" (id int PRIMARY KEY, \"ü\" text, tags text[])";

#[test]
fn texts_and_names_are_the_same_characters_in_another_encoding() {
    for (source, output) in
        [("LATIN1", "UTF8"), ("UTF8", "LATIN1"), ("WIN1252", "LATIN1"), ("LATIN9", "UTF8")]
    {
        for file in
            [None, Some(("transform.sql", "SELECT {{ row.id }} AS id, {{ row[\"ü\"] }} || 'ä' AS \"ü\""))]
        {
            let files: Vec<_> = file.into_iter().collect();
            let s = world(source, output).tables(T).pipeline(
                "t",
                &config("'\"täble\"'", "'\"täble\"'", &[]),
                &files,
            );
            s.source.execute("INSERT INTO \"täble\" VALUES (1, 'Käse', '{ö,ñ}')");
            s.once();
            s.source.execute("INSERT INTO \"täble\" VALUES (2, 'Größe', '{é}'); UPDATE \"täble\" SET \"ü\" = 'ÿ' WHERE id = 1");
            s.source
                .execute("DELETE FROM \"täble\" WHERE id = 1; INSERT INTO \"täble\" VALUES (3, 'æ', NULL)");
            s.once();
            let (text, tags) =
                if files.is_empty() { ("\"ü\"", "tags") } else { ("\"ü\" || 'ä'", "NULL::text[]") };
            s.assert_same(&format!("SELECT id, {text}, {tags} FROM \"täble\""), "SELECT * FROM \"täble\"");
        }
    }
}

#[test]
fn characters_that_the_output_lacks_stop_the_pipeline_and_show_no_value() {
    for backfills in [true, false] {
        let s = world("UTF8", "LATIN1").tables("CREATE TABLE t (id int PRIMARY KEY, v text)").copies("t");
        if !backfills {
            s.once();
        }
        s.source.execute("INSERT INTO t VALUES (1, 'secret ☃')");
        let said = s.once_fails(1);
        assert!(said.contains("22P05") && !said.contains("secret"), "{said}");
        assert_eq!(s.output.number("SELECT count(*) FROM t"), 0);
    }
}

#[test]
fn a_database_without_an_encoding_is_copied_as_long_as_it_holds_utf8() {
    let s = world("SQL_ASCII", "UTF8").tables("CREATE TABLE t (id int PRIMARY KEY, v text)").copies("t");
    s.source.execute("INSERT INTO t VALUES (1, 'Käse')");
    s.once();
    s.source.execute("INSERT INTO t VALUES (2, '☃')");
    s.once();
    s.assert_table_same("t");
    // A byte that is no text in any encoding that the server could know of.
    s.source.execute("INSERT INTO t VALUES (3, E'\\xff')");
    let said = s.once_fails(1);
    assert!(said.contains("22021"), "{said}");
    assert_eq!(s.output.number("SELECT count(*) FROM t"), 2);
}
