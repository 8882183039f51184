//! Background threads stand behind the threads that read and write.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

mod support;

use kvs::Options;
use mpool_sim::SimDevice;
use std::{fs, io};

/// What `nice` says of each thread of this process with a name that begins so.
fn nice_of(name: &str) -> Vec<i32> {
    let nice = |dir: io::Result<fs::DirEntry>| {
        // A thread may end meanwhile.
        let stat = fs::read_to_string(dir.ok()?.path().join("stat")).ok()?;
        let (start, rest) = stat.rsplit_once(')')?;
        let (_, comm) = start.split_once('(')?;
        // The 19th field; the third is the first after the name.
        comm.starts_with(name).then(|| rest.split_whitespace().nth(16)?.parse().ok())?
    };
    fs::read_dir("/proc/self/task").unwrap().filter_map(nice).collect()
}

#[test]
fn background_threads_have_the_priority_that_was_asked_for() {
    let own = nice_of(&fs::read_to_string("/proc/thread-self/comm").unwrap().trim()[..8]);
    for background_nice in [7, 0] {
        let options = Options { background_threads: 2, background_nice, ..support::options() };
        let device = SimDevice::new(256 << 20);
        let db = support::create(&device, &options).unwrap();
        let kvs = db.kvs("k").unwrap();
        let expect = (own[0] + i32::from(background_nice)).min(19);
        // A worker has it before it takes its first job, which may be one of the next.
        let has_it = (0..1000).any(|_| {
            kvs.put(b"key", b"value", kvs::Durability::Off).unwrap();
            db.flush().unwrap();
            nice_of("db-work-").contains(&expect)
        });
        assert!(has_it, "{:?}, {expect} expected", nice_of("db-work-"));
        db.close().unwrap();
    }
}

#[test]
fn a_priority_that_there_is_not_is_refused() {
    let options = Options { background_nice: 20, ..support::options() };
    let refused = support::create(&SimDevice::new(256 << 20), &options).err();
    let error = refused.expect("out of its range").to_string();
    assert!(error.contains("background_nice") && error.contains("0..=19"), "{error}");
}
