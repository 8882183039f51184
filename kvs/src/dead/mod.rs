//! Ranges of keys in which nothing lives, so that scans seek past them.
//!
//! A queue deletes at its head what it inserted at its tail. The tombstones, and what they hide,
//! lie in memtables and kvsets until compaction collects them, and a scan from the start would walk
//! over all of them again each time. So a scan that has walked over many dead entries in a row says
//! so here ([`walk`]), and later ones seek to the end of what it has found. What is said is
//!
//! ```text
//!   at any revision >= `since` no key in [from, to) is live
//! ```
//!
//! It is about keys and revisions, not about where entries lie: neither flush nor compaction
//! changes it. A delete does not, either. Only a put does, and a put takes its key out
//! ([`put`](DeadRanges::put)) before it is visible. So a reader at revision `at >= since` that
//! looks here after it has learned `at` finds the table without the keys of all puts up to `at`. An
//! older reader is not told of the range. Since a range is joined with what was found later, the
//! table as it was a little earlier is kept too, for readers whose snapshot is a little older
//! ([`GENERATIONS_MAX`]).
//!
//! # A put while a scan learns
//!
//! A scan at revision `at` sees no put after `at`, and the put may have looked here before there
//! was anything to cut. A *watch* is what closes the gap. It stands in the table from before the
//! walk until the range is entered, and puts note in it the key nearest to where the walk began.
//!
//! ```text
//!   scan: begin a watch | fence | the view is current? | seek, walk .. | end the watch, enter
//!   put:  load the view, insert into its active memtable | fence | cut | ... published
//! ```
//!
//! Either the put's fence comes first: then the scan, which seeks all its sources anew after its
//! own fence, meets the put's version on the way; it is newer than `at` and ends the range. Or the
//! scan's fence comes first: then the put sees the watch. In the second case it does not matter
//! into which memtable the put goes. In the first it must be one that the scan walks over, so the
//! scan asks, after its fence, whether its view's active memtable is still the active one: a put
//! into a later one loads the view after that. A memtable is sealed only where no batch is being
//! applied, so no put goes into an earlier one.
//!
//! A clean close keeps the heaviest ranges for the next open ([`kept`]).
//!
//! What a scan has passed over because it cannot be read may hide anything: it learns nothing
//! ([`Holes`](crate::kvset::Holes)). Recovery applies batches as a commit does, to tables that are
//! empty. A KVS that is dropped takes its table with it; a name used again is another KVS.
//!
//! Cost of a put: a fence a batch and a load an entry; in a KVS that has ranges or watches a lock
//! and a binary search more. Memory: at most [`GENERATIONS_MAX`] lists of
//! [`RANGES_MAX`](ranges::RANGES_MAX) ranges a KVS, which share the bytes of their keys.

pub(crate) mod hints;
pub(crate) mod kept;
pub(crate) mod ranges;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
pub(crate) mod walk;

use crate::key::Revision;
use bytes::Bytes;
use ranges::{DeadRange, Ranges, successor};
use std::collections::VecDeque;

#[cfg(loom)]
use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU32, Ordering, fence},
};
#[cfg(not(loom))]
use parking_lot::{Mutex, MutexGuard};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};

/// Scans that may learn at a time in one KVS; more do not learn.
const WATCHES_MAX: usize = 16;
/// The table as it is, and as it was a little earlier.
const GENERATIONS_MAX: usize = 4;
/// Revisions from one generation to the next: 10 ms and more of writing.
const GENERATION_REVISIONS: u64 = 2048;
/// Deletes after which somebody looks whether they make a range.
const DELETES_PER_HINT: u32 = 1024;

/// Which way a scan goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Forward,
    Backward,
}

/// Names a watch of one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WatchId(u64);

/// What lies ahead of a key that is in a dead range.
#[derive(Clone, Debug)]
pub(crate) struct Skip {
    /// Forward the first key after the range, backward its first key; `None`: it has no such end.
    pub(crate) beyond: Option<Bytes>,
    /// A watch that covers the range and all beyond it, if one was asked for and there is room.
    pub(crate) watch: Option<WatchId>,
}

struct Watch {
    id: WatchId,
    way: Way,
    /// Forward: keys from here on. Backward: keys before this, or, if `None`, all.
    edge: Option<Bytes>,
    /// The put nearest to the edge.
    cut: Option<Bytes>,
}

impl Watch {
    fn note(&mut self, key: &[u8]) {
        let edge = self.edge.as_deref();
        let (is_in, is_nearer) = match self.way {
            Way::Forward => (
                edge.is_none_or(|edge| edge <= key),
                self.cut.as_ref().is_none_or(|cut| *key < **cut),
            ),
            Way::Backward => (
                edge.is_none_or(|edge| key < edge),
                self.cut.as_ref().is_none_or(|cut| *key > **cut),
            ),
        };
        if is_in && is_nearer {
            self.cut = Some(Bytes::copy_from_slice(key));
        }
    }

    /// What the walk has shown to be dead, as far as puts have left it: from the edge to `end`,
    /// which is exclusive going forward, inclusive going backward; `None`: no key is left that way.
    fn range(&self, end: Option<Bytes>, since: Revision, weight: u64) -> DeadRange {
        let (edge, cut) = (self.edge.clone(), self.cut.clone());
        let (from, to) = match self.way {
            Way::Forward => {
                let to = match (end, cut) {
                    (Some(end), Some(cut)) => Some(end.min(cut)),
                    (end, cut) => end.or(cut),
                };
                (edge.unwrap_or_default(), to)
            }
            Way::Backward => {
                let above_cut = cut.map(|cut| successor(&cut)).unwrap_or_default();
                (end.unwrap_or_default().max(above_cut), edge)
            }
        };
        DeadRange { from, to, since, weight }
    }
}

#[derive(Default)]
struct Table {
    /// Newest first; never empty once there was a range.
    generations: VecDeque<(Revision, Ranges)>,
    watches: Vec<Watch>,
    watches_begun: u64,
}

impl Table {
    fn is_idle(&self) -> bool {
        self.watches.is_empty() && self.generations.iter().all(|(_, ranges)| ranges.is_empty())
    }

    fn find(&mut self, key: &[u8], at: Revision) -> Option<DeadRange> {
        self.generations.iter_mut().find_map(|(_, ranges)| ranges.find(key, at).cloned())
    }

    fn watch(&mut self, way: Way, edge: Option<Bytes>) -> Option<WatchId> {
        if self.watches.len() == WATCHES_MAX {
            return None;
        }
        let id = WatchId(self.watches_begun);
        self.watches_begun += 1;
        self.watches.push(Watch { id, way, edge, cut: None });
        Some(id)
    }

    fn insert(&mut self, range: DeadRange) {
        let since = range.since;
        let newest = self.generations.front().map(|(begun, _)| begun.plus(GENERATION_REVISIONS));
        if newest.is_none_or(|next| next <= since) {
            let ranges = self.generations.front().map(|(_, ranges)| ranges.clone());
            self.generations.push_front((since, ranges.unwrap_or_default()));
            self.generations.truncate(GENERATIONS_MAX);
        }
        self.generations[0].1.insert(range);
    }
}

/// The dead ranges of one KVS. See the module.
#[derive(Default)]
pub(crate) struct DeadRanges {
    table: Mutex<Table>,
    /// Whether a put has anything to cut. Written under the lock.
    watched: AtomicBool,
    deletes: AtomicU32,
}

impl DeadRanges {
    fn lock(&self) -> MutexGuard<'_, Table> {
        #[cfg(loom)]
        return self.table.lock().expect("nobody panics with it");
        #[cfg(not(loom))]
        self.table.lock()
    }

    /// Whether there may be a range that spares a walk, or a watch. Relaxed: a reader that misses
    /// one walks; what a put must not miss, its fence orders ([`inserted`]).
    pub(crate) fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Relaxed)
    }

    /// Begins a watch over the keys on one side of `edge`, which a walk is about to look at from
    /// there on. The walk seeks after this, and asks after this whether its view is current.
    pub(crate) fn watch(&self, way: Way, edge: Option<Bytes>) -> Option<WatchId> {
        let id = {
            let mut table = self.lock();
            let id = table.watch(way, edge);
            self.watched.store(true, Ordering::Relaxed);
            id
        };
        // Pairs with the fence of `inserted`.
        fence(Ordering::SeqCst);
        id
    }

    /// What a walk at `at` need not look at, if `key` is in a dead range; with a watch, if asked
    /// for, that begins where the range does, as of the same moment.
    pub(crate) fn skip(&self, key: &[u8], at: Revision, way: Way, watch: bool) -> Option<Skip> {
        if !self.is_watched() {
            return None;
        }
        let skip = {
            let mut table = self.lock();
            let DeadRange { from, to, .. } = table.find(key, at)?;
            let lower = (!from.is_empty()).then_some(from);
            let (near, beyond) = match way {
                Way::Forward => (lower, to),
                Way::Backward => (to, lower),
            };
            Skip { beyond, watch: if watch { table.watch(way, near) } else { None } }
        };
        // Pairs with the fence of `inserted`.
        fence(Ordering::SeqCst);
        Some(skip)
    }

    /// Enters what the walk of a watch has shown to be dead at `since`: see [`Watch::range`]. The
    /// watch stands on.
    pub(crate) fn enter(&self, id: WatchId, end: Option<Bytes>, since: Revision, weight: u64) {
        let mut table = self.lock();
        let watch = table.watches.iter().find(|watch| watch.id == id).expect("it stands");
        let range = watch.range(end, since, weight);
        table.insert(range);
    }

    /// Ends a watch.
    pub(crate) fn end(&self, id: WatchId) {
        let mut table = self.lock();
        table.watches.retain(|watch| watch.id != id);
        self.watched.store(!table.is_idle(), Ordering::Relaxed);
    }

    /// A put has come to `key`, and its fence ([`inserted`]) has been passed.
    pub(crate) fn put(&self, key: &[u8]) {
        if !self.is_watched() {
            return;
        }
        let mut table = self.lock();
        table.watches.iter_mut().for_each(|watch| watch.note(key));
        table.generations.iter_mut().for_each(|(_, ranges)| ranges.cut(key));
        self.watched.store(!table.is_idle(), Ordering::Relaxed);
    }

    /// Counts a delete; whether it is worth a look.
    pub(crate) fn count_delete(&self) -> bool {
        // Batches are applied by one thread at a time: no count is lost.
        let count = self.deletes.load(Ordering::Relaxed).wrapping_add(1);
        self.deletes.store(count, Ordering::Relaxed);
        count.is_multiple_of(DELETES_PER_HINT)
    }

    /// Where the last range ends that lies before `key`.
    pub(crate) fn end_before(&self, key: &[u8]) -> Option<Bytes> {
        self.lock().generations.front().and_then(|(_, ranges)| ranges.end_before(key))
    }

    /// What it knows.
    pub(crate) fn all(&self) -> Vec<DeadRange> {
        self.lock().generations.front().map_or_else(Vec::new, |(_, ranges)| ranges.to_vec())
    }

    /// Takes a range that holds, before anybody writes.
    pub(crate) fn restore(&self, range: DeadRange) {
        let mut table = self.lock();
        table.insert(range);
        self.watched.store(!table.is_idle(), Ordering::Relaxed);
    }

    /// Ranges it knows.
    pub(crate) fn len(&self) -> usize {
        self.lock().generations.front().map_or(0, |(_, ranges)| ranges.len())
    }
}

/// Stands between a put's insertion into the memtable and its look at the dead ranges.
pub(crate) fn inserted() {
    // Pairs with the fences of `watch` and `skip`: either we see the watch, or its walk, which
    // begins after that fence, sees what was inserted.
    fence(Ordering::SeqCst);
}
