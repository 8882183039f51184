//! What exists: trees of kvsets, the view of readers, the manifest.
//!
//! A change of shape goes through four steps: commit the mblocks in the pool, append the edit to
//! the manifest (the commit point), publish the new view ([`Shape::install`]), delete the mblocks
//! that no kvset references any more ([`Shape::delete`]). Readers that still hold an older view
//! keep its mblocks alive through their handles.
//!
//! Lock order: `versions`, then `views`; the commit queue holds its log around `views` and never
//! around `versions`. `versions` is held across the manifest's append (an MDC append, whose purpose
//! that is); `views` never across device IO.

pub(crate) mod amplification;
pub(crate) mod bell;
mod bring;
pub(crate) mod change;
pub(crate) mod holds;
pub(crate) mod kvsets;
pub(crate) mod life;
pub(crate) mod loss;
pub(crate) mod manifest;
pub(crate) mod references;
pub(crate) mod salvage;
pub(crate) mod tree;
pub(crate) mod view;

use crate::error::{Error, Result, Scope};
use crate::key::{KvsId, KvsetId, NodeId, Revision};
use crate::kvset::Kvset;
use crate::memtable::Memtable;
use crate::memtable::retired::Retired;
use arc_swap::ArcSwap;
use change::{Change, Flushed, Installed, Planned};
use life::Life;
use manifest::Manifest;
use manifest::record::Item;
use mpool::{Class, MblockId, MblockWriter, Pool};
use parking_lot::Mutex;
use references::References;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tree::{Tree, TreeEdit};
use view::View;

/// The durable shape: the manifest, and who references which mblock.
pub(crate) struct Versions {
    pub(crate) manifest: Manifest,
    pub(crate) references: References,
}

/// See the module.
pub(crate) struct Shape {
    pool: Arc<Pool>,
    life: Arc<Life>,
    pub(crate) view: ArcSwap<View>,
    /// Held to replace the view.
    views: Mutex<()>,
    pub(crate) versions: Mutex<Versions>,
    /// Last revision that readers may see.
    visible: AtomicU64,
    next_kvset: AtomicU64,
    next_node: AtomicU64,
    /// Memtables that were flushed, until no reader has them.
    pub(crate) retired: Retired,
    /// Whether indexes of new kvsets are read before a view shows them.
    brings: bool,
}

impl Shape {
    /// `brings`: whether indexes of new kvsets are read before a view shows them.
    pub(crate) fn new(
        (pool, life): (&Arc<Pool>, &Arc<Life>),
        versions: Versions,
        view: View,
        brings: bool,
    ) -> Self {
        let live = versions.manifest.live();
        let (floor, next_kvset, next_node) = (live.floor, live.next_kvset, live.next_node);
        Self {
            pool: Arc::clone(pool),
            life: Arc::clone(life),
            view: ArcSwap::from_pointee(view),
            views: Mutex::new(()),
            versions: Mutex::new(versions),
            visible: AtomicU64::new(floor.get()),
            next_kvset: AtomicU64::new(next_kvset),
            next_node: AtomicU64::new(next_node),
            retired: Retired::default(),
            brings,
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

    /// Readers may see what has this revision, and all before it.
    pub(crate) fn publish(&self, revision: Revision) {
        // Release pairs with the Acquire of `visible`: the entries are in the memtable.
        self.visible.store(revision.get(), Ordering::Release);
    }

    pub(crate) fn new_kvset_id(&self) -> KvsetId {
        KvsetId::new(self.next_kvset.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn new_node_id(&self) -> NodeId {
        NodeId::new(self.next_node.fetch_add(1, Ordering::Relaxed))
    }

    /// Replaces the view by what `next` makes of it.
    pub(crate) fn update_view(&self, next: impl FnOnce(&View) -> View) {
        let _one_at_a_time = self.views.lock();
        self.view.store(Arc::new(next(&self.view.load())));
    }

    /// Seals the active memtable if it holds anything; returns whether it did. Called only where no
    /// batch is being applied: by the leader of a commit before it logs, and between two groups;
    /// the two may meet here, hence one lock around it all.
    pub(crate) fn seal(&self, next: impl FnOnce() -> Memtable) -> bool {
        {
            let _one_at_a_time = self.views.lock();
            let view = self.view.load();
            if view.active.is_empty() {
                return false;
            }
            self.view.store(Arc::new(view.with_sealed(self.visible(), next())));
        }
        self.life.bell.ring();
        true
    }

    /// Changes the shape: commits the outputs in the pool, makes the edit durable, and publishes
    /// the view after it. The caller deletes the mblocks that no kvset references any more.
    pub(crate) fn install(
        &self,
        changes: Vec<Change>,
        mut items: Vec<Item>,
        flushed: Option<Flushed>,
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
        self.publish_trees(&edits, &versions.references, flushed);
        drop(versions);
        let added = edits.iter().flat_map(|(_, edit)| &edit.add);
        Ok(Installed {
            // They were opened before the view had them, so a look for moved ones may have passed
            // them by.
            has_moved: added.into_iter().any(|(_, kvset)| kvset.has_moved()),
            kvsets: edits.iter().flat_map(|(_, edit)| change::gone(edit)).collect(),
            mblocks: dead,
        })
    }

    /// Has the indexes in memory that an edit adds, before anybody reads there.
    fn bring_indexes(&self, edits: &[(KvsId, TreeEdit)]) {
        let leaving = edits.iter().flat_map(|(_, edit)| &edit.remove);
        let leaving_bytes = leaving.map(|(_, kvset)| kvset.resident_index_bytes()).sum();
        let new = edits.iter().flat_map(|(_, edit)| &edit.add).map(|(_, kvset)| kvset);
        self.bring(&new, leaving_bytes);
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
                self.life.fail_shape(error);
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

    /// A KVS's tree in the current view.
    pub(crate) fn tree(&self, kvs: KvsId) -> Option<Arc<Tree>> {
        self.view.load().trees.get(&kvs).cloned()
    }
}

/// Deletes in one commit of the pool: half of what its journal's record holds.
const DELETES_PER_COMMIT: usize = 1 << 14;

/// Deletes mblocks, in commits that the pool's journal can hold. They need not go together: what a
/// crash leaves is deleted at the next open.
pub(crate) fn delete(pool: &Arc<Pool>, dead: &[MblockId]) -> Result<()> {
    for some in dead.chunks(DELETES_PER_COMMIT) {
        pool.commit(Vec::new(), some)?;
    }
    Ok(())
}
