//! One pgoutput message. The first byte chooses what was asked for in START_REPLICATION, the rest is the message.

use trucker::change::Tuple;
use trucker::source::pgoutput::{Context, Message, OldTuple, decode};

use super::encode::encode;

/// What was read, written again, is what was there; and nothing is kept in memory beyond a multiple of it.
pub fn check(data: &[u8]) {
    let Some((choice, payload)) = data.split_first() else { return };
    let context = Context {
        protocol: u32::from(choice & 3) + 1,
        in_stream: choice & 4 != 0,
        parallel: choice & 8 != 0,
    };
    let Ok(message) = decode(payload, &context) else { return };
    // 16 bytes for each byte that stood for a NULL, and names are Strings.
    let kept = size(&message);
    assert!(kept <= 128 * payload.len() + 256, "{kept} bytes kept of {}", payload.len());
    let written = encode(&message);
    let again = decode(&written, &context).expect("what was written can be read");
    assert_eq!(format!("{message:?}"), format!("{again:?}"));
    if is_exact(payload, &message) {
        assert_eq!(written, payload);
    }
}

/// Two things have several ways to be written: flags beyond those that are known, and the schema `pg_catalog`.
fn is_exact(payload: &[u8], message: &Message) -> bool {
    match message {
        Message::Relation { .. } | Message::Type { .. } => false,
        Message::Truncate { xid, .. } => {
            let options = 1 + 4 * usize::from(xid.is_some()) + 4;
            payload[options] < 4
        }
        _ => true,
    }
}

fn size(message: &Message) -> usize {
    let old = |old: &OldTuple| match old {
        OldTuple::Key(tuple) | OldTuple::Full(tuple) => tuple.size(),
    };
    match message {
        Message::Logical { prefix, content, .. } => prefix.capacity() + content.capacity(),
        Message::Relation { relation, .. } => {
            let columns = relation.columns.iter().map(|c| size_of_val(c) + c.name.capacity());
            columns.sum::<usize>() + relation.schema.capacity() + relation.table.capacity()
        }
        Message::Insert { new, .. } => new.size(),
        Message::Update { old: before, new, .. } => new.size() + before.as_ref().map_or(0, old),
        Message::Delete { old: before, .. } => old(before),
        Message::Truncate { relation_oids, .. } => relation_oids.capacity() * size_of::<u32>(),
        _ => size_of::<Tuple>(),
    }
}
