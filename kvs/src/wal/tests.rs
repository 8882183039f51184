//! The log on a simulated device. Power cuts at every call are in `crash_tests`.

use super::append::BUFFER_BYTES;
use super::*;
use crate::entry::op::Op;
use crate::key::KvsId;
use crate::wal::mark::ManifestEnd;
use mpool::IoBackend;
use mpool_sim::{Faults, SimDevice};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;
const KVS: KvsId = KvsId::new(1);

pub(super) fn pool_options() -> mpool::Options {
    let mut options = mpool::Options {
        io: IoBackend::Threads,
        queue_depth: 1,
        capacity_bytes_max: 256 * MIB,
        background: false,
        ..mpool::Options::default()
    };
    options.reaper.policy = mpool::ReaperPolicy::Off;
    options
}

pub(super) fn options() -> Options {
    Options { wal_segment_bytes: 4 * MIB, pool: pool_options(), ..Options::default() }
}

pub(super) fn blank() -> (SimDevice, Arc<Pool>) {
    let device = SimDevice::new(256 * MIB);
    let pool = Pool::create(Arc::new(device.clone()), &pool_options()).unwrap();
    (device, pool)
}

pub(super) fn batch(revision: u64, value_len: usize) -> WriteBatch {
    let mut batch = WriteBatch::new();
    let value = vec![u8::try_from(revision % 251).unwrap(); value_len];
    batch.put_id(KVS, &revision.to_le_bytes(), &value).unwrap();
    batch
}

/// Opens the log and returns it with the revisions and value lengths replayed.
pub(super) fn open(pool: &Arc<Pool>, floor: u64) -> Result<(Wal, Vec<(u64, usize)>)> {
    let mut seen = Vec::new();
    let (wal, replayed) = Wal::open(
        pool,
        &options(),
        Revision::new(floor),
        &OpenProgress::default(),
        &mut |revision, batch| {
            let (kvs, key, op) = batch.ops().next().expect("one entry each");
            let Op::Inline(value) = op else { panic!("only puts are logged here") };
            assert_eq!((kvs, key), (KVS, &revision.get().to_le_bytes()[..]));
            assert!(value.iter().all(|&byte| u64::from(byte) == revision.get() % 251));
            seen.push((revision.get(), value.len()));
            Ok(())
        },
    )?;
    assert_eq!(replayed.frames, u64::try_from(seen.len()).unwrap());
    let last = seen.last().map_or(floor, |(revision, _)| *revision);
    assert_eq!(replayed.end, Revision::new(last.max(floor)));
    assert!(replayed.last >= replayed.end);
    assert_eq!(wal.last(), replayed.last);
    Ok((wal, seen))
}

pub(super) fn close(mut wal: Wal) {
    let (log, manifest) = (wal.end().unwrap(), ManifestEnd::default());
    Mark { log, manifest }.leave(&wal.pool).unwrap();
}

pub(super) fn append(wal: &mut Wal, lens: &[usize], durable: bool) {
    let first = wal.last().next();
    let batches: Vec<_> = (first.get()..).zip(lens).map(|(at, &len)| batch(at, len)).collect();
    wal.append(first, &batches.iter().collect::<Vec<_>>(), durable).unwrap();
}

pub(super) fn revisions(seen: &[(u64, usize)]) -> Vec<u64> {
    seen.iter().map(|(revision, _)| *revision).collect()
}

#[test]
fn what_is_appended_is_replayed_in_order() {
    let (_, pool) = blank();
    let (mut wal, seen) = open(&pool, 0).unwrap();
    assert!(seen.is_empty());
    append(&mut wal, &[10, 5000, 0], true);
    append(&mut wal, &[4096], true);
    append(&mut wal, &[1, 2], false);
    append(&mut wal, &[100_000], true);
    let expected = [10, 5000, 0, 4096, 1, 2, 100_000];
    for floor in 0..=8 {
        let (_, seen) = open(&pool, floor).unwrap();
        let all: Vec<(u64, usize)> = (1..).zip(expected).collect();
        assert_eq!(seen, all[usize::try_from(floor).unwrap().min(all.len())..]);
    }
}

#[test]
fn appends_go_on_after_each_reopen() {
    let (_, pool) = blank();
    for round in 0..6 {
        let (mut wal, seen) = open(&pool, 0).unwrap();
        assert_eq!(revisions(&seen), (1..=round * 3).collect::<Vec<_>>());
        append(&mut wal, &[7, 8, 9], true);
        close(wal);
    }
}

#[test]
fn non_durable_frames_stay_in_memory_until_the_buffer_is_full() {
    let (device, pool) = blank();
    let (mut wal, _) = open(&pool, 0).unwrap();
    append(&mut wal, &[100], true);
    let calls = device.calls();
    append(&mut wal, &[100, 100], false);
    assert!(wal.is_dirty());
    assert_eq!(device.calls(), calls);
    append(&mut wal, &[BUFFER_BYTES], false);
    assert_eq!(device.calls(), calls + 1);
    wal.sync().unwrap();
    assert!(!wal.is_dirty());
    let calls = device.calls();
    wal.sync().unwrap();
    assert_eq!(device.calls(), calls, "a clean log needs no call");
    assert_eq!(revisions(&open(&pool, 0).unwrap().1), [1, 2, 3, 4]);
}

#[test]
fn a_durable_append_alone_is_one_device_call() {
    let (device, pool) = blank();
    let (mut wal, _) = open(&pool, 0).unwrap();
    append(&mut wal, &[1], true);
    let calls = device.calls();
    append(&mut wal, &[1000; 20], true);
    assert_eq!(device.calls(), calls + 1);
}

#[test]
fn segments_rotate_and_are_recycled_once_released() {
    let (_, pool) = blank();
    let (mut wal, _) = open(&pool, 0).unwrap();
    for _ in 0..40 {
        append(&mut wal, &[500_000], true);
    }
    assert_eq!(pool.segment_ids().len(), 5, "20 MB in segments of 4 MiB");
    assert_eq!(revisions(&open(&pool, 0).unwrap().1), (1..=40).collect::<Vec<_>>());

    wal.release(Revision::new(39)).unwrap();
    assert_eq!(pool.segment_ids().len(), 5, "so few are all kept");
    assert!(wal.live_bytes() < 2 * MIB, "{}", wal.live_bytes());
    let created = wal.metrics().segments_created.get();
    for floor in 40..100 {
        append(&mut wal, &[500_000], true);
        wal.release(Revision::new(floor)).unwrap();
    }
    assert_eq!(
        wal.metrics().segments_created.get(),
        created,
        "in the steady state none is created"
    );
    assert!(wal.metrics().segments_recycled.get() > 5);
    drop(wal);
    assert_eq!(revisions(&open(&pool, 99).unwrap().1), [100]);
}

/// Two were kept whatever their length: 128 MiB beside a memtable of 64, more than there is log.
#[test]
fn as_much_is_kept_for_reuse_as_a_flush_releases() {
    // Bytes of each durable write; then the segments that are left of sixty.
    for (write_bytes, left) in [(500_000, 1 + 2), (20_000, 1 + 4)] {
        let (_, pool) = blank();
        let options = Options { memtable_bytes: 8 * MIB, ..options() };
        let mut apply = |_, _: &WriteBatch| Ok(());
        let progress = OpenProgress::default();
        let opened = Wal::open(&pool, &options, Revision::new(0), &progress, &mut apply);
        let (mut wal, _) = opened.unwrap();
        for _ in 0..30_000_000 / write_bytes {
            append(&mut wal, &[write_bytes], true);
        }
        wal.release(wal.last()).unwrap();
        assert_eq!(pool.segment_ids().len(), left, "{write_bytes}");
    }
}

#[test]
fn frames_of_an_earlier_life_are_never_replayed() {
    let (_, pool) = blank();
    let (mut wal, _) = open(&pool, 0).unwrap();
    // Fill segments 1 to 3 with frames of one size, so that old and new ones align.
    while wal.sequence < 4 {
        append(&mut wal, &[4000], true);
    }
    let floor = wal.last();
    wal.release(floor).unwrap();
    append(&mut wal, &[1_000_000; 3], true);
    append(&mut wal, &[1_000_000; 3], true);
    assert!(wal.metrics().segments_recycled.get() > 0);
    let last = wal.last().get();
    drop(wal);
    let (_, seen) = open(&pool, floor.get()).unwrap();
    assert_eq!(revisions(&seen), (floor.get() + 1..=last).collect::<Vec<_>>());
}

#[test]
fn live_bytes_follow_the_floor() {
    let (_, pool) = blank();
    let (mut wal, _) = open(&pool, 0).unwrap();
    assert_eq!(wal.live_bytes(), 0);
    for _ in 0..10 {
        append(&mut wal, &[1 << 20], true);
    }
    let full = wal.live_bytes();
    assert!((10 * MIB..11 * MIB).contains(&full), "{full}");
    wal.release(Revision::new(5)).unwrap();
    assert!((5 * MIB..6 * MIB).contains(&wal.live_bytes()), "{}", wal.live_bytes());
    close(wal);
    let (mut wal, _) = open(&pool, 5).unwrap();
    assert!((5 * MIB..=full).contains(&wal.live_bytes()), "{}", wal.live_bytes());
    wal.release(Revision::new(10)).unwrap();
    assert_eq!(wal.live_bytes(), 0);
}

#[test]
fn a_log_that_ends_below_the_floor_goes_on_above_it() {
    let (_, pool) = blank();
    let (mut wal, _) = open(&pool, 0).unwrap();
    append(&mut wal, &[1; 5], true);
    drop(wal);
    // Revisions 6 to 9 were never durable in the log, yet reached a kvset.
    let (mut wal, seen) = open(&pool, 9).unwrap();
    assert!(seen.is_empty());
    let last = wal.last().get();
    assert!(last > 9);
    append(&mut wal, &[1; 2], true);
    drop(wal);
    assert_eq!(revisions(&open(&pool, 9).unwrap().1), [last + 1, last + 2]);
    assert!(matches!(open(&pool, 3), Err(Error::Corrupt { .. })), "the floor went back");
}

#[test]
fn a_full_pool_refuses_before_anything_is_logged() {
    let device = SimDevice::new(14 * MIB);
    let pool = Pool::create(Arc::new(device), &pool_options()).unwrap();
    let (mut wal, _) = open(&pool, 0).unwrap();
    let mut refused = None;
    for _ in 0..20 {
        let next = wal.last().next();
        match wal.append(next, &[&batch(next.get(), 1_000_000)], true) {
            Ok(()) => {}
            Err(error) => refused = Some(error),
        }
    }
    assert!(matches!(refused, Some(Error::LogFull { .. })), "{refused:?}");
    let last = wal.last();
    wal.release(last).unwrap();
    append(&mut wal, &[1_000_000], true);
    drop(wal);
    assert_eq!(revisions(&open(&pool, last.get()).unwrap().1), [last.get() + 1]);
}

#[test]
fn a_failing_flush_is_an_error() {
    let (device, pool) = blank();
    let (mut wal, _) = open(&pool, 0).unwrap();
    append(&mut wal, &[1], true);
    device.set_faults(Faults { flush_eio_at: Some(0), ..Faults::default() });
    assert!(wal.append(Revision::new(2), &[&batch(2, 1)], true).is_err());
}

/// A reader had seen revision 2, of a frame that no drive ever got; the next write was given 2 too.
#[test]
fn a_revision_that_a_crash_has_lost_is_not_given_again() {
    let (_, pool) = blank();
    let (mut wal, _) = open(&pool, 0).unwrap();
    let mut given = 0;
    for round in 0..5 {
        append(&mut wal, &[20], true);
        append(&mut wal, &[20; 3], false);
        given = wal.last().get();
        drop(wal);
        let (again, seen) = open(&pool, 0).unwrap();
        assert_eq!(seen.len(), round + 1, "what was not durable is lost");
        assert!(again.last().get() >= given, "{given} was given out");
        wal = again;
    }
    // Frames are 16 bytes at least, so a segment has no more of them.
    assert!(given < 5 * (4 * MIB / 16), "{given}");
    let (again, _) = open(&pool, 0).unwrap();
    let last = again.last();
    assert_eq!(open(&pool, 0).unwrap().0.last(), last, "an open alone skips no further");
    close(again);
    assert_eq!(open(&pool, 0).unwrap().0.last(), last, "nor does one after a clean close");
}

#[test]
fn a_clean_close_skips_nothing() {
    let (_, pool) = blank();
    close(open(&pool, 0).unwrap().0);
    for round in 0..3 {
        let (mut wal, seen) = open(&pool, 0).unwrap();
        assert_eq!((seen.len(), wal.last().get()), (round * 4, round as u64 * 4));
        append(&mut wal, &[20; 4], false);
        close(wal);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 40,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_mix_of_appends_syncs_releases_and_reopens_replays(
        ops in prop::collection::vec(
            (0_u8..5, prop::collection::vec(0_usize..60_000, 1..8)),
            1..40,
        ),
    ) {
        let (_, pool) = blank();
        let (mut wal, _) = open(&pool, 0).unwrap();
        let (mut lens, mut floor) = (Vec::new(), 0_usize);
        for (op, sizes) in ops {
            match op {
                0 | 1 => {
                    append(&mut wal, &sizes, op == 0);
                    lens.extend(sizes);
                }
                2 => wal.sync().unwrap(),
                3 => {
                    floor = floor.max(sizes[0] % (lens.len() + 1));
                    wal.release(Revision::new(u64::try_from(floor).unwrap())).unwrap();
                }
                _ => {
                    close(wal);
                    let (again, seen) = open(&pool, u64::try_from(floor).unwrap()).unwrap();
                    let expected: Vec<_> = (1..).zip(lens.iter().copied()).skip(floor).collect();
                    prop_assert_eq!(seen, expected);
                    wal = again;
                }
            }
        }
    }
}

fn delete(pool: &Arc<Pool>, segments: &[Segment]) {
    for segment in segments {
        pool.delete_segment(segment.id()).unwrap();
    }
}

/// Three segments of the usual length stayed for ever, empty ones, too.
#[test]
fn a_log_that_rests_takes_one_short_segment_and_goes_on() {
    let (device, pool) = blank();
    let (wal, _) = open(&pool, 0).unwrap();
    let mut wal = Wal { short_bytes: MIB, ..wal };
    assert!(!wal.is_long());
    let append = |wal: &mut Wal, len| {
        let revision = wal.last().next();
        wal.append(revision, &[&batch(revision.get(), len)], true).unwrap();
        revision
    };
    let lens = || -> Vec<u64> {
        let open = |id| pool.open_segment(id).unwrap().len_bytes();
        pool.segment_ids().into_iter().map(open).collect()
    };
    let floor = (0..8).map(|_| append(&mut wal, 1_300_000)).last().unwrap();
    assert_eq!(lens(), [4 * MIB; 3]);
    assert!(wal.is_long());
    let rest = |wal: &mut Wal, floor| {
        let gone = wal.rest(floor, pool.create_segment(MIB).unwrap()).unwrap();
        delete(&pool, &gone);
    };
    // What is not in kvsets stays.
    rest(&mut wal, Revision::new(floor.get() - 1));
    assert_eq!(lens(), [4 * MIB; 3]);
    rest(&mut wal, floor);
    assert_eq!(lens(), [MIB]);
    assert!(!wal.is_long());
    // A batch that does not fit goes to a segment that takes it.
    append(&mut wal, 1000);
    append(&mut wal, 1_300_000);
    assert_eq!(lens(), [MIB, 4 * MIB]);
    drop(wal);
    let killed = Pool::open(Arc::new(device.after_crash(0)), &pool_options()).unwrap();
    assert_eq!(open(&killed, floor.get()).unwrap().1, [(9, 1000), (10, 1_300_000)]);
}

/// The segment that a log rests on is kept by the next open, as it is better than none.
#[test]
fn a_log_rests_across_a_restart() {
    let (_, pool) = blank();
    let options = Options { wal_segment_bytes: 32 * MIB, ..options() };
    let open = |floor| {
        let floor = Revision::new(floor);
        Wal::open(&pool, &options, floor, &OpenProgress::default(), &mut |_, _| Ok(())).unwrap().0
    };
    let mut wal = open(0);
    wal.append(Revision::new(1), &[&batch(1, 1000)], true).unwrap();
    let short = pool.create_segment(wal.short_bytes()).unwrap();
    let gone = wal.rest(Revision::new(1), short).unwrap();
    delete(&pool, &gone);
    let (log, manifest) = (wal.end().unwrap(), ManifestEnd::default());
    Mark { log, manifest }.leave(&pool).unwrap();
    drop(wal);
    let ids = pool.segment_ids();
    assert_eq!(ids.len(), 1);
    let mut wal = open(1);
    assert!(!wal.is_long());
    wal.append(Revision::new(2), &[&batch(2, 1000)], true).unwrap();
    assert_eq!(pool.segment_ids(), ids, "none was made for it");
    assert_eq!(wal.wants(), None);
}

/// Three segments of 64 MiB were filled with zeros for a store of 650 MiB, whatever became of them.
#[test]
fn segments_are_filled_with_zeros_where_little_is_synced_at_a_time() {
    for (len, syncs_often) in [(3000, true), (600_000, false)] {
        let (_, pool) = blank();
        let (mut wal, _) = open(&pool, 0).unwrap();
        while wal.wants().is_none() {
            append(&mut wal, &[len], true);
        }
        let zeros_bytes = if syncs_often { 4 * MIB } else { PAGE_BYTES };
        assert_eq!(wal.wants(), Some(Wanted { len_bytes: 4 * MIB, zeros_bytes }));
        // The one that an append has to make itself is no other.
        let written = || pool.metrics().write_bytes();
        let before = written();
        while wal.sequence < 2 {
            append(&mut wal, &[len], true);
        }
        assert_eq!(written() - before > 4 * MIB, syncs_often);
    }
}

#[test]
fn a_segment_is_wanted_before_the_tail_is_full() {
    let (_, pool) = blank();
    let (mut wal, _) = open(&pool, 0).unwrap();
    assert_eq!(wal.wants(), None);
    wal.append(Revision::new(1), &[&batch(1, 1_500_000)], true).unwrap();
    assert_eq!(wal.wants(), None);
    wal.append(Revision::new(2), &[&batch(2, 1_500_000)], true).unwrap();
    assert!(wal.wants().is_some());
    wal.add_spare(pool.create_segment(4 * MIB).unwrap());
    assert_eq!(wal.wants(), None);
    wal.append(Revision::new(3), &[&batch(3, 1_500_000)], true).unwrap();
    assert_eq!(pool.segment_ids().len(), 2, "it was taken");
}
