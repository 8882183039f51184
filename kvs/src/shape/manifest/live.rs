//! The database's shape as the manifest tells it: which KVSs, leaves and kvsets live.
//!
//! [`Live::apply`] is the one place where an item changes the shape, at recovery and at run time
//! alike; and [`Live::records`] writes the shape back as the edits that would build it, which is
//! what a checkpoint of the MDC is.
//!
//! A copy of a shape shares what the two have in common, so an edit copies
//! some short nodes and not the shape: its cost grows with the logarithm of the database's size.

use crate::error::Result;
use crate::key::{KeyText, KvsId, KvsetId, NodeId, Revision};
use crate::shape::manifest::record::{Item, bad, encode};
use bytes::Bytes;
use mpool::{MblockId, SharedMap};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Items of one checkpoint record: keeps a record far below the MDC's limit of 1 MiB even with the
/// longest keys.
const ITEMS_PER_RECORD: usize = 256;

/// Ids end far below what their integers hold, so that counting on from them never overflows.
const ID_MAX: u64 = u64::MAX >> 1;
const KVS_ID_MAX: u64 = (u32::MAX >> 1) as u64;

fn in_range(what: &str, number: u64, max: u64) -> Result<()> {
    if number <= max { Ok(()) } else { Err(bad(format!("{what} has the number {number}"))) }
}

/// One KVS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LiveKvs {
    pub(crate) name: String,
    /// First key of each leaf. The first leaf's is empty.
    pub(crate) leaves: SharedMap<NodeId, Bytes>,
}

/// One kvset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LiveKvset {
    pub(crate) kvs: KvsId,
    pub(crate) node: NodeId,
    pub(crate) hblock: MblockId,
}

/// Where the range of each leaf ends.
pub(crate) struct Ends(BTreeMap<(KvsId, NodeId), Bytes>);

impl Ends {
    /// That of a leaf, if it ends.
    pub(crate) fn of(&self, kvs: KvsId, node: NodeId) -> Option<&Bytes> {
        self.0.get(&(kvs, node))
    }
}

/// Everything the manifest says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) kvs: BTreeMap<KvsId, Arc<LiveKvs>>,
    /// Changed by `apply` only, as is what is counted of them.
    pub(crate) kvsets: SharedMap<KvsetId, LiveKvset>,
    /// How many kvsets each node has that has any.
    pub(super) in_node: SharedMap<(KvsId, NodeId), usize>,
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
            Item::KvsCreate { kvs, name } => self.create_kvs(*kvs, name)?,
            Item::KvsDrop { kvs } => {
                let known = self.kvs.remove(kvs).is_some();
                known.then_some(()).ok_or_else(|| bad(format!("{kvs} is dropped, unknown")))?;
                let of_it = self.kvsets.iter().filter(|(_, kvset)| kvset.kvs == *kvs);
                let of_it: Vec<KvsetId> = of_it.map(|(id, _)| *id).collect();
                for id in of_it {
                    self.remove_kvset(id);
                }
            }
            Item::LeafAdd { kvs, node, first_key } => self.add_leaf(*kvs, *node, first_key)?,
            Item::LeafRemove { kvs, node } => self.remove_leaf(*kvs, *node)?,
            Item::KvsetAdd { kvs, node, kvset, hblock } => {
                let new = LiveKvset { kvs: *kvs, node: *node, hblock: *hblock };
                self.add_kvset(*kvset, new)?;
            }
            Item::KvsetRemove { kvset } => {
                let known = self.remove_kvset(*kvset);
                let unknown = || bad(format!("kvset {} is removed, unknown", kvset.get()));
                known.then_some(()).ok_or_else(unknown)?;
            }
            Item::Floor { revision } => {
                in_range("the floor", revision.get(), Revision::LAST.get())?;
                self.floor = self.floor.max(*revision);
            }
            Item::NextIds { kvs, node, kvset } => {
                in_range("the next KVS", (*kvs).into(), KVS_ID_MAX)?;
                in_range("the next leaf", *node, ID_MAX)?;
                in_range("the next kvset", *kvset, ID_MAX)?;
                self.next_kvs = self.next_kvs.max(*kvs);
                self.next_node = self.next_node.max(*node);
                self.next_kvset = self.next_kvset.max(*kvset);
            }
        }
        Ok(())
    }

    fn create_kvs(&mut self, kvs: KvsId, name: &str) -> Result<()> {
        in_range("a KVS", kvs.get().into(), KVS_ID_MAX)?;
        if let Some((other, _)) = self.kvs.iter().find(|(_, other)| other.name == name) {
            return Err(bad(format!("{kvs} is created as {name:?}, which {other} is named")));
        }
        let new = LiveKvs { name: name.to_owned(), leaves: SharedMap::default() };
        if let Some(old) = self.kvs.insert(kvs, Arc::new(new)) {
            return Err(bad(format!("{kvs} is created as {name:?}, and is {:?}", old.name)));
        }
        self.next_kvs = self.next_kvs.max(kvs.get() + 1);
        Ok(())
    }

    fn add_leaf(&mut self, kvs: KvsId, node: NodeId, first_key: &Bytes) -> Result<()> {
        in_range("a leaf", node.get(), ID_MAX)?;
        if node == NodeId::ROOT {
            return Err(bad(format!("a leaf of {kvs} has the root's id")));
        }
        if self.leaves(kvs)?.insert(node, first_key.clone()).is_some() {
            return Err(bad(format!("leaf {} of {kvs} is added twice", node.get())));
        }
        self.next_node = self.next_node.max(node.get() + 1);
        Ok(())
    }

    fn remove_leaf(&mut self, kvs: KvsId, node: NodeId) -> Result<()> {
        if self.leaves(kvs)?.remove(&node).is_none() {
            return Err(bad(format!("leaf {} of {kvs} is removed, unknown", node.get())));
        }
        if !self.in_node.contains_key(&(kvs, node)) {
            return Ok(());
        }
        let held = self.kvsets.iter().find(|(_, held)| held.kvs == kvs && held.node == node);
        let id = held.map_or(0, |(id, _)| id.get());
        let node = node.get();
        Err(bad(format!("leaf {node} of {kvs} is removed, and holds kvset {id}")))
    }

    /// Whether it was there.
    fn remove_kvset(&mut self, id: KvsetId) -> bool {
        let Some(LiveKvset { kvs, node, .. }) = self.kvsets.remove(&id) else { return false };
        let at = (kvs, node);
        match self.in_node.get(&at).copied() {
            Some(count) if count > 1 => drop(self.in_node.insert(at, count - 1)),
            _ => drop(self.in_node.remove(&at)),
        }
        true
    }

    fn add_kvset(&mut self, id: KvsetId, new: LiveKvset) -> Result<()> {
        let LiveKvset { kvs, node, .. } = new;
        in_range("a kvset", id.get(), ID_MAX)?;
        if !self.leaves(kvs)?.contains_key(&node) && node != NodeId::ROOT {
            let (id, node) = (id.get(), node.get());
            return Err(bad(format!("kvset {id} is added to leaf {node} of {kvs}, unknown")));
        }
        if let Some(old) = self.kvsets.insert(id, new) {
            let (id, old) = (id.get(), old.kvs);
            return Err(bad(format!("kvset {id} is added to {kvs}, and is in {old}")));
        }
        let count = self.in_node.get(&(kvs, node)).copied().unwrap_or(0);
        self.in_node.insert((kvs, node), count + 1);
        self.next_kvset = self.next_kvset.max(id.get() + 1);
        Ok(())
    }

    fn leaves(&mut self, kvs: KvsId) -> Result<&mut SharedMap<NodeId, Bytes>> {
        let kvs = self.kvs.get_mut(&kvs).ok_or_else(|| bad(format!("{kvs} is not known")))?;
        Ok(&mut Arc::make_mut(kvs).leaves)
    }

    /// Err if the whole makes no sense though each item did: the leaves of a KVS must divide all
    /// keys.
    pub(crate) fn check(&self) -> Result<()> {
        for (id, kvs) in &self.kvs {
            let mut firsts: Vec<&Bytes> = kvs.leaves.values().collect();
            firsts.sort_unstable();
            let name = &kvs.name;
            if firsts.first().is_some_and(|first| !first.is_empty()) {
                return Err(bad(format!("no leaf of KVS {name} ({id}) has the first keys")));
            }
            if let Some(pair) = firsts.windows(2).find(|pair| pair[0] == pair[1]) {
                let key = KeyText(pair[0]);
                return Err(bad(format!("two leaves of KVS {name} ({id}) begin at {key}")));
            }
        }
        Ok(())
    }

    /// Where the range of a node begins.
    pub(crate) fn first_of(&self, kvs: KvsId, node: NodeId) -> Bytes {
        let leaves = self.kvs.get(&kvs).map(|kvs| &kvs.leaves);
        leaves.and_then(|leaves| leaves.get(&node)).cloned().unwrap_or_default()
    }

    /// Where the range of each leaf ends, but for the last ones.
    pub(crate) fn ends(&self) -> Ends {
        let mut ends = BTreeMap::new();
        for (kvs, LiveKvs { leaves, .. }) in self.kvs.iter().map(|(id, kvs)| (id, &**kvs)) {
            let mut firsts: Vec<(&Bytes, &NodeId)> =
                leaves.iter().map(|(node, first)| (first, node)).collect();
            firsts.sort_unstable();
            for pair in firsts.windows(2) {
                ends.insert((*kvs, *pair[0].1), pair[1].0.clone());
            }
        }
        Ends(ends)
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
    use crate::shape::manifest::record::decode;

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
            Item::KvsCreate { kvs: KvsId::new(4), name: "default".into() },
            Item::KvsCreate { kvs: KvsId::new(u32::MAX), name: "last".into() },
            Item::LeafAdd { kvs, node: NodeId::new(u64::MAX), first_key: Bytes::new() },
            Item::LeafRemove { kvs, node: NodeId::new(1) },
            Item::KvsetAdd {
                kvs: KvsId::new(4),
                node: NodeId::ROOT,
                kvset: KvsetId::new(9999),
                hblock: mblock(1),
            },
            Item::Floor { revision: Revision::MAX },
            Item::NextIds { kvs: u32::MAX, node: 0, kvset: 0 },
            Item::NextIds { kvs: 0, node: u64::MAX, kvset: 0 },
        ] {
            let error = sample().apply(&item).expect_err(&format!("{item:?}")).to_string();
            assert!(error.contains(char::is_numeric), "what is meant is named: {error}");
        }
    }

    #[test]
    fn leaves_must_divide_all_keys() {
        let (kvs, leaf) = (KvsId::new(3), |n, key: &'static str| {
            let (node, first_key) = (NodeId::new(n), Bytes::from(key));
            Item::LeafAdd { kvs: KvsId::new(3), node, first_key }
        });
        let mut live = Live::default();
        live.apply(&Item::KvsCreate { kvs, name: "birds".into() }).unwrap();
        live.check().unwrap();
        live.apply(&leaf(1, "m")).unwrap();
        assert!(live.check().unwrap_err().to_string().contains("birds"), "nothing before m");
        live.apply(&leaf(2, "")).unwrap();
        live.check().unwrap();
        assert_eq!(live.ends().of(kvs, NodeId::new(2)), Some(&Bytes::from("m")));
        assert_eq!(live.ends().of(kvs, NodeId::new(1)), None);
        live.apply(&leaf(3, "m")).unwrap();
        assert!(live.check().unwrap_err().to_string().contains("\"m\""));
    }

    /// An edit copied the whole shape.
    #[test]
    #[ignore = "measures, asserts little; run in release"]
    #[allow(clippy::print_stdout, reason = "it measures")]
    fn an_edit_of_a_large_shape() {
        for (kvss, kvsets) in [(1, 1), (1, 1000), (256, 1000), (256, 100_000)] {
            let mut live = Live::default();
            for n in 1..=kvss {
                let (kvs, name) = (KvsId::new(n), format!("kvs{n}"));
                live.apply(&Item::KvsCreate { kvs, name }).unwrap();
            }
            let add = |n: u64| Item::KvsetAdd {
                kvs: KvsId::new(u32::try_from(n).unwrap() % kvss + 1),
                node: NodeId::ROOT,
                kvset: KvsetId::new(n),
                hblock: mblock(n),
            };
            (1..=kvsets).for_each(|n| live.apply(&add(n)).unwrap());
            let copy: BTreeMap<_, _> = live.kvsets.iter().collect();
            let begun = std::time::Instant::now();
            drop(copy.clone());
            let whole = begun.elapsed();
            let begun = std::time::Instant::now();
            for n in 1..=1000 {
                let mut next = live.clone();
                next.apply(&Item::KvsetRemove { kvset: KvsetId::new(n) }).unwrap_or_default();
                next.apply(&add(kvsets + n)).unwrap();
                live = next;
            }
            let edit = begun.elapsed() / 1000;
            println!("{kvss} KVSs, {kvsets} kvsets: an edit {edit:?}; a copy of it all {whole:?}");
        }
    }
}
