//! What a clean close has left is whole at the next open, or its absence is told: the ends of logs,
//! where rot looks like an append that was cut short, too.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use kvs::{Durability, Error, Options, Salvage, WayOut};
use mpool::{Device, IoBuf};
use mpool_sim::SimDevice;

const PAGE: usize = 4096;
/// Stands in the last frame of the manifest.
const NAME: &str = "the-last-kvs-that-was-made";
/// Stands in the last frame of the write-ahead log.
const VALUE: &[u8] = b"the last value that was put";

/// A database that was closed in order, and could not flush.
fn closed() -> SimDevice {
    let device = SimDevice::new(1 << 30);
    let db = support::create(&device, &support::options()).unwrap();
    let kvs = db.create_kvs("a").unwrap();
    kvs.put(b"k", b"v", Durability::Sync).unwrap();
    db.flush().unwrap();
    let last = db.create_kvs(NAME).unwrap();
    last.put(b"q", b"kept", Durability::Sync).unwrap();
    kvs.put(b"k", VALUE, Durability::Sync).unwrap();
    support::close_unflushed(&device, &db);
    device
}

/// The page of the device that holds these bytes, and every place that has it: two in a journal.
fn page_with(device: &SimDevice, bytes: &[u8]) -> (Vec<u64>, IoBuf) {
    let mut found: Option<(Vec<u64>, IoBuf)> = None;
    for offset in (0..device.geometry().len_bytes).step_by(PAGE) {
        let mut page = IoBuf::zeroed(PAGE);
        device.read_at(offset, &mut page).unwrap();
        if page.windows(bytes.len()).any(|window| window == bytes) {
            match &mut found {
                Some((places, first)) => {
                    assert!(first[..] == page[..], "one page has it");
                    places.push(offset);
                }
                None => found = Some((vec![offset], page)),
            }
        }
    }
    found.expect("a page has it")
}

fn put(device: &SimDevice, places: &[u64], page: &[u8]) {
    for offset in places {
        device.write_durable_at(*offset, page).unwrap();
    }
}

/// The manifest's last edit is lost, and with it the name of the KVS that it made. What the log has
/// of the KVS was passed over, and the log then forgotten: all of it was lost without a word.
#[test]
fn a_manifest_can_be_cut_where_it_ends() {
    let device = closed();
    let (places, mut page) = page_with(&device, NAME.as_bytes());
    page[9] ^= 1;
    put(&device, &places, &page);
    assert!(support::open(&device, &support::options()).is_err());
    let salvage = Salvage { cut_manifest: true, ..Salvage::default() };
    let mut options = Options { salvage, ..support::options() };
    for read_only in [true, false] {
        options.pool.read_only = read_only;
        let db = support::open(&device, &options).unwrap();
        assert!(db.losses()[0].to_string().contains("it was closed at frame"));
        assert!(matches!(db.open_kvs(NAME), Err(Error::NoSuchKvs { .. })));
        assert_eq!(recovered(&db), Some("kept".into()));
        assert_eq!(db.open_kvs("a").unwrap().get(b"k").unwrap().unwrap().value, VALUE);
        db.close().unwrap();
    }
    let db = support::open(&device, &support::options()).unwrap();
    assert!(db.losses().is_empty());
    assert_eq!(recovered(&db), Some("kept".into()));
}

/// Wherever the power goes in a recovery that cuts the manifest, the next one ends it, and what the
/// log had is never less.
#[test]
fn a_cut_of_the_manifest_may_be_cut_off_anywhere() {
    let base = closed();
    let (places, mut page) = page_with(&base, NAME.as_bytes());
    page[9] ^= 1;
    put(&base, &places, &page);
    let salvage = Salvage { cut_manifest: true, ..Salvage::default() };
    let options = Options { salvage, ..support::options() };
    let recover = |device: &SimDevice| -> kvs::Result<()> {
        let db = support::open(device, &options)?;
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
        match support::open(&device.after_crash(0), &support::options()) {
            Ok(db) => assert_eq!(recovered(&db), Some("kept".into()), "cut at {cut}"),
            Err(error) => assert_eq!(error.way_out(), Some(WayOut::Manifest), "{cut}: {error}"),
        }
        recover(&device).unwrap();
        let db = support::open(&device, &support::options()).unwrap();
        assert_eq!(recovered(&db), Some("kept".into()), "cut at {cut}");
        assert_eq!(db.open_kvs("a").unwrap().get(b"k").unwrap().unwrap().value, VALUE);
    }
}

/// What the log had of the KVS whose name is lost.
fn recovered(db: &kvs::Database) -> Option<String> {
    let name =
        db.list_kvs().into_iter().map(|kvs| kvs.name).find(|name| name.starts_with("rec"))?;
    let entry = db.open_kvs(&name).unwrap().get(b"q").unwrap()?;
    Some(String::from_utf8(entry.value.to_vec()).unwrap())
}

/// Flips each bit of the frame that holds `bytes`, and opens.
fn check_every_flip(bytes: &[u8], what: &str) {
    let device = closed();
    let (places, mut page) = page_with(&device, bytes);
    let last = page.iter().rposition(|byte| *byte != 0).expect("it holds something");
    for bit in 0..=last * 8 {
        page[bit / 8] ^= 1 << (bit % 8);
        put(&device, &places, &page);
        match support::open(&device, &support::options()) {
            Err(Error::Corrupt { what: found, .. }) => {
                assert!(found.contains(what), "bit {bit}: {found}");
            }
            // The journal itself may say so.
            Err(error @ Error::Pool(_)) => assert!(error.to_string().contains("mdc-"), "{error}"),
            other => panic!("bit {bit}: {:?}", other.map(|db| db.list_kvs())),
        }
        page[bit / 8] ^= 1 << (bit % 8);
    }
    put(&device, &places, &page);
    let db = support::open(&device, &support::options()).unwrap();
    assert!(db.open_kvs(NAME).is_ok());
    assert_eq!(db.open_kvs("a").unwrap().get(b"k").unwrap().unwrap().value, VALUE);
}

#[test]
fn any_flipped_bit_of_the_logs_last_frame_is_told() {
    check_every_flip(VALUE, "write-ahead log segment 1");
}

/// The KVS was gone without a word, and so was what the log held for it.
#[test]
fn any_flipped_bit_of_the_manifests_last_frame_is_told() {
    check_every_flip(NAME.as_bytes(), "manifest");
}
