//! Bad bits and failing reads: an error or the right answer, never another one, never a panic.

use super::*;
use crate::entry::version::VersionCursor;
use crate::error::{Error, Result, Scope};
use crate::kvset::page::PAGE_BYTES;
use crate::kvset::{Holes, Probe, ReadAhead, ReadMode, ScanAhead};
use mpool::{Device, IoBuf, MblockId};
use std::collections::HashMap;

/// Where each page of an object lies on the device, found by content.
struct Medium {
    device: SimDevice,
    offsets: HashMap<Vec<u8>, u64>,
}

impl Medium {
    fn new(device: SimDevice) -> Self {
        let len = device.geometry().len_bytes;
        let mut offsets = HashMap::new();
        let mut page = vec![0; PAGE_BYTES];
        for offset in (0..len).step_by(PAGE_BYTES) {
            device.read_at(offset, &mut page).unwrap();
            if page.iter().any(|byte| *byte != 0) {
                offsets.insert(page.clone(), offset);
            }
        }
        Self { device, offsets }
    }

    fn page_offset(&self, pool: &Arc<Pool>, id: MblockId, page: u64) -> u64 {
        let mut bytes = IoBuf::zeroed(PAGE_BYTES);
        pool.mblock(id).unwrap().read_at(page * PAGE_BYTES as u64, &mut bytes).unwrap();
        self.offsets[&bytes.to_vec()]
    }

    /// Flips a bit of a page, runs `see`, and flips it back.
    fn with_flip<T>(&self, page_offset: u64, bit: usize, see: impl FnOnce() -> T) -> T {
        let offset = page_offset + (bit / 8) as u64;
        let bit = u8::try_from(bit % 8).unwrap();
        self.device.flip_bit(offset, bit);
        let seen = see();
        self.device.flip_bit(offset, bit);
        seen
    }
}

fn lookup(kvset: &Kvset, key: &[u8]) -> Result<Option<Held>> {
    Ok(match probe(kvset, key)? {
        Probe::Excluded | Probe::Miss => None,
        Probe::Cold => unreachable!("it blocks"),
        Probe::Tombstone(revision) => Some(Held { revision, value: None }),
        Probe::Inline(revision, value) => Some(Held { revision, value: Some(value.to_vec()) }),
        Probe::Extern(revision, ptr) => {
            Some(Held { revision, value: Some(kvset.read_value(ptr)?.to_vec()) })
        }
    })
}

/// Every answer is right or an error about an object; returns how many were errors.
fn errors_of_lookups(kvset: &Kvset, model: &Model) -> usize {
    let mut errors = 0;
    for (key, expect) in model {
        let stranger = [key, &[0][..]].concat();
        for (key, expect) in [(key, Some(expect)), (&stranger, model.get(&stranger))] {
            match lookup(kvset, key) {
                Ok(found) => assert_eq!(found.as_ref(), expect),
                Err(error) => {
                    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
                    assert_eq!(error.scope(), Scope::Object);
                    errors += 1;
                }
            }
        }
    }
    errors
}

fn errors_of_walk(kvset: &Arc<Kvset>, model: &Model, mode: ReadMode) -> usize {
    let mut cursor = kvset.cursor(mode);
    let mut seen = model.iter();
    let mut errors = 0;
    let mut outcome = cursor.seek_first();
    loop {
        if outcome.is_err() {
            assert!(!cursor.valid());
            return errors + 1;
        }
        let Some((key, held)) = seen.next() else { break };
        assert_eq!(cursor.key(), key);
        if let Some(expect) = &held.value {
            match cursor.value() {
                Ok(value) => assert_eq!(value, expect),
                Err(_) => errors += 1,
            }
        }
        outcome = cursor.next();
    }
    assert!(!cursor.valid());
    errors
}

#[test]
fn flipped_bits_on_the_medium_are_errors_and_never_answers() {
    let mut random = Random(11);
    let model = random.model(250);
    let (device, pool) = new_pool();
    let kvset = build_and_open(&pool, &model);
    let medium = Medium::new(device);
    assert_eq!(errors_of_lookups(&kvset, &model), 0);
    let mut struck = 0;
    let kblocks = kvset.meta().kblocks.clone();
    for (at, id) in kblocks.into_iter().enumerate() {
        let filter_start = u64::from(kvset.kblocks[at].footer().filter_start());
        let pages = pool.mblock(id).unwrap().len_bytes() / PAGE_BYTES as u64;
        for page in 0..pages - 1 {
            let offset = medium.page_offset(&pool, id, page);
            let bit = random.below(PAGE_BYTES * 8);
            medium.with_flip(offset, bit, || {
                let errors = errors_of_lookups(&kvset, &model);
                struck += usize::from(errors > 0);
                assert!(errors == 0 || page < filter_start, "keys are there without their filter");
                errors_of_walk(&kvset, &model, ReadMode::Direct);
                errors_of_walk(&kvset, &model, ReadMode::Mapped);
            });
        }
        let footer = medium.page_offset(&pool, id, pages - 1);
        let hblock = kvset.meta().hblock;
        let open = || Kvset::open(&pool, hblock, Class::Hot, Class::Warm);
        let bit = random.below(PAGE_BYTES * 8);
        let opened = medium.with_flip(footer, bit, open);
        assert!(matches!(opened, Err(Error::Corrupt { .. })), "bit {bit} of a footer");
    }
    assert!(struck > 5, "{struck} pages");
}

#[test]
fn flipped_bits_of_values_are_errors() {
    let mut random = Random(12);
    let model = random.model(120);
    let (device, pool) = new_pool();
    let kvset = build_and_open(&pool, &model);
    let medium = Medium::new(device);
    let (id, _) = kvset.meta().vblocks[0];
    let len = pool.mblock(id).unwrap().len_bytes();
    let mut errors = 0;
    for page in 0..(len / PAGE_BYTES as u64).min(20) {
        let offset = medium.page_offset(&pool, id, page);
        // Behind the head, so that the bit is one of a record.
        let bit = 32 * 8 + random.below(PAGE_BYTES * 8 - 32 * 8);
        errors += medium.with_flip(offset, bit, || {
            let found = errors_of_lookups(&kvset, &model);
            assert_eq!(errors_of_walk(&kvset, &model, ReadMode::Direct), found);
            assert_eq!(errors_of_walk(&kvset, &model, ReadMode::Mapped), found);
            found
        });
    }
    assert!(errors > 0);
    let head = medium.page_offset(&pool, id, 0);
    let open = || Kvset::open(&pool, kvset.meta().hblock, Class::Hot, Class::Warm);
    // A vblock's head says whose it is; the values behind it carry their own checks and are served.
    for bit in (0..32 * 8).step_by(7) {
        let found = medium.with_flip(head, bit, || errors_of_lookups(&open().unwrap(), &model));
        assert_eq!(found, 0, "bit {bit} of a vblock head");
    }
}

#[test]
fn flipped_bits_of_the_hblock_are_errors() {
    let model = Random(13).model(40);
    let (device, pool) = new_pool();
    let kvset = build_and_open(&pool, &model);
    let medium = Medium::new(device);
    let hblock = kvset.meta().hblock;
    let offset = medium.page_offset(&pool, hblock, 0);
    for bit in (0..PAGE_BYTES * 8).step_by(5) {
        let opened =
            medium.with_flip(offset, bit, || Kvset::open(&pool, hblock, Class::Hot, Class::Warm));
        match opened {
            Err(error) => assert!(matches!(error, Error::Corrupt { .. }), "bit {bit}: {error}"),
            // The padding is not covered, and means nothing.
            Ok(opened) => assert_eq!(opened.meta(), kvset.meta(), "bit {bit}"),
        }
    }
    assert!(Kvset::open(&pool, kvset.meta().kblocks[0], Class::Hot, Class::Warm).is_err());
}

#[test]
fn failing_reads_are_errors_and_pass() {
    let model = Random(14).model(200);
    let (device, pool) = new_pool();
    let kvset = build_and_open(&pool, &model);
    for mode in [ReadMode::Mapped, ReadMode::Direct] {
        for read in 0..20 {
            device.set_faults(mpool_sim::Faults { read_eio_at: Some(read), ..Default::default() });
            errors_of_walk(&kvset, &model, mode);
            device.set_faults(mpool_sim::Faults::default());
            assert_eq!(errors_of_walk(&kvset, &model, mode), 0);
        }
    }
    let key = model.keys().next().unwrap();
    // The filter's page, which can be done without, and the next one.
    device.set_faults(mpool_sim::Faults { read_eio_at: Some(1), ..Default::default() });
    let failed = lookup(&kvset, key).unwrap_err();
    assert!(matches!(failed, Error::Pool(mpool::Error::Io { .. })), "{failed}");
    assert_eq!(lookup(&kvset, key).unwrap().as_ref(), model.get(key));
}

/// What is read ahead may hold damage: it is told at the value that it hit, and nowhere else.
#[test]
fn damage_in_what_is_read_ahead_is_told_where_it_is() {
    let (device, pool) = new_pool();
    let mut model = Model::new();
    for number in 0..2000u32 {
        let held =
            Held { revision: Revision::new(1), value: Some(Random(number.into()).bytes(1000)) };
        model.insert(format!("user{number:020}").into_bytes(), held);
    }
    let kvset = commit(&pool, build(&pool, &model, WHOLE).unwrap());
    let key = format!("user{:020}", 1500).into_bytes();
    let mut cursor = kvset.cursor(ReadMode::Direct);
    cursor.seek(&key).unwrap();
    let Op::Extern(ptr) = cursor.op() else { panic!("it lies in a vblock") };
    let (page, bit) = (ptr.offset as usize / PAGE_BYTES, ptr.offset as usize % PAGE_BYTES * 8);
    let medium = Medium::new(device);
    let offset = medium.page_offset(&pool, cursor.vblock(ptr), page as u64);
    let walk = |forward: bool| {
        let ahead = ScanAhead::new(&Arc::new(ReadAhead::default()), Box::new(|| false));
        let mut cursor = kvset.scan((&Arc::new(Holes::default()), &ahead));
        if forward {
            cursor.seek_first().unwrap();
        } else {
            cursor.seek_last().unwrap();
        }
        let mut bad = Vec::new();
        while cursor.valid() {
            match cursor.value() {
                Ok(value) => assert_eq!(value, model[cursor.key()].value.as_deref().unwrap()),
                Err(_) => bad.push(cursor.key().to_vec()),
            }
            if forward {
                cursor.next().unwrap();
            } else {
                cursor.prev().unwrap();
            }
        }
        bad
    };
    for forward in [true, false] {
        assert_eq!(medium.with_flip(offset, bit, || walk(forward)), [&key[..]]);
        assert!(walk(forward).is_empty());
    }
}
