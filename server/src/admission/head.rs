//! What the head of a request decides before any route looks at it. PURE.
//!
//! Three questions, on every route: is it plain which server is meant (RFC 9112, 3.2), does
//! [`Access`] let the one who asks in, and does some header change what the request means in a way
//! that this server would have to heed and cannot? A body that is a part of a value, is compressed,
//! or is written under a condition must not be stored as if it were none of these, so such
//! a request is refused and changes nothing.

use crate::admission::access::{Access, Asker, HostPort, Stranger};
use crate::api::problem::{Accepts, Problem};
use crate::framing::Hidden;
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, Request, StatusCode, Uri, Version};
use std::net::IpAddr;

/// Types of a body of JSON documents, one or a line each.
const JSON: &[&str] = &["application/json", "application/x-ndjson", "application/ndjson"];

/// Header fields by which a request asks to be taken for another method.
const OVERRIDES: &[&str] = &["x-http-method-override", "x-http-method", "x-method-override"];

/// Refuses a request that must not be carried out as it stands.
/// `local` is the address of ours that it came to, where that is known.
pub(crate) fn check<B>(
    request: &Request<B>,
    access: &Access,
    local: Option<IpAddr>,
) -> Result<(), Problem> {
    if let Some(hidden) = request.extensions().get::<Hidden>() {
        return Err(Problem::bad_request(hidden.to_string()));
    }
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let fields = Fields::of(request.headers(), reads)?;
    let host = host(&fields, request.uri(), request.version())?;
    let asker = Asker {
        host,
        origin: fields.origin.text("origin")?,
        site: fields.site.text("sec-fetch-site")?,
        follows_link: reads && fields.follow_link()?,
        local,
    };
    access.check(asker).map_err(|stranger| {
        let slug = match stranger {
            Stranger::Host(_) => "foreign-host",
            Stranger::Origin(_) | Stranger::Site(_) => "foreign-origin",
        };
        let title = "Not for those who ask from there";
        Problem::new(StatusCode::FORBIDDEN, (slug, title), stranger.to_string())
    })
}

/// What a field takes beside its text: its entry in a map, and the places of both.
const FIELD_BYTES: usize = 96;

/// Memory that the head of a request takes until it is answered.
pub(crate) fn memory<B>(request: &Request<B>) -> usize {
    let uri = request.uri();
    let path = uri.path_and_query().map_or(0, |path| path.as_str().len());
    let authority = uri.authority().map_or(0, |authority| authority.as_str().len());
    let field = |(name, value): (&HeaderName, &HeaderValue)| {
        FIELD_BYTES + name.as_str().len() + value.len()
    };
    path + authority + request.headers().iter().map(field).sum::<usize>()
}

/// A field that may be given once.
#[derive(Clone, Copy, Default)]
struct Once<'a> {
    value: Option<&'a HeaderValue>,
    times: usize,
}

impl<'a> Once<'a> {
    fn add(&mut self, value: &'a HeaderValue) {
        self.value = Some(value);
        self.times += 1;
    }

    fn text(self, name: &str) -> Result<Option<&'a str>, Problem> {
        if self.times > 1 {
            return Err(Problem::bad_request(format!(
                "{} {name} headers are given; one is allowed",
                self.times
            )));
        }
        let text = self.value.map(HeaderValue::to_str).transpose();
        text.map_err(|_| Problem::bad_request(format!("the header {name} is not plain text")))
    }
}

/// What is asked of the fields, from one walk over them.
#[derive(Clone, Copy, Default)]
struct Fields<'a> {
    host: Once<'a>,
    origin: Once<'a>,
    site: Once<'a>,
    mode: Once<'a>,
    dest: Once<'a>,
}

impl<'a> Fields<'a> {
    /// Whether the browser goes to the answer. What is shown in a frame of a page is loaded by that
    /// page, whoever looks at it.
    fn follow_link(&self) -> Result<bool, Problem> {
        let navigates = self.mode.text("sec-fetch-mode")? == Some("navigate");
        Ok(navigates && matches!(self.dest.text("sec-fetch-dest")?, None | Some("document")))
    }

    fn of(headers: &'a HeaderMap, reads: bool) -> Result<Self, Problem> {
        let mut fields = Self::default();
        let mut transfer_codings = 0;
        for (name, value) in headers {
            match *name {
                header::HOST => fields.host.add(value),
                header::ORIGIN => fields.origin.add(value),
                header::TRANSFER_ENCODING => {
                    transfer_codings += 1;
                    let plain = value.as_bytes().eq_ignore_ascii_case(b"chunked");
                    if !plain || transfer_codings > 1 {
                        return Err(transfer_coding(value));
                    }
                }
                header::EXPECT if !value.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
                    return Err(expectation(value));
                }
                _ => match name.as_str() {
                    "sec-fetch-site" => fields.site.add(value),
                    "sec-fetch-mode" => fields.mode.add(value),
                    "sec-fetch-dest" => fields.dest.add(value),
                    _ if !reads => refuse_what_changes_a_write(name, value)?,
                    _ => {}
                },
            }
        }
        Ok(fields)
    }
}

/// Refuses a field that makes a write another one than its body and path say.
fn refuse_what_changes_a_write(name: &HeaderName, value: &HeaderValue) -> Result<(), Problem> {
    match *name {
        header::CONTENT_RANGE => Err(Problem::bad_request(format!(
            "the header content-range ({value:?}) says that the body is a part of the value; parts \
             cannot be written, and nothing was: send the whole value without the header (a \
             resumed upload, such as curl -C, cannot be taken)"
        ))),
        header::CONTENT_ENCODING if !is_identity(value) => Err(content_coding(value)),
        header::IF_MATCH | header::IF_NONE_MATCH | header::IF_UNMODIFIED_SINCE => {
            Err(conditional_write(name))
        }
        _ if OVERRIDES.contains(&name.as_str()) => Err(Problem::bad_request(format!(
            "the header {name} asks for another method ({value:?}), which this server does not \
             heed; nothing was done: send the request with that method"
        ))),
        _ => Ok(()),
    }
}

fn is_identity(codings: &HeaderValue) -> bool {
    let mut all = codings.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    all.all(|coding| coding.is_empty() || coding.eq_ignore_ascii_case(b"identity"))
}

fn content_coding(value: &HeaderValue) -> Problem {
    Problem {
        accepts: Some(Accepts::Plain),
        ..Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            ("content-coding", "Content coding not supported"),
            format!(
                "the body is coded (content-encoding: {value:?}), which would be lost: values are \
                 kept as the bytes they come in; nothing was written; send it without the header, \
                 decoded or to be decoded by whoever reads it"
            ),
        )
    }
}

fn transfer_coding(value: &HeaderValue) -> Problem {
    Problem::new(
        StatusCode::NOT_IMPLEMENTED,
        ("transfer-coding", "Transfer coding not supported"),
        format!(
            "transfer-encoding: {value:?}: only chunked is understood, once; nothing was done; \
             send the body uncompressed"
        ),
    )
}

fn expectation(value: &HeaderValue) -> Problem {
    Problem::new(
        StatusCode::EXPECTATION_FAILED,
        ("expectation", "Expectation not met"),
        format!("expect: {value:?}: only 100-continue is understood; nothing was done"),
    )
}

/// A condition that cannot be checked atomically with the write is refused rather than ignored:
/// whoever sends one relies on it.
fn conditional_write(name: &HeaderName) -> Problem {
    Problem::new(
        StatusCode::NOT_IMPLEMENTED,
        ("conditional-write", "Conditional writes are not supported"),
        format!(
            "the header {name} makes this write conditional, which this version cannot do \
             atomically; nothing was written; send it without the header"
        ),
    )
}

/// The server that the client means: by the target where that names one, else by `Host`.
fn host<'a>(
    fields: &Fields<'a>,
    uri: &'a Uri,
    version: Version,
) -> Result<Option<HostPort<'a>>, Problem> {
    let wrong = |text: &str| {
        Problem::bad_request(format!("{text:?} is no host; it looks like pond.example:7300"))
    };
    let given = fields.host.text("host")?;
    let given = given.map(|text| HostPort::parse(text).ok_or_else(|| wrong(text))).transpose()?;
    let Some(authority) = uri.authority() else {
        return match given {
            None if version > Version::HTTP_10 => Err(Problem::bad_request(
                "the header host is missing; it names the server that is meant",
            )),
            given => Ok(given),
        };
    };
    let port = match uri.scheme_str() {
        Some("http") => 80,
        Some("https") => 443,
        Some(other) => {
            return Err(Problem::bad_request(format!("{other}: is not spoken here, http is")));
        }
        // A proxy's CONNECT, and its like with another method.
        None => {
            return Err(Problem::bad_request(format!(
                "the target {uri} names a server and nothing on it; this is no proxy"
            )));
        }
    };
    let named = HostPort::parse(authority.as_str()).ok_or_else(|| wrong(authority.as_str()))?;
    match given {
        Some(given) if !given.is_same(named, port) => Err(Problem::bad_request(format!(
            "the target names the server {named} and the header host {given}; send the same in both"
        ))),
        _ => Ok(Some(named)),
    }
}

/// Refuses a body that is not said to be JSON: what a page of another site can send without being
/// asked for permission first never is.
pub(crate) fn check_json(headers: &HeaderMap) -> Result<(), Problem> {
    let mut given = headers.get_all(header::CONTENT_TYPE).iter();
    let kind = given.next();
    if given.next().is_none() && kind.is_some_and(is_json) {
        return Ok(());
    }
    let said = kind.map_or_else(|| "no content-type".into(), |kind| format!("{kind:?}"));
    Err(Problem {
        accepts: Some(Accepts::Json),
        ..Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            ("media-type", "Media type not supported"),
            format!(
                "the body is said to be {said}; send it with one header content-type: \
                 application/json, or application/x-ndjson for a document a line (curl -H \
                 'content-type: application/json')"
            ),
        )
    })
}

fn is_json(kind: &HeaderValue) -> bool {
    let Ok(text) = kind.to_str() else { return false };
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next().unwrap_or_default();
    let utf8 = |parameter: &str| match parameter.split_once('=') {
        Some((name, value)) if name.trim_end().eq_ignore_ascii_case("charset") => {
            value.trim_start().trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    };
    JSON.iter().any(|known| name.eq_ignore_ascii_case(known)) && parts.all(utf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, target: &str, lines: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    fn status(method: &str, target: &str, lines: &[(&str, &str)]) -> u16 {
        let checked = check(&request(method, target, lines), &Access::default(), None);
        checked.map_or_else(|problem| problem.status.as_u16(), |()| 200)
    }

    #[test]
    fn what_changes_the_meaning_of_a_body_is_refused() {
        for (name, value, on_write, on_read) in [
            ("content-range", "bytes 5-9/10", 400, 200),
            ("content-encoding", "gzip", 415, 200),
            ("content-encoding", "identity, br", 415, 200),
            ("content-encoding", "aws-chunked", 415, 200),
            ("content-encoding", "identity", 200, 200),
            ("content-encoding", "", 200, 200),
            ("transfer-encoding", "gzip, chunked", 501, 501),
            ("transfer-encoding", "chunked, chunked", 501, 501),
            ("transfer-encoding", "identity", 501, 501),
            ("transfer-encoding", "Chunked", 200, 200),
            ("expect", "100-Continue", 200, 200),
            ("expect", "200-ok", 417, 417),
            ("if-match", "\"1\"", 501, 200),
            ("if-none-match", "*", 501, 200),
            ("if-unmodified-since", "Sat, 01 Jan 2000 00:00:00 GMT", 501, 200),
            ("if-modified-since", "Sat, 01 Jan 2000 00:00:00 GMT", 200, 200),
            ("x-http-method-override", "DELETE", 400, 200),
            ("x-http-method", "DELETE", 400, 200),
            ("range", "bytes=0-3", 200, 200),
            ("content-type", "text/plain", 200, 200),
        ] {
            for method in ["PUT", "POST", "DELETE"] {
                let lines = [("host", "pond"), (name, value)];
                assert_eq!(status(method, "/v1/kv/default/a", &lines), on_write, "{name} {value}");
            }
            for method in ["GET", "HEAD"] {
                let lines = [("host", "pond"), (name, value)];
                assert_eq!(status(method, "/v1/kv/default/a", &lines), on_read, "{name} {value}");
            }
        }
        let twice = [("host", "a"), ("transfer-encoding", "chunked"), ("transfer-encoding", "x")];
        assert_eq!(status("PUT", "/", &twice), 501);
    }

    #[test]
    fn refusals_say_what_would_be_taken() {
        let coded = request("PUT", "/a", &[("host", "pond"), ("content-encoding", "gzip")]);
        let problem = check(&coded, &Access::default(), None).unwrap_err();
        assert_eq!(problem.accepts, Some(Accepts::Plain));
        assert!(problem.detail.contains("gzip"), "{}", problem.detail);
    }

    #[test]
    fn one_server_is_meant() {
        for (target, lines, want) in [
            ("/", &[][..], 400),
            ("/", &[("host", "pond")], 200),
            ("/", &[("host", "pond"), ("host", "pond")], 400),
            ("/", &[("host", "pond, lake")], 400),
            ("/", &[("host", "")], 400),
            ("/", &[("host", "friend@pond")], 400),
            ("http://pond/", &[("host", "pond")], 200),
            ("http://pond/", &[("host", "POND:80")], 200),
            ("http://pond/", &[], 200),
            ("http://pond/", &[("host", "lake")], 400),
            ("http://pond:81/", &[("host", "pond")], 400),
            ("http://friend@pond/", &[("host", "pond")], 400),
            ("ftp://pond/", &[("host", "pond")], 400),
            ("pond:80", &[("host", "pond:80")], 400),
        ] {
            assert_eq!(status("GET", target, lines), want, "{target} {lines:?}");
        }
        let mut old = request("GET", "/", &[]);
        *old.version_mut() = Version::HTTP_10;
        assert!(check(&old, &Access::default(), None).is_ok(), "HTTP/1.0 knows no Host");
    }

    #[test]
    fn strangers_are_named() {
        let access = Access::new([127, 0, 0, 1].into(), &[], &[]).unwrap();
        for (lines, slug) in [
            (&[("host", "evil.example")][..], "foreign-host"),
            (&[("host", "localhost"), ("origin", "http://evil.example")], "foreign-origin"),
            (&[("host", "localhost"), ("sec-fetch-site", "cross-site")], "foreign-origin"),
        ] {
            for method in ["GET", "POST"] {
                let problem = check(&request(method, "/livez", lines), &access, None).unwrap_err();
                assert_eq!((problem.status.as_u16(), problem.slug), (403, slug));
            }
        }
        let link = [
            ("host", "localhost:7300"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
        ];
        assert!(check(&request("GET", "/metrics", &link), &access, None).is_ok());
        assert!(check(&request("POST", "/v1/batch", &link), &access, None).is_err(), "a form");
        for (dest, want) in [("document", true), ("iframe", false), ("object", false), ("", false)]
        {
            let link = [&link[..], &[("sec-fetch-dest", dest)]].concat();
            assert_eq!(check(&request("GET", "/metrics", &link), &access, None).is_ok(), want);
        }
    }

    #[test]
    fn json_is_said_to_be_json() {
        for (kinds, want) in [
            (&["application/json"][..], true),
            (&["Application/JSON; charset=UTF-8"], true),
            (&["application/x-ndjson"], true),
            (&["application/ndjson;charset=\"utf-8\""], true),
            (&["application/json; charset=latin1"], false),
            (&["text/plain"], false),
            (&["application/x-www-form-urlencoded"], false),
            (&["multipart/form-data; boundary=application/json"], false),
            (&["text/plain, application/json"], false),
            (&["application/json", "text/plain"], false),
            (&[], false),
        ] {
            let mut headers = HeaderMap::new();
            for kind in kinds {
                headers.append(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            }
            assert_eq!(check_json(&headers).is_ok(), want, "{kinds:?}");
        }
    }
}
