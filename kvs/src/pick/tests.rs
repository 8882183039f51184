//! The rules of the picker, one row each, on pictures of trees.

use super::shape::KVSET_BYTES;
use super::*;
use crate::key::{KvsetId, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// With the room that `least_room` names a compaction can begin, with less none can. A split frees
/// nothing and does not count.
#[test]
fn the_least_room_is_what_some_compaction_needs() {
    let short = Limits { shortage: Some(Shortage::Full), leaf_keys_max: 1000, ..Limits::SHORT };
    let least = |picture: &str| least_room(&tree(picture), short);
    assert_eq!(least("leaf: 900"), None, "nothing is deleted");
    assert_eq!(least("leaf: 5000"), None, "it is only too long");
    let picture = "leaf: 400/300 500\nleaf: 90/80 100";
    let room = least(picture).unwrap();
    let with = |room_bytes| pick(&tree(picture), Limits { room_bytes, ..short });
    assert_eq!(with(room).map(|plan| plan.node), Some(NodeId::new(2)), "the shorter leaf");
    assert_eq!(with(room - LEAST_ROOM_STEP), None);
    assert!((KVSET_BYTES..2 * KVSET_BYTES).contains(&room), "{room}");
}

const LIMITS: Limits = Limits {
    spill_min: 3,
    spill_max: 4,
    leaf_len_max: 3,
    leaf_keys_max: 1000,
    garbage_pct_max: 40,
    scatter_max: 100,
    tombstone_pct_max: 50,
    ..Limits::DEFAULT
};

/// Reads a tree from a picture: one line a node, one word a kvset, newest first:
/// `keys[/tombstones][@vblocks][*|!|~|>]`, where `*` marks a busy one, `!` an unreadable one, `~`
/// one whose keys belong in one leaf, `>` one whose keys come after all leaves. A line may end with
/// `= n`, the different keys of the node; without it all are different. Kvsets are numbered from 1
/// in reading order, leaves too. A line `root shadows: 9` says how many keys of the leaves are in
/// the root, too. Every key has a value of 1 KiB.
fn tree(picture: &str) -> TreeShape {
    let mut marked = Marked::default();
    let (mut root, mut leaves) = (NodeShape::new(NodeId::ROOT, Vec::new(), 0), Vec::new());
    let mut shadows = 0_u64;
    for line in picture.trim().lines() {
        let (kind, rest) = line.trim().split_once(':').unwrap();
        if kind == "root shadows" {
            shadows = rest.trim().parse().unwrap();
            continue;
        }
        let (words, distinct) = rest.split_once('=').unwrap_or((rest, ""));
        let kvsets: Vec<_> = words.split_whitespace().map(|word| marked.kvset(word)).collect();
        let all = kvsets.iter().map(|kvset| kvset.keys).sum();
        let distinct_keys = distinct.trim().parse().unwrap_or(all);
        if kind == "root" {
            root = NodeShape::new(NodeId::ROOT, kvsets, distinct_keys);
        } else {
            let id = NodeId::new(leaves.len() as u64 + 1);
            leaves.push(Arc::new(NodeShape::new(id, kvsets, distinct_keys)));
        }
    }
    let nodes = || leaves.iter().map(|leaf| &**leaf).chain([&root]);
    let value_bytes = nodes().map(NodeShape::value_bytes).sum();
    TreeShape {
        distinct_keys: nodes().map(|node| node.distinct_keys).sum::<u64>() - shadows,
        vblocks: Arc::default(),
        held: Arc::default(),
        gathered: Arc::default(),
        vblock_bytes: value_bytes,
        value_bytes,
        lands: root.kvsets.last().map_or(Lands::Apart, |oldest| marked.lands[&oldest.id]),
        busy: Arc::new(marked.busy),
        unreadable: Arc::new(marked.unreadable),
        reshaping: false,
        objects: Objects::default(),
        root,
        leaves: leaves.into_iter().collect(),
    }
}

/// The kvsets of a picture that have a mark, and how many there are.
#[derive(Default)]
struct Marked {
    count: u64,
    busy: BTreeSet<KvsetId>,
    unreadable: BTreeSet<KvsetId>,
    lands: BTreeMap<KvsetId, Lands>,
}

impl Marked {
    fn kvset(&mut self, word: &str) -> KvsetShape {
        self.count += 1;
        let id = KvsetId::new(self.count);
        let mark = word.chars().last();
        if mark == Some('*') {
            self.busy.insert(id);
        }
        if mark == Some('!') {
            self.unreadable.insert(id);
        }
        let lands = match mark {
            Some('>') => Lands::After,
            Some('~') => Lands::InOne,
            _ => Lands::Apart,
        };
        self.lands.insert(id, lands);
        let word = word.trim_end_matches(['*', '!', '>', '~']);
        let (word, vblocks) = word.split_once('@').unwrap_or((word, "1"));
        let (keys, tombstones) = word.split_once('/').unwrap_or((word, "0"));
        let keys = keys.parse().unwrap();
        KvsetShape {
            id,
            keys,
            tombstones: tombstones.parse().unwrap(),
            kblock_bytes: keys * 40,
            value_bytes: keys << 10,
            vblocks: vblocks.parse().unwrap(),
            refs: Arc::default(),
        }
    }
}

/// `action why node: inputs`, or `-`.
fn told(plan: Option<Plan>) -> String {
    let Some(plan) = plan else { return "-".into() };
    let parts = match plan.action {
        Action::Split { parts } => format!("/{parts}"),
        Action::Move { new_leaf: true } => "/new".into(),
        _ => String::new(),
    };
    let inputs: Vec<_> = plan.inputs.iter().map(|id| id.get().to_string()).collect();
    let (action, why) = (plan.action.as_str(), plan.why.as_str());
    format!("{action}{parts} {why} {}: {}", plan.node.get(), inputs.join(" "))
}

fn check(table: &[(&str, &str)]) {
    for (picture, expect) in table {
        assert_eq!(told(pick(&tree(picture), LIMITS)), *expect, "{picture}");
    }
}

#[test]
fn each_rule_has_its_plan() {
    check(&[
        ("root:", "-"),
        ("root: 9 9", "-"),
        // 1
        ("root: 9 9 9", "spill root_length 0: 1 2 3"),
        ("root: 9 9 9 9 9 9", "spill root_length 0: 3 4 5 6"),
        ("root: 9 9 9~\n leaf: 9", "move root_length 0: 3"),
        ("root: 9 9~ 9\n leaf: 9", "spill root_length 0: 1 2 3"),
        ("root: 9 9 9>", "move/new root_length 0: 3"),
        ("root: 9 9 9>\n leaf: 249", "move root_length 0: 3"),
        ("root: 9 9 9>\n leaf: 9\n leaf: 250", "move/new root_length 0: 3"),
        ("root: 9 9~", "-"),
        // 2
        ("leaf: 999", "-"),
        ("leaf: 1000", "split/2 leaf_keys 1: 1"),
        ("leaf: 500 1600", "split/5 leaf_keys 1: 1 2"),
        // 3
        ("leaf: 9 9", "-"),
        ("leaf: 9 9 9", "k_compact leaf_length 1: 1 2 3"),
        ("leaf: 9 9 90", "-"),
        ("leaf: 40 50 90", "k_compact leaf_length 1: 1 2 3"),
        ("leaf: 1 1 1 90", "k_compact leaf_length 1: 1 2 3"),
        ("leaf: 1 1 1 3 9 90", "k_compact leaf_length 1: 1 2 3 4"),
        ("leaf: 1 3 9 27 90", "-"),
        ("leaf: 1 3 9 27 81 900", "k_compact leaf_length 1: 1 2 3 4 5"),
        // Split on the way, where it grows and is half full.
        ("leaf: 160 160 170", "k_compact leaf_length 1: 1 2 3"),
        ("leaf: 160 170 170", "split/2 leaf_length 1: 1 2 3"),
        ("leaf: 200 200 200 = 530", "k_compact leaf_length 1: 1 2 3"),
        ("leaf: 200/80 200 200", "k_compact leaf_length 1: 1 2 3"),
        ("leaf: 1 1 1 600", "k_compact leaf_length 1: 1 2 3"),
        ("root: 9*\n leaf: 160 170 170", "k_compact leaf_length 1: 2 3 4"),
        // Whole sooner, where garbage is due.
        ("leaf: 10 20 30 250", "-"),
        ("leaf: 10 20 30 250\n leaf: 990 990 = 990", "k_compact leaf_length 1: 1 2 3 4"),
        // 4
        ("leaf: 10/3", "-"),
        ("leaf: 9/3", "k_compact tombstones 1: 1"),
        ("leaf: 10/10 10 = 10", "k_compact tombstones 1: 1 2"),
        ("root: 9/4\n leaf: 9", "-"),
        ("root: 9/6\n leaf: 9", "spill tombstones 0: 1"),
        // 5
        ("leaf: 9@100", "-"),
        ("leaf: 9@101", "kv_compact scatter 1: 1"),
        // 7
        ("leaf: 124\n leaf: 124", "join leaf_keys 1: 1 2"),
        ("leaf: 500\n leaf:\n leaf: 249", "join leaf_keys 2: 2"),
        ("leaf: 125\n leaf: 125", "-"),
    ]);
}

/// Leaves were made half full, so that a tree that grows wrote all of its keys again after its next
/// few flushes.
#[test]
fn the_first_leaves_have_room_to_grow() {
    let limits = Limits { leaf_keys_max: 1 << 20, ..LIMITS };
    let leaves = |picture: &str, limits| {
        pick(&tree(picture), limits).unwrap().new_leaves.map(|leaves| leaves.count)
    };
    let of = |picture| leaves(picture, limits);
    assert_eq!(of("root: 300000 300000 300000 300000"), Some(5));
    assert_eq!(of("root: 300000 300000 300000 300000 = 640000"), Some(3), "as they are different");
    assert_eq!(of("root: 90000 90000 90000 90000"), Some(1), "less than two fifths");
    assert_eq!(of("root: 300000 300000 300000\n leaf: 9"), None);
    // By bytes: a fifth of 10 MB would be less than 4 MiB.
    let limits = Limits { leaf_bytes_max: 10_000_000, ..limits };
    assert_eq!(leaves("root: 300000 300000 300000 300000", limits), Some(11));
    let limits = Limits { leaf_bytes_max: 1_000_000, ..limits };
    assert_eq!(leaves("root: 300000 300000 300000 300000", limits), Some(96), "none is too long");
}

#[test]
fn the_work_furthest_over_its_limit_goes_first() {
    check(&[
        ("root: 9 9 9\n leaf: 9 9 9", "spill root_length 0: 1 2 3"),
        ("root: 9 9 9\n leaf: 9 9 9 9", "k_compact leaf_length 1: 4 5 6 7"),
        ("root: 9 9 9 9\n leaf: 9 9 9 9", "spill root_length 0: 1 2 3 4"),
        ("leaf: 9 9 9\n leaf: 9 9 9 9", "k_compact leaf_length 2: 4 5 6 7"),
        ("leaf: 9 9 9\n leaf: 1200", "split/3 leaf_keys 2: 4"),
    ]);
}

#[test]
fn running_jobs_are_left_alone() {
    check(&[
        // A spill runs: no other, no split, no join; leaves are merged.
        ("root: 9 9 9* 9* 9 9\n leaf: 9 9 9 9 9", "k_compact leaf_length 1: 7 8 9 10 11"),
        ("root: 9 9*\n leaf: 2000\n leaf: 1\n leaf: 1", "-"),
        // A leaf job runs: its leaf is left alone, others are not, nor is the root.
        ("leaf: 9* 9* 9*\n leaf: 9 9 9", "k_compact leaf_length 2: 4 5 6"),
        ("leaf: 9 9* 9* 9*", "-"),
        ("root: 9 9 9 9\n leaf: 9*\n leaf: 9 9 9", "spill root_length 0: 1 2 3 4"),
        // A long root goes before a split.
        ("root: 9 9 9 9 9\n leaf: 2000", "split/4 leaf_keys 1: 6"),
        ("root: 9 9 9 9 9 9\n leaf: 2000", "spill root_length 0: 3 4 5 6"),
    ]);
    let mut splitting = tree("root: 9 9 9\n leaf: 9*\n leaf: 2000\n leaf: 9\n leaf: 9");
    splitting.reshaping = true;
    assert_eq!(
        told(pick(&splitting, LIMITS)),
        "-",
        "a split runs: no spill, no other split, no join"
    );
}

#[test]
fn what_cannot_be_read_is_worked_around() {
    check(&[
        // In a leaf, what lies above is merged.
        ("leaf: 9 9 9 9! 9 9", "k_compact leaf_length 1: 1 2 3"),
        ("leaf: 9 9 9! 9 9 9 9", "-"),
        ("leaf: 2000!", "-"),
        ("leaf: 9!\n leaf: 9", "-"),
        // Tombstones above it must stay.
        ("leaf: 10/10 10!", "-"),
        // In the root, what lies below goes down, and what lies above is merged by size.
        ("root: 9 9! 9 9 9", "spill root_length 0: 3 4 5"),
        ("root: 9 9! 9 9", "-"),
        ("root: 9 9 9 9!", "k_compact root_blocked 0: 1 2 3"),
        ("root: 9 9 9 27 90 9!", "k_compact root_blocked 0: 1 2 3 4"),
        ("root: 9 9 90 9!", "-"),
        ("root: 9 9 9!", "-"),
    ]);
}

#[test]
fn garbage_is_taken_down_from_where_most_of_it_lies() {
    check(&[
        // Shadowed in a leaf, and by the root: 40 % of 1000 keys, but for what jobs are worth.
        ("leaf: 500 500 = 601", "-"),
        ("leaf: 500 500 = 600", "k_compact garbage 1: 1 2"),
        ("leaf: 50 50 = 60\n leaf: 600 600 = 700", "k_compact garbage 2: 3 4"),
        ("root: 500\n leaf: 600\n root shadows: 430", "-"),
        ("root: 500\n leaf: 600\n root shadows: 450", "spill garbage 0: 1"),
        ("root: 500 500 = 500\n leaf: 100", "spill garbage 0: 1 2"),
        ("root: 400\n leaf: 400 400 = 450\n root shadows: 150", "k_compact garbage 1: 2 3"),
        ("root: 400\n leaf: 400 400 = 600\n root shadows: 400", "spill garbage 0: 1"),
        // The next place, where nothing can be done in the first.
        ("root: 500*\n leaf: 600 600 = 900\n root shadows: 500", "k_compact garbage 1: 2 3"),
        // Too little.
        ("leaf: 100 100 = 110", "-"),
    ]);
    // What people are told is what the rule decides on.
    assert_eq!(garbage_bytes(&tree("leaf: 500 500 = 600")), (400 * 1064, 1000 * 1064));
    // A vblock of two leaves, one that the root holds, and one with little garbage.
    let mut collected = tree("root: 10\n leaf: 400\n leaf: 400");
    let vblock = |id, len_kib: u64, nodes_kib: &[(u64, u64)]| {
        let refs = nodes_kib.iter().map(|(node, kib)| (NodeId::new(*node), kib << 10)).collect();
        VblockShape::new(mpool::MblockId::new(id).unwrap(), len_kib << 10, refs)
    };
    let vblocks = [
        vblock(1, 1000, &[(1, 100), (2, 100)]),
        vblock(2, 600, &[(0, 10), (1, 300)]),
        vblock(3, 300, &[(2, 290)]),
    ];
    collected.vblocks = Arc::new(vblocks.into_iter().collect());
    collected.vblock_bytes = 1900 << 10;
    let plan = pick(&collected, LIMITS).unwrap();
    assert_eq!(plan.vblocks, [mpool::MblockId::new(1).unwrap()]);
    assert_eq!(told(Some(plan)), "collect garbage 1: 2");
    assert!(needs_vblocks(&collected, LIMITS));
    assert!(!needs_vblocks(&tree("root: 10\n leaf: 400"), LIMITS));
}

#[test]
fn a_plan_that_would_change_nothing_is_not_made() {
    check(&[
        // As many vblocks as its values fill: 101 of 16 MiB.
        ("leaf: 999@101\n leaf: 1@1", "kv_compact scatter 1: 1"),
    ]);
    let mut dense = tree("leaf: 9@101");
    let kvset = KvsetShape {
        value_bytes: 99 * LIMITS.vblock_fill_bytes(),
        ..dense.leaves[0].kvsets[0].clone()
    };
    let leaf = NodeShape::new(NodeId::new(1), vec![kvset], 9);
    dense.leaves = std::iter::once(Arc::new(leaf)).collect();
    assert_eq!(pick(&dense, LIMITS), None);
    // Limits that no shape can satisfy.
    let none = Limits {
        spill_min: 0,
        spill_max: 0,
        leaf_len_max: 0,
        leaf_keys_max: 0,
        garbage_pct_max: 0,
        scatter_max: 0,
        tombstone_pct_max: 0,
        ..Limits::DEFAULT
    };
    assert_eq!(pick(&tree("leaf: 1@1"), none), None);
    assert_eq!(pick(&tree("root: 1"), none), None);
    assert_eq!(pick(&tree("root: 1"), Limits { spill_max: 1, ..none }).unwrap().inputs.len(), 1);
}

/// A kvset without anything, as `fits` sees it.
const KVSET: u64 = KVSET_BYTES + KVSET_BYTES / OVERHEAD;

/// A plan was made whatever it would write, so a full volume was written to for ever.
#[test]
fn nothing_is_begun_that_has_no_room() {
    let in_room = |picture: &str, room_bytes: u64| {
        told(pick(&tree(picture), Limits { room_bytes, kept_bytes: 1000, ..LIMITS }))
    };
    // Keys take 40 bytes and values 1 KiB; a kvset takes some more.
    for (picture, least, expect) in [
        ("root: 9 9 9", KVSET + 372, "spill root_length 0: 3"),
        ("root: 9 9 9", KVSET + 1200, "spill root_length 0: 1 2 3"),
        ("root: 9 9 9\nleaf: 9\nleaf: 9", 2 * KVSET + 1200, "spill root_length 0: 1 2 3"),
        ("leaf: 1000", 2 * KVSET + 42_000, "split/2 leaf_keys 1: 1"),
        ("leaf: 9 9 9", KVSET + 1200, "k_compact leaf_length 1: 1 2 3"),
        ("leaf: 9/5", KVSET + 400, "k_compact tombstones 1: 1"),
        ("leaf: 9@101", KVSET + 12_000, "kv_compact scatter 1: 1"),
        // A smaller leaf, where the one that is first in turn does not fit.
        ("leaf: 900 900 900\nleaf: 9 9 9", KVSET + 1200, "k_compact leaf_length 2: 4 5 6"),
    ] {
        assert_eq!(in_room(picture, least), expect, "{picture}");
        assert_eq!(in_room(picture, KVSET_BYTES), "-", "{picture}");
    }
}

#[test]
fn a_leaf_of_many_bytes_is_split_before_it_no_longer_fits() {
    let limits = Limits { leaf_bytes_max: 4000, ..LIMITS };
    let plan = |picture| told(pick(&tree(picture), limits));
    assert_eq!(plan("leaf: 99"), "-");
    assert_eq!(plan("leaf: 100"), "split/2 leaf_keys 1: 1");
    assert_eq!(plan("leaf: 250"), "split/5 leaf_keys 1: 1");
}

/// Leaves were split by their keys only: one with a million values of 1 MB was one job.
#[test]
fn a_leaf_of_many_bytes_of_values_is_split_before_it_is_too_long_a_job() {
    let limits = Limits { leaf_value_bytes_max: 100 << 10, ..LIMITS };
    let plan = |picture| told(pick(&tree(picture), limits));
    assert_eq!(plan("leaf: 99"), "-");
    assert_eq!(plan("leaf: 100"), "split/2 leaf_keys 1: 1");
    assert_eq!(plan("leaf: 250"), "split/5 leaf_keys 1: 1");
    assert_eq!(plan("leaf: 60 60 = 99"), "-", "what is shadowed does not count");
    assert_eq!(plan("leaf: 60 60 = 100"), "split/2 leaf_keys 1: 1 2");
    // It is not rewritten as a whole, but its parts are.
    assert_eq!(plan("leaf: 100@900"), "split/2 leaf_keys 1: 1");
    assert_eq!(
        plan(
            "root: 9*
 leaf: 100@900"
        ),
        "-"
    );
    assert_eq!(plan("leaf: 99@900"), "kv_compact scatter 1: 1");
    // Small ones are joined as before, if they are small by values, too.
    assert_eq!(
        plan(
            "leaf: 12
 leaf: 12"
        ),
        "join leaf_keys 1: 1 2"
    );
    assert_eq!(
        plan(
            "leaf: 12
 leaf: 13"
        ),
        "-"
    );
    // Split on the way, where it is merged.
    assert_eq!(plan("leaf: 20 20 20"), "split/2 leaf_length 1: 1 2 3");
    // The first leaves, and the parts of a leaf, end at three quarters though they have few keys.
    let first = pick(&tree("root: 100 100 100"), limits).unwrap().new_leaves.unwrap();
    assert_eq!((first.count, first.value_bytes_max), (6, 75 << 10));
    let parts = pick(&tree("leaf: 250"), limits).unwrap().new_leaves.unwrap();
    assert_eq!((parts.count, parts.value_bytes_max), (5, 75 << 10));
    let joined = pick(
        &tree(
            "leaf: 12
 leaf: 12",
        ),
        limits,
    )
    .unwrap()
    .new_leaves
    .unwrap();
    assert_eq!(joined, NewLeaves::by_keys(1));
}

/// When space is short, deletes go down to what they delete; what frees nothing is not written for
/// each flush.
#[test]
fn short_space_is_worth_early_work_where_it_pays() {
    let plan = |picture: &str, shortage| {
        let limits = Limits { shortage: Some(shortage), leaf_keys_max: 1 << 30, ..Limits::SHORT };
        told(pick(&tree(picture), limits))
    };
    let tight = |picture| plan(picture, Shortage::Tight);
    assert_eq!(tight("root: 400/400\nleaf: 9000"), "spill root_length 0: 1");
    assert_eq!(tight("root: 9/9\nleaf: 9000"), "-", "it would free 9 KiB");
    assert_eq!(tight("root: 400\nleaf: 9000"), "-", "new keys free nothing, as far as is known");
    assert_eq!(plan("root: 400\nleaf: 9000", Shortage::Full), "spill root_length 0: 1");
    assert_eq!(tight("root: 9 9 9 9\nleaf: 9000"), "spill root_length 0: 1 2 3 4");
    assert_eq!(tight("leaf: 400/400 9000"), "k_compact leaf_length 1: 1 2");
    assert_eq!(tight("leaf: 9/9 9000"), "-");
    assert_eq!(tight("leaf: 9 9 9 9 9 9 9 9000"), "k_compact leaf_length 1: 1 2 3 4 5 6 7 8");
}

/// Memtables may be gigabytes, and a spill took up to eight.
#[test]
fn a_spill_takes_no_more_than_a_job_may_write() {
    // Keys take 40 bytes: 20 M of them are 0.8 of 2.1 GB.
    let plan = |picture| told(pick(&tree(picture), LIMITS));
    assert_eq!(plan("root: 9 20000000 20000000 20000000"), "spill root_length 0: 3 4");
    assert_eq!(plan("root: 9 9 60000000"), "spill root_length 0: 3", "one at least");
}
