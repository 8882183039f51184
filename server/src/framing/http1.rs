//! HTTP/1.1 as bytes: where heads begin and end, and what is wrong with their first lines.
//!
//! ```text
//!   Head --length n--> Sized(n) --> Head
//!     `---chunked----> ChunkLine --n--> Chunk(n) --> ChunkEnd --> ChunkLine
//!                          `----0----> Trailer (a line each, up to an empty one) --> Head
//! ```
//!
//! Lengths are read by the rules by which the HTTP library reads them, and heads by its own parser,
//! so that both see the same requests.

use super::{FollowLimits, Heads, Hidden, Lost};
use httparse::{Header, Request, Status};
use std::mem::MaybeUninit;

/// Most bytes of a line that says how long a chunk is, or of a trailer.
const LINE_BYTES_MAX: usize = 16 << 10;

/// The most header fields that can be asked for.
const FIELDS_MAX: usize = 128;

/// Where in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Head,
    Sized(u64),
    ChunkLine,
    Chunk(u64),
    /// The line break after a chunk.
    ChunkEnd,
    Trailer,
}

/// One connection.
pub(super) struct Stream {
    limits: FollowLimits,
    place: Place,
    /// The beginning of a head or a line whose end has not come.
    held: Vec<u8>,
    /// Heads so far.
    heads: u64,
}

impl Stream {
    pub(super) fn new(limits: FollowLimits) -> Self {
        assert!(limits.fields_max <= FIELDS_MAX, "as many fields as there is room for");
        Self { limits, place: Place::Head, held: Vec::new(), heads: 0 }
    }

    pub(super) fn see(&mut self, mut bytes: &[u8], heads: &Heads) -> Result<(), Lost> {
        while !bytes.is_empty() {
            bytes = match self.place {
                Place::Head => self.see_head(bytes, heads)?,
                Place::Sized(left) => self.skip(bytes, left, (Place::Sized, Place::Head)),
                Place::Chunk(left) => self.skip(bytes, left, (Place::Chunk, Place::ChunkEnd)),
                Place::ChunkLine | Place::ChunkEnd | Place::Trailer => self.see_line(bytes)?,
            };
        }
        Ok(())
    }

    /// Passes over what is left of a body or chunk; gives back what comes after it.
    fn skip<'a>(
        &mut self,
        bytes: &'a [u8],
        left: u64,
        (inside, then): (fn(u64) -> Place, Place),
    ) -> &'a [u8] {
        let len = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        let left = left - len as u64;
        self.place = if left == 0 { then } else { inside(left) };
        &bytes[len..]
    }

    fn see_head<'a>(&mut self, bytes: &'a [u8], heads: &Heads) -> Result<&'a [u8], Lost> {
        let before = self.held.len();
        if before == 0 {
            // The library passes over empty lines before a head.
            let blank = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            let bytes = &bytes[blank..];
            let Some(end) = head_end(bytes, 0) else { return self.hold(bytes) };
            self.finish_head(&bytes[..end], heads)?;
            return Ok(&bytes[end..]);
        }
        self.held.extend_from_slice(bytes);
        let Some(end) = head_end(&self.held, before.saturating_sub(3)) else {
            return self.hold(&[]);
        };
        let mut head = std::mem::take(&mut self.held);
        head.truncate(end);
        self.finish_head(&head, heads)?;
        Ok(&bytes[end - before..])
    }

    fn hold(&mut self, bytes: &[u8]) -> Result<&'static [u8], Lost> {
        self.held.extend_from_slice(bytes);
        if self.held.len() > self.limits.bytes_max { Err(Lost) } else { Ok(&[]) }
    }

    fn finish_head(&mut self, head: &[u8], heads: &Heads) -> Result<(), Lost> {
        let mut room = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let mut request = Request::new(&mut []);
        let room = &mut room[..self.limits.fields_max];
        let parsed = request.parse_with_uninit_headers(head, room).map_err(|_| Lost)?;
        let (Status::Complete(_), Some(target), Some(minor)) =
            (parsed, request.path, request.version)
        else {
            return Err(Lost);
        };
        let (lengths, place) = body(request.headers, minor)?;
        let hidden = if target.contains('#') {
            Some(Hidden::Fragment)
        } else if lengths == Lengths::Two {
            Some(Hidden::TwoLengths)
        } else {
            None
        };
        if let Some(hidden) = hidden {
            heads.note_request(self.heads, hidden);
        }
        self.heads += 1;
        self.place = place;
        Ok(())
    }

    fn see_line<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Lost> {
        let end = bytes.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
        let (part, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
        self.held.extend_from_slice(part);
        if self.held.len() > LINE_BYTES_MAX {
            return Err(Lost);
        }
        if end.is_some() {
            let line = std::mem::take(&mut self.held);
            self.place = after_line(self.place, &line)?;
        }
        Ok(rest)
    }
}

/// Where the head ends whose empty line is not before `from`.
fn head_end(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += bytes.get(at..)?.iter().position(|byte| *byte == b'\n')? + 1;
        match bytes.get(at..)? {
            [b'\n', ..] => return Some(at + 1),
            [b'\r', b'\n', ..] => return Some(at + 2),
            _ => {}
        }
    }
}

/// What comes after a whole line of a chunked body.
fn after_line(place: Place, line: &[u8]) -> Result<Place, Lost> {
    let line = line.strip_suffix(b"\r\n").ok_or(Lost)?;
    match place {
        Place::ChunkLine => match chunk_bytes(line).ok_or(Lost)? {
            0 => Ok(Place::Trailer),
            bytes => Ok(Place::Chunk(bytes)),
        },
        Place::ChunkEnd if line.is_empty() => Ok(Place::ChunkLine),
        Place::Trailer if line.is_empty() => Ok(Place::Head),
        Place::Trailer => Ok(Place::Trailer),
        Place::ChunkEnd | Place::Head | Place::Sized(_) | Place::Chunk(_) => Err(Lost),
    }
}

/// Hexadecimal digits, then perhaps blanks, then perhaps an extension.
fn chunk_bytes(line: &[u8]) -> Option<u64> {
    let size = line.split(|byte| *byte == b';').next()?.trim_ascii_end();
    let all_digits = !size.is_empty() && size.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(size).ok().filter(|_| all_digits)?;
    u64::from_str_radix(text, 16).ok()
}

/// In how many ways the length of a body is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lengths {
    AtMostOne,
    Two,
}

/// What comes after a head (RFC 9112, 6.3).
fn body(fields: &[Header<'_>], minor_version: u8) -> Result<(Lengths, Place), Lost> {
    let (mut length, mut chunked) = (None, None);
    for field in fields {
        if field.name.eq_ignore_ascii_case("content-length") {
            let bytes = digits(field.value).ok_or(Lost)?;
            if length.replace(bytes).is_some_and(|before| before != bytes) {
                return Err(Lost);
            }
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            let last = field.value.rsplit(|byte| *byte == b',').next().unwrap_or_default();
            chunked = Some(last.trim_ascii().eq_ignore_ascii_case(b"chunked"));
        }
    }
    match (length, chunked) {
        (_, Some(_)) if minor_version == 0 => Err(Lost),
        (_, Some(false)) => Err(Lost),
        (None, Some(true)) => Ok((Lengths::AtMostOne, Place::ChunkLine)),
        (Some(_), Some(true)) => Ok((Lengths::Two, Place::ChunkLine)),
        (None | Some(0), None) => Ok((Lengths::AtMostOne, Place::Head)),
        (Some(bytes), None) => Ok((Lengths::AtMostOne, Place::Sized(bytes))),
    }
}

fn digits(text: &[u8]) -> Option<u64> {
    let all_digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| all_digits)?.parse().ok()
}
