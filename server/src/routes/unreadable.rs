//! What a scan could not read, as it stands among the items.
//!
//! ```json
//! {"k":"heron","error":{"type":"urn:millpond:problem:damaged",...}}
//! {"from":"h","to":"k","error":{"type":"urn:millpond:problem:damaged",...}}
//! ```
//!
//! The first is a key whose value, or whose newest version, cannot be read. The second is a range
//! of which keys may be missing, from the first to before the second: a page of an index cannot be
//! read. Those that are known of it follow as items. Bytes that are no text stand in `k64`,
//! `from64` and `to64`, as in items.

use super::item::Encoding;
use crate::api::problem::{Chain, Document, Problem};
use crate::api::target::Query;
use kvs::Error;
use serde::Serialize;

/// What a scan does where it meets damage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum OnDamage {
    /// It says so in the place, and goes on.
    #[default]
    Report,
    /// It ends there with an error.
    Stop,
}

impl OnDamage {
    /// The one asked for.
    pub(crate) fn of(query: &Query<'_>) -> Result<Self, Problem> {
        let words = [("report", Self::Report), ("stop", Self::Stop)];
        Ok(query.choice("on_damage", &words, (Self::Report, "report or stop"))?)
    }

    /// Whether a scan goes on after this error.
    pub(crate) fn passes(self, error: &Error) -> bool {
        let damage = matches!(error, Error::Damaged { .. } | Error::DamagedRange { .. });
        self == Self::Report && damage
    }
}

#[derive(Default, Serialize)]
struct Written<'a> {
    #[serde(flatten)]
    what: What<'a>,
    error: Option<Document<'a>>,
}

/// The key, or the range.
#[derive(Default, Serialize)]
struct What<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    k: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    k64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to64: Option<String>,
}

/// The document of damage that a scan passes over.
pub(crate) fn document(error: &Error, encoding: Encoding) -> Vec<u8> {
    let what = match error {
        Error::Damaged { key, .. } => {
            let (k, k64) = encoding.split(key);
            What { k, k64, ..What::default() }
        }
        Error::DamagedRange { from, to, .. } => {
            let ((from, from64), (to, to64)) = (encoding.split(from), encoding.split(to));
            What { from, from64, to, to64, ..What::default() }
        }
        _ => What::default(),
    };
    let problem = Problem::damaged(Chain(error).to_string());
    let written = Written { what, error: Some(problem.document(None)) };
    serde_json::to_vec(&written).expect("strings and numbers are valid JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn parsed(error: &Error, encoding: Encoding) -> Value {
        serde_json::from_slice(&document(error, encoding)).unwrap()
    }

    fn source() -> Error {
        Error::Corrupt { what: "vblock 7".into(), reason: "rot".into() }
    }

    #[test]
    fn keys_and_ranges_are_written_as_items_write_keys() {
        let key = |key: &[u8]| Error::Damaged {
            kvs: "birds".into(),
            key: key.into(),
            source: source().into(),
        };
        let text = parsed(&key(b"heron"), Encoding::Utf8);
        assert_eq!((&text["k"], &text["k64"]), (&json!("heron"), &Value::Null));
        assert_eq!(text["error"]["type"], "urn:millpond:problem:damaged");
        let detail = text["error"]["detail"].as_str().unwrap();
        assert!(detail.contains("birds") && detail.contains("rot"), "{detail}");
        assert_eq!(parsed(&key(b"\xff"), Encoding::Utf8)["k64"], "_w");
        assert_eq!(parsed(&key(b"a"), Encoding::Base64)["k64"], "YQ");
        let range = Error::DamagedRange {
            kvs: "birds".into(),
            from: b"a"[..].into(),
            to: b"\xff"[..].into(),
            source: source().into(),
        };
        let range = parsed(&range, Encoding::Utf8);
        assert_eq!((&range["from"], &range["to64"]), (&json!("a"), &json!("_w")));
        assert_eq!((&range["k"], &range["to"]), (&Value::Null, &Value::Null));
    }

    #[test]
    fn only_damage_is_passed_over() {
        let range = Error::DamagedRange {
            kvs: "birds".into(),
            from: b"a"[..].into(),
            to: b"b"[..].into(),
            source: source().into(),
        };
        assert!(OnDamage::Report.passes(&range));
        assert!(!OnDamage::Stop.passes(&range));
        assert!(!OnDamage::Report.passes(&Error::Closed));
        assert!(!OnDamage::Report.passes(&source()), "it names no key to go on from");
    }
}
