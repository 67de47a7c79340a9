//! From the one stream of a source to its pipelines' queues: who reads which table, who is how far.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::change::{Change, Lsn, Relation};
use crate::checkpoint::{Floor, is_loaded};
use crate::pipeline::queue::{End, Entry, Piece, QueueSender};
use crate::pipeline::task::Attach;
use crate::source::assemble::Step;

/// A transaction's changes are handed over in pieces of about this size.
const PIECE_BYTES: usize = 256 * 1024;
/// How often, and after how much WAL, a pipeline without changes of its own is told how far the source is.
const ADVANCE_INTERVAL: Duration = Duration::from_secs(10);
const ADVANCE_BYTES: u64 = 16 << 20;

/// What a pipeline reads.
#[derive(Debug, Clone)]
pub struct Reader {
    /// Its place in the engine's list.
    pub place: usize,
    /// Its word on what the slot has to keep.
    pub floor: Floor,
    /// OIDs and names of its input tables: a table that was renamed is known by the one, a table made anew by the
    /// other, and both are the pipeline's to judge.
    pub tables: Vec<(u32, String, String)>,
}

impl Reader {
    fn reads(&self, relation: &Relation) -> bool {
        self.tables.iter().any(|(oid, schema, table)| {
            *oid == relation.oid || (*schema == relation.schema && *table == relation.table)
        })
    }
}

#[derive(Debug)]
struct Attached {
    reader: Reader,
    queue: QueueSender,
    /// The end of what was put into its queue.
    sent: Lsn,
    entries: Vec<Entry>,
    bytes: usize,
    /// Part of the open transaction is in its queue already.
    is_split: bool,
    told: Instant,
}

/// The pipelines that are in the stream, and where the stream is.
#[derive(Debug, Default)]
pub struct Router {
    readers: Vec<Reader>,
    attached: Vec<Attached>,
    /// By relation OID: the relation as last seen, and places in `attached`.
    routes: HashMap<u32, (Arc<Relation>, Arc<[usize]>)>,
    /// The open transaction: start of its commit record, its id, when it was committed.
    open: Option<(Lsn, u32, i64)>,
    touched: Vec<usize>,
    /// Everything that commits before this has been routed.
    boundary: Lsn,
    /// Where the stream was when it last had to go back.
    was_at: Lsn,
}

impl Router {
    /// A router for these pipelines, none of them in the stream yet.
    pub fn new(readers: Vec<Reader>) -> Self {
        Router { readers, ..Router::default() }
    }

    /// Whether nobody is in the stream.
    pub fn is_idle(&self) -> bool {
        self.attached.is_empty()
    }

    /// Whether everybody is in the stream.
    pub fn is_complete(&self) -> bool {
        self.attached.len() >= self.readers.len()
    }

    /// Everything that commits before this has been routed.
    pub fn boundary(&self) -> Lsn {
        self.boundary
    }

    /// Whether the stream went back for somebody, and hasn't come to where it was before. Who wants it to go back again
    /// waits for that: otherwise one pipeline that keeps stumbling would keep the others from ever getting further.
    pub fn is_going_back(&self) -> bool {
        self.boundary < self.was_at
    }

    /// Takes a pipeline in. Answers whether the stream has to start again from further back.
    pub fn attach(&mut self, attach: Attach) -> bool {
        self.attached.retain(|a| a.reader.place != attach.pipeline && !a.queue.is_closed());
        self.routes.clear();
        let Some(reader) = self.readers.iter().find(|r| r.place == attach.pipeline).cloned() else {
            return false;
        };
        let must_go_back = attach.from < self.boundary;
        if must_go_back {
            self.was_at = self.was_at.max(self.boundary);
        }
        self.attached.push(Attached {
            reader,
            queue: attach.queue,
            sent: attach.from,
            entries: Vec::new(),
            bytes: 0,
            is_split: false,
            told: Instant::now(),
        });
        must_go_back
    }

    /// A new stream begins: where it has to. Pipelines that were in the middle of a transaction are let go; they come
    /// back by themselves.
    pub fn restart(&mut self) -> Option<Lsn> {
        self.attached.retain(|a| !a.is_split && !a.queue.is_closed());
        self.routes.clear();
        self.touched.clear();
        self.open = None;
        for a in &mut self.attached {
            (a.entries, a.bytes) = (Vec::new(), 0);
        }
        let start = self.attached.iter().map(|a| a.sent).min()?;
        self.boundary = start;
        Some(start)
    }

    /// Routes what a message came to. Waits while a queue is full.
    pub async fn route(&mut self, step: Step) {
        match step {
            Step::Nothing => {}
            Step::Begin { commit_lsn, xid, commit_time } => self.open = Some((commit_lsn, xid, commit_time)),
            Step::Change(change) => self.change(change).await,
            Step::Truncate(relations) => {
                for relation in relations {
                    for &at in &*self.targets(&relation) {
                        self.push(at, Entry::Truncate(relation.clone())).await;
                    }
                }
            }
            Step::Commit { end_lsn } => self.commit(end_lsn).await,
        }
    }

    fn targets(&mut self, relation: &Arc<Relation>) -> Arc<[usize]> {
        match self.routes.get(&relation.oid) {
            Some((known, targets)) if Arc::ptr_eq(known, relation) => targets.clone(),
            _ => {
                let attached = self.attached.iter().enumerate();
                let targets: Arc<[usize]> =
                    attached.filter(|(_, a)| a.reader.reads(relation)).map(|(at, _)| at).collect();
                self.routes.insert(relation.oid, (relation.clone(), targets.clone()));
                targets
            }
        }
    }

    async fn change(&mut self, change: Change) {
        let targets = self.targets(&change.relation);
        if targets.is_empty() {
            return;
        }
        let change = Arc::new(change);
        for &at in &*targets {
            self.push(at, Entry::Change(change.clone())).await;
        }
    }

    async fn push(&mut self, at: usize, entry: Entry) {
        let Some(open @ (commit_lsn, ..)) = self.open else { return };
        let attached = &mut self.attached[at];
        if is_loaded(commit_lsn, attached.sent) {
            return;
        }
        if attached.entries.is_empty() && !attached.is_split {
            self.touched.push(at);
        }
        attached.bytes += entry.size();
        attached.entries.push(entry);
        if attached.bytes > PIECE_BYTES {
            attached.is_split = true;
            attached.hand_over(open, None).await;
        }
    }

    async fn commit(&mut self, end_lsn: Lsn) {
        let Some(open) = self.open.take() else { return };
        let end = End { end_lsn, commit_time: Some(open.2) };
        for at in std::mem::take(&mut self.touched) {
            let attached = &mut self.attached[at];
            attached.hand_over(open, Some(end)).await;
            (attached.is_split, attached.sent) = (false, end_lsn);
        }
        self.boundary = self.boundary.max(end_lsn);
    }

    /// The server says how far it has read: outside a transaction, all before that has been routed.
    pub fn reached(&mut self, lsn: Lsn) {
        if self.open.is_none() {
            self.boundary = self.boundary.max(lsn);
        }
    }

    /// Tells pipelines without changes of their own how far the source is, so that their checkpoints, and with them
    /// the slot, go on: now if `is_urgent`, else from time to time.
    pub async fn advance(&mut self, is_urgent: bool) {
        let boundary = self.boundary;
        for attached in &mut self.attached {
            let floor = attached.reader.floor.lsn();
            let is_quiet = !attached.is_split && attached.entries.is_empty() && floor >= attached.sent;
            let is_due = is_urgent
                || attached.told.elapsed() >= ADVANCE_INTERVAL
                || boundary.bytes_since(floor) >= ADVANCE_BYTES;
            if self.open.is_none() && is_quiet && is_due && boundary > floor {
                attached.told = Instant::now();
                attached.sent = boundary;
                attached.queue.send(Piece::position(boundary)).await.ok();
            }
        }
        if self.open.is_none() && self.attached.iter().any(|a| a.queue.is_closed()) {
            self.attached.retain(|a| !a.queue.is_closed());
            self.routes.clear();
        }
    }
}

impl Attached {
    /// A queue whose pipeline has left takes nothing; the pipeline asks again when it comes back.
    async fn hand_over(&mut self, open: (Lsn, u32, i64), end: Option<End>) {
        let (commit_lsn, xid, commit_time) = open;
        self.bytes = 0;
        let entries = std::mem::take(&mut self.entries);
        self.queue.send(Piece::new(xid, commit_lsn, commit_time, entries, end)).await.ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Cell, Column, Operation, ReplicaIdentity};
    use crate::checkpoint::Progress;
    use crate::pipeline::queue::{QueueReceiver, Room};

    fn relation(oid: u32, table: &str) -> Arc<Relation> {
        let columns = vec![Column {
            name: "id".into(),
            type_oid: 23,
            type_modifier: -1,
            is_identity: true,
            is_later: false,
        }];
        let identity = ReplicaIdentity::Default;
        Arc::new(Relation { oid, schema: "public".into(), table: table.into(), identity, columns })
    }

    fn insert(relation: &Arc<Relation>) -> Step {
        let new = Some([Cell::Text(b"1")].into_iter().collect());
        Step::Change(Change { relation: relation.clone(), operation: Operation::Insert, old: None, new })
    }

    fn commit(end_lsn: u64) -> Step {
        Step::Commit { end_lsn: Lsn(end_lsn) }
    }

    fn begin(commit_lsn: u64) -> Step {
        Step::Begin { commit_lsn: Lsn(commit_lsn), xid: 1, commit_time: 0 }
    }

    fn router(from: &[u64]) -> (Router, Vec<QueueReceiver>, Vec<Floor>) {
        let mut progress = Progress::default();
        let floors: Vec<Floor> = from.iter().map(|lsn| progress.add(Lsn(*lsn))).collect();
        let readers = floors.iter().enumerate().map(|(place, floor)| Reader {
            place,
            floor: floor.clone(),
            tables: vec![(place as u32 + 1, "public".into(), format!("t{place}"))],
        });
        let mut router = Router::new(readers.collect());
        let receivers = from.iter().enumerate().map(|(pipeline, lsn)| {
            let (queue, receiver) = Room::among(1).queue();
            router.attach(Attach { pipeline, from: Lsn(*lsn), queue });
            receiver
        });
        let receivers = receivers.collect();
        (router, receivers, floors)
    }

    async fn ends(receiver: &mut QueueReceiver) -> Vec<u64> {
        let Some(batch) = receiver.next_batch(usize::MAX, false).await else { return Vec::new() };
        batch.iter().filter_map(|piece| piece.end).map(|end| end.end_lsn.0).collect()
    }

    #[tokio::test]
    async fn each_pipeline_gets_its_tables_and_nothing_twice() {
        let (mut router, mut receivers, _) = router(&[10, 30]);
        assert_eq!(router.restart(), Some(Lsn(10)));
        let (t0, t1) = (relation(1, "t0"), relation(2, "t1"));
        for (start, end, tables) in [(10, 20, vec![&t0, &t1]), (20, 30, vec![&t1]), (30, 40, vec![&t0, &t1])]
        {
            router.route(begin(start)).await;
            for table in tables {
                router.route(insert(table)).await;
            }
            router.route(commit(end)).await;
        }
        assert_eq!(ends(&mut receivers[0]).await, [20, 40]);
        assert_eq!(ends(&mut receivers[1]).await, [40], "what is loaded is not sent again");
        assert_eq!(router.boundary(), Lsn(40));
    }

    #[tokio::test]
    async fn a_pipeline_that_is_behind_makes_the_stream_go_back() {
        let (mut router, _receivers, _) = router(&[10]);
        router.restart();
        router.route(begin(10)).await;
        router.route(commit(20)).await;
        let attach = |from| {
            let (queue, receiver) = Room::among(1).queue();
            std::mem::forget(receiver);
            Attach { pipeline: 0, from: Lsn(from), queue }
        };
        assert!(!router.attach(attach(20)));
        assert!(router.attach(attach(15)));
        assert_eq!(router.restart(), Some(Lsn(15)));
    }

    #[tokio::test]
    async fn who_wants_the_stream_to_go_back_waits_until_it_is_where_it_was() {
        let (mut router, _receivers, _) = router(&[10]);
        router.restart();
        router.reached(Lsn(40));
        let (queue, _receiver) = Room::among(1).queue();
        assert!(router.attach(Attach { pipeline: 0, from: Lsn(20), queue }));
        assert_eq!(router.restart(), Some(Lsn(20)));
        for (at, is_going_back) in [(30, true), (39, true), (40, false)] {
            router.reached(Lsn(at));
            assert_eq!(router.is_going_back(), is_going_back, "at {at}");
        }
    }

    #[tokio::test]
    async fn a_pipeline_that_has_a_part_of_a_transaction_is_let_go_when_the_stream_begins_anew() {
        let (mut router, _receivers, _) = router(&[10, 10]);
        router.restart();
        router.route(begin(10)).await;
        let new = Some([Cell::Text(&[b'x'; PIECE_BYTES + 1])].into_iter().collect());
        let change = Change { relation: relation(1, "t0"), operation: Operation::Insert, old: None, new };
        router.route(Step::Change(change)).await;
        assert_eq!(router.restart(), Some(Lsn(10)));
        let places: Vec<usize> = router.attached.iter().map(|a| a.reader.place).collect();
        assert_eq!(places, [1], "the other one has nothing of it");
    }

    #[tokio::test]
    async fn a_quiet_pipeline_is_told_where_the_source_is_only_when_nothing_is_under_way() {
        let (mut router, mut receivers, floors) = router(&[10]);
        router.restart();
        let t0 = relation(1, "t0");
        router.route(begin(10)).await;
        router.route(insert(&t0)).await;
        router.reached(Lsn(100));
        assert_eq!(router.boundary(), Lsn(10), "a transaction is open");
        router.route(commit(20)).await;
        router.reached(Lsn(100));
        router.advance(true).await;
        assert_eq!(ends(&mut receivers[0]).await, [20], "its transaction isn't loaded yet");
        floors[0].raise(Lsn(20));
        router.advance(true).await;
        assert_eq!(ends(&mut receivers[0]).await, [100]);
    }
}
