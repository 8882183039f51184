//! `POST /v1/batch`: several writes, over several KVSs, all or nothing.
//!
//! The body is a JSON array of operations or one operation a line (NDJSON):
//! `{"op":"put","kvs":"default","k":"a","v":"1"}` and `{"op":"delete","k":"b"}`; `k64` and `v64`
//! hold base64url instead of text, and `kvs` is that of the query or `default` where it is missing.
//! Items, pages and streams of a scan are taken, too, as puts (see [`super::item`]). Of several
//! operations on one key the last one counts. The answer has the revision that all of them got.
//!
//! A large body is decoded beside the async workers, in a lane of its own: no scan is before it.

use super::item::{Decoded, Document, Documents, OPERATIONS_MAX, Piece, Said};
use super::{REVISION, durability, json};
use crate::admission::head::check_json;
use crate::api::problem::{Answer, Problem};
use crate::api::target::Query;
use crate::engine::{Engine, Write};
use crate::state::Shared;
use crate::state::blocking::Patience;
use crate::state::body::{self, BodyLimit};
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Request, StatusCode};
use bytes::Bytes;
use kvs::{Durability, Result, Revision};
use serde_json::json;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Bodies up to this size are decoded on the async worker: less than the cost of changing thread.
const INLINE_BYTES_MAX: usize = 16 << 10;

pub(crate) async fn handle(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Answer {
    let (head, body) = request.into_parts();
    shared.engine()?;
    let query = Query::parse(head.uri.query(), &["durability", "kvs"])?;
    let durability = durability(&query)?;
    let named = query.text("kvs")?;
    check_json(&head.headers)?;
    // What would be refused anyway is refused before the body is sent.
    shared.engine()?.check_writable(named)?;
    let kvs = named.unwrap_or("default").to_owned();
    let limit = BodyLimit {
        bytes_max: shared.limits.batch_bytes_max,
        time_max: shared.limits.request_timeout,
        what: "batch",
    };
    let read = body::read(body, limit, &shared.bodies).await?;
    shared.metrics.http.observe_request_body(read.bytes.len());
    let asked = Asked { durability, value_bytes_max: shared.limits.value_bytes_max };
    let (count, answer) = if read.bytes.len() <= INLINE_BYTES_MAX {
        submit(&**shared.engine()?, (&read.bytes, &kvs), asked)?
    } else {
        let bytes: Bytes = read.bytes.clone();
        let work = move |engine: &dyn Engine| submit(engine, (&bytes, &kvs), asked);
        shared.blocking(&shared.lanes.batches, Patience::Refusable, work).await?
    };
    let revision = shared.engine_answer(answer, "the batch may or may not take effect").await?;
    let mut response = json(StatusCode::OK, &json!({"revision": revision.get(), "count": count}))?;
    response.headers_mut().insert(REVISION, HeaderValue::from(revision.get()));
    Ok(response)
}

type Acknowledgement = oneshot::Receiver<Result<Revision>>;

/// How a batch is written.
#[derive(Clone, Copy)]
struct Asked {
    durability: Durability,
    /// Most bytes of a value.
    value_bytes_max: usize,
}

/// Decodes a batch and hands it to the engine; says how many operations it has.
fn submit(
    engine: &dyn Engine,
    (body, kvs): (&[u8], &str),
    Asked { durability, value_bytes_max }: Asked,
) -> Result<(usize, Acknowledgement), Problem> {
    let operations = decode(body, kvs)?;
    check_values(&operations, value_bytes_max)?;
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
        let deletes = writes.get(refused.at).is_some_and(|write| write.value.is_none());
        let problem = if deletes { problem.of_what_is_there() } else { problem };
        let detail = format!("operation {}: {}", refused.at + 1, problem.detail);
        Problem { detail: detail.into(), ..problem }
    })?;
    Ok((writes.len(), answer))
}

/// Refuses a batch with a value that would be refused alone.
fn check_values(operations: &[Decoded<'_>], bytes_max: usize) -> Result<(), Problem> {
    let len = |operation: &Decoded<'_>| operation.value.as_ref().map_or(0, |value| value.len());
    let Some(at) = operations.iter().position(|one| len(one) > bytes_max) else { return Ok(()) };
    let (number, bytes) = (at + 1, len(&operations[at]));
    Err(Problem::too_large(format!(
        "operation {number}: the value has {bytes} bytes, the limit is {bytes_max} (option \
         value_max); nothing was written"
    )))
}

/// The operations of a batch, on `kvs` where they name none.
fn decode<'a>(body: &'a [u8], kvs: &'a str) -> Result<Vec<Decoded<'a>>, Problem> {
    let text = std::str::from_utf8(body).map_err(|error| {
        Problem::bad_request(format!(
            "the batch is not UTF-8 at byte {}; send bytes as k64 and v64",
            error.valid_up_to()
        ))
    })?;
    let mut operations = Vec::new();
    let mut documents = 0_usize;
    let mut pieces = serde_json::Deserializer::from_str(text).into_iter::<Piece<'_>>();
    loop {
        let begin = pieces.byte_offset();
        let Some(piece) = pieces.next() else { break };
        let malformed = |error| {
            let is_array = text[begin..].trim_start().starts_with('[');
            // The decoder says where in an array it stopped, and not in which of its operations.
            let place = if is_array { "array of operations" } else { "operation" };
            let number = operations.len() + 1;
            let from = if is_array { " from number" } else { "" };
            Problem::bad_request(format!("{place}{from} {number} is malformed: {error}"))
        };
        match piece.map_err(malformed)? {
            Piece::One(document) => {
                documents += 1;
                add(&mut operations, *document, kvs)?;
            }
            Piece::Several(several) => {
                for document in several.0 {
                    documents += 1;
                    add(&mut operations, document, kvs)?;
                }
            }
        }
    }
    // The end line of a scan that found nothing, or a page without items, writes nothing.
    if documents == 0 {
        return Err(Problem::bad_request("the batch is empty; send at least one operation"));
    }
    Ok(operations)
}

fn add<'a>(
    operations: &mut Vec<Decoded<'a>>,
    document: Document<'a>,
    kvs: &'a str,
) -> Result<(), Problem> {
    let number = operations.len() + 1;
    let said = document.said(kvs);
    match said.map_err(|error| Problem::bad_request(format!("operation {number}: {error}")))? {
        Said::Write(_) if number > OPERATIONS_MAX => {
            return Err(Problem::too_large(format!(
                "the batch has more than {OPERATIONS_MAX} operations, its limit; send several"
            )));
        }
        Said::Write(decoded) => operations.push(decoded),
        Said::Page(Documents(items)) => {
            for item in items {
                add(operations, item, kvs)?;
            }
        }
        Said::End => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(body: &[u8]) -> Result<Vec<Decoded<'_>>, Problem> {
        decode(body, "default")
    }

    #[test]
    fn arrays_and_lines_mean_the_same() {
        let array = br#" [{"op":"put","k":"a","v":"1"},{"op":"delete","kvs":"x","k64":"YQ"}]"#;
        let lines = b"{\"op\":\"put\",\"k\":\"a\",\"v\":\"1\"}\n\n{\"op\":\"delete\",\"kvs\":\"x\",\"k64\":\"YQ\"}\n";
        let operations = decoded(array).unwrap();
        assert_eq!(operations, decoded(lines).unwrap());
        assert_eq!(operations[1].kvs, "x");
        assert_eq!(operations[1].value, None);
    }

    #[test]
    fn what_a_scan_wrote_is_puts() {
        let (a, b) = (r#"{"k":"a","v":"1","rev":7}"#, r#"{"k64":"_w","v64":"_w","rev":8}"#);
        let end = r#"{"end":true,"count":2,"revision":9}"#;
        let page = format!("{{\"items\":[\n{a},\n{b}],\"cursor\":\"Zg\",\"revision\":9}}\n");
        let half = format!("{{\"items\":[\n{a}],\"revision\":9}}\n");
        for body in [
            format!("{a}\n{b}\n{end}\n"),
            format!("{a}\n{end}\n{b}\n{end}\n"),
            format!("[{a},{b},{end}]"),
            page.clone(),
            format!("{half}{b}"),
            format!("[{}]", page.trim()),
        ] {
            let operations = decode(body.as_bytes(), "birds").unwrap();
            let seen: Vec<_> =
                operations.iter().map(|one| (&*one.kvs, &*one.key, one.value.as_deref())).collect();
            let want = [
                ("birds", &b"a"[..], Some(&b"1"[..])),
                ("birds", &b"\xff"[..], Some(&b"\xff"[..])),
            ];
            assert_eq!(seen, want, "{body}");
        }
    }

    #[test]
    fn a_batch_has_a_limit_in_any_form() {
        let one = "{\"op\":\"delete\",\"k\":\"a\"}";
        let all = vec![one; OPERATIONS_MAX].join(",");
        assert_eq!(decoded(format!("[{all}]").as_bytes()).unwrap().len(), OPERATIONS_MAX);
        for body in [
            format!("[{all},{one}]"),
            format!("[{all}]{one}"),
            format!("{{\"items\":[{all},{one}]}}"),
            vec![one; OPERATIONS_MAX + 1].join("\n"),
        ] {
            let refused = decoded(body.as_bytes()).unwrap_err();
            assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE, "{}", refused.detail);
        }
    }

    /// A value that a PUT was refused for was taken in a batch.
    #[test]
    fn a_value_has_the_same_limit_as_alone() {
        let operations =
            decoded(br#"{"k":"a","v":"12"}{"op":"delete","k":"b"}{"k":"c","v":"123"}"#);
        let operations = operations.unwrap();
        assert!(check_values(&operations, 3).is_ok());
        let refused = check_values(&operations, 2).unwrap_err();
        assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE);
        assert!(refused.detail.starts_with("operation 3: the value has 3 bytes, the limit is 2"));
    }

    /// They were refused as empty, so that a copy of an empty KVS failed.
    #[test]
    fn what_a_scan_wrote_of_nothing_is_a_batch_of_nothing() {
        for body in [
            "{\"items\":[],\"cursor\":\"Zg\",\"revision\":1}",
            "{\"end\":true,\"count\":0,\"revision\":1}\n",
            "[{\"end\":true,\"count\":0,\"revision\":1}]",
        ] {
            assert!(decoded(body.as_bytes()).unwrap().is_empty(), "{body}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (body, want) in [
            (&b""[..], "empty"),
            (b"[]", "empty"),
            (b"\xff", "not UTF-8 at byte 0"),
            (b"{\"op\":\"put\",\"k\":\"a\",\"v\":\"1\"}\n{oops", "operation 2 is malformed"),
            (b"[{\"op\":\"delete\"}]", "operation 1: the key is missing"),
            (b"[1]", "malformed"),
            (b"1", "malformed"),
            (b"[[\"put\",\"default\",\"a\",null,\"1\"]]", "named fields"),
            (b"[\"delete\",null,\"a\"]", "malformed"),
            (b"{\"items\":[[\"delete\",null,\"a\"]]}", "named fields"),
        ] {
            let problem = decoded(body).unwrap_err();
            assert!(problem.detail.contains(want), "{want}: {}", problem.detail);
        }
    }
}
