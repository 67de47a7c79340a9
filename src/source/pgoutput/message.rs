//! Each message: what it holds, and how it is read. In the order of the PostgreSQL documentation.

use std::time::{Duration, SystemTime};

use super::cursor::Cursor;
use super::{Context, DecodeError};
use crate::change::{Cell, Cells, Column, Lsn, Relation, ReplicaIdentity, Tuple};

/// The source's clock, in microseconds since the beginning of 2000, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerTime(pub i64);

impl ServerTime {
    /// Seconds from 1970 to 2000.
    const EPOCH_OFFSET: Duration = Duration::from_secs(946_684_800);

    /// As the system's time; None outside of what that can hold.
    pub fn to_system_time(self) -> Option<SystemTime> {
        let epoch = SystemTime::UNIX_EPOCH + Self::EPOCH_OFFSET;
        let distance = Duration::from_micros(self.0.unsigned_abs());
        if self.0 < 0 { epoch.checked_sub(distance) } else { epoch.checked_add(distance) }
    }
}

/// The row before an update or delete, as far as the server sends it.
#[derive(Debug, Clone)]
pub enum OldTuple {
    /// Only the replica identity's columns are filled; the others are NULL and mean nothing.
    Key(Tuple),
    /// The whole row: REPLICA IDENTITY FULL.
    Full(Tuple),
}

/// What the messages of two-phase commit have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TwoPhase {
    /// LSN of the prepare (of the commit, in Commit Prepared).
    pub lsn: Lsn,
    /// First byte after that record.
    pub end_lsn: Lsn,
    /// When.
    pub time: ServerTime,
    /// The transaction.
    pub xid: u32,
    /// The name that PREPARE TRANSACTION gave.
    pub gid: String,
}

/// One message. `xid` of a message that has it as an option is there exactly inside a streamed block, and is the
/// subtransaction's.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "fields are named as the protocol's documentation names them")]
pub enum Message {
    /// A transaction begins; what follows up to Commit is its own. `commit_lsn` is the start of its commit
    /// record, the documentation's "final LSN".
    Begin { commit_lsn: Lsn, commit_time: ServerTime, xid: u32 },
    /// Written by `pg_logical_emit_message`.
    Logical { xid: Option<u32>, is_transactional: bool, lsn: Lsn, prefix: String, content: Vec<u8> },
    /// The transaction is complete. `end_lsn` is the first byte after its commit record.
    Commit { commit_lsn: Lsn, end_lsn: Lsn, commit_time: ServerTime },
    /// The transaction first happened on another server.
    Origin { commit_lsn: Lsn, name: String },
    /// Describes a table, before its first row and after each change of its definition.
    Relation { xid: Option<u32>, relation: Relation },
    /// Names a type that isn't built in.
    Type { xid: Option<u32>, oid: u32, schema: String, name: String },
    /// A row came.
    Insert { xid: Option<u32>, relation_oid: u32, new: Tuple },
    /// A row changed. `old` is there under REPLICA IDENTITY FULL, or when an identity column changed.
    Update { xid: Option<u32>, relation_oid: u32, old: Option<OldTuple>, new: Tuple },
    /// A row went.
    Delete { xid: Option<u32>, relation_oid: u32, old: OldTuple },
    /// Tables were emptied by one statement.
    Truncate { xid: Option<u32>, relation_oids: Vec<u32>, is_cascade: bool, restarts_identity: bool },
    /// A block of a transaction still in progress begins.
    StreamStart { xid: u32, is_first: bool },
    /// The block ends.
    StreamStop,
    /// A transaction that came in blocks committed.
    StreamCommit { xid: u32, commit_lsn: Lsn, end_lsn: Lsn, commit_time: ServerTime },
    /// A transaction that came in blocks, or a subtransaction of it, was rolled back. `at` only under
    /// `streaming 'parallel'`.
    StreamAbort { xid: u32, subxid: u32, at: Option<(Lsn, ServerTime)> },
    /// As Begin, for a transaction that Prepare will end.
    BeginPrepare(TwoPhase),
    /// The transaction is prepared.
    Prepare(TwoPhase),
    /// A prepared transaction committed.
    CommitPrepared(TwoPhase),
    /// A prepared transaction was rolled back.
    RollbackPrepared {
        prepare_end_lsn: Lsn,
        rollback_end_lsn: Lsn,
        prepare_time: ServerTime,
        rollback_time: ServerTime,
        xid: u32,
        gid: String,
    },
    /// A transaction that came in blocks is prepared.
    StreamPrepare(TwoPhase),
}

/// Reads what follows the tag.
pub(super) fn decode_body(tag: u8, c: &mut Cursor<'_>, context: &Context) -> Result<Message, DecodeError> {
    let since = match tag {
        b'S' | b'E' | b'c' | b'A' => 2,
        b'b' | b'P' | b'K' | b'r' | b'p' => 3,
        _ => 1,
    };
    if context.protocol < since {
        return Err(DecodeError::UnknownTag { tag, protocol: context.protocol });
    }
    match tag {
        b'B' => decode_begin(c),
        b'M' => decode_logical(c, context),
        b'C' => decode_commit(c),
        b'O' => Ok(Message::Origin {
            commit_lsn: c.lsn("Origin LSN")?,
            name: c.string("Origin name")?.to_owned(),
        }),
        b'R' => decode_relation(c, context),
        b'Y' => decode_type(c, context),
        b'I' => decode_insert(c, context),
        b'U' => decode_update(c, context),
        b'D' => decode_delete(c, context),
        b'T' => decode_truncate(c, context),
        b'S' => Ok(Message::StreamStart {
            xid: c.u32("Stream Start xid")?,
            is_first: flag(c, "Stream Start first-segment flag")?,
        }),
        b'E' => Ok(Message::StreamStop),
        b'c' => decode_stream_commit(c),
        b'A' => decode_stream_abort(c, context),
        b'b' => two_phase(c).map(Message::BeginPrepare),
        b'P' => no_flags(c).and_then(|()| two_phase(c)).map(Message::Prepare),
        b'K' => no_flags(c).and_then(|()| two_phase(c)).map(Message::CommitPrepared),
        b'r' => decode_rollback_prepared(c),
        b'p' => no_flags(c).and_then(|()| two_phase(c)).map(Message::StreamPrepare),
        _ => Err(DecodeError::UnknownTag { tag, protocol: context.protocol }),
    }
}

fn decode_begin(c: &mut Cursor<'_>) -> Result<Message, DecodeError> {
    Ok(Message::Begin {
        commit_lsn: c.lsn("Begin final LSN")?,
        commit_time: time(c, "Begin commit time")?,
        xid: c.u32("Begin xid")?,
    })
}

fn decode_logical(c: &mut Cursor<'_>, context: &Context) -> Result<Message, DecodeError> {
    let xid = stream_xid(c, context)?;
    let is_transactional = flag(c, "Message flags")?;
    let lsn = c.lsn("Message LSN")?;
    let prefix = c.string("Message prefix")?.to_owned();
    let length = c.length("Message length")?;
    let content = c.bytes(length, "Message content")?.to_vec();
    Ok(Message::Logical { xid, is_transactional, lsn, prefix, content })
}

fn decode_commit(c: &mut Cursor<'_>) -> Result<Message, DecodeError> {
    no_flags(c)?;
    Ok(Message::Commit {
        commit_lsn: c.lsn("Commit LSN")?,
        end_lsn: c.lsn("Commit end LSN")?,
        commit_time: time(c, "Commit time")?,
    })
}

fn decode_relation(c: &mut Cursor<'_>, context: &Context) -> Result<Message, DecodeError> {
    let xid = stream_xid(c, context)?;
    let oid = c.u32("Relation OID")?;
    let schema = schema(c, "Relation schema name")?;
    let table = c.string("Relation table name")?.to_owned();
    let letter = c.u8("Relation replica identity")?;
    let identity = ReplicaIdentity::from_letter(letter)
        .ok_or(DecodeError::Invalid { field: "Relation replica identity", value: i64::from(letter) })?;
    let count = c.count("Relation column count")?;
    let columns = (0..count).map(|_| decode_column(c)).collect::<Result<_, _>>()?;
    Ok(Message::Relation { xid, relation: Relation { oid, schema, table, identity, columns } })
}

fn decode_column(c: &mut Cursor<'_>) -> Result<Column, DecodeError> {
    Ok(Column {
        is_identity: c.u8("Relation column flags")? & 1 != 0,
        is_later: false,
        name: c.string("Relation column name")?.to_owned(),
        type_oid: c.u32("Relation column type")?,
        type_modifier: c.i32("Relation column type modifier")?,
    })
}

fn decode_type(c: &mut Cursor<'_>, context: &Context) -> Result<Message, DecodeError> {
    Ok(Message::Type {
        xid: stream_xid(c, context)?,
        oid: c.u32("Type OID")?,
        schema: schema(c, "Type schema name")?,
        name: c.string("Type name")?.to_owned(),
    })
}

fn decode_insert(c: &mut Cursor<'_>, context: &Context) -> Result<Message, DecodeError> {
    let xid = stream_xid(c, context)?;
    let relation_oid = c.u32("Insert relation OID")?;
    let marker = c.u8("Insert tuple marker")?;
    let new = new_tuple(c, marker, "Insert tuple marker")?;
    Ok(Message::Insert { xid, relation_oid, new })
}

fn decode_update(c: &mut Cursor<'_>, context: &Context) -> Result<Message, DecodeError> {
    let xid = stream_xid(c, context)?;
    let relation_oid = c.u32("Update relation OID")?;
    let mut marker = c.u8("Update tuple marker")?;
    let mut old = None;
    if matches!(marker, b'K' | b'O') {
        old = Some(old_tuple(c, marker, "Update tuple marker")?);
        marker = c.u8("Update tuple marker")?;
    }
    let new = new_tuple(c, marker, "Update tuple marker")?;
    Ok(Message::Update { xid, relation_oid, old, new })
}

fn decode_delete(c: &mut Cursor<'_>, context: &Context) -> Result<Message, DecodeError> {
    let xid = stream_xid(c, context)?;
    let relation_oid = c.u32("Delete relation OID")?;
    let marker = c.u8("Delete tuple marker")?;
    let old = old_tuple(c, marker, "Delete tuple marker")?;
    Ok(Message::Delete { xid, relation_oid, old })
}

fn decode_truncate(c: &mut Cursor<'_>, context: &Context) -> Result<Message, DecodeError> {
    let xid = stream_xid(c, context)?;
    let count = c.length("Truncate relation count")?;
    let options = c.u8("Truncate options")?;
    if count > c.remaining() / size_of::<u32>() {
        return Err(DecodeError::Truncated { field: "Truncate relation OIDs" });
    }
    let relation_oids = (0..count).map(|_| c.u32("Truncate relation OID")).collect::<Result<_, _>>()?;
    Ok(Message::Truncate {
        xid,
        relation_oids,
        is_cascade: options & 1 != 0,
        restarts_identity: options & 2 != 0,
    })
}

fn decode_stream_commit(c: &mut Cursor<'_>) -> Result<Message, DecodeError> {
    let xid = c.u32("Stream Commit xid")?;
    no_flags(c)?;
    Ok(Message::StreamCommit {
        xid,
        commit_lsn: c.lsn("Stream Commit LSN")?,
        end_lsn: c.lsn("Stream Commit end LSN")?,
        commit_time: time(c, "Stream Commit time")?,
    })
}

fn decode_stream_abort(c: &mut Cursor<'_>, context: &Context) -> Result<Message, DecodeError> {
    let xid = c.u32("Stream Abort xid")?;
    let subxid = c.u32("Stream Abort subxid")?;
    let at = if context.protocol >= 4 && context.parallel {
        Some((c.lsn("Stream Abort LSN")?, time(c, "Stream Abort time")?))
    } else {
        None
    };
    Ok(Message::StreamAbort { xid, subxid, at })
}

fn decode_rollback_prepared(c: &mut Cursor<'_>) -> Result<Message, DecodeError> {
    no_flags(c)?;
    Ok(Message::RollbackPrepared {
        prepare_end_lsn: c.lsn("Rollback Prepared prepare LSN")?,
        rollback_end_lsn: c.lsn("Rollback Prepared end LSN")?,
        prepare_time: time(c, "Rollback Prepared prepare time")?,
        rollback_time: time(c, "Rollback Prepared time")?,
        xid: c.u32("Rollback Prepared xid")?,
        gid: c.string("Rollback Prepared GID")?.to_owned(),
    })
}

fn two_phase(c: &mut Cursor<'_>) -> Result<TwoPhase, DecodeError> {
    Ok(TwoPhase {
        lsn: c.lsn("two-phase LSN")?,
        end_lsn: c.lsn("two-phase end LSN")?,
        time: time(c, "two-phase time")?,
        xid: c.u32("two-phase xid")?,
        gid: c.string("two-phase GID")?.to_owned(),
    })
}

fn stream_xid(c: &mut Cursor<'_>, context: &Context) -> Result<Option<u32>, DecodeError> {
    if context.protocol >= 2 && context.in_stream { c.u32("stream xid").map(Some) } else { Ok(None) }
}

fn time(c: &mut Cursor<'_>, field: &'static str) -> Result<ServerTime, DecodeError> {
    c.i64(field).map(ServerTime)
}

/// The server leaves the name of its own schema away.
fn schema(c: &mut Cursor<'_>, field: &'static str) -> Result<String, DecodeError> {
    let name = c.string(field)?;
    Ok(if name.is_empty() { "pg_catalog" } else { name }.to_owned())
}

fn flag(c: &mut Cursor<'_>, field: &'static str) -> Result<bool, DecodeError> {
    match c.u8(field)? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(DecodeError::Invalid { field, value: i64::from(other) }),
    }
}

/// A byte kept free for flags that no version has yet: another meaning of the message than we know.
fn no_flags(c: &mut Cursor<'_>) -> Result<(), DecodeError> {
    match c.u8("unused flags")? {
        0 => Ok(()),
        other => Err(DecodeError::Invalid { field: "unused flags", value: i64::from(other) }),
    }
}

fn new_tuple(c: &mut Cursor<'_>, marker: u8, field: &'static str) -> Result<Tuple, DecodeError> {
    match marker {
        b'N' => decode_tuple(c),
        other => Err(DecodeError::Invalid { field, value: i64::from(other) }),
    }
}

fn old_tuple(c: &mut Cursor<'_>, marker: u8, field: &'static str) -> Result<OldTuple, DecodeError> {
    match marker {
        b'K' => decode_tuple(c).map(OldTuple::Key),
        b'O' => decode_tuple(c).map(OldTuple::Full),
        other => Err(DecodeError::Invalid { field, value: i64::from(other) }),
    }
}

fn decode_tuple(c: &mut Cursor<'_>) -> Result<Tuple, DecodeError> {
    let count = c.count("tuple column count")?;
    let cells = (0..count).map(|_| decode_cell(c));
    Ok(Tuple::new(&cells.collect::<Result<Cells<'_>, _>>()?))
}

fn decode_cell<'a>(c: &mut Cursor<'a>) -> Result<Cell<'a>, DecodeError> {
    match c.u8("tuple cell kind")? {
        b'n' => Ok(Cell::Null),
        b'u' => Ok(Cell::Unchanged),
        b't' => {
            let length = c.length("tuple cell length")?;
            c.bytes(length, "tuple cell").map(Cell::Text)
        }
        b'b' => Err(DecodeError::BinaryCell),
        other => Err(DecodeError::Invalid { field: "tuple cell kind", value: i64::from(other) }),
    }
}
