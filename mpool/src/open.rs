//! Opening a pool.
//!
//! Opening is a list of steps, each of which may be repeated after a crash in any of them:
//!
//! 1. flush: what is read from here on is on the medium, not in some cache;
//! 2. superblock: elect a copy, refuse features that are not known, write the other copy again if
//!    it is damaged or old;
//! 3. the pool's journal: elect a log, replay it into the catalog, have the superblock name the
//!    features that it needs;
//! 4. the other volumes, as the catalog names them: each must carry the label that it was given,
//!    and be of one moment with the root (`session`);
//! 5. space maps: everything that the catalog does not name is free.
//!
//! So whatever was not committed has vanished after step 5. How a pool is made: `create`; what is
//! looked at before that, in a directory: `site`.

use crate::{
    address::VolumeId,
    anchor::Anchor,
    catalog::Catalog,
    device::{
        self, Access, Allow, AppendBy, BlockDevice, Device, EmulatedOptions, EmulatedZoned,
        FileDevice, FileOptions, Overlay, ZoneLimits, ZonedDevice,
        contents::{Contents, foreign_on},
        signature::Signature,
    },
    error::{Error, Result},
    io::queue::IoQueue,
    journal::Journal,
    journal_chore::JournalChore,
    label::{self, Found, Label},
    mblock::Mblock,
    mcache::Mcache,
    mdc::{log::Log, record::MblockPlace},
    media::{VolumeKind, VolumeRecord},
    metrics::PoolMetrics,
    missing::{self, MissingVolume},
    options::{CAPACITY_BYTES_MAX, Create, IoBackend, Options, size_in_range},
    parts::Parts,
    pool::{OpenMdcs, Pool, Table, uuid_text},
    reaper::Reaper,
    return_chore::ReturnChore,
    scrub::control::Control,
    segment::Segment,
    session::{self, Session},
    site,
    space::{self, Lease, Space, extent::Extent, volume::VolumeSpace},
    superblock::{self, Election, Superblock},
    tidy::{Registered, Tidy},
    volume::Volumes,
    volumes::root_record,
    zone_chore::ZoneChore,
};
use parking_lot::{Mutex, RwLock};
use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

/// An emulated drive has at least 16 zones of 1 MiB.
const EMULATED_BYTES_MIN: u64 = 16 << 20;
/// The root volume's file within the pool's directory.
pub(crate) const VOLUME_FILE: &str = "capacity.vol";

impl Pool {
    /// Opens the pool in DIR; there must be one.
    pub fn open_dir(dir: &Path, options: &Options) -> Result<Arc<Self>> {
        options.validate()?;
        site::survey(dir, Create::Never)?;
        let path = dir.join(VOLUME_FILE);
        let volumes = new_volume(open_root(&path, options, access(options))?, options);
        open_in(dir, &volumes, options).map_err(|error| with_path(error, &path))
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
        let volumes = new_volume(root, options);
        open_on(&volumes, options, None, &|record| {
            let given = others.iter().find(|(id, _)| *id == record.id);
            let (id, device) = given.ok_or_else(|| missing(record))?;
            volumes.check_volume(*id)?;
            Ok(Arc::clone(device))
        })
    }
}

/// Opens the device of the root volume, which must be there.
pub(crate) fn open_root(path: &Path, options: &Options, access: Access) -> Result<Arc<dyn Device>> {
    if device::is_block_path(path) {
        return device::open_block(path, access);
    }
    Ok(Arc::new(FileDevice::open_for(path, &file_options(options), access)?))
}

/// Finds the device of a volume that the journal names.
type FindDevice<'a> = &'a dyn Fn(&VolumeRecord) -> Result<Arc<dyn Device>>;

pub(crate) fn no_others(record: &VolumeRecord) -> Result<Arc<dyn Device>> {
    Err(missing(record))
}

fn missing(record: &VolumeRecord) -> Error {
    let reason = "is not here".to_owned();
    Error::Unusable { path: record.path.clone(), reason }
}

pub(crate) fn open_in(dir: &Path, volumes: &Arc<Volumes>, options: &Options) -> Result<Arc<Pool>> {
    let pool = open_on(volumes, options, Some(dir), &|record| {
        open_device(&dir.join(&record.path), record, options, access(options))
    })?;
    if !options.read_only {
        site::keep_mark(dir, pool.uuid);
    }
    Ok(pool)
}

/// Opens the device of a volume that is not the root.
pub(crate) fn open_device(
    path: &Path,
    record: &VolumeRecord,
    options: &Options,
    access: Access,
) -> Result<Arc<dyn Device>> {
    let len_bytes_max = record.capacity_bytes_max.min(CAPACITY_BYTES_MAX);
    let file = FileOptions { len_bytes_max, ..file_options(options) };
    match record.kind {
        VolumeKind::File => Ok(Arc::new(FileDevice::open_for(path, &file, access)?)),
        VolumeKind::Zoned => Ok(Arc::new(ZonedDevice::open_for(path, AppendBy::Auto, access)?)),
        VolumeKind::EmulatedZoned if access == Access::Create && !path.exists() => {
            let new = emulated_options(record.capacity_bytes_max, allow(options))?;
            Ok(Arc::new(EmulatedZoned::create(path, &new)?))
        }
        VolumeKind::EmulatedZoned => {
            Ok(Arc::new(EmulatedZoned::open_for(path, allow(options), access)?))
        }
        VolumeKind::Block => Ok(Arc::new(BlockDevice::open_for(path, access)?)),
    }
}

/// An emulated drive of this size: zones of up to 64 MiB, and the budgets of usual ZNS drives.
fn allow(options: &Options) -> Allow {
    Allow { buffered: options.allow_buffered, volatile: options.allow_volatile }
}

fn emulated_options(capacity: u64, allow: Allow) -> Result<EmulatedOptions> {
    size_in_range("capacity of an emulated zoned volume", capacity, EMULATED_BYTES_MIN, 1 << 44)?;
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
    Ok(EmulatedOptions { limits, capacity: zone_bytes, allow })
}

pub(crate) fn file_options(options: &Options) -> FileOptions {
    FileOptions {
        allow_buffered: options.allow_buffered,
        allow_volatile: options.allow_volatile,
        len_bytes_max: options.capacity_bytes_max,
        grow_step_bytes: options.grow_step_bytes,
        reserve_bytes: options.reserve_bytes,
    }
}

/// The device as the pool may use it.
fn guarded(device: Arc<dyn Device>, options: &Options) -> Arc<dyn Device> {
    if options.read_only { Arc::new(Overlay::new(device)) } else { device }
}

/// How the pool's devices are opened.
fn access(options: &Options) -> Access {
    if options.read_only { Access::Read } else { Access::Write }
}

pub(crate) fn new_volume(device: Arc<dyn Device>, options: &Options) -> Arc<Volumes> {
    let device = guarded(device, options);
    Arc::new(Volumes::new(device, Arc::new(PoolMetrics::default())).opened_by(options))
}

pub(crate) fn unusable(reason: &str) -> Error {
    Error::Unusable { path: PathBuf::from("volume"), reason: reason.to_owned() }
}

/// Errors from below the file's name speak of "volume"; the user knows it by its path.
pub(crate) fn with_path(error: Error, path: &Path) -> Error {
    match error {
        Error::Unusable { path: nameless, reason } if nameless == Path::new("volume") => {
            Error::Unusable { path: path.to_owned(), reason }
        }
        other => other,
    }
}

/// Paths of volumes are told as they are found, those of the journal within the pool's directory.
fn within(dir: Option<&Path>, error: Error) -> Error {
    match (dir, error) {
        (Some(dir), Error::Unusable { path, reason }) => {
            Error::Unusable { path: dir.join(path), reason }
        }
        (_, other) => other,
    }
}

/// The superblock that counts; a copy that is damaged or old is written again.
pub(crate) fn elected(volume: &Volumes, dir: Option<&Path>) -> Result<Superblock> {
    match superblock::read(volume, dir.and_then(site::named_in)) {
        Ok(Election::Elected(superblock)) => {
            superblock.check_writable()?;
            check_len(volume, &superblock)?;
            heal(volume, &superblock)?;
            Ok(superblock)
        }
        Ok(Election::Begun) => Err(unusable(CUT_SHORT)),
        Ok(Election::Blank) | Err(Error::Unusable { .. }) => Err(no_pool(volume)),
        Err(error) => Err(error),
    }
}

/// Writes the copies again that are damaged or old, unless somebody else has taken the place.
fn heal(volume: &Volumes, superblock: &Superblock) -> Result<()> {
    for copy in 0..superblock::COPY_OFFSETS.len() {
        let found = superblock::read_page(volume, copy);
        if found.as_ref() == Some(superblock) {
            continue;
        }
        // An older copy of this pool is what a crash leaves.
        if found.is_none_or(|found| found.uuid != superblock.uuid) {
            let device = volume.root();
            let foreign = foreign_on(&**device.device());
            if let Some(Signature { what, offset }) =
                foreign.map_err(|source| Error::io("read", 0, 0, source))?
            {
                return Err(unusable(&format!(
                    "carries {what} (its signature is at byte {offset}), and copy {} of the \
                     superblock is damaged; if that is not wanted, keep a copy of the volume and \
                     wipe that signature (wipefs), and the next start puts the superblock right",
                    copy + 1
                )));
            }
        }
        tracing::warn!(
            copy = copy + 1,
            "a copy of the superblock is damaged or old; {}",
            volume.remedy()
        );
        superblock.write_copy(volume, copy)?;
    }
    Ok(())
}

/// Whether the pool's journal can lie whole on a root volume of this length.
pub(crate) fn check_len(volume: &Volumes, superblock: &Superblock) -> Result<()> {
    let root = volume.root();
    let device = &**root.device();
    let end = superblock.logs.iter().map(|log| log.extent().end()).max().unwrap_or(0);
    if end <= device.geometry().len_bytes {
        return Ok(());
    }
    Err(space::volume::short(Path::new("volume"), device, end))
}

/// A creation that ended before there was a pool.
pub(crate) const CUT_SHORT: &str = "holds no pool, as its creation was cut short; create it again";

/// That there is no pool on the root volume, and what is there instead.
pub(crate) fn no_pool(volumes: &Volumes) -> Error {
    match device::contents::of_device(&**volumes.root().device()) {
        Ok(Contents::Blank) => unusable(
            "is blank and holds no pool; if there was one, restore it from a backup; if not, have one \
             made (`millpond pool create`, or serve with --create always)",
        ),
        Ok(Contents::Taken(taken)) => unusable(&format!(
            "holds no pool: {taken}; restore it from a backup, or choose another"
        )),
        Err(source) => Error::io("read", 0, 0, source),
    }
}

pub(crate) fn open_on(
    volume: &Arc<Volumes>,
    options: &Options,
    dir: Option<&Path>,
    find: FindDevice<'_>,
) -> Result<Arc<Pool>> {
    volume.flush()?;
    let superblock = elected(volume, dir)?;
    let Superblock { uuid, logs, .. } = superblock;
    volume.owner().name(uuid, dir);
    let anchor = Arc::new(Anchor::new(volume, superblock));
    let poisoned = Arc::clone(volume);
    let on_fault = move || poisoned.poison_for("a chore panicked; its work may be half done");
    let tidy = Tidy::start(options.background && !options.read_only, on_fault)?;
    let journal = Arc::new(Journal::open(volume, &anchor, tidy.bell())?);
    let records = join_volumes(volume, &journal, uuid, options, find)?;
    let mut used = journal.read(Catalog::extents);
    used.extend(logs.map(Log::extent));
    let stray = used.iter().find(|extent| volume.get(VolumeId::of(extent.offset)).is_none());
    if let Some(extent) = stray {
        let reason = "an object lies on a volume that the pool does not have";
        return Err(Error::corrupt("pool journal", extent.offset, reason));
    }
    let space = Arc::new(Space::new(volume).tidied(tidy.bell()));
    for record in &records {
        let rebuilt = VolumeSpace::rebuild(volume, record, &used, options.spare_pct);
        space.add(rebuilt.map_err(|error| within(dir, error))?);
    }
    // Not before: volumes that are refused are left as they are.
    let others = journal.read(|catalog| session::bearers_of(uuid, catalog, volume));
    if !options.read_only {
        session::begin(&journal, &others)?;
    }
    let mcache = Mcache::new(Arc::clone(volume));
    let queue = Arc::new(queue_over(volume, options)?);
    let table = journal.read(|catalog| table_of((uuid, catalog), volume, &space, &mcache));
    let table = Arc::new(RwLock::new(table));
    let parts = Parts {
        journal: Arc::clone(&journal),
        table: Arc::clone(&table),
        space: Arc::clone(&space),
        volumes: Arc::clone(volume),
        mcache: Arc::clone(&mcache),
        queue: Arc::clone(&queue),
        anchor: Arc::clone(&anchor),
    };
    let (chore, journal_logs) = JournalChore::new(&journal, volume, &space, Arc::clone(&anchor));
    let journal_chore = tidy.bell().add(Box::new(chore))?;
    let (zone_chore, return_chore) = space_chores(&tidy, parts, options)?;
    let (mblocks, io) = (table.read().mblocks.len(), queue.backend());
    tracing::info!(mblocks, volumes = records.len(), io, "opened a pool");
    let pool = Arc::new(Pool {
        zone_chore,
        _journal_chore: journal_chore,
        _journal_logs: journal_logs,
        return_chore,
        tidy,
        uuid,
        anchor,
        journal,
        table,
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
    Ok(pool)
}

fn queue_over(volumes: &Arc<Volumes>, options: &Options) -> Result<IoQueue> {
    // A device that keeps writes to itself has no file for the ring.
    let io = if options.read_only { IoBackend::Threads } else { options.io };
    IoQueue::new(Arc::clone(volumes), io, options.queue_depth)
}

/// The chores of zones and of free space.
fn space_chores(
    tidy: &Tidy,
    parts: Parts,
    options: &Options,
) -> Result<(Registered, Option<Registered>)> {
    let zone_chore = tidy.bell().add(Box::new(ZoneChore::new(parts.clone())))?;
    let Some(returning) = options.returning.as_ref().filter(|_| !options.read_only) else {
        return Ok((zone_chore, None));
    };
    let chore = ReturnChore::new(parts, returning, options.background);
    Ok((zone_chore, Some(tidy.bell().add(Box::new(chore))?)))
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
    let sessions = journal.read(session::sessions_of).unwrap_or_default();
    let mut missing = Vec::new();
    for record in named.into_values() {
        let session = Session::NONE;
        let expected = Label { pool, volume: record.uuid, id: record.id, session };
        match labelled(&record, &expected, find) {
            Ok((device, found)) => {
                sessions.judge(found).map_err(|stale| Error::Unusable {
                    path: record.path.clone(),
                    reason: stale.text(record.id, sessions, found),
                })?;
                label::heal(&*device, &Label { session: found, ..expected }, volumes);
                volumes.add(record.id, guarded(device, options));
                records.push(record);
            }
            Err(Error::Unusable { reason, .. }) => {
                let missed = |catalog: &_| MissingVolume::new(&record, catalog, &reason);
                missing.push(journal.read(missed));
            }
            Err(error) => return Err(error),
        }
    }
    missing::check(missing)?;
    volumes.flush()?;
    Ok(records)
}

/// The device of a volume, and the session in its label.
fn labelled(
    record: &VolumeRecord,
    expected: &Label,
    find: FindDevice<'_>,
) -> Result<(Arc<dyn Device>, Session)> {
    let device = find(record)?;
    match label::read(&*device)? {
        Found::Label(found) if found.is_of_same(expected) => Ok((device, found.session)),
        found => {
            let instead = match found {
                Found::Label(Label { pool, id, .. }) => {
                    format!("carries the label of {id} of pool {}", uuid_text(pool))
                }
                Found::Blank => "is blank".to_owned(),
                Found::Unreadable => "carries a label that is damaged or newer".to_owned(),
                Found::Foreign => "carries something else".to_owned(),
                Found::Taken(Signature { what, offset }) => format!(
                    "carries {what} (its signature is at byte {offset}), and a copy of the label is \
                     damaged; if that is not wanted, keep a copy of the volume and wipe that \
                     signature (wipefs), and the next start puts the label right"
                ),
            };
            let reason = format!("does not carry its label: what is there {instead}");
            Err(Error::Unusable { path: record.path.clone(), reason })
        }
    }
}

fn table_of(
    (uuid, catalog): ([u8; 16], &Catalog),
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
        |(id, extent): (&_, &Extent)| (*id, Segment::new(uuid, *id, adopt(vec![*extent]), volumes));
    let mdc = |(id, logs): (&_, &[Log; 2])| (*id, logs.map(|log| adopt(vec![log.extent()])));
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
