//! From messages to changes: keeps the relations that the stream has described, knows which transaction is open, and
//! refuses whatever doesn't fit. One per connection: nothing of it outlives the stream.

use std::collections::HashMap;
use std::sync::Arc;

use super::pgoutput::{Context, DecodeError, Message, OldTuple, decode};
use crate::change::{Change, Lsn, Operation, Relation, Tuple};

/// What a message comes to.
#[derive(Debug)]
pub enum Step {
    /// A transaction begins.
    Begin {
        /// Start of its commit record.
        commit_lsn: Lsn,
        /// Its top-level transaction id.
        xid: u32,
        /// When it was committed, in microseconds since 2000-01-01 by the source's clock.
        commit_time: i64,
    },
    /// A row of the open transaction changed.
    Change(Change),
    /// Tables of it were emptied.
    Truncate(Vec<Arc<Relation>>),
    /// It is complete.
    Commit {
        /// First byte after its commit record.
        end_lsn: Lsn,
    },
    /// Nothing for anybody.
    Nothing,
}

/// The stream doesn't make sense.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// A message can't be decoded.
    #[error("a message of the replication stream can't be read: {0}")]
    Decode(#[from] DecodeError),
    /// Messages come in an order that the protocol rules out.
    #[error("the replication stream doesn't follow its protocol: {0}")]
    Protocol(&'static str),
}

/// See the module.
#[derive(Debug, Default)]
pub struct Assembler {
    relations: HashMap<u32, Arc<Relation>>,
    is_open: bool,
}

const CONTEXT: Context = Context { protocol: 1, in_stream: false, parallel: false };

impl Assembler {
    /// Whether a transaction is open.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Takes the next message.
    pub fn push(&mut self, payload: &[u8]) -> Result<Step, AssembleError> {
        match decode(payload, &CONTEXT)? {
            Message::Begin { commit_lsn, xid, commit_time } => {
                if std::mem::replace(&mut self.is_open, true) {
                    return Err(AssembleError::Protocol("a transaction begins inside another"));
                }
                Ok(Step::Begin { commit_lsn, xid, commit_time: commit_time.0 })
            }
            Message::Commit { end_lsn, .. } => {
                if !std::mem::replace(&mut self.is_open, false) {
                    return Err(AssembleError::Protocol("a transaction ends that didn't begin"));
                }
                Ok(Step::Commit { end_lsn })
            }
            Message::Relation { relation, .. } => {
                self.describe(relation);
                Ok(Step::Nothing)
            }
            Message::Insert { relation_oid, new, .. } => {
                self.change(relation_oid, Operation::Insert, None, Some(new))
            }
            Message::Update { relation_oid, old, new, .. } => {
                self.change(relation_oid, Operation::Update, old.map(tuple), Some(new))
            }
            Message::Delete { relation_oid, old, .. } => {
                self.change(relation_oid, Operation::Delete, Some(tuple(old)), None)
            }
            Message::Truncate { relation_oids, .. } => {
                self.expect_open()?;
                relation_oids
                    .iter()
                    .map(|&oid| self.relation(oid))
                    .collect::<Result<_, _>>()
                    .map(Step::Truncate)
            }
            Message::Origin { .. } | Message::Type { .. } | Message::Logical { .. } => Ok(Step::Nothing),
            _ => Err(AssembleError::Protocol(
                "a message that wasn't asked for (streaming or two-phase commit)",
            )),
        }
    }

    /// Keeps the earlier description where nothing has changed, so that equal relations are one.
    fn describe(&mut self, relation: Relation) {
        match self.relations.get(&relation.oid) {
            Some(known) if **known == relation => {}
            _ => drop(self.relations.insert(relation.oid, Arc::new(relation))),
        }
    }

    fn relation(&self, oid: u32) -> Result<Arc<Relation>, AssembleError> {
        self.relations.get(&oid).cloned().ok_or(AssembleError::Protocol("a table that was never described"))
    }

    fn expect_open(&self) -> Result<(), AssembleError> {
        if self.is_open { Ok(()) } else { Err(AssembleError::Protocol("a change outside a transaction")) }
    }

    fn change(
        &self,
        oid: u32,
        operation: Operation,
        old: Option<Tuple>,
        new: Option<Tuple>,
    ) -> Result<Step, AssembleError> {
        self.expect_open()?;
        let relation = self.relation(oid)?;
        let fits = |t: &Option<Tuple>| t.as_ref().is_none_or(|t| t.len() == relation.columns.len());
        if !fits(&old) || !fits(&new) {
            return Err(AssembleError::Protocol("a row with another number of columns than its table"));
        }
        if operation == Operation::Update
            && relation.identity == crate::change::ReplicaIdentity::Full
            && old.is_none()
        {
            return Err(AssembleError::Protocol(
                "an update without its old row, of a table with REPLICA IDENTITY FULL (is it FULL on every partition?)",
            ));
        }
        let new = match (new, &old) {
            (Some(new), Some(old)) if new.has_unchanged() => Some(fill_from_old(new, old, &relation)),
            (new, _) => new,
        };
        Ok(Step::Change(Change { relation, operation, old, new }))
    }
}

fn tuple(old: OldTuple) -> Tuple {
    match old {
        OldTuple::Key(tuple) | OldTuple::Full(tuple) => tuple,
    }
}

/// Values that the update left out because they did not change, where the old row has them.
fn fill_from_old(new: Tuple, old: &Tuple, relation: &Relation) -> Tuple {
    use crate::change::Cell;
    let cells = new.cells().zip(old.cells()).enumerate();
    let cells = cells.map(|(column, (cell, old))| match cell {
        Cell::Unchanged if relation.is_sent_in_old(column) => old,
        cell => cell,
    });
    cells.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Cell, Column, ReplicaIdentity};

    fn relation(identity: ReplicaIdentity) -> Relation {
        let column = |name: &str, is_identity| Column {
            name: name.into(),
            type_oid: 25,
            type_modifier: -1,
            is_identity,
            is_later: false,
        };
        let columns = vec![column("id", true), column("big", identity == ReplicaIdentity::Full)];
        Relation { oid: 1, schema: "s".into(), table: "t".into(), identity, columns }
    }

    #[test]
    fn unchanged_values_are_taken_from_the_old_row_only_where_it_holds_them() {
        let new: Tuple = [Cell::Text(b"2"), Cell::Unchanged].into_iter().collect();
        let full: Tuple = [Cell::Text(b"1"), Cell::Text(b"big")].into_iter().collect();
        let key: Tuple = [Cell::Text(b"1"), Cell::Null].into_iter().collect();
        let filled = fill_from_old(new.clone(), &full, &relation(ReplicaIdentity::Full));
        assert_eq!(filled.cell(1), Cell::Text(b"big"));
        let left = fill_from_old(new, &key, &relation(ReplicaIdentity::Default));
        assert_eq!(left.cell(1), Cell::Unchanged, "a key tuple's NULL means nothing");
    }

    #[test]
    fn changes_outside_a_transaction_and_of_unknown_tables_are_refused() {
        let insert = [b'I', 0, 0, 0, 1, b'N', 0, 0];
        let mut assembler = Assembler::default();
        assert!(matches!(assembler.push(&insert), Err(AssembleError::Protocol(_))));
        assembler.is_open = true;
        assert!(matches!(assembler.push(&insert), Err(AssembleError::Protocol(_))));
    }
}
