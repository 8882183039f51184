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
//!    and be of one moment with the root (`heads::session`);
//! 5. space maps: everything that the catalog does not name is free.
//!
//! So whatever was not committed has vanished after step 5. Steps 1, 3 and 5 are here, 2 is in
//! `site::elect`, 4 in `join`. How a pool is made: `create`; what is looked at before that, in a
//! directory: `site`.

use crate::{
    address::{Extent, VolumeId},
    chores::{Registered, Tidy},
    device::Device,
    error::{Error, Result},
    heads::{log::Log, superblock::Superblock},
    io::{queue::IoQueue, volumes::Volumes},
    journal::{anchor::Anchor, catalog::Catalog, mdc::open::OpenMdcs, pool_journal::Journal},
    media::VolumeRecord,
    metrics::PoolMetrics,
    object::{
        mblock::{Mblock, MblockPlace},
        mcache::Mcache,
        segment::Segment,
        table::Table,
    },
    options::{Create, IoBackend, Options},
    pool::{Pool, join::join_volumes, session},
    reaper::Reaper,
    site::{
        self, VOLUME_FILE,
        devices::{access, guarded, open_device, open_root},
        elect::elected,
        with_path,
    },
    space::{Lease, Space, volume::VolumeSpace},
    upkeep::{journal::JournalChore, parts::Parts, returns::ReturnChore, zones::ZoneChore},
    verify::control::Control,
};

use parking_lot::{Mutex, RwLock};
use std::{fs::File, io::Read, path::Path, sync::Arc};

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

/// Finds the device of a volume that the journal names.
pub(super) type FindDevice<'a> = &'a dyn Fn(&VolumeRecord) -> Result<Arc<dyn Device>>;

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

pub(crate) fn new_volume(device: Arc<dyn Device>, options: &Options) -> Arc<Volumes> {
    let device = guarded(device, options);
    Arc::new(Volumes::new(device, Arc::new(PoolMetrics::default())).opened_by(options))
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
