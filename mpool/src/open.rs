//! Creating and opening a pool.
//!
//! Opening is a list of steps, each of which may be repeated after a crash in any of them:
//!
//! 1. flush: what is read from here on is on the medium, not in some cache;
//! 2. superblock: elect a copy, write the other again if it is damaged or old;
//! 3. the pool's journal: elect a log, replay it into the catalog;
//! 4. space map: everything that the catalog does not name is free.
//!
//! So whatever was not committed has vanished after step 4. Creating writes the journal first and
//! the superblock last: a pool exists whole or not at all.

use crate::{
    catalog::{Catalog, MblockPlace},
    device::{Device, FileDevice, FileOptions},
    error::{Error, Result},
    io::queue::{IoQueue, Priority},
    journal::{self, Journal},
    mblock::Mblock,
    mcache::Mcache,
    mdc::pair::LogPair,
    metrics::PoolMetrics,
    options::Options,
    pool::{Pool, Table},
    reaper::Reaper,
    segment::Segment,
    space::{ALLOC_UNIT, Space, extent::Extent},
    superblock::{self, Election, RESERVED, Superblock},
    volume::Volume,
};
use parking_lot::{Mutex, RwLock};
use std::{
    collections::BTreeSet,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The volume's file within the pool's directory.
const VOLUME_FILE: &str = "capacity.vol";
/// The pool's journal takes this share of the capacity for each of its logs, within bounds: at
/// 36 bytes an object, 8 MiB describe 230,000 objects.
const LOG_SHARE: u64 = 256;
const LOG_BYTES_MIN: u64 = 2 * ALLOC_UNIT;
const LOG_BYTES_MAX: u64 = 8 << 20;

impl Pool {
    /// Opens the pool in DIR (its volume is DIR/capacity.vol); creates the directory and the pool
    /// if there is none. [`Error::InUse`] if locked by another process.
    pub fn open_or_create(dir: &Path, options: &Options) -> Result<Arc<Self>> {
        options.validate()?;
        std::fs::create_dir_all(dir).map_err(|error| Error::Unusable {
            path: dir.to_owned(),
            reason: format!("the directory cannot be created: {error}"),
        })?;
        let path = dir.join(VOLUME_FILE);
        let device = FileDevice::open_or_create(&path, &file_options(options))?;
        let volume = new_volume(Arc::new(device));
        let pool = match superblock::read(&volume) {
            Ok(Election::Blank) => create_on(&volume, options),
            Ok(Election::Elected { .. }) => open_on(&volume, options),
            Err(error) => Err(error),
        };
        pool.map_err(|error| with_path(error, &path))
    }

    /// Opens the pool in DIR; there must be one.
    pub fn open_dir(dir: &Path, options: &Options) -> Result<Arc<Self>> {
        options.validate()?;
        let path = dir.join(VOLUME_FILE);
        let device = FileDevice::open(&path, &file_options(options))?;
        open_on(&new_volume(Arc::new(device)), options).map_err(|error| with_path(error, &path))
    }

    /// Creates a pool on a given device, which must not hold one.
    pub fn create(device: Arc<dyn Device>, options: &Options) -> Result<Arc<Self>> {
        options.validate()?;
        let volume = new_volume(device);
        match superblock::read(&volume)? {
            Election::Blank => create_on(&volume, options),
            Election::Elected { .. } => Err(unusable("holds a pool already; open it instead")),
        }
    }

    /// Opens the pool on a given device.
    pub fn open(device: Arc<dyn Device>, options: &Options) -> Result<Arc<Self>> {
        options.validate()?;
        open_on(&new_volume(device), options)
    }
}

fn file_options(options: &Options) -> FileOptions {
    FileOptions {
        allow_buffered: options.allow_buffered,
        len_bytes_max: options.capacity_bytes_max,
        grow_step_bytes: options.grow_step_bytes,
        reserve_bytes: options.reserve_bytes,
    }
}

fn new_volume(device: Arc<dyn Device>) -> Arc<Volume> {
    Arc::new(Volume::new(device, Arc::new(PoolMetrics::default())))
}

fn unusable(reason: &str) -> Error {
    Error::Unusable { path: PathBuf::from("volume"), reason: reason.to_owned() }
}

/// Errors from below the file's name speak of "volume"; the user knows it by its path.
fn with_path(error: Error, path: &Path) -> Error {
    match error {
        Error::Unusable { reason, .. } => Error::Unusable { path: path.to_owned(), reason },
        other => other,
    }
}

fn create_on(volume: &Arc<Volume>, options: &Options) -> Result<Arc<Pool>> {
    let capacity = options.capacity_bytes_max.min(volume.device().geometry().len_bytes_max);
    let log_len = (capacity / LOG_SHARE).clamp(LOG_BYTES_MIN, LOG_BYTES_MAX);
    let log_len = log_len.next_multiple_of(ALLOC_UNIT);
    let log = |n: u64| Extent { offset: RESERVED.end() + n * log_len, len: log_len };
    let logs = [log(0), log(1)];
    let need_bytes = logs[1].end();
    if need_bytes > capacity || !volume.grow(need_bytes)? {
        return Err(Error::Full { need_bytes, free_bytes: capacity });
    }
    for log in logs {
        volume.write_zeros(log, Priority::Wal)?;
    }
    volume.flush()?;
    let uuid = new_uuid()?;
    LogPair::format(Arc::clone(volume), journal::place(uuid, logs))?;
    let superblock = Superblock { compat: 0, generation: 1, uuid, logs };
    superblock.write_copy(volume, 0)?;
    superblock.write_copy(volume, 1)?;
    tracing::info!(device = volume.device().kind(), capacity, "created a pool");
    open_on(volume, options)
}

fn open_on(volume: &Arc<Volume>, options: &Options) -> Result<Arc<Pool>> {
    volume.flush()?;
    let superblock = match superblock::read(volume)? {
        Election::Blank => return Err(unusable("holds no pool; create one first")),
        Election::Elected { superblock, repair } => {
            if let Some(copy) = repair {
                tracing::warn!(copy, "superblock copy is damaged or old; writing it again");
                superblock.write_copy(volume, copy)?;
            }
            superblock
        }
    };
    let Superblock { uuid, logs, .. } = superblock;
    let journal = Journal::open(Arc::clone(volume), journal::place(uuid, logs))?;
    let mut used = journal.read(Catalog::extents);
    used.extend([RESERVED, logs[0], logs[1]]);
    let capacity = options.capacity_bytes_max;
    let space = Arc::new(Space::rebuild(Arc::clone(volume), capacity, &used)?);
    let mcache = Mcache::new(Arc::clone(volume));
    let queue = Arc::new(IoQueue::new(Arc::clone(volume), options.io, options.queue_depth)?);
    let table = journal.read(|catalog| table_of(catalog, volume, &space, &mcache));
    tracing::info!(mblocks = table.mblocks.len(), io = queue.backend(), "opened a pool");
    Ok(Arc::new(Pool {
        uuid,
        journal,
        table: RwLock::new(table),
        open_mdcs: Arc::new(Mutex::new(BTreeSet::new())),
        space,
        volume: Arc::clone(volume),
        reaper: Reaper::start(&options.reaper, &mcache)?,
        mcache,
        queue,
    }))
}

fn table_of(
    catalog: &Catalog,
    volume: &Arc<Volume>,
    space: &Arc<Space>,
    mcache: &Arc<Mcache>,
) -> Table {
    let mblock = |(id, place): (&_, &MblockPlace)| {
        let lease = space.adopt(place.extent);
        (*id, Mblock::new(*id, place.len_bytes, lease, volume, mcache))
    };
    let segment =
        |(id, extent): (&_, &Extent)| (*id, Segment::new(*id, space.adopt(*extent), volume));
    Table {
        mblocks: catalog.mblocks.iter().map(mblock).collect(),
        segments: catalog.segments.iter().map(segment).collect(),
        mdcs: catalog
            .mdcs
            .iter()
            .map(|(id, logs)| (*id, logs.map(|log| space.adopt(log))))
            .collect(),
    }
}

fn new_uuid() -> Result<[u8; 16]> {
    let mut uuid = [0; 16];
    let filled = File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut uuid));
    filled.map_err(|source| Error::Io { op: "open", offset: 0, len: 16, source })?;
    Ok(uuid)
}
