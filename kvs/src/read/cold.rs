//! A lookup that needs the drive, between its two halves: what memory knows, and what the drive
//! says.
//!
//! It holds the view it was begun in, so that it answers as of that moment. How long the value is
//! can be known before it is read, which is what those need who bound the memory of reads under
//! way.

use crate::damage::Met;
use crate::error::Result;
use crate::key::{KvsId, Revision, key_hash};
use crate::read::get::{self, Cold, Entry, Extern, Located};
use crate::store::Store;
use crate::view::View;
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
    pub(crate) at: Revision,
    pub(crate) cold: Cold,
}

impl ColdRead {
    /// Completes it on this thread.
    pub fn wait(self) -> Result<Option<Entry>> {
        let store = &self.store;
        get::get(&self.view, store.lookup(self.kvs, &self.key, self.at))
            .inspect_err(|error| store.note_damage(Met::Get, error))
    }

    /// Bytes of the value that the read will bring, where the index page that says so is resident.
    pub fn value_len(&self) -> Option<usize> {
        match &self.cold {
            Cold::Index => None,
            Cold::Value(place) => Some(usize::try_from(place.ptr.len).unwrap_or(usize::MAX)),
        }
    }

    /// Reads what the index has on the key and leaves the value on the drive: the answer, or a read
    /// whose [`value_len`](Self::value_len) is known. `done` runs on a thread of the pool's IO
    /// queue and must be short.
    pub fn locate(self, done: Box<dyn FnOnce(Result<TryGet>) + Send>) {
        if matches!(self.cold, Cold::Value(_)) {
            return done(Ok(TryGet::Cold(self)));
        }
        let pool = Arc::clone(&self.store.pool);
        let job = move || {
            let located = get::locate(&self.view, self.store.lookup(self.kvs, &self.key, self.at));
            let located = located.inspect_err(|error| self.store.note_damage(Met::Get, error));
            done(located.map(|located| match located {
                Located::Answer(entry) => TryGet::Ready(entry),
                Located::Value(place) => TryGet::Cold(Self { cold: Cold::Value(place), ..self }),
            }));
        };
        pool.queue().run_blocking(Priority::Read, Box::new(job));
    }

    /// Completes it on a thread of the pool's IO queue, where `done` runs and must be short.
    pub fn submit(self, done: Box<dyn FnOnce(Result<Option<Entry>>) + Send>) {
        let Self { store, view, kvs, key, at, cold } = self;
        match cold {
            Cold::Index => {
                let pool = Arc::clone(&store.pool);
                let read = Self { store, view, kvs, key, at, cold: Cold::Index };
                let job = move || done(read.wait());
                pool.queue().run_blocking(Priority::Read, Box::new(job));
            }
            Cold::Value(Extern { kvset, ptr, revision }) => kvset.read_value_async(
                ptr,
                Box::new(move |value| {
                    let lookup = store.lookup(kvs, &key, at);
                    lookup.metrics.from_kvset.add(1);
                    let hash = key_hash(kvs, &key);
                    let entry = |value| Some(get::found(&view, lookup, hash, value, revision));
                    let damaged = |error| get::damaged(&view, lookup, error);
                    let found = value.map(entry).map_err(damaged);
                    done(found.inspect_err(|error| store.note_damage(Met::Get, error)));
                }),
            ),
        }
    }
}
