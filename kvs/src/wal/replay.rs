//! Reading the log at open: which segments are needed, and where the log ends.
//!
//! `find` reads the heads of all segments and orders them by sequence. A segment's frames end
//! before the next segment's first revision, and are durable up to there; those of the last one end
//! where a clean close says. Segments whose frames all lie at or before the floor are spares; the
//! rest must be a run without a hole.
//!
//! `walk` reads one segment by chunks and gives each frame after the floor to `apply`. In a segment
//! that is not the last, a missing frame is corruption. In the last it is the end of the log -
//! unless a later frame, or the mark of a clean close, says that it was durable. That search looks
//! at frames that begin a page, as the first frame of every write that follows a sync does.
//! Frames up to the floor are in kvsets: damage among them is passed over. Where not one frame of
//! the last segment can be read, its start must still be as it was when it was taken into use: rot
//! there is no end of the log.
//!
//! Frames after the end are never read again: the next segment's head says where this one ended.
//!
//! Memory: the reader's (`reader`), and one batch.

use super::damage::Damage;
use super::frame::{FrameHead, PAGE_BYTES, frame_len_min};
use super::reader::{Reader, newer};
use super::segment_head::{BadHead, SEGMENT_HEAD_LEN, SEGMENT_VERSION, SegmentHead};
use crate::entry::batch::WriteBatch;
use crate::error::{Error, Result};
use crate::key::Revision;
use crate::wal::mark::LogEnd;
use crate::wal::note::Note;
use mpool::{IO_ALIGN, IoBuf, Pool, Segment};
use std::sync::Arc;

/// The segments of a pool, sorted out.
pub(super) struct Found {
    /// With frames after the floor, in order.
    pub(super) runs: Vec<Run>,
    pub(super) spares: Vec<Segment>,
    /// Whose life nobody can tell: the head is damaged, and no frame can be read.
    pub(super) strays: Vec<Segment>,
    /// The greatest sequence number, 0 when there is none.
    pub(super) sequence: u64,
}

/// A segment to be walked.
pub(super) struct Run {
    pub(super) segment: Segment,
    head: SegmentHead,
    /// Whether the head could be read; else it is what the frames say.
    pub(super) is_whole: bool,
    /// Whether its start is known to have been written, frame or head.
    is_noted: bool,
    /// Its last revision, known from the next segment; None for the last segment.
    last: Option<Revision>,
    /// Up to there everything was durable when the log was last closed.
    closed_at: Revision,
}

/// What a walk saw.
#[derive(Debug, Default)]
pub(super) struct Walked {
    pub(super) frames: u64,
    pub(super) bytes: u64,
    /// Bytes of log from the first of those frames on.
    pub(super) log_bytes: u64,
    /// The last revision of the segment, lost ones included.
    pub(super) last: Revision,
    /// Where its frames end.
    pub(super) end: u64,
}

pub(super) fn find(
    pool: &Arc<Pool>,
    floor: Revision,
    closed: Option<LogEnd>,
    damage: &mut Damage,
) -> Result<Found> {
    let closed_at = closed.map_or(Revision::ZERO, |closed| closed.end);
    let noted = Note::read(pool)?;
    let (mut spares, mut strays, mut used) = (Vec::new(), Vec::new(), Vec::new());
    for id in pool.segment_ids() {
        let segment = pool.open_segment(id)?;
        let note = noted.filter(|note| note.segment == id.get()).map(|note| note.head);
        match segment_head(&segment) {
            Ok(head) if note.is_some_and(|note| is_before(head, note)) => {
                let note = note.expect("just looked at");
                let what = format!("head of write-ahead log segment {id}");
                damage.meet(what, lost_head(head, note), None)?;
                used.push((segment, note, false));
            }
            Ok(Some(head)) => used.push((segment, head, true)),
            Ok(None) => spares.push(segment),
            Err(error) if damage.is_refused() || matches!(error, Error::Format { .. }) => {
                return Err(error);
            }
            Err(error) => {
                let what = format!("head of write-ahead log segment {id}");
                damage.meet(what, error.to_string(), None)?;
                match note.map_or_else(|| guess_head(&segment), |note| Ok(Some(note)))? {
                    Some(head) => used.push((segment, head, false)),
                    None => strays.push(segment),
                }
            }
        }
    }
    used.sort_by_key(|(_, head, _)| head.sequence);
    let newest = used.last().map_or(0, |(_, head, _)| head.sequence);
    // A noted segment that is not there was deleted when kvsets had all of it.
    let deleted = noted.map(|note| note.head).filter(|note| note.sequence > newest);
    let sequence = deleted.map_or(newest, |note| note.sequence);
    let mut runs: Vec<Run> = Vec::new();
    // From the newest to the oldest, each knows where it ends from the one before.
    let mut next: Option<SegmentHead> = deleted;
    for (segment, head, is_whole) in used.into_iter().rev() {
        let last = next.map(SegmentHead::after);
        // After a clean close nothing was appended to it: the next life begins another segment.
        let ended = || closed.filter(|closed| closed.sequence == head.sequence).map(|c| c.end);
        if last.or_else(ended).is_some_and(|last| last <= floor) {
            let unneeded = if is_whole { &mut spares } else { &mut strays };
            unneeded.push(segment);
            continue;
        }
        if let Some(next) = next.filter(|_| damage.is_refused()) {
            check_neighbours(head, next)?;
        }
        let is_noted = noted.is_some_and(|note| note.head == head);
        runs.push(Run { segment, head, is_whole, is_noted, last, closed_at });
        next = Some(head);
    }
    runs.reverse();
    if let Some(note) = deleted.filter(|note| floor < note.after()) {
        let reason = format!(
            "segment {} (from revision {}) was taken into use, and is not there",
            note.sequence, note.first
        );
        damage.meet("write-ahead log".to_owned(), reason, None)?;
    }
    if let Some(run) = runs.first().filter(|run| run.head.after() > floor) {
        let reason = format!(
            "its first segment begins at revision {}, but kvsets hold revisions up to {floor} only",
            run.head.first
        );
        let lost = (floor.next(), run.head.after());
        damage.meet("write-ahead log".to_owned(), reason, Some(lost))?;
    }
    Ok(Found { runs, spares, strays, sequence })
}

/// Whether a segment's head, or its absence, is of an earlier life than the one that was noted.
fn is_before(head: Option<SegmentHead>, note: SegmentHead) -> bool {
    head.is_none_or(|head| head.sequence < note.sequence)
}

fn lost_head(head: Option<SegmentHead>, note: SegmentHead) -> String {
    let found = head.map_or_else(
        || "is blank".to_owned(),
        |head| format!("says that it is segment {}", head.sequence),
    );
    let SegmentHead { sequence, first, .. } = note;
    format!("it was taken into use as segment {sequence}, from revision {first} on, and {found}")
}

fn check_neighbours(head: SegmentHead, next: SegmentHead) -> Result<()> {
    if head.sequence + 1 == next.sequence && head.first <= next.after().next() {
        return Ok(());
    }
    Err(Error::Corrupt {
        what: "write-ahead log".to_owned(),
        reason: format!(
            "segment {} (from revision {}) is followed by segment {} (from revision {})",
            head.sequence, head.first, next.sequence, next.first
        ),
    })
}

/// What the frames of a segment say of its head. A gap before them is not known.
fn guess_head(segment: &Segment) -> Result<Option<SegmentHead>> {
    let mut reader = Reader::new(segment).tolerant();
    let mut newest: Option<SegmentHead> = None;
    let mut at = PAGE_BYTES;
    while at < segment.len_bytes() {
        if let Some((life, frame)) = reader.any_head(at)?
            && newest.is_none_or(|newest| life.sequence > newest.sequence)
        {
            let (sequence, frames) = (life.sequence, life.frames);
            newest = Some(SegmentHead { sequence, first: frame.revision, gap: 0, frames });
        }
        at += PAGE_BYTES;
    }
    Ok(newest)
}

/// None: the segment was never used.
pub(super) fn segment_head(segment: &Segment) -> Result<Option<SegmentHead>> {
    let mut page = IoBuf::zeroed(IO_ALIGN);
    segment.read_at(0, &mut page)?;
    let bytes = page.first_chunk::<SEGMENT_HEAD_LEN>().expect("a page is longer than a head");
    match SegmentHead::decode(bytes) {
        Ok(head) => Ok(Some(head)),
        Err(BadHead::Blank) => Ok(None),
        Err(BadHead::Version(found)) => Err(newer(found, SEGMENT_VERSION)),
        Err(bad) => Err(Error::Corrupt {
            what: format!("head of write-ahead log segment {}", segment.id().get()),
            reason: format!("{bad:?}"),
        }),
    }
}

/// How a segment is walked.
pub(super) struct Way<'a> {
    /// Frames up to it are in kvsets.
    pub(super) floor: Revision,
    /// On whose threads the segment is read ahead.
    pub(super) pool: &'a Pool,
    /// Is told how far the walk has come.
    pub(super) reached: &'a dyn Fn(u64),
}

pub(super) fn walk(
    run: &Run,
    way: &Way<'_>,
    damage: &mut Damage,
    apply: &mut dyn FnMut(Revision, &WriteBatch) -> Result<()>,
) -> Result<Walked> {
    let floor = way.floor;
    let mut reader = Reader::new(&run.segment).reading_ahead(way.pool);
    if !damage.is_refused() {
        reader = reader.tolerant();
    }
    let mut walked = Walked {
        last: Revision::new(run.head.first.get() - 1),
        end: PAGE_BYTES,
        ..Walked::default()
    };
    let mut first_at = None;
    while run.last.is_none_or(|last| walked.last < last) {
        let wanted = walked.last.next();
        let found = reader.frame_at(walked.end, run.head.life(), wanted)?;
        let body = match found {
            Some((at, head)) if wanted > floor => reader.body(at, head)?,
            Some(_) => Some(Vec::new()),
            None => None,
        };
        let (Some((at, head)), Some(body)) = (found, body) else {
            if step_over(&mut reader, run, (floor, found), &mut walked, damage)? {
                continue;
            }
            break;
        };
        if wanted > floor && damage.frame(wanted, &run.head.frames.batch(body)?, apply)? {
            first_at.get_or_insert(at);
            walked.frames += 1;
            walked.bytes += u64::from(head.body_len);
        }
        walked.last = wanted;
        walked.end = at + head.frame_len();
        (way.reached)(walked.end);
    }
    walked.log_bytes = first_at.map_or(0, |at| walked.end - at);
    Ok(walked)
}

/// The next frame cannot be read: goes on behind it, if the log goes on there. `found` is its head,
/// if that can be read.
fn step_over(
    reader: &mut Reader<'_>,
    run: &Run,
    (floor, found): (Revision, Option<(u64, FrameHead)>),
    walked: &mut Walked,
    damage: &mut Damage,
) -> Result<bool> {
    let (life, from, wanted) = (run.head.life(), walked.end, walked.last.next());
    if let Some((at, head)) = reader.resume(life, from, wanted.next()..=floor.next())? {
        tracing::warn!(
            segment = life.sequence,
            offset = from,
            "damaged log that kvsets make up for"
        );
        (walked.end, walked.last) = (at, before(head.revision));
        return Ok(true);
    }
    let first = wanted.max(floor.next());
    let Some(proof) = proof(reader, run, first, from)? else { return Ok(false) };
    let next = if let Some((at, head)) = found {
        Some((at + head.frame_len(), wanted.next()))
    } else {
        let later = first.next()..=run.last.unwrap_or(Revision::MAX);
        reader.resume(life, from, later)?.map(|(at, head)| (at, head.revision))
    };
    // Where only the start is known to have been written, any number may follow.
    let unknown = first.plus((run.segment.len_bytes() - from) / frame_len_min());
    let known = run.last.or((run.closed_at >= first).then_some(run.closed_at));
    let end = known.unwrap_or(unknown).max(first);
    let last = next.map_or(end, |(_, revision)| before(revision));
    let at = reader.behind_padding(from, life)?;
    let (sequence, id) = (life.sequence, run.segment.id());
    let what = format!("write-ahead log segment {sequence} ({id}) at offset {at}");
    let reason = format!("revision {first} was durable and cannot be read: {proof}");
    damage.meet(what, reason, Some((first, last)))?;
    if let Some((at, head)) = found {
        damage.guess(wanted, life.frames.batch(reader.raw_body(at, head)?));
    }
    if let Some((at, _)) = next {
        walked.end = at;
    }
    walked.last = last;
    Ok(next.is_some())
}

/// How it is known that `wanted`, which cannot be read, was once durable, if it is.
fn proof(
    reader: &mut Reader<'_>,
    run: &Run,
    wanted: Revision,
    from: u64,
) -> Result<Option<String>> {
    if run.last.is_some() {
        return Ok(Some("a later segment follows it".to_owned()));
    }
    if let Some(witness) = reader.witness(run.head.life(), wanted, from)? {
        return Ok(Some(format!("revision {witness} follows it")));
    }
    if wanted <= run.closed_at {
        return Ok(Some(format!("the log was closed at revision {}", run.closed_at)));
    }
    let start = "neither a frame nor the segment's head is where its first frame was or would be";
    Ok((run.is_noted && from == PAGE_BYTES && !reader.has_start(run.head)?)
        .then(|| start.to_owned()))
}

fn before(revision: Revision) -> Revision {
    Revision::new(revision.get() - 1)
}
