//! The numbers of inserted keys, in the run phase.
//!
//! A thread takes the next number, inserts the record and acknowledges it. Readers may ask for
//! any number up to [`Acknowledged::last`]: the largest below which nothing is missing.
//!
//! ```text
//!   0 ... recordcount-1 | ack  ack  taken  ack  taken | next
//!                                ^ last
//! ```

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug)]
pub(crate) struct Acknowledged {
    next: AtomicU64,
    /// One past the last number below which everything is acknowledged.
    end: AtomicU64,
    /// Acknowledged out of order: bounded by the number of threads, each has one insert in flight.
    early: Mutex<BTreeSet<u64>>,
}

impl Acknowledged {
    /// Everything below `start` is there.
    pub(crate) fn new(start: u64) -> Self {
        Self {
            next: AtomicU64::new(start),
            end: AtomicU64::new(start),
            early: Mutex::new(BTreeSet::new()),
        }
    }

    /// Takes the next number; `acknowledge` is owed for it, also after a failed insert.
    pub(crate) fn take(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn acknowledge(&self, number: u64) {
        let mut early = self.early.lock().expect("no holder of this lock can panic");
        let mut end = self.end.load(Ordering::Relaxed);
        early.insert(number);
        while early.remove(&end) {
            end += 1;
        }
        // Pairs with the load in `last`: who sees the number may read the record.
        self.end.store(end, Ordering::Release);
    }

    /// Numbers that were taken: all below this one.
    pub(crate) fn taken(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// One past the last number below which everything is acknowledged.
    pub(crate) fn end(&self) -> u64 {
        // Pairs with the store in `acknowledge`.
        self.end.load(Ordering::Acquire)
    }

    /// The last number that may be asked for; 0 when nothing was ever inserted.
    pub(crate) fn last(&self) -> u64 {
        self.end().saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_holds_the_limit_back() {
        let keys = Acknowledged::new(10);
        let taken: Vec<u64> = (0..4).map(|_| keys.take()).collect();
        assert_eq!(taken, [10, 11, 12, 13]);
        assert_eq!(keys.last(), 9);
        keys.acknowledge(11);
        keys.acknowledge(13);
        assert_eq!(keys.last(), 9);
        keys.acknowledge(10);
        assert_eq!(keys.last(), 11);
        keys.acknowledge(12);
        assert_eq!(keys.last(), 13);
    }

    #[test]
    fn threads_lose_nothing() {
        let keys = Acknowledged::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|_| keys.acknowledge(keys.take())));
            }
        });
        assert_eq!(keys.last(), 3999);
    }
}
