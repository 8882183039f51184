//! HTTP/1.1 as bytes: where heads begin and end, and what is wrong with their first lines.
//!
//! ```text
//!   First --line--> Field --empty line--> First            (no body)
//!                                    |--> Sized(n) --> First
//!                                    `--> ChunkLine --n--> Chunk(n) --> ChunkEnd --> ChunkLine
//!                                             `----0----> Trailer --empty line--> First
//! ```
//!
//! Lengths and ends of lines are read by the rules by which the HTTP library reads them, so that
//! both see the same requests. What a head must not have besides is the library's to refuse, and
//! ends the connection. Of a line no more is kept than is judged ([`super::line`]).

use super::line::{Line, LineSoFar};
use super::{FollowLimits, Heads, Hidden, Lost};

/// Most bytes of the lines of a trailer, and of one that says how long a chunk is.
const LINES_BYTES_MAX: usize = 16 << 10;

/// Most empty lines before a head. A client of old ends a body with one, which RFC 9112 (2.2) asks
/// servers to pass over; the library would pass over any number, and keeps them all in memory.
const BLANK_LINES_MAX: u32 = 8;

/// Where in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The first line of a head, or an empty one before it.
    First,
    /// The other lines of a head.
    Field,
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
    /// The beginning of a line whose end has not come.
    line: LineSoFar,
    /// Bytes of the head, the trailer or the chunk's line that has begun.
    begun_bytes: usize,
    head: Head,
    /// Empty lines since the last request.
    blank_lines: u32,
    /// Heads so far.
    heads: u64,
}

impl Stream {
    pub(super) fn new(limits: FollowLimits) -> Self {
        Self {
            limits,
            place: Place::First,
            line: LineSoFar::default(),
            begun_bytes: 0,
            head: Head::default(),
            blank_lines: 0,
            heads: 0,
        }
    }

    /// Bytes of a head or a trailer whose end has not come.
    pub(super) fn unfinished_bytes(&self) -> usize {
        let is_kept = matches!(self.place, Place::First | Place::Field | Place::Trailer);
        if is_kept { self.begun_bytes } else { 0 }
    }

    /// Whether a trailer has begun: its request cannot be carried out before it has ended.
    pub(super) fn is_in_trailer(&self) -> bool {
        self.place == Place::Trailer
    }

    /// The first request that what comes at this place may belong to.
    pub(super) fn request_here(&self) -> u64 {
        let in_head = matches!(self.place, Place::First | Place::Field);
        self.heads - u64::from(!in_head)
    }

    pub(super) fn see(&mut self, mut bytes: &[u8], heads: &Heads) -> Result<(), Lost> {
        while !bytes.is_empty() {
            bytes = match self.place {
                Place::Sized(left) => self.skip(bytes, left, (Place::Sized, Place::First)),
                Place::Chunk(left) => self.skip(bytes, left, (Place::Chunk, Place::ChunkEnd)),
                _ => self.see_line(bytes, heads)?,
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

    fn see_line<'a>(&mut self, bytes: &'a [u8], heads: &Heads) -> Result<&'a [u8], Lost> {
        let end = memchr::memchr(b'\n', bytes).map(|at| at + 1);
        let (part, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
        self.begun_bytes += part.len();
        let bytes_max = match self.place {
            Place::First | Place::Field => self.limits.bytes_max,
            _ => LINES_BYTES_MAX,
        };
        if self.begun_bytes > bytes_max {
            return Err(Lost);
        }
        if end.is_none() {
            self.line.add(part);
            return Ok(rest);
        }
        let mut line = std::mem::take(&mut self.line);
        let next = self.after_line(&line.end(part), heads)?;
        let goes_on = matches!(
            (self.place, next),
            (Place::First, Place::First)
                | (Place::First | Place::Field, Place::Field)
                | (Place::Trailer, Place::Trailer)
        );
        if !goes_on {
            self.begun_bytes = 0;
        }
        self.place = next;
        Ok(rest)
    }

    /// What comes after a whole line.
    fn after_line(&mut self, line: &Line<'_>, heads: &Heads) -> Result<Place, Lost> {
        match self.place {
            // The library passes over empty lines before a head.
            Place::First if line.is_empty() => {
                self.blank_lines += 1;
                if self.blank_lines > BLANK_LINES_MAX { Err(Lost) } else { Ok(Place::First) }
            }
            Place::First => {
                self.blank_lines = 0;
                self.head = Head::begin(line)?;
                Ok(Place::Field)
            }
            Place::Field if line.is_empty() => self.finish_head(heads),
            Place::Field => {
                self.head.add(line, self.limits.fields_max)?;
                Ok(Place::Field)
            }
            Place::ChunkLine => match chunk_bytes(line).ok_or(Lost)? {
                0 => Ok(Place::Trailer),
                bytes => Ok(Place::Chunk(bytes)),
            },
            Place::ChunkEnd if line.is_empty() && line.has_return() => Ok(Place::ChunkLine),
            Place::Trailer if !line.has_return() => Err(Lost),
            Place::Trailer if line.is_empty() => Ok(Place::First),
            Place::Trailer => Ok(Place::Trailer),
            Place::ChunkEnd | Place::Sized(_) | Place::Chunk(_) => Err(Lost),
        }
    }

    fn finish_head(&mut self, heads: &Heads) -> Result<Place, Lost> {
        let head = std::mem::take(&mut self.head);
        let (hidden, place) = head.body()?;
        if let Some(hidden) = hidden {
            heads.note_request(self.heads, hidden);
        }
        self.heads += 1;
        Ok(place)
    }
}

/// What a head has said so far.
#[derive(Clone, Copy, Debug, Default)]
struct Head {
    minor_version: u8,
    has_fragment: bool,
    fields: usize,
    length: Option<u64>,
    /// Whether the last transfer coding is `chunked`, where there is any.
    chunked: Option<bool>,
}

impl Head {
    /// By the first line: a method, a target and a version, one blank between each.
    fn begin(line: &Line<'_>) -> Result<Self, Lost> {
        let minor_version = match line.last() {
            b" HTTP/1.1" => 1,
            b" HTTP/1.0" => 0,
            _ => return Err(Lost),
        };
        // A `#` in the method makes as little sense as one in the target.
        Ok(Self { minor_version, has_fragment: line.has_fragment(), ..Self::default() })
    }

    /// With one field more.
    fn add(&mut self, line: &Line<'_>, fields_max: usize) -> Result<(), Lost> {
        self.fields += 1;
        if self.fields > fields_max {
            return Err(Lost);
        }
        let start = line.start();
        let named = |name: &[u8]| {
            start.len() > name.len()
                && start[name.len()] == b':'
                && start[..name.len()].eq_ignore_ascii_case(name)
        };
        if named(b"content-length") {
            let bytes = digits(value(line)?).ok_or(Lost)?;
            if self.length.replace(bytes).is_some_and(|before| before != bytes) {
                return Err(Lost);
            }
        } else if named(b"transfer-encoding") {
            let last = value(line)?.rsplit(|byte| *byte == b',').next().unwrap_or_default();
            self.chunked = Some(last.trim_ascii().eq_ignore_ascii_case(b"chunked"));
        }
        Ok(())
    }

    /// What is wrong with it, and what comes after it (RFC 9112, 6.3).
    fn body(self) -> Result<(Option<Hidden>, Place), Lost> {
        let (two_lengths, place) = match (self.length, self.chunked) {
            (_, Some(_)) if self.minor_version == 0 => return Err(Lost),
            (_, Some(false)) => return Err(Lost),
            (length, Some(true)) => (length.is_some(), Place::ChunkLine),
            (None | Some(0), None) => (false, Place::First),
            (Some(bytes), None) => (false, Place::Sized(bytes)),
        };
        let fragment = self.has_fragment.then_some(Hidden::Fragment);
        Ok((fragment.or(two_lengths.then_some(Hidden::TwoLengths)), place))
    }
}

/// What stands behind the colon, without blanks around it.
fn value<'a>(line: &'a Line<'_>) -> Result<&'a [u8], Lost> {
    let whole = line.whole().ok_or(Lost)?;
    let (_, value) = whole.split_at(memchr::memchr(b':', whole).ok_or(Lost)? + 1);
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let begin = value.iter().position(|byte| !is_blank(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !is_blank(byte)).map_or(begin, |last| last + 1);
    Ok(&value[begin..end])
}

/// Hexadecimal digits, then perhaps blanks, then perhaps an extension.
fn chunk_bytes(line: &Line<'_>) -> Option<u64> {
    if !line.has_return() {
        return None;
    }
    let (size, has_end) = match memchr::memchr(b';', line.start()) {
        Some(at) => (&line.start()[..at], true),
        None => (line.start(), line.whole().is_some()),
    };
    let size = size.trim_ascii_end();
    let is_size = has_end && !size.is_empty() && size.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(size).ok().filter(|_| is_size)?;
    u64::from_str_radix(text, 16).ok()
}

fn digits(text: &[u8]) -> Option<u64> {
    let all_digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| all_digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::line::KEPT_BYTES;
    use super::*;
    use httparse::{EMPTY_HEADER, Request, Status};
    use proptest::prelude::*;

    const LIMITS: FollowLimits = FollowLimits { bytes_max: 64 << 10, fields_max: 100 };

    /// What comes after a head, and what is wrong with it.
    type Seen = Option<(Place, Option<Hidden>)>;

    fn seen(head: &[u8], step: usize) -> Seen {
        let (mut stream, heads) = (Stream::new(LIMITS), Heads::default());
        for piece in head.chunks(step) {
            stream.see(piece, &heads).ok()?;
            assert!(stream.line.held_bytes() <= 2 * KEPT_BYTES, "no more than is judged is kept");
        }
        assert_eq!(stream.unfinished_bytes(), 0);
        Some((stream.place, heads.next("/")))
    }

    /// The same by the parser of the HTTP library; `None` where it refuses.
    fn parsed(head: &[u8]) -> Seen {
        let mut fields = [EMPTY_HEADER; 100];
        let mut request = Request::new(&mut fields);
        let Ok(Status::Complete(len)) = request.parse(head) else { return None };
        assert_eq!(len, head.len());
        let (target, minor_version) = (request.path?, request.version?);
        let (mut length, mut chunked) = (None, None);
        for field in request.headers {
            if field.name.eq_ignore_ascii_case("content-length") {
                let bytes = digits(field.value)?;
                if length.replace(bytes).is_some_and(|before| before != bytes) {
                    return None;
                }
            } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
                let last = field.value.rsplit(|byte| *byte == b',').next()?;
                chunked = Some(last.trim_ascii().eq_ignore_ascii_case(b"chunked"));
            }
        }
        let has_fragment = target.contains('#');
        let head = Head { minor_version, has_fragment, fields: 0, length, chunked };
        head.body().ok().map(|(hidden, place)| (place, hidden))
    }

    fn field() -> impl Strategy<Value = String> {
        let known = [
            "content-length:5",
            "Content-Length: 5",
            "content-length:\t 5 \t",
            "content-length: 6",
            "transfer-encoding: chunked",
            "Transfer-Encoding:gzip, CHUNKED ",
            "x: #",
            "a:",
            "x:y:z",
            "transfer-encoding: gzip",
            "content-lengths: 1",
            "content-length : 5",
            " content-length: 5",
            "host: pond",
            "x-long: \u{e9}",
        ];
        (prop::sample::select(known.to_vec()), 0..3_u8, 0..700_usize).prop_map(
            |(field, pad, len)| {
                let blanks = " ".repeat(if pad == 0 { len } else { 0 });
                format!("{field}{blanks}")
            },
        )
    }

    proptest! {
        /// Whatever the library takes is understood as the library does, in any pieces. Where
        /// a length is hidden behind so many blanks that it is not kept, it is refused.
        #[test]
        fn heads_are_read_as_the_library_reads_them(
            target in "/[a-z#?]{0,5}",
            long_target in prop::option::of(400..1200_usize),
            version in prop::sample::select(vec!["HTTP/1.1", "HTTP/1.0", "HTTP/2.0"]),
            fields in prop::collection::vec(field(), 0..6),
            line_end in prop::sample::select(vec!["\r\n", "\n"]),
            step in 1..900_usize,
        ) {
            let more = "a".repeat(long_target.unwrap_or(0));
            let mut head = format!("PUT {target}{more} {version}{line_end}");
            for field in &fields {
                head += field;
                head += line_end;
            }
            head += line_end;
            let Some(want) = parsed(head.as_bytes()) else { return Ok(()) };
            let hidden = |field: &String| {
                let name = field.to_ascii_lowercase();
                let counts = name.starts_with("content-length:") || name.starts_with("transfer-e");
                counts && field.len() > KEPT_BYTES
            };
            let want = if fields.iter().any(hidden) { None } else { Some(want) };
            prop_assert_eq!(seen(head.as_bytes(), step), want);
        }
    }

    #[test]
    fn a_chunk_has_its_size_before_an_extension_of_any_length() {
        let head = b"PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
        for (line, want) in [
            (format!("a;x={}\r\n", "y".repeat(2000)), Some(Place::Chunk(10))),
            (format!("a{}\r\n", " ".repeat(2000)), None),
            (format!("{}a\r\n", "0".repeat(2000)), None),
            ("a \r\n".into(), Some(Place::Chunk(10))),
        ] {
            for step in [1, 700, 5000] {
                let stream = [&head[..], line.as_bytes()].concat();
                assert_eq!(seen(&stream, step).map(|(place, _)| place), want, "{line}");
            }
        }
    }
}
