//! `millpond load`: what a scan wrote, sent back.
//!
//! Lines go in batches, one after the other, each of them all or nothing. Putting a key again is no
//! harm, so whatever ends the command it can be run again, or go on with the line that it names.
//! A line of damage stands for a key that the scan could not read: there is nothing to write, and
//! the command says at its end how many there were. A batch that an overloaded server refuses (503
//! with `Retry-After`) is sent again after the time that the server names.

use super::transport::{request, send};
use super::{Failure, print};
use crate::api::object::Object;
use crate::cli::Load;
use axum::http::{HeaderValue, Method, StatusCode, header};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::time::Duration;

/// A batch is sent when it has so many bytes, or would have more with the next line.
const BATCH_BYTES: usize = 4 << 20;

/// Most lines of a batch; a server takes ten times as many.
const BATCH_LINES: usize = 10_000;

/// The longest line: more than a value of 16 MiB has, whatever its bytes are as JSON.
const LINE_BYTES_MAX: usize = 128 << 20;

/// How many times in a row a batch is sent that is refused.
const TRIES_MAX: u32 = 30;

/// The longest wait before a batch is sent again, whatever the server says.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// What a line of a scan is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A key and its value, or what else the server shall judge.
    Item,
    /// An operation that deletes a key.
    Delete,
    /// A key, or a range of keys, that could not be read.
    Damage,
    /// An empty line, or the last one of a stream.
    Nothing,
}

/// The fields by which they are told; what else a line has is the server's to judge.
#[derive(Deserialize)]
struct Fields<'a> {
    error: Option<IgnoredAny>,
    end: Option<bool>,
    #[serde(borrow)]
    op: Option<Cow<'a, str>>,
    k: Option<IgnoredAny>,
    k64: Option<IgnoredAny>,
    v: Option<IgnoredAny>,
    v64: Option<IgnoredAny>,
}

fn kind(line: &[u8]) -> Result<Kind, String> {
    if line.trim_ascii().is_empty() {
        return Ok(Kind::Nothing);
    }
    let Object(fields) = serde_json::from_slice::<Object<Fields<'_>>>(line)
        .map_err(|error| format!("is no JSON object, such as scan writes in each line: {error}"))?;
    Ok(match fields {
        Fields { error: Some(_), op: None, v: None, v64: None, .. } => Kind::Damage,
        Fields { op: Some(op), .. } if op == "delete" => Kind::Delete,
        Fields { end: Some(true), op: None, k: None, k64: None, v: None, v64: None, .. } => {
            Kind::Nothing
        }
        Fields { op: None, v: None, v64: None, .. } => {
            return Err("has no value, as of scan --keys-only: scan with values".to_owned());
        }
        Fields { .. } => Kind::Item,
    })
}

/// Lines that are sent together.
#[derive(Default)]
struct Batch {
    body: Vec<u8>,
    /// How many lines.
    count: usize,
    /// How many of them delete a key.
    deletes: u64,
    /// The number of the first line in it; 0 while it is empty.
    first: u64,
}

impl Batch {
    fn is_full_for(&self, line: &[u8]) -> bool {
        self.count == BATCH_LINES || (self.count > 0 && self.body.len() + line.len() > BATCH_BYTES)
    }

    fn add(&mut self, number: u64, line: &[u8]) {
        if self.count == 0 {
            self.first = number;
        }
        self.count += 1;
        self.body.extend_from_slice(line.trim_ascii_end());
        self.body.push(b'\n');
    }
}

/// What was done so far.
#[derive(Default)]
struct Progress {
    written: u64,
    deleted: u64,
    damaged: u64,
    shown: bool,
}

impl Progress {
    fn show(&mut self, more: &str) {
        if io::stderr().is_terminal() {
            self.shown = true;
            // Where standard error cannot be written, nobody is watching.
            drop(write!(io::stderr(), "\r\x1b[K{} keys written{more}", self.written));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            drop(write!(io::stderr(), "\r\x1b[K"));
        }
    }
}

/// Reads lines and sends them.
pub(super) async fn run(load: Load) -> Result<(), Failure> {
    let mut lines = open(&load)?;
    let (mut line, mut number) = (Vec::new(), 0);
    let (mut batch, mut progress) = (Batch::default(), Progress::default());
    loop {
        line.clear();
        let limited = (&mut lines).take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line);
        number += 1;
        let stop = |batch: &Batch, why: String| {
            let from = if batch.count == 0 { number } else { batch.first };
            stopped(&load, from, &format!("line {number} {why}"))
        };
        let read = limited.map_err(|error| stop(&batch, format!("cannot be read: {error}")))?;
        if read > LINE_BYTES_MAX {
            return Err(stop(&batch, format!("is longer than {LINE_BYTES_MAX} bytes")));
        }
        let at_end = read == 0;
        if !at_end && number <= load.skip {
            continue;
        }
        let kind = kind(&line).map_err(|why| stop(&batch, why))?;
        if at_end || batch.is_full_for(&line) {
            let full = std::mem::take(&mut batch);
            write(&load, full, &mut progress).await?;
        }
        match kind {
            Kind::Item => batch.add(number, &line),
            Kind::Delete => {
                batch.add(number, &line);
                batch.deletes += 1;
            }
            Kind::Damage => progress.damaged += 1,
            Kind::Nothing if at_end => break,
            Kind::Nothing => {}
        }
    }
    check_end(&load, number - 1, &progress).await?;
    tell(&load, progress)
}

/// Where nothing was sent, whether something could have been.
async fn check_end(load: &Load, lines: u64, progress: &Progress) -> Result<(), Failure> {
    if lines < load.skip {
        return Err(Failure::Usage(format!(
            "--skip {} leaves nothing: there are {lines} lines; nothing was written",
            load.skip
        )));
    }
    if progress.written + progress.deleted == 0 {
        let asked = request(Method::GET, &super::kvs_path(&load.target.kvs), "")?;
        send(&load.target.server, asked).await?.accepted().await?;
    }
    Ok(())
}

fn tell(load: &Load, progress: Progress) -> Result<(), Failure> {
    let Progress { written, deleted, damaged, .. } = progress;
    drop(progress);
    let keys = if written == 1 { "key" } else { "keys" };
    let deletes = if deleted > 0 { format!(", {deleted} deleted") } else { String::new() };
    let kvs = &load.target.kvs;
    print(format!("{written} {keys} written to KVS {kvs}{deletes}\n").as_bytes())?;
    if damaged > 0 {
        let stand = if damaged == 1 { "line stands for a key" } else { "lines stand for keys" };
        return Err(Failure::Damaged(format!(
            "{damaged} {stand} that the scan could not read; everything else is written"
        )));
    }
    Ok(())
}

fn open(load: &Load) -> Result<Box<dyn BufRead>, Failure> {
    if load.file.as_os_str() == "-" {
        return Ok(Box::new(BufReader::new(io::stdin())));
    }
    let shown = load.file.display();
    let wrong = |error| Failure::Usage(format!("{shown} cannot be read: {error}"));
    let file = File::open(&load.file).map_err(wrong)?;
    if file.metadata().map_err(wrong)?.is_dir() {
        return Err(Failure::Usage(format!("{shown} is a directory; name a file in it")));
    }
    Ok(Box::new(BufReader::new(file)))
}

/// Writes a batch, all of it or nothing.
async fn write(load: &Load, batch: Batch, progress: &mut Progress) -> Result<(), Failure> {
    if batch.count == 0 {
        return Ok(());
    }
    match post(load, batch.body.into(), progress).await {
        Ok(answer) => {
            let answer: Option<serde_json::Value> = serde_json::from_slice(&answer).ok();
            let count = answer.and_then(|answer| answer["count"].as_u64()).unwrap_or(0);
            progress.written += count.saturating_sub(batch.deletes);
            progress.deleted += batch.deletes;
            progress.show("");
            Ok(())
        }
        Err(Failure::Refused(why)) => Err(stopped(load, batch.first, &why)),
        Err(Failure::Connection(error)) => {
            Err(Failure::Connection(error.context(go_on(load, batch.first))))
        }
        Err(other) => Err(other),
    }
}

/// Sends a batch, again where the server refuses it and says when to; returns the answer.
async fn post(load: &Load, body: Bytes, progress: &mut Progress) -> Result<Vec<u8>, Failure> {
    let kvs = crate::api::target::percent_encode(load.target.kvs.as_bytes());
    let path = format!("/v1/batch?kvs={kvs}&durability={}", load.durability.as_str());
    let json = HeaderValue::from_static("application/x-ndjson");
    let mut tries = 0;
    loop {
        let mut request = request(Method::POST, &path, body.clone())?;
        request.headers_mut().insert(header::CONTENT_TYPE, json.clone());
        let answer = send(&load.target.server, request).await?;
        tries += 1;
        let Some(wait) = wait_of(answer.status, answer.retry_after, tries) else {
            return match answer.accepted().await {
                Ok(answer) => answer.collect().await,
                Err(Failure::Refused(why)) if tries > 1 => {
                    Err(Failure::Refused(format!("{why}, {tries} times in a row")))
                }
                Err(other) => Err(other),
            };
        };
        progress.show(": the server is overloaded, and is asked again");
        tokio::time::sleep(wait).await;
    }
}

/// How long to wait before a batch is sent again; `None`: this answer is the last one.
fn wait_of(status: StatusCode, retry_after: Option<Duration>, tries: u32) -> Option<Duration> {
    let again = status == StatusCode::SERVICE_UNAVAILABLE && tries < TRIES_MAX;
    retry_after.filter(|_| again).map(|wait| wait.min(WAIT_MAX))
}

fn stopped(load: &Load, from: u64, why: &str) -> Failure {
    Failure::Refused(format!("{why}; {}", go_on(load, from)))
}

/// What is done, and how to do the rest.
fn go_on(load: &Load, from: u64) -> String {
    let done = from - 1;
    if done <= load.skip {
        return "nothing was written".to_owned();
    }
    format!("lines up to {done} are written; --skip {done} goes on with the next")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_what_a_scan_writes() {
        for (line, want) in [
            (&b"{\"k\":\"a\",\"v\":\"1\",\"rev\":7}\n"[..], Ok(Kind::Item)),
            (b"{\"k64\":\"_w\",\"v64\":\"_w\"}", Ok(Kind::Item)),
            (b"{\"k\":\"a\",\"error\":{\"type\":\"x\"}}\n", Ok(Kind::Damage)),
            (b"{\"from\":\"a\",\"to\":\"b\",\"error\":{}}\n", Ok(Kind::Damage)),
            (b"{\"end\":true,\"count\":2}\n", Ok(Kind::Nothing)),
            (b" \r\n", Ok(Kind::Nothing)),
            // They were dropped without a word, though somebody wrote them.
            (b"{\"end\":true,\"k\":\"x\",\"v\":\"1\"}", Ok(Kind::Item)),
            (b"{\"error\":{},\"k\":\"x\",\"v\":\"1\"}", Ok(Kind::Item)),
            (b"{\"op\":\"delete\",\"k\":\"x\"}", Ok(Kind::Delete)),
            (b"", Ok(Kind::Nothing)),
        ] {
            assert_eq!(kind(line), want, "{}", line.escape_ascii());
        }
        for line in [&b"{\"k\":\"a\""[..], b"hello\n", b"\xff\n", b"[1]\n", b"[1,true]"] {
            assert!(kind(line).is_err(), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn a_refused_batch_is_sent_again_when_the_server_says_so_and_not_for_ever() {
        let (busy, second) = (StatusCode::SERVICE_UNAVAILABLE, Duration::from_secs(1));
        for (status, retry_after, tries, want) in [
            (busy, Some(second), 1, Some(second)),
            (busy, Some(second), TRIES_MAX - 1, Some(second)),
            (busy, Some(second), TRIES_MAX, None),
            (busy, Some(second * 3600), 1, Some(WAIT_MAX)),
            // It may have taken effect, or never will.
            (busy, None, 1, None),
            (StatusCode::OK, Some(second), 1, None),
            (StatusCode::INSUFFICIENT_STORAGE, Some(second), 1, None),
        ] {
            assert_eq!(
                wait_of(status, retry_after, tries),
                want,
                "{status} {retry_after:?} {tries}"
            );
        }
    }

    #[test]
    fn batches_end_before_they_are_too_large() {
        let mut batch = Batch::default();
        let line = vec![b'v'; BATCH_BYTES - 2];
        assert!(!batch.is_full_for(&vec![b'v'; 2 * BATCH_BYTES]), "alone it is sent as it is");
        batch.add(7, &line);
        assert!(!batch.is_full_for(b"v") && batch.is_full_for(b"vv"));
        assert_eq!((batch.first, batch.count, batch.body.len()), (7, 1, BATCH_BYTES - 1));
    }
}
