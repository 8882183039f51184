//! What moves down, and when, in pools on simulated devices.

use crate::{
    Device, Geometry, Mblock, MediaClass, Options, Placement, Pool, Priority, ReturnOptions,
    chores::Bell,
    space::{Room, lower::Below},
};
use mpool_sim::{Faults, SimDevice};
use parking_lot::Mutex;
use std::{fs::File, io, sync::Arc};

const MIB: u64 = 1 << 20;

fn options() -> Options {
    let returning = ReturnOptions { after_s: 0, ..ReturnOptions::default() };
    Options {
        io: crate::IoBackend::Threads,
        queue_depth: 2,
        grow_step_bytes: MIB,
        background: false,
        returning: Some(returning),
        ..Options::default()
    }
}

fn object(pool: &Arc<Pool>, len: u64, fill: u8) -> Mblock {
    placed(pool, Priority::Flush.into(), len, fill)
}

fn staged(pool: &Arc<Pool>, len: u64, fill: u8) -> Mblock {
    let place = Placement { class: MediaClass::Staging, ..Priority::Flush.into() };
    placed(pool, place, len, fill)
}

fn placed(pool: &Arc<Pool>, place: Placement, len: u64, fill: u8) -> Mblock {
    let mut writer = pool.allocate(len, place).unwrap();
    writer.append(&vec![fill; usize::try_from(len).unwrap()]).unwrap();
    pool.commit(vec![writer], &[]).unwrap().remove(0)
}

fn first_page(mblock: &Mblock) -> u8 {
    let mut page = crate::IoBuf::zeroed(4096);
    mblock.read_at(0, &mut page).unwrap();
    page[4095]
}

/// A pool with 40 objects of 2 MiB each; then all but the first and the last eight are deleted.
fn long(device: &SimDevice) -> (Arc<Pool>, Vec<Mblock>) {
    let pool = Pool::create(Arc::new(device.clone()), &options()).unwrap();
    let mut kept: Vec<Mblock> = (0..40).map(|n| object(&pool, 2 * MIB, n)).collect();
    let gone: Vec<_> = kept.drain(1..32).map(|mblock| mblock.id()).collect();
    pool.commit(vec![], &gone).unwrap();
    (pool, kept)
}

fn end(device: &SimDevice) -> u64 {
    device.geometry().len_bytes
}

/// The file stayed as long as it had once been, for one object at its end.
#[test]
fn the_end_is_cleared_and_cut_off_when_its_last_reader_leaves() {
    let device = SimDevice::new(1 << 30);
    let (pool, mut kept) = long(&device);
    let before = end(&device);
    let used = pool.info().used_bytes;
    let ids: Vec<_> = kept.iter().map(Mblock::id).collect();
    let (first, last) = (kept.remove(0), kept.remove(7));
    drop(kept);
    while pool.tidy() {}
    assert_eq!(pool.volumes.metrics().mblocks_moved.get(), 8, "the first stays");
    assert!(last.has_moved() && !first.has_moved());
    assert_eq!(end(&device), before, "the old place is held");
    assert_eq!(first_page(&last), 39);
    drop((first, last));
    while pool.tidy() {}
    assert_eq!(pool.info().used_bytes, used);
    assert!(end(&device) <= used + used / 8 + MIB, "{} for {used}", end(&device));
    assert_eq!(pool.volumes.metrics().mblocks_moved.get(), 8, "no more than that moves");
    let found: Vec<u8> = ids.iter().map(|id| first_page(&pool.mblock(*id).unwrap())).collect();
    assert_eq!(found, [0, 32, 33, 34, 35, 36, 37, 38, 39]);
    drop(pool);
    let pool = Pool::open(Arc::new(device), &options()).unwrap();
    let again: Vec<u8> = ids.iter().map(|id| first_page(&pool.mblock(*id).unwrap())).collect();
    assert_eq!(found, again);
}

/// What had been taken off a volume was moved once more, below a place of that volume.
#[test]
fn what_was_to_move_and_is_on_another_volume_stays_there() {
    let device = SimDevice::new(1 << 30);
    let pool = Pool::create(Arc::new(device), &options()).unwrap();
    let first = object(&pool, 2 * MIB, 0);
    let other = Arc::new(SimDevice::new(1 << 30));
    let id = pool.add_volume_on(other, MediaClass::Staging).unwrap();
    let mut kept: Vec<Mblock> = (0..40).map(|n| staged(&pool, 2 * MIB, n)).collect();
    let gone: Vec<_> = kept.drain(1..32).map(|mblock| mblock.id()).collect();
    pool.commit(vec![], &gone).unwrap();
    drop(kept);
    let moved = || pool.volumes.metrics().mblocks_moved.get();
    while moved() == 0 {
        assert!(pool.tidy());
    }
    pool.evacuate_volume(id, &mut |_| ()).unwrap();
    pool.cancel_evacuation(id).unwrap();
    // There is room at the beginning of where they are.
    pool.commit(vec![], &[first.id()]).unwrap();
    drop(first);
    let before = moved();
    while pool.tidy() {}
    assert_eq!(moved(), before);
}

#[test]
fn what_cannot_be_read_stays_and_what_is_behind_it_moves() {
    let device = SimDevice::new(1 << 30);
    let (pool, mut kept) = long(&device);
    // The last but two.
    let rotten = kept.remove(6).id();
    let place = pool.journal.read(|catalog| catalog.mblocks.get(&rotten).cloned()).unwrap();
    let at = place.extents[0].offset;
    drop(kept);
    device.flip_bit(at + 5000, 3);
    while pool.tidy() {}
    let moved = pool.volumes.metrics().mblocks_moved.get();
    assert_eq!(moved, 2, "what lies before it would move for nothing");
    let place_now = pool.journal.read(|catalog| catalog.mblocks.get(&rotten).cloned()).unwrap();
    assert_eq!(place_now, place);
    assert_eq!(end(&device), place.extents[0].end());
}

/// What moves needs room that the disk below may not have.
#[test]
fn nothing_moves_into_holes_that_cannot_be_refilled() {
    let device = SimDevice::new(1 << 30);
    let (pool, kept) = long(&device);
    let full = Faults { no_refill: true, ..Faults::default() };
    device.set_faults(full);
    drop(kept);
    while pool.tidy() {}
    assert_eq!(pool.volumes.metrics().mblocks_moved.get(), 0);
    device.set_faults(Faults::default());
    while pool.tidy() {}
    assert_eq!(pool.volumes.metrics().mblocks_moved.get(), 8);
}

/// Four hundred objects of 64 KiB, every second of which is deleted, and one behind them.
fn scattered(device: &SimDevice, len: u64) -> (Arc<Pool>, Mblock) {
    let pool = Pool::create(Arc::new(device.clone()), &options()).unwrap();
    let short: Vec<Mblock> = (0..400).map(|_| object(&pool, 60_000, 1)).collect();
    let last = object(&pool, len, 9);
    let gone: Vec<_> = short.iter().step_by(2).map(Mblock::id).collect();
    drop(short);
    pool.commit(vec![], &gone).unwrap();
    (pool, last)
}

/// One object that fitted nowhere kept the file as long as it was, for ever.
#[test]
fn others_move_so_that_the_last_finds_room() {
    let device = SimDevice::new(1 << 30);
    let (pool, last) = scattered(&device, 3 * MIB);
    let used = pool.info().used_bytes;
    let id = last.id();
    drop(last);
    for _ in 0..4 {
        while pool.tidy() {}
    }
    assert_eq!(first_page(&pool.mblock(id).unwrap()), 9);
    assert!(end(&device) <= used + used / 4 + 4 * MIB, "{} for {used}", end(&device));
    let moved = || pool.volumes.metrics().mblocks_moved.get();
    let before = moved();
    assert!(before < 200, "{before}: what lies low stays");
    for _ in 0..4 {
        while pool.tidy() {}
    }
    assert_eq!(moved(), before, "there is an end to it");
}

/// Each look counted as an allocation that was refused for want of space.
#[test]
fn what_finds_no_room_below_stays_and_counts_as_no_refusal() {
    let (pool, last) = scattered(&SimDevice::new(1 << 30), 14 * MIB);
    drop(last);
    let space = pool.space.of(crate::VolumeId::ROOT).unwrap();
    for _ in 0..3 {
        while pool.tidy() {}
        assert!(space.stretch().is_some(), "it is longer than needed");
    }
    assert_eq!(pool.volumes.metrics().mblocks_moved.get(), 0);
    assert_eq!(pool.volumes.metrics().space_refused.get(), 0);
}

/// All that moved took its room twice for as long as a scan held what it read.
#[test]
fn what_moves_waits_while_many_old_places_are_held() {
    let device = SimDevice::new(1 << 30);
    let (pool, kept) = long(&device);
    let used = pool.info().used_bytes;
    for _ in 0..3 {
        while pool.tidy() {}
    }
    let twice = pool.info().used_bytes - used;
    assert!(twice > 0 && twice <= (used + twice) / 8, "{twice} of {used}");
    drop(kept);
    while pool.tidy() {}
    assert_eq!(pool.volumes.metrics().mblocks_moved.get(), 8);
    assert_eq!(pool.info().used_bytes, used);
}

/// Moves took what the disk had left, and then puts were refused.
#[test]
fn nothing_moves_into_what_writers_need() {
    let device = SimDevice::new(1 << 30);
    let (pool, kept) = long(&device);
    drop(kept);
    let space = pool.space.of(crate::VolumeId::ROOT).unwrap();
    // The free range becomes holes.
    space.look();
    while space.give_back().unwrap() > 0 {}
    let left = |bytes: u64| Faults {
        enospc_after_bytes: Some(end(&device) + bytes),
        enospc_is_told: true,
        ..Faults::default()
    };
    device.set_faults(left(10 * MIB));
    let free = pool.info().free_bytes;
    while pool.tidy() {}
    assert_eq!((pool.volumes.metrics().mblocks_moved.get(), pool.info().free_bytes), (0, free));
    device.set_faults(left(200 * MIB));
    while pool.tidy() {}
    assert_eq!(pool.volumes.metrics().mblocks_moved.get(), 8);
}

/// Housekeeping rings while the label of a volume is written.
struct Rings {
    inner: SimDevice,
    bell: Mutex<Option<Bell>>,
}

impl Device for Rings {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, buf)
    }
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.inner.write_at(offset, buf)
    }
    fn write_durable_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.inner.write_durable_at(offset, buf)?;
        let bell = self.bell.lock().take();
        while bell.as_ref().is_some_and(Bell::step) {}
        Ok(())
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
        "rings"
    }
}

/// An object moved after the session had ended in which that should have been.
#[test]
fn nothing_moves_once_the_pool_begins_to_end() {
    let (pool, kept) = long(&SimDevice::new(1 << 30));
    drop(kept);
    let inner = SimDevice::new(64 * MIB);
    let other = Arc::new(Rings { inner, bell: Mutex::default() });
    pool.add_volume_on(Arc::<Rings>::clone(&other), MediaClass::Staging).unwrap();
    *other.bell.lock() = Some(pool.tidy.bell().clone());
    let volumes = Arc::clone(&pool.volumes);
    drop(pool);
    assert!(other.bell.lock().is_none(), "it was rung");
    assert_eq!(volumes.metrics().mblocks_moved.get(), 0);
}

#[test]
fn where_nothing_is_given_back_nothing_moves() {
    let device = SimDevice::new(1 << 30);
    let (pool, kept) = long(&device);
    drop((pool, kept));
    let options = Options { returning: None, ..options() };
    let pool = Pool::open(Arc::new(device.clone()), &options).unwrap();
    while pool.tidy() {}
    assert_eq!(pool.volumes.metrics().mblocks_moved.get(), 0);
}

/// A second volume with 40 objects of 2 MiB each; then all but the first and the last eight are
/// deleted.
fn long_beside(pool: &Arc<Pool>, device: Arc<dyn Device>) -> crate::VolumeId {
    let id = pool.add_volume_on(device, MediaClass::Staging).unwrap();
    let mut kept: Vec<Mblock> = (0..40).map(|n| staged(pool, 2 * MIB, n)).collect();
    let gone: Vec<_> = kept.drain(1..32).map(|mblock| mblock.id()).collect();
    pool.commit(vec![], &gone).unwrap();
    id
}

/// An object that was on its way down came back to a volume that had been emptied meanwhile.
#[test]
fn what_leaves_the_volume_while_it_moves_down_does_not_come_back() {
    let pool = Pool::create(Arc::new(SimDevice::new(1 << 30)), &options()).unwrap();
    let id = long_beside(&pool, Arc::new(SimDevice::new(1 << 30)));
    let last = pool.mblock(*pool.mblock_ids().last().unwrap()).unwrap();
    let below = Below { goal: 70 * MIB, else_lowest: None };
    let space = pool.space.of(id).unwrap();
    let room = space.room_below(3 * MIB, below).unwrap().map(Room::Places).unwrap();
    drop(space);
    let done = pool.evacuate_volume(id, &mut |_| ()).unwrap();
    assert_eq!((done.moved, done.failed.len()), (9, 0));
    assert_eq!(pool.parts().move_into(room, &last).unwrap(), 0);
    assert_eq!(pool.volumes()[1].mblocks, 0);
    assert_eq!(first_page(&pool.mblock(last.id()).unwrap()), 39);
    drop(last);
    pool.remove_volume(id).unwrap();
}

/// Each look took the first volume that was too long, whether anything could be done there or not.
#[test]
fn a_volume_that_stays_long_keeps_no_other_from_becoming_short() {
    let (pool, last) = scattered(&SimDevice::new(1 << 30), 14 * MIB);
    drop(last);
    let other = SimDevice::new(1 << 30);
    long_beside(&pool, Arc::new(other.clone()));
    for _ in 0..3 {
        while pool.tidy() {}
    }
    assert!(pool.space.of(crate::VolumeId::ROOT).unwrap().stretch().is_some(), "the root is long");
    assert_eq!(pool.volumes.metrics().mblocks_moved.get(), 8);
    assert!(end(&other) < 30 * MIB, "{}", end(&other));
}

/// The same where what is to move waits for readers.
#[test]
fn readers_of_one_volume_keep_no_other_from_becoming_short() {
    let (pool, kept) = long(&SimDevice::new(1 << 30));
    let other = SimDevice::new(1 << 30);
    long_beside(&pool, Arc::new(other.clone()));
    for _ in 0..4 {
        while pool.tidy() {}
    }
    assert!(end(&other) < 30 * MIB, "{}", end(&other));
    drop(kept);
}
