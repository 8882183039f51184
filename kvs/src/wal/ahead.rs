//! The next chunk of a segment, on its way while the one before is looked at.
//!
//! A favour: a chunk that cannot be had so, or was not the one that is asked for, is read by
//! whoever needs it, and an error of the drive is met there.

use super::reader::CHUNK_BYTES;
use mpool::{IoBuf, Pool, Priority, Segment};
use std::sync::mpsc;

/// One chunk ahead of a reader that goes forward.
pub(super) struct Ahead<'a> {
    pool: &'a Pool,
    segment: Segment,
    /// Where it begins, and where it comes.
    coming: Option<(u64, mpsc::Receiver<IoBuf>)>,
}

impl<'a> Ahead<'a> {
    pub(super) fn new(pool: &'a Pool, segment: &Segment) -> Self {
        Self { pool, segment: segment.clone(), coming: None }
    }

    /// Orders the chunk at `start`, if there is one.
    pub(super) fn order(&mut self, start: u64) {
        let chunk = u64::try_from(CHUNK_BYTES).expect("a constant");
        let len = self.segment.len_bytes().saturating_sub(start).min(chunk);
        if len == 0 {
            return;
        }
        let (tell, told) = mpsc::sync_channel(1);
        let segment = self.segment.clone();
        let job = move || {
            // A chunk is as long at the end of a segment; what is behind is never looked at.
            let mut buf = IoBuf::zeroed(CHUNK_BYTES);
            let part = usize::try_from(len).expect("at most a chunk");
            let read = segment.read_at(start, &mut buf[..part]);
            // Before the answer: who deletes the segment next may count on its extent.
            drop(segment);
            if read.is_ok() {
                // Nobody may want it any more.
                let _ = tell.send(buf);
            }
        };
        self.pool.queue().run_blocking(Priority::Read, Box::new(job));
        self.coming = Some((start, told));
    }

    /// The chunk at `start`, if it was ordered and could be read.
    pub(super) fn take(&mut self, start: u64) -> Option<IoBuf> {
        let (at, coming) = self.coming.take()?;
        coming.recv().ok().filter(|_| at == start)
    }
}

impl Drop for Ahead<'_> {
    fn drop(&mut self) {
        // No read outlives the reader.
        self.take(u64::MAX);
    }
}
