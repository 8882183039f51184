//! The pool: one volume, its objects, and everything that serves them.
//!
//! Locks, in order; at most two are held at once, and none but the journal's across device IO:
//!
//! ```text
//! 1. journal writer   appends to the pool's journal (that IO is its purpose)
//! 2. catalog | table | free set | open journals    memory only, held briefly
//! ```
//!
//! How a pool is found, created and opened: `open`. What survives a crash: the journal's changes
//! (`journal`, `catalog`), the data of the objects it names, and nothing else.

use crate::{
    catalog::Catalog,
    error::{Error, Result},
    id::{MblockId, MdcId, SegmentId},
    io::queue::{IoQueue, Priority},
    journal::{Journal, owner_word},
    mblock::{Finished, Mblock, MblockWriter, Sink},
    mcache::{Class, Map, MapStats, Mcache},
    mdc::{
        MDC_RECORD_BYTES_MAX, Mdc,
        pair::{LogPair, Place},
        record::{CHANGE_BYTES_MAX, Change, PROPERTY_NAME_BYTES_MAX, PROPERTY_VALUE_BYTES_MAX},
    },
    metrics::{MetricKind, PoolMetrics},
    options::in_range,
    reaper::Reaper,
    segment::Segment,
    space::{ALLOC_UNIT, Lease, Space, extent::Extent},
    superblock::FORMAT_MAJOR,
    volume::Volume,
};
use parking_lot::{Mutex, RwLock};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Objects that one commit may create and delete together, so that its record fits the journal.
const COMMIT_OBJECTS_MAX: usize = MDC_RECORD_BYTES_MAX / CHANGE_BYTES_MAX;
/// A client's journal: at least a few frames, at most what is still read quickly at open.
const MDC_LOG_BYTES_MAX: u64 = 1 << 30;

/// The pool: one capacity volume. Shared by `Arc`. One process at a time (lock).
pub struct Pool {
    pub(crate) uuid: [u8; 16],
    pub(crate) journal: Journal,
    pub(crate) table: RwLock<Table>,
    pub(crate) open_mdcs: Arc<Mutex<BTreeSet<MdcId>>>,
    pub(crate) space: Arc<Space>,
    pub(crate) volume: Arc<Volume>,
    pub(crate) mcache: Arc<Mcache>,
    pub(crate) reaper: Reaper,
    pub(crate) queue: Arc<IoQueue>,
}

/// Handles of everything the catalog names; each holds the lease of its extent.
#[derive(Default)]
pub(crate) struct Table {
    pub(crate) mblocks: BTreeMap<MblockId, Mblock>,
    pub(crate) segments: BTreeMap<SegmentId, Segment>,
    pub(crate) mdcs: BTreeMap<MdcId, [Lease; 2]>,
}

/// What a pool is and how full: for people and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolInfo {
    /// Names the pool.
    pub uuid: [u8; 16],
    /// What the volume may grow to.
    pub capacity_bytes_max: u64,
    /// The volume's present size.
    pub len_bytes: u64,
    /// Bytes that belong to an object or to the pool itself.
    pub used_bytes: u64,
    /// Bytes free now or after growth; the disk may give less.
    pub free_bytes: u64,
    /// Committed mblocks.
    pub mblocks: u64,
    /// Major version of the format.
    pub format: u32,
    /// "uring" or "threads".
    pub io_backend: &'static str,
    /// What kind of device it is on.
    pub device: &'static str,
}

/// Marks a client's journal as open; there is one handle of each at a time, because two would write
/// to the same place.
pub(crate) struct OpenMdc {
    id: MdcId,
    open: Arc<Mutex<BTreeSet<MdcId>>>,
}

impl OpenMdc {
    pub(crate) fn id(&self) -> MdcId {
        self.id
    }
}

impl Drop for OpenMdc {
    fn drop(&mut self) {
        self.open.lock().remove(&self.id);
    }
}

// Mblocks.
impl Pool {
    /// Reserves a contiguous extent of at least `capacity_bytes`, rounded up to the allocation unit
    /// (64 KiB). `priority` is that of its writes.
    pub fn allocate(
        self: &Arc<Self>,
        capacity_bytes: u64,
        priority: Priority,
    ) -> Result<MblockWriter> {
        self.volume.check_writable()?;
        in_range("capacity of an mblock", capacity_bytes, 1, self.space.len_max())?;
        let lease = self.space.lease(capacity_bytes)?;
        let id = MblockId::new(self.journal.new_id()?).expect("ids start at 1");
        let sink =
            Sink { volume: Arc::clone(&self.volume), queue: Arc::clone(&self.queue), priority };
        Ok(MblockWriter::new(id, capacity_bytes, lease, sink))
    }

    /// Makes all `create` durable and all `delete` gone by *one* journal record, after one flush of
    /// their data: all or nothing across a crash. Extents of deleted mblocks return when their last
    /// `Mblock` handle drops. Ids in `delete` are distinct.
    pub fn commit(
        self: &Arc<Self>,
        create: Vec<MblockWriter>,
        delete: &[MblockId],
    ) -> Result<Vec<Mblock>> {
        self.volume.check_writable()?;
        let objects = (create.len() + delete.len()) as u64;
        in_range("objects in one commit", objects, 0, COMMIT_OBJECTS_MAX as u64)?;
        if objects == 0 {
            return Ok(Vec::new());
        }
        // Early, so that a mistaken caller does not pay for the flush; checked again below.
        self.journal.read(|catalog| check_deletable(catalog, delete))?;
        let finished: Vec<Finished> =
            create.into_iter().map(MblockWriter::finish).collect::<Result<_>>()?;
        if !finished.is_empty() {
            self.volume.flush()?;
        }
        let changes = commit_changes(&finished, delete);
        let mut created = Vec::new();
        let mut deleted = Vec::new();
        self.journal.commit(
            &changes,
            |catalog| check_deletable(catalog, delete),
            || {
                created = finished.into_iter().map(|f| self.mblock_of(f)).collect();
                let mut table = self.table.write();
                table.mblocks.extend(created.iter().map(|m| (m.id(), m.clone())));
                deleted.extend(delete.iter().filter_map(|id| table.mblocks.remove(id)));
            },
        )?;
        // Outside of all locks: the last handle drops cached pages.
        deleted.iter().for_each(Mblock::mark_deleted);
        self.volume.metrics().mblocks_committed.add(created.len() as u64);
        self.volume.metrics().mblocks_deleted.add(deleted.len() as u64);
        Ok(created)
    }

    fn mblock_of(&self, finished: Finished) -> Mblock {
        let Finished { id, len_bytes, mut lease } = finished;
        lease.trim(len_bytes);
        Mblock::new(id, len_bytes, lease, &self.volume, &self.mcache)
    }

    /// A handle of a committed mblock.
    pub fn mblock(self: &Arc<Self>, id: MblockId) -> Result<Mblock> {
        self.table.read().mblocks.get(&id).cloned().ok_or_else(|| Error::no_such(id))
    }

    /// All committed mblocks, in order of their ids.
    pub fn mblock_ids(&self) -> Vec<MblockId> {
        self.table.read().mblocks.keys().copied().collect()
    }
}

fn check_deletable(catalog: &Catalog, delete: &[MblockId]) -> Result<()> {
    let mut seen = BTreeSet::new();
    match delete.iter().find(|id| !catalog.mblocks.contains_key(id) || !seen.insert(**id)) {
        Some(id) => Err(Error::no_such(id)),
        None => Ok(()),
    }
}

fn commit_changes(finished: &[Finished], delete: &[MblockId]) -> Vec<Change> {
    let created = finished.iter().map(|f| {
        let offset = f.lease.extent().offset;
        let extent = Extent { offset, len: Lease::trimmed_len(f.len_bytes) };
        Change::MblockCreated { id: f.id, extent, len_bytes: f.len_bytes }
    });
    created.chain(delete.iter().map(|id| Change::MblockDeleted(*id))).collect()
}

// Journals, segments, properties.
impl Pool {
    /// A journal of its own with two logs of `log_bytes` each (64 KiB..=1 GiB, rounded up to the
    /// allocation unit). Durable on return. A log holds the owner's state and what was appended
    /// since the last rewrite.
    pub fn create_mdc(self: &Arc<Self>, log_bytes: u64) -> Result<MdcId> {
        in_range("log_bytes of an MDC", log_bytes, ALLOC_UNIT, MDC_LOG_BYTES_MAX)?;
        let leases = [self.space.lease(log_bytes)?, self.space.lease(log_bytes)?];
        let logs = [leases[0].extent(), leases[1].extent()];
        let id = MdcId::new(self.journal.new_id()?).expect("ids start at 1");
        for log in logs {
            self.volume.write_zeros(log, Priority::Flush)?;
        }
        self.volume.flush()?;
        LogPair::format(Arc::clone(&self.volume), self.mdc_place(id, logs))?;
        self.journal.commit(
            &[Change::MdcCreated { id, logs }],
            |_| Ok(()),
            || {
                self.table.write().mdcs.insert(id, leases);
            },
        )?;
        Ok(id)
    }

    /// Replays every live record in order into `replay`, then is ready for appends. One handle of a
    /// journal at a time.
    pub fn open_mdc(
        self: &Arc<Self>,
        id: MdcId,
        replay: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<Mdc> {
        let logs = self.journal.read(|catalog| catalog.mdcs.get(&id).copied());
        let logs = logs.ok_or_else(|| Error::no_such(id))?;
        if !self.open_mdcs.lock().insert(id) {
            return Err(Error::Options(format!("{id} is open already; drop its handle first")));
        }
        let open = OpenMdc { id, open: Arc::clone(&self.open_mdcs) };
        let pair = LogPair::open(Arc::clone(&self.volume), self.mdc_place(id, logs), replay)?;
        Ok(Mdc::new(pair, open))
    }

    fn mdc_place(&self, id: MdcId, logs: [Extent; 2]) -> Place {
        Place { name: id.to_string(), owner: owner_word(self.uuid, id.get()), logs }
    }

    /// A fixed extent that its owner overwrites at will (WAL). Created pre-written with zeros (so
    /// that later writes allocate nothing in the file system), durable on return.
    pub fn create_segment(self: &Arc<Self>, len_bytes: u64) -> Result<Segment> {
        self.volume.check_writable()?;
        in_range("length of a segment", len_bytes, 1, self.space.len_max())?;
        let lease = self.space.lease(len_bytes)?;
        let extent = lease.extent();
        let id = SegmentId::new(self.journal.new_id()?).expect("ids start at 1");
        self.volume.write_zeros(extent, Priority::Wal)?;
        self.volume.flush()?;
        let segment = Segment::new(id, lease, &self.volume);
        self.journal.commit(
            &[Change::SegmentCreated { id, extent }],
            |_| Ok(()),
            || {
                self.table.write().segments.insert(id, segment.clone());
            },
        )?;
        Ok(segment)
    }

    /// All segments, in order of their ids.
    pub fn segment_ids(&self) -> Vec<SegmentId> {
        self.table.read().segments.keys().copied().collect()
    }

    /// A handle of a segment.
    pub fn open_segment(self: &Arc<Self>, id: SegmentId) -> Result<Segment> {
        self.table.read().segments.get(&id).cloned().ok_or_else(|| Error::no_such(id))
    }

    /// Deletes a segment, durably; its extent returns when its last handle drops.
    pub fn delete_segment(&self, id: SegmentId) -> Result<()> {
        let mut deleted = None;
        self.journal.commit(
            &[Change::SegmentDeleted(id)],
            |catalog| {
                let known = catalog.segments.contains_key(&id);
                if known { Ok(()) } else { Err(Error::no_such(id)) }
            },
            || deleted = self.table.write().segments.remove(&id),
        )?;
        assert!(deleted.is_some(), "table and catalog hold the same segments");
        Ok(())
    }

    /// Small named values kept in the pool's journal (name 1-64 bytes, value up to 1,024 bytes).
    /// Durable on return.
    pub fn set_property(&self, name: &str, value: &[u8]) -> Result<()> {
        let (name_len, value_len) = (name.len() as u64, value.len() as u64);
        in_range("length of a property's name", name_len, 1, PROPERTY_NAME_BYTES_MAX as u64)?;
        in_range("length of a property's value", value_len, 0, PROPERTY_VALUE_BYTES_MAX as u64)?;
        let change = Change::PropertySet { name: name.to_owned(), value: value.to_vec() };
        self.journal.commit(&[change], |_| Ok(()), || ())
    }

    /// The value of a property.
    pub fn property(&self, name: &str) -> Option<Vec<u8>> {
        self.journal.read(|catalog| catalog.properties.get(name).cloned())
    }
}

// Maps.
impl Pool {
    /// An mcache map over committed mblocks: no system call. It keeps them alive.
    pub fn map(self: &Arc<Self>, mblocks: &[Mblock], class: Class) -> Map {
        Map::of_mblocks(&self.mcache, &self.queue, mblocks, class)
    }

    /// Live maps with their statistics.
    pub fn maps(&self) -> Vec<MapStats> {
        self.mcache.map_stats()
    }

    /// Counts pages of mapped memory that the drive answered with an error; they read as zeros. A
    /// reader of mapped bytes compares the count before and after: a change means its bytes are
    /// void, and reading again goes to the drive directly.
    pub fn map_faults(&self) -> u64 {
        self.mcache.map_faults()
    }

    /// Shows every metric of maps and of the reaper, as [`PoolMetrics::visit`] does of the rest.
    pub fn visit_memory(&self, see: &mut dyn FnMut(&'static str, &'static str, MetricKind, u64)) {
        self.mcache.visit(see);
        self.reaper.visit(see);
    }
}

// The whole.
impl Pool {
    /// Ensures that everything written before is on stable storage. A failure poisons the pool.
    pub fn flush(&self) -> Result<()> {
        self.volume.flush()
    }

    /// The asynchronous queue.
    pub fn queue(&self) -> &IoQueue {
        &self.queue
    }

    /// The memory governor.
    pub fn reaper(&self) -> &Reaper {
        &self.reaper
    }

    /// The pool's counters.
    pub fn metrics(&self) -> &PoolMetrics {
        self.volume.metrics()
    }

    /// What the pool is and how full.
    pub fn info(&self) -> PoolInfo {
        let device = self.volume.device();
        PoolInfo {
            uuid: self.uuid,
            capacity_bytes_max: self.space.len_max(),
            len_bytes: device.geometry().len_bytes,
            used_bytes: self.space.used_bytes(),
            free_bytes: self.space.free_bytes(),
            mblocks: self.table.read().mblocks.len() as u64,
            format: FORMAT_MAJOR,
            io_backend: self.queue.backend(),
            device: device.kind(),
        }
    }
}
