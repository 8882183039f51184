//! One request on a connection of its own, and its answer, with a limit on silence.
//!
//! The limit is on the time in which not one byte goes either way, so that a large value over a
//! slow line is fine and a server that hangs is not waited for.

use super::Failure;
use crate::api::problem;
use crate::cli::Server;
use anyhow::Context as _;
use axum::http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;

/// Longest time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of a body that are handed over at once.
const PIECE: usize = 64 << 10;

/// A request's body, which counts what of it was taken.
pub(crate) struct Upload {
    rest: Bytes,
    taken: Arc<AtomicU64>,
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let len = PIECE.min(self.rest.len());
        let piece = self.rest.split_to(len);
        self.taken.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

/// A request for one of the server's routes.
pub(crate) fn request(
    method: Method,
    path: &str,
    body: impl Into<Bytes>,
) -> Result<Request<Bytes>, Failure> {
    let request = Request::builder().method(method).uri(path).body(body.into());
    Ok(request.context("the request cannot be written")?)
}

/// What a server has begun to answer.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// When a refused request may be sent again, where the server says so.
    pub(crate) retry_after: Option<Duration>,
    is_problem: bool,
    body: Incoming,
    url: String,
    silence_max: Option<Duration>,
}

/// Sends one request on a connection of its own.
pub(crate) async fn send(server: &Server, request: Request<Bytes>) -> Result<Answer, Failure> {
    let silence_max = server.silence_max();
    let authority = authority(&server.url)?;
    let refused =
        || format!("no server answers at {}; start one with `millpond serve`", server.url);
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&authority));
    let stream = connecting.await.with_context(refused)?.with_context(refused)?;
    let host = HeaderValue::from_str(&authority).context("the URL is no host name")?;
    let taken = Arc::new(AtomicU64::new(0));
    let mut request = request.map(|rest| Upload { rest, taken: Arc::clone(&taken) });
    request.headers_mut().insert(header::HOST, host);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.with_context(refused)?;
    // Its end is seen by the request.
    tokio::spawn(async move { drop(connection.await) });
    let mut answer = std::pin::pin!(sender.send_request(request));
    let mut seen = 0;
    let response = loop {
        match within(silence_max, answer.as_mut()).await {
            Some(response) => break response,
            None if taken.load(Ordering::Relaxed) != seen => seen = taken.load(Ordering::Relaxed),
            None => return Err(silent(&server.url, silence_max)),
        }
    };
    let response = response.with_context(|| format!("the connection to {} broke", server.url))?;
    let kind = response.headers().get(header::CONTENT_TYPE);
    let after = response.headers().get(header::RETRY_AFTER);
    let seconds = after.and_then(|after| after.to_str().ok()?.parse().ok());
    Ok(Answer {
        status: response.status(),
        retry_after: seconds.map(Duration::from_secs),
        is_problem: kind.is_some_and(|kind| kind == "application/problem+json"),
        body: response.into_body(),
        url: server.url.clone(),
        silence_max,
    })
}

impl Answer {
    /// Whether the body says what is wrong.
    pub(crate) fn is_problem(&self) -> bool {
        self.is_problem
    }

    /// The next bytes of the body; `None` at its end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let Some(frame) = within(self.silence_max, self.body.frame()).await else {
                return Err(silent(&self.url, self.silence_max));
            };
            let Some(frame) = frame else { return Ok(None) };
            if let Ok(data) = frame.context("the answer broke off")?.into_data() {
                return Ok(Some(data));
            }
        }
    }

    /// The whole body.
    pub(crate) async fn collect(mut self) -> Result<Vec<u8>, Failure> {
        let mut whole = Vec::new();
        while let Some(data) = self.next().await? {
            whole.extend_from_slice(&data);
        }
        Ok(whole)
    }

    /// The whole body as JSON.
    pub(crate) async fn json(self) -> Result<Value, Failure> {
        serde_json::from_slice(&self.collect().await?).map_err(|_| {
            Failure::Refused("the server's answer is no JSON; is it Millpond?".to_owned())
        })
    }

    /// This, if the server did what it was asked for.
    pub(crate) async fn accepted(self) -> Result<Self, Failure> {
        let status = self.status;
        if status.is_success() {
            return Ok(self);
        }
        let body = self.collect().await?;
        let problem: Option<Value> = serde_json::from_slice(&body).ok();
        let detail = problem.as_ref().and_then(|problem| problem["detail"].as_str());
        Err(Failure::Refused(match detail {
            Some(detail) => format!("{} (status {})", as_commands(detail), status.as_u16()),
            None => format!("the server answered {status}"),
        }))
    }
}

/// Sends one request, with a JSON document if there is one, and reads the one that is answered.
pub(crate) async fn ask_json(
    server: &Server,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> Result<Value, Failure> {
    let said = body.is_some().then(|| HeaderValue::from_static("application/json"));
    let body = body.map_or_else(String::new, |body| body.to_string());
    let mut request = request(method, path, body)?;
    request.headers_mut().extend(said.map(|kind| (header::CONTENT_TYPE, kind)));
    send(server, request).await?.accepted().await?.json().await
}

/// The ways out that HTTP names as routes, as commands.
fn as_commands(detail: &str) -> String {
    match detail.split_once(problem::CREATE_KVS) {
        Some((what, name)) => format!("{what}create it with `millpond kvs create {name}`"),
        None => detail
            .replace(problem::LIST_VOLUMES, "`millpond pool info` lists the volumes")
            .replace(problem::LIST_KVSS, "`millpond kvs list` lists those that are there"),
    }
}

/// What `work` gives, or `None` after `limit`.
async fn within<T>(limit: Option<Duration>, work: impl Future<Output = T>) -> Option<T> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, work).await.ok(),
        None => Some(work.await),
    }
}

fn silent(url: &str, limit: Option<Duration>) -> Failure {
    let limit = limit.unwrap_or_default();
    let text = format!("nothing came from {url} for {limit:?}; --timeout sets how long to wait");
    Failure::Connection(anyhow::Error::msg(text))
}

/// `host:port` of a URL.
fn authority(url: &str) -> Result<String, Failure> {
    let wrong = |why: &str| {
        Failure::Usage(format!("--url {url:?} {why}; it looks like http://127.0.0.1:7300"))
    };
    let parsed: Uri = url.parse().map_err(|_| wrong("is no URL"))?;
    if parsed.scheme_str() != Some("http") {
        return Err(wrong("does not begin with http://"));
    }
    if !matches!(parsed.path(), "" | "/") {
        return Err(wrong("has a path"));
    }
    if parsed.query().is_some() {
        return Err(wrong("has a query (?)"));
    }
    if url.contains('#') {
        return Err(wrong("has a fragment (#)"));
    }
    let authority = parsed.authority().ok_or_else(|| wrong("has no host"))?;
    if authority.as_str().contains('@') {
        // Not shown: it may be a password.
        return Err(Failure::Usage(
            "--url has a user name or password (@), and the server asks for none; it looks like \
             http://127.0.0.1:7300"
                .to_owned(),
        ));
    }
    Ok(format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::problem::Problem;

    #[test]
    fn urls_name_a_host() {
        for (url, want) in [
            ("http://127.0.0.1:7300", Some("127.0.0.1:7300")),
            ("http://pond/", Some("pond:80")),
            ("http://[::1]:7300", Some("[::1]:7300")),
            ("https://pond", None),
            ("http://pond/v1", None),
            ("http://me:secret@pond", None),
            ("http://pond?a=b", None),
            ("http://pond/#a", None),
            ("http://pond#a", None),
            ("pond:7300", None),
            ("", None),
        ] {
            assert_eq!(authority(url).ok().as_deref(), want, "{url}");
        }
    }

    /// The commands told their users to send a PUT.
    #[test]
    fn ways_out_are_commands() {
        let told = |error: Problem| as_commands(&error.detail);
        let absent = kvs::Error::NoSuchKvs { name: "cats".into() };
        assert_eq!(
            told(absent.into()),
            "no KVS is named \"cats\"; create it with `millpond kvs create cats`"
        );
        let absent = kvs::Error::NoSuchKvs { name: "cats".into() };
        assert_eq!(
            told(Problem::from(absent).of_what_is_there()),
            "no KVS is named \"cats\"; `millpond kvs list` lists those that are there"
        );
        let gone = mpool::Error::NoSuchObject { id: "vol-9".into() };
        let gone = told(Problem::pool(gone));
        assert_eq!(gone, "vol-9 does not exist; `millpond pool info` lists the volumes");
        for detail in ["", "the volumes are full"] {
            assert_eq!(as_commands(detail), detail);
        }
    }

    #[tokio::test]
    async fn a_body_is_taken_in_pieces_and_counted() {
        let taken = Arc::new(AtomicU64::new(0));
        let rest = Bytes::from(vec![7; PIECE + 1]);
        let upload = Upload { rest: rest.clone(), taken: Arc::clone(&taken) };
        assert_eq!(upload.size_hint().exact(), Some(rest.len() as u64));
        assert_eq!(upload.collect().await.unwrap().to_bytes(), rest);
        assert_eq!(taken.load(Ordering::Relaxed), 2);
    }
}
