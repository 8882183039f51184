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
//! [`get`] may block on the drive. [`try_get`] never does: where it would, it hands out a [`Cold`]
//! that says how far it came.

use crate::cache::ValueCache;
use crate::entry::version::ValuePtr;
use crate::error::{Error, Result, Scope};
use crate::key::{KvsId, Revision, key_hash};
use crate::kvset::{Kvset, Passed, Probe, WouldBlock};
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
    /// Later versions are not seen.
    pub(crate) at: Revision,
    pub(crate) cache: &'a ValueCache,
    pub(crate) metrics: &'a ReadMetrics,
    pub(crate) damage: &'a DamageMetrics,
    /// It was begun by one that does not block, and found the index wanting: what it reads of that
    /// is counted.
    pub(crate) is_cold: bool,
}

impl<'a> Lookup<'a> {
    pub(crate) fn of(store: &'a Store, kvs: KvsId, key: &'a [u8], at: Revision) -> Self {
        let (metrics, damage) = (&store.metrics.reads, &store.metrics.damage);
        Self { kvs, key, at, cache: &store.cache, metrics, damage, is_cold: false }
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
    /// An index page is not resident: the whole lookup must be done by a thread that may block.
    Index,
    /// The value is known to be here.
    Value(Extern),
}

/// A value in a vblock.
pub(crate) struct Extern {
    pub(crate) kvset: Arc<Kvset>,
    pub(crate) ptr: ValuePtr,
    pub(crate) revision: Revision,
}

/// What the index knows of a key.
pub(crate) enum Located {
    /// The answer: there is none, or the value is in memory or in the index.
    Answer(Option<Entry>),
    /// The value is here.
    Value(Extern),
}

/// What a lookup that does not block comes to.
pub(crate) enum Tried {
    Answer(Option<Entry>),
    Cold(Cold),
    /// The value has so many bytes, and was not copied.
    NoRoom(usize),
}

/// What memtables or value cache know of a key.
enum Known {
    Answer(Option<Entry>),
    NoRoom(usize),
}

/// What a source says about a key.
enum Step {
    Answer(Option<Entry>),
    Extern(Extern),
    NextSource,
}

/// Looks a key up; may block on the drive.
pub(crate) fn get(view: &View, lookup: Lookup<'_>) -> Result<Option<Entry>> {
    find(view, lookup).map_err(|error| damaged(view, lookup, error))
}

fn find(view: &View, lookup: Lookup<'_>) -> Result<Option<Entry>> {
    match find_place(view, lookup)? {
        Located::Answer(answer) => Ok(answer),
        Located::Value(Extern { kvset, ptr, revision }) => {
            let value = kvset.read_value(ptr)?;
            lookup.metrics.from_kvset.add(1);
            let hash = key_hash(lookup.kvs, lookup.key);
            Ok(Some(found(view, lookup, hash, value, revision)))
        }
    }
}

/// Looks a key up as far as its index entry; may block on the drive.
pub(crate) fn locate(view: &View, lookup: Lookup<'_>) -> Result<Located> {
    find_place(view, lookup).map_err(|error| damaged(view, lookup, error))
}

/// Pages that are in memory and were not verified yet make a lookup cold as well, but it is no read
/// of the drive that it waits for then.
fn find_place(view: &View, lookup: Lookup<'_>) -> Result<Located> {
    let has_read = Cell::new(false);
    let place = search_place(view, lookup, &has_read);
    lookup.metrics.cold_index.add(u64::from(lookup.is_cold && has_read.get()));
    place
}

fn search_place(view: &View, lookup: Lookup<'_>, has_read: &Cell<bool>) -> Result<Located> {
    let hash = key_hash(lookup.kvs, lookup.key);
    match from_memory(view, lookup, hash, |_| true) {
        Some(Known::Answer(answer)) => return Ok(Located::Answer(answer)),
        Some(Known::NoRoom(_)) => unreachable!("there is room for any length"),
        None => {}
    }
    let Some(tree) = view.trees.get(&lookup.kvs) else { return Ok(Located::Answer(None)) };
    for kvset in tree.sources(lookup.key) {
        if !kvset.may_contain(lookup.key, hash) {
            continue;
        }
        lookup.metrics.kvsets_probed.add(1);
        let passed = |what: Passed<'_>| match what {
            Passed::Filter(error) => lookup.unfiltered(view, error),
            Passed::Read => has_read.set(true),
        };
        let probe = kvset.probe(lookup.key, hash, &passed)?;
        match step(view, lookup, hash, kvset, probe) {
            Step::Answer(answer) => return Ok(Located::Answer(answer)),
            Step::Extern(place) => return Ok(Located::Value(place)),
            Step::NextSource => {}
        }
    }
    lookup.metrics.absent.add(1);
    Ok(Located::Answer(None))
}

/// Looks a key up without blocking. A value that has to be copied is, where there is `room` for its
/// length.
pub(crate) fn try_get(
    view: &View,
    lookup: Lookup<'_>,
    room: impl FnMut(usize) -> bool,
) -> Result<Tried> {
    try_find(view, lookup, room).map_err(|error| damaged(view, lookup, error))
}

fn try_find(view: &View, lookup: Lookup<'_>, room: impl FnMut(usize) -> bool) -> Result<Tried> {
    let hash = key_hash(lookup.kvs, lookup.key);
    match from_memory(view, lookup, hash, room) {
        Some(Known::Answer(answer)) => return Ok(Tried::Answer(answer)),
        Some(Known::NoRoom(len)) => return Ok(Tried::NoRoom(len)),
        None => {}
    }
    let Some(tree) = view.trees.get(&lookup.kvs) else { return Ok(Tried::Answer(None)) };
    for kvset in tree.sources(lookup.key) {
        if !kvset.may_contain(lookup.key, hash) {
            continue;
        }
        lookup.metrics.kvsets_probed.add(1);
        let unfiltered = |error: &Error| lookup.unfiltered(view, error);
        let probe = match kvset.try_probe(lookup.key, hash, &unfiltered)? {
            Ok(probe) => probe,
            Err(WouldBlock) => return Ok(Tried::Cold(Cold::Index)),
        };
        match step(view, lookup, hash, kvset, probe) {
            Step::Answer(answer) => return Ok(Tried::Answer(answer)),
            Step::Extern(place) => {
                let Some(value) = place.kvset.try_read_value(place.ptr)? else {
                    return Ok(Tried::Cold(Cold::Value(place)));
                };
                lookup.metrics.from_kvset.add(1);
                let entry = found(view, lookup, hash, value, place.revision);
                return Ok(Tried::Answer(Some(entry)));
            }
            Step::NextSource => {}
        }
    }
    lookup.metrics.absent.add(1);
    Ok(Tried::Answer(None))
}

/// The answer of memtables or value cache, if they know the key. A memtable's value is copied.
fn from_memory(
    view: &View,
    lookup: Lookup<'_>,
    hash: u64,
    mut room: impl FnMut(usize) -> bool,
) -> Option<Known> {
    let Lookup { kvs, key, at, cache, metrics, .. } = lookup;
    for memtable in view.memtables() {
        if let Some(found) = memtable.get(kvs, key, hash, at) {
            if let Some(len) = found.value.map(<[u8]>::len).filter(|len| !room(*len)) {
                return Some(Known::NoRoom(len));
            }
            metrics.from_memtable.add(1);
            let entry =
                |value| Entry { value: Bytes::copy_from_slice(value), revision: found.revision };
            return Some(Known::Answer(found.value.map(entry)));
        }
    }
    let (value, revision) = cache.get(kvs, key, hash, at)?;
    metrics.from_cache.add(1);
    Some(Known::Answer(Some(Entry { value, revision })))
}

fn step(view: &View, lookup: Lookup<'_>, hash: u64, kvset: &Arc<Kvset>, probe: Probe) -> Step {
    match probe {
        Probe::Miss => {
            lookup.metrics.filter_false_positives.add(1);
            Step::NextSource
        }
        Probe::Tombstone(revision) if revision <= lookup.at => {
            lookup.metrics.absent.add(1);
            Step::Answer(None)
        }
        Probe::Inline(revision, value) if revision <= lookup.at => {
            lookup.metrics.from_kvset.add(1);
            Step::Answer(Some(found(view, lookup, hash, value, revision)))
        }
        Probe::Extern(revision, ptr) if revision <= lookup.at => {
            Step::Extern(Extern { kvset: Arc::clone(kvset), ptr, revision })
        }
        // Written after the snapshot; an older kvset of the same view may know an older version.
        Probe::Tombstone(_) | Probe::Inline(..) | Probe::Extern(..) => Step::NextSource,
    }
}

/// Offers what was found in a kvset to the value cache.
pub(crate) fn found(
    view: &View,
    lookup: Lookup<'_>,
    hash: u64,
    value: Bytes,
    revision: Revision,
) -> Entry {
    lookup.cache.insert(view.epoch, lookup.kvs, lookup.key, hash, &value, revision);
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
