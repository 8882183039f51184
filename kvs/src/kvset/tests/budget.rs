//! What a key costs in the index.

use super::*;
use mpool::MblockId;

/// 24-byte keys (a prefix and 20 scattered digits, as YCSB makes them) with values of 1 KB in
/// vblocks, written by a flush: about 25 bytes a key at 300,000 keys, filter and interior pages
/// included. Records that do not follow each other cost 5 more.
#[test]
fn a_key_costs_at_most_32_bytes_in_the_index() {
    const KEYS: u64 = 300_000;
    let mut random = Random(42);
    let mut keys: Vec<String> = (0..KEYS).map(|_| format!("user{:020}", random.next())).collect();
    keys.sort_unstable();
    keys.dedup();
    let (_, pool) = new_pool();
    let mut builder = KvsetBuilder::new(&pool, options(256, KEYS));
    // Shared values are not written, and their entries are those that a flush writes.
    let (mut vblock, mut offset) = (1, 32);
    for key in &keys {
        assert_eq!(key.len(), 24);
        if offset > 32 << 20 {
            (vblock, offset) = (vblock + 1, 32);
        }
        let id = MblockId::new(1_000_000 + vblock).unwrap();
        let value = Op::Extern(SharedValue { vblock: id, offset, len: 1000 });
        let revision = Revision::new(random.next() % KEYS);
        builder.add(key.as_bytes(), revision, value).unwrap();
        offset += 1004;
    }
    let built = builder.finish().unwrap().unwrap();
    let hundredths = built.meta.kblock_bytes * 100 / keys.len() as u64;
    assert!(hundredths <= 3200, "{hundredths} hundredths of a byte a key");
    assert!((2450..2550).contains(&hundredths), "{hundredths}: correct the comment");
}
