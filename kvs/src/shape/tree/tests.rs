//! Trees after random edits against trees that are made anew, and what an edit of a large one
//! costs.
//!
//! The kvsets have a meta and no objects: a tree looks at nothing else of them.

use super::*;
use crate::db::Database;
use crate::key::{Revision, key_hash};
use crate::kvset::sketch::Sketch;
use crate::memtable::Memtable;
use crate::options::{Durability, Options};
use crate::pick::{Limits, VblockIndex, VblockShape, Vblocks, needs_vblocks, pick};
use crate::shape::view::View;
use mpool::Pool;
use mpool_sim::Seeded;
use mpool_sim::SimDevice;
use std::time::Instant;

const KVS: KvsId = KvsId::new(1);

/// A real kvset, in whose name the others speak.
fn real() -> (Database, Arc<Kvset>) {
    let options = Options { background_threads: 0, ..Options::default() };
    let pool = Pool::create(Arc::new(SimDevice::new(1 << 30)), &options.pool).unwrap();
    let db = Database::open_pool(pool, options).unwrap();
    db.create_kvs("k").unwrap().put(b"k", b"v", Durability::Off).unwrap();
    db.flush().unwrap();
    let kvset = Arc::clone(&db.store().shape.tree(KVS).unwrap().root[0]);
    (db, kvset)
}

fn key(n: u64) -> Bytes {
    format!("{n:010}").into()
}

fn mblock(n: u64) -> MblockId {
    MblockId::new(n).unwrap()
}

fn len_of(id: MblockId) -> u64 {
    10_000 + id.get() * 977 % 1000
}

/// Makes kvsets, with numbers of their own.
struct Maker {
    real: Arc<Kvset>,
    next: u64,
}

/// The keys and revisions of a kvset to be made, both ends included.
struct Of {
    keys: (u64, u64),
    revisions: (u64, u64),
}

impl Maker {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn make(&mut self, of: &Of, vblocks: Vec<(MblockId, u64)>) -> Arc<Kvset> {
        let id = self.number();
        let mut sketch = Sketch::default();
        for n in 0..20 {
            sketch.add(key_hash(KVS, &key(of.keys.0 + n % (of.keys.1 - of.keys.0 + 1))));
        }
        self.real.posing_as(KvsetMeta {
            id: KvsetId::new(id),
            kvs: KVS,
            hblock: mblock(id),
            kblocks: Vec::new(),
            keys: 20,
            tombstones: id % 3,
            min_key: key(of.keys.0),
            max_key: key(of.keys.1),
            min_revision: Revision::new(of.revisions.0),
            max_revision: Revision::new(of.revisions.1),
            kblock_bytes: 1000 + id,
            value_bytes: vblocks.iter().map(|(_, bytes)| bytes).sum(),
            vblocks: vblocks.into(),
            sketch: Some(Arc::new(sketch)),
        })
    }

    /// One kvset that takes the place of others within a range of keys.
    fn merged(&mut self, from: &[(NodeId, Arc<Kvset>)], keys: (u64, u64)) -> Arc<Kvset> {
        let metas = || from.iter().map(|(_, kvset)| kvset.meta());
        let min = metas().map(|meta| meta.min_revision.get()).min().unwrap();
        let max = metas().map(|meta| meta.max_revision.get()).max().unwrap();
        let vblocks: BTreeMap<MblockId, u64> =
            metas().flat_map(|meta| meta.vblocks.iter().copied()).collect();
        let part = |(id, bytes): (MblockId, u64)| (id, bytes / 2 + 1);
        self.make(&Of { keys, revisions: (min, max) }, vblocks.into_iter().map(part).collect())
    }
}

fn below(random: &mut Seeded, bound: usize) -> usize {
    usize::try_from(random.below(bound as u64)).unwrap()
}

/// First and last key of a leaf.
fn range(tree: &Tree, at: usize) -> (u64, u64) {
    let first = |leaf: &Leaf| match std::str::from_utf8(&leaf.first_key).unwrap() {
        "" => 0,
        number => number.parse().unwrap(),
    };
    let end = tree.leaves.get(at + 1).map_or(1 << 31, first);
    (first(&tree.leaves[at]), end - 1)
}

fn all_of(tree: &Tree, node: NodeId) -> Vec<(NodeId, Arc<Kvset>)> {
    tree.kvsets_of(node).iter().map(|kvset| (node, Arc::clone(kvset))).collect()
}

/// What flushes, spills, merges, splits and joins do, at random.
fn random_edit(maker: &mut Maker, tree: &Tree, random: &mut Seeded) -> TreeEdit {
    let mut edit = TreeEdit::default();
    let kind = if tree.leaves.is_empty() { random.below(2) } else { random.below(6) };
    let at = below(random, tree.leaves.len().max(1));
    match kind {
        1 if !tree.root.is_empty() => {
            let taken = 1 + below(random, tree.root.len());
            edit.remove = all_of(tree, NodeId::ROOT).split_off(tree.root.len() - taken);
            if tree.leaves.is_empty() {
                let node = NodeId::new(maker.number());
                edit.leaves_add.push((node, Bytes::new()));
                edit.add.push((node, maker.merged(&edit.remove, (0, 9))));
            }
            for (at, leaf) in tree.leaves.iter().enumerate() {
                if random.below(4) > 0 {
                    edit.add.push((leaf.id, maker.merged(&edit.remove, range(tree, at))));
                }
            }
        }
        2 if !tree.leaves[at].kvsets.is_empty() => {
            let node = tree.leaves[at].id;
            edit.remove = all_of(tree, node);
            edit.add.push((node, maker.merged(&edit.remove, range(tree, at))));
        }
        3 | 4 if !tree.leaves[at].kvsets.is_empty() => {
            let (leaf, (first, last)) = (&tree.leaves[at], range(tree, at));
            edit.remove = all_of(tree, leaf.id);
            edit.leaves_remove.push(leaf.id);
            let parts = (2 + random.below(30)).min(last - first + 1);
            let step = (last - first + 1) / parts;
            for part in 0..parts {
                let node = NodeId::new(maker.number());
                let from = first + part * step;
                let first_key = if part == 0 { leaf.first_key.clone() } else { key(from) };
                edit.leaves_add.push((node, first_key));
                edit.add.push((node, maker.merged(&edit.remove, (from, from + step - 1))));
            }
        }
        5 if at + 1 < tree.leaves.len() => {
            let (one, other) = (&tree.leaves[at], &tree.leaves[at + 1]);
            edit.remove = [all_of(tree, one.id), all_of(tree, other.id)].concat();
            edit.leaves_remove = vec![one.id, other.id];
            let node = NodeId::new(maker.number());
            edit.leaves_add.push((node, one.first_key.clone()));
            if !edit.remove.is_empty() {
                edit.add.push((node, maker.merged(&edit.remove, range(tree, at))));
            }
        }
        _ => {
            let revision = maker.number();
            let vblock = mblock(maker.number());
            let from = random.below(1 << 30);
            let of = Of {
                keys: (from, from + 1 + random.below(1 << 30)),
                revisions: (revision, revision),
            };
            edit.add.push((NodeId::ROOT, maker.make(&of, vec![(vblock, 9000)])));
        }
    }
    edit
}

/// The same tree by one edit.
fn anew(tree: &Tree) -> Tree {
    let leaf = |leaf: &Leaf| (leaf.id, leaf.first_key.clone());
    let nodes = std::iter::once(NodeId::ROOT).chain(tree.leaves.iter().map(|leaf| leaf.id));
    let mut edit = TreeEdit {
        leaves_add: tree.leaves.iter().map(leaf).collect(),
        add: nodes.flat_map(|node| all_of(tree, node)).collect(),
        ..TreeEdit::default()
    };
    // An edit's items come in no order.
    edit.leaves_add.reverse();
    edit.add.reverse();
    Tree::new(KVS, "k").edited(&edit, &len_of)
}

/// What refers to each vblock, told without what is counted on the way; and which are held.
fn references(tree: &Tree, aside: &Aside) -> (References, BTreeSet<MblockId>) {
    let (mut all, mut held) = (References::new(), BTreeSet::new());
    let mut refer = |node: NodeId, kvsets: &[Arc<Kvset>]| {
        let bad = kvsets.iter().position(|kvset| aside.unreadable.contains(&kvset.meta().id));
        let bad = bad.filter(|_| node != NodeId::ROOT);
        for (n, kvset) in kvsets.iter().enumerate() {
            for (id, bytes) in kvset.meta().vblocks.iter() {
                *all.entry(*id).or_default().entry(node).or_default() += bytes;
                if bad.is_some_and(|bad| n >= bad) {
                    held.insert(*id);
                }
            }
        }
    };
    refer(NodeId::ROOT, &tree.root);
    tree.leaves.iter().for_each(|leaf| refer(leaf.id, &leaf.kvsets));
    held.extend(aside.unreadable_vblocks.iter());
    (all, held)
}

/// Bytes by vblock and node.
type References = BTreeMap<MblockId, BTreeMap<NodeId, u64>>;

fn told(vblocks: &Vblocks) -> References {
    let refs = |vblock: &VblockShape| vblock.refs().iter().copied().collect();
    vblocks.iter().map(|vblock| (vblock.id, refs(vblock))).collect()
}

/// The index has followed the tree so far, or another that came before.
fn check(tree: &Tree, index: &mut VblockIndex, (random, seed): (&mut Seeded, u64)) {
    let other = anew(tree);
    let ids: Vec<KvsetId> = tree.kvsets().map(|kvset| kvset.meta().id).collect();
    let some = |random: &mut Seeded| -> Arc<BTreeSet<KvsetId>> {
        Arc::new(ids.iter().copied().filter(|_| random.below(9) == 0).collect())
    };
    let mut aside = Aside { busy: some(random), unreadable: some(random), ..Aside::default() };
    let vblocks = tree.vblocks.keys().copied().filter(|_| random.below(9) == 0);
    aside.unreadable_vblocks = Arc::new(vblocks.collect());
    let (shape, anew) = (tree.shape(&aside), other.shape(&aside));
    assert_eq!(shape, anew, "seed {seed}");
    // The picker decides the same, also where the two trees divide their leaves into other chunks.
    for limits in [Limits::DEFAULT, Limits::QUIET, Limits::SHORT] {
        let limits = Limits { leaf_keys_max: 20 + random.below(100), ..limits };
        assert_eq!(needs_vblocks(&shape, limits), needs_vblocks(&anew, limits), "seed {seed}");
        assert_eq!(pick(&shape, limits), pick(&anew, limits), "seed {seed}");
    }
    assert_eq!(tree.vblocks, other.vblocks, "seed {seed}");
    assert_eq!(tree.totals, other.totals, "seed {seed}");
    let lens = tree.vblocks.keys().map(|id| len_of(*id));
    assert_eq!(tree.totals.vblock_bytes, lens.sum::<u64>(), "seed {seed}");
    let (refs, held) = references(tree, &aside);
    assert_eq!(*tree.held_vblocks(&aside), held, "seed {seed}");
    let of = |index: &mut VblockIndex| index.follow(&shape, &len_of);
    let (followed, anew) = (of(index), of(&mut VblockIndex::default()));
    assert_eq!(followed, anew, "seed {seed}");
    assert_eq!(told(&followed), refs, "seed {seed}");
    let firsts: Vec<&Bytes> = tree.leaves.iter().map(|leaf| &leaf.first_key).collect();
    assert!(firsts.is_sorted() && firsts.len() == tree.leaves.len(), "seed {seed}");
    for n in (0..20).map(|_| random.below(1 << 31)) {
        let after = firsts.partition_point(|first| ***first <= *key(n));
        assert_eq!(tree.leaves.place_of(&key(n)), after.checked_sub(1), "seed {seed}");
    }
}

/// Else a leaf whose values cannot be read would be written for ever.
#[test]
fn vblocks_that_cannot_be_read_are_not_too_many() {
    let (_db, real) = real();
    let mut maker = Maker { real, next: 0 };
    let of = Of { keys: (1, 20), revisions: (1, 20) };
    let kvset = maker.make(&of, vec![(mblock(101), 10), (mblock(102), 10)]);
    let edit = TreeEdit { add: vec![(NodeId::ROOT, kvset)], ..TreeEdit::default() };
    let tree = Tree::new(KVS, "k").edited(&edit, &len_of);
    let vblocks = |aside: &Aside| tree.shape(aside).objects.vblocks;
    assert_eq!(vblocks(&Aside::default()), 2);
    let unreadable_vblocks = Arc::new(BTreeSet::from([mblock(101)]));
    assert_eq!(vblocks(&Aside { unreadable_vblocks, ..Aside::default() }), 0);
}

#[test]
fn a_tree_after_edits_is_the_one_that_is_made_anew() {
    let (_db, real) = real();
    let mut longest = 0;
    for seed in 0..12 {
        let mut random = Seeded::new(seed);
        let mut maker = Maker { real: Arc::clone(&real), next: 0 };
        let mut tree = Tree::new(KVS, "k");
        let mut index = VblockIndex::default();
        for round in 0..120 {
            let edit = random_edit(&mut maker, &tree, &mut random);
            let next = tree.edited(&edit, &len_of);
            if round % 8 == 0 {
                // It shares its parts with the next one, and is as it was.
                check(&tree, &mut index, (&mut random, seed));
                check(&next, &mut index, (&mut random, seed));
            }
            tree = next;
            longest = longest.max(tree.leaves.len());
        }
        check(&tree, &mut index, (&mut random, seed));
    }
    assert!(longest > 150, "{longest} leaves fill several chunks");
}

/// An edit copied every list of the tree, and counted all keys anew.
#[test]
#[ignore = "measures, asserts little; run in release"]
#[allow(clippy::print_stdout, reason = "it measures")]
fn an_edit_of_a_large_tree() {
    let (_db, real) = real();
    for leaves in [1, 250, 2_500, 25_000] {
        let mut maker = Maker { real: Arc::clone(&real), next: 0 };
        let mut edit = TreeEdit::default();
        let vblocks = |n: u64| (0..16).map(|v| (mblock((n * 7 + v) % leaves + 1), 500)).collect();
        for n in 0..leaves {
            let node = NodeId::new(n + 1);
            edit.leaves_add.push((node, if n == 0 { Bytes::new() } else { key(n * 1000) }));
            for revision in 1..=4 {
                let of = Of { keys: (n * 1000, n * 1000 + 999), revisions: (revision, revision) };
                edit.add.push((node, maker.make(&of, vblocks(n))));
            }
        }
        let mut tree = Tree::new(KVS, "k").edited(&edit, &len_of);
        let times = leaves.min(200);
        let mut edit = std::time::Duration::ZERO;
        for n in 0..times {
            let node = NodeId::new(n * (leaves / times) + 1);
            let remove = all_of(&tree, node);
            let keys = range(&tree, tree.leaves.place_of(&remove[0].1.meta().min_key).unwrap());
            let add = vec![(node, maker.merged(&remove, keys))];
            let begun = Instant::now();
            tree = tree.edited(&TreeEdit { remove, add, ..TreeEdit::default() }, &len_of);
            edit += begun.elapsed();
        }
        let edit = edit / u32::try_from(times).unwrap();
        let timed = |work: &mut dyn FnMut()| {
            let begun = Instant::now();
            work();
            begun.elapsed()
        };
        let aside = Aside::default();
        let shape = timed(&mut || drop(tree.shape(&aside)));
        let told = tree.shape(&aside);
        let picked = timed(&mut || drop(pick(&told, Limits::DEFAULT)));
        let mut index = VblockIndex::default();
        let anew = timed(&mut || drop(index.follow(&told, &len_of)));
        let remove = all_of(&tree, NodeId::new(1));
        let add = vec![(NodeId::new(1), maker.merged(&remove, range(&tree, 0)))];
        tree = tree.edited(&TreeEdit { remove, add, ..TreeEdit::default() }, &len_of);
        let mut told = tree.shape(&aside);
        let vblocks = timed(&mut || drop(index.follow(&told, &len_of)));
        // As if a quarter of each vblock and more were garbage, and nothing else due.
        told.vblock_bytes = told.value_bytes * 2;
        told.vblocks = index.follow(&told, &len_of);
        let limits = Limits { leaf_len_max: 9, ..Limits::DEFAULT };
        let collected = timed(&mut || drop(pick(&told, limits)));
        let kvsets = tree.totals.kvsets;
        println!(
            "{leaves} leaves, {kvsets} kvsets: an edit {edit:?}; shape {shape:?}; \
             pick {picked:?}; vblocks anew {anew:?}, after an edit {vblocks:?}, a pick that \
             looks at them {collected:?}"
        );
    }
    for kvss in [1, 256] {
        let trees = (1..=kvss).map(|n| Tree::new(KvsId::new(n), "k"));
        let mut view = View::new(Memtable::new(1 << 20), 1 << 20, trees);
        let begun = Instant::now();
        for _ in 0..1000 {
            view = view.with_tree(Tree::new(KVS, "k"));
        }
        let edit = begun.elapsed() / 1000;
        let begun = Instant::now();
        for _ in 0..1000 {
            drop(view.clone());
            assert!(view.lagging().is_empty());
        }
        let commit = begun.elapsed() / 1000;
        println!("{kvss} KVSs: a view after an edit {edit:?}; its copy, and who lags, {commit:?}");
    }
}
