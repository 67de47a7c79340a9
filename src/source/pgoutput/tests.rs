//! Each message against its literal bytes, and bytes that are no message.

use proptest::prelude::*;

use super::*;
use crate::change::{Cell, Column, Lsn, Relation, ReplicaIdentity, Tuple};

const STREAMED: Context = Context { protocol: 2, in_stream: true, parallel: false };
const V3: Context = Context { protocol: 3, in_stream: false, parallel: false };
const PARALLEL: Context = Context { protocol: 4, in_stream: false, parallel: true };

fn tuple(cells: &[Cell<'_>]) -> Tuple {
    cells.iter().copied().collect()
}

fn two_phase() -> TwoPhase {
    TwoPhase { lsn: Lsn(1), end_lsn: Lsn(2), time: ServerTime(3), xid: 4, gid: "g".into() }
}

fn relation(schema: &str, identity: ReplicaIdentity, columns: Vec<Column>) -> Relation {
    Relation { oid: 16385, schema: schema.into(), table: "t".into(), identity, columns }
}

/// Bytes, how to read them, what they say.
fn transaction_messages() -> Vec<(&'static [u8], Context, Message)> {
    vec![
        (
            b"B\0\0\0\x16\xB3\x74\xD8\x48\0\0\0\0\0\0\0\x07\0\0\x02\xDA",
            Context::V1,
            Message::Begin { commit_lsn: Lsn(0x16_B374_D848), commit_time: ServerTime(7), xid: 730 },
        ),
        (
            b"M\x01\0\0\0\0\0\0\0\x09app\0\0\0\0\x02\0\xFF",
            Context::V1,
            Message::Logical {
                xid: None,
                is_transactional: true,
                lsn: Lsn(9),
                prefix: "app".into(),
                content: vec![0, 0xFF],
            },
        ),
        (
            b"M\0\0\0\x05\0\0\0\0\0\0\0\0\x09\0\0\0\0\0",
            STREAMED,
            Message::Logical {
                xid: Some(5),
                is_transactional: false,
                lsn: Lsn(9),
                prefix: String::new(),
                content: vec![],
            },
        ),
        (
            b"C\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFE",
            Context::V1,
            Message::Commit { commit_lsn: Lsn(1), end_lsn: Lsn(2), commit_time: ServerTime(-2) },
        ),
        (
            b"O\0\0\0\0\0\0\0\x0Aelsewhere\0",
            STREAMED,
            Message::Origin { commit_lsn: Lsn(10), name: "elsewhere".into() },
        ),
    ]
}

fn streamed_and_prepared_messages() -> Vec<(&'static [u8], Context, Message)> {
    vec![
        (b"S\0\0\0\x05\x01", STREAMED, Message::StreamStart { xid: 5, is_first: true }),
        (b"E", STREAMED, Message::StreamStop),
        (
            b"c\0\0\0\x05\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03",
            STREAMED,
            Message::StreamCommit { xid: 5, commit_lsn: Lsn(1), end_lsn: Lsn(2), commit_time: ServerTime(3) },
        ),
        (b"A\0\0\0\x05\0\0\0\x06", STREAMED, Message::StreamAbort { xid: 5, subxid: 6, at: None }),
        (
            b"A\0\0\0\x05\0\0\0\x06\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02",
            PARALLEL,
            Message::StreamAbort { xid: 5, subxid: 6, at: Some((Lsn(1), ServerTime(2))) },
        ),
        (
            b"b\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\x04g\0",
            V3,
            Message::BeginPrepare(two_phase()),
        ),
        (
            b"P\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\x04g\0",
            V3,
            Message::Prepare(two_phase()),
        ),
        (
            b"K\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\x04g\0",
            V3,
            Message::CommitPrepared(two_phase()),
        ),
        (
            b"r\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x04\0\0\0\x05g\0",
            V3,
            Message::RollbackPrepared {
                prepare_end_lsn: Lsn(1),
                rollback_end_lsn: Lsn(2),
                prepare_time: ServerTime(3),
                rollback_time: ServerTime(4),
                xid: 5,
                gid: "g".into(),
            },
        ),
        (
            b"p\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\x04g\0",
            V3,
            Message::StreamPrepare(two_phase()),
        ),
    ]
}

fn table_messages() -> Vec<(&'static [u8], Context, Message)> {
    let id =
        Column { name: "id".into(), type_oid: 23, type_modifier: -1, is_identity: true, is_later: false };
    let note =
        Column { name: "ü".into(), type_oid: 1043, type_modifier: 14, is_identity: false, is_later: false };
    vec![
        (
            b"R\0\0\x40\x01public\0t\0d\0\x02\x01id\0\0\0\0\x17\xFF\xFF\xFF\xFF\0\xC3\xBC\0\0\0\x04\x13\0\0\0\x0E",
            Context::V1,
            Message::Relation {
                xid: None,
                relation: relation("public", ReplicaIdentity::Default, vec![id, note]),
            },
        ),
        (
            b"R\0\0\0\x05\0\0\x40\x01\0t\0f\0\0",
            STREAMED,
            Message::Relation {
                xid: Some(5),
                relation: relation("pg_catalog", ReplicaIdentity::Full, vec![]),
            },
        ),
        (
            b"Y\0\0\x40\x02s\0mood\0",
            Context::V1,
            Message::Type { xid: None, oid: 16386, schema: "s".into(), name: "mood".into() },
        ),
        (
            b"T\0\0\0\x02\x03\0\0\x40\x01\0\0\x40\x02",
            Context::V1,
            Message::Truncate {
                xid: None,
                relation_oids: vec![16385, 16386],
                is_cascade: true,
                restarts_identity: true,
            },
        ),
        (
            b"T\0\0\0\x05\0\0\0\0\x02",
            STREAMED,
            Message::Truncate {
                xid: Some(5),
                relation_oids: vec![],
                is_cascade: false,
                restarts_identity: true,
            },
        ),
    ]
}

fn row_messages() -> Vec<(&'static [u8], Context, Message)> {
    let one = || tuple(&[Cell::Text(b"1"), Cell::Null]);
    vec![
        (
            b"I\0\0\x40\x01N\0\x04t\0\0\0\x01\x31nut\0\0\0\0",
            Context::V1,
            Message::Insert {
                xid: None,
                relation_oid: 16385,
                new: tuple(&[Cell::Text(b"1"), Cell::Null, Cell::Unchanged, Cell::Text(b"")]),
            },
        ),
        (
            b"I\0\0\0\x05\0\0\x40\x01N\0\0",
            STREAMED,
            Message::Insert { xid: Some(5), relation_oid: 16385, new: tuple(&[]) },
        ),
        (
            b"U\0\0\x40\x01N\0\x02t\0\0\0\x01\x31n",
            Context::V1,
            Message::Update { xid: None, relation_oid: 16385, old: None, new: one() },
        ),
        (
            b"U\0\0\x40\x01K\0\x02t\0\0\0\x01\x31nN\0\x02t\0\0\0\x01\x32u",
            Context::V1,
            Message::Update {
                xid: None,
                relation_oid: 16385,
                old: Some(OldTuple::Key(one())),
                new: tuple(&[Cell::Text(b"2"), Cell::Unchanged]),
            },
        ),
        (
            b"U\0\0\x40\x01O\0\x02t\0\0\0\x01\x31nN\0\x02t\0\0\0\x01\x31n",
            Context::V1,
            Message::Update { xid: None, relation_oid: 16385, old: Some(OldTuple::Full(one())), new: one() },
        ),
        (
            b"D\0\0\x40\x01K\0\x02t\0\0\0\x01\x31n",
            Context::V1,
            Message::Delete { xid: None, relation_oid: 16385, old: OldTuple::Key(one()) },
        ),
        (
            b"D\0\0\0\x05\0\0\x40\x01O\0\x02t\0\0\0\x01\x31n",
            STREAMED,
            Message::Delete { xid: Some(5), relation_oid: 16385, old: OldTuple::Full(one()) },
        ),
    ]
}

fn all_messages() -> Vec<(&'static [u8], Context, Message)> {
    [transaction_messages(), streamed_and_prepared_messages(), table_messages(), row_messages()]
        .into_iter()
        .flatten()
        .collect()
}

#[test]
fn each_message_says_what_its_bytes_say() {
    for (bytes, context, expected) in all_messages() {
        let message = decode(bytes, &context).unwrap_or_else(|e| panic!("{expected:?}: {e}"));
        assert_eq!(format!("{message:?}"), format!("{expected:?}"));
    }
}

#[test]
fn a_message_cut_anywhere_is_an_error() {
    for (bytes, context, message) in all_messages() {
        for length in 0..bytes.len() {
            let result = decode(&bytes[..length], &context);
            assert!(result.is_err(), "{message:?} cut to {length} of {}: {result:?}", bytes.len());
        }
    }
}

#[test]
fn bytes_after_the_end_are_an_error() {
    for (bytes, context, _) in all_messages() {
        let longer = [bytes, b"\0"].concat();
        let tag = char::from(bytes[0]);
        assert_eq!(decode(&longer, &context).unwrap_err(), DecodeError::TrailingBytes { tag, count: 1 });
    }
}

#[test]
fn what_no_server_sends_is_refused_with_the_reason() {
    let cases: &[(&[u8], &str)] = &[
        (b"", "pgoutput message ends too early, at: message type"),
        (b"Z", "no pgoutput message of protocol version 1 begins with byte 0x5a ('Z')"),
        (b"\0", r"no pgoutput message of protocol version 1 begins with byte 0x00 ('\0')"),
        (b"S\0\0\0\x05\x01", "no pgoutput message of protocol version 1 begins with byte 0x53 ('S')"),
        (b"I\0\0\0\x01N\0\x01b\0\0\0\x01\x01", "pgoutput sent a binary value, which wasn't asked for"),
        (b"I\0\0\0\x01N\0\x01x", "pgoutput sent 120 as tuple cell kind"),
        (b"I\0\0\0\x01N\xFF\xFFn", "pgoutput sent -1 as tuple column count"),
        (b"I\0\0\0\x01N\x7F\xFFn", "pgoutput message ends too early, at: tuple column count"),
        (b"I\0\0\0\x01N\0\x01t\xFF\xFF\xFF\xFF", "pgoutput sent -1 as tuple cell length"),
        (b"I\0\0\0\x01N\0\x01t\x7F\xFF\xFF\xFFa", "pgoutput message ends too early, at: tuple cell"),
        (b"I\0\0\0\x01K\0\0", "pgoutput sent 75 as Insert tuple marker"),
        (b"U\0\0\0\x01K\0\0K\0\0", "pgoutput sent 75 as Update tuple marker"),
        (b"D\0\0\0\x01N\0\0", "pgoutput sent 78 as Delete tuple marker"),
        (b"T\x3F\xFF\xFF\xFF\0\0\0\0\x01", "pgoutput message ends too early, at: Truncate relation OIDs"),
        (b"R\0\0\0\x01\xFF\0t\0d\0\0", "pgoutput sent a Relation schema name that isn't UTF-8"),
        (b"R\0\0\0\x01s\0t\0x\0\0", "pgoutput sent 120 as Relation replica identity"),
        (b"C\x01", "pgoutput sent 1 as unused flags"),
        (b"M\x02", "pgoutput sent 2 as Message flags"),
    ];
    for (bytes, text) in cases {
        assert_eq!(decode(bytes, &Context::V1).unwrap_err().to_string(), *text);
    }
}

#[test]
fn server_time_is_counted_from_2000() {
    let at = |micros| ServerTime(micros).to_system_time();
    let unix = |seconds| std::time::UNIX_EPOCH.checked_add(std::time::Duration::from_secs(seconds));
    assert_eq!(at(0), unix(946_684_800));
    assert_eq!(at(-946_684_800_000_000), unix(0));
    at(i64::MIN);
    at(i64::MAX);
}

fn contexts() -> impl Strategy<Value = Context> {
    (1..=4u32, any::<bool>(), any::<bool>()).prop_map(|(protocol, in_stream, parallel)| Context {
        protocol,
        in_stream,
        parallel,
    })
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), context in contexts()) {
        let _ = decode(&bytes, &context);
    }

    #[test]
    fn damaged_messages_never_panic(
        which in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        context in contexts(),
    ) {
        let messages = all_messages();
        let mut bytes = messages[which.index(messages.len())].0.to_vec();
        for (place, value) in damage {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        let _ = decode(&bytes, &context);
    }
}
