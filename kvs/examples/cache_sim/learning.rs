//! How near to the ideal a cache can be after so many requests.
//!
//! Records are alike until they are asked for, so the best guess at the most probable ones is those
//! that were asked for most. A cache that counts every request to every record, forgets nothing and
//! always holds the records with the highest counts is the best that anybody can build who has seen
//! these requests and no others. What lies between it and the ideal cannot be had; what lies
//! between it and the value cache is the policy's to gain.

use super::policies::{Built, Cache};
use super::{RECORDS, Zipfian, at, key_of};

/// After how many millions of requests it looks.
const MILLIONS: [u32; 6] = [3, 10, 30, 60, 100, 200];
/// Requests that one look is measured by: the last ones before it for the value cache, further ones
/// for the counts.
const PROBES: u32 = 1_000_000;

/// Miss ratios with room for some entries.
pub(crate) struct Row {
    pub(crate) millions: u32,
    pub(crate) counting_all: f64,
    pub(crate) value_cache: f64,
}

/// The miss ratios of both, look by look.
pub(crate) fn learning(entries: usize) -> Vec<Row> {
    let mut zipfian = Zipfian::new(1);
    let mut counts = vec![0u32; at(RECORDS)];
    let mut cache = Built::new(entries);
    let mut seen = 0;
    MILLIONS
        .into_iter()
        .map(|millions| {
            let until = millions * 1_000_000;
            let mut misses = 0;
            for n in seen..until {
                let key = key_of(zipfian.rank());
                counts[at(key)] += 1;
                let miss = !cache.access(key);
                misses += u32::from(miss && n >= until - PROBES);
            }
            seen = until;
            Row {
                millions,
                counting_all: misses_of_the_most_counted(&counts, entries),
                value_cache: f64::from(misses) / f64::from(PROBES),
            }
        })
        .collect()
}

/// Misses of further requests in a cache that holds the records counted most.
fn misses_of_the_most_counted(counts: &[u32], entries: usize) -> f64 {
    let mut order: Vec<u32> = (0..RECORDS).collect();
    order.select_nth_unstable_by_key(entries, |&key| std::cmp::Reverse(counts[at(key)]));
    let mut held = vec![false; at(RECORDS)];
    for &key in &order[..entries] {
        held[at(key)] = true;
    }
    let mut probe = Zipfian::new(2);
    let misses: u32 = (0..PROBES).map(|_| u32::from(!held[at(key_of(probe.rank()))])).sum();
    f64::from(misses) / f64::from(PROBES)
}
