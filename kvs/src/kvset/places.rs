//! Which keys lie at a place of a kvset's objects: asked when damage is found there.
//!
//! For an index page the answer is the key range of its kblock. A value's record does not hold its
//! key, so the whole index is read to find the entries that point there. Only damage asks.

use super::open::Kvset;
use super::vblock::format::record_range;
use super::{KvsetMeta, ReadMode};
use crate::entry::op::Op;
use crate::entry::version::VersionCursor;
use crate::key::KeyText;
use mpool::MblockId;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

/// Keys that are named of one place.
const KEYS_MAX: usize = 8;

impl Kvset {
    /// What lies at `place` of an object of it, in words: "vblock, key \"a\" of revision 3".
    pub(crate) fn describe(
        self: &Arc<Self>,
        mblock: MblockId,
        place: Range<u64>,
    ) -> Option<String> {
        let meta = self.meta();
        let KvsetMeta { min_revision, max_revision, .. } = meta;
        let revisions = format!("revisions {min_revision} to {max_revision}");
        if meta.hblock == mblock {
            return Some(format!("hblock, {revisions}"));
        }
        if let Some(at) = meta.kblocks.iter().position(|id| *id == mblock) {
            let footer = self.kblocks[at].footer();
            let (from, to) = (KeyText(&footer.min_key), KeyText(&footer.max_key));
            return Some(format!("kblock, keys {from} to {to} of {revisions}"));
        }
        let vblock = meta.vblocks.iter().position(|(id, _)| *id == mblock)?;
        let keys = self.keys_at(vblock, &place);
        Some(format!("vblock, {}", keys.unwrap_or_else(|| format!("of {revisions}"))))
    }

    /// The keys whose records overlap a place of a vblock; `None` if none is found, or not all of
    /// the index can be read.
    fn keys_at(self: &Arc<Self>, vblock: usize, place: &Range<u64>) -> Option<String> {
        let (mut text, mut count) = (String::new(), 0);
        let mut cursor = self.cursor(ReadMode::Direct);
        cursor.seek_first().ok()?;
        while cursor.valid() {
            if let Op::Extern(ptr) = cursor.op()
                && ptr.vblock as usize == vblock
                && let Ok(record) = record_range(ptr, u64::MAX)
                && record.start < place.end
                && place.start < record.end
            {
                count += 1;
                if count <= KEYS_MAX {
                    let comma = if text.is_empty() { "" } else { ", " };
                    // Writing to a string cannot fail.
                    let _ = write!(
                        text,
                        "{comma}key {} of revision {}",
                        KeyText(cursor.key()),
                        cursor.revision()
                    );
                }
            }
            cursor.next().ok()?;
        }
        if count > KEYS_MAX {
            // Writing to a string cannot fail.
            let _ = write!(text, " and {} more", count - KEYS_MAX);
        }
        (count > 0).then_some(text)
    }
}
