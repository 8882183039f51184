//! The database's shape as the manifest tells it: which KVSs, leaves and kvsets live.
//!
//! [`Live::apply`] is the one place where an item changes the shape, at recovery and at run time
//! alike; and [`Live::records`] writes the shape back as the edits that would build it, which is
//! what a checkpoint of the MDC is.

use crate::error::Result;
use crate::key::{KvsId, KvsetId, NodeId, Revision};
use crate::manifest::record::{Item, bad, encode};
use bytes::Bytes;
use mpool::MblockId;
use std::collections::BTreeMap;

/// Items of one checkpoint record: keeps a record far below the MDC's limit of 1 MiB even with the
/// longest keys.
const ITEMS_PER_RECORD: usize = 256;

/// One KVS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LiveKvs {
    pub(crate) name: String,
    /// First key of each leaf. The first leaf's is empty.
    pub(crate) leaves: BTreeMap<NodeId, Bytes>,
}

/// One kvset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LiveKvset {
    pub(crate) kvs: KvsId,
    pub(crate) node: NodeId,
    pub(crate) hblock: MblockId,
}

/// Everything the manifest says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) kvs: BTreeMap<KvsId, LiveKvs>,
    pub(crate) kvsets: BTreeMap<KvsetId, LiveKvset>,
    /// Every revision up to this one is in kvsets; the WAL is needed only after it.
    pub(crate) floor: Revision,
    pub(crate) next_kvs: u32,
    pub(crate) next_node: u64,
    pub(crate) next_kvset: u64,
}

impl Live {
    /// Changes the shape by one item, or says why the item makes no sense here.
    pub(crate) fn apply(&mut self, item: &Item) -> Result<()> {
        match item {
            Item::KvsCreate { kvs, name } => {
                let new = LiveKvs { name: name.clone(), leaves: BTreeMap::new() };
                if self.kvs.insert(*kvs, new).is_some() {
                    return Err(bad("a KVS is created twice"));
                }
                self.next_kvs = self.next_kvs.max(kvs.get().saturating_add(1));
            }
            Item::KvsDrop { kvs } => {
                self.kvs.remove(kvs).ok_or_else(|| bad("a KVS is dropped that does not exist"))?;
                self.kvsets.retain(|_, kvset| kvset.kvs != *kvs);
            }
            Item::LeafAdd { kvs, node, first_key } => {
                if *node == NodeId::ROOT {
                    return Err(bad("a leaf has the root's id"));
                }
                if self.leaves(*kvs)?.insert(*node, first_key.clone()).is_some() {
                    return Err(bad("a leaf is added twice"));
                }
                self.next_node = self.next_node.max(node.get().saturating_add(1));
            }
            Item::LeafRemove { kvs, node } => {
                self.leaves(*kvs)?
                    .remove(node)
                    .ok_or_else(|| bad("a leaf is removed that is not there"))?;
            }
            Item::KvsetAdd { kvs, node, kvset, hblock } => {
                if *node != NodeId::ROOT && !self.leaves(*kvs)?.contains_key(node) {
                    return Err(bad("a kvset is added to a node that does not exist"));
                }
                let new = LiveKvset { kvs: *kvs, node: *node, hblock: *hblock };
                if self.kvsets.insert(*kvset, new).is_some() {
                    return Err(bad("a kvset is added twice"));
                }
                self.next_kvset = self.next_kvset.max(kvset.get().saturating_add(1));
            }
            Item::KvsetRemove { kvset } => {
                self.kvsets
                    .remove(kvset)
                    .ok_or_else(|| bad("a kvset is removed that is not there"))?;
            }
            Item::Floor { revision } => self.floor = self.floor.max(*revision),
            Item::NextIds { kvs, node, kvset } => {
                self.next_kvs = self.next_kvs.max(*kvs);
                self.next_node = self.next_node.max(*node);
                self.next_kvset = self.next_kvset.max(*kvset);
            }
        }
        Ok(())
    }

    fn leaves(&mut self, kvs: KvsId) -> Result<&mut BTreeMap<NodeId, Bytes>> {
        let kvs =
            self.kvs.get_mut(&kvs).ok_or_else(|| bad("an item names a KVS that does not exist"))?;
        Ok(&mut kvs.leaves)
    }

    /// The records that rebuild this shape from nothing, in order.
    pub(crate) fn records(&self) -> Vec<Vec<u8>> {
        let mut items = vec![
            Item::NextIds { kvs: self.next_kvs, node: self.next_node, kvset: self.next_kvset },
            Item::Floor { revision: self.floor },
        ];
        for (id, kvs) in &self.kvs {
            items.push(Item::KvsCreate { kvs: *id, name: kvs.name.clone() });
            for (node, first_key) in &kvs.leaves {
                items.push(Item::LeafAdd { kvs: *id, node: *node, first_key: first_key.clone() });
            }
        }
        for (id, kvset) in &self.kvsets {
            let LiveKvset { kvs, node, hblock } = *kvset;
            items.push(Item::KvsetAdd { kvs, node, kvset: *id, hblock });
        }
        items.chunks(ITEMS_PER_RECORD).map(encode).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::record::decode;

    fn mblock(raw: u64) -> MblockId {
        MblockId::new(raw).unwrap()
    }

    fn replay(records: &[Vec<u8>]) -> Live {
        let mut live = Live::default();
        for record in records {
            for item in decode(record).unwrap() {
                live.apply(&item).unwrap();
            }
        }
        live
    }

    fn sample() -> Live {
        let mut live = Live::default();
        let kvs = KvsId::new(3);
        let apply = |live: &mut Live, item| live.apply(&item).unwrap();
        apply(&mut live, Item::KvsCreate { kvs, name: "default".into() });
        for n in 1..600 {
            let first_key = Bytes::from(format!("{n:05}"));
            apply(&mut live, Item::LeafAdd { kvs, node: NodeId::new(n), first_key });
            let (node, kvset) = (NodeId::new(n), KvsetId::new(n));
            apply(&mut live, Item::KvsetAdd { kvs, node, kvset, hblock: mblock(n) });
        }
        apply(&mut live, Item::KvsetRemove { kvset: KvsetId::new(599) });
        apply(&mut live, Item::LeafRemove { kvs, node: NodeId::new(599) });
        apply(&mut live, Item::Floor { revision: Revision::new(77) });
        live
    }

    #[test]
    fn a_checkpoint_rebuilds_the_shape_and_remembers_the_ids() {
        let live = sample();
        let again = replay(&live.records());
        assert_eq!(again, live);
        assert_eq!(
            (again.next_kvset, again.next_node),
            (600, 600),
            "removed ids are not given again"
        );
    }

    #[test]
    fn dropping_a_kvs_drops_its_kvsets() {
        let mut live = sample();
        live.apply(&Item::KvsDrop { kvs: KvsId::new(3) }).unwrap();
        assert!(live.kvsets.is_empty() && live.kvs.is_empty());
        assert_eq!(replay(&live.records()), live);
    }

    #[test]
    fn nonsense_is_refused() {
        let kvs = KvsId::new(3);
        for item in [
            Item::KvsCreate { kvs, name: "twice".into() },
            Item::KvsDrop { kvs: KvsId::new(9) },
            Item::LeafAdd { kvs, node: NodeId::ROOT, first_key: Bytes::new() },
            Item::LeafAdd { kvs, node: NodeId::new(1), first_key: Bytes::new() },
            Item::LeafRemove { kvs, node: NodeId::new(9999) },
            Item::KvsetAdd {
                kvs,
                node: NodeId::new(9999),
                kvset: KvsetId::new(9999),
                hblock: mblock(1),
            },
            Item::KvsetAdd { kvs, node: NodeId::ROOT, kvset: KvsetId::new(1), hblock: mblock(1) },
            Item::KvsetRemove { kvset: KvsetId::new(9999) },
        ] {
            assert!(sample().apply(&item).is_err(), "{item:?}");
        }
    }
}
