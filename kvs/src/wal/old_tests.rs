//! Logs of earlier programs, whose frames are wide: replayed, checked as before, and gone on with.

use super::damage_tests::rewrite;
use super::frame::{FrameHead, Kind};
use super::segment_head::SEGMENT_HEAD_LEN;
use super::tests::{append, batch, blank, close, open, options, revisions};
use super::wide::{HEAD_LEN, old};
use super::*;
use crate::options::LogDamage;
use mpool::IoBuf;

const OLD: SegmentHead =
    SegmentHead { sequence: 1, first: Revision::new(1), gap: 0, frames: Frames::Wide };
const FRAMES: u64 = 4;

/// A log as a program before compact frames left it when it was killed: one segment, with frames
/// that were written durably one by one.
fn old_log(pool: &Arc<Pool>) -> Segment {
    let segment = pool.create_segment(4 << 20).unwrap();
    let write = |offset, bytes: &[u8]| {
        let mut page = IoBuf::zeroed(4096);
        page[..bytes.len()].copy_from_slice(bytes);
        segment.write_durable_at(offset, &page).unwrap();
    };
    write(0, &OLD.encode());
    Note { segment: segment.id().get(), head: OLD }.leave(pool).unwrap();
    for revision in 1..=FRAMES {
        let body = old::body(&batch(revision, 20));
        let head = FrameHead {
            kind: Kind::Wide,
            sequence: 1,
            revision: Revision::new(revision),
            durable: Revision::new(revision - 1),
            body_len: u32::try_from(body.len()).unwrap(),
            body_crc: crc32c::crc32c(&body),
        };
        write(revision * PAGE_BYTES, &[&old::encode(head)[..], &body].concat());
    }
    segment
}

#[test]
fn it_is_replayed_and_goes_on_in_compact_frames() {
    let (_, pool) = blank();
    let segment = old_log(&pool);
    for floor in 0..=FRAMES {
        let (_, seen) = open(&pool, floor).unwrap();
        assert_eq!(seen, (floor + 1..=FRAMES).map(|at| (at, 20)).collect::<Vec<_>>());
    }
    let (mut wal, _) = open(&pool, 0).unwrap();
    let next = wal.last().next().get();
    append(&mut wal, &[30, 40], true);
    // Both kinds of segments are one log.
    let both = [1, 2, 3, 4, next, next + 1];
    drop(wal);
    let (wal, seen) = open(&pool, 0).unwrap();
    assert_eq!(revisions(&seen), both);
    close(wal);
    assert_eq!(revisions(&open(&pool, 0).unwrap().1), both);
    assert!(survey(&pool, Revision::ZERO, &mut |_, _| Ok(())).unwrap().is_empty());
    let found = verify(&segment, Revision::new(FRAMES), &mut |_| true);
    assert_eq!((found.sequence, found.damaged), (1, vec![]));

    // Its segment gets a next life, in which what is left of old frames is nothing.
    let (mut wal, _) = open(&pool, 0).unwrap();
    let floor = wal.last();
    wal.release(floor).unwrap();
    while wal.tail.as_ref().is_none_or(|tail| tail.segment().id() != segment.id()) {
        append(&mut wal, &[1_500_000], true);
        let floor = wal.last();
        wal.release(floor).unwrap();
    }
    append(&mut wal, &[20], true);
    let last = wal.last();
    drop(wal);
    assert_eq!(revisions(&open(&pool, last.get() - 1).unwrap().1), [last.get()]);
}

#[test]
fn any_flipped_bit_of_its_frames_is_noticed() {
    let (_, pool) = blank();
    let segment = old_log(&pool);
    for bit in 0..(HEAD_LEN + old::body(&batch(2, 20)).len()) * 8 {
        let flip = |page: &mut [u8]| page[bit / 8] ^= 1 << (bit % 8);
        rewrite(&segment, 2 * PAGE_BYTES, flip);
        let Err(Error::Corrupt { reason, .. }) = open(&pool, 0) else { panic!("bit {bit}") };
        assert!(reason.contains("revision 2 was durable"), "bit {bit}: {reason}");
        let found = verify(&segment, Revision::new(FRAMES), &mut |_| true).damaged;
        let lost = Some((Revision::new(2), Revision::new(2)));
        assert_eq!(found.iter().map(|damaged| damaged.revisions).collect::<Vec<_>>(), [lost]);
        rewrite(&segment, 2 * PAGE_BYTES, flip);
    }
    assert_eq!(revisions(&open(&pool, 0).unwrap().1), [1, 2, 3, 4]);
}

/// A damaged head is made again from the note of the log, or from the frames where there is none.
#[test]
fn it_is_salvaged_without_its_head() {
    for noted in [true, false] {
        let (_, pool) = blank();
        let segment = old_log(&pool);
        rewrite(&segment, 0, |page| page[..SEGMENT_HEAD_LEN].fill(7));
        if !noted {
            let other = SegmentHead { sequence: 1, ..OLD };
            Note { segment: 999, head: other }.leave(&pool).unwrap();
        }
        assert!(open(&pool, 0).is_err());
        let mut options = options();
        options.salvage.log = LogDamage::SkipDamaged;
        let mut seen = Vec::new();
        let apply = &mut |revision: Revision, found: &WriteBatch| {
            assert_eq!(found.body(), batch(revision.get(), 20).body());
            seen.push(revision.get());
            Ok(())
        };
        Wal::open(&pool, &options, Revision::ZERO, &OpenProgress::default(), apply).unwrap();
        assert_eq!(seen, [1, 2, 3, 4], "noted: {noted}");
    }
}
