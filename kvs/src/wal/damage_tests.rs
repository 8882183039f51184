//! The log with bytes changed on the medium: what is noticed, and what ends the log.

use super::append::BUFFER_BYTES;
use super::frame::{FrameHead, Kind, LONG_HEAD_LEN, SHORT_HEAD_LEN, Salt};
use super::segment_head::SEGMENT_HEAD_LEN;
use super::tests::{append, batch, blank, close, open, options, revisions};
use super::*;
use crate::key::KvsId;
use crate::options::LogDamage;
use mpool::IoBuf;

const KVS: KvsId = KvsId::new(1);

/// Reads a segment's head; None if blank.
fn head_of(segment: &Segment) -> Option<SegmentHead> {
    let mut page = IoBuf::zeroed(4096);
    segment.read_at(0, &mut page).unwrap();
    SegmentHead::decode(page.first_chunk::<SEGMENT_HEAD_LEN>().unwrap()).ok()
}

fn segment_with(pool: &Arc<Pool>, sequence: u64) -> Segment {
    let ids = pool.segment_ids().into_iter();
    ids.map(|id| pool.open_segment(id).unwrap())
        .find(|segment| head_of(segment).is_some_and(|head| head.sequence == sequence))
        .expect("the segment exists")
}

pub(super) fn rewrite(segment: &Segment, offset: u64, change: impl FnOnce(&mut [u8])) {
    let mut page = IoBuf::zeroed(4096);
    segment.read_at(offset, &mut page).unwrap();
    change(&mut page);
    segment.write_at(offset, &page).unwrap();
}

/// Where frames begin when each is written alone: one page each.
fn frame_offset(revision: u64) -> u64 {
    revision * PAGE_BYTES
}

/// A segment is not always filled with zeros, and a drive that held another pool holds frames of
/// the same sequences and revisions: what follows the log's end was replayed, or proved that
/// something was lost.
#[test]
fn what_another_pool_has_left_is_no_part_of_the_log() {
    let written = |count: usize| {
        let (_, pool) = blank();
        let (mut wal, _) = open(&pool, 0).unwrap();
        (0..count).for_each(|_| append(&mut wal, &[20], true));
        drop(wal);
        pool
    };
    let (theirs, ours) = (written(9), written(4));
    let (left, segment) = (segment_with(&theirs, 1), segment_with(&ours, 1));
    for revision in 5..=9 {
        let mut page = IoBuf::zeroed(4096);
        left.read_at(frame_offset(revision), &mut page).unwrap();
        rewrite(&segment, frame_offset(revision), |to| to.copy_from_slice(&page));
    }
    let (_, seen) = open(&ours, 0).unwrap();
    assert_eq!(revisions(&seen), [1, 2, 3, 4]);
}

#[test]
fn any_flipped_bit_of_a_durable_frame_is_noticed() {
    let (_, pool) = blank();
    let (mut wal, _) = open(&pool, 0).unwrap();
    for _ in 0..4 {
        append(&mut wal, &[20], true);
    }
    drop(wal);
    let segment = segment_with(&pool, 1);
    let len = LONG_HEAD_LEN + batch(2, 20).len_bytes();
    for bit in 0..len * 8 {
        let flip = |page: &mut [u8]| page[bit / 8] ^= 1 << (bit % 8);
        rewrite(&segment, frame_offset(2), flip);
        match open(&pool, 0) {
            Err(Error::Corrupt { reason, .. }) => {
                assert!(reason.contains("revision 2 was durable"), "bit {bit}: {reason}");
            }
            other => panic!("bit {bit}: {:?}", other.map(|(_, seen)| seen)),
        }
        rewrite(&segment, frame_offset(2), flip);
    }
    assert_eq!(revisions(&open(&pool, 0).unwrap().1), [1, 2, 3, 4]);
}

#[test]
fn a_bad_last_frame_ends_the_log() {
    let (_, pool) = blank();
    let (mut wal, _) = open(&pool, 0).unwrap();
    append(&mut wal, &[20], true);
    append(&mut wal, &[20], true);
    drop(wal);
    rewrite(&segment_with(&pool, 1), frame_offset(2), |page| page[50] ^= 1);
    let (mut wal, seen) = open(&pool, 0).unwrap();
    assert_eq!(revisions(&seen), [1]);
    let next = wal.last().next().get();
    append(&mut wal, &[30], true);
    drop(wal);
    assert_eq!(open(&pool, 0).unwrap().1, [(1, 20), (next, 30)]);
}

/// Which a torn tail is not: the last write of a clean close was silently gone.
#[test]
fn any_flipped_bit_of_the_last_frame_is_noticed_after_a_clean_close() {
    let (_, pool) = blank();
    let (mut wal, _) = open(&pool, 0).unwrap();
    append(&mut wal, &[20], true);
    append(&mut wal, &[20], true);
    close(wal);
    let segment = segment_with(&pool, 1);
    let len = LONG_HEAD_LEN + batch(2, 20).len_bytes();
    for bit in 0..len * 8 {
        let flip = |page: &mut [u8]| page[bit / 8] ^= 1 << (bit % 8);
        rewrite(&segment, frame_offset(2), flip);
        match open(&pool, 0) {
            Err(Error::Corrupt { what, reason }) => {
                assert!(what.contains("segment 1 (seg-1) at offset 8192"), "bit {bit}: {what}");
                assert!(reason.contains("revision 2 was durable"), "bit {bit}: {reason}");
                assert!(reason.contains("closed at revision 2"), "bit {bit}: {reason}");
            }
            other => panic!("bit {bit}: {:?}", other.map(|(_, seen)| seen)),
        }
        assert!(open(&pool, 2).is_ok(), "kvsets have it");
        rewrite(&segment, frame_offset(2), flip);
    }
    pool.delete_segment(segment.id()).unwrap();
    assert!(matches!(open(&pool, 1), Err(Error::Corrupt { .. })), "the whole segment is gone");
    assert!(open(&pool, 2).is_ok());
}

#[test]
fn damage_among_what_kvsets_hold_is_passed_over() {
    let (_, pool) = blank();
    let (mut wal, _) = open(&pool, 0).unwrap();
    for _ in 0..5 {
        append(&mut wal, &[20], true);
    }
    close(wal);
    rewrite(&segment_with(&pool, 1), frame_offset(2), |page| page[50] ^= 1);
    rewrite(&segment_with(&pool, 1), frame_offset(3), |page| page[7] ^= 1);
    assert!(open(&pool, 2).is_err(), "3 is needed");
    assert_eq!(revisions(&open(&pool, 3).unwrap().1), [4, 5]);
}

#[test]
fn a_torn_frame_before_one_that_was_never_durable_is_a_tail() {
    let (_, pool) = blank();
    let (mut wal, _) = open(&pool, 0).unwrap();
    append(&mut wal, &[20], true);
    // Two large writes without a sync between: the drive may keep the second alone.
    append(&mut wal, &[BUFFER_BYTES, 10], false);
    append(&mut wal, &[BUFFER_BYTES, 10], false);
    wal.sync().unwrap();
    drop(wal);
    rewrite(&segment_with(&pool, 1), frame_offset(2), |page| page.fill(0));
    assert_eq!(revisions(&open(&pool, 0).unwrap().1), [1]);
}

#[test]
fn a_missing_frame_in_an_earlier_segment_is_corrupt() {
    let (_, pool) = blank();
    let (mut wal, _) = open(&pool, 0).unwrap();
    append(&mut wal, &[20], true);
    append(&mut wal, &[20], true);
    while wal.sequence < 2 {
        append(&mut wal, &[500_000], false);
    }
    wal.sync().unwrap();
    drop(wal);
    let segment = segment_with(&pool, 1);
    rewrite(&segment, frame_offset(2), |page| page.fill(0));
    assert!(matches!(open(&pool, 0), Err(Error::Corrupt { .. })));
    pool.delete_segment(segment.id()).unwrap();
    assert!(matches!(open(&pool, 0), Err(Error::Corrupt { .. })));
}

#[test]
fn a_newer_format_is_told_from_rot() {
    let (_, pool) = blank();
    let (mut wal, _) = open(&pool, 0).unwrap();
    append(&mut wal, &[20], true);
    drop(wal);
    let segment = segment_with(&pool, 1);
    let set_version = |page: &mut [u8], head_len: usize| {
        page[4] = 4;
        let crc = crc32c::crc32c(&page[..head_len - 4]).to_le_bytes();
        page[head_len - 4..head_len].copy_from_slice(&crc);
    };
    let saved = |offset| {
        let mut page = IoBuf::zeroed(4096);
        segment.read_at(offset, &mut page).unwrap();
        page
    };
    let before = saved(0);
    rewrite(&segment, 0, |page| set_version(page, SEGMENT_HEAD_LEN));
    let error = open(&pool, 0).map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::Format { found: 4, supported: 3 }), "{error}");
    segment.write_at(0, &before).unwrap();
    rewrite(&segment, 0, |page| page[9] ^= 1);
    assert!(matches!(open(&pool, 0), Err(Error::Corrupt { .. })));
}

#[test]
fn a_body_that_looks_like_a_frame_is_not_one() {
    let (_, pool) = blank();
    let (mut wal, _) = open(&pool, 0).unwrap();
    let fake = FrameHead {
        kind: Kind::Short,
        sequence: 1,
        revision: Revision::new(2),
        durable: Revision::ZERO,
        body_len: 0,
        body_crc: crc32c::crc32c(&[]),
    };
    let salt = Salt::of(&pool.create_segment(64 << 10).unwrap());
    let mut batch = WriteBatch::new();
    batch.put_id(KVS, &[1], &fake.encode_short(salt).repeat(900)).unwrap();
    wal.append(Revision::new(1), &[&batch], true).unwrap();
    drop(wal);
    let mut frames = 0;
    let apply = &mut |_, found: &WriteBatch| {
        assert_eq!(found.body(), batch.body());
        frames += 1;
        Ok(())
    };
    Wal::open(&pool, &options(), Revision::ZERO, &OpenProgress::default(), apply).unwrap();
    assert_eq!(frames, 1);
}

/// What the log says when the pages `from..to` of its first segment are blank after a kill.
fn blanked(appends: &[(usize, bool)], (from, to): (u64, u64), floor: u64) -> Result<Vec<u64>> {
    let (_, pool) = blank();
    let (mut wal, _) = open(&pool, 0).unwrap();
    for (len, durable) in appends {
        append(&mut wal, &[*len], *durable);
    }
    drop(wal);
    let segment = segment_with(&pool, 1);
    for page in from..to {
        rewrite(&segment, page * PAGE_BYTES, |page| page.fill(0));
    }
    let holes = survey(&pool, Revision::new(floor), &mut |_, _| Ok(())).unwrap();
    let opened = open(&pool, floor);
    assert_eq!(holes.is_empty(), opened.is_ok(), "a check and an open see the same");
    opened.map(|(_, seen)| revisions(&seen))
}

/// The head, the first page, or 1 MiB from the start: the log was taken for an empty one, and all
/// that was acknowledged since the last flush was gone without a word.
#[test]
fn a_blank_start_of_the_last_segment_is_damage() {
    for (from, to) in [(0, 1), (1, 2), (0, 2), (0, 256), (1, 256)] {
        for appends in [&[(20, true)][..], &[(20, true), (9000, true)], &[(20, false), (20, true)]]
        {
            let error = blanked(appends, (from, to), 0).unwrap_err();
            let Error::Corrupt { what, reason } = error else { panic!("{error}") };
            assert!(what.contains("write-ahead log segment"), "{what}");
            assert!(what.contains("seg-") && !reason.is_empty(), "{what}: {reason}");
        }
    }
    // Behind the first frame nothing tells rot from a torn tail.
    assert_eq!(blanked(&[(20, true), (20, true)], (2, 256), 0).unwrap(), [1]);
    assert_eq!(blanked(&[(20, true), (20, true), (20, true)], (3, 256), 0).unwrap(), [1, 2]);
}

#[test]
fn a_log_that_lost_its_start_goes_on_behind_it_when_asked() {
    let (_, pool) = blank();
    let (mut wal, _) = open(&pool, 0).unwrap();
    for _ in 0..6 {
        append(&mut wal, &[20], true);
    }
    drop(wal);
    let segment = segment_with(&pool, 1);
    for page in 0..4 {
        rewrite(&segment, page * PAGE_BYTES, |page| page.fill(0));
    }
    let mut seen = Vec::new();
    let mut options = options();
    options.salvage.log = LogDamage::SkipDamaged;
    let apply = &mut |revision: Revision, _: &WriteBatch| {
        seen.push(revision.get());
        Ok(())
    };
    let (_, replayed) =
        Wal::open(&pool, &options, Revision::ZERO, &OpenProgress::default(), apply).unwrap();
    assert_eq!(seen, [4, 5, 6]);
    let lost: Vec<_> = replayed.holes.iter().filter_map(|hole| hole.revisions).collect();
    assert_eq!(lost, [(Revision::new(1), Revision::new(3))]);
}

/// What lay between damage and the next page that begins with a frame was lost with it: with small
/// frames that are written together, hundreds of KiB.
#[test]
fn what_follows_damage_within_a_write_is_found() {
    let (_, pool) = blank();
    let (mut wal, _) = open(&pool, 0).unwrap();
    append(&mut wal, &[20; 300], true);
    append(&mut wal, &[20], true);
    drop(wal);
    let segment = segment_with(&pool, 1);
    let len = SHORT_HEAD_LEN + batch(2, 20).len_bytes();
    let start = |n: usize| LONG_HEAD_LEN + batch(1, 20).len_bytes() + (n - 2) * len;
    // The head of frame 5, and a page that holds parts of frames at both its ends.
    rewrite(&segment, frame_offset(1), |page| page[start(5) + 1] ^= 1);
    rewrite(&segment, frame_offset(2), |page| page.fill(0xa5));
    let first = (2..=301).find(|n| start(n + 1) > 4096).unwrap();
    let last = (2..=301).rfind(|n| start(*n) < 8192).unwrap();
    let lost: Vec<u64> = [5].into_iter().chain(first..=last).map(|n| n as u64).collect();
    let mut seen = Vec::new();
    let mut options = options();
    options.salvage.log = LogDamage::SkipDamaged;
    let apply = &mut |revision: Revision, found: &WriteBatch| {
        assert_eq!(found.body(), batch(revision.get(), 20).body());
        seen.push(revision.get());
        Ok(())
    };
    assert!(open(&pool, 0).is_err());
    Wal::open(&pool, &options, Revision::ZERO, &OpenProgress::default(), apply).unwrap();
    assert_eq!(seen, (1..=301).filter(|n| !lost.contains(n)).collect::<Vec<_>>());
    let found = verify(&segment, Revision::new(301), &mut |_| true).damaged;
    let range =
        |first: usize, last: usize| Some((Revision::new(first as u64), Revision::new(last as u64)));
    let ranges: Vec<_> = found.iter().map(|damaged| damaged.revisions).collect();
    // The head of the first one on the page is on the page before, and sound.
    assert_eq!(ranges, [range(5, 5), range(first, first), range(first + 1, last)]);
}

/// A segment that was taken into use and has no frame yet is no damage, recycled or new.
#[test]
fn a_start_without_frames_is_no_damage() {
    let (_, pool) = blank();
    let reopen = |floor| {
        Wal::open(&pool, &options(), floor, &OpenProgress::default(), &mut |_, _| Ok(())).unwrap().0
    };
    let mut wal = reopen(Revision::ZERO);
    for round in 1..8 {
        let tail = wal.tail.take();
        wal.tail = Some(wal.rotate(tail, 0).unwrap());
        assert!(survey(&pool, wal.last(), &mut |_, _| Ok(())).unwrap().is_empty());
        let floor = wal.last();
        drop(wal);
        wal = reopen(floor);
        append(&mut wal, &[20], true);
        let floor = wal.last();
        wal.release(floor).unwrap();
        assert_eq!(wal.sequence, 2 * round);
        drop(wal);
        wal = reopen(floor);
    }
}

#[test]
fn the_last_frame_of_a_sealed_segment_is_missed_by_the_next() {
    let (_, pool) = blank();
    let (mut wal, _) = open(&pool, 0).unwrap();
    append(&mut wal, &[20], true);
    append(&mut wal, &[20], true);
    let tail = wal.tail.take();
    wal.tail = Some(wal.rotate(tail, 0).unwrap());
    drop(wal);
    rewrite(&segment_with(&pool, 1), frame_offset(2), |page| page[50] ^= 1);
    let error = open(&pool, 0).map(drop).unwrap_err().to_string();
    assert!(error.contains("revision 2") && error.contains("a later segment follows"), "{error}");
}
