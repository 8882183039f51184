//! What a scrub of the pool needs to know of the database: whose an object is, and whether the log
//! in a segment is sound.
//!
//! Everything else is the pool's: each of its objects is covered by checksums that it checks by
//! itself.

use crate::db::Database;
use crate::error::Result;
use crate::frequencies;
use crate::kvset::KvsetMeta;
use crate::manifest;
use mpool::{
    MblockId, Pool, ScrubOptions, ScrubOwners, ScrubProgress, ScrubTarget, Segment, SegmentScrub,
};

impl Database {
    /// Whether a pool holds a database, rather than something else or nothing yet.
    pub fn is_on(pool: &Pool) -> bool {
        manifest::journal(pool).is_some()
    }

    /// Verifies everything that the pool holds, on the calling thread; see [`Pool::scrub`].
    /// Findings name kvsets and KVSs; the write-ahead log is verified frame by frame up to what is
    /// durable.
    pub fn scrub(&self, options: &ScrubOptions) -> Result<ScrubProgress> {
        let owner_of = |target| self.owner_of(target);
        let segment = |segment: &Segment, pause: &mut dyn FnMut(u64) -> bool| {
            self.scrub_segment(segment, pause)
        };
        let owners = ScrubOwners { owner_of: &owner_of, segment: &segment };
        Ok(self.pool().scrub(options, &owners)?)
    }

    /// Whose an object of the pool is, in words: "kvset 17 of KVS users, vblock".
    pub fn owner_of(&self, target: ScrubTarget) -> Option<String> {
        match target {
            ScrubTarget::Mblock(id) => self.mblock_owner(id),
            ScrubTarget::Segment(id) => {
                let segment = self.pool().open_segment(id).ok();
                let sequence = segment.map_or(0, |segment| crate::wal::sequence_of(&segment));
                Some(format!("write-ahead log segment {sequence}"))
            }
            ScrubTarget::Journal(id) => {
                let is_ours = manifest::journal(self.pool()) == Some(id);
                is_ours.then(|| "the manifest, which names all kvsets".to_owned())
            }
            _ => None,
        }
    }

    fn mblock_owner(&self, id: MblockId) -> Option<String> {
        let view = self.store().view.load_full();
        let mut owners = Vec::new();
        for tree in view.trees.values() {
            for kvset in tree.kvsets() {
                if let Some(part) = part_of(kvset.meta(), id) {
                    owners.push(format!(
                        "kvset {} of KVS {}, {part}",
                        kvset.meta().id.get(),
                        tree.name
                    ));
                }
            }
        }
        if owners.is_empty() && frequencies::mblocks(self.pool()).contains(&id) {
            return Some("request counts of the value cache, which can do without".to_owned());
        }
        let others = owners.len().checked_sub(1)?;
        let first = owners.swap_remove(0);
        Some(if others == 0 { first } else { format!("{first} (and {others} more kvsets)") })
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

impl Database {
    fn scrub_segment(
        &self,
        segment: &Segment,
        pause: &mut dyn FnMut(u64) -> bool,
    ) -> Option<SegmentScrub> {
        let commits = self.commits();
        let last = commits.log_in(segment.id())?;
        let found = crate::wal::verify(segment, last, pause);
        // A segment that was recycled meanwhile is not what was looked at.
        let same = commits.log_in(segment.id()).is_some_and(|now| now >= last);
        let (first, sound) = (found.sequence, found.damaged.is_empty());
        if sound || (same && crate::wal::sequence_of(segment) == first) {
            return Some(SegmentScrub { bytes: found.bytes, damaged: found.damaged });
        }
        None
    }
}

/// Ends a scrub that may be running, so that its place is kept.
pub(crate) fn stop(pool: &Pool) {
    if pool.stop_scrub() {
        tracing::info!("the scrub goes on at the next one's start");
    }
}
