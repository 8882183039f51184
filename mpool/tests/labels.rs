//! A volume's label is there twice: either copy opens the volume, and the open puts the other one
//! right. What has been taken by somebody else is not taken back.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

use mpool::{
    ALLOC_UNIT, CheckOptions, CheckReport, Device, Error, IO_ALIGN, IoBackend, IoBuf, MediaClass,
    Options, Pool, Severity, VolumeId,
};
use mpool_sim::SimDevice;
use std::sync::Arc;

const DEVICE_BYTES: u64 = 8 << 20;
const LABEL_BYTES: u64 = 512;

fn options() -> Options {
    Options { io: IoBackend::Threads, queue_depth: 2, background: false, ..Options::default() }
}

/// Root and the volume beside it.
type Pair = [SimDevice; 2];

fn others(pair: &Pair) -> [(VolumeId, Arc<dyn Device>); 1] {
    [(VolumeId::new(1).unwrap(), Arc::new(pair[1].clone()))]
}

fn open(pair: &Pair, options: &Options) -> Result<Arc<Pool>, Error> {
    Pool::open_with(Arc::new(pair[0].clone()), &others(pair), options)
}

fn check(pair: &Pair) -> CheckReport {
    Pool::check_on(Arc::new(pair[0].clone()), &others(pair), CheckOptions::default()).unwrap()
}

fn pair() -> Pair {
    let pair = [SimDevice::new(DEVICE_BYTES), SimDevice::new(DEVICE_BYTES)];
    let pool = Pool::create(Arc::new(pair[0].clone()), &options()).unwrap();
    pool.add_volume_on(Arc::new(pair[1].clone()), MediaClass::Staging).unwrap();
    drop(pool);
    copy_of(&pair)
}

fn copy_of(pair: &Pair) -> Pair {
    [pair[0].after_crash(0), pair[1].after_crash(0)]
}

fn page(device: &SimDevice, at: u64) -> Vec<u8> {
    let mut page = IoBuf::zeroed(IO_ALIGN);
    device.read_at(at, &mut page).unwrap();
    page.to_vec()
}

fn put(device: &SimDevice, at: u64, bytes: &[u8]) {
    let mut page = IoBuf::zeroed(IO_ALIGN);
    page[..bytes.len()].copy_from_slice(bytes);
    device.write_durable_at(at, &page).unwrap();
}

fn alike(device: &SimDevice) -> bool {
    page(device, 0) == page(device, ALLOC_UNIT)
}

/// One flipped bit in a label kept the pool shut, and what was on the volume was said to be lost.
#[test]
fn either_copy_of_a_label_opens_the_volume_and_the_other_is_put_right() {
    let whole = pair();
    assert!(alike(&whole[1]));
    for (at, part) in [(0, "copy 1"), (ALLOC_UNIT, "copy 2")] {
        for byte in 0..LABEL_BYTES {
            let rotten = copy_of(&whole);
            rotten[1].flip_bit(at + byte, u8::try_from(byte % 8).unwrap());
            if byte % 16 == 0 {
                let report = check(&rotten);
                let issues: Vec<String> = report.issues.iter().map(ToString::to_string).collect();
                assert_eq!(report.worst(), Some(Severity::Warning), "{issues:?}");
                assert!(issues[0].contains(&format!("label of vol-1: {part}, ")), "{issues:?}");
                assert!(issues[0].contains("the next start writes this copy again"), "{issues:?}");
            }
            if let Err(error) = open(&rotten, &options()) {
                panic!("copy at {at}, byte {byte}: {error}");
            }
            assert!(alike(&rotten[1]), "copy at {at}, byte {byte}: it is put right");
        }
    }
}

#[test]
fn a_read_only_open_uses_the_good_copy_and_writes_nothing() {
    let rotten = pair();
    rotten[1].flip_bit(20, 1);
    let options = Options { read_only: true, ..options() };
    drop(open(&rotten, &options).unwrap());
    assert!(!alike(&rotten[1]));
}

#[test]
fn without_both_copies_the_volume_is_refused_and_so_is_what_others_have_taken() {
    let whole = pair();
    let both = copy_of(&whole);
    for at in [0, ALLOC_UNIT] {
        both[1].flip_bit(at + 40, 2);
    }
    let refused = open(&both, &options()).map(drop).unwrap_err().to_string();
    assert!(refused.contains("carries a label that is damaged or newer"), "{refused}");
    // A file system that was made on the drive is not written over.
    let taken = copy_of(&whole);
    put(&taken[1], 0, b"XFSB");
    let refused = open(&taken, &options()).map(drop).unwrap_err().to_string();
    assert!(refused.contains("carries an XFS file system"), "{refused}");
    assert_eq!(page(&taken[1], 0)[..4], *b"XFSB");
    assert_eq!(check(&taken).worst(), Some(Severity::Error));
    // What was merely lost is put right.
    let zeroed = copy_of(&whole);
    put(&zeroed[1], 0, b"");
    drop(open(&zeroed, &options()).unwrap());
    assert!(alike(&zeroed[1]));
}

/// What somebody may make over the start of a volume: a partition table alone, the first bytes of a
/// file system, the label of LVM beside ours.
fn marks() -> [(&'static str, usize, Vec<u8>); 4] {
    let mut mbr = vec![0; 512];
    mbr[446..462].copy_from_slice(&[0x80, 0, 2, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0, 1, 0]);
    mbr[510..].copy_from_slice(&[0x55, 0xAA]);
    let mut ext = vec![0; 4096];
    for (at, byte) in [(1080, 0x53), (1081, 0xEF), (1024 + 0x18, 2), (1024 + 0x4C, 1)] {
        ext[at] = byte;
    }
    let mut beside = vec![0; 1024];
    beside[512..520].copy_from_slice(b"LABELONE");
    [
        ("a partition table (MBR)", 0, mbr),
        ("an ext2 file system", 0, ext),
        ("an XFS file system", 0, b"XFSB".to_vec()),
        ("an LVM2 physical volume", 512, beside),
    ]
}

/// Puts a mark there; what is before `from` stays.
fn mark(device: &SimDevice, from: usize, bytes: &[u8]) {
    let mut whole = page(device, 0);
    whole[from..].fill(0);
    whole[from..bytes.len()].copy_from_slice(&bytes[from..]);
    put(device, 0, &whole);
}

/// The second copy that is left used to hide what stands in the place of the first one, which was
/// then written over.
#[test]
fn what_others_have_made_over_the_first_copy_is_named_and_stays() {
    let whole = pair();
    for (what, from, bytes) in marks() {
        for device in [0, 1] {
            let taken = copy_of(&whole);
            mark(&taken[device], from, &bytes);
            let before = page(&taken[device], 0);
            for options in [options(), Options { read_only: true, ..options() }] {
                let refused = open(&taken, &options).map(drop).unwrap_err().to_string();
                assert!(refused.contains(what) && refused.contains("wipefs"), "{refused}");
            }
            assert!(page(&taken[device], 0) == before, "{what} stays on device {device}");
            assert!(check(&taken).worst() >= Some(Severity::Warning), "{what}");
            // The way out that the refusal names.
            put(&taken[device], 0, b"");
            drop(open(&taken, &options()).unwrap());
            assert!(alike(&taken[device]), "{what} on device {device}");
        }
    }
}

/// A flipped bit behind the label, or behind the superblock, in its page.
#[test]
fn the_rest_of_a_page_is_put_right_too() {
    let whole = pair();
    for (device, at) in [(0, 0), (0, ALLOC_UNIT), (1, 0), (1, ALLOC_UNIT)] {
        let rotten = copy_of(&whole);
        rotten[device].flip_bit(at + 2000, 3);
        assert_eq!(check(&rotten).worst(), Some(Severity::Warning));
        drop(open(&rotten, &options()).unwrap());
        assert!(alike(&rotten[device]));
        assert_eq!(check(&rotten).issues, [], "device {device}, copy at {at}");
    }
}

/// The first copy went back to an older session: a write that was lost.
#[test]
fn the_later_copy_of_a_label_counts() {
    let whole = pair();
    let old = page(&whole[1], 0);
    drop(open(&whole, &options()).unwrap());
    drop(open(&whole, &options()).unwrap());
    for at in [0, ALLOC_UNIT] {
        let mixed = copy_of(&whole);
        put(&mixed[1], at, &old);
        drop(open(&mixed, &options()).unwrap_or_else(|error| panic!("copy at {at}: {error}")));
        assert!(alike(&mixed[1]));
    }
    let stale = copy_of(&whole);
    for at in [0, ALLOC_UNIT] {
        put(&stale[1], at, &old);
    }
    let refused = open(&stale, &options()).map(drop).unwrap_err().to_string();
    assert!(refused.contains("older copy"), "{refused}");
}

/// A volume of an earlier program has one copy. An open that wrote a lost second copy did not warn.
#[test]
fn a_volume_without_a_second_copy_gets_it_at_open() {
    let old = pair();
    put(&old[1], ALLOC_UNIT, b"");
    let report = check(&old);
    let issues: Vec<String> = report.issues.iter().map(ToString::to_string).collect();
    assert_eq!(
        (report.worst(), &report.findings[..]),
        (Some(Severity::Note), &[][..]),
        "{issues:?}"
    );
    assert!(issues[0].starts_with("note: label of vol-1: copy 2 is missing; "), "{issues:?}");
    drop(open(&old, &options()).unwrap());
    assert!(alike(&old[1]));
    assert_eq!(check(&old).issues, []);
}
