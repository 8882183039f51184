//! What all parts of one database share, and how its shape changes.
//!
//! Lock order: the commit queue's log or `versions`, then `views`; log and `versions` are never
//! held together. `versions` is held across the manifest's append (an MDC append, whose purpose
//! that is); `views` never across device IO.
//!
//! A change of shape goes through four steps: commit the mblocks in the pool, append the edit to
//! the manifest (the commit point), publish the new view ([`Store::install`]), delete the mblocks
//! that no kvset references any more ([`Store::delete`]). Readers that still hold an older view
//! keep its mblocks alive through their handles.

pub(crate) mod bring;
pub(crate) mod room;

use crate::cache::ValueCache;
use crate::dead::hints::Hints;
use crate::debt::space::Needs;
use crate::entry::owner::Owner;
use crate::error::{Error, Result, Scope};
use crate::key::{KvsId, KvsetId, NodeId, Revision};
use crate::kvset::{BuiltKvset, Kvset, KvsetMeta, ReadAhead};
use crate::memtable::Memtable;
use crate::memtable::retired::Retired;
use crate::metrics::DbMetrics;
use crate::options::Options;
use crate::options::placement::{self, Level, Part};
use crate::shape::bell::Bell;
use crate::shape::holds::Holds;
use crate::shape::loss::Loss;
use crate::shape::manifest::Manifest;
use crate::shape::manifest::record::Item;
use crate::shape::references::References;
use crate::shape::salvage;
use crate::shape::tree::{Tree, TreeEdit};
use crate::shape::view::View;
use crate::wal::recovery;
use arc_swap::ArcSwap;
use bytes::Bytes;
use mpool::{Class, MblockId, MblockWriter, MediaClass, Placement, Pool, Priority, ScrubTarget};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// The durable shape: the manifest, and who references which mblock.
pub(crate) struct Versions {
    pub(crate) manifest: Manifest,
    pub(crate) references: References,
}

/// The shared state of a database.
pub(crate) struct Store {
    pub(crate) pool: Arc<Pool>,
    /// Who its handles belong to.
    pub(crate) owner: Arc<Owner>,
    pub(crate) options: Options,
    pub(crate) view: ArcSwap<View>,
    /// Held to replace the view.
    views: Mutex<()>,
    pub(crate) versions: Mutex<Versions>,
    pub(crate) cache: Arc<ValueCache>,
    /// Last revision that readers may see.
    pub(crate) visible: AtomicU64,
    /// Memtables that were flushed, until no reader has them.
    pub(crate) retired: Retired,
    /// Rung when the jobs, the sealed memtables or the trees change.
    pub(crate) bell: Bell,
    pub(crate) next_kvset: AtomicU64,
    pub(crate) next_node: AtomicU64,
    failure: OnceLock<String>,
    /// What the open has left out.
    pub(crate) losses: OnceLock<Vec<Loss>>,
    /// Where the bytes of that are, as far as they are on the medium.
    pub(crate) condemned: OnceLock<Vec<ScrubTarget>>,
    closed: AtomicBool,
    /// What the engine's work needs of the pool.
    pub(crate) needs: Needs,
    pub(crate) room: room::Room,
    pub(crate) hints: Hints,
    pub(crate) holds: Arc<Holds>,
    /// What scans hold of values that they read ahead.
    pub(crate) read_ahead: Arc<ReadAhead>,
    /// Bytes of log at which the active memtable is sealed early.
    pub(crate) log_bytes_max: AtomicU64,
    pub(crate) metrics: DbMetrics,
}

/// A tree's edit with the kvsets it adds still to be committed.
#[derive(Default)]
pub(crate) struct Change {
    pub(crate) kvs: Option<KvsId>,
    pub(crate) remove: Vec<(NodeId, Arc<Kvset>)>,
    pub(crate) add: Vec<(NodeId, BuiltKvset)>,
    /// Kvsets that are removed from one node and added to another.
    pub(crate) moved: Vec<(NodeId, Arc<Kvset>)>,
    pub(crate) leaves_remove: Vec<NodeId>,
    pub(crate) leaves_add: Vec<(NodeId, Bytes)>,
}

/// A tree's edit whose kvsets are built but not yet open.
type Planned = (KvsId, TreeEdit, Vec<(NodeId, KvsetMeta)>);

/// What a change of shape has left behind.
#[must_use = "the mblocks are to be deleted"]
pub(crate) struct Installed {
    /// Kvsets that have left their tree.
    pub(crate) kvsets: Vec<KvsetId>,
    /// Mblocks that no kvset references any more.
    pub(crate) mblocks: Vec<MblockId>,
    /// One of the new kvsets has handles of places that the pool has left meanwhile.
    pub(crate) has_moved: bool,
}

/// What a flush adds to a change of shape.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flushed {
    /// Last revision of the memtable that leaves the view.
    pub(crate) last: Revision,
    /// Epoch of the view after it.
    pub(crate) epoch: u64,
}

impl Change {
    /// Splits it into writers to commit, manifest items, and what remains for the tree.
    fn plan(self, writers: &mut Vec<MblockWriter>, items: &mut Vec<Item>) -> Planned {
        let Self { kvs, remove, add, moved, leaves_remove, leaves_add } = self;
        let kvs = kvs.expect("a change names its KVS");
        let mut metas = Vec::new();
        for (node, built) in add {
            writers.extend(built.writers);
            metas.push((node, built.meta));
        }
        let gone = remove.iter().map(|(_, kvset)| Item::KvsetRemove { kvset: kvset.meta().id });
        items.extend(gone);
        items.extend(leaves_remove.iter().map(|node| Item::LeafRemove { kvs, node: *node }));
        for (node, first_key) in &leaves_add {
            items.push(Item::LeafAdd { kvs, node: *node, first_key: first_key.clone() });
        }
        for (node, meta) in &metas {
            items.push(Item::KvsetAdd { kvs, node: *node, kvset: meta.id, hblock: meta.hblock });
        }
        for (node, kvset) in &moved {
            let KvsetMeta { id: kvset, hblock, .. } = *kvset.meta();
            items.push(Item::KvsetAdd { kvs, node: *node, kvset, hblock });
        }
        (kvs, TreeEdit { remove, add: moved, leaves_remove, leaves_add }, metas)
    }
}

impl Store {
    pub(crate) fn new(pool: Arc<Pool>, options: Options, versions: Versions, view: View) -> Self {
        let live = versions.manifest.live();
        let (next_kvset, next_node) =
            (AtomicU64::new(live.next_kvset), AtomicU64::new(live.next_node));
        let cache_bytes = options.value_cache_bytes.unwrap_or(VALUE_CACHE_START_BYTES);
        Self {
            visible: AtomicU64::new(live.floor.get()),
            view: ArcSwap::from_pointee(view),
            views: Mutex::new(()),
            versions: Mutex::new(versions),
            cache: Arc::new(ValueCache::new(cache_bytes)),
            retired: Retired::default(),
            bell: Bell::default(),
            next_kvset,
            next_node,
            failure: OnceLock::new(),
            losses: OnceLock::new(),
            condemned: OnceLock::new(),
            closed: AtomicBool::new(false),
            needs: Needs::new(&options, pool.free_space().total_bytes),
            room: room::Room::default(),
            hints: Hints::default(),
            holds: Arc::new(Holds::new(options.snapshot_age_max_ms)),
            read_ahead: Arc::default(),
            log_bytes_max: AtomicU64::new(options.wal_bytes_max),
            metrics: DbMetrics::default(),
            owner: Owner::new(&pool),
            pool,
            options,
        }
    }

    pub(crate) fn visible(&self) -> Revision {
        // Acquire pairs with the Release of `publish`: the batch's entries are in the memtable.
        Revision::new(self.visible.load(Ordering::Acquire))
    }

    /// A view, and a revision up to which it holds everything.
    pub(crate) fn moment(&self) -> (Arc<View>, Revision) {
        let mut view = self.view.load_full();
        loop {
            let at = self.visible();
            let again = self.view.load_full();
            // The memtable that was active before is still active, so it holds all up to `at`.
            if Arc::ptr_eq(&view.active, &again.active) {
                return (again, at);
            }
            view = again;
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

    /// As the commit leader does, for a replay.
    pub(crate) fn publish_replayed(&self, revision: Revision) {
        self.visible.store(revision.get(), Ordering::Release);
    }

    pub(crate) fn new_kvset_id(&self) -> KvsetId {
        KvsetId::new(self.next_kvset.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn new_node_id(&self) -> NodeId {
        NodeId::new(self.next_node.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn new_memtable(&self) -> Memtable {
        Memtable::new(
            usize::try_from(self.options.memtable_bytes).expect("validated to 4 GiB at most"),
        )
    }

    /// Replaces the view by what `next` makes of it.
    pub(crate) fn update_view(&self, next: impl FnOnce(&View) -> View) {
        let _one_at_a_time = self.views.lock();
        self.view.store(Arc::new(next(&self.view.load())));
    }

    /// Seals the active memtable if it holds anything. Called only where no batch is being applied:
    /// by the leader of a commit before it logs, and by [`CommitQueue::exclusive`]; the two may
    /// meet here, hence one lock around it all.
    pub(crate) fn seal(&self) {
        {
            let _one_at_a_time = self.views.lock();
            let view = self.view.load();
            if view.active.is_empty() {
                return;
            }
            self.view.store(Arc::new(view.with_sealed(self.visible(), self.new_memtable())));
        }
        self.metrics.seals.add(1);
        self.bell.ring();
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

    /// Changes the shape: commits the outputs in the pool, makes the edit durable, and publishes
    /// the view after it. `before_publish` runs between the last two. The caller deletes the
    /// mblocks that no kvset references any more.
    pub(crate) fn install(
        &self,
        changes: Vec<Change>,
        mut items: Vec<Item>,
        flushed: Option<Flushed>,
        before_publish: impl FnOnce() -> Result<()>,
    ) -> Result<Installed> {
        let mut writers = Vec::new();
        let mut planned: Vec<Planned> = Vec::new();
        for change in changes {
            planned.push(change.plan(&mut writers, &mut items));
        }
        let fresh: Vec<MblockId> = writers.iter().map(MblockWriter::id).collect();
        if !writers.is_empty() {
            self.pool.commit(writers, &[])?;
        }
        let kvs: Vec<KvsId> = planned.iter().map(|(kvs, ..)| *kvs).collect();
        let opened = self.open_added(planned);
        if let Ok(edits) = &opened {
            self.bring_indexes(edits);
        }
        let mut versions = self.versions.lock();
        // First, because the drop of a KVS deletes values that the outputs share, and then they
        // cannot be opened.
        let dropped = kvs.iter().any(|kvs| !versions.manifest.live().kvs.contains_key(kvs));
        if dropped || opened.is_err() {
            drop(versions);
            self.abandon(&fresh);
            return Err(opened.err().filter(|_| !dropped).unwrap_or(Error::KvsDropped));
        }
        let edits = opened.expect("checked above");
        if let Err(error) = self.append(&mut versions, &items) {
            drop(versions);
            // After any other failure the edit may be in the manifest, and name them.
            if error.scope() == Scope::Moment {
                self.abandon(&fresh);
            }
            return Err(error);
        }
        let dead = self.count_references(&mut versions, &edits)?;
        before_publish()?;
        self.publish_trees(&edits, &versions.references, flushed);
        drop(versions);
        let added = edits.iter().flat_map(|(_, edit)| &edit.add);
        Ok(Installed {
            // They were opened before the view had them, so a look for moved ones may have passed
            // them by.
            has_moved: added.into_iter().any(|(_, kvset)| kvset.has_moved()),
            kvsets: edits.iter().flat_map(|(_, edit)| gone(edit)).collect(),
            mblocks: dead,
        })
    }

    /// Has the indexes in memory that an edit adds, before anybody reads there.
    fn bring_indexes(&self, edits: &[(KvsId, TreeEdit)]) {
        let leaving = edits.iter().flat_map(|(_, edit)| &edit.remove);
        let leaving_bytes = leaving.map(|(_, kvset)| kvset.resident_index_bytes()).sum();
        let new = edits.iter().flat_map(|(_, edit)| &edit.add).map(|(_, kvset)| kvset);
        bring::bring(self, &new, leaving_bytes);
    }

    /// References of what is added and of what is removed; returns the mblocks that nobody
    /// references any more.
    fn count_references(
        &self,
        versions: &mut Versions,
        edits: &[(KvsId, TreeEdit)],
    ) -> Result<Vec<MblockId>> {
        let mut dead = Vec::new();
        for (_, kvset) in edits.iter().flat_map(|(_, edit)| &edit.add) {
            versions.references.add(&self.pool, kvset.meta())?;
        }
        for (_, kvset) in edits.iter().flat_map(|(_, edit)| &edit.remove) {
            dead.extend(versions.references.take(kvset.meta()));
        }
        Ok(dead)
    }

    /// Deletes mblocks. Their space returns when the last view that shows them is gone.
    pub(crate) fn delete(&self, dead: &[MblockId]) -> Result<()> {
        delete(&self.pool, dead)
    }

    fn open_added(&self, planned: Vec<Planned>) -> Result<Vec<(KvsId, TreeEdit)>> {
        let mut edits = Vec::new();
        for (kvs, mut edit, metas) in planned {
            for (node, meta) in metas {
                edit.add.push((node, self.open_kvset(meta.hblock)?));
            }
            edits.push((kvs, edit));
        }
        Ok(edits)
    }

    /// Deletes committed outputs that no edit names.
    fn abandon(&self, fresh: &[MblockId]) {
        if let Err(error) = delete(&self.pool, fresh) {
            tracing::warn!(%error, "outputs of an abandoned job stay until the next open");
        }
    }

    /// Appends to the manifest; a failure leaves its fate unknown and poisons the database.
    pub(crate) fn append(&self, versions: &mut Versions, items: &[Item]) -> Result<()> {
        versions.manifest.append(items).inspect_err(|error| {
            // A full journal has changed nothing.
            if error.scope() != Scope::Moment {
                self.fail(error);
            }
        })
    }

    /// Notes that everything up to `settled` is in kvsets, or gone; returns the floor.
    pub(crate) fn raise_floor(&self, settled: Option<Revision>) -> Result<Revision> {
        let mut versions = self.versions.lock();
        let floor = versions.manifest.live().floor;
        match settled.filter(|settled| *settled > floor) {
            Some(revision) => {
                self.append(&mut versions, &[Item::Floor { revision }])?;
                Ok(revision)
            }
            None => Ok(floor),
        }
    }

    /// The view after an edit, without the memtable it flushed. Trees change under the lock of the
    /// versions only; so they are made before the view is locked, which the leader of a commit
    /// waits for when it seals a memtable.
    fn publish_trees(
        &self,
        edits: &[(KvsId, TreeEdit)],
        references: &References,
        flushed: Option<Flushed>,
    ) {
        let view = self.view.load_full();
        let edited = |(kvs, edit): &(KvsId, TreeEdit)| {
            let tree = view.trees.get(kvs).expect("the view knows every KVS of the manifest");
            tree.edited(edit, &|id| references.len_of(id))
        };
        if let Some(Flushed { last, .. }) = flushed {
            let gone = view.sealed.iter().filter(|sealed| sealed.last <= last);
            gone.for_each(|sealed| self.retired.add(Arc::clone(&sealed.memtable)));
        }
        let trees: Vec<Tree> = edits.iter().map(edited).collect();
        self.update_view(|view| {
            let mut next = view.clone();
            for tree in trees {
                next.set_tree(tree);
            }
            if let Some(Flushed { last, epoch }) = flushed {
                next.sealed.retain(|sealed| sealed.last > last);
                next.epoch = epoch;
            }
            next
        });
    }

    /// Opens a committed kvset for reading.
    pub(crate) fn open_kvset(&self, hblock: MblockId) -> Result<Arc<Kvset>> {
        Kvset::open(&self.pool, hblock, Class::Hot, Class::Cold)
    }

    /// Remembers the first failure after which nothing more may be written.
    pub(crate) fn fail(&self, error: &Error) {
        let cause = error.with_sources();
        if self.failure.set(cause.clone()).is_ok() {
            tracing::error!(cause, "the database takes no more writes");
        }
        self.bell.ring();
    }

    /// Why nothing more may be written, if that is so.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.get().cloned()
    }

    /// `Err` once the database is closed or has failed.
    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.is_closed() {
            return Err(Error::Closed);
        }
        salvage::check_writable(self.pool.is_read_only())?;
        match self.failure.get() {
            Some(cause) => Err(Error::Poisoned { cause: cause.clone() }),
            None => Ok(()),
        }
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if self.is_closed() { Err(Error::Closed) } else { Ok(()) }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// True for the one caller that closes it.
    pub(crate) fn close_once(&self) -> bool {
        !self.closed.swap(true, Ordering::AcqRel)
    }

    /// A KVS's tree in the current view.
    pub(crate) fn tree(&self, kvs: KvsId) -> Option<Arc<Tree>> {
        self.view.load().trees.get(&kvs).cloned()
    }
}

/// The kvsets that leave a tree, not only their node.
fn gone(edit: &TreeEdit) -> impl Iterator<Item = KvsetId> + '_ {
    let stays = |id: &KvsetId| edit.add.iter().any(|(_, kvset)| kvset.meta().id == *id);
    edit.remove.iter().map(|(_, kvset)| kvset.meta().id).filter(move |id| !stays(id))
}

/// Deletes in one commit of the pool: half of what its journal's record holds.
const DELETES_PER_COMMIT: usize = 1 << 14;
/// What the value cache holds until the memory governor first speaks.
const VALUE_CACHE_START_BYTES: u64 = 64 << 20;

/// Deletes mblocks, in commits that the pool's journal can hold. They need not go together: what a
/// crash leaves is deleted at the next open.
pub(crate) fn delete(pool: &Arc<Pool>, dead: &[MblockId]) -> Result<()> {
    for some in dead.chunks(DELETES_PER_COMMIT) {
        pool.commit(Vec::new(), some)?;
    }
    Ok(())
}
