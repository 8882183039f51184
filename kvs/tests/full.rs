//! A full volume: puts are refused with the way out, reads and deletes go on, and space comes back
//! without a restart.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and prints its seed"
)]

mod support;

use kvs::{Database, Durability, Error, Kvs, Options, Scope};
use mpool::SimDevice;

fn key(n: u32) -> Vec<u8> {
    format!("key{n:06}").into_bytes()
}

fn value(n: u32) -> Vec<u8> {
    let mut value = n.to_le_bytes().to_vec();
    value.resize(20_000, b'f');
    value
}

/// Puts until the volume refuses; returns how many keys are in.
fn fill(db: &Database, kvs: &Kvs) -> u32 {
    for n in 0..100_000 {
        match kvs.put(&key(n), &value(n), Durability::Interval) {
            Ok(_) => {}
            Err(error @ Error::Pool(mpool::Error::Full { .. })) => {
                assert_eq!(error.scope(), Scope::Moment);
                assert!(db.revision().get() >= u64::from(n));
                return n;
            }
            Err(other) => panic!("put {n}: {other}"),
        }
    }
    panic!("the volume never fills");
}

/// As a client does: what is refused for want of space is tried again when work has made some.
fn put_again(db: &Database, kvs: &Kvs, n: u32) {
    for _ in 0..3 {
        match kvs.put(&key(n), &value(n + 1), Durability::Interval) {
            Ok(_) => return,
            Err(Error::Pool(mpool::Error::Full { .. })) => {
                db.flush().unwrap();
                db.compact().unwrap();
            }
            Err(other) => panic!("put {n}: {other}"),
        }
    }
    panic!("put {n} finds no space after all was deleted: {:?}", db.pool().info());
}

#[test]
fn a_full_database_reads_and_deletes_and_recovers_without_a_restart() {
    let options = Options { background_threads: 1, ..support::options() };
    let device = SimDevice::new(160 << 20);
    let db = support::create(&device, &options).unwrap();
    let kvs = db.create_kvs("k").unwrap();
    let keys = fill(&db, &kvs);
    assert!(keys > 1_000, "only {keys} keys fit");
    for n in (0..keys).step_by(97) {
        assert_eq!(kvs.get(&key(n)).unwrap().unwrap().value, value(n));
    }
    for n in 0..keys {
        kvs.delete(&key(n), Durability::Interval).unwrap();
    }
    db.flush().unwrap();
    db.compact().unwrap();
    assert!(kvs.get(&key(7)).unwrap().is_none());
    for n in 0..keys / 2 {
        put_again(&db, &kvs, n);
    }
    assert_eq!(kvs.get(&key(7)).unwrap().unwrap().value, value(8));
    db.close().unwrap();
}
