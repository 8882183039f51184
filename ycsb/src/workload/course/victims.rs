//! Which records `delete-most` deletes, in which order, and what is the first one then: a function
//! of the workload and the seed.

use crate::number::{float, floor};
use crate::workload::Workload;
use crate::workload::random::Rng;

/// Names in the order of their keys, and a list of victims: some hundred bytes a record.
pub(crate) const RECORDS_MAX: u64 = 20_000_000;
/// A stream of the seed that no client has.
const STREAM: u64 = u64::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// The first ones in the order of keys, one after another: nothing is left between them.
    Contiguous,
    /// Nine of ten all over the keys, in their order.
    Striped,
    /// Any of them, in any order.
    Random,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Victims {
    /// Numbers, in the order of their deletion.
    pub(crate) numbers: Vec<u64>,
    /// The least key that stays; none if nothing does.
    pub(crate) first: Option<Vec<u8>>,
}

/// Chooses `share` of the records.
pub(crate) fn choose(w: &Workload, share: f64, order: Order, seed: u64) -> Victims {
    let numbers = in_key_order(w);
    let count = floor(float(w.records) * share);
    let mut is_chosen = vec![false; numbers.len()];
    let ranks = ranks(w.records, count, order, seed);
    for rank in &ranks {
        is_chosen[*rank] = true;
    }
    let first = is_chosen.iter().position(|chosen| !chosen).map(|rank| {
        let mut key = Vec::new();
        w.keys.write(numbers[rank], &mut key);
        key
    });
    Victims { numbers: ranks.into_iter().map(|rank| numbers[rank]).collect(), first }
}

fn in_key_order(w: &Workload) -> Vec<u64> {
    let mut named: Vec<(Vec<u8>, u64)> = (0..w.records)
        .map(|number| {
            let mut key = Vec::new();
            w.keys.write(number, &mut key);
            (key, number)
        })
        .collect();
    named.sort_unstable();
    named.into_iter().map(|(_, number)| number).collect()
}

/// Places in the order of keys.
fn ranks(records: u64, count: u64, order: Order, seed: u64) -> Vec<usize> {
    let place = |rank: u64| usize::try_from(rank).expect("records fit in memory");
    match order {
        Order::Contiguous => (0..count).map(place).collect(),
        // Of each stretch of the keys as many as of all, to one.
        Order::Striped => (0..records)
            .filter(|rank| (rank + 1) * count / records > rank * count / records)
            .map(place)
            .collect(),
        Order::Random => {
            let mut all: Vec<usize> = (0..records).map(place).collect();
            let mut rng = Rng::new(seed, STREAM);
            for at in 0..count {
                all.swap(place(at), place(rng.between(at, records - 1)));
            }
            all.truncate(place(count));
            all
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::property::Properties;
    use std::collections::BTreeSet;

    fn workload(records: u64) -> Workload {
        let pairs = [format!("recordcount={records}")];
        Workload::new(&Properties::gather(&[], &pairs).unwrap()).unwrap()
    }

    fn key(w: &Workload, number: u64) -> Vec<u8> {
        let mut key = Vec::new();
        w.keys.write(number, &mut key);
        key
    }

    #[test]
    fn nine_of_ten_are_chosen_once_in_any_order() {
        let w = workload(1000);
        for order in [Order::Contiguous, Order::Striped, Order::Random] {
            let Victims { numbers, first } = choose(&w, 0.9, order, 3);
            let chosen: BTreeSet<u64> = numbers.iter().copied().collect();
            assert_eq!((numbers.len(), chosen.len()), (900, 900), "{order:?}");
            let stays = (0..1000).filter(|number| !chosen.contains(number));
            assert_eq!(first, stays.map(|number| key(&w, number)).min(), "{order:?}");
            let keys: Vec<Vec<u8>> = numbers.iter().map(|number| key(&w, *number)).collect();
            assert_eq!(keys.is_sorted(), order != Order::Random, "{order:?}");
        }
    }

    #[test]
    fn contiguous_victims_leave_no_gap_and_striped_ones_leave_every_tenth() {
        let w = workload(100);
        let mut all: Vec<Vec<u8>> = (0..100).map(|number| key(&w, number)).collect();
        all.sort_unstable();
        let keys = |order| -> Vec<Vec<u8>> {
            choose(&w, 0.9, order, 1).numbers.iter().map(|number| key(&w, *number)).collect()
        };
        assert_eq!(keys(Order::Contiguous), all[..90]);
        let striped = keys(Order::Striped);
        for stretch in all.chunks(10) {
            assert_eq!(stretch.iter().filter(|key| striped.contains(key)).count(), 9);
        }
    }

    #[test]
    fn a_seed_repeats_its_choice_and_all_or_nothing_can_be_chosen() {
        let w = workload(50);
        let random = |share, seed| choose(&w, share, Order::Random, seed);
        assert_eq!(random(0.5, 1), random(0.5, 1));
        assert_ne!(random(0.5, 1), random(0.5, 2));
        assert_eq!((random(1.0, 1).numbers.len(), random(1.0, 1).first), (50, None));
        assert_eq!(random(0.0, 1).numbers.len(), 0);
    }
}
