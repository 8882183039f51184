//! From the raw request target to bytes: KVS names, keys and query parameters.
//!
//! Keys are bytes. The path is split at its first slash after the KVS's name and percent-decoded
//! once, here; everything after that slash belongs to the key, so `a/b`, `a//b`, `%2F`, `%00`,
//! `%ff` and `+` all stand for themselves. Clients that normalise paths (`.`, `..`) or have
//! arbitrary bytes use `?key_encoding=base64url`.
//!
//! Query parameters are form-encoded, as every client library writes them: there, `+` is a space.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use std::borrow::Cow;

/// base64url without padding when written; padding is accepted when read.
pub const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Of a path: all but unreserved characters and slashes.
const RESERVED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// The same of a segment that is dots.
const DOTTED: &AsciiSet = &RESERVED.add(b'.');

/// How the key is written in the request target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyEncoding {
    /// Percent-encoded bytes.
    #[default]
    Percent,
    /// base64url of the bytes.
    Base64Url,
}

/// Why a part of the request target was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// A `%` that two hexadecimal digits do not follow.
    #[error(
        "`%` at byte {at} of {part:?} is not followed by two hexadecimal digits; write a plain percent sign as %25"
    )]
    Percent {
        /// The text.
        part: String,
        /// Where.
        at: usize,
    },
    /// Not base64url.
    #[error("{part:?} is not base64url: {reason}")]
    Base64 {
        /// The text.
        part: String,
        /// What is wrong.
        reason: String,
    },
    /// Bytes that must be text are not.
    #[error("{part:?} is not UTF-8 after percent-decoding")]
    Utf8 {
        /// The text.
        part: String,
    },
    /// A parameter without meaning here.
    #[error("unknown query parameter {name:?}; known here: {known}")]
    UnknownParameter {
        /// Its name.
        name: String,
        /// What would have been understood.
        known: String,
    },
    /// A parameter given twice.
    #[error("query parameter {name:?} is given twice")]
    Repeated {
        /// Its name.
        name: String,
    },
    /// A parameter's value is not one of those allowed.
    #[error("query parameter {name}={got:?}: must be {want}")]
    Value {
        /// Its name.
        name: &'static str,
        /// What was given.
        got: String,
        /// What is allowed.
        want: &'static str,
    },
}

/// The KVS and the key of a path below `/v1/kv/`, both still encoded.
///
/// `None` for the key means that there was no slash: the path names the KVS itself.
pub fn split_key_path(path: &str) -> Option<(&str, Option<&str>)> {
    let rest = path.strip_prefix("/v1/kv/")?;
    match rest.split_once('/') {
        Some((kvs, key)) => Some((kvs, Some(key))),
        None if rest.is_empty() => None,
        None => Some((rest, None)),
    }
}

/// Percent-decodes once. Borrows when there is nothing to decode.
pub fn percent_decode(part: &str) -> Result<Cow<'_, [u8]>, TargetError> {
    check_percent(part)?;
    Ok(percent_encoding::percent_decode_str(part).into())
}

/// Decodes a piece of a form-encoded query: percent-decoding, and `+` is a space.
pub fn form_decode(part: &str) -> Result<Cow<'_, [u8]>, TargetError> {
    if !part.contains('+') {
        return percent_decode(part);
    }
    check_percent(part)?;
    Ok(Cow::Owned(percent_encoding::percent_decode_str(&part.replace('+', " ")).collect()))
}

/// Refuses a `%` without two hexadecimal digits behind it, which the library lets stand.
fn check_percent(part: &str) -> Result<(), TargetError> {
    let bytes = part.as_bytes();
    let is_whole = |at: usize| {
        bytes.get(at + 1..at + 3).is_some_and(|pair| pair.iter().all(u8::is_ascii_hexdigit))
    };
    match part.match_indices('%').find(|&(at, _)| !is_whole(at)) {
        Some((at, _)) => Err(TargetError::Percent { part: part.into(), at }),
        None => Ok(()),
    }
}

/// Text that must be UTF-8 after percent-decoding, such as a KVS's name.
pub fn percent_decode_text(part: &str) -> Result<Cow<'_, str>, TargetError> {
    match percent_decode(part)? {
        Cow::Borrowed(_) => Ok(Cow::Borrowed(part)),
        Cow::Owned(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Ok(Cow::Owned(text)),
            Err(_) => Err(TargetError::Utf8 { part: part.into() }),
        },
    }
}

/// The bytes of a key that was written in `encoding`, its percent-encoding already removed.
pub fn key_bytes(raw: Cow<'_, [u8]>, encoding: KeyEncoding) -> Result<Cow<'_, [u8]>, TargetError> {
    match encoding {
        KeyEncoding::Percent => Ok(raw),
        KeyEncoding::Base64Url => match BASE64URL.decode(&raw) {
            Ok(bytes) => Ok(Cow::Owned(bytes)),
            Err(error) => Err(TargetError::Base64 {
                part: String::from_utf8_lossy(&raw).into_owned(),
                reason: error.to_string(),
            }),
        },
    }
}

/// Writes bytes as a path that [`percent_decode`] reads back: unreserved characters and slashes
/// stand for themselves.
///
/// A segment of `.` or `..` has its dots encoded, because clients resolve the plain ones away.
pub fn percent_encode(bytes: &[u8]) -> String {
    let mut encoded = String::with_capacity(bytes.len());
    for segment in bytes.split_inclusive(|byte| *byte == b'/') {
        let name = segment.strip_suffix(b"/").unwrap_or(segment);
        let set = if name == b"." || name == b".." { DOTTED } else { RESERVED };
        encoded.extend(percent_encoding::percent_encode(segment, set));
    }
    encoded
}

/// The same for a name that is one segment of a path: slashes are encoded, too.
pub fn percent_encode_segment(bytes: &[u8]) -> String {
    percent_encode(bytes).replace('/', "%2F")
}

/// The parameters of one request, each known and given at most once.
#[derive(Debug, Default)]
pub struct Query<'a> {
    given: Vec<(&'static str, Cow<'a, [u8]>)>,
}

impl<'a> Query<'a> {
    /// Parses a raw query. A parameter that is not in `known` is an error that lists them.
    pub fn parse(
        raw: Option<&'a str>,
        known: &'static [&'static str],
    ) -> Result<Self, TargetError> {
        let mut query = Self::default();
        for pair in raw.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = form_decode(name)?;
            let Some(known) = known.iter().find(|known| known.as_bytes() == &*name) else {
                return Err(TargetError::UnknownParameter {
                    name: String::from_utf8_lossy(&name).into_owned(),
                    known: if known.is_empty() { "none".into() } else { known.join(", ") },
                });
            };
            if query.bytes(known).is_some() {
                return Err(TargetError::Repeated { name: (*known).into() });
            }
            query.given.push((known, form_decode(value)?));
        }
        Ok(query)
    }

    /// The raw bytes of a parameter.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.given.iter().find(|(given, _)| *given == name).map(|(_, value)| &**value)
    }

    /// A parameter that is text.
    pub fn text(&self, name: &'static str) -> Result<Option<&str>, TargetError> {
        let text = self.bytes(name).map(|raw| {
            let wrong = |_| TargetError::Utf8 { part: String::from_utf8_lossy(raw).into_owned() };
            std::str::from_utf8(raw).map_err(wrong)
        });
        text.transpose()
    }

    /// One of a set of words. Absent means `default`.
    pub fn choice<T: Copy>(
        &self,
        name: &'static str,
        choices: &[(&str, T)],
        (default, want): (T, &'static str),
    ) -> Result<T, TargetError> {
        let Some(got) = self.bytes(name) else { return Ok(default) };
        let found = choices.iter().find(|(word, _)| word.as_bytes() == got);
        found.map(|(_, value)| *value).ok_or_else(|| value_error(name, got, want))
    }

    /// `true` or `false`; given without a value it is true.
    pub fn flag(&self, name: &'static str) -> Result<bool, TargetError> {
        let words = [("true", true), ("1", true), ("", true), ("false", false), ("0", false)];
        self.choice(name, &words, (false, "true or false"))
    }

    /// How keys are written, in the path and in parameters.
    pub fn key_encoding(&self) -> Result<KeyEncoding, TargetError> {
        let words = [("percent", KeyEncoding::Percent), ("base64url", KeyEncoding::Base64Url)];
        self.choice("key_encoding", &words, (KeyEncoding::Percent, "percent or base64url"))
    }

    /// A parameter that holds a key or a piece of one.
    pub fn key(
        &self,
        name: &'static str,
        encoding: KeyEncoding,
    ) -> Result<Option<Cow<'_, [u8]>>, TargetError> {
        self.bytes(name).map(|raw| key_bytes(Cow::Borrowed(raw), encoding)).transpose()
    }

    /// A number within bounds.
    pub fn number(
        &self,
        name: &'static str,
        range: std::ops::RangeInclusive<u64>,
        want: &'static str,
    ) -> Result<Option<u64>, TargetError> {
        let Some(got) = self.bytes(name) else { return Ok(None) };
        let digits = got.iter().all(u8::is_ascii_digit);
        let text = std::str::from_utf8(got).ok().filter(|_| digits);
        let number = text.and_then(|text| text.parse().ok());
        let inside = number.filter(|number| range.contains(number));
        inside.map(Some).ok_or_else(|| value_error(name, got, want))
    }
}

/// An error about the value of a parameter.
pub fn value_error(name: &'static str, got: &[u8], want: &'static str) -> TargetError {
    TargetError::Value { name, got: String::from_utf8_lossy(got).into_owned(), want }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn everything_after_the_kvs_is_the_key() {
        for (path, want) in [
            ("/v1/kv/a/b", Some(("a", Some("b")))),
            ("/v1/kv/a/b/c", Some(("a", Some("b/c")))),
            ("/v1/kv/a//b", Some(("a", Some("/b")))),
            ("/v1/kv/a/", Some(("a", Some("")))),
            ("/v1/kv/a", Some(("a", None))),
            ("/v1/kv/", None),
            ("/v1/kvs/a", None),
        ] {
            assert_eq!(split_key_path(path), want, "{path}");
        }
    }

    #[test]
    fn decoding_happens_once() {
        for (part, want) in [
            ("plain", &b"plain"[..]),
            ("a%2Fb", b"a/b"),
            ("%252F", b"%2F"),
            ("%00%ff", b"\x00\xff"),
            ("a+b", b"a+b"),
            ("%2e%2E", b".."),
        ] {
            assert_eq!(&*percent_decode(part).unwrap(), want, "{part}");
        }
        assert_eq!(&*form_decode("a+b%2Bc").unwrap(), b"a b+c");
    }

    #[test]
    fn a_stray_percent_sign_is_named() {
        for part in ["%", "a%2", "%zz", "100%"] {
            let error = percent_decode(part).unwrap_err();
            assert!(matches!(error, TargetError::Percent { .. }), "{part}: {error}");
            assert!(error.to_string().contains("%25"));
        }
    }

    #[test]
    fn unknown_and_repeated_parameters_are_errors() {
        let unknown = Query::parse(Some("durabilty=off"), &["durability"]).unwrap_err();
        assert!(unknown.to_string().contains("durabilty"), "{unknown}");
        assert!(unknown.to_string().contains("known here: durability"), "{unknown}");
        let twice = Query::parse(Some("a=1&a=2"), &["a"]).unwrap_err();
        assert_eq!(twice, TargetError::Repeated { name: "a".into() });
        assert!(Query::parse(Some("&&"), &[]).is_ok());
    }

    #[test]
    fn numbers_are_bounded() {
        let query = Query::parse(Some("limit=7"), &["limit"]).unwrap();
        assert_eq!(query.number("limit", 1..=10, "1 to 10"), Ok(Some(7)));
        for bad in ["limit=0", "limit=11", "limit=x", "limit=", "limit=-1", "limit=%2B5"] {
            let query = Query::parse(Some(bad), &["limit"]).unwrap();
            assert!(query.number("limit", 1..=10, "1 to 10").is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_key_survives_the_path(key in prop::collection::vec(any::<u8>(), 0..64)) {
            let encoded = percent_encode(&key);
            let path = format!("/v1/kv/default/{encoded}");
            let uri: axum::http::Uri = path.parse().expect("an encoded key is a valid path");
            let (_, raw) = split_key_path(uri.path()).expect("below /v1/kv/");
            prop_assert_eq!(&*percent_decode(raw.expect("has a key")).unwrap(), &key[..]);
        }

        #[test]
        fn any_key_survives_base64url(key in prop::collection::vec(any::<u8>(), 0..64)) {
            let encoded = BASE64URL.encode(&key);
            let raw = percent_decode(&encoded).unwrap();
            prop_assert_eq!(&*key_bytes(raw, KeyEncoding::Base64Url).unwrap(), &key[..]);
        }

        #[test]
        fn decoding_never_panics(part in "\\PC*") {
            // The outcome does not matter here, only that there is one.
            drop(percent_decode(&part));
            drop(form_decode(&part));
            drop(Query::parse(Some(&part), &["a"]));
        }
    }
}
