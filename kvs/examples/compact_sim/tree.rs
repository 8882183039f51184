//! A tree whose kvsets are lists of numbers, and what jobs make of it.

use crate::key::{KvsetId, NodeId};
use crate::loads::{Load, Write};
use crate::pick::{
    Action, KvsetShape, Lands, Limits, NodeShape, Plan, TreeShape, VblockShape, needs_vblocks, pick,
};
use mpool::MblockId;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Bytes of a key, and of its entry in a kblock with all that a kblock has besides.
const KEY_BYTES: u64 = 24;
const ENTRY_BYTES: u64 = 45;
const INLINE_MAX: u64 = 256;
const VBLOCK_BYTES: u64 = 32 << 20;

/// Where a value lies: the number of a vblock, or one of these.
type Place = u32;
const DEAD: Place = u32::MAX;
const INLINE: Place = u32::MAX - 1;

#[derive(Clone)]
struct Kvset {
    id: KvsetId,
    /// Oldest and newest flush that it has keys of.
    age: (u64, u64),
    /// By key.
    entries: Arc<Vec<(u32, Place)>>,
    refs: BTreeMap<Place, u64>,
    tombstones: u64,
}

struct Leaf {
    id: NodeId,
    first: u32,
    kvsets: Vec<Kvset>,
    distinct: u64,
}

struct Vblock {
    keys: u64,
    refs: u64,
}

/// A job under way: what it will change, and what it costs.
pub(crate) struct Job {
    remove: Vec<KvsetId>,
    add: Vec<(NodeId, Kvset)>,
    leaves_remove: Vec<NodeId>,
    leaves_add: Vec<(NodeId, u32)>,
    reshapes: bool,
    pub(crate) read_bytes: u64,
    pub(crate) written_bytes: u64,
    pub(crate) keys: u64,
}

pub(crate) struct Tree {
    scale: u64,
    value_bytes: u64,
    root: Vec<Kvset>,
    leaves: Vec<Leaf>,
    vblocks: HashMap<Place, Vblock>,
    vblock_keys: u64,
    next_id: u64,
    next_place: Place,
    flushes: u64,
    busy: BTreeSet<KvsetId>,
    reshaping: bool,
    pub(crate) leaf_len_max: usize,
}

impl Tree {
    pub(crate) fn new(load: &Load) -> Self {
        Self {
            scale: load.scale,
            value_bytes: load.value_bytes,
            root: Vec::new(),
            leaves: Vec::new(),
            vblocks: HashMap::new(),
            vblock_keys: 0,
            next_id: 1,
            next_place: 0,
            flushes: 0,
            busy: BTreeSet::new(),
            reshaping: false,
            leaf_len_max: 0,
        }
    }

    pub(crate) fn root_len(&self) -> usize {
        self.root.len()
    }

    /// Keys of the store for so many of the simulation.
    pub(crate) fn keys_of(&self, keys: u64) -> u64 {
        keys * self.scale
    }

    /// Bytes of key and value of so many keys of the simulation.
    pub(crate) fn bytes_of(&self, keys: u64) -> u64 {
        keys * self.scale * (KEY_BYTES + self.value_bytes)
    }

    /// Bytes on the medium.
    pub(crate) fn bytes(&self) -> u64 {
        let kvsets = self.root.iter().chain(self.leaves.iter().flat_map(|leaf| &leaf.kvsets));
        let index: u64 = kvsets.map(|kvset| self.index_bytes(kvset)).sum();
        index + self.vblock_keys * self.scale * self.value_bytes
    }

    /// vblocks of a leaf, on average.
    #[expect(clippy::cast_precision_loss, reason = "a mean of small numbers")]
    pub(crate) fn scatter(&self) -> f64 {
        let of = |leaf: &Leaf| {
            leaf.kvsets.iter().flat_map(|kvset| kvset.refs.keys()).collect::<BTreeSet<_>>().len()
        };
        self.leaves.iter().map(of).sum::<usize>() as f64 / self.leaves.len().max(1) as f64
    }

    fn is_inline(&self) -> bool {
        self.value_bytes <= INLINE_MAX
    }

    fn index_bytes(&self, kvset: &Kvset) -> u64 {
        let keys = kvset.entries.len() as u64;
        let values = if self.is_inline() { keys - kvset.tombstones } else { 0 };
        self.scale * (keys * ENTRY_BYTES + values * self.value_bytes)
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// A place for the values of some keys, a vblock at a time.
    fn write_values(&mut self, entries: &mut [(u32, Place)]) {
        let each = (VBLOCK_BYTES / (self.scale * self.value_bytes)).max(1);
        for part in entries.chunks_mut(usize::try_from(each).unwrap_or(1)) {
            let place = self.next_place;
            self.next_place += 1;
            let keys = part.len() as u64;
            self.vblocks.insert(place, Vblock { keys, refs: 0 });
            self.vblock_keys += keys;
            for entry in part {
                entry.1 = place;
            }
        }
    }

    fn kvset(&mut self, entries: Vec<(u32, Place)>, age: (u64, u64)) -> Kvset {
        let mut refs: BTreeMap<Place, u64> = BTreeMap::new();
        let mut tombstones = 0;
        for (_, place) in &entries {
            match *place {
                DEAD => tombstones += 1,
                INLINE => {}
                place => *refs.entry(place).or_default() += 1,
            }
        }
        for (place, keys) in &refs {
            self.vblocks.get_mut(place).expect("a value lies in a vblock").refs += keys;
        }
        let id = KvsetId::new(self.new_id());
        Kvset { id, age, entries: Arc::new(entries), refs, tombstones }
    }

    fn let_go(&mut self, kvset: &Kvset) {
        for (place, keys) in &kvset.refs {
            let vblock = self.vblocks.get_mut(place).expect("a value lies in a vblock");
            vblock.refs -= keys;
            if vblock.refs == 0 {
                self.vblock_keys -= vblock.keys;
                self.vblocks.remove(place);
            }
        }
    }

    /// A memtable becomes a kvset; returns the bytes written, keys and values.
    pub(crate) fn flush(&mut self, writes: &[Write]) -> u64 {
        let mut newest: BTreeMap<u32, bool> = BTreeMap::new();
        for write in writes {
            match write {
                Write::Put(key) => newest.insert(*key, true),
                Write::Delete(key) => newest.insert(*key, false),
            };
        }
        self.flushes += 1;
        let age = self.flushes;
        let (mut live, mut dead) = (Vec::new(), Vec::new());
        for (key, is_put) in newest {
            if is_put {
                live.push((key, INLINE));
            } else if self.hides_something(key, age) {
                dead.push((key, DEAD));
            }
        }
        let values = if self.is_inline() { 0 } else { live.len() as u64 };
        if !self.is_inline() {
            self.write_values(&mut live);
        }
        live.extend(dead);
        live.sort_unstable();
        if live.is_empty() {
            return 0;
        }
        let kvset = self.kvset(live, (age, age));
        let written = self.index_bytes(&kvset) + values * self.scale * self.value_bytes;
        self.root.insert(0, kvset);
        written
    }

    fn leaf_of(&self, key: u32) -> Option<&Leaf> {
        let after = self.leaves.partition_point(|leaf| leaf.first <= key);
        self.leaves.get(after.checked_sub(1)?)
    }

    /// Whether something older than `age` has the key.
    fn hides_something(&self, key: u32, age: u64) -> bool {
        let leaf = self.leaf_of(key).into_iter().flat_map(|leaf| &leaf.kvsets);
        let mut older = self.root.iter().chain(leaf).filter(|kvset| kvset.age.1 < age);
        older.any(|kvset| kvset.entries.binary_search_by_key(&key, |entry| entry.0).is_ok())
    }

    fn shape(&self, limits: Limits) -> TreeShape {
        let oldest = self.root.last().map(|kvset| kvset.id);
        let kvset = |kvset: &Kvset| KvsetShape {
            id: kvset.id,
            keys: kvset.entries.len() as u64 * self.scale,
            tombstones: kvset.tombstones * self.scale,
            kblock_bytes: self.index_bytes(kvset),
            value_bytes: kvset.refs.values().sum::<u64>() * self.scale * self.value_bytes,
            vblocks: kvset.refs.len() as u64,
            lands: if oldest == Some(kvset.id) { self.lands(kvset) } else { Lands::Apart },
            busy: self.busy.contains(&kvset.id),
            unreadable: false,
        };
        let node = |id, kvsets: &[Kvset], distinct: u64| NodeShape {
            id,
            kvsets: kvsets.iter().map(kvset).collect(),
            distinct_keys: distinct * self.scale,
        };
        let root_keys = merged(&self.root);
        let in_leaves: u64 = self.leaves.iter().map(|leaf| leaf.distinct).sum();
        let fresh = root_keys.iter().filter(|(key, _)| !self.is_in_leaves(*key)).count() as u64;
        let leaves: Vec<_> =
            self.leaves.iter().map(|leaf| node(leaf.id, &leaf.kvsets, leaf.distinct)).collect();
        let root = node(NodeId::ROOT, &self.root, root_keys.len() as u64);
        let value_bytes =
            |node: &NodeShape| node.kvsets.iter().map(|kvset| kvset.value_bytes).sum::<u64>();
        let mut shape = TreeShape {
            vblocks: Vec::new(),
            vblock_bytes: self.vblock_keys * self.scale * self.value_bytes,
            value_bytes: leaves.iter().chain([&root]).map(value_bytes).sum(),
            distinct_keys: (in_leaves + fresh) * self.scale,
            reshaping: self.reshaping,
            root,
            leaves,
        };
        if needs_vblocks(&shape, limits) {
            shape.vblocks = self.vblock_shapes();
        }
        shape
    }

    fn is_in_leaves(&self, key: u32) -> bool {
        let leaf = self.leaf_of(key).into_iter().flat_map(|leaf| &leaf.kvsets);
        let mut found = leaf.map(|kvset| kvset.entries.binary_search_by_key(&key, |entry| entry.0));
        found.any(|at| at.is_ok())
    }

    fn lands(&self, kvset: &Kvset) -> Lands {
        let (first, last) = (kvset.entries[0].0, kvset.entries[kvset.entries.len() - 1].0);
        let Some(end) = self.leaves.last() else {
            let newer = &self.root[..self.root.len() - 1];
            let after = newer.iter().all(|other| other.entries[0].0 > last);
            return if after { Lands::After } else { Lands::Apart };
        };
        let node = |key| self.leaf_of(key).map(|leaf| leaf.id);
        if node(first) != node(last) {
            return Lands::Apart;
        }
        let before = |other: &Kvset| other.entries.last().is_some_and(|entry| entry.0 < first);
        let after = node(first) == Some(end.id) && end.kvsets.iter().all(before);
        if after { Lands::After } else { Lands::InOne }
    }

    fn vblock_shapes(&self) -> Vec<VblockShape> {
        let bytes = |keys: u64| keys * self.scale * self.value_bytes;
        let mut shapes: BTreeMap<Place, VblockShape> = BTreeMap::new();
        let shape = |place: Place| VblockShape {
            id: MblockId::new(u64::from(place) + 1).expect("not zero"),
            len_bytes: bytes(self.vblocks[&place].keys),
            held_bytes: 0,
            leaf_bytes: Vec::new(),
        };
        for (place, keys) in self.root.iter().flat_map(|kvset| &kvset.refs) {
            shapes.entry(*place).or_insert_with(|| shape(*place)).held_bytes += bytes(*keys);
        }
        for (at, leaf) in self.leaves.iter().enumerate() {
            for (place, keys) in leaf.kvsets.iter().flat_map(|kvset| &kvset.refs) {
                let list = &mut shapes.entry(*place).or_insert_with(|| shape(*place)).leaf_bytes;
                match list.last_mut() {
                    Some((last, sum)) if *last == at => *sum += bytes(*keys),
                    _ => list.push((at, bytes(*keys))),
                }
            }
        }
        shapes.into_values().collect()
    }

    /// Begins what the picker wants.
    pub(crate) fn begin(&mut self, limits: Limits) -> Option<Job> {
        let plan = pick(&self.shape(limits), limits)?;
        self.busy.extend(&plan.inputs);
        self.reshaping |= plan.action.reshapes();
        Some(self.job(&plan))
    }

    fn job(&mut self, plan: &Plan) -> Job {
        let all = self.root.iter().chain(self.leaves.iter().flat_map(|leaf| &leaf.kvsets));
        let inputs: Vec<Kvset> =
            all.filter(|kvset| plan.inputs.contains(&kvset.id)).cloned().collect();
        let mut job = Job {
            remove: plan.inputs.clone(),
            add: Vec::new(),
            leaves_remove: Vec::new(),
            leaves_add: Vec::new(),
            reshapes: plan.action.reshapes(),
            read_bytes: inputs.iter().map(|kvset| self.index_bytes(kvset)).sum(),
            written_bytes: 0,
            keys: inputs.iter().map(|kvset| kvset.entries.len() as u64).sum::<u64>() * self.scale,
        };
        if let Action::Move { new_leaf } = plan.action {
            (job.read_bytes, job.keys) = (0, 0);
            self.relocate(&mut job, &inputs[0], new_leaf);
            return job;
        }
        let age = (
            inputs.iter().map(|kvset| kvset.age.0).min().unwrap_or(0),
            inputs.iter().map(|kvset| kvset.age.1).max().unwrap_or(0),
        );
        let mut entries = merged(&inputs);
        entries.retain(|(key, place)| *place != DEAD || self.hides_something(*key, age.0));
        let moved = |place: Place| {
            let id = MblockId::new(u64::from(place) + 1).expect("not zero");
            plan.action == Action::KvCompact || plan.vblocks.binary_search(&id).is_ok()
        };
        let is_moved = |entry: &(u32, Place)| entry.1 < INLINE && moved(entry.1);
        let (mut gone, mut kept): (Vec<_>, Vec<_>) = entries.into_iter().partition(is_moved);
        let value_bytes = gone.len() as u64 * self.scale * self.value_bytes;
        self.write_values(&mut gone);
        kept.extend(gone);
        kept.sort_unstable();
        job.read_bytes += value_bytes;
        job.written_bytes += value_bytes;
        for (node, part) in self.divide(plan, kept, &mut job) {
            if !part.is_empty() {
                let kvset = self.kvset(part, age);
                job.written_bytes += self.index_bytes(&kvset);
                job.add.push((node, kvset));
            }
        }
        job
    }

    fn relocate(&mut self, job: &mut Job, kvset: &Kvset, new_leaf: bool) {
        let first = kvset.entries[0].0;
        let node = if new_leaf {
            let node = NodeId::new(self.new_id());
            job.leaves_add.push((node, if self.leaves.is_empty() { 0 } else { first }));
            node
        } else {
            self.leaf_of(first).expect("a kvset that lands in a leaf has one").id
        };
        job.add.push((node, kvset.clone()));
    }

    /// Where entries go.
    fn divide(
        &mut self,
        plan: &Plan,
        entries: Vec<(u32, Place)>,
        job: &mut Job,
    ) -> Vec<(NodeId, Vec<(u32, Place)>)> {
        if let Some(leaves) = plan.new_leaves {
            let first = match plan.action {
                Action::Join { with } => {
                    job.leaves_remove = vec![plan.node, with];
                    self.first_of(plan.node)
                }
                Action::Split { .. } => {
                    job.leaves_remove = vec![plan.node];
                    self.first_of(plan.node)
                }
                _ => 0,
            };
            let each = entries.len().div_ceil(usize::try_from(leaves).unwrap_or(1)).max(1);
            let parts: Vec<Vec<_>> = entries.chunks(each).map(<[_]>::to_vec).collect();
            let parts = if parts.is_empty() { vec![Vec::new()] } else { parts };
            let nodes: Vec<NodeId> = parts.iter().map(|_| NodeId::new(self.new_id())).collect();
            for (n, (node, part)) in nodes.iter().zip(&parts).enumerate() {
                job.leaves_add.push((*node, if n == 0 { first } else { part[0].0 }));
            }
            return nodes.into_iter().zip(parts).collect();
        }
        if plan.action != Action::Spill {
            return vec![(plan.node, entries)];
        }
        let mut parts: Vec<(NodeId, Vec<(u32, Place)>)> =
            self.leaves.iter().map(|leaf| (leaf.id, Vec::new())).collect();
        for entry in entries {
            let at = self.leaves.partition_point(|leaf| leaf.first <= entry.0) - 1;
            parts[at].1.push(entry);
        }
        parts
    }

    fn first_of(&self, node: NodeId) -> u32 {
        self.leaves.iter().find(|leaf| leaf.id == node).expect("a busy leaf stays").first
    }

    /// Ends a job.
    pub(crate) fn end(&mut self, job: Job) {
        let is_gone = |kvset: &Kvset| job.remove.contains(&kvset.id);
        let mut gone = Vec::new();
        let mut touched: BTreeSet<NodeId> = job.add.iter().map(|(node, _)| *node).collect();
        gone.extend(self.root.extract_if(.., |kvset| is_gone(kvset)));
        for leaf in &mut self.leaves {
            let before = gone.len();
            gone.extend(leaf.kvsets.extract_if(.., |kvset| is_gone(kvset)));
            if gone.len() > before {
                touched.insert(leaf.id);
            }
        }
        let moved: Vec<KvsetId> = job.add.iter().map(|(_, kvset)| kvset.id).collect();
        for kvset in gone.iter().filter(|kvset| !moved.contains(&kvset.id)) {
            self.let_go(kvset);
        }
        self.leaves.retain(|leaf| !job.leaves_remove.contains(&leaf.id));
        for (id, first) in job.leaves_add {
            let at = self.leaves.partition_point(|leaf| leaf.first < first);
            self.leaves.insert(at, Leaf { id, first, kvsets: Vec::new(), distinct: 0 });
        }
        for (node, kvset) in job.add {
            let leaf = self.leaves.iter_mut().find(|leaf| leaf.id == node);
            leaf.expect("a job's leaf stays").kvsets.push(kvset);
        }
        for leaf in self.leaves.iter_mut().filter(|leaf| touched.contains(&leaf.id)) {
            leaf.kvsets.sort_by_key(|kvset| std::cmp::Reverse(kvset.age.1));
            leaf.distinct = merged(&leaf.kvsets).len() as u64;
            self.leaf_len_max = self.leaf_len_max.max(leaf.kvsets.len());
        }
        for id in &job.remove {
            self.busy.remove(id);
        }
        self.reshaping &= !job.reshapes;
    }
}

/// The newest entry of each key.
fn merged(kvsets: &[Kvset]) -> Vec<(u32, Place)> {
    let mut order: Vec<&Kvset> = kvsets.iter().collect();
    order.sort_by_key(|kvset| std::cmp::Reverse(kvset.age.1));
    if let [only] = order[..] {
        return only.entries.to_vec();
    }
    let mut all: Vec<(u32, usize, Place)> = Vec::new();
    for (rank, kvset) in order.iter().enumerate() {
        all.extend(kvset.entries.iter().map(|(key, place)| (*key, rank, *place)));
    }
    all.sort_unstable();
    all.dedup_by_key(|(key, _, _)| *key);
    all.into_iter().map(|(key, _, place)| (key, place)).collect()
}
