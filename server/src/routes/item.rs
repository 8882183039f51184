//! Keys and values in JSON.
//!
//! JSON strings cannot hold arbitrary bytes, so each of key and value has two fields and exactly
//! one of them is present: `k` and `v` hold text, `k64` and `v64` hold base64url without padding.
//! What is written is `k` and `v` where the bytes are UTF-8, else the other; `encoding=base64`
//! asks for the latter always. What is read may be either, so that what a scan wrote can be sent
//! back in a batch.

use crate::problem::Problem;
use crate::target::{BASE64URL, Query};
use base64::Engine as _;
use bytes::Bytes;
use kvs::Revision;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

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

    fn split(self, bytes: &[u8]) -> (Option<&str>, Option<String>) {
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
    (key, value, revision): (&Bytes, Option<&Bytes>, Revision),
) {
    let (k, k64) = encoding.split(key);
    let (v, v64) = value.map_or((None, None), |value| encoding.split(value));
    let written = Written { k, k64, v, v64, rev: revision.get() };
    serde_json::to_writer(out, &written).expect("writing strings and numbers to memory succeeds");
}

/// One operation of a batch, as it is read.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Operation<'a> {
    op: Kind,
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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Put,
    Delete,
}

/// An operation in the engine's terms.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Decoded<'a> {
    pub(crate) kvs: Cow<'a, str>,
    pub(crate) key: Cow<'a, [u8]>,
    pub(crate) value: Option<Cow<'a, [u8]>>,
}

impl<'a> Operation<'a> {
    /// Decodes keys and values; the error says what is missing or contradictory.
    pub(crate) fn decode(self) -> Result<Decoded<'a>, String> {
        let key = one_of("k", self.k, self.k64)?.ok_or("the key is missing: give k or k64")?;
        let value = one_of("v", self.v, self.v64)?;
        match (self.op, &value) {
            (Kind::Put, None) => return Err("a put needs a value: give v or v64".into()),
            (Kind::Delete, Some(_)) => return Err("a delete takes no value".into()),
            (Kind::Put, Some(_)) | (Kind::Delete, None) => {}
        }
        let kvs = self.kvs.unwrap_or(Cow::Borrowed("default"));
        Ok(Decoded { kvs, key, value })
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
    use proptest::prelude::*;

    fn decode(line: &str) -> Result<Decoded<'_>, String> {
        serde_json::from_str::<Operation<'_>>(line).map_err(|error| error.to_string())?.decode()
    }

    #[test]
    fn text_stays_text_and_bytes_become_base64url() {
        let write = |encoding, key: &'static [u8], value: &'static [u8]| {
            let mut out = Vec::new();
            let (key, value) = (Bytes::from_static(key), Bytes::from_static(value));
            append(&mut out, encoding, (&key, Some(&value), Revision::new(7)));
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
            append(&mut out, encoding, (&key, Some(&value), Revision::new(1)));
            let line = String::from_utf8(out).unwrap().replacen('{', r#"{"op":"put","#, 1);
            let decoded = decode(&line).unwrap();
            prop_assert_eq!(&*decoded.key, &*key);
            prop_assert_eq!(&*decoded.value.unwrap(), &*value);
            prop_assert_eq!(&*decoded.kvs, "default");
        }
    }
}
