//! What a source hands to a pipeline, and the queue between them: bounded in bytes, closed by whichever side goes. Half of the bytes are
//! every pipeline's own; the rest is for those that are busy.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::change::{Change, Lsn, Relation};

/// One thing that happened within a transaction.
#[derive(Debug, Clone)]
pub enum Entry {
    /// To a row.
    Change(Arc<Change>),
    /// To a whole table of the pipeline's.
    Truncate(Arc<Relation>),
}

impl Entry {
    /// Bytes kept in memory.
    pub fn size(&self) -> usize {
        match self {
            Entry::Change(change) => change.size(),
            Entry::Truncate(_) => size_of::<Entry>(),
        }
    }
}

/// How far a pipeline is once it has loaded a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// First byte after the commit record, or a position that the source has reached with nothing for the pipeline.
    pub end_lsn: Lsn,
    /// When it was committed, in microseconds since 2000-01-01 by the source's clock; None for a mere position.
    pub commit_time: Option<i64>,
}

/// A transaction, or a part of a large one, with what concerns the pipeline; or a mere position.
#[derive(Debug)]
pub struct Piece {
    /// Top-level transaction id.
    pub xid: u32,
    /// Start of the commit record.
    pub commit_lsn: Lsn,
    /// When it was committed, in microseconds since 2000-01-01 by the source's clock; None for a mere position.
    pub commit_time: Option<i64>,
    /// In the order of the stream.
    pub entries: Vec<Entry>,
    /// None if more of the same transaction follows.
    pub end: Option<End>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Piece {
    /// A piece; `end` is None if more of the transaction follows.
    pub fn new(xid: u32, commit_lsn: Lsn, commit_time: i64, entries: Vec<Entry>, end: Option<End>) -> Self {
        Piece { xid, commit_lsn, commit_time: Some(commit_time), entries, end, permit: None }
    }

    /// A position that the source has reached with nothing for the pipeline before it.
    pub fn position(lsn: Lsn) -> Self {
        let end = Some(End { end_lsn: lsn, commit_time: None });
        Piece { xid: 0, commit_lsn: lsn, commit_time: None, entries: Vec::new(), end, permit: None }
    }

    /// Bytes kept in memory.
    pub fn size(&self) -> usize {
        size_of::<Piece>() + self.entries.iter().map(Entry::size).sum::<usize>()
    }
}

/// Bytes that the queues of a process may hold together, but for what each needs at least.
const BYTES_MAX: usize = 10 << 20;
const OWN_BYTES_MIN: usize = 512 * 1024;
const BATCH_BYTES_MAX: usize = 5 << 19;

/// What may wait for a pipeline, and how much it takes at once.
#[derive(Debug, Clone)]
pub struct Room {
    own_bytes: usize,
    shared_bytes: usize,
    shared: Arc<Semaphore>,
    /// Bytes of a batch.
    pub batch_bytes: usize,
}

impl Room {
    /// One for each of so many pipelines.
    pub fn among(pipelines: usize) -> Room {
        let pipelines = pipelines.max(1);
        let shared_bytes = BYTES_MAX / 2;
        Room {
            own_bytes: ((BYTES_MAX - shared_bytes) / pipelines).max(OWN_BYTES_MIN),
            shared_bytes,
            shared: Arc::new(Semaphore::new(shared_bytes)),
            // What a batch becomes stays with its pipeline until it is written. All of them are rarely busy, so batches needn't
            // become small as quickly as pipelines become many.
            batch_bytes: (BYTES_MAX / 2 / pipelines.isqrt()).min(BATCH_BYTES_MAX),
        }
    }

    /// A queue that holds as much, but always at least one piece.
    pub fn queue(&self) -> (QueueSender, QueueReceiver) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let own = Arc::new(Semaphore::new(self.own_bytes));
        let receiver = QueueReceiver { receiver, own: own.clone(), pending: None };
        (QueueSender { sender, own, room: self.clone() }, receiver)
    }
}

/// The source's end.
#[derive(Debug, Clone)]
pub struct QueueSender {
    sender: mpsc::UnboundedSender<Piece>,
    own: Arc<Semaphore>,
    room: Room,
}

/// The pipeline's end. Dropping it tells the source that the pipeline has left the stream.
#[derive(Debug)]
pub struct QueueReceiver {
    receiver: mpsc::UnboundedReceiver<Piece>,
    own: Arc<Semaphore>,
    pending: Option<Piece>,
}

/// The other side is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

impl QueueSender {
    /// Waits until there is room, and puts the piece in.
    pub async fn send(&self, mut piece: Piece) -> Result<(), Closed> {
        piece.permit = Some(self.permit(piece.size()).await?);
        self.sender.send(piece).map_err(|_| Closed)
    }

    /// A piece that is larger than all there is takes all there is.
    async fn permit(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Closed> {
        let of_own = bytes.min(self.room.own_bytes) as u32;
        if let Ok(permit) = self.own.clone().try_acquire_many_owned(of_own) {
            return Ok(permit);
        }
        let of_shared = bytes.min(self.room.shared_bytes) as u32;
        if !self.own.is_closed()
            && let Ok(permit) = self.room.shared.clone().try_acquire_many_owned(of_shared)
        {
            return Ok(permit);
        }
        self.own.clone().acquire_many_owned(of_own).await.map_err(|_| Closed)
    }

    /// Whether the pipeline has left.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

impl QueueReceiver {
    /// What is there: waits for one piece, then takes what has gathered, up to `bytes_max` bytes; up to the end of
    /// one transaction if `is_single`. None once the source is gone.
    pub async fn next_batch(&mut self, bytes_max: usize, is_single: bool) -> Option<Vec<Piece>> {
        let first = match self.pending.take() {
            Some(piece) => piece,
            None => self.receiver.recv().await?,
        };
        let mut bytes = first.size();
        let mut batch = vec![first];
        while !(is_single && batch.last().is_some_and(|piece| piece.end.is_some())) {
            let Ok(piece) = self.receiver.try_recv() else { break };
            bytes += piece.size();
            if bytes > bytes_max {
                self.pending = Some(piece);
                break;
            }
            batch.push(piece);
        }
        Some(batch)
    }
}

impl Drop for QueueReceiver {
    fn drop(&mut self) {
        // Wakes a source that waits for room.
        self.own.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(lsn: u64) -> Piece {
        Piece::position(Lsn(lsn))
    }

    #[tokio::test]
    async fn a_batch_is_what_has_gathered_up_to_its_bound() {
        let (sender, mut receiver) = Room::among(1).queue();
        for lsn in 1..=5 {
            sender.send(piece(lsn)).await.unwrap();
        }
        let size = piece(0).size();
        let lsns =
            |batch: Option<Vec<Piece>>| batch.unwrap().iter().map(|p| p.commit_lsn.0).collect::<Vec<_>>();
        assert_eq!(lsns(receiver.next_batch(2 * size, false).await), [1, 2]);
        assert_eq!(lsns(receiver.next_batch(usize::MAX, true).await), [3]);
        assert_eq!(lsns(receiver.next_batch(usize::MAX, false).await), [4, 5]);
        drop(sender);
        assert!(receiver.next_batch(1, false).await.is_none());
    }

    #[tokio::test]
    async fn a_full_queue_holds_the_source_back_until_the_pipeline_takes_or_leaves() {
        let room =
            Room { own_bytes: 1, shared_bytes: 2, shared: Arc::new(Semaphore::new(2)), batch_bytes: 1 };
        let (sender, receiver) = room.queue();
        let (other, _receiver) = room.queue();
        sender.send(piece(1)).await.unwrap();
        sender.send(piece(1)).await.unwrap();
        // Each is larger than what is shared, so that is full as well, and yet the other pipeline has its own.
        other.send(piece(1)).await.unwrap();
        let waiting = tokio::spawn({
            let sender = sender.clone();
            async move { sender.send(piece(2)).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(receiver);
        assert_eq!(waiting.await.unwrap(), Err(Closed));
        assert!(sender.is_closed());
    }
}
