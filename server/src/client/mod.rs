//! The HTTP client behind `millpond get`, `put`, `del`, `scan`, `load`, `kvs` and `healthcheck`.
//! `pool/` has `millpond pool` and `recover`, `admin/` what else an operator asks.
//!
//! One connection, one request (`transport.rs`). Values go to standard output as they are; a scan
//! prints one JSON document a line and fails if the stream was cut off. What goes wrong goes to
//! standard error, and the exit code says of what kind it was. A reader of standard output that
//! goes away, as `head` does, ends a command without complaint.

mod admin;
mod load;
mod pool;
pub(crate) mod transport;

use crate::api::target::{percent_encode, percent_encode_segment};
use crate::cli::{Command, Del, Get, Key, KvsCommand, KvsDrop, Put, Scan, Server, Target};
use anyhow::Context;
use axum::http::{HeaderValue, Method, StatusCode, header};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use std::ffi::OsStr;
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::time::Duration;
use transport::{Answer, request, send};

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
    /// Exit code 1: a part of it could not be done. What, has been printed.
    #[error("{0}")]
    Incomplete(String),
    /// Exit code 3: the server, or the pool, refused.
    #[error("{0}")]
    Refused(String),
    /// Exit code 1: the server, or its configuration.
    #[error("{0:#}")]
    Serve(anyhow::Error),
    /// Exit code 0, and nothing is said: the reader of standard output has seen enough.
    #[error("the reader of standard output went away")]
    ReaderGone,
    /// Exit code 5: what the command was to print is lost; what it was to do is done.
    #[error("standard output cannot be written: {0}")]
    Output(io::Error),
    /// Exit code 130: an interrupt ended the waiting. What goes on without it is said.
    #[error("{0}")]
    Interrupted(String),
    /// Exit code 4: no connection, or it broke.
    #[error("{0:#}")]
    Connection(#[from] anyhow::Error),
}

impl Failure {
    /// As documented in `--help`.
    pub fn exit_code(&self) -> ExitCode {
        self.code().into()
    }

    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::ReaderGone => 0,
            Self::Absent(_) | Self::Damaged(_) | Self::Incomplete(_) | Self::Serve(_) => 1,
            Self::Usage(_) => 2,
            Self::Refused(_) => 3,
            Self::Connection(_) => 4,
            Self::Output(_) => 5,
            Self::Interrupted(_) => 130,
        }
    }
}

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
            Command::Load(load) => load::run(load).await,
            Command::Kvs(kvs) => self::kvs(kvs).await,
            Command::Healthcheck(server) => healthcheck(server).await,
            Command::Pool(command) => pool::run(command).await,
            Command::Tree(tree) => admin::tree(&tree).await,
            Command::Compact(compact) => admin::compact(&compact).await,
            Command::Snapshots(snapshots) => admin::snapshots(&snapshots).await,
            Command::Recover(recover) => pool::recover::run(&recover),
            Command::Serve(_) | Command::Config(_) | Command::Completions(_) | Command::Man(_) => {
                unreachable!("main gives client commands only")
            }
        }
    })
}

async fn get(get: Get) -> Result<(), Failure> {
    let path = key_path(&get.target, &get.key)?;
    let answer = send(&get.target.server, request(Method::GET, &path, "")?).await?;
    if answer.status == StatusCode::NOT_FOUND && !answer.is_problem() {
        let key = get.key.key.to_string_lossy();
        return Err(Failure::Absent(format!("no key {key:?} in KVS {}", get.target.kvs)));
    }
    print_body(answer.accepted().await?).await
}

async fn put(put: Put) -> Result<(), Failure> {
    let value = match (put.value, put.file) {
        (Some(value), _) => Bytes::copy_from_slice(value.as_bytes()),
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
    let path = key_path(&put.target, &put.key)?;
    let path = format!("{path}?durability={}", put.durability.as_str());
    let request = request(Method::PUT, &path, value)?;
    send(&put.target.server, request).await?.accepted().await.map(drop)
}

async fn del(del: Del) -> Result<(), Failure> {
    let path = key_path(&del.target, &del.key)?;
    let path = format!("{path}?durability={}", del.durability.as_str());
    let request = request(Method::DELETE, &path, "")?;
    send(&del.target.server, request).await?.accepted().await.map(drop)
}

/// Bounds the wrong way round would find nothing.
fn check_order(scan: &Scan) -> Result<(), Failure> {
    let (Some(start), Some(end)) = (&scan.start, &scan.end) else { return Ok(()) };
    if key_bytes(start, scan.k64)? <= key_bytes(end, scan.k64)? {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "--start {} is above --end {}: no key is from the one on and before the other; --start is \
         the lower bound with --reverse, too",
        start.display(),
        end.display()
    )))
}

async fn scan(scan: Scan) -> Result<(), Failure> {
    check_order(&scan)?;
    let mut query = String::new();
    let mut add = |name: &str, value: &[u8]| {
        query.push(if query.is_empty() { '?' } else { '&' });
        query.push_str(name);
        query.push('=');
        query.push_str(&percent_encode(value));
    };
    for (name, value) in [("prefix", &scan.prefix), ("start", &scan.start), ("end", &scan.end)] {
        if let Some(value) = value {
            add(name, value.as_bytes());
        }
    }
    if let Some(limit) = scan.limit {
        add("limit", limit.to_string().as_bytes());
    }
    for (name, value, on) in [
        ("reverse", "true", scan.reverse),
        ("keys_only", "true", scan.keys_only),
        ("encoding", "base64", scan.base64),
        ("key_encoding", "base64url", scan.k64),
    ] {
        if on {
            add(name, value.as_bytes());
        }
    }
    let path = format!("/v1/kv/{}{query}", percent_encode_segment(scan.target.kvs.as_bytes()));
    let mut request = request(Method::GET, &path, "")?;
    let ndjson = HeaderValue::from_static("application/x-ndjson");
    request.headers_mut().insert(header::ACCEPT, ndjson);
    print_items(send(&scan.target.server, request).await?.accepted().await?).await
}

async fn kvs(command: KvsCommand) -> Result<(), Failure> {
    let (method, path, server) = match command {
        KvsCommand::List(server) => (Method::GET, "/v1/kvs".to_owned(), server),
        KvsCommand::Create(one) => (Method::PUT, kvs_path(&one.name), one.server),
        KvsCommand::Drop(drop) => {
            // A name that is misspelt is told before anybody types it again.
            let path = kvs_path(&drop.kvs.name);
            let found = send(&drop.kvs.server, request(Method::GET, &path, "")?).await?;
            if found.status == StatusCode::NOT_FOUND {
                let name = &drop.kvs.name;
                let text = format!("no KVS is named {name:?}; nothing was dropped");
                return Err(Failure::Refused(text));
            }
            found.accepted().await?;
            confirm_drop(&drop)?;
            (Method::DELETE, kvs_path(&drop.kvs.name), drop.kvs.server)
        }
    };
    print_body(send(&server, request(method, &path, "")?).await?.accepted().await?).await
}

/// A person is asked for the name; a script has to say --yes.
fn confirm_drop(drop: &KvsDrop) -> Result<(), Failure> {
    let name = &drop.kvs.name;
    if drop.yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::Usage(format!(
            "this drops KVS {name:?} with everything in it, and nobody can be asked; say --yes"
        )));
    }
    let mut typed = String::new();
    let asked = write!(
        io::stderr(),
        "This drops KVS {name:?} at {} with everything in it. Type its name to go on: ",
        drop.kvs.server.url
    );
    asked
        .and_then(|()| io::stdin().read_line(&mut typed))
        .map_err(|error| Failure::Usage(format!("nobody could be asked ({error}); say --yes")))?;
    if typed.trim_end_matches('\n') == name {
        return Ok(());
    }
    Err(Failure::Usage("that is not its name; nothing was dropped".to_owned()))
}

async fn healthcheck(server: Server) -> Result<(), Failure> {
    let request = request(Method::GET, "/readyz", "")?;
    let asked = tokio::time::timeout(HEALTH_TIMEOUT, send(&server, request));
    let slow = |_| Failure::Absent(format!("no answer within {HEALTH_TIMEOUT:?}"));
    let answer = match asked.await.map_err(slow)? {
        Ok(answer) => answer,
        Err(Failure::Connection(error)) => return Err(Failure::Absent(format!("{error:#}"))),
        Err(other) => return Err(other),
    };
    if answer.status.is_success() {
        return Ok(());
    }
    let body = answer.collect().await?;
    Err(Failure::Absent(format!("not ready: {}", String::from_utf8_lossy(&body).trim())))
}

fn key_path(target: &Target, key: &Key) -> Result<String, Failure> {
    let kvs = percent_encode_segment(target.kvs.as_bytes());
    Ok(format!("/v1/kv/{kvs}/{}", percent_encode(&key_bytes(&key.key, key.k64)?)))
}

/// The bytes of a key: those of the argument, or what they are base64url of.
pub(crate) fn key_bytes(text: &OsStr, k64: bool) -> Result<Vec<u8>, Failure> {
    if !k64 {
        return Ok(text.as_bytes().to_owned());
    }
    let unpadded = text.as_bytes().strip_suffix(b"==").unwrap_or(text.as_bytes());
    let unpadded = unpadded.strip_suffix(b"=").unwrap_or(unpadded);
    BASE64_URL_SAFE_NO_PAD.decode(unpadded).map_err(|error| {
        let text = text.to_string_lossy();
        Failure::Usage(format!("{text:?} is no base64url such as k64 of a scan: {error}"))
    })
}

fn kvs_path(name: &str) -> String {
    format!("/v1/kvs/{}", percent_encode_segment(name.as_bytes()))
}

async fn print_body(mut answer: Answer) -> Result<(), Failure> {
    while let Some(data) = answer.next().await? {
        print(&data)?;
    }
    Ok(())
}

/// Writes to standard output.
pub fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::ReaderGone),
        written => written.map_err(Failure::Output),
    }
}

/// Prints the items of a stream; its last line says whether it is whole.
async fn print_items(mut answer: Answer) -> Result<(), Failure> {
    let mut lines = Lines::default();
    while let Some(data) = answer.next().await? {
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
            return match last["damaged"].as_u64() {
                None | Some(0) => Ok(()),
                Some(damaged) => Err(Failure::Damaged(format!(
                    "{damaged} keys, or ranges of keys, cannot be read; the lines with \"error\" \
                     say which"
                ))),
            };
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
    fn keys_are_bytes() {
        let bytes = OsStr::from_bytes(b"\xff\x00=");
        assert_eq!(key_bytes(bytes, false).unwrap(), b"\xff\x00=");
        for text in ["_wA", "_wA="] {
            assert_eq!(key_bytes(OsStr::new(text), true).unwrap(), b"\xff\x00", "{text}");
        }
        let error = key_bytes(OsStr::new("a/b"), true).unwrap_err().to_string();
        assert!(error.contains("a/b") && error.contains("k64"), "{error}");
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
        let mut damaged = Lines::default();
        damaged.add(b"{\"k\":\"a\",\"error\":{}}\n{\"end\":true,\"damaged\":1}\n");
        assert!(matches!(damaged.finish(), Err(Failure::Damaged(said)) if said.starts_with("1 k")));
        let mut cut = Lines::default();
        cut.add(b"{\"k\":\"a\"}\n");
        assert!(matches!(cut.finish(), Err(Failure::Connection(_))));
        let mut failed = Lines::default();
        failed.add(b"{\"error\":{\"detail\":\"drive\"}}\n");
        assert!(matches!(failed.finish(), Err(Failure::Refused(detail)) if detail == "drive"));
    }
}
