//! The leaves of a tree, in key order: a list whose copies share what they have in common.
//!
//! ```text
//!   leaves   [ chunk | chunk | chunk ]      a copy copies the references to chunks
//!               |       |       |
//!            l l l l  l l l l  l l l l      a change of a leaf copies its chunk's references
//! ```
//!
//! A chunk knows the keys of its leaves together, and its shape for the picker, so that an edit
//! counts those of the chunks that it changes, and of the others what they know. A leaf that has
//! been changed is put in order, and its keys counted, by [`Leaves::settle`], which ends an edit.

use super::shape::node_shape;
use super::{keys_of, put_in_order};
use crate::key::NodeId;
use crate::kvset::Kvset;
use crate::kvset::sketch::{KeySet, joined};
use crate::pick::{ChunkShape, LeafShapes, NodeShape};
use bytes::Bytes;
use mpool::SharedMap;
use std::ops::Index;
use std::sync::Arc;

/// Leaves of a chunk at most.
const CHUNK_MAX: usize = 64;

/// A key range and its kvsets.
#[derive(Clone)]
pub(crate) struct Leaf {
    pub(crate) id: NodeId,
    /// First key of the range; the range ends where the next leaf begins.
    pub(crate) first_key: Bytes,
    /// Newest first.
    pub(crate) kvsets: Vec<Arc<Kvset>>,
    /// `None` within an edit that has changed them.
    told: Option<Told<NodeShape>>,
}

/// The keys of a leaf, or of the leaves of a chunk, and their shape for the picker. An edit makes
/// both anew for what it changes.
struct Told<Shape> {
    keys: Arc<KeySet>,
    shape: Arc<Shape>,
}

impl<Shape> Clone for Told<Shape> {
    fn clone(&self) -> Self {
        Self { keys: Arc::clone(&self.keys), shape: Arc::clone(&self.shape) }
    }
}

const SETTLED: &str = "an edit settles what it changes";

impl Leaf {
    pub(super) fn new(id: NodeId, first_key: Bytes) -> Self {
        Self { id, first_key, kvsets: Vec::new(), told: None }
    }

    /// The keys of all its kvsets.
    pub(super) fn keys(&self) -> &KeySet {
        &self.told.as_ref().expect(SETTLED).keys
    }
}

#[derive(Clone, Default)]
struct Chunk {
    /// Never empty in a list.
    leaves: Vec<Arc<Leaf>>,
    /// `None` within an edit that has changed them.
    told: Option<Told<ChunkShape>>,
}

/// See the module.
#[derive(Clone, Default)]
pub(crate) struct Leaves {
    chunks: Vec<Arc<Chunk>>,
    /// The place of each chunk's first leaf. As before an edit, within it.
    starts: Vec<usize>,
    /// Where each leaf begins.
    firsts: SharedMap<NodeId, Bytes>,
}

/// Where a leaf is, until the list changes.
#[derive(Clone, Copy)]
pub(super) struct Place {
    chunk: usize,
    at: usize,
}

impl Leaves {
    pub(crate) fn len(&self) -> usize {
        self.firsts.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.firsts.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Leaf> {
        self.chunks.iter().flat_map(|chunk| &chunk.leaves).map(|leaf| &**leaf)
    }

    pub(crate) fn get(&self, at: usize) -> Option<&Leaf> {
        let chunk = self.starts.partition_point(|start| *start <= at).checked_sub(1)?;
        self.chunks[chunk].leaves.get(at - self.starts[chunk]).map(|leaf| &**leaf)
    }

    pub(crate) fn last(&self) -> Option<&Leaf> {
        self.chunks.last()?.leaves.last().map(|leaf| &**leaf)
    }

    /// The place of the leaf whose range holds `key`.
    pub(crate) fn place_of(&self, key: &[u8]) -> Option<usize> {
        self.find(key).map(|Place { chunk, at }| self.starts[chunk] + at)
    }

    /// The leaf whose range holds `key`.
    pub(crate) fn route(&self, key: &[u8]) -> Option<&Leaf> {
        self.find(key).map(|place| self.at(place))
    }

    pub(super) fn find(&self, key: &[u8]) -> Option<Place> {
        let begins = |leaf: &Leaf| *leaf.first_key <= *key;
        let chunk = self.chunks.partition_point(|chunk| begins(&chunk.leaves[0])).checked_sub(1)?;
        let at = self.chunks[chunk].leaves.partition_point(|leaf| begins(leaf));
        Some(Place { chunk, at: at - 1 })
    }

    pub(super) fn find_id(&self, id: NodeId) -> Option<Place> {
        self.find(self.firsts.get(&id)?)
    }

    pub(super) fn at(&self, Place { chunk, at }: Place) -> &Leaf {
        &self.chunks[chunk].leaves[at]
    }

    /// A leaf to be changed.
    pub(super) fn change(&mut self, Place { chunk, at }: Place) -> &mut Leaf {
        let chunk = Arc::make_mut(&mut self.chunks[chunk]);
        chunk.told = None;
        let leaf = Arc::make_mut(&mut chunk.leaves[at]);
        leaf.told = None;
        leaf
    }

    /// Exchanges kvsets for others with the same keys.
    pub(super) fn exchange(&mut self, by: impl Fn(&Arc<Kvset>) -> Option<Arc<Kvset>>) {
        for chunk in &mut self.chunks {
            for at in 0..chunk.leaves.len() {
                if !chunk.leaves[at].kvsets.iter().any(|kvset| by(kvset).is_some()) {
                    continue;
                }
                let leaf = Arc::make_mut(&mut Arc::make_mut(chunk).leaves[at]);
                for kvset in &mut leaf.kvsets {
                    if let Some(new) = by(kvset) {
                        *kvset = new;
                    }
                }
            }
        }
    }

    pub(super) fn insert(&mut self, leaf: Leaf) {
        let before = self.firsts.insert(leaf.id, leaf.first_key.clone());
        assert!(before.is_none(), "a leaf comes once");
        let Some(Place { chunk, at }) = self.find(&leaf.first_key) else {
            // Before all others.
            if self.chunks.is_empty() {
                self.chunks.push(Arc::default());
            }
            return self.insert_at(Place { chunk: 0, at: 0 }, leaf);
        };
        self.insert_at(Place { chunk, at: at + 1 }, leaf);
    }

    fn insert_at(&mut self, Place { chunk: number, at }: Place, leaf: Leaf) {
        let chunk = Arc::make_mut(&mut self.chunks[number]);
        chunk.told = None;
        chunk.leaves.insert(at, Arc::new(leaf));
        if chunk.leaves.len() > CHUNK_MAX {
            let leaves = chunk.leaves.split_off(CHUNK_MAX / 2);
            self.chunks.insert(number + 1, Arc::new(Chunk { leaves, told: None }));
        }
    }

    pub(super) fn remove(&mut self, Place { chunk: number, at }: Place) {
        let chunk = Arc::make_mut(&mut self.chunks[number]);
        chunk.told = None;
        self.firsts.remove(&chunk.leaves.remove(at).id);
        if chunk.leaves.is_empty() {
            self.chunks.remove(number);
        }
    }

    /// Ends an edit: what it has changed is put in order, and counted.
    pub(super) fn settle(&mut self) {
        self.starts.clear();
        let mut len = 0;
        for chunk in &mut self.chunks {
            self.starts.push(len);
            len += chunk.leaves.len();
            if chunk.told.is_some() {
                continue;
            }
            let chunk = Arc::make_mut(chunk);
            for leaf in chunk.leaves.iter_mut().filter(|leaf| leaf.told.is_none()) {
                let leaf = Arc::make_mut(leaf);
                put_in_order(&mut leaf.kvsets);
                let keys = keys_of(&leaf.kvsets);
                let shape = Arc::new(node_shape(leaf.id, &leaf.kvsets, &keys));
                leaf.told = Some(Told { keys, shape });
            }
            let keys = Arc::new(together(chunk.leaves.iter().map(|leaf| leaf.keys())));
            let shape = |leaf: &Arc<Leaf>| Arc::clone(&leaf.told.as_ref().expect(SETTLED).shape);
            let shape = Arc::new(ChunkShape::new(chunk.leaves.iter().map(shape).collect()));
            chunk.told = Some(Told { keys, shape });
        }
        assert_eq!(len, self.len(), "each leaf begins somewhere");
        let is_first = |leaf: &Leaf| leaf.first_key.is_empty();
        assert!(self.get(0).is_none_or(is_first), "every key has a leaf");
    }

    /// The keys of all leaves.
    pub(super) fn keys(&self) -> KeySet {
        together(self.told().map(|told| &*told.keys))
    }

    /// Their shapes for the picker.
    pub(super) fn shapes(&self) -> LeafShapes {
        LeafShapes::new(self.told().map(|told| Arc::clone(&told.shape)))
    }

    fn told(&self) -> impl Iterator<Item = &Told<ChunkShape>> + Clone {
        self.chunks.iter().map(|chunk| chunk.told.as_ref().expect(SETTLED))
    }
}

/// Sets that have no key in common, as those of leaves: their numbers add up.
fn together<'a>(sets: impl Iterator<Item = &'a KeySet> + Clone) -> KeySet {
    let keys = sets.clone().map(|set| set.keys).sum();
    KeySet { keys, sketch: joined(sets.map(KeySet::as_pair)) }
}

impl Index<usize> for Leaves {
    type Output = Leaf;

    fn index(&self, at: usize) -> &Leaf {
        self.get(at).expect("a place within the list")
    }
}
