//! PURE: where an object's bytes are.
//!
//! An object is one piece of its volume, or several where the drive chose the places (Zone Append).
//! Pieces follow each other in the order of the object's bytes, each a whole number of pages.

use crate::address::Extent;
use std::{ops::Range, sync::Arc};

/// The pieces of one object, in its order. Clones share them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pieces: Arc<[Piece]>,
    len: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    /// Within the object.
    at: u64,
    address: u64,
}

impl Layout {
    /// The layout of an object whose bytes are these extents, one after the other. Extents that
    /// touch become one piece.
    pub(crate) fn new(extents: &[Extent]) -> Self {
        let mut pieces: Vec<Piece> = Vec::with_capacity(extents.len());
        let mut len = 0;
        for extent in extents {
            let follows = pieces.last().is_some_and(|p| p.address + (len - p.at) == extent.offset);
            if !follows {
                pieces.push(Piece { at: len, address: extent.offset });
            }
            len += extent.len;
        }
        assert!(!pieces.is_empty(), "an object has a place");
        Self { pieces: pieces.into(), len }
    }

    /// Bytes that have a place: the object's, padded.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The address of its first byte. No two objects share it while both have their place.
    pub(crate) fn first(&self) -> u64 {
        self.pieces[0].address
    }

    /// The address of `range`, if it lies in one piece.
    pub(crate) fn address_of(&self, range: &Range<u64>) -> Option<u64> {
        let (address, left) = self.locate(range.start);
        (range.end - range.start <= left).then_some(address)
    }

    /// The parts of `range`, in order.
    pub(crate) fn parts(&self, range: Range<u64>) -> impl Iterator<Item = Extent> + '_ {
        assert!(range.end <= self.len, "a range lies within its object");
        let mut at = range.start;
        std::iter::from_fn(move || {
            if at >= range.end {
                return None;
            }
            let (offset, left) = self.locate(at);
            let len = left.min(range.end - at);
            at += len;
            Some(Extent { offset, len })
        })
    }

    /// Where byte `at` is, and how many bytes follow in the same piece.
    fn locate(&self, at: u64) -> (u64, u64) {
        assert!(at <= self.len, "a place lies within its object");
        // Nearly all objects are one piece; `partition_point` costs nothing there.
        let index = self.pieces.partition_point(|piece| piece.at <= at) - 1;
        let piece = self.pieces[index];
        let end = self.pieces.get(index + 1).map_or(self.len, |next| next.at);
        (piece.address + (at - piece.at), end - at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: u64 = 4096;

    fn extent(page: u64, pages: u64) -> Extent {
        Extent { offset: page * P, len: pages * P }
    }

    #[test]
    fn extents_that_touch_are_one_piece() {
        let layout = Layout::new(&[extent(4, 2), extent(6, 1), extent(1, 2), extent(3, 1)]);
        assert_eq!((layout.pieces.len(), layout.len(), layout.first()), (2, 6 * P, 4 * P));
        assert_eq!(layout.address_of(&(P..3 * P)), Some(5 * P));
        assert_eq!(layout.address_of(&(P..4 * P)), None, "it lies in two pieces");
        assert_eq!(layout.address_of(&(3 * P..6 * P)), Some(P));
        assert_eq!(layout.address_of(&(6 * P..6 * P)), Some(4 * P), "the empty end");
    }

    #[test]
    fn the_parts_of_a_range_cover_it_in_order() {
        let layout = Layout::new(&[extent(10, 1), extent(20, 2), extent(5, 1)]);
        let parts = |range: Range<u64>| layout.parts(range).collect::<Vec<_>>();
        assert_eq!(parts(0..4 * P), [extent(10, 1), extent(20, 2), extent(5, 1)]);
        assert_eq!(parts(P..2 * P), [extent(20, 1)]);
        assert_eq!(parts(2 * P..4 * P), [extent(21, 1), extent(5, 1)]);
        assert!(parts(P..P).is_empty());
    }
}
