//! A tree whose kvsets are lists of numbers.

mod job;

pub(crate) use job::Job;

use crate::key::{KvsetId, NodeId};
use crate::loads::{Load, Write};
use crate::pick::{
    ChunkShape, KvsetShape, Lands, LeafShapes, Limits, NodeShape, Objects, TreeShape, VblockIndex,
    pick_needs_vblocks,
};
use mpool::MblockId;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Bytes of a key, and of its entry in a kblock with all that a kblock has besides.
const KEY_BYTES: u64 = 24;
const ENTRY_BYTES: u64 = 45;
/// The same, beside the value, where that is inline.
const INLINE_ENTRY_BYTES: u64 = 22;
const INLINE_MAX: u64 = 256;
const VBLOCK_BYTES: u64 = 32 << 20;
/// Leaves of one chunk of the shape that the picker gets.
const CHUNK_LEN: usize = 64;

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
    /// Keys by place, and their bytes by vblock.
    refs: Vec<(Place, u64)>,
    ref_bytes: Arc<[(MblockId, u64)]>,
    /// Keys whose values lie in vblocks.
    value_keys: u64,
    tombstones: u64,
}

struct Leaf {
    id: NodeId,
    first: u32,
    kvsets: Vec<Kvset>,
    shape: Arc<NodeShape>,
}

struct Vblock {
    keys: u64,
    refs: u64,
}

pub(crate) struct Tree {
    scale: u64,
    value_bytes: u64,
    root: Vec<Kvset>,
    leaves: Vec<Leaf>,
    vblocks: HashMap<Place, Vblock>,
    vblock_keys: u64,
    index: VblockIndex,
    /// Keys of the simulation that kvsets point with, and bytes of all their kblocks.
    value_keys: u64,
    index_bytes: u64,
    /// The root's shape, and how many of its keys no leaf has, until either changes.
    root_told: Option<(NodeShape, u64)>,
    /// The shapes of each so many leaves, until one of them changes.
    chunks: Vec<Option<Arc<ChunkShape>>>,
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
            index: VblockIndex::default(),
            value_keys: 0,
            index_bytes: 0,
            root_told: None,
            chunks: Vec::new(),
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
        self.index_bytes + self.vblock_keys * self.scale * self.value_bytes
    }

    /// vblocks of a leaf, on average.
    #[expect(clippy::cast_precision_loss, reason = "a mean of small numbers")]
    pub(crate) fn scatter(&self) -> f64 {
        let of = |leaf: &Leaf| {
            let places = leaf.kvsets.iter().flat_map(|kvset| &kvset.refs).map(|(place, _)| place);
            places.collect::<BTreeSet<_>>().len()
        };
        self.leaves.iter().map(of).sum::<usize>() as f64 / self.leaves.len().max(1) as f64
    }

    fn is_inline(&self) -> bool {
        self.value_bytes <= INLINE_MAX
    }

    fn index_of(&self, kvset: &Kvset) -> u64 {
        let keys = kvset.entries.len() as u64;
        let values = if self.is_inline() { keys - kvset.tombstones } else { 0 };
        let entry = if self.is_inline() { INLINE_ENTRY_BYTES } else { ENTRY_BYTES };
        self.scale * (keys * entry + values * self.value_bytes)
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
        let refs: Vec<(Place, u64)> = refs.into_iter().collect();
        let value_keys = refs.iter().map(|(_, keys)| keys).sum();
        self.value_keys += value_keys;
        let bytes = |keys: u64| keys * self.scale * self.value_bytes;
        let ref_bytes = refs.iter().map(|(place, keys)| (id_of(*place), bytes(*keys))).collect();
        Kvset { id, age, entries: Arc::new(entries), refs, ref_bytes, value_keys, tombstones }
    }

    fn let_go(&mut self, kvset: &Kvset) {
        self.value_keys -= kvset.value_keys;
        self.index_bytes -= self.index_of(kvset);
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
        let index_bytes = self.index_of(&kvset);
        let written = index_bytes + values * self.scale * self.value_bytes;
        self.index_bytes += index_bytes;
        self.root_told = None;
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

    fn node(&self, id: NodeId, kvsets: &[Kvset], distinct: u64) -> NodeShape {
        let kvset = |kvset: &Kvset| KvsetShape {
            id: kvset.id,
            keys: kvset.entries.len() as u64 * self.scale,
            tombstones: kvset.tombstones * self.scale,
            kblock_bytes: self.index_of(kvset),
            value_bytes: kvset.value_keys * self.scale * self.value_bytes,
            vblocks: kvset.refs.len() as u64,
            refs: Arc::clone(&kvset.ref_bytes),
        };
        NodeShape::new(id, kvsets.iter().map(kvset).collect(), distinct * self.scale)
    }

    fn tell_root(&self) -> (NodeShape, u64) {
        let keys = merged(&self.root);
        let fresh = keys.iter().filter(|(key, _)| !self.is_in_leaves(*key)).count() as u64;
        (self.node(NodeId::ROOT, &self.root, keys.len() as u64), fresh)
    }

    /// The shapes of the leaves; chunks in which no leaf has changed are as they were.
    fn tell_leaves(&mut self) -> LeafShapes {
        let chunks = self.leaves.chunks(CHUNK_LEN);
        self.chunks.resize(chunks.len(), None);
        for (told, leaves) in self.chunks.iter_mut().zip(chunks) {
            let shapes = || leaves.iter().map(|leaf| Arc::clone(&leaf.shape)).collect();
            told.get_or_insert_with(|| Arc::new(ChunkShape::new(shapes())));
        }
        LeafShapes::new(self.chunks.iter().flatten().cloned())
    }

    fn shape(&mut self, limits: Limits) -> TreeShape {
        let (root, fresh) = self.root_told.take().unwrap_or_else(|| self.tell_root());
        self.root_told = Some((root.clone(), fresh));
        let leaves = self.tell_leaves();
        let in_leaves: u64 = self.leaves.iter().map(|leaf| leaf.shape.distinct_keys).sum();
        let mut shape = TreeShape {
            lands: self.root.last().map_or(Lands::Apart, |oldest| self.lands(oldest)),
            busy: Arc::new(self.busy.clone()),
            unreadable: Arc::default(),
            vblocks: Arc::default(),
            held: Arc::default(),
            gathered: Arc::default(),
            vblock_bytes: self.vblock_keys * self.scale * self.value_bytes,
            value_bytes: self.value_keys * self.scale * self.value_bytes,
            distinct_keys: in_leaves + fresh * self.scale,
            reshaping: self.reshaping,
            // Of large stores: units are nothing there.
            objects: Objects::default(),
            root,
            leaves,
        };
        if pick_needs_vblocks(&shape, limits) {
            let (vblocks, key_bytes) = (&self.vblocks, self.scale * self.value_bytes);
            let len_of = |id| vblocks[&place_of(id)].keys * key_bytes;
            shape.vblocks = self.index.follow(&shape, &len_of);
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
}

fn id_of(place: Place) -> MblockId {
    MblockId::new(u64::from(place) + 1).expect("not zero")
}

fn place_of(id: MblockId) -> Place {
    Place::try_from(id.get() - 1).expect("made of a place")
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
