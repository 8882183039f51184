//! PURE: how much of a pool the engine's own work takes, and what that leaves to puts.
//!
//! ```text
//!   0             reserve              tight                            total
//!   |---- kept ---|- space is short ---|---------- plenty -----|- used -|
//!                 |<-------------- writable ------------------>|
//! ```
//!
//! Puts are refused when what is free reaches the reserve: what flushes of full memtables, the log
//! and one compaction need, or the spare part of the volumes where that is more. Deletes go on, and
//! compaction turns them into free space with what the reserve holds.
//!
//! Work under way takes free space and gives it back, so a pool at the reserve is above it at one
//! look and below it at the next. What is told to be missing has a band for that:
//!
//! ```text
//!                 reserve      relief
//!   - is missing -|- is missing, if it was -|- nothing is missing -
//! ```
//!
//! So it begins when puts are refused, is what is still to become free up to the relief, and ends
//! when that much is: it falls by what becomes free, and to 0 once.
//!
//! On a small pool the engine's own objects are smaller too, so that its work takes a like part of
//! every pool: [`fitted`] gives memtables, log and objects a 32nd of the pool each at most.

use crate::options::Options;
use mpool::FreeSpace;
use std::ops::RangeInclusive;

const MIB: u64 = 1 << 20;

/// Part of the pool that one memtable, one segment of the log, or one object takes at most.
const SHARE: u64 = 32;
/// Part of the pool that waits in the log for a flush at most.
const LOG_SHARE: u64 = 8;
const MEMTABLE_BYTES_MIN: u64 = MIB;
/// Segments of these lengths take the same batches; shorter and longer ones do not.
const SEGMENT_BYTES: RangeInclusive<u64> = 24 * MIB..=64 * MIB;
const LOG_BYTES_MIN: u64 = 16 * MIB;
/// kblocks and vblocks are at most this long, and on no pool shorter than the second.
pub(crate) const OBJECT_BYTES_MAX: u64 = 32 * MIB;
const OBJECT_BYTES_MIN: u64 = 4 * MIB;
/// Segments with which the log goes on whatever happens: one that is written, one that waits for
/// its flush, and the next.
pub(crate) const SEGMENTS_MIN: u64 = 3;
/// What is kept for compaction, in objects: the keys of a leaf, the values of a vblock, and as much
/// again for what is not exact.
const COMPACTION_OBJECTS: u64 = 3;
/// Part of the pool that is free beyond the reserve when puts are accepted for good again. It is
/// also about what scattered deletes should come to before compaction can win them back for less
/// than twenty times as many bytes written.
const RELIEF: u64 = 20;

/// The space of a database, by who may use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceInfo {
    /// What is in use and what is free, together: the limits of the volumes, or what their disks
    /// have room for.
    pub total_bytes: u64,
    /// Bytes free, now or after growth.
    pub free_bytes: u64,
    /// Bytes of them that flushes, the log and compaction need to go on.
    pub reserve_bytes: u64,
    /// Bytes of them that puts can take before they are refused.
    pub writable_bytes: u64,
    /// About what must become free before puts are accepted for good: it is above 0 from when puts
    /// are refused until a twentieth of the pool, or a memtable if that is more, is free beyond the
    /// reserve.
    pub missing_bytes: u64,
    /// Bytes more than are free that compaction needs to turn any delete into free space, because
    /// what it would have to merge is longer; 0 while it can. Deleting does not help then: dropping
    /// a KVS does, or adding as much.
    pub stuck_bytes: u64,
}

impl SpaceInfo {
    /// The space of a pool, were a database with these options opened on it.
    pub fn of(free: FreeSpace, options: &Options) -> Self {
        let fit = options.clone().fitted_to(free.total_bytes);
        let needs = Needs::new(&fit, free.total_bytes);
        needs.account(free, 0, needs.is_short(free, false))
    }
}

/// What the engine's work needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "units stand last in names")]
pub(crate) struct Needs {
    /// One memtable, full, and all of them.
    memtable_bytes: u64,
    memtables_bytes: u64,
    /// One segment of the log.
    segment_bytes: u64,
    /// kblocks and vblocks.
    pub(crate) object_bytes: u64,
}

impl Options {
    /// These options as they are in effect in a pool of so many bytes ([`SpaceInfo::total_bytes`]):
    /// memtables, segments and the log have a part of it each at most.
    #[must_use]
    pub fn fitted_to(mut self, total_bytes: u64) -> Self {
        let share = total_bytes / SHARE;
        self.memtable_bytes = self.memtable_bytes.min(share.max(MEMTABLE_BYTES_MIN));
        self.wal_bytes_max = self.wal_bytes_max.min((total_bytes / LOG_SHARE).max(LOG_BYTES_MIN));
        let given = self.wal_segment_bytes;
        let least = if SEGMENT_BYTES.contains(&given) { *SEGMENT_BYTES.start() } else { given };
        self.wal_segment_bytes = given.min(share.max(least));
        self
    }
}

impl Needs {
    /// With options that fit the pool.
    pub(crate) fn new(options: &Options, total_bytes: u64) -> Self {
        Self {
            memtable_bytes: options.memtable_bytes,
            memtables_bytes: options.memtable_bytes * (options.memtables_max + 1),
            segment_bytes: options.wal_segment_bytes,
            object_bytes: (total_bytes / SHARE).clamp(OBJECT_BYTES_MIN, OBJECT_BYTES_MAX),
        }
    }

    /// What is kept for one compaction.
    pub(crate) fn compaction_bytes(self) -> u64 {
        COMPACTION_OBJECTS * self.object_bytes
    }

    /// What segments that the log does not have yet will take.
    pub(crate) fn log_bytes(self, free: FreeSpace) -> u64 {
        (SEGMENTS_MIN * self.segment_bytes).saturating_sub(free.segment_bytes)
    }

    /// What must be free for work under way to end.
    fn work_bytes(self, free: FreeSpace) -> u64 {
        self.memtables_bytes + self.log_bytes(free) + self.compaction_bytes()
    }

    /// Free bytes below which puts are refused.
    pub(crate) fn reserve_bytes(self, free: FreeSpace) -> u64 {
        self.work_bytes(free).max(free.spare_bytes)
    }

    /// Free bytes below which writers slow down and work turns to freeing space, so that some is
    /// won back before puts are refused.
    pub(crate) fn tight_bytes(self, free: FreeSpace) -> u64 {
        self.reserve_bytes(free) + self.work_bytes(free)
    }

    /// The most bytes of keys that a leaf may have: what a merge of it writes must fit what is kept
    /// for compaction.
    pub(crate) fn leaf_bytes_max(self, free: FreeSpace) -> u64 {
        self.object_bytes.max(self.reserve_bytes(free) / 8)
    }

    /// Free bytes from which on puts that were refused are accepted for good.
    fn relief_bytes(self, free: FreeSpace) -> u64 {
        self.reserve_bytes(free) + self.memtable_bytes.max(free.total_bytes / RELIEF)
    }

    /// Whether space is missing, given whether it was when somebody last looked.
    pub(crate) fn is_short(self, free: FreeSpace, was_short: bool) -> bool {
        let enough = if was_short { self.relief_bytes(free) } else { self.reserve_bytes(free) };
        free.object_bytes < enough
    }

    /// The space by who may use it, when a write of `write_bytes` asks, and space is short or not.
    pub(crate) fn account(self, free: FreeSpace, write_bytes: u64, is_short: bool) -> SpaceInfo {
        let (total_bytes, free_bytes) = (free.total_bytes, free.object_bytes);
        let reserve_bytes = self.reserve_bytes(free);
        let relief_bytes = if is_short { self.relief_bytes(free) + write_bytes } else { 0 };
        let missing_bytes = relief_bytes.saturating_sub(free_bytes);
        let writable_bytes = free_bytes.saturating_sub(reserve_bytes);
        SpaceInfo {
            total_bytes,
            free_bytes,
            reserve_bytes,
            writable_bytes,
            missing_bytes,
            stuck_bytes: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(total_mib: u64, free_mib: u64, segments_mib: u64) -> FreeSpace {
        FreeSpace {
            object_bytes: free_mib * MIB,
            log_bytes: free_mib * MIB,
            spare_bytes: total_mib * MIB / 20,
            total_bytes: total_mib * MIB,
            segment_bytes: segments_mib * MIB,
        }
    }

    /// 300 MiB were less than four memtables of 64 MiB, a segment of 64 and 32 for compaction: puts
    /// were refused from the start.
    #[test]
    fn work_takes_a_like_part_of_pools_of_all_sizes() {
        // Total; then memtable, segment, object; then the reserve without any segment.
        let table = [
            (160, [5, 24, 5], 20 + 72 + 15),
            (300, [9, 24, 9], 38 + 72 + 28),
            (680, [21, 24, 21], 85 + 72 + 64),
            (1024, [32, 32, 32], 128 + 96 + 96),
            (2048, [64, 64, 32], 256 + 192 + 96),
            (1 << 20, [64, 64, 32], 52_428),
        ];
        for (total, [memtable, segment, object], reserve) in table {
            let options = Options::default().fitted_to(total * MIB);
            options.validate().unwrap();
            let needs = Needs::new(&options, total * MIB);
            let sizes = [options.memtable_bytes, options.wal_segment_bytes, needs.object_bytes];
            assert_eq!(sizes.map(|bytes| bytes / MIB), [memtable, segment, object], "{total}");
            let reserve_bytes = needs.reserve_bytes(free(total, total, 0));
            assert!(reserve_bytes.div_ceil(MIB).abs_diff(reserve) <= 2, "{total}: {reserve_bytes}");
            assert!(needs.leaf_bytes_max(free(total, total, 0)) >= needs.object_bytes);
        }
    }

    #[test]
    fn options_are_never_raised_and_batches_stay_as_long() {
        for (memtable_mib, segment_mib) in
            [(1, 4), (64, 16), (64, 24), (64, 32), (8, 64), (64, 64), (64, 72), (4096, 1024)]
        {
            let given = Options {
                memtable_bytes: memtable_mib * MIB,
                wal_segment_bytes: segment_mib * MIB,
                ..Options::default()
            };
            for total in [16, 100, 300, 1000, 10_000, 1 << 20] {
                let fit = given.clone().fitted_to(total * MIB);
                assert!(fit.memtable_bytes <= given.memtable_bytes);
                assert!(fit.wal_segment_bytes <= given.wal_segment_bytes);
                assert!(fit.wal_bytes_max <= given.wal_bytes_max);
                assert!(fit.batch_bytes_max() >= given.batch_bytes_max(), "{total} {segment_mib}");
            }
        }
    }

    #[test]
    fn what_puts_may_take_is_what_the_reserve_leaves() {
        let needs = Needs::new(&Options::default(), 10_000 * MIB);
        let account = |free_mib| {
            let free = free(10_000, free_mib, 192);
            needs.account(free, 18, needs.is_short(free, false))
        };
        let reserve = account(10_000).reserve_bytes / MIB;
        assert_eq!(reserve, 500, "the spare part is more than 352");
        assert_eq!(account(10_000).writable_bytes, 9500 * MIB);
        assert_eq!((account(500).writable_bytes, account(500).missing_bytes), (0, 0));
        assert_eq!(
            (account(499).writable_bytes, account(499).missing_bytes > 400 * MIB),
            (0, true)
        );
        assert!(account(1).missing_bytes >= 499 * MIB);
    }

    /// It was 5 % of what is stored at one look and 0 at the next, as work gave back a little.
    #[test]
    fn what_is_missing_falls_by_what_becomes_free_and_to_nothing_once() {
        let needs = Needs::new(&Options::default(), 2048 * MIB);
        // Free and segments of the log, MiB; then what is missing. The reserve is 352 with three
        // segments, and the relief 102 more.
        let looks = [
            (453, 192, 0),
            (352, 192, 0),
            (351, 192, 104),
            (360, 192, 95),
            (351, 192, 104),
            // A segment of the log is given back, and taken again: the reserve moves with it.
            (415, 128, 104),
            (351, 192, 104),
            (400, 192, 55),
            (454, 192, 1),
            (455, 192, 0),
            (400, 192, 0),
            (352, 192, 0),
            (351, 192, 104),
        ];
        let mut short = false;
        for (at, (free_mib, segments_mib, missing_mib)) in looks.into_iter().enumerate() {
            let free = free(2048, free_mib, segments_mib);
            short = needs.is_short(free, short);
            let space = needs.account(free, 0, short);
            assert_eq!(space.missing_bytes.div_ceil(MIB), missing_mib, "look {at}");
            assert_eq!(needs.account(free, 7, short).missing_bytes > space.missing_bytes, short);
        }
        // Scattered deletes are worth their compaction from a twentieth of what is stored on.
        let full = free(2048, 351, 192);
        let used = full.total_bytes - full.object_bytes;
        assert!(needs.account(full, 0, true).missing_bytes >= used / 20);
    }

    /// As docs/compaction.md has it, with a log of three segments.
    #[test]
    fn writers_slow_down_where_the_documents_say() {
        for (total, writable, slow) in [
            (256, 128, 56),
            (512, 328, 112),
            (1024, 704, 224),
            (2048, 1504, 352),
            (10_240, 9536, 352),
            (1 << 20, (1 << 20) - 192 - (1 << 20) / 20, 352),
        ] {
            let options = Options::default().fitted_to(total * MIB);
            let needs = Needs::new(&options, total * MIB);
            let segments = 3 * options.wal_segment_bytes / MIB;
            let free = free(total, total - segments, segments);
            let reserve = needs.reserve_bytes(free);
            let found = [free.object_bytes - reserve, needs.tight_bytes(free) - reserve];
            assert_eq!(found.map(|bytes| bytes.div_ceil(MIB)), [writable, slow], "{total}");
        }
    }

    /// A segment that exists takes nothing more, so a log that has grown leaves puts as much as one
    /// that has not.
    #[test]
    fn segments_count_once() {
        let needs = Needs::new(&Options::default(), 2048 * MIB);
        let reserve = |segments| needs.reserve_bytes(free(2048, 1000, segments)) / MIB;
        assert_eq!((reserve(0), reserve(64), reserve(192), reserve(640)), (544, 480, 352, 352));
    }
}
