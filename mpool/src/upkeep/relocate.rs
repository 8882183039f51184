//! Moving mblocks: off a volume that is being emptied, together with others out of zones that are
//! mostly dead, or down from the end of a volume that is to become shorter.
//!
//! ```text
//!   copy to the new place, checksums compared --> flush --> one record: "the mblock is here"
//!   --> `Pool::mblock` answers with the new place; handles of the old one go on working
//!   --> the last of them drops: its pages leave the cache, the old place is free
//! ```
//!
//! So readers are never disturbed, a crash leaves the old place or the new one, and whoever holds a
//! handle for long (`Mblock::has_moved`) takes a new one in its own time. A copy that does not have
//! the checksums that the journal names is not committed: rot is reported, not carried on.

use crate::{
    error::{Error, Result},
    id::MblockId,
    journal::record::Change,
    media::Priority,
    object::{
        mblock::{Finished, Mblock, MblockWriter, Sink},
        sums,
    },
    space::Room,
    upkeep::parts::Parts,
};
use mpool_device::{IO_ALIGN, IoBuf};
use std::sync::Arc;

/// Bytes copied at a time.
const COPY_BYTES: u64 = 256 << 10;

impl Parts {
    /// Moves one mblock off its volume if that is being emptied, else together with others on it.
    /// Returns the bytes moved; 0 if it was deleted meanwhile, or has left its place otherwise.
    /// Blocks on the drive.
    pub(crate) fn relocate(&self, id: MblockId) -> Result<u64> {
        let Some(old) = self.table.read().mblocks.get(&id).cloned() else { return Ok(0) };
        let from = self.space.of(old.volume()).expect("an object's volume has a space");
        let room = self.space.room_to_move(sums::total_len(old.len_bytes()), &from)?;
        self.move_into(room, &old)
    }

    /// The same, into room that was found for it.
    pub(crate) fn move_into(&self, room: Room, old: &Mblock) -> Result<u64> {
        let id = old.id();
        let writer = MblockWriter::new(id, old.len_bytes(), room, sink(self));
        let finished = copy(old, writer)?;
        self.volumes.flush()?;
        let mut moved = None;
        let change = [Change::placed(finished.placed())];
        let committed = self.journal.commit(
            &change,
            |catalog| {
                // An evacuation may have moved it meanwhile: it must not come back.
                let first = catalog.mblocks.get(&id).map(|place| place.extents[0].offset);
                let there = first == Some(old.layout().first());
                if there { Ok(()) } else { Err(Error::no_such(id)) }
            },
            || {
                let new = finished.into_mblock(&self.volumes, &self.mcache);
                moved = self.table.write().mblocks.insert(id, new);
            },
        );
        match committed {
            Err(Error::NoSuchObject { .. }) => return Ok(0),
            outcome => outcome?,
        }
        // Outside of all locks: the last handle drops cached pages.
        if let Some(old) = moved {
            old.mark_moved();
        }
        let bytes = old.len_bytes();
        self.volumes.metrics().mblocks_moved.add(1);
        self.volumes.metrics().moved_bytes.add(bytes);
        Ok(bytes)
    }
}

fn sink(parts: &Parts) -> Sink {
    let (volumes, queue) = (Arc::clone(&parts.volumes), Arc::clone(&parts.queue));
    Sink { volumes, queue, priority: Priority::Compaction }
}

fn copy(old: &Mblock, mut writer: MblockWriter) -> Result<Finished> {
    let len = old.len_bytes();
    let mut at = 0;
    while at < len {
        let now = COPY_BYTES.min(len - at);
        let bytes = usize::try_from(now).expect("a piece");
        let mut buf = IoBuf::zeroed(bytes.next_multiple_of(IO_ALIGN));
        old.read_padded(at, &mut buf, Priority::Compaction)?;
        writer.append(&buf[..bytes])?;
        at += now;
    }
    let finished = writer.finish()?;
    match old.sums_crc() {
        Some(crc) if crc != finished.sums_crc => {
            let what = old.id().to_string();
            Err(Error::corrupt(
                what,
                0,
                "its pages do not have the checksums they were written with",
            ))
        }
        _ => Ok(finished),
    }
}
