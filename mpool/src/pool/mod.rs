//! The pool: its volumes, its objects, and everything that serves them.
//!
//! Locks, in order; at most two are held at once, and none but the journal's across device IO:
//!
//! ```text
//! 1. journal writer   appends to the pool's journal (that IO is its purpose)
//! 2. catalog | table | free set | open journals    memory only, held briefly
//! ```
//!
//! How a pool is found, created and opened: `open`. How volumes come and go: `volumes`; how objects
//! move: `upkeep`. What survives a crash: the journal's changes
//! (`journal`), the data of the objects it names, and nothing else.

pub(crate) mod create;
mod forget;
pub(crate) mod join;
pub(crate) mod open;
pub(crate) mod raw;
pub(crate) mod scrub;
pub(crate) mod session;
pub(crate) mod volumes;

use crate::{
    address::{ALLOC_UNIT, VolumeId},
    chores::{Registered, Tidy},
    error::{Error, Result},
    features::{FORMAT_MAJOR, Features},
    heads::log::{Kept, Log},
    id::{MblockId, MdcId, SegmentId},
    io::{
        queue::IoQueue,
        volumes::{Volume, Volumes},
    },
    journal::{
        anchor::Anchor,
        catalog::{Catalog, NAME_PROPERTY, name_of},
        mdc::{
            MDC_RECORD_BYTES_MAX, Mdc,
            open::{OpenMdc, OpenMdcs},
            pair::{LogPair, Place},
        },
        pool_journal::{Journal, owner_word},
        record::{Change, PROPERTY_NAME_BYTES_MAX, PROPERTY_VALUE_BYTES_MAX},
    },
    media::{MediaClass, Placement, Priority},
    metrics::{
        MetricKind, PoolMetrics, Sample,
        histogram::{LatencySummary, Start},
    },
    object::{
        mblock::{Finished, Mblock, MblockWriter, Sink},
        mcache::{Class, Map, MapStats, Mcache},
        segment::Segment,
        sums,
        table::Table,
    },
    options::{Options, in_range},
    reaper::Reaper,
    space::{FreeSpace, Space},
    upkeep::{journal::JournalLogs, parts::Parts},
    verify::control::Control,
};
use parking_lot::{Mutex, RwLock};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Objects that one commit may create and delete together; that their places fit one record bounds
/// them earlier, at some 23,000 created ones, and fewer in zones.
const COMMIT_OBJECTS_MAX: usize = 65_536;
const NAME_BYTES_MAX: usize = 64;
/// A client's journal: at least a few frames, at most what is still read quickly at open.
const MDC_LOG_BYTES_MAX: u64 = 1 << 30;

const PROPERTY_NAME_MAX: u64 = PROPERTY_NAME_BYTES_MAX as u64;

/// The pool. Shared by `Arc`. One process at a time (lock).
pub struct Pool {
    /// These drop first: the chores use the rest.
    pub(crate) zone_chore: Registered,
    pub(crate) _journal_chore: Registered,
    pub(crate) return_chore: Option<Registered>,
    pub(crate) tidy: Tidy,
    /// After all chores.
    pub(crate) _journal_logs: JournalLogs,
    pub(crate) uuid: [u8; 16],
    pub(crate) anchor: Arc<Anchor>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) table: Arc<RwLock<Table>>,
    pub(crate) open_mdcs: OpenMdcs,
    pub(crate) space: Arc<Space>,
    pub(crate) volumes: Arc<Volumes>,
    pub(crate) mcache: Arc<Mcache>,
    pub(crate) reaper: Reaper,
    pub(crate) queue: Arc<IoQueue>,
    pub(crate) options: Options,
    /// Where the pool's files are, if it is made of files.
    pub(crate) dir: Option<PathBuf>,
    /// One change of the volumes at a time.
    pub(crate) changing_volumes: Mutex<()>,
    pub(crate) scrubbing: Control,
}

/// What a pool is and how full: for people and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolInfo {
    /// Names the pool.
    pub uuid: [u8; 16],
    /// What the volumes can hold together, or may grow to.
    pub capacity_bytes_max: u64,
    /// Their present sizes together.
    pub len_bytes: u64,
    /// Bytes that belong to an object or to the pool itself.
    pub used_bytes: u64,
    /// Bytes free now or after growth, as far as the disk below has room for it.
    pub free_bytes: u64,
    /// Bytes of them that only allocations with [`Placement::spare`] get.
    pub spare_bytes: u64,
    /// How many volumes there are.
    pub volumes: u64,
    /// Committed mblocks.
    pub mblocks: u64,
    /// Major version of the format.
    pub format: u32,
    /// What it uses beyond that; those without a name are harmless to this program.
    pub features: Features,
    /// "uring" or "threads".
    pub io_backend: &'static str,
    /// What kind of device the root volume is on.
    pub device: &'static str,
    /// Length of each of the journal's two logs.
    pub journal_log_bytes: u64,
    /// How much of the active one is in use.
    pub journal_used_bytes: u64,
    /// How long commits have taken, the flush of their data included.
    pub commits: LatencySummary,
    /// How long appends to journals have waited for a rewriting, those that had to.
    pub journal_waits: LatencySummary,
}

/// A pool that is closed in order begins a session, so that copies made while it was open are not
/// taken for what it is afterwards. Where that fails, the volumes are as after a crash.
///
/// What moves or clears objects ends before that: what it wrote in the new session would be missing
/// from a copy that has the session already. The chore of the journal goes on, as the session is
/// two records in it.
impl Drop for Pool {
    fn drop(&mut self) {
        self.zone_chore.end();
        if let Some(chore) = &self.return_chore {
            chore.end();
        }
        if self.volumes.check_writable().is_ok()
            && let Err(error) = self.begin_session()
        {
            tracing::debug!(%error, "the pool is closed without a new session");
        }
    }
}

// Mblocks.
impl Pool {
    /// Reserves room for an mblock of up to `capacity_bytes` on a volume that `placement` prefers;
    /// a [`Priority`] alone will do, and means an object of the capacity class.
    pub fn allocate(
        self: &Arc<Self>,
        capacity_bytes: u64,
        placement: impl Into<Placement>,
    ) -> Result<MblockWriter> {
        self.volumes.check_writable()?;
        let placement = placement.into();
        in_range("capacity of an mblock", capacity_bytes, 1, self.space.object_bytes_max())?;
        let room = self.space.room(sums::total_len(capacity_bytes), placement)?;
        let id = MblockId::new(self.journal.new_id()?).expect("ids start at 1");
        Ok(MblockWriter::new(id, capacity_bytes, room, self.sink(placement.priority)))
    }

    /// Moves one mblock to another place: see [`Parts::relocate`].
    pub(crate) fn relocate(&self, id: MblockId) -> Result<u64> {
        self.parts().relocate(id)
    }

    pub(crate) fn parts(&self) -> Parts {
        Parts {
            journal: Arc::clone(&self.journal),
            table: Arc::clone(&self.table),
            space: Arc::clone(&self.space),
            volumes: Arc::clone(&self.volumes),
            mcache: Arc::clone(&self.mcache),
            queue: Arc::clone(&self.queue),
            anchor: Arc::clone(&self.anchor),
        }
    }

    pub(crate) fn sink(&self, priority: Priority) -> Sink {
        Sink { volumes: Arc::clone(&self.volumes), queue: Arc::clone(&self.queue), priority }
    }

    /// Makes all `create` durable and all `delete` gone by *one* journal record, after one flush of
    /// their data: all or nothing across a crash. Extents of deleted mblocks return when their last
    /// `Mblock` handle drops. Ids in `delete` are distinct. A writer of another pool is refused
    /// ([`Error::ForeignHandle`]), and what was written is dropped.
    pub fn commit(
        self: &Arc<Self>,
        create: Vec<MblockWriter>,
        delete: &[MblockId],
    ) -> Result<Vec<Mblock>> {
        self.volumes.check_writable()?;
        let objects = (create.len() + delete.len()) as u64;
        in_range("objects in one commit", objects, 0, COMMIT_OBJECTS_MAX as u64)?;
        if objects == 0 {
            return Ok(Vec::new());
        }
        create.iter().try_for_each(|writer| writer.check_owner(&self.volumes))?;
        let start = Start::now();
        // Early, so that a mistaken caller does not pay for the flush; checked again below.
        self.journal.read(|catalog| check_deletable(catalog, delete))?;
        let finished: Vec<Finished> =
            create.into_iter().map(MblockWriter::finish).collect::<Result<_>>()?;
        if !finished.is_empty() {
            self.volumes.flush()?;
        }
        let changes = commit_changes(&finished, delete);
        let bytes: usize = changes.iter().map(Change::encoded_len).sum();
        in_range("bytes of one commit's record", bytes as u64, 0, MDC_RECORD_BYTES_MAX as u64)?;
        let mut created = Vec::new();
        let mut deleted = Vec::new();
        self.journal.commit(
            &changes,
            |catalog| check_deletable(catalog, delete),
            || {
                let mblock = |f: Finished| f.into_mblock(&self.volumes, &self.mcache);
                created = finished.into_iter().map(mblock).collect();
                let mut table = self.table.write();
                table.mblocks.extend(created.iter().map(|m| (m.id(), m.clone())));
                deleted.extend(delete.iter().filter_map(|id| table.mblocks.remove(id)));
            },
        )?;
        // Outside of all locks: the last handle drops cached pages.
        deleted.iter().for_each(Mblock::mark_deleted);
        if self.space.has_zones() {
            self.tidy.bell().ring();
        }
        self.volumes.metrics().mblocks_committed.add(created.len() as u64);
        self.volumes.metrics().mblocks_deleted.add(deleted.len() as u64);
        self.volumes.metrics().commit.end(start);
        Ok(created)
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
    let created = finished.iter().map(|finished| Change::placed(finished.placed()));
    created.chain(delete.iter().map(|id| Change::MblockDeleted(*id))).collect()
}

/// No property that `changes` set is set already.
fn check_unnamed(catalog: &Catalog, changes: &[Change]) -> Result<()> {
    let set = changes.iter().find_map(|change| match change {
        Change::PropertySet { name, .. } if catalog.properties.contains_key(name) => Some(name),
        _ => None,
    });
    match set {
        Some(name) => Err(Error::Options(format!("property {name} is set already"))),
        None => Ok(()),
    }
}

// Journals, segments, properties.
impl Pool {
    /// A journal of its own with two logs of `log_bytes` each (64 KiB..=1 GiB, rounded up to the
    /// allocation unit), on the root volume, which stays, unless that is full. Both are kept twice,
    /// so it takes four times as much. Durable on return. A
    /// log holds the owner's state and what was appended since the last rewrite. Its owner must
    /// store the id: see [`Pool::create_named_mdc`].
    pub fn create_mdc(self: &Arc<Self>, log_bytes: u64) -> Result<MdcId> {
        self.create_mdc_with(log_bytes, |_| None)
    }

    /// Like [`Pool::create_mdc`], and sets `property` to the id (8 bytes, little-endian) in the
    /// same journal record: after a crash there is a journal with a name, or none.
    /// [`Error::Options`] if the property is set already.
    pub fn create_named_mdc(self: &Arc<Self>, property: &str, log_bytes: u64) -> Result<MdcId> {
        in_range("length of a property's name", property.len() as u64, 1, PROPERTY_NAME_MAX)?;
        let name = property.to_owned();
        self.create_mdc_with(log_bytes, |id| {
            Some(Change::PropertySet { name, value: id.get().to_le_bytes().to_vec() })
        })
    }

    fn create_mdc_with(
        self: &Arc<Self>,
        log_bytes: u64,
        name: impl FnOnce(MdcId) -> Option<Change>,
    ) -> Result<MdcId> {
        in_range("log_bytes of an MDC", log_bytes, ALLOC_UNIT, MDC_LOG_BYTES_MAX)?;
        let len = log_bytes.next_multiple_of(ALLOC_UNIT);
        let lease = || self.space.lease_near_root(Kept::Twice.copies() * len);
        let leases = [lease()?, lease()?];
        let logs = leases.each_ref().map(|lease| Log::twice(lease.extent()));
        let id = MdcId::new(self.journal.new_id()?).expect("ids start at 1");
        for log in logs {
            self.volumes.write_zeros(log.extent(), Priority::Flush)?;
        }
        self.volumes.flush()?;
        LogPair::format(Arc::clone(&self.volumes), self.mdc_place(id, logs))?;
        let name = name(id);
        let changes: Vec<Change> =
            [Change::MdcCreated { id, logs }].into_iter().chain(name).collect();
        self.journal.commit(
            &changes,
            |catalog| check_unnamed(catalog, &changes),
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
        let open = OpenMdc::mark(id, &self.open_mdcs)?;
        let pair = LogPair::open(Arc::clone(&self.volumes), self.mdc_place(id, logs), replay)?;
        Ok(Mdc::new(pair, open, self.volumes.metrics(), self.tidy.bell()))
    }

    /// All journals of clients, in order of their ids.
    pub fn mdc_ids(&self) -> Vec<MdcId> {
        self.table.read().mdcs.keys().copied().collect()
    }

    /// The volumes that a journal's two logs are on.
    pub fn mdc_volumes(&self, id: MdcId) -> Result<[VolumeId; 2]> {
        let table = self.table.read();
        let logs = table.mdcs.get(&id).ok_or_else(|| Error::no_such(id))?;
        Ok([0, 1].map(|log| self.volumes.marked(logs[log].volume())))
    }

    /// Deletes a journal, durably. It must not be open.
    pub fn delete_mdc(&self, id: MdcId) -> Result<()> {
        if self.open_mdcs.lock().contains_key(&id) {
            return Err(Error::Options(format!("{id} is open; drop its handle first")));
        }
        let mut deleted = None;
        self.journal.commit(
            &[Change::MdcDeleted(id)],
            |catalog| {
                let known = catalog.mdcs.contains_key(&id);
                if known { Ok(()) } else { Err(Error::no_such(id)) }
            },
            || deleted = self.table.write().mdcs.remove(&id),
        )?;
        assert!(deleted.is_some(), "table and catalog hold the same journals");
        Ok(())
    }

    fn mdc_place(&self, id: MdcId, logs: [Log; 2]) -> Place {
        Place { name: id.to_string(), owner: owner_word(self.uuid, id.get()), logs }
    }

    /// A fixed extent that its owner overwrites at will (WAL). Created pre-written with zeros (so
    /// that later writes allocate nothing in the file system), durable on return.
    pub fn create_segment(self: &Arc<Self>, len_bytes: u64) -> Result<Segment> {
        self.create_segment_with_start(len_bytes, u64::MAX)
    }

    /// The same, of which only the first `zeros_bytes` are written, up to the whole. What is behind
    /// is there, too, and holds what was there before. Durable writes to it cost more, once:
    /// for owners that make much durable at a time.
    pub fn create_segment_with_start(
        self: &Arc<Self>,
        len_bytes: u64,
        zeros_bytes: u64,
    ) -> Result<Segment> {
        self.volumes.check_writable()?;
        in_range("length of a segment", len_bytes, 1, self.space.len_max())?;
        let lease = self.space.lease(len_bytes, MediaClass::Staging)?;
        let extent = lease.extent();
        let id = SegmentId::new(self.journal.new_id()?).expect("ids start at 1");
        let zeros = zeros_bytes.checked_next_multiple_of(ALLOC_UNIT).unwrap_or(u64::MAX);
        let mut start = extent;
        start.len = extent.len.min(zeros);
        if start.len > 0 {
            self.volumes.write_zeros(start, Priority::Wal)?;
        }
        self.volumes.flush()?;
        let segment = Segment::new(self.uuid, id, lease, &self.volumes);
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
        in_range("length of a property's name", name_len, 1, PROPERTY_NAME_MAX)?;
        in_range("length of a property's value", value_len, 0, PROPERTY_VALUE_BYTES_MAX as u64)?;
        let change = Change::PropertySet { name: name.to_owned(), value: value.to_vec() };
        self.journal.commit(&[change], |_| Ok(()), || ())
    }

    /// The pool's name, if it was given one.
    pub fn name(&self) -> Option<String> {
        self.journal.read(name_of)
    }

    /// Gives the pool a name: 1 to 64 of `A-Z a-z 0-9 . _ -`. For people and metrics; what
    /// identifies a pool is its UUID. Durable on return.
    pub fn rename(&self, name: &str) -> Result<()> {
        Self::check_name(name)?;
        self.set_property(NAME_PROPERTY, name.as_bytes())
    }

    /// Whether a pool can have this name: 1 to 64 of A-Z a-z 0-9 . _ -.
    pub fn check_name(name: &str) -> Result<()> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(fits) {
            let text = format!(
                "name of a pool is {name:?}, must be 1 to {NAME_BYTES_MAX} of A-Z a-z 0-9 . _ -"
            );
            return Err(Error::Options(text));
        }
        Ok(())
    }

    /// Whether it is open for reading only; see [`Options::read_only`].
    pub fn is_read_only(&self) -> bool {
        self.options.read_only
    }

    /// The value of a property.
    pub fn property(&self, name: &str) -> Option<Vec<u8>> {
        self.journal.read(|catalog| catalog.properties.get(name).cloned())
    }
}

// Maps.
impl Pool {
    /// An mcache map over committed mblocks, of any volumes and any age: no system call, neither
    /// here nor when it is dropped. It keeps them alive. [`Error::ForeignHandle`] for mblocks of
    /// another pool.
    pub fn map(self: &Arc<Self>, mblocks: &[Mblock], class: Class) -> Result<Map> {
        self.map_named(mblocks, class, "")
    }

    /// The same, with the name of its owner, for statistics.
    pub fn map_named(
        self: &Arc<Self>,
        mblocks: &[Mblock],
        class: Class,
        owner: &str,
    ) -> Result<Map> {
        mblocks.iter().try_for_each(|mblock| mblock.check_owner(&self.volumes))?;
        Ok(Map::of_mblocks(&self.mcache, &self.queue, mblocks, class, owner))
    }

    /// Live maps with their statistics, in order of their ids. Asks the kernel nothing, so it stays
    /// cheap with thousands of maps: about 10 ns an object.
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

    /// Shows how long things took, with labels and in seconds.
    pub fn visit_times(&self, see: &mut dyn FnMut(Sample<'_>)) {
        self.volumes.metrics().visit_times(see);
        self.mcache.metrics.visit_times(see);
        self.reaper.visit_times(see);
    }
}

// The whole.
impl Pool {
    /// Ensures that everything written before is on stable storage. A failure poisons the pool.
    pub fn flush(&self) -> Result<()> {
        self.volumes.flush()
    }

    /// Why nothing is written any more, if a write or a flush has failed; reads go on.
    pub fn failure(&self) -> Option<&'static str> {
        self.volumes.failure()
    }

    /// Takes one step of housekeeping, if there is any to do; false if there is not. Only of use
    /// without [`crate::Options::background`], which does this on a thread.
    pub fn tidy(&self) -> bool {
        self.tidy.step()
    }

    /// Where the pool's files are, if it is made of files.
    pub fn dir(&self) -> Option<&Path> {
        self.dir.as_deref()
    }

    /// The asynchronous queue.
    pub fn queue(&self) -> &IoQueue {
        &self.queue
    }

    /// The memory governor.
    pub fn reaper(&self) -> &Reaper {
        &self.reaper
    }

    /// What is free, now or after growth: cheap enough to ask before each write.
    pub fn free_space(&self) -> FreeSpace {
        self.space.free(self.table.read().segments.values().map(Segment::len_bytes).sum())
    }

    /// How many mblocks have moved since the pool was opened. When it changes, handles held for
    /// long are worth a look: [`Mblock::has_moved`].
    pub fn moves(&self) -> u64 {
        self.volumes.metrics().mblocks_moved.get()
    }

    /// The class of a volume; `None` if there is no such volume.
    pub fn media_class(&self, id: VolumeId) -> Option<MediaClass> {
        self.space_of(id).ok().map(|space| space.class())
    }

    /// Whether there is a volume of this class that takes new objects.
    pub fn has_class(&self, class: MediaClass) -> bool {
        self.space.all().iter().any(|space| space.class() == class && !space.is_evacuating())
    }

    /// The pool's counters; its gauges of space are as of now.
    pub fn metrics(&self) -> &PoolMetrics {
        // Others who fill the disk change them, too.
        self.space.publish();
        self.volumes.metrics()
    }

    /// What the pool is and how full.
    pub fn info(&self) -> PoolInfo {
        let spaces = self.space.all();
        let len = |volume: &Arc<Volume>| volume.device().geometry().len_bytes;
        let journal = self.journal.fill();
        PoolInfo {
            uuid: self.uuid,
            capacity_bytes_max: spaces.iter().map(|space| space.capacity_bytes()).sum(),
            len_bytes: self.volumes.all().iter().map(len).sum(),
            spare_bytes: self.space.spare_bytes(),
            volumes: spaces.len() as u64,
            used_bytes: self.space.used_bytes(),
            free_bytes: self.space.free_bytes(),
            mblocks: self.table.read().mblocks.len() as u64,
            format: FORMAT_MAJOR,
            features: self.anchor.features(),
            io_backend: self.queue.backend(),
            device: self.volumes.root().device().kind(),
            journal_log_bytes: journal.len,
            journal_used_bytes: journal.used,
            commits: self.volumes.metrics().commit.summary(),
            journal_waits: self.volumes.metrics().mdc_wait.summary(),
        }
    }
}
