//! Compaction in time: what months of writing cost, and how far behind it falls.
//!
//! ```text
//! cargo run --release -p millpond-kvs --example compact_sim [-- FILTER ...]
//! FILTER: a part of a load's name; without one, all of them: some minutes
//! ```
//!
//! The picker and the rule by which writers wait are the real files, so what is printed is what
//! they decide. Around them everything is arithmetic: keys are numbers, each standing for `scale`
//! keys of the store; kvsets are lists of (key, where its value lies); a job takes as long as its
//! bytes take at the drive's rate, and its keys on a CPU. One thread flushes and one compacts, as
//! with `background_threads` 2. Writers go at the given rate, or as fast as they are let.
//!
//! | column | means |
//! |---|---|
//! | put | bytes of keys and values put |
//! | WA | bytes written over bytes put: log, flushes, compactions |
//! | RA | bytes that compactions read over bytes put |
//! | keys | how often compactions write a key, on average |
//! | most | bytes of kvsets over bytes that live: the highest after the load |
//! | end, quiet | the same when all that was due is done, and when a quiet store has tidied up |
//! | job s | longest job |
//! | wait s, slow s | how long writers stood still, and how long they were slowed down |
//! | root, leaf | most kvsets in the root, and in a leaf |
//! | scan | vblocks that the values of one leaf lie in, on average, at the end |
//!
//! It says nothing about caches, fragmentation or what readers take from the drive.
#![expect(clippy::print_stdout, reason = "a program that prints a table")]
#![allow(unreachable_pub, reason = "the files of the engine are included as they are")]

/// The ids of `kvs/src/key.rs`, which the picker's files import.
mod key {
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub(crate) struct KvsetId(u64);
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub(crate) struct NodeId(u64);

    impl KvsetId {
        pub(crate) const fn new(raw: u64) -> Self {
            Self(raw)
        }
    }

    impl NodeId {
        pub(crate) const ROOT: Self = Self(0);

        pub(crate) const fn new(raw: u64) -> Self {
            Self(raw)
        }
    }
}

mod debt {
    pub(crate) mod space {
        pub(crate) const OBJECT_BYTES_MAX: u64 = 32 << 20;
    }
}

mod clock;
mod loads;
#[path = "../../src/pick/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the simulation has no full volume and no damage")]
mod pick;
#[path = "../../src/debt/stall.rs"]
#[allow(dead_code, reason = "the simulation has no full volume")]
mod stall;
mod tree;

fn main() {
    let filters: Vec<String> = std::env::args().skip(1).collect();
    println!(
        "{:<34} {:>9} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6} {:>7} {:>7} {:>7} {:>5} {:>5} {:>7}",
        "load",
        "put GB",
        "WA",
        "RA",
        "keys",
        "most",
        "end",
        "quiet",
        "job s",
        "wait s",
        "slow s",
        "root",
        "leaf",
        "scan"
    );
    for load in loads::all() {
        if filters.is_empty() || filters.iter().any(|filter| load.name.contains(filter.as_str())) {
            println!("{}", clock::run(&load));
        }
    }
}
