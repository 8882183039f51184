//! Running one compaction plan: read the inputs uncached, write the outputs, install the edit.
//!
//! Every action is the same merge of whole kvsets, newest version of each key wins; they differ in
//! where keys go (one leaf, the leaves that exist, new leaves) and in whether values move. A
//! k-compaction and a spill leave values where they are and share their vblocks, so a value is
//! written once by flush and again only when garbage is collected; or when it leaves the root, if
//! the values of leaves belong on another class of volume (`placement`). Collecting rewrites the
//! values of the plan's vblocks only. A value that cannot be read stays where it is.
//!
//! A tombstone goes when nothing older may hold its key: no kvset below the inputs, by key range
//! and filter.
//!
//! Until the pool has committed them, outputs are writers whose drop gives the space back: an early
//! `?` leaves nothing.

use crate::entry::op::Op;
use crate::entry::version::{ValuePtr, VersionCursor};
use crate::error::{Result, Scope};
use crate::iter::merge::Merge;
use crate::jobs::Jobs;
use crate::jobs::ledger::Progress;
use crate::key::{KvsId, KvsetId, NodeId, Revision, key_hash};
use crate::kvset::{
    BuildOptions, Kvset, KvsetBuilder, KvsetCursor, KvsetMeta, ReadMode, SharedValue,
};
use crate::options::placement::Level;
use crate::pick::{Action, NewLeaves, Plan, VblocksMax};
use crate::shape::change::Change;
use crate::shape::tree::Tree;
use crate::store::Store;
use bytes::Bytes;
use mpool::{MblockId, Priority};
use std::collections::VecDeque;
use std::sync::Arc;

/// Least bytes of index that an output is planned for.
const INDEX_BYTES_MIN: u64 = 256 << 10;

/// Carries a plan out on the tree it was made for.
pub(crate) fn run(jobs: &Jobs, kvs: KvsId, plan: &Plan, progress: &Progress) -> Result<()> {
    let metrics = &jobs.store.metrics.compactions;
    let times = &metrics.jobs[plan.action.index()].times;
    let done = times.time(|| compact(jobs, kvs, plan, progress));
    // Of one that came to nothing, too.
    let counters = metrics.of(plan.action, plan.why);
    counters.read_bytes.add(progress.read_bytes.get());
    counters.written_bytes.add(progress.written_bytes.get());
    done
}

fn compact(jobs: &Jobs, kvs: KvsId, plan: &Plan, progress: &Progress) -> Result<()> {
    let store = &*jobs.store;
    // The plan's nodes are busy, so nothing but a drop of the KVS can have changed them.
    let Some(tree) = store.shape.tree(kvs) else { return Ok(()) };
    let from = inputs_of(&tree, plan);
    let inputs: Vec<Arc<Kvset>> = from.iter().map(|(_, kvset)| Arc::clone(kvset)).collect();
    progress.entries_total.add(inputs.iter().map(|kvset| kvset.meta().keys).sum());
    if let Action::Move { new_leaf } = plan.action {
        return relocate(jobs, &tree, plan, (from, new_leaf));
    }
    let mut job = Job::new(jobs, &tree, plan, from);
    job.progress = Some(progress);
    let cursor = |kvset: &Arc<Kvset>| {
        kvset.cursor(ReadMode::Direct).counting(Arc::clone(&progress.read_bytes))
    };
    let mut merge = Merge::new(inputs.iter().map(cursor).collect());
    merge.seek_first()?;
    let mut last: Option<Vec<u8>> = None;
    while merge.valid() {
        if last.as_deref() != Some(merge.key()) {
            job.take(&merge)?;
            let last = last.get_or_insert_default();
            last.clear();
            last.extend_from_slice(merge.key());
        }
        merge.next()?;
        progress.entries.add(1);
        if store.life.is_closed() || progress.is_cancelled() {
            return Ok(());
        }
    }
    drop(merge);
    let change = job.finish()?;
    let index: u64 = change.add.iter().map(|(_, built)| built.meta.kblock_bytes).sum();
    let written: u64 = change.add.iter().map(|(_, built)| built.written_bytes()).sum();
    // Before the outputs can be picked.
    jobs.note_gathered(plan, vblocks_max(&tree, plan, &change));
    jobs.install(change)?;
    let metrics = &store.metrics.compactions;
    let counters = metrics.of(plan.action, plan.why);
    counters.done.add(1);
    counters.index_bytes.add(index);
    metrics.jobs[plan.action.index()].sizes.record_bytes(written);
    Ok(())
}

/// Moves a root kvset to a leaf as it is.
fn relocate(
    jobs: &Jobs,
    tree: &Tree,
    plan: &Plan,
    (from, new_leaf): (Vec<(NodeId, Arc<Kvset>)>, bool),
) -> Result<()> {
    let store = &jobs.store;
    let kvset = Arc::clone(&from[0].1);
    let min_key = &kvset.meta().min_key;
    let mut change = Change { kvs: Some(tree.kvs), remove: from, ..Change::default() };
    let node = if new_leaf {
        let node = store.shape.new_node_id();
        // The first leaf has all keys from the start.
        let first_key = if tree.leaves.is_empty() { Bytes::new() } else { min_key.clone() };
        change.leaves_add.push((node, first_key));
        node
    } else {
        tree.route(min_key).expect("a kvset that lands in a leaf has one").id
    };
    change.moved.push((node, Arc::clone(&kvset)));
    jobs.install(change)?;
    store.metrics.compactions.of(plan.action, plan.why).done.add(1);
    Ok(())
}

/// A plan's inputs, each with its node.
fn inputs_of(tree: &Tree, plan: &Plan) -> Vec<(NodeId, Arc<Kvset>)> {
    let with = if let Action::Join { with } = plan.action { Some(with) } else { None };
    let nodes = std::iter::once(plan.node).chain(with);
    let there: Vec<(NodeId, &Arc<Kvset>)> = nodes
        .flat_map(|node| tree.kvsets_of(node).iter().map(move |kvset| (node, kvset)))
        .collect();
    let find = |id: &KvsetId| there.iter().find(|(_, kvset)| kvset.meta().id == *id);
    let input = |id| find(id).map(|(node, kvset)| (*node, Arc::clone(kvset)));
    plan.inputs.iter().map(|id| input(id).expect("a busy kvset stays in its node")).collect()
}

/// The most vblocks that a kvset of the plan's node refers to, before and after the change.
fn vblocks_max(tree: &Tree, plan: &Plan, change: &Change) -> VblocksMax {
    let most = |metas: &mut dyn Iterator<Item = &KvsetMeta>| {
        metas.map(|meta| meta.vblocks.len() as u64).max().unwrap_or(0)
    };
    let there = tree.kvsets_of(plan.node).iter().map(|kvset| kvset.meta());
    let stay = there.clone().filter(|meta| !plan.inputs.contains(&meta.id));
    let mut after = stay.chain(change.add.iter().map(|(_, built)| &built.meta));
    VblocksMax { before: most(&mut { there }), after: most(&mut after) }
}

/// Where the next keys go.
struct Target {
    node: NodeId,
    /// First key of the next target, where this one ends.
    until: Option<Bytes>,
}

/// How the keys of new leaves are divided, and what the one that is written has.
struct Parts {
    /// Keys of one, and how many more begin where one has so many.
    keys: u64,
    left: u64,
    value_bytes_max: u64,
    value_bytes: u64,
}

impl Parts {
    fn new(leaves: NewLeaves, distinct_keys: u64) -> Self {
        Self {
            keys: distinct_keys.div_ceil(leaves.count.max(1)).max(1),
            left: leaves.count.saturating_sub(1),
            value_bytes_max: leaves.value_bytes_max,
            value_bytes: 0,
        }
    }

    /// Whether the next part begins with a key that has so many bytes of value, when so many keys
    /// of this one are written.
    fn next_begins(&mut self, written: u64, value_bytes: u64) -> bool {
        let sum = self.value_bytes.saturating_add(value_bytes);
        let by_keys = written >= self.keys && self.left > 0;
        let begins = by_keys || (written > 0 && sum > self.value_bytes_max);
        self.left -= u64::from(by_keys);
        self.value_bytes = if begins { value_bytes } else { sum };
        begins
    }
}

struct Job<'a> {
    jobs: &'a Jobs,
    store: &'a Store,
    tree: &'a Tree,
    /// Oldest revision of the inputs.
    oldest: Revision,
    action: Action,
    /// Bytes of keys, and of values, that an output may come to.
    index_bytes_hint: u64,
    value_bytes_hint: u64,
    /// Where the next new leaf begins; `None`: the leaves are given.
    parts: Option<Parts>,
    target: Target,
    /// Targets still to come, in key order (spill).
    targets: VecDeque<Target>,
    /// vblocks whose values are rewritten, unless all are; sorted.
    rewritten: Vec<MblockId>,
    builder: Option<KvsetBuilder>,
    change: Change,
    /// Where the bytes of outputs are counted, and the values that stay.
    progress: Option<&'a Progress>,
}

impl<'a> Job<'a> {
    fn new(jobs: &'a Jobs, tree: &'a Tree, plan: &Plan, from: Vec<(NodeId, Arc<Kvset>)>) -> Self {
        let store = &*jobs.store;
        let inputs: Vec<Arc<Kvset>> = from.iter().map(|(_, kvset)| Arc::clone(kvset)).collect();
        let inputs = &inputs[..];
        let mut change = Change { kvs: Some(tree.kvs), remove: from, ..Change::default() };
        let mut targets = match plan.action {
            Action::Spill => spill_targets(store, tree, &mut change),
            Action::Move { .. } => unreachable!("a kvset that moves is not merged"),
            Action::KCompact | Action::KvCompact | Action::Collect => {
                VecDeque::from([Target { node: plan.node, until: None }])
            }
            Action::Split { .. } => new_target(store, tree, &[plan.node], &mut change),
            Action::Join { with } => new_target(store, tree, &[plan.node, with], &mut change),
        };
        let target = targets.pop_front().expect("every action has a target");
        let index_bytes: u64 = inputs.iter().map(|kvset| kvset.meta().kblock_bytes).sum();
        // Spread over the outputs, with some to spare; a low hint costs a few more objects.
        let new_leaves = plan.new_leaves.map_or(1, |leaves| leaves.count);
        let outputs = (targets.len() as u64 + 1).max(new_leaves);
        let share = |bytes: u64| if outputs == 1 { bytes } else { bytes / outputs * 2 };
        Self {
            jobs,
            store,
            tree,
            oldest: inputs.iter().map(|kvset| kvset.meta().min_revision).min().unwrap_or_default(),
            action: plan.action,
            index_bytes_hint: share(index_bytes) + INDEX_BYTES_MIN,
            value_bytes_hint: share(plan.output_bytes.saturating_sub(index_bytes)),
            parts: plan.new_leaves.map(|leaves| Parts::new(leaves, plan.distinct_keys)),
            target,
            targets,
            rewritten: if plan.action == Action::Collect {
                plan.vblocks.clone()
            } else {
                misplaced(store, plan.action, inputs)
            },
            builder: None,
            change,
            progress: None,
        }
    }

    /// Takes the newest version of the next key.
    fn take(&mut self, merge: &Merge<KvsetCursor>) -> Result<()> {
        let key = merge.key();
        while self.target.until.as_ref().is_some_and(|until| *key >= **until) {
            self.next_target()?;
        }
        let written = self.builder.as_ref().map_or(0, KvsetBuilder::keys);
        let value_bytes = match merge.op() {
            Op::Extern(ptr) => u64::from(ptr.len),
            Op::Inline(_) | Op::Tombstone => 0,
        };
        if self.parts.as_mut().is_some_and(|parts| parts.next_begins(written, value_bytes)) {
            self.next_part(key)?;
        }
        let bytes;
        let value = match merge.op() {
            Op::Tombstone if !self.hides_something(key) => return Ok(()),
            Op::Tombstone => Op::Tombstone,
            Op::Inline(value) => Op::Inline(value),
            Op::Extern(ptr) => match self.moved(merge, ptr)? {
                Some(value) => {
                    bytes = value;
                    Op::Inline(&bytes)
                }
                None => Op::Extern(SharedValue {
                    vblock: merge.vblock(ptr),
                    offset: ptr.offset,
                    len: ptr.len,
                }),
            },
        };
        if self.builder.is_none() {
            self.builder = Some(KvsetBuilder::new(&self.store.pool, self.options()));
        }
        let builder = self.builder.as_mut().expect("made above");
        builder.add(key, merge.revision(), value)
    }

    /// Whether an older kvset may hold the key of a tombstone.
    fn hides_something(&self, key: &[u8]) -> bool {
        let hash = key_hash(self.tree.kvs, key);
        let mut older =
            self.tree.sources(key).filter(|kvset| kvset.meta().max_revision < self.oldest);
        older.any(|kvset| kvset.may_contain(key, hash))
    }

    /// The value, if it is to be rewritten and can be read.
    fn moved(&self, merge: &Merge<KvsetCursor>, ptr: ValuePtr) -> Result<Option<Bytes>> {
        let vblock = merge.vblock(ptr);
        if !self.is_rewritten(vblock) {
            return Ok(None);
        }
        match merge.value() {
            Err(error) if error.scope() == Scope::Object => {
                self.jobs.leave_vblock(self.tree.kvs, vblock, &error);
                if let Some(progress) = self.progress {
                    progress.values_left.add(1);
                }
                Ok(None)
            }
            value => value.map(Some),
        }
    }

    fn is_rewritten(&self, vblock: MblockId) -> bool {
        self.action == Action::KvCompact || self.rewritten.binary_search(&vblock).is_ok()
    }

    fn options(&self) -> BuildOptions {
        let (keys, values) = self.store.placements(Level::Leaf, Priority::Compaction);
        BuildOptions {
            id: self.store.shape.new_kvset_id(),
            kvs: self.tree.kvs,
            keys,
            values,
            inline_bytes_max: usize::try_from(self.store.options.inline_bytes_max)
                .expect("validated to 1,024 at most"),
            index_bytes_hint: self.index_bytes_hint,
            value_bytes_hint: self.value_bytes_hint,
            object_bytes_max: self.store.space.needs.object_bytes,
        }
    }

    fn end_output(&mut self) -> Result<()> {
        let Some(builder) = self.builder.take() else { return Ok(()) };
        let so_far = builder.written_bytes();
        let built = builder.finish().inspect_err(|_| self.count_written(so_far))?;
        if let Some(built) = built {
            self.count_written(built.written_bytes());
            self.change.add.push((self.target.node, built));
        }
        Ok(())
    }

    fn next_target(&mut self) -> Result<()> {
        self.end_output()?;
        self.target = self.targets.pop_front().expect("the last target has no end");
        Ok(())
    }

    /// The next new leaf begins with `key`.
    fn next_part(&mut self, key: &[u8]) -> Result<()> {
        self.end_output()?;
        let node = self.store.shape.new_node_id();
        self.change.leaves_add.push((node, Bytes::copy_from_slice(key)));
        self.target = Target { node, until: None };
        Ok(())
    }

    fn finish(mut self) -> Result<Change> {
        self.end_output()?;
        Ok(std::mem::take(&mut self.change))
    }

    fn count_written(&self, bytes: u64) {
        if let Some(progress) = self.progress {
            progress.written_bytes.add(bytes);
        }
    }
}

impl Drop for Job<'_> {
    /// What was written of an output that is given up was written all the same.
    fn drop(&mut self) {
        if let Some(builder) = &self.builder {
            self.count_written(builder.written_bytes());
        }
    }
}

/// vblocks of a spill's inputs that leaves should not share, because of the volume they are on.
fn misplaced(store: &Store, action: Action, inputs: &[Arc<Kvset>]) -> Vec<MblockId> {
    let Some(class) = store.values_move_to().filter(|_| action == Action::Spill) else {
        return Vec::new();
    };
    let on_another = |id: &MblockId| {
        let volume = store.pool.mblock(*id).ok().map(|mblock| mblock.volume());
        volume.and_then(|volume| store.pool.media_class(volume)).is_some_and(|on| on != class)
    };
    let vblocks = inputs.iter().flat_map(|kvset| kvset.meta().vblocks.iter()).map(|(id, _)| *id);
    let mut ids: Vec<MblockId> = vblocks.filter(on_another).collect();
    ids.sort_unstable();
    ids
}

/// The leaves, in key order; the first spill of a tree makes the first leaf.
fn spill_targets(store: &Store, tree: &Tree, change: &mut Change) -> VecDeque<Target> {
    if tree.leaves.is_empty() {
        let node = store.shape.new_node_id();
        change.leaves_add.push((node, Bytes::new()));
        return VecDeque::from([Target { node, until: None }]);
    }
    let until = |next: usize| tree.leaves.get(next).map(|leaf| leaf.first_key.clone());
    let target = |(n, leaf): (usize, &crate::shape::tree::Leaf)| Target {
        node: leaf.id,
        until: until(n + 1),
    };
    tree.leaves.iter().enumerate().map(target).collect()
}

/// A new leaf for the range that these have, which goes on where the first of them began.
fn new_target(
    store: &Store,
    tree: &Tree,
    leaves: &[NodeId],
    change: &mut Change,
) -> VecDeque<Target> {
    let first = tree.leaf(leaves[0]).expect("a busy leaf stays in its tree");
    let node = store.shape.new_node_id();
    change.leaves_remove.extend(leaves);
    change.leaves_add.push((node, first.first_key.clone()));
    VecDeque::from([Target { node, until: None }])
}

/// Those of a plan's inputs whose keys cannot all be read.
pub(crate) fn unreadable(store: &Store, kvs: KvsId, plan: &Plan) -> Vec<KvsetId> {
    let Some(tree) = store.shape.tree(kvs) else { return Vec::new() };
    let can_be_read = |kvset: &Arc<Kvset>| -> Result<()> {
        let mut cursor = kvset.cursor(ReadMode::Direct);
        cursor.seek_first()?;
        while cursor.valid() && !store.life.is_closed() {
            cursor.next()?;
        }
        Ok(())
    };
    let inputs = tree.kvsets().filter(|kvset| plan.inputs.contains(&kvset.meta().id));
    inputs.filter(|kvset| can_be_read(kvset).is_err()).map(|kvset| kvset.meta().id).collect()
}
