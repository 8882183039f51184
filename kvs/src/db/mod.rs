//! What users hold: database, KVSs, cursors, snapshots; open, close, check.
//!
//! [`Database`] and [`Kvs`] are handles: clone them freely, send them anywhere. The last one to go
//! closes the database, or [`Database::close`] does at once. What one KVS is read and written by
//! stands in `handle`.

mod admin;
pub(crate) mod check;
mod close;
pub(crate) mod compaction;
pub(crate) mod cursor;
mod frequencies;
pub(crate) mod handle;
pub(crate) mod health;
mod recover;
mod replay;
mod scrub;
pub(crate) mod snapshot;
pub(crate) mod tree_info;

use crate::db::handle::Kvs;
use crate::db::health::{Health, Part};
use crate::db::snapshot::Snapshot;
use crate::debt::space::SpaceInfo;
use crate::entry::batch::WriteBatch;
use crate::error::{Error, Result};
use crate::jobs::Jobs;
use crate::key::{KVS_MAX, KvsId, Revision, SnapshotId, is_kvs_name};
use crate::metrics::{MetricKind, Sample, emit, visit_pool};
use crate::options::{Durability, Options};
use crate::progress::OpenProgress;
use crate::shape::amplification;
use crate::shape::holds::{Holder, SnapshotInfo, SnapshotsInfo};
use crate::shape::loss::Loss;
use crate::shape::manifest::record::Item;
use crate::shape::tree::Tree;
use crate::store::Store;
use crate::work::{self, Work};
use crate::write::group::{CommitQueue, Done};
use crate::write::sink::Sink;
use mpool::{MemoryConsumer, Pool, ScrubTarget};
use parking_lot::Mutex;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

/// A database: up to 256 named KVSs on one pool.
///
/// ```
/// # fn main() -> Result<(), kvs::Error> {
/// # let dir = tempfile::tempdir().expect("a scratch directory");
/// # for _again in 0..2 {
/// # let mut options = kvs::Options::default();
/// # options.pool.allow_buffered = true;
/// # options.pool.allow_volatile = true;
/// let db = kvs::Database::open(dir.path(), options)?;
/// let users = db.kvs("users")?;
/// users.put(b"ada", b"countess", kvs::Durability::Sync)?;
/// let entry = users.get(b"ada")?.expect("it was put");
/// assert_eq!(entry.value, "countess");
/// # }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Database {
    open: Arc<Open>,
}

/// An open database; closing it is this value's end (`close`).
pub(crate) struct Open {
    pub(crate) store: Arc<Store>,
    pub(crate) commits: Arc<CommitQueue<Sink>>,
    pub(crate) work: Arc<Work>,
    pub(crate) workers: Mutex<Vec<JoinHandle<()>>>,
    /// What this database told the memory governor about.
    pub(crate) consumers: Vec<Arc<dyn MemoryConsumer>>,
}

/// A KVS and what it holds. Counts are upper bounds: keys that newer kvsets shadow still count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvsInfo {
    /// Its name.
    pub name: String,
    /// Keys in its kvsets, those not yet merged away included; memtables are not counted.
    pub keys_estimate: u64,
    /// Bytes of values its keys point at.
    pub value_bytes: u64,
    /// Bytes of its index.
    pub index_bytes: u64,
    /// Kvsets.
    pub kvsets: u64,
    /// Leaves of its tree.
    pub leaves: u64,
}

impl Database {
    /// Opens the database in directory `dir`, creating both if there is nothing.
    ///
    /// Recovery runs here: it replays at most [`Options::wal_bytes_max`] bytes of log and reports
    /// its steps by `tracing`.
    pub fn open(dir: &Path, options: Options) -> Result<Self> {
        Self::open_watched(dir, options, &OpenProgress::default())
    }

    /// As [`Database::open`]; others see by `progress` how far it is.
    pub fn open_watched(dir: &Path, options: Options, progress: &OpenProgress) -> Result<Self> {
        options.validate()?;
        let pool = Pool::open_or_create(dir, &options.pool)?;
        Self::open_pool_watched(pool, options, progress)
    }

    /// Opens the database on a pool of the caller's.
    pub fn open_pool(pool: Arc<Pool>, options: Options) -> Result<Self> {
        Self::open_pool_watched(pool, options, &OpenProgress::default())
    }

    /// As [`Database::open_pool`]; others see by `progress` how far it is.
    pub fn open_pool_watched(
        pool: Arc<Pool>,
        options: Options,
        progress: &OpenProgress,
    ) -> Result<Self> {
        options.validate()?;
        let options = options.fitted_to(pool.free_space().total_bytes);
        let (store, wal) = recover::recover(pool, options, progress)?;
        let jobs = Arc::new(Jobs::new(Arc::clone(&store)));
        let sink = Arc::new(Sink::new(&jobs));
        let commits = CommitQueue::new(
            (wal, sink),
            Arc::clone(&store.life),
            &store.options,
            store.shape.visible(),
        );
        let work = Arc::new(Work::new(jobs, Arc::clone(&commits)));
        let consumers = register_consumers(&store);
        let mut workers = work::start(&work);
        workers.extend(store.hints.take_thread());
        let workers = Mutex::new(workers);
        Ok(Self { open: Arc::new(Open { store, commits, work, workers, consumers }) })
    }

    pub(crate) fn open_database(&self) -> &Open {
        &self.open
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.open.store
    }

    pub(crate) fn commits(&self) -> &Arc<CommitQueue<Sink>> {
        &self.open.commits
    }

    pub(crate) fn work(&self) -> &Arc<Work> {
        &self.open.work
    }

    /// The KVS of this name; created, durably, if there is none.
    pub fn kvs(&self, name: &str) -> Result<Kvs> {
        loop {
            match self.open_kvs(name) {
                Err(Error::NoSuchKvs { .. }) => {}
                found => return found,
            }
            match self.create_kvs(name) {
                // Another thread was faster.
                Err(Error::KvsExists { .. }) => {}
                created => return created,
            }
        }
    }

    /// The KVS of this name; [`Error::NoSuchKvs`] if there is none.
    pub fn open_kvs(&self, name: &str) -> Result<Kvs> {
        self.store().life.check_open()?;
        let view = self.store().shape.view.load();
        let tree = view.trees.values().find(|tree| &*tree.name == name);
        let tree = tree.ok_or_else(|| missing(name))?;
        Ok(Kvs::new(&self.open, tree.kvs, Arc::clone(&tree.name)))
    }

    /// Creates a KVS, durably; [`Error::KvsExists`] if the name is taken.
    pub fn create_kvs(&self, name: &str) -> Result<Kvs> {
        check_name(name)?;
        let store = self.store();
        store.life.check_writable()?;
        let mut versions = store.shape.versions.lock();
        let live = versions.manifest.live();
        if live.kvs.values().any(|kvs| kvs.name == name) {
            return Err(Error::KvsExists { name: name.to_owned() });
        }
        if live.kvs.len() >= KVS_MAX {
            return Err(Error::KvsLimit);
        }
        let kvs = KvsId::new(live.next_kvs);
        store.shape.append(&mut versions, &[Item::KvsCreate { kvs, name: name.to_owned() }])?;
        let tree = Tree::new(kvs, name);
        let name = Arc::clone(&tree.name);
        store.shape.update_view(|view| view.with_tree(tree));
        Ok(Kvs::new(&self.open, kvs, name))
    }

    /// Drops a KVS with everything in it; durable on return. Its handles answer
    /// [`Error::KvsDropped`] from then on, while snapshots taken before still read it.
    pub fn drop_kvs(&self, name: &str) -> Result<()> {
        let store = self.store();
        store.life.check_writable()?;
        let mut versions = store.shape.versions.lock();
        let kvs = versions.manifest.live().kvs.iter().find(|(_, kvs)| kvs.name == name);
        let kvs = *kvs.ok_or_else(|| missing(name))?.0;
        store.shape.append(&mut versions, &[Item::KvsDrop { kvs }])?;
        let tree = store.shape.tree(kvs).expect("the view knows every KVS of the manifest");
        store.shape.update_view(|view| view.without_tree(kvs));
        let dead: Vec<_> =
            tree.kvsets().flat_map(|kvset| versions.references.take(kvset.meta())).collect();
        drop(versions);
        self.work().jobs.forget(&tree, &dead);
        self.commits().relieve();
        store.shape.delete(&dead)
    }

    /// All KVSs, by name.
    pub fn list_kvs(&self) -> Vec<KvsInfo> {
        let view = self.store().shape.view.load();
        let mut infos: Vec<KvsInfo> = view.trees.values().map(|tree| info(tree)).collect();
        infos.sort_by(|a, b| a.name.cmp(&b.name));
        infos
    }

    /// An empty batch.
    pub fn batch(&self) -> WriteBatch {
        WriteBatch::new()
    }

    /// Writes a batch, all of it or nothing, over any KVSs. Blocks until it is acknowledged as
    /// `durability` says. An empty batch changes nothing and gets the last revision.
    pub fn write(&self, batch: WriteBatch, durability: Durability) -> Result<Revision> {
        self.check(&batch)?;
        if batch.is_empty() {
            return Ok(self.revision());
        }
        self.open.commits.commit(batch, durability)
    }

    /// Writes a batch without blocking. `done` runs on a thread of the engine and must be short.
    pub fn write_async(&self, batch: WriteBatch, durability: Durability, done: Done) {
        match self.check(&batch) {
            Ok(()) if batch.is_empty() => done(Ok(self.revision())),
            Ok(()) => self.open.commits.submit(batch, durability, done),
            Err(error) => done(Err(error)),
        }
    }

    pub(crate) fn opened(&self) -> Arc<Open> {
        Arc::clone(&self.open)
    }

    pub(crate) fn of(open: &Arc<Open>) -> Self {
        Self { open: Arc::clone(open) }
    }

    /// Whether `batch` would be refused as things are; nothing is written, and nothing waited for.
    pub fn check(&self, batch: &WriteBatch) -> Result<()> {
        self.check_with(batch, 0)
    }

    /// As [`Database::check`], where so many bytes of values will be added to the batch.
    pub fn check_with(&self, batch: &WriteBatch, more_bytes: u64) -> Result<()> {
        let store = self.store();
        store.life.check_writable()?;
        batch.check_owner(&store.owner)?;
        let (len, max) = (batch.len_bytes(), store.options.batch_bytes_max());
        if len > max {
            return Err(Error::BatchLength { len, max });
        }
        let view = store.shape.view.load();
        if batch.kvss().any(|kvs| !view.trees.contains_key(&kvs)) {
            return Err(Error::KvsDropped);
        }
        store.space.check_put(batch, more_bytes)
    }

    /// An unchanging picture of all KVSs as they are now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::take(&self.open, Holder::default())
    }

    /// As [`Database::snapshot`]; `holder` says whose it is in [`Database::snapshots`].
    pub fn snapshot_for(&self, holder: &str) -> Snapshot {
        let holder = Holder { name: Some(holder.into()), ..Holder::default() };
        Snapshot::take(&self.open, holder)
    }

    /// The snapshots that live, and cursors over ones of their own: how many, how old, whose, and
    /// what space is held by what was deleted since.
    pub fn snapshots(&self) -> SnapshotsInfo {
        self.store().holds.info(self.pool().metrics().held_bytes())
    }

    /// Ends a snapshot, or a cursor over one of its own: what it holds becomes free, and its next
    /// use returns [`Error::SnapshotEnded`]. A cursor that is not used keeps its hold until its
    /// next use, unless it has a callback ([`Cursor::on_end`](crate::Cursor::on_end)).
    ///
    /// [`Error::NoSuchSnapshot`] where none lives with this id.
    pub fn end_snapshot(&self, id: SnapshotId) -> Result<SnapshotInfo> {
        self.store().life.check_open()?;
        self.store().holds.end(id)
    }

    /// The last revision that readers see.
    pub fn revision(&self) -> Revision {
        self.store().shape.visible()
    }

    /// Takes everything acknowledged so far to stable storage.
    pub fn sync(&self) -> Result<Revision> {
        self.store().life.check_writable()?;
        self.open.commits.sync()
    }

    /// Writes the memtables into kvsets. Blocks until done.
    pub fn flush(&self) -> Result<()> {
        let store = self.store();
        store.life.check_writable()?;
        self.work().seal();
        let newest = store.shape.view.load().sealed.first().map(|sealed| sealed.last);
        let Some(newest) = newest else { return Ok(()) };
        self.work()
            .until(|store| store.shape.view.load().sealed.iter().all(|sealed| sealed.last > newest))
    }

    /// Compacts until nothing is left that the picker would do. Blocks until done: then all that it
    /// removed is free, but for what snapshots, cursors and reads under way hold. Jobs for which
    /// there is no room, and kvsets that cannot be read, are left as they are:
    /// [`Database::tree`] shows them. [`Database::start_compaction`] returns them as problems.
    pub fn compact(&self) -> Result<()> {
        let store = self.store();
        self.work().until_idle()?;
        store.hints.wait_for_walk();
        Ok(())
    }

    /// What the open has left out because of damage, as [`Options::salvage`] asked.
    pub fn losses(&self) -> &[Loss] {
        self.store().losses.get().map_or(&[], Vec::as_slice)
    }

    /// The objects of the pool that hold the bytes of what was left out: those that an open for
    /// writing cuts, deletes or writes over. All segments of the log, if any of it was left out.
    pub fn condemned(&self) -> &[ScrubTarget] {
        self.store().condemned.get().map_or(&[], Vec::as_slice)
    }

    /// Whether it is open for reading only: then every change is [`Error::ReadOnly`].
    pub fn is_read_only(&self) -> bool {
        self.pool().is_read_only()
    }

    /// The space, by who may use it.
    pub fn space(&self) -> SpaceInfo {
        self.store().space.info()
    }

    /// The pool below.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.store().pool
    }

    /// Shows every metric of engine and pool.
    pub fn visit_metrics(&self, see: &mut dyn FnMut(Sample<'_>)) {
        let store = self.store();
        store.metrics.visit(see);
        store.cache.visit(see);
        self.open.commits.visit(see);
        visit_gauges(&self.work().jobs, see);
        visit_health(&self.health(), see);
        store.space.visit(see);
        store.holds.visit(see);
        visit_pool(&store.pool, see);
    }

    /// Syncs, stops all background work, flushes what is in memory, and refuses everything from the
    /// beginning on; the next open replays nothing. A second call does nothing. What cannot be
    /// flushed, on a full volume say, stays in the log. What the value cache has learned is kept
    /// for the next open, at most 256 MiB of it.
    pub fn close(&self) -> Result<()> {
        self.open.close()
    }
}

/// There is no such KVS; where there can be none, the error says so, and does not say how to make
/// it.
fn missing(name: &str) -> Error {
    check_name(name).err().unwrap_or_else(|| Error::NoSuchKvs { name: name.to_owned() })
}

fn check_name(name: &str) -> Result<()> {
    let wrong = || Error::KvsName { name: name.to_owned() };
    is_kvs_name(name).then_some(()).ok_or_else(wrong)
}

fn info(tree: &Tree) -> KvsInfo {
    let totals = tree.totals();
    KvsInfo {
        name: tree.name.to_string(),
        keys_estimate: tree.distinct_keys().saturating_sub(totals.tombstones),
        value_bytes: totals.value_bytes,
        index_bytes: totals.kblock_bytes,
        kvsets: totals.kvsets,
        leaves: tree.leaves.len() as u64,
    }
}

/// The memory that memtables hold, reported to the governor.
struct Memtables(Weak<Store>);

impl MemoryConsumer for Memtables {
    fn name(&self) -> &'static str {
        "memtables"
    }

    fn used_bytes(&self) -> u64 {
        let bytes = |store: Arc<Store>| {
            store.shape.view.load().memtables().map(|memtable| memtable.bytes() as u64).sum()
        };
        self.0.upgrade().map_or(0, bytes)
    }

    fn set_target_bytes(&self, _bytes: u64) {}

    fn weight(&self) -> u32 {
        0
    }
}

fn register_consumers(store: &Arc<Store>) -> Vec<Arc<dyn MemoryConsumer>> {
    let mut consumers: Vec<Arc<dyn MemoryConsumer>> =
        vec![Arc::new(Memtables(Arc::downgrade(store))), Arc::clone(&store.read_ahead) as _];
    if store.options.value_cache_bytes.is_none() {
        consumers.push(Arc::clone(&store.cache) as Arc<dyn MemoryConsumer>);
    }
    for consumer in &consumers {
        store.pool.reaper().register(Arc::clone(consumer));
    }
    consumers
}

fn visit_health(health: &Health, see: &mut dyn FnMut(Sample<'_>)) {
    let failed = (
        "store_part_failed",
        "1 where a part of the store has failed; it serves without compaction, without others not.",
    );
    for part in Part::ALL {
        let labels = [("part", part.as_str())];
        emit(see, MetricKind::Gauge, failed, &labels, health.has_failed(part).into());
    }
}

fn visit_gauges(jobs: &Jobs, see: &mut dyn FnMut(Sample<'_>)) {
    let store = &jobs.store;
    let view = store.shape.view.load();
    let losses = store.losses.get().map_or(0, Vec::len) as u64;
    let log_bytes_max = store.log_bytes_max.load(Ordering::Relaxed);
    let mut gauge = |name, help, labels: &[(&'static str, &str)], value: u64| {
        emit(see, MetricKind::Gauge, (name, help), labels, value);
    };
    gauge("revision", "Last visible revision.", &[], store.shape.visible().get());
    let read_only = u64::from(store.pool.is_read_only());
    gauge("read_only", "1 if the store is open for reading only.", &[], read_only);
    let help = "Damaged parts that the open has left out as asked.";
    gauge("left_out", help, &[], losses);
    let (kvsets, vblocks) = jobs.left_alone();
    let help = "Kvsets and vblocks that compaction leaves alone, because it cannot read them.";
    gauge("left_alone", help, &[("part", "kvset")], kvsets);
    gauge("left_alone", help, &[("part", "vblock")], vblocks);
    let help = "Bytes of log at which a memtable is sealed early, to bound recovery.";
    gauge("wal_live_limit_bytes", help, &[], log_bytes_max);
    gauge("memtables_sealed", "Memtables waiting for flush.", &[], view.sealed.len() as u64);
    let bytes = view.memtables().map(|memtable| memtable.bytes() as u64).sum();
    gauge("memtable_bytes", "Bytes of all memtables.", &[], bytes);
    for tree in view.trees.values() {
        let info = info(tree);
        let labels = [("kvs", &*info.name)];
        gauge("kvs_keys", "Keys that live in kvsets, about.", &labels, info.keys_estimate);
        let tombstones = tree.totals().tombstones;
        gauge("kvs_tombstones", "Tombstones in kvsets.", &labels, tombstones);
        gauge("kvs_value_bytes", "Bytes of values that keys point at.", &labels, info.value_bytes);
        gauge("kvs_index_bytes", "Bytes of kblocks.", &labels, info.index_bytes);
        gauge("kvs_root_kvsets", "Kvsets in the root.", &labels, tree.root.len() as u64);
        gauge("kvs_kvsets", "Kvsets in all nodes.", &labels, info.kvsets);
        gauge("kvs_leaves", "Leaves of the tree.", &labels, info.leaves);
        let dead = tree.dead.len() as u64;
        gauge("kvs_dead_ranges", "Ranges of dead keys that scans seek past.", &labels, dead);
    }
    let helpless = jobs.helpless();
    for tree in view.trees.values() {
        let debt = view.debt(tree);
        amplification::visit(&tree.name, debt, helpless.contains(&tree.kvs), see);
    }
}
