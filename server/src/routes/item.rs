//! Keys and values in JSON.
//!
//! JSON strings cannot hold arbitrary bytes, so each of key and value has two fields and exactly
//! one of them is present: `k` and `v` hold text, `k64` and `v64` hold base64url without padding.
//! What is written is `k` and `v` where the bytes are UTF-8, else the other; a value beyond 16 KiB
//! is also written as `v64` where that is shorter than its text with its escapes. `encoding=base64`
//! asks for the latter always. What is read may be either.
//!
//! What a scan wrote can be sent back in a batch: its items are puts, its page is an array of them,
//! and the last line of a stream changes nothing. What a scan could not read is an error there.

use crate::api::object::Object;
use crate::api::problem::Problem;
use crate::api::target::{BASE64URL, Query};
use base64::Engine as _;
use kvs::Revision;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

/// Most operations of one batch.
pub(crate) const OPERATIONS_MAX: usize = 100_000;

/// How bytes are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// As text where they are UTF-8, else as base64url.
    #[default]
    Utf8,
    /// As base64url.
    Base64,
}

impl Encoding {
    /// The one asked for.
    pub(crate) fn of(query: &Query<'_>) -> Result<Self, Problem> {
        let words = [("utf8", Self::Utf8), ("base64", Self::Base64)];
        Ok(query.choice("encoding", &words, (Self::Utf8, "utf8 or base64"))?)
    }

    /// The bytes as text, or else as base64url.
    pub(crate) fn split(self, bytes: &[u8]) -> (Option<&str>, Option<String>) {
        let text = match self {
            Self::Utf8 => std::str::from_utf8(bytes).ok(),
            Self::Base64 => None,
        };
        (text, text.is_none().then(|| BASE64URL.encode(bytes)))
    }
}

#[derive(Serialize)]
struct Written<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    k: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    k64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    v: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    v64: Option<String>,
    rev: u64,
}

/// Appends one item to `out`. Without a value only the key is written.
pub(crate) fn append(
    out: &mut Vec<u8>,
    encoding: Encoding,
    (key, value, revision): (&[u8], Option<&[u8]>, Revision),
) {
    let (k, k64) = encoding.split(key);
    let (v, v64) = value.map_or((None, None), |value| encoding.split(value));
    let written = Written { k, k64, v, v64, rev: revision.get() };
    serde_json::to_writer(out, &written).expect("writing strings and numbers to memory succeeds");
}

/// Appends an item up to where the text of its value begins.
pub(crate) fn append_head(
    out: &mut Vec<u8>,
    (key, key_encoding): (&[u8], Encoding),
    value_encoding: Encoding,
) {
    // The value is between the quotes that end an empty one.
    let empty = match value_encoding {
        Encoding::Utf8 => (Some(""), None),
        Encoding::Base64 => (None, Some(String::new())),
    };
    let (k, k64) = key_encoding.split(key);
    let written = Written { k, k64, v: empty.0, v64: empty.1, rev: 0 };
    serde_json::to_writer(&mut *out, &written).expect("writing to memory succeeds");
    out.truncate(out.len() - ITEM_TAIL.len() - "0}".len());
}

/// Between the text of a value and its revision.
const ITEM_TAIL: &str = "\",\"rev\":";

/// Appends what comes after the text of a value.
pub(crate) fn append_tail(out: &mut Vec<u8>, revision: Revision) {
    out.extend_from_slice(ITEM_TAIL.as_bytes());
    out.extend_from_slice(revision.get().to_string().as_bytes());
    out.push(b'}');
}

/// One document of a batch, as it is read: an operation, or what a scan wrote.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Document<'a> {
    op: Option<Kind>,
    #[serde(borrow)]
    kvs: Option<Cow<'a, str>>,
    #[serde(borrow)]
    k: Option<Cow<'a, str>>,
    #[serde(borrow)]
    k64: Option<Cow<'a, str>>,
    #[serde(borrow)]
    v: Option<Cow<'a, str>>,
    #[serde(borrow)]
    v64: Option<Cow<'a, str>>,
    /// Where a scan's items come from; without meaning for a write.
    #[serde(rename = "rev")]
    _rev: Option<u64>,
    /// What a scan says where it could not go on, or could not read a key or a range of keys.
    error: Option<IgnoredAny>,
    from: Option<IgnoredAny>,
    from64: Option<IgnoredAny>,
    to: Option<IgnoredAny>,
    to64: Option<IgnoredAny>,
    /// The items of a page.
    #[serde(borrow)]
    items: Option<Documents<'a>>,
    /// On the last line of a stream.
    end: Option<bool>,
    count: Option<IgnoredAny>,
    damaged: Option<IgnoredAny>,
    /// On the last line of a stream, and of a page.
    revision: Option<IgnoredAny>,
    cursor: Option<IgnoredAny>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Put,
    Delete,
}

/// What a document of a batch says.
pub(crate) enum Said<'a> {
    /// An operation in the engine's terms.
    Write(Decoded<'a>),
    /// A page of a scan.
    Page(Documents<'a>),
    /// A stream was whole.
    End,
}

/// An operation in the engine's terms.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Decoded<'a> {
    pub(crate) kvs: Cow<'a, str>,
    pub(crate) key: Cow<'a, [u8]>,
    pub(crate) value: Option<Cow<'a, [u8]>>,
}

impl<'a> Document<'a> {
    /// What it says, of `kvs` where it names none; the error says what is missing or
    /// contradictory.
    pub(crate) fn said(self, kvs: &'a str) -> Result<Said<'a>, String> {
        if self.error.is_some() {
            return Err("this is an error that a scan has met, not an item, so that what was \
                        scanned is not whole; leave it out to write the rest"
                .into());
        }
        let of_key = self.op.is_some() || self.k.is_some() || self.k64.is_some();
        let of_key = of_key || self.v.is_some() || self.v64.is_some() || self.kvs.is_some();
        let of_scan = self.count.is_some() || self.revision.is_some() || self.cursor.is_some();
        let bounds = [&self.from, &self.from64, &self.to, &self.to64];
        let of_scan = of_scan || self.damaged.is_some() || bounds.iter().any(|b| b.is_some());
        match (self.items, self.end) {
            (Some(items), None) if !of_key => return Ok(Said::Page(items)),
            (None, Some(true)) if !of_key => return Ok(Said::End),
            (None, None) if !of_scan => {}
            _ => {
                return Err("it must be an operation, an item, a page or the end of a scan, and \
                            is of several kinds"
                    .into());
            }
        }
        let key = one_of("k", self.k, self.k64)?.ok_or("the key is missing: give k or k64")?;
        let value = one_of("v", self.v, self.v64)?;
        match (self.op, &value) {
            (Some(Kind::Put), None) => return Err("a put needs a value: give v or v64".into()),
            (Some(Kind::Delete), Some(_)) => return Err("a delete takes no value".into()),
            (None, None) => {
                return Err("it has neither op nor value: give op, or v or v64 as a scan does \
                            without keys_only"
                    .into());
            }
            (Some(Kind::Put) | None, Some(_)) | (Some(Kind::Delete), None) => {}
        }
        let kvs = self.kvs.unwrap_or(Cow::Borrowed(kvs));
        Ok(Said::Write(Decoded { kvs, key, value }))
    }
}

/// Documents of an array, as far as one more than a batch may have: a body of tiny operations would
/// otherwise take many times its size in memory before it is refused.
#[derive(Debug)]
pub(crate) struct Documents<'a>(pub(crate) Vec<Document<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for Documents<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(DocumentsVisitor(PhantomData))
    }
}

struct DocumentsVisitor<'a>(PhantomData<&'a ()>);

impl<'de: 'a, 'a> Visitor<'de> for DocumentsVisitor<'a> {
    type Value = Documents<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of operations or items")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Documents<'a>, A::Error> {
        let mut all = Vec::new();
        while let Some(Object(document)) = seq.next_element()? {
            if all.len() <= OPERATIONS_MAX {
                all.push(document);
            }
        }
        Ok(Documents(all))
    }
}

/// What a batch is made of: documents, one after the other, or in arrays.
#[derive(Debug)]
pub(crate) enum Piece<'a> {
    One(Box<Document<'a>>),
    Several(Documents<'a>),
}

impl<'de: 'a, 'a> Deserialize<'de> for Piece<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PieceVisitor(PhantomData))
    }
}

struct PieceVisitor<'a>(PhantomData<&'a ()>);

impl<'de: 'a, 'a> Visitor<'de> for PieceVisitor<'a> {
    type Value = Piece<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an operation or an item, or an array of them")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Piece<'a>, A::Error> {
        let document = Document::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Piece::One(Box::new(document)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Piece<'a>, A::Error> {
        DocumentsVisitor(PhantomData).visit_seq(seq).map(Piece::Several)
    }
}

fn one_of<'a>(
    name: &str,
    text: Option<Cow<'a, str>>,
    encoded: Option<Cow<'a, str>>,
) -> Result<Option<Cow<'a, [u8]>>, String> {
    match (text, encoded) {
        (None, None) => Ok(None),
        (Some(Cow::Borrowed(text)), None) => Ok(Some(Cow::Borrowed(text.as_bytes()))),
        (Some(Cow::Owned(text)), None) => Ok(Some(Cow::Owned(text.into_bytes()))),
        (None, Some(encoded)) => match BASE64URL.decode(encoded.as_bytes()) {
            Ok(bytes) => Ok(Some(Cow::Owned(bytes))),
            Err(error) => Err(format!("{name}64 is not base64url: {error}")),
        },
        (Some(_), Some(_)) => Err(format!("{name} and {name}64 are both given; give one")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn decode(line: &str) -> Result<Decoded<'_>, String> {
        let read = serde_json::from_str::<Object<Document<'_>>>(line);
        match read.map_err(|error| error.to_string())?.0.said("other")? {
            Said::Write(decoded) => Ok(decoded),
            Said::Page(_) => Err("a page".into()),
            Said::End => Err("the end".into()),
        }
    }

    #[test]
    fn text_stays_text_and_bytes_become_base64url() {
        let write = |encoding, key: &'static [u8], value: &'static [u8]| {
            let mut out = Vec::new();
            let (key, value) = (Bytes::from_static(key), Bytes::from_static(value));
            append(&mut out, encoding, (&key, Some(&value[..]), Revision::new(7)));
            String::from_utf8(out).unwrap()
        };
        assert_eq!(write(Encoding::Utf8, b"a", b"\xff"), r#"{"k":"a","v64":"_w","rev":7}"#);
        assert_eq!(write(Encoding::Base64, b"a", b"b"), r#"{"k64":"YQ","v64":"Yg","rev":7}"#);
    }

    #[test]
    fn contradictions_are_named() {
        for (line, want) in [
            (r#"{"op":"put","v":"1"}"#, "the key is missing"),
            (r#"{"op":"put","k":"a"}"#, "needs a value"),
            (r#"{"op":"delete","k":"a","v":"1"}"#, "takes no value"),
            (r#"{"op":"put","k":"a","k64":"YQ","v":"1"}"#, "both given"),
            (r#"{"op":"put","k64":"!","v":"1"}"#, "k64 is not base64url"),
            (r#"{"op":"incr","k":"a"}"#, "incr"),
            (r#"{"op":"put","k":"a","v":"1","ttl":3}"#, "ttl"),
            (r#"{"k":"a","rev":3}"#, "neither op nor value"),
            (r#"{"k":"a","rev":3,"error":{"detail":"damaged"}}"#, "not whole"),
            (r#"{"error":{"detail":"damaged"}}"#, "not whole"),
            (r#"{"from":"a","to64":"_w","error":{"detail":"damaged"}}"#, "not whole"),
            (r#"{"end":true,"count":1,"revision":1,"k":"a"}"#, "several kinds"),
            (r#"{"end":false}"#, "several kinds"),
            (r#"{"k":"a","v":"1","items":[]}"#, "several kinds"),
            (r#"{"k":"a","v":"1","cursor":"x"}"#, "several kinds"),
            (r#"{"items":[],"cursor":"x","revision":1}"#, "a page"),
            (r#"{"end":true,"count":1,"revision":1,"cursor":"x"}"#, "the end"),
            (r#"["put",null,"a",null,"1"]"#, "named fields"),
        ] {
            let error = decode(line).unwrap_err();
            assert!(error.contains(want), "{line}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_can_be_sent_back(
            key in prop::collection::vec(any::<u8>(), 1..32),
            value in prop::collection::vec(any::<u8>(), 0..32),
            text in any::<bool>(),
        ) {
            let encoding = if text { Encoding::Utf8 } else { Encoding::Base64 };
            let (key, value) = (Bytes::from(key), Bytes::from(value));
            let mut out = Vec::new();
            append(&mut out, encoding, (&key, Some(&value[..]), Revision::new(1)));
            let line = String::from_utf8(out).unwrap();
            let decoded = decode(&line).unwrap();
            prop_assert_eq!(&*decoded.key, &*key);
            prop_assert_eq!(&*decoded.value.unwrap(), &*value);
            prop_assert_eq!(&*decoded.kvs, "other");
        }
    }
}
