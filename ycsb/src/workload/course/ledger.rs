//! The driver's own account of what is in the store: what it has written and deleted, and what of
//! that lives.
//!
//! A store is believed in nothing here: live bytes are keys and rows of the records that were
//! acknowledged and not deleted since. Which records these are is kept as their number and the sum
//! of a hash of their keys, so that a walk over the store can be compared with it in any order,
//! without a list of them.
//!
//! ```text
//!   numbers of a queue:   deleted | head ...... live ...... tail | to be inserted
//! ```

use super::victims::Victims;
use crate::workload::dist::counter::Acknowledged;
use crate::workload::row::key_hash;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

#[derive(Debug)]
pub(crate) struct Ledger {
    /// Numbers that were inserted at the tail of a queue.
    pub(crate) tail: Acknowledged,
    /// Numbers that were deleted at its head.
    pub(crate) head: Acknowledged,
    records: AtomicU64,
    live_bytes: AtomicU64,
    keys_sum: AtomicU64,
    put_bytes: AtomicU64,
    doubts: AtomicU64,
    victims: Option<Victims>,
    /// How many of the victims were taken.
    next_victim: AtomicUsize,
}

/// Which records live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Alive {
    pub(crate) records: u64,
    /// Of their keys and rows.
    pub(crate) bytes: u64,
    keys_sum: u64,
}

impl Alive {
    /// Takes in a record that is there.
    pub(crate) fn add(&mut self, key: &[u8], row_bytes: usize) {
        self.records += 1;
        self.bytes += bytes(key, row_bytes);
        self.keys_sum = self.keys_sum.wrapping_add(key_hash(key));
    }
}

impl Ledger {
    pub(crate) fn new() -> Self {
        Self {
            tail: Acknowledged::new(0),
            head: Acknowledged::new(0),
            records: AtomicU64::new(0),
            live_bytes: AtomicU64::new(0),
            keys_sum: AtomicU64::new(0),
            put_bytes: AtomicU64::new(0),
            doubts: AtomicU64::new(0),
            victims: None,
            next_victim: AtomicUsize::new(0),
        }
    }

    /// An account of a course that deletes these records.
    pub(crate) fn with_victims(victims: Victims) -> Self {
        Self { victims: Some(victims), ..Self::new() }
    }

    /// The number of the next record to delete; each is given once.
    pub(crate) fn next_victim(&self) -> Option<u64> {
        let at = self.next_victim.fetch_add(1, Ordering::Relaxed);
        self.victims.as_ref()?.numbers.get(at).copied()
    }

    /// Of a course that deletes chosen records: which.
    pub(crate) fn victims(&self) -> Option<&Victims> {
        self.victims.as_ref()
    }

    /// A record that was not there is there.
    pub(crate) fn inserted(&self, key: &[u8], row_bytes: usize) {
        self.found(key, row_bytes);
        self.overwritten(key, row_bytes);
    }

    /// A record was there before anything was written.
    pub(crate) fn found(&self, key: &[u8], row_bytes: usize) {
        self.records.fetch_add(1, Ordering::Relaxed);
        self.live_bytes.fetch_add(bytes(key, row_bytes), Ordering::Relaxed);
        // Wraps, as atomics do.
        self.keys_sum.fetch_add(key_hash(key), Ordering::Relaxed);
    }

    /// A record that is there was written once more, as long as before.
    pub(crate) fn overwritten(&self, key: &[u8], row_bytes: usize) {
        self.put_bytes.fetch_add(bytes(key, row_bytes), Ordering::Relaxed);
    }

    /// A record that was there is not any more.
    pub(crate) fn deleted(&self, key: &[u8], row_bytes: usize) {
        self.records.fetch_sub(1, Ordering::Relaxed);
        self.live_bytes.fetch_sub(bytes(key, row_bytes), Ordering::Relaxed);
        self.keys_sum.fetch_sub(key_hash(key), Ordering::Relaxed);
        self.put_bytes.fetch_add(bytes(key, 0), Ordering::Relaxed);
    }

    /// An insert or a delete failed: whether the record is there is not known from now on.
    pub(crate) fn doubt(&self) {
        self.doubts.fetch_add(1, Ordering::Relaxed);
    }

    /// Inserts and deletes that failed.
    pub(crate) fn doubts(&self) -> u64 {
        self.doubts.load(Ordering::Relaxed)
    }

    /// What lives. Exact while nobody writes.
    pub(crate) fn alive(&self) -> Alive {
        Alive {
            records: self.records.load(Ordering::Relaxed),
            bytes: self.live_bytes.load(Ordering::Relaxed),
            keys_sum: self.keys_sum.load(Ordering::Relaxed),
        }
    }

    /// Bytes of keys and rows that were put, and of keys that were deleted.
    pub(crate) fn put_bytes(&self) -> u64 {
        self.put_bytes.load(Ordering::Relaxed)
    }

    /// Records in a queue: inserted at the tail, or being so, and not yet chosen to be deleted.
    /// Those on their way count: a client that is held up must not let the others fill the queue.
    pub(crate) fn queued(&self) -> u64 {
        self.tail.taken().saturating_sub(self.head.taken())
    }

    /// Takes the number at the head of a queue that is to be deleted, and waits until it is there:
    /// nearly always it has been for as long as the queue is.
    pub(crate) fn take_head(&self) -> u64 {
        let number = self.head.take();
        while self.tail.end() <= number {
            std::thread::yield_now();
        }
        number
    }
}

fn bytes(key: &[u8], row_bytes: usize) -> u64 {
    u64::try_from(key.len() + row_bytes).expect("a record fits in memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lives_is_what_was_inserted_and_not_deleted() {
        let ledger = Ledger::new();
        for key in [b"a", b"b", b"c"] {
            ledger.inserted(key, 10);
        }
        ledger.overwritten(b"b", 10);
        ledger.deleted(b"a", 10);
        let mut found = Alive::default();
        // In another order.
        found.add(b"c", 10);
        found.add(b"b", 10);
        assert_eq!(found, ledger.alive());
        assert_eq!((found.records, found.bytes, ledger.put_bytes()), (2, 22, 4 * 11 + 1));
        let mut other = Alive::default();
        other.add(b"a", 10);
        other.add(b"b", 10);
        assert_ne!(other, ledger.alive(), "as many, but others");
    }

    #[test]
    fn a_queue_holds_what_is_inserted_and_not_chosen() {
        let ledger = Ledger::new();
        (0..3).for_each(|_| ledger.tail.acknowledge(ledger.tail.take()));
        ledger.tail.take();
        assert_eq!(ledger.queued(), 4, "the fourth is on its way");
        assert_eq!((ledger.take_head(), ledger.queued()), (0, 3));
    }
}
