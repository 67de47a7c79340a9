//! What changes come to, gathered until it is worth handing on, in the form that the output wants: few statements with the
//! same outcome, or rows that bring their order along.

use std::sync::Arc;

use smallvec::smallvec;

use crate::change::Lsn;
use crate::pipeline::definition::Definition;
use crate::pipeline::effect::Outgoing;
use crate::sink::clickhouse::{Version, Versioned, Wording};
use crate::sink::fold::{Effect, Fold, NullKey};
use crate::sink::{By, Key, Put, Target, Writes};

/// Where a change stands in the stream.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// Top-level transaction id.
    pub xid: u32,
    /// Start of its commit record.
    pub commit_lsn: Lsn,
    /// Its place among the pipeline's changes of the transaction, from 1.
    pub ordinal: u64,
}

impl Stamp {
    fn version(self) -> Version {
        Version::of_change(self.commit_lsn, self.ordinal)
    }
}

/// See the module.
#[derive(Debug)]
pub enum Gather {
    /// For Postgres.
    Fold(Box<Fold>),
    /// For ClickHouse; with bytes kept, about.
    Versions(Vec<Versioned>, usize),
}

impl Gather {
    /// Nothing, for that pipeline's output.
    pub fn new(definition: &Definition) -> Self {
        match &definition.target {
            Some(Target::ClickHouse(_)) => Gather::Versions(Vec::new(), 0),
            _ => Gather::Fold(Box::new(Fold::new(definition.rules))),
        }
    }

    /// Bytes kept, about.
    pub fn size(&self) -> usize {
        match self {
            Gather::Fold(fold) => fold.size(),
            Gather::Versions(_, size) => *size,
        }
    }

    /// Adds what a change does.
    pub fn apply(
        &mut self,
        stamp: Stamp,
        outgoing: Outgoing,
        wording: Option<&Arc<Wording>>,
    ) -> Result<(), NullKey> {
        let (list, size) = match self {
            Gather::Versions(list, size) => (list, size),
            Gather::Fold(fold) => {
                match outgoing {
                    Outgoing::Rekey(old, row) => fold.rekey(old, row),
                    Outgoing::Effect(effect) => fold.apply(effect)?,
                }
                return Ok(());
            }
        };
        let effect = match outgoing {
            Outgoing::Effect(effect) => effect,
            Outgoing::Rekey(old, row) => {
                Effect { removals: vec![(By::Replace, old, Vec::new())], puts: smallvec![(Put::Upsert, row)] }
            }
        };
        let Some(wording) = wording else { return Ok(()) };
        for (put, row) in &effect.puts {
            if *put != Put::Insert && row.key().is_none() {
                return Err(NullKey);
            }
            *size += row.tuple.size();
        }
        *size += effect.removals.iter().map(|(_, key, _): &(By, Key, _)| key.size()).sum::<usize>();
        list.push(Versioned::Effect { version: stamp.version(), effect, wording: wording.clone() });
        Ok(())
    }

    /// Adds a TRUNCATE.
    pub fn truncate(&mut self, stamp: Stamp) {
        match self {
            Gather::Fold(fold) => fold.truncate(),
            Gather::Versions(list, _) => list.push(Versioned::Truncate(stamp.version())),
        }
    }

    /// Everything added since the last call; None if that is nothing.
    pub fn take(&mut self) -> Option<Writes> {
        match self {
            Gather::Fold(fold) => {
                let writes = fold.take();
                (!writes.is_empty()).then_some(Writes::Statements(writes))
            }
            Gather::Versions(list, size) => {
                *size = 0;
                let versions = std::mem::take(list);
                (!versions.is_empty()).then_some(Writes::Versions(versions))
            }
        }
    }
}
