//! `POST /v1/batch`: several writes, over several KVSs, all or nothing.
//!
//! The body is a JSON array of operations or one operation a line (NDJSON):
//! `{"op":"put","kvs":"default","k":"a","v":"1"}` and `{"op":"delete","k":"b"}`; `k64` and `v64`
//! hold base64url instead of text, and `kvs` is `default` where it is missing. Of several
//! operations on one key the last one counts. The answer has the revision that all of them got.
//!
//! A large body is decoded beside the async workers.

use super::item::{Decoded, Operation};
use super::{REVISION, durability, json};
use crate::app::Shared;
use crate::blocking::Patience;
use crate::body::{self, BodyLimit};
use crate::engine::{Engine, Write};
use crate::problem::{Answer, Problem};
use crate::target::Query;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Request, StatusCode};
use bytes::Bytes;
use kvs::{Durability, Result, Revision};
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde_json::json;
use std::fmt;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Most operations of one batch.
const OPERATIONS_MAX: usize = 100_000;

/// Bodies up to this size are decoded on the async worker: less than the cost of changing thread.
const INLINE_BYTES_MAX: usize = 16 << 10;

pub(crate) async fn handle(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Answer {
    let (head, body) = request.into_parts();
    let durability = durability(&Query::parse(head.uri.query(), &["durability"])?)?;
    let limit = BodyLimit {
        bytes_max: shared.limits.batch_bytes_max,
        time_max: shared.limits.request_timeout,
        what: "batch",
    };
    let read = body::read(body, limit, &shared.bodies).await?;
    shared.metrics.http.observe_request_body(read.bytes.len());
    let (count, answer) = if read.bytes.len() <= INLINE_BYTES_MAX {
        submit(&**shared.engine()?, &read.bytes, durability)?
    } else {
        let bytes: Bytes = read.bytes.clone();
        let work = move |engine: &dyn Engine| submit(engine, &bytes, durability);
        shared.blocking(Patience::Refusable, work).await?
    };
    let revision = shared.answered(answer, "the batch may or may not take effect").await?;
    let mut response = json(StatusCode::OK, &json!({"revision": revision.get(), "count": count}))?;
    response.headers_mut().insert(REVISION, HeaderValue::from(revision.get()));
    Ok(response)
}

type Acknowledgement = oneshot::Receiver<Result<Revision>>;

/// Decodes a batch and hands it to the engine; says how many operations it has.
fn submit(
    engine: &dyn Engine,
    body: &[u8],
    durability: Durability,
) -> Result<(usize, Acknowledgement), Problem> {
    let operations = decode(body)?;
    let writes: Vec<Write<'_>> = operations
        .iter()
        .map(|operation| Write {
            kvs: &operation.kvs,
            key: &operation.key,
            value: operation.value.as_deref(),
        })
        .collect();
    let (done, answer) = oneshot::channel();
    // A client that went away learns nothing; the batch goes on.
    let acknowledge = Box::new(move |outcome| drop(done.send(outcome)));
    engine.write(&writes, durability, acknowledge).map_err(|refused| {
        let problem = Problem::from(refused.error);
        let detail = format!("operation {}: {}", refused.at + 1, problem.detail);
        Problem { detail: detail.into(), ..problem }
    })?;
    Ok((writes.len(), answer))
}

fn decode(body: &[u8]) -> Result<Vec<Decoded<'_>>, Problem> {
    let text = std::str::from_utf8(body).map_err(|error| {
        Problem::bad_request(format!(
            "the batch is not UTF-8 at byte {}; send bytes as k64 and v64",
            error.valid_up_to()
        ))
    })?;
    let operations = if text.trim_start().starts_with('[') {
        let Bounded(all) = serde_json::from_str(text)
            .map_err(|error| Problem::bad_request(format!("the batch is malformed: {error}")))?;
        all.into_iter().enumerate().map(|(at, one)| decode_one(at + 1, one)).collect()
    } else {
        decode_lines(text)
    }?;
    match operations.len() {
        0 => Err(Problem::bad_request("the batch is empty; send at least one operation")),
        1..=OPERATIONS_MAX => Ok(operations),
        _ => Err(Problem::too_large(format!(
            "the batch has more than {OPERATIONS_MAX} operations, its limit; send several"
        ))),
    }
}

/// The operations of an array, as far as one more than may be: a body of tiny operations would
/// otherwise take many times its size in memory before it is refused.
struct Bounded<'a>(Vec<Operation<'a>>);

impl<'de> Deserialize<'de> for Bounded<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(BoundedVisitor)
    }
}

struct BoundedVisitor;

impl<'de> Visitor<'de> for BoundedVisitor {
    type Value = Bounded<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of operations")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Bounded<'de>, A::Error> {
        let mut all = Vec::new();
        while let Some(operation) = seq.next_element()? {
            if all.len() <= OPERATIONS_MAX {
                all.push(operation);
            }
        }
        Ok(Bounded(all))
    }
}

fn decode_lines(text: &str) -> Result<Vec<Decoded<'_>>, Problem> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .take(OPERATIONS_MAX + 1)
        .map(|(at, line)| {
            let operation = serde_json::from_str(line).map_err(|error| {
                Problem::bad_request(format!("line {} of the batch is malformed: {error}", at + 1))
            })?;
            decode_one(at + 1, operation)
        })
        .collect()
}

fn decode_one(number: usize, operation: Operation<'_>) -> Result<Decoded<'_>, Problem> {
    let named = |error| Problem::bad_request(format!("operation {number}: {error}"));
    operation.decode().map_err(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_and_lines_mean_the_same() {
        let array = br#" [{"op":"put","k":"a","v":"1"},{"op":"delete","kvs":"x","k64":"YQ"}]"#;
        let lines = b"{\"op\":\"put\",\"k\":\"a\",\"v\":\"1\"}\n\n{\"op\":\"delete\",\"kvs\":\"x\",\"k64\":\"YQ\"}\n";
        let decoded = decode(array).unwrap();
        assert_eq!(decoded, decode(lines).unwrap());
        assert_eq!(decoded[1].kvs, "x");
        assert_eq!(decoded[1].value, None);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (body, want) in [
            (&b""[..], "empty"),
            (b"[]", "empty"),
            (b"\xff", "not UTF-8 at byte 0"),
            (b"{\"op\":\"put\",\"k\":\"a\",\"v\":\"1\"}\n{oops", "line 2"),
            (b"[{\"op\":\"delete\"}]", "operation 1: the key is missing"),
            (b"[1]", "malformed"),
        ] {
            let problem = decode(body).unwrap_err();
            assert!(problem.detail.contains(want), "{want}: {}", problem.detail);
        }
    }
}
