//! Miss ratios of cache policies under YCSB's exact request distribution.
//!
//! ```text
//! cargo run --release -p millpond-kvs --example cache_sim [-- FILTER ...]
//! FILTER: steady, warm, moving, scan, or a part of a policy's name; learning: that alone, minutes
//! ```
//!
//! Requests are drawn as YCSB's `ScrambledZipfian` draws them: a zipfian rank out of 10^10 (theta
//! 0.99), hashed by FNV-1a, modulo 8 M records. Caches hold as many entries as records of 1,164
//! bytes fit in 0.5, 1.0 and 1.5 GiB; entries are numbers, so a run takes seconds. `ideal` holds
//! the most probable records from the start and forever. The policy of the value cache is the real
//! file, so what is printed is what is built.
//!
//! It says nothing about time, memory or threads.
#![expect(clippy::print_stdout, reason = "a program that prints a table")]
#![allow(unreachable_pub, reason = "the files of the cache are included as they are")]

#[path = "../../src/cache/policy.rs"]
#[allow(dead_code, reason = "the simulation has no deletes and no shrinking")]
mod policy;
#[path = "../../src/cache/sketch.rs"]
#[allow(dead_code, reason = "the simulation has no deletes and no shrinking")]
mod sketch;

mod learning;
mod policies;

use policies::{Cache, caches};

const RECORDS: u32 = 8_000_000;
const RECORD_BYTES: usize = 1164;
const ITEMS: f64 = 1e10;
const ZETA: f64 = 26.469_028_201_783_02;
const THETA: f64 = 0.99;
/// Marks a request that is not counted.
const UNCOUNTED: u32 = 1 << 31;

/// YCSB's request stream, seeded.
struct Zipfian {
    state: u64,
    alpha: f64,
    eta: f64,
}

impl Zipfian {
    fn new(seed: u64) -> Self {
        let zeta2 = 1.0 + 0.5f64.powf(THETA);
        let eta = (1.0 - (2.0 / ITEMS).powf(1.0 - THETA)) / (1.0 - zeta2 / ZETA);
        Self { state: seed, alpha: 1.0 / (1.0 - THETA), eta }
    }

    #[expect(clippy::cast_precision_loss, reason = "53 bits are kept")]
    fn uniform(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "ranks are below 10^10"
    )]
    fn rank(&mut self) -> u64 {
        let u = self.uniform();
        let uz = u * ZETA;
        if uz < 1.0 {
            return 0;
        }
        if uz < 1.0 + 0.5f64.powf(THETA) {
            return 1;
        }
        (ITEMS * (self.eta * u - self.eta + 1.0).powf(self.alpha)) as u64
    }
}

fn fnv(mut n: u64) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for _ in 0..8 {
        hash ^= n & 0xff;
        hash = hash.wrapping_mul(1_099_511_628_211);
        n >>= 8;
    }
    hash.cast_signed().unsigned_abs()
}

fn key_of(rank: u64) -> u32 {
    u32::try_from(fnv(rank) % u64::from(RECORDS)).expect("below the number of records")
}

fn at(key: u32) -> usize {
    usize::try_from(key).expect("32 bits fit an address")
}

/// The most probable records. Ranks beyond the first 64 M hit every record alike.
fn ideal_order() -> Vec<u32> {
    let mut weight = vec![0.0f32; at(RECORDS)];
    for rank in 0..64_000_000_u32 {
        #[expect(clippy::cast_possible_truncation, reason = "an estimate")]
        let p = (f64::from(rank) + 1.0).powf(-THETA) as f32;
        weight[at(key_of(u64::from(rank)))] += p;
    }
    let mut keys: Vec<u32> = (0..RECORDS).collect();
    keys.sort_unstable_by(|&a, &b| weight[at(b)].total_cmp(&weight[at(a)]));
    keys
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Trial {
    /// 30 M requests to warm up, 10 M counted. So are the trials below.
    Steady,
    /// From empty: requests 0-2 M, 2-5 M, 5-10 M counted.
    Warm,
    /// The hot set moves by one record every 40 requests.
    Moving,
    /// One request in four belongs to a scan over all records that enters the cache; only the
    /// others count.
    Scan,
}

/// The requests of a trial; those that do not count have the top bit set.
fn requests(trial: Trial) -> Vec<u32> {
    let mut zipfian = Zipfian::new(1);
    let counted = if trial == Trial::Warm { 10_000_000 } else { 40_000_000_u32 };
    let mut requests = Vec::with_capacity(at(counted));
    for n in 0..counted {
        let key = key_of(zipfian.rank());
        let moved = if trial == Trial::Moving { n / 20_000 * 500 } else { 0 };
        requests.push((key + moved) % RECORDS);
        if trial == Trial::Scan && n % 3 == 0 {
            requests.push(UNCOUNTED | (n / 3 % RECORDS));
        }
    }
    requests
}

fn misses(cache: &mut dyn Cache, requests: &[u32]) -> f64 {
    let (mut misses, mut counted) = (0, 0);
    for &request in requests {
        let miss = !cache.access(request & !UNCOUNTED);
        if request & UNCOUNTED == 0 {
            counted += 1;
            misses += u32::from(miss);
        }
    }
    f64::from(misses) / f64::from(counted)
}

fn measure(cache: &mut dyn Cache, trial: Trial, requests: &[u32]) -> Vec<f64> {
    if trial == Trial::Warm {
        let parts = [0..2_000_000, 2_000_000..5_000_000, 5_000_000..10_000_000];
        return parts.map(|part| misses(cache, &requests[part])).to_vec();
    }
    let (warm_up, rest) = requests.split_at(requests.len() / 4 * 3);
    misses(cache, warm_up);
    vec![misses(cache, rest)]
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).map(|arg| arg.to_lowercase()).collect();
    let trials = [Trial::Steady, Trial::Warm, Trial::Moving, Trial::Scan];
    let is_wanted = |name: &str| wanted.iter().any(|wanted| name.to_lowercase().contains(wanted));
    let any_trial = !trials.iter().any(|trial| is_wanted(&format!("{trial:?}")));
    let sizes = [1usize << 29, 1 << 30, 3 << 29].map(|bytes| bytes / RECORD_BYTES);
    if wanted.iter().any(|wanted| wanted == "learning") {
        print_learning(sizes);
        return;
    }
    let names: Vec<_> = caches(&[], 64).iter().map(|cache| cache.name()).collect();
    let any_name = !names.iter().any(|name| is_wanted(name));
    let order = if any_name || is_wanted("ideal LFU") { ideal_order() } else { Vec::new() };
    for trial in trials {
        if !any_trial && !is_wanted(&format!("{trial:?}")) {
            continue;
        }
        let requests = requests(trial);
        println!("{trial:?}: miss ratio with 0.5, 1.0, 1.5 GiB");
        for (which, name) in names.iter().enumerate() {
            if !any_name && !is_wanted(name) {
                continue;
            }
            let row = sizes.map(|entries| {
                let mut cache = caches(&order, entries).swap_remove(which);
                let cells = measure(&mut *cache, trial, &requests);
                cells.iter().map(|cell| format!("{cell:.3}")).collect::<Vec<_>>().join(" ")
            });
            println!("  {name:12}  {}", row.join("   "));
        }
    }
}

fn print_learning(sizes: [usize; 3]) {
    println!("Learning: miss ratio with 0.5, 1.0, 1.5 GiB after so many million requests");
    let columns = sizes.map(learning::learning);
    for look in 0..columns[0].len() {
        let rows = columns.each_ref().map(|column| &column[look]);
        let print = |name, ratio: fn(&learning::Row) -> f64| {
            let cells = rows.map(|row| format!("{:.3}", ratio(row))).join("   ");
            println!("  {:>3} M  {name:12}  {cells}", rows[0].millions);
        };
        print("counting all", |row| row.counting_all);
        print("value cache", |row| row.value_cache);
    }
}
