//! What all parts of one database share: its pool, shape, space and caches.

pub(crate) mod space;

use crate::cache::ValueCache;
use crate::dead::hints::Hints;
use crate::entry::owner::Owner;
use crate::kvset::ReadAhead;
use crate::memtable::Memtable;
use crate::metrics::DbMetrics;
use crate::options::Options;
use crate::options::placement::{self, Level, Part};
use crate::shape::holds::Holds;
use crate::shape::life::Life;
use crate::shape::loss::Loss;
use crate::shape::view::View;
use crate::shape::{Shape, Versions};
use crate::wal::recovery;
use mpool::{MediaClass, Placement, Pool, Priority, ScrubTarget};
use space::Space;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// What the value cache holds until the memory governor first speaks.
const VALUE_CACHE_START_BYTES: u64 = 64 << 20;

/// See the module.
pub(crate) struct Store {
    pub(crate) pool: Arc<Pool>,
    pub(crate) options: Options,
    pub(crate) life: Arc<Life>,
    pub(crate) shape: Shape,
    pub(crate) space: Space,
    /// Who its handles belong to.
    pub(crate) owner: Arc<Owner>,
    pub(crate) cache: Arc<ValueCache>,
    pub(crate) hints: Hints,
    pub(crate) holds: Arc<Holds>,
    /// What scans hold of values that they read ahead.
    pub(crate) read_ahead: Arc<ReadAhead>,
    /// What the open has left out.
    pub(crate) losses: OnceLock<Vec<Loss>>,
    /// Where the bytes of that are, as far as they are on the medium.
    pub(crate) condemned: OnceLock<Vec<ScrubTarget>>,
    /// Bytes of log at which the active memtable is sealed early.
    pub(crate) log_bytes_max: AtomicU64,
    pub(crate) metrics: DbMetrics,
}

impl Store {
    pub(crate) fn new(pool: Arc<Pool>, options: Options, versions: Versions, view: View) -> Self {
        let life = Arc::new(Life::new(pool.is_read_only()));
        let brings = options.background_threads > 0;
        Self {
            shape: Shape::new((&pool, &life), versions, view, brings),
            space: Space::new((&pool, &life), &options),
            cache: Arc::new(ValueCache::new(
                options.value_cache_bytes.unwrap_or(VALUE_CACHE_START_BYTES),
            )),
            losses: OnceLock::new(),
            condemned: OnceLock::new(),
            hints: Hints::default(),
            holds: Arc::new(Holds::new(options.snapshot_age_max_ms)),
            read_ahead: Arc::default(),
            log_bytes_max: AtomicU64::new(options.wal_bytes_max),
            metrics: DbMetrics::default(),
            owner: Owner::new(&pool),
            life,
            pool,
            options,
        }
    }

    /// Bounds the log by what a recovery may take, at this many bytes a second, if that is known.
    pub(crate) fn bound_log(&self, rate: Option<u64>) {
        let time = Duration::from_millis(self.options.recovery_ms);
        let bytes = recovery::log_bytes_max(self.options.wal_bytes_max, time, rate);
        if bytes < self.options.wal_bytes_max {
            tracing::info!(
                bytes,
                bytes_per_s = rate,
                "the log is kept as short as recovery_time asks"
            );
        }
        self.log_bytes_max.store(bytes, Ordering::Relaxed);
    }

    /// Seals the active memtable: see [`Shape::seal`].
    pub(crate) fn seal(&self) {
        let bytes =
            usize::try_from(self.options.memtable_bytes).expect("validated to 4 GiB at most");
        if self.shape.seal(|| Memtable::new(bytes)) {
            self.metrics.seals.add(1);
        }
    }

    /// Where keys and values of a new kvset go.
    pub(crate) fn placements(&self, level: Level, priority: Priority) -> (Placement, Placement) {
        let (policy, has_staging) = (self.options.media_policy, self.has_staging());
        let place = |part| placement::place(policy, has_staging, level, part, priority);
        (place(Part::Keys), place(Part::Values))
    }

    /// The class to which values move when they leave the root, if they do.
    pub(crate) fn values_move_to(&self) -> Option<MediaClass> {
        let moves = placement::values_move(self.options.media_policy, self.has_staging());
        moves.then(|| self.placements(Level::Leaf, Priority::Compaction).1.class)
    }

    fn has_staging(&self) -> bool {
        self.pool.has_class(MediaClass::Staging)
    }
}
