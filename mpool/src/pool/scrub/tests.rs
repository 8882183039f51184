//! Every flipped bit is found and named; nothing else is.

use super::*;
use crate::{
    Device, MdcRoom, MediaClass, Options, Priority,
    device::Geometry,
    journal::pool_journal::owner_word,
    object::mblock::Mblock,
    verify::{
        heads, logs,
        objects::{self, Object},
    },
};
use mpool_sim::{Seeded, SimDevice};
use parking_lot::Mutex;
use std::{collections::BTreeMap, fs::File, io, ops::Range};

const PAGE: u64 = IO_ALIGN as u64;

fn options() -> Options {
    Options {
        io: crate::IoBackend::Threads,
        queue_depth: 4,
        capacity_bytes_max: 64 << 20,
        grow_step_bytes: 1 << 20,
        reserve_bytes: Some(0),
        // A journal that is rewritten meanwhile leaves the flipped bit in bytes that are dead.
        background: false,
        ..Options::default()
    }
}

fn fast() -> ScrubOptions {
    ScrubOptions { bytes_per_s: 0, read_bytes: 16 << 10, from_start: true }
}

/// A small pool of two volumes with something of everything.
struct Pond {
    root: SimDevice,
    other: SimDevice,
    pool: Arc<Pool>,
    mdc: crate::Mdc,
    segment: Segment,
}

fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Seeded::new(seed);
    std::iter::repeat_with(|| random.next_u64().to_le_bytes()).flatten().take(len).collect()
}

fn put(pool: &Arc<Pool>, seed: u64, len: usize, class: MediaClass) -> Mblock {
    let placement = crate::Placement { class, ..Priority::Flush.into() };
    let mut writer = pool.allocate(len.max(1) as u64, placement).unwrap();
    writer.append(&content(seed, len)).unwrap();
    pool.commit(vec![writer], &[]).unwrap().remove(0)
}

impl Pond {
    fn new() -> Self {
        let (root, other) = (SimDevice::new(64 << 20), SimDevice::new(64 << 20));
        let pool = Pool::create(Arc::new(root.clone()), &options()).unwrap();
        pool.add_volume_on(Arc::new(other.clone()), MediaClass::Staging).unwrap();
        for (seed, len) in [0, 1, 4095, 4096, 10_000, 70_000].into_iter().enumerate() {
            let classes = [MediaClass::Capacity, MediaClass::Staging];
            put(&pool, seed as u64, len, classes[seed % 2]);
        }
        let id = pool.create_mdc(128 << 10).unwrap();
        let mdc = pool.open_mdc(id, &mut |_| Ok(())).unwrap();
        mdc.compact_in_background(Arc::new(|| Box::new(|| vec![content(9, 5000)]))).unwrap();
        // One long record; rewritten once, so that the other log is retired.
        for seed in 0..40 {
            let record = content(seed, if seed == 38 { 9000 } else { 100 });
            mdc.append(&record, MdcRoom::Usual, || ()).unwrap();
        }
        let segment = pool.create_segment(64 << 10).unwrap();
        segment.write_at(0, &content(5, 8192)).unwrap();
        pool.flush().unwrap();
        Self { root, other, pool, mdc, segment }
    }

    fn flip(&self, address: u64, bit: u8) {
        let volume = crate::VolumeId::of(address);
        let device = if volume == crate::VolumeId::ROOT { &self.root } else { &self.other };
        device.flip_bit(crate::address::offset_of(address), bit);
    }

    fn byte(&self, address: u64) -> u8 {
        let mut page = mpool_device::IoBuf::zeroed(IO_ALIGN);
        let at = usize::try_from(address % PAGE).unwrap();
        self.pool.volumes.read(address - at as u64, &mut page, Priority::Read).unwrap();
        page[at]
    }

    fn findings(&self) -> Vec<Finding> {
        scrubbed(&self.pool).findings
    }

    /// Every page that is covered: what it is of, where in it, and its address.
    fn pages(&self) -> Vec<Page> {
        let mut pages = Vec::new();
        for (copy, address) in [0, crate::ALLOC_UNIT].into_iter().enumerate() {
            let target = ScrubTarget::Superblock(u8::try_from(copy).unwrap());
            pages.push(Page { target, part: ScrubPart::Data, offset: 0, address });
        }
        let other = self.pool.volumes()[1].id;
        let target = ScrubTarget::Label(other);
        for (part, at) in [(ScrubPart::Data, 0), (ScrubPart::LabelCopy, crate::ALLOC_UNIT)] {
            pages.push(Page { target, part, offset: 0, address: other.address(at) });
        }
        let open = self.pool.open_mdcs.lock()[&self.mdc.id()].clone();
        for (target, position) in [
            (ScrubTarget::PoolJournal, self.pool.journal.position()),
            (ScrubTarget::Journal(self.mdc.id()), open().unwrap()),
        ] {
            for (log, place) in position.logs.iter().enumerate() {
                let end = if log == position.active { position.tail } else { PAGE };
                for (copy, extent) in place.copies().enumerate() {
                    let part = ScrubPart::of_log(log, copy);
                    pages.extend((0..end).step_by(IO_ALIGN).map(|offset| Page {
                        target,
                        part,
                        offset,
                        address: extent.offset + offset,
                    }));
                }
            }
        }
        for id in self.pool.mblock_ids() {
            let mblock = self.pool.mblock(id).unwrap();
            let target = ScrubTarget::Mblock(id);
            let data = sums::padded_len(mblock.len_bytes());
            for at in (0..sums::total_len(mblock.len_bytes())).step_by(IO_ALIGN) {
                let address = mblock.layout().address_of(&(at..at + PAGE)).unwrap();
                let in_table = at >= data;
                let part = if in_table { ScrubPart::Table } else { ScrubPart::Data };
                let offset = if in_table { at - data } else { at };
                pages.push(Page { target, part, offset, address });
            }
        }
        pages
    }
}

fn scrubbed(pool: &Arc<Pool>) -> ScrubProgress {
    let progress = pool.scrub(&fast(), &ScrubOwners::default()).unwrap();
    assert!(!progress.running && !progress.under_way);
    progress
}

#[derive(Clone, Copy, Debug)]
struct Page {
    target: ScrubTarget,
    part: ScrubPart,
    offset: u64,
    address: u64,
}

impl Page {
    /// Whether a finding names this page, though perhaps more around it: a frame is one thing.
    fn is_named_by(&self, finding: &Finding) -> bool {
        let covers = |start: u64, at: u64| (start..start + finding.len_bytes).contains(&at);
        (finding.target, finding.part) == (self.target, self.part)
            && covers(finding.offset, self.offset)
            && covers(finding.address(), self.address)
    }
}

#[test]
fn a_flipped_bit_anywhere_is_found_and_nothing_else_is() {
    let pond = Pond::new();
    assert_eq!(pond.findings(), []);
    let mut random = Seeded::new(31);
    let mut kinds: BTreeMap<String, u32> = BTreeMap::new();
    for round in 0..250 {
        // The journal grows by the scrub's own place.
        let pages = pond.pages();
        let pick = if round % 2 == 0 { random.below(pages.len() as u64) } else { round % 60 };
        let page = pages[usize::try_from(pick).unwrap() % pages.len()];
        let (at, bit) = (page.address + random.below(PAGE), u8::try_from(random.below(8)).unwrap());
        pond.flip(at, bit);
        let flipped = pond.byte(at);
        let found = pond.findings();
        // The scrub's own place may have been what the journal was rewritten for.
        if pond.byte(at) == flipped {
            pond.flip(at, bit);
        }
        assert_eq!(found.len(), 1, "round {round}, byte {at}, bit {bit} of {page:?}: {found:?}");
        assert!(page.is_named_by(&found[0]), "round {round}: {page:?} is not {:?}", found[0]);
        *kinds.entry(format!("{:?}", page.part)).or_default() += 1;
    }
    assert!(kinds.len() == 7, "all parts were damaged: {kinds:?}");
    assert_eq!(pond.findings(), []);
}

/// Every byte of everything covered, object by object: what a whole scrub would take hours for.
#[test]
fn every_byte_is_covered() {
    let pond = Pond::new();
    let mut random = Seeded::new(7);
    for page in pond.pages() {
        // Second copies are verified by what verifies the first ones.
        let is_second = matches!(page.part, ScrubPart::LogACopy | ScrubPart::LogBCopy);
        let step = if is_second { 61 } else { 1 };
        for byte in (page.address..page.address + PAGE).step_by(step) {
            let bit = u8::try_from(random.below(8)).unwrap();
            pond.flip(byte, bit);
            let mut findings = Vec::new();
            look(&pond, page.target, &mut findings);
            pond.flip(byte, bit);
            assert_eq!(findings.len(), 1, "byte {byte}, bit {bit} of {page:?}: {findings:?}");
            assert!(page.is_named_by(&findings[0]), "{page:?} is not {:?}", findings[0]);
        }
    }
}

/// Verifies one target as a scrub does.
fn look(pond: &Pond, target: ScrubTarget, findings: &mut Vec<Finding>) {
    let pool = &pond.pool;
    let mut reader = Reader::direct(&pool.volumes, 1 << 20);
    let outcome = match target {
        ScrubTarget::Superblock(_) => {
            heads::superblock(Some(pool.uuid), &mut reader, findings).map(|_| ())
        }
        ScrubTarget::Label(id) => {
            let uuid = pool.journal.read(|catalog| catalog.volumes[&id].uuid);
            let expected = (&heads::labels(pool.uuid, [(id, uuid)])[0], None);
            let volume = pool.volumes.get(id).unwrap();
            heads::label(expected, &**volume.device(), &mut reader, findings)
        }
        ScrubTarget::PoolJournal | ScrubTarget::Journal(_) => {
            let (owner, position) = match target {
                ScrubTarget::Journal(id) => (id.get(), pool.open_mdcs.lock()[&id].clone()()),
                _ => (0, Some(pool.journal.position())),
            };
            let owner = owner_word(pool.uuid, owner);
            logs::verify((target, owner), &position.unwrap(), &mut reader, findings)
        }
        ScrubTarget::Mblock(id) => {
            let mblock = pool.mblock(id).unwrap();
            let (layout, len_bytes) = (mblock.layout(), mblock.len_bytes());
            let object = Object { id, layout, len_bytes, sums_crc: mblock.sums_crc() };
            objects::verify(&object, &mut reader, findings)
        }
        ScrubTarget::Segment(_) => unreachable!("its owner verifies it"),
    };
    outcome.unwrap();
}

#[test]
fn damage_in_table_and_data_together_is_suspect_and_both_are_named() {
    let pond = Pond::new();
    let mblock = pond.pool.mblock(*pond.pool.mblock_ids().last().unwrap()).unwrap();
    let place = |at: u64| mblock.layout().address_of(&(at..at + PAGE)).unwrap();
    let (data, table) = (place(3 * PAGE), place(sums::padded_len(mblock.len_bytes())));
    pond.flip(data + 9, 1);
    pond.flip(table + 4 * 7, 1);
    let found = pond.findings();
    let named: Vec<_> = found.iter().map(|f| (f.part, f.offset, f.damage)).collect();
    let suspect = |part, page: u64| (part, page * PAGE, Damage::Suspect);
    let want =
        [suspect(ScrubPart::Table, 0), suspect(ScrubPart::Data, 3), suspect(ScrubPart::Data, 7)];
    assert_eq!(named, want);
}

#[test]
fn a_segment_is_its_owner_s_to_verify_and_findings_have_owners() {
    let pond = Pond::new();
    let want = content(5, 8192);
    let verify = |segment: &Segment, pause: &mut dyn FnMut(u64) -> bool| {
        assert!(pause(8192));
        let mut buf = crate::IoBuf::zeroed(8192);
        segment.read_at(0, &mut buf).unwrap();
        let bad = |page: &u64| {
            let at = usize::try_from(*page).unwrap() * IO_ALIGN;
            buf[at..at + IO_ALIGN] != want[at..at + IO_ALIGN]
        };
        let damaged = (0..2).filter(bad).map(|page| (page * PAGE, PAGE)).collect();
        Some(SegmentScrub { bytes: 8192, damaged })
    };
    let owner_of = |found: &Finding| {
        (found.target == ScrubTarget::Segment(pond.segment.id())).then(|| "log".into())
    };
    let owners = ScrubOwners { owner_of: &owner_of, segment: &verify };
    assert_eq!(pond.pool.scrub(&fast(), &owners).unwrap().findings, []);
    pond.flip(pond.segment.address() + 5000, 0);
    let found = pond.pool.scrub(&fast(), &owners).unwrap().findings;
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].offset, found[0].owner.as_deref()), (PAGE, Some("log")));
    assert!(found[0].to_string().ends_with("it belongs to log"), "{}", found[0]);
}

/// Nobody has the journal open: its end is where reading it ends, and the last frame is looked at.
#[test]
fn a_closed_journal_is_verified_to_its_last_frame() {
    let Pond { root, other, pool, mdc, .. } = Pond::new();
    let id = mdc.id();
    let position = pool.open_mdcs.lock()[&id].clone()().unwrap();
    drop(mdc);
    let log = position.logs[position.active];
    let copies: Vec<u64> = log.copies().map(|copy| copy.offset).collect();
    let last = position.tail - PAGE;
    for (at, damage) in [
        (4, Damage::Checksum),
        (PAGE + 77, Damage::Checksum),
        (last, Damage::TornOrDamaged),
        (last + 8, Damage::TornOrDamaged),
        (last + 45, Damage::TornOrDamaged),
        (last + 60, Damage::TornOrDamaged),
    ] {
        // In one copy it is damage, wherever it is; in both the last frame may be a torn one.
        for (struck, damage) in [
            (&copies[..1], Damage::Checksum),
            (&copies[1..], Damage::Checksum),
            (&copies[..], damage),
        ] {
            for copy in struck {
                root.flip_bit(copy + at, 2);
            }
            let found = scrubbed(&pool).findings;
            for copy in struck {
                root.flip_bit(copy + at, 2);
            }
            assert!(!found.is_empty(), "{struck:?} at {at}");
            assert!(struck.len() > 1 || found.len() == 1, "{struck:?} at {at}: {found:?}");
            let page = struck[0] + at - at % PAGE;
            assert_eq!((found[0].target, found[0].damage), (ScrubTarget::Journal(id), damage));
            // Without its first frame a log cannot be read at all, and only the election speaks.
            let exact = damage == Damage::TornOrDamaged || struck.len() == 1;
            assert!(!exact || found[0].address() == page, "{page}: {found:?}");
        }
    }
    assert_eq!(scrubbed(&pool).findings, []);
    drop(other);
}

/// A device with places that the drive cannot read.
struct Scratched {
    inner: SimDevice,
    bad: Arc<Mutex<Range<u64>>>,
}

impl Device for Scratched {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let bad = self.bad.lock().clone();
        if offset < bad.end && bad.start < offset + buf.len() as u64 {
            return Err(io::Error::other("scratched"));
        }
        self.inner.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.inner.write_at(offset, buf)
    }

    fn flush(&self) -> io::Result<()> {
        self.inner.flush()
    }

    fn grow(&self, len_bytes: u64) -> io::Result<()> {
        self.inner.grow(len_bytes)
    }

    fn file(&self) -> Option<&File> {
        None
    }

    fn kind(&self) -> &'static str {
        "scratched"
    }
}

#[test]
fn what_the_drive_cannot_read_is_named_to_the_page() {
    let bad = Arc::new(Mutex::new(0..0));
    let device = Scratched { inner: SimDevice::new(64 << 20), bad: Arc::clone(&bad) };
    let pool = Pool::create(Arc::new(device), &options()).unwrap();
    let mblock = put(&pool, 1, 100_000, MediaClass::Capacity);
    let place = |at: u64| mblock.layout().address_of(&(at..at + PAGE)).unwrap();
    *bad.lock() = place(5 * PAGE)..place(7 * PAGE);
    let found = scrubbed(&pool).findings;
    assert_eq!(found.len(), 1, "{found:?}");
    let Finding { part, offset, len_bytes, damage, .. } = found[0];
    assert_eq!((part, offset, len_bytes), (ScrubPart::Data, 5 * PAGE, 2 * PAGE));
    assert_eq!(damage, Damage::Unreadable);
    *bad.lock() = place(sums::padded_len(100_000))..place(sums::padded_len(100_000)) + PAGE;
    let found = scrubbed(&pool).findings;
    assert_eq!(found.len(), 1, "the data is sound by its own checksums: {found:?}");
    assert_eq!((found[0].part, found[0].damage), (ScrubPart::Table, Damage::Unreadable));
    *bad.lock() = 0..1;
    let found = scrubbed(&pool).findings;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].target, ScrubTarget::Superblock(0));
}

#[test]
fn a_stopped_scrub_goes_on_after_a_restart_and_keeps_what_it_found() {
    let pond = Pond::new();
    for seed in 100..140 {
        put(&pond.pool, seed, 50_000, MediaClass::Capacity);
    }
    let whole = scrubbed(&pond.pool);
    assert_eq!((whole.passes, whole.goal_bytes), (1, whole.bytes));
    let pages = pond.pages();
    let early = pages.iter().find(|page| matches!(page.target, ScrubTarget::Mblock(_))).unwrap();
    pond.flip(early.address, 0);
    let slow = ScrubOptions { bytes_per_s: 200 << 10, ..fast() };
    let pool = &pond.pool;
    let stopped = std::thread::scope(|scope| {
        let scrub = scope.spawn(|| pool.scrub(&slow, &ScrubOwners::default()).unwrap());
        while pool.scrub_progress().findings_total == 0 {
            std::thread::yield_now();
        }
        let refused = pool.scrub(&fast(), &ScrubOwners::default()).unwrap_err().to_string();
        assert!(refused.contains("running already"), "{refused}");
        assert!(pool.stop_scrub());
        scrub.join().unwrap()
    });
    assert!(stopped.under_way && !stopped.running, "{stopped:?}");
    assert!(stopped.bytes < whole.bytes && stopped.passes == 1);
    assert!(
        stopped.goal_bytes.abs_diff(whole.bytes) < whole.bytes / 4,
        "what is left, and no more"
    );
    assert!(!pool.stop_scrub(), "none runs");
    pond.flip(early.address, 0);
    let Pond { root, other, pool, mdc, segment } = pond;
    let other_id = pool.volumes()[1].id;
    drop((pool, mdc, segment));
    let others: [(_, Arc<dyn Device>); 1] = [(other_id, Arc::new(other))];
    let pool = Pool::open_with(Arc::new(root), &others, &options()).unwrap();
    let before = pool.scrub_progress();
    assert_eq!((before.bytes, before.next_id), (stopped.bytes, stopped.next_id));
    let on = ScrubOptions { from_start: false, ..fast() };
    let owner_of = |finding: &Finding| Some(format!("the owner of {}", finding.target));
    let owners = ScrubOwners { owner_of: &owner_of, ..ScrubOwners::default() };
    let ended = pool.scrub(&on, &owners).unwrap();
    assert_eq!((ended.passes, ended.findings_total, ended.under_way), (2, 1, false));
    assert_eq!(ended.findings[0].target, early.target);
    assert_eq!(ended.findings[0].owner, Some(format!("the owner of {}", early.target)));
    assert!(ended.bytes.abs_diff(whole.bytes) < whole.bytes / 4, "nothing twice, nothing left out");
}

#[test]
fn a_clean_pool_has_no_findings_whatever_happens_meanwhile() {
    let pond = Pond::new();
    let pool = &pond.pool;
    let stop = std::sync::atomic::AtomicBool::new(false);
    let is_over = || stop.load(std::sync::atomic::Ordering::Relaxed);
    std::thread::scope(|scope| {
        for thread in 0..2_u64 {
            scope.spawn(move || {
                let mut own = Vec::new();
                let mut random = Seeded::new(thread);
                while !is_over() {
                    let len = usize::try_from(random.below(200_000)).unwrap();
                    let classes = [MediaClass::Capacity, MediaClass::Staging];
                    own.push(put(pool, random.next_u64(), len, classes[len % 2]).id());
                    if own.len() > 8 {
                        let doomed = own.swap_remove(usize::try_from(random.below(8)).unwrap());
                        pool.commit(Vec::new(), &[doomed]).unwrap();
                    }
                }
            });
        }
        scope.spawn(|| {
            for n in 0_u64.. {
                if is_over() {
                    break;
                }
                pond.mdc.append(&content(n, 3000), MdcRoom::Usual, || ()).unwrap();
                for id in pool.mblock_ids().into_iter().take(2) {
                    pool.relocate(id).unwrap();
                }
                if n % 8 == 0 {
                    let staging = pool.volumes()[1].id;
                    pool.evacuate_volume(staging, &mut |_| ()).unwrap();
                    pool.cancel_evacuation(staging).unwrap();
                }
            }
        });
        for _ in 0..25 {
            let progress = scrubbed(pool);
            assert_eq!(progress.findings, []);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

/// In a pool that is open no second copy of a label is missing: the open has written it.
#[test]
fn a_second_copy_of_a_label_that_went_blank_is_found() {
    let pond = Pond::new();
    pond.other.write_at(crate::ALLOC_UNIT, &mpool_device::IoBuf::zeroed(IO_ALIGN)).unwrap();
    let found = pond.findings();
    assert_eq!(found.len(), 1, "{found:?}");
    let id = pond.pool.volumes()[1].id;
    assert_eq!((found[0].target, found[0].part), (ScrubTarget::Label(id), ScrubPart::LabelCopy));
}
