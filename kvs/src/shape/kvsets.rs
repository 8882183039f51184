//! The kvsets that the manifest names, opened: those that can be used, and those that cannot.
//!
//! Open and check both take the kvsets from here. An error of a kvset names it, its KVS, and the
//! keys and revisions that it may hold. These come from its hblock if that can be read, else from
//! what the manifest says of its leaf.

use crate::error::{Error, Result};
use crate::key::{KeyText, KvsId, KvsetId, NodeId};
use crate::kvset::{Kvset, KvsetMeta};
use crate::progress::OpenProgress;
use crate::shape::manifest::fit::{Span, misfit, overlaps};
use crate::shape::manifest::live::{Ends, Live, LiveKvset};
use bytes::Bytes;
use mpool::{Class, MblockId, Pool, Priority};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, mpsc};

/// Kvsets opened at a time, at most: as many as the pool has threads for blocking calls, and some
/// that wait for one.
const OPEN_AT_ONCE: usize = 64;

/// What the manifest names.
pub(crate) struct Kvsets {
    pub(crate) usable: Vec<(KvsId, NodeId, Arc<Kvset>)>,
    pub(crate) unusable: Vec<Unusable>,
}

/// A kvset that cannot be read, or is not what the manifest says.
pub(crate) struct Unusable {
    pub(crate) id: KvsetId,
    pub(crate) hblock: MblockId,
    pub(crate) error: Error,
    pub(crate) holds: Holds,
}

/// What a kvset may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holds {
    /// Name of the KVS.
    pub(crate) kvs: String,
    pub(crate) from: Bytes,
    /// The first key after them; `None` to the end.
    pub(crate) to: Option<Bytes>,
    pub(crate) revisions: RangeInclusive<u64>,
}

impl Kvsets {
    /// Opens all of them, several at a time. `Err` if one is of a newer format, or the pool itself
    /// fails.
    pub(crate) fn open(
        pool: &Arc<Pool>,
        live: &Live,
        index: Class,
        progress: &OpenProgress,
    ) -> Result<Self> {
        progress.expect_kvsets(live.kvsets.len() as u64);
        let (mut usable, mut unusable) = (Vec::new(), Vec::new());
        let ends = live.ends();
        let hblocks: Vec<MblockId> = live.kvsets.values().map(|place| place.hblock).collect();
        for ((id, place), opened) in
            live.kvsets.iter().zip(open_all(pool, &hblocks, index, progress))
        {
            match opened.and_then(|kvset| fitting(*id, place, kvset, (live, &ends))) {
                Ok(kvset) => usable.push((place.kvs, place.node, kvset)),
                Err(error @ Error::Format { .. }) => return Err(error),
                Err(error) => {
                    let meta = Kvset::meta_at(pool, place.hblock).ok();
                    unusable.push(Unusable::new(*id, place, live, (error, meta.as_ref())));
                }
            }
        }
        let mut kvsets = Self { usable, unusable };
        kvsets.part_overlaps(live);
        Ok(kvsets)
    }

    fn part_overlaps(&mut self, live: &Live) {
        let span = |(kvs, node, kvset): &(KvsId, NodeId, Arc<Kvset>)| {
            let KvsetMeta { id, min_revision, max_revision, .. } = *kvset.meta();
            Span { id, at: (*kvs, *node), first: min_revision, last: max_revision }
        };
        let spans: Vec<Span> = self.usable.iter().map(span).collect();
        let by_id: BTreeMap<KvsetId, Span> = spans.iter().map(|span| (span.id, *span)).collect();
        for (id, stays) in overlaps(&spans) {
            let (own, other) = (by_id[&id], by_id[&stays]);
            let reason = format!(
                "it has revisions {} to {}, and kvset {} of the same node {} to {}; one of them is \
                 no longer of use",
                own.first,
                own.last,
                stays.get(),
                other.first,
                other.last
            );
            let error = Error::Corrupt { what: "manifest".into(), reason };
            let at = self.usable.iter().position(|(.., kvset)| kvset.meta().id == id);
            let (.., kvset) = self.usable.remove(at.expect("a span is of a usable kvset"));
            let found = (error, Some(kvset.meta()));
            let place = live.kvsets.get(&id).expect("a span is of a kvset of the manifest");
            self.unusable.push(Unusable::new(id, place, live, found));
        }
    }
}

/// Opens kvsets on the pool's threads; what comes of each, in their order. Their reads are small,
/// and one after the other would wait for the drive tens of thousands of times.
fn open_all(
    pool: &Arc<Pool>,
    hblocks: &[MblockId],
    index: Class,
    progress: &OpenProgress,
) -> Vec<Result<Arc<Kvset>>> {
    let (tell, told) = mpsc::channel();
    let mut opened: Vec<Option<Result<Arc<Kvset>>>> = hblocks.iter().map(|_| None).collect();
    let mut take = || {
        let (at, found): (usize, _) = told.recv().expect("each job answers");
        opened[at] = Some(found);
        progress.opened_kvset();
    };
    for (at, hblock) in hblocks.iter().copied().enumerate() {
        if at >= OPEN_AT_ONCE {
            take();
        }
        let (answer, its_pool) = (Answer { tell: tell.clone(), at, found: None }, Arc::clone(pool));
        let job = move || {
            let mut answer = answer;
            answer.found = Some(Kvset::open(&its_pool, hblock, index, Class::Cold));
            // Before the answer, so that the pool never ends on a thread of its own.
            drop(its_pool);
        };
        pool.queue().run_blocking(Priority::Read, Box::new(job));
    }
    (0..hblocks.len().min(OPEN_AT_ONCE)).for_each(|_| take());
    opened.into_iter().map(|found| found.expect("all are taken")).collect()
}

/// What a job has found; told when it ends, however it ends.
struct Answer {
    tell: mpsc::Sender<(usize, Result<Arc<Kvset>>)>,
    at: usize,
    found: Option<Result<Arc<Kvset>>>,
}

impl Drop for Answer {
    fn drop(&mut self) {
        let panicked = || Err(Error::Poisoned { cause: "opening a kvset panicked".to_owned() });
        let found = self.found.take().unwrap_or_else(panicked);
        // Whoever asked waits for every answer.
        let _ = self.tell.send((self.at, found));
    }
}

/// Whether it is what the manifest says.
fn fitting(
    id: KvsetId,
    place: &LiveKvset,
    kvset: Arc<Kvset>,
    told: (&Live, &Ends),
) -> Result<Arc<Kvset>> {
    match misfit(id, place, kvset.meta(), told) {
        None => Ok(kvset),
        Some(reason) => Err(Error::Corrupt { what: "manifest".into(), reason }),
    }
}

impl Unusable {
    fn new(
        id: KvsetId,
        place: &LiveKvset,
        live: &Live,
        (error, meta): (Error, Option<&KvsetMeta>),
    ) -> Self {
        let kvs = live.kvs.get(&place.kvs).map_or_else(String::new, |kvs| kvs.name.clone());
        let error = name(id, place.hblock, &kvs, error);
        let holds = match meta.filter(|meta| (meta.id, meta.kvs) == (id, place.kvs)) {
            Some(meta) => Holds {
                kvs,
                from: meta.min_key.clone(),
                to: Some([&meta.max_key[..], &[0]].concat().into()),
                revisions: meta.min_revision.get()..=meta.max_revision.get(),
            },
            None => Holds {
                from: live.first_of(place.kvs, place.node),
                to: live.ends().of(place.kvs, place.node).cloned(),
                kvs,
                revisions: 1..=live.floor.get(),
            },
        };
        Self { id, hblock: place.hblock, error, holds }
    }
}

/// The error with the name of what it is about.
fn name(id: KvsetId, hblock: MblockId, kvs: &str, error: Error) -> Error {
    let owner = format!("kvset {} of KVS {kvs} (hblock {hblock})", id.get());
    match error {
        Error::Corrupt { what, reason } => {
            Error::Corrupt { what: owner, reason: format!("{what}: {reason}") }
        }
        Error::Pool(error @ (mpool::Error::Corrupt { .. } | mpool::Error::NoSuchObject { .. })) => {
            Error::Corrupt { what: owner, reason: error.to_string() }
        }
        Error::Pool(error @ mpool::Error::Io { .. }) => {
            tracing::error!(owner, "a kvset cannot be read");
            Error::Pool(error)
        }
        other => other,
    }
}

impl std::fmt::Display for Holds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kvs, from, to, revisions } = self;
        if from.is_empty() && to.is_none() {
            write!(f, "it may hold any key of KVS {kvs}")?;
        } else {
            write!(f, "it may hold keys of KVS {kvs} from {}", KeyText(from))?;
        }
        match to.as_deref() {
            None if from.is_empty() => {}
            // Its last key is known.
            Some([last @ .., 0]) => write!(f, " to {}", KeyText(last))?,
            Some(to) => write!(f, " to before {}", KeyText(to))?,
            None => write!(f, " on")?,
        }
        write!(f, ", of revisions {} to {}", revisions.start(), revisions.end())
    }
}
