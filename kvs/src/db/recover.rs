//! Opening a database, as one readable list of steps.
//!
//! 1. The pool has recovered itself: uncommitted mblocks are gone.
//! 2. The manifest is replayed: KVSs, leaves, kvsets, and the floor of the WAL.
//! 3. Every kvset it names is opened, many at a time; their indexes come later (`warm`).
//! 4. Mblocks that no kvset names are orphans of jobs that a crash cut off; they are deleted, but
//!    for the request counts that the last clean close has kept.
//! 5. The value cache gets those counts ([`frequencies`]). Dead ranges that the last close has kept
//!    are taken ([`work::dead`]), and more are looked for from here on ([`work::dead`]), beside the
//!    replay, so that the first scan finds them.
//! 6. The WAL is replayed after the floor into memtables (`replay`). Full memtables are flushed on
//!    the way, so replay needs no more memory than normal work.
//! 7. Commits and background work start.
//!
//! Damage in steps 2, 3 and 6 is an error that names what is damaged, or, if the options ask for
//! that, left out and kept as a [`Loss`].
//!
//! What is written on the way is housekeeping, and what must be durable before it is shown. The
//! former never keeps a database from being opened: where it fails, on a full volume say, it is put
//! off with a warning.

use crate::db::frequencies;
use crate::db::replay::{Flusher, Over, Replay};
use crate::entry::batch::WriteBatch;
use crate::error::{Error, Result};
use crate::key::{KvsId, NodeId, Revision};
use crate::kvset::Kvset;
use crate::memtable::Memtable;
use crate::options::{Options, Salvage};
use crate::progress::OpenProgress;
use crate::shape::Versions;
use crate::shape::delete;
use crate::shape::kvsets::Kvsets;
use crate::shape::loss::Loss;
use crate::shape::manifest::live::{Live, LiveKvs};
use crate::shape::manifest::record::Item;
use crate::shape::manifest::{Manifest, UNKNOWN};
use crate::shape::references::References;
use crate::shape::salvage;
use crate::shape::tree::{Tree, TreeEdit};
use crate::shape::view::View;
use crate::store::Store;
use crate::wal::recovery;
use crate::wal::{Replayed, Wal};
use crate::work;
use mpool::{Class, MblockId, Pool, ScrubTarget};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Steps 2 to 6.
pub(crate) fn recover(
    pool: Arc<Pool>,
    options: Options,
    progress: &OpenProgress,
) -> Result<(Arc<Store>, Wal)> {
    let mut losses = Vec::new();
    let cut = options.salvage.cut_manifest.then_some(&mut losses);
    let mut manifest = Manifest::open(&pool, &options.initial_kvs, cut)?;
    let mut condemned = Vec::new();
    if !losses.is_empty() {
        condemned.extend(crate::shape::manifest::journal(&pool).map(ScrubTarget::Journal));
    }
    let kvsets = open_kvsets((&pool, progress), &mut manifest, options.salvage, &mut losses)?;
    let mut references = References::default();
    for (_, _, kvset) in &kvsets {
        references.add(&pool, kvset.meta())?;
    }
    let orphans = orphans(&pool, &references);
    if !losses.is_empty() {
        condemned.extend(orphans.iter().copied().map(ScrubTarget::Mblock));
    }
    delete_orphans(&pool, &orphans);
    let orphans = orphans.len();
    tracing::info!(
        kvs = manifest.live().kvs.len(),
        kvsets = kvsets.len(),
        orphans,
        "manifest replayed"
    );
    let active = Memtable::new(usize::try_from(options.memtable_bytes).unwrap_or(usize::MAX));
    let view =
        View::new(active, options.memtable_bytes, trees(manifest.live(), kvsets, &references));
    let store = Arc::new(Store::new(pool, options, Versions { manifest, references }, view));
    frequencies::restore(&store);
    if losses.is_empty() {
        work::dead::restore(&store);
    }
    let learner = work::dead::start(&store);
    let floor = store.shape.visible();
    let segments = store.pool.segment_ids();
    let begun = Instant::now();
    let (mut wal, mut replayed) = replay_log(&store, floor, &mut losses, progress)?;
    // What was flushed on the way is not needed any more.
    let floor = store.shape.versions.lock().manifest.live().floor;
    if let Err(error) = wal.release(floor) {
        tracing::warn!(%error, "segments that are not needed stay until the next release");
    }
    let holes = std::mem::take(&mut replayed.holes);
    if !holes.is_empty() {
        condemned.extend(segments.into_iter().map(ScrubTarget::Segment));
    }
    losses.extend(salvage::of_holes(holes, store.shape.versions.lock().manifest.live()));
    for loss in &losses {
        tracing::warn!(%loss, keys = loss.keys.len(), "left out");
    }
    assert!(store.losses.set(losses).is_ok(), "set once, here");
    assert!(store.condemned.set(condemned).is_ok(), "set once, here");
    // Before anybody looks: what is skipped was given out.
    store.shape.publish(replayed.last);
    learner.keep();
    let Replayed { frames, bytes, log_bytes, .. } = replayed;
    let (elapsed, last) = (begun.elapsed(), store.shape.visible());
    tracing::info!(frames, bytes, log_bytes, %last, ?elapsed, "WAL replayed");
    store.bound_log(recovery::note(&store.pool, log_bytes, elapsed));
    Ok((store, wal))
}

/// Step 6, with flushes on a thread beside it.
fn replay_log(
    store: &Store,
    floor: Revision,
    losses: &mut Vec<Loss>,
    progress: &OpenProgress,
) -> Result<(Wal, Replayed)> {
    let flusher = Flusher::new(store);
    let is_alone = store.options.background_threads == 0 || store.pool.is_read_only();
    let opened: Result<_> = std::thread::scope(|scope| {
        let _over = Over(&flusher);
        if !is_alone {
            let builder = std::thread::Builder::new().name("db-replay-flush".to_owned());
            builder
                .spawn_scoped(scope, || flusher.run())
                .expect("the system gives us a thread at start");
        }
        let mut replay = Replay::new(store, losses, (!is_alone).then_some(&flusher), progress);
        let opened =
            Wal::open(&store.pool, &store.options, floor, progress, &mut |revision, batch| {
                replay.frame(revision, batch)
            })?;
        replay.end();
        Ok(opened)
    });
    flusher.outcome().and(opened)
}

type Opened = Vec<(KvsId, NodeId, Arc<Kvset>)>;

/// Those that cannot be used are an error, or leave the manifest before anything of theirs is
/// deleted.
fn open_kvsets(
    (pool, progress): (&Arc<Pool>, &OpenProgress),
    manifest: &mut Manifest,
    salvage: Salvage,
    losses: &mut Vec<Loss>,
) -> Result<Opened> {
    let Kvsets { usable, unusable } = Kvsets::open(pool, manifest.live(), Class::Hot, progress)?;
    let mut removed = Vec::new();
    for unusable in unusable {
        if !salvage.skip_kvsets {
            return Err(unusable.error);
        }
        losses.push(salvage::of_kvset(&unusable));
        removed.push(Item::KvsetRemove { kvset: unusable.id });
    }
    if !removed.is_empty() {
        manifest.append(&removed)?;
    }
    Ok(usable)
}

fn orphans(pool: &Arc<Pool>, references: &References) -> Vec<MblockId> {
    let counts = frequencies::mblocks(pool);
    let is_orphan = |id: &MblockId| !references.contains(*id) && !counts.contains(id);
    pool.mblock_ids().into_iter().filter(is_orphan).collect()
}

/// They cost room only, so what keeps them from being deleted does not keep the database from being
/// opened.
fn delete_orphans(pool: &Arc<Pool>, orphans: &[MblockId]) {
    if let Err(error) = delete(pool, orphans) {
        tracing::warn!(orphans = orphans.len(), %error, "orphans stay until the next open");
    }
}

fn trees(live: &Live, kvsets: Opened, references: &References) -> Vec<Tree> {
    let mut edits: BTreeMap<KvsId, TreeEdit> = BTreeMap::new();
    for (kvs, node, kvset) in kvsets {
        edits.entry(kvs).or_default().add.push((node, kvset));
    }
    let tree = |(id, kvs): (&KvsId, &Arc<LiveKvs>)| {
        let mut edit = edits.remove(id).unwrap_or_default();
        edit.leaves_add = kvs.leaves.iter().map(|(node, key)| (*node, key.clone())).collect();
        Tree::new(*id, &kvs.name).edited(&edit, &|id| references.len_of(id))
    };
    live.kvs.iter().map(tree).collect()
}

/// A manifest whose last edits are lost may not know a KVS that the log writes to: one with an id
/// that it has not given yet. Its name is lost; what was written to it need not be.
pub(crate) fn make_again(
    store: &Store,
    revision: Revision,
    batch: &WriteBatch,
    losses: &mut Vec<Loss>,
) -> Result<()> {
    for (kvs, _, _) in batch.ops() {
        let mut versions = store.shape.versions.lock();
        let Err(error) = check_known(revision, kvs, versions.manifest.live()) else { continue };
        if !store.options.salvage.cut_manifest {
            return Err(error);
        }
        let name = format!("recovered-{}", kvs.get());
        store.shape.append(&mut versions, &[Item::KvsCreate { kvs, name: name.clone() }])?;
        store.shape.update_view(|view| view.with_tree(Tree::new(kvs, &name)));
        losses.push(salvage::of_name(kvs, &name));
    }
    Ok(())
}

/// The log writes to a KVS only after the edit that made it is durable.
pub(crate) fn check_known(revision: Revision, kvs: KvsId, live: &Live) -> Result<()> {
    if kvs.get() < live.next_kvs {
        return Ok(());
    }
    let what = "manifest".to_owned();
    let reason = format!("revision {revision} of the log is of {kvs}, {UNKNOWN}");
    Err(Error::Corrupt { what, reason })
}
