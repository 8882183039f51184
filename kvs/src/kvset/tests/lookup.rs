//! Point lookups, values, and what building promises.

use super::*;
use crate::entry::version::VersionCursor;
use crate::kvset::{Probe, ReadMode};
use bytes::Bytes;
use std::sync::mpsc;

fn probe(kvset: &Kvset, key: &[u8]) -> Probe {
    super::probe(kvset, key).unwrap()
}

/// What a probe says, with the value read.
fn held(kvset: &Kvset, key: &[u8]) -> Option<Held> {
    match probe(kvset, key) {
        Probe::Excluded | Probe::Miss => None,
        Probe::Cold => unreachable!("it blocks"),
        Probe::Tombstone(revision) => Some(Held { revision, value: None }),
        Probe::Inline(revision, value) => Some(Held { revision, value: Some(value.to_vec()) }),
        Probe::Extern(revision, ptr) => {
            let value = kvset.read_value(ptr).unwrap();
            Some(Held { revision, value: Some(value.to_vec()) })
        }
    }
}

#[test]
fn lookups_agree_with_a_map() {
    for seed in seeds(12) {
        let mut random = Random(seed);
        let count = 1 + random.below(1500);
        let model = random.model(count);
        let (_, pool) = new_pool();
        let kvset = build_and_open(&pool, &model);
        for (key, expect) in &model {
            assert!(kvset.may_contain(key, hash(key)), "seed {seed}");
            assert_eq!(held(&kvset, key).as_ref(), Some(expect), "seed {seed}");
        }
        let mut strangers: Vec<_> = (0..500).map(|_| random.key()).collect();
        for key in model.keys() {
            strangers.push([key, &[0][..]].concat());
            strangers.push(key[..key.len() - 1].to_vec());
        }
        for key in strangers.iter().filter(|key| !key.is_empty()) {
            assert_eq!(held(&kvset, key).as_ref(), model.get(key), "seed {seed}");
        }
    }
}

#[test]
fn metadata_counts_what_was_added() {
    for seed in seeds(4) {
        let mut random = Random(seed);
        let model = random.model(1_600);
        let (_, pool) = new_pool();
        let kvset = build_and_open(&pool, &model);
        let meta = kvset.meta();
        assert_eq!(meta.keys, model.len() as u64, "seed {seed}");
        let tombstones = model.values().filter(|held| held.value.is_none()).count();
        assert_eq!(meta.tombstones, tombstones as u64, "seed {seed}");
        let revisions = model.values().map(|held| held.revision);
        assert_eq!(Some(meta.min_revision), revisions.clone().min(), "seed {seed}");
        assert_eq!(Some(meta.max_revision), revisions.max(), "seed {seed}");
        assert_eq!(meta.min_key, model.keys().next().unwrap(), "seed {seed}");
        assert_eq!(meta.max_key, model.keys().next_back().unwrap(), "seed {seed}");
        let long = model.values().filter_map(|held| held.value.as_ref()).filter(|v| v.len() > 256);
        let bytes: usize = long.map(|value| value.len() + 4).sum();
        assert_eq!(meta.value_bytes, bytes as u64, "seed {seed}");
        assert!(meta.kblocks.len() > 1 && meta.vblocks.len() > 1, "seed {seed}");
        let len = |id: &mpool::MblockId| pool.mblock(*id).unwrap().len_bytes();
        assert_eq!(meta.kblock_bytes, meta.kblocks.iter().map(len).sum::<u64>(), "seed {seed}");
    }
}

#[test]
fn values_arrive_asynchronously() {
    let mut random = Random(1);
    let value = random.bytes(5000);
    let held = Held { revision: Revision::new(1), value: Some(value.clone()) };
    let (_, pool) = new_pool();
    let kvset = build_and_open(&pool, &Model::from([(b"k".to_vec(), held)]));
    let Probe::Extern(_, ptr) = probe(&kvset, b"k") else { panic!("value is in a vblock") };
    let ask = |ptr| {
        let (send, receive) = mpsc::channel();
        kvset.read_value_async(ptr, Box::new(move |value| send.send(value).unwrap()));
        receive.recv().unwrap()
    };
    assert_eq!(ask(ptr).unwrap(), value);
    let nowhere = crate::entry::version::ValuePtr { vblock: 9, ..ptr };
    assert!(ask(nowhere).is_err());
    let beyond = crate::entry::version::ValuePtr { len: ptr.len + 1, ..ptr };
    assert!(ask(beyond).is_err());
}

#[test]
fn the_longest_keys_and_values_fit() {
    let (_, pool) = new_pool();
    let mut model = Model::new();
    for number in 0..200u32 {
        let mut key = vec![b'k'; KEY_BYTES_MAX - 4];
        key.extend_from_slice(format!("{number:04}").as_bytes());
        let value = Some(vec![7; 1024]);
        model.insert(key, Held { revision: Revision::new(u64::from(number)), value });
    }
    let mut builder = KvsetBuilder::with_sizes(&pool, options(1024, 1), SMALL);
    for (key, held) in &model {
        builder.add(key, held.revision, Op::Inline(held.value.as_ref().unwrap())).unwrap();
    }
    let kvset = commit(&pool, builder.finish().unwrap().unwrap());
    assert!(kvset.meta().vblocks.is_empty());
    for (key, expect) in &model {
        assert_eq!(held(&kvset, key).as_ref(), Some(expect));
    }

    let longest = Held { revision: Revision::new(1), value: Some(vec![3; 16 << 20]) };
    let model = Model::from([(b"a".to_vec(), longest.clone()), (b"b".to_vec(), longest)]);
    let kvset = build_and_open(&pool, &model);
    assert_eq!(held(&kvset, b"b").as_ref(), model.get(&b"b"[..]));
    let mut cursor = kvset.cursor(ReadMode::Direct);
    cursor.seek_last().unwrap();
    assert_eq!(cursor.value().unwrap().len(), 16 << 20);
}

#[test]
fn shared_values_stay_where_they_are() {
    for seed in seeds(4) {
        let mut random = Random(seed);
        let model = random.model(600);
        let (_, pool) = new_pool();
        let first = build_and_open(&pool, &model);
        let mut cursor = first.cursor(ReadMode::Direct);
        let mut builder = KvsetBuilder::with_sizes(&pool, options(256, 0), SMALL);
        let mut kept = Model::new();
        cursor.seek_first().unwrap();
        while cursor.valid() {
            // Some keys are left out, so that not every record follows the one before.
            if random.below(5) != 0 {
                let key = cursor.key().to_vec();
                let value = match cursor.op() {
                    Op::Tombstone => Op::Tombstone,
                    Op::Inline(value) => Op::Inline(value),
                    Op::Extern(ptr) => Op::Extern(SharedValue {
                        vblock: cursor.vblock(ptr),
                        offset: ptr.offset,
                        len: ptr.len,
                    }),
                };
                builder.add(&key, cursor.revision(), value).unwrap();
                kept.insert(key.clone(), model[&key].clone());
            }
            cursor.next().unwrap();
        }
        let built = builder.finish().unwrap().unwrap();
        let own: Vec<_> = built.writers.iter().map(mpool::MblockWriter::id).collect();
        assert!(built.meta.vblocks.iter().all(|(id, _)| !own.contains(id)), "seed {seed}");
        let second = commit(&pool, built);
        for key in model.keys() {
            assert_eq!(held(&second, key).as_ref(), kept.get(key), "seed {seed}");
        }
        for (id, bytes) in second.meta().vblocks.iter() {
            let before = first.meta().vblocks.iter().find(|(other, _)| other == id).unwrap().1;
            assert!(*bytes <= before, "seed {seed}");
        }
    }
}

#[test]
fn a_hint_that_is_too_low_costs_few_kblocks() {
    let (_, pool) = new_pool();
    let mut builder = KvsetBuilder::new(&pool, options(256, 0));
    for number in 0..100_000u32 {
        let key = format!("{number:024}");
        builder.add(key.as_bytes(), Revision::new(1), Op::Inline(&[1; 20])).unwrap();
    }
    let built = builder.finish().unwrap().unwrap();
    assert!(built.meta.kblock_bytes > 2 << 20);
    assert!(built.meta.kblocks.len() < 10, "{} kblocks", built.meta.kblocks.len());
}

#[test]
fn nothing_added_is_no_kvset() {
    let (_, pool) = new_pool();
    let before = pool.mblock_ids();
    assert!(build(&pool, &Model::new(), SMALL).is_none());
    let model = Random(3).model(10);
    drop(build(&pool, &model, SMALL));
    assert_eq!(pool.mblock_ids(), before, "what is not committed leaves nothing behind");
}

#[test]
#[should_panic(expected = "keys strictly ascend")]
fn keys_out_of_order_are_refused() {
    let (_, pool) = new_pool();
    let mut builder = KvsetBuilder::new(&pool, options(256, 2));
    builder.add(b"b", Revision::new(1), Op::Tombstone).unwrap();
    builder.add(b"b", Revision::new(2), Op::Tombstone).unwrap();
}

#[test]
fn a_pool_without_long_extents_takes_smaller_objects() {
    let device = SimDevice::new(24 << 20);
    let pool_options = mpool::Options {
        grow_step_bytes: 1 << 20,
        capacity_bytes_max: 24 << 20,
        ..mpool::Options::default()
    };
    let pool = Pool::create(Arc::new(device), &pool_options).unwrap();
    let mut builder = KvsetBuilder::new(&pool, options(0, 1_000_000));
    let value = Bytes::from(vec![9; 10_000]);
    for number in 0..100u32 {
        let key = format!("{number:04}");
        builder.add(key.as_bytes(), Revision::new(1), Op::Inline(&value)).unwrap();
    }
    let kvset = commit(&pool, builder.finish().unwrap().unwrap());
    let expect = Held { revision: Revision::new(1), value: Some(value.to_vec()) };
    assert_eq!(held(&kvset, b"0099"), Some(expect));
}

#[test]
fn lookups_that_would_block_say_so_and_never_lie() {
    let mut random = Random(8);
    let model = random.model(300);
    let (_, pool) = new_pool();
    let kvset = build_and_open(&pool, &model);
    for (key, expect) in &model {
        let answer = try_probe(&kvset, key).unwrap();
        if answer != Probe::Cold {
            assert_eq!(answer, probe(&kvset, key));
        }
        if let Probe::Extern(_, ptr) = probe(&kvset, key)
            && let Some(value) = kvset.try_read_value(ptr).unwrap()
        {
            assert_eq!(Some(value.to_vec()), expect.value);
        }
    }
    assert_eq!(try_probe(&kvset, b"\0").unwrap(), Probe::Excluded, "no page needed");
}
