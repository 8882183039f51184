//! Who references which mblock, over all trees.
//!
//! A vblock may be shared by kvsets of one KVS; what no kvset references any more is dead.

use crate::error::Result;
use crate::kvset::KvsetMeta;
use mpool::{MblockId, Pool};
use std::collections::BTreeMap;
use std::sync::Arc;

/// An mblock in use.
#[derive(Clone, Copy, Debug)]
struct Use {
    /// Kvsets that reference it.
    kvsets: u32,
    len_bytes: u64,
}

/// Every mblock of a database.
#[derive(Debug, Default)]
pub(crate) struct References {
    mblocks: BTreeMap<MblockId, Use>,
}

impl References {
    /// Counts a kvset's references.
    pub(crate) fn add(&mut self, pool: &Arc<Pool>, meta: &KvsetMeta) -> Result<()> {
        for (id, _) in mblocks_of(meta) {
            if let Some(used) = self.mblocks.get_mut(&id) {
                used.kvsets += 1;
                continue;
            }
            let len_bytes = pool.mblock(id)?.len_bytes();
            self.mblocks.insert(id, Use { kvsets: 1, len_bytes });
        }
        Ok(())
    }

    /// Takes a kvset's references back, and returns the mblocks nobody references any more.
    pub(crate) fn take(&mut self, meta: &KvsetMeta) -> Vec<MblockId> {
        let mut dead = Vec::new();
        for (id, _) in mblocks_of(meta) {
            let used = self.mblocks.get_mut(&id).expect("a kvset in a tree is counted");
            used.kvsets -= 1;
            if used.kvsets > 0 {
                continue;
            }
            self.mblocks.remove(&id);
            dead.push(id);
        }
        dead
    }

    /// Whether a kvset references it.
    pub(crate) fn contains(&self, id: MblockId) -> bool {
        self.mblocks.contains_key(&id)
    }

    /// How long a referenced one is.
    pub(crate) fn len_of(&self, id: MblockId) -> u64 {
        self.mblocks.get(&id).expect("what a kvset refers to is counted").len_bytes
    }
}

/// Every mblock a kvset needs, and whether it is a vblock.
pub(crate) fn mblocks_of(meta: &KvsetMeta) -> impl Iterator<Item = (MblockId, bool)> {
    let keys = std::iter::once(meta.hblock).chain(meta.kblocks.iter().copied());
    keys.map(|id| (id, false)).chain(meta.vblocks.iter().map(|(id, _)| (*id, true)))
}
