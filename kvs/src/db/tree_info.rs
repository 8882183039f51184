//! A tree as its operator sees it: nodes and kvsets, and the debt that compaction has with it.
//!
//! The answer is bounded whatever the tree: kvsets are shown from a key on, up to a number that the
//! caller gives, and the answer says where to go on. Sums are over the whole tree. All of it is
//! taken from one view. The lock of the jobs is held only while it is copied which kvsets are busy.

use crate::db::Database;
use crate::debt::stall::{KvsDebt, ROOT_SLOW, ROOT_STOP, StallReason};
use crate::error::{Error, Result};
use crate::jobs::ledger::JobInfo;
use crate::key::{KvsetId, NodeId, Revision};
use crate::kvset::Kvset;
use crate::pick::{DueWork, Limits, TreeShape, due, garbage_bytes};
use crate::shape::tree::{Aside, Tree};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Which part of a tree is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreePage {
    /// Begins with the leaf that holds this key; `None`: with the root.
    pub from: Option<Bytes>,
    /// Most kvsets; a leaf without any counts as one. Nodes are shown whole, but for a first one
    /// that alone has more.
    pub kvsets_max: usize,
}

impl Default for TreePage {
    fn default() -> Self {
        Self { from: None, kvsets_max: 1000 }
    }
}

/// The tree of a KVS.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TreeInfo {
    /// Name of the KVS.
    pub kvs: String,
    /// Kvsets of the root.
    pub root_kvsets: u64,
    /// Leaves.
    pub leaves: u64,
    /// Kvsets of all nodes.
    pub kvsets: u64,
    /// Entries of all kvsets, tombstones and shadowed ones among them.
    pub keys: u64,
    /// Deletes that are still kept.
    pub tombstones: u64,
    /// Bytes of kblocks.
    pub index_bytes: u64,
    /// Bytes of values that the kvsets refer to.
    pub value_bytes: u64,
    /// vblocks.
    pub vblocks: u64,
    /// Bytes of all vblocks.
    pub vblock_bytes: u64,
    /// Kvsets that running jobs replace.
    pub busy: u64,
    /// Kvsets that compaction leaves alone until the next open, because it could not read them.
    pub left_alone: u64,
    /// The nodes of the page: the root, then leaves in key order.
    pub nodes: Vec<NodeInfo>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<Bytes>,
    /// What compaction has to do.
    pub debt: Debt,
}

/// A node of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeInfo {
    /// Its id; 0 is the root.
    pub id: u64,
    /// First key of its range.
    pub from: Bytes,
    /// The first key after its range; `None`: it goes to the end.
    pub to: Option<Bytes>,
    /// Its kvsets, newest first.
    pub kvsets: Vec<KvsetInfo>,
    /// How many it has; more than are shown where it alone has more than a page.
    pub kvsets_total: u64,
}

/// A kvset.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KvsetInfo {
    /// Its id.
    pub id: u64,
    /// Entries, tombstones among them.
    pub keys: u64,
    /// Deletes.
    pub tombstones: u64,
    /// Bytes of kblocks.
    pub index_bytes: u64,
    /// Bytes of values that it refers to.
    pub value_bytes: u64,
    /// vblocks that they lie in.
    pub vblocks: u64,
    /// Its first key.
    pub min_key: Bytes,
    /// Its last key.
    pub max_key: Bytes,
    /// Its oldest entry.
    pub min_revision: Revision,
    /// Its newest entry.
    pub max_revision: Revision,
    /// Whether a running job replaces it.
    pub busy: bool,
    /// Whether compaction leaves it alone until the next open, because it could not read it.
    pub left_alone: bool,
}

/// What compaction has to do in a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Debt {
    /// Kvsets of the root.
    pub root_kvsets: u64,
    /// Kvsets of the root at which they go to the leaves.
    pub root_spill: u64,
    /// Kvsets of the root at which writers slow down.
    pub root_slow: u64,
    /// Kvsets of the root at which writers stop.
    pub root_stop: u64,
    /// Bytes of kblocks and vblocks that no key needs: values that no kvset refers to, and, as
    /// estimated, keys and values that newer kvsets shadow, and tombstones.
    pub garbage_bytes: u64,
    /// From where on garbage slows writers down: half of what lives and a memtable.
    pub garbage_slow_bytes: u64,
    /// Where they are slowest: all that lives and two memtables. They are never stopped for it.
    pub garbage_slowest_bytes: u64,
    /// What can be collected, in percent of all kblocks and vblocks: garbage without tombstones,
    /// and what the ends of more objects than are needed take.
    pub garbage_pct: u64,
    /// From where on it is collected, percent. While space is short, less of one vblock is enough.
    pub garbage_pct_max: u64,
    /// What its writers wait for, by the names of stalls: `root_length`, `garbage`, or nothing.
    pub writers_wait_for: Option<&'static str>,
    /// Garbage slows no writer down though there is enough of it: compaction can do nothing about
    /// it, as it cannot be read, or there is no room.
    pub garbage_helpless: bool,
    /// What is due by the picker's rules, the most pressing first.
    pub due: Vec<DueInfo>,
}

/// Work that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DueInfo {
    /// Why, as in the metrics.
    pub reason: &'static str,
    /// How far over its limit, percent; 100 is at the limit.
    pub pressure_pct: u64,
    /// What would be done.
    pub action: &'static str,
    /// The node that it would begin at; 0 is the root.
    pub node: u64,
    /// Kvsets that it would replace.
    pub inputs: u64,
    /// Bytes that it may write.
    pub output_bytes: u64,
}

impl Database {
    /// The tree of a KVS: a part of its nodes and kvsets, sums over all of them, and what
    /// compaction has to do in it. Never waits for the drive.
    pub fn tree(&self, kvs: &str, page: &TreePage) -> Result<TreeInfo> {
        let (store, jobs) = (self.store(), &self.work().jobs);
        let kvs = self.open_kvs(kvs)?;
        let view = store.shape.view.load_full();
        let tree = view.trees.get(&kvs.id()).ok_or(Error::KvsDropped)?;
        let is_helpless = jobs.helpless().contains(&tree.kvs);
        let aside = jobs.aside(tree.kvs);
        let (shape, limits) = jobs.picture(tree, &aside);
        let totals = *tree.totals();
        let among = |ids: &BTreeSet<KvsetId>| {
            tree.kvsets().filter(|kvset| ids.contains(&kvset.meta().id)).count() as u64
        };
        let (nodes, next) = nodes(tree, &aside, page);
        Ok(TreeInfo {
            kvs: tree.name.to_string(),
            root_kvsets: tree.root.len() as u64,
            leaves: tree.leaves.len() as u64,
            kvsets: totals.kvsets,
            keys: totals.keys,
            tombstones: totals.tombstones,
            index_bytes: totals.kblock_bytes,
            value_bytes: totals.value_bytes,
            vblocks: tree.vblocks(),
            vblock_bytes: totals.vblock_bytes,
            busy: among(&aside.busy),
            left_alone: among(&aside.unreadable),
            nodes,
            next,
            debt: debt(&shape, limits, view.debt(tree), is_helpless),
        })
    }

    /// The jobs of the background: those that run, the oldest first, and then the last 64 that have
    /// ended, the newest first.
    pub fn jobs(&self) -> Vec<JobInfo> {
        self.work().jobs.job_infos()
    }
}

fn debt(shape: &TreeShape, limits: Limits, kvs: KvsDebt, is_helpless: bool) -> Debt {
    let (collectable_bytes, all_bytes) = garbage_bytes(shape);
    let pct = u128::from(collectable_bytes) * 100 / u128::from(all_bytes.max(1));
    let (waits_for, owed) = (kvs.reason(), kvs.debt(0));
    let garbage_helpless = is_helpless && waits_for == Some(StallReason::Garbage);
    let info = |due: DueWork| DueInfo {
        reason: due.why.as_str(),
        pressure_pct: due.pressure,
        action: due.plan.action.as_str(),
        node: due.plan.node.get(),
        inputs: due.plan.inputs.len() as u64,
        output_bytes: due.plan.output_bytes,
    };
    Debt {
        root_kvsets: shape.root.kvsets.len() as u64,
        root_spill: limits.spill_min as u64,
        root_slow: ROOT_SLOW,
        root_stop: ROOT_STOP,
        garbage_bytes: owed.garbage_bytes,
        garbage_slow_bytes: owed.garbage_slow_bytes,
        garbage_slowest_bytes: owed.garbage_most_bytes,
        garbage_pct: u64::try_from(pct).unwrap_or(u64::MAX),
        garbage_pct_max: limits.garbage_pct_max,
        writers_wait_for: waits_for.filter(|_| !garbage_helpless).map(StallReason::as_str),
        garbage_helpless,
        due: due(shape, limits).into_iter().map(info).collect(),
    }
}

/// The nodes of a page, and where the next one begins.
fn nodes(tree: &Tree, aside: &Aside, page: &TreePage) -> (Vec<NodeInfo>, Option<Bytes>) {
    let root = (NodeId::ROOT, Bytes::new(), None, &tree.root);
    let leaf = |at: usize| {
        let leaf = &tree.leaves[at];
        let to = tree.leaves.get(at + 1).map(|next| next.first_key.clone());
        (leaf.id, leaf.first_key.clone(), to, &leaf.kvsets)
    };
    let first = page.from.as_ref().map_or(0, |key| tree.leaves.place_of(key).unwrap_or(0));
    let root = page.from.is_none().then_some(root);
    let mut room = page.kvsets_max.max(1);
    let mut shown: Vec<NodeInfo> = Vec::new();
    for (id, from, to, kvsets) in root.into_iter().chain((first..tree.leaves.len()).map(leaf)) {
        if kvsets.len().max(1) > room && !shown.is_empty() {
            return (shown, Some(from));
        }
        let infos: Vec<KvsetInfo> =
            kvsets.iter().take(room).map(|kvset| kvset_info(kvset, aside)).collect();
        room -= infos.len().max(1);
        let kvsets_total = kvsets.len() as u64;
        shown.push(NodeInfo { id: id.get(), from, to, kvsets: infos, kvsets_total });
    }
    (shown, None)
}

fn kvset_info(kvset: &Arc<Kvset>, aside: &Aside) -> KvsetInfo {
    let meta = kvset.meta();
    KvsetInfo {
        id: meta.id.get(),
        keys: meta.keys,
        tombstones: meta.tombstones,
        index_bytes: meta.kblock_bytes,
        value_bytes: meta.value_bytes,
        vblocks: meta.vblocks.len() as u64,
        min_key: meta.min_key.clone(),
        max_key: meta.max_key.clone(),
        min_revision: meta.min_revision,
        max_revision: meta.max_revision,
        busy: aside.busy.contains(&meta.id),
        left_alone: aside.unreadable.contains(&meta.id),
    }
}
