//! What is deleted in runs, and what holds it all the same, against a model.
//!
//! Keys are numbered. They are put and deleted one by one and in runs: at the tail and at the head,
//! as a queue does, and in the middle. Beside that snapshots and cursors are held for long, and go
//! on over whatever flushes, compactions, joins and give-backs do below; compactions are asked for
//! and cancelled; a database is closed, or its power cut; and on a small volume puts are refused
//! until deletes have made room. None of it may change what anybody sees.
//!
//! `MILLPOND_SEED=<seed> cargo test -p millpond-kvs --test churn` replays a seed;
//! `MILLPOND_CHURN_SECONDS=<seconds>` makes each test go on with seeds of its own for so long.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and prints its seed"
)]

#[path = "../support/mod.rs"]
mod support;
mod user;

use kvs::Options;
use mpool::ReturnOptions;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use user::Churn;

const MIB: u64 = 1 << 20;
/// Seeds that a run of some time begins with; they have more steps.
const SEEDS_OF_TIME: u64 = 1 << 32;

/// What a database is like, and how it is used.
#[derive(Clone, Copy, Debug)]
struct Course {
    volume_bytes: u64,
    keys: u64,
    /// The longest run that is put.
    run: u64,
    /// The longest value, and the shortest of those that are not short.
    value_bytes_max: u64,
    value_bytes_min: u64,
    inline_bytes_max: u64,
    threads: u64,
    /// Power cuts, beside closes in order.
    crashes: bool,
}

const SMALL: Course = Course {
    volume_bytes: 1024 * MIB,
    keys: 3000,
    run: 150,
    value_bytes_max: 3000,
    value_bytes_min: 0,
    inline_bytes_max: 256,
    threads: 0,
    crashes: false,
};

/// What has been done.
#[derive(Debug, Default)]
struct Counts {
    /// Keys written, read and walked over.
    operations: u64,
    refused: u64,
    /// Compactions by what they do.
    jobs: BTreeMap<String, f64>,
}

fn key(n: u64) -> Vec<u8> {
    let mut key = format!("k{n:06}").into_bytes();
    if n.is_multiple_of(97) {
        key.resize(500, b'x');
    }
    key
}

fn value(put: u64, len: usize) -> Vec<u8> {
    let mut value = vec![put.to_le_bytes()[0]; len];
    let stamp = len.min(8);
    value[..stamp].copy_from_slice(&put.to_le_bytes()[..stamp]);
    value
}

fn options(course: Course) -> Options {
    let mut options = Options {
        inline_bytes_max: course.inline_bytes_max,
        background_threads: course.threads,
        ..support::options()
    };
    options.pool.returning = Some(ReturnOptions { after_s: 0, bytes_per_second: 1 << 30 });
    options.pool.background = course.threads > 0;
    options
}

fn run(seed: u64, steps: u64, course: Course) -> Counts {
    println!("replay: MILLPOND_SEED={seed}  # {course:?}");
    let mut churn = Churn::new(seed, course);
    for _ in 0..steps {
        churn.step();
    }
    churn.end_asked();
    churn.check_all();
    churn.reopen();
    churn.check_all();
    churn.counts
}

fn runs(first: u64, seeds: u64, steps: u64, course: Course) -> Counts {
    let mut counts = Counts::default();
    let mut add = |seed: u64, steps: u64| {
        let steps = if seed >= SEEDS_OF_TIME { 4 * steps } else { steps };
        let of_run = run(seed, steps, course);
        counts.operations += of_run.operations;
        counts.refused += of_run.refused;
        for (action, count) in of_run.jobs {
            *counts.jobs.entry(action).or_default() += count;
        }
    };
    if let Ok(seconds) = std::env::var("MILLPOND_CHURN_SECONDS") {
        let time = Duration::from_secs(seconds.parse().expect("seconds"));
        let begun = Instant::now();
        for seed in (SEEDS_OF_TIME + first..).take_while(|_| begun.elapsed() < time) {
            add(seed, steps);
        }
    } else {
        for seed in support::seeds(first..first + seeds) {
            add(seed, steps);
        }
    }
    println!("{counts:?}");
    counts
}

#[test]
fn runs_of_deletes_change_nothing_that_others_see() {
    runs(1000, 2, 400, SMALL);
}

#[test]
fn nor_beside_threads() {
    runs(2000, 1, 400, Course { threads: 3, ..SMALL });
}

/// Keys and values in the index, so that leaves are split, joined and moved to.
#[test]
fn nor_while_leaves_come_and_go() {
    let course = Course {
        volume_bytes: 128 * MIB,
        keys: 12_000,
        run: 1200,
        value_bytes_min: 800,
        value_bytes_max: 1000,
        inline_bytes_max: 1024,
        ..SMALL
    };
    let Counts { jobs, .. } = runs(3000, 2, 600, course);
    for action in ["split", "join", "move"] {
        assert!(jobs[action] > 0.5, "{action}: {jobs:?}");
    }
}

#[test]
fn nor_over_power_cuts() {
    runs(4000, 1, 400, Course { crashes: true, ..SMALL });
    runs(4100, 1, 300, Course { crashes: true, threads: 2, ..SMALL });
}

#[test]
fn nor_on_a_volume_that_is_full() {
    let course = Course { volume_bytes: 56 * MIB, value_bytes_max: 60_000, ..SMALL };
    assert!(runs(5000, 1, 400, course).refused > 0, "the volume was never full");
    runs(5100, 1, 40, Course { crashes: true, threads: 2, ..course });
}
