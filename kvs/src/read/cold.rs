//! A lookup that needs the drive, between its two halves: what memory knows, and what the drive
//! says.
//!
//! It holds the view it was begun in, so that it answers as of that moment. How long the value is
//! can be known before it is read, which is what those need who bound the memory of reads under
//! way.

use crate::error::Result;
use crate::key::{KvsId, Revision};
use crate::metrics::damage::Met;
use crate::read::get::{self, Cold, Entry, Extern, Found, Lookup};
use crate::shape::view::View;
use crate::store::Store;
use bytes::Bytes;
use mpool::Priority;
use std::sync::Arc;

/// What a lookup that does not block says.
pub enum TryGet {
    /// The answer.
    Ready(Option<Entry>),
    /// The drive must be asked.
    Cold(ColdRead),
}

/// A lookup that found a value in memory, and no room for a copy of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom {
    /// Bytes of the value.
    pub value_len: usize,
}

/// A lookup that needs the drive. It answers as of the moment it was begun.
#[must_use = "a cold read does nothing until it is waited for or submitted"]
pub struct ColdRead {
    /// Not the handle: completing a read on a thread of the queue must never close the database.
    pub(crate) store: Arc<Store>,
    pub(crate) view: Arc<View>,
    pub(crate) kvs: KvsId,
    pub(crate) key: Bytes,
    pub(crate) hash: u64,
    pub(crate) at: Revision,
    pub(crate) cold: Cold,
}

impl ColdRead {
    /// Completes it on this thread.
    pub fn wait(self) -> Result<Option<Entry>> {
        let Self { store, view, kvs, key, hash, at, cold } = self;
        let lookup = Lookup::hashed(&store, (kvs, hash), &key, at);
        get::go_on(&view, lookup, cold)
            .inspect_err(|error| store.metrics.damage.note(Met::Get, error))
    }

    fn lookup(&self) -> Lookup<'_> {
        Lookup::hashed(&self.store, (self.kvs, self.hash), &self.key, self.at)
    }

    /// Bytes of the value that the read will bring, where the index page that says so is resident.
    pub fn value_len(&self) -> Option<usize> {
        match &self.cold {
            Cold::Index(_) => None,
            Cold::Value(place) => Some(usize::try_from(place.ptr.len).unwrap_or(usize::MAX)),
        }
    }

    /// Reads what the index has on the key and leaves the value on the drive: the answer, or a read
    /// whose [`value_len`](Self::value_len) is known. `done` runs on a thread of the pool's IO
    /// queue and must be short.
    pub fn locate(self, done: Box<dyn FnOnce(Result<TryGet>) + Send>) {
        let Cold::Index(source) = self.cold else { return done(Ok(TryGet::Cold(self))) };
        let pool = Arc::clone(&self.store.pool);
        let job = move || {
            let lookup = self.lookup();
            let located = get::locate_on(&self.view, lookup, source)
                .inspect_err(|error| self.store.metrics.damage.note(Met::Get, error));
            done(located.map(|located| match located {
                Found::Answer(entry) => TryGet::Ready(entry),
                Found::Cold(cold) => TryGet::Cold(Self { cold, ..self }),
                Found::NoRoom(_) => unreachable!("nothing is copied from a memtable"),
            }));
        };
        pool.queue().run_blocking(Priority::Read, Box::new(job));
    }

    /// Completes it on a thread of the pool's IO queue, where `done` runs and must be short.
    pub fn submit(self, done: Box<dyn FnOnce(Result<Option<Entry>>) + Send>) {
        let Self { store, view, kvs, key, hash, at, cold } = self;
        match cold {
            Cold::Index(_) => {
                let pool = Arc::clone(&store.pool);
                let read = Self { store, view, kvs, key, hash, at, cold };
                pool.queue().run_blocking(Priority::Read, Box::new(move || done(read.wait())));
            }
            Cold::Value(Extern { kvset, ptr, revision }) => kvset.read_value_async(
                ptr,
                Box::new(move |value| {
                    let lookup = Lookup::hashed(&store, (kvs, hash), &key, at);
                    lookup.metrics.from_kvset.add(1);
                    let entry = |value| Some(get::offered(&view, lookup, value, revision));
                    let damaged = |error| get::damaged(&view, lookup, error);
                    let found = value.map(entry).map_err(damaged);
                    done(found.inspect_err(|error| store.metrics.damage.note(Met::Get, error)));
                }),
            ),
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::db::Database;
    use crate::key::key_hash;
    use crate::options::{Durability, Options};

    fn open(dir: &std::path::Path, background_threads: u64) -> Database {
        let mut options =
            Options { background_threads, value_cache_bytes: Some(0), ..Options::default() };
        options.pool.allow_buffered = true;
        options.pool.allow_volatile = true;
        options.pool.grow_step_bytes = 16 << 20;
        options.pool.capacity_bytes_max = 1 << 30;
        Database::open(dir, options).unwrap()
    }

    /// The lookup began anew with the memtables.
    #[test]
    fn a_cold_read_goes_on_at_the_source_where_it_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let db = open(dir.path(), 0);
        let kvs = db.create_kvs("a").unwrap();
        for value in ["older", "newer"] {
            kvs.put(b"cat", value.as_bytes(), Durability::Off).unwrap();
            db.flush().unwrap();
        }
        let (view, at) = db.store().shape.moment();
        let stopped = |source| ColdRead {
            store: Arc::clone(db.store()),
            view: Arc::clone(&view),
            kvs: kvs.id(),
            key: Bytes::from_static(b"cat"),
            hash: key_hash(kvs.id(), b"cat"),
            at,
            cold: Cold::Index(source),
        };
        let values = [0, 1].map(|source| stopped(source).wait().unwrap().unwrap().value);
        assert_eq!(values, ["newer", "older"]);
        assert_eq!(stopped(2).wait().unwrap(), None);
        db.close().unwrap();
    }

    /// Lookups that found the index unverified were counted among those that wait for the drive,
    /// though it had been read ahead: the first of each page after a flush or an open.
    #[test]
    fn a_lookup_is_cold_for_the_index_where_that_is_read_from_the_drive() {
        // What a flush does in the background reads its index ahead.
        for (background_threads, expected) in [(1, 0), (0, 1)] {
            let dir = tempfile::tempdir().unwrap();
            let db = open(dir.path(), background_threads);
            let kvs = db.create_kvs("a").unwrap();
            kvs.put(b"cat", b"meow", Durability::Off).unwrap();
            db.flush().unwrap();
            let counted = || db.store().metrics.reads.cold_index.get();
            let TryGet::Cold(read) = kvs.try_get(b"cat").unwrap() else {
                panic!("no page of the index is verified yet");
            };
            assert_eq!(counted(), 0, "nothing is known yet");
            if background_threads == 1 {
                assert_eq!(read.wait().unwrap().unwrap().value, "meow");
            } else {
                let (told, hears) = std::sync::mpsc::channel();
                read.submit(Box::new(move |outcome| told.send(outcome).unwrap()));
                assert_eq!(hears.recv().unwrap().unwrap().unwrap().value, "meow");
            }
            assert_eq!(counted(), expected, "{background_threads}");
            assert!(matches!(kvs.try_get(b"cat").unwrap(), TryGet::Ready(Some(_))));
            assert_eq!(counted(), expected, "a lookup that is ready is not cold");
            db.close().unwrap();
        }
    }
}
