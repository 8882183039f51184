//! PURE: an ordered map whose copies share what they have in common.
//!
//! A B+tree whose nodes are reference-counted. A copy of the map is one more reference to its root,
//! whatever it holds; the first change after that copies the nodes between the root and the leaf it
//! changes, and later changes of the same leaf copy nothing:
//!
//! ```text
//! map    root'                  a change of leaf 3 after a copy was taken: three nodes of at most
//!        |   \                  NODE_MAX entries are copied, the rest is shared
//! copy   | root  inner'
//!        | /  \   |   \
//!       inner  inner   \
//!       |   |   |   |   \
//!       1   2   3   4    3'
//! ```
//!
//! So whoever keeps others out while it takes a snapshot of a large map does so for nanoseconds.
//! What is shared is dropped with the last map that has it.
//!
//! Keys usually come in rising order and go in any: a leaf that overflows at its end is not halved
//! but followed by a new one, and a node that falls below a quarter joins a neighbour if both fit.

use std::{borrow::Borrow, fmt, slice, sync::Arc};

/// Entries of a node at most, unless a test wants deeper trees.
const NODE_MAX: usize = 64;

/// An ordered map whose copies share what they have in common: a copy costs as much as one more
/// reference, and a change copies three short nodes. Nodes have at most `MAX` entries; those with
/// less than a quarter of that are joined with a neighbour, if the two have no more than three
/// quarters.
pub struct SharedMap<K, V, const MAX: usize = NODE_MAX> {
    root: Arc<Node<K, V>>,
    len: usize,
}

enum Node<K, V> {
    Leaf(Vec<(K, V)>),
    /// Children, none only within a removal, each with the smallest key that belongs to it; that of
    /// the first is not looked at, since whatever is smaller than the second's belongs to the
    /// first.
    Inner(Vec<Child<K, V>>),
}

/// A node, and the smallest key that belongs to it.
type Child<K, V> = (K, Arc<Node<K, V>>);

impl<K, V, const MAX: usize> Clone for SharedMap<K, V, MAX> {
    fn clone(&self) -> Self {
        Self { root: Arc::clone(&self.root), len: self.len }
    }
}

impl<K, V, const MAX: usize> Default for SharedMap<K, V, MAX> {
    fn default() -> Self {
        Self { root: Arc::new(Node::Leaf(Vec::new())), len: 0 }
    }
}

impl<K: Ord, V, const MAX: usize> SharedMap<K, V, MAX> {
    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What a key stands for.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let mut node = &*self.root;
        loop {
            match node {
                Node::Inner(children) => node = &children[child_of(children, key)].1,
                Node::Leaf(entries) => {
                    let at = find(entries, key).ok()?;
                    return Some(&entries[at].1);
                }
            }
        }
    }

    /// Whether a key stands for something.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// In order of the keys.
    pub fn iter(&self) -> Iter<'_, K, V> {
        let mut iter = Iter { above: Vec::new(), leaf: [].iter() };
        iter.enter(&self.root);
        iter
    }

    /// The keys, in their order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// What the keys stand for, in their order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

impl<K: Ord + Clone, V: Clone, const MAX: usize> SharedMap<K, V, MAX> {
    /// Returns what the key stood for before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let (before, split) = insert::<_, _, MAX>(&mut self.root, key, value);
        if let Some((key, right)) = split {
            let left = (key.clone(), Arc::clone(&self.root));
            self.root = Arc::new(Node::Inner(vec![left, (key, right)]));
        }
        self.len += usize::from(before.is_none());
        before
    }

    /// Returns what the key stood for.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        // Nothing is copied for a key that is not there.
        self.get(key)?;
        let removed = remove::<_, _, MAX>(&mut self.root, key);
        while let Node::Inner(children) = &*self.root
            && let [(_, only)] = &children[..]
        {
            self.root = Arc::clone(only);
        }
        if self.root.len() == 0 {
            self.root = Self::default().root;
        }
        self.len -= 1;
        Some(removed)
    }
}

/// Which child a key belongs to.
fn child_of<K: Borrow<Q>, Q: Ord + ?Sized, C>(children: &[(K, C)], key: &Q) -> usize {
    children[1..].partition_point(|(smallest, _)| smallest.borrow() <= key)
}

fn find<K: Borrow<Q>, Q: Ord + ?Sized, V>(entries: &[(K, V)], key: &Q) -> Result<usize, usize> {
    // Most keys are newer than all that are there.
    if entries.last().is_none_or(|(last, _)| last.borrow() < key) {
        return Err(entries.len());
    }
    entries.binary_search_by(|(found, _)| found.borrow().cmp(key))
}

/// Returns also the right part of a node that was too long.
fn insert<K: Ord + Clone, V: Clone, const MAX: usize>(
    node: &mut Arc<Node<K, V>>,
    key: K,
    value: V,
) -> (Option<V>, Option<Child<K, V>>) {
    match Arc::make_mut(node) {
        Node::Leaf(entries) => match find(entries, &key) {
            Ok(at) => (Some(std::mem::replace(&mut entries[at].1, value)), None),
            Err(at) => {
                entries.insert(at, (key, value));
                let last = at + 1 == entries.len();
                (
                    None,
                    split::<_, _, MAX>(entries, last)
                        .map(|(key, right)| (key, Arc::new(Node::Leaf(right)))),
                )
            }
        },
        Node::Inner(children) => {
            let at = child_of(children, &key);
            let (before, right) = insert::<_, _, MAX>(&mut children[at].1, key, value);
            let Some(right) = right else { return (before, None) };
            children.insert(at + 1, right);
            let last = at + 2 == children.len();
            let right = split::<_, _, MAX>(children, last);
            (before, right.map(|(key, right)| (key, Arc::new(Node::Inner(right)))))
        }
    }
}

/// Takes the right part of a list off that is too long: the half, or what was put `last`.
fn split<K: Clone, T, const MAX: usize>(
    list: &mut Vec<(K, T)>,
    last: bool,
) -> Option<(K, Vec<(K, T)>)> {
    if list.len() <= MAX {
        return None;
    }
    let right = list.split_off(if last { MAX } else { MAX / 2 });
    Some((right[0].0.clone(), right))
}

/// The key is there.
fn remove<K: Ord + Clone, V: Clone, const MAX: usize>(node: &mut Arc<Node<K, V>>, key: &K) -> V {
    match Arc::make_mut(node) {
        Node::Leaf(entries) => {
            let at = find(entries, key).unwrap_or_else(|_| unreachable!("looked for before"));
            entries.remove(at).1
        }
        Node::Inner(children) => {
            let at = child_of(children, key);
            let removed = remove::<_, _, MAX>(&mut children[at].1, key);
            let len = children[at].1.len();
            if len == 0 {
                // If it was the only one, whoever has this node takes it off in turn.
                children.remove(at);
            } else if len < MAX / 4 {
                let fits = |left: usize| {
                    let pair = children.get(left..left + 2);
                    pair.is_some_and(|p| p[0].1.len() + p[1].1.len() <= MAX * 3 / 4)
                };
                let left = [at.checked_sub(1), Some(at)].into_iter().flatten().find(|l| fits(*l));
                if let Some(left) = left {
                    join(children, left);
                }
            }
            removed
        }
    }
}

/// Appends child `left + 1` to child `left`.
fn join<K: Clone, V: Clone>(children: &mut Vec<Child<K, V>>, left: usize) {
    let (smallest, right) = children.remove(left + 1);
    match (Arc::make_mut(&mut children[left].1), Arc::unwrap_or_clone(right)) {
        (Node::Leaf(into), Node::Leaf(more)) => into.extend(more),
        (Node::Inner(into), Node::Inner(mut more)) => {
            // It is the first no more, so what belongs to it must be told.
            more[0].0 = smallest;
            into.extend(more);
        }
        _ => unreachable!("all leaves are equally deep"),
    }
}

impl<K, V> Node<K, V> {
    fn len(&self) -> usize {
        match self {
            Self::Leaf(entries) => entries.len(),
            Self::Inner(children) => children.len(),
        }
    }
}

impl<K: Clone, V: Clone> Clone for Node<K, V> {
    fn clone(&self) -> Self {
        #[cfg(test)]
        tests::COPIED.set(tests::COPIED.get() + self.len());
        match self {
            Self::Leaf(entries) => Self::Leaf(entries.clone()),
            Self::Inner(children) => Self::Inner(children.clone()),
        }
    }
}

/// Walks a map in order of its keys.
pub struct Iter<'a, K, V> {
    /// What is left of the nodes on the way to the leaf.
    above: Vec<slice::Iter<'a, Child<K, V>>>,
    leaf: slice::Iter<'a, (K, V)>,
}

impl<K, V> Clone for Iter<'_, K, V> {
    fn clone(&self) -> Self {
        Self { above: self.above.clone(), leaf: self.leaf.clone() }
    }
}

impl<'a, K, V> Iter<'a, K, V> {
    fn enter(&mut self, node: &'a Node<K, V>) {
        match node {
            Node::Leaf(entries) => self.leaf = entries.iter(),
            Node::Inner(children) => self.above.push(children.iter()),
        }
    }
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.leaf.next() {
                return Some((key, value));
            }
            match self.above.last_mut()?.next() {
                Some((_, child)) => self.enter(child),
                None => drop(self.above.pop()),
            }
        }
    }
}

impl<'a, K: Ord, V, const MAX: usize> IntoIterator for &'a SharedMap<K, V, MAX> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Iter<'a, K, V> {
        self.iter()
    }
}

impl<K: Ord, V: PartialEq, const MAX: usize> PartialEq for SharedMap<K, V, MAX> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<K: Ord, V: Eq, const MAX: usize> Eq for SharedMap<K, V, MAX> {}

impl<K: Ord + fmt::Debug, V: fmt::Debug, const MAX: usize> fmt::Debug for SharedMap<K, V, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use mpool_sim::Seeded;
    use std::{cell::Cell, collections::BTreeMap};

    thread_local! {
        /// Entries of nodes that this thread has copied.
        pub(crate) static COPIED: Cell<usize> = const { Cell::new(0) };
    }

    /// What `work` copies.
    pub(crate) fn copied(work: impl FnOnce()) -> usize {
        let before = COPIED.get();
        work();
        COPIED.get() - before
    }

    /// Depth of a subtree whose every key is in `range`; panics if it has not the right shape.
    fn depth(node: &Node<u64, u64>, max: usize, range: (Option<u64>, Option<u64>)) -> u32 {
        let (low, high) = range;
        assert!(node.len() <= max);
        match node {
            Node::Leaf(entries) => {
                assert!(entries.is_sorted_by(|a, b| a.0 < b.0));
                let within =
                    |key: u64| low.is_none_or(|l| l <= key) && high.is_none_or(|h| key < h);
                assert!(entries.iter().all(|(key, _)| within(*key)), "{range:?}");
                1
            }
            Node::Inner(children) => {
                assert!(!children.is_empty());
                let mut depths = Vec::new();
                for (at, (smallest, child)) in children.iter().enumerate() {
                    let low = if at == 0 { low } else { Some(*smallest) };
                    let high = children.get(at + 1).map_or(high, |next| Some(next.0));
                    assert!(child.len() > 0, "an empty node is left");
                    depths.push(depth(child, max, (low, high)));
                }
                assert!(depths.iter().all(|d| *d == depths[0]), "leaves of different depths");
                depths[0] + 1
            }
        }
    }

    fn same<const MAX: usize>(map: &SharedMap<u64, u64, MAX>, model: &BTreeMap<u64, u64>) {
        assert_eq!(map.len(), model.len());
        assert!(map.iter().eq(model.iter()));
        depth(&map.root, MAX, (None, None));
    }

    /// Random work against the model, in phases that grow and phases that shrink, with runs of keys
    /// that go together; copies taken on the way must stay what they were.
    fn random_work<const MAX: usize>(seed: u64) {
        let mut coin = Seeded::new(seed);
        let mut map: SharedMap<u64, u64, MAX> = SharedMap::default();
        let (mut model, mut copies) = (BTreeMap::new(), Vec::new());
        let keys = [100, 1000, 20_000][usize::try_from(seed % 3).unwrap()];
        for step in 0..24_000_u64 {
            let growing = (step / 6000).is_multiple_of(2);
            let mut key = coin.below(keys);
            if coin.below(10) < if growing { 8 } else { 2 } {
                // Half of the keys rise.
                if coin.coin() {
                    key = keys + step;
                }
                assert_eq!(map.insert(key, step), model.insert(key, step), "seed {seed}");
            } else {
                let run = if coin.below(50) == 0 { coin.below(80) } else { 1 };
                let next = model.range(key..).map(|(key, _)| *key);
                let doomed: Vec<u64> = next.take(usize::try_from(run).unwrap()).collect();
                for key in std::iter::once(key).chain(doomed) {
                    assert_eq!(map.get(&key), model.get(&key), "seed {seed} step {step}");
                    assert_eq!(map.remove(&key), model.remove(&key), "seed {seed} step {step}");
                }
            }
            if coin.below(1500) == 0 {
                copies.push((map.clone(), model.clone()));
                same(&map, &model);
            }
        }
        for (copy, model) in &copies {
            same(copy, model);
        }
        for key in model.clone().into_keys() {
            assert_eq!(map.remove(&key), model.remove(&key), "seed {seed}");
        }
        same(&map, &model);
        assert!(matches!(&*map.root, Node::Leaf(entries) if entries.is_empty()));
    }

    #[test]
    fn random_work_is_that_of_the_model_and_copies_never_change() {
        for seed in 0..12 {
            random_work::<NODE_MAX>(seed);
            // Deep trees.
            random_work::<4>(seed);
            random_work::<9>(seed);
            random_work::<16>(seed);
        }
    }

    /// Keys below `len`, each with itself.
    fn filled(len: u64) -> SharedMap<u64, u64> {
        let mut map = SharedMap::default();
        for key in 0..len {
            assert_eq!(map.insert(key, key), None);
        }
        map
    }

    #[test]
    fn a_copy_copies_nothing_and_a_change_after_it_one_path() {
        let mut map = filled(100_000);
        assert_eq!(depth(&map.root, NODE_MAX, (None, None)), 3, "64 times 64 times 64");
        let mut kept = Vec::new();
        assert_eq!(copied(|| kept.push(map.clone())), 0);
        assert_eq!(copied(|| assert_eq!(map.remove(&200_000), None)), 0);
        let path = copied(|| assert_eq!(map.insert(50_000, 1), Some(50_000)));
        assert!((3..=3 * NODE_MAX).contains(&path), "{path} entries");
        let again = copied(|| assert_eq!(map.insert(50_001, 1), Some(50_001)));
        assert_eq!(again, 0, "the path is its own by now");
        let path = copied(|| assert_eq!(map.remove(&7), Some(7)));
        assert!(path <= 2 * NODE_MAX, "{path} entries: the root is its own");
        assert_eq!((kept[0].get(&7), kept[0].get(&50_000)), (Some(&7), Some(&50_000)));
    }

    #[test]
    fn rising_keys_fill_the_leaves() {
        let map = filled(6400);
        let Node::Inner(children) = &*map.root else { panic!("it has leaves") };
        assert_eq!(children.len(), 2, "an inner node of 64, and what comes then");
        let leaves: usize = children.iter().map(|(_, child)| child.len()).sum();
        assert_eq!(leaves, 100, "64 entries each");
    }
}
