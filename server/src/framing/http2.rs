//! HTTP/2 as bytes: the header blocks of its frames, and the `:path` in each (RFC 9113, 4 and 6).
//!
//! ```text
//!   length (3)  type (1)  flags (1)  stream (4)  payload (length)
//! ```
//!
//! Header blocks are compressed with a table that each of them may change, so that all are decoded,
//! in order. Frames of other types are passed over.

use super::{Heads, Lost};
use crate::budget::UNCOUNTED_BYTES;
use loona_hpack::Decoder;

/// What a client says first.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const FRAME_HEAD_BYTES: usize = 9;

/// Most bytes of a frame: what the HTTP library announces.
const FRAME_BYTES_MAX: usize = 16 << 10;

/// Most bytes of a header block. Far above what the library takes once it is decoded.
const BLOCK_BYTES_MAX: usize = 256 << 10;

/// Most bytes of the table: what the HTTP library announces.
const TABLE_BYTES_MAX: usize = 4096;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;

const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// One connection.
pub(super) struct Stream {
    decoder: Decoder<'static>,
    /// What has come of a frame's head, or of a frame that carries a header block.
    held: Vec<u8>,
    /// Bytes of another frame that are to come.
    passing: usize,
    /// What has come of a header block.
    block: Vec<u8>,
    /// Whether a frame has begun a header block, and none has ended it.
    is_block_open: bool,
}

impl Stream {
    pub(super) fn new() -> Self {
        let mut decoder = Decoder::new();
        decoder.set_max_allowed_table_size(TABLE_BYTES_MAX);
        Self { decoder, held: Vec::new(), passing: 0, block: Vec::new(), is_block_open: false }
    }

    /// Bytes of a header block whose end has not come.
    pub(super) fn unfinished_bytes(&self) -> usize {
        self.block.len() + self.held.len()
    }

    /// Whether a header block goes on in a frame that is to come.
    pub(super) fn is_block_open(&self) -> bool {
        self.is_block_open
    }

    pub(super) fn see(&mut self, mut bytes: &[u8], heads: &Heads) -> Result<(), Lost> {
        while !bytes.is_empty() {
            if self.passing > 0 {
                let len = self.passing.min(bytes.len());
                self.passing -= len;
                bytes = &bytes[len..];
                continue;
            }
            let want = FRAME_HEAD_BYTES + frame(&self.held).map_or(0, |(_, len)| len);
            let len = (want - self.held.len()).min(bytes.len());
            self.held.extend_from_slice(&bytes[..len]);
            bytes = &bytes[len..];
            match frame(&self.held) {
                Some((_, len)) if len > FRAME_BYTES_MAX => return Err(Lost),
                Some((HEADERS | CONTINUATION, len)) if self.held.len() < FRAME_HEAD_BYTES + len => {
                }
                Some((HEADERS | CONTINUATION, _)) => self.finish_frame(heads)?,
                Some((_, len)) => {
                    self.held.clear();
                    self.passing = len;
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Takes the piece of a header block out of a frame.
    fn finish_frame(&mut self, heads: &Heads) -> Result<(), Lost> {
        let (kind, flags) = (self.held[3], self.held[4]);
        let mut piece = &self.held[FRAME_HEAD_BYTES..];
        if kind == HEADERS {
            self.block.clear();
            let padding = if flags & PADDED == 0 {
                0
            } else {
                let (padding, rest) = piece.split_first().ok_or(Lost)?;
                piece = rest;
                usize::from(*padding)
            };
            if flags & PRIORITY != 0 {
                piece = piece.get(5..).ok_or(Lost)?;
            }
            piece = piece.get(..piece.len().checked_sub(padding).ok_or(Lost)?).ok_or(Lost)?;
        }
        self.block.extend_from_slice(piece);
        empty(&mut self.held);
        self.is_block_open = flags & END_HEADERS == 0;
        if self.block.len() > BLOCK_BYTES_MAX {
            return Err(Lost);
        }
        if !self.is_block_open {
            self.finish_block(heads)?;
        }
        Ok(())
    }

    fn finish_block(&mut self, heads: &Heads) -> Result<(), Lost> {
        let decoded = self.decoder.decode_with_cb(&self.block, |name, value| {
            if *name == *b":path"
                && let Some(at) = value.iter().position(|byte| *byte == b'#')
            {
                heads.note_cut(&value[..at]);
            }
        });
        empty(&mut self.block);
        decoded.map_err(|_| Lost)
    }
}

/// Empties a buffer, and keeps no more of it than most heads need.
fn empty(buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.shrink_to(UNCOUNTED_BYTES);
}

/// Type and length of the payload of the frame that `held` begins with, once its head is there.
fn frame(held: &[u8]) -> Option<(u8, usize)> {
    let [a, b, c, kind, ..] = *held.first_chunk::<FRAME_HEAD_BYTES>()?;
    Some((kind, usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use loona_hpack::Encoder;

    fn framed(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).unwrap().to_le_bytes();
        let mut frame = vec![len[2], len[1], len[0], kind, flags, 0, 0, 0, 1];
        frame.extend_from_slice(payload);
        frame
    }

    fn found(stream: &[u8], step: usize, shown: &str) -> Result<bool, ()> {
        let heads = Heads::default();
        let mut follower = Stream::new();
        for piece in stream.chunks(step) {
            follower.see(piece, &heads).map_err(|Lost| ())?;
        }
        Ok(heads.next(shown).is_some())
    }

    fn block(encoder: &mut Encoder<'_>, path: &str) -> Vec<u8> {
        let fields = [(":method", "PUT"), (":path", path), ("x-filler", "0123456789")];
        encoder.encode(fields.map(|(name, value)| (name.as_bytes(), value.as_bytes())))
    }

    #[test]
    fn a_fragment_is_found_in_any_form_of_a_block() {
        for step in [1, 5, 1 << 20] {
            let mut encoder = Encoder::new();
            let (plain, cut) = (block(&mut encoder, "/a"), block(&mut encoder, "/b?c#1"));
            let again = block(&mut encoder, "/d#1");
            let settings = framed(4, 0, &[0; 6]);
            let mut stream = [settings, framed(HEADERS, END_HEADERS, &plain)].concat();
            assert_eq!(found(&stream, step, "/a"), Ok(false));
            // In pieces, with padding and a priority, after a frame of data that has a `#`.
            stream.extend(framed(0, 0, b"GET /e#1"));
            let padded = [&[3, 0, 0, 0, 0, 9], &cut[..2], &[0; 3]].concat();
            stream.extend(framed(HEADERS, PADDED | PRIORITY, &padded));
            stream.extend(framed(CONTINUATION, 0, &cut[2..4]));
            stream.extend(framed(CONTINUATION, END_HEADERS, &cut[4..]));
            // With the table that the blocks before have made.
            stream.extend(framed(HEADERS, END_HEADERS, &again));
            for (shown, want) in [("/a", false), ("/b?c", true), ("/d", true), ("/e", false)] {
                assert_eq!(found(&stream, step, shown), Ok(want), "{shown}");
            }
        }
    }

    #[test]
    fn what_is_no_frame_or_block_is_lost() {
        for wrong in [
            framed(HEADERS, END_HEADERS, &[0xff, 0xff, 0xff]),
            framed(HEADERS, END_HEADERS | PADDED, &[9, 0x82]),
            framed(HEADERS, END_HEADERS | PADDED, &[]),
            framed(HEADERS, END_HEADERS | PRIORITY, &[0; 4]),
            framed(0, 0, &vec![0; FRAME_BYTES_MAX + 1]),
        ] {
            assert!(found(&wrong, 1 << 20, "/").is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn with_too_many_fragments_every_request_is_refused() {
        let mut encoder = Encoder::new();
        let mut stream = Vec::new();
        for n in 0..=super::super::CUT_MAX {
            stream.extend(framed(HEADERS, END_HEADERS, &block(&mut encoder, &format!("/{n}#"))));
        }
        assert_eq!(found(&stream, 100, "/anything"), Ok(true));
    }
}
