//! A store at rest comes to an end with its garbage, also where its work comes to nothing.

use crate::db::Database;
use crate::options::{Durability, Options};
use mpool::{Mblock, Placement, Pool, Priority};
use mpool_sim::SimDevice;
use std::sync::Arc;

/// Nothing in the background, and quiet from the start.
fn options() -> Options {
    let pool = mpool::Options { background: false, ..mpool::Options::default() };
    Options {
        background_threads: 0,
        memtable_bytes: 1 << 20,
        wal_segment_bytes: 4 << 20,
        wal_bytes_max: 16 << 20,
        value_cache_bytes: Some(0),
        quiet_after_ms: 0,
        pool,
        ..Options::default()
    }
}

/// An object in the pool beside those of the database, also of its spare part.
fn object(pool: &Arc<Pool>, len: u64) -> Option<Mblock> {
    let place = Placement { spare: true, ..Placement::from(Priority::Flush) };
    let mut writer = pool.allocate(len, place).ok()?;
    writer.append(&vec![1; usize::try_from(len).unwrap()]).unwrap();
    Some(pool.commit(vec![writer], &[]).unwrap().remove(0))
}

/// Where free space lies in small pieces the vblocks of a gathering are as short as those before:
/// the rests of their units were garbage again, and the leaf was gathered for ever.
#[test]
fn a_leaf_is_not_gathered_for_ever_on_a_volume_in_pieces() {
    let pool = Pool::create(Arc::new(SimDevice::new(512 << 20)), &options().pool).unwrap();
    let db = Database::open_pool(Arc::clone(&pool), options()).unwrap();
    let kvs = db.create_kvs("a").unwrap();
    // The log has its segment before the volume is in pieces.
    kvs.put(b"first", &[1; 5000], Durability::Sync).unwrap();
    db.flush().unwrap();
    let all: Vec<Mblock> = std::iter::from_fn(|| object(&pool, 120 << 10)).collect();
    let gone: Vec<_> = all.iter().step_by(2).map(Mblock::id).collect();
    drop(all);
    pool.commit(vec![], &gone).unwrap();
    for n in 0..3000 {
        kvs.put(format!("{n:04}").as_bytes(), &[7; 1000], Durability::Off).unwrap();
    }
    db.flush().unwrap();
    let jobs = (0..100).take_while(|_| db.work().step(1).unwrap()).count();
    assert!(jobs < 10, "{jobs}");
}
