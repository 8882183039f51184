//! Manifests whose every frame is intact and whose edits contradict each other, or the kvsets: an
//! open ends with an error that names what does not fit, or goes on as it was asked to, and never
//! panics.

use super::live::Live;
use super::record::{Item, encode};
use super::{Manifest, journal, replay};
use crate::entry::op::Op;
use crate::key::{KvsId, KvsetId, NodeId, Revision};
use crate::kvset::{BuildOptions, Kvset, KvsetBuilder};
use crate::shape::salvage::WayOut;
use crate::{Database, Durability, Error, Options, Range, Salvage};
use bytes::Bytes;
use mpool::{MblockId, MdcRoom, Pool, Priority};
use mpool_sim::Seeded;
use mpool_sim::SimDevice;
use std::sync::Arc;

const KVSS: [&str; 2] = ["birds", "fish"];

fn options() -> Options {
    let mut pool = mpool::Options { grow_step_bytes: 16 << 20, ..mpool::Options::default() };
    pool.reaper.policy = mpool::ReaperPolicy::Off;
    pool.background = false;
    Options {
        memtable_bytes: 1 << 20,
        wal_segment_bytes: 4 << 20,
        wal_bytes_max: 16 << 20,
        background_threads: 0,
        value_cache_bytes: Some(1 << 20),
        pool,
        ..Options::default()
    }
}

/// Two KVSs with kvsets in the root, one of them with leaves below, and something in the log.
fn store() -> SimDevice {
    let device = SimDevice::new(256 << 20);
    let pool = Pool::create(Arc::new(device.clone()), &options().pool).unwrap();
    let db = Database::open_pool(pool, options()).unwrap();
    for round in 0..8 {
        for name in KVSS {
            for n in 0..20 {
                let (key, value) = (format!("{n:03}"), format!("{round} {name} {n}").repeat(40));
                let kvs = db.kvs(name).unwrap();
                kvs.put(key.as_bytes(), value.as_bytes(), Durability::Off).unwrap();
            }
            if round < 7 {
                db.flush().unwrap();
            }
        }
        if round == 4 {
            db.compact().unwrap();
        }
    }
    db.sync().unwrap();
    let killed = device.after_crash(0);
    drop(db);
    killed
}

fn try_pool(device: &SimDevice, read_only: bool) -> mpool::Result<Arc<Pool>> {
    let options = mpool::Options { read_only, ..options().pool };
    Pool::open(Arc::new(device.clone()), &options)
}

fn pool(device: &SimDevice, read_only: bool) -> Arc<Pool> {
    try_pool(device, read_only).unwrap()
}

/// A copy of the device whose manifest has one more edit, of these items; they need not fit.
fn with_edit(device: &SimDevice, items: &[Item]) -> SimDevice {
    let device = device.after_crash(0);
    let pool = pool(&device, false);
    let (mdc, _) = replay(&pool, journal(&pool).unwrap(), u64::MAX).unwrap();
    mdc.append(&encode(items), MdcRoom::Usual, || ()).unwrap();
    drop((mdc, pool));
    device
}

fn live_of(device: &SimDevice) -> Live {
    let pool = pool(device, true);
    Manifest::open(&pool, &[], None).unwrap().live().clone()
}

fn open(device: &SimDevice, salvage: Salvage, read_only: bool) -> crate::Result<Database> {
    Database::open_pool(try_pool(device, read_only)?, Options { salvage, ..options() })
}

/// Reads, writes and compacts all of it.
fn use_all(db: &Database) {
    for info in db.list_kvs() {
        let kvs = db.open_kvs(&info.name).unwrap();
        for item in kvs.cursor(Range::default()).unwrap() {
            assert!(kvs.get(&item.unwrap().key).unwrap().is_some());
        }
        if !db.is_read_only() {
            kvs.put(b"005", &[7; 400], Durability::Sync).unwrap();
        }
    }
    if !db.is_read_only() {
        db.kvs("another").unwrap();
        db.flush().unwrap();
        db.compact().unwrap();
        db.close().unwrap();
    }
}

const ALL: Salvage =
    Salvage { log: crate::LogDamage::SkipDamaged, skip_kvsets: true, cut_manifest: true };

/// Opens by default, and with all ways out; returns the error of the former.
fn judge(device: &SimDevice, what: &dyn std::fmt::Debug) -> Option<Error> {
    let refused = open(&device.after_crash(0), Salvage::default(), false);
    let found = Database::check_on(&pool(device, true));
    let refused = match refused {
        Ok(db) => {
            assert!(found.issues.is_empty(), "{what:?}: {:?}", found.issues);
            use_all(&db);
            return None;
        }
        Err(error) => error,
    };
    let named = found.issues.iter().any(|issue| !issue.way_out.is_empty());
    assert!(named, "{what:?}: {refused}, and a check says {:?}", found.issues);
    for read_only in [true, false] {
        match open(&device.after_crash(0), ALL, read_only) {
            Ok(db) => {
                assert!(!db.losses().is_empty(), "{what:?}: {refused}");
                use_all(&db);
            }
            Err(error) => assert_eq!(error.way_out(), Some(WayOut::Backup), "{what:?}: {error}"),
        }
    }
    Some(refused)
}

fn leaf_of(live: &Live) -> (KvsId, NodeId) {
    let (kvs, leaf) =
        live.kvs.iter().find_map(|(id, kvs)| Some((*id, *kvs.leaves.keys().next()?))).unwrap();
    (kvs, leaf)
}

/// `Tree::sort` and `Tree::edited` asserted what the medium says.
#[test]
fn an_edit_that_does_not_fit_is_named_with_the_way_out() {
    let device = store();
    let live = live_of(&device);
    let (kvs, leaf) = leaf_of(&live);
    let (id, place) = live.kvsets.iter().find(|(_, at)| at.kvs == kvs && at.node == leaf).unwrap();
    let other = *live.kvs.keys().find(|other| **other != kvs).unwrap();
    let (root_id, root) = live.kvsets.iter().find(|(_, at)| at.node == NodeId::ROOT).unwrap();
    let next = KvsetId::new(live.next_kvset);
    let add = |kvs, node, kvset, hblock| Item::KvsetAdd { kvs, node, kvset, hblock };
    let nobody = MblockId::new(1 << 40).unwrap();
    let far = KvsId::new(77);
    let cases: Vec<(&str, Vec<Item>, WayOut)> = vec![
        ("named twice", vec![add(kvs, leaf, *id, place.hblock)], WayOut::Manifest),
        ("another's hblock", vec![add(kvs, leaf, next, place.hblock)], WayOut::Kvsets),
        ("in another KVS", vec![add(other, NodeId::ROOT, next, place.hblock)], WayOut::Kvsets),
        ("unknown KVS", vec![add(far, NodeId::ROOT, next, place.hblock)], WayOut::Manifest),
        ("unknown node", vec![add(kvs, NodeId::new(999), next, nobody)], WayOut::Manifest),
        ("no such mblock", vec![add(kvs, leaf, next, nobody)], WayOut::Kvsets),
        ("leaf in use goes", vec![Item::LeafRemove { kvs, node: leaf }], WayOut::Manifest),
        ("unknown leaf goes", vec![Item::LeafRemove { kvs: far, node: leaf }], WayOut::Manifest),
        (
            "two of a name",
            vec![Item::KvsCreate { kvs: far, name: "fish".into() }],
            WayOut::Manifest,
        ),
        ("last id", vec![Item::NextIds { kvs: u32::MAX, node: 1, kvset: 1 }], WayOut::Manifest),
        ("last floor", vec![Item::Floor { revision: Revision::MAX }], WayOut::Manifest),
        (
            "moved between nodes",
            vec![
                Item::KvsetRemove { kvset: *root_id },
                Item::LeafAdd { kvs: root.kvs, node: NodeId::new(500), first_key: "zz".into() },
                add(root.kvs, NodeId::new(500), *root_id, root.hblock),
            ],
            WayOut::Kvsets,
        ),
        (
            "two leaves begin alike",
            vec![Item::LeafAdd { kvs, node: NodeId::new(500), first_key: Bytes::new() }],
            WayOut::Backup,
        ),
    ];
    for (what, items, way_out) in cases {
        let error = judge(&with_edit(&device, &items), &what).expect(what);
        assert_eq!(error.way_out(), Some(way_out), "{what}: {error}");
        let text = error.to_string();
        assert!(text.contains("kvset ") || text.contains("manifest"), "{what}: {text}");
    }
}

/// Two kvsets of a node with revisions of the same range: an assertion of the tree.
#[test]
fn kvsets_that_overlap_are_named_and_the_narrower_goes() {
    let device = store().after_crash(0);
    let live = live_of(&device);
    let (kvs, leaf) = leaf_of(&live);
    let at = live.kvsets.values().find(|at| at.kvs == kvs && at.node == leaf).unwrap();
    let (hblock, old) = {
        let pool = pool(&device, false);
        let old = Kvset::meta_at(&pool, at.hblock).unwrap().min_revision;
        let priority = Priority::Flush;
        let mut builder = KvsetBuilder::new(
            &pool,
            BuildOptions {
                id: KvsetId::new(live.next_kvset),
                kvs,
                keys: priority.into(),
                values: priority.into(),
                inline_bytes_max: 256,
                index_bytes_hint: 1 << 16,
                value_bytes_hint: 1 << 16,
                object_bytes_max: 1 << 20,
            },
        );
        builder.add(b"005", old, Op::Inline(b"an old one")).unwrap();
        let built = builder.finish().unwrap().unwrap();
        pool.commit(built.writers, &[]).unwrap();
        (built.meta.hblock, old)
    };
    let kvset = KvsetId::new(live.next_kvset);
    let device = with_edit(&device, &[Item::KvsetAdd { kvs, node: leaf, kvset, hblock }]);
    let error = judge(&device, &"overlaps").unwrap();
    let text = error.to_string();
    assert!(text.contains(&format!("kvset {} of KVS", kvset.get())), "{text}");
    assert!(text.contains(&format!("it has revisions {old} to {old}, and kvset ")), "{text}");
    let salvage = Salvage { skip_kvsets: true, ..Salvage::default() };
    let db = open(&device, salvage, false).unwrap();
    let range = db.losses()[0].range.clone().unwrap();
    assert_eq!((&range.from[..], range.to.as_deref()), (&b"005"[..], Some(&b"005\0"[..])));
    assert_eq!(db.losses()[0].revisions, Some(old.get()..=old.get()));
    use_all(&db);
    drop(db);
    assert!(judge(&device, &"recovered").is_none());
}

/// Any edit of existing names, at random.
fn random_item(random: &mut Seeded, live: &Live) -> Item {
    let kvs_ids: Vec<KvsId> = live.kvs.keys().copied().chain([KvsId::new(live.next_kvs)]).collect();
    let nodes: Vec<NodeId> = live
        .kvs
        .values()
        .flat_map(|kvs| kvs.leaves.keys().copied())
        .chain([NodeId::ROOT, NodeId::new(live.next_node)])
        .collect();
    let kvsets: Vec<KvsetId> =
        live.kvsets.keys().copied().chain([KvsetId::new(live.next_kvset)]).collect();
    let hblocks: Vec<MblockId> = live.kvsets.values().map(|kvset| kvset.hblock).collect();
    let mut one = |len: usize| usize::try_from(random.below(len as u64)).unwrap();
    let (kvs, node) = (kvs_ids[one(kvs_ids.len())], nodes[one(nodes.len())]);
    let kvset = kvsets[one(kvsets.len())];
    let first_key = Bytes::from(["", "004", "011", "zz"][one(4)]);
    match one(9) {
        0 => Item::KvsCreate { kvs, name: ["birds", "new"][one(2)].into() },
        1 => Item::KvsDrop { kvs },
        2 => Item::LeafAdd { kvs, node, first_key },
        3 => Item::LeafRemove { kvs, node },
        4..=6 => Item::KvsetAdd { kvs, node, kvset, hblock: hblocks[one(hblocks.len())] },
        7 => Item::KvsetRemove { kvset },
        _ => Item::Floor { revision: Revision::new(one(400) as u64) },
    }
}

#[test]
fn edits_at_random_never_panic() {
    let device = store();
    let live = live_of(&device);
    let mut refused = 0;
    for seed in 0..60 {
        let mut random = Seeded::new(seed);
        let items: Vec<Item> =
            (0..=random.below(3)).map(|_| random_item(&mut random, &live)).collect();
        let device = with_edit(&device, &items);
        refused += u32::from(judge(&device, &(seed, items)).is_some());
    }
    assert!(refused > 20, "{refused} of 60");
}

/// All keys and values.
fn contents(db: &Database) -> Vec<(String, Bytes, Bytes)> {
    let mut all = Vec::new();
    for info in db.list_kvs() {
        let kvs = db.open_kvs(&info.name).unwrap();
        for item in kvs.cursor(Range::default()).unwrap() {
            let item = item.unwrap();
            all.push((info.name.clone(), item.key, item.value));
        }
    }
    all
}

/// A power cut anywhere in a recovery leaves what was there before, or what is to be; and the next
/// recovery ends it.
#[test]
fn a_manifest_may_be_cut_wherever_the_power_goes() {
    let sound = store();
    let expected = contents(&open(&sound.after_crash(0), Salvage::default(), true).unwrap());
    let misfit = Item::KvsetRemove { kvset: KvsetId::new(9999) };
    let base = with_edit(&sound, &[Item::Floor { revision: Revision::new(1) }, misfit]);
    let salvage = Salvage { cut_manifest: true, ..Salvage::default() };
    let recover = |device: &SimDevice| -> crate::Result<()> {
        let db = open(device, salvage, false)?;
        db.settle()?;
        db.close()
    };
    let whole = base.after_crash(0);
    let before = whole.calls();
    recover(&whole).unwrap();
    let calls = whole.calls() - before;
    assert!(calls > 10, "a recovery writes");
    for cut in 0..calls {
        let device = base.after_crash(0);
        device.cut_at(device.calls() + cut);
        // An error is the power cut.
        drop(recover(&device));
        let device = device.after_crash(cut);
        match open(&device.after_crash(0), Salvage::default(), true) {
            Ok(db) => assert_eq!(contents(&db), expected, "cut at {cut}"),
            Err(error) => assert_eq!(error.way_out(), Some(WayOut::Manifest), "{cut}: {error}"),
        }
        recover(&device).unwrap();
        let db = open(&device, Salvage::default(), false).unwrap();
        assert!(db.losses().is_empty());
        assert_eq!(contents(&db), expected, "cut at {cut}, recovered");
    }
}
