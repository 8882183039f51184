//! The Millpond pool: immutable objects, journals, memory maps and a reaper in user space.
//!
//! A pool lives on one volume and knows nothing of keys and values. It offers
//!
//! - **mblocks**, immutable objects: allocate, append, commit, read, delete. Several are created
//!   and
//!   deleted by one commit, all or nothing across a crash. Their ids are never reused.
//! - **MDCs**, crash-safe journals of small records, rewritten in the background before they are
//!   full.
//! - **segments**, fixed extents for write-ahead logs.
//! - **maps** over mblocks, and a **reaper** that keeps their memory within a budget.
//!
//! # Durability
//!
//! `commit`, `create_*`, `delete_segment`, `set_property`, [`Mdc::append`] and
//! [`Segment::write_durable_at`] are durable when they return `Ok`. What was not committed is gone
//! after a crash. A failed flush poisons the pool: nothing is written any more, reads go on, and
//! only opening it again lifts that. Everything the pool reads for itself is checksummed; the
//! contents of mblocks and segments are their owner's to check.
//!
//! # Limits of the process
//!
//! A volume file grows up to the longest file that the process may make ([`file_bytes_max`],
//! `ulimit -f`) and is full there, so that no SIGXFSZ comes. A program that lowers that limit while
//! a pool is open takes the signal itself: its default action ends the process.
//!
//! # Example
//!
//! ```
//! use mpool::{IoBuf, Options, Pool, Priority, IO_ALIGN};
//!
//! # fn main() -> mpool::Result<()> {
//! # let scratch = tempfile::tempdir().expect("a scratch directory");
//! # let dir = scratch.path();
//! # for _again in 0..2 {
//! # let mut options = Options { reserve_bytes: Some(0), ..Options::default() };
//! # (options.allow_buffered, options.allow_volatile) = (true, true);
//! # options.grow_step_bytes = 1 << 20;
//! let pool = Pool::open_or_create(dir, &options)?;
//! let mut writer = pool.allocate(1 << 20, Priority::Flush)?;
//! writer.append(b"hello")?;
//! let mblock = pool.commit(vec![writer], &[])?.remove(0);
//! let mut page = IoBuf::zeroed(IO_ALIGN);
//! mblock.read_at(0, &mut page)?;
//! assert_eq!(&page[..5], b"hello");
//! # }
//! # Ok(())
//! # }
//! ```

mod address;
mod chores;
pub mod device;
mod error;
mod features;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod heads;
mod id;
mod io;
mod journal;
mod media;
mod metrics;
mod missing;
mod object;
mod offline;
mod options;
mod pool;
mod reaper;
mod shared_map;
mod site;
mod space;
mod sys;
mod upkeep;
mod verify;

pub use address::{ALLOC_UNIT, VolumeId};
pub use device::{
    Device, EmulatedZoned, Geometry, Zone, ZoneCondition, ZoneHabits, ZoneLimits, Zoned,
    ZonedDevice, file_bytes_max,
};
pub use error::{Error, Result, Scope};
pub use features::{Feature, FeatureKind, Features};
pub use id::{MblockId, MdcId, SegmentId, uuid_text};
pub use io::{
    appends::{AppendDone, AppendRing},
    queue::{BufWrite, IoQueue},
    request::Done,
    thread::Job,
};
pub use journal::{
    last::LastOnVolume,
    mdc::{MDC_RECORD_BYTES_MAX, Mdc, MdcState, background::MdcSnapshot, pair::MdcRoom},
};
pub use media::{Lifetime, MediaClass, Placement, Priority, VolumeKind};
pub use metrics::{
    Counter, Gauge, MetricKind, PoolMetrics, Sample, Value,
    histogram::{Histogram, HistogramCounts, LatencySummary},
};
pub use missing::{MissingVolume, VolumeHolds};
pub use mpool_device::{IO_ALIGN, IoBuf};
pub use object::{
    mblock::{Mblock, MblockWriter},
    mcache::{Advice, Class, Map, MapId, MapStats, PageRef, ReadDone},
    segment::Segment,
};
pub use offline::{
    check::{CheckOptions, CheckReport, Issue, PoolIdentity, Severity},
    destroy::Destroyed,
    inspect::Inspection,
    recover::FoundJournal,
};
pub use options::{
    Create, IoBackend, MpoolOptions, Options, PacingOptions, ReaperOptions, ReaperPolicy,
    ReturnOptions,
};
pub use pool::{
    Pool, PoolInfo,
    create::NewRoot,
    raw::RawPiece,
    scrub::{
        Damage, Finding, ScrubOptions, ScrubOwners, ScrubPart, ScrubProgress, ScrubTarget,
        SegmentScrub, VerifySegment,
    },
    volumes::{Evacuation, NewVolume, VolumeInfo},
};
pub use reaper::{MarginalHits, MemoryConsumer, Reaper, ReaperStats, memory_budget_bytes};
pub use shared_map::SharedMap;
pub use space::{FreeSpace, extent::FreeExtents};
pub use sys::{
    anonymous::{CHUNK_LEN, Chunk, Pages},
    heap::{return_free_memory, return_large_allocations},
    nice::lower_priority,
};

/// The example of the README is compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
