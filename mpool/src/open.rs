//! Creating and opening a pool.
//!
//! Opening is a list of steps, each of which may be repeated after a crash in any of them:
//!
//! 1. flush: what is read from here on is on the medium, not in some cache;
//! 2. superblock: elect a copy, refuse features that are not known, write the other copy again if
//!    it is damaged or old;
//! 3. the pool's journal: elect a log, replay it into the catalog, have the superblock name the
//!    features that it needs;
//! 4. the other volumes, as the catalog names them: each must carry the label that it was given;
//! 5. space maps: everything that the catalog does not name is free.
//!
//! So whatever was not committed has vanished after step 5. Creating writes the journal first and
//! the superblock last: a pool exists whole or not at all.

use crate::{
    address::VolumeId,
    anchor::Anchor,
    catalog::Catalog,
    device::{
        self, AppendBy, BlockDevice, Device, EmulatedOptions, EmulatedZoned, FileDevice,
        FileOptions, ZoneLimits, Zoned, ZonedDevice,
    },
    error::{Error, Result},
    io::queue::{IoQueue, Priority},
    journal::{self, Journal},
    journal_chore::JournalChore,
    label::{self, Found, Label},
    mblock::Mblock,
    mcache::Mcache,
    mdc::{pair::LogPair, record::MblockPlace},
    media::{VolumeKind, VolumeRecord},
    metrics::PoolMetrics,
    options::{Options, in_range},
    pool::{OpenMdcs, Pool, Table},
    reaper::Reaper,
    scrub::control::Control,
    segment::Segment,
    space::{ALLOC_UNIT, Lease, Space, extent::Extent, volume::VolumeSpace},
    superblock::{self, Election, RESERVED, Superblock},
    tidy::Tidy,
    volume::Volumes,
    volumes::root_record,
    zone_chore::ZoneChore,
};
use parking_lot::{Mutex, RwLock};
use std::{
    fs::File,
    io::Read,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

/// An emulated drive has at least 16 zones of 1 MiB.
const EMULATED_BYTES_MIN: u64 = 16 << 20;
/// The root volume's file within the pool's directory.
pub(crate) const VOLUME_FILE: &str = "capacity.vol";
/// The pool's journal takes this share of the capacity for each of its logs, within bounds: at
/// 36 bytes an object, 8 MiB describe 230,000 objects. With more than half of that it moves to
/// longer logs (`journal_chore`).
const LOG_SHARE: u64 = 256;
const LOG_BYTES_MIN: u64 = 2 * ALLOC_UNIT;
const LOG_BYTES_MAX: u64 = 8 << 20;

impl Pool {
    /// Opens the pool in DIR (its root volume is DIR/capacity.vol); creates the directory and the
    /// pool if there is none. [`Error::InUse`] if locked by another process.
    pub fn open_or_create(dir: &Path, options: &Options) -> Result<Arc<Self>> {
        options.validate()?;
        std::fs::create_dir_all(dir).map_err(|error| Error::Unusable {
            path: dir.to_owned(),
            reason: format!("the directory cannot be created: {error}"),
        })?;
        let path = dir.join(VOLUME_FILE);
        let device: Arc<dyn Device> = match open_block_root(&path)? {
            Some(device) => device,
            None => Arc::new(FileDevice::open_or_create(&path, &file_options(options))?),
        };
        let volume = new_volume(device, options);
        let pool = match elect(&volume) {
            Ok(Election::Blank) => {
                create_on(&volume, options).and_then(|()| open_in(dir, &volume, options))
            }
            Ok(Election::Elected { .. }) => open_in(dir, &volume, options),
            Err(error) => Err(error),
        };
        pool.map_err(|error| with_path(error, &path))
    }

    /// Opens the pool in DIR; there must be one.
    pub fn open_dir(dir: &Path, options: &Options) -> Result<Arc<Self>> {
        options.validate()?;
        let path = dir.join(VOLUME_FILE);
        let volumes = new_volume(open_root(&path, options)?, options);
        open_in(dir, &volumes, options).map_err(|error| with_path(error, &path))
    }

    /// Creates a pool in DIR whose root volume is a whole block device: DIR/capacity.vol is a
    /// symbolic link to it, so that the pool is opened like any other. There must be no pool in
    /// DIR.
    pub fn create_on_block(dir: &Path, root: &NewRoot, options: &Options) -> Result<Arc<Self>> {
        options.validate()?;
        let path = dir.join(VOLUME_FILE);
        let failed = |error: std::io::Error| Error::Unusable {
            path: path.clone(),
            reason: format!("no pool can be begun here: {error}"),
        };
        let target = std::path::absolute(&root.device).map_err(failed)?;
        // Before anything is made or changed: who has the device, and what is on it?
        let device = device::open_block(&target)?;
        if root.force {
            device::wipe_ends(&*device)
                .map_err(|source| Error::io("durable write", 0, 0, source))?;
        }
        let volume = new_volume(device, options);
        conventional_bytes(&volume).map_err(|error| with_path(error, &target))?;
        match elect(&volume).map_err(|error| with_path(error, &target))? {
            Election::Blank => {}
            Election::Elected { .. } => {
                return Err(with_path(unusable(HOLDS_A_POOL), &target));
            }
        }
        std::fs::create_dir_all(dir).map_err(failed)?;
        std::os::unix::fs::symlink(&target, &path).map_err(failed)?;
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
        create_on(&volume, options).map_err(|error| with_path(error, &target))?;
        open_in(dir, &volume, options).map_err(|error| with_path(error, &target))
    }

    /// Creates a pool on a given device, which must hold neither one nor anything else that is
    /// known.
    pub fn create(device: Arc<dyn Device>, options: &Options) -> Result<Arc<Self>> {
        options.validate()?;
        let volume = new_volume(device, options);
        conventional_bytes(&volume)?;
        match elect(&volume)? {
            Election::Blank => {
                create_on(&volume, options)?;
                open_on(&volume, options, None, &no_others)
            }
            Election::Elected { .. } => Err(unusable(HOLDS_A_POOL)),
        }
    }

    /// Opens the pool on a given device, which is its only volume.
    pub fn open(device: Arc<dyn Device>, options: &Options) -> Result<Arc<Self>> {
        Self::open_with(device, &[], options)
    }

    /// Opens the pool on given devices: the root, and the others by their ids.
    pub fn open_with(
        root: Arc<dyn Device>,
        others: &[(VolumeId, Arc<dyn Device>)],
        options: &Options,
    ) -> Result<Arc<Self>> {
        options.validate()?;
        open_on(&new_volume(root, options), options, None, &|record| {
            let given = others.iter().find(|(id, _)| *id == record.id);
            given.map(|(_, device)| Arc::clone(device)).ok_or_else(|| missing(record))
        })
    }
}

/// The block device that a new pool begins on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRoot {
    /// The device.
    pub device: PathBuf,
    /// Take it even though something is on it, which is then lost.
    pub force: bool,
}

const HOLDS_A_POOL: &str = "holds a pool already; open it, or --force it and lose what is there";

/// The root volume's device if its path leads to a block device.
fn open_block_root(path: &Path) -> Result<Option<Arc<dyn Device>>> {
    let is_block = std::fs::metadata(path).is_ok_and(|m| m.file_type().is_block_device());
    if is_block { device::open_block(path).map(Some) } else { Ok(None) }
}

/// Reads the superblocks. Where there are none, something else may be there, which is named.
fn elect(volumes: &Volumes) -> Result<Election> {
    let found = superblock::read(volumes);
    if !matches!(found, Ok(Election::Blank) | Err(Error::Unusable { .. })) {
        return found;
    }
    let root = volumes.root();
    match device::signature_on(&**root.device()) {
        Ok(Some(signature)) => Err(unusable(&signature.refusal())),
        Ok(None) => found,
        Err(source) => Err(Error::io("read", 0, 0, source)),
    }
}

/// Opens the device of the root volume, which must be there.
pub(crate) fn open_root(path: &Path, options: &Options) -> Result<Arc<dyn Device>> {
    match open_block_root(path)? {
        Some(device) => Ok(device),
        None => Ok(Arc::new(FileDevice::open(path, &file_options(options))?)),
    }
}

/// Finds the device of a volume that the journal names.
type FindDevice<'a> = &'a dyn Fn(&VolumeRecord) -> Result<Arc<dyn Device>>;

fn no_others(record: &VolumeRecord) -> Result<Arc<dyn Device>> {
    Err(missing(record))
}

fn missing(record: &VolumeRecord) -> Error {
    let reason = format!("is {} of the pool and is not here", record.id);
    Error::Unusable { path: record.path.clone(), reason }
}

fn open_in(dir: &Path, volumes: &Arc<Volumes>, options: &Options) -> Result<Arc<Pool>> {
    open_on(volumes, options, Some(dir), &|record| {
        open_device(&dir.join(&record.path), record, options, false)
    })
}

/// Opens the device of a volume that is not the root; `create` makes a file that is not there.
pub(crate) fn open_device(
    path: &Path,
    record: &VolumeRecord,
    options: &Options,
    create: bool,
) -> Result<Arc<dyn Device>> {
    let file = FileOptions { len_bytes_max: record.capacity_bytes_max, ..file_options(options) };
    match record.kind {
        VolumeKind::File if create => Ok(Arc::new(FileDevice::open_or_create(path, &file)?)),
        VolumeKind::File => Ok(Arc::new(FileDevice::open(path, &file)?)),
        VolumeKind::Zoned => Ok(Arc::new(ZonedDevice::open(path, AppendBy::Auto)?)),
        VolumeKind::EmulatedZoned if create && !path.exists() => {
            let new = emulated_options(record.capacity_bytes_max, options.allow_buffered)?;
            Ok(Arc::new(EmulatedZoned::create(path, &new)?))
        }
        VolumeKind::EmulatedZoned => {
            Ok(Arc::new(EmulatedZoned::open(path, options.allow_buffered)?))
        }
        VolumeKind::Block => Ok(Arc::new(BlockDevice::open(path)?)),
    }
}

/// An emulated drive of this size: zones of up to 64 MiB, and the budgets of usual ZNS drives.
fn emulated_options(capacity: u64, allow_buffered: bool) -> Result<EmulatedOptions> {
    in_range("capacity of an emulated zoned volume", capacity, EMULATED_BYTES_MIN, 1 << 44)?;
    let zone_bytes = (capacity / 64).next_power_of_two().clamp(1 << 20, 64 << 20);
    let zones = u32::try_from(capacity / zone_bytes).expect("2^18 at most");
    let limits = ZoneLimits {
        zones,
        zone_bytes,
        conventional_zones: 0,
        open_max: 14,
        active_max: 14,
        append_bytes_max: 1 << 20,
        block_bytes: 4096,
    };
    Ok(EmulatedOptions { limits, capacity: zone_bytes, allow_buffered })
}

fn file_options(options: &Options) -> FileOptions {
    FileOptions {
        allow_buffered: options.allow_buffered,
        len_bytes_max: options.capacity_bytes_max,
        grow_step_bytes: options.grow_step_bytes,
        reserve_bytes: options.reserve_bytes,
    }
}

fn new_volume(device: Arc<dyn Device>, options: &Options) -> Arc<Volumes> {
    Arc::new(Volumes::new(device, Arc::new(PoolMetrics::default())).paced(options))
}

fn unusable(reason: &str) -> Error {
    Error::Unusable { path: PathBuf::from("volume"), reason: reason.to_owned() }
}

/// Errors from below the file's name speak of "volume"; the user knows it by its path.
fn with_path(error: Error, path: &Path) -> Error {
    match error {
        Error::Unusable { path: nameless, reason } if nameless == Path::new("volume") => {
            Error::Unusable { path: path.to_owned(), reason }
        }
        other => other,
    }
}

/// Bytes of the root that can be overwritten.
fn conventional_bytes(volumes: &Volumes) -> Result<u64> {
    let root = volumes.root();
    match root.device().zones().map(Zoned::limits) {
        None => Ok(root.device().geometry().len_bytes_max),
        Some(limits) if limits.conventional_zones > 0 => {
            Ok(u64::from(limits.conventional_zones) * limits.zone_bytes)
        }
        Some(_) => Err(unusable(
            "has only zones that are written in sequence; a pool begins on a volume that can be \
             overwritten, and such a device is added to it",
        )),
    }
}

fn create_on(volume: &Arc<Volumes>, options: &Options) -> Result<()> {
    let root = volume.root();
    let device = root.device();
    let capacity = options.capacity_bytes_max.min(conventional_bytes(volume)?);
    let log_len = (capacity / LOG_SHARE).clamp(LOG_BYTES_MIN, LOG_BYTES_MAX);
    let log_len = log_len.next_multiple_of(ALLOC_UNIT);
    let log = |n: u64| Extent { offset: RESERVED.end() + n * log_len, len: log_len };
    let logs = [log(0), log(1)];
    let need_bytes = logs[1].end();
    let fits = need_bytes <= device.geometry().len_bytes;
    if need_bytes > capacity || !(fits || volume.grow(VolumeId::ROOT, need_bytes)?) {
        return Err(Error::Full { need_bytes, free_bytes: capacity });
    }
    for log in logs {
        volume.write_zeros(log, Priority::Wal)?;
    }
    volume.flush()?;
    let uuid = new_uuid()?;
    LogPair::format(Arc::clone(volume), journal::place(uuid, logs))?;
    let superblock = Superblock::new(uuid, logs);
    superblock.write_copy(volume, 0)?;
    superblock.write_copy(volume, 1)?;
    tracing::info!(device = device.kind(), capacity, "created a pool");
    Ok(())
}

fn open_on(
    volume: &Arc<Volumes>,
    options: &Options,
    dir: Option<&Path>,
    find: FindDevice<'_>,
) -> Result<Arc<Pool>> {
    volume.flush()?;
    let superblock = match elect(volume)? {
        Election::Blank => return Err(unusable("holds no pool; create one first")),
        Election::Elected { superblock, repair } => {
            superblock.check_writable()?;
            if let Some(copy) = repair {
                tracing::warn!(copy, "superblock copy is damaged or old; writing it again");
                superblock.write_copy(volume, copy)?;
            }
            superblock
        }
    };
    let Superblock { uuid, logs, .. } = superblock;
    let anchor = Arc::new(Anchor::new(volume, superblock));
    let poisoned = Arc::clone(volume);
    let on_fault = move || poisoned.poison_for("a chore panicked; its work may be half done");
    let tidy = Tidy::start(options.background, on_fault)?;
    let journal = Arc::new(Journal::open(volume, &anchor, tidy.bell())?);
    let records = join_volumes(volume, &journal, uuid, options, find)?;
    let mut used = journal.read(Catalog::extents);
    used.extend(logs);
    let stray = used.iter().find(|extent| volume.get(VolumeId::of(extent.offset)).is_none());
    if let Some(extent) = stray {
        let reason = "an object lies on a volume that the pool does not have";
        return Err(Error::corrupt("pool journal", extent.offset, reason));
    }
    let space = Arc::new(Space::new(volume).tidied(tidy.bell()));
    for record in &records {
        space.add(VolumeSpace::rebuild(volume, record, &used, options.spare_pct)?);
    }
    let mcache = Mcache::new(Arc::clone(volume));
    let queue = Arc::new(IoQueue::new(Arc::clone(volume), options.io, options.queue_depth)?);
    let table = journal.read(|catalog| table_of(catalog, volume, &space, &mcache));
    let journal_chore = JournalChore::new(&journal, volume, &space, Arc::clone(&anchor));
    let journal_chore = tidy.bell().add(Box::new(journal_chore))?;
    tracing::info!(
        mblocks = table.mblocks.len(),
        volumes = records.len(),
        io = queue.backend(),
        "opened a pool"
    );
    let pool = Arc::new(Pool {
        zone_chore: OnceLock::new(),
        _journal_chore: journal_chore,
        tidy,
        uuid,
        anchor,
        journal,
        table: RwLock::new(table),
        open_mdcs: OpenMdcs::default(),
        space,
        volumes: Arc::clone(volume),
        reaper: Reaper::start(&options.reaper, &mcache)?,
        mcache,
        queue,
        options: options.clone(),
        dir: dir.map(Path::to_owned),
        changing_volumes: Mutex::new(()),
        scrubbing: Control::default(),
    });
    pool.publish_scrub();
    let chore = pool.tidy.bell().add(Box::new(ZoneChore::new(&pool)))?;
    assert!(pool.zone_chore.set(chore).is_ok(), "set once, here");
    Ok(pool)
}

/// Opens the volumes that the journal names, and returns the records of all, the root's first.
fn join_volumes(
    volumes: &Arc<Volumes>,
    journal: &Journal,
    pool: [u8; 16],
    options: &Options,
    find: FindDevice<'_>,
) -> Result<Vec<VolumeRecord>> {
    let mut named = Arc::unwrap_or_clone(journal.read(|catalog| Arc::clone(&catalog.volumes)));
    let root = match named.remove(&VolumeId::ROOT) {
        // A limit that was raised once is not taken back by a lower option.
        Some(root) => {
            let capacity_bytes_max = root.capacity_bytes_max.max(options.capacity_bytes_max);
            let device = volumes.root();
            device.device().set_len_max(capacity_bytes_max).map_err(|source| Error::Io {
                op: "open",
                offset: 0,
                len: capacity_bytes_max,
                source,
            })?;
            VolumeRecord { capacity_bytes_max, ..root }
        }
        None => root_record(options.capacity_bytes_max),
    };
    let mut records = vec![root];
    for record in named.into_values() {
        let device = find(&record)?;
        let expected = Label { pool, volume: record.uuid, id: record.id };
        if label::read(&*device)? != Found::Label(expected) {
            let reason = format!("does not carry the label of {} of this pool", record.id);
            return Err(Error::Unusable { path: record.path, reason });
        }
        volumes.add(record.id, device);
        records.push(record);
    }
    volumes.flush()?;
    Ok(records)
}

fn table_of(
    catalog: &Catalog,
    volumes: &Arc<Volumes>,
    space: &Space,
    mcache: &Arc<Mcache>,
) -> Table {
    let adopt = |extents: Vec<Extent>| -> Lease { space.adopt(extents) };
    let mblock = |(id, place): (&_, &MblockPlace)| {
        let what = (*id, place.len_bytes, place.sums_crc);
        (*id, Mblock::new(what, adopt(place.extents.clone()), volumes, mcache))
    };
    let segment =
        |(id, extent): (&_, &Extent)| (*id, Segment::new(*id, adopt(vec![*extent]), volumes));
    let mdc = |(id, logs): (&_, &[Extent; 2])| (*id, logs.map(|log| adopt(vec![log])));
    Table {
        mblocks: catalog.mblocks.iter().map(mblock).collect(),
        segments: catalog.segments.iter().map(segment).collect(),
        mdcs: catalog.mdcs.iter().map(mdc).collect(),
    }
}

pub(crate) fn new_uuid() -> Result<[u8; 16]> {
    let mut uuid = [0; 16];
    let filled = File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut uuid));
    filled.map_err(|source| Error::Io { op: "open", offset: 0, len: 16, source })?;
    Ok(uuid)
}
