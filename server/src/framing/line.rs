//! A line that comes in pieces, of which no more is kept than is judged. PURE.
//!
//! Kept are the beginning, the last few bytes, and whether there is a `#`: so an unfinished line of
//! any length holds no more than [`KEPT_BYTES`] and a little. A line that comes in one piece is not
//! copied.

/// Bytes of the beginning that are kept: more than any length of a body takes with its name.
pub(super) const KEPT_BYTES: usize = 512;

/// Bytes of the end that are kept: a blank and a version, as at the end of a first line.
const LAST_BYTES: usize = 9;

/// The longest line break.
const BREAK_BYTES: usize = 2;

/// What is kept of a line whose end has not come.
#[derive(Debug, Default)]
pub(super) struct LineSoFar {
    start: Vec<u8>,
    /// With the line break, once it has come.
    last: Vec<u8>,
    len: usize,
    has_fragment: bool,
}

/// A whole line, without its break.
#[derive(Debug)]
pub(super) struct Line<'a> {
    start: &'a [u8],
    last: &'a [u8],
    len: usize,
    has_return: bool,
    has_fragment: bool,
    /// What has not been searched for a `#`.
    unsearched: &'a [u8],
}

impl LineSoFar {
    /// More of the line.
    pub(super) fn add(&mut self, part: &[u8]) {
        let room = KEPT_BYTES + BREAK_BYTES - self.start.len();
        self.start.extend_from_slice(&part[..room.min(part.len())]);
        let kept = LAST_BYTES + BREAK_BYTES;
        self.last.extend_from_slice(&part[part.len().saturating_sub(kept)..]);
        self.last.drain(..self.last.len().saturating_sub(kept));
        self.len += part.len();
        self.has_fragment |= memchr::memchr(b'#', part).is_some();
    }

    /// The line, with its last part, which ends with a line feed.
    pub(super) fn end<'a>(&'a mut self, part: &'a [u8]) -> Line<'a> {
        if self.len == 0 {
            let text = &part[..part.len() - break_bytes(part)];
            return Line {
                start: &text[..text.len().min(KEPT_BYTES)],
                last: &text[text.len().saturating_sub(LAST_BYTES)..],
                len: text.len(),
                has_return: part.ends_with(b"\r\n"),
                has_fragment: false,
                unsearched: text,
            };
        }
        self.add(part);
        let len = self.len - break_bytes(&self.last);
        let last = &self.last[..self.last.len() - break_bytes(&self.last)];
        Line {
            start: &self.start[..len.min(KEPT_BYTES)],
            last: &last[last.len().saturating_sub(LAST_BYTES)..],
            len,
            has_return: self.last.ends_with(b"\r\n"),
            has_fragment: self.has_fragment,
            unsearched: &[],
        }
    }

    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.start.len() + self.last.len()
    }
}

impl<'a> Line<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the line feed at its end has a carriage return before it.
    pub(super) fn has_return(&self) -> bool {
        self.has_return
    }

    /// The beginning, as far as it is kept.
    pub(super) fn start(&self) -> &'a [u8] {
        self.start
    }

    /// All of it, if it is kept.
    pub(super) fn whole(&self) -> Option<&'a [u8]> {
        (self.len == self.start.len()).then_some(self.start)
    }

    /// The last bytes.
    pub(super) fn last(&self) -> &'a [u8] {
        self.last
    }

    pub(super) fn has_fragment(&self) -> bool {
        self.has_fragment || memchr::memchr(b'#', self.unsearched).is_some()
    }
}

fn break_bytes(end: &[u8]) -> usize {
    if end.ends_with(b"\r\n") { 2 } else { usize::from(end.ends_with(b"\n")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_the_same_in_any_pieces() {
        for len in [0, 1, 8, 9, 10, KEPT_BYTES - 1, KEPT_BYTES, KEPT_BYTES + 1, 3 * KEPT_BYTES] {
            for line_break in ["\n", "\r\n"] {
                for fragment in [None, Some(0), Some(len / 2), len.checked_sub(1)] {
                    let mut text: Vec<u8> = (0..len).map(|n| b"abcdefghijk"[n % 11]).collect();
                    let fragment = fragment.filter(|at| *at < len);
                    if let Some(at) = fragment {
                        text[at] = b'#';
                    }
                    let bytes = [&text, line_break.as_bytes()].concat();
                    for step in [1, 2, 7, 600, bytes.len()] {
                        let mut so_far = LineSoFar::default();
                        let mut pieces: Vec<&[u8]> = bytes.chunks(step).collect();
                        let end = pieces.pop().unwrap();
                        for piece in pieces {
                            so_far.add(piece);
                        }
                        let line = so_far.end(end);
                        assert_eq!(line.is_empty(), len == 0);
                        assert_eq!(line.start(), &text[..len.min(KEPT_BYTES)], "{len} by {step}");
                        assert_eq!(line.whole().is_some(), len <= KEPT_BYTES);
                        assert_eq!(line.last(), &text[len.saturating_sub(LAST_BYTES)..]);
                        assert_eq!(line.has_return(), line_break.len() == 2);
                        assert_eq!(line.has_fragment(), fragment.is_some());
                    }
                }
            }
        }
    }
}
