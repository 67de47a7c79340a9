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
        self.identity == ReplicaIdentity::Full || self.columns[column].is_identity
    }

    /// Adds those of `columns` that this relation doesn't have, at the end: columns that the table got after the change
    /// was made. No old row holds them, not even under FULL.
    pub fn add_later_columns(&mut self, columns: Vec<Column>) {
        let later: Vec<Column> =
            columns.into_iter().filter(|c| self.column_index(&c.name).is_none()).collect();
        if later.is_empty() {
            return;
        }
        for column in &mut self.columns {
            column.is_identity |= self.identity == ReplicaIdentity::Full;
        }
        if self.identity == ReplicaIdentity::Full {
            self.identity = ReplicaIdentity::Index;
        }
        self.columns.extend(later.into_iter().map(|column| Column { is_identity: false, ..column }));
    }

    /// `schema.table` for people; not quoted, so never for SQL.
    pub fn display_name(&self) -> String {
        format!("{}.{}", self.schema, self.table)
    }
}
