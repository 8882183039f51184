//! The bytes of objects as they lie on the medium, sound or not: for those who copy what is damaged
//! before it is cut or deleted.
//!
//! Nothing is verified. Pages that the drive cannot read are given as zeros, and counted.

use crate::{
    address::{Extent, VolumeId, offset_of},
    heads::log::Log,
    pool::{
        Pool,
        scrub::{ScrubPart, ScrubTarget},
    },
    verify::reader::Reader,
};
use mpool_device::IO_ALIGN;
use std::io;

/// Bytes of one read.
const READ_BYTES: usize = 1 << 20;

/// A contiguous piece of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawPiece {
    /// The object.
    pub target: ScrubTarget,
    /// Which copy of which of a journal's logs; else its data, the table of checksums behind it
    /// included.
    pub part: ScrubPart,
    /// The volume it is on.
    pub volume: VolumeId,
    /// Where on that volume, in bytes.
    pub volume_offset: u64,
    /// How long it is.
    pub len_bytes: u64,
}

impl Pool {
    /// Where an mblock, a segment or a journal of the pool's user lies, in the order of its bytes.
    /// Nothing for what does not exist, and for other targets.
    pub fn raw_pieces(&self, target: ScrubTarget) -> Vec<RawPiece> {
        let piece = |(part, extent): (ScrubPart, Extent)| RawPiece {
            target,
            part,
            volume: VolumeId::of(extent.offset),
            volume_offset: offset_of(extent.offset),
            len_bytes: extent.len,
        };
        let data = |extent: &Extent| (ScrubPart::Data, *extent);
        let places: Vec<(ScrubPart, Extent)> = self.journal.read(|catalog| match target {
            ScrubTarget::Mblock(id) => {
                let place = catalog.mblocks.get(&id);
                place.iter().flat_map(|place| place.extents.iter().map(data)).collect()
            }
            ScrubTarget::Segment(id) => catalog.segments.get(&id).iter().map(|e| data(e)).collect(),
            ScrubTarget::Journal(id) => {
                let logs = catalog.mdcs.get(&id).into_iter().flatten().enumerate();
                let copies = |(log, place): (usize, &Log)| {
                    let copies = place.copies().enumerate();
                    copies.map(move |(copy, extent)| (ScrubPart::of_log(log, copy), extent))
                };
                logs.flat_map(copies).collect()
            }
            ScrubTarget::Superblock(_) | ScrubTarget::Label(_) | ScrubTarget::PoolJournal => {
                Vec::new()
            }
        });
        places.into_iter().map(piece).collect()
    }

    /// Gives the bytes of a piece, a part at a time. Returns how many of its pages could not be
    /// read; errors are those of `see`.
    pub fn read_raw(
        &self,
        piece: &RawPiece,
        see: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<u64> {
        let mut reader = Reader::direct(&self.volumes, READ_BYTES);
        let (start, mut unreadable) = (piece.volume.address(piece.volume_offset), 0);
        for at in (0..piece.len_bytes).step_by(READ_BYTES) {
            let len = (READ_BYTES as u64).min(piece.len_bytes - at);
            let len = usize::try_from(len).expect("at most one read");
            let read = reader.pages(start + at, len);
            let pages = read.map_err(|_| io::Error::other("a read was stopped"))?;
            unreadable += pages.unreadable.len() as u64;
            see(&pages.bytes)?;
        }
        Ok(unreadable)
    }
}

const _: () = assert!(READ_BYTES.is_multiple_of(IO_ALIGN));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MblockId, Options, Priority};
    use mpool_sim::{Faults, SimDevice};
    use std::sync::Arc;

    #[test]
    fn bytes_are_given_as_they_lie_there() {
        let device = SimDevice::new(1 << 30);
        let options = Options { background: false, ..Options::default() };
        let pool = Pool::create(Arc::new(device.clone()), &options).unwrap();
        let mut writer = pool.allocate(1 << 16, Priority::Flush).unwrap();
        writer.append(&[7; 5000]).unwrap();
        let id = writer.id();
        pool.commit(vec![writer], &[]).unwrap();
        let segment = pool.create_segment(1 << 21).unwrap();
        segment.write_at(0, &crate::IoBuf::zeroed(IO_ALIGN)).unwrap();
        let mdc = pool.create_mdc(1 << 20).unwrap();
        let read = |target| {
            let (mut bytes, mut unreadable) = (Vec::new(), 0);
            for piece in pool.raw_pieces(target) {
                let mut see = |piece: &[u8]| {
                    bytes.extend_from_slice(piece);
                    Ok(())
                };
                unreadable += pool.read_raw(&piece, &mut see).unwrap();
            }
            (bytes, unreadable)
        };
        let (bytes, unreadable) = read(ScrubTarget::Mblock(id));
        assert!(bytes.len() >= 8192 && bytes[..5000] == [7; 5000] && unreadable == 0);
        assert_eq!(read(ScrubTarget::Segment(segment.id())).0.len(), 1 << 21);
        assert_eq!(read(ScrubTarget::Journal(mdc)).0.len(), 4 << 20, "two logs, each twice");
        assert!(read(ScrubTarget::Mblock(MblockId::new(999).unwrap())).0.is_empty());
        device.set_faults(Faults { read_eio_at: Some(0), ..Faults::default() });
        let (again, unreadable) = read(ScrubTarget::Mblock(id));
        // The read as a whole failed; page by page all of it is there.
        assert_eq!((again, unreadable), (bytes, 0));
        let failed = pool.read_raw(&pool.raw_pieces(ScrubTarget::Mblock(id))[0], &mut |_| {
            Err(io::Error::other("the disk is full"))
        });
        assert!(failed.unwrap_err().to_string().contains("full"));
    }
}
