//! Making the copies of a journal's logs alike again, when the journal is opened.
//!
//! What `scan` found in one copy is written into those that lack it: rot, a sector that can no
//! longer be read, or an append that a crash cut off between the copies. Of the log that counts
//! that is every frame; of the other one its mark. All of it is flushed before anything is
//! appended.
//!
//! Where one copy cannot be read at the tail, behind the last frame, zeros are written: an append
//! that was never acknowledged may stand there, and must not come to light after the journal has
//! gone on without it. That is the only write here whose failure keeps the journal from opening;
//! else a copy that cannot be healed stays as it is, and the next open tries again.

use super::{
    elect::{Elected, Other},
    frame::{FrameHead, padded_len},
    pair::Place,
    scan::LogReader,
    writer::encode,
};
use crate::{
    address::Extent, error::Result, heads::log::Log, io::volumes::Volumes, media::Priority,
};
use mpool_device::{IO_ALIGN, IoBuf};

/// Heals both logs of an elected journal; nothing of theirs is open yet.
pub(crate) fn heal(volumes: &Volumes, place: &Place, elected: &Elected) -> Result<()> {
    let [active, passive] = [elected.active, 1 - elected.active];
    let mut healer = Healer { volumes, place, log: active, healed: Vec::new(), frames: 0 };
    let log = place.logs[active];
    if log.is_twice() {
        LogReader::new(volumes, log, place.owner).each_frame(elected, &mut |at, head, body| {
            healer.frame(at, head, body);
            Ok(())
        })?;
        healer.tail(elected.tail)?;
    }
    // Any other is marked anew, in both copies.
    let log = place.logs[passive];
    if log.is_twice() && elected.other == Other::Dead {
        healer.log = passive;
        if let Some(mark) = LogReader::new(volumes, log, place.owner).mark()? {
            healer.frame(0, &mark, &[]);
        }
    }
    healer.end()
}

struct Healer<'a> {
    volumes: &'a Volumes,
    place: &'a Place,
    /// Which of the two.
    log: usize,
    /// Log, copy, place and length of what was written; neighbours are one.
    healed: Vec<(usize, usize, u64, u64)>,
    frames: u64,
}

impl Healer<'_> {
    fn extent(&self) -> Log {
        self.place.logs[self.log]
    }

    /// Makes all copies have this frame, which one of them has.
    fn frame(&mut self, at: u64, head: &FrameHead, body: &[u8]) {
        let mut whole = self.volumes.bufs().take(padded_len(body.len()));
        encode(head, body, &mut whole);
        for (n, copy) in self.extent().copies().enumerate() {
            if self.holds(copy, at, &whole) {
                continue;
            }
            match self.volumes.write(copy.offset + at, &whole, Priority::Wal) {
                Ok(()) => self.note(n, at, whole.len() as u64),
                Err(error) => {
                    let journal = &self.place.name;
                    tracing::warn!(journal, copy = n + 1, offset = at, %error, "a copy of a journal's frame cannot be written again");
                }
            }
        }
        self.volumes.bufs().put(whole);
    }

    /// Whether a copy has these bytes.
    fn holds(&self, copy: Extent, at: u64, whole: &[u8]) -> bool {
        let mut found = self.volumes.bufs().take(whole.len());
        let read = self.volumes.read(copy.offset + at, &mut found, Priority::Read);
        let same = read.is_ok() && found[..] == *whole;
        self.volumes.bufs().put(found);
        same
    }

    /// Overwrites what is hidden behind the last frame.
    fn tail(&mut self, at: u64) -> Result<()> {
        if at >= self.extent().len {
            return Ok(());
        }
        let mut page = IoBuf::zeroed(IO_ALIGN);
        for (n, copy) in self.extent().copies().enumerate() {
            if self.volumes.read(copy.offset + at, &mut page, Priority::Read).is_err() {
                page.fill(0);
                self.volumes.write(copy.offset + at, &page, Priority::Wal)?;
                self.note(n, at, IO_ALIGN as u64);
            }
        }
        Ok(())
    }

    fn note(&mut self, copy: usize, at: u64, len: u64) {
        self.frames += 1;
        match self.healed.last_mut() {
            Some((log, last, from, bytes))
                if (*log, *last, *from + *bytes) == (self.log, copy, at) =>
            {
                *bytes += len;
            }
            _ => self.healed.push((self.log, copy, at, len)),
        }
    }

    /// Makes it durable, and tells.
    fn end(self) -> Result<()> {
        if self.frames == 0 {
            return Ok(());
        }
        self.volumes.flush()?;
        if !self.volumes.is_read_only() {
            self.volumes.metrics().mdc_healed.add(self.frames);
        }
        for (log, copy, offset, bytes) in self.healed {
            let (journal, log, copy) = (&self.place.name, ["A", "B"][log], copy + 1);
            tracing::warn!(
                journal,
                log,
                copy,
                offset,
                bytes,
                "one copy of a journal was damaged, or cut short by a crash; {}",
                self.volumes.remedy()
            );
        }
        Ok(())
    }
}
