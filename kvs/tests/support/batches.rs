//! What the crash tests write, and what they expect to find.

use super::Rng;
use kvs::{Database, Durability, Range};
use std::collections::BTreeMap;

pub type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// Batch `n`: overwrites and deletes among 40 keys, values inline and not, over two KVSs.
pub fn batch(n: u64) -> Vec<(usize, Vec<u8>, Option<Vec<u8>>)> {
    let mut rng = Rng(n);
    let mut ops = Vec::new();
    for _ in 0..=rng.below(6) {
        let kvs = usize::try_from(rng.below(2)).unwrap();
        let key = format!("key{:02}", rng.below(40)).into_bytes();
        let len = [0, 10, 300, 5000][usize::try_from(rng.below(4)).unwrap()];
        let value = (rng.below(5) > 0).then(|| {
            let mut value = n.to_le_bytes().to_vec();
            value.resize(8 + len, b'v');
            value
        });
        ops.push((kvs, key, value));
    }
    ops
}

/// What the model holds after batch `n`.
pub fn apply(maps: &mut [Map; 2], n: u64) {
    for (kvs, key, value) in batch(n) {
        match value {
            Some(value) => maps[kvs].insert(key, value),
            None => maps[kvs].remove(&key),
        };
    }
}

/// Writes batch `n`.
pub fn write(db: &Database, n: u64, durability: Durability) -> kvs::Result<()> {
    let kvs = [db.open_kvs("a")?, db.open_kvs("b")?];
    let mut all = db.batch();
    for (which, key, value) in batch(n) {
        match value {
            Some(value) => all.put(&kvs[which], &key, &value)?,
            None => all.delete(&kvs[which], &key)?,
        }
    }
    db.write(all, durability).map(|_| ())
}

/// All that the two KVSs hold.
pub fn contents(db: &Database) -> kvs::Result<[Map; 2]> {
    let mut maps = [Map::new(), Map::new()];
    for (map, name) in maps.iter_mut().zip(["a", "b"]) {
        // Before the first batch the KVS may not exist yet.
        let kvs = match db.open_kvs(name) {
            Err(kvs::Error::NoSuchKvs { .. }) => continue,
            kvs => kvs?,
        };
        for item in kvs.cursor(Range::default())? {
            let item = item?;
            assert_eq!(kvs.get(&item.key)?.expect("the cursor saw it").value, item.value);
            map.insert(item.key.to_vec(), item.value.to_vec());
        }
    }
    Ok(maps)
}

/// How many batches the recovered contents are the sum of, if any number at least `acked` fits.
pub fn batches_in(found: &[Map; 2], least: u64, most: u64) -> Option<u64> {
    let mut maps = [Map::new(), Map::new()];
    for n in 0..=most {
        if n >= least && maps == *found {
            return Some(n);
        }
        apply(&mut maps, n);
    }
    None
}
