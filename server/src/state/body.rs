//! Reading request bodies: bounded in size, in time and in the memory all of them take together.
//!
//! A body of one frame, as small values are, is handed on without a copy. Memory is reserved for
//! what has arrived, in steps that double, and never for what is only announced. A body that finds
//! no room for its next step waits for a while if no other body does, and is refused otherwise: so
//! bodies that are half there cannot wait for each other, and what a refused one held goes to the
//! one that waits.
//!
//! What a client goes on sending after it was refused is for `connection::arrival`.

use crate::api::problem::Problem;
use crate::budget::{Budget, SMALL_BYTES, Share, UNCOUNTED_BYTES};
use crate::connection::pace::{Ledger, Pace};
use axum::body::Body;
use axum::http::StatusCode;
use bytes::Bytes;
use http_body_util::BodyExt;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Longest time that a body waits for memory.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(5);

/// How far a body may be behind the least rate.
pub const BEHIND_MAX: Duration = Duration::from_secs(10);

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

/// What all bodies being read share: memory, and how fast they must come.
#[derive(Debug)]
pub struct Bodies {
    budget: Budget,
    pace: Pace,
    /// Held by the one body that may wait for room.
    turn: Mutex<()>,
}

impl Bodies {
    /// Bodies that hold at most `budget` and come at least at `rate_min` bytes per second.
    pub fn new(budget: Budget, rate_min: u64) -> Self {
        // Bodies are under `request_timeout` as a whole, too: there is no resting on what came.
        let pace = Pace { bytes_per_s: rate_min, behind_max: BEHIND_MAX, ahead_bytes_max: 0 };
        Self { budget, pace, turn: Mutex::new(()) }
    }

    /// How fast bodies must come.
    pub fn pace(&self) -> Pace {
        self.pace
    }

    /// Room for `len` bytes, and for more of `bytes_max` if there is some.
    async fn make_room(
        &self,
        share: &mut Share,
        len: usize,
        bytes_max: usize,
    ) -> Result<(), Problem> {
        let step = len.next_power_of_two().max(SMALL_BYTES).min(bytes_max).max(len);
        if self.budget.try_grow(share, step).is_ok() {
            return Ok(());
        }
        let refusal = match self.budget.try_grow(share, len) {
            Ok(()) => return Ok(()),
            Err(refusal) => refusal,
        };
        let Ok(_turn) = self.turn.try_lock() else { return Err(refusal) };
        self.budget.grow(share, len, ROOM_WAIT_MAX).await
    }
}

/// A body, and its share of the budget for as long as it is in memory.
#[derive(Debug)]
pub struct Read {
    /// The bytes.
    pub bytes: Bytes,
    _share: Share,
}

/// Reads a whole body.
pub async fn read(body: Body, limit: BodyLimit, bodies: &Bodies) -> Result<Read, Problem> {
    let declared = hyper::body::Body::size_hint(&body);
    if declared.lower() > u64::try_from(limit.bytes_max).unwrap_or(u64::MAX) {
        return Err(too_large(&declared.lower().to_string(), limit));
    }
    let reading = collect(Arriving::new(body, bodies.pace), limit, bodies);
    match tokio::time::timeout(limit.time_max, reading).await {
        Ok(outcome) => outcome,
        Err(_elapsed) => Err(too_slow(
            limit,
            &format!("within {} s (option request_timeout)", limit.time_max.as_secs()),
        )),
    }
}

async fn collect(
    mut arriving: Arriving,
    limit: BodyLimit,
    bodies: &Bodies,
) -> Result<Read, Problem> {
    let declared = hyper::body::Body::size_hint(&arriving.body).exact();
    let declared = declared.and_then(|bytes| usize::try_from(bytes).ok());
    let step_max = declared.unwrap_or(limit.bytes_max);
    // A body that announces more than a small share never takes room from small ones.
    let least = if declared.is_some_and(|bytes| bytes > SMALL_BYTES) { SMALL_BYTES + 1 } else { 0 };
    let mut share = Share::default();
    let mut first = Bytes::new();
    let mut joined = Vec::new();
    while let Some(data) = arriving.next(limit).await? {
        let len = joined.len().max(first.len()) + data.len();
        if len > limit.bytes_max {
            return Err(too_large(&format!("more than {}", limit.bytes_max), limit));
        }
        if len > share.bytes().max(UNCOUNTED_BYTES) {
            bodies.make_room(&mut share, len.max(least), step_max).await?;
        }
        if first.is_empty() && joined.is_empty() {
            first = data;
            continue;
        }
        if joined.capacity() < len {
            let capacity = share.bytes().max(len).max(step_max.min(UNCOUNTED_BYTES));
            joined.reserve_exact(capacity - joined.len());
        }
        joined.extend_from_slice(&std::mem::take(&mut first));
        joined.extend_from_slice(&data);
    }
    let bytes = if joined.is_empty() { first } else { Bytes::from(joined) };
    share.shrink_to(bytes.len());
    Ok(Read { bytes, _share: share })
}

/// A body, and the account of its client's time.
struct Arriving {
    body: Body,
    ledger: Ledger,
    pace: Pace,
}

impl Arriving {
    fn new(body: Body, pace: Pace) -> Self {
        Self { body, ledger: Ledger::default(), pace }
    }

    /// The next bytes; trailers are skipped.
    async fn next(&mut self, limit: BodyLimit) -> Result<Option<Bytes>, Problem> {
        loop {
            let asked = Instant::now();
            let frame = tokio::time::timeout(self.ledger.left(self.pace), self.body.frame()).await;
            let Ok(frame) = frame else {
                let (rate, behind) = (self.pace.bytes_per_s, self.pace.behind_max.as_secs());
                let how =
                    format!("at {rate} bytes per second (option rate_min) but {behind} s late");
                return Err(too_slow(limit, &how));
            };
            self.ledger.pass(asked.elapsed());
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|error| {
                Problem::bad_request(format!("the body broke off: {error}; nothing was written"))
            })?;
            // Trailers are no data.
            let Ok(data) = frame.into_data() else { continue };
            if !data.is_empty() {
                self.ledger.moved(u64::try_from(data.len()).unwrap_or(u64::MAX), self.pace);
                return Ok(Some(data));
            }
        }
    }
}

fn too_slow(limit: BodyLimit, how: &str) -> Problem {
    let detail = format!("the {} did not arrive {how}; nothing was written", limit.what);
    let kind = ("body-timeout", "Body came too slowly");
    Problem::new(StatusCode::REQUEST_TIMEOUT, kind, detail)
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
    use crate::api::rejected::Rejected;
    use crate::budget::tests::budget;
    use futures_util::stream;
    use std::convert::Infallible;

    const LIMIT: BodyLimit =
        BodyLimit { bytes_max: 10, time_max: Duration::from_mins(1), what: "value" };

    fn bodies(bytes_max: usize) -> Bodies {
        Bodies::new(budget(bytes_max, Rejected::BodyMemory), 1000)
    }

    fn chunks(chunks: &[&'static str]) -> Body {
        let owned: Vec<Result<&'static str, Infallible>> = chunks.iter().map(|c| Ok(*c)).collect();
        Body::from_stream(stream::iter(owned))
    }

    #[tokio::test]
    async fn bodies_up_to_the_limit_are_read_whole() {
        let bodies = bodies(100);
        for (body, want) in [
            (Body::empty(), &b""[..]),
            (Body::from("0123456789"), b"0123456789"),
            (chunks(&["01", "", "234", "56789"]), b"0123456789"),
        ] {
            assert_eq!(&*read(body, LIMIT, &bodies).await.unwrap().bytes, want);
        }
        assert_eq!(bodies.budget.held_bytes(), 0);
    }

    #[tokio::test]
    async fn one_byte_more_is_refused_with_the_limit() {
        let bodies = bodies(100);
        for body in [Body::from("0123456789a"), chunks(&["012345", "6789a", "b"])] {
            let problem = read(body, LIMIT, &bodies).await.unwrap_err();
            assert_eq!(problem.status, StatusCode::PAYLOAD_TOO_LARGE);
            assert!(problem.detail.contains("at most 10"), "{}", problem.detail);
        }
    }

    /// A body of `len` bytes that announces `announced` and then says nothing.
    struct Announced {
        bytes: Option<Bytes>,
        announced: u64,
    }

    impl hyper::body::Body for Announced {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            _cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
            match self.bytes.take() {
                Some(bytes) => std::task::Poll::Ready(Some(Ok(hyper::body::Frame::data(bytes)))),
                None => std::task::Poll::Pending,
            }
        }

        fn size_hint(&self) -> hyper::body::SizeHint {
            hyper::body::SizeHint::with_exact(self.announced)
        }
    }

    const LARGE: BodyLimit = BodyLimit { bytes_max: 16 << 20, ..LIMIT };

    fn large(len: usize) -> Body {
        let pieces: Vec<_> = vec![0_u8; len]
            .chunks(16 << 10)
            .map(|c| Ok::<_, Infallible>(Bytes::copy_from_slice(c)))
            .collect();
        Body::from_stream(stream::iter(pieces))
    }

    /// What is only announced holds nothing: sixteen clients that announced 16 MiB each and sent
    /// nothing used to take all of `body_memory` from the others.
    #[tokio::test(start_paused = true)]
    async fn what_is_announced_holds_nothing_and_what_arrived_holds_itself() {
        let bodies = bodies(1 << 20);
        let mut silent = Vec::new();
        for len in [0, 100, 300 << 10] {
            let body = Body::new(Announced {
                bytes: Some(Bytes::from(vec![0; len])),
                announced: 16 << 20,
            });
            silent.push(Box::pin(read(body, LARGE, &bodies)));
        }
        for silent in &mut silent {
            assert!(tokio::time::timeout(Duration::ZERO, silent.as_mut()).await.is_err());
        }
        let held = bodies.budget.held_bytes();
        assert!((300 << 10..=600 << 10).contains(&held), "{held}");
        let read_whole = read(large(400 << 10), LARGE, &bodies).await.unwrap();
        assert_eq!(bodies.budget.held_bytes(), held + (400 << 10));
        drop(read_whole);
        // They are told, and not after the whole time that a body may take.
        for silent in silent {
            let problem = silent.await.unwrap_err();
            assert_eq!(problem.status, StatusCode::REQUEST_TIMEOUT);
            assert!(problem.detail.contains("option rate_min"), "{}", problem.detail);
        }
        assert_eq!(bodies.budget.held_bytes(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn of_bodies_that_are_half_there_one_waits_and_the_others_make_room() {
        let bodies = bodies(1 << 20);
        let half = || {
            let pieces = (0..6).map(|_| Bytes::from(vec![0; 128 << 10]));
            let pieces = stream::iter(pieces.map(Ok::<_, Infallible>));
            let paced = futures_util::StreamExt::then(pieces, |piece| async {
                tokio::time::sleep(Duration::from_millis(10)).await;
                piece
            });
            Body::from_stream(paced)
        };
        let all = (0..4).map(|_| read(half(), LARGE, &bodies));
        let outcomes = futures_util::future::join_all(all.map(|reading| async {
            match reading.await {
                Ok(_read) => None,
                Err(problem) => Some(problem.stall.expect("it was refused for want of memory")),
            }
        }));
        let outcomes = outcomes.await;
        let whole = outcomes.iter().filter(|outcome| outcome.is_none()).count();
        assert!(whole >= 1, "{outcomes:?}");
        assert!(outcomes.iter().flatten().all(|stall| *stall == "body_memory"), "{outcomes:?}");
        assert_eq!(bodies.budget.held_bytes(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_times_out() {
        let bodies = Bodies::new(budget(100, Rejected::BodyMemory), 0);
        let body = Body::from_stream(stream::pending::<Result<&'static str, Infallible>>());
        let problem = read(body, LIMIT, &bodies).await.unwrap_err();
        assert_eq!(problem.status, StatusCode::REQUEST_TIMEOUT);
    }
}
