//! Opening a database, as one readable list of steps.
//!
//! 1. The pool has recovered itself: uncommitted mblocks are gone.
//! 2. The manifest is replayed: KVSs, leaves, kvsets, and the floor of the WAL.
//! 3. Every kvset it names is opened; index pages become resident.
//! 4. Mblocks that no kvset names are orphans of jobs that a crash cut off; they are deleted, but
//!    for the request counts that the last clean close has kept.
//! 5. The value cache gets those counts ([`frequencies`]).
//! 6. The WAL is replayed after the floor into memtables. A full memtable is flushed on the way, so
//!    replay needs no more memory than normal work.
//! 7. Commits and background work start.
//!
//! What is written on the way is housekeeping, and what must be durable before it is shown. The
//! former never keeps a database from being opened: where it fails, on a full volume say, it is put
//! off with a warning.

use crate::batch::{Op, WriteBatch};
use crate::error::{Result, Scope};
use crate::flush;
use crate::frequencies;
use crate::key::{KvsId, NodeId, Revision, key_hash};
use crate::kvset::Kvset;
use crate::manifest::Manifest;
use crate::manifest::live::Live;
use crate::memtable::Memtable;
use crate::options::Options;
use crate::store::{MblockUse, Store, Versions, delete, reference};
use crate::tree::{Tree, TreeEdit};
use crate::view::View;
use crate::wal::{Replayed, Wal};
use mpool::{Class, MblockId, Pool};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Steps 2 to 6.
pub(crate) fn recover(pool: Arc<Pool>, options: Options) -> Result<(Arc<Store>, Wal, Replayed)> {
    let manifest = Manifest::open(&pool, &options.initial_kvs)?;
    let kvsets = open_kvsets(&pool, manifest.live())?;
    let mut mblocks = BTreeMap::new();
    for (_, _, kvset) in &kvsets {
        reference(&mut mblocks, &pool, kvset.meta())?;
    }
    let orphans = delete_orphans(&pool, &mblocks);
    tracing::info!(
        kvs = manifest.live().kvs.len(),
        kvsets = kvsets.len(),
        orphans,
        "manifest replayed"
    );
    let view = View {
        epoch: 0,
        active: Arc::new(Memtable::new(
            usize::try_from(options.memtable_bytes).unwrap_or(usize::MAX),
        )),
        sealed: Vec::new(),
        trees: trees(manifest.live(), kvsets),
    };
    let store = Arc::new(Store::new(pool, options, Versions { manifest, mblocks }, view));
    frequencies::restore(&store);
    let floor = store.visible();
    let (wal, replayed) = Wal::open(&store.pool, &store.options, floor, &mut |revision, batch| {
        replay(&store, revision, batch)
    })?;
    // Before anybody looks: what is skipped was given out.
    store.visible.store(replayed.last.get(), Ordering::Release);
    tracing::info!(frames = replayed.frames, bytes = replayed.bytes, last = %store.visible(), "WAL replayed");
    Ok((store, wal, replayed))
}

type Opened = Vec<(KvsId, NodeId, Arc<Kvset>)>;

fn open_kvsets(pool: &Arc<Pool>, live: &Live) -> Result<Opened> {
    let open = |kvset: &crate::manifest::live::LiveKvset| {
        let opened = Kvset::open(pool, kvset.hblock, Class::Hot, Class::Cold)?;
        Ok((kvset.kvs, kvset.node, opened))
    };
    live.kvsets.values().map(open).collect()
}

/// Returns how many there were. They cost room only, so what keeps them from being deleted does not
/// keep the database from being opened.
fn delete_orphans(pool: &Arc<Pool>, mblocks: &BTreeMap<MblockId, MblockUse>) -> usize {
    let counts = frequencies::mblocks(pool);
    let is_orphan = |id: &MblockId| !mblocks.contains_key(id) && !counts.contains(id);
    let orphans: Vec<MblockId> = pool.mblock_ids().into_iter().filter(is_orphan).collect();
    if let Err(error) = delete(pool, &orphans) {
        tracing::warn!(orphans = orphans.len(), %error, "orphans stay until the next open");
    }
    orphans.len()
}

fn trees(live: &Live, kvsets: Opened) -> BTreeMap<KvsId, Arc<Tree>> {
    let mut edits: BTreeMap<KvsId, TreeEdit> = BTreeMap::new();
    for (kvs, node, kvset) in kvsets {
        edits.entry(kvs).or_default().add.push((node, kvset));
    }
    let tree = |(id, kvs): (&KvsId, &crate::manifest::live::LiveKvs)| {
        let mut edit = edits.remove(id).unwrap_or_default();
        edit.leaves_add = kvs.leaves.iter().map(|(node, key)| (*node, key.clone())).collect();
        (*id, Arc::new(Tree::new(*id, &kvs.name).edited(&edit)))
    };
    live.kvs.iter().map(tree).collect()
}

/// Applies one frame of the WAL, flushing what no longer fits.
fn replay(store: &Store, revision: Revision, batch: &WriteBatch) -> Result<()> {
    if store.view.load().active.bytes() as u64 >= store.options.memtable_bytes {
        store.seal();
        match flush::flush_oldest(store) {
            // A full volume: the memtables stay, as they would at run time, and the database opens,
            // so that it can be read and deleted from. There may be more of them than
            // `memtables_max` if they were larger before; the log bounds them.
            Err(error) if error.scope() == Scope::Moment => {
                tracing::warn!(%error, "a flush during replay is put off");
            }
            done => {
                done?;
            }
        }
    }
    apply(store, batch, revision);
    store.visible.store(revision.get(), Ordering::Release);
    Ok(())
}

/// Puts a batch into the active memtable. Entries of a KVS that was dropped after they were logged
/// are passed over.
pub(crate) fn apply(store: &Store, batch: &WriteBatch, revision: Revision) {
    let view = store.view.load();
    for (kvs, key, op) in batch.ops() {
        if view.trees.contains_key(&kvs) {
            view.active.insert(kvs, key, key_hash(kvs, key), revision, op);
        }
        if let Op::Put(value) = op {
            store.metrics.put_bytes.add((key.len() + value.len()) as u64);
        }
    }
    store.metrics.writes.add(batch.len() as u64);
}
