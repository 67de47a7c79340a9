//! Writes pgoutput messages, the decoder's counterpart: what was read must be all that was there.

use trucker::change::{Cell, Lsn, ReplicaIdentity, Tuple};
use trucker::source::pgoutput::{Message, OldTuple, ServerTime, TwoPhase};

/// The message as a server would write it.
pub fn encode(message: &Message) -> Vec<u8> {
    let mut out = Writer::default();
    match message {
        Message::Begin { commit_lsn, commit_time, xid } => {
            out.tag(b'B').lsn(*commit_lsn).time(*commit_time).u32(*xid)
        }
        Message::Commit { commit_lsn, end_lsn, commit_time } => {
            out.tag(b'C').u8(0).lsn(*commit_lsn).lsn(*end_lsn).time(*commit_time)
        }
        Message::Origin { commit_lsn, name } => out.tag(b'O').lsn(*commit_lsn).text(name),
        Message::StreamStart { xid, is_first } => out.tag(b'S').u32(*xid).u8(u8::from(*is_first)),
        Message::StreamStop => out.tag(b'E'),
        Message::StreamCommit { xid, commit_lsn, end_lsn, commit_time } => {
            out.tag(b'c').u32(*xid).u8(0).lsn(*commit_lsn).lsn(*end_lsn).time(*commit_time)
        }
        Message::StreamAbort { xid, subxid, at } => {
            out.tag(b'A').u32(*xid).u32(*subxid);
            if let Some((lsn, time)) = at {
                out.lsn(*lsn).time(*time);
            }
            &mut out
        }
        Message::BeginPrepare(it) => out.tag(b'b').two_phase(it),
        Message::Prepare(it) => out.tag(b'P').u8(0).two_phase(it),
        Message::CommitPrepared(it) => out.tag(b'K').u8(0).two_phase(it),
        Message::StreamPrepare(it) => out.tag(b'p').u8(0).two_phase(it),
        Message::RollbackPrepared {
            prepare_end_lsn,
            rollback_end_lsn,
            prepare_time,
            rollback_time,
            xid,
            gid,
        } => out
            .tag(b'r')
            .u8(0)
            .lsn(*prepare_end_lsn)
            .lsn(*rollback_end_lsn)
            .time(*prepare_time)
            .time(*rollback_time)
            .u32(*xid)
            .text(gid),
        other => out.part(other),
    };
    out.0
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    /// A message inside of a transaction: a row, or what describes one.
    fn part(&mut self, message: &Message) -> &mut Self {
        match message {
            Message::Logical { xid, is_transactional, lsn, prefix, content } => self
                .tag(b'M')
                .xid(*xid)
                .u8(u8::from(*is_transactional))
                .lsn(*lsn)
                .text(prefix)
                .length(content.len())
                .raw(content),
            Message::Relation { xid, relation } => {
                let identity = match relation.identity {
                    ReplicaIdentity::Default => b'd',
                    ReplicaIdentity::Nothing => b'n',
                    ReplicaIdentity::Full => b'f',
                    ReplicaIdentity::Index => b'i',
                };
                self.tag(b'R').xid(*xid).u32(relation.oid).text(&relation.schema).text(&relation.table);
                self.u8(identity).count(relation.columns.len());
                for column in &relation.columns {
                    self.u8(u8::from(column.is_identity)).text(&column.name).u32(column.type_oid);
                    self.raw(&column.type_modifier.to_be_bytes());
                }
                self
            }
            Message::Type { xid, oid, schema, name } => {
                self.tag(b'Y').xid(*xid).u32(*oid).text(schema).text(name)
            }
            Message::Insert { xid, relation_oid, new } => {
                self.tag(b'I').xid(*xid).u32(*relation_oid).u8(b'N').tuple(new)
            }
            Message::Update { xid, relation_oid, old, new } => {
                self.tag(b'U').xid(*xid).u32(*relation_oid);
                if let Some(old) = old {
                    self.old(old);
                }
                self.u8(b'N').tuple(new)
            }
            Message::Delete { xid, relation_oid, old } => {
                self.tag(b'D').xid(*xid).u32(*relation_oid).old(old)
            }
            Message::Truncate { xid, relation_oids, is_cascade, restarts_identity } => {
                self.tag(b'T').xid(*xid).length(relation_oids.len());
                self.u8(u8::from(*is_cascade) | u8::from(*restarts_identity) << 1);
                for oid in relation_oids {
                    self.u32(*oid);
                }
                self
            }
            _ => unreachable!("the others are written by `encode`"),
        }
    }

    fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u8(&mut self, byte: u8) -> &mut Self {
        self.raw(&[byte])
    }

    fn tag(&mut self, tag: u8) -> &mut Self {
        self.u8(tag)
    }

    fn u32(&mut self, number: u32) -> &mut Self {
        self.raw(&number.to_be_bytes())
    }

    fn xid(&mut self, xid: Option<u32>) -> &mut Self {
        if let Some(xid) = xid {
            self.u32(xid);
        }
        self
    }

    fn count(&mut self, count: usize) -> &mut Self {
        self.raw(&i16::try_from(count).expect("was read from 16 bits").to_be_bytes())
    }

    fn length(&mut self, length: usize) -> &mut Self {
        self.raw(&i32::try_from(length).expect("was read from 32 bits").to_be_bytes())
    }

    fn lsn(&mut self, lsn: Lsn) -> &mut Self {
        self.raw(&lsn.0.to_be_bytes())
    }

    fn time(&mut self, time: ServerTime) -> &mut Self {
        self.raw(&time.0.to_be_bytes())
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.raw(text.as_bytes()).u8(0)
    }

    fn two_phase(&mut self, it: &TwoPhase) -> &mut Self {
        self.lsn(it.lsn).lsn(it.end_lsn).time(it.time).u32(it.xid).text(&it.gid)
    }

    fn old(&mut self, old: &OldTuple) -> &mut Self {
        match old {
            OldTuple::Key(tuple) => self.u8(b'K').tuple(tuple),
            OldTuple::Full(tuple) => self.u8(b'O').tuple(tuple),
        }
    }

    fn tuple(&mut self, tuple: &Tuple) -> &mut Self {
        self.count(tuple.len());
        for cell in tuple.cells() {
            match cell {
                Cell::Null => self.u8(b'n'),
                Cell::Unchanged => self.u8(b'u'),
                Cell::Text(text) => self.u8(b't').length(text.len()).raw(text),
            };
        }
        self
    }
}
