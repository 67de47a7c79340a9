//! Any identifier that Postgres takes.

use super::harness::{Database, Scenario, config};

#[test]
fn odd_tables_and_columns_are_copied() {
    for name in [
        r#"a"b"#,
        "select",
        "Ünïcode 🙂",
        "with space",
        "semi;colon",
        "it's",
        "a.b",
        "UPPER",
        "back\\slash",
        "{{x}}",
        "new",
        "old",
        "row",
        "dollar$1",
        "--x",
        "9lives",
    ] {
        let quoted = format!("\"{}\"", name.replace('"', "\"\""));
        let yaml = format!("'{}.{}'", quoted.replace('\'', "''"), quoted.replace('\'', "''"));
        // In a config file, braces are a template's.
        let yaml = yaml.replace("{{", "{{ '{{' }}");
        let s = Scenario::new()
            .tables(&format!(
                "CREATE SCHEMA {quoted}; CREATE TABLE {quoted}.{quoted} ({quoted} int PRIMARY KEY, \"v {}\" text)",
                name.replace('"', "\"\"")
            ))
            .pipeline("odd", &config(&yaml, &yaml, &[]), &[]);
        s.source.execute(&format!("INSERT INTO {quoted}.{quoted} VALUES (1, 'a'), (2, 'b'), (3, 'c')"));
        s.once();
        s.assert_table_same(&format!("{quoted}.{quoted}"));
        s.source.execute(&format!(
            "INSERT INTO {quoted}.{quoted} VALUES (4, 'd'); DELETE FROM {quoted}.{quoted} WHERE {quoted} = 1;
             UPDATE {quoted}.{quoted} SET {quoted} = 10 WHERE {quoted} = 2"
        ));
        s.once();
        s.assert_table_same(&format!("{quoted}.{quoted}"));
    }
}

#[test]
fn names_of_the_greatest_length_are_kept_apart() {
    let (a, b) = ("x".repeat(62) + "a", "x".repeat(62) + "b");
    let s = Scenario::new()
        .tables(&format!(
            "CREATE TABLE {a} ({a} int PRIMARY KEY, {b} int); CREATE TABLE {b} ({a} int, {b} int PRIMARY KEY)"
        ))
        .copies(&a)
        .copies(&b);
    s.source.execute(&format!("INSERT INTO {a} VALUES (1, 2); INSERT INTO {b} VALUES (3, 4)"));
    s.once();
    s.source.execute(&format!("INSERT INTO {a} VALUES (5, 6); UPDATE {b} SET {b} = 7"));
    s.once();
    s.assert_table_same(&a);
    s.assert_table_same(&b);
}

#[test]
fn a_table_of_very_many_columns_is_copied() {
    let columns: Vec<String> = (0..900).map(|i| format!("c{i} smallint")).collect();
    let s = Scenario::new()
        .tables(&format!("CREATE TABLE wide (id int PRIMARY KEY, {})", columns.join(", ")))
        .copies("wide");
    s.source.execute("INSERT INTO wide (id, c0, c899) SELECT i, i, -i FROM generate_series(1, 20) i");
    s.once();
    s.source.execute(
        "UPDATE wide SET c450 = 1; INSERT INTO wide (id) VALUES (100); DELETE FROM wide WHERE id = 7",
    );
    s.once();
    s.assert_table_same("wide");
}

#[test]
fn a_table_that_is_nothing_but_its_key_is_copied() {
    let s = Scenario::new().tables("CREATE TABLE k (a int, b text, PRIMARY KEY (a, b))").copies("k");
    s.source.execute("INSERT INTO k VALUES (1, 'a'), (2, 'b')");
    s.once();
    s.source
        .execute("UPDATE k SET b = 'c' WHERE a = 1; DELETE FROM k WHERE a = 2; INSERT INTO k VALUES (3, '')");
    s.once();
    s.assert_table_same("k");
}

#[test]
fn tables_of_the_same_name_in_several_schemas_are_told_apart() {
    let s = Scenario::new()
        .tables("CREATE SCHEMA a; CREATE SCHEMA b; CREATE TABLE a.t (id int PRIMARY KEY); CREATE TABLE b.t (id int PRIMARY KEY)")
        .pipeline("one", &config("a.t", "a.t", &[]), &[])
        .pipeline("two", &config("b.t", "b.t", &[]), &[]);
    s.source.execute("INSERT INTO a.t VALUES (1); INSERT INTO b.t VALUES (2)");
    s.once();
    s.source.execute("INSERT INTO a.t VALUES (3); INSERT INTO b.t VALUES (4)");
    s.once();
    s.assert_table_same("a.t");
    s.assert_table_same("b.t");
}

#[test]
fn a_database_of_any_name_can_be_a_source_and_an_output() {
    let mut s = Scenario::new();
    let path = s.dir().join("trucker.yml");
    let mut text = std::fs::read_to_string(&path).unwrap();
    for database in [&mut s.source, &mut s.output] {
        let odd = format!("Odd.Näme-%;# \\ {}", database.name);
        text = text.replace(&format!("database: {}", database.name), &format!("database: '{odd}'"));
        database.drop_quietly();
        *database = Database::create(database.port, &odd);
    }
    std::fs::write(path, text).unwrap();
    let s = s.tables("CREATE TABLE t (id int PRIMARY KEY)").copies("t");
    s.source.execute("INSERT INTO t VALUES (1)");
    s.once();
    s.source.execute("INSERT INTO t VALUES (2)");
    s.once();
    s.assert_table_same("t");
}
