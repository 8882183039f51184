//! What an open does with the frames of the log: they go to memtables, and full ones to kvsets.
//!
//! ```text
//!   wal::replay: read ahead, checked --> stage --sorted--> active memtable --full--> sealed
//!   (this thread)                                                                      | flush
//!                                                            thread db-replay-flush <--'
//! ```
//!
//! Frames come in the order of their writes, keys in any. Inserted one by one, each would search
//! the whole memtable through memory that no cache holds: most of a replay's time. So they are
//! staged, [`STAGE_BYTES`] of them, and inserted in key order, where a search goes the way of the
//! one before it.
//!
//! Flushes run beside, one at a time. While `memtables_max` wait the replay waits, so it needs the
//! memory of normal work and a stage. Each flush raises the floor durably: an open that is
//! cut off is not begun from the start again. Without background threads it flushes by itself.

use crate::db::recover::make_again;
use crate::entry::batch::WriteBatch;
use crate::entry::op::Op;
use crate::error::{Error, Result, Scope};
use crate::jobs::flush;
use crate::jobs::ledger::Progress;
use crate::key::{KvsId, Revision, key_hash};
use crate::memtable::prefix;
use crate::progress::OpenProgress;
use crate::shape::loss::Loss;
use crate::store::Store;
use crate::write::apply::cut_dead_ranges;
use parking_lot::{Condvar, Mutex};
use std::ops::Range;
use std::time::{Duration, Instant};

/// Bytes of keys and values staged: some thousand entries of a kilobyte, a quarter of what the
/// smallest usual memtable holds.
const STAGE_BYTES: usize = 8 << 20;
/// What an entry takes in a memtable beside key and value, about.
const ENTRY_BYTES: usize = 56;
/// How often progress is logged.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// A replay.
pub(crate) struct Replay<'a> {
    store: &'a Store,
    losses: &'a mut Vec<Loss>,
    /// Where flushes run, if not here.
    beside: Option<&'a Flusher<'a>>,
    /// Ids of KVSs below it were given.
    kvs_end: u32,
    stage: Stage,
    active_bytes: usize,
    progress: OpenProgress,
    begun: Instant,
    told: Instant,
}

/// Entries that wait for their place in the memtable.
#[derive(Default)]
struct Stage {
    bytes: Vec<u8>,
    entries: Vec<Staged>,
    /// What they will take in a memtable, about.
    memtable_bytes: usize,
    last: Revision,
}

struct Staged {
    kvs: KvsId,
    /// The key's first bytes as a number, by which most comparisons are decided.
    prefix: u64,
    revision: Revision,
    key: Range<usize>,
    /// `None` is a tombstone.
    value: Option<Range<usize>>,
}

impl<'a> Replay<'a> {
    pub(crate) fn new(
        store: &'a Store,
        losses: &'a mut Vec<Loss>,
        beside: Option<&'a Flusher<'a>>,
        progress: &OpenProgress,
    ) -> Self {
        let kvs_end = store.shape.versions.lock().manifest.live().next_kvs;
        Self {
            store,
            losses,
            beside,
            kvs_end,
            stage: Stage::default(),
            active_bytes: 0,
            progress: progress.clone(),
            begun: Instant::now(),
            told: Instant::now(),
        }
    }

    /// Takes a frame.
    pub(crate) fn frame(&mut self, revision: Revision, batch: &WriteBatch) -> Result<()> {
        if batch.ops().any(|(kvs, ..)| kvs.get() >= self.kvs_end) {
            make_again(self.store, revision, batch, self.losses)?;
            self.kvs_end = self.store.shape.versions.lock().manifest.live().next_kvs;
        }
        let bytes = batch.len_bytes() + batch.len() * ENTRY_BYTES;
        let memtable_bytes = self.store.options.memtable_bytes;
        let held = (self.active_bytes + self.stage.memtable_bytes) as u64;
        if held > 0 && held + bytes as u64 > memtable_bytes {
            self.insert();
            self.seal()?;
        } else if self.stage.bytes.len() >= STAGE_BYTES {
            self.insert();
        }
        self.stage.push(revision, batch, bytes);
        Ok(())
    }

    /// Takes what is staged to the memtable; after the last frame.
    pub(crate) fn end(mut self) {
        self.insert();
    }

    fn insert(&mut self) {
        let (store, stage) = (self.store, &mut self.stage);
        let view = store.shape.view.load();
        stage.sort();
        for (kvs, key, revision, op) in stage.entries() {
            // Entries of a KVS that was dropped after they were logged are passed over.
            if view.trees.contains_key(&kvs) {
                view.active.insert(kvs, key, key_hash(kvs, key), revision, op);
            }
        }
        cut_dead_ranges(store, &view, stage.entries().map(|(kvs, key, _, op)| (kvs, key, op)));
        // As a commit does: whoever sees the revision finds everything up to it.
        store.shape.publish(store.shape.visible().max(stage.last));
        stage.clear();
        self.active_bytes = view.active.bytes();
        self.tell();
    }

    fn seal(&mut self) -> Result<()> {
        self.store.seal();
        self.active_bytes = 0;
        if self.store.pool.is_read_only() {
            // It would be written to memory all the same.
            return Ok(());
        }
        match self.beside {
            Some(flusher) => flusher.sealed(),
            None => flush_one(self.store).map(drop),
        }
    }

    fn tell(&mut self) {
        if self.told.elapsed() < TELL_EVERY {
            return;
        }
        self.told = Instant::now();
        let (all, done) = self.progress.log();
        let percent = done * 100 / all.max(1);
        tracing::info!(percent, bytes = done, of = all, elapsed = ?self.begun.elapsed(), "replaying the log");
    }
}

impl Stage {
    fn push(&mut self, revision: Revision, batch: &WriteBatch, memtable_bytes: usize) {
        for (kvs, key, op) in batch.ops() {
            let prefix = prefix(key);
            let key = self.copy(key);
            let value = match op {
                Op::Inline(value) => Some(self.copy(value)),
                Op::Tombstone => None,
            };
            self.entries.push(Staged { kvs, prefix, revision, key, value });
        }
        self.memtable_bytes += memtable_bytes;
        self.last = revision;
    }

    fn copy(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    /// Brings the entries into the order of a memtable. Those of one key and revision keep theirs:
    /// the last one wins.
    fn sort(&mut self) {
        let bytes = &self.bytes;
        let key = |entry: &Staged| &bytes[entry.key.clone()];
        self.entries.sort_by(|a, b| {
            (a.kvs, a.prefix)
                .cmp(&(b.kvs, b.prefix))
                .then_with(|| key(a).cmp(key(b)))
                .then_with(|| b.revision.cmp(&a.revision))
        });
    }

    fn entries(&self) -> impl Iterator<Item = (KvsId, &[u8], Revision, Op<'_>)> {
        let bytes = |range: &Range<usize>| &self.bytes[range.clone()];
        self.entries.iter().map(move |entry| {
            let op = entry.value.as_ref().map_or(Op::Tombstone, |value| Op::Inline(bytes(value)));
            (entry.kvs, bytes(&entry.key), entry.revision, op)
        })
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.bytes.clear();
        self.memtable_bytes = 0;
    }
}

/// Flushes the oldest memtable. What passes by itself, a full volume say, is put off: the memtables
/// stay, as they would at run time, and the database opens, so that it can be read and deleted
/// from. There may be more of them than `memtables_max`; the log bounds them. `false`: put off.
fn flush_one(store: &Store) -> Result<bool> {
    match flush::flush_oldest(store, &Progress::default()) {
        Err(error) if error.scope() == Scope::Moment => {
            tracing::warn!(%error, "a flush during replay is put off");
            Ok(false)
        }
        done => done.map(|_| true),
    }
}

/// Flushes beside a replay, on a thread that [`Flusher::run`] is called on.
pub(crate) struct Flusher<'a> {
    store: &'a Store,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The last flush was put off; the next sealed memtable is another try.
    is_put_off: bool,
    /// No more memtables come.
    is_over: bool,
    failure: Option<Error>,
}

/// Ends the flusher's work, however the replay ends.
pub(crate) struct Over<'a>(pub(crate) &'a Flusher<'a>);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.change(|state| state.is_over = true);
    }
}

/// Tells the replay if the flusher's thread panics.
struct Alive<'a>(&'a Flusher<'a>);

impl Drop for Alive<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let cause = "a flush during replay panicked".to_owned();
            self.0.change(|state| state.failure = Some(Error::Poisoned { cause }));
        }
    }
}

impl<'a> Flusher<'a> {
    pub(crate) fn new(store: &'a Store) -> Self {
        Self { store, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Flushes what is sealed until the replay is over. What is left then is for later.
    pub(crate) fn run(&self) {
        let _alive = Alive(self);
        loop {
            {
                let mut state = self.state.lock();
                while !state.is_over && (state.is_put_off || self.waiting() == 0) {
                    self.changed.wait(&mut state);
                }
                if state.is_over {
                    return;
                }
            }
            let done = flush_one(self.store);
            let failed = done.is_err();
            self.change(|state| match done {
                Ok(done) => state.is_put_off = !done,
                Err(error) => state.failure = Some(error),
            });
            if failed {
                return;
            }
        }
    }

    /// Another memtable is sealed: waits while there are too many. Err if a flush has failed.
    fn sealed(&self) -> Result<()> {
        self.change(|state| state.is_put_off = false);
        let mut state = self.state.lock();
        loop {
            if let Some(error) = state.failure.take() {
                return Err(error);
            }
            if state.is_put_off || self.waiting() < self.store.options.memtables_max {
                return Ok(());
            }
            self.changed.wait(&mut state);
        }
    }

    /// Why a flush has failed, if one has; once the thread has ended.
    pub(crate) fn outcome(self) -> Result<()> {
        self.state.into_inner().failure.map_or(Ok(()), Err)
    }

    fn waiting(&self) -> u64 {
        self.store.shape.view.load().sealed.len() as u64
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock());
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of two writes of a key in one batch the last counts, and newer revisions come first.
    #[test]
    fn staged_entries_come_in_the_order_of_a_memtable() {
        let (a, b) = (KvsId::new(1), KvsId::new(2));
        let mut first = WriteBatch::new();
        first.put_id(b, b"k", b"in b").unwrap();
        first.put_id(a, b"z", b"early").unwrap();
        first.put_id(a, b"z", b"late").unwrap();
        let mut second = WriteBatch::new();
        second.delete_id(a, b"z").unwrap();
        second.put_id(a, b"longer than eight bytes", b"v").unwrap();
        let mut stage = Stage::default();
        stage.push(Revision::new(1), &first, 100);
        stage.push(Revision::new(2), &second, 100);
        assert_eq!((stage.memtable_bytes, stage.last), (200, Revision::new(2)));
        stage.sort();
        let owned = |(kvs, key, revision, op): (KvsId, &[u8], Revision, Op<'_>)| {
            let value = if let Op::Inline(value) = op { Some(value.to_vec()) } else { None };
            (kvs, key.to_vec(), revision.get(), value)
        };
        let seen: Vec<_> = stage.entries().map(owned).collect();
        stage.clear();
        let put = |value: &[u8]| Some(value.to_vec());
        assert_eq!(
            seen,
            [
                (a, b"longer than eight bytes".to_vec(), 2, put(b"v")),
                (a, b"z".to_vec(), 2, None),
                (a, b"z".to_vec(), 1, put(b"early")),
                (a, b"z".to_vec(), 1, put(b"late")),
                (b, b"k".to_vec(), 1, put(b"in b")),
            ]
        );
        assert_eq!((stage.memtable_bytes, stage.entries.len(), stage.bytes.len()), (0, 0, 0));
    }
}
