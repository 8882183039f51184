//! Compactions that somebody asks for: what they leave, that they end, and what they refuse.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

mod support;

use kvs::{
    CompactionInfo, CompactionRequest, CompactionState, Database, Durability, Error, Kvs, Options,
    ProblemReason, Range, TreeInfo, TreePage,
};
use mpool::{Device, IoBuf, Pool};
use mpool_sim::{Faults, SimDevice};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use support::Rng;

const MIB: u64 = 1 << 20;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

fn key(n: u64) -> Vec<u8> {
    format!("key{n:06}").into_bytes()
}

fn database(options: &Options) -> (SimDevice, Database, Kvs) {
    let device = SimDevice::new(1024 * MIB);
    let db = support::create(&device, options).unwrap();
    let kvs = db.create_kvs("k").unwrap();
    (device, db, kvs)
}

fn tree(db: &Database) -> TreeInfo {
    db.tree("k", &TreePage { from: None, kvsets_max: usize::MAX }).unwrap()
}

fn compact(db: &Database, request: CompactionRequest) -> CompactionInfo {
    db.start_compaction(request).unwrap().wait().unwrap()
}

fn contents(kvs: &Kvs) -> Map {
    let cursor = kvs.cursor(Range::default()).unwrap();
    cursor.map(|item| item.unwrap()).map(|item| (item.key.to_vec(), item.value.to_vec())).collect()
}

/// The sum of a metric over the compactions that were asked for.
fn counted(db: &Database, name: &str) -> String {
    let mut sum = 0.0;
    db.visit_metrics(&mut |sample| {
        if sample.name == name && sample.labels.contains(&("reason", "requested")) {
            sum += sample.value.number().unwrap();
        }
    });
    sum.to_string()
}

/// Rounds of random puts and deletes, each with a flush.
fn churn(db: &Database, kvs: &Kvs, map: &mut Map, rng: &mut Rng) {
    for _ in 0..5 {
        for _ in 0..400 {
            let n = rng.below(500);
            if rng.below(3) == 0 {
                kvs.delete(&key(n), Durability::Off).unwrap();
                map.remove(&key(n));
            } else {
                let value = rng.bytes(1500);
                kvs.put(&key(n), &value, Durability::Off).unwrap();
                map.insert(key(n), value);
            }
        }
        db.flush().unwrap();
    }
}

#[test]
fn nothing_is_left_but_what_lives() {
    let (_device, db, kvs) = database(&support::options());
    let (mut map, mut rng) = (Map::new(), Rng(7));
    churn(&db, &kvs, &mut map, &mut rng);
    let before = tree(&db);
    assert!(before.root_kvsets > 0 && before.tombstones > 0, "{before:?}");
    // Unflushed, and yet there when it is asked for.
    kvs.put(b"last", &[b'l'; 2000], Durability::Off).unwrap();
    map.insert(b"last".to_vec(), vec![b'l'; 2000]);
    let info = compact(&db, CompactionRequest::default());
    assert_eq!(info.state, CompactionState::Done);
    assert_eq!((&info.problems[..], info.problems_total), (&[][..], 0));
    assert!(
        info.jobs >= 1 && info.bytes_done > 0 && info.bytes_done == info.bytes_total,
        "{info:?}"
    );
    assert!(info.read_bytes > 0 && info.written_bytes > 0, "{info:?}");
    assert_eq!(counted(&db, "compaction_read_bytes_total"), info.read_bytes.to_string());
    assert_eq!(counted(&db, "compaction_written_bytes_total"), info.written_bytes.to_string());
    let after = tree(&db);
    assert_eq!((after.root_kvsets, after.tombstones, after.keys), (0, 0, map.len() as u64));
    assert_eq!(after.kvsets, after.leaves, "one a leaf");
    let lives: u64 = map.values().map(|value| value.len() as u64).sum();
    assert!(after.vblock_bytes < lives + lives / 10, "{} for {lives}", after.vblock_bytes);
    assert_eq!(contents(&kvs), map);
    // There is nothing to do for a second one.
    let again = compact(&db, CompactionRequest::default());
    assert_eq!((again.number, again.jobs, &again.state), (2, 0, &CompactionState::Done));
    assert!(again.had_nothing_to_do() && !info.had_nothing_to_do());
    assert_eq!(tree(&db), after);
}

#[test]
fn it_takes_what_was_there_when_it_was_asked_for() {
    let (_device, db, kvs) = database(&support::options());
    let (mut map, mut rng) = (Map::new(), Rng(8));
    // Beside a tree of megabytes one more kvset of the root is no garbage that is due.
    for n in 1000..3000 {
        kvs.put(&key(n), &[b'm'; 4000], Durability::Off).unwrap();
    }
    churn(&db, &kvs, &mut map, &mut rng);
    let asked = db.start_compaction(CompactionRequest::default()).unwrap();
    kvs.put(b"newer", b"value", Durability::Off).unwrap();
    db.flush().unwrap();
    assert_eq!(asked.wait().unwrap().state, CompactionState::Done);
    let after = tree(&db);
    assert_eq!((after.root_kvsets, after.nodes[0].kvsets[0].keys), (1, 1), "the newer one stays");
    assert_eq!(after.kvsets, after.leaves + 1);
}

/// Leaves of a range are rewritten, and no others.
#[test]
fn a_range_is_compacted_and_the_rest_stays() {
    let (_device, db, kvs) = database(&support::options());
    let other = db.create_kvs("other").unwrap();
    for round in 0..8 {
        for n in round * 25_000..(round + 1) * 25_000 {
            kvs.put(&key(n), &[b'v'; 250], Durability::Off).unwrap();
        }
        db.flush().unwrap();
        db.compact().unwrap();
    }
    for n in (0..200_000).step_by(10) {
        kvs.delete(&key(n), Durability::Off).unwrap();
        if n < 1000 {
            other.put(&key(n), b"other", Durability::Off).unwrap();
        }
    }
    let before = tree(&db);
    assert!(before.leaves >= 3, "{}", before.leaves);
    let middle = &before.nodes[2];
    let (from, to) = (middle.from.clone(), middle.to.clone().unwrap());
    let (first, end) = (Some(from.clone()), Some(to.clone()));
    let request = CompactionRequest { kvs: Some("k".into()), from: first, to: end };
    let info = compact(&db, request);
    assert_eq!((&info.state, info.problems_total), (&CompactionState::Done, 0));
    let after = tree(&db);
    let is_apart = |kvset: &kvs::KvsetInfo| kvset.max_key < from || kvset.min_key >= to;
    assert!(after.nodes[0].kvsets.iter().all(is_apart), "the deletes of the range went down");
    let leaf = |tree: &TreeInfo, at: usize| tree.nodes[at].clone();
    let done = leaf(&after, 2);
    assert_eq!((done.from.clone(), done.kvsets.len(), done.kvsets[0].tombstones), (from, 1, 0));
    // Others may be merged because they are due.
    for job in db.jobs().iter().filter(|job| job.reason == "requested") {
        let asked = [Some(0), Some(middle.id)].contains(&job.node);
        assert!(asked, "{job:?} was not asked for");
    }
    let others = db.tree("other", &TreePage::default()).unwrap();
    assert_eq!((others.root_kvsets, others.leaves), (1, 0), "another KVS was not asked for");
}

#[test]
fn it_ends_while_others_write_and_holds_nobody_up() {
    let options = Options { background_threads: 2, ..support::options() };
    let (_device, db, kvs) = database(&options);
    let (mut map, mut rng) = (Map::new(), Rng(9));
    churn(&db, &kvs, &mut map, &mut rng);
    let (stop, written) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut rng = Rng(10);
            while !stop.load(Ordering::Relaxed) {
                kvs.put(&key(rng.below(500)), &rng.bytes(1500), Durability::Off).unwrap();
                written.store(true, Ordering::Relaxed);
            }
        });
        while !written.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        let info = compact(&db, CompactionRequest::default());
        stop.store(true, Ordering::Relaxed);
        assert_eq!((&info.state, info.problems_total), (&CompactionState::Done, 0));
        // How many jobs it had is not asked: work that was due may have done all of it before.
    });
}

/// Neither waits for the end of the other: their jobs are begun in turn.
#[test]
fn it_takes_turns_with_the_work_that_is_due() {
    let (_device, db, kvs) = database(&support::options());
    let other = db.create_kvs("other").unwrap();
    // Fewer than those at which writers are held back.
    for round in 0..14 {
        for n in 0..20 {
            kvs.put(&key(n), &[round; 400], Durability::Off).unwrap();
            other.put(&key(n), &[round; 400], Durability::Off).unwrap();
        }
        db.flush().unwrap();
    }
    compact(&db, CompactionRequest { kvs: Some("k".into()), ..CompactionRequest::default() });
    let mut jobs = db.jobs();
    jobs.retain(|job| job.kvs.is_some());
    let reasons: Vec<&str> = jobs.iter().rev().map(|job| job.reason).collect();
    let requested: Vec<usize> =
        (0..reasons.len()).filter(|at| reasons[*at] == "requested").collect();
    assert!(requested.len() >= 2, "{reasons:?}");
    assert_eq!(requested[0], 0, "{reasons:?}");
    // As long as anything was due, one of it was begun after each that was asked for.
    let due = reasons.len() - requested.len();
    assert!(due >= 2, "{reasons:?}");
    for pair in requested.windows(2).take(due) {
        assert_eq!(pair[1] - pair[0], 2, "{reasons:?}");
    }
}

#[test]
fn one_runs_at_a_time_and_can_be_cancelled() {
    let (_device, db, kvs) = database(&support::options());
    let (mut map, mut rng) = (Map::new(), Rng(11));
    churn(&db, &kvs, &mut map, &mut rng);
    assert!(db.compaction().is_none());
    kvs.put(b"last", b"value", Durability::Off).unwrap();
    map.insert(b"last".to_vec(), b"value".to_vec());
    let first = db.start_compaction(CompactionRequest::default()).unwrap();
    assert_eq!(first.info().state, CompactionState::Flushing);
    let refused = db.start_compaction(CompactionRequest::default()).map(|_| ()).unwrap_err();
    let text = refused.to_string();
    assert!(matches!(refused, Error::CompactionRuns { number: 1, .. }), "{text}");
    assert!(text.contains("of everything") && text.contains("cancel"), "{text}");
    first.cancel();
    first.cancel();
    assert_eq!(first.wait().unwrap().state, CompactionState::Cancelled);
    assert_eq!(db.compaction().unwrap().info().state, CompactionState::Cancelled);
    let second = compact(&db, CompactionRequest::default());
    assert_eq!((second.number, second.state), (2, CompactionState::Done));
    assert_eq!(first.info().state, CompactionState::Cancelled, "its own end is remembered");
    assert_eq!(contents(&kvs), map);
}

/// A job that is ended between two entries has written a part of its output, which must not count.
#[test]
fn what_a_cancelled_job_has_written_does_not_count() {
    let options = Options { background_threads: 1, ..support::options() };
    let (_device, db, kvs) = database(&options);
    let mut map = Map::new();
    // Each turn either catches a job under way, or comes too late and tries again.
    for round in 0..50_u8 {
        for n in 0..20_000 {
            let value = vec![round; 40];
            kvs.put(&key(n), &value, Durability::Off).unwrap();
            map.insert(key(n), value);
        }
        let asked = db.start_compaction(CompactionRequest::default()).unwrap();
        let is_under_way = |info: &CompactionInfo| info.bytes_done > 0 || info.state.is_over();
        while !is_under_way(&asked.info()) {
            std::thread::yield_now();
        }
        asked.cancel();
        let state = asked.wait().unwrap().state;
        assert!(contents(&kvs) == map, "round {round}: {state:?}");
        if state == CompactionState::Cancelled {
            return;
        }
    }
    panic!("none was caught under way");
}

#[test]
fn what_makes_no_sense_or_has_no_room_is_refused() {
    let device = SimDevice::new(96 * MIB);
    let db = support::create(&device, &support::options()).unwrap();
    let kvs = db.create_kvs("k").unwrap();
    let start = |request| db.start_compaction(request).map(|_| ()).unwrap_err();
    let of = |kvs: Option<&str>, from: Option<&'static [u8]>, to: Option<&'static [u8]>| {
        let bytes = |key: Option<&'static [u8]>| key.map(bytes_of);
        CompactionRequest { kvs: kvs.map(str::to_owned), from: bytes(from), to: bytes(to) }
    };
    let range = start(of(None, Some(b"a"), None));
    assert!(matches!(range, Error::CompactionRange { .. }) && range.to_string().contains("name"));
    let backwards = start(of(Some("k"), Some(b"m"), Some(b"a")));
    assert!(matches!(backwards, Error::CompactionRange { .. }), "{backwards}");
    assert!(backwards.to_string().contains(r#"from "m" on and before "a""#), "{backwards}");
    let empty = start(of(Some("k"), None, Some(b"")));
    assert!(matches!(empty, Error::CompactionRange { .. }), "{empty}");
    assert!(matches!(start(of(Some("none"), None, None)), Error::NoSuchKvs { .. }));
    assert!(db.compaction().is_none(), "none was begun");
    let (mut n, value) = (0, vec![b'f'; 20_000]);
    while kvs.put(&key(n), &value, Durability::Off).is_ok() {
        n += 1;
    }
    let full = start(CompactionRequest::default());
    assert!(matches!(full, Error::Full { .. }) && full.to_string().contains("delete"), "{full}");
    db.close().unwrap();
    assert!(matches!(start(CompactionRequest::default()), Error::Closed));
    drop((kvs, db));

    let mut options = support::options();
    options.pool.read_only = true;
    let pool = Pool::open(Arc::new(device.clone()), &options.pool).unwrap();
    let db = Database::open_pool(pool, options).unwrap();
    let refused = db.start_compaction(CompactionRequest::default()).map(|_| ()).unwrap_err();
    assert!(matches!(refused, Error::ReadOnly), "{refused}");
}

fn bytes_of(key: &'static [u8]) -> bytes::Bytes {
    bytes::Bytes::from_static(key)
}

/// A kvset that cannot be read is told, and the other KVS is compacted all the same.
#[test]
fn what_is_damaged_is_told_and_the_rest_goes_on() {
    let (device, db, kvs) = database(&support::options());
    let other = db.create_kvs("other").unwrap();
    for round in 0..3 {
        for n in 0..50 {
            kvs.put(&key(n), &[round; 400], Durability::Off).unwrap();
            other.put(&key(n), &[round; 400], Durability::Off).unwrap();
        }
        db.flush().unwrap();
    }
    let asked = db.start_compaction(CompactionRequest::default()).unwrap();
    device.set_faults(Faults { read_eio_at: Some(0), ..Faults::default() });
    let info = asked.wait().unwrap();
    device.set_faults(Faults::default());
    assert_eq!(info.state, CompactionState::Incomplete, "{info:?}");
    assert!(info.problems_total >= 1, "{info:?}");
    assert!(info.problems[0].detail.contains("KVS k"), "{:?}", info.problems);
    assert_eq!(info.problems[0].reason, ProblemReason::Unreadable, "{:?}", info.problems);
    let others = db.tree("other", &TreePage::default()).unwrap();
    assert_eq!((others.root_kvsets, others.kvsets, others.keys), (0, 1, 50));
    assert_eq!(kvs.get(&key(7)).unwrap().unwrap().value, vec![2; 400], "it is served");
}

/// Values are left where they are, which was told to nobody who had asked.
#[test]
fn values_that_cannot_be_read_are_told() {
    let (device, db, kvs) = database(&support::options());
    // Enough is overwritten for values to be rewritten when it is asked for, and not before.
    for keys in [0..50, 0..10] {
        for n in keys {
            kvs.put(&key(n), &[0x5a; 3000], Durability::Off).unwrap();
        }
        db.flush().unwrap();
    }
    let is_value = |page: &[u8]| page[1000..2000].iter().all(|byte| *byte == 0x5a);
    let mut page = IoBuf::zeroed(4096);
    let pages = (0..device.geometry().len_bytes).step_by(4096);
    let found: Vec<u64> =
        pages.filter(|at| device.read_at(*at, &mut page).is_ok() && is_value(&page)).collect();
    for at in &found {
        device.flip_bit(at + 1500, 3);
    }
    let info = compact(&db, CompactionRequest::default());
    assert_eq!((&info.state, info.problems_total), (&CompactionState::Incomplete, 1), "{info:?}");
    let problem = &info.problems[0];
    assert_eq!(problem.reason, ProblemReason::Unreadable, "{problem:?}");
    assert!(problem.detail.contains("values that cannot be read"), "{problem:?}");
    // The second one met what the first had met, and was "done".
    for n in 20..30 {
        kvs.put(&key(n), &[0x5a; 3000], Durability::Off).unwrap();
    }
    let again = compact(&db, CompactionRequest::default());
    assert_eq!(
        (&again.state, again.problems_total),
        (&CompactionState::Incomplete, 1),
        "{again:?}"
    );
    assert_eq!(tree(&db).keys, 50);
}

/// One that was named and dropped counted as compacted.
#[test]
fn a_kvs_that_is_dropped_meanwhile_is_no_part_of_everything_and_missed_where_it_was_named() {
    let (_device, db, kvs) = database(&support::options());
    kvs.put(b"a", b"b", Durability::Off).unwrap();
    let asked = db.start_compaction(CompactionRequest::default()).unwrap();
    db.drop_kvs("k").unwrap();
    let info = asked.wait().unwrap();
    assert_eq!((&info.state, info.problems_total), (&CompactionState::Done, 0), "{info:?}");
    db.create_kvs("k").unwrap().put(b"a", b"b", Durability::Off).unwrap();
    let of_one = CompactionRequest { kvs: Some("k".to_owned()), ..CompactionRequest::default() };
    let asked = db.start_compaction(of_one).unwrap();
    db.drop_kvs("k").unwrap();
    let info = asked.wait().unwrap();
    assert_eq!((&info.state, info.jobs), (&CompactionState::Incomplete, 0), "{info:?}");
    let problem = &info.problems[0];
    assert_eq!(problem.reason, ProblemReason::KvsDropped);
    assert!(problem.detail.contains("KVS k was dropped"), "{problem:?}");
}

#[test]
fn a_close_ends_it() {
    let (device, db, kvs) = database(&support::options());
    kvs.put(b"a", b"b", Durability::Off).unwrap();
    let asked = db.start_compaction(CompactionRequest::default()).unwrap();
    db.close().unwrap();
    assert!(matches!(asked.wait(), Err(Error::Closed)));
    assert!(matches!(asked.info().state, CompactionState::Failed(_)));
    drop((kvs, db, asked));
    let db = support::open(&device, &support::options()).unwrap();
    assert!(db.compaction().is_none());
}

/// Its thread ends with the database.
#[test]
fn a_close_ends_its_thread() {
    let options = Options { background_threads: 2, ..support::options() };
    let (_device, db, kvs) = database(&options);
    let (mut map, mut rng) = (Map::new(), Rng(12));
    churn(&db, &kvs, &mut map, &mut rng);
    let asked = db.start_compaction(CompactionRequest::default()).unwrap();
    db.close().unwrap();
    assert!(asked.info().state.is_over());
}
