//! Every interleaving of the skip list's insert protocol, by loom.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p millpond-kvs --release --lib interleavings`.

use super::skiplist::{Position, SkipList};
use crate::key::{KvsId, Revision};
use loom::thread;
use std::sync::Arc;

const KVS: KvsId = KvsId::new(1);

fn position(key: &[u8]) -> Position<'_> {
    Position::new(KVS, key, Revision::new(1))
}

fn keys(list: &SkipList) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    let mut entry = list.first();
    while let Some(found) = entry {
        assert_eq!(found.value(), Some(found.key()), "a visible node is whole");
        keys.push(found.key().to_vec());
        entry = found.next();
    }
    keys
}

#[test]
fn two_inserts_into_one_gap_both_stay() {
    loom::model(|| {
        let list = Arc::new(SkipList::new());
        let other = Arc::clone(&list);
        let thread = thread::spawn(move || other.insert(&position(b"a"), 2, Some(b"a")));
        list.insert(&position(b"b"), 2, Some(b"b"));
        let seen = keys(&list);
        assert!(seen == [b"b"] || seen == [b"a", b"b"]);
        thread.join().unwrap();
        assert_eq!(keys(&list), [b"a", b"b"]);
        assert_eq!(list.last_before(&position(b"b")).unwrap().key(), b"a");
        assert_eq!(list.first_from(&position(b"b")).unwrap().key(), b"b");
    });
}

#[test]
fn a_reader_sees_whole_nodes_only() {
    loom::model(|| {
        let list = Arc::new(SkipList::new());
        let other = Arc::clone(&list);
        let thread = thread::spawn(move || {
            other.insert(&position(b"b"), 2, Some(b"b"));
            other.insert(&position(b"a"), 1, Some(b"a"));
        });
        let seen = keys(&list);
        assert!(seen.is_empty() || seen == [b"b"] || seen == [b"a", b"b"]);
        if let Some(found) = list.first_from(&position(b"b")) {
            assert_eq!(found.value(), Some(&b"b"[..]));
        }
        thread.join().unwrap();
    });
}

#[test]
fn equal_positions_become_one_node() {
    loom::model(|| {
        let list = Arc::new(SkipList::new());
        let other = Arc::clone(&list);
        let thread = thread::spawn(move || other.insert(&position(b"k"), 1, Some(b"k")));
        list.insert(&position(b"k"), 2, Some(b"k"));
        thread.join().unwrap();
        assert_eq!(keys(&list), [b"k"]);
    });
}
