//! Items of a scan on their way to the peer: JSON text, and large values that become text only as
//! they are sent.
//!
//! The text of a value can have six times its bytes. So a value beyond [`EAGER_BYTES`] is kept as
//! it was read, and written as JSON a piece at a time when the HTTP library asks for more; what is
//! small is written at once. Every piece carries its share of the budget for responses and returns
//! it when it is sent.

use super::item::{self, Encoding};
use crate::api::target::BASE64URL;
use crate::budget::{Share, counted};
use axum::body::Body;
use base64::Engine as _;
use bytes::Bytes;
use futures_util::stream;
use kvs::Revision;
use std::collections::VecDeque;
use std::convert::Infallible;

/// Values up to this size are written as JSON at once.
pub(crate) const EAGER_BYTES: usize = 16 << 10;

/// Text is sent in pieces of about this size.
const PIECE_BYTES: usize = 64 << 10;

/// Most bytes of JSON for a byte of key or value: a control character becomes `\u0001`.
const TEXT_PER_BYTE: usize = 6;

/// Bytes of a value that are written as JSON at a time; of three, because that is what base64
/// encodes without padding.
const SLICE_BYTES: usize = 3 * (16 << 10);

/// What an item has beside key and value: names, quotes, a revision.
const FRAME_BYTES: usize = 128;

enum Part {
    Text(Bytes),
    Value { rest: Bytes, encoding: Encoding },
}

/// What was shown and is not sent yet.
#[derive(Default)]
pub(crate) struct Outflow {
    parts: VecDeque<Part>,
    /// The text that is being written.
    tail: Vec<u8>,
    /// Of what is to come.
    share: Share,
    /// Bytes of JSON, as far as that is known.
    len: usize,
}

/// Memory that one more item takes while it is added: its text, or its value twice, because a read
/// from the drive goes through a buffer.
pub(crate) fn item_bytes(key_len: usize, value_len: Option<usize>) -> usize {
    let value = match value_len {
        None => 0,
        Some(small) if small <= EAGER_BYTES => (TEXT_PER_BYTE + 1) * small,
        Some(large) => 2 * large + PIECE_BYTES,
    };
    TEXT_PER_BYTE * key_len + value + FRAME_BYTES
}

impl Outflow {
    /// Bytes of JSON so far; of large values, before they are escaped.
    pub(crate) fn len(&self) -> usize {
        self.len + self.tail.len()
    }

    /// Memory in use, of which [`room`](Self::room) has to be there.
    pub(crate) fn tail_bytes(&self) -> usize {
        self.tail.capacity()
    }

    /// The share that further items come out of.
    pub(crate) fn room(&mut self) -> &mut Share {
        &mut self.share
    }

    /// Text between items.
    pub(crate) fn text(&mut self, text: &[u8]) {
        self.tail.extend_from_slice(text);
    }

    /// One item; without a value only its key is written.
    pub(crate) fn item(
        &mut self,
        encoding: Encoding,
        (key, value, revision): (&[u8], Option<Bytes>, Revision),
    ) {
        match value {
            Some(large) if large.len() > EAGER_BYTES => {
                let key = (key, encoding);
                let encoding = encoding.for_value(&large);
                item::append_head(&mut self.tail, key, encoding);
                self.cut();
                self.len += encoding.text_len(large.len());
                let share = self.share.split(large.len());
                self.parts.push_back(Part::Value { rest: counted(large, share), encoding });
                item::append_tail(&mut self.tail, revision);
            }
            small => item::append(&mut self.tail, encoding, (key, small.as_deref(), revision)),
        }
        if self.tail.len() >= PIECE_BYTES {
            self.cut();
        }
    }

    /// Ends the text being written.
    fn cut(&mut self) {
        if self.tail.is_empty() {
            return;
        }
        let mut text = std::mem::take(&mut self.tail);
        text.shrink_to_fit();
        self.len += text.len();
        let share = self.share.split(text.len());
        self.parts.push_back(Part::Text(counted(Bytes::from(text), share)));
    }

    /// All of it, and nothing beside: room that was not used goes back.
    pub(crate) fn finish(mut self) -> Self {
        self.cut();
        self.share = Share::default();
        self
    }

    /// The next piece to send.
    pub(crate) fn next(&mut self) -> Option<Bytes> {
        match self.parts.pop_front()? {
            Part::Text(text) => Some(text),
            Part::Value { mut rest, encoding } => {
                let piece = encoding.take_text(&mut rest, SLICE_BYTES);
                if !rest.is_empty() {
                    self.parts.push_front(Part::Value { rest, encoding });
                }
                Some(piece.into())
            }
        }
    }

    /// As a whole body.
    pub(crate) fn into_body(self) -> Body {
        let mut all = self.finish();
        if let (1, Some(Part::Text(text))) = (all.parts.len(), all.parts.front()) {
            // Of known length.
            return Body::from(text.clone());
        }
        let pieces = std::iter::from_fn(move || all.next().map(Ok::<_, Infallible>));
        Body::from_stream(stream::iter(pieces))
    }
}

/// Whether a value is text that takes no more room as a JSON string than as base64url: a batch that
/// takes a value of the largest size then takes what a scan wrote of it.
fn is_shorter_as_text(value: &[u8]) -> bool {
    let escaped = |byte: &u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 8 | 12 => 2,
        0..0x20 => TEXT_PER_BYTE,
        _ => 1,
    };
    let base64_len = Encoding::Base64.text_len(value.len());
    std::str::from_utf8(value).is_ok() && value.iter().map(escaped).sum::<usize>() <= base64_len
}

impl Encoding {
    /// How this value is written.
    fn for_value(self, value: &[u8]) -> Self {
        match self {
            Self::Utf8 if is_shorter_as_text(value) => Self::Utf8,
            Self::Utf8 | Self::Base64 => Self::Base64,
        }
    }

    /// About how long `len` bytes become.
    fn text_len(self, len: usize) -> usize {
        match self {
            Self::Utf8 => len,
            Self::Base64 => len.div_ceil(3) * 4,
        }
    }

    /// Takes about `len_max` bytes off the front of a value and writes them as the inside of a JSON
    /// string. A value that is written as text has been found to be UTF-8.
    fn take_text(self, rest: &mut Bytes, len_max: usize) -> Vec<u8> {
        let mut end = len_max.min(rest.len());
        if self == Self::Utf8 {
            // Not between the bytes of one character.
            while end < rest.len() && rest[end] & 0xc0 == 0x80 {
                end += 1;
            }
        }
        let taken = rest.split_to(end);
        match self {
            Self::Base64 => BASE64URL.encode(&taken).into_bytes(),
            Self::Utf8 => {
                let text = String::from_utf8_lossy(&taken);
                let mut quoted = serde_json::to_vec(&text).expect("a string is valid JSON");
                quoted.pop();
                quoted.remove(0);
                quoted
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(mut out: Outflow) -> String {
        let mut all = Vec::new();
        while let Some(piece) = out.next() {
            all.extend_from_slice(&piece);
        }
        String::from_utf8(all).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn a_large_value_is_written_as_a_small_one_would_be(
            seed in proptest::collection::vec("[a\u{1}\"\\\\\u{e9}\u{20ac}\u{1f600}]{0,9}", 1..9),
            binary in any::<bool>(),
            extra in 0..3_usize,
        ) {
            let mut value = seed.concat().into_bytes();
            value.push(b'x');
            while value.len() < 2 * SLICE_BYTES {
                value.extend_from_within(..);
            }
            value.extend(vec![if binary { 0xff } else { b'z' }; extra + usize::from(binary)]);
            let value = Bytes::from(value);
            for encoding in [Encoding::Utf8, Encoding::Base64] {
                let mut out = Outflow::default();
                let item = (&b"key"[..], Some(value.clone()), Revision::new(7));
                out.item(encoding, item);
                let mut want = Vec::new();
                item::append(&mut want, encoding, (b"key", Some(&value), Revision::new(7)));
                let mut want = String::from_utf8(want).unwrap();
                if encoding.for_value(&value) != encoding {
                    let value = BASE64URL.encode(&value);
                    want = format!("{{\"k\":\"key\",\"v64\":\"{value}\",\"rev\":7}}");
                }
                prop_assert_eq!(text(out.finish()), want);
            }
        }
    }

    /// 6 MiB of zeros became 37 MB of `\u0000`, more than a batch takes.
    #[test]
    fn no_large_value_is_longer_than_its_base64() {
        let len = EAGER_BYTES + 1;
        for (byte, name) in [(0, "v64"), (b'"', "v64"), (b'\n', "v64"), (b'a', "v"), (0x7f, "v")] {
            let mut out = Outflow::default();
            let value = Bytes::from(vec![byte; len]);
            out.item(Encoding::Utf8, (b"key", Some(value.clone()), Revision::new(7)));
            let text = text(out.finish());
            assert!(text.len() <= len.div_ceil(3) * 4 + FRAME_BYTES, "{byte}: {}", text.len());
            assert!(text.contains(&format!("\"{name}\":")), "{byte}");
        }
    }

    #[test]
    fn each_piece_returns_its_share_as_it_is_dropped() {
        use crate::budget::tests::budget;
        let budget = budget(8 << 20, crate::api::rejected::Rejected::ResponseMemory);
        let mut out = Outflow::default();
        let value = Bytes::from(vec![0xff; 1 << 20]);
        budget.try_grow(out.room(), item_bytes(3, Some(value.len()))).unwrap();
        out.item(Encoding::Utf8, (b"key", Some(value), Revision::new(1)));
        let mut out = out.finish();
        let held = budget.held_bytes();
        assert!((1 << 20..(1 << 20) + 4096).contains(&held), "{held}");
        while out.next().is_some() {}
        assert_eq!(budget.held_bytes(), 0);
    }
}
