//! The memory target: an ordered map behind locks.
//!
//! It measures what the driver itself costs, and carries the tests. Keys are spread over shards
//! by their hash, so that threads seldom meet; a scan merges all shards.

use super::{Failure, Rows, See, Session, Target};
use crate::workload::Way;
use crate::workload::row::key_hash;
use anyhow::Result;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, RwLock};

const SHARDS: u64 = 16;

type Shard = RwLock<BTreeMap<Vec<u8>, Vec<u8>>>;

#[derive(Clone, Debug)]
pub(crate) struct Memory {
    shards: Arc<Vec<Shard>>,
}

impl Memory {
    pub(crate) fn new() -> Self {
        Self { shards: Arc::new((0..SHARDS).map(|_| Shard::default()).collect()) }
    }

    fn shard(&self, key: &[u8]) -> &Shard {
        &self.shards[usize::try_from(key_hash(key) % SHARDS).expect("below the number of shards")]
    }
}

impl Target for Memory {
    fn session(&self) -> Result<Box<dyn Session>> {
        Ok(Box::new(self.clone()))
    }

    fn data_dir(&self) -> Option<&Path> {
        None
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

const SOUND: &str = "nothing panics while it holds a shard";

impl Session for Memory {
    fn read(&mut self, key: &[u8], row: &mut Vec<u8>) -> Result<bool, Failure> {
        let shard = self.shard(key).read().expect(SOUND);
        let Some(value) = shard.get(key) else { return Ok(false) };
        row.clear();
        row.extend_from_slice(value);
        Ok(true)
    }

    fn write(&mut self, key: &[u8], row: &[u8]) -> Result<(), Failure> {
        self.shard(key).write().expect(SOUND).insert(key.to_vec(), row.to_vec());
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), Failure> {
        self.shard(key).write().expect(SOUND).remove(key);
        Ok(())
    }

    fn walk(&mut self, way: Way, see: &mut See<'_>) -> Result<(), Failure> {
        let mut rows = Rows::default();
        self.scan(&[], usize::MAX, &mut rows)?;
        // Whoever has broken it off knows.
        let _all_or_enough = match way {
            Way::Forward => rows.iter().try_for_each(|(key, row)| see(key, row)),
            Way::Reverse => rows.iter().rev().try_for_each(|(key, row)| see(key, row)),
        };
        Ok(())
    }

    fn scan(&mut self, start: &[u8], limit: usize, rows: &mut Rows) -> Result<(), Failure> {
        let from = (Bound::Included(start), Bound::Unbounded);
        let mut found = Vec::new();
        for shard in self.shards.iter() {
            let shard = shard.read().expect(SOUND);
            let part = shard.range::<[u8], _>(from).take(limit);
            found.extend(part.map(|(key, value)| (key.clone(), value.clone())));
        }
        found.sort_unstable();
        rows.clear();
        found.iter().take(limit).for_each(|(key, value)| rows.push(key, value));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scans_are_ordered_and_limited() {
        let mut memory = Memory::new();
        for key in ["d", "a", "c", "b"] {
            memory.write(key.as_bytes(), key.as_bytes()).unwrap();
        }
        let mut rows = Rows::default();
        memory.scan(b"b", 2, &mut rows).unwrap();
        let keys: Vec<&[u8]> = rows.iter().map(|(key, _)| key).collect();
        assert_eq!(keys, [b"b", b"c"]);
    }
}
