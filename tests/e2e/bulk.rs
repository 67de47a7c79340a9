//! Many new rows at once, which go in by COPY where that does what INSERT does: every value arrives as it is, a key that exists is
//! updated all the same, and triggers, rules and what the output refuses count as they do for single rows.

use super::harness::{Scenario, Trucker, config};

/// More than are written one statement at a time.
const MANY: &str = "generate_series(1, 400) i";

#[test]
fn every_value_of_many_new_rows_arrives_as_it_is() {
    let types = "CREATE TYPE mood AS ENUM ('so so', 'a,b', 'tab\there'); CREATE TYPE pair AS (a int, b text);
         CREATE DOMAIN small AS int CHECK (VALUE < 100000); CREATE DOMAIN tags AS text[];
         CREATE TABLE t (id bigint PRIMARY KEY, words text, code char(6), short varchar(40), raw bytea, n numeric(20, 5), f float8,
           at timestamptz(3), span interval, day date, bits bit(3), vary bit varying(9), doc json, docb jsonb, list text[],
           matrix int[], m mood, p pair, s small, labels tags, net inet, ip cidr, period tstzrange, numbers int4multirange, x xml,
           u uuid, c name, point point, lsn pg_lsn, nothing text, empty text, \"Odd, name\" int);";
    let s = Scenario::new().tables(types).copies("t");
    s.once();
    let words = r#"(ARRAY['tab	and' || E'\n' || 'line', '\.', E'\\N', '\', E'\r\n', '""', '{NULL}', '', ' ', 'é€😀', '\t\\n', E'a\\\tb'])[i % 12 + 1]"#;
    s.source.execute(&format!(
        "INSERT INTO t SELECT i, {words}, left(i::text, 4), {words}, decode(md5(i::text), 'hex'), CASE i % 3 WHEN 0 THEN 'NaN' ELSE i / 7.0 END,
           CASE i % 4 WHEN 0 THEN '-Infinity' WHEN 1 THEN '-0' ELSE i / 3.0 END, CASE i % 5 WHEN 0 THEN 'infinity' ELSE now() - i * interval '1 hour' END,
           make_interval(0, i, 0, i % 30, 0, 0, i / 3.0), date '4713-01-01 BC' + i, (i % 8)::bit(3), (i % 4)::bit(2), json_build_object('k', {words}),
           jsonb_build_object('k', {words}), ARRAY[{words}, NULL, 'NULL'], ARRAY[[i, 2], [3, NULL]], (enum_range(NULL::mood))[i % 3 + 1],
           ROW(i, {words})::pair, i, ARRAY[{words}], ('10.0.0.' || i % 256)::inet, '10.1.0.0/16', tstzrange(now(), NULL), '{{[1,3),[5,9)}}',
           '<a>b</a>', md5(i::text)::uuid, chr(65 + i % 26)::name, point(i, 1.5), '0/1'::pg_lsn, NULL, '', i FROM {MANY}"
    ));
    s.once();
    let rows = "SELECT id, to_json(t)::text, x::text, c FROM t";
    s.assert_same(rows, rows);
    assert_eq!(s.output.number("SELECT count(*) FROM t WHERE nothing IS NULL AND empty = ''"), 400);
}

/// Columns whose binary form is known, each with an expression for row `i`.
const BINARY: &[(&str, &str)] = &[
    ("boolean", "i % 2 = 0"),
    ("smallint", "(i % 65536 - 32768)::smallint"),
    ("int", "(i * 7919) # (CASE i % 2 WHEN 0 THEN 0 ELSE -1 END)"),
    ("bigint", "(i::bigint * 9223372036854) * (1 - i % 3)"),
    ("real", "(random() * 10 ^ (i % 60 - 30))::real"),
    ("float8", "(random() - 0.5) * 10 ^ (i % 500 - 250)"),
    ("text", "repeat(chr(i % 1000 + 32), i % 50)"),
    ("varchar(9)", "left(i || ' \t\\é', 9)"),
    ("char(7)", "'c' || i % 100"),
    ("json", "json_build_object('k ' || i, random())"),
    ("jsonb", "jsonb_build_object('k', ARRAY[i, NULL], 'n', i / 7.0)"),
    ("uuid", "md5(i::text)::uuid"),
    ("bytea", "decode(repeat(md5(i::text), i % 5), 'hex')"),
    ("date", "date '0001-01-01' + (i * 1217) % 3652059"),
    ("time", "time '00:00' + i * interval '43.200017 s'"),
    ("time(1)", "time '00:00' + i * interval '43.257 s'"),
    ("timestamp", "timestamp '0001-01-01' + ((i * 1217) % 3652000) * interval '1 day 00:00:00.123457'"),
    (
        "timestamptz",
        "timestamptz '0002-01-01 00:00+00' + ((i * 1217) % 3652000) * interval '1 day 00:00:03.001'",
    ),
    ("timestamptz(0)", "timestamptz '1950-01-01 00:00+00' + i * interval '1 day 00:00:03.7'"),
    ("numeric", "((random() - 0.5) * 10 ^ (i % 40))::numeric * ('1e' || i % 90 - 45)::numeric"),
    ("numeric(12,3)", "round((i * 1234.5678)::numeric, i % 5)"),
    ("mood", "(enum_range(NULL::mood))[i % 3 + 1]"),
    ("small", "i % 100000"),
];

fn binary_table(types: impl Fn(&str) -> String) -> String {
    let columns = BINARY.iter().enumerate().map(|(at, (name, _))| format!(", c{at} {}", types(name)));
    format!(
        "CREATE TYPE mood AS ENUM ('so so', 'a,b', 'tab\there'); CREATE DOMAIN small AS int CHECK (VALUE < 100000);
         CREATE TABLE t (id bigint PRIMARY KEY{});",
        columns.collect::<String>()
    )
}

/// Fills the source's table, every 13th row with NULLs but for the key.
fn fill_binary(s: &Scenario, from: u32, count: u32) {
    let values =
        BINARY.iter().map(|(name, value)| format!(", CASE WHEN i % 13 > 0 THEN ({value})::{name} END"));
    let (values, to) = (values.collect::<String>(), from + count - 1);
    s.source.execute(&format!("INSERT INTO t SELECT i{values} FROM generate_series({from}, {to}) i"));
}

#[test]
fn values_in_binary_form_are_those_that_the_text_says() {
    let s = Scenario::new().tables(&binary_table(str::to_owned)).copies("t");
    s.once();
    fill_binary(&s, 1, 3000);
    s.once();
    let rows = "SELECT id, t::text FROM t";
    s.assert_same(rows, rows);
    // One value without such a form, and the rows go as text, all of them.
    fill_binary(&s, 5000, 300);
    s.source.execute(
        "INSERT INTO t (id, c13, c19) SELECT i, 'infinity', 'NaN' FROM generate_series(6000, 6060) i",
    );
    s.once();
    s.assert_same(rows, rows);
}

#[test]
fn values_of_another_type_are_converted_as_their_text_is() {
    // Each as text in the source, but for the key: what the output's columns make of it counts.
    let s = Scenario::new()
        .on_source(&binary_table(|_| "text".to_owned()))
        .on_output(&binary_table(str::to_owned))
        .copies("t");
    s.once();
    fill_binary(&s, 1, 500);
    // Spellings that a server reads, though none writes them.
    s.source.execute(
        "INSERT INTO t (id, c0, c1, c3, c5, c11, c12, c13, c14, c16, c17, c19)
         SELECT i, ' yes', ' +7 ', '-0', '1e5', '{A0EEBC99-9C0B4EF8-BB6D6BB9-BD380A11}', E'a\\\\000', 'Jan 8, 1999', '24:00', '1999-01-08T04:05',
                '1999-01-08 04:05:06 -8:00', '1e3' FROM generate_series(1001, 1100) i",
    );
    s.once();
    let casts = BINARY.iter().enumerate().map(|(at, (name, _))| format!(", c{at}::{name}::text"));
    let rows = format!("SELECT id{} FROM t", casts.collect::<String>());
    s.assert_same(&rows, &rows);
}

#[test]
fn an_output_altered_while_it_runs_takes_no_bytes_of_the_types_it_had() {
    let rows = |from: u32| {
        format!(
            "INSERT INTO t SELECT i, jsonb_build_object('k', i), i, i FROM generate_series({from}, {}) i",
            from + 199
        )
    };
    let s =
        Scenario::new().tables("CREATE TABLE t (id int PRIMARY KEY, doc jsonb, n bigint, m int)").copies("t");
    let mut trucker = s.run();
    let until = |trucker: &mut Trucker, rows: u32| {
        s.until_same(trucker, &format!("SELECT {rows}"), "SELECT count(*)::int FROM t");
    };
    s.until_following(&mut trucker, 1);
    s.source.execute(&rows(1));
    until(&mut trucker, 200);
    // The bytes of each are bytes of the other type as well, and the server says nothing.
    s.output.execute("ALTER TABLE t ALTER doc TYPE text, ALTER n TYPE float8, ALTER m TYPE real");
    s.source.execute(&rows(1001));
    until(&mut trucker, 400);
    // Another table of that name, for another process.
    trucker.terminate();
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    s.output.execute(
        "BEGIN; ALTER TABLE t RENAME TO before; CREATE TABLE t (id int PRIMARY KEY, doc text, n bigint, m int); COMMIT",
    );
    s.source.execute(&rows(2001));
    until(&mut trucker, 200);
    let read = |table, ids| format!("SELECT id, doc::text, n::text, m::text FROM {table} WHERE id {ids}");
    s.assert_same(&read("t", "< 2000"), &read("before", "< 2000"));
    s.assert_same(&read("t", "> 2000"), &read("t", "> 2000"));
}

#[test]
fn an_output_that_lost_a_column_of_its_own_and_got_another_type_goes_on() {
    let s = Scenario::new()
        .on_source("CREATE TABLE t (id int PRIMARY KEY, n bigint)")
        .on_output("CREATE TABLE t (id int PRIMARY KEY, n bigint, own text)")
        .copies("t");
    let mut trucker = s.run();
    s.until_following(&mut trucker, 1);
    s.output.execute("ALTER TABLE t DROP own, ALTER n TYPE float8");
    for from in [1, 1001] {
        s.source.execute(&format!("INSERT INTO t SELECT i, i FROM generate_series({from}, {from} + 199) i"));
        s.until_same(&mut trucker, "SELECT id, n::text FROM t", "SELECT id, n::text FROM t");
    }
}

#[test]
fn many_new_rows_whose_keys_exist_update_these() {
    let s = Scenario::new()
        .tables("CREATE TABLE t (id int PRIMARY KEY, v text)")
        .on_output("CREATE TABLE log (id int)")
        .copies("t")
        .pipeline(
            "log",
            &config("t", "log", &["on: {insert: insert, update: ignore, delete: ignore, truncate: ignore}"]),
            &[],
        );
    s.once();
    s.output.execute("INSERT INTO t SELECT i, 'somebody else''s' FROM generate_series(300, 350) i");
    s.source.execute(&format!("INSERT INTO t SELECT i, 'first' FROM {MANY}"));
    s.source.execute(&format!("INSERT INTO t SELECT i + 1000, 'second' FROM {MANY}"));
    s.once();
    s.assert_table_same("t");
    assert_eq!(s.output.number("SELECT count(*) FROM log"), 800, "what was appended is appended once");
    // While it runs, too: the batch comes again as statements, and later ones are loaded as ever.
    let mut trucker = s.run();
    s.until_following(&mut trucker, 2);
    s.output.execute("INSERT INTO t VALUES (5000, 'somebody else''s')");
    s.source.execute(&format!("INSERT INTO t SELECT i + 4800, 'third' FROM {MANY}"));
    s.source.execute(&format!("INSERT INTO t SELECT i + 6000, 'fourth' FROM {MANY}"));
    s.until_table_same(&mut trucker, "t");
    trucker.terminate();
    assert_eq!(s.output.number("SELECT count(*) FROM log"), 1600);
    assert_eq!(s.output.number("SELECT count(DISTINCT id) FROM log"), 1600);
}

#[test]
fn rows_that_are_made_and_changed_in_one_batch_end_as_they_are() {
    let s = Scenario::new().tables("CREATE TABLE t (id int PRIMARY KEY, v int)").copies("t");
    s.once();
    s.source.execute(&format!("INSERT INTO t SELECT i, 0 FROM {MANY}"));
    s.once();
    s.source.execute(&format!(
        "BEGIN; INSERT INTO t SELECT i + 400, 1 FROM {MANY}; UPDATE t SET v = v + 1 WHERE id % 3 = 0; DELETE FROM t WHERE id % 7 = 0;
         INSERT INTO t SELECT i, 9 FROM {MANY} WHERE i % 7 = 0; UPDATE t SET id = id + 10000 WHERE id % 11 = 0; COMMIT"
    ));
    s.once();
    s.assert_table_same("t");
}

#[test]
fn triggers_rules_and_partitions_of_the_output_count_for_many_rows() {
    let append = "on: {insert: insert, update: ignore, delete: ignore, truncate: ignore}";
    let s = Scenario::new()
        .on_source("CREATE TABLE t (id int PRIMARY KEY)")
        .on_output(
            "CREATE TABLE ruled (id int); CREATE TABLE told (id int);
             CREATE RULE also AS ON INSERT TO ruled DO ALSO INSERT INTO told VALUES (new.id);
             CREATE TABLE triggered (id int PRIMARY KEY, touched text);
             CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.touched := TG_OP; RETURN NEW; END';
             CREATE TRIGGER touch BEFORE INSERT ON triggered FOR EACH ROW EXECUTE FUNCTION touch();
             CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id);
             CREATE TABLE low PARTITION OF parted FOR VALUES FROM (0) TO (200);
             CREATE TABLE high PARTITION OF parted FOR VALUES FROM (200) TO (1000);
             CREATE TABLE numbered (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED)",
        )
        .pipeline("ruled", &config("t", "ruled", &[append]), &[])
        .pipeline("triggered", &config("t", "triggered", &[]), &[])
        .pipeline("parted", &config("t", "parted", &[]), &[])
        .pipeline("numbered", &config("t", "numbered", &[]), &[]);
    s.once();
    s.source.execute(&format!("INSERT INTO t SELECT i FROM {MANY}"));
    s.once();
    for (table, count) in [
        ("ruled", 400),
        ("told", 400),
        ("triggered WHERE touched = 'INSERT'", 400),
        ("low", 199),
        ("high", 201),
        ("numbered WHERE twice = id * 2", 400),
    ] {
        assert_eq!(s.output.number(&format!("SELECT count(*) FROM {table}")), count, "{table}");
    }
}

#[test]
fn of_many_new_rows_only_the_one_that_is_refused_is_left_out() {
    let s = Scenario::new()
        .on_source("CREATE TABLE t (id int PRIMARY KEY, v int)")
        .on_output("CREATE TABLE t (id int PRIMARY KEY, v int CHECK (v <> 13))")
        .pipeline("t", &(config("t", "t", &[]) + "on_error: dead_letter\n"), &[]);
    s.once();
    s.source.execute(&format!("INSERT INTO t SELECT i, i % 400 FROM {MANY}"));
    s.once();
    s.assert_same("SELECT * FROM t WHERE v <> 13", "SELECT * FROM t");
    assert_eq!(
        s.output.value("SELECT string_agg(sqlstate || ' ' || (new ->> 'id'), ' ') FROM trucker.dead_letters"),
        "23514 13"
    );
}
