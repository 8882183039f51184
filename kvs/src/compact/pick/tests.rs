//! The rules of the picker, one row each, on pictures of trees.

use super::*;

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
/// `keys[/tombstones][@vblocks][*]`, where `*` marks a busy one. Kvsets are numbered from 1 in
/// reading order, leaves too. A line `garbage: 40` sets the percentage; every key has a value of 1
/// KiB.
fn tree(picture: &str) -> TreeShape {
    let mut tree = TreeShape {
        root: NodeShape { id: NodeId::ROOT, kvsets: Vec::new() },
        leaves: Vec::new(),
        vblocks: Vec::new(),
        vblock_bytes: 0,
        value_bytes: 0,
    };
    let (mut pct, mut next) = (0, 0);
    for line in picture.trim().lines() {
        let (kind, rest) = line.trim().split_once(':').unwrap();
        let kvsets = rest.split_whitespace().map(|word| {
            next += 1;
            kvset(next, word)
        });
        match kind {
            "garbage" => pct = rest.trim().parse().unwrap(),
            "root" => tree.root.kvsets = kvsets.collect(),
            _ => {
                let id = NodeId::new(tree.leaves.len() as u64 + 1);
                tree.leaves.push(NodeShape { id, kvsets: kvsets.collect() });
            }
        }
    }
    let nodes = || tree.leaves.iter().chain([&tree.root]);
    tree.value_bytes = nodes().map(NodeShape::value_bytes).sum();
    tree.vblock_bytes = (tree.value_bytes * 100).div_ceil(100 - pct);
    tree
}

fn kvset(id: u64, word: &str) -> KvsetShape {
    let (word, busy) = word.strip_suffix('*').map_or((word, false), |word| (word, true));
    let (word, vblocks) = word.split_once('@').unwrap_or((word, "1"));
    let (keys, tombstones) = word.split_once('/').unwrap_or((word, "0"));
    let keys = keys.parse().unwrap();
    KvsetShape {
        id: KvsetId::new(id),
        keys,
        tombstones: tombstones.parse().unwrap(),
        kblock_bytes: keys * 40,
        value_bytes: keys << 10,
        vblocks: vblocks.parse().unwrap(),
        busy,
    }
}

/// `action why node: inputs`, or `-`.
fn told(plan: Option<Plan>) -> String {
    let Some(plan) = plan else { return "-".into() };
    let parts =
        if let Action::Split { parts } = plan.action { format!("/{parts}") } else { String::new() };
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
        // 2
        ("leaf: 999", "-"),
        ("leaf: 1000", "split/2 leaf_keys 1: 1"),
        ("leaf: 500 1600", "split/5 leaf_keys 1: 1 2"),
        // 3
        ("leaf: 9 9", "-"),
        ("leaf: 9 9 9", "k_compact leaf_length 1: 1 2 3"),
        ("leaf: 9 9 90", "-"),
        ("leaf: 20 25 90", "k_compact leaf_length 1: 1 2 3"),
        ("leaf: 1 1 1 1 90", "-"),
        ("leaf: 1 1 1 1 1 90", "k_compact leaf_length 1: 1 2 3 4 5 6"),
        // 4
        ("leaf: 9/4", "-"),
        ("leaf: 9/5", "k_compact tombstones 1: 1"),
        ("leaf: 10/10 10", "k_compact tombstones 1: 1 2"),
        // 5
        ("leaf: 9@100", "-"),
        ("leaf: 9@101", "kv_compact scatter 1: 1"),
        // 6
        ("garbage: 39\n leaf: 9@9", "-"),
        ("garbage: 40\n leaf: 9@9", "kv_compact garbage 1: 1"),
        ("garbage: 40\n leaf: 9@2\n leaf: 9@5\n leaf: 9@5", "kv_compact garbage 2: 2"),
    ]);
}

#[test]
fn the_work_furthest_over_its_limit_goes_first() {
    check(&[
        ("root: 9 9 9\n leaf: 9 9 9", "spill root_length 0: 1 2 3"),
        ("root: 9 9 9\n leaf: 9 9 9 9", "k_compact leaf_length 1: 4 5 6 7"),
        ("root: 9 9 9 9\n leaf: 9 9 9 9", "spill root_length 0: 1 2 3 4"),
        ("leaf: 9 9 9\n leaf: 9 9 9 9", "k_compact leaf_length 2: 4 5 6 7"),
        ("leaf: 9 9 9\n leaf: 1200", "split/3 leaf_keys 2: 4"),
        ("garbage: 80\n root: 9 9 9 9\n leaf: 9@9", "kv_compact garbage 1: 5"),
    ]);
}

#[test]
fn running_jobs_are_left_alone() {
    check(&[
        // A spill runs: nothing else.
        ("root: 9 9 9* 9*\n leaf: 9 9 9 9 9", "-"),
        // A leaf job runs: its leaf is left alone, others are not.
        ("leaf: 9* 9* 9*\n leaf: 9 9 9", "k_compact leaf_length 2: 4 5 6"),
        ("leaf: 9 9* 9* 9*", "-"),
        // A spill waits for leaf jobs, and less pressing work waits with it.
        ("root: 9 9 9 9\n leaf: 9*\n leaf: 9 9 9", "-"),
        ("root: 9 9 9\n leaf: 9*\n leaf: 9 9 9 9", "k_compact leaf_length 2: 5 6 7 8"),
    ]);
}

#[test]
fn a_plan_that_would_change_nothing_is_not_made() {
    check(&[
        // Garbage that no rewriting reaches: each leaf is dense, or there is none.
        ("garbage: 90\n leaf: 9@1\n leaf: 9@2", "-"),
        ("garbage: 90\n root: 9 9", "-"),
        ("garbage: 90\n leaf:", "-"),
        // As many vblocks as its values fill: 101 of 16 MiB.
        ("leaf: 999@101\n leaf: 1@1", "kv_compact scatter 1: 1"),
    ]);
    let mut dense = tree("leaf: 9@101");
    dense.leaves[0].kvsets[0].value_bytes = 99 * LIMITS.vblock_fill_bytes();
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
    assert_eq!(pick(&tree("root: 1"), none).unwrap().inputs.len(), 1);
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
        ("garbage: 40\n leaf: 9@9", KVSET + 12_000, "kv_compact garbage 1: 1"),
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
