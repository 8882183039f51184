//! Flush: the oldest sealed memtable becomes one root kvset in every KVS it has entries of.
//!
//! All kvsets of a flush and the new floor are one manifest record, so a crash finds either the
//! kvsets or the WAL. Only the newest version of a key is written: snapshots keep the memtable
//! itself. Values are written once here; later spills move only keys.

use crate::entry::op::Op;
use crate::entry::version::VersionCursor;
use crate::error::{Error, Result};
use crate::jobs::Jobs;
use crate::jobs::ledger::Progress;
use crate::key::{KvsId, NodeId, Revision, key_hash};
use crate::kvset::{BuildOptions, BuiltKvset, KvsetBuilder};
use crate::memtable::Memtable;
use crate::options::placement::Level;
use crate::shape::change::Change;
use crate::shape::change::Flushed;
use crate::shape::change::Installed;
use crate::shape::manifest::record::Item;
use crate::shape::view::Sealed;
use crate::store::Store;
use mpool::Priority;
use std::sync::Arc;

/// What an entry takes beside its key and value, about.
const ENTRY_BYTES: u64 = 32;

/// What a flush has changed.
pub(crate) struct Done {
    /// Up to here everything is in kvsets.
    pub(crate) floor: Revision,
    pub(crate) installed: Installed,
}

impl Jobs {
    pub(super) fn flush_oldest(&self, progress: &Progress) -> Result<()> {
        let Some(Done { floor, installed }) = flush_oldest(&self.store, progress)? else {
            return Ok(());
        };
        self.news.lock().floor = Some(floor);
        self.installed(&installed)
    }
}

/// Flushes the oldest sealed memtable; `None` if there is none. At most one flush runs at a time.
pub(crate) fn flush_oldest(store: &Store, progress: &Progress) -> Result<Option<Done>> {
    let view = store.shape.view.load_full();
    let Some(sealed) = view.sealed.last() else { return Ok(None) };
    loop {
        match store.metrics.flush_jobs.times.time(|| flush(store, sealed, progress)) {
            // A KVS was dropped between the build and the edit: build again without it.
            Err(Error::KvsDropped) => {}
            done => return done.map(Some),
        }
    }
}

fn flush(store: &Store, sealed: &Arc<Sealed>, progress: &Progress) -> Result<Done> {
    let view = store.shape.view.load_full();
    let live: Vec<KvsId> =
        sealed.memtable.kvs_ids().into_iter().filter(|kvs| view.trees.contains_key(kvs)).collect();
    let mut changes = Vec::new();
    let mut written = 0;
    for kvs in &live {
        if let Some(built) = build(store, &sealed.memtable, *kvs)? {
            written += built.written_bytes();
            progress.written_bytes.add(built.written_bytes());
            changes.push(Change {
                kvs: Some(*kvs),
                add: vec![(NodeId::ROOT, built)],
                ..Change::default()
            });
        }
    }
    let (floor, epoch) = (sealed.last, view.epoch + 1);
    // From here on nothing older than the memtable enters the cache, and what it has is as new when
    // the view shows the kvsets. Until then readers find the keys in the memtable.
    store.cache.begin_flush(epoch);
    live.iter().try_for_each(|kvs| refresh_cache(store, &sealed.memtable, *kvs))?;
    let flushed = Some(Flushed { last: floor, epoch });
    let items = vec![Item::Floor { revision: floor }];
    let installed = store.shape.install(changes, items, flushed);
    let installed = installed.inspect_err(|_| store.cache.cancel_flush(view.epoch))?;
    store.metrics.flushes.add(1);
    store.metrics.flush_bytes.add(written);
    store.metrics.flush_jobs.sizes.record_bytes(written);
    store.life.bell.ring();
    Ok(Done { floor, installed })
}

/// One KVS's newest versions as a kvset.
fn build(store: &Store, memtable: &Arc<Memtable>, kvs: KvsId) -> Result<Option<BuiltKvset>> {
    let tree = store.shape.tree(kvs);
    // All that is older lies in the tree.
    let hides_something = |key: &[u8]| {
        let hash = key_hash(kvs, key);
        tree.iter().any(|tree| tree.sources(key).any(|kvset| kvset.may_contain(key, hash)))
    };
    let inline_bytes_max = store.options.inline_bytes_max;
    let (mut index_bytes, mut value_bytes) = (0, 0);
    each_newest(memtable, kvs, |key, cursor| {
        index_bytes += key.len() as u64 + ENTRY_BYTES;
        match cursor.op() {
            Op::Inline(value) if value.len() as u64 > inline_bytes_max => {
                value_bytes += value.len() as u64 + ENTRY_BYTES;
            }
            Op::Inline(value) => index_bytes += value.len() as u64,
            Op::Tombstone | Op::Extern(_) => {}
        }
        Ok(())
    })?;
    let mut builder =
        KvsetBuilder::new(&store.pool, options(store, kvs, (index_bytes, value_bytes)));
    each_newest(memtable, kvs, |key, cursor| {
        let value = match cursor.op() {
            Op::Tombstone if hides_something(key) => Op::Tombstone,
            Op::Tombstone => return Ok(()),
            Op::Inline(value) => Op::Inline(value),
            Op::Extern(_) => unreachable!("a memtable holds its values"),
        };
        builder.add(key, cursor.revision(), value)
    })?;
    builder.finish()
}

fn options(store: &Store, kvs: KvsId, (index_bytes, value_bytes): (u64, u64)) -> BuildOptions {
    let (keys, values) = store.placements(Level::Root, Priority::Flush);
    BuildOptions {
        id: store.shape.new_kvset_id(),
        kvs,
        keys,
        values,
        inline_bytes_max: usize::try_from(store.options.inline_bytes_max)
            .expect("validated to 1,024 at most"),
        index_bytes_hint: index_bytes,
        value_bytes_hint: value_bytes,
        object_bytes_max: store.space.needs.object_bytes,
    }
}

/// Calls `see` with the newest version of each key.
fn each_newest(
    memtable: &Arc<Memtable>,
    kvs: KvsId,
    mut see: impl FnMut(&[u8], &dyn VersionCursor) -> Result<()>,
) -> Result<()> {
    let mut cursor = memtable.cursor(kvs);
    let mut last: Option<Vec<u8>> = None;
    cursor.seek_first()?;
    while cursor.valid() {
        if last.as_deref() != Some(cursor.key()) {
            see(cursor.key(), &cursor)?;
            let last = last.get_or_insert_default();
            last.clear();
            last.extend_from_slice(cursor.key());
        }
        cursor.next()?;
    }
    Ok(())
}

/// Brings cached records up to date before readers stop asking the memtable.
fn refresh_cache(store: &Store, memtable: &Arc<Memtable>, kvs: KvsId) -> Result<()> {
    each_newest(memtable, kvs, |key, cursor| {
        let value = match cursor.op() {
            Op::Inline(value) => Some(value),
            Op::Tombstone | Op::Extern(_) => None,
        };
        store.cache.refresh(kvs, key, key_hash(kvs, key), value, cursor.revision());
        Ok(())
    })
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use crate::db::Database;
    use crate::key::NodeId;
    use crate::options::{Durability, Options};
    use crate::shape::manifest::record::Item;
    use mpool::Pool;
    use mpool_sim::SimDevice;
    use std::sync::Arc;

    /// Each try of a flush, or of a compaction, left its objects behind until the next open, and
    /// so filled the volume.
    #[test]
    fn what_the_manifest_has_no_room_for_leaves_no_objects() {
        let mut options = Options { background_threads: 0, ..Options::default() };
        options.pool.background = false;
        let pool = Pool::create(Arc::new(SimDevice::new(1 << 30)), &options.pool).unwrap();
        let db = Database::open_pool(pool, options).unwrap();
        let kvs = db.create_kvs("k").unwrap();
        kvs.put(b"key", &[7; 10_000], Durability::Sync).unwrap();
        let leaf = |n: u16| {
            let first_key = format!("{n:06}{}", "k".repeat(1300)).into();
            let node = NodeId::new(1000 + u64::from(n));
            Item::LeafAdd { kvs: kvs.id(), node, first_key }
        };
        let append = |n| db.store().shape.versions.lock().manifest.append(&[leaf(n)]);
        (1..u16::MAX).find(|n| append(*n).is_err()).expect("it becomes full");
        let objects = || db.pool().mblock_ids().len();
        let before = objects();
        for _ in 0..3 {
            let error = db.flush().unwrap_err();
            assert!(error.to_string().contains("bytes"), "{error}");
        }
        assert_eq!(objects(), before);
    }
}
