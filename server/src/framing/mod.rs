//! What the HTTP library takes from a request without a word, seen in the bytes as they come.
//!
//! The library cuts a target at its `#`, so that `PUT /v1/kv/default/a#1` would write `a`; and of
//! a `Content-Length` beside a `Transfer-Encoding` it shows neither that it was there nor what it
//! said. Neither can be asked for afterwards. So a [`Follower`] reads along, in the same task and
//! before the library sees the bytes: it finds the heads by the rules of HTTP/1.1 (`http1.rs`) or
//! HTTP/2 (`http2.rs`), and leaves in [`Heads`] what it finds wrong with one. Who answers a request
//! asks there, and refuses it.
//!
//! Of HTTP/1.1 it keeps a few hundred bytes of an unfinished line, of HTTP/2 an unfinished header
//! block, and lets everything pass. Where it loses the thread (the library does, too, and ends the
//! connection), every request from that place on is refused, so that a head it could not see is
//! never carried out; those before it are whole, and are.
//!
//! Nobody else sees a head that has begun and not ended. So the follower counts its bytes, which
//! lie in the library's buffers, in the budget for heads; what becomes of one that finds no room is
//! [`gate`]'s to say.

pub mod gate;
mod http1;
mod http2;
mod line;

use crate::api::problem::Problem;
use crate::budget::{Budget, Share, UNCOUNTED_BYTES};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What is wrong with a head that the library shows as if nothing were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Hidden {
    /// The target has a fragment.
    #[error(
        "the request target has a `#`, and whatever follows it would be left out; nothing was \
         done: write it as %23 where it belongs to a key, or leave it out"
    )]
    Fragment,
    /// The length of the body is given in two ways.
    #[error(
        "content-length and transfer-encoding are both given, which leaves open where the body \
         ends; nothing was done: send one of them"
    )]
    TwoLengths,
    /// Something before it was not HTTP.
    #[error(
        "something that came before on this connection could not be read as HTTP; nothing was \
         done: send the request on another connection"
    )]
    Unclear,
}

/// Targets with a `#` that are kept of one HTTP/2 connection; with one more all requests count.
const CUT_MAX: usize = 64;

/// What was found wrong on one connection.
///
/// All accesses to the numbers are `Relaxed`: the follower and the library run in one task.
#[derive(Debug, Default)]
pub struct Heads {
    /// Requests that were asked about.
    asked: AtomicU64,
    /// Whether there is anything in `wrong`.
    any: AtomicBool,
    wrong: Mutex<Wrong>,
    /// A head that had begun found no room, and the connection ends.
    turned_away: AtomicBool,
}

#[derive(Debug, Default)]
struct Wrong {
    /// By the number of the request, from 0: HTTP/1 requests come in order.
    numbered: Vec<(u64, Hidden)>,
    /// What the library has left of targets with a `#`: HTTP/2 streams have no order that the one
    /// who answers could see, so that every later request for the same is refused.
    cut: Vec<Box<[u8]>>,
    /// Of every request from that number on.
    all: Option<(u64, Hidden)>,
}

impl Heads {
    /// What is wrong with the next request, which the library shows with this target.
    pub fn next(&self, shown: &str) -> Option<Hidden> {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        let wrong = self.wrong.lock();
        let numbered = wrong.numbered.iter().find(|(wrong, _)| *wrong == number);
        let cut = wrong.cut.iter().any(|left| **left == *shown.as_bytes());
        let all = wrong.all.filter(|(from, _)| *from <= number).map(|(_, hidden)| hidden);
        numbered.map(|(_, hidden)| *hidden).or(cut.then_some(Hidden::Fragment)).or(all)
    }

    /// Whether the connection ends because a head that had begun found no room.
    pub fn turned_away(&self) -> bool {
        self.turned_away.load(Ordering::Relaxed)
    }

    fn note(&self, note: impl FnOnce(&mut Wrong)) {
        let mut wrong = self.wrong.lock();
        note(&mut wrong);
        self.any.store(true, Ordering::Relaxed);
    }

    fn note_request(&self, number: u64, hidden: Hidden) {
        let asked = self.asked.load(Ordering::Relaxed);
        self.note(|wrong| {
            wrong.numbered.retain(|(old, _)| *old >= asked);
            wrong.numbered.push((number, hidden));
        });
    }

    fn note_cut(&self, left: &[u8]) {
        // As the library shows an empty path.
        let left = if left.is_empty() { b"/" } else { left };
        self.note(|wrong| {
            if wrong.cut.len() == CUT_MAX {
                wrong.all = Some((0, Hidden::Fragment));
            } else {
                wrong.cut.push(left.into());
            }
        });
    }

    fn note_lost(&self, from: u64) {
        self.note(|wrong| wrong.all = Some((from, Hidden::Unclear)));
    }
}

/// Reads along on one connection.
pub struct Follower {
    heads: Arc<Heads>,
    limits: FollowLimits,
    speaks: Speaks,
    budget: Budget,
    /// Of the head that has begun.
    share: Share,
    is_short: bool,
}

/// What the library takes of a head; beyond it, it ends the connection.
#[derive(Clone, Copy, Debug)]
pub struct FollowLimits {
    /// Most bytes.
    pub bytes_max: usize,
    /// Most header fields.
    pub fields_max: usize,
}

enum Speaks {
    /// Up to the first byte that HTTP/2's preface does not have; how much of it has come.
    Unknown(usize),
    Http1(http1::Stream),
    Http2(http2::Stream),
    /// Nothing is looked at any more; bytes that the library may keep until it ends the connection.
    Lost(usize),
}

/// A stream could not be followed.
struct Lost;

impl Follower {
    /// Of a new connection; leaves what it finds in `heads`.
    pub fn new(heads: Arc<Heads>, limits: FollowLimits, budget: Budget) -> Self {
        let (speaks, share) = (Speaks::Unknown(0), Share::default());
        Self { heads, limits, speaks, budget, share, is_short: false }
    }

    /// The next bytes of the connection.
    pub fn see(&mut self, bytes: &[u8]) {
        self.follow(bytes);
        self.is_short = self.grow().is_err();
    }

    /// Whether the head that has begun found no room when its last bytes came.
    fn is_short(&self) -> bool {
        self.is_short
    }

    /// Room for the head that has begun, if there is any.
    fn make_room(&mut self) -> Result<(), Problem> {
        let outcome = self.grow();
        self.is_short = outcome.is_err();
        self.heads.turned_away.store(self.is_short, Ordering::Relaxed);
        outcome
    }

    fn grow(&mut self) -> Result<(), Problem> {
        let need = self.unfinished_memory();
        if need > self.share.bytes() {
            return self.budget.try_grow(&mut self.share, need);
        }
        self.share.shrink_to(need);
        Ok(())
    }

    /// Memory that the head which has begun takes in the library, and here. The library's buffers
    /// double as they grow. Of a header block that goes on in another frame, as hardly any does,
    /// nothing tells how much more it is once it is decoded; it counts as the largest.
    fn unfinished_memory(&self) -> usize {
        let bytes = match &self.speaks {
            Speaks::Unknown(_) => 0,
            Speaks::Lost(bytes) => *bytes,
            Speaks::Http1(stream) => stream.unfinished_bytes(),
            Speaks::Http2(stream) if stream.is_block_open() => {
                stream.unfinished_bytes().max(self.limits.bytes_max)
            }
            Speaks::Http2(stream) => stream.unfinished_bytes(),
        };
        if bytes <= UNCOUNTED_BYTES { 0 } else { 2 * bytes.next_power_of_two() }
    }

    fn speaks_http2(&self) -> bool {
        matches!(self.speaks, Speaks::Http2(_))
    }

    /// Whether a trailer of HTTP/1 has begun and not ended.
    fn is_in_trailer(&self) -> bool {
        matches!(&self.speaks, Speaks::Http1(stream) if stream.is_in_trailer())
    }

    /// Whether a header block of HTTP/2 has begun and not ended.
    fn is_block_open(&self) -> bool {
        matches!(&self.speaks, Speaks::Http2(stream) if stream.is_block_open())
    }

    fn follow(&mut self, bytes: &[u8]) {
        let followed = match &mut self.speaks {
            Speaks::Unknown(seen) => {
                let seen = *seen;
                return self.begin(seen, bytes);
            }
            Speaks::Http1(stream) => stream.see(bytes, &self.heads),
            Speaks::Http2(stream) => stream.see(bytes, &self.heads),
            Speaks::Lost(kept) => {
                *kept = (*kept + bytes.len()).min(self.limits.bytes_max);
                return;
            }
        };
        if let Err(Lost) = followed {
            let (from, before) = match &self.speaks {
                Speaks::Http1(stream) => (stream.request_here(), stream.unfinished_bytes()),
                _ => (0, 0),
            };
            self.heads.note_lost(from);
            self.speaks = Speaks::Lost(before.max(bytes.len()).min(self.limits.bytes_max));
        }
    }

    fn begin(&mut self, seen: usize, bytes: &[u8]) {
        let expected = &http2::PREFACE[seen..];
        let same = expected.iter().zip(bytes).take_while(|(want, got)| want == got).count();
        if same == expected.len() {
            self.speaks = Speaks::Http2(http2::Stream::new());
            self.follow(&bytes[same..]);
        } else if same == bytes.len() {
            self.speaks = Speaks::Unknown(seen + same);
        } else {
            self.speaks = Speaks::Http1(http1::Stream::new(self.limits));
            self.follow(&http2::PREFACE[..seen]);
            self.follow(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::rejected::Rejected;
    use crate::budget::tests::budget;
    use loona_hpack::Encoder;
    use proptest::prelude::*;

    const LIMITS: FollowLimits = FollowLimits { bytes_max: 8 << 10, fields_max: 100 };

    /// What is wrong with each request of a stream of `count`, that comes in pieces of `step`.
    fn follow(stream: &[u8], count: usize, step: usize) -> Vec<Option<Hidden>> {
        let heads = Arc::new(Heads::default());
        let budget = budget(1 << 20, Rejected::HeadMemory);
        let mut follower = Follower::new(Arc::clone(&heads), LIMITS, budget);
        for piece in stream.chunks(step) {
            follower.see(piece);
        }
        (0..count).map(|_| heads.next("/")).collect()
    }

    fn always(stream: &[u8], want: &[Option<Hidden>]) {
        for step in [1, 2, 3, 7, stream.len()] {
            let shown = String::from_utf8_lossy(stream);
            assert_eq!(follow(stream, want.len(), step), want, "steps of {step}: {shown}");
        }
    }

    const FRAGMENT: Option<Hidden> = Some(Hidden::Fragment);
    const UNCLEAR: Option<Hidden> = Some(Hidden::Unclear);

    #[test]
    fn a_fragment_is_found_wherever_its_head_stands() {
        always(b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n", &[None, None]);
        always(b"GET /a#1 HTTP/1.1\r\nhost: x\r\n\r\n", &[FRAGMENT, None]);
        always(b"P /a?b#1 HTTP/1.1\n\nP /a HTTP/1.1\n\n", &[FRAGMENT, None]);
        always(b"\r\nPRI /# HTTP/1.1\r\n\r\n", &[FRAGMENT]);
        let body = b"PUT /a HTTP/1.1\r\ncontent-length: 28\r\n\r\n\
                     GET /#1 HTTP/1.1\r\nhost: x\r\n\
                     GET /#2 HTTP/1.0\r\n\r\nGET /3 HTTP/1.1\r\n\r\n";
        always(body, &[None, FRAGMENT, None]);
        let chunked =
            b"PUT /a HTTP/1.1\r\nTransfer-Encoding: gzip\r\ntransfer-encoding: Chunked\r\n\r\n\
                        10;n=v\r\n#GET /# HTTP/1.1\r\n5 \r\n\r\n#\r\n\r\n0\r\nx: #\r\n\r\n\
                        GET /#2 HTTP/1.1\r\n\r\n";
        always(chunked, &[None, FRAGMENT, None]);
    }

    /// Heads that never ended were in no budget: 3,000 of 60 KB took 400 MiB.
    #[test]
    fn a_head_that_has_begun_counts_until_it_ends() {
        let budget = budget(256 << 10, Rejected::HeadMemory);
        let limits = FollowLimits { bytes_max: 64 << 10, fields_max: 100 };
        let follower = || Follower::new(Arc::default(), limits, budget.clone());
        let begun = format!("GET / HTTP/1.1\r\nx: {}", "a".repeat(60_000));
        let mut first = follower();
        first.see(&begun.as_bytes()[..4000]);
        assert_eq!(budget.held_bytes(), 0, "as large as usual heads");
        first.see(&begun.as_bytes()[4000..]);
        assert_eq!((budget.held_bytes(), first.is_short()), (128 << 10, false));
        let mut second = follower();
        second.see(begun.as_bytes());
        let mut third = follower();
        third.see(begun.as_bytes());
        assert!(third.is_short() && !second.is_short());
        let refusal = third.make_room().unwrap_err();
        assert!(third.heads.turned_away());
        assert_eq!((refusal.status.as_u16(), refusal.stall), (503, Some("head_memory")));
        assert!(refusal.detail.contains("option head_memory"), "{}", refusal.detail);
        // Its end, with the body and the beginning of another.
        first.see(b"\r\ncontent-length: 5\r\n\r\nhelloGET /");
        assert_eq!(budget.held_bytes(), 128 << 10);
        assert!(third.make_room().is_ok() && !third.heads.turned_away());
        drop((second, third));
        assert_eq!(budget.held_bytes(), 0);
    }

    /// Blank lines before a head counted as nothing: 9,500 connections of them took 670 MiB.
    #[test]
    fn whatever_the_library_keeps_counts() {
        let limits = FollowLimits { bytes_max: 64 << 10, fields_max: 100 };
        let put = "PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n";
        for (bytes, what) in [
            ("\r\n".repeat(32_700), "blank lines"),
            ("\n".repeat(64_000), "blank lines"),
            (format!("{put}x: {}", "a".repeat(12_000)), "a trailer"),
            (format!("rubbish\n{}", "a".repeat(60_000)), "what cannot be followed"),
        ] {
            for step in [1000, bytes.len()] {
                let budget = budget(1 << 20, Rejected::HeadMemory);
                let mut follower = Follower::new(Arc::default(), limits, budget.clone());
                bytes.as_bytes().chunks(step).for_each(|piece| follower.see(piece));
                let (held, len) = (budget.held_bytes(), bytes.len());
                assert!(held >= len.min(64 << 10), "{held} for {len} bytes of {what}");
            }
        }
    }

    #[test]
    fn a_few_blank_lines_stand_before_a_head_and_no_more() {
        let before = |count| format!("{}GET /a HTTP/1.1\r\n\r\n", "\r\n".repeat(count));
        let twice = [before(8), before(8)].concat();
        always(twice.as_bytes(), &[None, None]);
        let then = [before(0), before(9), before(0)].concat();
        always(then.as_bytes(), &[None, UNCLEAR, UNCLEAR]);
    }

    /// They were refused as well when they came in one packet with the rubbish.
    #[test]
    fn whole_requests_before_rubbish_are_carried_out() {
        let put = "PUT /a HTTP/1.1\r\ncontent-length: 1\r\n\r\n#";
        let chunked = "PUT /a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
        always(format!("{put}{put}rubbish\r\n\r\n{put}").as_bytes(), &[None, None, UNCLEAR]);
        always(format!("{put}{chunked}x\r\n").as_bytes(), &[None, UNCLEAR, UNCLEAR]);
    }

    #[test]
    fn a_header_block_that_goes_on_counts_as_the_largest() {
        let budget = budget(1 << 20, Rejected::HeadMemory);
        let limits = FollowLimits { bytes_max: 64 << 10, fields_max: 100 };
        let mut follower = Follower::new(Arc::default(), limits, budget.clone());
        let block = Encoder::new().encode([(&b":path"[..], &b"/"[..])]);
        let frame = |kind: u8, flags: u8| {
            let len = u8::try_from(block.len()).unwrap();
            [&[0, 0, len, kind, flags, 0, 0, 0, 1], &block[..]].concat()
        };
        follower.see(http2::PREFACE);
        follower.see(&frame(1, 4));
        assert!(!follower.is_block_open() && budget.held_bytes() == 0);
        follower.see(&frame(1, 0));
        assert!(follower.is_block_open() && budget.held_bytes() == 128 << 10);
        follower.see(&frame(9, 4));
        assert!(!follower.is_block_open() && budget.held_bytes() == 0);
    }

    #[test]
    fn two_lengths_are_found() {
        let stream = b"PUT /a HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n\
                       1\r\n#\r\n0\r\n\r\nGET /a HTTP/1.1\r\n\r\n";
        always(stream, &[Some(Hidden::TwoLengths), None]);
    }

    #[test]
    fn what_cannot_be_followed_is_refused_from_there_on() {
        for lost in [
            &b"GET /a\r\n\r\nGET /a HTTP/1.1\r\n\r\n"[..],
            b"PUT /a HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            b"PUT /a HTTP/1.1\r\ncontent-length: +1\r\n\r\n",
            b"PUT /a HTTP/1.1\r\ntransfer-encoding: chunked, gzip\r\n\r\n",
            b"PUT /a HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n",
        ] {
            always(lost, &[UNCLEAR, UNCLEAR]);
        }
        let chunks = |chunks: &str| {
            format!("PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n{chunks}").into_bytes()
        };
        for wrong in ["x\r\n", "1\r\n#x\r\n", "1\r\n##\r\n", "1\n#\r\n", "\r\n", "1;a\nb\r\n"] {
            always(&chunks(wrong), &[UNCLEAR]);
        }
        let long = format!("GET /a HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(9 << 10));
        assert_eq!(follow(long.as_bytes(), 1, 100), [UNCLEAR]);
        let many = format!("GET /a HTTP/1.1\r\n{}\r\n", "x: 1\r\n".repeat(101));
        assert_eq!(follow(many.as_bytes(), 1, 100), [UNCLEAR]);
    }

    proptest! {
        #[test]
        fn requests_in_any_pieces_are_followed(
            requests in prop::collection::vec(
                (any::<bool>(), 0..3_u8, prop::collection::vec(any::<u8>(), 0..40)),
                1..6,
            ),
            step in 1..80_usize,
        ) {
            let mut stream = Vec::new();
            for (fragment, kind, body) in &requests {
                let target = if *fragment { "/a#b" } else { "/a" };
                stream.extend_from_slice(format!("PUT {target} HTTP/1.1\r\nhost: x\r\n").as_bytes());
                match kind {
                    0 => stream.extend_from_slice(b"\r\n"),
                    1 => {
                        let length = format!("content-length: {}\r\n\r\n", body.len());
                        stream.extend_from_slice(length.as_bytes());
                        stream.extend_from_slice(body);
                    }
                    _ => {
                        stream.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
                        for chunk in body.chunks(9) {
                            stream.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                            stream.extend_from_slice(chunk);
                            stream.extend_from_slice(b"\r\n");
                        }
                        stream.extend_from_slice(b"0\r\n\r\n");
                    }
                }
            }
            let want = |(fragment, ..): &(bool, u8, Vec<u8>)| fragment.then_some(Hidden::Fragment);
            let want: Vec<_> = requests.iter().map(want).collect();
            prop_assert_eq!(follow(&stream, want.len(), step), want);
        }

        #[test]
        fn no_bytes_panic(
            http2 in any::<bool>(),
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            step in 1..50_usize,
        ) {
            let preface: &[u8] = if http2 { http2::PREFACE } else { b"" };
            follow(&[preface, &bytes].concat(), 3, step);
        }
    }
}
