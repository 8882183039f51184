//! Counters of maps and of the mcache as a whole.
//!
//! A hit must cost next to nothing, and many threads hit the same map. So hits are kept in shards,
//! each on a cache line of its own, and added by a plain load and store: threads of different
//! shards never meet, and two threads of one shard may lose a few counts to each other. Everything
//! else counts slow paths and is exact.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use crate::metrics::{Counter, MetricKind, Sample, Value, histogram::Histogram};

const SHARDS: usize = 8;

#[derive(Debug, Default)]
#[repr(align(64))]
struct Shard(AtomicU64);

/// What happened through one map.
#[derive(Debug, Default)]
pub(crate) struct MapCounters {
    hits: [Shard; SHARDS],
    pub(crate) faults: Counter,
    pub(crate) direct_reads: Counter,
    pub(crate) purged_bytes: Counter,
}

/// The accesses of one map, or of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Accesses {
    pub(crate) hits: u64,
    pub(crate) faults: u64,
    pub(crate) direct_reads: u64,
}

impl Accesses {
    /// Every access there was, for the pace of aging.
    pub(crate) fn all(self) -> u64 {
        self.hits + self.faults + self.direct_reads
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            hits: self.hits + other.hits,
            faults: self.faults + other.faults,
            direct_reads: self.direct_reads + other.direct_reads,
        }
    }

    /// What came since `before`. A hit may be lost to another thread's store, so the counts of hits
    /// can stand still where more is expected, but hardly ever go back.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            hits: self.hits.saturating_sub(before.hits),
            faults: self.faults.saturating_sub(before.faults),
            direct_reads: self.direct_reads.saturating_sub(before.direct_reads),
        }
    }
}

impl MapCounters {
    pub(crate) fn hit(&self) {
        let shard = &self.hits[this_shard()].0;
        shard.store(shard.load(Relaxed).wrapping_add(1), Relaxed);
    }

    pub(crate) fn hits(&self) -> u64 {
        self.hits.iter().map(|s| s.0.load(Relaxed)).sum()
    }

    pub(crate) fn accesses(&self) -> Accesses {
        let (faults, direct_reads) = (self.faults.get(), self.direct_reads.get());
        Accesses { hits: self.hits(), faults, direct_reads }
    }
}

fn this_shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static SHARD: Cell<usize> = const { Cell::new(usize::MAX) });
    SHARD.with(|shard| {
        if shard.get() == usize::MAX {
            shard.set(NEXT.fetch_add(1, Relaxed) % SHARDS);
        }
        shard.get()
    })
}

/// What happened in the mcache as a whole.
#[derive(Debug, Default)]
pub(crate) struct McacheMetrics {
    pub(crate) direct_reads: Counter,
    pub(crate) direct_bytes: Counter,
    pub(crate) filled_bytes: Counter,
    pub(crate) fill: Histogram,
    pub(crate) fill_errors: Counter,
    pub(crate) fills_refused: Counter,
    /// Reads of absent pages that had been asked for often enough to be in memory.
    pub(crate) ghost_hits: Counter,
    pub(crate) preloaded_bytes: Counter,
    pub(crate) verify_failures: Counter,
    pub(crate) evicted_bytes: Counter,
    pub(crate) dead_bytes: Counter,
    pub(crate) purged_bytes: Counter,
    pub(crate) kernel_evicted_pages: Counter,
    pub(crate) stray_pages: Counter,
    pub(crate) doubted_pages: Counter,
    pub(crate) lost_pages: Counter,
}

impl McacheMetrics {
    /// Shows every metric but those of the maps, whose sums take a walk over them (`stats`).
    #[rustfmt::skip]
    pub(crate) fn visit(&self, see: &mut dyn FnMut(&'static str, &'static str, MetricKind, u64)) {
        // Exhaustive on purpose: a new field does not compile until it is named here.
        let Self {
            direct_reads, direct_bytes, filled_bytes, fill: _, fill_errors, fills_refused,
            ghost_hits,
            preloaded_bytes, verify_failures, evicted_bytes, dead_bytes, purged_bytes,
            kernel_evicted_pages, stray_pages, doubted_pages, lost_pages,
        } = self;
        let mut count = |name, help, counter: &Counter| {
            see(name, help, MetricKind::Counter, counter.get());
        };
        count("mpool_mcache_direct_reads_total",         "reads through maps that went to the drive, uncached", direct_reads);
        count("mpool_mcache_direct_bytes_total",         "bytes of those reads",                                direct_bytes);
        count("mpool_mcache_filled_bytes_total",         "bytes admitted to the page cache page by page",       filled_bytes);
        count("mpool_mcache_fill_errors_total",          "admissions that failed at the drive",                 fill_errors);
        count("mpool_mcache_fills_refused_total",        "admissions refused for want of room",                 fills_refused);
        count("mpool_mcache_ghost_hits_total",           "reads of absent pages asked for often enough to be in memory", ghost_hits);
        count("mpool_mcache_preloaded_bytes_total",      "bytes read into the page cache by preloading",        preloaded_bytes);
        count("mpool_mcache_verify_failures_total",      "pages whose checksum did not match",                  verify_failures);
        count("mpool_mcache_evicted_bytes_total",        "bytes evicted by the reaper",                         evicted_bytes);
        count("mpool_mcache_dead_bytes_total",           "bytes of deleted objects dropped from the page cache", dead_bytes);
        count("mpool_mcache_purged_bytes_total",         "bytes dropped on request",                            purged_bytes);
        count("mpool_mcache_kernel_evicted_pages_total", "pages that the kernel evicted on its own",            kernel_evicted_pages);
        count("mpool_mcache_stray_pages_total",          "cached pages found that nobody had admitted",         stray_pages);
        count("mpool_mcache_doubted_pages_total",        "verified pages that will be verified again", doubted_pages);
        count("mpool_mcache_lost_pages_total",           "mapped pages lost to drive errors",                   lost_pages);
    }
    /// Shows how long admissions took.
    pub(crate) fn visit_times(&self, see: &mut dyn FnMut(Sample<'_>)) {
        let help = "reads of the drive that bring pages into the page cache";
        let value = Value::Histogram(self.fill.counts());
        see(Sample { name: "mpool_mcache_fill_duration_seconds", help, labels: &[], value });
    }
}
