//! What a scrub of the pool needs to know of the database: whose an object is, and whether the log
//! in a segment is sound.
//!
//! Everything else is the pool's: each of its objects is covered by checksums that it checks by
//! itself. A database that damage keeps from being opened is scrubbed all the same: what the
//! manifest says, as far as it can be read, names the owners.

use crate::db::Database;
use crate::db::frequencies;
use crate::error::Result;
use crate::key::Revision;
use crate::kvset::{Kvset, KvsetMeta};
use crate::progress::OpenProgress;
use crate::shape::kvsets::{Kvsets, Unusable};
use crate::shape::manifest;
use crate::shape::manifest::live::Live;
use crate::wal::{self, Damaged, Verified};
use mpool::{
    Class, Finding, MblockId, MdcId, Pool, ScrubOptions, ScrubOwners, ScrubPart, ScrubProgress,
    ScrubTarget, Segment, SegmentId, SegmentScrub,
};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Database {
    /// Whether a pool holds a database, rather than something else or nothing yet.
    pub fn is_on(pool: &Pool) -> bool {
        manifest::journal(pool).is_some()
    }

    /// Verifies everything that the pool holds, on the calling thread; see [`Pool::scrub`].
    /// Findings name kvsets, KVSs, keys and revisions; the write-ahead log is verified frame by
    /// frame up to what is durable.
    pub fn scrub(&self, options: &ScrubOptions) -> Result<ScrubProgress> {
        let owner_of = |finding: &Finding| self.owner_at(finding);
        let segment = |segment: &Segment, pause: &mut dyn FnMut(u64) -> bool| {
            self.scrub_segment(segment, pause)
        };
        let owners = ScrubOwners { owner_of: &owner_of, segment: &segment };
        Ok(self.pool().scrub(options, &owners)?)
    }

    /// The same for a database that damage keeps from being opened: nothing of it is opened for
    /// writing, and owners are named as far as the manifest can be read.
    pub fn scrub_unopened(pool: &Arc<Pool>, options: &ScrubOptions) -> Result<ScrubProgress> {
        let known = Known::of(pool)?;
        let owner_of = |finding: &Finding| known.owner_at(pool, finding);
        let segment = |segment: &Segment, pause: &mut dyn FnMut(u64) -> bool| {
            let last = *known.ends.get(&segment.id())?;
            Some(summary(&wal::verify(segment, last, pause)))
        };
        let owners = ScrubOwners { owner_of: &owner_of, segment: &segment };
        Ok(pool.scrub(options, &owners)?)
    }

    /// Whose an object of the pool is, in words: "kvset 17 of KVS users, vblock".
    pub fn owner_of(&self, target: ScrubTarget) -> Option<String> {
        match target {
            ScrubTarget::Mblock(id) => {
                self.mblock_owner(id, &|kvset| part_of(kvset.meta(), id).map(str::to_owned))
            }
            ScrubTarget::Segment(id) => Some(segment_name(self.pool(), id)),
            ScrubTarget::Journal(id) => journal_owner(self.pool(), id),
            _ => None,
        }
    }

    /// The same for a damaged place, with keys and revisions.
    fn owner_at(&self, finding: &Finding) -> Option<String> {
        match finding.target {
            ScrubTarget::Mblock(id) => {
                self.mblock_owner(id, &|kvset| described(kvset, id, finding))
            }
            ScrubTarget::Segment(id) => {
                let last = self.commits().log_in(id)?;
                Some(segment_owner(self.pool(), id, last, finding))
            }
            other => self.owner_of(other),
        }
    }

    fn mblock_owner(
        &self,
        id: MblockId,
        part: &dyn Fn(&Arc<Kvset>) -> Option<String>,
    ) -> Option<String> {
        let view = self.store().shape.view.load_full();
        let named = view.trees.values().flat_map(|tree| {
            tree.kvsets().map(|kvset| (tree.name.as_ref(), kvset)).collect::<Vec<_>>()
        });
        owner_among(named, part).or_else(|| counts_owner(self.pool(), id))
    }

    fn scrub_segment(
        &self,
        segment: &Segment,
        pause: &mut dyn FnMut(u64) -> bool,
    ) -> Option<SegmentScrub> {
        let commits = self.commits();
        let last = commits.log_in(segment.id())?;
        let found = wal::verify(segment, last, pause);
        // A segment that was recycled meanwhile is not what was looked at.
        let same = commits.log_in(segment.id()).is_some_and(|now| now >= last);
        let (first, sound) = (found.sequence, found.damaged.is_empty());
        (sound || (same && wal::sequence_of(segment) == first)).then(|| summary(&found))
    }
}

fn summary(found: &Verified) -> SegmentScrub {
    let damaged = found.damaged.iter().map(|damaged| damaged.place).collect();
    SegmentScrub { bytes: found.bytes, damaged }
}

/// What is known of a database without opening it.
struct Known {
    kvsets: Vec<(String, Arc<Kvset>)>,
    /// Owners of hblocks that cannot be read.
    unusable: BTreeMap<MblockId, String>,
    ends: BTreeMap<SegmentId, Revision>,
}

impl Known {
    fn of(pool: &Arc<Pool>) -> Result<Self> {
        let live = manifest::as_far_as_it_goes(pool).unwrap_or_default();
        let Kvsets { usable, unusable } =
            Kvsets::open(pool, &live, Class::Cold, &OpenProgress::default())?;
        let name = |kvs| live.kvs.get(&kvs).map_or_else(String::new, |kvs| kvs.name.clone());
        let kvsets = usable.into_iter().map(|(kvs, _, kvset)| (name(kvs), kvset)).collect();
        let owner = |Unusable { id, hblock, holds, .. }: Unusable| {
            (hblock, format!("kvset {} of KVS {}, hblock; {holds}", id.get(), holds.kvs))
        };
        let unusable = unusable.into_iter().map(owner).collect();
        Ok(Self { kvsets, unusable, ends: ends(pool, &live) })
    }

    fn owner_at(&self, pool: &Arc<Pool>, finding: &Finding) -> Option<String> {
        match finding.target {
            ScrubTarget::Mblock(id) => {
                let named = self.kvsets.iter().map(|(name, kvset)| (name.as_str(), kvset));
                owner_among(named, &|kvset| described(kvset, id, finding))
                    .or_else(|| self.unusable.get(&id).cloned())
                    .or_else(|| counts_owner(pool, id))
            }
            ScrubTarget::Segment(id) => {
                Some(segment_owner(pool, id, *self.ends.get(&id)?, finding))
            }
            ScrubTarget::Journal(id) => journal_owner(pool, id),
            _ => None,
        }
    }
}

fn ends(pool: &Arc<Pool>, live: &Live) -> BTreeMap<SegmentId, Revision> {
    wal::ends(pool, live.floor).unwrap_or_else(|error| {
        tracing::warn!(%error, "the log cannot be verified");
        BTreeMap::new()
    })
}

/// What a kvset has at a damaged place. The table of checksums has no keys of its own.
fn described(kvset: &Arc<Kvset>, id: MblockId, finding: &Finding) -> Option<String> {
    match finding.part {
        ScrubPart::Data => kvset.describe(id, finding.offset..finding.offset + finding.len_bytes),
        _ => part_of(kvset.meta(), id).map(str::to_owned),
    }
}

/// The kvsets of which `part` says something.
fn owner_among<'a>(
    kvsets: impl Iterator<Item = (&'a str, &'a Arc<Kvset>)>,
    part: &dyn Fn(&Arc<Kvset>) -> Option<String>,
) -> Option<String> {
    let mut owners = kvsets.filter_map(|(name, kvset)| {
        Some(format!("kvset {} of KVS {name}, {}", kvset.meta().id.get(), part(kvset)?))
    });
    let first = owners.next()?;
    let others = owners.count();
    Some(if others == 0 { first } else { format!("{first} (and {others} more kvsets)") })
}

fn counts_owner(pool: &Pool, id: MblockId) -> Option<String> {
    let is_counts = frequencies::mblocks(pool).contains(&id);
    is_counts.then(|| "request counts of the value cache, which can do without".to_owned())
}

fn journal_owner(pool: &Pool, id: MdcId) -> Option<String> {
    let is_ours = manifest::journal(pool) == Some(id);
    is_ours.then(|| "the manifest, which names all kvsets".to_owned())
}

fn segment_name(pool: &Arc<Pool>, id: SegmentId) -> String {
    let segment = pool.open_segment(id).ok();
    let sequence = segment.map_or(0, |segment| wal::sequence_of(&segment));
    format!("write-ahead log segment {sequence}")
}

/// With the revisions at a damaged place of it.
fn segment_owner(pool: &Arc<Pool>, id: SegmentId, last: Revision, finding: &Finding) -> String {
    let name = segment_name(pool, id);
    let found = pool.open_segment(id).map(|segment| wal::verify(&segment, last, &mut |_| true));
    let damaged = found.map(|found| found.damaged).unwrap_or_default();
    let here = |damaged: &&Damaged| damaged.place.0 == finding.offset;
    match damaged.iter().find(here).and_then(|damaged| damaged.revisions) {
        Some((first, last)) if first == last => format!("{name}, revision {first}"),
        Some((first, last)) => format!("{name}, revisions {first} to {last}"),
        None => name,
    }
}

/// What `id` is to a kvset, if anything.
pub(crate) fn part_of(meta: &KvsetMeta, id: MblockId) -> Option<&'static str> {
    if meta.hblock == id {
        return Some("hblock");
    }
    if meta.kblocks.contains(&id) {
        return Some("kblock");
    }
    meta.vblocks.iter().any(|(vblock, _)| *vblock == id).then_some("vblock")
}

/// Ends a scrub that may be running, so that its place is kept.
pub(crate) fn stop(pool: &Pool) {
    if pool.stop_scrub() {
        tracing::info!("the scrub goes on at the next one's start");
    }
}
