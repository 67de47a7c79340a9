//! A table as the replication stream describes it before the first change of it, and again whenever its
//! definition has changed.

/// Which columns of the old row the server sends with updates and deletes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// The primary key's columns.
    Default,
    /// None: updates and deletes of a published table fail at the source.
    Nothing,
    /// All of them.
    Full,
    /// The columns of one unique index.
    Index,
}

impl ReplicaIdentity {
    /// From the letter of `pg_class.relreplident`, which the Relation message uses too.
    pub fn from_letter(letter: u8) -> Option<Self> {
        Some(match letter {
            b'd' => ReplicaIdentity::Default,
            b'n' => ReplicaIdentity::Nothing,
            b'f' => ReplicaIdentity::Full,
            b'i' => ReplicaIdentity::Index,
            _ => return None,
        })
    }
}

/// One published column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name, as the catalog has it (unquoted).
    pub name: String,
    /// `pg_type.oid` on the source.
    pub type_oid: u32,
    /// `atttypmod`; -1 for none.
    pub type_modifier: i32,
    /// Whether the replica identity contains it. Under FULL every column is.
    pub is_identity: bool,
    /// The table got it, or its type, after the change: its value now isn't the one that was sent, if one was.
    pub is_later: bool,
}

/// A published table. Equal iff nothing that a pipeline could depend on differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// `pg_class.oid` on the source: stays through renames, changes when a table is made anew.
    pub oid: u32,
    /// Schema name, unquoted.
    pub schema: String,
    /// Table name, unquoted.
    pub table: String,
    /// What `old` holds.
    pub identity: ReplicaIdentity,
    /// The published columns in the order of the tuples. Generated columns aren't among them before
    /// Postgres 18, and there only where the publication asks for them.
    pub columns: Vec<Column>,
}

impl Relation {
    /// Place of the column in tuples.
    pub fn column_index(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|c| c.name == name)
    }

    /// Whether `old` of an update or delete holds this column's value.
    pub fn is_sent_in_old(&self, column: usize) -> bool {
        self.columns[column].is_identity
    }

    /// Brings this relation up to the columns that the table has `now`: those that it got after the change was made are
    /// added at the end (no old row holds them, not even under FULL), and with `retypes` those that have another type by
    /// now take it, but for the columns `kept`, which rows are found by. Answers the places of the latter.
    pub fn bring_up_to(&mut self, now: Vec<Column>, retypes: bool, kept: &[String]) -> Vec<usize> {
        let is_key = self.identity != ReplicaIdentity::Full;
        let mut retyped = Vec::new();
        for column in now {
            let Some(place) = self.column_index(&column.name) else {
                self.columns.push(Column { is_identity: false, is_later: true, ..column });
                continue;
            };
            let known = &mut self.columns[place];
            let is_same = known.type_oid == column.type_oid && known.type_modifier == column.type_modifier;
            let is_kept = kept.contains(&known.name) || is_key && known.is_identity;
            if retypes && !is_same && !is_kept {
                (known.type_oid, known.type_modifier) = (column.type_oid, column.type_modifier);
                known.is_later = true;
                retyped.push(place);
            }
        }
        retyped
    }

    /// `schema.table` for people; not quoted, so never for SQL.
    pub fn display_name(&self) -> String {
        format!("{}.{}", self.schema, self.table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, type_oid: u32, is_identity: bool) -> Column {
        Column { name: name.into(), type_oid, type_modifier: -1, is_identity, is_later: false }
    }

    #[test]
    fn columns_that_a_table_got_or_changed_since_are_told_from_those_that_were_sent() {
        let now = || vec![column("id", 20, true), column("v", 23, true), column("new", 25, true)];
        for (identity, retypes, kept, retyped) in [
            (ReplicaIdentity::Default, true, vec![], vec![1]),
            (ReplicaIdentity::Default, false, vec![], vec![]),
            (ReplicaIdentity::Full, true, vec!["id".to_owned()], vec![1]),
            (ReplicaIdentity::Full, true, vec![], vec![0, 1]),
        ] {
            let is_full = identity == ReplicaIdentity::Full;
            let columns = vec![column("id", 23, true), column("v", 25, is_full), column("gone", 25, is_full)];
            let mut relation = Relation { oid: 1, schema: "s".into(), table: "t".into(), identity, columns };
            assert_eq!(relation.bring_up_to(now(), retypes, &kept), retyped, "{identity:?}");
            let names: Vec<&str> = relation.columns.iter().map(|c| c.name.as_str()).collect();
            assert_eq!(names, ["id", "v", "gone", "new"]);
            assert!(relation.columns[3].is_later && !relation.is_sent_in_old(3));
            assert_eq!(relation.is_sent_in_old(1), is_full);
            assert_eq!(relation.columns[1].is_later, retyped.contains(&1));
        }
    }
}
