//! Errors as clients see them: `application/problem+json` (RFC 9457).
//!
//! A [`Problem`] names what was wrong, the limit it broke and the way out. Handlers return it as
//! an error; [`Problem::into_response`] leaves it in the response's extensions and
//! [`crate::app`] writes the body, because only there the request's id is known. The cause of a
//! failure that is not the client's fault goes to the log in full, in the line about its request,
//! and to the client in one line.

use crate::api::route::Route;
use crate::api::target::TargetError;
use crate::process_limits::file_size_note;
use axum::body::Body;
use axum::http::header::{
    ACCEPT, ACCEPT_ENCODING, ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER,
};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use kvs::{Error, Scope};
use serde::Serialize;
use std::borrow::Cow;
use std::sync::Arc;

/// The commands that give a full store room.
const HOW_TO_GROW: &str = "`millpond pool grow vol-0 SIZE` raises what a volume may grow to, \
                           `millpond pool add PATH` adds one";

/// The command that names who holds space.
const LIST_SNAPSHOTS: &str =
    "`millpond snapshots` tells whose they are, and ends one with --end ID; ";

/// Ways out by HTTP; the commands have their own.
pub(crate) const CREATE_KVS: &str = "create it with PUT /v1/kvs/";
pub(crate) const LIST_KVSS: &str = "GET /v1/kvs lists those that are there";
pub(crate) const LIST_VOLUMES: &str = "GET /v1/admin/pool lists the volumes";

/// Names the resource that a refused write waits for.
pub const STALL: HeaderName = HeaderName::from_static("x-millpond-stall");

/// Slugs of problems that are faults of the server or its drives: not of the request, and not of
/// the load.
pub const FAULTS: [&str; 5] = ["internal", "storage", "damaged", "store-failed", "timeout"];

/// One error, as told to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The HTTP status.
    pub status: StatusCode,
    /// The last part of the problem's URN: stable, for programs.
    pub slug: &'static str,
    /// The kind of problem, for people: the same for every problem of a slug.
    pub title: &'static str,
    /// This very problem, for people.
    pub detail: Cow<'static, str>,
    /// Seconds after which trying again makes sense.
    pub retry_after_s: Option<u32>,
    /// What stalls writers, where that is the reason.
    pub stall: Option<&'static str>,
    /// The methods that would have been right.
    pub allow: Option<&'static str>,
    /// The body that would have been right.
    pub accepts: Option<Accepts>,
    /// What the log says in place of the detail: the failure with all its causes.
    pub cause: Option<Arc<str>>,
}

/// What a body must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepts {
    /// JSON documents.
    Json,
    /// The bytes themselves, without a coding.
    Plain,
}

impl Accepts {
    /// The header field that says so.
    fn field(self) -> (HeaderName, HeaderValue) {
        match self {
            Self::Json => {
                let kinds = HeaderValue::from_static("application/json, application/x-ndjson");
                (ACCEPT, kinds)
            }
            Self::Plain => (ACCEPT_ENCODING, HeaderValue::from_static("identity")),
        }
    }
}

/// A problem as JSON.
#[derive(Debug, Serialize)]
pub struct Document<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

/// Result of a handler.
pub type Answer = Result<Response, Problem>;

impl Problem {
    /// A problem without extras.
    pub fn new(
        status: StatusCode,
        (slug, title): (&'static str, &'static str),
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            slug,
            title,
            detail: detail.into(),
            retry_after_s: None,
            stall: None,
            allow: None,
            accepts: None,
            cause: None,
        }
    }

    /// Whether the server or its drives are at fault: not the request, and not the load.
    pub fn is_fault(&self) -> bool {
        FAULTS.contains(&self.slug)
    }

    /// The request itself is malformed.
    pub fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ("bad-request", "Malformed request"), detail)
    }

    /// The server cannot take this on at the moment.
    pub fn overloaded(reason: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        let kind = ("overloaded", "Too much to do");
        Self {
            retry_after_s: Some(1),
            stall: Some(reason),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, kind, detail)
        }
    }

    /// A body or a value is larger than allowed.
    pub fn too_large(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, ("too-large", "Too large"), detail)
    }

    /// No route has this path.
    pub fn no_such_route(path: &str) -> Self {
        let mut detail = format!(
            "nothing is served at {path:?}; there are /v1/kv/{{kvs}}/{{key}}, /v1/kv/{{kvs}} \
             (scans), /v1/batch, /v1/kvs, /v1/kvs/{{kvs}}, /v1/admin/pool (with /name, /maps, \
             /scrub, /volumes), \
             /v1/admin/tree/{{kvs}}, /v1/admin/compact, \
             /v1/admin/snapshots, /v1/admin/snapshots/{{id}}, /livez, /readyz, /metrics and \
             /version"
        );
        if path.starts_with("/v1/kvs/") {
            detail.push_str("; the name of a KVS is one segment, without a slash");
        }
        Self::new(StatusCode::NOT_FOUND, ("no-such-route", "No such route"), detail)
    }

    /// What was asked for does not fit the present state of things.
    pub fn conflict(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, ("refused", "Refused"), detail)
    }

    /// The same for one who takes away, or looks at, what a KVS has: to create one that is absent
    /// is no way out.
    pub(crate) fn of_what_is_there(mut self) -> Self {
        if let Some((what, _)) = self.detail.split_once(CREATE_KVS) {
            self.detail = format!("{what}{LIST_KVSS}").into();
        }
        self
    }

    /// The pool refused a change of its volumes, or failed.
    pub fn pool(error: mpool::Error) -> Self {
        match &error {
            mpool::Error::NoSuchObject { .. } => Self::new(
                StatusCode::NOT_FOUND,
                ("no-such-volume", "No such volume"),
                format!("{error}; {LIST_VOLUMES}"),
            ),
            mpool::Error::Options(_)
            | mpool::Error::Unusable { .. }
            | mpool::Error::InUse { .. } => Self::conflict(error.to_string()),
            _ => Error::Pool(error).into(),
        }
    }

    /// The route exists, but not for this method.
    pub fn method_not_allowed(method: &str, route: Route) -> Self {
        let kind = ("method-not-allowed", "Method not allowed");
        let (allow, purpose) = (route.allow(), route.purpose());
        let detail = format!("{method} is not served here, but {allow}: {purpose}");
        Self { allow: Some(allow), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, kind, detail) }
    }

    /// A handler panicked.
    pub fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            ("internal", "Internal error"),
            "the server failed on this request; its log has the cause under this request_id",
        )
    }

    /// The problem as a JSON document.
    pub fn document<'a>(&'a self, request_id: Option<&'a str>) -> Document<'a> {
        Document {
            kind: format!("urn:millpond:problem:{}", self.slug),
            title: self.title,
            status: self.status.as_u16(),
            detail: &self.detail,
            request_id,
        }
    }

    /// The JSON body.
    pub fn body(&self, request_id: &str) -> Vec<u8> {
        let document = self.document(Some(request_id));
        let mut body = serde_json::to_vec(&document).expect("strings and numbers are valid JSON");
        body.push(b'\n');
        body
    }

    /// The whole answer on a connection of HTTP/1.1 that ends with it, past the HTTP library.
    pub fn as_http1(&self) -> Vec<u8> {
        let mut body = serde_json::to_vec(&self.document(None)).expect("strings and numbers");
        body.push(b'\n');
        let mut head = format!(
            "HTTP/1.1 {}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\
             connection: close\r\n",
            self.status,
            body.len()
        );
        for (name, value) in [
            (RETRY_AFTER, self.retry_after_s.map(|seconds| seconds.to_string())),
            (STALL, self.stall.map(str::to_owned)),
        ] {
            if let Some(value) = value {
                head = format!("{head}{name}: {value}\r\n");
            }
        }
        [head.as_bytes(), b"\r\n", &body].concat()
    }

    /// Writes the body of a response that came from [`Problem::into_response`].
    pub fn render(response: Response, request_id: &str) -> Response {
        let Some(problem) = response.extensions().get::<Arc<Self>>().cloned() else {
            return response;
        };
        let (mut parts, _) = response.into_parts();
        // The router has measured the empty body that stood here until now.
        parts.headers.remove(CONTENT_LENGTH);
        parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Ok(id) = HeaderValue::from_str(request_id) {
            parts.headers.insert(HeaderName::from_static("x-request-id"), id);
        }
        Response::from_parts(parts, Body::from(problem.body(request_id)))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_s {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(reason) = self.stall {
            headers.insert(STALL, HeaderValue::from_static(reason));
        }
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        headers.extend(self.accepts.map(Accepts::field));
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

impl From<TargetError> for Problem {
    fn from(error: TargetError) -> Self {
        Self::bad_request(error.to_string())
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let detail = error.to_string();
        match &error {
            Error::NoSuchKvs { name } => Self::new(
                StatusCode::NOT_FOUND,
                ("no-such-kvs", "No such KVS"),
                format!("no KVS is named {name:?}; {CREATE_KVS}{name}"),
            ),
            Error::ReadOnly => Self::new(
                StatusCode::FORBIDDEN,
                ("read-only", "Read-only"),
                "this server was started with --read-only: it takes no writes and no changes",
            ),
            Error::KvsDropped | Error::KvsNewer { .. } => {
                Self::new(StatusCode::NOT_FOUND, ("no-such-kvs", "No such KVS"), detail)
            }
            Error::KeyLength { .. } => {
                Self::new(StatusCode::BAD_REQUEST, ("key-length", "Key length"), detail)
            }
            Error::ValueLength { .. } | Error::BatchLength { .. } => Self::too_large(detail),
            Error::KvsExists { .. } => {
                Self::new(StatusCode::CONFLICT, ("kvs-exists", "KVS exists"), detail)
            }
            Error::KvsName { .. } => {
                Self::new(StatusCode::BAD_REQUEST, ("kvs-name", "KVS name"), detail)
            }
            Error::CompactionRuns { .. } => Self::conflict(detail),
            Error::SnapshotEnded { .. } => {
                Self::new(StatusCode::GONE, ("snapshot-ended", "Snapshot ended"), detail)
            }
            Error::NoSuchSnapshot { .. } => {
                let kind = ("no-such-snapshot", "No such snapshot");
                let detail = format!("{detail} (GET /v1/admin/snapshots)");
                Self::new(StatusCode::NOT_FOUND, kind, detail)
            }
            Error::KvsLimit => {
                Self::new(StatusCode::CONFLICT, ("kvs-limit", "Too many KVSs"), detail)
            }
            Error::Stalled { reason } => Self::overloaded(reason, detail),
            Error::Full { held_bytes, .. } => {
                let holders = if *held_bytes > 0 { LIST_SNAPSHOTS } else { "" };
                Self::full(format!("{detail} ({holders}{HOW_TO_GROW}); reads and deletes go on"))
            }
            Error::LogFull { .. } | Error::Pool(mpool::Error::Full { .. }) => {
                Self::full(format!("{detail} ({HOW_TO_GROW})"))
            }
            Error::Closed => Self {
                retry_after_s: Some(5),
                ..Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    ("closing", "Shutting down"),
                    "the server is shutting down; try again when it is back",
                )
            },
            _ => Self::failed(&error),
        }
    }
}

impl Problem {
    /// Something stored cannot be read.
    pub fn damaged(detail: impl Into<Cow<'static, str>>) -> Self {
        let kind = ("damaged", "Damaged object");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, kind, detail)
    }

    /// Why a compaction is not begun on request.
    pub(crate) fn of_compaction(error: Error) -> Self {
        let Error::Full { free_bytes, missing_bytes, stuck_bytes, held_bytes, .. } = error else {
            return error.into();
        };
        let lacking = missing_bytes.max(stuck_bytes);
        let need_bytes = free_bytes.saturating_add(lacking);
        let (held, holders) = match held_bytes {
            0 => (String::new(), ""),
            _ => (
                format!(
                    "; snapshots and scans that live hold {held_bytes} bytes of what is deleted"
                ),
                LIST_SNAPSHOTS,
            ),
        };
        Self::full(format!(
            "a compaction on request begins with {need_bytes} bytes free, and {free_bytes} are; \
             those are kept for the log, flushes and the collection of what is deleted, which goes \
             on by itself. Free {lacking} bytes: delete, drop a KVS, grow a volume, add one, or \
             make room on the disk{held} ({holders}{HOW_TO_GROW})"
        ))
    }

    /// There is no room.
    fn full(mut detail: String) -> Self {
        detail.push_str(&file_size_note());
        Self::new(StatusCode::INSUFFICIENT_STORAGE, ("full", "Storage is full"), detail)
    }

    /// The engine failed, and not because of the call.
    fn failed(error: &Error) -> Self {
        let problem = match error.scope() {
            // Not the client's call: it passed the engine's checks.
            Scope::Call if matches!(error, Error::Pool(_)) => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                ("storage", "Storage failed"),
                error.to_string(),
            ),
            Scope::Call => Self::bad_request(error.to_string()),
            Scope::Moment => Self::overloaded("engine", error.to_string()),
            Scope::Object => Self::damaged(format!("{}; other keys are served", Chain(error))),
            Scope::Store => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                ("store-failed", "The store failed"),
                error.to_string(),
            ),
        };
        Self { cause: Some(Chain(error).to_string().into()), ..problem }
    }
}

/// An error with its causes on one line.
pub struct Chain<'a>(pub &'a (dyn std::error::Error + 'a));

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_store_names_the_command_that_tells_who_holds_space() {
        let full = |held_bytes| Error::Full {
            need_bytes: 18,
            free_bytes: 90,
            reserve_bytes: 100,
            missing_bytes: 28,
            stuck_bytes: 0,
            held_bytes,
        };
        let detail = |held_bytes| Problem::from(full(held_bytes)).detail;
        assert!(detail(7).contains("hold 7 bytes") && detail(7).contains("`millpond snapshots`"));
        assert!(!detail(0).contains("hold") && detail(0).contains("`millpond pool grow"));
        let compaction = Problem::of_compaction(full(7));
        assert_eq!(compaction.status, 507);
        for part in ["begins with 118 bytes free, and 90 are", "Free 28 bytes", "hold 7", "grow"] {
            assert!(compaction.detail.contains(part), "{}", compaction.detail);
        }
    }

    #[test]
    fn engine_errors_have_their_statuses() {
        for (error, status, slug) in [
            (Error::KeyLength { len: 2000 }, 400, "key-length"),
            (Error::ValueLength { len: 1 << 30 }, 413, "too-large"),
            (Error::BatchLength { len: 9, max: 8 }, 413, "too-large"),
            (Error::NoSuchKvs { name: "x".into() }, 404, "no-such-kvs"),
            (Error::KvsDropped, 404, "no-such-kvs"),
            (Error::ReadOnly, 403, "read-only"),
            (Error::KvsExists { name: "x".into() }, 409, "kvs-exists"),
            (Error::KvsName { name: "/".into() }, 400, "kvs-name"),
            (Error::KvsLimit, 409, "kvs-limit"),
            (Error::Stalled { reason: "memtables" }, 503, "overloaded"),
            (Error::Pool(mpool::Error::Full { need_bytes: 2, free_bytes: 1 }), 507, "full"),
            (Error::LogFull { need_bytes: 2, free_bytes: 1 }, 507, "full"),
            (Error::Corrupt { what: "a".into(), reason: "b".into() }, 500, "damaged"),
            (Error::Poisoned { cause: "c".into() }, 503, "store-failed"),
            (Error::Closed, 503, "closing"),
        ] {
            let problem = Problem::from(error);
            assert_eq!((problem.status.as_u16(), problem.slug), (status, slug), "{problem:?}");
            assert!(!problem.detail.is_empty());
        }
    }

    #[test]
    fn damage_is_told_with_kvs_key_and_cause() {
        let source = Box::new(Error::Corrupt { what: "vblock 7".into(), reason: "rot".into() });
        let (kvs, key) = ("birds".into(), b"heron"[..].into());
        let problem = Problem::from(Error::Damaged { kvs, key, source });
        assert_eq!((problem.status.as_u16(), problem.slug), (500, "damaged"));
        for part in ["birds", "heron", "vblock 7", "rot"] {
            assert!(problem.detail.contains(part), "{part}: {}", problem.detail);
        }
    }

    #[test]
    fn an_unknown_kvs_says_how_to_create_it() {
        let problem = Problem::from(Error::NoSuchKvs { name: "users".into() });
        assert!(problem.detail.contains("PUT /v1/kvs/users"), "{}", problem.detail);
    }

    #[test]
    fn the_body_is_a_problem_document() {
        let problem = Problem::overloaded("memtables", "busy");
        let body: serde_json::Value = serde_json::from_slice(&problem.body("r-1")).unwrap();
        assert_eq!(body["type"], "urn:millpond:problem:overloaded");
        assert_eq!(body["status"], 503);
        assert_eq!(body["request_id"], "r-1");
        assert_eq!(problem.clone().into_response().headers()["x-millpond-stall"], "memtables");
        assert_eq!(problem.into_response().headers()["retry-after"], "1");
    }
}
