//! The HTTP target: a Millpond server, one connection a session.
//!
//! A session owns a current-thread runtime, so a request wakes no other thread of ours: the
//! thread that asks also writes the request and reads the answer. Connections are HTTP/1.1,
//! kept alive, with Nagle's delay off. A broken connection fails the operation that met it and is
//! made anew by the next.

use super::{Counted, Failure, Rows, See, Session, Target, exposition};
use crate::interrupt;
use crate::machine::Place;
use crate::target::server_process::ServerProcess;
use crate::workload::Way;
use anyhow::{Context, Result, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use serde::Deserialize;
use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};

/// Between two questions whether a compaction is done.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// No answer within this is a failure.
const ANSWER_MAX: Duration = Duration::from_mins(1);
/// As many records as one page of a scan may have.
const PAGE_MAX: usize = 10_000;

pub(crate) struct Http {
    /// `host:port`.
    authority: String,
    table: String,
    durability: &'static str,
    /// The server, if it is ours.
    server: Option<ServerProcess>,
    /// Its process, if that is known.
    pid: Option<u32>,
}

impl Http {
    /// A server that is there, at `http://host:port`.
    pub(crate) fn remote(url: &str, table: &str, durability: &'static str) -> Result<Self> {
        let authority = authority(url)?;
        let table = table.into();
        Self::prepared(Self { authority, table, durability, server: None, pid: None })
    }

    /// The same, with the server's process on this machine.
    pub(crate) fn with_pid(mut self, pid: Option<u32>) -> Self {
        self.pid = pid;
        self
    }

    /// A server that this program has started.
    pub(crate) fn own(
        server: ServerProcess,
        table: &str,
        durability: &'static str,
    ) -> Result<Self> {
        let authority = authority(server.url())?;
        let (table, pid) = (table.into(), Some(server.pid()));
        Self::prepared(Self { authority, table, durability, server: Some(server), pid })
    }

    /// Creates the KVS where it is missing.
    fn prepared(self) -> Result<Self> {
        let mut connection = Connection::new(&self)?;
        let path = format!("/v1/kvs/{}", self.table);
        let mut body = Vec::new();
        let status = connection.call(Method::GET, path.clone(), Bytes::new(), &mut body);
        let status = status.map_err(|failure| anyhow!("http://{}: {failure}", self.authority))?;
        if status == StatusCode::NOT_FOUND {
            let made = connection.call(Method::PUT, path, Bytes::new(), &mut body);
            match made {
                Ok(made) if made.is_success() => {}
                Ok(made) => bail!("cannot create the KVS {}: {}", self.table, said(made, &body)),
                Err(failure) => bail!("cannot create the KVS {}: {failure}", self.table),
            }
        } else if !status.is_success() {
            bail!("the KVS {}: {}", self.table, said(status, &body));
        }
        Ok(self)
    }
}

fn authority(url: &str) -> Result<String> {
    let uri: Uri = url.parse().with_context(|| format!("--url {url}"))?;
    match (uri.scheme_str(), uri.authority()) {
        (Some("http"), Some(authority)) => match authority.port_u16() {
            Some(_) => Ok(authority.to_string()),
            None => Ok(format!("{authority}:80")),
        },
        _ => bail!("--url {url}: must be http://HOST:PORT"),
    }
}

impl Target for Http {
    fn session(&self) -> Result<Box<dyn Session>> {
        Ok(Box::new(Connection::new(self)?))
    }

    fn place(&self) -> Place {
        self.pid.map_or(Place::Elsewhere, Place::Process)
    }

    fn data_dir(&self) -> Option<&Path> {
        self.server.as_ref().map(ServerProcess::data_dir)
    }

    fn facts(&self) -> Vec<(String, String)> {
        vec![("url".into(), format!("http://{}", self.authority))]
    }

    /// What the server shows of itself; nothing where it shows nothing.
    fn counters(&self) -> Vec<Counted> {
        let mut body = Vec::new();
        let asked = Connection::new(self).ok().and_then(|mut connection| {
            connection.call(Method::GET, "/metrics".into(), Bytes::new(), &mut body).ok()
        });
        match asked {
            Some(StatusCode::OK) => exposition::samples(&String::from_utf8_lossy(&body)),
            _ => Vec::new(),
        }
    }

    fn deaf(&self) -> Option<&'static str> {
        Some(
            "a server is not asked to flush, nor to do what is due: what it holds in memory stays \
             there until its own time",
        )
    }

    fn compact(&self) -> Result<()> {
        let mut connection = Connection::new(self)?;
        let mut ask = |method, body: &'static str| -> Result<Vec<u8>> {
            let (mut answer, path) = (Vec::new(), "/v1/admin/compact".to_owned());
            match connection.call(method, path, Bytes::from_static(body.as_bytes()), &mut answer) {
                Ok(status) if status.is_success() => Ok(answer),
                Ok(status) => bail!("the server does not compact: {}", said(status, &answer)),
                Err(failure) => bail!("the server does not compact: {failure}"),
            }
        };
        ask(Method::POST, "{}")?;
        loop {
            let answer = ask(Method::GET, "")?;
            let told: Compacting = serde_json::from_slice(&answer)
                .with_context(|| format!("about its compaction: {answer:?}"))?;
            match told.state.as_str() {
                "done" => return Ok(()),
                "flushing" | "running" => std::thread::park_timeout(ASK_EVERY),
                state => bail!("the server's compaction ended as {state}"),
            }
            interrupt::check()?;
        }
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.server.map_or(Ok(()), ServerProcess::stop)
    }
}

/// What a server says of a compaction that was asked for.
#[derive(Deserialize)]
struct Compacting {
    state: String,
}

struct Connection {
    runtime: Runtime,
    sender: Option<SendRequest<Full<Bytes>>>,
    authority: String,
    /// `/v1/kv/TABLE`.
    base: String,
    /// `?durability=..`.
    query: String,
    body: Vec<u8>,
}

impl Connection {
    fn new(http: &Http) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(Self {
            runtime,
            sender: None,
            authority: http.authority.clone(),
            base: format!("/v1/kv/{}", http.table),
            query: format!("?durability={}", http.durability),
            body: Vec::new(),
        })
    }

    /// One request; the answer's body replaces `out`.
    fn call(
        &mut self,
        method: Method,
        path: String,
        body: Bytes,
        out: &mut Vec<u8>,
    ) -> Result<StatusCode, Failure> {
        let Self { runtime, sender, authority, .. } = self;
        let asking = async {
            let sending = match sender {
                Some(sending) if !sending.is_closed() => sending,
                _ => sender.insert(connect(authority).await?),
            };
            exchange(sending, request(method, path, authority, body)?, out).await
        };
        // The timer must be made inside the runtime.
        let answer = runtime.block_on(async { tokio::time::timeout(ANSWER_MAX, asking).await });
        match answer {
            Ok(Ok(status)) => Ok(status),
            Ok(Err(error)) => {
                *sender = None;
                Err(Failure::Failed(format!("{error:#}")))
            }
            Err(_late) => {
                *sender = None;
                Err(Failure::Failed(format!("no answer within {} s", ANSWER_MAX.as_secs())))
            }
        }
    }

    fn path_of(&self, key: &[u8]) -> String {
        let mut path = String::with_capacity(self.base.len() + 1 + key.len() + self.query.len());
        path.push_str(&self.base);
        path.push('/');
        escape(key, &mut path);
        path
    }
}

async fn connect(authority: &str) -> Result<SendRequest<Full<Bytes>>> {
    let stream =
        TcpStream::connect(authority).await.with_context(|| format!("cannot reach {authority}"))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Its errors come back through the sender, with the request they broke.
    drop(tokio::spawn(connection));
    Ok(sender)
}

fn request(
    method: Method,
    path: String,
    authority: &str,
    body: Bytes,
) -> Result<Request<Full<Bytes>>> {
    let is_json = path.starts_with("/v1/admin/");
    let uri = Uri::from_maybe_shared(Bytes::from(path))?;
    let mut builder = Request::builder().method(method).uri(uri).header(HOST, authority);
    if is_json {
        builder = builder.header(CONTENT_TYPE, "application/json");
    }
    Ok(builder.body(Full::new(body))?)
}

async fn exchange(
    sender: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
    out: &mut Vec<u8>,
) -> Result<StatusCode> {
    sender.ready().await?;
    let mut response = sender.send_request(request).await?;
    out.clear();
    while let Some(frame) = response.frame().await {
        if let Some(data) = frame?.data_ref() {
            out.extend_from_slice(data);
        }
    }
    Ok(response.status())
}

impl Session for Connection {
    fn read(&mut self, key: &[u8], row: &mut Vec<u8>) -> Result<bool, Failure> {
        let path = self.path_of(key);
        match self.call(Method::GET, path, Bytes::new(), row)? {
            StatusCode::OK => Ok(true),
            // A missing key has an empty body; a missing KVS says so in one.
            StatusCode::NOT_FOUND if row.is_empty() => Ok(false),
            status => Err(refused(status, row)),
        }
    }

    fn write(&mut self, key: &[u8], row: &[u8]) -> Result<(), Failure> {
        let path = self.path_of(key) + &self.query;
        let mut body = std::mem::take(&mut self.body);
        let status = self.call(Method::PUT, path, Bytes::copy_from_slice(row), &mut body);
        let verdict = match status? {
            status if status.is_success() => Ok(()),
            status => Err(refused(status, &body)),
        };
        self.body = body;
        verdict
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), Failure> {
        let path = self.path_of(key) + &self.query;
        let mut body = std::mem::take(&mut self.body);
        let status = self.call(Method::DELETE, path, Bytes::new(), &mut body);
        let verdict = match status? {
            status if status.is_success() => Ok(()),
            status => Err(refused(status, &body)),
        };
        self.body = body;
        verdict
    }

    fn walk(&mut self, way: Way, see: &mut See<'_>) -> Result<(), Failure> {
        let mut body = std::mem::take(&mut self.body);
        let (mut rows, mut cursor) = (Rows::default(), None::<String>);
        loop {
            let mut path = format!("{}?encoding=base64&limit={PAGE_MAX}", self.base);
            if way == Way::Reverse {
                path.push_str("&reverse=true");
            }
            if let Some(cursor) = &cursor {
                path.push_str("&cursor=");
                escape(cursor.as_bytes(), &mut path);
            }
            let status = self.call(Method::GET, path, Bytes::new(), &mut body)?;
            if status != StatusCode::OK {
                return Err(refused(status, &body));
            }
            rows.clear();
            cursor = read_page(&body, &mut rows).map_err(Failure::Failed)?;
            let shown = rows.iter().try_for_each(|(key, row)| see(key, row));
            if shown.is_break() || cursor.is_none() {
                self.body = body;
                return Ok(());
            }
        }
    }

    fn scan(&mut self, start: &[u8], limit: usize, rows: &mut Rows) -> Result<(), Failure> {
        rows.clear();
        let mut body = std::mem::take(&mut self.body);
        let mut cursor: Option<String> = None;
        while rows.len() < limit {
            let page = (limit - rows.len()).min(PAGE_MAX);
            let mut path = format!("{}?encoding=base64&limit={page}", self.base);
            let (name, from) = match &cursor {
                Some(cursor) => ("&cursor=", cursor.as_bytes()),
                None => ("&start=", start),
            };
            path.push_str(name);
            escape(from, &mut path);
            let status = self.call(Method::GET, path, Bytes::new(), &mut body)?;
            if status != StatusCode::OK {
                return Err(refused(status, &body));
            }
            cursor = read_page(&body, rows).map_err(Failure::Failed)?;
            if cursor.is_none() {
                break;
            }
        }
        self.body = body;
        Ok(())
    }
}

/// A page of a scan, as far as we look at it. Keys and values are text, or base64url in the
/// fields whose names say so.
#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    items: Vec<PageItem<'a>>,
    cursor: Option<String>,
}

#[derive(Deserialize)]
struct PageItem<'a> {
    #[serde(borrow)]
    k: Option<Cow<'a, str>>,
    #[serde(borrow)]
    k64: Option<Cow<'a, str>>,
    #[serde(borrow)]
    v: Option<Cow<'a, str>>,
    #[serde(borrow)]
    v64: Option<Cow<'a, str>>,
    /// What the store could not read, in the place of an item.
    #[serde(borrow)]
    error: Option<PageError<'a>>,
}

#[derive(Deserialize)]
struct PageError<'a> {
    #[serde(borrow)]
    detail: Cow<'a, str>,
}

/// Adds a page's records to `rows`; returns where the next page begins.
fn read_page(body: &[u8], rows: &mut Rows) -> Result<Option<String>, String> {
    let page: Page<'_> =
        serde_json::from_slice(body).map_err(|error| format!("a page of a scan: {error}"))?;
    let (mut key, mut value) = (Vec::new(), Vec::new());
    for PageItem { k, k64, v, v64, error } in &page.items {
        if let Some(error) = error {
            return Err(format!("a scan has met damage: {}", error.detail));
        }
        decode("k", (k.as_deref(), k64.as_deref()), &mut key)?;
        decode("v", (v.as_deref(), v64.as_deref()), &mut value)?;
        rows.push(&key, &value);
    }
    Ok(page.cursor)
}

fn decode(
    name: &str,
    (text, coded): (Option<&str>, Option<&str>),
    out: &mut Vec<u8>,
) -> Result<(), String> {
    out.clear();
    match (text, coded) {
        (Some(text), None) => out.extend_from_slice(text.as_bytes()),
        (None, Some(coded)) => URL_SAFE_NO_PAD
            .decode_vec(coded, out)
            .map_err(|error| format!("{name}64 in a page of a scan: {error}"))?,
        _ => return Err(format!("a page of a scan has neither or both of {name} and {name}64")),
    }
    Ok(())
}

fn refused(status: StatusCode, body: &[u8]) -> Failure {
    let why = said(status, body);
    match status {
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => Failure::Busy(why),
        _ => Failure::Failed(why),
    }
}

fn said(status: StatusCode, body: &[u8]) -> String {
    let body: String = String::from_utf8_lossy(body).chars().take(300).collect();
    if body.is_empty() { status.to_string() } else { format!("{status}: {}", body.trim()) }
}

/// Of a path and a query: all that is not unreserved.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

fn escape(bytes: &[u8], out: &mut String) {
    out.extend(percent_encode(bytes, RESERVED));
}

#[cfg(test)]
mod tests;
