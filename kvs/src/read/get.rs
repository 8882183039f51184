//! Reading one key.
//!
//! Newest first, so the first source that knows the key is right: memtables, value cache, root,
//! leaf. The value cache holds what kvsets hold, hence its place. A hit there costs a filter probe
//! for each memtable and one cache probe.
//!
//! ```text
//!   active  sealed..   value cache   root kvsets        leaf kvsets
//!     |        |            |          filter -> B-tree    filter -> B-tree
//!     +--------+------------+-------------+-------------------+--> value: map or one direct read
//! ```
//!
//! There is one search ([`search`]), in two ways of getting at index pages: [`get`] reads those
//! that are not resident. [`try_get`] never blocks: where it would, it hands out a [`Cold`] that
//! says how far it came, and the search goes on from there.

use crate::cache::ValueCache;
use crate::entry::version::ValuePtr;
use crate::error::{Error, Result, Scope};
use crate::key::{KvsId, Revision, key_hash};
use crate::kvset::{Blocking, Kvset, Pages, Passed, Probe, Resident};
use crate::metrics::ReadMetrics;
use crate::metrics::damage::{DamageMetrics, Met};
use crate::shape::view::View;
use crate::store::Store;
use bytes::Bytes;
use std::cell::Cell;
use std::sync::Arc;

/// A value and the revision of the batch that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Bytes,
    /// When it was written.
    pub revision: Revision,
}

/// What a lookup needs beside the view.
#[derive(Clone, Copy)]
pub(crate) struct Lookup<'a> {
    pub(crate) kvs: KvsId,
    pub(crate) key: &'a [u8],
    pub(crate) hash: u64,
    /// Later versions are not seen.
    pub(crate) at: Revision,
    pub(crate) cache: &'a ValueCache,
    pub(crate) metrics: &'a ReadMetrics,
    pub(crate) damage: &'a DamageMetrics,
}

impl<'a> Lookup<'a> {
    pub(crate) fn of(store: &'a Store, kvs: KvsId, key: &'a [u8], at: Revision) -> Self {
        Self::hashed(store, (kvs, key_hash(kvs, key)), key, at)
    }

    /// The same, where the hash of the key is known.
    pub(crate) fn hashed(
        store: &'a Store,
        (kvs, hash): (KvsId, u64),
        key: &'a [u8],
        at: Revision,
    ) -> Self {
        let (metrics, damage) = (&store.metrics.reads, &store.metrics.damage);
        Self { kvs, key, hash, at, cache: &store.cache, metrics, damage }
    }

    #[cold]
    fn unfiltered(&self, view: &View, error: &Error) {
        let Error::Corrupt { what, reason } = error else {
            return self.damage.note(Met::Filter, error);
        };
        let what = format!("filter ({what}) of KVS {}", name_of(view, self.kvs));
        self.damage.note(Met::Filter, &Error::Corrupt { what, reason: reason.clone() });
    }
}

/// Where a lookup stands that would block.
pub(crate) enum Cold {
    /// An index page of the source of this number is not resident; no source before it has the key.
    Index(usize),
    /// The value is known to be here.
    Value(Extern),
}

/// A value in a vblock.
pub(crate) struct Extern {
    pub(crate) kvset: Arc<Kvset>,
    pub(crate) ptr: ValuePtr,
    pub(crate) revision: Revision,
}

/// What a lookup comes to.
pub(crate) enum Found {
    /// There is none, or it is this.
    Answer(Option<Entry>),
    Cold(Cold),
    /// The value has so many bytes, and was not copied.
    NoRoom(usize),
}

/// Looks a key up; may block on the drive.
pub(crate) fn get(view: &View, lookup: Lookup<'_>) -> Result<Option<Entry>> {
    let found = match from_memory(view, lookup, |_| true) {
        Some(found) => found,
        None => locate(view, lookup, 0, &Cell::new(false))?,
    };
    finish(view, lookup, found)
}

/// Goes on with a lookup that would have blocked, from where it stands; may block on the drive.
pub(crate) fn go_on(view: &View, lookup: Lookup<'_>, cold: Cold) -> Result<Option<Entry>> {
    let found = match cold {
        Cold::Index(source) => locate_on(view, lookup, source)?,
        Cold::Value(_) => Found::Cold(cold),
    };
    finish(view, lookup, found)
}

/// Goes on as far as the index entry; may block on the drive.
///
/// Pages that are in memory and were not verified yet make a lookup cold as well, but it is no read
/// of the drive that it waits for then.
pub(crate) fn locate_on(view: &View, lookup: Lookup<'_>, source: usize) -> Result<Found> {
    let has_read = Cell::new(false);
    let found = locate(view, lookup, source, &has_read);
    lookup.metrics.cold_index.add(u64::from(has_read.get()));
    found
}

fn locate(view: &View, lookup: Lookup<'_>, source: usize, has_read: &Cell<bool>) -> Result<Found> {
    let pages = Blocking(|passed: Passed<'_>| match passed {
        Passed::Filter(error) => lookup.unfiltered(view, error),
        Passed::Read => has_read.set(true),
    });
    search(view, lookup, source, &pages).map_err(|error| damaged(view, lookup, error))
}

/// Reads the value where it is known where it lies.
fn finish(view: &View, lookup: Lookup<'_>, found: Found) -> Result<Option<Entry>> {
    match found {
        Found::Answer(answer) => Ok(answer),
        Found::Cold(Cold::Value(Extern { kvset, ptr, revision })) => {
            let value = kvset.read_value(ptr).map_err(|error| damaged(view, lookup, error))?;
            lookup.metrics.from_kvset.add(1);
            Ok(Some(offered(view, lookup, value, revision)))
        }
        Found::Cold(Cold::Index(_)) => unreachable!("it blocks"),
        Found::NoRoom(_) => unreachable!("there is room for any length"),
    }
}

/// Looks a key up without blocking. A value that has to be copied is, where there is `room` for its
/// length.
pub(crate) fn try_get(
    view: &View,
    lookup: Lookup<'_>,
    room: impl FnMut(usize) -> bool,
) -> Result<Found> {
    if let Some(found) = from_memory(view, lookup, room) {
        return Ok(found);
    }
    try_search(view, lookup).map_err(|error| damaged(view, lookup, error))
}

fn try_search(view: &View, lookup: Lookup<'_>) -> Result<Found> {
    let pages = Resident(|passed: Passed<'_>| {
        if let Passed::Filter(error) = passed {
            lookup.unfiltered(view, error);
        }
    });
    let place = match search(view, lookup, 0, &pages)? {
        Found::Cold(Cold::Value(place)) => place,
        other => return Ok(other),
    };
    let Some(value) = place.kvset.try_read_value(place.ptr)? else {
        return Ok(Found::Cold(Cold::Value(place)));
    };
    lookup.metrics.from_kvset.add(1);
    Ok(Found::Answer(Some(offered(view, lookup, value, place.revision))))
}

/// Asks the kvsets that may have the key, from the source of this number on: the answer, or where
/// the value lies, or where a page is wanting.
fn search(view: &View, lookup: Lookup<'_>, source: usize, pages: &impl Pages) -> Result<Found> {
    let Some(tree) = view.trees.get(&lookup.kvs) else { return Ok(Found::Answer(None)) };
    for (source, kvset) in tree.sources(lookup.key).enumerate().skip(source) {
        let probe = kvset.probe(lookup.key, lookup.hash, pages)?;
        if probe == Probe::Excluded {
            continue;
        }
        lookup.metrics.kvsets_probed.add(1);
        match probe {
            Probe::Tombstone(revision) if revision <= lookup.at => break,
            Probe::Inline(revision, value) if revision <= lookup.at => {
                lookup.metrics.from_kvset.add(1);
                return Ok(Found::Answer(Some(offered(view, lookup, value, revision))));
            }
            Probe::Extern(revision, ptr) if revision <= lookup.at => {
                let place = Extern { kvset: Arc::clone(kvset), ptr, revision };
                return Ok(Found::Cold(Cold::Value(place)));
            }
            Probe::Cold => return Ok(Found::Cold(Cold::Index(source))),
            Probe::Miss => lookup.metrics.filter_false_positives.add(1),
            // Written after the snapshot; an older kvset of the same view may know an older
            // version.
            Probe::Tombstone(_) | Probe::Inline(..) | Probe::Extern(..) | Probe::Excluded => {}
        }
    }
    lookup.metrics.absent.add(1);
    Ok(Found::Answer(None))
}

/// The answer of memtables or value cache, if they know the key. A memtable's value is copied.
fn from_memory(
    view: &View,
    lookup: Lookup<'_>,
    mut room: impl FnMut(usize) -> bool,
) -> Option<Found> {
    let Lookup { kvs, key, hash, at, cache, metrics, .. } = lookup;
    for memtable in view.memtables() {
        if let Some(found) = memtable.get(kvs, key, hash, at) {
            let value = found.op.value();
            if let Some(len) = value.map(<[u8]>::len).filter(|len| !room(*len)) {
                return Some(Found::NoRoom(len));
            }
            metrics.from_memtable.add(1);
            let entry =
                |value| Entry { value: Bytes::copy_from_slice(value), revision: found.revision };
            return Some(Found::Answer(value.map(entry)));
        }
    }
    let (value, revision) = cache.get(kvs, key, hash, at)?;
    metrics.from_cache.add(1);
    Some(Found::Answer(Some(Entry { value, revision })))
}

/// Offers what was found in a kvset to the value cache.
pub(crate) fn offered(view: &View, lookup: Lookup<'_>, value: Bytes, revision: Revision) -> Entry {
    let Lookup { kvs, key, hash, cache, .. } = lookup;
    cache.insert(view.epoch, kvs, key, hash, &value, revision);
    Entry { value, revision }
}

/// What an error of an object means to who asked for a key. The caller of [`get`] has it already.
#[cold]
pub(crate) fn damaged(view: &View, lookup: Lookup<'_>, error: Error) -> Error {
    of_key(view, (lookup.kvs, lookup.key), error)
}

/// The same for a key that a scan stands on.
#[cold]
pub(crate) fn of_key(view: &View, (kvs, key): (KvsId, &[u8]), error: Error) -> Error {
    if error.scope() != Scope::Object || matches!(error, Error::Damaged { .. }) {
        return error;
    }
    Error::Damaged { kvs: name_of(view, kvs), key: key.into(), source: Box::new(error) }
}

/// What people call a KVS.
pub(crate) fn name_of(view: &View, kvs: KvsId) -> Box<str> {
    view.trees.get(&kvs).map_or_else(|| kvs.to_string().into(), |tree| (&*tree.name).into())
}
