//! PURE: one frame of two copies, neither of which is whole.
//!
//! Copies are written alike. So the places in which they differ are the damaged ones, and one of
//! the ways to choose between them, place by place, is the frame: the one whose checksums are
//! right. Places are pages first, then sectors, for damage of both copies in one page.
//!
//! ```text
//! copy 1   [head][ x ][    ][    ]
//! copy 2   [head][    ][    ][ x ]   4 ways, two of which are the copies
//! ```

use super::frame::FrameHead;
use mpool_device::{IO_ALIGN, IoBuf};

/// In so many places copies may differ: each doubles what must be tried.
const DIFFERENCES_MAX: usize = 10;
/// What a drive writes whole or not at all.
const SECTOR: usize = 512;

/// The pages of one copy; `None` where it cannot be read.
pub(super) type Pages = Vec<Option<IoBuf>>;

/// The whole frame that `head` begins, of the pages of both copies.
pub(super) fn mend(head: &FrameHead, copies: [Pages; 2]) -> Option<Vec<u8>> {
    let [mut first, mut second] = [Vec::new(), Vec::new()];
    let [a, b] = copies;
    for (a, b) in a.into_iter().zip(b) {
        // What one copy lacks is the other's word alone.
        let pair = match (&a, &b) {
            (Some(a), Some(b)) => [a, b],
            (Some(one), None) | (None, Some(one)) => [one, one],
            (None, None) => return None,
        };
        first.extend_from_slice(pair[0]);
        second.extend_from_slice(pair[1]);
    }
    [IO_ALIGN, SECTOR].into_iter().find_map(|place| choose(head, [&first, &second], place))
}

/// Tries every way to choose between places of `place` bytes.
fn choose(head: &FrameHead, [first, second]: [&[u8]; 2], place: usize) -> Option<Vec<u8>> {
    let pairs = first.chunks(place).zip(second.chunks(place)).enumerate();
    let differ: Vec<usize> = pairs.filter(|(_, (a, b))| a != b).map(|(n, _)| n).collect();
    if differ.len() > DIFFERENCES_MAX {
        return None;
    }
    let mut frame = first.to_vec();
    for way in 0..1_u32 << differ.len() {
        for (bit, n) in differ.iter().enumerate() {
            let from = if way >> bit & 1 == 0 { first } else { second };
            let at = n * place;
            let end = (at + place).min(frame.len());
            frame[at..end].copy_from_slice(&from[at..end]);
        }
        let is_head = frame.first_chunk().map(FrameHead::decode) == Some(Ok(*head));
        if is_head && head.body(&frame).is_ok() {
            return Some(frame);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::mdc::{frame::FrameKind, writer::encode};

    fn frame(pages: usize) -> (FrameHead, Vec<u8>) {
        let body: Vec<u8> = (0..=u8::MAX).cycle().take(pages * IO_ALIGN - 100).collect();
        let head = FrameHead::new(FrameKind::Record, 7, 3, 9, &body);
        let mut bytes = vec![0; head.padded_len()];
        encode(&head, &body, &mut bytes);
        (head, bytes)
    }

    fn pages(bytes: &[u8]) -> Pages {
        let page = |chunk: &[u8]| {
            let mut page = IoBuf::zeroed(IO_ALIGN);
            page.copy_from_slice(chunk);
            Some(page)
        };
        bytes.chunks(IO_ALIGN).map(page).collect()
    }

    #[test]
    fn damage_in_different_places_of_both_copies_is_none() {
        let (head, good) = frame(30);
        // The head of one and the end of the other; five pages of each; sectors of one page.
        let places: [[&[usize]; 2]; 3] = [
            [&[3], &[29 * IO_ALIGN]],
            [&[100, 8192, 16_384, 24_576, 32_768], &[4096, 12_288, 20_480, 28_672, 36_864]],
            [&[20, 1024], &[600, 1600, 2049]],
        ];
        for bad in places {
            let [a, b] = bad.map(|places| {
                let mut copy = good.clone();
                for at in places {
                    copy[*at] ^= 4;
                }
                copy
            });
            assert!(mend(&head, [pages(&a), pages(&b)]).as_ref() == Some(&good), "{bad:?}");
        }
    }

    #[test]
    fn what_one_copy_cannot_read_is_taken_from_the_other() {
        let (head, good) = frame(5);
        let mut rotten = good.clone();
        rotten[2 * IO_ALIGN] ^= 1;
        let [mut a, mut b] = [pages(&good), pages(&rotten)];
        a[4] = None;
        assert!(mend(&head, [pages(&rotten), pages(&good)]).as_ref() == Some(&good));
        assert!(mend(&head, [a, pages(&rotten)]).as_ref() == Some(&good));
        let mut a = pages(&good);
        (a[2], b[4]) = (None, None);
        assert!(mend(&head, [a, b]).is_none(), "page 2 is rotten in the only copy");
    }

    #[test]
    fn nothing_is_made_up() {
        let (head, good) = frame(14);
        let [mut a, mut b] = [good.clone(), good.clone()];
        (a[5000], b[5000]) = (0xFF, 0xFE);
        assert!(mend(&head, [pages(&a), pages(&b)]).is_none(), "one sector of both");
        let [mut a, mut b] = [good.clone(), good.clone()];
        for page in 0..11 {
            let copy = if page % 2 == 0 { &mut a } else { &mut b };
            copy[page * IO_ALIGN + 64] ^= 1;
        }
        assert!(mend(&head, [pages(&a), pages(&b)]).is_none(), "too many differences");
    }
}
