//! Damage that stops an open, and every way past it that was asked for: what is left is right, what
//! is lost is named, a look writes nothing, and a power cut at any point of a recovery loses no
//! more.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use kvs::{Database, Durability, Error, LogDamage, Loss, Options, Range, Salvage};
use mpool::{Device, IoBuf, Pool};
use mpool_sim::SimDevice;
use std::sync::Arc;

const PAGE: usize = 4096;
const WRITES: u64 = 6;

fn value(n: u64) -> Vec<u8> {
    format!("the value of write number {n}, which stands in one page of the log").into_bytes()
}

fn key(n: u64) -> Vec<u8> {
    format!("key-{n}").into_bytes()
}

/// Revision 1 and 2 are in a kvset each, 3 to 6 in the log, a page each; killed, or closed in order
/// with a flush that failed.
fn store(close: bool) -> SimDevice {
    let device = SimDevice::new(1 << 30);
    let db = support::create(&device, &support::options()).unwrap();
    let kvs = db.create_kvs("birds").unwrap();
    for n in 1..=WRITES {
        kvs.put(&key(n), &value(n), Durability::Sync).unwrap();
        if n <= 2 {
            db.flush().unwrap();
        }
    }
    if close {
        support::close_unflushed(&device, &db);
        return device;
    }
    let killed = device.after_crash(0);
    drop((kvs, db));
    killed
}

/// The pages of the device that hold these bytes.
fn pages_with(device: &SimDevice, bytes: &[u8]) -> Vec<u64> {
    let holds = |offset: &u64| {
        let mut page = IoBuf::zeroed(PAGE);
        device.read_at(*offset, &mut page).unwrap();
        page.windows(bytes.len()).any(|window| window == bytes)
    };
    (0..device.geometry().len_bytes).step_by(PAGE).filter(holds).collect()
}

fn flip(device: &SimDevice, offset: u64, at: usize) {
    let mut page = IoBuf::zeroed(PAGE);
    device.read_at(offset, &mut page).unwrap();
    page[at] ^= 0x10;
    device.write_durable_at(offset, &page).unwrap();
}

/// Damages the frame of a write: its head, or its body.
fn damage_frame(device: &SimDevice, n: u64, at: usize) {
    let pages = pages_with(device, &value(n));
    assert_eq!(pages.len(), 1, "the value is in the log alone");
    flip(device, pages[0], at);
}

/// Blanks the head of the log's segment, and its frames up to the third write.
fn blank_start(device: &SimDevice) {
    let start = pages_with(device, b"MWSG")[0];
    let end = pages_with(device, &value(3))[0] + PAGE as u64;
    for at in (start..end).step_by(PAGE) {
        device.write_durable_at(at, &IoBuf::zeroed(PAGE)).unwrap();
    }
}

const HEAD: usize = 9;
const BODY: usize = 90;

fn open(device: &SimDevice, log: LogDamage, read_only: bool) -> kvs::Result<Database> {
    let salvage = Salvage { log, skip_kvsets: true, cut_manifest: false };
    let mut options = Options { salvage, ..support::options() };
    options.pool.read_only = read_only;
    support::open(device, &options)
}

fn numbers(db: &Database) -> Vec<u64> {
    let kvs = db.open_kvs("birds").unwrap();
    let mut found = Vec::new();
    for item in kvs.cursor(Range::default()).unwrap() {
        let item = item.unwrap();
        let n = (1..=WRITES).find(|n| key(*n) == item.key).unwrap();
        assert_eq!(item.value, value(n));
        assert_eq!(kvs.get(&item.key).unwrap().unwrap().value, item.value);
        found.push(n);
    }
    found
}

fn lost(losses: &[Loss]) -> Vec<(u64, u64)> {
    let range = |loss: &Loss| loss.revisions.clone().map(|lost| (*lost.start(), *lost.end()));
    losses.iter().filter_map(range).collect()
}

fn lost_keys(losses: &[Loss]) -> Vec<(String, bool)> {
    let keys = losses.iter().flat_map(|loss| &loss.keys);
    keys.map(|lost| (String::from_utf8_lossy(&lost.key).into_owned(), lost.is_certain)).collect()
}

/// Everything of a device, to compare.
fn image(device: &SimDevice) -> Vec<u8> {
    let mut all = IoBuf::zeroed(usize::try_from(device.geometry().len_bytes).unwrap());
    device.read_at(0, &mut all).unwrap();
    all.to_vec()
}

#[test]
fn a_damaged_frame_is_refused_skipped_or_the_end() {
    for (closed, at, guessed) in [(true, HEAD, false), (false, HEAD, false), (true, BODY, true)] {
        let device = store(closed);
        damage_frame(&device, 4, at);
        let before = image(&device);
        let refused = open(&device, LogDamage::Refuse, false);
        let refused = refused.map(drop).unwrap_err().to_string();
        assert!(refused.contains("segment 1 (seg-") && refused.contains("revision 4"), "{refused}");

        let db = open(&device, LogDamage::SkipDamaged, true).unwrap();
        assert_eq!(numbers(&db), [1, 2, 3, 5, 6]);
        assert_eq!(lost(db.losses()), [(4, 4)]);
        let keys: &[(String, bool)] = &[("key-4".to_owned(), false)];
        assert_eq!(lost_keys(db.losses()), if guessed { keys } else { &[] });
        drop(db);

        let db = open(&device, LogDamage::StopAtDamage, true).unwrap();
        assert_eq!(numbers(&db), [1, 2, 3]);
        assert_eq!(lost(db.losses()), [(4, 4), (5, 6)]);
        let keys = lost_keys(db.losses());
        assert!(keys.ends_with(&[("key-5".to_owned(), true), ("key-6".to_owned(), true)]));
        drop(db);

        let db = open(&device, LogDamage::LeaveOut, true).unwrap();
        assert_eq!(numbers(&db), [1, 2]);
        drop(db);
        assert!(image(&device) == before, "a look changes nothing");
    }
}

#[test]
fn a_database_that_is_open_for_reading_only_refuses_every_change() {
    let device = store(true);
    let before = image(&device);
    let db = open(&device, LogDamage::Refuse, true).unwrap();
    assert!(db.is_read_only() && db.losses().is_empty());
    assert_eq!(numbers(&db), [1, 2, 3, 4, 5, 6]);
    let kvs = db.open_kvs("birds").unwrap();
    for refused in [
        kvs.put(b"k", b"v", Durability::Off).map(drop),
        kvs.delete(b"k", Durability::Sync).map(drop),
        db.create_kvs("fish").map(drop),
        db.drop_kvs("birds"),
        db.sync().map(drop),
        db.flush(),
        db.compact(),
        db.settle(),
    ] {
        assert!(matches!(refused, Err(Error::ReadOnly)), "{refused:?}");
    }
    db.close().unwrap();
    drop((kvs, db));
    assert!(image(&device) == before);
}

#[test]
fn a_recovered_store_opens_like_any_other_and_gives_no_revision_again() {
    for (log, left) in [
        (LogDamage::SkipDamaged, &[1, 2, 3, 5, 6][..]),
        (LogDamage::StopAtDamage, &[1, 2, 3]),
        (LogDamage::LeaveOut, &[1, 2]),
    ] {
        let device = store(true);
        damage_frame(&device, 4, HEAD);
        let db = open(&device, log, false).unwrap();
        assert_eq!(numbers(&db), left, "{log:?}");
        db.settle().unwrap();
        db.close().unwrap();
        drop(db);
        let db = open(&device, LogDamage::Refuse, false).unwrap();
        assert_eq!(numbers(&db), left, "{log:?}");
        assert!(db.losses().is_empty());
        let kvs = db.open_kvs("birds").unwrap();
        let revision = kvs.put(b"key-1", &value(1), Durability::Sync).unwrap();
        assert!(revision.get() > WRITES, "{revision}");
    }
}

/// A power cut anywhere in a recovery: the next one comes to the same end.
#[test]
fn a_recovery_may_be_cut_off_anywhere() {
    let recover = |device: &SimDevice, log| -> kvs::Result<()> {
        let db = open(device, log, false)?;
        db.settle()?;
        db.close()
    };
    let body: fn(&SimDevice) = |device| damage_frame(device, 4, BODY);
    // After a kill nothing but the pool's note says that the log was there.
    let start: fn(&SimDevice) = |device| blank_start(device);
    for (closed, damage, log, left) in [
        (true, body, LogDamage::SkipDamaged, &[1, 2, 3, 5, 6][..]),
        (true, body, LogDamage::StopAtDamage, &[1, 2, 3]),
        (false, start, LogDamage::SkipDamaged, &[1, 2, 4, 5, 6]),
        (false, start, LogDamage::StopAtDamage, &[1, 2]),
    ] {
        let base = store(closed);
        damage(&base);
        assert!(open(&base.after_crash(0), LogDamage::Refuse, true).is_err());
        let whole = base.after_crash(0);
        let before = whole.calls();
        recover(&whole, log).unwrap();
        let calls = whole.calls() - before;
        assert!(calls > 3, "a recovery writes: {calls} calls");
        for cut in 0..calls {
            let device = base.after_crash(0);
            device.cut_at(device.calls() + cut);
            // An error is the power cut.
            drop(recover(&device, log));
            let device = device.after_crash(cut);
            recover(&device, log).unwrap();
            let db = open(&device, LogDamage::Refuse, false).unwrap();
            assert_eq!(numbers(&db), left, "{log:?}, cut at {cut}");
        }
    }
}

#[test]
fn the_head_of_a_segment_can_be_told_from_its_frames() {
    let device = store(true);
    let heads = pages_with(&device, b"MWSG");
    assert_eq!(heads.len(), 1);
    flip(&device, heads[0], 9);
    let refused = open(&device, LogDamage::Refuse, false).map(drop).unwrap_err().to_string();
    assert!(refused.contains("head of write-ahead log segment"), "{refused}");
    for read_only in [true, false] {
        let db = open(&device, LogDamage::SkipDamaged, read_only).unwrap();
        assert_eq!(numbers(&db), [1, 2, 3, 4, 5, 6]);
        assert_eq!(lost(db.losses()), []);
        assert_eq!(db.losses().len(), 1);
        if !read_only {
            db.settle().unwrap();
            db.close().unwrap();
        }
    }
    assert_eq!(numbers(&open(&device, LogDamage::Refuse, false).unwrap()), [1, 2, 3, 4, 5, 6]);
}

/// An hblock that cannot be read stopped the open of the whole database.
#[test]
fn a_kvset_that_cannot_be_opened_is_left_out_by_name() {
    let device = store(true);
    let hblocks = pages_with(&device, b"MPHB");
    assert_eq!(hblocks.len(), 2);
    flip(&device, hblocks[1], 20);
    let refused = support::open(&device, &support::options()).map(drop).unwrap_err().to_string();
    assert!(refused.contains("of KVS birds (hblock mb-"), "{refused}");
    let look = open(&device, LogDamage::Refuse, true).unwrap();
    assert_eq!(numbers(&look), [1, 3, 4, 5, 6]);
    let loss = look.losses()[0].to_string();
    assert!(loss.contains("of KVS birds") && loss.contains("any key of KVS birds"), "{loss}");
    drop(look);
    assert!(support::open(&device, &support::options()).is_err(), "a look has changed nothing");
    // Wherever a recovery is cut off, the next one ends it.
    let calls = {
        let device = device.after_crash(0);
        let before = device.calls();
        let db = open(&device, LogDamage::Refuse, false).unwrap();
        db.close().unwrap();
        device.calls() - before
    };
    for cut in 0..=calls {
        let device = device.after_crash(0);
        device.cut_at(device.calls() + cut);
        // An error is the power cut.
        drop(open(&device, LogDamage::Refuse, false));
        let device = device.after_crash(cut);
        drop(open(&device, LogDamage::Refuse, false).unwrap());
        let db = support::open(&device, &support::options()).unwrap();
        assert_eq!(numbers(&db), [1, 3, 4, 5, 6]);
    }
}

#[test]
fn a_check_names_what_an_open_would_refuse() {
    let check = |device: &SimDevice| {
        let mut options = support::pool_options();
        options.read_only = true;
        let pool = Pool::open(Arc::new(device.clone()), &options).unwrap();
        Database::check_on(&pool)
    };
    let device = store(true);
    let sound = check(&device);
    assert!(sound.issues.is_empty(), "{:?}", sound.issues);
    assert!(sound.owners.values().any(|owner| owner.ends_with("of KVS birds, hblock")));
    damage_frame(&device, 4, HEAD);
    damage_frame(&device, 6, BODY);
    flip(&device, pages_with(&device, b"MPHB")[0], 20);
    let before = image(&device);
    let found: Vec<String> = check(&device).issues.iter().map(ToString::to_string).collect();
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(found[0].contains("kvset 1 of KVS birds (hblock mb-"), "{found:#?}");
    assert!(found[1].contains("segment 1 (seg-") && found[1].contains("revision 4"), "{found:#?}");
    assert!(found[2].contains("revision 6"), "{found:#?}");
    assert!(found.iter().all(|issue| issue.contains("millpond recover")), "{found:#?}");
    assert!(image(&device) == before);
}
