//! What an operator sees of a tree: nodes, kvsets, what is due, and what jobs did; bounded whatever
//! the tree.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

mod support;

use kvs::{Database, Durability, Error, JobOutcome, Kvs, TreeInfo, TreePage};
use mpool_sim::{Faults, SimDevice};

const MIB: u64 = 1 << 20;

fn key(n: u64) -> Vec<u8> {
    format!("key{n:06}").into_bytes()
}

fn database() -> (SimDevice, Database, Kvs) {
    let device = SimDevice::new(512 * MIB);
    let db = support::create(&device, &support::options()).unwrap();
    let kvs = db.create_kvs("k").unwrap();
    (device, db, kvs)
}

/// Keys in a root kvset of their own.
fn flush_keys(db: &Database, kvs: &Kvs, keys: impl Iterator<Item = u64>, value: &[u8]) {
    for n in keys {
        kvs.put(&key(n), value, Durability::Off).unwrap();
    }
    db.flush().unwrap();
}

fn whole(db: &Database) -> TreeInfo {
    db.tree("k", &TreePage { from: None, kvsets_max: usize::MAX }).unwrap()
}

#[test]
fn a_tree_shows_its_kvsets_what_is_due_and_what_was_done() {
    let (_device, db, kvs) = database();
    // So long that what the ends of objects take is no garbage that is due.
    let value = vec![b'v'; 40_000];
    for round in 0..5 {
        flush_keys(&db, &kvs, round * 20..round * 20 + 20, &value);
    }
    kvs.delete(&key(0), Durability::Off).unwrap();
    db.flush().unwrap();
    let tree = whole(&db);
    assert_eq!((tree.root_kvsets, tree.leaves, tree.kvsets), (6, 0, 6));
    assert_eq!((tree.keys, tree.tombstones, tree.vblocks), (101, 1, 5));
    assert!(tree.value_bytes > 100 * 40_000 && tree.vblock_bytes >= tree.value_bytes, "{tree:?}");
    let root = &tree.nodes[0];
    assert_eq!((tree.nodes.len(), root.id, root.kvsets_total), (1, 0, 6));
    let newest = &root.kvsets[0];
    assert_eq!((newest.keys, newest.tombstones, newest.vblocks), (1, 1, 0));
    assert_eq!((&*newest.min_key, &*newest.max_key), (&*key(0), &*key(0)));
    let oldest = &root.kvsets[5];
    assert_eq!((oldest.keys, oldest.min_revision.get(), oldest.max_revision.get()), (20, 1, 20));
    assert!(oldest.id < newest.id && !oldest.busy && !oldest.left_alone);
    let due = &tree.debt.due[0];
    assert_eq!((due.reason, due.action, due.node), ("root_length", "spill", 0));
    assert_eq!((due.pressure_pct, due.inputs), (150, 6), "six of four");
    assert_eq!((tree.debt.root_kvsets, tree.debt.root_spill), (6, 4));
    assert!(tree.debt.root_slow < tree.debt.root_stop);
    assert!(tree.debt.garbage_slow_bytes > tree.debt.garbage_bytes, "{:?}", tree.debt);

    db.compact().unwrap();
    let tree = whole(&db);
    assert_eq!((tree.root_kvsets, tree.leaves), (0, 1));
    assert!(tree.debt.due.is_empty(), "{:?}", tree.debt);
    let jobs = db.jobs();
    assert!(
        jobs.iter().all(|job| job.ended.as_ref().is_some_and(|(how, _)| *how == JobOutcome::Done))
    );
    let spill = jobs.iter().find(|job| job.action == "spill").unwrap();
    assert_eq!(
        (spill.reason, spill.kvs.as_deref(), spill.node),
        ("root_length", Some("k"), Some(0))
    );
    assert_eq!((spill.inputs.len(), spill.entries, spill.entries_total), (6, 101, 101));
    assert!(spill.read_bytes >= 6 * 4096 && spill.written_bytes > 0, "{spill:?}");
    let flushes = jobs.iter().filter(|job| job.action == "flush" && job.written_bytes > 0);
    assert_eq!(flushes.count(), 6);
    assert!(jobs.windows(2).all(|pair| pair[0].number > pair[1].number), "newest first");
    assert!(matches!(db.tree("none", &TreePage::default()), Err(Error::NoSuchKvs { .. })));
}

/// An answer about a hundred thousand kvsets would be hundreds of megabytes.
#[test]
fn a_page_goes_on_where_the_last_one_ended() {
    let (_device, db, kvs) = database();
    // Values inline: leaves are split by the bytes of their keys.
    let value = [b'v'; 250];
    for round in 0..8 {
        flush_keys(&db, &kvs, round * 25_000..(round + 1) * 25_000, &value);
        db.compact().unwrap();
    }
    let root = whole(&db).root_kvsets + 3;
    for n in 0..3 {
        flush_keys(&db, &kvs, n..=n, &value);
    }
    let all = whole(&db);
    assert!(all.leaves >= 3, "{} leaves", all.leaves);
    assert_eq!((all.nodes[0].kvsets.len() as u64, all.next), (root, None));
    let mut page = TreePage { from: None, kvsets_max: 2 };
    let first = db.tree("k", &page).unwrap();
    let shown = &first.nodes[0];
    assert_eq!((first.nodes.len(), shown.kvsets.len(), shown.kvsets_total), (1, 2, root));
    assert_eq!(first.kvsets, all.kvsets, "sums are over the whole tree");
    let (mut leaves, mut next) = (Vec::new(), first.next);
    while let Some(from) = next {
        page.from = Some(from);
        let more = db.tree("k", &page).unwrap();
        assert!(!more.nodes.is_empty() && more.nodes.len() <= 2);
        leaves.extend(more.nodes);
        next = more.next;
    }
    assert_eq!(leaves, all.nodes[1..]);
    for pair in leaves.windows(2) {
        assert_eq!(pair[0].to.as_ref(), Some(&pair[1].from));
    }
    assert_eq!((&*leaves[0].from, leaves.last().unwrap().to.as_ref()), (&b""[..], None));
    // A key within a leaf leads to it.
    let inside = TreePage { from: Some(key(199_999).into()), kvsets_max: 1 };
    let last = db.tree("k", &inside).unwrap();
    let (shown, whole) = (&last.nodes[0], leaves.last().unwrap());
    assert_eq!((last.nodes.len(), &shown.kvsets[0]), (1, &whole.kvsets[0]));
}

#[test]
fn what_compaction_leaves_alone_is_marked_and_its_job_says_why() {
    let (device, db, kvs) = database();
    for n in 0..5 {
        flush_keys(&db, &kvs, n..n + 2, &[b'v'; 300]);
    }
    device.set_faults(Faults { unreadable: Some((0, 512 * MIB)), ..Faults::default() });
    db.compact().unwrap();
    device.set_faults(Faults::default());
    let tree = whole(&db);
    assert!(tree.left_alone > 0, "{tree:?}");
    let marked = tree.nodes[0].kvsets.iter().filter(|kvset| kvset.left_alone).count() as u64;
    assert_eq!(marked, tree.left_alone);
    let jobs = db.jobs();
    let spill = jobs.iter().find(|job| job.action == "spill").unwrap();
    let Some((JobOutcome::Failed(why), _)) = &spill.ended else { panic!("{spill:?}") };
    assert!(!why.is_empty());
}
