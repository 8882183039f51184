//! What is read into memory after an open, before anybody asks for it.
//!
//! On a thread of its own, while the database answers already: the upper parts of
//! all indexes (`IndexPart`), then leaves, then all values if they fit. Each only as far as there
//! is room; the rest comes when it is asked for. Whatever is asked for meanwhile is read at once,
//! so the first answer waits for one lookup, and not for the index.

use crate::kvset::{IndexPart, Kvset};
use crate::shape::tree::Tree;
use crate::shape::view::View;
use crate::store::Store;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

/// Starts reading ahead what fits; `None` where nothing runs in the background.
pub(crate) fn start(store: &Arc<Store>) -> Option<JoinHandle<()>> {
    if store.options.background_threads == 0 {
        return None;
    }
    let store = Arc::clone(store);
    let builder = std::thread::Builder::new().name("db-warm".to_owned());
    let thread = builder.spawn(move || {
        let kvsets = present(&store.shape.view.load());
        if warm_index(&store, &kvsets) {
            warm_values(&store, &kvsets);
        }
    });
    match thread {
        Ok(thread) => Some(thread),
        Err(error) => {
            tracing::warn!(%error, "no thread to read ahead: memory fills as it is asked");
            None
        }
    }
}

/// The kvsets of a view, without holding them: compaction may remove one before its turn comes,
/// and its space is to be free then.
fn present(view: &View) -> Vec<Weak<Kvset>> {
    view.trees.values().flat_map(|tree| tree.kvsets()).map(Arc::downgrade).collect()
}

/// Reads ahead what there is room for; whether that is all.
fn warm_index(store: &Store, kvsets: &[Weak<Kvset>]) -> bool {
    let budget = store.pool.reaper().stats().budget_bytes;
    let (mut loaded, mut whole) = (0, true);
    for part in [IndexPart::Upper, IndexPart::Leaves] {
        for kvset in kvsets.iter().filter_map(Weak::upgrade) {
            if store.life.is_closed() {
                return false;
            }
            let bytes = kvset.index_bytes(part);
            if !fits(bytes, store.pool.reaper().room(), budget.saturating_sub(loaded)) {
                whole = false;
                continue;
            }
            match kvset.preload_index(part, &|| !store.life.is_closed()) {
                Ok(bytes) => loaded += bytes,
                // Pages that cannot be read fail one by one when they are needed.
                Err(error) => {
                    tracing::warn!(kvset = kvset.meta().id.get(), %error, "index is not read ahead");
                }
            }
        }
    }
    if loaded > 0 {
        tracing::info!(bytes = loaded, whole, "index is in memory");
    }
    whole
}

/// Whether so much may be read ahead: as far as the governor grants room, who may not have looked
/// yet, and never more than the budget.
fn fits(bytes: u64, room: u64, budget_left: u64) -> bool {
    bytes <= room.min(budget_left)
}

/// Reads all values into the map if they fit, so that a data set that fits in memory is read from
/// the drive once, in order, and not page by page.
fn warm_values(store: &Store, kvsets: &[Weak<Kvset>]) {
    let values = |tree: &Arc<Tree>| tree.totals().value_bytes;
    let bytes: u64 = store.shape.view.load().trees.values().map(values).sum();
    if bytes == 0 || bytes > store.pool.reaper().room() {
        return;
    }
    let mut loaded = 0;
    for kvset in kvsets.iter().filter_map(Weak::upgrade) {
        if store.life.is_closed() {
            return;
        }
        match kvset.preload_values(&|| !store.life.is_closed()) {
            Ok(bytes) => loaded += bytes,
            Err(error) => return tracing::warn!(%error, "values are not all read ahead"),
        }
    }
    tracing::info!(bytes = loaded, "values are in memory");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::Database;
    use crate::options::{Durability, Options};
    use mpool::Pool;
    use mpool_sim::SimDevice;

    #[test]
    fn no_more_is_read_ahead_than_fits() {
        // Before the governor has looked there is no bound but the budget.
        for (bytes, room, budget_left, expected) in [
            (0, 0, 0, true),
            (10, 10, 10, true),
            (10, u64::MAX, 10, true),
            (11, u64::MAX, 10, false),
            (11, 10, 100, false),
        ] {
            assert_eq!(fits(bytes, room, budget_left), expected, "{bytes} {room} {budget_left}");
        }
    }
    /// All kvsets of the moment of the open were held until the last of them was read.
    #[test]
    fn what_compaction_removes_is_not_held() {
        let pool = mpool::Options { background: false, ..mpool::Options::default() };
        let options = Options { background_threads: 0, pool, ..Options::default() };
        let pool = Pool::create(Arc::new(SimDevice::new(256 << 20)), &options.pool).unwrap();
        let db = Database::open_pool(pool, options).unwrap();
        db.create_kvs("k").unwrap().put(b"key", b"value", Durability::Off).unwrap();
        db.flush().unwrap();
        let kvsets = present(&db.store().shape.view.load());
        assert_eq!(kvsets.len(), 1);
        db.drop_kvs("k").unwrap();
        db.compact().unwrap();
        assert!(kvsets.iter().all(|kvset| kvset.upgrade().is_none()));
        assert_eq!(db.pool().metrics().held_bytes(), 0);
        assert!(warm_index(db.store(), &kvsets));
    }
}
