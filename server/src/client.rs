//! The HTTP client behind `millpond get`, `put`, `del`, `scan`, `kvs` and `healthcheck`.
//! (`millpond pool` is [`crate::pool::command`].)
//!
//! One connection, one request. Values go to standard output as they are; a scan prints one JSON
//! document a line and fails if the stream was cut off. What goes wrong goes to standard error,
//! and the exit code says of what kind it was.

use crate::cli::{Command, Del, Get, KvsCommand, Put, Scan, Server, Target};
use crate::pool;
use crate::target::percent_encode;
use anyhow::Context;
use axum::body::Body;
use axum::http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::time::Duration;
use tokio::net::TcpStream;

/// How a client command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Exit code 1: there is no such key, or the server is not ready.
    #[error("{0}")]
    Absent(String),
    /// Exit code 2: the command makes no sense.
    #[error("{0}")]
    Usage(String),
    /// Exit code 1: something is damaged. What, has been printed.
    #[error("{0}")]
    Damaged(String),
    /// Exit code 3: the server, or the pool, refused.
    #[error("{0}")]
    Refused(String),
    /// Exit code 4: no connection, or it broke.
    #[error("{0:#}")]
    Connection(#[from] anyhow::Error),
}

impl Failure {
    /// As documented in `--help`.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Absent(_) | Self::Damaged(_) => 1,
            Self::Usage(_) => 2,
            Self::Refused(_) => 3,
            Self::Connection(_) => 4,
        })
    }
}

/// Longest time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time a health check takes.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs one client command.
pub fn run(command: Command) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the async runtime cannot be started")?;
    runtime.block_on(async {
        match command {
            Command::Get(get) => self::get(get).await,
            Command::Put(put) => self::put(put).await,
            Command::Del(del) => self::del(del).await,
            Command::Scan(scan) => self::scan(scan).await,
            Command::Kvs(kvs) => self::kvs(kvs).await,
            Command::Healthcheck(server) => healthcheck(server).await,
            Command::Pool(command) => pool::command::run(command).await,
            Command::Serve(_) | Command::Config(_) => {
                unreachable!("main gives client commands only")
            }
        }
    })
}

async fn get(get: Get) -> Result<(), Failure> {
    let path = key_path(&get.target, &get.key);
    let response = send(&get.target.server, request(Method::GET, &path, Body::empty())?).await?;
    if response.status() == StatusCode::NOT_FOUND && !is_problem(&response) {
        return Err(Failure::Absent(format!("no key {:?} in KVS {}", get.key, get.target.kvs)));
    }
    print_body(accepted(response).await?).await
}

async fn put(put: Put) -> Result<(), Failure> {
    let value = match (put.value, put.file) {
        (Some(value), _) => Bytes::from(value),
        (None, Some(file)) if file.as_os_str() != "-" => {
            let wrong =
                |error| Failure::Usage(format!("{} cannot be read: {error}", file.display()));
            Bytes::from(std::fs::read(&file).map_err(wrong)?)
        }
        (None, _) => {
            let mut value = Vec::new();
            let read = io::stdin().lock().read_to_end(&mut value);
            read.map_err(|error| Failure::Usage(format!("standard input: {error}")))?;
            Bytes::from(value)
        }
    };
    let path = key_path(&put.target, &put.key);
    let path = format!("{path}?durability={}", put.durability.as_str());
    let request = request(Method::PUT, &path, Body::from(value))?;
    accepted(send(&put.target.server, request).await?).await.map(drop)
}

async fn del(del: Del) -> Result<(), Failure> {
    let path = key_path(&del.target, &del.key);
    let path = format!("{path}?durability={}", del.durability.as_str());
    let request = request(Method::DELETE, &path, Body::empty())?;
    accepted(send(&del.target.server, request).await?).await.map(drop)
}

async fn scan(scan: Scan) -> Result<(), Failure> {
    let mut query = String::new();
    let mut add = |name: &str, value: &str| {
        query.push(if query.is_empty() { '?' } else { '&' });
        query.push_str(name);
        query.push('=');
        query.push_str(&percent_encode(value.as_bytes()));
    };
    for (name, value) in [("prefix", scan.prefix), ("start", scan.start), ("end", scan.end)] {
        if let Some(value) = value {
            add(name, &value);
        }
    }
    if let Some(limit) = scan.limit {
        add("limit", &limit.to_string());
    }
    for (name, value, on) in [
        ("reverse", "true", scan.reverse),
        ("keys_only", "true", scan.keys_only),
        ("encoding", "base64", scan.base64),
    ] {
        if on {
            add(name, value);
        }
    }
    let path = format!("/v1/kv/{}{query}", percent_encode(scan.target.kvs.as_bytes()));
    let mut request = request(Method::GET, &path, Body::empty())?;
    let ndjson = HeaderValue::from_static("application/x-ndjson");
    request.headers_mut().insert(header::ACCEPT, ndjson);
    let response = accepted(send(&scan.target.server, request).await?).await?;
    print_items(response).await
}

async fn kvs(command: KvsCommand) -> Result<(), Failure> {
    let (method, path, server) = match command {
        KvsCommand::List(server) => (Method::GET, "/v1/kvs".to_owned(), server),
        KvsCommand::Create(one) => (Method::PUT, kvs_path(&one.name), one.server),
        KvsCommand::Drop(one) => (Method::DELETE, kvs_path(&one.name), one.server),
    };
    let response = send(&server, request(method, &path, Body::empty())?).await?;
    print_body(accepted(response).await?).await
}

async fn healthcheck(server: Server) -> Result<(), Failure> {
    let request = request(Method::GET, "/readyz", Body::empty())?;
    let asked = tokio::time::timeout(HEALTH_TIMEOUT, send(&server, request));
    let slow = |_| Failure::Absent(format!("no answer within {HEALTH_TIMEOUT:?}"));
    let response = match asked.await.map_err(slow)? {
        Ok(response) => response,
        Err(Failure::Connection(error)) => return Err(Failure::Absent(format!("{error:#}"))),
        Err(other) => return Err(other),
    };
    if response.status().is_success() {
        return Ok(());
    }
    let body = collect(response).await?;
    Err(Failure::Absent(format!("not ready: {}", String::from_utf8_lossy(&body).trim())))
}

fn key_path(target: &Target, key: &str) -> String {
    let (kvs, key) = (percent_encode(target.kvs.as_bytes()), percent_encode(key.as_bytes()));
    format!("/v1/kv/{kvs}/{key}")
}

fn kvs_path(name: &str) -> String {
    format!("/v1/kvs/{}", percent_encode(name.as_bytes()))
}

pub(crate) fn request(method: Method, path: &str, body: Body) -> Result<Request<Body>, Failure> {
    let request = Request::builder().method(method).uri(path).body(body);
    Ok(request.context("the request cannot be written")?)
}

/// Sends one request on a connection of its own.
pub(crate) async fn send(
    server: &Server,
    mut request: Request<Body>,
) -> Result<Response<Incoming>, Failure> {
    let authority = authority(&server.url)?;
    let refused =
        || format!("no server answers at {}; start one with `millpond serve`", server.url);
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&authority));
    let stream = connecting.await.with_context(refused)?.with_context(refused)?;
    let host = HeaderValue::from_str(&authority).context("the URL is no host name")?;
    request.headers_mut().insert(header::HOST, host);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.with_context(refused)?;
    // Its end is seen by the request.
    tokio::spawn(async move { drop(connection.await) });
    let broken = || format!("the connection to {} broke", server.url);
    Ok(sender.send_request(request).await.with_context(broken)?)
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
    let authority = parsed.authority().ok_or_else(|| wrong("has no host"))?;
    Ok(format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80)))
}

fn is_problem(response: &Response<Incoming>) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind == "application/problem+json")
}

/// The response, if the server did what it was asked for.
pub(crate) async fn accepted(response: Response<Incoming>) -> Result<Response<Incoming>, Failure> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = collect(response).await?;
    let problem: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
    let detail = problem.as_ref().and_then(|problem| problem["detail"].as_str());
    Err(Failure::Refused(match detail {
        Some(detail) => format!("{detail} (status {})", status.as_u16()),
        None => format!("the server answered {status}"),
    }))
}

pub(crate) async fn collect(response: Response<Incoming>) -> Result<Bytes, Failure> {
    let collected = response.into_body().collect().await;
    Ok(collected.context("the answer broke off")?.to_bytes())
}

async fn print_body(response: Response<Incoming>) -> Result<(), Failure> {
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.context("the answer broke off")?.into_data() {
            print(&data)?;
        }
    }
    Ok(())
}

pub(crate) fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let written = out.write_all(bytes).and_then(|()| out.flush());
    Ok(written.context("standard output cannot be written")?)
}

/// Prints the items of a stream; its last line says whether it is whole.
async fn print_items(response: Response<Incoming>) -> Result<(), Failure> {
    let mut body = response.into_body();
    let mut lines = Lines::default();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.context("the scan broke off")?.into_data() else { continue };
        print(lines.add(&data))?;
    }
    lines.finish()
}

/// Holds back the last line of a stream.
#[derive(Default)]
struct Lines {
    whole: Vec<u8>,
    last: Vec<u8>,
}

impl Lines {
    /// Everything before the last line seen so far.
    fn add(&mut self, data: &[u8]) -> &[u8] {
        self.whole.clear();
        self.last.extend_from_slice(data);
        let complete = self.last.strip_suffix(b"\n").unwrap_or(&self.last);
        if let Some(at) = complete.iter().rposition(|byte| *byte == b'\n') {
            self.whole.extend(self.last.drain(..=at));
        }
        &self.whole
    }

    fn finish(self) -> Result<(), Failure> {
        let last: Option<serde_json::Value> = serde_json::from_slice(&self.last).ok();
        let last = last.unwrap_or_default();
        if last["end"] == true {
            return Ok(());
        }
        Err(match last["error"]["detail"].as_str() {
            Some(detail) => Failure::Refused(detail.to_owned()),
            None => anyhow::anyhow!("the scan was cut off before its end").into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_host() {
        for (url, want) in [
            ("http://127.0.0.1:7300", Some("127.0.0.1:7300")),
            ("http://pond/", Some("pond:80")),
            ("http://[::1]:7300", Some("[::1]:7300")),
            ("https://pond", None),
            ("http://pond/v1", None),
            ("pond:7300", None),
            ("", None),
        ] {
            assert_eq!(authority(url).ok().as_deref(), want, "{url}");
        }
    }

    #[test]
    fn a_stream_is_whole_only_with_its_last_line() {
        let mut lines = Lines::default();
        let mut printed = Vec::new();
        for data in
            [&b"{\"k\":\"a\"}\n{\"k\""[..], b":\"b\"}\n", b"{\"end\":true,", b"\"count\":2}\n"]
        {
            printed.extend_from_slice(lines.add(data));
        }
        assert_eq!(printed, b"{\"k\":\"a\"}\n{\"k\":\"b\"}\n");
        assert!(lines.finish().is_ok());
        let mut cut = Lines::default();
        cut.add(b"{\"k\":\"a\"}\n");
        assert!(matches!(cut.finish(), Err(Failure::Connection(_))));
        let mut failed = Lines::default();
        failed.add(b"{\"error\":{\"detail\":\"drive\"}}\n");
        assert!(matches!(failed.finish(), Err(Failure::Refused(detail)) if detail == "drive"));
    }
}
