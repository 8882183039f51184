//! Cost of the memtable's parts: nanoseconds an insert, a hit and a miss, with one and two threads.
//!
//! `cargo run --release -p millpond-kvs --example memtable_bench [ENTRIES] [VALUE_BYTES]`
//!
//! Includes the engine's own files, because the memtable is not public. Entries are inserted in the
//! order of a random permutation; hits and misses read keys of the same form.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "uses a part of the files it includes")]
#![allow(clippy::print_stdout, reason = "prints its result")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "small counts on a 64-bit machine"
)]

#[path = "../src/key.rs"]
mod key;
#[path = "../src/entry"]
mod entry {
    #[allow(dead_code, reason = "the memtable has no values elsewhere")]
    #[path = "op.rs"]
    pub mod op;
}
#[path = "../src/memtable"]
mod memtable {
    #[path = "arena.rs"]
    pub mod arena;
    #[path = "filter.rs"]
    pub mod filter;
    #[path = "skiplist.rs"]
    pub mod skiplist;

    use crate::entry::op::Op;
    use crate::key::{KvsId, Revision, key_hash};

    pub struct Parts {
        list: skiplist::SkipList,
        filter: filter::Filter,
    }

    impl Parts {
        pub fn new(bytes_hint: usize) -> Self {
            Self { list: skiplist::SkipList::new(), filter: filter::Filter::new(bytes_hint) }
        }

        pub fn insert(&self, key: &[u8], revision: u64, value: &[u8]) {
            let kvs = KvsId::new(1);
            let hash = key_hash(kvs, key);
            self.filter.add(hash);
            let zeros = (hash.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32 | 1 << 22).trailing_zeros();
            let height = 1 + zeros as usize / 2;
            let position = skiplist::Position::new(kvs, key, Revision::new(revision));
            self.list.insert(&position, height, Op::Inline(value));
        }

        pub fn get(&self, key: &[u8]) -> Option<usize> {
            let kvs = KvsId::new(1);
            if !self.filter.may_contain(key_hash(kvs, key)) {
                return None;
            }
            let position = skiplist::Position::new(kvs, key, Revision::MAX);
            let entry = self.list.first_from(&position).filter(|e| e.is_key_of(&position))?;
            entry.op().value().map(<[u8]>::len)
        }
    }
}

use memtable::Parts;
use std::hint::black_box;
use std::io::Write as _;
use std::time::Instant;

/// A key as the YCSB generators make them: the number's hash in decimal.
fn key(buffer: &mut Vec<u8>, number: u64) -> &[u8] {
    buffer.clear();
    let hash = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ number << 7;
    write!(buffer, "user{hash:020}").expect("memory");
    buffer
}

/// Nanoseconds a call of `each`, over all numbers below `count` shared by `threads`.
fn time(threads: u64, count: u64, each: impl Fn(&[u8], u64) + Sync) -> f64 {
    let keys: Vec<Vec<u8>> = (0..count).map(|n| key(&mut Vec::new(), n).to_vec()).collect();
    let start = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (keys, each) = (&keys, &each);
            scope.spawn(move || {
                for number in (thread..count).step_by(threads as usize) {
                    each(&keys[number as usize], number);
                }
            });
        }
    });
    start.elapsed().as_secs_f64() * 1e9 / count as f64 * threads as f64
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number =
        |default: u64| arguments.next().map_or(default, |text| text.parse().expect("a number"));
    let (count, value_bytes) = (number(60_000), number(1000));
    let value = vec![7_u8; value_bytes as usize];
    println!("{count} entries of {value_bytes} bytes; ns per call and thread");
    for threads in [1, 2] {
        let parts = Parts::new(64 << 20);
        let insert = time(threads, count, |key, at| parts.insert(key, at + 1, &value));
        let hit = time(threads, count, |key, _| {
            assert_eq!(black_box(parts.get(key)), Some(value.len()));
        });
        let miss = {
            let mut absent = Vec::new();
            (count..2 * count).for_each(|n| absent.push(key(&mut Vec::new(), n).to_vec()));
            time(threads, count, |_, at| {
                black_box(parts.get(&absent[at as usize]));
            })
        };
        println!("{threads} threads: insert {insert:.0}, hit {hit:.0}, miss {miss:.0}");
    }
}
