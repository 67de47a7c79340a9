//! The questions to the catalogue: each takes OIDs and answers statements, one a row, in an order in which they can be run.
//! They rely on an empty search path, so that every name comes with its schema.

/// OID, schema, name, kind, what it names in turn, the partitioned table above it.
pub const CANDIDATES: &str = "\
SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text,
       CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid)
            ELSE (SELECT string_agg(pg_get_expr(d.adbin, d.adrelid), ' ') FROM pg_attrdef d WHERE d.adrelid = c.oid) END,
       CASE WHEN c.relispartition THEN (SELECT i.inhparent FROM pg_inherits i WHERE i.inhrelid = c.oid) END
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't'
  AND n.nspname !~ '^(pg_|information_schema$|trucker$)'
  AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')
UNION ALL
SELECT p.oid, n.nspname::text, p.proname::text, 'F', p.prosrc || ' ' || coalesce(pg_get_functiondef(p.oid), ''), NULL
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE p.prokind IN ('f', 'p') AND n.nspname !~ '^(pg_|information_schema$|trucker$)'
  AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_proc'::regclass AND e.objid = p.oid AND e.deptype = 'e')";

pub const SCHEMAS: &str = "\
SELECT DISTINCT format('CREATE SCHEMA IF NOT EXISTS %I;', nspname) FROM pg_namespace
WHERE nspname <> 'public'
  AND oid IN (SELECT relnamespace FROM pg_class WHERE oid = ANY ($1)
              UNION ALL SELECT pronamespace FROM pg_proc WHERE oid = ANY ($1)
              UNION ALL SELECT t.typnamespace FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
                        WHERE a.attrelid = ANY ($1) AND a.attnum > 0)
  AND nspname !~ '^pg_' ORDER BY 1";

pub const EXTENSIONS: &str = "\
SELECT DISTINCT CASE WHEN n.nspname = 'public' THEN '' ELSE format('CREATE SCHEMA IF NOT EXISTS %I; ', n.nspname) END
       || format('CREATE EXTENSION IF NOT EXISTS %I WITH SCHEMA %I;', e.extname, n.nspname)
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_type element ON element.oid = t.typelem AND t.typcategory = 'A'
JOIN pg_depend d ON d.classid = 'pg_type'::regclass AND d.objid = coalesce(element.oid, t.oid) AND d.deptype = 'e'
JOIN pg_extension e ON e.oid = d.refobjid JOIN pg_namespace n ON n.oid = e.extnamespace
WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1";

/// Enums, domains and composites, each after what it is made of: that has been there before.
pub const TYPES: &str = "\
WITH RECURSIVE used AS (
  SELECT a.atttypid AS oid FROM pg_attribute a WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped
  UNION
  SELECT part.oid FROM used u JOIN pg_type t ON t.oid = u.oid CROSS JOIN LATERAL (
    SELECT t.typelem WHERE t.typelem <> 0 AND t.typcategory = 'A'
    UNION ALL SELECT t.typbasetype WHERE t.typbasetype <> 0
    UNION ALL SELECT a.atttypid FROM pg_attribute a
              WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) part(oid))
SELECT CASE t.typtype
  WHEN 'e' THEN format('CREATE TYPE %I.%I AS ENUM (%s);', n.nspname, t.typname,
    (SELECT string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid))
  WHEN 'd' THEN format('CREATE DOMAIN %I.%I AS %s', n.nspname, t.typname, format_type(t.typbasetype, t.typtypmod))
    || coalesce(' DEFAULT ' || t.typdefault, '') || CASE WHEN t.typnotnull THEN ' NOT NULL' ELSE '' END
    || coalesce((SELECT string_agg(format(' CONSTRAINT %I %s', c.conname, pg_get_constraintdef(c.oid)), '' ORDER BY c.oid)
                 FROM pg_constraint c WHERE c.contypid = t.oid AND c.contype = 'c'), '') || ';'
  WHEN 'c' THEN format('CREATE TYPE %I.%I AS (%s);', n.nspname, t.typname,
    (SELECT string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attnum)
     FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped))
  ELSE format('-- Left out: type %I.%I', n.nspname, t.typname) END
FROM used u JOIN pg_type t ON t.oid = u.oid JOIN pg_namespace n ON n.oid = t.typnamespace
LEFT JOIN pg_class r ON r.oid = t.typrelid
WHERE n.nspname <> 'pg_catalog' AND t.typtype IN ('e', 'd', 'c', 'r') AND (t.typtype <> 'c' OR r.relkind = 'c')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e')
ORDER BY t.oid";

pub const SEQUENCES: &str = "\
SELECT DISTINCT format('CREATE SEQUENCE %I.%I AS %s;', n.nspname, s.relname, format_type(q.seqtypid, NULL))
FROM pg_attrdef f JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
  AND d.refclassid = 'pg_class'::regclass
JOIN pg_class s ON s.oid = d.refobjid AND s.relkind = 'S' JOIN pg_sequence q ON q.seqrelid = s.oid
JOIN pg_namespace n ON n.oid = s.relnamespace WHERE f.adrelid = ANY ($1) ORDER BY 1";

pub const OWNED_SEQUENCES: &str = "\
SELECT DISTINCT format('ALTER SEQUENCE %s OWNED BY %s.%I;', s.oid::regclass, d.refobjid::regclass, a.attname)
FROM pg_class s JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = s.oid AND d.deptype = 'a'
JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
WHERE s.relkind = 'S' AND d.refobjid = ANY ($1) ORDER BY 1";

pub const FUNCTIONS_BEFORE: &str = "\
SELECT rtrim(pg_get_functiondef(p.oid), E'\\n') || ';' FROM pg_proc p WHERE p.oid = ANY ($1) AND NOT EXISTS (
  SELECT FROM pg_type t JOIN pg_class r ON r.oid = t.typrelid AND r.relkind <> 'c'
  WHERE t.oid = p.prorettype OR t.oid = ANY (p.proargtypes)) ORDER BY p.oid";

/// Those that take or return rows of tables.
pub const FUNCTIONS_AFTER: &str = "\
SELECT rtrim(pg_get_functiondef(p.oid), E'\\n') || ';' FROM pg_proc p WHERE p.oid = ANY ($1) AND EXISTS (
  SELECT FROM pg_type t JOIN pg_class r ON r.oid = t.typrelid AND r.relkind <> 'c'
  WHERE t.oid = p.prorettype OR t.oid = ANY (p.proargtypes)) ORDER BY p.oid";

/// A foreign table becomes an ordinary one.
pub const TABLES: &str = "\
SELECT format(E'CREATE %sTABLE %s (\\n%s\\n)%s;', CASE c.relpersistence WHEN 'u' THEN 'UNLOGGED ' ELSE '' END, c.oid::regclass,
  (SELECT string_agg(format('    %I %s%s%s%s', a.attname, format_type(a.atttypid, a.atttypmod),
     CASE WHEN a.attcollation <> t.typcollation
       THEN (SELECT format(' COLLATE %I.%I', n.nspname, o.collname) FROM pg_collation o
             JOIN pg_namespace n ON n.oid = o.collnamespace WHERE o.oid = a.attcollation) ELSE '' END,
     CASE WHEN a.attidentity = 'a' THEN ' GENERATED ALWAYS AS IDENTITY'
          WHEN a.attidentity = 'd' THEN ' GENERATED BY DEFAULT AS IDENTITY'
          WHEN a.attgenerated = 's' THEN format(' GENERATED ALWAYS AS (%s) STORED', pg_get_expr(d.adbin, d.adrelid))
          WHEN a.attgenerated = 'v' THEN format(' GENERATED ALWAYS AS (%s) VIRTUAL', pg_get_expr(d.adbin, d.adrelid))
          WHEN d.oid IS NOT NULL THEN ' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid) ELSE '' END,
     CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END), E',\\n' ORDER BY a.attnum)
   FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
   LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
   WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
  CASE c.relkind WHEN 'p' THEN ' PARTITION BY ' || pg_get_partkeydef(c.oid) ELSE '' END)
FROM pg_class c WHERE c.oid = ANY ($1)
  AND NOT (c.relispartition AND EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid AND i.inhparent = ANY ($1)))
ORDER BY c.oid";

pub const PARTITIONS: &str = "\
SELECT format('CREATE TABLE %s PARTITION OF %s %s%s;', c.oid::regclass, i.inhparent::regclass,
              pg_get_expr(c.relpartbound, c.oid),
              CASE c.relkind WHEN 'p' THEN ' PARTITION BY ' || pg_get_partkeydef(c.oid) ELSE '' END)
FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid
WHERE c.oid = ANY ($1) AND c.relispartition AND i.inhparent = ANY ($1) ORDER BY c.oid";

pub const CONSTRAINTS: &str = "\
SELECT format('ALTER TABLE %s ADD CONSTRAINT %I %s;', k.conrelid::regclass, k.conname, pg_get_constraintdef(k.oid))
FROM pg_constraint k WHERE k.conrelid = ANY ($1) AND k.contype IN ('p', 'u', 'x', 'c') AND k.conparentid = 0 AND k.conislocal
ORDER BY k.conrelid, k.contype <> 'p', k.conname";

pub const FOREIGN_KEYS: &str = "\
SELECT format('ALTER TABLE %s ADD CONSTRAINT %I %s;', k.conrelid::regclass, k.conname, pg_get_constraintdef(k.oid))
FROM pg_constraint k WHERE k.conrelid = ANY ($1) AND k.confrelid = ANY ($1) AND k.contype = 'f' AND k.conparentid = 0
ORDER BY k.conrelid, k.conname";

pub const UNIQUE_INDEXES: &str = "\
SELECT pg_get_indexdef(i.indexrelid) || ';' FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = ANY ($1) AND i.indisunique AND NOT c.relispartition
  AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.conrelid = i.indrelid) ORDER BY c.relname";

pub const REPLICA_IDENTITY: &str = "\
SELECT format('ALTER TABLE %s REPLICA IDENTITY %s;', c.oid::regclass, CASE c.relreplident
  WHEN 'f' THEN 'FULL' WHEN 'n' THEN 'NOTHING' ELSE 'USING INDEX ' || (
    SELECT quote_ident(x.relname) FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
    WHERE i.indrelid = c.oid AND i.indisreplident) END)
FROM pg_class c WHERE c.oid = ANY ($1) AND c.relreplident IN ('f', 'n', 'i') AND c.relkind IN ('r', 'p') ORDER BY c.oid";

pub const VIEWS: &str = "\
SELECT format(E'CREATE %sVIEW %s AS\\n%s', CASE c.relkind WHEN 'm' THEN 'MATERIALIZED ' ELSE '' END, c.oid::regclass,
              pg_get_viewdef(c.oid)) FROM pg_class c WHERE c.oid = ANY ($1) ORDER BY c.oid";

pub const LEFT_OUT: &str = "\
SELECT format('-- Left out: trigger %s on %s', t.tgname, t.tgrelid::regclass)
FROM pg_trigger t WHERE t.tgrelid = ANY ($1) AND NOT t.tgisinternal
UNION ALL SELECT format('-- Left out: the policies of %s', c.oid::regclass)
FROM pg_class c WHERE c.oid = ANY ($1) AND c.relrowsecurity
UNION ALL SELECT format('-- Left out: the foreign key %s of %s, to %s', k.conname, k.conrelid::regclass, k.confrelid::regclass)
FROM pg_constraint k WHERE k.conrelid = ANY ($1) AND k.contype = 'f' AND k.conparentid = 0 AND NOT k.confrelid = ANY ($1)
ORDER BY 1";
