//! Reading request bodies: bounded in size, in time and in the memory all of them take together.
//!
//! A body of one frame, as small values are, is handed on without a copy. A body that declares
//! too many bytes is refused from its head; what the client sends all the same is read and thrown
//! away up to a bound, because a connection reset would take the answer with it.

use crate::metrics::http::Rejected;
use crate::problem::Problem;
use axum::body::Body;
use axum::http::StatusCode;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Bytes of a refused body that are read and thrown away so that the client sees the answer.
const DISCARD_BYTES_MAX: usize = 64 << 20;

/// Longest time spent on that.
const DISCARD_TIME_MAX: Duration = Duration::from_secs(5);

/// Bodies up to this size are not counted against the budget: connections, and the streams of each,
/// bound them.
const UNCOUNTED_BYTES: usize = 4 << 10;

/// What a body may be.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimit {
    /// Most bytes.
    pub bytes_max: usize,
    /// Longest time from the head to the last byte.
    pub time_max: Duration,
    /// What the body is, for messages: `value` or `batch`.
    pub what: &'static str,
}

/// Memory that all bodies being read may hold together.
#[derive(Debug)]
pub struct BodyBudget {
    held: AtomicUsize,
    bytes_max: usize,
}

impl BodyBudget {
    /// A budget of `bytes_max`.
    pub fn new(bytes_max: usize) -> Self {
        Self { held: AtomicUsize::new(0), bytes_max }
    }

    fn share(&self) -> Held<'_> {
        Held { budget: self, bytes: 0 }
    }
}

/// A share of the budget.
#[derive(Debug)]
#[must_use = "dropping this returns the share"]
pub struct Held<'a> {
    budget: &'a BodyBudget,
    bytes: usize,
}

impl Held<'_> {
    /// Enlarges the share to `bytes`.
    fn grow_to(&mut self, bytes: usize) -> Result<(), Problem> {
        let more = bytes.saturating_sub(self.bytes);
        // Relaxed: a bound on memory, nothing is published by it.
        let before = self.budget.held.fetch_add(more, Ordering::Relaxed);
        self.bytes += more;
        if before + more <= self.budget.bytes_max {
            return Ok(());
        }
        Err(Problem::overloaded(
            Rejected::BodyMemory.as_str(),
            format!(
                "request bodies hold {before} bytes; together they may hold {} \
                 (option body_memory); try again",
                self.budget.bytes_max
            ),
        ))
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A body, and its share of the budget for as long as it is in memory.
#[derive(Debug)]
pub struct Read<'a> {
    /// The bytes.
    pub bytes: Bytes,
    _held: Held<'a>,
}

/// Reads a whole body.
pub async fn read(
    mut body: Body,
    limit: BodyLimit,
    budget: &BodyBudget,
) -> Result<Read<'_>, Problem> {
    let declared = hyper::body::Body::size_hint(&body);
    if declared.lower() > u64::try_from(limit.bytes_max).unwrap_or(u64::MAX) {
        discard(body).await;
        return Err(too_large(&declared.lower().to_string(), limit));
    }
    let outcome = tokio::time::timeout(limit.time_max, collect(&mut body, limit, budget)).await;
    match outcome {
        Ok(Ok(read)) => Ok(read),
        Ok(Err(problem)) => {
            discard(body).await;
            Err(problem)
        }
        Err(_elapsed) => Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            ("body-timeout", "Body came too slowly"),
            format!(
                "the {} did not arrive within {} s (option request_timeout); nothing was written",
                limit.what,
                limit.time_max.as_secs()
            ),
        )),
    }
}

async fn collect<'a>(
    body: &mut Body,
    limit: BodyLimit,
    budget: &'a BodyBudget,
) -> Result<Read<'a>, Problem> {
    let declared = hyper::body::Body::size_hint(&*body).exact();
    let declared = declared.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    let mut held = budget.share();
    if let Some(large) = declared.filter(|bytes| *bytes > UNCOUNTED_BYTES) {
        held.grow_to(large)?;
    }
    let mut first: Option<Bytes> = None;
    let mut joined: Option<BytesMut> = None;
    let mut len = 0_usize;
    while let Some(data) = next_data(body).await? {
        len += data.len();
        if len > limit.bytes_max {
            return Err(too_large(&format!("more than {}", limit.bytes_max), limit));
        }
        if len > UNCOUNTED_BYTES {
            held.grow_to(len)?;
        }
        match (&mut joined, first.take()) {
            (Some(all), _) => all.extend_from_slice(&data),
            (None, None) => first = Some(data),
            (None, Some(start)) => {
                let mut all = BytesMut::with_capacity(declared.unwrap_or(0).max(len));
                all.extend_from_slice(&start);
                all.extend_from_slice(&data);
                joined = Some(all);
            }
        }
    }
    let bytes = joined.map(BytesMut::freeze).or(first).unwrap_or_default();
    Ok(Read { bytes, _held: held })
}

/// The next bytes of a body; trailers are skipped.
async fn next_data(body: &mut Body) -> Result<Option<Bytes>, Problem> {
    loop {
        let Some(frame) = body.frame().await else { return Ok(None) };
        let frame = frame.map_err(|error| {
            Problem::bad_request(format!("the body broke off: {error}; nothing was written"))
        })?;
        match frame.into_data() {
            Ok(data) if data.is_empty() => {}
            Ok(data) => return Ok(Some(data)),
            Err(_trailers) => {}
        }
    }
}

async fn discard(mut body: Body) {
    let all = async {
        let mut len = 0_usize;
        while let Ok(Some(data)) = next_data(&mut body).await {
            len += data.len();
            if len > DISCARD_BYTES_MAX {
                break;
            }
        }
    };
    // Out of time or out of patience is the same: the connection closes with what was sent.
    drop(tokio::time::timeout(DISCARD_TIME_MAX, all).await);
}

fn too_large(len: &str, limit: BodyLimit) -> Problem {
    let way_out = match limit.what {
        "value" => "split it over several keys",
        _ => "send it in several requests",
    };
    Problem::too_large(format!(
        "the {} has {len} bytes; it may have at most {}; {way_out}",
        limit.what, limit.bytes_max
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use std::convert::Infallible;

    const LIMIT: BodyLimit =
        BodyLimit { bytes_max: 10, time_max: Duration::from_mins(1), what: "value" };

    fn chunks(chunks: &[&'static str]) -> Body {
        let owned: Vec<Result<&'static str, Infallible>> = chunks.iter().map(|c| Ok(*c)).collect();
        Body::from_stream(stream::iter(owned))
    }

    #[tokio::test]
    async fn bodies_up_to_the_limit_are_read_whole() {
        let budget = BodyBudget::new(100);
        for (body, want) in [
            (Body::empty(), &b""[..]),
            (Body::from("0123456789"), b"0123456789"),
            (chunks(&["01", "", "234", "56789"]), b"0123456789"),
        ] {
            assert_eq!(&*read(body, LIMIT, &budget).await.unwrap().bytes, want);
        }
        assert_eq!(budget.held.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn one_byte_more_is_refused_with_the_limit() {
        let budget = BodyBudget::new(100);
        for body in [Body::from("0123456789a"), chunks(&["012345", "6789a", "b"])] {
            let problem = read(body, LIMIT, &budget).await.unwrap_err();
            assert_eq!(problem.status, StatusCode::PAYLOAD_TOO_LARGE);
            assert!(problem.detail.contains("at most 10"), "{}", problem.detail);
        }
    }

    #[tokio::test]
    async fn large_bodies_share_a_budget() {
        let limit = BodyLimit { bytes_max: 200_000, ..LIMIT };
        let budget = BodyBudget::new(150_000);
        let large = || Body::from(vec![0; 100_000]);
        let unknown = || Body::from_stream(stream::iter([Ok::<_, Infallible>(vec![0; 100_000])]));
        let one = read(unknown(), limit, &budget).await.unwrap();
        for body in [large(), unknown()] {
            let problem = read(body, limit, &budget).await.unwrap_err();
            assert_eq!(problem.stall, Some("body_memory"));
        }
        assert!(read(chunks(&["small"]), limit, &budget).await.is_ok());
        drop(one);
        assert!(read(large(), limit, &budget).await.is_ok());
        assert_eq!(budget.held.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_times_out() {
        let budget = BodyBudget::new(100);
        let body = Body::from_stream(stream::pending::<Result<&'static str, Infallible>>());
        let problem = read(body, LIMIT, &budget).await.unwrap_err();
        assert_eq!(problem.status, StatusCode::REQUEST_TIMEOUT);
    }
}
